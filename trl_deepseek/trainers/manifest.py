"""The manifest of a run: its record (see ``provenance``), and what else one needs to repeat it.

``run.json`` begins with the record that a resumed run is compared with. To that come the versions
of the libraries, where the plugins are, the whole config with what was given, the datasets, the
machine, the commit of the working directory, and one entry for each process that has worked on the
run. Secrets are hidden (``trl_deepseek.secrets``).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from trl_deepseek import data, noise, rewards, secrets, stopping
from trl_deepseek.rollouts import record
from trl_deepseek.trainers import provenance

logger = logging.getLogger(__name__)

LIBRARIES = (
    *("trl-deepseek", "torch", "transformers", "trl"),
    *("peft", "accelerate", "datasets", "bitsandbytes"),
)
GIT_SECONDS = 5  # at most, for each of two questions


def of(inputs: Any, made_with: Mapping[str, Any], processes: int) -> dict[str, Any]:
    """The manifest of a run that begins.

    Args:
        inputs: Of its trainer.
        made_with: Its record.
        processes: How many train.
    """
    given, default = _config(inputs)
    return {
        **made_with,
        "command": None if inputs.asked is None else inputs.asked.command,
        "config": {"given": given, "default": default},
        "chat_template": {"name": inputs.template_name, "digest": made_with["template"]},
        "parts": _parts(inputs),
        "datasets": {
            split: _dataset(rows, split, made_with["data"] if split == "train_dataset" else None)
            for split, rows in inputs.splits.items()
            if rows is not None
        },
        "seed": inputs.args.seed,
        "versions": versions(),
        "machine": machine(inputs.args, processes),
        "working_directory": os.getcwd(),
        "git": git(),
        "runs": [],
    }


def of_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a recipe; each of its training stages has one of its own.

    Args:
        values: What its file says, with what was given instead.
    """
    return {
        "command": "run",
        "recipe": _hidden(values),
        "versions": versions(),
        "machine": {"threads": torch.get_num_threads()},
        "working_directory": os.getcwd(),
        "git": git(),
        "runs": [],
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was around a run, one clause each; its record is ``provenance``'s."""
    changed = []
    for group in ("versions", "machine"):
        was, has = before.get(group) or {}, now[group]
        changed += [f"{n}: {was[n]} -> {has[n]}" for n in was if n in has and was[n] != has[n]]
    if before.get("working_directory") not in (None, now["working_directory"]):
        was, has = before["working_directory"], now["working_directory"]
        changed.append(f"the working directory: {was} -> {has}")
    was, has = before.get("git") or {}, now["git"] or {}
    if was.get("commit") != has.get("commit"):
        changed.append(f"the commit: {was.get('commit')} -> {has.get('commit')}")
    if was.get("changed") or has.get("changed"):
        changed.append("files of the working directory differ from the commit")
    was, has = ((each.get("datasets") or {}).get("eval_dataset") for each in (before, now))
    if was and has and was != has:
        changed.append("the held-out data")
    return changed


def versions() -> dict[str, str | None]:
    """Of Python and of the libraries that have a part in training; None where one is missing."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def machine(args: Any, processes: int) -> dict[str, Any]:
    """What numbers depend on: another device, or another number of threads, rounds otherwise."""
    device = args.device
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} ({named})",
        "threads": torch.get_num_threads(),
        "processes": processes,
    }


def git() -> dict[str, Any] | None:
    """The commit of the working directory, and whether files differ from it; None without git."""

    def ask(*words: str) -> str:
        found = subprocess.run(
            ("git", *words), capture_output=True, text=True, timeout=GIT_SECONDS, check=True
        )
        return found.stdout.strip()

    try:
        commit = ask("rev-parse", "HEAD")
        return {
            "commit": commit,
            "changed": bool(ask("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def command_line(words: Sequence[str]) -> list[str]:
    """The words that started a process, with their secrets hidden."""
    shown: list[str] = []
    option = ""
    for word in words:
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            option = name.lstrip("-").replace("-", "_")
            shown.append(name + equals + str(secrets.hidden(value, option)) if equals else word)
        else:
            shown.append(str(secrets.hidden(word, option)))
    return [secrets.redacted(word) for word in shown]


@contextlib.contextmanager
def noted(folder: Path, manifest: dict[str, Any], resumed: str | None) -> Iterator[None]:
    """Leave the manifest of a run that trains meanwhile, and in the end how it went."""
    before = (record.read_manifest(folder) or {}) if resumed is not None else {}
    earlier = before.get("runs")
    run = {
        "command_line": command_line(sys.orig_argv),
        "resumed_from": resumed,
        "started": record.now(),
        "ended": None,
        "outcome": record.RUNNING,
        "error": None,
    }
    manifest["runs"] = [*(earlier if isinstance(earlier, list) else []), run]
    record.write_manifest(folder, manifest)
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt) or stopping.requested() is not None
        run["outcome"] = "interrupted" if stopped else "failed"
        run["error"] = f"{type(error).__name__}: {error}"
        raise
    else:
        run["outcome"] = "finished"
    finally:
        run["ended"] = record.now()
        with record.never_failing(logger.warning, record.MANIFEST):
            if folder.is_dir():  # else somebody has removed it, which has been said
                record.write_manifest(folder, manifest)


def _config(inputs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every field of the config, apart by whether it was given.

    A config of TRL's own class does not tell; of it, what is not as by default counts as given.
    """
    args = inputs.args
    values = {f.name: value for f in fields(args) if not callable(value := _of(args, f))}
    if inputs.asked is not None:
        # as it was given, not as it has been settled since, so that it can be given again
        values = values | inputs.asked.options
        named = inputs.asked.given
    else:
        stock = {f.name for f in fields(args) if f.init and getattr(args, f.name) != f.default}
        named = getattr(args, "given", stock)
    values = _hidden(values)
    given = {name: value for name, value in values.items() if name in named}
    return given, {name: value for name, value in values.items() if name not in named}


def _of(args: Any, field: Any) -> Any:
    value: Any = getattr(args, field.name, None)
    return value.to_dict() if hasattr(value, "to_dict") else getattr(value, "value", value)


def _hidden(values: Any) -> Any:
    """As JSON gives it back, secrets hidden."""
    return json.loads(json.dumps(secrets.hidden(values), default=str))


def _parts(inputs: Any) -> dict[str, Any]:
    """What the run is made of that has a name; rewards with their weights at the first step."""
    args, parts = inputs.args, inputs.parts
    names = [rewards.name_of(each) for each in getattr(parts, "functions", ())]
    weights = getattr(parts, "weights", None) if names else None
    weighed = [1.0] * len(names) if weights is None else weights.at(0)
    losses = getattr(args, "loss_type", None)
    noised = noise.choose(args, inputs.registry)
    adapter = inputs.options.get("peft_config")
    shown = ("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "use_dora")
    plain = provenance.plain(adapter) if adapter is not None else {}
    return _hidden(
        {
            "losses": [losses] if isinstance(losses, str) else losses,
            "loss_weights": getattr(args, "loss_weights", None),
            "rewards": dict(zip(names, weighed, strict=True)),
            "noise": None if noised is None else noised.name,
            "noise_alpha": None if noised is None else noised.alpha,
            "quantization": getattr(args, "quantization", None),
            "adapter": {name: plain[name] for name in shown if name in plain} or None,
        }
    )


def _dataset(rows: Any, split: str, known: str | None) -> Any:
    if isinstance(rows, Mapping):
        return {name: _dataset(each, split, None) for name, each in rows.items()}
    return {
        "name": data.source_of(rows, "in memory"),
        "rows": len(rows) if hasattr(rows, "__len__") else None,
        "digest": known or provenance.digest_of_rows(rows),
    }
