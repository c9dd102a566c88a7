"""A real vLLM server, started as the documentation says, with gloo in the place of NCCL."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import requests

from trl_deepseek import load_registry
from trl_deepseek.sources import import_file

gloo_transport: Any = import_file(Path(__file__).parent / "gloo_transport.py")

STARTED_WITHIN = 540.0  # seconds; 60 on two cores
NAME = "tiny-deepseek-llm"
ROOM = 128


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Server:
    """Serves the embedded model of its name, in a process that starts others."""

    def __init__(self, folder: Path) -> None:
        model, self.tokenizer = load_registry().models[NAME]()
        model.save_pretrained(folder / NAME)
        self.tokenizer.save_pretrained(folder / NAME)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "log"
        words = ["--model", NAME, "--host", "127.0.0.1", "--port", str(self.port)]
        words += ["--dtype", "float32", "--max_model_len", str(ROOM), "--enforce_eager"]
        path = gloo_transport.write_plugin(folder / "plugin")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).parent / "trl", "vllm-serve", *words],
                cwd=folder,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": path},
            )
        self.all = [psutil.Process(self.process.pid)]

    def wait(self) -> None:
        until = time.monotonic() + STARTED_WITHIN
        while self.process.poll() is None and time.monotonic() < until:
            try:
                if requests.get(f"{self.url}/health", timeout=5).ok:
                    self.all = [self.all[0], *self.all[0].children(recursive=True)]
                    return
            except requests.RequestException:
                time.sleep(0.5)
        raise AssertionError(f"no server: {self.log.read_text()[-2000:]}")

    def each(self, number: int) -> None:
        for process in reversed(self.all):
            process.send_signal(number)

    def end(self) -> None:
        for process in self.all:
            if process.is_running():
                process.kill()
        self.process.wait()

    def answer(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        """What it says greedily, asked by nobody's client."""
        asked: Any = {"model": NAME, "prompt": prompts, "max_tokens": tokens, "temperature": 0.0}
        asked["return_token_ids"] = True
        told = requests.post(f"{self.url}/v1/completions", json=asked, timeout=600)
        return [choice["token_ids"] for choice in told.json()["choices"]]
