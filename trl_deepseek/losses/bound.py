"""A registered loss with the options of one run: the one way in which any loss is called.

A loss states its options as keyword parameters and refuses bad values with a ``ValueError``. It is
called once on two invented sequences, so that a wrong value, a wrong shape or a plain bug ends the
run in a second instead of after the model has been downloaded.

An option called ``reference_free`` is known to the trainers: where it is true, no reference model
is loaded and none is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from trl_deepseek.errors import ConfigError, NotFinite, RunError, boundary
from trl_deepseek.losses.checking import DataShape, check_options, has_option
from trl_deepseek.types import Loss, PairLogps, PairRewards, UnpairedLogps

if TYPE_CHECKING:
    from torch import Tensor

Batch = PairLogps | UnpairedLogps | PairRewards


@dataclass(frozen=True)
class BoundLoss:
    """A registered loss with the options of one run.

    Attributes:
        loss: As registered.
        options: Every option it has, with the value of this run.
    """

    loss: Loss
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name it was registered under."""
        return self.loss.name

    @property
    def needs_reference(self) -> bool:
        """Whether the reference model must be run."""
        on_scores = self.loss.data == "rewards"
        free = bool(self.options.get("reference_free", False))
        return self.loss.reference and not on_scores and not free

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss per sequence or pair, (B,), and metrics.

        It is shown only what it was registered for, so that losses may be mixed.

        Raises:
            RunError: It returned something else.
            NotFinite: It is NaN or infinite.
        """
        import torch

        returned = self.loss(self._shown(batch), **self.options)
        values, metrics = returned if isinstance(returned, tuple) else (returned, {})
        size = getattr(batch, fields(batch)[0].name).shape
        if not isinstance(values, torch.Tensor) or values.shape != size:
            is_tensor = isinstance(values, torch.Tensor)
            found = tuple(values.shape) if is_tensor else type(values).__name__
            raise RunError(
                f"loss {self.name!r} returned {found}, not one loss per sequence, {tuple(size)}\n"
                "  leave the mean to the trainer"
            )
        if not bool(torch.isfinite(values).all()):
            options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
            raise NotFinite(
                f"loss {self.name!r} is not finite: {values.detach().tolist()}\n"
                f"  its options: {options or '(none)'}",
                (~torch.isfinite(values)).nonzero().flatten().tolist(),
            )
        return values, metrics

    def _shown(self, batch: Batch) -> Batch:
        asked = {
            "ref_chosen": self.needs_reference,
            "ref_rejected": self.needs_reference,
            "ref_completion": self.needs_reference,
            "chosen_nll": self.loss.prompt_nll,
            "kl": self.loss.kl,
        }
        hidden: dict[str, Any] = {
            field.name: None for field in fields(batch) if not asked.get(field.name, True)
        }
        return replace(batch, **hidden)


def bind(
    losses: Sequence[Loss],
    shared: Mapping[str, Any],
    loss_kwargs: Mapping[str, Any] | str | None,
) -> list[BoundLoss]:
    """Give each loss the options that it has, and try each out.

    Args:
        losses: The losses of one run.
        shared: Values of the config's own fields of an option's name; None means not given. Each
            reaches the losses that have such an option.
        loss_kwargs: Option to value, for every loss that has the option; or the name of a loss to
            a mapping of its own options, which win over ``shared``.

    Raises:
        ConfigError: An option that no loss has or that has two values, or a value that a loss
            refuses.
    """
    if isinstance(loss_kwargs, str):  # transformers leaves alone what is no JSON object
        raise ConfigError(
            f"loss_kwargs is {loss_kwargs!r}; it must be JSON that maps options to values, "
            "such as '{\"beta\": 0.1}'"
        )
    given = dict(loss_kwargs or {})
    own = {
        loss.name: dict(given.pop(loss.name))
        for loss in losses
        if isinstance(given.get(loss.name), Mapping)
    }
    for option in given:
        if not any(has_option(loss, option) for loss in losses):
            raise _nobody_has(option, losses)
        if shared.get(option) not in (None, given[option]):
            raise ConfigError(
                f"loss_kwargs: {option} is {given[option]!r} here and {shared[option]!r} as an "
                "option of its own\n  leave one of them out"
            )
    common = {option: value for option, value in shared.items() if value is not None} | given
    bound = []
    for loss in losses:
        options = {name: value for name, value in common.items() if has_option(loss, name)}
        options |= own.get(loss.name, {})
        check_options(loss, options)
        bound.append(BoundLoss(loss, {**loss.options, **options}))
        _try_out(bound[-1], options)
    return bound


def _nobody_has(option: str, losses: Sequence[Loss]) -> ConfigError:
    if len(losses) == 1:
        try:
            check_options(losses[0], {option: None})
        except ConfigError as error:
            return error
    names = " nor ".join(repr(loss.name) for loss in losses)
    options = "\n".join(f"  {loss.name}: {', '.join(loss.options) or '(none)'}" for loss in losses)
    return ConfigError(f"loss_kwargs: neither {names} has an option {option!r}\n{options}")


def _try_out(bound: BoundLoss, given: Mapping[str, Any]) -> None:
    import torch

    options = ", ".join(f"{name}={value!r}" for name, value in given.items())
    with boundary(
        ConfigError, f"loss {bound.name!r} does not run with {options or 'its defaults'}"
    ):
        batch = invented(bound.loss.data)
        values, metrics = bound(batch)
        if not values.requires_grad or (given and not _has_gradient(values, batch)):
            raise RunError("it has no gradient, so that nothing would be learned")
        if not isinstance(metrics, Mapping):
            raise RunError(f"its metrics are {type(metrics).__name__}, not a mapping")
        for name, value in metrics.items():
            if not isinstance(value, (torch.Tensor, int, float)):
                raise RunError(f"its metric {name!r} is {value!r}, not a number or a tensor")


def _has_gradient(values: Tensor, batch: Batch) -> bool:
    """Whether any loss of an invented batch changes with what is learned of it."""
    import torch

    seen = [getattr(batch, field.name) for field in fields(batch)]
    learned = [each for each in seen if each is not None and each.requires_grad and each.is_leaf]
    found = torch.autograd.grad(values.sum(), learned, allow_unused=True)
    return any(bool(each.any()) for each in found if each is not None)


def invented(data: DataShape) -> Batch:
    """Two sequences or pairs of a policy that has moved a little from its reference."""
    import torch

    first = torch.tensor([-4.0, -7.0], requires_grad=True)
    second = torch.tensor([-5.0, -3.0], requires_grad=True)
    length = torch.tensor([3, 5])
    if data == "rewards":
        return PairRewards(chosen=first, rejected=second)
    if data == "unpaired":
        label, moved = torch.tensor([True, False]), torch.tensor([-4.5, -6.0])
        return UnpairedLogps(first, moved, label, length, kl=torch.tensor(0.1))
    return PairLogps(
        chosen=first,
        rejected=second,
        ref_chosen=torch.tensor([-4.5, -6.0]),
        ref_rejected=torch.tensor([-4.0, -3.5]),
        chosen_length=length,
        rejected_length=length.flip(0),
        chosen_nll=-first / length,
    )
