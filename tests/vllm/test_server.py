"""A real server of vLLM's is checked before a run, and one that hangs ends the wait for it."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest
import requests

from trl_deepseek import load_registry
from trl_deepseek.engines import server
from trl_deepseek.errors import ConfigError, RunError

NAME = "tiny-deepseek-llm"
SLOWLY: Any = {"model": NAME, "prompt": "3 a12", "max_tokens": 100, "ignore_eos": True}


def test_the_policys_own_server_is_taken_and_others_are_not(served: Any) -> None:
    options: Any = {"scaled": True, "answer": 127}
    server.check(served.url, NAME, served.tokenizer, **options)
    with pytest.raises(ConfigError, match=f"serves '{NAME}', and the policy is 'other'"):
        server.check(served.url, "other", served.tokenizer, **options)
    with pytest.raises(ConfigError, match="than the 128 tokens of the server at http"):
        server.check(served.url, NAME, served.tokenizer, scaled=True, answer=128)
    tokenizer: Any = load_registry().models[NAME]()[1]
    tokenizer.add_tokens(["a12"])
    with pytest.raises(ConfigError, match=f"has another tokenizer than '{NAME}'"):
        server.check(served.url, NAME, tokenizer, **options)


def test_one_that_hangs_ends_the_wait_for_an_answer(served: Any) -> None:
    over, ended = threading.Event(), threading.Event()

    def generates_for_long() -> None:
        while not over.is_set():
            requests.post(f"{served.url}/v1/completions", json=SLOWLY, timeout=600)
        ended.set()

    threading.Timer(1.0, served.each, [signal.SIGSTOP]).start()
    with pytest.raises(RunError, match="has not answered for 5 seconds"):
        server.watched(generates_for_long, served.url, 5.0)()
    over.set()
    served.each(signal.SIGCONT)
    served.wait()
    assert ended.wait(600)  # one that takes new weights may not be asked for anything else
