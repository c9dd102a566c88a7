"""A server that generates is checked before a run, and its end ends the run.

The server here speaks the part of vLLM's protocol that is asked of it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from trl.generation import vllm_client
from trl.generation.vllm_client import VLLMClient

from trl_deepseek import engines, load_registry
from trl_deepseek.engines import client as engine_client
from trl_deepseek.engines import server
from trl_deepseek.errors import ConfigError, RunError

TOKENIZER = load_registry().models["tiny-deepseek-llm"]()[1]
IDS = TOKENIZER(server.PROBE, add_special_tokens=False)["input_ids"]


class Served:
    """What a server says, and how it is ended."""

    def __init__(self) -> None:
        self.says: dict[str, Any] = {
            "/health": {},
            "/v1/models": {"data": [{"id": "policy", "root": "/models/policy"}]},
            "/server_info": {
                "vllm_config": {
                    "model_config": {"logprobs_mode": "raw_logprobs", "max_model_len": 64},
                    "weight_transfer_config": {"backend": "nccl"},
                }
            },
            "/tokenize": {"tokens": IDS},
        }
        self.hangs = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                self.rfile.read(length)
                path = self.path.partition("?")[0]
                while outer.hangs.is_set() or path == "/generates":
                    time.sleep(0.01)
                    if outer.over:
                        return
                said = outer.says.get(path)
                body = json.dumps(said).encode()
                self.send_response(404 if said is None else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *args: Any) -> None:
                pass

        self.over = False
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def end(self) -> None:
        self.over = True
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.end()


def test_the_policys_own_server_is_taken(served: Served) -> None:
    server.check(served.url, "org/policy", TOKENIZER, scaled=False, answer=63)


@pytest.mark.parametrize(
    ("path", "says", "scaled", "words"),
    [
        ("/health", None, False, "no vLLM answers at URL: HTTPError"),
        ("/v1/models", {"data": []}, False, "no vLLM answers at URL: IndexError"),
        ("/server_info", None, False, "it was not started with VLLM_SERVER_DEV_MODE=1"),
        ("/server_info", {}, False, "it was not started with --weight-transfer-config"),
        ("/tokenize", {"tokens": None}, False, "no vLLM answers at URL: TypeError"),
        ("/server_info", {"vllm_config": "text"}, False, "no vLLM answers at URL: ValueError"),
        (
            "/server_info",
            {"vllm_config": {"weight_transfer_config": {"backend": "ipc"}}},
            False,
            "takes weights another way than by NCCL",
        ),
        ("/v1/models", {"data": [{"id": "other"}]}, False, "serves 'other', and the policy is"),
        ("/tokenize", {"tokens": IDS[:-1]}, False, "has another tokenizer than 'org/policy'"),
        ("/health", {}, True, "reports log-probs of temperature 1 (--logprobs-mode raw_logprobs)"),
    ],
)
def test_another_server_is_refused_with_the_command_that_starts_the_right_one(
    served: Served, path: str, says: Any, scaled: bool, words: str
) -> None:
    served.says[path] = says
    with pytest.raises(ConfigError) as raised:
        server.check(served.url, "org/policy", TOKENIZER, scaled=scaled, answer=63)
    message = str(raised.value).replace(served.url, "URL")
    assert message.startswith("vllm_mode server: ")
    assert words in message
    assert message.endswith("\n  start it beforehand: trl vllm-serve --model org/policy")


def test_a_completion_for_which_the_server_has_no_room_is_refused(served: Served) -> None:
    with pytest.raises(
        ConfigError,
        match=r"^max_completion_length is 64: with a prompt that is more than the 64 tokens of the "
        r"server at .*\n  ask for fewer, or start it with a greater --max_model_len$",
    ):
        server.check(served.url, "org/policy", TOKENIZER, scaled=False, answer=64)


def test_no_server_is_told_at_once() -> None:
    with pytest.raises(
        ConfigError, match=r"no vLLM answers at http://127\.0\.0\.1:9: ConnectionErr"
    ):
        server.check("http://127.0.0.1:9", "org/policy", TOKENIZER, scaled=False, answer=63)


@pytest.mark.parametrize("how", ["hangs", "is killed"])
def test_a_server_that_is_gone_in_mid_run_ends_the_wait(served: Served, how: str) -> None:
    ask = server.watched(lambda path: requests.get(served.url + path), served.url, 0.2)
    assert ask("/health").ok
    gone = served.hangs.set if how == "hangs" else served.end
    threading.Timer(0.1, gone).start()
    with pytest.raises(RunError, match=r"^the vLLM server at http://127"):
        ask("/generates")
    served.hangs.clear()


def test_a_server_that_lives_and_never_meets_the_trainer_is_given_up(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meets_nobody(client: Any, device: Any) -> None:
        client._post("/generates")

    monkeypatch.setattr(engine_client, "MET_IN", 0.1)
    monkeypatch.setattr(server, "SAYS_IN", 0.1)
    monkeypatch.setattr(vllm_client, "get_ip", lambda: "127.0.0.1", raising=False)
    monkeypatch.setattr(VLLMClient, "init_communicator", meets_nobody)
    monkeypatch.setattr(VLLMClient, "_post", lambda client, path: requests.get(served.url + path))
    client = engine_client.Client.__new__(engine_client.Client)
    client._broken, client.communicator = threading.Event(), None
    client.base_url, client.group_port = served.url, free_port()
    with pytest.raises(RunError, match=r"^the vLLM server at http://127.* have not met for the tr"):
        client.init_communicator("cuda")


def test_a_vllm_that_cannot_be_imported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vllm.py").write_text("raise ImportError('libcudart.so.13: cannot open it')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.setattr("trl_deepseek.engines.checking.version", lambda: "0.31.0")
    words = r"^engine vllm: vllm 0.31.0 is installed and cannot be imported: ImportError: libcudart"
    with pytest.raises(ConfigError, match=words):
        engines.check_installed("engine vllm")


def test_a_broken_vllm_keeps_nothing_but_grpo_from_training(tmp_path: Path) -> None:
    (tmp_path / "vllm.py").write_text("raise ImportError('libcudart.so.13: cannot open it')")
    (tmp_path / "vllm-0.31.0.dist-info").mkdir()
    (tmp_path / "vllm-0.31.0.dist-info/METADATA").write_text("Name: vllm\nVersion: 0.31.0\n")
    program = (
        "from trl_deepseek import DPOTrainer, KTOTrainer, RewardTrainer, SFTTrainer\n"
        "from trl_deepseek.errors import ConfigError\n"
        "from trl_deepseek.quickstart.job import Quickstart\n"
        "from pathlib import Path\n"
        "try:\n"
        "    from trl_deepseek import GRPOTrainer\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
        "try:\n"
        "    Quickstart(Path('new'), 0, None)\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    words = "GRPO: vllm 0.31.0 is installed and cannot be imported: ImportError: libcudart.so.13"
    assert done.stdout.count(words) == 2


def test_without_a_gpu_a_server_is_refused_and_so_is_a_missing_or_wrong_vllm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match=r"^vllm_mode server: weights go to a server by NCCL"):
        engines.check_server(SimpleNamespace(), "policy", TOKENIZER)
    for found, words in (
        (None, "use_vllm: vllm is not installed\n  pip install 'trl-deepseek[vllm]', or leave "),
        ("0.33.0", "use_vllm: vllm 0.33.0 is installed, and TRL works with 0.22 to 0.31\n"),
        ("0.21.1+cu129", "use_vllm: vllm 0.21.1"),
    ):
        monkeypatch.setattr("trl_deepseek.engines.checking.version", lambda found=found: found)
        with pytest.raises(ConfigError) as raised:
            engines.check_installed("use_vllm")
        assert str(raised.value).startswith(words)


def test_a_password_in_the_address_is_not_told() -> None:
    url = f"http://me:opensesame@127.0.0.1:{free_port()}"
    with pytest.raises(ConfigError) as raised:
        server.check(url, "policy", TOKENIZER, scaled=False, answer=63)
    assert "127.0.0.1" in str(raised.value)
    assert "opensesame" not in str(raised.value)


def test_options_of_sampling_that_a_server_ignores_are_refused(served: Served) -> None:
    known: Any = {"properties": {"top_k": {}, "seed": {}}}
    served.says["/openapi.json"] = {"components": {"schemas": {"CompletionRequest": known}}}
    options: Any = {"scaled": False, "answer": 63}
    server.check(served.url, "policy", TOKENIZER, **options, asked={"seed": 1})
    with pytest.raises(ConfigError, match=r"^generation_kwargs: the server .* know detokenize\n"):
        server.check(served.url, "policy", TOKENIZER, **options, asked={"seed", "detokenize"})


@pytest.mark.parametrize("says", [[], {}, {"components": {"schemas": {}}}])
def test_a_server_that_does_not_describe_itself_is_taken(served: Served, says: Any) -> None:
    served.says["/openapi.json"] = says
    server.check(served.url, "policy", TOKENIZER, scaled=False, answer=63, asked={"seed"})


def test_the_base_of_a_trained_folder_is_taken_with_a_warning(
    served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "sft").mkdir()
    server.check(served.url, str(tmp_path / "sft"), TOKENIZER, scaled=False, answer=63)
    (said,) = caplog.messages
    assert "takes the policy's weights if they have the same shapes" in said
    server.check(served.url, "", TOKENIZER, scaled=False, answer=63)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def test_a_port_for_weights_that_is_taken_is_refused() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"^vllm_group_port is {taken}, .* already in use"):
            server.check_port(taken)
    server.check_port(taken)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_what_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match=rf"^vllm_group_port is {port}, where the server is to"):
        server.check_port(port)
