"""Tasks of EleutherAI's lm-eval harness: ``lm_eval:TASK``."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from typing import Any

from trl_deepseek import hookimpl
from trl_deepseek.errors import did_you_mean
from trl_deepseek.types import Estimate, Register


@hookimpl
def register_metrics(register: Register) -> None:
    register("lm_eval", lm_eval, over="model", rows=None, check=check)


def check(options: Mapping[str, Any], num_samples: int) -> str | None:
    """What is wrong with the options, or None."""
    if importlib.util.find_spec("lm_eval") is None:
        return (
            "it needs lm-eval, which is not installed\n"
            '  install it with: pip install "trl-deepseek[lm-eval]"'
        )
    if "task" not in options:
        return "name a task: lm_eval:TASK"
    known = _tasks(options["include_path"])
    if options["task"] not in known.all_tasks:
        return (
            f"lm-eval has no task {options['task']!r}"
            f"{did_you_mean(options['task'], known.all_tasks, inline=True)}\n"
            "  `lm-eval ls tasks` lists them; one of your own is found in the folder include_path"
        )
    return None


def lm_eval(
    model: Any,
    tokenizer: Any,
    task: str,
    sampling: Any = None,
    include_path: str | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    apply_chat_template: bool = False,
) -> dict[str, Estimate]:
    """A task of lm-eval, as lm-eval measures it.

    Each number that the task has, under its name there (with its filter, where it has one); the
    interval is 1.96 of lm-eval's standard errors to both sides, none where it knows none. Tasks
    that generate do so as they are configured, whatever the run's sampling is.

    Source: lm-evaluation-harness, github.com/EleutherAI/lm-evaluation-harness.

    Args:
        model: Measured.
        tokenizer: Its tokenizer.
        task: The task's, or a group's, name.
        sampling: Gives the batch size.
        include_path: A folder with tasks of one's own.
        num_fewshot: Examples shown; None for the task's own number.
        limit: Rows, from the first; None for all.
        apply_chat_template: Whether questions stand in the chat template.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    batch_size = getattr(sampling, "batch_size", None) or 8
    results = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
        tasks=[task],
        task_manager=_tasks(include_path),
        num_fewshot=num_fewshot,
        limit=limit,
        apply_chat_template=apply_chat_template,
        log_samples=False,
        bootstrap_iters=1000,
    )
    found: dict[str, Estimate] = {}
    several = len(results["results"]) > 1
    for name, numbers in results["results"].items():
        count = int(results["n-samples"].get(name, {}).get("effective", 0))
        for key, value in numbers.items():
            metric, _, part = key.partition(",")
            if not isinstance(value, (int, float)) or metric.endswith("stderr") or not part:
                continue
            label = metric if part == "none" else f"{metric}_{part}"
            error = numbers.get(f"{metric}_stderr,{part}")
            around = 1.96 * error if isinstance(error, (int, float)) else None
            found[f"{name}/{label}" if several else label] = Estimate(
                float(value),
                None if around is None else value - around,
                None if around is None else value + around,
                count,
            )
    return found


@functools.lru_cache(maxsize=1)
def _tasks(include_path: str | None) -> Any:
    """All tasks by name; reading thousands of files takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path)
