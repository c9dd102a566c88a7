"""The reward trainer against TRL's own, on embedded models, with adapters, and what it refuses."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor
from transformers import TrainerCallback

from trl_deepseek import PairRewards, RewardConfig, RewardTrainer, hookimpl, load_registry, models
from trl_deepseek.errors import ConfigError, DataError, RunError, UnknownName

MODELS = ("tiny-deepseek-llm", "tiny-deepseek-v2", "tiny-deepseek-v3")
BACKBONE = {"tiny-deepseek-llm": "Llama", "tiny-deepseek-v2": "DeepseekV2"}


def pairs(count: int = 32, *, margin: bool = False) -> Dataset:
    rows = load_registry().datasets["arithmetic"](kind="preferences", size=count)
    return rows.add_column("margin", [0.1 * n for n in range(count)]) if margin else rows


def config(folder: Path, **options: Any) -> RewardConfig:
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "chat_template": "role-tokens",
    }
    return RewardConfig(**{**defaults, **options})


class Logs(TrainerCallback):
    """Keeps what is logged at each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
        if "loss" in logs:
            self.steps.append({k: v for k, v in logs.items() if isinstance(v, (int, float))})


def trained(trainer: Any) -> list[dict[str, float]]:
    logs = Logs()
    trainer.add_callback(logs)
    trainer.train()
    return logs.steps


def classifier(name: str = "tiny-deepseek-llm") -> tuple[Any, Any]:
    model, tokenizer = load_registry().models[name]()
    return models.as_reward_model(model), tokenizer


@pytest.mark.parametrize(("margin", "centre"), [(False, None), (True, 0.05)])
def test_bradley_terry_trains_step_for_step_as_trl_does(
    margin: bool, centre: float | None, tmp_path: Path
) -> None:
    results = []
    for kind in (RewardTrainer, trl.RewardTrainer):
        model, tokenizer = classifier()
        options = config(tmp_path, center_rewards_coefficient=centre, chat_template="role-tokens")
        data = pairs(margin=margin)
        # the tokens that our trainer's template gives, so that only the trainer differs
        if kind is RewardTrainer:
            trainer = RewardTrainer(model, options, train_dataset=data, processing_class=tokenizer)
            tokens = trainer.train_dataset
        else:
            trainer = trl.RewardTrainer(
                model, options, train_dataset=tokens, processing_class=tokenizer
            )
        results.append((trained(trainer), [p.detach() for p in model.parameters()]))
    (ours, our_weights), (theirs, their_weights) = results
    assert len(ours) == len(theirs) == 2
    for mine, stock in zip(ours, theirs, strict=True):
        for name, value in stock.items():
            assert mine[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    for mine_weight, stock_weight in zip(our_weights, their_weights, strict=True):
        torch.testing.assert_close(mine_weight, stock_weight, rtol=1e-5, atol=1e-7)


def test_the_metrics_are_the_means_over_the_batch(tmp_path: Path) -> None:
    trainer = RewardTrainer(
        "tiny-deepseek-llm", config(tmp_path, max_steps=1), train_dataset=pairs()
    )
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    model = trainer.model.train()
    loss = trainer.compute_loss(model, dict(batch))
    scores = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    chosen, rejected = scores.logits[:, 0].detach().double().chunk(2)
    logged = {name: values[0] for name, values in trainer._metrics["train"].items()}
    lead = chosen - rejected
    expected = {
        "accuracy": (lead > 0).double().mean(),
        "chosen_reward_mean": chosen.mean(),
        "rejected_reward_mean": rejected.mean(),
        "reward_margin": lead.mean(),
        "margin": lead.mean(),
        "min_reward": torch.cat([chosen, rejected]).min(),
        "mean_reward": torch.cat([chosen, rejected]).mean(),
        "max_reward": torch.cat([chosen, rejected]).max(),
    }
    for name, value in expected.items():
        assert logged[name] == pytest.approx(value.item(), rel=1e-5, abs=1e-6), name
    assert loss.item() == pytest.approx((1 + (-lead).exp()).log().mean().item(), rel=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_an_embedded_model_is_a_backbone_by_name(name: str, tmp_path: Path) -> None:
    trainer = RewardTrainer(name, config(tmp_path), train_dataset=pairs())
    backbone = load_registry().models[name](seed=trainer.args.seed)[0].model
    for (key, ours), (_, theirs) in zip(
        trainer.model.model.named_parameters(), backbone.named_parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), key
    assert type(trainer.model).__name__.endswith("ForSequenceClassification")
    before = trainer.model.score.weight.detach().clone()
    steps = trained(trainer)
    assert all(0 < step["loss"] < 5 for step in steps)
    assert not torch.equal(trainer.model.score.weight, before)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_few_steps_teach_it_held_out_preferences(name: str, tmp_path: Path) -> None:
    held_out = load_registry().datasets["arithmetic"](split="test", kind="preferences", size=32)
    options = config(tmp_path, max_steps=12, per_device_train_batch_size=8)
    trainer = RewardTrainer(name, options, train_dataset=pairs(96), eval_dataset=held_out)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_accuracy"] >= 0.9
    assert after["eval_loss"] < before / 2
    assert after["eval_reward_margin"] > 0


@pytest.mark.parametrize(
    ("name", "checkpointing"), list(zip(MODELS, (True, False, True), strict=True))
)
def test_lora_trains_and_saves_the_score_head(
    name: str, checkpointing: bool, tmp_path: Path
) -> None:
    options = config(tmp_path, gradient_checkpointing=checkpointing)
    trainer = RewardTrainer(
        name,
        options,
        train_dataset=pairs(),
        peft_config=LoraConfig(r=4, target_modules=["o_proj"], task_type="CAUSAL_LM"),
    )
    trained(trainer)
    trainer.save_model(str(tmp_path))
    saved = load_file(tmp_path / "adapter_model.safetensors")
    heads = [weight for key, weight in saved.items() if "score" in key]
    assert len(heads) == 1
    initial = models.as_reward_model(load_registry().models[name]()[0], trainer.args.seed)
    assert not torch.equal(heads[0], initial.score.weight)
    assert any("lora_B" in key and weight.any() for key, weight in saved.items())


def test_that_the_score_head_is_trained_too_is_said_once_and_the_users_config_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    trainer = RewardTrainer(
        "tiny-deepseek-llm", config(tmp_path), train_dataset=pairs(8), peft_config=given
    )
    assert given.modules_to_save == ["embed_tokens"]
    assert given.task_type is None
    used = trainer.model.peft_config["default"].modules_to_save
    assert {"embed_tokens", "score"} <= set(used)
    said = [r for r in caplog.records if "score head" in r.getMessage()]
    assert len(said) == 1
    assert "modules_to_save=['embed_tokens', 'score']" in said[0].getMessage()


@pytest.mark.parametrize("targets", [["q_proj", "score"], "(.*q_proj|score)"])
def test_an_adapter_on_the_score_head_is_left_as_it_was_asked_for(
    targets: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = LoraConfig(r=4, target_modules=targets)
    trainer = RewardTrainer(
        "tiny-deepseek-llm", config(tmp_path), train_dataset=pairs(8), peft_config=given
    )
    assert trainer.model.peft_config["default"].modules_to_save is None
    assert "score.lora_A" in " ".join(n for n, _ in trainer.model.named_parameters())
    assert "neither trained nor saved with the adapter" in caplog.text


@pytest.mark.parametrize("names", [("chosen_ids", "rejected_ids"), None])
def test_tokens_in_trls_newer_and_older_columns_are_taken(
    names: tuple[str, str] | None, tmp_path: Path
) -> None:
    rows = Dataset.from_list(
        [{"chosen_input_ids": [5, 6, 7], "rejected_input_ids": [5, 8, 9, 9]}] * 4
    )
    if names is not None:
        rows = rows.rename_columns(dict(zip(rows.column_names, names, strict=True)))
        trainer = RewardTrainer("tiny-deepseek-llm", config(tmp_path), train_dataset=rows)
    else:
        with pytest.warns(FutureWarning, match="Detected legacy dataset columns"):
            trainer = RewardTrainer("tiny-deepseek-llm", config(tmp_path), train_dataset=rows)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"][0].tolist()[:3] == [5, 6, 7]


@pytest.mark.parametrize("where", ["weights", "margins", "loss"])
def test_what_is_not_finite_stops_the_run_before_a_step(where: str, tmp_path: Path) -> None:
    """TRL logs the NaN as 0.0, overwrites the weights and ends with success."""
    options, data = config(tmp_path), pairs(8, margin=True)
    if where == "margins":
        data = data.remove_columns("margin").add_column("margin", [float("nan")] * 8)
        with pytest.raises(DataError, match="row 0: column 'margin' holds nan"):
            RewardTrainer("tiny-deepseek-llm", options, train_dataset=data)
        return
    if where == "loss":

        @hookimpl
        def register_losses(register: Any) -> None:
            register("far", lambda r: (r.chosen - r.rejected < 1).float() / 0, data="rewards")

        options.loss_type = "far"
        options.plugins = [SimpleNamespace(register_losses=register_losses)]  # type: ignore[list-item]
        with pytest.raises(ConfigError, match="loss 'far' is not finite"):
            RewardTrainer("tiny-deepseek-llm", options, train_dataset=data)
        return
    trainer = RewardTrainer("tiny-deepseek-llm", options, train_dataset=data)
    if where == "weights":
        with torch.no_grad():
            trainer.model.score.weight[0, 0] = float("nan")
    with pytest.raises(RunError, match="loss 'bradley_terry' is not finite"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("name", [MODELS[0], MODELS[2]])
def test_qlora_keeps_the_score_head_whole_and_saves_it(name: str, tmp_path: Path) -> None:
    options = config(tmp_path, quantization="qlora")
    trainer = RewardTrainer(name, options, train_dataset=pairs())
    kinds = {type(module).__name__ for module in trainer.model.modules()}
    assert "Linear4bit" in kinds
    trained(trainer)
    trainer.save_model(str(tmp_path))
    saved = load_file(tmp_path / "adapter_model.safetensors")
    heads = [weight for key, weight in saved.items() if "score" in key]
    assert [head.shape[0] for head in heads] == [1]
    assert heads[0].is_floating_point()


def test_a_plugins_loss_is_used_by_name_and_its_metrics_are_logged(tmp_path: Path) -> None:
    def squared(rewards: PairRewards, target: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
        lead = rewards.chosen - rewards.rejected
        return (lead - target) ** 2, {"lead": lead.mean()}

    @hookimpl
    def register_losses(register: Any) -> None:
        register("squared", squared, data="rewards")

    options = config(tmp_path, loss_type="squared", loss_kwargs={"target": 3.0})
    options.plugins = [SimpleNamespace(register_losses=register_losses)]  # type: ignore[list-item]
    steps = trained(RewardTrainer("tiny-deepseek-llm", options, train_dataset=pairs()))
    assert steps[0]["loss"] == pytest.approx(9.0, abs=3.0)
    assert steps[0]["lead"] == pytest.approx(steps[0]["margin"], abs=1e-6)


class TestRowsThatAreTooLong:
    def test_are_counted_and_reported(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        rows = pairs(8).to_list()
        rows[2]["chosen"][0]["content"] = "9" * 300
        with caplog.at_level(logging.WARNING, "trl_deepseek"):
            trainer = RewardTrainer(
                "tiny-deepseek-llm",
                config(tmp_path, max_length=200),
                train_dataset=Dataset.from_list(rows),
                eval_dataset=pairs(4),
            )
        assert trainer.left_out == {"train": [2], "eval": []}
        assert "1 of 8 rows of the train dataset" in caplog.text
        assert "max_length=200" in caplog.text
        assert "eval" not in caplog.text

    def test_are_an_error_where_none_is_left(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"all 8 rows .* max_length=5 tokens, so that none"):
            RewardTrainer(
                "tiny-deepseek-llm", config(tmp_path, max_length=5), train_dataset=pairs(8)
            )


class TestRefusedBeforeAModelIsLoaded:
    """The model name is one that cannot be loaded, so that it would be the first to fail."""

    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"loss_type": "bradley_tery"}, UnknownName, "did you mean 'bradley_terry'"),
            ({"loss_type": "dpo"}, ConfigError, "is for `trl-deepseek preference`"),
            ({"loss_kwargs": {"gama": 1}}, ConfigError, "has no option 'gama'"),
            ({"loss_kwargs": {"label_smoothing": 0.7}}, ConfigError, "label_smoothing = 0.7"),
            ({"center_rewards_coefficient": -1.0}, ConfigError, "at least 0"),
        ],
    )
    def test_options(
        self, options: dict[str, Any], error: type[Exception], words: str, tmp_path: Path
    ) -> None:
        with pytest.raises(error, match=words):
            RewardTrainer("./no-model", config(tmp_path, **options), train_dataset=pairs(2))

    @pytest.mark.parametrize(
        ("row", "words"),
        [
            ({"prompt": "a", "completion": "b", "label": True}, "labelled singles"),
            ({"prompt": "a", "chosen": "b"}, "pairs need chosen and rejected"),
            ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen equals rejected"),
        ],
    )
    def test_data_without_pairs(self, row: dict[str, Any], words: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=words):
            RewardTrainer("./no-model", config(tmp_path), train_dataset=Dataset.from_list([row]))


@pytest.mark.parametrize("drop", [False, True])
def test_rows_that_teach_nothing_are_counted_and_dropped_only_if_told_to(
    drop: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = pairs(6).to_list()
    rows[1]["rejected"] = rows[1]["chosen"]
    rows[4]["rejected"][0]["content"] = ""
    trainer = RewardTrainer(
        "tiny-deepseek-llm",
        config(tmp_path, drop_bad_rows=drop),
        train_dataset=Dataset.from_list(rows),
    )
    assert len(trainer.train_dataset) == (4 if drop else 6)
    assert "2 of 6 rows are bad" in caplog.text
    assert "chosen equals rejected: 1 (row 1)" in caplog.text
    assert "rejected is empty: 1 (row 4)" in caplog.text


def test_orca_style_rows_are_recognised_and_keep_their_margin(tmp_path: Path) -> None:
    rows = [
        {"system": "s", "question": f"{n}+1", "chosen": "x", "rejected": "y", "margin": 0.5 * n}
        for n in range(4)
    ]
    options = config(tmp_path, max_steps=1, per_device_train_batch_size=4)
    trainer = RewardTrainer("tiny-deepseek-llm", options, train_dataset=Dataset.from_list(rows))
    assert trainer.train_dataset["margin"] == [0.0, 0.5, 1.0, 1.5]
    batch = next(iter(trainer.get_train_dataloader()))
    assert sorted(batch["margin"].tolist()) == [0.0, 0.5, 1.0, 1.5]
