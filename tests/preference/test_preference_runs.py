"""Where the reference comes from, how many passes a step runs, and what is refused unseen."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from trl_deepseek import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, preference_trainer
from trl_deepseek.errors import ConfigError, RunError, UnknownName

Build = Callable[..., Any]

UNPAIRED = ("kto", "apo_zero_unpaired")


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def build_trainer(
    name: str,
    tiny: Build,
    config: Build,
    rows: Dataset,
    model: str = "tiny-deepseek-llm",
    **more: Any,
) -> Any:
    options = {
        key: more.pop(key) for key in list(more) if key not in ("peft_config", "eval_dataset")
    }
    policy, tokenizer = tiny(model)
    args = config(KTOConfig if name in UNPAIRED else DPOConfig, **options)
    return preference_trainer(policy, name, rows, args, processing_class=tokenizer, **more)


def first_batch(trainer: Any) -> Any:
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


@pytest.mark.transformers("5.19")
@pytest.mark.parametrize("name", ["ipo", "orpo", "kto", "bco_pair"])
def test_v3_balances_its_experts_with_every_kind_of_loss(
    name: str, tiny: Build, config: Build, sums: Dataset
) -> None:
    losses = []
    for coefficient in (0.0, 0.5):
        trainer = build_trainer(
            name,
            tiny,
            config,
            sums,
            model="tiny-deepseek-v3",
            router_aux_loss_coef=coefficient,
            gradient_checkpointing=True,
        )
        loss = trainer.compute_loss(trainer.model, first_batch(trainer))
        loss.backward()
        losses.append(loss.item())
    (aux,) = trainer._metrics["train"]["aux_loss"]
    assert aux > 0
    assert losses[1] - losses[0] == pytest.approx(0.5 * aux, rel=1e-3)


@pytest.mark.parametrize("name", ["dpo", "ipo", "kto"])
def test_precomputed_reference_log_probs_change_nothing(
    name: str, tiny: Build, config: Build, sums: Dataset
) -> None:
    losses = []
    for precompute in (False, True):
        trainer = build_trainer(
            name, tiny, config, sums, precompute_ref_log_probs=precompute, learning_rate=1e-3
        )
        assert (trainer.ref_model is None) == precompute
        trainer.train()
        losses.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][0] != losses[0][1]


@pytest.mark.parametrize(
    ("name", "options", "forwards"),
    [
        ("orpo", {}, 1),
        ("simpo", {}, 1),
        ("cpo", {}, 1),
        ("dpo", {"loss_kwargs": {"reference_free": True}}, 1),
        ("sft", {}, 1),
        ("dpo", {}, 2),
        ("kto", {}, 4),
        ("apo_zero_unpaired", {}, 2),
    ],
)
def test_a_step_runs_only_the_forwards_that_its_loss_needs(
    name: str,
    options: dict[str, Any],
    forwards: int,
    tiny: Build,
    config: Build,
    sums: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = build_trainer(name, tiny, config, sums, **options)
    batch = first_batch(trainer)
    passes = []
    once = type(trainer).token_logps

    def counted(*args: Any, **kwargs: Any) -> Any:
        passes.append(1)
        return once(*args, **kwargs)

    monkeypatch.setattr(type(trainer), "token_logps", counted)
    trainer.compute_loss(trainer.model, batch)
    assert len(passes) == forwards
    assert (trainer.ref_model is None) == (forwards == 1)


def test_a_model_in_memory_is_its_own_reference_as_it_is_and_not_as_it_was_saved(
    tiny: Build, config: Build, sums: Dataset
) -> None:
    model, tokenizer = tiny()
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    trainer = DPOTrainer(
        model, args=config(loss_type="dpo"), train_dataset=sums, processing_class=tokenizer
    )
    assert trainer.ref_model is not model
    assert torch.equal(trainer.ref_model.lm_head.weight, model.lm_head.weight)
    trainer.train()
    assert not torch.equal(trainer.ref_model.lm_head.weight, model.lm_head.weight)
    assert not any(parameter.requires_grad for parameter in trainer.ref_model.parameters())


def test_an_adapter_that_is_trained_further_is_compared_with_its_own_start(
    tiny: Build, config: Build, sums: Dataset
) -> None:
    from peft import get_peft_model

    model, tokenizer = tiny()
    adapted = get_peft_model(model, lora())
    for parameter_name, parameter in adapted.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.1)
    trainer = DPOTrainer(
        adapted, args=config(loss_type="ipo"), train_dataset=sums, processing_class=tokenizer
    )
    loss = trainer.compute_loss(trainer.model, first_batch(trainer))
    assert loss.item() == pytest.approx((1 / (2 * 0.1)) ** 2, rel=1e-5)


def test_a_loss_of_nan_stops_the_run_with_the_losss_name(
    tiny: Build, config: Build, sums: Dataset
) -> None:
    trainer = build_trainer("ipo", tiny, config, sums)
    with torch.no_grad():
        trainer.model.lm_head.weight.fill_(math.nan)
    with pytest.raises(RunError, match="loss 'ipo' is not finite"):
        trainer.train()


def test_four_bits_work_with_paired_and_unpaired_losses(
    tiny: Build, config: Build, sums: Dataset, tmp_path: Path
) -> None:
    from transformers import BitsAndBytesConfig

    model, tokenizer = tiny()
    folder = str(tmp_path / "model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name in ("orpo", "ipo", "kto"):
        trainer = preference_trainer(
            folder,
            name,
            sums,
            config(KTOConfig if name == "kto" else DPOConfig, max_steps=1),
            quantization_config=BitsAndBytesConfig(load_in_4bit=True),
            peft_config=lora(),
        )
        trainer.train()
        assert math.isfinite(trainer.state.log_history[0]["loss"])


REFUSED: list[tuple[str, type, dict[str, Any], type[Exception], str]] = [
    ("ipx", DPOConfig, {}, UnknownName, "did you mean 'ipo'"),
    ("kto", KTOConfig, {"per_device_train_batch_size": 1}, ConfigError, "make it 2 or more"),
    ("kto", KTOConfig, {"train_sampling_strategy": "random"}, ConfigError, "fixed order"),
    ("dpo", DPOConfig, {"beta": 0.0}, ConfigError, "above 0"),
    ("bco_pair", DPOConfig, {"beta": -1.0}, ConfigError, "at least 0"),
    ("dpo", DPOConfig, {"label_smoothing": 0.5}, ConfigError, "below 0.5"),
    ("ipo", DPOConfig, {"label_smoothing": 0.1}, ConfigError, "no meaning for loss 'ipo'"),
    ("simpo", DPOConfig, {"loss_kwargs": {"gama": 1}}, ConfigError, "did you mean 'gamma'"),
    ("sft", DPOConfig, {"loss_kwargs": {"gamma": 1}}, ConfigError, "its options: \\(none\\)"),
    ("sft", DPOConfig, {"ld_alpha": 0.5}, ConfigError, "'sft' does not use"),
    (
        "dpo",
        DPOConfig,
        {"loss_weights": [math.inf]},
        ConfigError,
        r"loss_weights is \[inf\]: it must be at least 0 and finite",
    ),
    ("dpo", DPOConfig, {"loss_kwargs": "beta=1"}, ConfigError, "is not valid JSON"),
    ("aot", DPOConfig, {"use_weighting": True}, ConfigError, "does not apply to 'aot'"),
    ("orpo", DPOConfig, {"sync_ref_model": True}, ConfigError, "no loss of this run uses"),
    ("orpo", DPOConfig, {"use_weighting": True}, ConfigError, "does not apply to 'orpo'"),
    ("exo_pair", DPOConfig, {"use_weighting": True}, ConfigError, "needs label_smoothing"),
    ("bradley_terry", DPOConfig, {}, ConfigError, "trl-deepseek reward"),
    ("dpo", KTOConfig, {}, ConfigError, "needs a DPOConfig"),
]


@pytest.mark.parametrize(("name", "kind", "options", "error", "message"), REFUSED)
def test_bad_input_is_refused_before_a_model_is_loaded(
    name: str,
    kind: type,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
    config: Build,
    sums: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from trl_deepseek import models

    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(models, "resolve", loaded)
    with pytest.raises(error, match=message):
        preference_trainer("tiny-deepseek-llm", name, sums, config(kind, **options))


def test_a_trainer_refuses_the_losses_of_the_other(config: Build, sums: Dataset) -> None:
    with pytest.raises(ConfigError, match="defined on the log-probs of labelled single examples"):
        DPOTrainer("tiny-deepseek-llm", args=config(loss_type="kto"), train_dataset=sums)
    with pytest.raises(ConfigError, match="defined on the log-probs of preference pairs"):
        KTOTrainer("tiny-deepseek-llm", args=config(KTOConfig, loss_type="dpo"), train_dataset=sums)
