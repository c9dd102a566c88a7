"""How an engine is started: from a folder with the model as it is, in this process, untouched."""

from __future__ import annotations

import contextlib
import copy
import os
import random
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy
import torch
from safetensors.torch import save_file

from trl_deepseek import chat
from trl_deepseek.engines import cpu, weights
from trl_deepseek.errors import RunError, boundary

# Read by vLLM as it starts, where they are not set: in this process, so that weights can be given
# to it, and without a line for every step of its start.
SETTINGS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "WARNING"}
ON_CPU = {"VLLM_CPU_CI_ENV": "1"}  # nothing is compiled, which takes minutes before the first token


@contextlib.contextmanager
def written(model: Any, tokenizer: Any, source: str | None) -> Iterator[str]:
    """``source``, or a folder with the model as it is now, which is gone afterwards."""
    if source is not None:
        yield source
        return
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = copy.deepcopy(base.config)
    config.architectures, config.dtype = [type(base).__name__], base.dtype
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with tempfile.TemporaryDirectory() as folder:
        stored = {name: value.cpu().contiguous() for name, value in weights.named(model, True)}
        save_file(stored, f"{folder}/model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(folder)
        with chat.inference_template(tokenizer):
            tokenizer.save_pretrained(folder)
        yield folder


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Around the start of an engine in this process, which is to leave the process as it is.

    An engine seeds the generators that it shares with the trainer, so that every run would sample
    alike whatever its seed.

    Raises:
        RunError: It does not start.
    """
    on_cpu = not torch.cuda.is_available()
    for name, value in {**SETTINGS, **(ON_CPU if on_cpu else {})}.items():
        os.environ.setdefault(name, value)
    devices = range(torch.accelerator.device_count())
    numbers, numpys = random.getstate(), numpy.random.get_state()
    with contextlib.ExitStack() as around:
        around.enter_context(boundary(RunError, "vLLM did not start"))
        around.enter_context(torch.random.fork_rng(devices))
        if on_cpu:
            around.enter_context(cpu.plain_linear_layers())
        yield
    random.setstate(numbers)
    numpy.random.set_state(numpys)
