"""What a GRPO run trains on, found and checked from its config alone: ``plan(config, registry)``.

Under TRL's own names TRL's own code computes the loss, and where no advantage is named, the
advantages. Ours is taken where something is asked for that TRL does not have: another name, options
in ``loss_kwargs``, an estimator of the KL term or a place for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import trl

from trl_deepseek.errors import ConfigError, UnknownName, did_you_mean
from trl_deepseek.losses.checking import has_option
from trl_deepseek.policy.bound import BoundAdvantage, BoundPolicyLoss, bind_advantage, bind_loss
from trl_deepseek.policy.objective import Objective
from trl_deepseek.policy_types import PolicyLoss
from trl_deepseek.registry import Registry

# The names in TRL's if-chain, which has no list of its own; a test holds them to its source.
TRL_LOSSES = ("cispo", "grpo", "bnpo", "dr_grpo", "dapo", "luspo", "sapo", "vespo")
# Fields of the config that are options of losses, by their names.
LOSS_FIELDS = (
    *("epsilon", "epsilon_high", "delta", "importance_sampling_level"),
    *("sapo_temperature_neg", "sapo_temperature_pos"),
    *("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"),
)
THRESHOLD = "off_policy_mask_threshold"
# What TRL makes advantages of, where none is named.
SCALING = ("scale_rewards", "multi_objective_aggregation")


@dataclass(frozen=True)
class PolicyPlan:
    """What a GRPO run trains on.

    Attributes:
        objective: None where TRL's own code computes the loss.
        advantage: None where TRL's own code computes the advantages.
        penalty: Estimator of the KL penalty among the rewards; None without.
    """

    objective: Objective | None = None
    advantage: BoundAdvantage | None = None
    penalty: str | None = None

    @property
    def bound(self) -> list[Any]:
        """What has options of its own, for advice on them."""
        return [self.objective.loss] if self.objective is not None else []


def plan(args: Any, registry: Registry) -> PolicyPlan:
    """What a config of GRPO asks for, with the options tried out.

    Args:
        args: A config of TRL's or ours; it is not changed.
        registry: Where losses and advantages are looked up.

    Raises:
        UnknownName: There is no such loss or advantage.
        ConfigError: An option or setting does not fit.
    """
    advantage = _advantage(args, registry)
    if not isinstance(args.loss_type, str) or not args.loss_type:
        said = f"is {args.loss_type!r}, and GRPO has one loss" if args.loss_type else "is empty"
        raise ConfigError(f"loss_type {said}: name a policy loss (see `trl-deepseek plugins`)")
    loss = registry.policy_losses.get(args.loss_type)
    if loss is None and args.loss_type not in TRL_LOSSES:
        raise _unknown(args.loss_type, registry)
    in_reward = getattr(args, "kl_in", "loss") == "reward"
    _check_kl(args, advantage, in_reward)
    asked = [
        name
        for name in ("loss_kwargs", "kl_estimator")
        if getattr(args, name, None) not in (None, {})
    ] + ["kl_in"] * in_reward
    if loss is None or (loss.stock and not asked):
        if asked:
            raise ConfigError(
                f"{asked[0]} needs a registered policy loss, and no plugin that is loaded registers"
                f" {args.loss_type!r}"
            )
        if loss is not None:
            bind_loss(loss, _given(args, loss), None)
        return PolicyPlan(None, advantage)
    bound = bind_loss(loss, _given(args, loss), getattr(args, "loss_kwargs", None))
    objective = Objective(
        bound,
        beta=args.beta,
        estimator=_estimator(args, in_reward),
        penalises=not in_reward,
        threshold=None if THRESHOLD in loss.options else args.off_policy_mask_threshold,
    )
    return PolicyPlan(objective, advantage, objective.estimator if in_reward else None)


def _unknown(name: str, registry: Registry) -> UnknownName:
    known = sorted({*registry.policy_losses, *TRL_LOSSES})
    hint = did_you_mean(name, known)
    also = (
        "\n  it is a loss on preferences: `trl-deepseek plugins show " + name + "`"
        if name in registry.losses
        else ""
    )
    return UnknownName(
        "policy_losses",
        name,
        f"loss_type: no plugin registers a policy loss named {name!r}{hint}{also}\n"
        f"  registered: {', '.join(known)}",
    )


def _given(args: Any, loss: PolicyLoss) -> dict[str, Any]:
    """The options of a loss that the config was given by fields of its own.

    A config of TRL's own class does not tell; of it, what is not as by default counts as given.
    """
    defaults = {each.name: each.default for each in fields(trl.GRPOConfig)}
    names = getattr(args, "given", None)
    found = {}
    for name in (*LOSS_FIELDS, THRESHOLD):
        value = getattr(args, name)
        changed = value != defaults[name]
        if name == THRESHOLD and name not in loss.options:
            continue  # it is applied to every loss
        if not changed and loss.name in TRL_LOSSES and not has_option(loss, name):
            continue  # TRL's default, written out: TRL takes it with each of its losses
        if changed or (names is not None and name in names and value is not None):
            found[name] = value
    return found


def _check_kl(args: Any, advantage: BoundAdvantage | None, in_reward: bool) -> None:
    named = getattr(args, "kl_estimator", None)
    for option, said in (("kl_estimator", named), ("kl_in", in_reward)):
        if said and not args.beta:
            raise ConfigError(
                f"{option}: with beta 0 there is no KL term\n  set --beta, or leave {option} out"
            )
    if "use_bias_correction_kl" in getattr(args, "given", ()) and (named or in_reward):
        raise ConfigError(
            "use_bias_correction_kl chooses between the KL estimators 'unbiased' and 'k3', and "
            f"{'kl_estimator names one' if named else 'kl_in is reward'}\n  leave it out"
        )
    if not in_reward:
        return
    if named == "unbiased":
        raise ConfigError(
            "kl_in reward: there the policy has not moved yet, so that the estimator 'unbiased' is "
            "'k3'\n  name k1 (the default), k2 or k3"
        )
    if advantage is None:
        raise ConfigError(
            "kl_in reward needs an advantage by name, which sees the penalty among the rewards\n"
            "  add --advantage grpo, which is TRL's default, or another one"
        )
    if not advantage.advantage.kl_in_reward:
        raise ConfigError(
            f"kl_in reward: advantage {advantage.advantage.name!r} takes rewards for verdicts, "
            "which a penalty would blur\n  leave the KL term in the loss, or name another advantage"
        )


def _estimator(args: Any, in_reward: bool) -> str:
    named: str | None = getattr(args, "kl_estimator", None)
    if named is not None:
        return named
    if in_reward:
        return "k1"
    return "unbiased" if args.use_bias_correction_kl else "k3"


def _advantage(args: Any, registry: Registry) -> BoundAdvantage | None:
    name = getattr(args, "advantage", None)
    kwargs: Mapping[str, Any] | None = getattr(args, "advantage_kwargs", None)
    drops = getattr(args, "drop_equal_groups", False)
    if name is None:
        for option, said in (("advantage_kwargs", kwargs), ("drop_equal_groups", drops)):
            if said:
                raise ConfigError(
                    f"{option} needs an advantage by name\n"
                    "  add --advantage grpo, which is TRL's default, or another one"
                )
        return None
    for option in SCALING:
        if option in args.given:
            raise ConfigError(
                f"{option} is a setting of TRL's own advantages, and advantage is {name!r}\n"
                "  leave one of them out"
            )
    sizes = [args.num_generations, args.num_generations_eval or args.num_generations]
    registered = registry.advantages[name]
    return bind_advantage(registered, kwargs, group=min(sizes), drops=drops)


__all__ = ["BoundAdvantage", "BoundPolicyLoss", "PolicyPlan", "plan"]
