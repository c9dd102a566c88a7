"""Perplexity and preference accuracy against the trainers' own figures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from trl_deepseek import DPOConfig, DPOTrainer, Registry, SFTConfig, SFTTrainer, models
from trl_deepseek.errors import ConfigError
from trl_deepseek.evaluation import Evaluation, evaluate, resolve

ASK, SAY = {"role": "user", "content": "12+34"}, {"role": "assistant", "content": "46"}
LONG = {"role": "assistant", "content": "<think>\nlet me see\n</think>\n\nit is 46"}
ROWS: dict[str, list[dict[str, Any]]] = {
    "prompt and completion": [
        {"prompt": [ASK], "completion": [SAY]},
        {"prompt": [ASK], "completion": [LONG]},
    ],
    "several turns": [
        {"messages": [ASK, SAY, ASK, LONG]},
        {"messages": [{"role": "system", "content": "be brief"}, ASK, SAY]},
    ],
    "plain prompts": [
        {"prompt": "12+34=", "completion": "46"},
        {"prompt": "1+1=", "completion": "2, of course"},
    ],
    "plain text": [{"text": "12+34=46"}, {"text": "a text"}],
    "alpaca": [
        {"instruction": "add", "input": "12+34", "output": "46"},
        {"instruction": "say", "input": "", "output": "something longer"},
    ],
}
SILENT: dict[str, Any] = {
    "report_to": "none",
    "disable_tqdm": True,
    "per_device_eval_batch_size": 4,
}


def perplexity(found: Evaluation) -> float:
    return found.estimates()["perplexity"].value


@pytest.mark.parametrize("shape", ROWS)
def test_perplexity_is_exp_of_the_trainers_loss(
    shape: str, model: tuple[Any, Any], registry: Registry, tmp_path: Path
) -> None:
    rows = Dataset.from_list(ROWS[shape])
    found = perplexity(evaluate({"a": model}, rows, ["perplexity"], registry=registry))
    config = SFTConfig(str(tmp_path), chat_template="deepseek-llm", max_length=None, **SILENT)
    trainer = SFTTrainer(
        models.copy_of(model[0]),
        config,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=registry.models["tiny-deepseek-llm"]()[1],
    )
    loss = trainer.evaluate()["eval_loss"]
    assert found == pytest.approx(math.exp(loss), rel=1e-4)


def test_every_token_counts_alike(model: tuple[Any, Any], registry: Registry) -> None:
    rows = Dataset.from_list(ROWS["prompt and completion"])
    found = evaluate({"a": model}, rows, ["perplexity"], registry=registry)
    (measured,) = found.measured["a"]
    nll = sum(unit["nll"] for unit in measured.units if unit)
    tokens = sum(unit["tokens"] for unit in measured.units if unit)
    assert perplexity(found) == pytest.approx(math.exp(nll / tokens))
    assert all(unit and unit["tokens"] >= 3 for unit in measured.units)  # 46 and the end of turn


def pairs(registry: Registry) -> Dataset:
    return registry.datasets["arithmetic"]("test", kind="preferences", size=12)


def test_preference_accuracy_is_that_of_dpo(
    model: tuple[Any, Any], other: tuple[Any, Any], registry: Registry, tmp_path: Path
) -> None:
    other[0].save_pretrained(tmp_path / "reference")
    registry.models["tiny-deepseek-llm"]()[1].save_pretrained(tmp_path / "reference")
    reference = str(tmp_path / "reference")
    chosen = resolve(
        ["preference_accuracy"], registry, {"preference_accuracy": {"reference": reference}}
    )
    found = evaluate({"a": model}, pairs(registry), chosen, registry=registry)
    config = DPOConfig(str(tmp_path / "dpo"), chat_template="deepseek-llm", **SILENT)
    trainer = DPOTrainer(
        models.copy_of(model[0]),
        models.copy_of(other[0]),
        config,
        train_dataset=pairs(registry),
        eval_dataset=pairs(registry),
        processing_class=registry.models["tiny-deepseek-llm"]()[1],
    )
    expected = trainer.evaluate()["eval_rewards/accuracies"]
    assert found.estimates()["preference_accuracy"].value == pytest.approx(expected)
    assert 0 < expected < 1


def test_a_model_is_undecided_beside_itself(model: tuple[Any, Any], registry: Registry) -> None:
    options = {"preference_accuracy": {"reference": "tiny-deepseek-llm"}}
    chosen = resolve(["preference_accuracy"], registry, options)
    found = evaluate({"a": model}, pairs(registry), chosen, registry=registry)
    assert found.estimates()["preference_accuracy"].value == 0.5


def test_the_base_of_a_whole_model_is_not_known(model: tuple[Any, Any], registry: Registry) -> None:
    options = {"preference_accuracy": {"reference": "base"}}
    chosen = resolve(["preference_accuracy"], registry, options)
    with pytest.raises(ConfigError, match="reference 'base' is for adapters"):
        evaluate({"a": model}, pairs(registry), chosen, registry=registry)
