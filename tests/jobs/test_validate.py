"""``trl-deepseek validate``: all that is wrong in one report, and one step where nothing is."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset

from trl_deepseek.cli.main import main
from trl_deepseek.data import repeats
from trl_deepseek.data.loading import lines_of

Validate = Callable[..., tuple[int, dict[str, Any]]]


def chat(question: str, answer: str) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


def pair(number: int) -> dict[str, Any]:
    ask = [{"role": "user", "content": f"1+{number}"}]
    said = [[{"role": "assistant", "content": text}] for text in (str(1 + number), "no")]
    return {"prompt": ask, "chosen": said[0], "rejected": said[1], "solution": str(1 + number)}


def write(name: str, rows: list[Any]) -> None:
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    Path(name).write_text("".join(line + "\n" for line in lines))


@pytest.fixture
def validate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Validate:
    monkeypatch.chdir(tmp_path)
    write("pairs.jsonl", [pair(number) for number in range(8)])
    write("chats.jsonl", [chat(f"1+{n}", str(1 + n)) for n in range(8)])

    def run(*words: str) -> tuple[int, dict[str, Any]]:
        code = main(["validate", *words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def said(report: dict[str, Any], kind: str = "problems") -> list[tuple[str | None, str]]:
    """Place and first line of each finding."""
    found = [each for job in report["jobs"] for each in job[kind]]
    return [(each["place"], each["message"].partition("\n")[0]) for each in found]


TINY = ("--model_name_or_path", "tiny-deepseek-llm", "--report_to", "none", "--output_dir", "out")


def test_all_that_is_wrong_is_said_at_once_with_its_line(validate: Validate) -> None:
    control = chat("<｜User｜>", "2")
    rows = [chat("1+1", "2"), "", chat("1+1", "2"), control, {"messages": []}, chat("1+2", "3")]
    write("rows.jsonl", rows)
    write("eval.jsonl", [chat("1+1", "2"), {"messages": [{"role": "usr", "content": "x"}]}])
    Path("run.yaml").write_text(
        "model_name_or_path: tiny-deepseek-llm\ndataset_name: rows.jsonl\nmax_length: -5\n"
        "learning_rate: .nan\nlerning: 3\nnoise: neftun\nreport_to: no\npacking: 3\n"
        "eval_strategy: steps\neval_dataset: eval.jsonl\n"
    )
    code, report = validate("run.yaml")
    assert code == 2
    assert report["problems"] == report["jobs"][0]["problems"]
    assert said(report) == [
        ("run.yaml:5", "unknown option 'lerning' (did you mean 'learning_rate'?)"),
        ("run.yaml:8", "packing takes true or false, not 3"),
        ("run.yaml:4", "learning_rate is nan: it must be at least 0 and finite"),
        ("run.yaml:3", "max_length is -5: it must be at least 1"),
        ("run.yaml:7", "report_to: there is no tracker 'no' (did you mean 'none'?)"),
        ("run.yaml:6", "no plugin registers a noise named 'neftun'"),
        ("rows.jsonl:5", "row 3: column 'messages' holds an empty list of messages"),
        (
            "rows.jsonl:4",
            "row 2: the user text contains '<｜User｜>', which the tokenizer reads as a control "
            "token",
        ),
        (
            "eval.jsonl:2",
            "row 1: column 'messages' has no turn of the assistant; its roles are usr",
        ),
        ("eval.jsonl:1", "1 of 1 rows to evaluate on are trained on, and measure memory (row 0)"),
    ]
    assert said(report, "warnings") == [
        ("rows.jsonl:3", "1 of 3 rows say what an earlier row says (row 1)")
    ]
    assert report["jobs"][0]["unchecked"] == [
        "the model's own forward and backward pass: mend the problems above first"
    ]


@pytest.mark.parametrize(
    ("words", "loss"),
    [
        ("sft --dataset_name chats.jsonl", None),
        ("sft --dataset_name chats.jsonl --packing true --max_length 64 --use_peft", None),
        ("dpo --dataset_name pairs.jsonl --gradient_accumulation_steps 2", math.log(2)),
        ("kto --dataset_name pairs.jsonl", 0.5),
        ("reward --dataset_name pairs.jsonl", None),
        (
            "grpo --dataset_name pairs.jsonl --reward_funcs exact_match --max_completion_length 4",
            0.0,
        ),
    ],
)
def test_a_sound_job_makes_one_step_and_leaves_nothing(
    words: str, loss: float | None, validate: Validate
) -> None:
    before = set(Path().rglob("*"))
    code, report = validate(*words.split(), *TINY, "--eval_strategy", "no")
    (job,) = report["jobs"]
    assert (code, report["problems"], job["unchecked"]) == (0, [], [])
    assert job["facts"]["train_rows"] == 8
    assert job["facts"]["batch_sequences"] > 0
    assert math.isfinite(job["facts"]["loss"])
    if loss is not None:  # policy equals reference; all completions get one score
        assert job["facts"]["loss"] == pytest.approx(loss, abs=1e-5)
    assert set(Path().rglob("*")) == before


def test_what_max_length_cuts_and_leaves_out_is_counted(validate: Validate) -> None:
    write("rows.jsonl", [chat("1+1", "2"), chat("1+1 " * 40, "2"), chat("1+2", "3 " * 40)])
    words = ("sft", "--dataset_name", "rows.jsonl", "--max_length", "30", "--no_model")
    code, report = validate(*words, *TINY)
    assert code == 0
    assert report["jobs"][0]["facts"]["left_out"] == 1
    places = {place for place, _ in said(report, "warnings")}
    texts = " ".join(text for _, text in said(report, "warnings"))
    assert "rows.jsonl:2" in places
    assert "1 of 3 rows of rows.jsonl are cut to max_length=30" in texts
    assert "1 of 3 rows of rows.jsonl have no token left to learn" in texts

    write("rows.jsonl", [chat("1+1 " * 40, "2")] * 2)
    code, report = validate(*words, *TINY)
    assert code == 2
    assert "all 2 rows of rows.jsonl have no token left" in said(report)[0][1]


def test_a_checkpoint_that_does_not_fit_on_the_disk_is_a_problem(
    validate: Validate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    code, report = validate("sft", "--dataset_name", "chats.jsonl", "--no_model", *TINY)
    assert code == 2
    # 0.9 million weights in float32 with two moments each
    assert said(report)[0][1].startswith("output_dir: the disk of 'out' has 1.0 MB free, ")
    assert report["jobs"][0]["facts"]["left_out"] == 0  # what is not about the disk is looked at


def test_a_loss_that_fails_in_the_first_step_is_a_problem(validate: Validate) -> None:
    Path("mine.py").write_text(
        "from trl_deepseek import hookimpl\n\n"
        "def wide(logps):\n"
        "    if len(logps.chosen) > 2:\n        raise ValueError('too wide')\n"
        "    return -logps.chosen\n\n"
        "@hookimpl\ndef register_losses(register):\n"
        "    register('wide', wide, data='pairs', reference=False)\n"
    )
    words = ("preference", "--loss_type", "wide", "--plugins", "mine.py")
    code, report = validate(*words, "--dataset_name", "pairs.jsonl", *TINY)
    assert code == 2
    assert "too wide" in said(report)[0][1]


def test_every_stage_of_a_recipe_is_looked_at(validate: Validate) -> None:
    Path("recipe.yaml").write_text(
        "output_dir: out\nmodel_name_or_path: tiny-deepseek-llm\nseedd: 3\nreport_to: none\n"
        "stages:\n  - command: sft\n    dataset_name: chats.jsonl\n    max_stepz: 3\n"
        "    use_peft: true\n  - command: merge\n  - command: reward\n"
        "    dataset_name: pairs.jsonl\n    loss_type: bradly_terry\n  - command: grpo\n"
        "    dataset_name: none.jsonl\n    reward_funcs: [exact_mach, 'model:{reward}', 'm:{x}']\n"
        "    temperature: 0\n"
    )
    code, report = validate("recipe.yaml", "--no_model")
    assert code == 2
    assert [job["stage"] for job in report["jobs"]] == [None, "sft", "merge", "reward", "grpo"]
    assert said(report) == [
        ("recipe.yaml:8", "unknown option 'max_stepz' (did you mean 'max_steps'?)"),
        ("recipe.yaml:3", "unknown option 'seedd' (did you mean 'seed'?)"),
        (
            "recipe.yaml:16",
            "stage 'grpo': reward_funcs: {x} is no earlier stage; there are sft, merge, reward",
        ),
        ("recipe.yaml:13", "loss_type: no plugin registers a loss named 'bradly_terry'"),
        ("recipe.yaml:17", "temperature is 0.0: it must be greater than 0"),
        ("recipe.yaml:15", "data file 'none.jsonl' does not exist"),
    ]
    assert not Path("out").exists()


def test_all_that_is_wrong_with_stages_that_do_not_train_is_said(validate: Validate) -> None:
    write("prompts.jsonl", [{"prompt": "1+1", "solution": "2"}] * 2)
    Path("recipe.yaml").write_text(
        "output_dir: out\nmodel_name_or_path: tiny-deepseek-llm\nstages:\n"
        "  - command: sft\n    dataset_name: chats.jsonl\n"
        "  - command: sample\n    dataset_name: none.jsonl\n    reward_funcs: [exact_mach]\n"
        "    chat_template: deepseek-v33\n    num_samples: many\n"
        "  - command: evaluate\n    models: [sft, ./nowhere]\n    dataset_name: prompts.jsonl\n"
        "    metrics: [exact_match, win_rate, rouge, blue]\n    max_new_tokens: -1\n"
        "    metric_kwargs: {win_rate: {judge: exact_match}, exact_match: {k: 3}}\n"
    )
    code, report = validate("recipe.yaml", "--no_model")
    assert code == 2
    assert said(report) == [
        ("recipe.yaml:10", "num_samples takes a whole number, not 'many'"),
        ("recipe.yaml:8", "no plugin registers a reward named 'exact_mach'"),
        ("recipe.yaml:9", "no plugin registers a chat template named 'deepseek-v33'"),
        ("recipe.yaml:7", "data file 'none.jsonl' does not exist"),
        ("recipe.yaml:15", "max_new_tokens is -1; it must be a whole number from 1"),
        ("recipe.yaml:16", "metric_kwargs: 'exact_match' has no option 'k'"),
        ("recipe.yaml:14", "no plugin registers a metric or a reward named 'blue'"),
        ("recipe.yaml:12", "model folder './nowhere' does not exist"),
        (
            "recipe.yaml:13",
            "metric 'rouge' compares with known answers, which prompts.jsonl does not have: the "
            "column 'reference', or demonstrations",
        ),
    ]
    assert [job["unchecked"] for job in report["jobs"][-2:]] == [
        ["the rest: mend the problems above first"]
    ] * 2
    assert not Path("out").exists()


def test_every_mistake_in_how_a_recipe_is_built_is_said(validate: Validate) -> None:
    Path("recipe.yaml").write_text(
        "output_dir: out\nmodel_name_or_path: tiny-deepseek-llm\nstages:\n"
        "  - command: sftt\n    name: first\n"
        "  - command: sft\n    name: a\n    dataset_name: chats.jsonl\n    max_stepz: 3\n"
        "  - command: preference\n    name: a\n    loss_type: dpo\n    dataset_name: pairs.jsonl\n"
        "    eval_dataset: '{nowhere}/rows.jsonl'\n"
        "  - command: sft\n    name: last\n    dataset_name: chats.jsonl\n"
        "    model_name_or_path: '{first}'\n"
    )
    code, report = validate("recipe.yaml", "--no_model")
    assert code == 2
    assert said(report) == [
        ("recipe.yaml:9", "unknown option 'max_stepz' (did you mean 'max_steps'?)"),
        ("recipe.yaml:4", "stage 1 has an unknown command 'sftt' (did you mean 'sft'?)"),
        ("recipe.yaml:10", "stage 'a': the name is there twice"),
        (
            "recipe.yaml:14",
            "stage 'a-10': eval_dataset: {nowhere} is no earlier stage; there are a",
        ),
    ]
    assert [job["stage"] for job in report["jobs"]] == [None, "a", "a-10", "last"]


def test_every_line_that_cannot_be_read_is_said(validate: Validate) -> None:
    write("rows.jsonl", [chat("1+1", "2"), "{", chat("1+1", "2"), "[3]"])
    code, report = validate("sft", *TINY, "--dataset_name", "rows.jsonl")
    assert code == 2
    assert said(report) == [
        (
            "rows.jsonl:2",
            "not valid JSON: Expecting property name enclosed in double quotes (column 2)",
        ),
        ("rows.jsonl:4", "a row must be a JSON object, this is [3]"),
    ]


def test_the_page_for_people_says_the_same(
    validate: Validate, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sft", "--dataset_name", "chats.jsonl", "--max_length", "0", "--noise", "neftun"]
    assert main(["validate", *words, *TINY]) == 2
    page = capsys.readouterr().out
    for text in ("problems: 2", "max_length is 0: it must be at least 1", "'neftun'", "2 problems"):
        assert text in page


@pytest.mark.parametrize(("metric", "problems"), [("exact_match", 0), ("exact_mach", 1)])
def test_metrics_in_training_are_looked_at_with_the_rows_to_evaluate_on(
    validate: Validate, metric: str, problems: int
) -> None:
    words = ["--dataset_name", "arithmetic", "--eval_dataset", "arithmetic", "--no_model"]
    words += ["--eval_strategy", "steps", "--eval_steps", "1", "--eval_metrics", metric]
    code, report = validate("sft", *words, *TINY)
    assert (code, len(said(report))) == (2 * problems, problems)
    assert all("'exact_mach'" in message for _, message in said(report))


def test_a_config_is_for_the_command_that_has_its_options(validate: Validate) -> None:
    Path("run.yaml").write_text("reward_funcs: [x]\nmodel_name_or_path: tiny-deepseek-llm\n")
    _, report = validate("run.yaml", "--dataset_name", "pairs.jsonl", "--no_model")
    assert report["jobs"][0]["command"] == "grpo"
    assert said(report)[0] == ("run.yaml:1", "no plugin registers a reward named 'x'")


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text('prompt,completion\n"a\nb",c\nd,e\n\nf,g\n')
    assert lines_of(str(table), [0, 1, 2]) == {0: 2, 1: 4, 2: 6}
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert lines_of(str(lines), [1]) == {1: 3}
    assert lines_of(str(tmp_path / "none.jsonl"), [1]) == {}


def test_rows_are_the_same_that_differ_only_in_what_is_not_read() -> None:
    train = Dataset.from_list([{"prompt": "a", "id": 1}, {"prompt": "b", "id": 2}])
    held_out = Dataset.from_list([{"prompt": "c", "id": 1}, {"prompt": "b", "id": 9}])
    assert repeats.leaked(train, held_out) == {1: 1}
    assert repeats.repeated(Dataset.from_list([{"prompt": "a", "id": n} for n in (1, 2)])) == {1: 0}
