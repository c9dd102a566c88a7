"""A vLLM server that generates for a run: whether it is the right one, and whether it still lives.

It is asked over HTTP, as vLLM 0.31's own server answers: ``/health``, ``/v1/models``,
``/server_info`` (with ``VLLM_SERVER_DEV_MODE=1``, without which it takes no weights) and
``/tokenize``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from trl_deepseek.errors import ConfigError, RunError, describe

ANSWERS_IN = 5.0  # seconds; a healthy server says so in milliseconds
CHECKED_IN = 60.0  # seconds; the first text that it tokenizes takes some, on a busy machine more
SILENT_FOR = 20.0  # seconds without a sign of life, and a server that was asked is given up
PROBE = "3 a12 b45 <think>\n\n5</think>=1 ÄÖ 你好 1234567890"  # tokenizers differ in this


def address(args: Any) -> str:
    """Of the server that a config names."""
    given = args.vllm_server_base_url
    return (given or f"http://{args.vllm_server_host}:{args.vllm_server_port}").rstrip("/")


def check(url: str, model: str, tokenizer: Any, *, scaled: bool, answer: int) -> None:
    """Refuse a server that cannot be reached, or serves another model.

    Args:
        url: Where it is.
        model: Name of the policy.
        tokenizer: Of the policy.
        scaled: Whether log-probs are asked for at another temperature than 1.
        answer: Tokens of the longest completion.

    Raises:
        ConfigError: Says what is wrong with it and how to start the right one.
    """
    start = f"\n  start it beforehand: trl vllm-serve --model {model}"
    try:
        requests.get(f"{url}/health", timeout=CHECKED_IN).raise_for_status()
        served = _get(url, "/v1/models")["data"][0]
        info = requests.get(
            f"{url}/server_info", params={"config_format": "json"}, timeout=CHECKED_IN
        )
        name = str(served.get("root") or served["id"])
        told = requests.post(
            f"{url}/tokenize",
            json={"model": served["id"], "prompt": PROBE, "add_special_tokens": False},
            timeout=CHECKED_IN,
        )
        told.raise_for_status()
        theirs = told.json()["tokens"]
    except (requests.RequestException, KeyError, IndexError, TypeError, ValueError) as error:
        raise ConfigError(
            f"vllm_mode server: no vLLM answers at {url}: {describe(error)}{start}"
        ) from error
    if info.status_code == 404:
        raise ConfigError(
            f"vllm_mode server: the server at {url} takes no weights: it was not started with "
            f"VLLM_SERVER_DEV_MODE=1{start}"
        )
    if Path(name).name != Path(model).name:
        raise ConfigError(
            f"vllm_mode server: the server at {url} serves {name!r}, and the policy is {model!r}"
            f"{start}"
        )
    ours = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    if list(theirs) != list(ours):
        raise ConfigError(
            f"vllm_mode server: the server at {url} has another tokenizer than {model!r}: of one "
            f"text it makes {len(theirs)} tokens where the policy's makes {len(ours)}, or others"
            f"{start}"
        )
    config = info.json().get("vllm_config", {})
    if config.get("weight_transfer_config") is None:
        raise ConfigError(
            f"vllm_mode server: the server at {url} takes no weights: it was not started with "
            f"--weight-transfer-config{start}"
        )
    room = config.get("model_config", {}).get("max_model_len")
    if room is not None and answer >= room:
        raise ConfigError(
            f"max_completion_length is {answer}: with a prompt that is more than the {room} tokens "
            f"of the server at {url}\n  ask for fewer, or start it with a greater --max_model_len"
        )
    mode = config.get("model_config", {}).get("logprobs_mode")
    if scaled and mode is not None and mode != "processed_logprobs":
        raise ConfigError(
            f"vllm_mode server: the server at {url} reports log-probs of temperature 1 "
            f"(--logprobs-mode {mode}), and the policy is sampled at another one{start}"
        )


def _get(url: str, path: str) -> Any:
    response = requests.get(url + path, timeout=CHECKED_IN)
    response.raise_for_status()
    return response.json()


def watched(
    post: Callable[..., Any],
    url: str,
    silent_for: float = SILENT_FOR,
    broken: threading.Event | None = None,
) -> Callable[..., Any]:
    """``post``, which may wait for as long as the server lives and no longer.

    Args:
        post: A blocking request to the server.
        url: Of the server.
        silent_for: Seconds without a sign of life after which it is given up.
        broken: Is set where the server waits for what will not come.
    """

    def ask(*args: Any, **kwargs: Any) -> Any:
        answer: list[Any] = []
        failure: list[BaseException] = []

        def wait() -> None:
            try:
                answer.append(post(*args, **kwargs))
            except BaseException as error:
                failure.append(error)

        # A daemon: what waits for a dead server must not keep the process from ending.
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        heard = time.monotonic()
        while thread.is_alive():
            thread.join(min(1.0, silent_for))
            if not thread.is_alive():
                break
            if broken is not None and broken.is_set():
                raise RunError(f"what the vLLM server at {url} waits for does not come")
            if _lives(url, silent_for):
                heard = time.monotonic()
            elif time.monotonic() - heard >= silent_for:
                raise RunError(
                    f"the vLLM server at {url} has not answered for {silent_for:.0f} seconds\n"
                    "  start it again, and go on with --resume_from_checkpoint"
                )
        if failure:
            raise RunError(f"the vLLM server at {url} failed: {describe(failure[0])}")
        return answer[0]

    return ask


def _lives(url: str, within: float) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=min(ANSWERS_IN, within)).ok
    except requests.RequestException:
        return False
