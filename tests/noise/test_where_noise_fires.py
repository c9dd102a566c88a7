from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset

from trl_deepseek import SFTTrainer, load_registry

Train = Callable[..., Any]


def all_equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def none_equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return len(ours) == len(theirs) and not any(map(torch.equal, ours, theirs))


def log_probs(watch: Any, passes: list[torch.Tensor]) -> list[torch.Tensor]:
    head = watch.trainer.model.get_base_model().lm_head
    with torch.no_grad():
        return [head(hidden).log_softmax(-1) for hidden in passes]


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_reference_log_probs_under_lora_are_bitwise_those_without_noise(
    train: Train, kind: str
) -> None:
    clean, noised = train(kind), train(kind, noise="neftune")
    reference = log_probs(noised, noised.without_gradients())
    assert len(reference) >= 2
    assert all_equal(reference, log_probs(clean, clean.without_gradients()))
    assert none_equal(noised.with_gradients(), clean.with_gradients())
    assert noised.firings == len(noised.with_gradients()) == 2


def test_trls_own_noise_reaches_the_reference(train: Train) -> None:
    # What the test above would see if ours did the same.
    clean = train("dpo", module=trl)
    noised = train("dpo", module=trl, neftune_noise_alpha=5.0)
    assert not all_equal(noised.without_gradients(), clean.without_gradients())


def test_grpo_rollouts_old_and_reference_log_probs_are_those_without_noise(train: Train) -> None:
    # Old log-probs are computed because a batch is used for two steps, reference ones for beta.
    options = {"num_iterations": 2, "gradient_accumulation_steps": 2, "beta": 0.1}
    clean, noised = train("grpo", **options), train("grpo", noise="neftune", **options)
    assert noised.completions == clean.completions
    assert len(noised.completions) == 4
    assert len(noised.without_gradients()) >= 6 + 2  # tokens generated, old and reference
    assert all_equal(noised.without_gradients(), clean.without_gradients())
    assert none_equal(noised.with_gradients(), clean.with_gradients())
    assert noised.firings == len(noised.with_gradients()) == 4


def test_trls_own_noise_reaches_grpo_rollouts(train: Train) -> None:
    clean = train("grpo", module=trl)
    noised = train("grpo", module=trl, neftune_noise_alpha=5.0)
    assert not all_equal(noised.without_gradients(), clean.without_gradients())


def test_sampled_rollouts_and_dropout_draw_what_they_draw_without_noise(train: Train) -> None:
    options = {"generation_kwargs": {"do_sample": True}, "lora": 0.5}
    clean, noised = train("grpo", **options), train("grpo", noise="neftune", **options)
    assert noised.completions == clean.completions
    assert all_equal(noised.without_gradients(), clean.without_gradients())
    assert none_equal(noised.with_gradients(), clean.with_gradients())


@pytest.mark.parametrize(
    ("kind", "lora", "checkpointing", "model"),
    [
        ("sft", None, True, "tiny-deepseek-v3"),
        ("sft", 0.1, True, "tiny-deepseek-llm"),
        ("dpo", None, True, "tiny-deepseek-v2"),
        ("dpo", 0.1, False, "tiny-deepseek-llm"),
        ("kto", 0.1, True, "tiny-deepseek-llm"),
        ("grpo", 0.1, True, "tiny-deepseek-llm"),
        ("grpo", None, False, "tiny-deepseek-llm"),
        ("reward", 0.1, True, "tiny-deepseek-llm"),
    ],
)
def test_exactly_one_firing_per_policy_pass_with_gradients(
    build: Train, kind: str, lora: float | None, checkpointing: bool, model: str
) -> None:
    watch = build(
        kind,
        noise="neftune",
        lora=lora,
        gradient_checkpointing=checkpointing,
        gradient_accumulation_steps=2,
        model=model,
    )
    # Counted at TRL's own seam, compute_loss: once per micro-batch, whatever it calls.
    calls = []
    compute_loss = watch.trainer.compute_loss

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return compute_loss(*args, **kwargs)

    watch.trainer.compute_loss = counted
    watch.trainer.train()
    assert len(calls) == 4
    assert watch.trainer.embedding_noise.firings == 4


def test_evaluation_between_steps_is_not_noised(train: Train) -> None:
    held_out = load_registry().datasets["arithmetic"](kind="demonstrations", split="test", size=4)
    options = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "trainer_options": {"eval_dataset": held_out},
    }
    clean, noised = train("sft", **options), train("sft", noise="neftune", **options)
    assert len(noised.without_gradients()) >= 2
    assert all_equal(noised.without_gradients(), clean.without_gradients())
    assert noised.firings == len(noised.with_gradients()) == 2


def test_transformers_own_option_is_routed_to_ours(train: Train) -> None:
    ours = train("sft", noise="neftune", noise_alpha=7.0)
    theirs = train("sft", neftune_noise_alpha=7.0)
    assert theirs.firings == 2
    assert all_equal(theirs.with_gradients(), ours.with_gradients())
    assert theirs.trainer.args.neftune_noise_alpha == 7.0


def test_a_plain_trl_config_with_transformers_own_option_is_routed_too(tmp_path: Path) -> None:
    registry = load_registry()
    model, tokenizer = registry.models["tiny-deepseek-llm"]()
    trainer = SFTTrainer(
        model,
        trl.SFTConfig(str(tmp_path), neftune_noise_alpha=7.0, use_cpu=True, bf16=False),
        train_dataset=Dataset.from_list([{"text": "one"}]),
        processing_class=tokenizer,
    )
    assert trainer.neftune_noise_alpha is None
    assert trainer.embedding_noise is not None
    assert trainer.embedding_noise.noise.name == "neftune"
    assert trainer.embedding_noise.noise.options == {"alpha": 7.0}


def hooks(trainer: Any) -> int:
    modules = trainer.model.modules()
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def test_the_hooks_are_gone_when_training_has_ended(build: Train) -> None:
    watch = build("sft", noise="neftune", gradient_checkpointing=False)
    before = hooks(watch.trainer)
    for firings in (2, 4):
        watch.trainer.train()
        assert hooks(watch.trainer) == before
        assert watch.trainer.embedding_noise.firings == firings


def test_the_hooks_are_gone_when_training_has_raised(build: Train) -> None:
    class Stop(Exception):
        pass

    watch = build("sft", noise="neftune", gradient_checkpointing=False)
    before = hooks(watch.trainer)
    seen = []

    def stop(*args: Any, **kwargs: Any) -> Any:
        seen.append(hooks(watch.trainer))
        raise Stop

    watch.trainer.compute_loss = stop
    with pytest.raises(Stop):
        watch.trainer.train()
    assert seen[0] > before
    assert hooks(watch.trainer) == before
