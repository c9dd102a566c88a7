"""Each loss against its paper's formula, in plain math on one pair (or example) at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from trl_deepseek import PairLogps, UnpairedLogps, load_registry
from trl_deepseek.types import Loss

BETA, EPSILON = 0.3, 0.2
CHOSEN = [-3.1, -12.0, -0.4]
REJECTED = [-4.5, -9.0, -7.7]
REF_CHOSEN = [-3.4, -10.5, -2.0]
REF_REJECTED = [-4.1, -9.9, -6.0]
CHOSEN_LENGTH = [3, 7, 2]
REJECTED_LENGTH = [4, 5, 9]
NLL = [0.9, 1.7, 0.2]
LABELS = [True, False, True]
KL = 0.35


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def log_sigma(x: float) -> float:
    return math.log(sigma(x))


def odds(mean_logp: float) -> float:
    p = math.exp(mean_logp)
    return p / (1 - p)


def pairs() -> PairLogps:
    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64)

    return PairLogps(
        chosen=column(CHOSEN),
        rejected=column(REJECTED),
        ref_chosen=column(REF_CHOSEN),
        ref_rejected=column(REF_REJECTED),
        chosen_length=torch.tensor(CHOSEN_LENGTH),
        rejected_length=torch.tensor(REJECTED_LENGTH),
        chosen_nll=column(NLL),
    )


def singles() -> UnpairedLogps:
    return UnpairedLogps(
        completion=torch.tensor(CHOSEN, dtype=torch.float64),
        ref_completion=torch.tensor(REF_CHOSEN, dtype=torch.float64),
        label=torch.tensor(LABELS),
        length=torch.tensor(CHOSEN_LENGTH),
        kl=torch.tensor(KL, dtype=torch.float64),
    )


@pytest.fixture(scope="module")
def losses() -> dict[str, Loss]:
    return dict(load_registry().losses)


# Arguments: log π(y⁺), log π(y⁻), their log-ratios to the reference, lengths |y⁺|, |y⁻|, NLL.
Formula = Callable[[float, float, float, float, int, int, float], float]
PAIRED: dict[str, tuple[str, dict[str, float | bool], Formula]] = {
    "dpo": (
        "dpo",
        {"beta": BETA},
        lambda c, r, a, b, m, n, nll: -log_sigma(BETA * (a - b)),
    ),
    "sigmoid": (
        "sigmoid",
        {"beta": BETA},
        lambda c, r, a, b, m, n, nll: -log_sigma(BETA * (a - b)),
    ),
    "dpo, smoothed (cDPO)": (
        "dpo",
        {"beta": BETA, "label_smoothing": EPSILON},
        lambda c, r, a, b, m, n, nll: (
            -(1 - EPSILON) * log_sigma(BETA * (a - b)) - EPSILON * log_sigma(-BETA * (a - b))
        ),
    ),
    "dpo, reference-free": (
        "dpo",
        {"beta": BETA, "reference_free": True},
        lambda c, r, a, b, m, n, nll: -log_sigma(BETA * (c - r)),
    ),
    "robust": (
        "robust",
        {"beta": BETA, "label_smoothing": EPSILON},
        lambda c, r, a, b, m, n, nll: (
            (-(1 - EPSILON) * log_sigma(BETA * (a - b)) + EPSILON * log_sigma(-BETA * (a - b)))
            / (1 - 2 * EPSILON)
        ),
    ),
    "robust, reference-free": (
        "robust",
        {"beta": BETA, "label_smoothing": EPSILON, "reference_free": True},
        lambda c, r, a, b, m, n, nll: (
            (-(1 - EPSILON) * log_sigma(BETA * (c - r)) + EPSILON * log_sigma(-BETA * (c - r)))
            / (1 - 2 * EPSILON)
        ),
    ),
    "ipo": (
        "ipo",
        {"beta": BETA},
        lambda c, r, a, b, m, n, nll: (a / m - b / n - 1 / (2 * BETA)) ** 2,
    ),
    "ipo, sums": (
        "ipo",
        {"beta": BETA, "per_token": False},
        lambda c, r, a, b, m, n, nll: (a - b - 1 / (2 * BETA)) ** 2,
    ),
    "hinge": (
        "hinge",
        {"beta": BETA},
        lambda c, r, a, b, m, n, nll: max(0.0, 1 - BETA * (a - b)),
    ),
    "hinge, reference-free": (
        "hinge",
        {"beta": BETA, "reference_free": True},
        lambda c, r, a, b, m, n, nll: max(0.0, 1 - BETA * (c - r)),
    ),
    "apo_zero": (
        "apo_zero",
        {"beta": BETA},
        lambda c, r, a, b, m, n, nll: 1 - sigma(BETA * a) + sigma(BETA * b),
    ),
    "apo_down": (
        "apo_down",
        {"beta": BETA},
        lambda c, r, a, b, m, n, nll: sigma(BETA * a) + 1 - sigma(BETA * (a - b)),
    ),
    "sppo": (
        "sppo",
        {"beta": BETA},
        lambda c, r, a, b, m, n, nll: (a - 1 / (2 * BETA)) ** 2 + (b + 1 / (2 * BETA)) ** 2,
    ),
    "sigmoid_norm": (
        "sigmoid_norm",
        {"beta": BETA},
        lambda c, r, a, b, m, n, nll: -log_sigma(BETA * (a / m - b / n)),
    ),
    "bco_pair": (
        "bco_pair",
        {"beta": BETA},
        lambda c, r, a, b, m, n, nll: -log_sigma(BETA * a) - log_sigma(-BETA * b),
    ),
    "discopop": (
        "discopop",
        {"beta": BETA, "discopop_tau": 0.5},
        lambda c, r, a, b, m, n, nll: (
            -(1 - sigma(BETA * (a - b) / 0.5)) * log_sigma(BETA * (a - b))
            + sigma(BETA * (a - b) / 0.5) * math.exp(-BETA * (a - b))
        ),
    ),
    "nca": (
        "nca",
        {"beta": BETA},
        lambda c, r, a, b, m, n, nll: (
            -log_sigma(BETA * a) - 0.5 * log_sigma(-BETA * a) - 0.5 * log_sigma(-BETA * b)
        ),
    ),
    "exo": (
        "exo",
        {"beta": BETA, "label_smoothing": EPSILON},
        lambda c, r, a, b, m, n, nll: (
            sigma(BETA * (a - b)) * math.log(sigma(BETA * (a - b)) / (1 - EPSILON))
            + sigma(BETA * (b - a)) * math.log(sigma(BETA * (b - a)) / EPSILON)
        ),
    ),
    "simpo": (
        "simpo",
        {"beta": 2.5, "gamma": 0.7},
        lambda c, r, a, b, m, n, nll: -log_sigma(2.5 * c / m - 2.5 * r / n - 0.7),
    ),
    "cpo": (
        "cpo",
        {"beta": BETA, "alpha": 0.5},
        lambda c, r, a, b, m, n, nll: -log_sigma(BETA * (c - r)) - 0.5 * c / m,
    ),
    "cpo, smoothed": (
        "cpo",
        {"beta": BETA, "alpha": 0.0, "label_smoothing": EPSILON},
        lambda c, r, a, b, m, n, nll: (
            -(1 - EPSILON) * log_sigma(BETA * (c - r)) - EPSILON * log_sigma(-BETA * (c - r))
        ),
    ),
    "orpo": (
        "orpo",
        {"beta": BETA},
        lambda c, r, a, b, m, n, nll: nll - BETA * log_sigma(math.log(odds(c / m) / odds(r / n))),
    ),
}


def per_sequence(output: torch.Tensor | tuple[torch.Tensor, object]) -> list[float]:
    return [float(value) for value in (output[0] if isinstance(output, tuple) else output)]


@pytest.mark.parametrize("case", PAIRED)
def test_a_paired_loss_is_its_papers_formula(case: str, losses: dict[str, Loss]) -> None:
    name, options, formula = PAIRED[case]
    expected = [
        formula(c, r, c - rc, r - rr, m, n, nll)
        for c, r, rc, rr, m, n, nll in zip(
            CHOSEN,
            REJECTED,
            REF_CHOSEN,
            REF_REJECTED,
            CHOSEN_LENGTH,
            REJECTED_LENGTH,
            NLL,
            strict=True,
        )
    ]
    assert per_sequence(losses[name](pairs(), **options)) == pytest.approx(expected, rel=1e-12)


def test_kto_is_its_papers_formula_with_both_weights(losses: dict[str, Loss]) -> None:
    expected = [
        1.3 * (1 - sigma(BETA * (c - r - KL))) if label else 0.7 * (1 - sigma(BETA * (KL - c + r)))
        for c, r, label in zip(CHOSEN, REF_CHOSEN, LABELS, strict=True)
    ]
    options = {"beta": BETA, "desirable_weight": 1.3, "undesirable_weight": 0.7}
    assert per_sequence(losses["kto"](singles(), **options)) == pytest.approx(expected, rel=1e-12)


def test_apo_zero_unpaired_is_its_formula_with_both_weights(losses: dict[str, Loss]) -> None:
    expected = [
        1.3 * (1 - sigma(BETA * (c - r))) if label else 0.7 * sigma(BETA * (c - r))
        for c, r, label in zip(CHOSEN, REF_CHOSEN, LABELS, strict=True)
    ]
    options = {"beta": BETA, "desirable_weight": 1.3, "undesirable_weight": 0.7}
    output = losses["apo_zero_unpaired"](singles(), **options)
    assert per_sequence(output) == pytest.approx(expected, rel=1e-12)


def test_aot_compares_sorted_margins_of_policy_and_reference(losses: dict[str, Loss]) -> None:
    policy = sorted(c - r for c, r in zip(CHOSEN, REJECTED, strict=True))
    reference = sorted(c - r for c, r in zip(REF_CHOSEN, REF_REJECTED, strict=True))
    options = {"beta": BETA, "label_smoothing": EPSILON}
    assert per_sequence(losses["aot"](pairs(), **options)) == pytest.approx(
        [smoothed(p - q) for p, q in zip(policy, reference, strict=True)], rel=1e-12
    )


def test_aot_unpaired_compares_sorted_rewards_of_chosen_and_rejected(
    losses: dict[str, Loss],
) -> None:
    chosen = sorted(c - r for c, r in zip(CHOSEN, REF_CHOSEN, strict=True))
    rejected = sorted(c - r for c, r in zip(REJECTED, REF_REJECTED, strict=True))
    options = {"beta": BETA, "label_smoothing": EPSILON}
    assert per_sequence(losses["aot_unpaired"](pairs(), **options)) == pytest.approx(
        [smoothed(c - r) for c, r in zip(chosen, rejected, strict=True)], rel=1e-12
    )


def smoothed(delta: float) -> float:
    return -(1 - EPSILON) * log_sigma(BETA * delta) - EPSILON * log_sigma(-BETA * delta)


def test_sft_is_the_mean_over_all_chosen_tokens_of_the_batch(losses: dict[str, Loss]) -> None:
    expected = -sum(CHOSEN) / sum(CHOSEN_LENGTH)
    assert per_sequence(losses["sft"](pairs())) == pytest.approx([expected] * 3, rel=1e-12)


ALIASES = {"exo_pair": "exo", "nca_pair": "nca", "sppo_hard": "sppo"}


@pytest.mark.parametrize("name", ALIASES)
def test_trls_name_for_a_loss_is_the_same_loss(name: str, losses: dict[str, Loss]) -> None:
    assert losses[name].function is losses[ALIASES[name]].function


def test_every_registered_preference_loss_has_a_formula_here(losses: dict[str, Loss]) -> None:
    preference = {name for name, loss in losses.items() if loss.data != "rewards"}
    by_hand = {"kto", "apo_zero_unpaired", "aot", "aot_unpaired", "sft"}
    assert preference == {name for name, _, _ in PAIRED.values()} | by_hand | set(ALIASES)


# The value where the policy is the reference: every log-ratio is zero.
AT_REFERENCE = {
    "dpo": math.log(2),
    "robust": math.log(2),
    "ipo": (1 / (2 * 0.1)) ** 2,
    "hinge": 1.0,
    "apo_zero": 1.0,
    "apo_down": 1.0,
    "sppo": 2 * (0.5 / 0.1) ** 2,
    "nca": 2 * math.log(2),
    "exo": 0.5 * math.log(0.5 / 0.999) + 0.5 * math.log(0.5 / 0.001),
}


@pytest.mark.parametrize("name", AT_REFERENCE)
def test_where_policy_equals_reference_a_loss_has_its_closed_form(
    name: str, losses: dict[str, Loss]
) -> None:
    logps = pairs()
    same = replace(logps, ref_chosen=logps.chosen, ref_rejected=logps.rejected)
    assert per_sequence(losses[name](same)) == pytest.approx([AT_REFERENCE[name]] * 3, rel=1e-12)


def test_where_policy_equals_reference_kto_is_half_its_weight(losses: dict[str, Loss]) -> None:
    logps = singles()
    same = replace(logps, ref_completion=logps.completion, kl=torch.tensor(0.0))
    output = losses["kto"](same, desirable_weight=1.5, undesirable_weight=0.5)
    assert per_sequence(output) == [0.75, 0.25, 0.75]


def test_orpo_stays_finite_where_a_completion_is_certain(losses: dict[str, Loss]) -> None:
    chosen = torch.zeros(3, requires_grad=True)
    loss = losses["orpo"](replace(pairs(), chosen=chosen, rejected=torch.full((3,), -5.0)))[0]
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(torch.as_tensor(chosen.grad)).all()


@pytest.mark.parametrize("name", ["simpo", "cpo", "orpo"])
def test_a_reference_free_loss_is_registered_as_such_and_reports_its_own_rewards(
    name: str, losses: dict[str, Loss]
) -> None:
    loss = losses[name]
    assert not loss.reference
    _, metrics = loss(replace(pairs(), ref_chosen=None, ref_rejected=None))
    assert {"rewards/chosen", "rewards/rejected"} <= set(metrics)
    assert not any(value.requires_grad for value in metrics.values())
