"""Every registered preference loss on the same pairs, from the same start: one word is changed.

    python examples/swap_losses.py [--losses dpo ipo kto orpo] [--seed 0] [--json]

A tiny model first learns the embedded task a little by SFT. Then each loss trains a copy of it on
the same preference pairs. On held-out questions the table shows the share of pairs whose chosen
answer gained on the rejected one (0.5 at the start, where neither has) and by how many nats per
token, since chosen answers are six times as long and some losses are about sums, others about
means; how often the greedy answer is right, with the 95 % interval over the questions; and the time
and memory that training took on top. How right a start is depends on seed and processor, so compare
the rows of one table, not tables.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

import datasets
import psutil
import torch
from datasets import Dataset
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import PrinterCallback

from trl_deepseek import (
    DPOConfig,
    KTOConfig,
    Registry,
    SFTConfig,
    SFTTrainer,
    chat,
    load_registry,
    models,
    preference_trainer,
)
from trl_deepseek.evaluation import evaluate
from trl_deepseek.generation import Sampling
from trl_deepseek.lm_head import token_logps

TEMPLATE = "deepseek-v3"
HELD_OUT = 128


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    loss: str
    accuracy: float
    margin: float
    exact_match: float
    low: float | None  # of exact match: the 95 % interval over the questions
    high: float | None
    seconds: float
    peak_mb: float


class PeakMemory:
    """Resident memory above that at the start, in MB: the highest seen, looked at every 5 ms."""

    def __enter__(self) -> PeakMemory:
        self._process = psutil.Process()
        self._start = self._peak = self._process.memory_info().rss
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def mb(self) -> float:
        """The peak so far."""
        return (self._peak - self._start) / 1e6


def common(folder: str, steps: int, seed: int) -> dict[str, Any]:
    """Options that all runs share."""
    return {
        "output_dir": folder,
        "chat_template": TEMPLATE,
        "max_steps": steps,
        "per_device_train_batch_size": 32,
        "seed": seed,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": steps,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
    }


def start_model(registry: Registry, steps: int, seed: int, folder: str) -> tuple[Any, Any]:
    """A tiny model that has seen some demonstrations."""
    model, tokenizer = registry.models["tiny-deepseek-llm"](seed=seed)
    rows = registry.datasets["arithmetic"](kind="demonstrations", size=32 * steps, seed=seed)
    config = SFTConfig(**common(folder, steps, seed), learning_rate=2e-3)
    trainer = SFTTrainer(model, config, train_dataset=rows, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer.model, tokenizer


@torch.no_grad()
def completion_logps(model: Any, tokenizer: Any, pairs: Dataset, column: str) -> torch.Tensor:
    """Mean log-prob per token of each row's completion, (B,), in nats."""
    template = chat.installed(tokenizer)
    assert template is not None
    encoded = [
        chat.encode(template, [*row["prompt"], *row[column]], tokenizer, training=True)
        for row in pairs
    ]
    width = max(len(one.input_ids) for one in encoded)
    ids = torch.full((len(encoded), width), tokenizer.pad_token_id)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for place, one in enumerate(encoded):
        length = len(one.input_ids)
        ids[place, :length] = torch.tensor(one.input_ids)
        mask[place, :length] = 1
        generated = torch.tensor(one.assistant_mask).bool()
        labels[place, :length][generated] = ids[place, :length][generated]
    model.eval()
    scored = token_logps(model, input_ids=ids, attention_mask=mask, labels=labels)
    return scored.logps.sum(dim=1) / (labels != -100).sum(dim=1)


def run(
    name: str, start: Any, tokenizer: Any, registry: Registry, args: argparse.Namespace, folder: str
) -> Row:
    """Train a copy of ``start`` with one loss and look at it on held-out questions."""
    arithmetic = registry.datasets["arithmetic"]
    unpaired = registry.losses[name].data == "unpaired"
    config = (KTOConfig if unpaired else DPOConfig)(
        **common(folder, args.steps, args.seed), learning_rate=args.learning_rate
    )
    pairs = arithmetic(kind="preferences", size=32 * args.steps, seed=args.seed)
    model = models.copy_of(start)
    begin = time.perf_counter()
    with PeakMemory() as memory:
        trainer = preference_trainer(model, name, pairs, config, processing_class=tokenizer)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    seconds = time.perf_counter() - begin
    held_out = arithmetic(split="test", kind="preferences", size=HELD_OUT)
    gains = {
        column: completion_logps(trainer.model, tokenizer, held_out, column)
        - completion_logps(start, tokenizer, held_out, column)
        for column in ("chosen", "rejected")
    }
    margin = gains["chosen"] - gains["rejected"]
    answers = evaluate(
        {name: (trainer.model, tokenizer)},
        arithmetic(split="test", kind="prompts", size=HELD_OUT),
        ["exact_match"],
        Sampling(max_new_tokens=32),
        registry=registry,
    )
    exact_match = answers.estimates()["exact_match"]
    return Row(
        name,
        accuracy=float((margin > 0).float().mean() + 0.5 * (margin == 0).float().mean()),
        margin=float(margin.mean()),
        exact_match=exact_match.value,
        low=exact_match.low,
        high=exact_match.high,
        seconds=seconds,
        peak_mb=memory.mb,
    )


def main() -> int:
    """Print the table."""
    registry = load_registry()
    known = [name for name, loss in registry.losses.items() if loss.data != "rewards"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--losses", nargs="+", choices=known, default=known, metavar="LOSS")
    parser.add_argument("--steps", type=int, default=40, help="Steps of each loss, of 32 pairs.")
    parser.add_argument("--sft_steps", type=int, default=200)
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="Print one JSON list instead.")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the tensors are too small for more
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        start, tokenizer = start_model(registry, args.sft_steps, args.seed, folder)
        rows = [
            run(name, start, tokenizer, registry, args, folder)
            for name in track(
                args.losses, console=Console(stderr=True), disable=not sys.stderr.isatty()
            )
        ]
    if args.json:
        print(json.dumps([asdict(row) for row in rows]))
        return 0
    table = Table(title=f"{args.steps} steps from the same start", title_justify="left")
    table.add_column("loss")
    for column in ("reward accuracy", "margin, nats/token", "exact match", "seconds", "peak MB"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row.loss,
            f"{row.accuracy:.3f}",
            f"{row.margin:.1f}",
            f"{row.exact_match:.2f} ({row.low:.2f} to {row.high:.2f})",
            f"{row.seconds:.1f}",
            f"{row.peak_mb:.0f}",
        )
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
