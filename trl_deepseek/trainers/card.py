"""The model card: TRL's, true to what was trained, with what the run was made of behind it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

# How TRL's template writes of a base that has no address on the hub.
NO_BASE = "[None](https://huggingface.co/None)"
HELD_OUT = "eval_"
NOT_SHOWN = ("runtime", "samples_per_second", "steps_per_second", "num_tokens")
HEADING = "## How it was made"


@contextlib.contextmanager
def named(trainer: Any, losses: Sequence[str]) -> Iterator[None]:
    """Meanwhile TRL's card names the losses, where they are not those of the trainer's paper."""
    # TRL's config of a reward model has no loss to choose; ours has.
    configs = (*trainer.CONFIG, type(trainer.args))
    own = {name for config in configs for name in _default_losses(config)}
    if not losses or set(losses) <= own:
        yield
        return
    trainer._name, trainer._paper = f"the loss {' + '.join(losses)}", {}
    try:
        yield
    finally:
        del trainer._name, trainer._paper


def _default_losses(config: Any) -> list[str]:
    field = next((each for each in fields(config) if each.name == "loss_type"), None)
    if field is None:  # TRL's reward trainer has one loss and no field for it
        return []
    default: Any = field.default
    if default is MISSING:
        default = field.default_factory() if callable(field.default_factory) else None
    return [default] if isinstance(default, str) else list(default or ())


def extend(
    file: Path, manifest: Mapping[str, Any], logs: Sequence[Mapping[str, Any]], registry: Any
) -> None:
    """Complete the card that TRL has written.

    Args:
        file: The card.
        manifest: Of the run.
        logs: Its log history.
        registry: Where the docstrings of losses and rewards are.
    """
    text = file.read_text(encoding="utf-8")
    model = manifest["model"]
    text = text.replace(NO_BASE, f"`{model}`" if model else "a model that was in memory")
    folder = file.parent
    text = text.replace("# Model Card for None\n", f"# Model Card for {folder.name}\n")
    text = text.replace('model="None"', f'model="{folder}"')
    body = "\n".join(_sections(manifest, logs, registry))
    text = text.replace("### Framework versions", f"{body}\n### Framework versions", 1)
    file.write_text(text, encoding="utf-8")


def _sections(
    manifest: Mapping[str, Any], logs: Sequence[Mapping[str, Any]], registry: Any
) -> Iterator[str]:
    parts, template = manifest["parts"], manifest["chat_template"]
    command = manifest["command"]
    yield HEADING
    yield ""
    by = f"`trl-deepseek {command}`" if command else f"{manifest['trainer']}Trainer, from Python"
    yield f"With {by}; `run.json` beside this card has every setting and version."
    yield ""
    yield "| part | what |"
    yield "| --- | --- |"
    for loss in parts["losses"] or ():
        known = registry.losses if loss in registry.losses else registry.policy_losses
        yield f"| loss | {_described(loss, known)} |"
    for name, weight in parts["rewards"].items():
        yield f"| reward, weight {weight:g} | {_described(name, registry.rewards)} |"
    if parts["noise"]:
        alpha = "" if parts["noise_alpha"] is None else f", alpha {parts['noise_alpha']:g}"
        yield f"| embedding noise | `{parts['noise']}`{alpha} |"
    if parts["quantization"]:
        yield f"| quantization | `{parts['quantization']}` |"
    if parts["adapter"]:
        said = ", ".join(f"{_cell(key)} {_cell(value)}" for key, value in parts["adapter"].items())
        yield f"| adapter | {said} |"
    name = template["name"] or "the tokenizer's own"
    yield f"| chat template | {_cell(name)}, digest `{template['digest'] or 'none'}` |"
    for split, rows in manifest["datasets"].items():
        several = rows if "digest" not in rows else {split: rows}
        for key, one in several.items():
            count = "a stream" if one["rows"] is None else f"{one['rows']} rows"
            digest = f", digest `{one['digest']}`" if one["digest"] else ""
            yield f"| {_cell(key.replace('_', ' '))} | {_cell(one['name'])}, {count}{digest} |"
    yield f"| seed | {manifest['seed']} |"
    for plugin, entry in _others(manifest, registry):
        yield f"| plugin | `{_cell(plugin)}`, {entry} |"
    yield ""
    evaluated = next(
        (log for log in reversed(logs) if any(k.startswith(HELD_OUT) for k in log)), None
    )
    if evaluated is not None:
        yield f"On held-out rows, after step {evaluated.get('step')}:"
        yield ""
        yield "| metric | value |"
        yield "| --- | --- |"
        for key, value in evaluated.items():
            name = key.removeprefix(HELD_OUT)
            if key.startswith(HELD_OUT) and not name.endswith(NOT_SHOWN):
                yield f"| {_cell(name)} | {value:.4g} |"
        yield ""


def _described(name: str, catalog: Any) -> str:
    """A name with the first line of its docstring, which has the source."""
    item = catalog.get(name)
    doc = inspect.getdoc(getattr(item, "function", item)) if item is not None else None
    return f"`{_cell(name)}`" + (f": {_cell(doc.splitlines()[0])}" if doc else "")


def _others(manifest: Mapping[str, Any], registry: Any) -> Iterator[tuple[str, str]]:
    """Plugins that do not come with this package, with version or digest."""
    own = {
        entry.origin.plugin
        for entry in registry.entries()
        if entry.origin.distribution == "trl-deepseek"
    }
    for name, plugin in manifest["plugins"].items():
        if name not in own:
            yield name, plugin["version"] or f"source `{plugin['source']}`"


def _cell(value: Any) -> str:
    """Text that stays in its cell of a table."""
    return " ".join(str(value).split()).replace("|", "\\|")
