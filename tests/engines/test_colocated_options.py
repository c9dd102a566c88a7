"""Options with which an engine would not start are refused before anything is loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset
from transformers import LlamaConfig
from trl.generation.vllm_generation import VLLMGeneration

from trl_deepseek import GRPOConfig, GRPOTrainer, generation, load_registry
from trl_deepseek.engines.checking import check_colocated, check_pattern, check_sampling
from trl_deepseek.engines.policy import Policy
from trl_deepseek.errors import ConfigError, RunError
from trl_deepseek.trainers.engine import EngineTraining

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


def test_sampling_that_vllm_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def params(stop: Any = None) -> None:
        """In the place of vLLM's own, which raises these too."""

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=params))
    check_sampling({"stop": ["x"]})
    with pytest.raises(ConfigError, match=r"^generation_kwargs: vLLM does not take them: TypeErr"):
        check_sampling({"best": 3})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"n": 1}, "n is num_generations here"),
        ({"max_tokens": 4}, "max_tokens is max_completion_length here"),
        ({"logprobs": 1}, "logprobs is what TRL compares the policy's with here"),
        ({"temperature": 0.5}, "temperature is the config's own here"),
    ],
)
def test_what_the_config_says_is_not_said_to_the_engine_too(
    given: dict[str, Any], words: str, tmp_path: Path
) -> None:
    config = GRPOConfig(
        str(tmp_path), use_vllm=True, generation_kwargs=given, report_to="none", use_cpu=True
    )
    with pytest.raises(ConfigError, match=rf"^generation_kwargs: {words}\n  leave it out$"):
        GRPOTrainer("tiny-deepseek-llm", len, config, train_dataset=Dataset.from_list([]))


def test_a_pattern_is_refused_where_neither_library_of_vllms_reads_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Grammar:
        @staticmethod
        def from_regex(pattern: str) -> None:
            if pattern != "[0-9]+":
                raise RuntimeError("Unclosed '['")

    class LLMatcher:
        @staticmethod
        def validate_grammar(grammar: tuple[str, str]) -> str:
            return "" if grammar == ("regex", r"\p{L}") else "unclosed character class\n"

    def grammar_from(kind: str, pattern: str) -> tuple[str, str]:
        return kind, pattern

    monkeypatch.setitem(sys.modules, "xgrammar", SimpleNamespace(Grammar=Grammar))
    guidance = SimpleNamespace(LLMatcher=LLMatcher, grammar_from=grammar_from)
    monkeypatch.setitem(sys.modules, "llguidance", guidance)
    for pattern in (None, "[0-9]+", r"\p{L}"):
        check_pattern(pattern)
    with pytest.raises(ConfigError, match=r"^vllm_structured_outputs_regex: unclosed character c"):
        check_pattern("[0-9")


def test_what_a_tool_loop_goes_on_with_counts_for_the_completion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Loop:
        """In the place of TRL's trainer, whose prompt of 6 has a call and its result behind it."""

        def _tool_call_loop(self, engine: Any) -> Any:
            return engine.generate([[1] * 12], None, 1)

    class Trainer(EngineTraining, Loop):
        def __init__(self, engine: Any) -> None:
            self.use_vllm, self.vllm_generation = True, engine

    monkeypatch.setattr(VLLMGeneration, "generate", lambda *_: "answered")
    engine = Policy.__new__(Policy)
    engine.mode, engine.max_completion_length, engine.goes_on = "colocate", 10, False
    engine.room = 16
    assert engine.generate([[1] * 6], None, 1) == "answered"
    assert Trainer(engine)._tool_call_loop(engine) == "answered"
    with pytest.raises(RunError, match=r"^a prompt of 12 tokens and a completion of 10 do not fit"):
        engine.generate([[1] * 12], None, 1)


def test_answers_of_a_base_in_8_bits_are_refused_before_it_is_loaded() -> None:
    with pytest.raises(ConfigError, match=r"^engine vllm: a base in 8 bits cannot be given to an"):
        generation.load("tiny-deepseek-llm", load_registry(), engine="vllm", quantization="int8")
