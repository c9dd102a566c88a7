"""A trained reward model as a GRPO reward: it gives the trainer's own scores, or says why not."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from trl_deepseek import (
    GRPOConfig,
    GRPOTrainer,
    RewardConfig,
    RewardTrainer,
    chat,
    load_registry,
    models,
    rewards,
)
from trl_deepseek.errors import ModelError
from trl_deepseek.rewards import model_reward
from trl_deepseek.rewards.model_reward import (
    DeferredReward,
    ModelReward,
    check_reward_model,
    load_reward_model,
)

NAME = "tiny-deepseek-llm"


def pairs(count: int = 8, *, plain: bool = False) -> Dataset:
    rows = load_registry().datasets["arithmetic"](kind="preferences", size=count).to_list()
    if plain:
        rows = [{k: v[0]["content"] for k, v in row.items() if k != "solution"} for row in rows]
    return Dataset.from_list(rows)


def trained(folder: Path, data: Dataset, model: Any = NAME, **options: Any) -> RewardTrainer:
    """A reward model after one step, saved in ``folder``."""
    config = RewardConfig(
        output_dir=str(folder),
        max_steps=1,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        bf16=False,
        gradient_checkpointing=False,
        chat_template="deepseek-v3",
    )
    trainer = RewardTrainer(model, config, train_dataset=data, **options)
    trainer.train()
    trainer.save_model(str(folder))
    return trainer


def scores_of(trainer: RewardTrainer) -> tuple[list[float], list[float]]:
    """What the trainer's model gives the chosen and rejected texts that it trained on."""
    model = trainer.model.eval()
    found: tuple[list[float], list[float]] = ([], [])
    for row in trainer.train_dataset:
        for side, scores in zip(("chosen_ids", "rejected_ids"), found, strict=True):
            with torch.no_grad():
                scores.append(float(model(torch.tensor([row[side]])).logits[0, 0]))
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A folder with a reward model, and the scores its trainer gives to chosen and rejected."""
    folder = tmp_path_factory.mktemp("judge") / "judge-v1"
    return folder, *scores_of(trained(folder, pairs()))


def test_it_gives_the_scores_of_its_trainer(saved: tuple[Path, Any, Any]) -> None:
    folder, chosen, rejected = saved
    reward = load_reward_model(str(folder))
    data = pairs()
    assert reward.__name__ == "judge-v1"
    assert reward(data["prompt"], data["chosen"]) == pytest.approx(chosen, abs=1e-5)
    assert reward(data["prompt"], data["rejected"]) == pytest.approx(rejected, abs=1e-5)
    assert max(chosen) - min(rejected) > 1e-3


def test_plain_texts_end_as_they_did_in_training(tmp_path: Path) -> None:
    data = pairs(plain=True)
    chosen, _ = scores_of(trained(tmp_path, data))
    reward = load_reward_model(str(tmp_path))
    assert reward(data["prompt"], data["chosen"]) == pytest.approx(chosen, abs=1e-5)


def test_the_reasoning_of_the_last_turn_is_scored(saved: tuple[Path, Any, Any]) -> None:
    reward = load_reward_model(str(saved[0]))
    prompt = [{"role": "user", "content": "1+1"}]
    answers = [[{"role": "assistant", "content": f"<think>{steps}</think>2"}] for steps in "ab"]
    first, second = reward([prompt] * 2, answers)
    assert first != second


def test_what_the_generation_prompt_wrote_is_put_back(saved: tuple[Path, Any, Any]) -> None:
    reward = load_reward_model(str(saved[0]))
    prompt = [{"role": "user", "content": "1+1"}]
    whole = [{"role": "assistant", "content": "<think>\nsteps</think>2"}]
    without = [{"role": "assistant", "content": "steps</think>2"}]
    expected = reward([prompt], [whole])
    assert reward([prompt], [without], generation_prefix="<think>\n") == expected
    assert reward([prompt], [whole], generation_prefix="<think>\n") == expected
    assert reward([prompt], [without]) != expected


def test_a_score_depends_on_its_own_text_only(saved: tuple[Path, Any, Any]) -> None:
    folder, chosen, _ = saved
    data = pairs()
    for size in (1, 3):
        reward = load_reward_model(str(folder), batch_size=size)
        assert reward(data["prompt"], data["chosen"]) == pytest.approx(chosen, abs=1e-5)
    assert reward([], []) == []


def test_of_a_text_that_is_too_long_the_end_is_scored() -> None:
    model, tokenizer = load_registry().models[NAME]()
    classifier = models.as_reward_model(model)
    reward = ModelReward(classifier, tokenizer, "judge", max_length=12)
    one, other = reward(["a" * 100, "b" * 100], ["the same end", "the same end"])
    assert one == other
    assert len(reward.encode("a" * 100, "the same end")) == 12
    assert ModelReward(classifier, tokenizer, "judge").max_length == 2048


@pytest.mark.parametrize("name", [NAME, "tiny-deepseek-v3"])
def test_an_adapter_on_an_embedded_model_finds_the_weights_it_was_trained_on(
    name: str, tmp_path: Path
) -> None:
    adapter = LoraConfig(r=4, target_modules=["o_proj"])
    trainer = trained(tmp_path, pairs(), name, peft_config=adapter)
    assert not (tmp_path / "model.safetensors").exists()
    chosen, _ = scores_of(trainer)
    data = pairs()
    found = load_reward_model(str(tmp_path))(data["prompt"], data["chosen"])
    assert found == pytest.approx(chosen, abs=1e-4)


def test_an_adapter_on_a_folder_is_put_on_that_folder(tmp_path: Path) -> None:
    language_model, tokenizer = load_registry().models[NAME](seed=5)
    language_model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    adapter = LoraConfig(r=4, target_modules=["o_proj"])
    base = str(tmp_path / "base")
    chosen, _ = scores_of(trained(tmp_path / "rm", pairs(), base, peft_config=adapter))
    data = pairs()
    found = load_reward_model(str(tmp_path / "rm"))(data["prompt"], data["chosen"])
    assert found == pytest.approx(chosen, abs=1e-4)


def test_by_name_it_is_loaded_at_the_first_call_only(
    saved: tuple[Path, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, chosen, _ = saved
    loads: list[str] = []

    def load(path: str, registry: Any) -> ModelReward:
        loads.append(path)
        return load_reward_model(path, registry)

    monkeypatch.setattr(model_reward, "load_reward_model", load)
    (reward,) = rewards.resolve(f"model:{folder}", load_registry())
    assert rewards.name_of(reward) == "judge-v1"
    assert not loads
    data = pairs()
    for _ in range(2):
        assert reward(data["prompt"], data["chosen"]) == pytest.approx(chosen, abs=1e-5)
    assert loads == [str(folder)]
    copy = pickle.loads(pickle.dumps(reward))
    assert isinstance(copy, DeferredReward)
    assert copy._loaded is None
    assert copy.path == str(folder)


def test_grpo_trains_on_its_scores(saved: tuple[Path, Any, Any], tmp_path: Path) -> None:
    config = GRPOConfig(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=8,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        bf16=False,
        chat_template="deepseek-v3",
    )
    seen: list[list[float]] = []

    def witness(prompts: Any, completions: Any, **_: Any) -> list[float]:
        seen.append(load_reward_model(str(saved[0]))(prompts, completions))
        return [0.0] * len(completions)

    trainer = GRPOTrainer(
        NAME,
        [f"model:{saved[0]}", witness],
        config,
        train_dataset=load_registry().datasets["arithmetic"](size=4),
    )
    trainer.train()
    logged = [log for log in trainer.state.log_history if "rewards/judge-v1/mean" in log]
    assert len(logged) == 1
    assert len(seen) == 1
    assert logged[0]["rewards/judge-v1/mean"] == pytest.approx(sum(seen[0]) / 4, abs=1e-5)
    assert len(set(seen[0])) > 1


def write(folder: Path, **files: Any) -> None:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text)


CLASSIFIER = {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
ADAPTER = {"task_type": "SEQ_CLS", "base_model_name_or_path": "owner/base"}
WEIGHTS: dict[str, Any] = {"model__safetensors": "", "tokenizer__json": {}}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "is an empty folder"),
        ({"config__json": CLASSIFIER}, "no weights"),
        ({"config__json": CLASSIFIER, "model__safetensors": ""}, "no tokenizer"),
        ({**WEIGHTS, "config__json": "{"}, "not valid JSON"),
        (
            {**WEIGHTS, "config__json": {"architectures": ["LlamaForCausalLM"]}},
            "is a LlamaForCausalLM, not a sequence classifier",
        ),
        (
            {**WEIGHTS, "config__json": {**CLASSIFIER, "id2label": {"0": "a", "1": "b"}}},
            "tells 2 labels apart",
        ),
        (
            {**WEIGHTS, "config__json": {"architectures": CLASSIFIER["architectures"]}},
            "tells 2 labels apart",
        ),
        (
            {**WEIGHTS, "adapter_config__json": {**ADAPTER, "task_type": "CAUSAL_LM"}},
            "an adapter for CAUSAL_LM",
        ),
        (
            {**WEIGHTS, "adapter_config__json": {**ADAPTER, "base_model_name_or_path": None}},
            "does not say on which base",
        ),
        (
            {**WEIGHTS, "adapter_config__json": {**ADAPTER, "base_model_name_or_path": "./gone"}},
            "'./gone', which does not exist",
        ),
    ],
)
def test_what_is_no_reward_model_is_refused_without_reading_weights(
    files: dict[str, Any], words: str, tmp_path: Path
) -> None:
    write(tmp_path, **files)
    with pytest.raises(ModelError, match=words):
        check_reward_model(str(tmp_path))


@pytest.mark.parametrize("files", [{"config__json": CLASSIFIER}, {"adapter_config__json": ADAPTER}])
def test_what_looks_like_one_is_accepted(files: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, **WEIGHTS, **files)
    check_reward_model(str(tmp_path))


@pytest.mark.parametrize("check", [check_reward_model, load_reward_model, DeferredReward])
def test_a_path_that_does_not_exist_is_refused(check: Callable[[str], Any]) -> None:
    for path in ("./gone", "gone", "a/b/c"):
        with pytest.raises(ModelError, match="no such folder"):
            check(path)
    check_reward_model("owner/name")  # may be on the hub


def test_the_saved_tokenizer_generates_with_the_inference_template(
    saved: tuple[Path, Any, Any],
) -> None:
    from transformers import AutoTokenizer

    template = load_registry().chat_templates["deepseek-v3"]
    assert AutoTokenizer.from_pretrained(saved[0]).chat_template == template.inference
    reward = load_reward_model(str(saved[0]))
    assert reward.tokenizer.chat_template == template.training
    assert chat.generation_prefix(reward.tokenizer) == ""
