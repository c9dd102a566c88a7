"""The pages speak of commands, options, names and files that there are, and of all of ours."""

from __future__ import annotations

import argparse
import functools
import importlib
import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import trl
from markdown_it import MarkdownIt

from trl_deepseek import load_registry
from trl_deepseek.cli.main import COMMANDS
from trl_deepseek.cli.parser import Parser
from trl_deepseek.jobs import ALIASES, TRAINING
from trl_deepseek.registry import HOOKS, KINDS

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
CODE = re.compile(r"`[^`\n]+`")
OPTION = re.compile(r"(?<![\w-])--([A-Za-z]\w*)")
# Options of launchers and servers, in commands that are theirs.
OF_OTHERS = {
    "accelerate launch": {"config_file", "num_processes"},
    "torchrun": {"standalone"},
    "trl vllm-serve": {"model", "port"},
}
TRLS = (trl.SFTConfig, trl.DPOConfig, trl.KTOConfig, trl.RewardConfig, trl.GRPOConfig)
TRLS_OWN = {
    field.name for kind in (*TRLS, trl.ModelConfig, trl.ScriptArguments) for field in fields(kind)
}


@functools.cache
def options_of(command: str) -> frozenset[str]:
    """The names of a command's options, without dashes; of all that it can be asked to do."""
    parser = Parser(prog=command)
    if command in (*TRAINING, *ALIASES):
        importlib.import_module("trl_deepseek.cli.training").add_arguments(parser, command)
    else:
        module = importlib.import_module(f"trl_deepseek.cli.{command.replace('-', '_')}")
        module.add_arguments(parser)
    found = set(_options(parser)) | {"debug"}
    if command == "show-sample":
        found |= {"rows"}
    if command in ("show-sample", "validate"):  # also those of the command that it is about
        found |= {option for each in TRAINING for option in options_of(each)}
    return frozenset(found)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        # argparse takes each with dashes, too
        yield from (flag.lstrip("-").replace("-", "_") for flag in action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _options(each)


@functools.cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code_of(page: Path) -> str:
    """All that a page sets as code, in lines and in blocks."""
    blocks = [token.content for token in MarkdownIt().parse(text_of(page)) if token.type == "fence"]
    return "\n".join([*blocks, *CODE.findall(text_of(page))])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_option_that_a_page_names_exists(page: Path) -> None:
    known = {option for command in (*COMMANDS, *ALIASES) for option in options_of(command)}
    unknown = []
    for line in text_of(page).replace("\\\n", " ").splitlines():
        taken = {
            option for words, theirs in OF_OTHERS.items() if words in line for option in theirs
        }
        for script in re.findall(r"python (\S+\.py)", line):
            taken |= set(OPTION.findall((REPOSITORY / script).read_text(encoding="utf-8")))
        unknown += [option for option in OPTION.findall(line) if option not in known | taken]
    assert not unknown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_that_a_page_shows_has_its_options(page: Path) -> None:
    for line in code_of(page).replace("\\\n", " ").splitlines():
        for shown in re.findall(r"trl-deepseek (?!vllm)([a-z][\w-]*(?!:)\b[^`|;:]*)", line):
            command = shown.split()[0]
            assert command in (*COMMANDS, *ALIASES), shown
            own = shown.partition("accelerate launch")[0]
            assert set(OPTION.findall(own)) <= options_of(command), shown


def test_every_option_that_is_not_of_trl_is_in_the_docs() -> None:
    words = set(re.findall(r"\w+", "\n".join(map(code_of, PAGES))))
    ours = {
        (command, option.removeprefix("no_"))
        for command in COMMANDS
        for option in options_of(command) - {"h", "help"}
    }
    missing = {each for each in ours if each[1] not in TRLS_OWN and each[1] not in words}
    assert not missing


def test_the_readme_links_every_page() -> None:
    linked = set(re.findall(r"\]\(docs/(\w+\.md)\)", text_of(REPOSITORY / "README.md")))
    assert linked == {page.name for page in PAGES} - {"README.md"}


def test_the_readme_lists_every_command() -> None:
    table = text_of(REPOSITORY / "README.md").partition("| command | |")[2].partition("\n\n")[0]
    listed = {each.split()[0] for each in re.findall(r"`([^`]+)`", table.replace("`, `", "` `"))}
    assert set(COMMANDS) - {"quickstart"} <= listed


@pytest.mark.parametrize("kind", KINDS)
def test_every_registered_name_is_in_the_docs(kind: str) -> None:
    code = "\n".join(map(code_of, PAGES))
    missing = [
        entry.name
        for entry in load_registry().entries(kind)
        if not re.search(rf"(?<![\w.-]){re.escape(entry.name)}(?![\w-])", code)
    ]
    assert not missing


def test_every_hook_is_in_the_table_of_hooks() -> None:
    table = text_of(REPOSITORY / "docs" / "plugins.md").partition("## Hooks")[2]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(HOOKS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    links = [each.partition("#") for each in re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", prose))]
    for file, _, heading in links:
        if file.startswith("https:"):
            continue
        target = page.parent / file if file else page
        assert target.exists(), file
        if heading:
            heads = re.findall(r"^#+ (.*)$", text_of(target), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in heads]
    folders = "tests|benchmarks|examples|trl_deepseek|scripts|docs|plugins"
    for path in re.findall(rf"`((?:{folders})/[\w./*-]+)`", prose):
        assert list(REPOSITORY.glob(path.rstrip("/"))), path


def test_every_extra_that_a_page_names_exists() -> None:
    project = tomllib.loads(text_of(REPOSITORY / "pyproject.toml"))["project"]
    named = re.findall(r"trl-deepseek\[([\w,-]+)\]", "\n".join(map(text_of, PAGES)))
    assert {extra for each in named for extra in each.split(",")} <= set(
        project["optional-dependencies"]
    )
