"""What the parts of ``benchmarks/gpu.sh`` share: shapes, a clock, a meter, and how a cell reports.

A part is one process with many cells, so that libraries are imported once. It prints which cells it
will measure and then one line for each, at once: what a time limit or a crash cuts off is known by
name, and what was measured before is kept. A cell that fails says why and the next one runs.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.gpu import MARK

SHAPES: dict[str, dict[str, Any]] = {
    # of deepseek-coder-1.3b and deepseek-llm-7b, both with the latter's vocabulary
    "1B": {"hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 24, "heads": 16},
    "7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 30, "heads": 32},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "heads": 4},
}
VOCABULARY = 102_400
NO_DEVICE = "no CUDA device"

Figures = dict[str, Any]


def on_gpu() -> bool:
    """Whether there is one; without it every shape is tiny and nothing is measured but time."""
    return torch.cuda.is_available()


def config(shape: str) -> Any:
    """The config of a Llama of that shape."""
    from transformers import LlamaConfig

    sizes = dict(SHAPES[shape])
    heads = sizes.pop("heads")
    return LlamaConfig(
        **sizes,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        vocab_size=VOCABULARY if shape != "tiny" else 2048,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def model(shape: Any, dtype: torch.dtype = torch.bfloat16) -> Any:
    """A model of random weights, made where it will be; always the same ones."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device("cuda" if on_gpu() else "cpu"):
        return AutoModelForCausalLM.from_config(
            config(shape) if isinstance(shape, str) else shape, dtype=dtype
        )


def synchronize() -> None:
    """Wait for what the device still has to do."""
    if on_gpu():
        torch.cuda.synchronize()


def seconds(call: Callable[[], Any], repeats: int = 5) -> float:
    """The median time of a call, after two that are not counted."""
    times = []
    for _ in range(repeats + 2):
        synchronize()
        start = time.perf_counter()
        call()
        synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[2:])[repeats // 2]


@contextlib.contextmanager
def peak() -> Iterator[dict[str, int]]:
    """The most bytes that torch's allocator held inside, under ``bytes``; empty without a GPU."""
    found: dict[str, int] = {}
    if on_gpu():
        torch.cuda.reset_peak_memory_stats()
    yield found
    if on_gpu():
        torch.cuda.synchronize()
        found["bytes"] = torch.cuda.max_memory_allocated()


class Steps(TrainerCallback):
    """Seconds and loss of each optimizer step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock."""
        synchronize()
        self.seconds.append(-time.perf_counter())

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop the clock."""
        synchronize()
        self.seconds[-1] += time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
        """Keep the loss."""
        self.losses.extend([logs["loss"]] if "loss" in logs else [])


def report(figures: Figures) -> None:
    """Hand figures to ``benchmarks/gpu/run.py``."""
    print(MARK + json.dumps(figures), flush=True)


def measure(cells: dict[str, Callable[[], Figures]]) -> int:
    """Run each cell and report its figures or why there are none.

    Returns:
        The number of cells that failed.
    """
    failed = 0
    report({"plan": list(cells)})
    for name, cell in cells.items():
        start = time.perf_counter()
        held = torch.cuda.memory_allocated() if on_gpu() else 0  # left by the cells before
        try:
            found = cell()
        except Exception as error:  # whatever it is, the next cell is worth its time
            traceback.print_exc(file=sys.stderr)
            first = (str(error).strip() or "no message").splitlines()[0]
            found = {"failed": f"{type(error).__name__}: {first[:200]}"}
            del error
            failed += 1
        report({"cell": name, **found, "took": round(time.perf_counter() - start, 1), "held": held})
        gc.collect()
        if on_gpu():
            torch.cuda.empty_cache()
    return failed
