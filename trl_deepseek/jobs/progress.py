"""How far a recipe has come: one JSON file beside its stages.

A stage is written down before it begins and again when it has ended, each time in one move, so that
after a kill the file says what is whole, what was under way, and what it was made from.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trl_deepseek.errors import ConfigError
from trl_deepseek.jobs import made_from
from trl_deepseek.jobs.recipe import Recipe, Stage
from trl_deepseek.report import reading

FILE = reading.PROGRESS
REPLACED = "replaced"  # the folder of what stale stages had written
# What is noted of a stage; the last two once it has ended.
_NOTED: dict[str, Any] = {
    "command": str,
    "options": dict,
    "files": dict,
    "plugins": dict,
    "begun": str,
    "used": dict,
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

    Attributes:
        stages: What is noted of each, by name: its ``command``; what it is made from (see
            :mod:`made_from`); the mark ``begun``, of which each beginning has another, and
            ``used``, those of the stages that it uses; ``seconds`` and ``result`` once it has
            ended well.

    Raises:
        ConfigError: The file there cannot be read.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.folder = Path(recipe.output_dir)
        self.file = self.folder / FILE
        self.stages = progress_of(self.folder)

    def check(self, recipe: Recipe, restart: str | None = None) -> None:
        """Refuse to write where something else stands.

        Raises:
            ConfigError: There is no stage to restart, or a folder holds something that no stage of
                this recipe wrote.
        """
        names = [stage.name for stage in recipe.stages]
        if restart is not None and restart not in names:
            raise ConfigError(f"--restart {restart!r}: the stages are {', '.join(names)}")
        for stage in recipe.stages:
            if stage.name not in self.stages and Path(stage.output_dir).exists():
                raise ConfigError(
                    f"{stage.output_dir} is there already, and no run of a recipe has written it\n"
                    "  name another output_dir, or remove that folder"
                )

    def stale(self, recipe: Recipe, now: Mapping[str, Any]) -> dict[str, list[str]]:
        """The stages that have begun and are not what they would be today, and why.

        Args:
            recipe: What is to be run.
            now: What each stage would be made from, by name; see :mod:`made_from`.
        """
        found: dict[str, list[str]] = {}
        for stage in recipe.stages:
            noted = self.stages.get(stage.name)
            if noted is None or not Path(stage.output_dir).exists():
                continue
            reasons = made_from.differences(noted, now[stage.name])
            if noted["command"] != stage.command:
                reasons.insert(0, f"command was {noted['command']}, now {stage.command}")
            for name, source in stage.uses.items():
                if name in found or not self.is_done(source):
                    reasons.append(f"it uses stage {name!r}, which is run anew")
                elif noted["used"].get(name) != self.stages[name]["begun"]:
                    reasons.append(f"it uses stage {name!r}, which has been run anew since")
            if reasons:
                found[stage.name] = reasons
        return found

    def forget(self, recipe: Recipe, first: str) -> None:
        """Remove what the stage ``first`` and those that depend on it have written."""
        gone = recipe.depending_on(first)
        for stage in recipe.stages:
            if stage.name in gone:
                self._drop(stage, lambda folder: shutil.rmtree(folder, ignore_errors=True))

    def set_aside(self, stage: Stage) -> Path:
        """Move what a stale stage has written out of the way; returns where it is now."""
        number = 1
        while (target := self.folder / REPLACED / f"{stage.name}-{number}").exists():
            number += 1

        def move(folder: Path) -> None:
            target.parent.mkdir(exist_ok=True)
            os.rename(folder, target)

        self._drop(stage, move)
        return target

    def _drop(self, stage: Stage, remove: Callable[[Path], None]) -> None:
        noted, folder = self.stages.get(stage.name), Path(stage.output_dir)
        if noted is None:
            return
        noted.pop("seconds", None)  # no longer whole, should a kill come in between
        self._write()
        if folder.exists():
            remove(folder)
        del self.stages[stage.name]
        self._write()

    def is_done(self, stage: Stage) -> bool:
        """Whether the stage has ended well."""
        return "seconds" in self.stages.get(stage.name, {}) and Path(stage.output_dir).is_dir()

    def begin(self, stage: Stage, made: Mapping[str, Any]) -> None:
        """Note that the stage is under way.

        Args:
            stage: The stage, which is new or goes on.
            made: What it is made from.
        """
        goes_on = Path(stage.output_dir).exists() and self.stages.get(stage.name, {}).get("begun")
        self.stages[stage.name] = {
            "command": stage.command,
            **made,
            "begun": goes_on or uuid.uuid4().hex,
            "used": {name: self.stages[name]["begun"] for name in stage.uses},
        }
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


def progress_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The stages noted in a recipe's folder; none where there is no recipe.

    Raises:
        ConfigError: The file there cannot be read.
    """
    return _read(folder / FILE) if (folder / FILE).exists() else {}


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
            needed = key not in ("seconds", "result") or (isinstance(noted, dict) and key in noted)
            if needed and (not isinstance(value, kind) or isinstance(value, bool)):
                raise ConfigError(f"{file}: stage {name!r}: {key} is {value!r}\n{_WAY_OUT}")
    return stages
