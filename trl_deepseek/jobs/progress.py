"""How far a recipe has come: one JSON file beside its stages.

A stage is written down before it begins and again when it has ended, each time in one move, so that
after a kill the file says what is whole, what was under way, and with which options.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from trl_deepseek import secrets
from trl_deepseek.checkpoints import finding
from trl_deepseek.errors import ConfigError
from trl_deepseek.jobs.recipe import Recipe, Stage

FILE = "pipeline.json"
# What is noted of a stage; the last two once it has ended.
_NOTED: dict[str, Any] = {
    "command": str,
    "options": dict,
    "seconds": (int, float),
    "result": (dict, type(None)),
}
_WAY_OUT = (
    "  it is written by `trl-deepseek run` alone; to begin anew, remove it and the stages' folders"
)


class Progress:
    """The stages of one output folder.

    Args:
        recipe: What is to be run there.

    Raises:
        ConfigError: The file there cannot be read.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.file = Path(recipe.output_dir, FILE)
        self.stages: dict[str, dict[str, Any]] = {}
        if self.file.exists():
            self.stages = _read(self.file)

    def check(self, recipe: Recipe, restart: str | None) -> None:
        """Refuse to mix two recipes in one folder.

        Raises:
            ConfigError: A stage was begun with other options, or a folder holds something that no
                stage of this recipe wrote.
        """
        names = [stage.name for stage in recipe.stages]
        if restart is not None and restart not in names:
            raise ConfigError(f"--restart {restart!r}: the stages are {', '.join(names)}")
        redone = names[names.index(restart) :] if restart else []
        for stage in recipe.stages:
            before = self.stages.get(stage.name)
            if before is None and Path(stage.output_dir).exists():
                raise ConfigError(
                    f"{stage.output_dir} is there already, and no run of a recipe has written it\n"
                    "  name another output_dir, or remove that folder"
                )
            kept = self.is_done(stage) or bool(finding.steps(stage.output_dir))
            if before is None or not kept or stage.name in redone:
                continue
            if before["options"] != _plain(stage.options):
                raise ConfigError(
                    f"stage {stage.name!r} was begun with other options: "
                    f"{_difference(before['options'], _plain(stage.options))}\n"
                    f"  --restart {stage.name} removes what it and the stages after it have "
                    "written and runs them anew; or name another output_dir"
                )

    def forget(self, recipe: Recipe, first: str) -> None:
        """Remove what the stage ``first`` and those after it have written."""
        names = [stage.name for stage in recipe.stages]
        for stage in recipe.stages[names.index(first) :]:
            noted = self.stages.get(stage.name)
            if noted is not None:
                noted.pop("seconds", None)  # no longer whole, should a kill come in between
                self._write()
                shutil.rmtree(stage.output_dir, ignore_errors=True)
                del self.stages[stage.name]
                self._write()

    def is_done(self, stage: Stage) -> bool:
        """Whether the stage has ended well."""
        return "seconds" in self.stages.get(stage.name, {}) and Path(stage.output_dir).is_dir()

    def begin(self, stage: Stage) -> None:
        """Note that the stage is under way."""
        self.stages[stage.name] = {"command": stage.command, "options": _plain(stage.options)}
        self._write()

    def end(self, stage: Stage, seconds: float, result: Any) -> None:
        """Note that the stage has ended well, and what its command reported."""
        self.stages[stage.name] |= {"seconds": round(seconds, 1), "result": result}
        self._write()

    def _write(self) -> None:
        new = self.file.with_suffix(".json.new")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps({"stages": self.stages}, indent=2), encoding="utf-8")
            os.replace(new, self.file)
        except OSError as error:
            raise ConfigError(f"{self.file} cannot be written: {error.strerror}") from error


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """The stages noted in a file, each seen to be as this module writes them."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}\n{_WAY_OUT}") from error
    stages = found.get("stages") if isinstance(found, dict) else None
    if not isinstance(stages, dict):
        raise ConfigError(f"{file} lists no stages\n{_WAY_OUT}")
    for name, noted in stages.items():
        for key, kind in _NOTED.items():
            value = noted.get(key) if isinstance(noted, dict) else None
            needed = key in ("command", "options") or (isinstance(noted, dict) and key in noted)
            if needed and (not isinstance(value, kind) or isinstance(value, bool)):
                raise ConfigError(f"{file}: stage {name!r}: {key} is {value!r}\n{_WAY_OUT}")
    return stages


def _plain(options: Any) -> Any:
    """As it is read back from JSON: dates and the like as text, and secrets hidden."""
    return json.loads(json.dumps(secrets.hidden(options), default=str))


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{name} {before.get(name)!r}, now {now.get(name)!r}" for name in changed)
