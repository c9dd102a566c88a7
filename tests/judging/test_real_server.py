"""The judge against ``transformers serve``, with a small model that learned to judge.

In front stands a proxy that fails on demand, as hosted endpoints do.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai", reason="the extra 'judge' is not installed")
pytest.importorskip("fastapi", reason="what `transformers serve` needs is not installed")

import openai
import torch

from trl_deepseek import load_registry
from trl_deepseek.cli.main import main
from trl_deepseek.judging import Endpoint, Preference, ask, grading, prefer, read_score
from trl_deepseek_plugins.rewards.judge import llm_judge

pytestmark = pytest.mark.matrix

SCALE = (1, 10)


def questions(count: int) -> list[list[dict[str, str]]]:
    return [grading("Judge.", SCALE, f"What is {i}+{i}?", None, "seven") for i in range(count)]


def save_parrot(says: str, folder: Path) -> str:
    """A tiny model that answers ``says``, no letter of which may stand there twice.

    Its layers add nothing, so that the last token alone says which comes next.
    """
    model, tokenizer = load_registry().models["tiny-deepseek-llm"]()
    last = tokenizer.apply_chat_template(
        [{"role": "user", "content": "so"}], add_generation_prompt=True
    )["input_ids"][-1]
    said = tokenizer.encode(says, add_special_tokens=False)
    assert len({last, *said}) == 1 + len(said)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.zero_()
        model.lm_head.weight.zero_()
        for before, after in itertools.pairwise([last, *said, tokenizer.eos_token_id]):
            model.lm_head.weight[after] = model.model.embed_tokens.weight[before]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def grader(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A judge that gives everything a 7."""
    return save_parrot("Score=7", tmp_path_factory.mktemp("grader"))


@pytest.fixture(scope="module")
def comparer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A judge that prefers what stands first."""
    return save_parrot("Verdict=A", tmp_path_factory.mktemp("comparer"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of ``transformers serve``, which loads the models that it is asked for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", code, "serve", "--device", "cpu"]
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=out,
            stderr=out,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
    try:
        until = time.monotonic() + 240
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            threading.Event().wait(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


class Proxy:
    """Passes requests on, but for those that ``instead`` has an answer to."""

    def __init__(self, target: str) -> None:
        self.instead: Any = lambda number: None
        self.requests = 0
        self.answered: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with proxy._lock:
                    proxy.requests += 1
                    number = proxy.requests
                status = proxy.instead(number)
                if status is None:
                    headers = {"Content-Type": "application/json"}
                    request = urllib.request.Request(target + self.path, body, headers)
                    try:
                        with urllib.request.urlopen(request) as reply:
                            status, data = 200, reply.read()
                            proxy.answered.append(json.loads(data))
                    except urllib.error.HTTPError as error:
                        status, data = error.code, error.read()
                else:
                    data = json.dumps({"error": {"message": "not now"}}).encode()
                with contextlib.suppress(OSError):  # who asked may have gone
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Retry-After", "0")
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    proxy = Proxy(server)
    yield proxy
    proxy.server.shutdown()
    proxy.server.server_close()


@pytest.fixture
def endpoint(grader: str, proxy: Proxy) -> partial[Endpoint]:
    return partial(Endpoint, model=grader, base_url=proxy.url, cache=None, retries=0)


def scores(endpoint: Endpoint, count: int = 4) -> Any:
    return asyncio.run(
        ask("a test", questions(count), lambda reply: read_score(reply, SCALE), endpoint)
    )


SEVEN = pytest.approx((7 - 1) / (10 - 1))


def test_a_served_model_grades_and_another_compares(
    proxy: Proxy, endpoint: Any, comparer: str
) -> None:
    replies = scores(endpoint())
    assert replies.values == [SEVEN] * 4
    assert (replies.asked, replies.failed, replies.unsure) == (4, 0, 0)
    assert {answered["object"] for answered in proxy.answered} == {"chat.completion"}
    pairs = asyncio.run(
        prefer("a test", ["how?"], ["so"], ["thus"], None, endpoint(model=comparer))
    )
    assert pairs == [Preference(0.5, 1.0)]  # it says A in both orders


def test_the_reward_asks_it_too(grader: str, proxy: Proxy) -> None:
    given = {"model": grader, "base_url": proxy.url, "cache": None, "retries": 0}
    scored = asyncio.run(
        llm_judge(
            prompts=["what is the sum?"] * 2,
            completions=["seven", ""],
            scale=SCALE,
            **given,  # type: ignore[arg-type]
        )
    )
    assert scored == [SEVEN, 0.0]


def test_the_command_measures_with_served_judges(
    grader: str,
    comparer: str,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"turns": ["What is 2+2?", "And doubled?"], "category": "math"}
    Path("questions.jsonl").write_text(json.dumps(row) + "\n")
    rows = [{"instruction": f"Say {i}.", "output": str(i)} for i in range(6)]
    Path("outputs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def measured(metric: str, judge: str, file: str) -> dict[str, float]:
        endpoint = {"model": judge, "base_url": proxy.url, "cache": None, "retries": 0}
        words = ["--models", "tiny-deepseek-llm", "--metrics", metric, "--dataset_name", file]
        words += ["--metric_kwargs", json.dumps({metric: {"endpoint": endpoint}})]
        assert main(["evaluate", *words, "--max_new_tokens", "4", "--json"]) == 0
        (model,) = json.loads(capsys.readouterr().out)["models"]
        return {name: numbers["value"] for name, numbers in model["metrics"].items()}

    grades = dict.fromkeys(("", "/turn_1", "/turn_2", "/math"), 7.0)
    assert measured("mt_bench", grader, "questions.jsonl") == pytest.approx(
        {f"mt_bench{name}": grade for name, grade in grades.items()}
    )
    won = measured("alpaca_eval", comparer, "outputs.jsonl")
    assert (won["alpaca_eval"], won["alpaca_eval/position_bias"]) == (0.5, 1.0)
    assert won["alpaca_eval/length_controlled"] == pytest.approx(0.5, abs=1e-3)


def test_refusals_that_pass_are_asked_again(proxy: Proxy, endpoint: Any) -> None:
    proxy.instead = lambda number: {1: 429, 2: 500, 3: 503}.get(number)
    replies = scores(endpoint(retries=4), count=2)
    assert replies.values == [SEVEN] * 2
    assert (proxy.requests, len(proxy.answered)) == (5, 2)


def test_what_a_further_attempt_cannot_mend_is_asked_once(proxy: Proxy, endpoint: Any) -> None:
    proxy.instead = lambda number: 400 if number == 1 else None
    with pytest.warns(UserWarning, match="1 of 2 requests to the judge failed"):
        replies = scores(endpoint(retries=4), count=2)
    assert sorted(replies.values, key=str) == [SEVEN, None]
    assert (proxy.requests, replies.failed) == (2, 1)
    proxy.instead = lambda number: 401
    with pytest.raises(openai.AuthenticationError):
        scores(endpoint(retries=4), count=2)


def test_an_answer_that_takes_too_long_is_given_up_and_asked_again(
    proxy: Proxy, endpoint: Any
) -> None:
    ended = threading.Event()

    def hang(number: int) -> int | None:
        return ended.wait(300) and 500 if number == 1 else None

    proxy.instead = hang
    replies = scores(endpoint(retries=2, seconds=5.0), count=1)
    ended.set()
    assert replies.values == [SEVEN]
    assert proxy.requests == 2


def test_the_cache_answers_instead_of_the_server(
    proxy: Proxy, endpoint: Any, tmp_path: Path
) -> None:
    kept = endpoint(cache=str(tmp_path / "judge.sqlite"))
    assert scores(kept).values == [SEVEN] * 4
    proxy.instead = lambda number: 500
    replies = scores(kept)
    assert replies.values == [SEVEN] * 4
    assert (replies.asked, proxy.requests) == (0, 4)


def test_the_rate_holds_for_further_attempts_too(proxy: Proxy, endpoint: Any) -> None:
    proxy.instead = lambda number: 429 if number == 2 else None
    begin = time.monotonic()
    assert scores(endpoint(retries=2, requests_per_minute=300), count=4).values == [SEVEN] * 4
    assert proxy.requests == 5
    assert time.monotonic() - begin >= 4 * 60 / 300  # five starts, four gaps


def test_another_model_than_the_served_one_is_said(proxy: Proxy, endpoint: Any) -> None:
    with pytest.raises(openai.APIStatusError):
        scores(Endpoint("no-such-model", proxy.url, cache=None, retries=0), count=1)
