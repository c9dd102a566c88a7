"""Peak memory of training as ``--dry_run`` estimates it, and as the GPU's allocator counted it.

What paged optimizers hold lies outside torch's allocator; it is added to what that counted.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from datasets import Dataset

from benchmarks import qlora_memory
from benchmarks.gpu import cells

STEPS = 3


@dataclass(frozen=True)
class Run:
    """One run to estimate and to measure.

    Attributes:
        shape: Of the model.
        quantization: Registered name; None trains all weights, held in float32.
        precision: Of mixed precision, ``bf16`` or ``fp16``.
        optimizer: transformers' name; None for what the run would choose itself.
        checkpointing: Whether layers are run again in the backward pass.
        loss: A registered preference loss; None for SFT.
    """

    shape: str
    quantization: str | None
    precision: str = "bf16"
    optimizer: str | None = None
    checkpointing: bool = True
    loss: str | None = None

    def __str__(self) -> str:
        parts = [self.shape, self.loss or "sft", self.quantization or "all weights", self.precision]
        parts += [self.optimizer] if self.optimizer else []
        return ", ".join([*parts, "checkpointing" if self.checkpointing else "no checkpointing"])


RUNS = (
    Run("1B", "qlora"),
    Run("1B", "lora"),
    Run("1B", "lora", checkpointing=False),
    Run("1B", "lora", "fp16"),
    Run("1B", "qlora", "fp16"),
    Run("1B", "lora", optimizer="paged_adamw_32bit"),
    Run("1B", "lora", optimizer="paged_adamw_8bit"),
    Run("1B", None),
    Run("1B", None, optimizer="adamw_8bit"),
    Run("1B", "lora", loss="dpo"),
    Run("V3, 176M", "qlora"),
    Run("V3, 176M", "lora"),
)
BATCH, LENGTH = 4, 1024


def config(shape: str) -> Any:
    """Of the shape's name, or its small stand-in."""
    if shape.startswith("V3"):
        return qlora_memory.config_of("deepseek_v3")
    return cells.config(shape)


def build(run: Run, batch: int, length: int, folder: str) -> Any:
    """The trainer of one run."""
    import trl_deepseek
    from benchmarks import log_probs

    held = torch.float32 if run.quantization is None else getattr(torch, _DTYPES[run.precision])
    common: dict[str, Any] = {
        "output_dir": folder,
        "quantization": run.quantization,
        run.precision: True,
        "use_cpu": not cells.on_gpu(),
        "max_steps": STEPS,
        "max_length": length,
        "per_device_train_batch_size": batch,
        "gradient_checkpointing": run.checkpointing,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        **({"optim": run.optimizer} if run.optimizer else {}),
    }
    model = cells.model(config(run.shape), held)
    if run.quantization is not None:
        model = model.to("cpu")  # the trainer puts the quantized one on the GPU
    if run.loss is not None:
        log_probs.LENGTH = length
        return trl_deepseek.DPOTrainer(
            model,
            args=trl_deepseek.DPOConfig(**common, loss_type=[run.loss]),
            train_dataset=log_probs.rows(length // 4, batch * STEPS),
            processing_class=log_probs.tokenizer(),
        )
    return trl_deepseek.SFTTrainer(
        model,
        trl_deepseek.SFTConfig(**common),
        train_dataset=Dataset.from_dict({"input_ids": [[3] * length] * (batch * STEPS)}),
        processing_class=log_probs.tokenizer(),
    )


_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


def estimated(run: Run, batch: int, length: int, optimizer: str) -> Any:
    """What ``--dry_run`` would say of it."""
    from trl_deepseek import load_registry
    from trl_deepseek.adapters import lora
    from trl_deepseek.memory.estimate import estimate
    from trl_deepseek.memory.rehearsal import Step

    chosen = load_registry().quantizations[run.quantization] if run.quantization else None
    mixed = getattr(torch, _DTYPES[run.precision])
    sequences = batch * (1 if run.loss is None else 2)
    dtype = torch.float32 if chosen is None else mixed
    step = Step(sequences, length, run.checkpointing, dtype, mixed, lean_head=run.loss is not None)
    shape = config(run.shape)
    adapter = None if chosen is None else lora.adapter(chosen, shape)
    return estimate(shape, step, quantization=chosen, adapter=adapter, optimizer=optimizer)


def paged_bytes(optimizer: Any) -> int:
    """What the optimizer holds in memory that the driver pages."""
    inner = getattr(optimizer, "optimizer", optimizer)
    states = [value for state in inner.state.values() for value in state.values()]
    return sum(value.nbytes for value in states if getattr(value, "is_paged", False))


def cell(run: Run) -> cells.Figures:
    """Both figures in bytes."""
    batch, length = (BATCH, LENGTH) if cells.on_gpu() else (1, 32)
    held = torch.cuda.memory_allocated() if cells.on_gpu() else 0  # not this run's
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(run, batch, length, folder)
        optimizer = str(getattr(trainer.args.optim, "value", trainer.args.optim))
        found = estimated(run, batch, length, optimizer)
        with cells.peak() as most:
            trainer.train()
    result = {"estimated": found.peak, "optimizer": optimizer}
    paged = paged_bytes(trainer.optimizer)
    if not most:
        return result
    return {**result, "measured": most["bytes"] - held + paged, "paged": paged}


def main() -> int:
    """Every run; without a GPU the tiny ones that a CPU can train."""
    runs = list(RUNS)
    if not cells.on_gpu():
        runs = [Run("tiny", None), Run("tiny", "qlora"), Run("tiny", "lora", loss="dpo")]
    return cells.measure({str(run): partial(cell, run) for run in runs})


if __name__ == "__main__":
    sys.exit(main())
