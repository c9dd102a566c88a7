"""Which losses a run adds up, checked from its config alone: ``plan(config, registry)``.

Two settings of TRL's, ``f_divergence_type`` and ``use_weighting``, are written into its formulas;
with one of them, all names must be TRL's and its own method computes them. So it does the losses of
demonstrations. GRPO has a plan of its own, :mod:`trl_deepseek.policy.plan`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import trl

from trl_deepseek.errors import ConfigError, UnknownName, did_you_mean
from trl_deepseek.losses.bound import Batch, BoundLoss, bind
from trl_deepseek.losses.checking import SHAPES, DataShape, find
from trl_deepseek.registry import Registry
from trl_deepseek.types import Loss

if TYPE_CHECKING:
    from torch import Tensor

# Fields of a config that mean a loss's option of the same name; None leaves the loss's default.
SHARED_OPTIONS = (
    "beta",
    "label_smoothing",
    "discopop_tau",
    "desirable_weight",
    "undesirable_weight",
)

# The names in TRL's if-chains, which have no list of their own; a test holds them to its source.
TRL_PAIRED = (
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
)
TRL_SMOOTHED = ("robust", "exo_pair", "aot", "aot_unpaired")
TRL_DIVERGED = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft")
TRL_UNWEIGHTED = ("aot", "aot_unpaired")
TRL_SFT = ("nll", "dft")


@dataclass(frozen=True)
class LossPlan:
    """The losses of one run; the loss trained on is their weighted sum.

    Attributes:
        names: All names.
        losses: The registered ones, in the order of ``names``; none where TRL's own method does
            everything, passes included.
        weights: One per loss.
        defaults: Fields of the config that it leaves to the losses, with the values that TRL's
            code is to read there; see :meth:`settle`.
    """

    names: Sequence[str]
    losses: Sequence[BoundLoss] = ()
    weights: Sequence[float] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs_reference(self) -> bool:
        """Whether any of the losses on preferences needs a reference model."""
        return not self.losses or any(bound.needs_reference for bound in self.losses)

    @property
    def prompt_nll(self) -> bool:
        """Whether any of the losses needs the likelihood of the prompt."""
        return any(bound.loss.prompt_nll for bound in self.losses)

    def settle(self, args: Any) -> None:
        """Write ``defaults`` into a config that is the trainer's own."""
        for name, value in self.defaults.items():
            setattr(args, name, value)

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the mean losses, scalar, and what the losses report.

        Raises:
            RunError: A loss is NaN or infinite, or is not one per sequence.
        """
        total: Any = 0.0
        metrics: dict[str, Tensor] = {}
        for bound, weight in zip(self.losses, self.weights, strict=True):
            values, reported = bound(batch)
            total = total + weight * values.mean()
            metrics |= reported
            if len(self.losses) > 1:
                metrics[f"loss/{bound.name}"] = values
        return total, metrics


def plan(args: Any, registry: Registry) -> LossPlan:
    """The losses that a config of any kind of training names, with their options tried out.

    Args:
        args: A config of TRL's or ours; it is not changed.
        registry: Where losses are looked up.

    Raises:
        UnknownName: There is no such loss.
        ConfigError: A loss is defined on other data, or an option or setting does not fit.
    """
    if getattr(args, "loss_type", "(TRL's)") in ([], "", None):
        raise ConfigError("loss_type is empty: name a loss (see `trl-deepseek plugins`)")
    if not isinstance(args, trl.DPOConfig) and isinstance(getattr(args, "loss_type", ""), list):
        raise ConfigError(f"loss_type is {args.loss_type}: here it is one name, and no list")
    if isinstance(args, trl.DPOConfig):
        return _plan_pairs(args, registry)
    if isinstance(args, trl.KTOConfig):
        return _plan_singles(args, registry)
    if isinstance(args, trl.RewardConfig):
        return _plan_rewards(args, registry)
    if isinstance(args, trl.SFTConfig) and args.loss_type not in TRL_SFT:
        hint = did_you_mean(args.loss_type, TRL_SFT)
        message = f"loss_type: {args.loss_type!r} is none of TRL's: {', '.join(TRL_SFT)}{hint}"
        raise UnknownName("losses", args.loss_type, message)
    return LossPlan([args.loss_type])


def is_unpaired(names: Sequence[str], registry: Registry) -> bool:
    """Whether the named losses on preferences are defined on labelled singles.

    Raises:
        UnknownName: No plugin knows a name.
        ConfigError: Several losses of which one is on singles, or a loss of a reward model.
    """
    losses = [find(name, registry, "pairs", "unpaired") for name in names]
    unpaired = [loss.name for loss in losses if loss.data == "unpaired"]
    if unpaired and len(names) > 1:
        raise ConfigError(
            f"loss {unpaired[0]!r} is defined on labelled singles and cannot be mixed with others: "
            f"{', '.join(names)}"
        )
    return bool(unpaired)


def _bind(losses: Sequence[Loss], args: Any) -> list[BoundLoss]:
    shared = {option: getattr(args, option, None) for option in SHARED_OPTIONS}
    return bind(losses, shared, getattr(args, "loss_kwargs", None))


def _plan_pairs(args: Any, registry: Registry) -> LossPlan:
    names = [args.loss_type] if isinstance(args.loss_type, str) else list(args.loss_type)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"loss_type: {twice!r} is there twice\n"
            "  name it once; loss_weights says how much it counts"
        )
    weights = _weights(args.loss_weights, names)
    settings = _trl_settings(args)
    if settings:
        for name in names:
            if name not in TRL_PAIRED:
                find(name, registry, "pairs")
                raise ConfigError(
                    f"{settings[0]} is written into TRL's own losses and does not apply to "
                    f"{name!r}\n  leave it out, or use one of {', '.join(TRL_PAIRED)}"
                )
        _check_trl(args, names)
        return LossPlan(names, defaults=_left_open(args, {}))
    losses = [find(name, registry, "pairs") for name in names]
    if args.label_smoothing and not any("label_smoothing" in loss.options for loss in losses):
        raise _no_smoothing(names)
    without = [loss.name for loss in losses if not loss.reference]
    if args.ld_alpha is not None and without:
        raise ConfigError(
            f"ld_alpha discounts log-ratios to a reference, which loss {without[0]!r} does not use"
            "\n  leave it out"
        )
    bound = _bind(losses, args)
    found = LossPlan(names, bound, weights, _left_open(args, *(item.options for item in bound)))
    _check_reference(args, found.needs_reference)
    return found


def _plan_singles(args: Any, registry: Registry) -> LossPlan:
    name = args.loss_type
    loss = find(name, registry, "unpaired")
    (bound,) = _bind([loss], args)
    if loss.kl and args.per_device_train_batch_size < 2:
        raise ConfigError(
            f"loss {name!r} estimates the KL divergence from completions exchanged within a batch, "
            f"and per_device_train_batch_size is {args.per_device_train_batch_size}\n"
            "  make it 2 or more; gradient_accumulation_steps can take its place in the total"
        )
    if loss.kl and args.train_sampling_strategy != "sequential":
        raise ConfigError(
            f"loss {name!r} exchanges completions within batches of a fixed order, and "
            f"train_sampling_strategy is {args.train_sampling_strategy!r}\n"
            "  leave it at 'sequential'; shuffle the dataset itself beforehand"
        )
    _check_reference(args, bound.needs_reference)
    return LossPlan([name], [bound], [1.0], _left_open(args, bound.options))


def _plan_rewards(args: Any, registry: Registry) -> LossPlan:
    loss = find(getattr(args, "loss_type", "bradley_terry"), registry, "rewards")
    (bound,) = _bind([loss], args)
    centre = args.center_rewards_coefficient
    if centre is not None and not 0 <= centre < math.inf:
        raise ConfigError(
            f"center_rewards_coefficient is {centre}; it must not be negative (0.01 is usual)"
        )
    return LossPlan([loss.name], [bound], [1.0])


def _weights(given: Sequence[float] | None, names: Sequence[str]) -> Sequence[float]:
    weights = [1.0] * len(names) if given is None else list(given)
    if len(weights) != len(names) or not all(map(math.isfinite, weights)):
        raise ConfigError(
            f"loss_weights is {weights}: it must hold one finite number for each of "
            f"{', '.join(names)}"
        )
    if not any(weights):
        raise ConfigError(f"loss_weights is {weights}: nothing would be learned; leave it out")
    return weights


def _left_open(args: Any, *options: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that are None, each with the first loss's value for it, or else TRL's default."""
    config = trl.KTOConfig if isinstance(args, trl.KTOConfig) else trl.DPOConfig
    trls = {each.name: each.default for each in fields(config)}
    return {
        name: next((each[name] for each in options if name in each), trls[name])
        for name in SHARED_OPTIONS
        if name in trls and getattr(args, name) is None
    }


def _trl_settings(args: Any) -> list[str]:
    """The settings in force that only TRL's own formulas know."""
    found = []
    if args.f_divergence_type != "reverse_kl":
        found.append(f"f_divergence_type={args.f_divergence_type!r}")
    if args.use_weighting:
        found.append("use_weighting")
    return found


def _check_trl(args: Any, names: Sequence[str]) -> None:
    """What TRL checks late or not at all for its own losses."""
    smoothing = args.label_smoothing
    diverges = args.f_divergence_type != "reverse_kl"
    for name in names:
        if (diverges and name not in TRL_DIVERGED) or (
            args.use_weighting and name in TRL_UNWEIGHTED
        ):
            setting = "f_divergence_type" if diverges else "use_weighting"
            raise ConfigError(f"{setting} does not apply to {name!r} in TRL\n  leave it out")
    if getattr(args, "loss_kwargs", None):
        raise ConfigError(
            f"loss_kwargs: with {' and '.join(_trl_settings(args))}, {', '.join(names)} is TRL's "
            "own; its options are fields of the config"
        )
    if args.beta is not None and not 0 < args.beta < math.inf:
        raise ConfigError(f"loss {names[0]!r}: beta = {args.beta!r}: it must be above 0")
    if smoothing is not None and not 0 <= smoothing < 0.5:
        raise ConfigError(
            f"label_smoothing = {smoothing!r}: it must be at least 0 and below 0.5, where the "
            "labels would carry no information"
        )
    if "exo_pair" in names and not smoothing:
        raise ConfigError(
            "loss 'exo_pair' needs label_smoothing above 0; its paper uses 0.001, as 'exo' does"
        )
    if smoothing and not any(name in TRL_SMOOTHED for name in names):
        raise _no_smoothing(names)


def _no_smoothing(names: Sequence[str]) -> ConfigError:
    return ConfigError(
        f"label_smoothing has no meaning for loss {', '.join(map(repr, names))}\n"
        "  leave it out, or use a loss that has the option (`trl-deepseek plugins show dpo`)"
    )


def _check_reference(args: Any, needs_reference: bool) -> None:
    for option in ("sync_ref_model", "precompute_ref_log_probs"):
        if getattr(args, option) and not needs_reference:
            raise ConfigError(
                f"{option}: no loss of this run uses a reference model\n  leave {option} out"
            )


__all__ = ["SHAPES", "SHARED_OPTIONS", "DataShape", "LossPlan", "is_unpaired", "plan"]
