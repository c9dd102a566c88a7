"""Options with which an engine would not start are refused before anything is loaded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import LlamaConfig

from trl_deepseek.engines.checking import check_colocated
from trl_deepseek.errors import ConfigError

USUAL: dict[str, Any] = {
    "world_size": 1,
    "vllm_tensor_parallel_size": 1,
    "vllm_enable_sleep_mode": False,
    "vllm_model_impl": "vllm",
    "vllm_max_model_length": None,
    "max_completion_length": 16,
}


def check(rope: dict[str, Any] | None = None, **given: Any) -> None:
    config = LlamaConfig(max_position_embeddings=100, rope_parameters=rope)
    check_colocated(SimpleNamespace(**{**USUAL, **given}), config)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"vllm_tensor_parallel_size": 2}, "vllm_tensor_parallel_size is 2: an engine is shared"),
        ({"vllm_enable_sleep_mode": True}, "vllm_enable_sleep_mode: an engine sleeps on a GPU"),
        ({"vllm_model_impl": "transformers"}, "vllm_model_impl transformers: vLLM makes"),
        (
            {"vllm_max_model_length": 101},
            "vllm_max_model_length is 101: the model has positions for 100 tokens\n  100, or fewer",
        ),
        ({"max_completion_length": 100}, "max_completion_length is 100: with a prompt that is mo"),
        ({"vllm_max_model_length": 16}, "max_completion_length is 16: with a prompt that is more"),
    ],
)
def test_what_would_not_start_is_refused(
    given: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError) as raised:
        check(**given)
    assert str(raised.value).startswith(words)


def test_what_starts_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    check()
    check(world_size=4, vllm_tensor_parallel_size=2)
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    check(linear, vllm_max_model_length=200)
    with pytest.raises(ConfigError, match="positions for 200 tokens"):
        check(linear, vllm_max_model_length=201)
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")
    check(vllm_max_model_length=101)
