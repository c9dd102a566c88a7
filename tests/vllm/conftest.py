"""GRPO with a real vLLM, its CPU build (`make test-vllm`); without one nothing is collected."""

from __future__ import annotations

import gc
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek.sources import import_file

collect_ignore_glob = [] if importlib.util.find_spec("vllm") else ["test_*.py"]

# Read by vLLM when it starts: GiB for keys and values, and threads that stay where they are.
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

QUESTIONS = ("2 a24 b12 c23 d23 e15", "3 a12 b45 c13 d23 e35", "5 a15 b12 c34 d25 e14", "Hello?")


def never(completions: list[Any], **_: Any) -> list[float]:
    """Against whatever is said, so that the greedy answer to a prompt changes."""
    return [-1.0 - place % 4 for place in range(len(completions))]


Build = Callable[..., Any]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Builds a trainer for three steps of a large learning rate; ends its engine after the test."""
    from datasets import Dataset

    from trl_deepseek import GRPOConfig, GRPOTrainer

    built: list[Any] = []

    def trainer(
        folder: str = "run", model: Any = "tiny-deepseek-llm", reward: Any = never, **given: Any
    ) -> Any:
        of_trainer = {name: given.pop(name) for name in ("peft_config",) if name in given}
        options: dict[str, Any] = {
            "use_vllm": True,
            "max_completion_length": 8,
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "max_steps": 3,
            "learning_rate": 3e-3,
            "beta": 0.0,
            "logging_steps": 1,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            **given,
        }
        if options["use_vllm"] and "vllm_mode" not in options:
            options.setdefault("vllm_max_model_length", 128)
        rows = [{"prompt": [{"role": "user", "content": text}]} for text in QUESTIONS]
        built.append(
            GRPOTrainer(
                model,
                reward_funcs=reward,
                args=GRPOConfig(output_dir=str(tmp_path / folder), **options),
                train_dataset=Dataset.from_list(rows * 4),
                **of_trainer,
            )
        )
        return built[-1]

    yield trainer
    for each in built:
        if each.use_vllm:
            each.vllm_generation.end()
            vars(each.vllm_generation).pop("llm", None)
    gc.collect()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    """Those that were started; all but the last are dead."""
    started: list[Any] = []
    yield started
    for each in started:
        each.end()


@pytest.fixture
def serve(servers: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Any]:
    """Gives a vLLM server that lives, of the embedded model that is trained."""
    serving: Any = import_file(Path(__file__).parent / "serving.py")

    def living() -> Any:
        if not servers or servers[-1].process.poll() is not None:
            servers.append(serving.Server(tmp_path_factory.mktemp("server")))
            servers[-1].wait()
        return servers[-1]

    return living


@pytest.fixture
def served(serve: Callable[[], Any]) -> Any:
    return serve()


@pytest.fixture
def build_on_server(build: Build, served: Any, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Builds a trainer as ``build`` does, whose engine is the server."""
    transport: Any = import_file(Path(__file__).parent / "gloo_transport.py")
    transport.replace_in_trainer(monkeypatch)
    options = {"vllm_mode": "server", "vllm_server_base_url": served.url}
    return lambda folder="run", **given: build(folder, **{**options, **given})
