"""Every golden conversation, rendered by our templates; see docs/chat_templates.md for quirks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek import load_registry
from trl_deepseek.chat import render, resolve

FOLDER = Path(__file__).parent / "goldens"
REGISTRY = load_registry()
FAMILIES = sorted(path.stem for path in FOLDER.glob("*.json"))


def golden(family: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / f"{family}.json").read_text(encoding="utf-8"))
    return loaded


def mended(case: dict[str, Any]) -> bool:
    """Whether ours differs on purpose: see the table in docs/chat_templates.md."""
    return any(
        tag
        in (
            "quirk:single_tool_call_block_never_closed",
            "quirk:tool_calls_dropped_when_content_is_set",
        )
        for tag in case["tags"]
    )


def cases(key: str) -> list[Any]:
    """Every golden case that has ``key``."""
    return [
        pytest.param(family, case, id=f"{family}-{case['name']}")
        for family in FAMILIES
        for case in golden(family)["cases"]
        if key in case
    ]


CASES = cases("expected")


@pytest.mark.parametrize(("family", "case"), CASES)
def test_inference_is_the_official_rendering_byte_for_byte(
    family: str, case: dict[str, Any]
) -> None:
    template = resolve(family, REGISTRY)
    text = render(template, case["messages"], tools=case.get("tools"), **case["kwargs"])
    assert (text == case["expected"]) is not mended(case), (text, case["expected"])


@pytest.mark.parametrize(("family", "case"), cases("messages_dict_arguments"))
def test_arguments_as_a_mapping_give_the_same_text_as_arguments_as_json(
    family: str, case: dict[str, Any]
) -> None:
    template = resolve(family, REGISTRY)
    texts = [
        render(template, case[key], tools=case.get("tools"), **case["kwargs"])
        for key in ("messages", "messages_dict_arguments")
    ]
    assert texts[0] == texts[1]


def test_the_goldens_are_of_every_family_but_the_seeds() -> None:
    assert len(FAMILIES) == 17
    covered = {id(resolve(family, REGISTRY)) for family in FAMILIES}
    assert covered == {id(t) for n, t in REGISTRY.chat_templates.items() if n != "role-tokens"}


@pytest.mark.parametrize(("family", "case"), CASES)
def test_official_quirks_give_the_official_rendering_on_every_case(
    family: str, case: dict[str, Any]
) -> None:
    template = resolve(family, REGISTRY)
    options = {"tools": case.get("tools"), "official_quirks": True, **case["kwargs"]}
    assert render(template, case["messages"], **options) == case["expected"]
