"""A real server of vLLM's is checked before a run, and its end ends the wait for it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from trl_deepseek import load_registry
from trl_deepseek.engines import server
from trl_deepseek.errors import ConfigError, RunError

MODULE = "vllm.entrypoints.openai.api_server"
SLOWLY: Any = {"model": "policy", "prompt": "3 a12", "max_tokens": 100, "ignore_eos": True}
STARTED_WITHIN = 540.0  # seconds; 60 on two cores


class Server:
    """vLLM's own, in a process that starts others."""

    def __init__(self, folder: Path) -> None:
        model, self.tokenizer = load_registry().models["tiny-deepseek-llm"]()
        model.save_pretrained(folder / "policy")
        self.tokenizer.save_pretrained(folder / "policy")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        words = ["--model", "policy", "--port", str(port), "--max-model-len", "128"]
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", MODULE, *words],
                cwd=folder,
                stdout=log,
                stderr=log,
                env={**os.environ, "VLLM_SERVER_DEV_MODE": "1"},
            )
        self.all = [psutil.Process(self.process.pid)]

    def wait(self) -> None:
        until = time.monotonic() + STARTED_WITHIN
        while self.process.poll() is None and time.monotonic() < until:
            try:
                if requests.get(f"{self.url}/health", timeout=5).ok:
                    self.all += self.all[0].children(recursive=True)
                    return
            except requests.RequestException:
                time.sleep(0.5)
        raise AssertionError(f"no server: {self.log.read_text()[-2000:]}")

    def each(self, number: int) -> None:
        for process in reversed(self.all):
            process.send_signal(number)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    try:
        made.wait()
        yield made
    finally:
        for process in made.all:
            if process.is_running():
                process.kill()
        made.process.wait()


def generates_for_long(url: str) -> None:
    while True:
        requests.post(f"{url}/v1/completions", json=SLOWLY, timeout=600).raise_for_status()


def test_the_policys_own_server_is_taken_and_others_are_not(served: Server) -> None:
    server.check(served.url, "policy", served.tokenizer, scaled=False)
    with pytest.raises(ConfigError, match="serves 'policy', and the policy is 'other'"):
        server.check(served.url, "other", served.tokenizer, scaled=False)
    with pytest.raises(ConfigError, match="reports log-probs of temperature 1"):
        server.check(served.url, "policy", served.tokenizer, scaled=True)
    tokenizer: Any = load_registry().models["tiny-deepseek-llm"]()[1]
    tokenizer.add_tokens(["a12"])
    with pytest.raises(ConfigError, match="has another tokenizer than 'policy'"):
        server.check(served.url, "policy", tokenizer, scaled=False)


def test_one_that_hangs_and_one_that_is_killed_end_the_wait_for_an_answer(served: Server) -> None:
    ask = server.watched(generates_for_long, served.url, 5.0)
    threading.Timer(1.0, served.each, [signal.SIGSTOP]).start()
    with pytest.raises(RunError, match="has not answered for 5 seconds"):
        ask(served.url)
    served.each(signal.SIGCONT)
    until = time.monotonic() + STARTED_WITHIN
    while time.monotonic() < until:
        try:
            if requests.get(f"{served.url}/health", timeout=5).ok:
                break
        except requests.RequestException:
            time.sleep(0.5)
    ask = server.watched(generates_for_long, served.url, STARTED_WITHIN)
    threading.Timer(1.0, served.each, [signal.SIGKILL]).start()
    with pytest.raises(RunError, match=r"^the vLLM server at http://127\.0\.0\.1:\d+ failed: "):
        ask(served.url)
