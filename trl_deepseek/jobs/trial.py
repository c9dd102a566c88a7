"""One batch and one step of a job, for a look at it: nothing is saved and nobody is told."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from trl_deepseek import jobs, processes
from trl_deepseek.errors import PluginError
from trl_deepseek.jobs import datasets
from trl_deepseek.jobs.options import DataArguments, build_dataclasses
from trl_deepseek.plugin_loading import load_registry
from trl_deepseek.trainers import idle
from trl_deepseek.trainers.inputs import registry_for
from trl_deepseek.types import DatasetKind

# Of a run that leaves nothing behind and tells nobody.
QUIET: Mapping[str, Any] = {
    "save_strategy": "no",
    "logging_strategy": "no",
    "eval_strategy": "no",
    "eval_dataset": None,
    "eval_on_start": False,
    "load_best_model_at_end": False,
    "save_completions": False,
    "report_to": "none",
    "push_to_hub": False,
    "resume_from_checkpoint": None,
}


def rows(options: argparse.Namespace, kind: DatasetKind) -> Any:
    """The rows to train on, also where the rest of the job is wrong.

    Raises:
        UserError: They cannot be read.
    """
    try:
        registry = registry_for(options)
    except PluginError:  # which has been said
        registry = load_registry()
    (source,) = build_dataclasses(options, [DataArguments])
    config = SimpleNamespace(eval_strategy="no", seed=0)
    source.eval_dataset = None
    return datasets.load(source, config, registry, kind, options.without)[0]


def shape_of(batch: Any) -> dict[str, int]:
    """Sequences and tokens of a batch; what is padding does not count."""
    if isinstance(batch, list):  # prompts, of which the sequences are still to be generated
        return {"batch_sequences": len(batch)}
    if "attention_mask" in batch:
        tokens = int(batch["attention_mask"].sum())
    else:  # packed into one row
        tokens = batch["input_ids"].numel()
    return {"batch_sequences": len(batch["input_ids"]), "batch_tokens": tokens}


def step(options: argparse.Namespace, more: Mapping[str, Any]) -> dict[str, float]:
    """Train on the first batch as the job would, up to the end of its backward pass.

    Args:
        options: Of a job without faults.
        more: What its kind's ``check`` takes besides.

    Returns:
        ``loss`` (with accumulation about that of a whole step), ``seconds`` of the pass, and
        ``gpu_bytes`` at most where there is a GPU.
    """
    import torch
    from transformers import PrinterCallback, ProgressCallback, TrainerCallback

    class Stop(TrainerCallback):
        """Ends the run behind the first backward pass, with accumulation or without."""

        def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = True

        on_step_end = on_substep_end

    quiet = {name: value for name, value in QUIET.items() if hasattr(options, name)}
    quiet |= processes.accumulated(options)
    with tempfile.TemporaryDirectory() as scratch, processes.planned(1):
        options = argparse.Namespace(**{**vars(options), **quiet, "output_dir": scratch})
        with idle.said_before():
            trainer = jobs.kind(options.command).check(options, **more).build()
        for shows in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(shows)
        trainer.add_callback(Stop())
        found: dict[str, float] = {}
        training_step = trainer.training_step

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.monotonic()
            loss = training_step(*args, **kwargs)
            whole = loss.item() * trainer.current_gradient_accumulation_steps
            found.update(loss=whole, seconds=time.monotonic() - started)
            return loss

        trainer.training_step = timed
        trainer.train()
        if torch.cuda.is_available():
            found["gpu_bytes"] = torch.cuda.max_memory_allocated()
        return found
