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
from trl_deepseek.segments import classifying, cost, exactness, reading
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

    Raises:
        ConfigError: ``mode`` is none of these.

    Attributes:
        mode: As given.
        shared: Passes that were laid out so far.
    """

    def __init__(self, mode: str = "auto") -> None:
        if mode not in MODES:
            raise ConfigError(f"prefix_sharing is {mode!r}: it must be one of {', '.join(MODES)}")
        self.mode = mode
        self.shared = 0
        self._said: set[str] = set()
        self._obstacles: weakref.WeakKeyDictionary[nn.Module, str | None]
        self._obstacles = weakref.WeakKeyDictionary()
        self._shifted: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
        self._trials: weakref.WeakKeyDictionary[nn.Module, dict[bool, str | None]]
        self._trials = weakref.WeakKeyDictionary()

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
        given: dict[str, Any] = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "entropy": entropy,
            "temperature": temperature,
        }
        layout = self.layout(model, input_ids, attention_mask, noised=noised, **backbone)
        if layout is None:
            return lm_head.token_logps(model, labels=labels, **given, **backbone)
        return _scored(model, layout, labels, entropy, {"temperature": temperature, **backbone})

    def joined_logps(
        self,
        model: nn.Module,
        rows: dict[str, Tensor],
        twins: dict[str, Tensor],
        *,
        limit: int,
        noised: bool = False,
        **backbone: Any,
    ) -> tuple[HeadOutput, HeadOutput] | None:
        """Scores of rows and of others that begin like them, from one pass; None to do without.

        Where gradients are recorded the twins have theirs too, for nothing, which the rule counts.
        The experts' load-balancing loss is that of the rows alone.

        Args:
            model: Policy or reference, perhaps wrapped.
            rows: ``input_ids``, ``attention_mask`` and ``labels``, (B, T).
            twins: The same of the others, of any width.
            limit: Tokens that may go through the model at once.
            noised: As for :meth:`token_logps`.
            **backbone: Passed to the model's forward.
        """
        width = max(each["input_ids"].shape[1] for each in (rows, twins))
        both = {
            name: torch.cat([_widened(e[name], name, width) for e in (rows, twins)])
            for name in rows
        }
        parts = [len(each["input_ids"]) for each in (rows, twins)]
        layout = self.layout(
            model, both["input_ids"], both["attention_mask"], noised=noised, parts=parts, **backbone
        )
        if layout is None or layout.tokens > limit:
            return None
        found = _scored(model, layout.first(parts[0]), both["labels"], False, backbone)

        def part(rows: slice, width: int) -> HeadOutput:
            return HeadOutput(
                found.logps[rows, : width - 1],
                found.correct[rows, : width - 1],
                None,
                found.aux_loss,
            )

        own, others = slice(parts[0]), slice(parts[0], None)
        return part(own, rows["input_ids"].shape[1]), part(others, twins["input_ids"].shape[1])

    def row_scores(
        self, model: nn.Module, *, input_ids: Tensor, noised: bool = False, **inputs: Any
    ) -> Any:
        """The outputs of a sequence classifier, ``logits`` (B, 1), as the model alone gives them.

        Args:
            model: Perhaps wrapped.
            input_ids: (B, T).
            noised: As for :meth:`token_logps`.
            **inputs: ``attention_mask`` (B, T), and what the model takes else.
        """
        mask, rest = inputs.get("attention_mask"), {**inputs}
        rest.pop("attention_mask", None)
        layout = self.layout(model, input_ids, mask, noised=noised, **rest)
        places = None
        if layout is not None:
            places = classifying.last_places(model, layout, input_ids)
        if layout is None or places is None:
            return model(input_ids=input_ids, use_cache=False, **inputs)
        return classifying.row_scores(model, layout, places, **rest)

    def layout(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        *,
        noised: bool = False,
        parts: list[int] | None = None,
        **backbone: Any,
    ) -> Layout | None:
        """How to lay out a batch for one pass; None to leave it as it is.

        ``parts`` are the numbers of rows that would be passes of their own, the first of them alone
        with gradients where they are recorded.

        Raises:
            ConfigError: With ``on``, where that would not be exact.
        """
        if self.mode == "off":
            return None
        plain = {n: value for n, value in backbone.items() if isinstance(value, _PLAIN)}
        if _several_processes():
            # by all of them, whatever each of them finds in its batch
            self._trial(model, plain)
            self._shifts(model, plain)
        reason = self._known(model) or self._of_pass(
            model, input_ids, attention_mask, noised, backbone
        )
        if reason is not None:
            self.leave(reason)
            return None
        one_row = unwrap(model).config.get_text_config()._attn_implementation == "sdpa"
        shortest = SHORTEST if self.mode == "auto" else 1
        layout = lay_out(input_ids, attention_mask, one_row=one_row, shortest=shortest)
        if layout is None:
            self.leave("a row has padding between its tokens, or no tokens")
            return None
        whole = [len(input_ids)]
        if (self.mode == "auto" or parts) and not self._pays(model, layout, parts or whole):
            return None
        reason = self._trial(model, plain)
        if reason is not None:
            self.leave(reason)
            return None
        self.shared += 1
        return layout

    def _pays(self, model: nn.Module, layout: Layout, parts: list[int]) -> bool:
        """Whether the pass costs less than those of its parts as they are, or laid out."""
        costs = cost.costs(model)
        own, *others = (costs.padded(real) for real in layout.real.split(parts))
        backward = cost.BACKWARD if torch.is_grad_enabled() else 0.0
        apart = own + sum(others) / (1 + backward)
        return costs.laid_out(layout) <= cost.WORTH * apart

    def _known(self, model: nn.Module) -> str | None:
        """What the model's config says against sharing."""
        inner = unwrap(model)
        if inner not in self._obstacles:
            self._obstacles[inner] = exactness.known(model)
        return self._obstacles[inner]

    def _trial(self, model: nn.Module, options: dict[str, Any]) -> str | None:
        """What the model itself says against sharing, asked once in training and once outside."""
        asked = self._trials.setdefault(unwrap(model), {})
        if model.training not in asked:
            known = self._known(model)
            if known is None:
                reading.arrange(model)
            asked[model.training] = known or exactness.tried(model, options)
        return asked[model.training]

    def _shifts(self, model: nn.Module, options: dict[str, Any]) -> bool:
        """Whether padding on the left changes values, asked once."""
        inner = unwrap(model)
        if inner not in self._shifted:
            self._shifted[inner] = self._known(model) is not None or (
                exactness.left_padding_shifts(model, options)
            )
        return self._shifted[inner]

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
        if exactness.compiled(model):
            return "torch.compile would compile the model anew for each layout"
        if model.training:
            if noised and torch.is_grad_enabled():
                return "noise on the embeddings differs from row to row"
            dropped = exactness.random_in_training(model)
            if dropped is not None:
                return f"{dropped} differs from row to row"
        shifted = attention_mask is not None and not bool(attention_mask[:, 0].all())
        if shifted and self._shifts(model, options):
            return "padding on the left moves positions, which changes values"
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
            logger.warning("prefixes are not shared: %s", reason)


def _scored(
    model: nn.Module, layout: Layout, labels: Tensor, entropy: bool, backbone: dict[str, Any]
) -> HeadOutput:
    """The scores of a laid out batch, for the rows that it was made of, (B, T-1)."""
    target = layout.forth(labels)
    found = lm_head.target_logps(
        model,
        input_ids=layout.input_ids,
        attention_mask=layout.mask(target != lm_head.IGNORED),
        position_ids=layout.position_ids,
        target=target,
        copies=layout.copies,
        entropy=entropy,
        **backbone,
    )
    logps, correct = (layout.scores(each, labels) for each in (found.logps, found.correct))
    spread = None if found.entropy is None else layout.scores(found.entropy, labels)
    return HeadOutput(logps, correct, spread, found.aux_loss)


def _widened(values: Tensor, name: str, width: int) -> Tensor:
    fill = lm_head.IGNORED if name == "labels" else 0
    return nn.functional.pad(values, (0, width - values.shape[1]), value=fill)


def _several_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
