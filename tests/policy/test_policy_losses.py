"""Policy losses that TRL has not, against plain math in float64, and the checks of plugins."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trl

from trl_deepseek import GRPOConfig, TokenLogps, hookimpl, load_registry
from trl_deepseek.errors import ConfigError, NotFinite, PluginError, RunError
from trl_deepseek.plugin_kit import conformance
from trl_deepseek.policy import kl
from trl_deepseek.policy.bound import BoundPolicyLoss, bind_loss, invented_tokens
from trl_deepseek.policy.objective import Objective
from trl_deepseek.policy.plan import LOSS_FIELDS, TRL_LOSSES, plan
from trl_deepseek.policy.reductions import reduce
from trl_deepseek.policy_types import REDUCTIONS, PolicyLoss

REGISTRY = load_registry()
LOGPS = [[-1.0, -2.0, -0.5], [-0.7, -1.5, -9.0], [-3.0, -0.2, -0.9]]
OLD = [[-1.4, -1.9, -0.5], [-0.4, -1.9, -1.0], [-2.0, -0.6, -0.8]]
REF = [[-1.2, -2.2, -0.4], [-0.9, -1.4, -1.0], [-2.5, -0.3, -1.1]]
LENGTHS = [3, 2, 3]
ADVANTAGES = [1.5, -0.5, -2.0]


def double(values: Any, grad: bool = False) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def tokens(**fields: Any) -> TokenLogps:
    mask = torch.tensor([[t < n for t in range(3)] for n in LENGTHS])
    seen = TokenLogps(double(LOGPS, True), double(OLD), double(REF), None, double(ADVANTAGES), mask)
    return replace(seen, **fields)


def rows() -> list[tuple[int, int]]:
    return [(b, t) for b in range(3) for t in range(LENGTHS[b])]


def check(name: str, expected: dict[tuple[int, int], float], **options: Any) -> TokenLogps:
    """Values at scored tokens; returns what was seen, with gradients."""
    seen = tokens()
    values, _ = bind_loss(REGISTRY.policy_losses[name], options, None)(seen)
    values.masked_fill(~seen.mask, 0.0).sum().backward()
    for place in rows():
        assert values[place].item() == pytest.approx(expected[place], abs=1e-12)
    return seen


def test_gpg_is_reinforce() -> None:
    seen = check("gpg", {(b, t): -ADVANTAGES[b] * LOGPS[b][t] for b, t in rows()})
    assert seen.logps.grad is not None
    assert seen.logps.grad[0].tolist() == pytest.approx([-1.5] * 3)


def log_ratio(b: int, t: int) -> float:
    return LOGPS[b][t] - OLD[b][t]


def test_topr_tapers_what_was_bad_by_the_importance_of_the_sequence() -> None:
    def weight(b: int) -> float:
        whole = sum(log_ratio(b, t) for t in range(LENGTHS[b]))
        return 1.0 if ADVANTAGES[b] >= 0 else min(1.0, math.exp(whole))

    seen = check("topr", {(b, t): -weight(b) * ADVANTAGES[b] * LOGPS[b][t] for b, t in rows()})
    assert 0 < weight(2) < 1
    assert weight(1) == 1.0
    assert seen.logps.grad is not None
    assert seen.logps.grad[2].tolist() == pytest.approx([weight(2) * 2.0] * 3)


def test_gmpo_is_the_geometric_mean_of_ratios_clipped_by_the_sign_of_the_advantage() -> None:
    def coefficient(b: int) -> float:
        kept = [
            min(log_ratio(b, t), 0.3) if ADVANTAGES[b] > 0 else max(log_ratio(b, t), -0.2)
            for t in range(LENGTHS[b])
        ]
        return math.prod(math.exp(c) for c in kept) ** (1 / LENGTHS[b])

    expected = {(b, t): -coefficient(b) * ADVANTAGES[b] for b, t in rows()}
    seen = check("gmpo", expected, epsilon=0.2, epsilon_high=0.3)
    assert seen.logps.grad is not None
    assert seen.logps.grad[2, 0] == 0  # clipped
    assert seen.logps.grad[2, 1].item() == pytest.approx(2 * coefficient(2))


def surrogate(b: int, t: int, low: float = 0.2, high: float = 0.2) -> float:
    ratio, a = math.exp(log_ratio(b, t)), ADVANTAGES[b]
    return -min(ratio * a, min(max(ratio, 1 - low), 1 + high) * a)


def covariances() -> dict[tuple[int, int], float]:
    count = len(rows())
    logp = sum(LOGPS[b][t] for b, t in rows()) / count
    advantage = sum(ADVANTAGES[b] for b, _ in rows()) / count
    return {(b, t): (LOGPS[b][t] - logp) * (ADVANTAGES[b] - advantage) for b, t in rows()}


def test_clip_cov_holds_back_tokens_whose_covariance_lies_between_the_bounds() -> None:
    # everything between the bounds is drawn, since that many may be
    low, high = 0.05, 5.0

    def clipped(b: int, t: int) -> bool:
        ratio = math.exp(log_ratio(b, t))
        return (ratio > 1.2 and ADVANTAGES[b] > 0) or (ratio < 0.8 and ADVANTAGES[b] < 0)

    held = {p for p, c in covariances().items() if low < c < high and not clipped(*p)}
    assert 0 < len(held) < len(rows())
    expected = {p: 0.0 if p in held else surrogate(*p) for p in rows()}
    options = {"clip_cov_ratio": 1.0, "clip_cov_low": low, "clip_cov_high": high}
    values, metrics = bind_loss(REGISTRY.policy_losses["clip_cov"], {}, options)(tokens())
    for place in rows():
        assert values[place].item() == pytest.approx(expected[place], abs=1e-12)
    assert metrics["clip_ratio/covariance_mean"].sum() == len(held)


def test_clip_cov_draws_no_more_than_its_share_and_at_least_one() -> None:
    options = {"clip_cov_ratio": 1e-6, "clip_cov_low": -50.0, "clip_cov_high": 50.0}
    _, metrics = bind_loss(REGISTRY.policy_losses["clip_cov"], {}, options)(tokens())
    assert metrics["clip_ratio/covariance_mean"].sum() == 1


def test_kl_cov_penalises_movement_at_the_tokens_of_highest_covariance() -> None:
    ordered = sorted(rows(), key=lambda place: -covariances()[place])
    top = set(ordered[: int(0.4 * len(rows()))])
    expected = {
        (b, t): -math.exp(log_ratio(b, t)) * ADVANTAGES[b]
        + (0.7 * abs(log_ratio(b, t)) if (b, t) in top else 0.0)
        for b, t in rows()
    }
    options = {"kl_cov_ratio": 0.4, "kl_cov_coef": 0.7}
    values, _ = bind_loss(REGISTRY.policy_losses["kl_cov"], {}, options)(tokens())
    for place in rows():
        assert values[place].item() == pytest.approx(expected[place], abs=1e-12)


def test_deepseek_v3_2_drops_bad_completions_that_have_drifted() -> None:
    drift = [-sum(log_ratio(b, t) for t in range(n)) / n for b, n in enumerate(LENGTHS)]
    assert drift[1] < 0.1 < drift[2]
    expected = {(b, t): 0.0 if b == 2 else surrogate(b, t) for b, t in rows()}
    check("deepseek_v3_2", expected, off_policy_mask_threshold=0.1)
    # the engine's own log-probs take the place of old ones, NaN counting as no drift
    sampled = double(LOGPS)
    sampled[2] += double([math.nan, 0.1, 0.1])
    loss = bind_loss(REGISTRY.policy_losses["deepseek_v3_2"], {}, None)
    values, _ = loss(tokens(sampled=sampled))
    assert values[2, 1].item() == pytest.approx(surrogate(2, 1))


def test_the_estimators_are_their_formulas() -> None:
    seen = tokens()
    for b, t in rows():
        r, rho = math.exp(REF[b][t] - LOGPS[b][t]), math.exp(log_ratio(b, t))
        k3 = r - math.log(r) - 1
        expected = {"k1": -math.log(r), "k2": math.log(r) ** 2 / 2, "k3": k3, "unbiased": rho * k3}
        for name, value in expected.items():
            assert kl.estimate(name, seen)[b, t].item() == pytest.approx(value, abs=1e-12)


def test_the_gradient_of_unbiased_is_that_of_the_divergence_and_that_of_k3_is_not() -> None:
    """Over every token of a vocabulary of three, weighted by the old policy's chance of it."""
    logits = double([0.3, -0.4, 0.1], True)
    reference, old = double([-0.5, 0.2, 0.6]).log_softmax(0), double([0.1, 0.2, 0.3]).log_softmax(0)
    policy = logits.log_softmax(0)
    (wanted,) = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), logits)
    gradients = {}
    for name in ("k3", "unbiased"):
        policy = logits.log_softmax(0)
        seen = TokenLogps(
            policy[:, None], old[:, None], reference[:, None], None, old, old[:, None] < 0
        )
        estimate = kl.estimate(name, seen)[:, 0]
        (gradients[name],) = torch.autograd.grad((old.exp() * estimate).sum(), logits)
    torch.testing.assert_close(gradients["unbiased"], wanted)
    assert (gradients["k3"] - wanted).abs().max() > 0.05


def test_the_reductions_are_the_means_that_they_are_called() -> None:
    seen, values = tokens(), double([[1.0, 2.0, 6.0], [3.0, 5.0, math.nan], [0.0, 0.0, 9.0]])
    expected = {
        "sequence_mean": (3.0 + 4.0 + 3.0) / 3,
        "sequence_sum": (9.0 + 8.0 + 9.0) / 3,
        "token_mean": 26.0 / 8,
        "constant": 26.0 / (3 * 10),
        "global_tokens": 26.0 / 13,
    }
    assert set(expected) == set(REDUCTIONS)
    for name, value in expected.items():
        found, reported = reduce(
            name, values, seen.mask, steps=4, longest=10, window=torch.tensor(13.0)
        )
        steps = 1 if name == "global_tokens" else 4
        assert found.item() == pytest.approx(value / steps)
        assert reported.item() == pytest.approx(value)


@pytest.mark.parametrize("name", list(REGISTRY.policy_losses))
def test_every_policy_loss_keeps_what_plugins_promise(name: str) -> None:
    from trl_deepseek.plugin_kit.policy import loss_claims

    assert {text: claim() for text, claim in loss_claims(REGISTRY.policy_losses[name])} == {
        text: None for text, _ in loss_claims(REGISTRY.policy_losses[name])
    }


@pytest.mark.parametrize("name", list(REGISTRY.advantages))
def test_every_advantage_keeps_what_plugins_promise(name: str) -> None:
    from trl_deepseek.plugin_kit.policy import advantage_claims

    found = {text: claim() for text, claim in advantage_claims(REGISTRY.advantages[name])}
    assert set(found.values()) == {None}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("(-tokens.logps * tokens.advantage).mean()", "not one loss per token"),
        ("tokens.logps / 0", "is not finite"),
        ("-tokens.old * tokens.advantage", "has no gradient"),
        ("-tokens.logps * tokens.advantages[:, None]", "not one loss per token, (2, 4)"),
        ("-tokens.logps * tokens.advantage * tokens.logps.sum()", "not scored differ"),
        ("-tokens.logp * tokens.advantage", "no attribute 'logp'"),
    ],
)
def test_a_faulty_policy_loss_is_found(body: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from trl_deepseek import hookimpl\n"
        f"def mine(tokens):\n    '''Mine.'''\n    return {body}\n"
        "@hookimpl\ndef register_policy_losses(register):\n"
        "    register('mine', mine, reduction='token_mean')\n"
    )
    problems = [check.problem for check in conformance.check(str(file)) if check.problem]
    assert any(words in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("scores[..., 0].nan_to_num().cumsum(1)", "in another order they differ"),
        ("scores[..., 0] / scores[..., 0].nansum()", "is not finite"),
        ("scores.nan_to_num_()[..., 0]", "it changed its arguments"),
    ],
)
def test_a_faulty_advantage_is_found(body: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from trl_deepseek import hookimpl\n"
        f"def mine(scores, weights):\n    '''Mine.'''\n    return {body}\n"
        "@hookimpl\ndef register_advantages(register):\n    register('mine', mine)\n"
    )
    problems = [check.problem for check in conformance.check(str(file)) if check.problem]
    assert any(words in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "reduction is ''; it must be one of 'sequence_mean'"),
        ({"reduction": "mean"}, "reduction is 'mean'"),
        ({"reduction": "constant", "stock": 1}, "stock is 1; it must be True or False"),
        ({"reduction": "constant", "kl": "k3"}, "unknown option 'kl'"),
    ],
)
def test_how_a_policy_loss_may_not_be_registered(options: dict[str, Any], words: str) -> None:
    class Plugin:
        @hookimpl
        def register_policy_losses(self, register: Any) -> None:
            register("mine", lambda tokens: tokens.logps, **options)

    with pytest.raises(PluginError) as caught:
        load_registry([Plugin()])
    assert words in str(caught.value)


def test_a_loss_that_is_not_finite_names_the_rows_and_only_where_tokens_are_scored() -> None:
    def mine(seen: TokenLogps) -> Any:
        return torch.where(seen.mask, seen.logps, math.inf) + extra

    loss = BoundPolicyLoss(PolicyLoss("mine", mine, "token_mean"), {})
    extra = 0.0 * double(LOGPS)
    values, _ = loss(tokens())
    assert values.isinf().sum() == 1
    extra[2, 0] = math.nan
    with pytest.raises(NotFinite) as caught:
        loss(tokens())
    assert caught.value.rows == (2,)


def test_a_failing_loss_is_an_error_of_the_run_and_before_it_one_of_the_config() -> None:
    def mine(seen: TokenLogps, power: float = 1.0) -> Any:
        raise ZeroDivisionError("no")

    item = PolicyLoss("mine", mine, "token_mean")
    with pytest.raises(RunError, match="policy loss 'mine' failed: ZeroDivisionError: no"):
        BoundPolicyLoss(item, {})(tokens())
    with pytest.raises(ConfigError, match="loss 'mine' does not run with power=2: Zero"):
        bind_loss(item, {}, {"power": 2})


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda t: -t.advantage * t.old, "no gradient with respect to 'logps'"),
        (lambda t: t.mask.long(), "returned torch.int64, not numbers with a fraction"),
        (lambda t: (-t.logps, [1.0]), "returned list for metrics, not a dict of them"),
        (lambda t: (-t.logps, {"m": "much"}), "metric 'm' is 'much', not a number"),
        (
            lambda t: (-t.logps, {"m": t.logps[0]}),
            "metric 'm' has the shape (4,), not () or (2, 4)",
        ),
        (lambda t: -t.logps * t.advantages.mul_(2)[:, None], "it changes 'advantages' in place"),
    ],
)
def test_what_a_run_is_refused_for_before_a_model_is_loaded(returned: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bind_loss(PolicyLoss("mine", returned, "token_mean"), {}, None)
    assert words in str(caught.value)


def test_the_kl_term_is_added_unless_it_is_among_the_rewards() -> None:
    bound = bind_loss(REGISTRY.policy_losses["gpg"], {}, None)
    seen = invented_tokens()
    alone, _ = Objective(bound)(seen)
    both, metrics = Objective(bound, 0.5, "k2")(seen)
    assert metrics["kl"].requires_grad is False
    torch.testing.assert_close(both, alone + 0.5 * kl.estimate("k2", seen))
    elsewhere, metrics = Objective(bound, 0.5, "k1", penalises=False)(seen)
    torch.testing.assert_close(elsewhere, alone)
    assert "kl" in metrics


@pytest.mark.parametrize("name", TRL_LOSSES)
def test_trls_defaults_may_be_written_out(name: str) -> None:
    defaults = {each.name: each.default for each in fields(trl.GRPOConfig)}
    written: dict[str, Any] = {option: defaults[option] for option in LOSS_FIELDS}
    config = GRPOConfig("out", loss_type=name, report_to="none", use_cpu=True, **written)
    silent = GRPOConfig("out", loss_type=name, report_to="none", use_cpu=True)
    assert plan(config, REGISTRY) == plan(silent, REGISTRY)
