from __future__ import annotations

from typing import Any

import pytest
import torch

from trl_deepseek import load_registry

NAMES = {
    "tiny-deepseek-llm": "llama",
    "tiny-deepseek-v2": "deepseek_v2",
    "tiny-deepseek-v3": "deepseek_v3",
}
# Spelled by code point, since look-alikes with ASCII bars or underscores are the usual mistake.
BAR, JOINER = "\uff5c", "\u2581"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_registry().models["tiny-deepseek-llm"]()[1]


@pytest.mark.parametrize(("name", "architecture"), NAMES.items())
def test_a_model_is_small_has_its_architecture_and_a_finite_loss(
    name: str, architecture: str
) -> None:
    model, tokenizer = load_registry().models[name](seed=0)
    assert model.config.model_type == architecture
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    ids = tokenizer("12+34", return_tensors="pt")["input_ids"]
    loss = model(ids, labels=ids).loss
    assert torch.isfinite(loss)


def test_a_seed_decides_the_weights_and_leaves_the_random_state_alone() -> None:
    build = load_registry().models["tiny-deepseek-llm"]
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = (build(seed=s)[0].lm_head.weight for s in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "token",
    [
        f"<{BAR}begin{JOINER}of{JOINER}sentence{BAR}>",
        f"<{BAR}end{JOINER}of{JOINER}sentence{BAR}>",
        f"<{BAR}User{BAR}>",
        f"<{BAR}Assistant{BAR}>",
        f"<{BAR}tool{JOINER}calls{JOINER}begin{BAR}>",
        f"<{BAR}tool{JOINER}sep{BAR}>",
        "<think>",
        "</think>",
        "<|EOT|>",
        f"{BAR}DSML{BAR}",
    ],
)
def test_a_control_token_is_one_token(tokenizer: Any, token: str) -> None:
    (single,) = tokenizer.encode(token, add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(single) == token


def test_as_in_deepseeks_tokenizers_only_begin_end_and_pad_are_special(tokenizer: Any) -> None:
    special = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
    begin = f"<{BAR}begin{JOINER}of{JOINER}sentence{BAR}>"
    end = f"<{BAR}end{JOINER}of{JOINER}sentence{BAR}>"
    assert special == {begin, end, f"<{BAR}{JOINER}pad{JOINER}{BAR}>"}
    assert (tokenizer.bos_token, tokenizer.eos_token) == (begin, end)


@pytest.mark.parametrize("text", ["2+2=4", "思考 <think>", "a\u0000b", "🙂 naïve\r\n\t"])
def test_any_text_survives_a_round_trip(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
