"""Models that do not go on from a prompt's cache as from the prompt: each completion encodes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from trl_deepseek.trainers.prefill import shared_prefill

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}


def varied(model: Any) -> Any:
    """In evaluation, with weights that give varied answers."""
    torch.manual_seed(0)
    for each in model.parameters():
        torch.nn.init.normal_(each, std=0.3)
    return model.eval()


def llama(**options: Any) -> Any:
    return varied(LlamaForCausalLM(LlamaConfig(**SIZES, **options)))


def dynamic() -> Any:
    """Its positions are scaled by the length of what is read, once that exceeds 24 tokens."""
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    return llama(max_position_embeddings=24, rope_parameters=rope)


def longrope() -> Any:
    """Its positions are others from the 40th token on."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 4.0, 5.0], "factor": 16.0}
    lengths = {"original_max_position_embeddings": 39}
    return llama(rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, **factors, **lengths})


def vision() -> Any:
    """It keeps how far the positions of its last prefill were moved, for each row."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    seen = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
    marks = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    config = Qwen2_5_VLConfig(
        text_config={**SIZES, "rope_parameters": rope},
        vision_config={**seen, "out_hidden_size": 16},
        **{name: number for number, name in enumerate(marks, start=60)},
    )
    return varied(Qwen2_5_VLForConditionalGeneration(config))


def beams() -> Any:
    """Its own generation config asks for what a run's leaves open."""
    model = llama()
    model.generation_config.num_beams = 3
    return model


def sequences() -> Any:
    model = llama()
    model.generation_config.num_return_sequences = 2
    model.generation_config.do_sample = True
    return model


@pytest.mark.parametrize("make", [dynamic, longrope, vision, beams, sequences])
def test_its_tokens_and_logits_are_those_of_transformers(make: Callable[[], Any]) -> None:
    drawn = torch.randint(1, 60, (2, 40), generator=torch.Generator().manual_seed(0))
    rows = drawn.repeat_interleave(3, dim=0)
    told = {"output_logits": True, "return_dict_in_generate": True, "pad_token_id": 0}

    def generated(model: Any, length: int, tokens: int) -> Any:
        torch.manual_seed(1)
        given = {"input_ids": rows[:, :length], "attention_mask": torch.ones_like(rows[:, :length])}
        config = GenerationConfig(max_new_tokens=tokens, **told)
        return model.generate(**given, generation_config=config)

    def twice(model: Any) -> Any:
        """What is said to long prompts; before, short ones are tried, with no options."""
        asked, model.generation_config = model.generation_config, GenerationConfig()
        generated(model, 18, 1)
        model.generation_config = asked
        return generated(model, 40, 30)

    shared = make()
    expected = twice(make())
    with shared_prefill(shared):
        found = twice(shared)
    assert torch.equal(found.sequences, expected.sequences)
    torch.testing.assert_close(torch.stack(found.logits), torch.stack(expected.logits))
