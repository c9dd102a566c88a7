"""Tools, tool calls and the reasoning of every message of a preferred answer are trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

import trl_deepseek
from trl_deepseek.data import preferences

TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look a word up",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}},
    },
}
USER = {"role": "user", "content": "what is a fox?"}


def answer(word: str) -> list[dict[str, Any]]:
    call = {"name": "look_up", "arguments": json.dumps({"word": f"call {word}"})}
    return [
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": f"thought before {word}",
            "tool_calls": [{"id": "c", "type": "function", "function": call}],
        },
        {"role": "tool", "content": f"result {word}", "tool_call_id": "c"},
        {"role": "assistant", "content": f"said {word}", "reasoning_content": f"after {word}"},
    ]


def parts(word: str) -> list[str]:
    return [
        f"thought before {word}",
        f"call {word}",
        f"result {word}",
        f"after {word}",
        f"said {word}",
    ]


LAYOUTS: dict[str, dict[str, Any]] = {
    "explicit prompt": {"prompt": [USER], "chosen": answer("good"), "rejected": answer("bad")},
    "implicit prompt": {"chosen": [USER, *answer("good")], "rejected": [USER, *answer("bad")]},
    "UltraFeedback": {
        "prompt": "what is a fox?",
        "chosen": [USER, *answer("good")],
        "rejected": [USER, *answer("bad")],
    },
    "mixed": {
        "prompt": "what is a fox?",
        "chosen": answer("good"),
        "rejected": answer("bad"),
    },
}


@pytest.mark.parametrize("kind", ["DPO", "KTO", "Reward"])
@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL])], ids=["list", "JSON"])
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_nothing_of_a_row_is_lost(layout: str, tools: Any, kind: str, tmp_path: Path) -> None:
    args = getattr(trl_deepseek, f"{kind}Config")(
        str(tmp_path),
        chat_template="deepseek-v4",
        report_to="none",
        use_cpu=True,
        max_length=4000,
        disable_tqdm=True,
    )
    data: Any = Dataset.from_list([{**LAYOUTS[layout], "tools": tools}] * 2)
    if kind == "KTO":
        data = preferences.dealt(preferences.either(data, args))
    trainer = getattr(trl_deepseek, f"{kind}Trainer")(
        "tiny-deepseek-llm", args=args, train_dataset=data
    )
    row: Any = trainer.train_dataset[0]
    said = {
        name: trainer.processing_class.decode([*row.get("prompt_ids", []), *row[name]])
        for name in ("chosen_ids", "rejected_ids", "completion_ids")
        if name in row
    }
    assert said
    for name, text in said.items():
        word = "bad" if name == "rejected_ids" else "good"
        assert [part for part in [*parts(word), "Look a word up"] if part not in text] == []
