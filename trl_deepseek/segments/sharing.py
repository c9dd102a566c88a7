"""``prefix_sharing``: log-probs of a batch whose rows begin alike, each beginning encoded once."""

from __future__ import annotations

import logging
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from trl_deepseek import lm_head
from trl_deepseek.errors import ConfigError
from trl_deepseek.lm_head import HeadOutput, unwrap
from trl_deepseek.segments import cost, exactness
from trl_deepseek.segments.layout import Layout, lay_out

logger = logging.getLogger(__name__)

MODES = ("auto", "on", "off")
_PLAIN = (bool, int, float, str, type(None))


class PrefixSharing:
    """The passes of a run, laid out as forests where that is exact and, with ``auto``, faster.

    Args:
        mode: ``off`` leaves every batch as it is, ``on`` lays out every batch and refuses where
            that would not be exact, ``auto`` lays out what gains by it and leaves the rest as it
            is.

    Attributes:
        mode: As given.
        shared: Passes that were laid out so far.
    """

    def __init__(self, mode: str = "auto") -> None:
        self.mode = mode
        self.shared = 0
        self._said: set[str] = set()
        self._models: weakref.WeakKeyDictionary[nn.Module, tuple[str | None, cost.Costs]] = (
            weakref.WeakKeyDictionary()
        )

    def token_logps(
        self,
        model: nn.Module,
        *,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor,
        entropy: bool = False,
        temperature: float = 1.0,
        noised: bool = False,
        **backbone: Any,
    ) -> HeadOutput:
        """As :func:`trl_deepseek.lm_head.token_logps`, with the same result.

        Args:
            model: Policy or reference, perhaps wrapped.
            input_ids: (B, T); rows that begin alike may stand in any order.
            attention_mask: (B, T).
            labels: Tokens to score, (B, T), not shifted; -100 where nothing is scored.
            entropy: Whether to compute the entropy too.
            temperature: What the logits are divided by.
            noised: Whether noise is added to the embeddings of passes with gradients, to each
                row its own.
            **backbone: Passed to the model's forward.
        """
        given: dict[str, Any] = {"entropy": entropy, "temperature": temperature, **backbone}
        layout = self.layout(model, input_ids, attention_mask, noised=noised, **backbone)
        if layout is None:
            rows = {"input_ids": input_ids, "attention_mask": attention_mask}
            return lm_head.token_logps(model, labels=labels, **rows, **given)
        found = lm_head.target_logps(
            model,
            input_ids=layout.input_ids,
            attention_mask=layout.mask(),
            position_ids=layout.position_ids,
            target=layout.forth(labels),
            copies=layout.copies,
            **given,
        )
        logps, correct = (layout.scores(each, labels) for each in (found.logps, found.correct))
        spread = None if found.entropy is None else layout.scores(found.entropy, labels)
        return HeadOutput(logps, correct, spread, found.aux_loss)

    def layout(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        *,
        noised: bool = False,
        **backbone: Any,
    ) -> Layout | None:
        """How to lay out a batch for one pass; None to leave it as it is.

        Raises:
            ConfigError: With ``on``, where that would not be exact.
        """
        if self.mode == "off":
            return None
        reason, costs = self._of(model, backbone)
        reason = reason or self._of_pass(model, input_ids, attention_mask, noised, backbone)
        if reason is not None:
            self.leave(reason)
            return None
        inner = unwrap(model)
        one_row = inner.config.get_text_config()._attn_implementation == "sdpa"
        shortest = {} if self.mode == "auto" else {"shortest": 1}
        layout = lay_out(input_ids, attention_mask, one_row=one_row, **shortest)
        if layout is None:
            self.leave("a row has padding between its tokens, or no tokens")
            return None
        if self.mode == "auto":
            rows, width = input_ids.shape
            as_it_is = costs.padded(rows, width, padded=not bool(layout.real.all()))
            laid_out = costs.laid_out(layout.spans, layout.input_ids.shape[1], one_row)
            if laid_out > cost.WORTH * as_it_is:
                return None
        self.shared += 1
        return layout

    def _of(self, model: nn.Module, options: dict[str, Any]) -> tuple[str | None, cost.Costs]:
        """What stands in the way in this model, if anything, and what its passes cost."""
        inner = unwrap(model)
        if inner not in self._models:
            plain = {n: value for n, value in options.items() if isinstance(value, _PLAIN)}
            self._models[inner] = exactness.obstacle(model, plain), cost.costs(model)
        return self._models[inner]

    def _of_pass(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        noised: bool,
        options: dict[str, Any],
    ) -> str | None:
        """What stands in the way in this pass."""
        more = [name for name, value in options.items() if not isinstance(value, _PLAIN)]
        if more:
            return f"the batch has {', '.join(more)} beside its tokens"
        if model.training:
            if noised and torch.is_grad_enabled():
                return "noise on the embeddings differs from row to row"
            dropped = exactness.random_in_training(model)
            if dropped is not None:
                return f"{dropped} differs from row to row"
        shifted = attention_mask is not None and not bool(attention_mask[:, 0].all())
        if shifted and exactness.left_padding_shifts(model):
            return "padding on the left moves positions that are not rotary"
        return None

    def leave(self, reason: str) -> None:
        """Say, once, why a batch is left as it is; with ``on`` that ends the run."""
        if self.mode == "on":
            raise ConfigError(
                f"prefix_sharing on: {reason}\n"
                "  set prefix_sharing to auto, which leaves alone what cannot be shared exactly"
            )
        if reason not in self._said:
            self._said.add(reason)
            logger.info("prefixes are not shared: %s", reason)
