"""TRL's client of a vLLM server, which waits for as long as the server lives and no longer."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
from requests.adapters import HTTPAdapter
from trl.generation import vllm_client
from trl.generation.vllm_client import VLLMClient

from trl_deepseek.engines import server
from trl_deepseek.errors import RunError
from trl_deepseek.replacing import replaced

if TYPE_CHECKING:
    from torch import Tensor

ANSWER = ("prompt_ids", "completion_ids", "logprobs", "logprob_token_ids")
MET_IN = 310.0  # seconds; vLLM gives a meeting of trainer and server up after 300
_open: dict[int, Client] = {}  # by the port that they meet the server at


def holds(port: int) -> bool:
    """Whether a trainer of this process meets its server at ``port``; the next lets it go."""
    return port in _open


class Client(VLLMClient):
    """TRL's, whose requests and transfers end with the server.

    Attributes:
        room: Tokens that a sequence on the server may have.
        dtype: In which it computes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._broken = threading.Event()
        self._failure: RunError | None = None
        super().__init__(*args, **kwargs)
        for asked in ("init_weight_transfer_engine", "update_weights"):
            # Not again where it failed: weights are sent once, and the server has said why.
            self.session.mount(f"{self.base_url}/{asked}", HTTPAdapter())
        served = self.get_server_info()["model_config"]
        self.room = int(served["max_model_len"])
        self.dtype: torch.dtype = getattr(torch, str(served["dtype"]).removeprefix("torch."))

    def init_communicator(self, device: Any = 0) -> None:
        """As TRL's, after an earlier trainer of this process has let go of the port."""
        before = _open.pop(self.group_port, None)
        if before is not None:
            before.close_communicator()
        # TRL waits for a server's answer when it has given up to meet the server.
        given_up = threading.Timer(MET_IN, self._broken.set)
        given_up.daemon = True
        given_up.start()
        try:
            with replaced(vllm_client, **self._watched_end()):
                super().init_communicator(device)
        finally:
            given_up.cancel()
        _open[self.group_port] = self

    def _watched_end(self) -> dict[str, Any]:
        """What opens this side of the transfer, by its name in TRL, from vLLM 0.28 on."""
        opens = vars(vllm_client).get("open_trainer_endpoint")
        if opens is None:
            return {}

        def opened(*args: Any) -> Any:
            with self._told():
                return opens(*args)

        return {"open_trainer_endpoint": opened}

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Within it, a fault of ours ends the wait for the server, which waits for us."""
        try:
            yield
        except BaseException:
            self._broken.set()
            raise

    def _post(self, *args: Any, **kwargs: Any) -> Any:
        ask = server.watched(super()._post, self.base_url, server.SILENT_FOR, self._broken)
        try:
            return ask(*args, **kwargs)
        except RunError as error:
            self._failure = error
            if self.communicator is not None:  # a transfer would wait for the server for ever
                self.communicator.destroy()
            raise

    def update_named_params(
        self, metadata: Any, named_params: Iterator[tuple[str, Tensor]]
    ) -> None:
        """As TRL's, where a fault of either side ends the wait of the other.

        Raises:
            RunError: The server is gone or failed; the transfer that was cut off says less.
        """

        def sent() -> Iterator[tuple[str, Tensor]]:
            with self._told():
                yield from named_params

        self._broken.clear()
        try:
            super().update_named_params(metadata, sent())
        except Exception:
            if self._broken.is_set() or self._failure is None:
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

        with ThreadPoolExecutor(len(prompts)) as requests:
            found = list(requests.map(cut, prompts))
        return {name: [row for each in found for row in each[name]] for name in ANSWER}
