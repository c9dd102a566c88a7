"""Models in which a shared prefix would change the result, and how they are told.

A laid-out row is exact where a token's state depends on the tokens that it sees and on its
position, and attention asks the mask who sees whom. What is known to be otherwise is read off the
model's config; what is not known is found by trying: two short rows, alone and laid out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trl_deepseek.lm_head import unwrap
from trl_deepseek.segments.classifying import SCORE_HEAD, row_scores
from trl_deepseek.segments.layout import Layout, lay_out
from trl_deepseek.segments.mask import SegmentMask

ATTENTIONS = ("sdpa", "eager")
"""Implementations of attention that read a mask which is given to them."""

TOLERANCE = {"exact": 1e-4, "rounded": 0.03}
"""By how much the logits of the trial may differ, of their norm. Sums in 16 bits round by
a hundredth; a mask that is not heeded makes 0.15 and more."""

SHIFT = 512
"""Positions by which rows are moved on to see whether that changes values."""

_FULL = ("full_attention", "attention")
_LENGTH_DEPENDENT = {"dynamic", "longrope"}


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
    name = type(unwrap(model)).__name__
    rows = _two_rows(model)
    layout = lay_out(rows, None, shortest=1, one_row=config._attn_implementation == "sdpa")
    assert layout is not None
    given = {"attention_mask": torch.ones_like(rows), "use_cache": False, **options}
    if model.training and _draws(model, rows.device, input_ids=rows, **given):
        return f"{name} draws random numbers in training, others for each row"
    try:
        with _evaluating(model):
            alone = model(input_ids=rows, **given).logits
            if hasattr(unwrap(model), SCORE_HEAD):
                places = layout.place[:, -1]
                laid = row_scores(model, layout, places, **options).logits
            else:
                laid = _laid_out(model, layout, layout.mask(), options)
                last = torch.zeros_like(layout.input_ids, dtype=torch.bool)
                last.view(-1)[layout.place[:, -1]] = True
                laid[:, -1] = _laid_out(model, layout, layout.mask(last), options)[:, -1]
    except Exception as error:  # whatever a model does with a mask that it does not know
        return f"{name} fails on a row of segments ({error})"
    if not _alike(model, laid, alone):
        return f"{name} gives other values for a row of segments"
    return None


def _laid_out(
    model: nn.Module, layout: Layout, mask: SegmentMask, options: dict[str, Any]
) -> Tensor:
    """Logits of a laid out batch for the rows that it was made of, (B, T, V)."""
    outputs = model(
        input_ids=layout.input_ids,
        attention_mask=mask,
        position_ids=layout.position_ids,
        use_cache=False,
        **options,
    )
    return layout.back(outputs.logits)


@torch.no_grad()
def left_padding_shifts(model: nn.Module, options: dict[str, Any]) -> bool:
    """Whether padding on the left, from which on positions count without sharing, changes values.

    It does where positions are not rotary, or attention is scaled by them besides. Arguments as for
    :func:`tried`.
    """
    if not any("rotary" in name for name, _ in unwrap(model).named_modules()):
        return True
    rows = _two_rows(model)
    steps = torch.arange(rows.shape[1], device=rows.device).expand_as(rows)
    longest = getattr(unwrap(model).config.get_text_config(), "max_position_embeddings", 0)
    given = {"attention_mask": torch.ones_like(rows), "use_cache": False, **options}
    with _evaluating(model):
        near, far = (
            model(input_ids=rows, position_ids=steps + moved, **given).logits
            for moved in (0, max(0, min(SHIFT, longest - rows.shape[1])))
        )
    return not _alike(model, far, near)


def _two_rows(model: nn.Module) -> Tensor:
    """Rows of random tokens, the same for each model, that begin alike; (2, 8)."""
    config = unwrap(model).config.get_text_config()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(config.vocab_size, (2, 8), generator=generator)
    drawn[1, :4] = drawn[0, :4]
    padding = getattr(config, "pad_token_id", None)
    drawn[:, -1] = 1 if padding == 0 else 0  # a classifier looks for the last that is no padding
    drawn[1, 4] = (drawn[0, 4] + 1) % config.vocab_size
    return drawn.to(next(model.parameters()).device)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def tolerance(model: nn.Module) -> float:
    """By how much two ways to the same logits may differ, of their norm."""
    return TOLERANCE["rounded" if _rounds(model) else "exact"]


def _alike(model: nn.Module, found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).norm()) <= tolerance(model) * float(expected.norm())


def _draws(model: nn.Module, device: torch.device, **inputs: Any) -> bool:
    """Whether a pass takes random numbers, which are put back."""
    others = [] if device.type == "cpu" else [device]

    def states() -> list[Any]:
        at = (torch.get_device_module(each).get_rng_state(each) for each in others)
        return [torch.get_rng_state(), *at]

    kind = "cuda" if device.type == "cpu" else device.type
    with torch.random.fork_rng(others, device_type=kind):
        before = states()
        model(**inputs)
        return not all(map(torch.equal, before, states()))


def compiled(model: nn.Module) -> bool:
    """Whether a batch of another layout would be compiled anew."""
    return any(
        hasattr(module, "_orig_mod") or module._compiled_call_impl is not None
        for module in model.modules()
    )


def random_in_training(model: nn.Module) -> str | None:
    """What drops values at random in the pass that is about to run; None for nothing.

    Dropout without a module of its own is found by :func:`tried`.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and module.training and module.p:
            return f"dropout in {name}"
    return None


def _known(model: nn.Module) -> Iterator[str]:
    for module in model.modules():
        for config in (getattr(module, "peft_config", None) or {}).values():
            if getattr(config, "is_prompt_learning", False):
                yield f"{config.peft_type.value} puts tokens of its own before each row"
            if getattr(config, "alora_invocation_tokens", None):
                yield "activated LoRA begins where it finds its invocation tokens in each row"
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
    for kind in length_dependent(config):
        yield f"the positions of {name} ({kind}) depend on the longest row"


def length_dependent(config: Any) -> set[str]:
    """The kinds of a language model's rotary positions that depend on the longest row."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    each = [rope, *(part for part in rope.values() if isinstance(part, dict))]  # of kinds of layers
    kinds = {str(part.get("rope_type", part.get("type"))) for part in each}
    return kinds & _LENGTH_DEPENDENT


def _slides(config: Any) -> bool:
    return bool(
        getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    )


def _rounds(model: nn.Module) -> bool:
    """Whether some sums are formed in 16 bits."""
    short = (torch.bfloat16, torch.float16)
    mixed = torch.is_autocast_enabled(next(model.parameters()).device.type) or any(
        hasattr(module, "_original_forward")  # accelerate put autocast around it
        for module in model.modules()
    )
    return mixed or any(parameter.dtype in short for parameter in model.parameters())
