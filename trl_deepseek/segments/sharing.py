"""``prefix_sharing``: log-probs of a batch whose rows begin alike, each beginning encoded once."""

from __future__ import annotations

import logging
import weakref
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trl_deepseek import lm_head
from trl_deepseek.errors import ConfigError
from trl_deepseek.lm_head import HeadOutput, unwrap
from trl_deepseek.segments import cost, exactness
from trl_deepseek.segments.forest import SHORTEST
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
        self._obstacles: weakref.WeakKeyDictionary[nn.Module, str | None]
        self._obstacles = weakref.WeakKeyDictionary()
        self._trials: weakref.WeakKeyDictionary[nn.Module, str | None]
        self._trials = weakref.WeakKeyDictionary()

    def token_logps(
        self,
        model: nn.Module,
        *,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor,
        entropy: bool = False,
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
            noised: Whether noise is added to the embeddings of passes with gradients, to each
                row its own.
            **backbone: Passed to the model's forward.
        """
        given: dict[str, Any] = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "entropy": entropy,
        }
        layout = self.layout(model, input_ids, attention_mask, noised=noised, **backbone)
        if layout is None:
            return lm_head.token_logps(model, labels=labels, **given, **backbone)
        found = lm_head.target_logps(
            model,
            input_ids=layout.input_ids,
            attention_mask=layout.mask(),
            position_ids=layout.position_ids,
            target=layout.forth(labels),
            copies=layout.copies,
            entropy=entropy,
            **backbone,
        )
        scored = (labels[:, 1:] != lm_head.IGNORED) & layout.real[:, :-1]

        def back(values: Tensor) -> Tensor:
            return layout.back(values)[:, :-1].where(scored, values.new_zeros(()))

        spread = None if found.entropy is None else back(found.entropy)
        return HeadOutput(back(found.logps), back(found.correct), spread, found.aux_loss)

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
        plain = {n: value for n, value in backbone.items() if isinstance(value, _PLAIN)}
        if _several_processes():
            self._trial(model, plain)  # by all of them, whatever each of them finds in its batch
        reason = self._known(model) or self._of_pass(
            model, input_ids, attention_mask, noised, backbone
        )
        if reason is not None:
            self._leave(reason)
            return None
        one_row = unwrap(model).config.get_text_config()._attn_implementation == "sdpa"
        shortest = SHORTEST if self.mode == "auto" else 1
        layout = lay_out(input_ids, attention_mask, one_row=one_row, shortest=shortest)
        if layout is None:
            self._leave("a row has padding between its tokens, or no tokens")
            return None
        if self.mode == "auto" and not cost.pays(cost.costs(model), layout, one_row):
            return None
        reason = self._trial(model, plain)
        if reason is not None:
            self._leave(reason)
            return None
        self.shared += 1
        return layout

    def _known(self, model: nn.Module) -> str | None:
        """What the model's config says against sharing."""
        inner = unwrap(model)
        if inner not in self._obstacles:
            self._obstacles[inner] = exactness.known(model)
        return self._obstacles[inner]

    def _trial(self, model: nn.Module, options: dict[str, Any]) -> str | None:
        """What the model itself says against sharing, asked once."""
        inner = unwrap(model)
        if inner not in self._trials:
            known = self._known(model)
            self._trials[inner] = known or exactness.tried(model, options)
        return self._trials[inner]

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

    def _leave(self, reason: str) -> None:
        if self.mode == "on":
            raise ConfigError(
                f"prefix_sharing on: {reason}\n"
                "  set prefix_sharing to auto, which leaves alone what cannot be shared exactly"
            )
        if reason not in self._said:
            self._said.add(reason)
            logger.info("prefixes are not shared: %s", reason)


def _several_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
