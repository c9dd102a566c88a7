"""Two tools over several turns: a tiny model looks prices up and adds them with a calculator.

    python examples/tools.py --sft_steps 300 --grpo_steps 30

1. SFT on conversations with calls and results, in DeepSeek-V3.1's format.
2. GRPO with the right answer as the only reward; the tools run, and nothing they say is trained on.

The prices are drawn anew for every seed, so that the model cannot know them.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from datasets import Dataset

from trl_deepseek import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer, load_registry

TEMPLATE = "deepseek-v3.1"
SYSTEM = "Tools: lookup, calculator."  # the template has no place for definitions
PRICES: dict[str, int] = {}


def lookup(key: str) -> str:
    """Look up a price.

    Args:
        key: The letter of the thing.
    """
    return str(PRICES[key])


def call(name: str, **arguments: str) -> dict[str, Any]:
    """A call as a message holds it."""
    return {"type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def demonstration(a: str, b: str, calculator: Any) -> dict[str, Any]:
    """One call for each price, one for the sum, and the answer."""
    expression = f"{PRICES[a]}+{PRICES[b]}"
    total = calculator(expression)
    asked = [call("lookup", key=a), call("lookup", key=b)]
    turns = [
        {"role": "assistant", "content": "", "tool_calls": asked},
        {"role": "tool", "name": "lookup", "content": lookup(a)},
        {"role": "tool", "name": "lookup", "content": lookup(b)},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [call("calculator", expression=expression)],
        },
        {"role": "tool", "name": "calculator", "content": total},
        {"role": "assistant", "content": f"#### {total}"},
    ]
    return {"messages": [*question(a, b), *turns]}


def question(a: str, b: str) -> list[dict[str, str]]:
    """The prices of two things, to be added."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"{a}+{b}"}]


def main(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train both stages; what GRPO logged at each step."""
    registry, chance = load_registry(), random.Random(options.seed)
    PRICES.update({letter: chance.randint(1, 99) for letter in "abcdefghijklmnopqrstuvwxyz"})
    pairs = [tuple(chance.choices(list(PRICES), k=2)) for _ in range(options.rows)]
    shown = [demonstration(a, b, registry.tools["calculator"]) for a, b in pairs]
    asked = [{"prompt": question(a, b), "solution": str(PRICES[a] + PRICES[b])} for a, b in pairs]
    common: dict[str, Any] = {
        "seed": options.seed,
        "chat_template": TEMPLATE,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "gradient_checkpointing": False,
    }
    sft = SFTTrainer(
        options.model_name_or_path,
        SFTConfig(
            str(Path(options.output_dir, "sft")),
            max_steps=options.sft_steps,
            per_device_train_batch_size=16,
            learning_rate=3e-3,
            lr_scheduler_type="cosine",
            **common,
        ),
        train_dataset=Dataset.from_list(shown),
    )
    sft.train()
    grpo = GRPOTrainer(
        sft.model,
        "exact_match",
        GRPOConfig(
            str(Path(options.output_dir, "grpo")),
            max_steps=options.grpo_steps,
            per_device_train_batch_size=options.grpo_batch,
            num_generations=4,
            max_completion_length=250,
            max_tool_calling_iterations=4,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            **common,
        ),
        train_dataset=Dataset.from_list(asked),
        processing_class=sft.processing_class,
        tools=[lookup, "calculator"],
    )
    grpo.train()
    told = ("reward", "tools/call_frequency", "tools/lookup/errors", "tools/malformed")
    steps = [log for log in grpo.state.log_history if "reward" in log]
    found = [{name: log[name] for name in told if name in log} for log in steps]
    print(*found, sep="\n")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name_or_path", default="tiny-deepseek-llm")
    parser.add_argument("--output_dir", default="tools")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--sft_steps", type=int, default=300)
    parser.add_argument("--grpo_steps", type=int, default=30)
    parser.add_argument("--grpo_batch", type=int, default=32)
    main(parser.parse_args())
