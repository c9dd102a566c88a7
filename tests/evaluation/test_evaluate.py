from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from datasets import Dataset

from trl_deepseek import Registry, generation, hookimpl, load_registry
from trl_deepseek.errors import (
    ConfigError,
    DataError,
    PluginError,
    RewardError,
    RunError,
    UnknownName,
)
from trl_deepseek.evaluation import evaluate, resolve
from trl_deepseek.generation import Sampling
from trl_deepseek.rewards.contract import Settings
from trl_deepseek.types import Estimate, Register

TWO = Sampling(num_samples=2, max_new_tokens=4)
QUESTIONS = Dataset.from_list(
    [{"prompt": [{"role": "user", "content": f"{n}+1"}], "solution": str(n + 1)} for n in range(6)]
)


class Mine:
    """Metrics of every form."""

    @hookimpl
    def register_metrics(self, register: Register) -> None:
        register("row", row)
        register("parts", parts, aggregate=parts_of_sums, higher_is_better=False)
        register("best", best, over="groups", judge="exact_match")
        register("weights", weights, over="model", rows="prompts")
        register("fixed", fixed, over="model", rows=None)
        register("broken", broken)
        register("endless", endless)
        register("nothing", nothing)
        register("silent", silent)


def row(completion: str, solution: str, scale: float = 1.0) -> float | None:
    return scale * int(solution) if int(solution) % 2 else None


def parts(completions: list[Any], **_: Any) -> list[dict[str, float]]:
    return [{"up": 1.0, "down": 2.0} for _ in completions]


def parts_of_sums(sums: Any) -> dict[str, float]:
    return {"": sums["up"] / sums["down"], "total": sums["down"]}


def best(scores: list[float | None], completions: list[str], solution: str) -> float:
    assert len(scores) == len(completions) == 2
    return float(solution)


def weights(model: Any, dataset: Any, factor: int = 1) -> list[int]:
    return [factor * len(dataset)] * len(dataset)


def fixed(model: Any, task: str = "none") -> dict[str, Estimate]:
    return {task: Estimate(0.5, 0.4, 0.6, 10)}


def broken(completion: str) -> float:
    raise KeyError("no")


async def endless(completions: list[Any]) -> list[float]:
    await asyncio.sleep(0)
    return [float("nan")] * len(completions)


def nothing(completions: list[Any]) -> list[str]:
    return ["a"] * len(completions)


def silent(completions: list[Any]) -> list[None]:
    return [None] * len(completions)


@pytest.fixture(scope="module")
def mine() -> Registry:
    return load_registry([Mine()])


def test_each_form_of_metric_gives_its_value(model: tuple[Any, Any], mine: Registry) -> None:
    names = ["row", "parts", "best", "weights", "fixed:hellaswag", "exact_match", "silent"]
    options = {"row": {"scale": 10.0}, "weights": {"factor": 2}}
    chosen = resolve(names, mine, options, num_samples=2)
    found = evaluate({"a": model}, QUESTIONS, chosen, TWO, registry=mine)
    values = {label: (e.value, e.count) for label, e in found.estimates("a").items()}
    assert values == {
        "row": (10 * (1 + 3 + 5) / 3, 3),  # the others abstained
        "parts": (0.5, 6),
        "parts/total": (24.0, 6),
        "best": (3.5, 6),
        "weights": (12.0, 6),
        "fixed:hellaswag/hellaswag": (0.5, 10),
        "exact_match": (0.0, 6),
    }


def test_a_model_against_itself_differs_by_nothing(
    model: tuple[Any, Any], registry: Registry
) -> None:
    names = ["exact_match", "perplexity", "bleu", lambda completion: len(completion)]
    rows = {
        kind: registry.datasets["arithmetic"]("test", kind=kind, size=6)  # type: ignore[arg-type]
        for kind in ("prompts", "demonstrations")
    }
    sampling = Sampling(max_new_tokens=4)
    found = evaluate({"a": model, "b": model}, rows, names, sampling, registry=registry)
    differences = found.differences()
    assert [each.metric for each in differences] == ["exact_match", "perplexity", "bleu", "lambda"]
    for each in differences:
        assert (each.a, each.b, each.better) == ("a", "b", None)
        assert (each.estimate.value, each.estimate.low, each.estimate.high) == (0.0, 0.0, 0.0)


def test_a_real_gain_is_called_one(
    model: tuple[Any, Any], other: tuple[Any, Any], mine: Registry
) -> None:
    turn = iter([0.0, 1.0])

    def gain(completions: list[Any]) -> list[float]:
        return [next(turn)] * len(completions)

    models = {"a": model, "b": other}
    found = evaluate(models, QUESTIONS, [gain, "parts"], Sampling(max_new_tokens=2), registry=mine)
    gained, same, _ = found.differences()
    assert (gained.estimate.value, gained.better) == (1.0, True)
    assert same.better is None


def test_answers_are_made_once_for_all_metrics(
    model: tuple[Any, Any], mine: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    complete = generation.complete

    def counting(*args: Any, **options: Any) -> Any:
        calls.append(len(args[2]))
        return complete(*args, **options)

    monkeypatch.setattr(generation, "complete", counting)
    evaluate({"a": model}, QUESTIONS, ["row", "best", "exact_match"], TWO, registry=mine)
    assert calls == [6]


def test_a_model_is_loaded_when_it_is_its_turn(model: tuple[Any, Any], mine: Registry) -> None:
    order: list[str] = []

    def load(name: str) -> Any:
        order.append(name)
        return model

    def note(completion: str) -> float:
        order.append("scored")
        return 0.0

    models = {name: lambda name=name: load(name) for name in "ab"}
    evaluate(models, QUESTIONS.take(1), [note], Sampling(max_new_tokens=2), registry=mine)
    assert order == ["a", "scored", "b", "scored"]


def test_a_reward_is_held_to_its_contract(
    model: tuple[Any, Any], mine: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(completion: str, solution: str) -> float | None:
        if solution == "3":
            raise ValueError("cannot read it")
        return None if solution == "4" else 1.0

    def run(on_error: Any) -> Any:
        settings = Settings(on_error=on_error, output_dir=str(tmp_path))
        sampling = Sampling(max_new_tokens=2)
        models = {"a": model}
        return evaluate(models, QUESTIONS, [fails], sampling, registry=mine, settings=settings)

    with pytest.raises(RewardError, match="cannot read it"):
        run("raise")
    estimate = run("abstain").estimates()["fails"]
    assert (estimate.value, estimate.count) == (1.0, 4)
    assert "a, fails: 1 errors; 1 abstained; 2 of 6 prompts have no value" in caplog.text
    assert run(-1.0).estimates()["fails"].value == pytest.approx((4 - 1) / 5)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", "metric 'broken' failed: KeyError: 'no'"),
        ("endless", "metric 'endless' gave NaN"),
        ("nothing", "metric 'nothing' gave 'a', which is no number"),
    ],
)
def test_what_a_metric_does_wrong_is_said(
    name: str, said: str, model: tuple[Any, Any], mine: Registry
) -> None:
    with pytest.raises(RunError, match=said):
        evaluate({"a": model}, QUESTIONS, [name], Sampling(max_new_tokens=2), registry=mine)


def test_what_was_found_is_written_down(
    model: tuple[Any, Any], mine: Registry, tmp_path: Path
) -> None:
    found = evaluate({"a": model}, QUESTIONS, ["row", "exact_match"], TWO, registry=mine)
    found.save(tmp_path)
    samples = pyarrow.parquet.read_table(tmp_path / "samples.parquet").to_pylist()
    assert len(samples) == 12
    assert [sample["row"] for sample in samples[:4]] == [0, 0, 1, 1]
    assert samples[0]["row"] == samples[0]["sample"] == 0
    assert (samples[2]["metrics/exact_match"], samples[2]["model"]) == (0.0, "a")
    assert "1+1" in samples[2]["prompt"]
    values = pyarrow.parquet.read_table(tmp_path / "values.parquet").to_pylist()
    assert values[0] == {"model": "a", "metric": "row", "row": 0, "value": 1.0}
    assert values[1]["value"] is None
    assert len(values) == 12


def test_a_judge_can_be_any_reward(model: tuple[Any, Any], mine: Registry, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def always(completion):\n    return 1.0\n")
    judge = {"pass_at_k": {"judge": f"{tmp_path / 'mine.py'}:always", "k": [1, 2]}}
    chosen = resolve(["pass_at_k"], mine, judge, num_samples=2)
    found = evaluate({"a": model}, QUESTIONS, chosen, TWO, registry=mine)
    values = {label: estimate.value for label, estimate in found.estimates().items()}
    assert values == {"pass_at_k/1": 1.0, "pass_at_k/2": 1.0}


@pytest.mark.parametrize(
    ("names", "options", "error", "said"),
    [
        (["rwo"], {}, UnknownName, "did you mean 'row'"),
        (["row", "row"], {}, ConfigError, "'row' is named twice"),
        (["row"], {"row": {"scal": 1}}, ConfigError, "no option 'scal' \\(did you mean 'scale'"),
        (["row"], {"rwo": {}}, ConfigError, "'rwo' is not among the metrics"),
        (["row:x"], {}, ConfigError, "metric 'row' has no tasks"),
        (["pass_at_k"], {"pass_at_k": {"k": 8}}, ConfigError, "k is 8, and num_samples is 2"),
        (["pass_at_k"], {"pass_at_k": {"judge": "exact"}}, UnknownName, "did you mean"),
        (["exact_match"], {"exact_match": {"x": 1}}, ConfigError, "no option 'x'"),
    ],
)
def test_metrics_that_do_not_fit_are_refused(
    names: list[str], options: dict[str, Any], error: type, said: str, mine: Registry
) -> None:
    with pytest.raises(error, match=said):
        resolve(names, mine, options, num_samples=2)


def test_a_column_that_is_not_there_is_named(model: tuple[Any, Any], mine: Registry) -> None:
    rows = QUESTIONS.rename_column("solution", "answer")
    with pytest.raises(DataError, match="needs the column 'solution'"):
        evaluate({"a": model}, rows, ["row"], registry=mine)


@pytest.mark.parametrize(
    "options",
    [
        {"over": "samples"},
        {"rows": "pairs"},
        {"rows": None},
        {"judge": "exact_match"},
        {"higher_is_better": "yes"},
        {"aggregate": 1},
        {"columns": [1]},
        {"colums": ()},
    ],
)
def test_a_registration_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    class Wrong:
        @hookimpl
        def register_metrics(self, register: Register) -> None:
            register("wrong", row, **options)

    with pytest.raises(PluginError, match="metric 'wrong'"):
        load_registry([Wrong()])
