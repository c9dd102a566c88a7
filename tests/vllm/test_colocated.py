"""The policy is sampled by an engine in the same process, and trains as without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from trl_deepseek import generation, load_registry
from trl_deepseek.errors import ConfigError, RunError
from trl_deepseek.generation import completing
from trl_deepseek.sources import import_file

Build = Callable[..., Any]
runs: Any = import_file(Path(__file__).parent / "runs.py")


def test_three_greedy_steps_are_those_of_transformers(build: Build, tmp_path: Path) -> None:
    greedy = runs.greedy(tmp_path)
    theirs = build("without", use_vllm=False, **greedy)
    theirs.train()
    ours = build("with", **greedy)
    ours.train()
    rows = runs.saved(tmp_path / "with")
    assert rows == runs.saved(tmp_path / "without")
    # the weights of each step reached the engine: what it answers to a prompt changes with them
    answers: dict[str, set[tuple[int, ...]]] = {str(prompt): set() for _, prompt, _, _ in rows}
    for _, prompt, ids, _ in rows:
        answers[str(prompt)].add(tuple(ids))
    assert max(map(len, answers.values())) > 1
    expected = runs.weights_of(theirs)
    for name, tensor in runs.weights_of(ours).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-5)


def test_a_run_that_goes_on_from_a_checkpoint_ends_as_the_whole_one(
    build: Build, tmp_path: Path
) -> None:
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "reward": runs.by_length}
    whole = build("run", **options)
    whole.train()
    expected, rows = runs.weights_of(whole), runs.saved(tmp_path / "run")
    again = build("run", **options)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert runs.saved(tmp_path / "run")[len(rows) :] == [row for row in rows if row[0] >= 2]
    for name, tensor in runs.weights_of(again).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)
    gaps = runs.gaps(whole)
    assert len(gaps) == 4
    assert max(gaps) < 1e-4


def test_noise_is_in_the_policy_alone_and_the_ratio_begins_at_one(
    build: Build, tmp_path: Path
) -> None:
    seen: list[bool] = []
    build("plain", max_steps=1, reward=runs.by_length).train()
    noised = build("noised", noise="neftune", noise_alpha=5.0, max_steps=1, reward=runs.by_length)
    compute = noised._compute_loss

    def heard(model: Any, inputs: Any) -> Any:
        seen.append("old_per_token_logps" in inputs)
        return compute(model, inputs)

    noised._compute_loss = heard
    noised.train()
    assert runs.saved(tmp_path / "noised") == runs.saved(tmp_path / "plain")
    assert noised.embedding_noise.firings == 1
    assert seen == [False]
    (logged,) = (row for row in noised.state.log_history if "loss" in row)
    assert logged["sampling/gap_after_sync"] < 1e-4  # noise would be of the order of 0.1


@pytest.mark.parametrize("quantization", [None, "qlora"])
def test_lora_reaches_the_engine_and_leaves_the_base_as_it_was(
    build: Build, quantization: str | None
) -> None:
    config = LoraConfig(r=8, lora_alpha=64, target_modules="all-linear", lora_dropout=0.1)
    trainer = build(quantization=quantization, peft_config=config, reward=runs.by_length)
    before = {k: v for k, v in runs.weights_of(trainer).items() if "lora_" not in k}
    trainer.train()
    gaps = runs.gaps(trainer)
    assert len(gaps) == 3
    assert max(gaps) < (1e-4 if quantization is None else 2e-2)
    after = runs.weights_of(trainer)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert any(v.abs().max() > 0 for k, v in after.items() if "lora_B" in k)


def test_an_engine_with_old_weights_ends_the_run(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build(reward=runs.by_length, learning_rate=3e-2)
    sync = trainer.vllm_generation._iter_named_params
    pushed: list[None] = []

    def once() -> Any:
        pushed.append(None)
        return sync() if len(pushed) == 1 else iter(())

    monkeypatch.setattr(trainer.vllm_generation, "_iter_named_params", once)
    with pytest.raises(RunError, match=r"^step 1: the engine does not have the weights of the pol"):
        trainer.train()


def test_an_engine_is_asked_as_the_template_says_and_stops_where_it_says(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build(chat_template="deepseek-r1", max_steps=1, max_completion_length=4)
    tokenizer, engine = trainer.processing_class, trainer.vllm_generation
    asked: list[list[int]] = []
    generate = engine.llm.generate

    def heard(prompts: Any, **kwargs: Any) -> Any:
        asked.extend(prompt["prompt_token_ids"] for prompt in prompts)
        return generate(prompts, **kwargs)

    monkeypatch.setattr(engine.llm, "generate", heard)
    trainer.train()
    end = tokenizer.convert_tokens_to_ids("<｜end▁of▁sentence｜>")
    assert all(tokenizer.decode(ids).endswith("<｜Assistant｜><think>\n") for ids in asked)
    assert end in engine.generation_kwargs["stop_token_ids"]
    for stop in engine.generation_kwargs["stop_token_ids"]:
        sampled = {**engine.generation_kwargs, "logit_bias": {stop: 100.0}}
        monkeypatch.setattr(engine, "generation_kwargs", sampled)
        assert engine.generate([asked[0]], None, 1)[1] == [[stop]]


def test_a_context_that_is_too_short_is_told(build: Build) -> None:
    trainer = build(vllm_max_model_length=16)
    with pytest.raises(RunError, match="do not fit into the 16 of the engine"):
        trainer.train()


def test_noise_on_a_batch_that_serves_several_steps_is_refused(build: Build) -> None:
    with pytest.raises(
        ConfigError, match=r"^use_vllm with noise: a generated batch serves several"
    ):
        build(noise="neftune", num_iterations=2)


def test_answers_of_both_engines_are_the_same_greedily() -> None:
    registry = load_registry()
    model, tokenizer = generation.load("tiny-deepseek-llm", registry, engine="vllm")
    prompts = [[{"role": "user", "content": text}] for text in ("2 a24", "Hello?", "5 a15 b12")]
    sampling = generation.Sampling(max_new_tokens=12)
    found = generation.complete(model, tokenizer, prompts, sampling)
    drawing = generation.Sampling(max_new_tokens=12, num_samples=3, seed=1)
    drawn = [generation.complete(model, tokenizer, prompts, drawing) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert len({answer.token_ids for answer in drawn[0][0]}) == 3
    delattr(model, completing.ENGINE)
    assert generation.complete(model, tokenizer, prompts, sampling) == found
