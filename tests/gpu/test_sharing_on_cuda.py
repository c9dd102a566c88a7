"""Shared prefixes on a GPU: all segments in one call of attention, in each precision."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from trl_deepseek import load_registry
from trl_deepseek.lm_head import IGNORED
from trl_deepseek.segments import PrefixSharing, SegmentMask, Span, by_documents, varlen

pytestmark = pytest.mark.gpu

REGISTRY = load_registry()
SHORT = (torch.bfloat16, torch.float16)
FOREST = [
    [Span(70), Span(33, (0,)), Span(5, (0, 1)), Span(90, (0,)), Span(1, (0,))],
    [Span(40), Span(64), Span(64, (1,))],  # with padding behind
]
BOUND = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-3}
"""What one rounding to the dtype leaves of a sum of its products; float32 may use TF32."""


def far(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def attended(inputs: list[torch.Tensor], mask: torch.Tensor) -> list[torch.Tensor]:
    """The result where there are tokens, and the gradients of the inputs."""
    leaves = query, key, value = [each.detach().requires_grad_() for each in inputs]
    found = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    real = torch.zeros(found.shape[0], 1, found.shape[2], 1, device=found.device)
    for row, spans in enumerate(FOREST):
        real[row, :, : sum(span.length for span in spans)] = 1
    slope = torch.linspace(-1, 1, found.numel(), device=found.device).view_as(found)
    (found.double() * slope * real).sum().backward()
    gradients = [each.grad for each in leaves]
    assert all(each is not None for each in gradients)
    return [(found * real).detach(), *(each for each in gradients if each is not None)]


@pytest.mark.parametrize(("size", "of_values"), [(16, 16), (64, 64), (128, 128), (192, 128)])
@pytest.mark.parametrize("dtype", [*SHORT, torch.float32], ids=str)
def test_segments_attend_as_the_dense_mask_says(
    device: str, dtype: torch.dtype, size: int, of_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    width = max(sum(span.length for span in spans) for spans in FOREST)
    torch.manual_seed(0)
    sizes = (size, size, of_values)
    inputs = [torch.randn(2, 3, width, each, device=device).to(dtype) for each in sizes]
    counted = mock.Mock(wraps=varlen.attend)
    monkeypatch.setattr(varlen, "attend", counted)
    mask = SegmentMask(FOREST, width, device)
    found = attended(inputs, mask)
    exact = attended([each.double() for each in inputs], mask.dense())
    for one, other in zip(found, exact, strict=True):
        assert far(one, other) < BOUND[dtype]
    assert counted.called == (device == "cuda" and dtype in SHORT and size == of_values)


def batch(device: str) -> dict[str, Any]:
    """Eight rows on two prompts, of several lengths."""
    random = torch.Generator().manual_seed(1)
    prompts = torch.randint(3, 200, (2, 48), generator=random).repeat_interleave(4, 0)
    ids = torch.cat([prompts, torch.randint(3, 200, (8, 20), generator=random)], dim=1)
    mask = torch.ones_like(ids)
    mask[1, 60:] = 0
    mask[6, 50:] = 0
    labels = ids.masked_fill(mask == 0, IGNORED)
    labels[:, :48] = IGNORED
    rows = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: each.to(device) for name, each in rows.items()}


def scored(model: Any, mode: str, rows: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    model.zero_grad()
    found = PrefixSharing(mode).token_logps(model, **rows)
    slope = torch.linspace(-1.0, 1.0, found.logps.numel(), device=found.logps.device)
    (found.logps * slope.view_as(found.logps)).sum().backward()
    return found.logps.detach(), {
        name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None
    }


# in 16 bits V2's experts are chosen by scores that rounding reorders, with sharing and without
CASES = [("tiny-deepseek-llm", each) for each in (*SHORT, torch.float32)]


@pytest.mark.parametrize(("name", "dtype"), [*CASES, ("tiny-deepseek-v2", torch.float32)])
def test_shared_prompts_have_the_log_probs_and_gradients_of_rows_alone(
    device: str, name: str, dtype: torch.dtype
) -> None:
    """Beside those of float64, from which both are as far as the dtype rounds."""
    rows = batch(device)
    model = REGISTRY.models[name](seed=0)[0].to(device, dtype)
    model.set_attn_implementation("sdpa")
    shared, gradients = scored(model, "on", rows)
    alone, alone_gradients = scored(model, "off", rows)
    assert gradients.keys() == alone_gradients.keys()
    if dtype == torch.float32:
        torch.testing.assert_close(shared, alone, rtol=1e-3, atol=1e-3)
        return
    exact, exact_gradients = scored(model.double(), "off", rows)
    assert far(shared, exact) < max(2 * far(alone, exact), 1e-2)
    flat, flat_alone, flat_exact = (
        torch.cat([each[key].flatten().double() for key in gradients])
        for each in (gradients, alone_gradients, exact_gradients)
    )
    assert far(flat, flat_exact) < max(2 * far(flat_alone, flat_exact), 1e-2)


def test_packed_rows_attend_by_documents(device: str) -> None:
    model = REGISTRY.models["tiny-deepseek-llm"](seed=0)[0].to(device, torch.bfloat16).eval()
    model.set_attn_implementation("sdpa")
    lengths = [30, 12, 50, 4]
    ids = torch.arange(sum(lengths), device=device)[None] % 150 + 3
    positions = torch.cat([torch.arange(each) for each in lengths])[None].to(device)
    with torch.no_grad(), by_documents(model, "on", positions) as done:
        assert done
        packed = model(ids, position_ids=positions, use_cache=False).logits
    with torch.no_grad():
        exact = model.double()
        alone = [exact(part).logits for part in ids.split(lengths, dim=1)]
    assert far(packed, torch.cat(alone, dim=1)) < 3e-2
