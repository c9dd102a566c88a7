"""A vLLM server that generates for a run: whether it is the right one, and whether it still lives.

It is asked over HTTP, as vLLM 0.31's own server answers: ``/health``, ``/v1/models``,
``/server_info`` (with ``VLLM_SERVER_DEV_MODE=1``, without which it takes no weights) and
``/tokenize``.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import requests

from trl_deepseek.errors import ConfigError, RunError, describe
from trl_deepseek.secrets import redacted

logger = logging.getLogger(__name__)

ANSWERS_IN = 5.0  # seconds; a healthy server says so in milliseconds
CHECKED_IN = 60.0  # seconds; the first text that it tokenizes takes some, on a busy machine more
SAYS_IN = 20.0  # seconds from the end of a transfer until the server has said why it ended it
SILENT_FOR = 20.0  # seconds without a sign of life, and a server that was asked is given up
PROBE = "3 a12 b45 <think>\n\n5</think>=1 ÄÖ 你好 1234567890"  # tokenizers differ in this


class Abandoned(RunError):
    """The server waits for what will not come from this side."""


def address(args: Any) -> str:
    """Of the server that a config names."""
    given = args.vllm_server_base_url
    return (given or f"http://{args.vllm_server_host}:{args.vllm_server_port}").rstrip("/")


def check(
    url: str,
    model: str,
    tokenizer: Any,
    *,
    scaled: bool,
    answer: int,
    asked: Collection[str] = (),
) -> None:
    """Refuse a server that cannot be reached, or serves another model.

    Args:
        url: Where it is.
        model: Name of the policy.
        tokenizer: Of the policy.
        scaled: Whether log-probs are asked for at another temperature than 1.
        answer: Tokens of the longest completion.
        asked: Names of further options of sampling, which a server that does not know them ignores.

    Raises:
        ConfigError: Says what is wrong with it and how to start the right one.
    """
    shown = redacted(url)
    start = f"\n  start it beforehand: trl vllm-serve --model {model or 'FOLDER'}"
    try:
        requests.get(f"{url}/health", timeout=CHECKED_IN).raise_for_status()
        served = _get(url, "/v1/models")["data"][0]
        info = requests.get(
            f"{url}/server_info", params={"config_format": "json"}, timeout=CHECKED_IN
        )
        config = {}
        if info.status_code != 404:
            info.raise_for_status()
            config = dict(info.json().get("vllm_config") or {})
        held = config.get("model_config") or {}
        room, mode = held.get("max_model_len"), held.get("logprobs_mode")
        name = str(served.get("root") or served["id"])
        told = requests.post(
            f"{url}/tokenize",
            json={"model": served["id"], "prompt": PROBE, "add_special_tokens": False},
            timeout=CHECKED_IN,
        )
        told.raise_for_status()
        theirs = list(told.json()["tokens"])
        schema = requests.get(f"{url}/openapi.json", timeout=CHECKED_IN)
    except (requests.RequestException, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"vllm_mode server: no vLLM answers at {shown}: {redacted(describe(error))}\n"
            f"  an address is http://HOST:PORT and no more{start}"
        ) from error
    if info.status_code == 404:
        raise ConfigError(
            f"vllm_mode server: the server at {shown} takes no weights: it was not started with "
            f"VLLM_SERVER_DEV_MODE=1{start}"
        )
    if model and Path(name).name != Path(model).name:  # one in memory may have no name
        said = f"the server at {shown} serves {name!r}, and the policy is {model!r}"
        if not Path(model).is_dir():
            raise ConfigError(f"vllm_mode server: {said}{start}")
        # What has been trained here, which the server may hold the base of.
        logger.warning("%s: it takes the policy's weights if they have the same shapes", said)
    ours = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    if theirs != list(ours):
        raise ConfigError(
            f"vllm_mode server: the server at {shown} has another tokenizer than {model!r}: of one "
            f"text it makes {len(theirs)} tokens where the policy's makes {len(ours)}, or others"
            f"{start}"
        )
    transfer = config.get("weight_transfer_config")
    if transfer is None:
        raise ConfigError(
            f"vllm_mode server: the server at {shown} takes no weights: it was not started with "
            f"--weight-transfer-config{start}"
        )
    if "nccl" not in str(transfer):
        raise ConfigError(
            f"vllm_mode server: the server at {shown} takes weights another way than by NCCL: "
            f"it was started with --weight-transfer-config {transfer}{start}"
        )
    known = _known(schema) if asked and schema.ok else None
    if known is not None and (unknown := sorted(set(asked) - known)):
        raise ConfigError(
            f"generation_kwargs: the server at {shown} does not know {', '.join(unknown)}\n"
            "  leave it out"
        )
    if room is not None and answer >= room:
        raise ConfigError(
            f"max_completion_length is {answer}: with a prompt that is more than the {room} tokens "
            f"of the server at {shown}\n  ask for fewer, or start it with a greater --max_model_len"
        )
    if scaled and mode is not None and mode != "processed_logprobs":
        raise ConfigError(
            f"vllm_mode server: the server at {shown} reports log-probs of temperature 1 "
            f"(--logprobs-mode {mode}), and the policy is sampled at another one{start}"
        )


def _known(schema: requests.Response) -> set[str] | None:
    """Options of a request for completions, where the server describes it."""
    try:
        return set(schema.json()["components"]["schemas"]["CompletionRequest"]["properties"])
    except (ValueError, LookupError, TypeError):
        return None


def check_port(port: int) -> None:
    """Refuse a port at which this process cannot listen for the server.

    Raises:
        ConfigError: Says why.
    """
    try:
        if port == 0:
            raise OverflowError("0 is no port")
        with socket.socket() as meeting:
            meeting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            meeting.bind(("", port))
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"vllm_group_port is {port}, where the server is to meet this run for its weights: "
            f"{describe(error)}\n  --vllm_group_port with a free one; each run that sends weights "
            "from this machine needs one of its own"
        ) from error


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
    shown = redacted(url)

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
                thread.join(SAYS_IN)  # it may be the server that failed, and about to say so
                if not thread.is_alive():
                    break
                raise Abandoned(f"what the vLLM server at {shown} waits for does not come")
            if _lives(url, silent_for):
                heard = time.monotonic()
            elif time.monotonic() - heard >= silent_for:
                raise RunError(
                    f"the vLLM server at {shown} has not answered for {silent_for:.0f} seconds\n"
                    "  start it again, and go on with --resume_from_checkpoint"
                )
        if failure:
            raise RunError(f"the vLLM server at {shown} failed: {redacted(describe(failure[0]))}")
        return answer[0]

    return ask


def _lives(url: str, within: float) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=min(ANSWERS_IN, within)).ok
    except requests.RequestException:
        return False
