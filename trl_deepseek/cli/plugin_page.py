"""What ``trl-deepseek plugins show NAME`` says of one item, read from the item itself.

The docstring of a registered function is its page: a first line, then paragraphs that start with
``Formula:``, ``Range:``, ``Source:`` or ``Differs:``, and the usual ``Args:``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from trl_deepseek.dataset_types import ASKED, TASK
from trl_deepseek.errors import UnknownName, did_you_mean
from trl_deepseek.policy_types import CONTEXT, Advantage, PolicyLoss
from trl_deepseek.registry import SINGULAR, Entry, Registry
from trl_deepseek.rewards.signature import PROVIDED
from trl_deepseek.types import EmbeddedDataset, Loss, Metric, Preset, Reward, Tool

WRAPPED = (EmbeddedDataset, Tool, Advantage, Loss, Metric, PolicyLoss, Reward)

HEADING = re.compile(r"^(Formula|Range|Source|Differs|Args|Returns|Raises):\s*(.*)$")
ARGUMENT = re.compile(r"^    (\w+): (.*)$")
DATA = {
    "pairs": "pairs: prompt, chosen, rejected",
    "unpaired": "labelled singles: prompt, completion, label; pairs are taken apart",
    "rewards": "pairs: prompt, chosen, rejected, scored by a reward model",
}

REDUCED = {
    "sequence_mean": "sequence_mean: over each completion, then over completions",
    "sequence_sum": "sequence_sum: a sum over each completion, a mean over completions",
    "token_mean": "token_mean: over all tokens of the micro-batch",
    "constant": "constant: a sum over tokens / (completions x max_completion_length)",
    "global_tokens": "global_tokens: over all tokens of the update",
}
OVER = {
    "completions": "each answer",
    "groups": "all answers to a prompt together",
    "model": "the model itself",
}


def find(registry: Registry, name: str) -> list[Entry]:
    """Every item called ``name``, of whatever kind.

    Raises:
        UnknownName: There is none.
    """
    found = [entry for entry in registry.entries() if entry.name == name]
    if found:
        return found
    names = [entry.name for entry in registry.entries()]
    hint = did_you_mean(name, names)
    raise UnknownName(
        "items",
        name,
        f"no plugin registers anything named {name!r}{hint}\n  `trl-deepseek plugins` lists all",
    )


def describe(entry: Entry) -> dict[str, Any]:
    """The page as plain data, the same for the screen and for ``--json``."""
    item = entry.item
    function = item.function if isinstance(item, WRAPPED) else item
    is_function = callable(function)
    sections = _sections(inspect.getdoc(function) or "") if is_function else {}
    page: dict[str, Any] = {
        "kind": SINGULAR[entry.kind],
        "name": entry.name,
        "summary": sections.get("summary"),
        "details": sections.get("details"),
        "formula": sections.get("Formula"),
        "range": sections.get("Range"),
        "options": list(_options(item, function, sections.get("Args", ""))) if is_function else [],
    }
    if isinstance(item, Loss):
        page["data"] = DATA[item.data]
        page["reference"] = _reference(item)
    if isinstance(item, PolicyLoss):
        page["reduction"] = REDUCED[item.reduction]
        page["computed by"] = "TRL, unless something is asked for that it has not" * item.stock
    if isinstance(item, Advantage):
        asked = inspect.signature(function).parameters
        page["asks for"] = [name for name in CONTEXT if name in asked]
    if isinstance(item, Reward):
        page["columns"] = list(item.columns)
    if isinstance(item, Metric):
        page["over"] = OVER[item.over]
        page["rows"] = "by its options" if callable(item.rows) else item.rows or "its own"
        page["columns"] = list(item.columns)
    if isinstance(item, Preset):
        page["summary"] = f"{item.description} `trl-deepseek presets show {entry.name}`"
    if isinstance(item, EmbeddedDataset):
        page["tasks"] = f"named {entry.name}:TASK" if item.has_tasks else None
        page["verifier"] = item.verifier
        page["begins with"] = item.system_prompt
        page["needs"] = list(item.requires)
    if isinstance(item, Tool):
        page["called with"] = list(inspect.signature(function).parameters)
        limit = "tool_timeout" if item.timeout is None else f"{item.timeout:g} s"
        page["runs"] = "in a worker process, for " * item.isolate + f"{limit} at most"
        page["needs"] = list(item.requires)
    return page | {
        "source": sections.get("Source"),
        "differs": sections.get("Differs"),
        "plugin": entry.origin.plugin,
        "distribution": entry.origin.distribution,
        "version": entry.origin.version,
        "file": entry.origin.file,
    }


def lines(page: dict[str, Any]) -> Iterator[str]:
    """The page for the screen; what an item does not have is left out."""
    yield f"{page['kind']} {page['name']}"
    keys = (
        "summary",
        "details",
        "formula",
        "range",
        "data",
        "reference",
        "reduction",
        "computed by",
        "asks for",
        "over",
        "rows",
        "columns",
        "tasks",
        "verifier",
        "begins with",
        "called with",
        "runs",
        "needs",
    )
    for key in (*keys, "source", "differs"):
        value = page.get(key)
        if value:
            yield f"  {key:12}{', '.join(value) if isinstance(value, list) else value}"
    for number, option in enumerate(page["options"]):
        head = "options" if number == 0 else ""
        yield f"  {head:12}{option['name']}={option['default']!r}  {option['meaning']}".rstrip()
    origin = " ".join(filter(None, (page["distribution"], page["version"])))
    yield f"  {'plugin':12}{page['plugin']}{f' ({origin})' if origin else ''}"
    if page["file"]:
        yield f"  {'file':12}{page['file']}"


def _reference(loss: Loss) -> str | None:
    if loss.data == "rewards":
        return None
    if not loss.reference:
        return "none: one forward, no reference model"
    return "needed" + (", unless reference_free" if "reference_free" in loss.options else "")


def _options(item: Any, function: Any, text: str) -> Iterator[dict[str, Any]]:
    meanings = _arguments(text)
    if isinstance(item, Metric):
        from trl_deepseek.evaluation.choosing import JUDGE, options_of

        meanings.setdefault(JUDGE, "The reward that says which answers are right.")
        for name, default in options_of(item).items():
            yield {"name": name, "default": default, "meaning": meanings.get(name, "")}
        return
    if isinstance(item, Tool):  # what it is called with is the model's to say
        return
    provided: Any = CONTEXT if isinstance(item, Advantage) else PROVIDED
    if isinstance(item, EmbeddedDataset):
        provided = (*ASKED, TASK)
    for parameter in inspect.signature(function).parameters.values():
        # What a trainer passes is not for the user to set.
        if parameter.default is not parameter.empty and parameter.name not in provided:
            meaning = meanings.get(parameter.name, "")
            yield {"name": parameter.name, "default": parameter.default, "meaning": meaning}


def _sections(doc: str) -> dict[str, str]:
    """First line under ``summary``, then the text under each heading, unwrapped except ``Args``.

    What stands between the first line and the first heading goes under ``details``.
    """
    found: dict[str, list[str]] = {"summary": doc.splitlines()[:1]}
    current = None
    for line in doc.splitlines()[1:]:
        heading = HEADING.match(line)
        if heading:
            current = heading[1]
            found[current] = [heading[2]] if heading[2] else []
        elif current == "Args":
            found[current].append(line)
        elif not line.strip():
            current = None
        elif current:
            found[current].append(line.strip())
        elif len(found) == 1 or list(found) == ["summary", "details"]:
            found.setdefault("details", []).append(line.strip())
    return {key: ("\n" if key == "Args" else " ").join(text) for key, text in found.items()}


def _arguments(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    name = None
    for line in text.splitlines():
        start = ARGUMENT.match(line)
        if start:
            name = start[1]
            found[name] = start[2]
        elif name and line.strip():
            found[name] += f" {line.strip()}"
        elif not line.strip():
            name = None
    return found
