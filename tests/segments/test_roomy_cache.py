"""A cache that is appended to in place holds what transformers' own, which concatenates, holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, LlamaConfig, LlamaForCausalLM

from trl_deepseek.trainers.prefill import shared_prefill
from trl_deepseek.trainers.roomy_cache import ROOM, roomy_cache

CONFIG = LlamaConfig(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=16,
    num_attention_heads=2,
    num_hidden_layers=2,
    pad_token_id=0,
    eos_token_id=None,
)


def appended(caches: list[Any], tokens: int, rows: int, layer: int = 0) -> None:
    """Append the same states to all; what is returned is the same."""
    states = torch.randn(2, rows, 2, tokens, 8)
    found = [cache.update(states[0].clone(), states[1].clone(), layer) for cache in caches]
    for mine, theirs in zip(*found, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("tokens", [1, 3, ROOM, ROOM + 1, 3 * ROOM])
def test_it_holds_what_a_concatenated_one_holds(tokens: int) -> None:
    torch.manual_seed(tokens)
    caches = [roomy_cache(CONFIG), DynamicCache(config=CONFIG)]
    for layer in (0, 1):
        appended(caches, 5, 2, layer)
    for cache in caches:
        cache.batch_select_indices(torch.tensor([1, 0, 0]))
    for _ in range(4):
        for layer in (0, 1):
            appended(caches, tokens, 3, layer)
    for cache in caches:
        cache.crop(-2)
    appended(caches, tokens, 3)
    for cache in caches:
        cache.reorder_cache(torch.tensor([2, 2, 1]))
    appended(caches, tokens, 3)
    for cache in caches:
        cache.batch_select_indices(torch.tensor([1]))
    appended(caches, tokens, 1)
    assert caches[0].get_seq_length() == caches[1].get_seq_length() == 5 - 2 + 7 * tokens


def test_tokens_are_written_beside_what_is_there() -> None:
    cache = roomy_cache(CONFIG)
    states = torch.randn(2, 3, 2, 1, 8)
    cache.update(*states.repeat(1, 1, 1, 5, 1), 0)
    places = {cache.update(*states, 0)[0].data_ptr() for _ in range(ROOM)}
    assert len(places) == 1


def test_two_hundred_tokens_are_those_of_transformers() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG).eval()
    for each in model.parameters():
        torch.nn.init.normal_(each, std=0.3)
    rows = torch.randint(1, 64, (2, 24)).repeat_interleave(3, dim=0)
    given = {"input_ids": rows, "attention_mask": torch.ones_like(rows)}
    config = GenerationConfig(do_sample=False, max_new_tokens=200, pad_token_id=0)
    expected = model.generate(**given, generation_config=config)
    with shared_prefill(model):
        assert torch.equal(model.generate(**given, generation_config=config), expected)
    assert expected[0].unique().numel() > 3
