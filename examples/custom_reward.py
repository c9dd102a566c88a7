"""A reward in five lines, as a plugin file.

    trl-deepseek grpo --plugins examples/custom_reward.py --reward_funcs exact_match brief \
        --model_name_or_path tiny-deepseek-llm --dataset_name arithmetic --chat_template deepseek-v3

``rewards test brief --plugins examples/custom_reward.py --data completions.jsonl`` tries it first.
"""

from __future__ import annotations

from trl_deepseek import hookimpl
from trl_deepseek.types import Register


def brief(completion: str) -> float:
    """1.0 for an empty completion, falling to 0.0 at 400 characters."""
    return max(0.0, 1.0 - len(completion) / 400)


@hookimpl
def register_rewards(register: Register) -> None:
    register("brief", brief)
