"""Models that answer what a test wants, measured as ``evaluate`` measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from trl_deepseek import load_registry
from trl_deepseek.evaluation import Evaluation, evaluate, resolve
from trl_deepseek.generation import Completion, Sampling
from trl_deepseek.sources import import_file

Measure = Callable[..., Evaluation]


@pytest.fixture(scope="session")
def registry() -> Any:
    return load_registry()


@pytest.fixture(scope="session")
def tiny(registry: Any) -> Any:
    """A model and its tokenizer."""
    return registry.models["tiny-deepseek-llm"]()


@pytest.fixture
def measure(registry: Any, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Measure:
    """``measure(rows, metric, {"a": answers}, options)``, answers per prompt: one or several."""

    def run(
        rows: Sequence[Mapping[str, Any]],
        metric: str,
        answers: Mapping[str, Sequence[str | Sequence[str]]],
        options: Mapping[str, Any] | None = None,
        samples: int = 1,
    ) -> Evaluation:
        def complete(model: str, tokenizer: Any, prompts: Any, *_: Any, **__: Any) -> Any:
            given = [[said] if isinstance(said, str) else said for said in answers[model]]
            assert len(given) == len(prompts)
            return [[Completion(text, (1,), True) for text in said] for said in given]

        monkeypatch.setattr("trl_deepseek.generation.complete", complete)
        chosen = resolve([metric], registry, {metric: options or {}}, num_samples=samples)
        models = {name: (name, tiny[1]) for name in answers}
        sampling = Sampling(num_samples=samples)
        return evaluate(models, Dataset.from_list(list(rows)), chosen, sampling, registry=registry)

    return run


stub: Any = import_file(Path(__file__).parents[1] / "judging" / "stub_endpoint.py")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An endpoint that the environment names as the judge."""
    pytest.importorskip("openai", reason="the extra 'judge' is not installed")
    server = stub.Endpoint()
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("TRL_DEEPSEEK_JUDGE_MODEL", "judge")
    server.said = stub.said
    yield server
    server.server.shutdown()
    server.server.server_close()
