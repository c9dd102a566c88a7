"""Completions drawn from a model become the rows that they should, whatever interrupts them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from trl_deepseek import chat, generation, load_registry
from trl_deepseek.cli.main import main
from trl_deepseek.generation import Completion
from trl_deepseek.jobs import sample
from trl_deepseek.registry import Registry
from trl_deepseek.rollouts import for_training
from trl_deepseek.rollouts.drawn import Drawn, Selection
from trl_deepseek.rollouts.journal import Journal

# What the stand-in for a model says to each prompt: four answers, the third of them cut off.
SAID = {
    "1+1": ["2", "3", "2, I thi", "7"],
    "2+2": ["4", "4", "4", "<｜User｜>4"],
    "3+3": ["5", "<think>3 and 3</think>6", "6", ""],
    "4+4": ["<think>never closed", "9", "8", "7"],
}
ROWS = [
    {"prompt": [{"role": "user", "content": asked}], "solution": str(2 * int(asked[0])), "id": n}
    for n, asked in enumerate(SAID)
]
DRAW = ["--num_samples", "4", "--reward_funcs", "exact_match", "--max_samples", "9"]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with prompts, where ``complete`` says what is in ``SAID``."""
    monkeypatch.chdir(tmp_path)
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def complete(
        model: Any, tokenizer: Any, prompts: Sequence[Any], *_: Any, **__: Any
    ) -> list[list[Completion]]:
        return [
            [
                Completion(text, (5,) * (len(text) + 1), finished=place != 2)
                for place, text in enumerate(SAID[prompt[0]["content"]])
            ]
            for prompt in prompts
        ]

    monkeypatch.setattr(generation, "complete", complete)
    monkeypatch.setattr(generation, "load", lambda *_, **__: (None, None))
    return tmp_path


def draw(*words: str, output: str = "rows.jsonl") -> int:
    model = ["--model_name_or_path", "tiny-deepseek-llm", "--dataset_name", "prompts.jsonl"]
    template = ["--chat_template", "deepseek-v3"]
    return main(["sample", *model, *template, *DRAW, "--output_file", output, *words])


def rows_of(file: str = "rows.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]


def test_every_completion_is_a_row_with_the_columns_of_its_prompt_and_its_provenance(
    place: Path,
) -> None:
    assert draw() == 0
    rows = rows_of()
    assert [row["completion"][0]["content"] for row in rows] == [
        text for said in SAID.values() for text in said
    ]
    first = rows[4]
    assert {name: first[name] for name in ("prompt", "solution", "id")} == ROWS[1]
    assert first["sampled"] == {
        "model": "tiny-deepseek-llm",
        "seed": 0,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "max_new_tokens": 512,
        "begin": "",
        "prompt": 1,
        "sample": 0,
        "score": 1.0,
        "scores": {"exact_match": 1.0},
        "tokens": 2,
        "finished": True,
    }


def test_the_best_of_each_prompt_are_whole_distinct_and_the_first_drawn_of_equals(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert draw("--best_of", "2", "--json") == 0
    kept = [(row["id"], row["completion"][0]["content"]) for row in rows_of()]
    thought = "<think>3 and 3</think>6"
    # By exact match 2, 4, 6 and (cut off) 8 are right; nothing that is cut off, empty, said twice,
    # unclosed or that holds a control token is kept.
    assert kept == [(0, "2"), (0, "3"), (1, "4"), (2, thought), (2, "5"), (3, "9"), (3, "7")]
    summary = json.loads(capsys.readouterr().out)
    assert (summary["rows"], summary["cut_off"]) == (7, 4)
    assert summary["passed_over"] == {
        "cut off at max_new_tokens": 4,
        "the same text as another of its prompt": 1,
        "with a control token in the text": 1,
        "empty": 1,
        "an assistant message opens <think> and does not close it": 1,
    }


def test_a_floor_keeps_out_what_scores_less(place: Path) -> None:
    assert draw("--best_of", "4", "--min_reward", "1") == 0
    assert [row["id"] for row in rows_of()] == [0, 1, 2]


def test_pairs_are_the_best_against_the_worst_where_they_differ(place: Path) -> None:
    assert draw("--pairs") == 0
    pairs = [
        (row["id"], row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows_of()
    ]
    assert pairs == [(0, "2", "7"), (2, "<think>3 and 3</think>6", "5")]
    about = rows_of()[0]["sampled"]
    assert (about["chosen"]["sample"], about["rejected"]["sample"]) == (0, 3)
    assert (about["chosen"]["scores"], about["rejected"]["score"]) == ({"exact_match": 1.0}, 0.0)


def test_where_no_prompt_gives_a_row_that_is_said_and_no_failure(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert draw("--pairs", "--min_reward", "2") == 0
    assert "4 prompts give no row\nno row was made: the file is empty" in capsys.readouterr().out
    assert Path("rows.jsonl").read_bytes() == b""
    assert draw("--pairs", "--min_reward", "2", output="rows.parquet") == 0


def test_rewards_that_abstain_or_fail_are_counted_and_never_compared(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.py").write_text(
        "def size(completion, **_):\n"
        "    said = completion\n"
        "    if said == '3':\n        raise ValueError('I do not like 3')\n"
        "    return None if said == '7' else float(len(said))\n"
    )
    assert draw("--reward_funcs", "mine.py:size", "--best_of", "4", "--json") == 0
    shown = capsys.readouterr()
    (reward,) = json.loads(shown.out)["rewards"]
    assert (reward["scored"], reward["abstained"], reward["failed"]) == (13, 2, 1)
    assert "reward 'size' failed on 1 of 16 completions, and more may follow" in shown.err
    assert [row["id"] for row in rows_of()].count(0) == 1  # neither 3 nor 7


def test_of_several_tasks_each_verifier_counts_its_own_rows(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = ["exact_match", "exact_match", "numeric_match", "numeric_match"]
    rows = [{**row, "task": task} for row, task in zip(ROWS, tasks, strict=True)]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--model_name_or_path", "tiny-deepseek-llm", "--dataset_name", "prompts.jsonl"]
    assert (
        main(
            ["sample", *words, "--num_samples=4", "--best_of=1", "--output_file=r.jsonl", "--json"]
        )
        == 0
    )
    counts = {
        each["name"]: (each["scored"], each["abstained"], each["mean"])
        for each in json.loads(capsys.readouterr().out)["rewards"]
    }
    # Two prompts of four answers each; right are 2, 4, 4, 4, then 6, 6, 8.
    assert counts == {"exact_match": (8, 0, 4 / 8), "numeric_match": (8, 0, 3 / 8)}


def test_weights_decide_by_name(place: Path) -> None:
    Path("mine.py").write_text("def size(completion, **_):\n    return len(completion)\n")
    funcs = ["--reward_funcs", "exact_match", "mine.py:size"]
    assert draw(*funcs, "--reward_weights", "size=-1", "exact_match=0.5", "--best_of", "1") == 0
    assert rows_of()[1]["sampled"]["score"] == 0.5 * 1 - 1


def test_cut_off_at_any_byte_it_goes_on_and_ends_in_the_same_file(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sample, "AT_ONCE", 8)  # two prompts at once
    drawn: list[int] = []
    told = generation.complete

    def counting(*args: Any, **given: Any) -> Any:
        drawn.extend(given["indices"])
        return told(*args, **given)

    monkeypatch.setattr(generation, "complete", counting)
    journal = Path(".rows.jsonl.sampling")
    close = Journal.close
    whole = b""

    def keep(self: Any, summary: Any) -> None:
        nonlocal whole
        whole = journal.read_bytes()
        close(self, summary)

    monkeypatch.setattr(Journal, "close", keep)
    assert draw("--pairs") == 0
    undisturbed, record = Path("rows.jsonl").read_bytes(), whole
    assert draw("--pairs") == 0
    assert drawn == [0, 1, 2, 3]  # what is finished is not done again
    for cut in [*range(0, len(record), len(record) // 7), len(record)]:
        Path("rows.jsonl").unlink()
        journal.write_bytes(record[:cut])
        capsys.readouterr()
        drawn.clear()
        assert draw("--pairs") == 0
        assert Path("rows.jsonl").read_bytes() == undisturbed
        lines = record[:cut].count(b"\n")
        assert drawn == [[0, 1, 2, 3], [2, 3], []][max(0, lines - 1) // 2]
        torn = bool(record[:cut]) and not record[:cut].endswith(b"\n")
        said = "its last line was cut off" if lines else "holds no whole line"
        assert (said in capsys.readouterr().err) is torn


def test_ctrl_c_says_how_much_is_finished_and_how_to_go_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sample, "AT_ONCE", 8)
    told = generation.complete

    def interrupted(*args: Any, **given: Any) -> Any:
        if 2 in given["indices"]:
            raise KeyboardInterrupt
        return told(*args, **given)

    monkeypatch.setattr(generation, "complete", interrupted)
    assert draw() == 130
    assert "2 of 4 prompts are finished; the same command goes on" in capsys.readouterr().err
    assert not Path("rows.jsonl").exists()


def test_other_settings_or_a_foreign_file_are_refused_and_nothing_is_changed(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert draw() == 0
    before = Path("rows.jsonl").read_bytes()
    capsys.readouterr()
    assert draw("--seed", "1", "--best_of", "1") == 2
    said = capsys.readouterr().err
    assert "seed: 0 -> 1\n" in said
    assert "best_of: null -> 1\n" in said
    Path("prompts.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    assert draw() == 2
    assert "'rows.jsonl' is of a sampling with other settings:\n  rows: " in capsys.readouterr().err
    assert Path("rows.jsonl").read_bytes() == before
    Path("mine.jsonl").write_text("{}\n")
    assert draw(output="mine.jsonl") == 2
    assert Path("mine.jsonl").read_text() == "{}\n"


def test_two_at_once_do_not_write_one_file(place: Path, registry: Registry) -> None:
    options = sample.SampleOptions(
        model_name_or_path="tiny-deepseek-llm",
        dataset_name="prompts.jsonl",
        output_file="rows.jsonl",
        chat_template="deepseek-v3",
        num_samples=4,
    )
    first, second = sample.check(options, registry), sample.check(options, registry)
    with first.journal.open(), pytest.raises(Exception, match="another sampling is writing"):
        sample.run(second)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize(("command", "kind"), [("sft", "--best_of=2"), ("preference", "--pairs")])
def test_our_own_training_takes_the_files_as_they_are(
    command: str, kind: str, ending: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert draw(kind, output=f"rows.{ending}") == 0
    capsys.readouterr()
    words = ["--model_name_or_path", "tiny-deepseek-llm", "--dataset_name", f"rows.{ending}"]
    shown = ["show-sample", command, *words, "--chat_template", "deepseek-v3", "--json"]
    assert main([*shown, "--output_dir", "out"]) == 0
    assert '{"scored": true, "text": "2<｜end▁of▁sentence｜>"}' in capsys.readouterr().out


@pytest.mark.parametrize("family", sorted(load_registry().chat_templates))
def test_training_on_a_row_sees_the_very_tokens_that_were_drawn(
    family: str, registry: Registry
) -> None:
    template = registry.chat_templates[family]
    tokenizer = registry.models["tiny-deepseek-llm"]()[1]
    chat.install(tokenizer, template)
    asked = [{"role": "user", "content": "3+3"}]
    for thinks in (False, True):
        said = "<think>\nthree\n</think>\n\n6" if thinks else "6"
        answer = [{"role": "assistant", "content": said}]
        # What the family has a model generate: all that follows the prompt, up to the end.
        ids = chat.encode(template, [*asked, *answer], tokenizer, training=True, thinking=thinks)
        prompt = chat.render(
            template,
            asked,
            add_generation_prompt=True,
            thinking=thinks,
            bos_token=tokenizer.bos_token,
        )
        assert ids.text.startswith(prompt)
        drawn = ids.text[len(prompt) :].partition(template.end_of_turn)[0]
        if family in ("deepseek-coder", "role-tokens"):
            drawn = drawn.removesuffix("\n")  # which the template writes before it
        row = {"prompt": asked, "chat_template_kwargs": {"thinking": thinks}}
        everything = {0: Drawn(0, [drawn], [1], [True])}
        made = for_training.select(Selection("all"), [row], everything, tokenizer, {})
        data = chat.with_thinking(Dataset.from_list(made.rows), tokenizer)[0]
        given = data.get("chat_template_kwargs") or {}
        messages = [*data["prompt"], *data["completion"]]
        trained = chat.encode(template, messages, tokenizer, training=True, **given)
        assert trained.input_ids == ids.input_ids
