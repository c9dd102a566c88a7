"""Which losses a run adds up: those of plugins, bound to their options, and TRL's own.

A registered name wins over TRL's of the same name. Two settings of TRL's, ``f_divergence_type`` and
``use_weighting``, are written into its formulas; with one of them, all names must be TRL's and are
left to it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, fields
from typing import Any

import trl

from trl_deepseek import losses
from trl_deepseek.errors import ConfigError, UnknownName, did_you_mean
from trl_deepseek.losses.bound import SHARED_OPTIONS, BoundLoss, bind
from trl_deepseek.registry import Registry

logger = logging.getLogger(__name__)

# The names in TRL's if-chain, which has no list of its own; a test holds them to TRL's message.
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
TRL_UNPAIRED = ("kto", "apo_zero_unpaired")
TRL_REFERENCE_FREE = ("sft",)
TRL_SMOOTHED = ("robust", "exo_pair", "aot", "aot_unpaired")


@dataclass(frozen=True)
class LossPlan:
    """The losses of one run; the loss trained on is their weighted sum.

    Attributes:
        registered: Losses of plugins with their weights.
        trl: Names that TRL computes, with their weights.
        trl_alone: Whether TRL's own method does everything, passes included.
    """

    registered: list[tuple[BoundLoss, float]] = field(default_factory=list)
    trl: list[tuple[str, float]] = field(default_factory=list)
    trl_alone: bool = False

    @property
    def names(self) -> list[str]:
        """All names."""
        return [bound.name for bound, _ in self.registered] + [name for name, _ in self.trl]

    @property
    def needs_reference(self) -> bool:
        """Whether any of the losses needs a reference model."""
        return (
            self.trl_alone
            or any(bound.needs_reference for bound, _ in self.registered)
            or any(name not in TRL_REFERENCE_FREE for name, _ in self.trl)
        )

    @property
    def prompt_nll(self) -> bool:
        """Whether any of the losses needs the likelihood of the prompt."""
        return any(bound.loss.prompt_nll for bound, _ in self.registered)


def plan_pairs(args: Any, registry: Registry) -> LossPlan:
    """The losses on pairs that a config names; fills in what the config leaves to the losses.

    Raises:
        UnknownName: Neither a plugin nor TRL knows a name.
        ConfigError: A loss is not one on pairs, or an option does not fit.
    """
    names = [args.loss_type] if isinstance(args.loss_type, str) else list(args.loss_type)
    weights = args.loss_weights or [1.0] * len(names)
    settings = _trl_settings(args)
    registered, left = [], []
    for name, weight in zip(names, weights, strict=True):
        if settings and name in TRL_PAIRED:
            left.append((name, weight))
        elif settings:
            raise ConfigError(
                f"{settings[0]} is written into TRL's own losses and does not apply to {name!r}\n"
                f"  leave it out, or use one of {', '.join(TRL_PAIRED)}"
            )
        elif name in registry.losses:
            registered.append((losses.find(name, registry, "pairs"), weight))
        elif name in TRL_PAIRED:
            left.append((name, weight))
        else:
            raise unknown(name, registry, ("pairs",), TRL_PAIRED)
    _check_trl(args, [name for name, _ in left])
    shared = {option: getattr(args, option, None) for option in SHARED_OPTIONS}
    if args.label_smoothing and not any(
        "label_smoothing" in loss.options for loss, _ in registered
    ):
        _refuse_smoothing(names, [name for name, _ in left])
    if not registered and getattr(args, "loss_kwargs", None):
        raise ConfigError(
            f"loss_kwargs: {', '.join(names)} is TRL's own; its options are fields of the config"
        )
    bound = bind([loss for loss, _ in registered], shared, getattr(args, "loss_kwargs", None))
    with_beta = [item.options["beta"] for item in bound if "beta" in item.options]
    _fill_in(args, "beta", with_beta[0] if with_beta else None)
    _fill_in(args, "label_smoothing", None)
    plan = LossPlan(
        registered=[(item, weight) for item, (_, weight) in zip(bound, registered, strict=True)],
        trl=left,
        trl_alone=bool(settings),
    )
    _check_sync(args, plan.needs_reference)
    return plan


def plan_singles(args: Any, registry: Registry) -> BoundLoss:
    """The loss on labelled singles that a config names, with its options.

    Raises:
        UnknownName: No plugin registers it.
        ConfigError: It is not one on singles, an option does not fit, or it estimates a KL from
            batches that cannot give one.
    """
    name = args.loss_type
    if name not in registry.losses:
        raise unknown(name, registry, ("unpaired",), ())
    loss = losses.find(name, registry, "unpaired")
    shared = {option: getattr(args, option, None) for option in SHARED_OPTIONS}
    (bound,) = bind([loss], shared, getattr(args, "loss_kwargs", None))
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
    _check_sync(args, bound.needs_reference)
    for option in ("beta", "desirable_weight", "undesirable_weight"):
        _fill_in(args, option, bound.options.get(option))
    return bound


def is_unpaired(names: list[str], registry: Registry) -> bool:
    """Whether the named losses are defined on labelled singles.

    Raises:
        UnknownName: Neither a plugin nor TRL knows a name.
        ConfigError: Several losses of which one is on singles, or a loss of a reward model.
    """
    shapes = {}
    for name in names:
        if name not in registry.losses:
            if name not in TRL_PAIRED:
                raise unknown(name, registry, ("pairs", "unpaired"), TRL_PAIRED)
            shapes[name] = "pairs"
            continue
        loss = registry.losses[name]
        shapes[name] = loss.data
        if loss.data == "rewards":
            raise ConfigError(
                f"loss_type {name!r} is defined on {losses.SHAPES['rewards'][0]}\n"
                "  train one with RewardTrainer or `trl-deepseek reward`"
            )
    unpaired = [name for name, shape in shapes.items() if shape == "unpaired"]
    if unpaired and len(names) > 1:
        raise ConfigError(
            f"loss {unpaired[0]!r} is defined on labelled singles and cannot be mixed with others: "
            f"{', '.join(names)}"
        )
    return bool(unpaired)


def unknown(
    name: str, registry: Registry, shapes: tuple[str, ...], trl_names: tuple[str, ...]
) -> UnknownName:
    """The error for a loss that neither a plugin nor TRL knows."""
    fitting = [other for other, loss in registry.losses.items() if loss.data in shapes]
    hint = did_you_mean(name, [*fitting, *trl_names])
    own = [other for other in trl_names if other not in fitting]
    trl_line = f"\n  TRL's own: {', '.join(own)}" if own else ""
    return UnknownName(
        "losses",
        name,
        f"loss_type: no plugin registers a loss named {name!r}{hint}\n"
        f"  registered: {', '.join(fitting) or '(none)'}{trl_line}",
    )


def _trl_settings(args: Any) -> list[str]:
    """The settings in force that only TRL's own formulas know."""
    found = []
    if args.f_divergence_type != "reverse_kl":
        found.append(f"f_divergence_type={args.f_divergence_type!r}")
    if args.use_weighting:
        found.append("use_weighting")
    return found


def _check_trl(args: Any, names: list[str]) -> None:
    """What TRL checks late or not at all for its own losses."""
    if names and args.beta is not None and args.beta <= 0:
        raise ConfigError(f"loss {names[0]!r}: beta = {args.beta!r}: it must be above 0")
    smoothing = args.label_smoothing
    if smoothing is not None and not 0 <= smoothing < 0.5:
        raise ConfigError(
            f"label_smoothing = {smoothing!r}: it must be at least 0 and below 0.5, where the "
            "labels would carry no information"
        )
    if "exo_pair" in names and not smoothing:
        raise ConfigError(
            "loss 'exo_pair' needs label_smoothing above 0; its paper uses 0.001, as 'exo' does"
        )


def _check_sync(args: Any, needs_reference: bool) -> None:
    if args.sync_ref_model and not needs_reference:
        raise ConfigError(
            "sync_ref_model: no loss of this run uses a reference model\n  leave sync_ref_model out"
        )


def _refuse_smoothing(names: list[str], left: list[str]) -> None:
    if any(name in TRL_SMOOTHED for name in left):
        return
    raise ConfigError(
        f"label_smoothing has no meaning for loss {', '.join(map(repr, names))}\n"
        "  leave it out, or use a loss that has the option (`trl-deepseek plugins show dpo`)"
    )


def _fill_in(args: Any, option: str, value: Any) -> None:
    """Give a field that was left to the loss the value that TRL's code will read."""
    if getattr(args, option) is None:
        config = trl.KTOConfig if isinstance(args, trl.KTOConfig) else trl.DPOConfig
        default = {f.name: f.default for f in fields(config)}[option]
        setattr(args, option, value if value is not None else default)
