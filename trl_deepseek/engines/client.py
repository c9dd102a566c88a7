"""TRL's client of a vLLM server, which waits for as long as the server lives and no longer."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from requests.adapters import HTTPAdapter
from trl.generation import vllm_client
from trl.generation.vllm_client import VLLMClient
from urllib3.util.retry import Retry

from trl_deepseek.engines import server
from trl_deepseek.errors import RunError, describe
from trl_deepseek.replacing import replaced
from trl_deepseek.secrets import redacted

logger = logging.getLogger(__name__)

ANSWER = ("prompt_ids", "completion_ids", "logprobs", "logprob_token_ids")
ONCE = ("init_weight_transfer_engine", "start_weight_update", "update_weights")
SIDES = ("open_trainer_endpoint", "packed_nccl_broadcast_producer")
MET_IN = 310.0  # seconds; vLLM gives a meeting of trainer and server up after 300
_open: dict[int, Client] = {}  # by the port that they meet the server at
AT_ONCE = 64  # requests for completions, as many as TRL's


class Once(HTTPAdapter):
    """For requests that reach the server once: where they fail it has said why.

    Each has a connection of its own, since an idle one may be closed as it is used again.
    """

    def add_headers(self, request: Any, **kwargs: Any) -> None:
        """As HTTPAdapter's, with the word that ends the connection."""
        request.headers["Connection"] = "close"


def holds(port: int) -> bool:
    """Whether a trainer of this process meets its server at ``port``; the next lets it go."""
    return port in _open


class Client(VLLMClient):
    """TRL's, whose requests and transfers end with the server.

    Attributes:
        room: Tokens that a sequence on the server may have.
        dtype: In which it computes.
    """

    def __init__(self, base_url: str | None = None, *args: Any, **kwargs: Any) -> None:
        self._broken = threading.Event()
        self._failure: RunError | None = None
        self._device: Any = 0
        self._lost = False
        self._mark: str | None = None
        super().__init__(base_url and base_url.rstrip("/"), *args, **kwargs)
        for asked in ONCE:
            again = Retry(connect=5, read=0, status=0, other=0, backoff_factor=2)
            self.session.mount(f"{self.base_url}/{asked}", Once(max_retries=again))
        served = self.get_server_info()["model_config"]
        self.room = int(served["max_model_len"])
        self.dtype: torch.dtype = getattr(torch, str(served["dtype"]).removeprefix("torch."))

    def init_communicator(self, device: Any = 0) -> None:
        """As TRL's, after an earlier trainer of this process has let go of the port.

        Raises:
            RunError: The two did not meet.
        """
        self._device = device
        for each in (_open.pop(self.group_port, None), self):
            if each is not None:
                each.close_communicator()
        server.check_port(self.group_port)  # before the server is told to come
        # TRL waits for a server's answer when it has given up to meet the server.
        given_up = threading.Timer(MET_IN, self._broken.set)
        given_up.daemon = True
        given_up.start()
        try:
            with self._watched_transfer():
                super().init_communicator(device)
        except Exception as error:
            if self._failure is not None:
                raise self._failure from None
            here = f"{vllm_client.get_ip()}, port {self.group_port}"
            raise RunError(
                f"the vLLM server at {redacted(self.base_url)} and this run have not met for the "
                f"transfer of weights: {describe(error)}\n  the server comes to {here}: "
                "VLLM_HOST_IP is to be an address of this machine that it can reach, and "
                "--vllm_group_port one that is open to it"
            ) from error
        finally:
            given_up.cancel()
        _open[self.group_port], self._lost = self, False
        self._take()

    def _take(self) -> None:
        """Name this client on the server, where it has a name for its weights (vLLM 0.31)."""
        mark = uuid.uuid4().hex
        ask = server.watched(self.session.post, self.base_url, server.SILENT_FOR)
        answer = ask(f"{self.base_url}/update_weight_version", json={"new_version": mark})
        self._mark = mark if answer.ok else None
        if self._mark is None:
            logger.warning(
                "the vLLM server at %s does not note whose weights it has, as 0.31 does "
                "(status %d): see that no other run meets it",
                redacted(self.base_url),
                answer.status_code,
            )

    def _check_taken(self) -> None:
        """Refuse to send weights where the server has met another run since.

        Raises:
            RunError: It has.
        """
        if self._mark is None:
            return
        now = self._get(f"{self.base_url}/weight_info")["weight_version"]
        if now != self._mark:
            raise RunError(
                f"the vLLM server at {redacted(self.base_url)} takes the weights of another run, "
                "which has met it since\n"
                "  a server serves one run at a time: with one of its own this run goes on by "
                "--resume_from_checkpoint"
            )

    @contextlib.contextmanager
    def _watched_transfer(self) -> Iterator[None]:
        """Within it, a fault of this side's of the transfer ends the wait for the server's.

        TRL calls this side by these names from vLLM 0.28 on.
        """
        self._broken.clear()
        self._failure = None
        there = vars(vllm_client)
        sides = {name: self._told(there[name]) for name in SIDES if name in there}
        with replaced(vllm_client, **sides):
            yield

    def _told(self, side: Callable[..., Any]) -> Callable[..., Any]:
        def told(*args: Any, **kwargs: Any) -> Any:
            try:
                return side(*args, **kwargs)
            except BaseException:
                self._broken.set()
                raise

        return told

    def check_server(self, total_timeout: float = 0.0, *args: Any, **kwargs: Any) -> None:
        """As TRL's, which waits for ever for one that takes a request and does not answer."""
        silent_for = max(server.SILENT_FOR, total_timeout)
        ask = server.watched(super().check_server, self.base_url, silent_for)
        ask(total_timeout, *args, **kwargs)

    def _get(self, *args: Any, **kwargs: Any) -> Any:
        ask = server.watched(super()._get, self.base_url, server.SILENT_FOR)
        return ask(*args, **kwargs)

    def get_server_info(self) -> Any:
        """As TRL's."""
        return server.watched(super().get_server_info, self.base_url, server.SILENT_FOR)()

    def _post(self, url: str, **kwargs: Any) -> Any:
        ask = server.watched(super()._post, self.base_url, server.SILENT_FOR, self._broken)
        try:
            return ask(url, **kwargs)
        except RunError as error:
            if not isinstance(error, server.Abandoned):
                self._failure = error
            if self.communicator is not None and url.endswith("/update_weights"):
                self.communicator.destroy()  # this side would wait for the server for ever
                self._lost = True
            raise

    def _start_weight_update(self) -> None:
        """As TRL's, where an earlier run may have been cut off in the middle of one."""
        try:
            super()._start_weight_update()
        except RunError as error:
            if "already active" not in str(error):
                raise
            super()._finish_weight_update()
            super()._start_weight_update()

    def update_named_params(self, *args: Any, **kwargs: Any) -> None:
        """As TRL's, where a fault of either side ends the wait of the other.

        Raises:
            RunError: The server is gone or failed; the transfer that was cut off says less.
        """
        if self._lost or _open.get(self.group_port) is not self:  # another trainer has its place
            self.init_communicator(self._device)
        self._check_taken()
        try:
            with self._watched_transfer():
                super().update_named_params(*args, **kwargs)
        except Exception:
            if self._failure is None:
                raise
            raise self._failure from None

    def generate(self, prompts: Any, *args: Any, max_tokens: int, **kwargs: Any) -> Any:
        """As TRL's, for as long as there is room: a server refuses what an engine here cuts.

        So are completions that go on behind results of tools; see the policy's ``generate``.
        """
        if max(map(len, prompts)) + max_tokens <= self.room:
            return super().generate(prompts, *args, max_tokens=max_tokens, **kwargs)
        ask = functools.partial(super().generate, *args, **kwargs)

        def cut(prompt: list[int]) -> Any:
            room = min(max_tokens, self.room - len(prompt))
            return ask([prompt], max_tokens=room) if room else {name: [[]] for name in ANSWER}

        with ThreadPoolExecutor(min(len(prompts), AT_ONCE)) as requests:
            found = list(requests.map(cut, prompts))
        return {name: [row for each in found for row in each[name]] for name in ANSWER}
