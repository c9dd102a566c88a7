"""What is wrong with the losses of a run is said from its config alone, for every kind of run."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import trl

from trl_deepseek import (
    DPOConfig,
    GRPOConfig,
    KTOConfig,
    PairLogps,
    RewardConfig,
    SFTConfig,
    hookimpl,
    load_registry,
)
from trl_deepseek.errors import ConfigError, UnknownName, UserError
from trl_deepseek.losses import invented
from trl_deepseek.losses.plan import plan

REGISTRY = load_registry()


def config(kind: type, **options: Any) -> Any:
    return kind("unused", **{"bf16": False, "use_cpu": True, "report_to": "none", **options})


REFUSED: list[tuple[type, dict[str, Any], type[UserError], str]] = [
    (RewardConfig, {"loss_type": "bradly_terry"}, UnknownName, "did you mean 'bradley_terry'"),
    (RewardConfig, {"loss_kwargs": {"nonsense": 1}}, ConfigError, "no option 'nonsense'"),
    (RewardConfig, {"loss_type": "sigmoid"}, ConfigError, "is for `trl-deepseek preference`"),
    (RewardConfig, {"center_rewards_coefficient": math.nan}, ConfigError, "at least 0"),
    (DPOConfig, {"loss_type": "dop"}, UnknownName, "did you mean 'dpo'"),
    (DPOConfig, {"loss_kwargs": {"nonsense": 1}}, ConfigError, "no option 'nonsense'"),
    (DPOConfig, {"loss_kwargs": "beta=1"}, ConfigError, "is not valid JSON"),
    (DPOConfig, {"loss_type": "kto"}, ConfigError, "labelled single examples"),
    (DPOConfig, {"loss_type": "discopop", "discopop_tau": 0.0}, ConfigError, "discopop_tau is 0.0"),
    (
        DPOConfig,
        {"loss_weights": [math.inf]},
        ConfigError,
        "loss_weights is [inf]: it must be at least 0 and finite",
    ),
    (
        DPOConfig,
        {"loss_type": ["aot"], "f_divergence_type": "js_divergence"},
        ConfigError,
        "f_divergence_type does not apply to 'aot'",
    ),
    (KTOConfig, {"loss_type": "kot"}, UnknownName, "did you mean 'kto'"),
    (KTOConfig, {"loss_kwargs": {"nonsense": 1}}, ConfigError, "no option 'nonsense'"),
    (SFTConfig, {"loss_type": "nil"}, ConfigError, "did you mean 'nll'"),
]


@pytest.mark.parametrize(("kind", "options", "error", "words"), REFUSED)
def test_is_refused(
    kind: type, options: dict[str, Any], error: type[UserError], words: str
) -> None:
    with pytest.raises(error) as caught:
        plan(config(kind, **options), REGISTRY)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "kind", [DPOConfig, KTOConfig, RewardConfig, SFTConfig, GRPOConfig, trl.DPOConfig]
)
def test_asking_for_the_plan_changes_no_config(kind: type) -> None:
    given = config(kind)
    before = given.to_dict()
    plan(given, REGISTRY)
    assert given.to_dict() == before


def test_what_trls_code_reads_is_settled_by_the_first_loss_that_has_it() -> None:
    given = config(DPOConfig, loss_type=["sft", "simpo", "dpo"])
    plan(given, REGISTRY).settle(given)
    assert given.beta == 2.0  # simpo's
    assert given.label_smoothing == 0.0  # dpo's


def test_a_plan_is_the_weighted_sum_of_its_losses_each_shown_what_it_asked_for() -> None:
    seen: list[Any] = []

    def loss(value: float) -> Any:
        def called(logps: PairLogps) -> torch.Tensor:
            seen.append(logps)
            return logps.chosen * 0 + value

        return called

    @hookimpl
    def register_losses(register: Any) -> None:
        register("bare", loss(3.0), reference=False)
        register("full", loss(5.0), prompt_nll=True)

    registry = load_registry([SimpleNamespace(register_losses=register_losses)])
    made = plan(config(DPOConfig, loss_type=["bare", "full"], loss_weights=[2.0, 0.1]), registry)
    seen.clear()
    total, metrics = made(invented("pairs"))
    assert total.item() == pytest.approx(6.5)
    assert set(metrics) == {"loss/bare", "loss/full"}
    bare, full = seen
    assert bare.ref_chosen is bare.ref_rejected is bare.chosen_nll is None
    assert torch.is_tensor(full.ref_chosen)
    assert torch.is_tensor(full.chosen_nll)
