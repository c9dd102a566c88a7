"""Log-probs from hidden states and the LM head, in bfloat16: ours, TRL's and full logits.

Forward and backward pass, seconds and the most that they allocate.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from trl.trainer import utils as trl_utils

from benchmarks.gpu import cells
from trl_deepseek.lm_head import streaming_softmax

POSITIONS = 8192


def inputs(shape: str, trained: bool) -> tuple[Any, Any, Any]:
    """Hidden states (N, H), head (V, H) and targets (N,)."""
    config = cells.config(shape)
    device = "cuda" if cells.on_gpu() else "cpu"
    torch.manual_seed(0)
    count = POSITIONS if cells.on_gpu() else 64
    options: dict[str, Any] = {"device": device, "dtype": torch.bfloat16}
    hidden = torch.randn(count, config.hidden_size, **options).requires_grad_()
    head = torch.randn(config.vocab_size, config.hidden_size, **options).mul_(0.02)
    target = torch.randint(config.vocab_size, (count,), device=device)
    return hidden, head.requires_grad_(trained), target


def ours(hidden: Any, head: Any, target: Any) -> Any:
    """Our pass over the vocabulary."""
    return streaming_softmax.score(hidden, head, None, target).logps


def stock(hidden: Any, head: Any, target: Any) -> Any:
    """TRL's tiles; on a GPU in Triton."""
    size = trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE
    return trl_utils._ChunkedLogProbFunction.apply(
        hidden, head, None, target, 1.0, size, None, 1.0, ("log_probs",)
    )[0]


def full(hidden: Any, head: Any, target: Any) -> Any:
    """What a textbook writes."""
    logits = (hidden @ head.t()).float()
    return logits.log_softmax(-1).gather(1, target[:, None])[:, 0]


WAYS: dict[str, Callable[..., Any]] = {"ours": ours, "TRL": stock, "full logits": full}


def cell(shape: str, trained: bool, way: str) -> cells.Figures:
    """Seconds, bytes, and how far log-probs are from float64's."""
    hidden, head, target = inputs(shape, trained)
    held = torch.cuda.memory_allocated() if cells.on_gpu() else 0

    def both() -> None:
        hidden.grad = head.grad = None
        WAYS[way](hidden, head, target).sum().backward()

    seconds = cells.seconds(both)
    hidden.grad = head.grad = None
    with cells.peak() as most:
        both()
    rows = slice(0, 256)
    with torch.no_grad():
        found = WAYS[way](hidden[rows], head, target[rows]).double()
        logits = hidden[rows].double() @ head.double().t()
        exact = logits.log_softmax(-1).gather(1, target[rows, None])[:, 0]
    result = {"seconds": seconds, "error": float((found - exact).abs().max())}
    return {**result, "bytes": most["bytes"] - held} if most else result


def main() -> int:
    """Every cell."""
    found: dict[str, Any] = {}
    for shape in ("1B", "7B") if cells.on_gpu() else ("tiny",):
        for trained in (False, True):
            kind = "trained" if trained else "frozen"
            for way in WAYS:
                found[f"{shape}, {kind} head, {way}"] = partial(cell, shape, trained, way)
    return cells.measure(found)


if __name__ == "__main__":
    sys.exit(main())
