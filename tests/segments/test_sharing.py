"""Shared prefixes through real models: the values and gradients of the batch as it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trl_deepseek import load_registry
from trl_deepseek.lm_head import IGNORED
from trl_deepseek.segments import PrefixSharing

MODELS = ("tiny-deepseek-llm", "tiny-deepseek-v2", "tiny-deepseek-v3")


def build(name: str = "tiny-deepseek-llm", attention: str = "sdpa") -> Any:
    model = load_registry().models[name](seed=0)[0]
    model.set_attn_implementation(attention)
    return model.train()


def batch() -> dict[str, Any]:
    """Six rows on two prompts, of several lengths, padded on both sides."""
    random = torch.Generator().manual_seed(1)
    prompts = torch.randint(3, 200, (2, 20), generator=random).repeat_interleave(3, 0)
    ids = torch.cat([prompts, torch.randint(3, 200, (6, 12), generator=random)], dim=1)
    ids[1, 20:26] = ids[0, 20:26]  # two completions that begin alike
    mask = torch.ones_like(ids)
    mask[1, 28:] = 0
    mask[2, 21:] = 0
    mask[3:, :2] = 0
    labels = ids.masked_fill(mask == 0, IGNORED)
    labels[:, :20] = IGNORED
    labels[0] = ids[0]  # one row's prompt is scored too
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def scored(model: Any, mode: str, rows: dict[str, Any], **given: Any) -> tuple[Any, Any]:
    model.zero_grad()
    found = PrefixSharing(mode).token_logps(model, **rows, entropy=True, **given)
    slope = torch.linspace(-1.0, 1.0, found.logps.numel()).view_as(found.logps)
    loss = (found.logps * slope).sum()
    if found.aux_loss is not None:
        loss = loss + 10 * found.aux_loss
    loss.backward()
    return found, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_alike(model: Any, rows: dict[str, Any], **given: Any) -> None:
    plain, plain_gradients = scored(model, "off", rows, **given)
    shared, gradients = scored(model, "on", rows, **given)
    torch.testing.assert_close(shared.logps, plain.logps, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shared.entropy, plain.entropy.where(plain.logps != 0, 0))
    assert torch.equal(shared.correct, plain.correct & (plain.logps != 0))
    if plain.aux_loss is not None:
        torch.testing.assert_close(shared.aux_loss, plain.aux_loss, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == plain_gradients.keys()
    for name, gradient in plain_gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(
            gradients[name], gradient, rtol=1e-5, atol=1e-5 * max(scale, 1e-3)
        )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_values_and_gradients_are_those_of_the_batch(name: str, attention: str) -> None:
    assert_alike(build(name, attention), batch())


def test_layers_run_again_in_the_backward_pass_see_the_same_segments() -> None:
    model = build()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_alike(model, batch())
