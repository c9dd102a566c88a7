"""The two trainers and the choice between them, beyond the losses themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from trl_deepseek import (
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    load_registry,
    preference_trainer,
)
from trl_deepseek.errors import ConfigError, DataError, RunError, UnknownName

LOSSES = load_registry().losses
# One name of each function: TRL's names for some of them are the same loss.
ONCE = {loss.function: name for name, loss in LOSSES.items() if loss.data == "pairs"}
PAIRED = sorted(ONCE.values())
UNPAIRED = sorted(name for name, loss in LOSSES.items() if loss.data == "unpaired")
REFERENCE_FREE = sorted(name for name in PAIRED if not LOSSES[name].reference)

Build = Callable[..., Any]


@pytest.fixture
def build(tiny: Callable[..., tuple[Any, Any]], config: Callable[..., Any], sums: Dataset) -> Build:
    """A trainer for a loss on the tiny model."""

    def make(
        loss: str | list[str],
        *,
        model: Any = None,
        data: Dataset = sums,
        trainer_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        first = loss if isinstance(loss, str) else loss[0]
        kind = KTOConfig if first in UNPAIRED else DPOConfig
        built, tokenizer = model or tiny()
        return preference_trainer(
            built,
            loss,
            data,
            config(kind, loss_type=loss, **options),
            processing_class=tokenizer,
            **(trainer_options or {}),
        )

    return make


def first_log(trainer: Any) -> dict[str, Any]:
    trainer.train()
    log: dict[str, Any] = trainer.state.log_history[0]
    return log


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient_checkpointing": True},
        {"trainer_options": {"peft_config": LoraConfig(target_modules=["q_proj", "v_proj"])}},
        {"precompute_ref_log_probs": True},
        {"quantization": "qlora"},
        {
            "gradient_checkpointing": True,
            "gradient_accumulation_steps": 2,
            "trainer_options": {"peft_config": LoraConfig(target_modules=["q_proj", "v_proj"])},
        },
    ],
    ids=["full", "checkpointing", "lora", "precomputed", "4 bits", "all"],
)
@pytest.mark.parametrize(
    ("loss", "expected"),
    [("dpo", math.log(2)), ("ipo", (1 / 0.2) ** 2), ("hinge", 1.0), ("kto", 0.5)],
)
def test_before_the_first_step_the_loss_has_its_closed_form(
    build: Build, loss: str, expected: float, changes: dict[str, Any]
) -> None:
    """Policy equals reference: margins are 0, and KTO's two values are both 1/2."""
    log = first_log(build(loss, max_steps=1, **changes))
    assert log["loss"] == pytest.approx(expected, rel=1e-4)
    margin = log["rewards/chosen"] - log["rewards/rejected"]
    assert margin == pytest.approx(0.0, abs=1e-5)


@pytest.mark.transformers("5.19")
@pytest.mark.parametrize("loss", [*PAIRED, *UNPAIRED])
def test_every_loss_trains_v3_with_lora_accumulation_checkpointing_and_balancing(
    build: Build, tiny: Callable[..., Any], loss: str, sums: Dataset
) -> None:
    """TRL crashes on the balancing: it reads a field that DeepSeek-V3's config does not have."""
    adapter = LoraConfig(target_modules=["kv_b_proj", "o_proj"])
    trainer = build(
        loss,
        model=tiny("tiny-deepseek-v3"),
        gradient_checkpointing=True,
        gradient_accumulation_steps=2,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        router_aux_loss_coef=0.01,
        eval_strategy="steps",
        eval_steps=2,
        learning_rate=1e-2,
        trainer_options={"peft_config": adapter, "eval_dataset": sums.take(4)},
    )
    before = {n: p.clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert any(not torch.equal(after[name], value) for name, value in before.items())
    train, evaluation = trainer.state.log_history[0], trainer.state.log_history[-2]
    assert train["aux_loss"] > 0
    assert math.isfinite(train["loss"])
    assert math.isfinite(evaluation["eval_loss"])


@pytest.mark.parametrize("loss", [*PAIRED, *UNPAIRED])
def test_every_loss_trains_adapters_on_a_model_in_4_bits(
    build: Build, tiny: Callable[..., Any], loss: str
) -> None:
    trainer = build(
        loss,
        model=tiny("tiny-deepseek-v3"),
        quantization="qlora",
        gradient_checkpointing=True,
        max_steps=1,
        learning_rate=1e-2,
    )
    assert any(p.dtype == torch.uint8 for p in trainer.model.parameters())
    before = {n: p.clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert math.isfinite(first_log(trainer)["loss"])
    assert all("lora_" in name for name in before)
    after = dict(trainer.model.named_parameters())
    assert any(not torch.equal(after[name], value) for name, value in before.items())


def test_experts_that_do_not_say_how_they_route_are_not_left_unbalanced(
    build: Build, tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl_deepseek.errors import ConfigError

    held = tiny("tiny-deepseek-v3")
    config = held[0].config if isinstance(held, tuple) else held.config
    # as the config is before transformers 5.19
    monkeypatch.delattr(type(config), "output_router_logits", raising=False)
    vars(config).pop("output_router_logits", None)
    with pytest.raises(ConfigError) as caught:
        build("dpo", model=held, router_aux_loss_coef=0.01)
    first, second = str(caught.value).splitlines()
    assert first == (
        "router_aux_loss_coef is 0.01, and a model of type 'deepseek_v3' does not return what its "
        "routers said here"
    )
    assert second.startswith("  transformers 5.19 or newer; this is ")
    assert second.endswith("; or leave router_aux_loss_coef out")


@pytest.mark.transformers("5.19")
def test_trls_own_weighting_of_a_loss_balances_v3_too(
    build: Build, tiny: Callable[..., Any]
) -> None:
    trainer = build(
        "sigmoid", model=tiny("tiny-deepseek-v3"), use_weighting=True, router_aux_loss_coef=0.01
    )
    trainer.train()
    assert trainer.state.log_history[0]["aux_loss"] > 0


@pytest.mark.parametrize("loss", REFERENCE_FREE)
def test_a_reference_free_loss_runs_one_forward_and_holds_no_reference(
    build: Build, loss: str
) -> None:
    trainer = build(loss, max_steps=1)
    assert trainer.ref_model is None
    assert forwards_of(trainer) == 1


def test_a_loss_with_a_reference_runs_two(build: Build) -> None:
    trainer = build("dpo", max_steps=1)
    assert forwards_of(trainer) == 2
    assert forwards_of(build("dpo", max_steps=1, loss_kwargs={"reference_free": True})) == 1


def forwards_of(trainer: Any) -> int:
    """How often any copy of the model's backbone is run in a training run of one step."""
    count = 0

    def seen(*_: object) -> None:
        nonlocal count
        count += 1

    models: list[Any] = [trainer.model, trainer.ref_model]
    for model in filter(None, models):
        model.get_decoder().register_forward_hook(seen)
    trainer.train()
    return count


def test_metrics_are_trls_and_what_the_loss_returns(build: Build) -> None:
    log = first_log(build("orpo", max_steps=1))
    assert {
        *("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"),
        *("logps/chosen", "logps/rejected", "mean_token_accuracy"),
        *("nll_loss", "log_odds_ratio", "log_odds_chosen"),
    } <= set(log)


def test_losses_are_mixed_by_weight_with_trls_own(build: Build) -> None:
    alone = [first_log(build(loss, max_steps=1))["loss"] for loss in ("dpo", "orpo", "sft")]
    mixed = first_log(build(["dpo", "orpo", "sft"], max_steps=1, loss_weights=[1.0, 0.5, 2.0]))
    assert mixed["loss"] == pytest.approx(alone[0] + 0.5 * alone[1] + 2 * alone[2], rel=1e-4)


def test_the_loss_chooses_the_trainer_and_the_data_follow(build: Build) -> None:
    assert isinstance(build("dpo"), DPOTrainer)
    trainer = build("kto")
    assert isinstance(trainer, KTOTrainer)
    assert set(trainer.train_dataset["label"]) == {True, False}


def singles(*labels: bool) -> Dataset:
    return Dataset.from_list(
        [
            {"prompt": f"{i}=", "completion": f"{i}", "label": label}
            for i, label in enumerate(labels)
        ]
    )


def test_unpaired_weights_come_from_the_counts_unless_given(build: Build) -> None:
    data = singles(True, False, False, False, True, False, False, False)
    options = build("kto", data=data).loss.options
    assert (options["desirable_weight"], options["undesirable_weight"]) == (3.0, 1.0)
    options = build("kto", data=data, desirable_weight=1.5).loss.options
    assert (options["desirable_weight"], options["undesirable_weight"]) == (1.5, 0.5)


@pytest.mark.parametrize(
    ("loss", "options", "error", "message"),
    [
        ("ipx", {}, UnknownName, "did you mean 'ipo'?"),
        ("dpo", {"loss_kwargs": {"betta": 0.1}}, ConfigError, "'betta'"),
        ("dpo", {"beta": 0.0}, ConfigError, "beta"),
        ("dpo", {"beta": -1.0}, ConfigError, "beta"),
        ("dpo", {"label_smoothing": 0.5}, ConfigError, "label_smoothing"),
        ("ipo", {"label_smoothing": 0.1}, ConfigError, "label_smoothing"),
        ("kto", {"per_device_train_batch_size": 1}, (ConfigError, ValueError), "batch"),
    ],
    ids=["unknown", "option", "zero-beta", "negative-beta", "smoothing", "no-smoothing", "batch"],
)
def test_bad_input_is_refused_by_name(
    build: Build, loss: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match="(?s)" + message):
        build(loss, **options)


def test_singles_are_refused_for_a_paired_loss(build: Build) -> None:
    with pytest.raises(DataError, match="labelled singles"):
        build("dpo", data=singles(True, False))


def test_weights_that_are_lost_stop_the_run(build: Build) -> None:
    """TRL logs the NaN as 0.0 and goes on."""
    trainer = build("dpo")
    with torch.no_grad():
        trainer.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(RunError, match="dpo"):
        trainer.train()


def test_images_reach_every_pass_of_kto(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = build("kto", data=singles(True, False, True, False))
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    images = torch.ones(4, 3, 2, 2)
    batch |= {"pixel_values": images, "token_type_ids": batch["attention_mask"] * 0}
    batch["KL_token_type_ids"] = batch["KL_attention_mask"] * 0 + 1
    passes: list[dict[str, Any]] = []
    score = type(trainer).token_logps

    def seen(self: Any, model: Any, *, labels: Any, **inputs: Any) -> Any:
        passes.append(inputs)
        tokens = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        return score(self, model, labels=labels, **tokens)

    monkeypatch.setattr(type(trainer), "token_logps", seen)
    trainer.compute_loss(trainer.model, batch)
    assert len(passes) == 4  # policy and reference, each on its completions and on those moved on
    given = {"input_ids", "attention_mask", "pixel_values", "token_type_ids"}
    for each in passes:
        assert set(each) - {"use_cache"} == given
        assert each["pixel_values"] is images
        moved = each["input_ids"] is batch["KL_input_ids"]
        assert (each["token_type_ids"] == int(moved)).all()
    assert sum(each["input_ids"] is batch["KL_input_ids"] for each in passes) == 2


def test_a_reference_that_nothing_looks_at_is_refused(tiny: Build, build: Build) -> None:
    with pytest.raises(ConfigError) as refused:
        build("orpo", trainer_options={"ref_model": tiny()[0]})
    assert str(refused.value) == (
        "ref_model: no loss of this run uses a reference model\n  leave ref_model out"
    )


@pytest.mark.parametrize(
    ("kind", "given", "wanted"),
    [(DPOConfig, ["ipo"], "dpo"), (KTOConfig, "apo_zero_unpaired", "kto")],
)
def test_a_config_that_names_another_loss_is_refused(
    kind: type, given: Any, wanted: str, config: Build, sums: Dataset
) -> None:
    with pytest.raises(ConfigError) as refused:
        preference_trainer("tiny-deepseek-llm", wanted, sums, config(kind, loss_type=given))
    named = given if isinstance(given, str) else given[0]
    assert str(refused.value) == (
        f"loss_type is {wanted} here and {named} in the config\n  leave it out of the config"
    )
