"""Repeat a run by its manifest: the same command with the same options, into a new folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_deepseek import secrets
from trl_deepseek.errors import ConfigError
from trl_deepseek.jobs import TRAINING
from trl_deepseek.rollouts import record
from trl_deepseek.yaml_files import Settings, write_mapping

RECIPE = "run"  # what the manifest of a recipe has as its command
# Of options that are given: what the repetition settles, or does not need.
SETTLED = ("output_dir", "resume_from_checkpoint", "overwrite_output_dir")
WAY_OUT = f"  name the {record.MANIFEST} that a run or a recipe has left in its output_dir"


@dataclass(frozen=True)
class Former:
    """A run to repeat.

    Attributes:
        file: Its manifest.
        manifest: What that holds.
        command: A training command, or ``run`` for a recipe.
        options: Those that were given; of a recipe, what its file holds.
    """

    file: Path
    manifest: Mapping[str, Any]
    command: str
    options: Mapping[str, Any]

    def into(self, folder: str) -> Settings:
        """The options, for a repetition in another folder."""
        return Settings(self.options, {"output_dir": folder})

    def write_recipe(self, folder: str) -> str:
        """Write the recipe into the folder of its repetition; returns the file."""
        file = Path(folder, "recipe.yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_mapping(file, self.into(folder))
        return str(file)


def read(file: str, output_dir: str | None) -> Former:
    """The run that a manifest describes.

    Args:
        file: Its path, or that of the run's folder.
        output_dir: Where the repetition is to write.

    Raises:
        ConfigError: It is no manifest, or not of a command; it holds what cannot be repeated; or
            the folder is not a new one.
    """
    path = Path(file).expanduser()
    file = str(path / record.MANIFEST) if path.is_dir() else file
    try:
        manifest = json.loads(Path(file).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is not JSON: {error}"
        raise ConfigError(f"from_manifest: {file!r} cannot be read: {reason}\n{WAY_OUT}") from error
    if not isinstance(manifest, dict) or "command" not in manifest:
        raise ConfigError(f"from_manifest: {file!r} is no manifest of a run\n{WAY_OUT}")
    command = manifest["command"]
    if command is None:
        raise ConfigError(
            f"from_manifest: the run of {file!r} was started from Python, not by a command\n"
            "  run the same program again; config in the manifest has every setting"
        )
    config = manifest.get("config")
    options = manifest.get("recipe") if command == RECIPE else (config or {}).get("given")
    if command not in (*TRAINING, RECIPE) or not isinstance(options, dict):
        raise ConfigError(f"from_manifest: {file!r} is no manifest of a run\n{WAY_OUT}")
    hidden = sorted(_hidden(options))
    if hidden:
        raise ConfigError(
            f"from_manifest: {file!r} holds no secrets, and the run was given some: "
            f"{', '.join(hidden)}\n"
            "  set them in the environment (HF_TOKEN, WANDB_API_KEY) and take them out of a copy "
            "of the manifest, or run the command itself"
        )
    if output_dir is None:
        raise ConfigError(
            "from_manifest needs --output_dir: the repetition goes into a folder of its own"
        )
    folder = Path(output_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"output_dir: {output_dir!r} is there already; a repetition goes into a new folder"
        )
    kept = {name: value for name, value in options.items() if name not in SETTLED}
    return Former(Path(file), manifest, command, kept)


def _hidden(options: Any, name: str = "") -> set[str]:
    """The names of options whose value is hidden, or part of it."""
    if isinstance(options, Mapping):
        return {each for key, value in options.items() for each in _hidden(value, str(key))}
    if isinstance(options, list):
        return {each for value in options for each in _hidden(value, name)}
    is_hidden = isinstance(options, str) and (
        options == secrets.HIDDEN or f"://{secrets.HIDDEN}@" in options
    )
    return {name} if is_hidden else set()
