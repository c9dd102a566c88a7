"""GRPO on the completions that a run saved, without generating: to debug a loss or a reward.

At each step the policy is trained on what that run generated at this step for the same prompts.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from typing import Any

from trl_deepseek.errors import ConfigError, RunError
from trl_deepseek.rollouts import history


class ReplayedRollouts:
    """Mixin of the GRPO trainer; without ``rollouts`` it does nothing."""

    def __init__(self: Any, inputs: Any, **kwargs: Any) -> None:
        self._prompts_asked: list[Any] = []
        self._saved: dict[tuple[str, int, str], deque[list[int]]] | None = None
        folder = getattr(inputs.args, "rollouts", None)
        if folder is not None:
            self._saved = defaultdict(deque)
            for row in history.read(folder):
                self._saved[row.mode, row.step, _key(row.prompt)].append(row.completion_ids)
        super().__init__(inputs, **kwargs)  # type: ignore[call-arg]

    def _generate(self: Any, prompts: list[Any]) -> Any:
        self._prompts_asked = prompts
        return super()._generate(prompts)  # type: ignore[misc]

    def _generate_single_turn(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self._saved is None:
            return super()._generate_single_turn(*args, **kwargs)  # type: ignore[misc]
        mode = "train" if self.model.training else "eval"
        step = self.state.global_step
        found = []
        for prompt in self._prompts_asked:
            left = self._saved.get((mode, step, _key(prompt)))
            if not left:
                raise RunError(
                    f"step {step}: {str(self.args.rollouts)!r} holds no completion that was "
                    f"generated at this step for the prompt {str(prompt)[:80]}\n"
                    "  give the dataset, seed, batch sizes and no more steps than the run had that "
                    "saved them"
                )
            found.append(left.popleft())
        return found, None


def _key(prompt: Any) -> str:
    return json.dumps(prompt, sort_keys=True)


def check(args: Any, *, tools: bool) -> None:
    """Refuse rollouts that are not there, or that cannot be gone through again.

    Raises:
        ConfigError: See the messages.
    """
    folder = getattr(args, "rollouts", None)
    if folder is None:
        return
    if args.use_vllm:
        raise ConfigError("rollouts: nothing is generated from saved ones; leave --use_vllm out")
    if tools:
        raise ConfigError("rollouts: turns with tools cannot be gone through again")
    if args.world_size > 1:
        raise ConfigError(
            f"rollouts: saved ones are gone through in one process, and there are {args.world_size}"
        )
    next(history.read(folder), None)  # says where there are none
