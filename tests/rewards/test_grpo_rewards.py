"""The contract inside one or two real steps of GRPO on the tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from trl_deepseek import GRPOConfig, GRPOTrainer, load_registry
from trl_deepseek.errors import ConfigError, DataError, RewardError
from trl_deepseek.rollouts.history import read

MODEL = "tiny-deepseek-llm"


@pytest.fixture(scope="module")
def rows() -> Dataset:
    return Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": f"{i}+{i}="}] for i in range(8)],
            "solution": [str(2 * i) for i in range(8)],
        }
    )


def config(tmp_path: Path, **changes: Any) -> GRPOConfig:
    settings: dict[str, Any] = {
        "output_dir": str(tmp_path),
        "per_device_train_batch_size": 4,
        "num_generations": 4,
        "max_completion_length": 4,
        "max_steps": 1,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "chat_template": "role-tokens",
    }
    return GRPOConfig(**settings | changes)


def model(seed: int = 0) -> tuple[Any, Any]:
    return load_registry().models[MODEL](seed=seed)


def train(args: GRPOConfig, rows: Dataset, *functions: Any, **options: Any) -> Any:
    built, tokenizer = model()
    trainer = GRPOTrainer(
        built,
        list(functions),
        args,
        train_dataset=rows,
        processing_class=tokenizer,
        **options,
    )
    trainer.train()
    return trainer


def by_length(completions: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(sum(ids)) for ids in completion_ids]


def per_sample(completion: str, solution: str, generation_prefix: str) -> float | None:
    assert isinstance(generation_prefix, str)
    return None if solution == "0" else float(completion == solution)


def infinite(completion_ids: list[list[int]], completions: Any) -> list[float]:
    return [float("inf")] + [float(sum(ids)) for ids in completion_ids[1:]]


def breaks(completions: list[Any]) -> list[float]:
    raise ValueError("boom")


def finite(trainer: Any) -> bool:
    return all(bool(torch.isfinite(p).all()) for p in trainer.model.parameters())


def test_an_infinite_score_leaves_the_weights_finite(tmp_path: Path, rows: Dataset) -> None:
    args = config(tmp_path, scale_rewards="none", reward_on_error="abstain", max_steps=2)
    trainer = train(args, rows, infinite)
    before, _ = model()
    moved = [
        not torch.equal(p, q)
        for p, q in zip(trainer.model.parameters(), before.parameters(), strict=True)
    ]
    assert finite(trainer)
    assert any(moved)
    logged = trainer.state.log_history[0]
    assert logged["rewards/infinite/errors"] == 1.0
    assert logged["rewards/infinite/timeouts"] == logged["rewards/infinite/abstained"] == 0.0


def test_a_reward_model_whose_scores_are_not_finite_stops_the_run_by_name(
    tmp_path: Path, rows: Dataset
) -> None:
    from transformers import LlamaForSequenceClassification

    built, tokenizer = model()
    built.config.num_labels = 1
    judge = LlamaForSequenceClassification(built.config)
    judge.config._name_or_path = "someone/judge"
    with torch.no_grad():
        judge.score.weight.fill_(1e38)
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    with pytest.raises(RewardError, match="reward 'judge' gave a score that is not finite"):
        train(config(tmp_path), rows, judge, reward_processing_classes=[tokenizer])


def test_a_failing_reward_stops_the_run_with_its_name_and_keeps_the_batch(
    tmp_path: Path, rows: Dataset
) -> None:
    with pytest.raises(RewardError, match=r"reward 'breaks' \(.*\) failed on 4 of 4 .* step 0: Va"):
        train(config(tmp_path), rows, by_length, breaks)
    assert (tmp_path / "reward_failures" / "step-000000-breaks.jsonl").is_file()


def test_a_broken_reward_stops_the_run_even_where_failures_are_tolerated(
    tmp_path: Path, rows: Dataset
) -> None:
    args = config(tmp_path, reward_on_error="abstain", reward_max_failures=2, max_steps=5)
    with pytest.raises(RewardError, match="failed on every completion of 2 calls in a row at st"):
        train(args, rows, by_length, breaks)


def test_scores_and_weights_reach_the_update_as_in_trl(tmp_path: Path, rows: Dataset) -> None:
    weights = {"per_sample": 0.5, "by_length": {0: 2.0, 1: 1.0}}
    args = config(tmp_path, reward_weights=weights, max_steps=2)
    trainer = train(args, rows, per_sample, by_length)
    assert args.reward_weights == weights
    for step, weight in enumerate([2.0, 1.0]):
        logged = trainer.state.log_history[step]
        assert logged["rewards/by_length/weight"] == weight
        parts = logged["rewards/per_sample/mean"] or 0.0, logged["rewards/by_length/mean"]
        assert logged["reward"] == pytest.approx(0.5 * parts[0] + weight * parts[1], rel=1e-5)


def test_every_completion_is_saved_with_scores_and_the_advantage_they_give(
    tmp_path: Path, rows: Dataset
) -> None:
    args = config(tmp_path, max_steps=2, scale_rewards="none", per_device_eval_batch_size=4)
    evaluated = {"eval_dataset": rows.select(range(3))}
    trainer = train(args, rows, by_length, per_sample, **evaluated)
    trainer.evaluate()
    trainer._history.flush()
    everything = list(read(tmp_path))
    saved = [row for row in everything if row.mode == "train"]
    assert [row.step for row in saved] == [0] * 4 + [1] * 4
    of_evaluation = [(row.step, row.group) for row in everything if row.mode == "eval"]
    assert of_evaluation == [(2, 0)] * 4 * 3
    for group in (saved[:4], saved[4:]):
        assert len({row.prompt[0]["content"] for row in group}) == 1
        totals = []
        for row in group:
            assert row.scores["by_length"] == sum(row.completion_ids)
            text = trainer.processing_class.decode(row.completion_ids, skip_special_tokens=True)
            assert row.completion == [{"role": "assistant", "content": text}]
            assert int(row.columns["solution"]) == 2 * int(row.prompt[0]["content"].split("+")[0])
            totals.append(sum(score or 0.0 for score in row.scores.values()))
        mean = sum(totals) / 4
        assert [row.advantage for row in group] == pytest.approx(
            [total - mean for total in totals], abs=1e-2, rel=1e-4
        )


@pytest.mark.parametrize("changes", [{"gradient_accumulation_steps": 2}, {"num_iterations": 2}])
def test_a_run_resumed_in_the_middle_of_a_batch_ends_in_the_same_weights(
    tmp_path: Path, rows: Dataset, changes: dict[str, int]
) -> None:
    args = {"steps_per_generation": 4, "max_steps": 4, "beta": 0.0, **changes}
    whole = train(config(tmp_path / "whole", **args), rows, by_length)
    saving = {"save_strategy": "steps", "save_steps": 1}
    train(config(tmp_path / "parts", **args, **saving), rows, by_length)
    built, tokenizer = model()
    resumed = GRPOTrainer(
        built,
        [by_length],
        config(tmp_path / "parts", **args),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-1"))
    for p, q in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward_on_error": "ignore"}, "reward_on_error: 'ignore' is not a number\n  allowed: ra"),
        ({"reward_timeout": 0.0}, "reward_timeout is 0.0: it must be greater than 0"),
        ({"reward_workers": -1}, "reward_workers is -1: it must be at least 0 and at most 256"),
        ({"reward_max_failures": 0}, "reward_max_failures is 0: it must be at least 1"),
        ({"reward_weights": ["a=b"]}, "reward_weights: a: 'b' is not a number"),
    ],
)
def test_a_bad_reward_option_is_refused_by_the_config(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, **changes)
    assert str(caught.value).startswith(message)


def test_a_missing_column_and_an_unknown_weight_are_refused_before_a_model_is_loaded(
    tmp_path: Path, rows: Dataset
) -> None:
    with pytest.raises(DataError, match="reward 'per_sample' needs the column 'solution'"):
        GRPOTrainer(
            "no/such-model",
            [per_sample],
            config(tmp_path),
            train_dataset=rows.remove_columns("solution"),
        )
    with pytest.raises(ConfigError, match="did you mean 'by_length'"):
        GRPOTrainer(
            "no/such-model",
            [by_length],
            config(tmp_path, reward_weights={"by_lenght": 1.0}),
            train_dataset=rows,
        )


@pytest.mark.transformers("5.19")
def test_the_experts_of_v3_are_balanced(tmp_path: Path, rows: Dataset) -> None:
    """Stock TRL reads a field that DeepSeek-V3's config does not have, and crashes."""
    built, tokenizer = load_registry().models["tiny-deepseek-v3"](seed=0)
    args = config(tmp_path, router_aux_loss_coef=0.01)
    trainer = GRPOTrainer(
        built, ["exact_match"], args, train_dataset=rows, processing_class=tokenizer
    )
    trainer.train()
    # two of eight experts per token: 2 where all are used alike, 8 where always the same two are
    assert 1.9 < trainer.state.log_history[0]["aux_loss"] < 8
