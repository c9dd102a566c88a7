"""A registered policy loss or advantage with the options of one run, and what it may return.

Both state their options as keyword parameters and refuse bad values with a ``ValueError``. Each is
called once on invented tensors, so that a wrong value, shape or plain bug ends the run before a
model is loaded.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trl_deepseek.errors import ConfigError, NotFinite, RunError, boundary, describe
from trl_deepseek.losses.checking import check_options, has_option
from trl_deepseek.policy import scores as arithmetic
from trl_deepseek.policy_types import CONTEXT, Advantage, PolicyLoss, TokenLogps

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class BoundPolicyLoss:
    """A registered policy loss with the options of one run.

    Attributes:
        loss: As registered.
        options: Every option it has, with the value of this run.
    """

    loss: PolicyLoss
    options: Mapping[str, Any]

    def __call__(self, tokens: TokenLogps) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss per token, (B, T), and metrics.

        Raises:
            RunError: It raised, or returned something else.
            NotFinite: It is NaN or infinite at a scored token.
        """
        what = f"policy loss {self.loss.name!r}"
        with boundary(RunError, f"{what} failed"):
            returned = self.loss(tokens, **self.options)
        values, metrics = _parted(what, returned)
        shape = tokens.logps.shape
        if values.shape not in (shape, (len(tokens.logps), 1)):
            raise RunError(
                f"{what} returned {tuple(values.shape)}, not one loss per token, {tuple(shape)}\n"
                "  leave the mean to the trainer: it is named by reduction where it is registered"
            )
        _check_metrics(what, metrics, (tuple(shape), (shape[0], 1), (shape[0],)))
        values = values.expand(shape)
        wrong = (~values.isfinite() & tokens.mask).any(dim=1)
        if bool(wrong.any()):
            options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
            rows = wrong.nonzero().flatten().tolist()
            raise NotFinite(f"{what} is not finite\n  its options: {options or '(none)'}", rows)
        return values, metrics


@dataclass(frozen=True)
class BoundAdvantage:
    """A registered advantage with the options of one run.

    Attributes:
        advantage: As registered.
        options: Every option it has, with the value of this run.
        drops: Whether groups without spread are hidden from it.
    """

    advantage: Advantage
    options: Mapping[str, Any]
    drops: bool = False

    @property
    def asks(self) -> frozenset[str]:
        """What it is to be handed besides scores and weights."""
        return frozenset(CONTEXT).intersection(
            inspect.signature(self.advantage.function).parameters
        )

    def __call__(
        self, scores: Tensor, weights: Tensor, **context: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Advantages, (groups, G), and metrics; 0 where all rewards abstained.

        With ``drops`` groups whose weighted sums are all alike are left out: their advantages are
        0, and those of the others are multiplied with groups / groups left, so that a mean over the
        batch is the mean over what is left (arXiv:2504.02546, equation 7, as arXiv:2503.14476,
        section 3.2, has it by sampling again).

        Args:
            scores: (groups, G, rewards), NaN where a reward abstained.
            weights: (rewards,).
            **context: At least what it :attr:`asks` for.

        Raises:
            RunError: It raised, or returned something else.
            NotFinite: An advantage is NaN or infinite.
        """
        if not self.drops:
            return self._called(scores, weights, context)
        total = arithmetic.weighted_sum(scores, weights)
        kept = (arithmetic.std(total, 1) > 1e-8).squeeze(1)
        groups, left = len(kept), int(kept.sum())
        metrics: dict[str, Any] = {"advantage/dropped_groups": 1 - left / groups}
        advantages = total.new_zeros(total.shape)
        if left:
            part = {
                name: value if name == "step" else value[kept] for name, value in context.items()
            }
            found, reported = self._called(scores[kept], weights, part)
            advantages[kept] = found * (groups / left)
            metrics |= reported
        return advantages, metrics

    def _called(
        self, scores: Tensor, weights: Tensor, context: Mapping[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        what = f"advantage {self.advantage.name!r}"
        handed = {name: context[name] for name in self.asks}
        with boundary(RunError, f"{what} failed"):
            returned = self.advantage(scores.clone(), weights.clone(), **handed, **self.options)
        values, metrics = _parted(what, returned)
        if values.shape != scores.shape[:2]:
            raise RunError(
                f"{what} returned {tuple(values.shape)}, not one advantage per completion, "
                f"{tuple(scores.shape[:2])}"
            )
        _check_metrics(what, metrics, ())
        values = values.masked_fill(scores.isnan().all(dim=2), 0.0)
        if not bool(values.isfinite().all()):
            raise NotFinite(f"{what} is not finite: {values.tolist()}\n  of {scores.tolist()}")
        return values, metrics


def _parted(what: str, returned: Any) -> tuple[Any, dict[str, Any]]:
    import torch

    values, metrics = returned if isinstance(returned, tuple) else (returned, {})
    if not isinstance(values, torch.Tensor):
        raise RunError(f"{what} returned {type(values).__name__}, not a tensor")
    if not values.is_floating_point():
        raise RunError(f"{what} returned {values.dtype}, not numbers with a fraction")
    return values, metrics


def _check_metrics(what: str, metrics: Any, shapes: tuple[tuple[int, ...], ...]) -> None:
    """Refuse metrics that are no mapping of names to numbers, or to tensors of known shapes."""
    import torch

    if not isinstance(metrics, Mapping):
        raise RunError(f"{what} returned {type(metrics).__name__} for metrics, not a dict of them")
    for name, value in metrics.items():
        try:
            shape = tuple(torch.as_tensor(value).shape)
        except (TypeError, ValueError, RuntimeError):
            raise RunError(f"{what}: metric {name!r} is {value!r}, not a number") from None
        if shape not in ((), *shapes):
            among = " or ".join(map(str, ((), *shapes)))
            raise RunError(f"{what}: metric {name!r} has the shape {shape}, not {among}")


def bind_loss(
    loss: PolicyLoss, shared: Mapping[str, Any], kwargs: Mapping[str, Any] | None
) -> BoundPolicyLoss:
    """Give a policy loss its options, and try it out.

    Args:
        loss: As registered.
        shared: Fields of the config that were given and may be its options.
        kwargs: ``loss_kwargs``.

    Raises:
        ConfigError: It has no such option, one has two values, or it refuses a value.
    """
    given = dict(kwargs or {})
    twice = next((name for name in given if name in shared and shared[name] != given[name]), None)
    if twice is not None:
        raise ConfigError(
            f"loss_kwargs: {twice} is {given[twice]!r} here and {shared[twice]!r} as an option of "
            "its own\n  leave one of them out"
        )
    for name in shared:
        if not has_option(loss, name):
            raise ConfigError(
                f"{name} is no option of loss {loss.name!r}\n"
                f"  leave it out; its options: {', '.join(loss.options) or '(none)'}"
            )
    given = {**shared, **given}
    check_options(loss, given)
    bound = BoundPolicyLoss(loss, {**loss.options, **given})
    _try_out(f"loss {loss.name!r}", given, lambda: _changes_nothing(bound))
    return bound


def _changes_nothing(bound: BoundPolicyLoss) -> None:
    """Call a loss, of which a run needs a gradient, and its batch again for the next update."""
    import torch

    tokens, untouched = invented_tokens(), invented_tokens()
    values, _ = bound(tokens)
    if not values.requires_grad:
        raise RunError("its result has no gradient with respect to 'logps'")
    for name, value in vars(tokens).items():
        if value is not None and not torch.equal(value, getattr(untouched, name)):
            raise RunError(f"it changes {name!r} in place, which others read too")


def bind_advantage(
    advantage: Advantage, kwargs: Mapping[str, Any] | None, *, group: int, drops: bool
) -> BoundAdvantage:
    """Give an advantage its options, and try it out on groups of the run's size.

    Raises:
        ConfigError: It has no such option, or refuses a value.
    """
    given = dict(kwargs or {})
    check_options(advantage, given, kind="advantage", field="advantage_kwargs")
    bound = BoundAdvantage(advantage, {**advantage.options, **given}, drops)
    what = f"advantage {advantage.name!r}"
    _try_out(what, given, lambda: bound(**invented_scores(group)))
    return bound


def _try_out(what: str, given: Mapping[str, Any], call: Callable[[], Any]) -> None:
    options = ", ".join(f"{name}={value!r}" for name, value in given.items())
    try:
        call()
    except RunError as error:
        cause = describe(error.__cause__ or error)
        message = f"{what} does not run with {options or 'its defaults'}: {cause}"
        raise ConfigError(message) from error


def invented_tokens() -> TokenLogps:
    """Two completions, of 4 tokens and of 3, of a policy that has moved a little."""
    import torch

    logps = torch.tensor([[-1.0, -2.0, -0.5, -3.0], [-0.7, -1.5, -2.5, -1.0]], requires_grad=True)
    moved = torch.tensor([[0.1, -0.2, 0.3, 0.05], [-0.1, 0.25, -0.3, 0.0]])
    return TokenLogps(
        logps=logps,
        old=logps.detach() - moved,
        ref=logps.detach() + moved,
        sampled=None,
        advantages=torch.tensor([1.0, -1.0]),
        mask=torch.tensor([[True, True, True, True], [True, True, True, False]]),
    )


def invented_scores(group: int = 4) -> dict[str, Any]:
    """Three groups under two rewards: mixed, all alike, and one in which rewards abstained.

    Returns:
        What an advantage may be handed, by name.
    """
    import torch

    scores = torch.zeros(3, group, 2)
    scores[0, ::2, 0] = 1.0
    scores[0, :, 1] = torch.linspace(0, 1, group)
    scores[1] = 1.0
    scores[2, 0, 0] = 1.0
    scores[2, -1] = float("nan")
    scores[2, 0, 1] = float("nan")
    return {
        "scores": scores,
        "weights": torch.tensor([1.0, 0.5]),
        "lengths": torch.arange(1, 3 * group + 1).view(3, group),
        "prompt_ids": torch.tensor([11, 12, 13]),
        "step": 0,
    }
