"""What a checkpoint was made with, written beside it and compared when a run goes on from there.

transformers resumes weights, optimizer and place in the data, whatever has changed around them. So
each checkpoint has the run's ``run.json``, which begins with its record: the trainer, model and
config, and digests of the training data, the chat template, the adapter's options and the plugins.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trl_deepseek import secrets
from trl_deepseek.registry import Registry
from trl_deepseek.rollouts import record

logger = logging.getLogger(__name__)

SHOWN = 60  # characters of a value in a message

# Settings that do not change what is learned, by the start of their names.
INCIDENTAL = (
    "output_dir", "logging", "log_", "save", "eval", "do_", "report_to", "run_name", "project",
    "resume", "disable_tqdm", "push_to_hub", "hub_", "trackio", "dataloader_", "overwrite",
    "num_completions_to_print", "reward_workers", "reward_timeout", "skip_memory", "ddp_", "load_",
    "include_", "per_device_eval", "prediction_loss_only", "ignore_data_skip", "local_rank",
    "metric_", "greater_is", "batch_eval", "tpu_", "past_index", "debug", "dataset_num_proc",
    "vllm_server", "average_tokens", "length_column", "full_determinism", "torch_empty_cache",
    "init_from",
)  # fmt: skip


def settings_of(args: Any) -> dict[str, Any]:
    """The settings of a config that bear on what is learned, as JSON gives them back."""
    kept = {
        name: value
        for name, value in args.to_dict().items()
        if not name.startswith(INCIDENTAL) and not name.endswith("_token")
    }
    text = json.dumps(secrets.hidden(kept), default=str, sort_keys=True)
    found: dict[str, Any] = json.loads(text)
    return found


def digest(text: str | bytes) -> str:
    """A short digest of text or bytes."""
    raw = text.encode() if isinstance(text, str) else text
    return hashlib.sha256(raw).hexdigest()[:16]


def digest_of_rows(dataset: Any) -> str | None:
    """A digest of every row of a table in its order; None for a stream, which is read once."""
    if not hasattr(dataset, "with_format") or not hasattr(dataset, "__len__"):
        return None
    whole = hashlib.sha256()
    for batch in dataset.with_format("arrow").iter(1000):
        whole.update(repr(batch.to_pydict()).encode("utf-8", "surrogatepass"))
    return whole.hexdigest()[:16]


def plugins_of(registry: Registry) -> dict[str, dict[str, str | None]]:
    """Each plugin with its ``version`` (None for a file or module) and a digest of its source."""
    origins = {entry.origin.plugin: entry.origin for entry in registry.entries()}
    return {
        name: {
            "version": None
            if origin.version is None
            else f"{origin.distribution} {origin.version}",
            "source": _digest_of_source(origin.file),
        }
        for name, origin in origins.items()
    }


def _digest_of_source(file: str | None) -> str | None:
    """A digest of a module's file, or of all files of a package; None without a file."""
    path = Path(file) if file else None
    if path is None or not path.is_file():
        return None
    if path.name != "__init__.py":
        return digest(path.read_bytes())
    whole = hashlib.sha256()
    for part in sorted(path.parent.rglob("*")):
        if part.is_file() and "__pycache__" not in part.parts:
            whole.update(str(part.relative_to(path.parent)).encode() + part.read_bytes())
    return whole.hexdigest()[:16]


def plain(adapter: Any) -> dict[str, Any]:
    """The options of an adapter; sets, which have no order of their own, in alphabetical order."""
    return {
        name: sorted(value) if isinstance(value, (set, frozenset)) else value
        for name, value in adapter.to_dict().items()
    }


def of(inputs: Any, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a run is made with.

    Args:
        inputs: Of its trainer.
        settings: Of its config, where TRL may have changed that since.
    """
    args, template = inputs.args, getattr(inputs.tokenizer, "chat_template", None)
    model = inputs.model
    if not isinstance(model, str):
        model = getattr(getattr(model, "config", None), "_name_or_path", None)
    adapter = inputs.options.get("peft_config")
    options = plain(adapter) if adapter is not None else {}
    return {
        "trainer": type(args).__name__.removesuffix("Config"),
        "model": inputs.embedded or model or None,
        "adapter": digest(json.dumps(options, default=str, sort_keys=True)) if options else None,
        "settings": dict(settings or settings_of(args)),
        "data": digest_of_rows(inputs.train_dataset),
        "template": digest(template) if isinstance(template, str) else None,
        "plugins": plugins_of(inputs.registry),
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was, one clause each; what only one of the two knows is not compared."""
    changed = [
        f"{what}: {before[what]} -> {now[what]}"
        for what in ("trainer", "model")
        if before.get(what) and now.get(what) and before[what] != now[what]
    ]
    if "adapter" in before and before["adapter"] != now.get("adapter"):
        changed.append("the adapter's options")
    if before.get("data") and now["data"] and before["data"] != now["data"]:
        changed.append("the training data")
    if before.get("template") != now["template"]:
        changed.append("the chat template")
    plugins = before.get("plugins") or {}
    for name, is_now in now["plugins"].items():
        if name in plugins and plugins[name] != is_now:
            # a version says something to the user, a digest does not
            versions = [each.get("version") for each in (plugins[name], is_now)]
            was = f": {versions[0]} -> {versions[1]}" if versions[0] != versions[1] else ""
            changed.append(f"plugin {name!r}{was}")
    settings = before.get("settings") or {}
    for name, is_now in sorted(now["settings"].items()):
        if name in settings and settings[name] != is_now:
            changed += _changes(name, settings[name], is_now)
    return changed


def _changes(name: str, was: Any, is_now: Any) -> list[str]:
    """What has changed in a setting; of two mappings, each key that has."""
    if isinstance(was, dict) and isinstance(is_now, dict):
        keys = [key for key in {**was, **is_now} if was.get(key) != is_now.get(key)]
        return [
            line
            for key in keys
            for line in _changes(f"{name}.{key}", was.get(key), is_now.get(key))
        ]
    return [f"{name}: {_shown(was)} -> {_shown(is_now)}"]


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


def compare(folder: Path, now: Mapping[str, Any]) -> None:
    """Warn of what has changed since the checkpoint in ``folder``; once, and of all of it."""
    file = folder / record.MANIFEST
    if not file.is_file():
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        changed = differences(before, now)
    except (OSError, ValueError, AttributeError) as error:
        logger.warning("%s cannot be read, so that nothing can be compared: %s", file, error)
        return
    if changed:
        logger.warning(
            "the run goes on from %s, made with other settings or data:\n%s",
            folder,
            "\n".join(f"  {each}" for each in changed),
        )
