"""The runs in a folder, and what each has written down of itself.

Three kinds of folders: of one run; of a recipe, whose ``pipeline.json`` lists its stages; and one
whose folders are runs, which are then taken in the order in which they began.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from trl_deepseek.checkpoints import finding
from trl_deepseek.errors import DataError
from trl_deepseek.rollouts import history, record

PROGRESS = "pipeline.json"  # of a recipe
EVALUATION = "evaluation.json"  # what ``evaluate --json`` prints
STATE = "trainer_state.json"  # transformers', in each checkpoint
KILLED = "killed"  # how a process ended that could not say so


@dataclass(frozen=True)
class Run:
    """One run, or one stage of a recipe.

    Attributes:
        name: Of the stage; of the folder where there is but one.
        folder: Where its files are.
        command: ``sft``, ``grpo`` and so on; None where nobody wrote it down.
        manifest: What ``run.json`` holds; empty without one.
        logs: Records of the trainer's log history, each with its ``step``.
        warnings: What was warned of: time, step, message.
        outcome: ``finished``, ``failed``, ``interrupted``, ``running``, ``killed``,
            ``unfinished`` or ``unknown``.
        seconds: Between begin and end, of all its processes; None where that is not known.
        evaluations: Tables, in the layout of ``evaluate --json``.
        options: Of a recipe's stage that is no training, which leaves no manifest.
    """

    name: str
    folder: Path
    command: str | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)
    logs: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)
    outcome: str = "unknown"
    seconds: float | None = None
    evaluations: list[Mapping[str, Any]] = field(default_factory=list)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def error(self) -> str | None:
        """What ended it, where it failed."""
        runs = self.manifest.get("runs") or [{}]
        found: str | None = runs[-1].get("error")
        return found


@dataclass(frozen=True)
class Found:
    """What is in a folder.

    Attributes:
        folder: Its path.
        runs: In their order.
        recipe: Of which they are the stages, itself as a run; None where there is none.
    """

    folder: Path
    runs: list[Run]
    recipe: Run | None = None


def read(folder: Path) -> Found:
    """What a run or a recipe left in a folder.

    Raises:
        DataError: There is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise DataError(f"{str(folder)!r} is no folder: name the output_dir of a run or a recipe")
    stages = _stages(folder)
    if stages:
        return Found(folder, stages, _run(folder, folder.resolve().name))
    if _is_run(folder):
        return Found(folder, [_run(folder, folder.resolve().name)])
    runs = [_run(inner, inner.name) for inner in sorted(folder.iterdir()) if _is_run(inner)]
    if not runs:
        raise DataError(
            f"{str(folder)!r} holds no run: it has no {record.MANIFEST}, {record.LOG}, "
            f"{PROGRESS}, {EVALUATION}, completions or checkpoint\n"
            "  name the output_dir of a run or a recipe"
        )
    return Found(folder, sorted(runs, key=_began))


def _began(run: Run) -> str:
    runs = run.manifest.get("runs") or [{}]
    return str(runs[0].get("started") or "")


def _is_run(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    left = (record.MANIFEST, record.LOG, EVALUATION, STATE)
    return (
        any((folder / name).is_file() for name in left)
        or bool(history.files(folder))
        or any((step / STATE).is_file() for step in finding.steps(folder))
    )


def _run(folder: Path, name: str) -> Run:
    manifest = record.read_manifest(folder) or {}
    runs = [run for run in manifest.get("runs") or [] if isinstance(run, dict)]
    outcome = runs[-1].get("outcome", "unknown") if runs else "unknown"
    if outcome == record.RUNNING and not record.is_held(folder):
        outcome = KILLED
    times = [(run["started"], run["ended"]) for run in runs if run.get("ended")]
    evaluation = _json(folder / EVALUATION)
    return Run(
        name,
        folder,
        command=manifest.get("command") or str(manifest.get("trainer") or "").lower() or None,
        manifest=manifest,
        logs=list(_logs(folder)),
        warnings=[*record.lines(folder / record.WARNINGS), *_unreadable(folder)],
        outcome=outcome,
        seconds=sum(_between(*each) for each in times) if times else None,
        evaluations=[evaluation] if _is_evaluation(evaluation) else [],
    )


def _unreadable(folder: Path) -> Iterator[dict[str, Any]]:
    """What is to be said of files that the page has to do without."""
    for name in (record.MANIFEST, EVALUATION):
        if (folder / name).exists() and not isinstance(_json(folder / name), dict):
            yield {"step": None, "message": f"{name} cannot be read; this page is without it"}
    for file in history.files(folder):
        if not history.is_readable(file):
            yield {"step": None, "message": f"{file} cannot be read; its completions are left out"}


def _logs(folder: Path) -> Iterator[dict[str, Any]]:
    """From the file that the run has written, else the state in its folder or newest checkpoint."""
    logs = record.lines(folder / record.LOG)
    if not logs:
        newest = sorted(finding.steps(folder), key=finding.step_of, reverse=True)
        states = (_json(place / STATE) for place in (folder, *newest))
        state = next((each for each in states if isinstance(each, dict)), {})
        logs = state.get("log_history") or []
    for each in logs:
        if isinstance(each, dict) and isinstance(each.get("step"), int):
            yield each


def _stages(folder: Path) -> list[Run]:
    """The stages of a recipe; none where it is none."""
    if not (folder / PROGRESS).exists():
        return []
    found = _json(folder / PROGRESS)
    stages = found.get("stages") if isinstance(found, dict) else None
    if not isinstance(stages, dict):
        raise DataError(
            f"{folder / PROGRESS} cannot be read, which says what the stages are\n"
            "  `trl-deepseek report` of a stage's folder does without it"
        )
    return [
        _stage(folder, name, noted) for name, noted in stages.items() if isinstance(noted, dict)
    ]


def _stage(folder: Path, name: str, noted: Mapping[str, Any]) -> Run:
    more: dict[str, Any] = {"command": noted.get("command"), "options": noted.get("options") or {}}
    run = _run(folder / name, name)
    if _is_evaluation(noted.get("result")):
        more["evaluations"] = [noted["result"]]
    if "seconds" in noted:
        more |= {"outcome": "finished", "seconds": noted["seconds"]}
    elif run.outcome == "unknown":  # of what leaves no manifest
        more["outcome"] = "unfinished"
    return replace(run, **more)


def _is_evaluation(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("models"), list)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _between(started: str, ended: str) -> float:
    try:
        return (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds()
    except (TypeError, ValueError):
        return 0.0
