"""SFT's log-probs through our head where it is faster than TRL's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trl.trainer.utils import FusedCausalLMOutput

from trl_deepseek import lm_head

if TYPE_CHECKING:
    from torch import Tensor

TRITON = ("cuda", "xpu")
"""Devices on which TRL's head is a kernel, 1.0 to 1.4 times as fast as ours with a frozen head and
1.5 to 2 times with a trained one (benchmarks/RESULTS.md); elsewhere it is up to 5 times slower."""

VOCABULARY = 4096
"""Tokens from which on the head is worth the difference in the last bit. With 512 positions, hidden
size 512 and entropy it takes 0.6 of TRL's time on a CPU core, at a vocabulary of 512 (13 ms) as at
one of 4096 (106 ms)."""


class LeanHead:
    """A model, as TRL's SFT calls one, that scores labelled tokens alone.

    Args:
        model: Perhaps wrapped.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    @staticmethod
    def is_faster(model: Any, args: Any) -> bool:
        """Whether it is, for this model on its device."""
        if args.use_liger_kernel or args.parallelism_config is not None:
            return False
        head = lm_head.unwrap(model).get_output_embeddings()
        weight = getattr(head, "weight", None)
        if weight is None or weight.shape[0] < VOCABULARY:
            return False
        return weight.device.type not in TRITON

    def __call__(self, *, fused_lm_head: bool = False, **inputs: Any) -> Any:
        """What TRL's own head answers, as far as SFT looks at it."""
        if not fused_lm_head:
            return self.model(**inputs)
        labels: Tensor = inputs.pop("labels")
        for name in ("use_cache", "num_items_in_batch"):
            inputs.pop(name, None)
        found = lm_head.token_logps(self.model, labels=labels, entropy=True, **inputs)
        return FusedCausalLMOutput(
            log_probs=found.logps,
            entropy=found.entropy,
            is_top1=found.correct,
            label_mask=labels[:, 1:] != lm_head.IGNORED,
            aux_loss=found.aux_loss,
        )
