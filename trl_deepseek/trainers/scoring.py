"""The passes of GRPO that turn completions into log-probs: policy, old policy and reference.

TRL's method cuts batches, hands out images and collects the results; it is handed :class:`Passes`
in place of a model, which answers its call. What the completions of a batch begin with in common,
their prompts, is encoded once (:mod:`trl_deepseek.segments`), and what is scored goes through the
faster of two heads: ours, which looks at completions alone and, frozen, goes over the vocabulary
once, or TRL's, whose kernel for GPUs is faster than plain PyTorch.

With ``prefix_sharing="off"`` nothing of this happens, and every number is TRL's to the last bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trl.trainer.utils import FusedCausalLMOutput

from trl_deepseek import lm_head
from trl_deepseek.trainers import adapted_head
from trl_deepseek.trainers.lean_head import TRITON

if TYPE_CHECKING:
    from torch import Tensor

    from trl_deepseek.segments import PrefixSharing


class ScoredCompletions:
    """Mixin in front of TRL's GRPO trainer; see the module's docstring."""

    accelerator: Any
    args: Any
    embedding_noise: Any
    temperature: float
    _prefix_sharing: PrefixSharing

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **inputs: Any,
    ) -> Any:
        rows = (input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy)
        score: Any = super()._get_per_token_logps_and_entropies  # type: ignore[misc]
        if self._prefix_sharing.mode != "off":
            return score(Passes(self, model, compute_entropy), *rows, **inputs)
        with lm_head.balanced_by_trl(lm_head.unwrap(model)):  # alone it knows no DeepSeek-V3
            return score(model, *rows, **inputs)


class Passes:
    """A model, as TRL's method calls one, that answers with log-probs of the labels.

    Args:
        trainer: Says how to score.
        model: Policy or reference, perhaps wrapped.
        entropy: Whether the entropy is wanted.
    """

    def __init__(self, trainer: ScoredCompletions, model: Any, entropy: bool) -> None:
        self.trainer = trainer
        self.model = model
        self.entropy = entropy

    def __call__(self, *, fused_lm_head: bool, **inputs: Any) -> FusedCausalLMOutput:
        """Log-probs of ``inputs["labels"]``, (B, T-1), and their entropy where it is wanted."""
        if self._by_trl(inputs):
            return self._trl(**inputs)
        trainer = self.trainer
        found = trainer._prefix_sharing.token_logps(
            self.model,
            entropy=self.entropy,
            temperature=trainer.temperature,
            noised=trainer.embedding_noise is not None,
            **inputs,
        )
        return FusedCausalLMOutput(
            log_probs=found.logps, entropy=found.entropy, aux_loss=found.aux_loss
        )

    def _by_trl(self, inputs: dict[str, Any]) -> bool:
        """Whether TRL's head scores this pass: where it is faster, and where ours cannot."""
        args = self.trainer.args
        bonus = args.entropy_coef != 0 or args.use_adaptive_entropy  # entropy with a gradient
        if (bonus and self.entropy) or args.cast_lm_head_to_fp32:
            return True
        if adapted_head.has_adapter(lm_head.unwrap(self.model)):
            return False
        return inputs["input_ids"].device.type in TRITON

    def _trl(self, labels: Tensor, **inputs: Any) -> FusedCausalLMOutput:
        trainer, model = self.trainer, self.model
        sharing = trainer._prefix_sharing
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        layout = None
        if inputs.get("output_router_logits"):
            sharing.leave("TRL's head balances experts over rows as they are")
        else:
            rest = {n: v for n, v in inputs.items() if n not in ("input_ids", "attention_mask")}
            noised = trainer.embedding_noise is not None
            layout = sharing.layout(model, ids, mask, noised=noised, **rest)
        if layout is None:
            with lm_head.balanced_by_trl(lm_head.unwrap(model)):
                scored: FusedCausalLMOutput = model(labels=labels, fused_lm_head=True, **inputs)
            return scored
        target = layout.forth(labels)
        inputs["input_ids"] = layout.input_ids
        inputs["attention_mask"] = layout.mask(target != lm_head.IGNORED)
        laid = model(
            position_ids=layout.position_ids,
            shift_labels=target,
            fused_lm_head=True,
            **inputs,
        )
        return FusedCausalLMOutput(
            log_probs=layout.scores(laid.log_probs, labels),
            entropy=layout.scores(laid.entropy, labels) if self.entropy else None,
        )
