"""Whatever stands in data, in a YAML file or in a conversation: a result, or one of our errors."""

from __future__ import annotations

import contextlib
import os
import string
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trl_deepseek import chat, data, load_registry
from trl_deepseek.cli import run, training
from trl_deepseek.cli.parser import Parser
from trl_deepseek.data import demonstrations, preferences
from trl_deepseek.errors import UserError
from trl_deepseek.jobs import recipe
from trl_deepseek.yaml_files import Settings, read_mapping

REGISTRY = load_registry()
FEW = settings(
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "12")),
    deadline=None,  # a loaded machine is no fault
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

ROLES = st.sampled_from(["system", "user", "assistant", "tool", "developer", "narrator", "", None])
WORDS = st.sampled_from(
    ["", " ", "1+1", "<think>", "</think>", "<think>a</think>b", "<｜User｜>", "{{ x }}", "\x00"]
) | st.text(max_size=5)
NUMBERS = st.integers(-5, 2**40) | st.floats(width=32)
JUNK = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["role", "content", "name", "arguments"]), inner, max_size=2
        )
    ),
    max_leaves=4,
)
CALLS = st.lists(
    st.fixed_dictionaries({}, optional={"type": JUNK, "function": JUNK, "id": WORDS}), max_size=2
)
MESSAGE = st.fixed_dictionaries(
    {"role": ROLES, "content": WORDS | st.none() | JUNK},
    optional={"reasoning_content": JUNK, "tool_calls": CALLS | JUNK, "train": JUNK, "weight": JUNK},
)
TURNS = st.lists(MESSAGE, max_size=4)
SHAREGPT = st.lists(st.fixed_dictionaries({"from": ROLES | WORDS, "value": JUNK}), max_size=3)
CELL = WORDS | TURNS | SHAREGPT | JUNK
COLUMNS: dict[str, list[tuple[str, ...]]] = {
    "demonstrations": [
        ("messages",),
        ("prompt", "completion"),
        ("conversations", "system"),
        ("instruction", "input", "output", "history"),
        ("text",),
        ("messages", "tools", "chat_template_kwargs"),
    ],
    "preferences": [
        ("prompt", "chosen", "rejected"),
        ("chosen", "rejected"),
        ("question", "system", "chosen", "rejected"),
        ("prompt", "completion", "label"),
        ("chosen", "rejected", "margin"),
    ],
    "prompts": [("prompt", "score"), ("prompt", "tools")],
    "tokens": [("input_ids",), ("prompt_ids", "chosen_ids", "rejected_ids")],
}
ARGS: Any = SimpleNamespace(drop_bad_rows=True)


@st.composite
def tables(draw: st.DrawFn, kind: str) -> Dataset:
    """A few rows of one layout with anything in their cells, as text where Arrow cannot hold it."""
    columns = draw(st.sampled_from(COLUMNS[kind]))
    rows = draw(
        st.lists(st.fixed_dictionaries(dict.fromkeys(columns, CELL)), min_size=1, max_size=3)
    )
    if draw(st.booleans()):  # one sound row first, so that the layout is known
        rows = [dict.fromkeys(columns, rows[0][columns[0]]), *rows]
    try:
        return Dataset.from_list(rows)
    except (pa.ArrowException, TypeError, ValueError, OverflowError, UnicodeError, AttributeError):
        return Dataset.from_list([{key: str(cell) for key, cell in row.items()} for row in rows])


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    tokenizer = REGISTRY.models["tiny-deepseek-llm"]()[1]
    chat.install(tokenizer, REGISTRY.chat_templates["deepseek-v3.1"])
    return tokenizer


def ours_or_a_result(function: Any, *args: Any, **options: Any) -> None:
    with contextlib.suppress(UserError):
        function(*args, **options)


@FEW
@given(table=tables("demonstrations"))
def test_demonstrations(table: Dataset, tokenizer: Any) -> None:
    def read() -> None:
        rows = demonstrations.prepare(table, name="rows")[0]
        chat.check_conversations(rows, tokenizer, "rows", masks=True)

    ours_or_a_result(read)


@FEW
@given(table=tables("preferences"), needs_prompt=st.booleans())
def test_preferences(table: Dataset, needs_prompt: bool, tokenizer: Any) -> None:
    def read(shape: Any) -> None:
        rows = data.check_margin(shape(), "rows")
        chat.check_conversations(rows, tokenizer, "rows")

    ours_or_a_result(
        read, lambda: preferences.pairs(table, ARGS, ["dpo"], "rows", needs_prompt=needs_prompt)
    )
    ours_or_a_result(read, lambda: preferences.dealt(preferences.either(table, ARGS, "rows")))


@FEW
@given(table=tables("prompts"))
def test_prompts(table: Dataset, tokenizer: Any) -> None:
    def read() -> None:
        rows = data.check_prompts(table, "rows", ["score"])
        chat.check_conversations(rows, tokenizer, "rows")

    ours_or_a_result(read)


@FEW
@given(table=tables("tokens"))
def test_tokens(table: Dataset) -> None:
    ours_or_a_result(data.check_tokens, table, "rows", lambda: 10)


@FEW
@given(
    messages=TURNS, name=st.sampled_from(sorted(REGISTRY.chat_templates)), flags=st.integers(0, 7)
)
def test_rendering(messages: list[Any], name: str, flags: int, tokenizer: Any) -> None:
    options = {
        "training": bool(flags & 1),
        "add_generation_prompt": bool(flags & 2),
        "continue_final_message": bool(flags & 4),
    }
    template = REGISTRY.chat_templates[name]
    ours_or_a_result(chat.render, template, messages, **options)
    ours_or_a_result(chat.encode, template, messages, tokenizer, training=True)


MARKS = [
    *(
        "a: ",
        "- ",
        "{",
        "}",
        "[",
        "]",
        "&x ",
        "*x",
        "<<: ",
        "!!set ",
        "\n",
        "  ",
        "1e-3",
        "no",
        "'",
    ),
    *('"', ": ", "? ", "| ", "2001-01-01", "0x1f", ".nan", "#", "%TAG", "---\n", "\t", "\x07"),
]
YAML = st.lists(
    st.sampled_from(MARKS) | st.text(alphabet=string.printable, max_size=4), max_size=14
).map("".join)


@FEW
@given(text=YAML)
def test_yaml(text: str, tmp_path: Path) -> None:
    file = tmp_path / "any.yaml"
    file.write_text(text, encoding="utf-8", newline="")
    ours_or_a_result(read_mapping, str(file), "config file", "options to values")


@pytest.fixture(scope="module")
def parser() -> Parser:
    parser = Parser(prog="trl-deepseek grpo")
    training.add_arguments(parser, "grpo")
    return parser


OPTIONS = st.sampled_from(
    [
        *("max_length", "reward_funcs", "reward_weights", "report_to", "columns", "datasets"),
        *(
            "model_init_kwargs",
            "learning_rate",
            "bf16",
            "json",
            "save_strategy",
            "nobody",
            "env",
            3,
        ),
    ]
)


@FEW
@given(values=st.dictionaries(OPTIONS, JUNK, max_size=3))
def test_options(values: dict[Any, Any], parser: Parser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {})

    def read() -> None:
        parser.parse_args(parser.with_settings(Settings(values), "any.yaml", []))

    ours_or_a_result(read)


STAGE = st.dictionaries(
    st.sampled_from(["command", "name", "dataset_name", "reward_funcs", "adapter", "qlora"]),
    st.sampled_from(["sft", "merge", "grpo", "{sft}", "x/y", "", None, True, 3, ["model:{grpo}"]]),
    max_size=4,
).map(Settings)


@FEW
@given(stages=st.lists(STAGE | JUNK, max_size=3), more=st.dictionaries(WORDS, JUNK, max_size=1))
def test_recipes(stages: list[Any], more: dict[str, Any]) -> None:
    values = Settings({"output_dir": "out", "model_name_or_path": "m", **more, "stages": stages})
    values.lines = dict.fromkeys(values, 1)
    ours_or_a_result(recipe.settle, "any.yaml", values, run.check_names)
