"""Data of each kind is told apart, and the command that is recommended is one that runs on it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek import jobs, load_registry
from trl_deepseek.answers import solution_text
from trl_deepseek.cli import training
from trl_deepseek.cli.main import main
from trl_deepseek.cli.parser import Parser
from trl_deepseek.recommending import solutions
from trl_deepseek.recommending.figures import languages_of
from trl_deepseek.recommending.guide import REWARDS

REGISTRY = load_registry()
SUM = "def add(a, b):\n    return a + b\n"
ASK = [{"role": "user", "content": "What is the capital of France?"}]
# A row of data in the shape of a public dataset; {n} is its number.
ROWS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "What is {n} and 1?", "answer": "It is {n}+1.\n#### {n}1"},
    "math": {
        "problem": "Halve {n}.",
        "solution": "We get $\\boxed{\\frac{{n}}{2}}$.",
        "level": "1",
    },
    "math-500": {
        "problem": "{n}?",
        "solution": "It is long, and has no box at all.",
        "answer": "\\sqrt{2}",
    },
    "arc": {"question": "Which of these is red, {n}? A. sky B. rose", "answerKey": "B"},
    "trivia": {"prompt": "What is the capital of France, {n}?", "solution": "Paris"},
    "ours": {"prompt": "Add, {n}.", "tests": [{"input": "1 2", "output": "3"}]},
    "humaneval": {
        "task_id": "HumanEval/{n}",
        "prompt": SUM,
        "canonical_solution": "",
        "entry_point": "add",
        "test": "def check(candidate):\n    assert candidate(1, 2) == 3 # {n}\n",
    },
    "mbpp": {"text": "Add two, {n}.", "code": SUM, "test_list": ["assert add(1, 2) == 3"]},
    "apps": {
        "question": "Add the numbers, {n}.",
        "solutions": "[]",
        "input_output": '{"inputs": ["1 2"], "outputs": ["3"]}',
    },
    "hh": {"prompt": ASK, "chosen": "Paris {n}", "rejected": "Rome"},
    "other pairs": {"question": "Where, {n}?", "preferred": "Paris", "dispreferred": "Rome"},
    "labels": {"prompt": "Where, {n}?", "completion": "Paris", "label": True},
    "chat": {"messages": [*ASK, {"role": "assistant", "content": "Paris {n}"}]},
    "thoughts": {
        "messages": [*ASK, {"role": "assistant", "content": "<think>Hm.</think>Paris {n}"}],
    },
    "alpaca": {"instruction": "Name a city, {n}.", "input": "", "output": "Paris"},
    "prose": {
        "question": "Why, {n}?",
        "answer": "Since light is scattered by the air, as we know.",
    },
    "text": {"text": "A text, {n}."},
}
GRPO, DPO, SFT = "deepseek-math-grpo", "seed-dpo", "seed-sft"
# name -> kind, method, loss, rewards, preset
EXPECTED: dict[str, tuple[str, str, str, list[str], str]] = {
    "gsm8k": ("solutions", "grpo", "grpo", ["numeric_match"], GRPO),
    "math": ("solutions", "grpo", "grpo", ["math_accuracy"], GRPO),
    "math-500": ("solutions", "grpo", "grpo", ["math_accuracy"], GRPO),
    "arc": ("solutions", "grpo", "grpo", ["multiple_choice"], GRPO),
    "trivia": ("solutions", "grpo", "grpo", ["exact_match"], GRPO),
    **{
        name: ("tests", "grpo", "dr_grpo", ["code_tests"], "dr-grpo")
        for name in ("ours", "humaneval", "mbpp", "apps")
    },
    "hh": ("pairs", "preference", "dpo", [], DPO),
    "other pairs": ("pairs", "preference", "dpo", [], DPO),
    "labels": ("labels", "preference", "kto", [], DPO),
    "chat": ("demonstrations", "sft", "nll", [], SFT),
    "thoughts": ("demonstrations", "sft", "nll", [], "deepseek-r1-sft"),
    "alpaca": ("demonstrations", "sft", "nll", [], SFT),
    "prose": ("demonstrations", "sft", "nll", [], SFT),
    "text": ("demonstrations", "sft", "nll", [], SFT),
}


def write(name: str, folder: Path, count: int = 6) -> str:
    file = folder / f"{name}.jsonl"
    text = json.dumps(ROWS[name])
    rows = [text.replace("{n}", str(number)) for number in range(count)]
    if name == "labels":
        rows[::2] = [row.replace("true", "false") for row in rows[::2]]
    file.write_text("\n".join(rows))
    return str(file)


def recommended(file: str, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["recommend", "--dataset_name", file, *words, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


@pytest.mark.parametrize("name", EXPECTED)
def test_data_is_told_apart_and_the_command_passes_every_check(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = recommended(write(name, tmp_path), capsys, "--output_dir", str(tmp_path / "out"))
    keys = ("kind", "method", "loss", "rewards", "preset")
    assert tuple(answer[key] for key in keys) == EXPECTED[name]
    program, command, *words = shlex.split(answer["command"])
    assert program == "trl-deepseek"
    parser = Parser(prog=program)
    training.add_arguments(parser, command)
    job = jobs.kind(command).check(parser.parse_args(words))
    assert job.inputs is not None
    assert answer["reasons"]


@pytest.mark.parametrize("name", ["gsm8k", "labels"])
def test_the_command_passes_validate_and_dry_run(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = recommended(write(name, tmp_path), capsys, "--output_dir", str(tmp_path / "out"))
    words = shlex.split(answer["command"])[1:]
    assert main(["validate", *words, "--no_model", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []
    assert main([*words, "--dry_run", "--json"]) == 0


def test_what_was_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "Was ist die Hauptstadt von Frankreich?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "assistant", "content": "<think>Hm</think>Das ist natürlich Paris."},
    ]
    plain: list[Any] = [
        turns[0],
        {"role": "assistant", "content": "Die Hauptstadt von Frankreich ist Paris."},
    ]
    rows = [{"messages": turns}, {"messages": plain}, {"messages": plain}, {"messages": plain}]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    found = recommended(str(file), capsys, "--model_name_or_path", "tiny-deepseek-llm")["data"]
    assert (found["rows"], found["repeated"], found["columns"]) == (4, 2, ["messages"])
    assert (found["reasoning"], found["tools"], found["several_turns"]) == (0.25, 0.25, 0.25)
    assert found["languages"] == {"de": 1.0}
    assert found["characters"]["prompt"] == {"median": 38, "longest": 38}
    tokenizer = REGISTRY.models["tiny-deepseek-llm"]()[1]
    ids = tokenizer(plain[0]["content"])["input_ids"]
    assert found["tokens"]["prompt"]["longest"] == len(ids)


def test_rows_longer_than_the_preset_cuts_raise_max_length(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "a" * 2000, "completion": " b" * 6000}))
    answer = recommended(str(file), capsys, "--model_name_or_path", "tiny-deepseek-llm")
    longest = answer["data"]["tokens"]["row"]["longest"]
    given = re.search(r"--max_length (\d+)", answer["command"])
    assert given is not None
    assert longest <= int(given[1]) < longest + 64
    assert any(f"the longest row has {longest} tokens" in each for each in answer["reasons"])


@pytest.mark.parametrize(
    ("given", "form"),
    [
        (["1", "2.5", "1,000", "#### 7", 12], "numbers"),
        (["A", "(B)", "C.", "D"], "letters"),
        ([r"$\frac{1}{2}$", r"\boxed{\sqrt{2}}", "x + 1"], "formulas"),
        (["Paris", "New York", "the Seine"], "words"),
        ([r"\frac12", "3", "4"], "formulas"),  # whose reward reads numbers too
    ],
)
def test_solutions_are_read_as_the_rewards_read_them(given: list[Any], form: Any) -> None:
    read = solutions.read(given)
    assert read.form == form
    assert read.unreadable == {}
    reward = REGISTRY.rewards[REWARDS[read.form]]
    gold = [str(solution) for solution in given]
    scores = reward([f"The answer is \\boxed{{{solution_text(g)}}}" for g in gold], gold)
    assert None not in scores
    assert sum(scores) >= len(given) - 1


def test_solutions_that_nobody_can_read_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"{n}?", "solution": str(n)} for n in range(20)]
    rows[7]["solution"] = "It is hard to say and nobody has ever found out."
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    reasons = recommended(str(file), capsys)["reasons"]
    assert any(
        each.startswith("1 of 20 rows that were tried cannot be scored")
        and each.endswith("one: cannot be read: 'It is hard to say and nobody has ever found out.'")
        for each in reasons
    )


def test_languages_are_those_of_texts_that_have_one() -> None:
    english, chinese = (
        "What is the capital of this country?",
        "小明有三个苹果，给了小红两个，还剩几个？",
    )
    assert languages_of([english, chinese, "1+1=2", "$x^2$"]) == {"en": 0.5, "zh": 0.5}


def test_the_page_says_what_it_found_and_ends_with_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write("hh", tmp_path)
    assert main(["recommend", "--dataset_name", file]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "rows       6"
    assert "preset     seed-dpo" in lines
    assert lines[-1] == (
        f"trl-deepseek dpo --model_name_or_path tiny-deepseek-llm --dataset_name {file} "
        "--preset seed-dpo --output_dir out"
    )


def test_an_embedded_dataset_is_looked_at_as_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    answer = recommended("arithmetic", capsys)
    assert (answer["method"], answer["rewards"]) == ("grpo", ["exact_match"])
    assert any("demonstrations for SFT" in each for each in answer["reasons"])
