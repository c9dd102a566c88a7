"""The procedural tasks of ``reasoning-gym``, each with its verifier: ``reasoning_gym:countdown``.

Source: Reasoning Gym, arXiv:2505.24760; the library is an optional dependency (extra ``gym``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trl_deepseek import hookimpl
from trl_deepseek.types import Register
from trl_deepseek_plugins.gym.scoring import reasoning_gym

if TYPE_CHECKING:
    from datasets import Dataset

NAME = "reasoning_gym"
SECONDS = 20.0  # one answer; scoring some tasks searches


@hookimpl
def register_datasets(register: Register) -> None:
    register(NAME, tasks, verifier=NAME, requires=(NAME,))


@hookimpl
def register_rewards(register: Register) -> None:
    # Some of the library's scores let sympy evaluate the answer, which may take for ever.
    register(
        NAME,
        reasoning_gym,
        columns=("entry",),
        requires=(NAME,),
        timeout=SECONDS,
        isolate=True,
    )


def tasks(
    split: str = "train",
    kind: str = "prompts",
    size: int | None = None,
    seed: int = 0,
    task: str | None = None,
    **options: Any,
) -> Dataset:
    """A task of reasoning-gym, or several; see ``trl_deepseek_plugins.gym.drawing``.

    Source: Reasoning Gym, arXiv:2505.24760.
    """
    from trl_deepseek_plugins.gym.drawing import draw

    return draw(split, kind, size, seed, task, options)
