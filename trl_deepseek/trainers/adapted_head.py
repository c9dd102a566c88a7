"""Adapters on the LM head in GRPO, which TRL refuses: its own head leaves them out.

Ours multiplies by the head as it is, adapter included (:mod:`trl_deepseek.lm_head`), so that they
are let through wherever it scores every pass.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from peft.tuners.tuners_utils import BaseTunerLayer

from trl_deepseek.adapters import lora
from trl_deepseek.errors import ConfigError
from trl_deepseek.replacing import replaced
from trl_deepseek.trainers.trl_grpo import grpo_trainer

if TYPE_CHECKING:
    from trl_deepseek.trainers.inputs import Inputs

HEAD = "lm_head"


def check(inputs: Inputs) -> None:
    """Refuse an adapter on the head beside an option with which TRL's head scores.

    Raises:
        ConfigError: Names the option.
    """
    args = inputs.args
    if not (lora.targets(inputs.options.get("peft_config"), HEAD) or has_adapter(inputs.model)):
        return
    by_trl = {
        "prefix_sharing off": getattr(args, "prefix_sharing", "auto") == "off",
        "use_liger_kernel": args.use_liger_kernel,
        "cast_lm_head_to_fp32": args.cast_lm_head_to_fp32,
        "entropy_coef": args.entropy_coef != 0,
        "use_adaptive_entropy": args.use_adaptive_entropy,
    }
    for option, given in by_trl.items():
        if given:
            raise ConfigError(
                f"peft_config: the adapter changes {HEAD!r}, and with {option} TRL's own head "
                f"scores, which leaves adapters out\n  take {HEAD!r} out of its target modules, or "
                f"leave {option} out"
            )


def has_adapter(model: Any) -> bool:
    """Whether the head of a model in memory carries an adapter."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return isinstance(head, BaseTunerLayer)


def allowed() -> AbstractContextManager[None]:
    """Around the constructor of TRL's GRPO; the name serves it for nothing but to refuse."""
    return replaced(grpo_trainer, BaseTunerLayer=())  # nothing is an instance of it
