"""Options are found, bound and refused before a model is loaded."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from trl_deepseek import PairLogps, load_registry
from trl_deepseek.errors import ConfigError, RunError
from trl_deepseek.losses import BoundLoss, bind, require_range
from trl_deepseek.types import Loss

LOSSES = load_registry().losses


def bind_names(
    *names: str, loss_kwargs: dict[str, Any] | None = None, **shared: Any
) -> list[BoundLoss]:
    return bind([LOSSES[name] for name in names], shared, loss_kwargs)


def test_an_option_that_is_not_given_keeps_the_losss_own_default() -> None:
    (simpo,) = bind_names("simpo", beta=None)
    assert simpo.options == {"beta": 2.0, "gamma": 1.0}


def test_a_config_field_reaches_every_loss_that_has_the_option() -> None:
    dpo, ipo = bind_names("dpo", "ipo", beta=0.5, label_smoothing=0.1)
    assert dpo.options == {"beta": 0.5, "label_smoothing": 0.1, "reference_free": False}
    assert ipo.options == {"beta": 0.5, "per_token": True}


def test_loss_kwargs_win_over_the_field_and_may_be_per_loss() -> None:
    dpo, simpo = bind_names(
        "dpo", "simpo", beta=0.5, loss_kwargs={"gamma": 0.3, "simpo": {"beta": 2.5}}
    )
    assert dpo.options["beta"] == 0.5
    assert simpo.options == {"beta": 2.5, "gamma": 0.3}


def test_an_unknown_option_is_refused_with_the_options_there_are() -> None:
    with pytest.raises(ConfigError) as refused:
        bind_names("simpo", loss_kwargs={"gama": 0.3})
    assert str(refused.value) == (
        "loss_kwargs: loss 'simpo' has no option 'gama' (did you mean 'gamma'?)\n"
        "  its options: beta=2.0, gamma=1.0"
    )


def test_an_option_that_none_of_several_losses_has_is_refused_with_what_each_has() -> None:
    with pytest.raises(ConfigError) as refused:
        bind_names("ipo", "simpo", loss_kwargs={"alpha": 0.3})
    assert str(refused.value) == (
        "loss_kwargs: neither 'ipo' nor 'simpo' has an option 'alpha'\n"
        "  ipo: beta, per_token\n"
        "  simpo: beta, gamma"
    )


def test_an_option_of_another_loss_is_refused_in_the_losss_own_mapping() -> None:
    with pytest.raises(ConfigError, match="loss 'dpo' has no option 'gamma'"):
        bind_names("dpo", "simpo", loss_kwargs={"dpo": {"gamma": 0.3}})


BAD: list[tuple[str, dict[str, Any], str]] = [
    (name, {"beta": value}, "beta")
    for name in LOSSES
    if "beta" in LOSSES[name].options
    for value in (0, -0.1)
]
BAD += [(name, {"beta": value}, "beta") for name in ("dpo", "kto") for value in ("0.1", math.nan)]
BAD += [
    ("dpo", {"label_smoothing": 0.5}, "label_smoothing"),
    ("dpo", {"label_smoothing": -0.1}, "label_smoothing"),
    ("robust", {"label_smoothing": 0.5}, "label_smoothing"),
    ("cpo", {"label_smoothing": 0.7}, "label_smoothing"),
    ("exo", {"label_smoothing": 0.0}, "label_smoothing"),
    ("aot", {"label_smoothing": 0.5}, "label_smoothing"),
    ("discopop", {"discopop_tau": 0.0}, "discopop_tau"),
    ("cpo", {"alpha": -1}, "alpha"),
    ("simpo", {"gamma": -1}, "gamma"),
    ("kto", {"desirable_weight": -1}, "desirable_weight"),
    ("apo_zero_unpaired", {"undesirable_weight": True}, "undesirable_weight"),
]


@pytest.mark.parametrize(("name", "options", "culprit"), BAD)
def test_a_value_out_of_range_is_refused_by_name(
    name: str, options: dict[str, Any], culprit: str
) -> None:
    with pytest.raises(ConfigError, match=f"loss '{name}' does not run with .*: {culprit} = "):
        bind_names(name, loss_kwargs=options)


def test_a_range_is_named_in_full() -> None:
    with pytest.raises(ValueError, match="must be a number") as refused:
        require_range("epsilon", 0.5, at_least=0, below=0.5)
    assert str(refused.value) == "epsilon = 0.5: it must be a number at least 0 and below 0.5"


def bound(function: Any) -> BoundLoss:
    return BoundLoss(Loss("mine", function), {})


def logps() -> PairLogps:
    column = torch.tensor([-1.0, -2.0])
    return PairLogps(column, column, column, column, torch.ones(2), torch.ones(2))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_with_its_name(bad: float) -> None:
    with pytest.raises(RunError, match="loss 'mine' is not finite"):
        bound(lambda logps: logps.chosen * bad)(logps())


def test_a_loss_that_takes_the_mean_itself_is_told_what_to_return() -> None:
    with pytest.raises(RunError) as refused:
        bound(lambda logps: logps.chosen.mean())(logps())
    assert str(refused.value) == (
        "loss 'mine' returned (), not one loss per sequence, (2,)\n  leave the mean to the trainer"
    )


def test_a_bug_in_a_strangers_loss_shows_before_a_model_is_loaded() -> None:
    def broken(logps: PairLogps, beta: float = 0.1) -> torch.Tensor:
        return logps.chosne  # type: ignore[attr-defined]

    with pytest.raises(ConfigError, match=r"loss 'broken' does not run .* no attribute 'chosne'"):
        bind([Loss("broken", broken)], {}, None)


def test_a_loss_without_reference_that_asks_for_it_is_refused_at_once() -> None:
    def asks(logps: PairLogps) -> torch.Tensor:
        return logps.chosen_ratio

    with pytest.raises(ConfigError, match="it runs without a reference model"):
        bind([Loss("asks", asks, reference=False)], {}, None)


def test_reference_free_switches_the_reference_off() -> None:
    (with_reference,) = bind_names("dpo")
    (without,) = bind_names("dpo", loss_kwargs={"reference_free": True})
    assert with_reference.needs_reference
    assert not without.needs_reference
