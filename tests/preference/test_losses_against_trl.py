"""Value and every gradient of each loss on one batch in float32, against TRL's own trainers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset

from trl_deepseek import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, load_registry
from trl_deepseek.losses import plan
from trl_deepseek.policy.plan import TRL_LOSSES

Build = Callable[..., Any]

# our name, TRL's name, options that both configs have
PAIRED = [
    ("dpo", "sigmoid", {}),
    ("sigmoid", "sigmoid", {"beta": 0.5}),
    ("ipo", "ipo", {}),
    ("ipo", "ipo", {"beta": 0.5}),
    ("hinge", "hinge", {}),
    ("robust", "robust", {"label_smoothing": 0.2}),
    ("apo_zero", "apo_zero", {}),
    ("apo_down", "apo_down", {}),
    ("sppo", "sppo_hard", {"beta": 0.02}),
    ("nca", "nca_pair", {}),
    ("exo", "exo_pair", {"label_smoothing": 0.01}),
    ("exo_pair", "exo_pair", {"label_smoothing": 0.1}),
    ("nca_pair", "nca_pair", {}),
    ("sppo_hard", "sppo_hard", {}),
    ("bco_pair", "bco_pair", {"beta": 0.3}),
    ("aot", "aot", {"label_smoothing": 0.1}),
    ("aot_unpaired", "aot_unpaired", {"beta": 0.3}),
    ("discopop", "discopop", {"discopop_tau": 0.3}),
    ("sft", "sft", {}),
    ("sigmoid_norm", "sigmoid_norm", {"beta": 5.0}),
    ("dpo", "sigmoid", {"ld_alpha": 0.5}),
]


def loss_and_gradients(trainer: Any) -> tuple[float, dict[str, torch.Tensor]]:
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.model.train()
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), {
        name: parameter.grad.clone()
        for name, parameter in trainer.model.named_parameters()
        if parameter.grad is not None
    }


def assert_same(ours: Any, theirs: Any, rel: float = 1e-6) -> None:
    value, gradients = loss_and_gradients(ours)
    expected, expected_gradients = loss_and_gradients(theirs)
    assert value == pytest.approx(expected, rel=rel)
    assert gradients.keys() == expected_gradients.keys()
    assert len(gradients) > 30
    assert_gradients_agree(gradients, expected_gradients, rel)


def assert_gradients_agree(
    ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], rel: float = 1e-6
) -> None:
    """Each parameter's gradient, relative to the norm of the whole gradient."""
    norm = torch.cat([gradient.flatten() for gradient in theirs.values()]).norm()
    assert norm > 1e-2  # or the comparison would say nothing
    for name, gradient in ours.items():
        off = (gradient - theirs[name]).norm() / norm
        assert off <= rel, f"{name}: off by {off:.1e} of the gradient's norm"


@pytest.mark.parametrize(("name", "trl_name", "options"), PAIRED)
def test_a_paired_loss_equals_trls(
    name: str, trl_name: str, options: dict[str, Any], tiny: Build, sums: Dataset, config: Build
) -> None:
    def trainer(kind: Any, config_kind: type, loss_type: str) -> Any:
        model, tokenizer = tiny(seed=0)
        reference, _ = tiny(seed=1)
        args = config(config_kind, loss_type=loss_type, **options)
        if kind is DPOTrainer and not ours_needs:
            reference = None  # which would be refused
        return kind(
            model, ref_model=reference, args=args, train_dataset=sums, processing_class=tokenizer
        )

    ours_needs = load_registry().losses[name].reference
    ours = trainer(DPOTrainer, DPOConfig, name)
    assert ours.plan.losses  # of a plugin, not TRL's own formula
    assert_same(ours, trainer(trl.DPOTrainer, trl.DPOConfig, trl_name))


def test_in_float16_loss_and_gradients_are_trls(tiny: Build, sums: Dataset, config: Build) -> None:
    """And so is what follows: Adam's epsilon is 0 in float16, and TRL's weights are NaN soon."""

    def trainer(kind: Any, config_kind: type) -> Any:
        model, tokenizer = tiny(seed=0)
        reference = tiny(seed=1)[0].to(torch.float16)
        return kind(
            model.to(torch.float16),
            ref_model=reference,
            args=config(config_kind),
            train_dataset=sums,
            processing_class=tokenizer,
        )

    assert_same(trainer(DPOTrainer, DPOConfig), trainer(trl.DPOTrainer, trl.DPOConfig), rel=2e-3)


@pytest.mark.parametrize("weights", [{}, {"desirable_weight": 1.2, "undesirable_weight": 0.8}])
@pytest.mark.parametrize("name", ["kto", "apo_zero_unpaired"])
def test_an_unpaired_loss_equals_trls(
    name: str, weights: dict[str, float], tiny: Build, sums: Dataset, config: Build
) -> None:
    singles = Dataset.from_list(
        [
            {"prompt": row["prompt"], "completion": row[column], "label": column == "chosen"}
            for row in sums
            for column in ("chosen", "rejected")
        ]
    )

    def trainer(kind: Any, config_kind: type) -> Any:
        model, tokenizer = tiny(seed=0)
        reference, _ = tiny(seed=1)
        args = config(config_kind, loss_type=name, **weights)
        return kind(
            model, ref_model=reference, args=args, train_dataset=singles, processing_class=tokenizer
        )

    assert_same(trainer(KTOTrainer, KTOConfig), trainer(trl.KTOTrainer, trl.KTOConfig))


@pytest.mark.parametrize(
    "options",
    [
        {"loss_type": ["dpo", "sft"], "loss_weights": [0.8, 0.3]},
        {"loss_type": ["sigmoid", "bco_pair", "ipo"], "loss_weights": [0.8, 1.0, 0.001]},
        {"loss_type": ["sigmoid"], "f_divergence_type": "js_divergence"},
        {"loss_type": ["sigmoid"], "use_weighting": True},
    ],
    ids=["dpo+sft", "three", "f-divergence", "weighting"],
)
def test_lists_and_settings_of_trls_equal_trls(
    options: dict[str, Any], tiny: Build, sums: Dataset, config: Build
) -> None:
    def trainer(kind: Any, config_kind: type) -> Any:
        model, tokenizer = tiny(seed=0)
        reference, _ = tiny(seed=1)
        names = [
            "sigmoid" if name == "dpo" and config_kind is trl.DPOConfig else name
            for name in options["loss_type"]
        ]
        args = config(config_kind, **{**options, "loss_type": names})
        return kind(
            model, ref_model=reference, args=args, train_dataset=sums, processing_class=tokenizer
        )

    assert_same(trainer(DPOTrainer, DPOConfig), trainer(trl.DPOTrainer, trl.DPOConfig))


def equal_lengths() -> Dataset:
    """TRL's ORPO and CPO average over all tokens of a batch, ours over each row: no difference."""
    rows = [
        {"prompt": f"{i}+{i}=", "chosen": f"{2 * i}", "rejected": f"{i} " * (1 + i % 3)}
        for i in range(11, 43)
    ]
    return Dataset.from_list(rows)


def as_experimental(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch of ours with the keys that TRL's experimental trainers read."""
    converted = {}
    for position, name in enumerate(("chosen", "rejected")):
        ids = batch["input_ids"].chunk(2)[position]
        completion = batch["completion_mask"].chunk(2)[position]
        converted[f"{name}_input_ids"] = ids
        converted[f"{name}_attention_mask"] = batch["attention_mask"].chunk(2)[position]
        converted[f"{name}_labels"] = ids.masked_fill(completion == 0, -100)
        converted["prompt_input_ids"] = ids
        converted["prompt_attention_mask"] = completion
    return converted


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("orpo", {"beta": 0.3}),
        ("cpo", {"beta": 0.3, "alpha": 0.7}),
        ("cpo", {"beta": 0.3, "alpha": 0.7, "label_smoothing": 0.1}),
        ("simpo", {"beta": 2.0, "gamma": 0.5}),
    ],
    ids=["orpo", "cpo", "cpo, smoothed", "simpo"],
)
def test_a_reference_free_loss_equals_trls_experimental_trainer(
    name: str, options: dict[str, float], tiny: Build, config: Build
) -> None:
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    model, tokenizer = tiny()
    ours = DPOTrainer(
        model,
        args=config(DPOConfig, loss_type=name, loss_kwargs=options),
        train_dataset=equal_lengths(),
        processing_class=tokenizer,
    )
    batch = ours._prepare_inputs(next(iter(ours.get_train_dataloader())))
    ours.model.train()
    loss = ours.compute_loss(ours.model, batch)
    loss.backward()
    gradients = {n: p.grad for n, p in ours.model.named_parameters() if p.grad is not None}

    twin, _ = tiny()
    kind, config_kind = (ORPOTrainer, ORPOConfig) if name == "orpo" else (CPOTrainer, CPOConfig)
    theirs: dict[str, Any] = {"beta": options["beta"]}
    if name == "cpo":
        theirs |= {"cpo_alpha": 0.7, "label_smoothing": options.get("label_smoothing", 0.0)}
    if name == "simpo":
        theirs |= {"loss_type": "simpo", "simpo_gamma": 0.5, "cpo_alpha": 0.0}
    trainer = kind(
        twin,
        args=config(config_kind, **theirs),
        train_dataset=equal_lengths(),
        processing_class=tokenizer,
    )
    expected, _ = trainer.get_batch_loss_metrics(twin, as_experimental(batch), "train")
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert_gradients_agree(gradients, {n: p.grad for n, p in twin.named_parameters()})


def test_every_name_of_trls_on_preferences_is_registered() -> None:
    losses = load_registry().losses
    assert all(losses[name].data == "pairs" for name in plan.TRL_PAIRED)


def names_in(method: Any, pattern: str) -> set[str]:
    found = re.findall(pattern, inspect.getsource(method))
    return set(re.findall(r"\w+", " ".join(found)))


def test_trl_knows_the_names_that_the_plan_says_it_knows() -> None:
    one = r'loss_type == "(\w+)"'
    assert names_in(trl.DPOTrainer._compute_loss, one) == set(plan.TRL_PAIRED)
    assert names_in(trl.KTOTrainer._compute_loss, f"self.{one}") == {"kto", "apo_zero_unpaired"}
    some = r"self.loss_type in \[(.*?)\]:"
    grpo = trl.GRPOTrainer._compute_loss
    assert names_in(grpo, f"self.{one}") | names_in(grpo, some) == set(TRL_LOSSES)
    setup = trl.SFTTrainer.__init__
    assert names_in(setup, r"loss_type not in \((.*?)\)") == set(plan.TRL_SFT)
    setup = trl.DPOTrainer.__init__
    diverging = r"f_divergence_loss_types = \{(.*?)\}"
    assert names_in(setup, diverging) == set(plan.TRL_DIVERGED)
    weighed = r"use_weighting and any\(loss_type in \{(.*?)\}"
    assert names_in(setup, weighed) == set(plan.TRL_UNWEIGHTED)
