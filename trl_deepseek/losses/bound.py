"""The losses of one run: each with its options, tried out once before a model is loaded.

A loss states its options as keyword parameters and refuses bad values with a ``ValueError``. It is
called once on two invented sequences, so that a wrong value, a wrong shape or a plain bug ends the
run in a second instead of after the model has been downloaded.

An option called ``reference_free`` is known to the trainers: where it is true, no reference model
is loaded and none is run.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trl_deepseek.errors import ConfigError, RunError
from trl_deepseek.losses import check_options, per_sequence, rehearse
from trl_deepseek.types import Loss, PairLogps, UnpairedLogps

if TYPE_CHECKING:
    from torch import Tensor

# Fields of a config that mean a loss's option of the same name; None leaves the loss's default.
SHARED_OPTIONS = ("beta", "label_smoothing", "desirable_weight", "undesirable_weight")


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
        return self.loss.reference and not self.options.get("reference_free", False)

    def __call__(self, logps: PairLogps | UnpairedLogps) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss per sequence, (B,), and metrics.

        Raises:
            RunError: The loss has another shape, or is NaN or infinite: a logger would show the
                NaN as 0.0 while the weights are being lost.
        """
        import torch

        loss, metrics = per_sequence(self.loss, logps, self.options)
        if not bool(torch.isfinite(loss).all()):
            options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
            raise RunError(
                f"loss {self.name!r} is not finite: {loss.detach().tolist()}\n"
                f"  its options: {options or '(none)'}\n"
                "  lower the learning rate or beta, or look for NaN in the model's weights"
            )
        return loss, metrics


def bind(
    losses: Sequence[Loss], shared: Mapping[str, Any], loss_kwargs: Mapping[str, Any] | None
) -> list[BoundLoss]:
    """Give each loss the options that it has, and try each out.

    Args:
        losses: The losses of one run.
        shared: Values of the config's own fields (``SHARED_OPTIONS``); None means not given. Each
            reaches the losses that have such an option.
        loss_kwargs: Option to value, for every loss that has the option; or the name of a loss to
            a mapping of its own options. They win over ``shared``.

    Raises:
        ConfigError: An option that no loss has, or a value that a loss refuses.
    """
    given = dict(loss_kwargs or {})
    own = {
        loss.name: dict(given.pop(loss.name))
        for loss in losses
        if isinstance(given.get(loss.name), Mapping)
    }
    for option in given:
        if not any(_has(loss, option) for loss in losses):
            raise _nobody_has(option, losses)
    common = {option: value for option, value in shared.items() if value is not None}
    bound = []
    for loss in losses:
        options = {name: v for name, v in {**common, **given}.items() if _has(loss, name)}
        options |= own.get(loss.name, {})
        check_options(loss, options)
        bound.append(BoundLoss(loss, {**loss.options, **options}))
        rehearse(loss, _invented(bound[-1]), options)
    return bound


def _has(loss: Loss, option: str) -> bool:
    parameters = list(inspect.signature(loss.function).parameters.values())[1:]
    return any(p.name == option or p.kind is p.VAR_KEYWORD for p in parameters)


def _nobody_has(option: str, losses: Sequence[Loss]) -> ConfigError:
    if len(losses) == 1:
        try:
            check_options(losses[0], {option: None})
        except ConfigError as error:
            return error
    names = " nor ".join(repr(loss.name) for loss in losses)
    options = "\n".join(f"  {loss.name}: {', '.join(loss.options) or '(none)'}" for loss in losses)
    return ConfigError(f"loss_kwargs: neither {names} has an option {option!r}\n{options}")


def _invented(bound: BoundLoss) -> PairLogps | UnpairedLogps:
    """What the loss would see of a policy that has not moved from its reference yet."""
    import torch

    first = torch.tensor([-4.0, -7.0], requires_grad=True)
    second = torch.tensor([-5.0, -3.0], requires_grad=True)
    reference = bound.needs_reference
    length = torch.tensor([3, 5])
    if bound.loss.data == "unpaired":
        return UnpairedLogps(
            completion=first,
            ref_completion=first.detach() if reference else None,
            label=torch.tensor([True, False]),
            length=length,
            kl=torch.tensor(0.0) if bound.loss.kl else None,
        )
    return PairLogps(
        chosen=first,
        rejected=second,
        ref_chosen=first.detach() if reference else None,
        ref_rejected=second.detach() if reference else None,
        chosen_length=length,
        rejected_length=length.flip(0),
        chosen_nll=-first / length if bound.loss.prompt_nll else None,
    )
