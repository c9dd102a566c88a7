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

Build = Callable[..., Any]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Builds a trainer of ``runs.py``; ends its engine after the test."""
    runs: Any = import_file(Path(__file__).parent / "runs.py")
    built: list[Any] = []

    def trainer(folder: str = "run", **given: Any) -> Any:
        built.append(runs.trainer(tmp_path / folder, **given))
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
