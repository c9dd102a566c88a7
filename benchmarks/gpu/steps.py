"""Steps of DPO, ORPO and GRPO with LoRA in bfloat16: our trainers and stock TRL's.

    python -m benchmarks.gpu.steps 1B

All see the same weights, rows and seed; ours once with ``prefix_sharing="off"`` too. A step is the
fastest after those that are not counted (kernels compile in them). Of GRPO's steps, generating and
scoring is timed apart.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks import log_probs
from benchmarks.gpu import cells

OFF = "ours, sharing off"
CELLS = {
    "dpo": ("ours", OFF, "TRL"),
    "orpo": ("ours", "TRL"),
    "grpo": ("ours", OFF, "TRL"),
}
NOT_COUNTED = 2


@dataclass(frozen=True)
class Size:
    """How much one step is.

    Attributes:
        pairs: Preference pairs in a batch.
        length: Tokens of one of their texts.
        prompt: How many of those are the prompt; GRPO's prompts are as long.
        completion: Tokens that GRPO generates.
        steps: Steps that are counted.
    """

    pairs: int
    length: int
    prompt: int
    completion: int
    steps: int


SIZES = {
    "1B": Size(8, 1024, 768, 64, 2),
    "7B": Size(4, 1024, 768, 64, 2),
    "tiny": Size(2, 24, 8, 4, 1),
}


def score(completions: list[Any], **_: Any) -> list[float]:
    """A reward that differs between completions."""
    return [float(len(str(completion)) % 7) for completion in completions]


def build(method: str, side: str, shape: str, folder: str) -> Any:
    """The trainer of one cell."""
    import trl
    from peft import LoraConfig

    import trl_deepseek

    size = SIZES[shape]
    total = size.steps + NOT_COUNTED
    common: dict[str, Any] = {
        "output_dir": folder,
        "max_steps": total,
        "bf16": True,
        "use_cpu": not cells.on_gpu(),
        "gradient_checkpointing": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }
    ours = side != "TRL"
    common |= {"prefix_sharing": "off"} if side == OFF else {}
    policy = cells.model(shape)
    log_probs.LENGTH = size.length
    rows = log_probs.rows(size.prompt, size.pairs * total)
    rest: dict[str, Any] = {
        "train_dataset": rows,
        "processing_class": log_probs.tokenizer(),
        "peft_config": LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
    }
    if method == "grpo":
        library: Any = trl_deepseek if ours else trl
        options = library.GRPOConfig(
            **common,
            per_device_train_batch_size=8,
            num_generations=8,
            max_completion_length=size.completion,
            beta=0.0,
        )
        rest["train_dataset"] = rows.select_columns(["prompt"])
        return library.GRPOTrainer(policy, score, args=options, **rest)
    common |= {"per_device_train_batch_size": size.pairs, "max_length": size.length}
    if ours:
        config = trl_deepseek.DPOConfig(**common, loss_type=[method])
        return trl_deepseek.DPOTrainer(policy, args=config, **rest)
    if method == "dpo":
        return trl.DPOTrainer(policy, args=trl.DPOConfig(**common), **rest)
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    return ORPOTrainer(policy, args=ORPOConfig(**common), **rest)


def cell(method: str, side: str, shape: str) -> cells.Figures:
    """Seconds of a step, its peak, and the losses."""
    clock = cells.Steps()
    generating: list[float] = []
    held = torch.cuda.memory_allocated() if cells.on_gpu() else 0  # not this run's
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(method, side, shape, folder)
        trainer.add_callback(clock)
        if method == "grpo":
            inner = trainer._generate_and_score_completions

            def timed(*args: Any, **kwargs: Any) -> Any:
                cells.synchronize()
                start = time.perf_counter()
                result = inner(*args, **kwargs)
                cells.synchronize()
                generating.append(time.perf_counter() - start)
                return result

            trainer._generate_and_score_completions = timed
        with cells.peak() as most:
            trainer.train()
    steps = clock.seconds[NOT_COUNTED:]
    found = {"seconds": min(steps), "losses": clock.losses[:3]}
    found |= {"bytes": most["bytes"] - held} if most else {}
    if generating:
        best = steps.index(min(steps)) + NOT_COUNTED
        found["generating"] = generating[best]
        found["update"] = clock.seconds[best] - generating[best]
    return found


def main() -> int:
    """Every cell of one shape."""
    shape = sys.argv[1] if cells.on_gpu() else "tiny"
    return cells.measure(
        {
            f"{method}, {side}": partial(cell, method, side, shape)
            for method, sides in CELLS.items()
            for side in sides
        }
    )


if __name__ == "__main__":
    sys.exit(main())
