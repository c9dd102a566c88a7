"""Countdown, R1-Zero style: make a number of four others, paid for the right answer alone.

    python examples/countdown.py                                    a tiny model, on two cores
    python examples/countdown.py --model_name_or_path MODEL         any other: a folder or a hub id

1. SFT on demonstrations, short, so that much is left to learn. Four in ten search inside
   ``<think>``: they turn one sign after the other until the sum is right; the others do not.
2. GRPO on the same puzzles. ``reasoning_gym:countdown`` brings its verifier, so no reward is named;
   nothing asks the model to think.

Both models then answer puzzles that neither has seen, drawn as in training and greedily; what came
of it: benchmarks/RESULTS.md. Needs the extra ``gym``: ``pip install "trl-deepseek[gym]"``.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM

from trl_deepseek import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer, load_registry
from trl_deepseek.evaluation import evaluate, resolve
from trl_deepseek.generation import Sampling

TASK = "reasoning_gym:countdown"
PUZZLES: dict[str, Any] = {
    "question": "{numbers}={target}",
    "min_numbers": 4,
    "max_numbers": 4,
    "min_value": 1,
    "max_value": 9,
    "min_target": 1,
    "max_target": 36,
    "operators": ["+", "-"],
}
TRAINED_ON = 1200  # puzzles
HELD_OUT = 250
SEARCHES = 0.4  # of the demonstrations
LONGEST = 120  # tokens of an answer


def search(numbers: list[int], target: int) -> tuple[str, str]:
    """Add all, then turn one sign at a time until the sum is right; the sums, and what is right.

    Signs are turned in the order of Gray's code, the smallest number's most often.
    """
    numbers = sorted(numbers)
    signs, total = [1] * len(numbers), sum(numbers)
    tried = [str(total)]
    for step in range(1, 2 ** len(numbers)):
        if total == target:
            break
        turned = (step & -step).bit_length() - 1
        signs[turned] *= -1
        total += 2 * signs[turned] * numbers[turned]
        tried.append(f"{'+' if signs[turned] > 0 else '-'}{numbers[turned]}>{total}")
    if total != target:
        raise ValueError(f"{numbers} do not make {target}")
    terms = sorted(zip(signs, numbers, strict=True), reverse=True)
    return " ".join(tried), "".join(f"{sign * n:+}" for sign, n in terms).removeprefix("+")


def demonstration(row: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """A puzzle with an answer that searches, or is given at once."""
    metadata = json.loads(row["entry"])["metadata"]
    tried, answer = search(metadata["numbers"], metadata["target"])
    said = f"<think>{tried}</think>" if chance.random() < SEARCHES else ""
    answered = [{"role": "assistant", "content": f"{said}#### {answer}"}]
    return {"prompt": row["prompt"], "completion": answered}


def compare(models: dict[str, Any], rows: Any, registry: Any) -> dict[str, Any]:
    """The reward of unseen puzzles and the share of answers that think, drawn and greedy."""
    found: dict[str, Any] = {}
    for how, sampling in {
        "drawn": Sampling(num_samples=4, max_new_tokens=LONGEST, temperature=1.0),
        "greedy": Sampling(max_new_tokens=LONGEST),
    }.items():
        result = evaluate(
            models,
            rows,
            resolve(["reasoning_gym", "think_format"], registry),
            sampling,
            registry=registry,
        )
        found[how] = {
            name: {metric: round(each.value, 3) for metric, each in result.estimates(name).items()}
            for name in models
        }
        gain = result.differences()[0].estimate
        found[how]["gain"] = f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
    return found


def main(options: argparse.Namespace) -> dict[str, Any]:
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
    sft.save_model()
    grpo = GRPOTrainer(
        sft.model,
        args=GRPOConfig(
            str(Path(options.output_dir, "grpo")),
            max_steps=options.grpo_steps,
            per_device_train_batch_size=options.grpo_batch,
            num_generations=8,
            max_completion_length=LONGEST,
            learning_rate=2e-4 if options.model_name_or_path.startswith("tiny") else 1e-6,
            lr_scheduler_type="constant",
            beta=0.0,
            **common,
        ),
        train_dataset=train,
        processing_class=sft.processing_class,
    )
    grpo.train()
    tokenizer = sft.processing_class
    started_from = AutoModelForCausalLM.from_pretrained(sft.args.output_dir)
    models = {"SFT": (started_from, tokenizer), "GRPO": (grpo.model, tokenizer)}
    found = compare(models, held_out, registry)
    print(json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name_or_path", default="tiny-deepseek-llm")
    parser.add_argument("--output_dir", default="countdown")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--puzzles", type=int, default=TRAINED_ON)
    parser.add_argument("--sft_steps", type=int, default=200)
    parser.add_argument("--grpo_steps", type=int, default=120)
    parser.add_argument("--grpo_batch", type=int, default=128)
    main(parser.parse_args())
