"""Registered advantages and policy losses on one task, from the same start: one word is changed.

    python examples/policy_losses.py [--all] [--advantages rloo maxrl] [--losses grpo gspo]
        [--folder runs] [--json]

A tiny model first learns by SFT to follow a ball under cups, as in the quickstart, and to guess at
once more often than to follow it step by step, which is how a question is answered right. Each pair
then trains a copy of it with GRPO, two updates for each rollout. Without ``--all`` that is every
advantage with the first loss and every loss with the first advantage, else every advantage with
every loss. The table shows how often the greedy answer to held-out questions is right (0.2 by a
guess) and, as means over the last quarter of a run, the reward, the KL divergence from the start
and the share of tokens (or completions) that were clipped; and seconds of one processor.
With ``--folder`` the start and each row are kept there, and a run that was broken off goes on.
Compare the rows of one table, not tables: how right a start is depends on seed and processor.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import PrinterCallback

from trl_deepseek import (
    GRPOConfig,
    GRPOTrainer,
    Registry,
    SFTConfig,
    SFTTrainer,
    chat,
    load_registry,
    models,
)
from trl_deepseek.evaluation import evaluate
from trl_deepseek.generation import Sampling

TASK = "cups"
TEMPLATE = "deepseek-v3"
HELD_OUT = 64
SFT_BATCH = 64
GROUP = 8
LONGEST = 40  # tokens of an answer
CLIPPED = ("clip_ratio/region_mean", "cispo_clip_ratio", "clip_ratio/covariance_mean")


@dataclass(frozen=True)
class Row:
    """One row of the table; None where it has no such number."""

    advantage: str
    loss: str
    reward: float
    exact_match: float
    kl: float
    clipped: float | None
    seconds: float


def common(folder: str, steps: int, seed: int) -> dict[str, Any]:
    """Options that all runs share."""
    return {
        "output_dir": folder,
        "chat_template": TEMPLATE,
        "max_steps": steps,
        "seed": seed,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
    }


def start_model(registry: Registry, args: argparse.Namespace, folder: str) -> tuple[Any, Any]:
    """A tiny model that guesses, and could follow steps."""
    model, tokenizer = registry.models["tiny-deepseek-llm"](seed=args.seed)
    rows = registry.datasets[TASK](
        kind="demonstrations", size=SFT_BATCH * args.sft_steps, seed=args.seed
    )
    config = SFTConfig(
        **common(folder, args.sft_steps, args.seed),
        per_device_train_batch_size=SFT_BATCH,
        learning_rate=3e-3,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": args.sft_steps // 4},
        warmup_steps=args.sft_steps // 15,
        adam_beta2=0.98,
        logging_steps=args.sft_steps,
    )
    trainer = SFTTrainer(model, config, train_dataset=rows, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer.model, tokenizer


def kept_start(registry: Registry, args: argparse.Namespace, folder: Path) -> tuple[Any, Any]:
    """The start, which is trained once and kept."""
    kept = folder / "start.pt"
    if not kept.exists():
        model, _ = start_model(registry, args, str(folder))
        torch.save(model.state_dict(), kept)
    model, tokenizer = registry.models["tiny-deepseek-llm"](seed=args.seed)
    model.load_state_dict(torch.load(kept, weights_only=True))
    chat.install(tokenizer, TEMPLATE)
    return model, tokenizer


def rows_of(
    pairs: list[tuple[str, str]], start: tuple[Any, Any], args: argparse.Namespace, folder: Path
) -> Iterator[Row]:
    """One row for each pair; those that were kept are not run again."""
    kept = folder / "rows.jsonl"
    lines = kept.read_text().splitlines() if kept.exists() else []
    done = {(row.advantage, row.loss): row for row in (Row(**json.loads(line)) for line in lines)}
    for pair in pairs:
        if pair not in done:
            done[pair] = run(*pair, start, args, str(folder))
            with kept.open("a") as file:
                file.write(json.dumps(asdict(done[pair])) + "\n")
        yield done[pair]


def exact_match(model: Any, tokenizer: Any, registry: Registry) -> float:
    """Share of held-out questions whose greedy answer is right."""
    questions = registry.datasets[TASK](split="test", kind="prompts", size=HELD_OUT)
    sampling = Sampling(max_new_tokens=LONGEST)
    found = evaluate(
        {"model": (model, tokenizer)}, questions, ["exact_match"], sampling, registry=registry
    )
    return found.estimates()["exact_match"].value


def run(
    advantage: str, loss: str, start: tuple[Any, Any], args: argparse.Namespace, folder: str
) -> Row:
    """Train a copy of ``start`` with one advantage and one loss, and look at it."""
    registry = load_registry()
    model, tokenizer = models.copy_of(start[0]), start[1]
    config = GRPOConfig(
        **common(folder, args.steps, args.seed),
        advantage=advantage,
        loss_type=loss,
        beta=0.01,
        num_iterations=2,
        learning_rate=args.learning_rate,
        lr_scheduler_type="constant",
        per_device_train_batch_size=args.batch,
        num_generations=GROUP,
        max_completion_length=LONGEST,
        save_completions=False,
        logging_steps=1,
    )
    rows = registry.datasets[TASK](size=args.batch // GROUP * args.steps, seed=args.seed)
    begin = time.process_time()
    trainer = GRPOTrainer(
        model, "exact_match", config, train_dataset=rows, processing_class=tokenizer
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    seconds = time.process_time() - begin
    logs = trainer.state.log_history
    clipped = next((name for name in CLIPPED if any(name in log for log in logs)), None)

    def last(name: str) -> float:
        """The mean of the last quarter; a reward is logged once for each rollout."""
        values = [float(log[name]) for log in logs if name in log]
        values = values[-max(len(values) // 4, 1) :]
        return sum(values) / len(values)

    return Row(
        advantage,
        loss,
        reward=last("reward"),
        exact_match=exact_match(trainer.model, tokenizer, registry),
        kl=last("kl"),
        clipped=None if clipped is None else last(clipped),
        seconds=seconds,
    )


def main() -> int:
    """Print the table."""
    registry = load_registry()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for option, known in (("advantages", registry.advantages), ("losses", registry.policy_losses)):
        first = ["grpo", *(name for name in known if name != "grpo")]
        parser.add_argument(f"--{option}", nargs="+", choices=first, default=first, metavar="NAME")
    parser.add_argument("--all", action="store_true", help="Every advantage with every loss.")
    parser.add_argument("--steps", type=int, default=40, help="Updates of each pair.")
    parser.add_argument("--sft_steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32, help="Completions of a rollout.")
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="Where the start and the rows are kept.")
    parser.add_argument("--json", action="store_true", help="Print one JSON list instead.")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the tensors are too small for more
    datasets.disable_progress_bars()
    pairs = [
        (advantage, loss)
        for advantage in args.advantages
        for loss in args.losses
        if args.all or advantage == args.advantages[0] or loss == args.losses[0]
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        start = kept_start(registry, args, folder)
        right = exact_match(*start, registry)
        shown = track(
            rows_of(pairs, start, args, folder),
            total=len(pairs),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        rows = list(shown)
    if args.json:
        print(json.dumps([asdict(row) for row in rows]))
        return 0
    title = f"{args.steps} updates from a start with an exact match of {right:.2f}"
    table = Table(title=title, title_justify="left")
    for column in ("advantage", "loss"):
        table.add_column(column)
    for column in ("reward", "exact match", "KL, nats/token", "clipped", "CPU seconds"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row.advantage,
            row.loss,
            f"{row.reward:.3f}",
            f"{row.exact_match:.2f}",
            f"{row.kl:.4f}",
            "-" if row.clipped is None else f"{row.clipped:.4f}",
            f"{row.seconds:.1f}",
        )
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
