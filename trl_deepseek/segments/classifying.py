"""Scores of rows from a sequence classifier whose rows are laid out as a forest.

A classifier of ``transformers`` reads its score at the last token of each of its rows, and a laid
out row holds the last tokens of many. A hook in front of the score layer picks those out, and one
behind it puts all their scores at every position, so that whichever is read is all of them. As the
layer is still called, what others hang on that call happens as always.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trl_deepseek.lm_head import unwrap
from trl_deepseek.segments.layout import Layout

SCORE_HEAD = "score"
"""What ``transformers`` calls the layer."""


def last_places(model: nn.Module, layout: Layout, input_ids: Tensor) -> Tensor | None:
    """Where the token that each of B rows is scored at went, (B,); None where that is padding.

    Args:
        model: A sequence classifier, perhaps wrapped.
        layout: Of the rows.
        input_ids: The rows as they were, (B, T): the token is the last that is not the model's
            padding token, whatever the mask says.
    """
    padding = unwrap(model).config.get_text_config().pad_token_id
    if padding is None:
        last = input_ids.new_full((len(input_ids),), input_ids.shape[1] - 1)
    else:
        steps = torch.arange(input_ids.shape[1], device=input_ids.device)
        last = (steps * (input_ids != padding)).argmax(dim=1)
    if not bool(layout.real.gather(1, last[:, None]).all()):
        return None
    return layout.place.gather(1, last[:, None])[:, 0]


def row_scores(model: nn.Module, layout: Layout, places: Tensor, **backbone: Any) -> Any:
    """The model's outputs, ``logits`` those of the rows, (B, 1).

    Args:
        model: A sequence classifier of one label, perhaps wrapped.
        layout: Of the rows.
        places: From :func:`last_places`.
        **backbone: Passed to the model's forward.
    """
    read = torch.zeros(layout.tokens, dtype=torch.bool, device=places.device)
    read[places] = True
    with _at(getattr(unwrap(model), SCORE_HEAD), places):
        outputs = model(
            input_ids=layout.input_ids,
            attention_mask=layout.mask(read.view_as(layout.input_ids)),
            position_ids=layout.position_ids,
            use_cache=False,
            **backbone,
        )
    outputs.logits = outputs.logits[0, :, None]
    return outputs


@contextlib.contextmanager
def _at(head: nn.Module, places: Tensor) -> Iterator[None]:
    """While open, the head scores hidden states (R, L, H) at ``places`` and returns (R, L, B)."""
    shape: list[torch.Size] = []

    def before(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
        hidden = arguments[0]
        shape[:] = [hidden.shape]
        return (hidden.flatten(0, 1)[places.to(hidden.device)][None],)

    def after(_: nn.Module, __: Any, scores: Tensor) -> Tensor:
        return scores[None, :, :, 0].expand(*shape[0][:2], -1)

    handles = [head.register_forward_pre_hook(before), head.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
