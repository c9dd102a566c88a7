"""Models in which a shared prefix would change the result, and how they are told.

A laid-out row is exact where a token's state depends on the tokens that it sees and on its
position, and attention asks the mask who sees whom. What is known to be otherwise is read off the
model's config; what is not known is found by trying: two short rows, alone and laid out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from trl_deepseek.lm_head import unwrap
from trl_deepseek.segments.classifying import SCORE_HEAD, row_scores
from trl_deepseek.segments.layout import lay_out

ATTENTIONS = ("sdpa", "eager")
"""Implementations of attention that read a mask which is given to them."""

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""Of the largest logit, in the trial; 0.05 for shorter types, whose sums depend on their order."""

_FULL = ("full_attention", "attention")
_LENGTH_DEPENDENT = ("dynamic", "longrope")


def known(model: nn.Module) -> str | None:
    """Why rows of this model cannot share prefixes, as its config tells; None for nothing."""
    return next(_known(model), None)


@torch.no_grad()
def tried(model: nn.Module, options: dict[str, Any]) -> str | None:
    """Why rows of this model cannot share prefixes, as two of random tokens tell; None for nothing.

    Args:
        model: As the training loop holds it, perhaps wrapped.
        options: What its forward gets beside tokens, mask and positions.
    """
    config = unwrap(model).config.get_text_config()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(config.vocab_size, (2, 8), generator=generator)
    drawn[1, :4] = drawn[0, :4]
    padding = getattr(config, "pad_token_id", None)
    drawn[:, -1] = 1 if padding == 0 else 0  # a classifier looks for the last that is no padding
    drawn[1, 4] = (drawn[0, 4] + 1) % config.vocab_size
    rows = drawn.to(device)
    layout = lay_out(rows, None, shortest=1, one_row=config._attn_implementation == "sdpa")
    assert layout is not None
    try:
        alone = model(
            input_ids=rows, attention_mask=torch.ones_like(rows), use_cache=False, **options
        ).logits
        if hasattr(unwrap(model), SCORE_HEAD):
            places = layout.place[:, -1]
            laid = row_scores(model, layout, places, **options).logits
        else:
            outputs = model(
                input_ids=layout.input_ids,
                attention_mask=layout.mask(),
                position_ids=layout.position_ids,
                use_cache=False,
                **options,
            )
            laid = layout.back(outputs.logits)
    except Exception as error:  # whatever a model does with a mask that it does not know
        return f"{type(unwrap(model)).__name__} fails on a row of segments ({error})"
    tolerance = TOLERANCE.get(alone.dtype, 0.05)
    difference = float((laid - alone).abs().max() / alone.abs().max())
    if not difference <= tolerance:
        return f"{type(unwrap(model)).__name__} gives other values for a row of segments"
    return None


def left_padding_shifts(model: nn.Module) -> bool:
    """Whether padding on the left changes what positions mean: where they are not rotary.

    Without sharing, models count positions from the padding on.
    """
    return not any("rotary" in name for name, _ in unwrap(model).named_modules())


def random_in_training(model: nn.Module) -> str | None:
    """What drops values at random in the pass that is about to run; None for nothing."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and module.training and module.p:
            return f"dropout in {name}"
        rate = getattr(module, "attention_dropout", 0.0)
        if module.training and isinstance(rate, float) and rate:
            return f"attention dropout in {name}"
    return None


def _known(model: nn.Module) -> Iterator[str]:
    for module in model.modules():
        for config in (getattr(module, "peft_config", None) or {}).values():
            if getattr(config, "is_prompt_learning", False):
                yield f"{config.peft_type.value} puts tokens of its own before each row"
    inner = unwrap(model)
    config = inner.config.get_text_config()
    name = type(inner).__name__
    if config._attn_implementation not in ATTENTIONS:
        yield (
            f"attn_implementation {config._attn_implementation!r} reads no mask of ours; "
            f"{' and '.join(ATTENTIONS)} do"
        )
    if getattr(inner, "_is_stateful", False):
        yield f"{name} is recurrent"
    kinds = set(getattr(config, "layer_types", None) or ()) - set(_FULL)
    if kinds:
        yield f"{name} has layers of {', '.join(sorted(kinds))}"
    elif not getattr(config, "layer_types", None) and _slides(config):
        yield f"{name} attends within a sliding window"
    if getattr(config, "index_topk", None):
        yield f"{name} chooses the tokens that it attends to"
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind = rope.get("rope_type", rope.get("type"))
    if kind in _LENGTH_DEPENDENT:
        yield f"the positions of {name} ({kind}) depend on the longest row"


def _slides(config: Any) -> bool:
    return bool(
        getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    )
