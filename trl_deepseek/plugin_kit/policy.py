"""What ``plugins check`` claims of policy losses and of advantages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

from trl_deepseek.policy_types import Advantage, PolicyLoss

Claim = tuple[str, Callable[[], str | None]]
NEAR = 1e-5


def loss_claims(loss: PolicyLoss) -> Iterator[Claim]:
    """Each claim, and a function that tells why it does not hold."""
    yield "gives one finite loss per token, with a gradient", lambda: _gradient(loss)
    yield "takes advantages per token", lambda: _per_token(loss)
    yield "takes no notice of tokens that are not scored", lambda: _mask(loss)
    yield "leaves alone what it is given", lambda: _leaves_tokens(loss)


def advantage_claims(advantage: Advantage) -> Iterator[Claim]:
    """Each claim, and a function that tells why it does not hold."""
    yield "gives one finite advantage per completion", lambda: _finite(advantage)
    yield "gives the same when asked again", lambda: _again(advantage)
    yield "treats the completions of a group alike", lambda: _order(advantage)
    yield "leaves alone what it is given", lambda: _leaves_scores(advantage)


def _bound_loss(loss: PolicyLoss) -> tuple[Any, Any]:
    from trl_deepseek.policy.bound import bind_loss, invented_tokens

    return bind_loss(loss, {}, None), invented_tokens()


def _gradient(loss: PolicyLoss) -> str | None:
    import torch

    bound, tokens = _bound_loss(loss)
    values, _ = bound(tokens)
    if not values.requires_grad:
        return "its result has no gradient with respect to what it is given"
    (gradient,) = torch.autograd.grad(
        values.masked_fill(~tokens.mask, 0.0).sum(), tokens.logps, allow_unused=True
    )
    if gradient is None:
        return "its result does not depend on 'logps'"
    return None if torch.isfinite(gradient).all() else f"its gradient is {gradient.tolist()}"


def _per_token(loss: PolicyLoss) -> str | None:
    bound, tokens = _bound_loss(loss)
    spread = tokens.advantages.unsqueeze(1).expand(tokens.logps.shape).clone()
    values, _ = _seeded(bound, tokens)
    others, _ = _seeded(bound, replace(tokens, advantages=spread))
    return _differs(values, others, tokens.mask, "with one advantage for each, equal ones")


def _mask(loss: PolicyLoss) -> str | None:
    import torch

    bound, tokens = _bound_loss(loss)
    moved = {
        name: torch.where(tokens.mask, value, value - 7.0)
        for name in ("logps", "old", "ref")
        if (value := getattr(tokens, name)) is not None
    }
    values, _ = _seeded(bound, tokens)
    others, _ = _seeded(bound, replace(tokens, **moved))
    return _differs(values, others, tokens.mask, "where only tokens that are not scored differ")


def _leaves_tokens(loss: PolicyLoss) -> str | None:
    import torch

    bound, tokens = _bound_loss(loss)
    names = [f.name for f in fields(tokens) if getattr(tokens, f.name) is not None]
    before = {name: getattr(tokens, name).detach().clone() for name in names}
    bound(tokens)
    changed = [name for name in names if not torch.equal(before[name], getattr(tokens, name))]
    return f"it changed {changed[0]!r}" if changed else None


def _seeded(bound: Any, tokens: Any) -> Any:
    """The loss's answer, with the same chance for all that compare."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return bound(tokens)


def _differs(values: Any, others: Any, mask: Any, where: str) -> str | None:
    apart = float((values - others).detach().masked_fill(~mask, 0.0).abs().max())
    return None if apart <= NEAR else f"{where}, its loss differs by {apart:.2g}"


def _bound_advantage(advantage: Advantage) -> tuple[Any, dict[str, Any]]:
    from trl_deepseek.policy.bound import bind_advantage, invented_scores

    return bind_advantage(advantage, None, group=4, drops=False), invented_scores(4)


def _finite(advantage: Advantage) -> str | None:
    bound, given = _bound_advantage(advantage)
    values, _ = bound(**given)
    if not values.is_floating_point():
        return f"its result is of {values.dtype}"
    bound(**{**given, "scores": given["scores"] * 0})  # everybody got nothing
    return None


def _again(advantage: Advantage) -> str | None:
    bound, given = _bound_advantage(advantage)
    (first, _), (second, _) = bound(**given), bound(**given)
    apart = float((first - second).abs().max())
    return None if apart == 0 else f"it differs by {apart:.2g}"


def _order(advantage: Advantage) -> str | None:
    bound, given = _bound_advantage(advantage)
    turned = {**given, "scores": given["scores"].flip(1), "lengths": given["lengths"].flip(1)}
    (first, _), (second, _) = bound(**given), bound(**turned)
    apart = float((first - second.flip(1)).abs().max())
    return None if apart <= NEAR else f"in another order they differ by {apart:.2g}"


def _leaves_scores(advantage: Advantage) -> str | None:
    from trl_deepseek.policy.bound import invented_scores

    given, untouched = invented_scores(4), invented_scores(4)
    names = [name for name in ("lengths", "prompt_ids", "step") if name in _asked(advantage)]
    advantage(given["scores"], given["weights"], **{name: given[name] for name in names})
    same = all(
        bool(((given[n] == untouched[n]) | (given[n] != given[n])).all())
        for n in ("scores", "weights", "lengths", "prompt_ids")
    )
    return None if same else "it changed its arguments"


def _asked(advantage: Advantage) -> frozenset[str]:
    from trl_deepseek.policy.bound import BoundAdvantage

    return BoundAdvantage(advantage, advantage.options).asks
