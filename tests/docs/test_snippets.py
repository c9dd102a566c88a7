"""Every snippet of the README and the docs runs as it stands.

The blocks of a page run in order, in one folder that holds the models and files they speak of, and
in one namespace. A block that needs more than that, a hub or a GPU, says so in the page itself, in
a comment before it that no reader sees: ``<!-- not run: why -->``. Trainings stop after a step, and
in ``make test`` of ``sft`` and ``preference`` only the README's run. docs/command_line.md has a
test of its own.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from trl_deepseek import chat, load_registry
from trl_deepseek.cli.main import main
from trl_deepseek.jobs import TRAINING
from trl_deepseek.types import DatasetKind

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md"] + [
    page for page in sorted((REPOSITORY / "docs").glob("*.md")) if page.stem != "command_line"
]
# Each page's blocks that do not run, so that none is added unseen.
NOT_RUN = {
    "README.md": 1,
    "chat_command.md": 1,
    "engines.md": 2,
    "scale.md": 1,
    "judged_metrics.md": 2,
    "qlora.md": 4,
    "recipes.md": 1,
    "reward_models.md": 1,
    "rewards.md": 1,
    "sampling.md": 1,
    "tasks.md": 1,
    "tools.md": 1,
}
_NOT_RUN = re.compile(r"<!-- not run: \w.*-->\s*")
_FILE = re.compile(r"# (\w+\.py)\b")


@dataclass(frozen=True)
class Block:
    """One fenced block: its line in the page, its language, its text, and whether it runs."""

    line: int
    language: str
    text: str
    runs: bool


def blocks(page: Path) -> Iterator[Block]:
    before = ""
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "fence":
            assert token.map is not None
            marked = _NOT_RUN.fullmatch(before) is not None
            yield Block(token.map[0] + 1, token.info.strip(), token.content, not marked)
        before = token.content if token.type == "html_block" else ""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models and files that the pages speak of."""
    folder = tmp_path_factory.mktemp("world")
    registry = load_registry()
    model, tokenizer = registry.models["tiny-deepseek-llm"]()
    chat.install(tokenizer, registry.chat_templates["deepseek-v3"])
    for name in ("my_model", "sft", "runs/quickstart/grpo"):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    files: dict[str, DatasetKind] = {
        "demonstrations": "demonstrations",
        "prefs": "preferences",
        "prompts": "prompts",
    }
    for name, kind in files.items():
        registry.datasets["arithmetic"](kind=kind, size=2).to_json(folder / f"{name}.jsonl")
    messages = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    (folder / "chats.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    (folder / "completions.jsonl").write_text(json.dumps({"completion": "4", "solution": "4"}))
    (folder / "questions.csv").write_text("question,answer\n1+1,2\n")
    (folder / "run.yaml").write_text("model_name_or_path: my_model\ndataset_name: prefs.jsonl\n")
    (folder / "my_plugin.py").write_text(
        "from trl_deepseek import hookimpl\n"
        "@hookimpl\n"
        "def register_rewards(register):\n"
        "    register('polite', lambda completion: 1.0)\n"
    )
    return folder


@pytest.mark.parametrize(
    "every", [False, pytest.param(True, marks=pytest.mark.matrix)], ids=["some", "every"]
)
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page, id=page.stem, marks=[pytest.mark.transformers("5.15")] * (page.stem == "tools")
        )
        for page in PAGES
    ],
)
def test_the_snippets_run(
    page: Path,
    every: bool,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(shutil.copytree(world, tmp_path / "page"))
    names: dict[str, Any] = {}
    for block in blocks(page):
        if block.runs:
            seldom = () if every or page.stem == "README" else ("sft", "preference")
            _run(block, names, seldom)
        capsys.readouterr()


def _run(block: Block, names: dict[str, Any], seldom: tuple[str, ...]) -> None:
    """As written, but for one step."""
    if block.language == "python":
        file = _FILE.match(block.text)
        if file:
            Path(file[1]).write_text(block.text)
        text = re.sub(r"max_steps=\d+", "max_steps=1", block.text)
        exec(compile(text, f"line {block.line}", "exec"), names)
    elif block.language == "sh":
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if not words or words[1] in seldom:
                continue
            assert words[0] == "trl-deepseek"
            if words[1] in TRAINING:
                words += ["--max_steps", "1"]
            if words[1] == "grpo":
                words += ["--max_completion_length", "4"]
            assert main(words[1:]) == 0, line
    elif block.language == "text":
        pass  # what a command prints
    elif block.language == "json":
        decoder, text = json.JSONDecoder(), block.text.strip()
        while text:
            text = text[decoder.raw_decode(text)[1] :].strip()
    else:
        parse: Any = {"yaml": yaml.safe_load, "toml": tomllib.loads}[block.language]
        parse(block.text)


def test_the_blocks_that_do_not_run_are_counted() -> None:
    left_out = {page.name: sum(not block.runs for block in blocks(page)) for page in PAGES}
    assert {name: count for name, count in left_out.items() if count} == NOT_RUN
