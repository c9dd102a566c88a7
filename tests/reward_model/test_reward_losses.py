"""Losses on scores against their papers' formulas in plain float64 math, and how they are found."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from trl_deepseek import PairRewards, Registry, hookimpl, load_registry, losses
from trl_deepseek.errors import ConfigError, RunError, UnknownName

CHOSEN = [1.5, -0.25, 0.0, 3.0, -2.0]
REJECTED = [0.5, 0.75, 0.0, -4.0, 1.0]
MARGINS = [0.0, 1.0, 0.5, 2.0, 1 / 3]


def rewards(margin: bool) -> PairRewards:
    as_tensor = [torch.tensor(v, dtype=torch.float64) for v in (CHOSEN, REJECTED, MARGINS)]
    chosen, rejected, margins = as_tensor
    return PairRewards(chosen, rejected, margins if margin else None)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


FORMULAS: dict[str, tuple[dict[str, float], float, Callable[[float], float]]] = {
    # name: options, margin of a row without one, loss of the difference less the margin
    "bradley_terry": ({}, 0.0, lambda d: -math.log(sigmoid(d))),
    "bradley_terry smoothed": (
        {"label_smoothing": 0.1},
        0.0,
        lambda d: -0.9 * math.log(sigmoid(d)) - 0.1 * math.log(sigmoid(-d)),
    ),
    "margin": ({"margin": 0.7}, 0.7, lambda d: -math.log(sigmoid(d))),
    "margin_hinge": ({"margin": 0.7}, 0.7, lambda d: max(0.0, -d)),
    "focal_ranking": (
        {"gamma": 3.0},
        0.0,
        lambda d: -((1 - 2 * max(0.0, sigmoid(d) - 0.5)) ** 3) * math.log(sigmoid(d)),
    ),
}


@pytest.mark.parametrize("case", FORMULAS)
@pytest.mark.parametrize("with_margin", [False, True])
def test_each_loss_is_its_papers_formula(case: str, with_margin: bool) -> None:
    options, default, formula = FORMULAS[case]
    loss = load_registry().losses[case.split()[0]]
    margins = MARGINS if with_margin else [default] * len(CHOSEN)
    expected = [formula(c - r - m) for c, r, m in zip(CHOSEN, REJECTED, margins, strict=True)]
    found, _ = losses.BoundLoss(loss, options)(rewards(with_margin))
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_focal_loss_has_a_finite_gradient_and_is_bradley_terry_at_gamma_zero(
    gamma: float,
) -> None:
    registry = load_registry()
    chosen = torch.tensor([50.0, 0.0, -50.0], requires_grad=True)
    batch = PairRewards(chosen, torch.zeros(3))
    values = registry.losses["focal_ranking"](batch, gamma=gamma)
    values.sum().backward()
    assert chosen.grad is not None
    assert chosen.grad.isfinite().all()
    if gamma == 0.0:
        assert torch.equal(values, registry.losses["bradley_terry"](batch))


def test_every_reward_loss_of_the_plugin_has_a_formula_above() -> None:
    registered = {name for name, loss in load_registry().losses.items() if loss.data == "rewards"}
    assert registered == {case.split()[0] for case in FORMULAS}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("bradley_terry", {"label_smoothing": 0.5}, ["label_smoothing = 0.5", "below 0.5"]),
        ("bradley_terry", {"label_smoothing": -0.1}, ["label_smoothing = -0.1", "at least 0"]),
        ("bradley_terry", {"label_smothing": 0.1}, ["did you mean 'label_smoothing'?"]),
        ("margin", {"margin": 0.0}, ["margin = 0.0", "above 0"]),
        ("margin", {"margin": "wide"}, ["does not run with margin='wide'"]),
        ("focal_ranking", {"gamma": -1.0}, ["gamma = -1.0"]),
        ("margin_hinge", {"beta": 0.1}, ["no option 'beta'", "margin=1.0"]),
    ],
)
def test_wrong_options_are_refused_by_name(
    name: str, options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        losses.bind([load_registry().losses[name]], {}, options)
    for word in words:
        assert word in str(caught.value)


def plugin(loss: Callable[..., Any], **options: Any) -> Registry:
    @hookimpl
    def register_losses(register: Any) -> None:
        register("mine", loss, **options)

    return load_registry([SimpleNamespace(register_losses=register_losses)])


def test_an_unknown_loss_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="did you mean 'bradley_terry'"):
        losses.find("bradley_tery", load_registry(), "rewards")


def test_a_loss_on_other_data_is_refused_with_those_that_fit_and_the_command_for_it() -> None:
    registry = plugin(lambda logps: logps.chosen, data="pairs")
    with pytest.raises(ConfigError) as caught:
        losses.find("mine", registry, "rewards")
    for words in ("log-probs of preference pairs", "margin_hinge", "trl-deepseek preference"):
        assert words in str(caught.value)


def test_a_plugins_loss_may_return_metrics() -> None:
    def mine(rewards: PairRewards) -> tuple[Tensor, dict[str, Tensor]]:
        return rewards.rejected - rewards.chosen, {"lead": rewards.chosen.mean()}

    loss = losses.find("mine", plugin(mine, data="rewards"), "rewards")
    values, metrics = losses.BoundLoss(loss, {})(rewards(False))
    assert values.shape == (5,)
    assert metrics["lead"].item() == pytest.approx(sum(CHOSEN) / 5)


@pytest.mark.parametrize("result", [lambda r: r.chosen.mean(), lambda r: 1.0])
def test_a_loss_that_takes_the_mean_itself_is_refused(result: Callable[..., Any]) -> None:
    loss = plugin(result, data="rewards").losses["mine"]
    with pytest.raises(RunError, match="leave the mean to the trainer"):
        losses.BoundLoss(loss, {})(rewards(False))
    with pytest.raises(ConfigError, match="'mine' does not run with its defaults"):
        losses.bind([loss], {}, None)


def test_a_required_option_must_be_given() -> None:
    def mine(rewards: PairRewards, temperature: float) -> Tensor:
        return (rewards.rejected - rewards.chosen) / temperature

    loss = plugin(mine, data="rewards").losses["mine"]
    with pytest.raises(ConfigError, match="needs the option 'temperature'"):
        losses.check_options(loss, {})
    losses.check_options(loss, {"temperature": 2.0})
