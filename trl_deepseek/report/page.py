"""Lay out the report of a folder: static text and tables, and the data that its script draws."""

from __future__ import annotations

import base64
import functools
import gzip
import json
import logging
import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trl_deepseek import secrets
from trl_deepseek.report import completions, curves, evaluations, reading
from trl_deepseek.rollouts import record

logger = logging.getLogger(__name__)

BUDGET = 6_000_000  # characters of completions, of all stages together
LIBRARY = '<script type="text/plain" id="library">'  # no text of a run can hold this unescaped
WIDTH, HEIGHT = 100, 24  # of the small curve beside a figure


def write(folder: str | Path, file: str | Path | None = None) -> Path:
    """Write the report of a run or a recipe.

    Args:
        folder: Its output folder.
        file: Where to; ``report.html`` in the folder when None.

    Returns:
        The file.

    Raises:
        DataError: There is no run in the folder.
        OSError: The file cannot be written.
    """
    folder = Path(folder)
    target = folder / record.REPORT if file is None else Path(file)
    text = _render(reading.read(folder))
    new = target.with_name(f"{target.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(target)
    return target


def written_beside(folder: str | Path) -> Path | None:
    """As :func:`write`, for whoever has just done the work: an error is a warning, and None.

    A folder that somebody has removed meanwhile has no report.
    """
    if not Path(folder).is_dir():
        return None
    with record.never_failing(logger.warning, record.REPORT):
        return write(folder)
    return None


def _render(found: reading.Found) -> str:
    from markupsafe import Markup

    budget = BUDGET // len(found.runs)
    stages = [_stage(run, f"stage-{i}", budget) for i, run in enumerate(found.runs)]
    text = _template().render(
        title=found.folder.resolve().name,
        folder=str(found.folder),
        recipe=found.recipe,
        again=None if found.recipe is None else _again(found.recipe),
        made=record.now(),
        version=version("trl-deepseek"),
        stages=stages,
        kinds=completions.KINDS,
        evaluations=[
            table | {"stage": run.name}
            for run in found.runs
            for value in run.evaluations
            if (table := evaluations.table(value))["rows"]
        ],
        style=Markup(_asset("report.css")),
        script=Markup(_asset("report.js")),
        data=Markup(_json({"stages": [stage["data"] for stage in stages]})),
    )
    text = secrets.redacted(text)
    draws = any(stage["panels"] or stage["more"] for stage in stages)
    # Behind the search for secrets, to which it would be most of the page.
    return text.replace(LIBRARY, LIBRARY + _library(), 1) if draws else text


def _stage(run: reading.Run, name: str, budget: int) -> dict[str, Any]:
    panels, more = curves.panels(run.logs)
    kept = completions.choose(run.folder, budget)
    drawn = [curve for panel in (*panels, *more) for curve in panel.curves]
    thinned = [curve for curve in drawn if curve.logged > len(curve.steps)]
    return {
        "id": name,
        "run": run,
        "summary": _summary(run),
        "headlines": [_headline(curve) for curve in curves.headlines(run.logs)],
        "panels": panels,
        "more": more,
        "thinned": max((curve.logged for curve in thinned), default=0),
        "drawn": curves.POINTS,
        "kept": kept,
        "failed": completions.failed(run.folder),
        "manifest": _manifest(run),
        "data": {
            "panels": [asdict(panel) for panel in panels],
            "more": [asdict(panel) for panel in more],
            "completions": None
            if kept is None
            else {"rewards": kept.rewards, "rows": kept.rows, "prompts": kept.prompts},
        },
    }


def _summary(run: reading.Run) -> str:
    made = run.manifest
    steps = max((log["step"] for log in run.logs), default=0)
    data = (made.get("datasets") or {}).get("train_dataset") or {}
    parts = [
        run.command,
        f"of {made['model']}" if made.get("model") else None,
        f"on {data['name']}" if data.get("name") else None,
        f"{steps:,} step{'s' * (steps != 1)} logged" if steps else None,
        None if run.seconds is None else _duration(run.seconds),
    ]
    return " · ".join(part for part in parts if part)


def _headline(curve: curves.Curve) -> dict[str, Any]:
    values = curve.finite
    low, high = min(values), max(values)
    steps = [
        step for step, value in zip(curve.steps, curve.values, strict=True) if value is not None
    ]
    wide, tall = (steps[-1] - steps[0]) or 1, (high - low) or 1
    points = [
        f"{WIDTH * (step - steps[0]) / wide:.1f},{1 + (HEIGHT - 2) * (high - value) / tall:.1f}"
        for step, value in zip(steps, values, strict=True)
    ]
    return {
        "name": curve.name,
        "first": values[0],
        "last": values[-1],
        "points": " ".join(points if len(points) > 1 else [*points, f"{WIDTH},{HEIGHT / 2}"]),
    }


def _manifest(run: reading.Run) -> dict[str, Any] | None:
    """What was run, in the groups in which one looks for it."""
    made = run.manifest
    if not made:
        return {"given": run.options, "lines": []} if run.options else None
    config = made.get("config") or {}
    template, git = made.get("chat_template") or {}, made.get("git")
    named = {"model": made.get("model"), "chat_template": template.get("name") or "its own"}
    parts = {**named, **(made.get("parts") or {}), "seed": made.get("seed")}
    commit = {} if git is None else {"commit": git["commit"], "changed since": git["changed"]}
    return {
        "parts": {key: value for key, value in parts.items() if value not in (None, {}, [])},
        "given": config.get("given") or {},
        "default": config.get("default") or {},
        "datasets": made.get("datasets") or {},
        "versions": {**(made.get("versions") or {}), **(made.get("machine") or {}), **commit},
        "plugins": {
            name: plugin.get("version") or f"source {plugin.get('source')}"
            for name, plugin in (made.get("plugins") or {}).items()
        },
        "lines": [shlex.join(each.get("command_line") or []) for each in made.get("runs") or []],
        "again": _again(run),
    }


def _again(run: reading.Run) -> str | None:
    """The command that repeats a run; None for one that was no command's."""
    if not run.manifest.get("command"):
        return None
    file = shlex.quote(str(run.folder / record.MANIFEST))
    return f"trl-deepseek run --from_manifest {file} --output_dir NEW"


@functools.cache
def _template() -> Any:
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"figure": _figure, "duration": _duration, "plain": _plain}
    return environment.from_string(_asset("report.html.jinja"))


@functools.cache
def _asset(name: str) -> str:
    return (resources.files("trl_deepseek.report") / "assets" / name).read_text(encoding="utf-8")


@functools.cache
def _library() -> str:
    """plotly.js, packed."""
    source = resources.files("plotly") / "package_data" / "plotly.min.js"
    return base64.b64encode(gzip.compress(source.read_bytes(), 6, mtime=0)).decode()


def _json(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or begins a tag."""
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text.encode("utf-8", "backslashreplace").decode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, (list, tuple)) else value


def _figure(value: float) -> str:
    """A number with four digits, as the script of the page writes it."""
    if isinstance(value, bool) or not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    small = value != 0 and (abs(value) < 0.001 or abs(value) >= 1e6)
    return f"{value:.2e}" if small else f"{value:.4g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _plain(value: Any) -> str:
    """A setting in a line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(each)}" for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
