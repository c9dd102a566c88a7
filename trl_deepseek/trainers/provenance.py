"""What a checkpoint was made with, written beside it and compared when a run goes on from there.

transformers resumes weights, optimizer and place in the data, whatever has changed around them. So
each checkpoint has a ``trl_deepseek.json``: the trainer, model and config, and digests of the
training data, the chat template, the adapter's options and the plugins.
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

logger = logging.getLogger(__name__)

FILE = "trl_deepseek.json"
SHOWN = 60  # characters of a value in a message

# Settings that do not change what is learned, by the start of their names.
INCIDENTAL = (
    "output_dir", "logging", "log_", "save", "eval", "do_", "report_to", "run_name", "project",
    "resume", "disable_tqdm", "push_to_hub", "hub_", "trackio", "dataloader_", "overwrite",
    "num_completions_to_print", "reward_workers", "reward_timeout", "skip_memory", "ddp_", "load_",
    "include_", "per_device_eval", "prediction_loss_only", "ignore_data_skip", "local_rank",
    "metric_for", "greater_is", "batch_eval", "tpu_", "past_index", "debug", "dataset_num_proc",
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


def plugins_of(registry: Registry) -> dict[str, str]:
    """Each plugin with its version, or with a digest of its source where it has no version."""
    found = {}
    for entry in registry.entries():
        origin = entry.origin
        file = Path(origin.file) if origin.file else None
        if origin.version is not None:
            found[origin.plugin] = f"{origin.distribution} {origin.version}"
        elif file is not None and file.is_file():
            found[origin.plugin] = digest(file.read_bytes())
    return found


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
    # Sets have no order of their own.
    plain = {
        name: sorted(value) if isinstance(value, (set, frozenset)) else value
        for name, value in (adapter.to_dict().items() if adapter is not None else ())
    }
    return {
        "trainer": type(args).__name__.removesuffix("Config"),
        "model": inputs.embedded or model or None,
        "adapter": digest(json.dumps(plain, default=str, sort_keys=True)) if plain else None,
        "settings": dict(settings or settings_of(args)),
        "data": digest_of_rows(inputs.train_dataset),
        "template": digest(template) if isinstance(template, str) else None,
        "plugins": plugins_of(inputs.registry),
    }


def write(folder: Path, made_with: Mapping[str, Any]) -> None:
    """Write the record into a checkpoint's folder."""
    text = json.dumps(made_with, indent=2, sort_keys=True)
    (folder / FILE).write_text(text, encoding="utf-8")


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
            was = f": {plugins[name]} -> {is_now}" if " " in is_now else ""
            changed.append(f"plugin {name!r}{was}")
    settings = before.get("settings") or {}
    for name, is_now in sorted(now["settings"].items()):
        if name in settings and settings[name] != is_now:
            was, now_shown = (str(value)[:SHOWN] for value in (settings[name], is_now))
            changed.append(f"{name}: {was} -> {now_shown}")
    return changed


def compare(folder: Path, now: Mapping[str, Any]) -> None:
    """Warn of what has changed since the checkpoint in ``folder``; once, and of all of it."""
    file = folder / FILE
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
