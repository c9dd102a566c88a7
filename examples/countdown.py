"""Countdown, R1-Zero style: make a number of three others, paid for the right answer alone.

    python examples/countdown.py                                    a tiny model, on two cores
    python examples/countdown.py --model_name_or_path MODEL         any other: a folder or a hub id

1. SFT on demonstrations, four in ten of which search inside ``<think>``: they try signs until the
   sum is right. The others answer at once.
2. GRPO on the same puzzles. ``reasoning_gym:countdown`` brings its verifier, so no reward is named;
   nothing asks the model to think.

With three numbers the tiny model learns to answer at once, so that GRPO has nothing to gain by
thinking, and does not gain (benchmarks/RESULTS.md). Needs the extra ``gym``:
``pip install "trl-deepseek[gym]"``.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from datasets import Dataset

from trl_deepseek import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer, load_registry
from trl_deepseek.evaluation import evaluate, resolve
from trl_deepseek.generation import Sampling

TASK = "reasoning_gym:countdown"
PUZZLES: dict[str, Any] = {
    "question": "{numbers}={target}",
    "min_numbers": 3,
    "max_numbers": 3,
    "min_value": 1,
    "max_value": 12,
    "min_target": 1,
    "max_target": 36,
    "operators": ["+", "-"],
}
TRAINED_ON = 1200  # puzzles
HELD_OUT = 100
SEARCHES = 0.4  # of the demonstrations
LONGEST = 80  # tokens of an answer


def search(numbers: list[int], target: int) -> tuple[str, str]:
    """Try signs on the numbers, the largest first; what was tried, and the sum that is right."""
    a, b, c = sorted(numbers, reverse=True)
    tried = []
    for x, first, y, second, z in (
        (a, "+", b, "+", c),
        (a, "+", b, "-", c),
        (a, "-", b, "+", c),
        (a, "-", b, "-", c),
        (b, "+", c, "-", a),
    ):
        between = x + y if first == "+" else x - y
        end = between + z if second == "+" else between - z
        if end < 1:
            continue
        tried.append(f"{x}{first}{y}>{between}{second}{z}>{end}")
        if end == target:
            return " ".join(tried), f"{x}{first}{y}{second}{z}"
    raise ValueError(f"{numbers} do not make {target}")


def demonstration(row: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """A puzzle with an answer that searches, or is given at once."""
    metadata = json.loads(row["entry"])["metadata"]
    tried, answer = search(metadata["numbers"], metadata["target"])
    said = f"<think>{tried}</think>" if chance.random() < SEARCHES else ""
    answered = [{"role": "assistant", "content": f"{said}#### {answer}"}]
    return {"prompt": row["prompt"], "completion": answered}


def solved(trainer: Any, rows: Any, registry: Any) -> dict[str, float]:
    """The share of held-out puzzles that is solved, and of answers that think."""
    found = evaluate(
        {"model": (trainer.model, trainer.processing_class)},
        rows,
        resolve(["reasoning_gym", "think_format"], registry),
        Sampling(max_new_tokens=LONGEST),
        registry=registry,
    )
    return {name: round(each.value, 3) for name, each in found.estimates().items()}


def main(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Train both stages; what each solves."""
    registry, seed = load_registry(), options.seed
    puzzles = registry.datasets[TASK]
    train = puzzles(size=options.puzzles, seed=seed, **PUZZLES)
    held_out = puzzles(split="test", size=HELD_OUT, **PUZZLES)
    chance = random.Random(seed)
    shown = [demonstration(row, chance) for _ in range(8) for row in train]
    common: dict[str, Any] = {
        "seed": seed,
        "chat_template": "deepseek-v3",
        "logging_steps": 10,
        "save_strategy": "no",
        "report_to": "none",
        "gradient_checkpointing": False,
    }
    sft = SFTTrainer(
        options.model_name_or_path,
        SFTConfig(
            str(Path(options.output_dir, "sft")),
            max_steps=options.sft_steps,
            per_device_train_batch_size=64,
            learning_rate=3e-3 if options.model_name_or_path.startswith("tiny") else 2e-5,
            # As in the quickstart: steps are learned late, and while the rate is high.
            lr_scheduler_type="warmup_stable_decay",
            lr_scheduler_kwargs={"num_decay_steps": options.sft_steps // 4},
            warmup_steps=20,
            adam_beta2=0.98,
            **common,
        ),
        train_dataset=Dataset.from_list(shown),
    )
    sft.train()
    found = {"SFT": solved(sft, held_out, registry)}
    print("SFT", found["SFT"], flush=True)
    grpo = GRPOTrainer(
        sft.model,
        args=GRPOConfig(
            str(Path(options.output_dir, "grpo")),
            max_steps=options.grpo_steps,
            per_device_train_batch_size=options.grpo_batch,
            num_generations=8,
            max_completion_length=LONGEST,
            learning_rate=1e-4 if options.model_name_or_path.startswith("tiny") else 1e-6,
            lr_scheduler_type="constant",
            beta=0.0,
            **common,
        ),
        train_dataset=train,
        processing_class=sft.processing_class,
    )
    grpo.train()
    found["GRPO"] = solved(grpo, held_out, registry)
    print("GRPO", found["GRPO"], flush=True)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name_or_path", default="tiny-deepseek-llm")
    parser.add_argument("--output_dir", default="countdown")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--puzzles", type=int, default=TRAINED_ON)
    parser.add_argument("--sft_steps", type=int, default=300)
    parser.add_argument("--grpo_steps", type=int, default=30)
    parser.add_argument("--grpo_batch", type=int, default=128)
    main(parser.parse_args())
