from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek.cli.main import main
from trl_deepseek.rollouts.history import History
from trl_deepseek.rollouts.statistics import correlation, group_advantages, histogram, quantile
from trl_deepseek.rollouts.trial import Samples, score

ROWS: list[dict[str, Any]] = [
    {"prompt": "1+1", "completion": "<think>a</think>2", "solution": "2"},
    {"prompt": "1+1", "completion": "3", "solution": "2"},
    {"prompt": "2+2", "completion": "<think>a</think>4", "solution": "4", "extra": 1},
    {"prompt": "2+2", "completion": [{"role": "assistant", "content": "4"}], "solution": 4},
]
CUSTOM = """
def picky(completion, solution):
    if completion == "3":
        raise ValueError("not three")
    return None if solution == "2" else len(completion) / 10

async def slow(completions, **columns):
    return [0.5] * len(completions)
"""


@pytest.fixture
def data(tmp_path: Path) -> str:
    file = tmp_path / "completions.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    return str(file)


@pytest.fixture
def custom(tmp_path: Path) -> str:
    file = tmp_path / "custom.py"
    file.write_text(CUSTOM)
    return str(file)


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    code = main(["rewards", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_it_scores_a_file_with_registered_rewards(
    data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = run_json(capsys, "test", "exact_match", "think_format", "--data", data)
    assert code == 0
    assert report["samples"] == 4
    right, thinks = report["rewards"]
    assert (right["name"], right["mean"], right["min"], right["max"]) == ("exact_match", 0.75, 0, 1)
    assert right["std"] == pytest.approx(statistics.pstdev([1, 0, 1, 1]))
    assert right["histogram"] == [
        {"from": 0.0, "to": 0.0, "count": 1},
        {"from": 1.0, "to": 1.0, "count": 3},
    ]
    # Without a group column, equal prompts are a group: {1, 0} and {1, 1}.
    assert (right["groups"], right["zero_variance_groups"]) == (2, 1)
    assert right["zero_variance_share"] == 0.5
    assert (right["abstained"], right["failed"], right["first_failure"]) == (0, 0, None)
    assert right["p99_ms"] >= right["p50_ms"] > 0
    assert thinks["mean"] == 0.5
    (pair,) = report["correlations"]
    assert pair["rewards"] == ["exact_match", "think_format"]
    assert pair["correlation"] == pytest.approx(statistics.correlation([1, 0, 1, 1], [1, 0, 1, 0]))


@pytest.mark.parametrize("column", ["group", "group_id"])
def test_rows_may_say_which_samples_are_of_one_prompt(
    column: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "grouped.jsonl"
    answers = [("a", "2"), ("a", "2"), ("b", "2"), ("b", "3"), ("c", "2")]
    rows = [{"completion": said, "solution": "2", column: group} for group, said in answers]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, report = run_json(capsys, "test", "exact_match", "--data", str(file))
    (right,) = report["rewards"]
    assert (right["groups"], right["zero_variance_groups"]) == (2, 1)  # "c" has but one sample


def test_a_failing_reward_is_counted_shown_with_its_traceback_and_makes_the_exit_code(
    data: str, custom: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = run_json(
        capsys,
        *("test", "exact_match", "--data", data),
        *("--reward_funcs", f"{custom}:picky", f"{custom}:slow"),
    )
    assert code == 1
    _, picky, slow = report["rewards"]
    assert (picky["scored"], picky["abstained"], picky["failed"]) == (2, 1, 1)
    failure = picky["first_failure"]
    assert (failure["sample"], failure["message"]) == (1, "ValueError: not three")
    assert f'File "{custom}", line 4, in picky' in failure["traceback"]
    assert "trial.py" not in failure["traceback"]
    assert (slow["mean"], slow["std"]) == (0.5, 0.0)
    assert report["correlations"][1]["correlation"] is None  # slow does not vary
    assert main(["rewards", "test", "--data", data, "--reward_funcs", f"{custom}:picky"]) == 1
    shown = capsys.readouterr().out
    assert "1 abstained · 1 failed" in shown
    assert "first failure, sample 1: ValueError: not three" in shown


def test_a_hanging_reward_costs_its_timeout(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "hangs.py"
    file.write_text(
        "import threading\n"
        "def hangs(completion):\n"
        "    if completion == 'b':\n        threading.Event().wait()\n"
        "    return 1.0\n"
    )
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps({"completion": text}) + "\n" for text in "abc"))
    code, report = run_json(
        capsys,
        *("test", "--reward_funcs", f"{file}:hangs", "--data", str(data)),
        *("--reward_timeout", "0.5"),
    )
    (hangs,) = report["rewards"]
    assert code == 1
    assert (hangs["scored"], hangs["failed"]) == (2, 1)
    assert hangs["first_failure"]["message"] == "did not finish within 0.5 s"


def test_what_a_run_would_pass_can_be_told(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text('{"completion": "a</think>b", "completion_ids": [1, 2, 3, 4, 5, 6, 7, 8, 9]}\n')
    words = ["test", "think_format", "soft_overlong", "--data", str(file)]
    options = ["--generation_prefix", "<think>\\n", "--max_completion_length", "10"]
    code, report = run_json(capsys, *words, *options)
    assert code == 0
    assert [reward["mean"] for reward in report["rewards"]] == [1.0, -0.5]  # (10 - 2 - 9) / 2
    code, report = run_json(capsys, *words, "--generation_prefix", "")
    assert code == 1
    assert report["rewards"][0]["mean"] == 0.0
    assert "needs max_length" in report["rewards"][1]["first_failure"]["message"]


def test_a_tokenizer_counts_the_tokens_of_rows_without(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text('{"completion": "1+1"}\n{"completion": "1+1+1+1+1"}\n')
    words = ["test", "soft_overlong", "--data", str(file), "--max_completion_length", "5"]
    code, report = run_json(capsys, *words)
    assert code == 1
    assert "needs completion_ids" in report["rewards"][0]["first_failure"]["message"]
    code, report = run_json(capsys, *words, "--tokenizer", "tiny-deepseek-llm")
    assert code == 0
    (reward,) = report["rewards"]
    assert (reward["max"], reward["min"]) == (0.0, -1.0)
    assert main(["rewards", *words, "--tokenizer", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["test", "exact_mach", "--data", "DATA"], "did you mean 'exact_match'?"),
        (["test", "--data", "DATA"], "name a reward to try"),
        (["test", "code_tests", "--data", "DATA"], "needs the column 'tests'"),
        (["test", "exact_match", "--data", "nowhere.jsonl"], "'nowhere.jsonl' does not exist"),
        (["test", "exact_match", "--data", "DATA", "--jsn"], "--jsn (did you mean '--json'?)"),
        (["replay", "nowhere"], "'nowhere' has no saved completions"),
        (["tset"], "invalid choice: 'tset'"),
    ],
)
def test_bad_input_is_one_message(
    words: list[str], message: str, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rewards", *(data if word == "DATA" else word for word in words)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ("{nonsense\n", ":1: not valid JSON"),
        ('{"completion": "a"}\n{"text": "b"}\n', "row 2 needs a 'completion'"),
        ('{"completion": 3}\n', "it has 3"),
    ],
)
def test_malformed_rows_are_named(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(text)
    assert main(["rewards", "test", "exact_match", "--data", str(file)]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def saved_run(tmp_path: Path) -> str:
    history = History(str(tmp_path / "run"), fresh=True)
    said = [["2", "3", "5", "4"], ["2", "2", "4", "4"]]
    form: list[list[float | None]] = [[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, None, 1.0]]
    for step, texts in enumerate(said):
        right = [float(text == gold) for text, gold in zip(texts, "2244", strict=True)]
        history.add(
            step=step,
            mode="train",
            prompts=["1+1", "1+1", "2+2", "2+2"],
            completions=texts,
            completion_ids=[[1]] * 4,
            columns=[{"solution": gold} for gold in "2244"],
            scores={"right": right, "form": form[step]},
            advantages=[1.0, -1.0, -1.0, 1.0],
            group_size=2,
            generation_prefix="",
            weights={"right": 1.0, "form": -2.0},
        )
    history.flush()
    return str(tmp_path / "run")


def test_replay_weighs_the_saved_scores_anew(
    saved_run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["replay", saved_run, "--reward_weights", "right=1.0", "form=-2.0"]
    code, report = run_json(capsys, *words)
    assert code == 0
    assert [reward["name"] for reward in report["rewards"]] == ["right", "form", "total"]
    totals = [1 - 2.0, 0.0, -2.0, 1.0, 1.0, -1.0, 1.0, -1.0]
    assert report["rewards"][2]["mean"] == pytest.approx(statistics.mean(totals))
    assert [step["total"] for step in report["steps"]] == [
        pytest.approx(statistics.mean(totals[:4])),
        pytest.approx(statistics.mean(totals[4:])),
    ]
    # Signs per group, old + - - +: new (-1, 0) (-2, 1) (1, -1) (1, -1).
    assert report["advantages"]["compared"] == 8
    assert report["advantages"]["sign_changes"] == 4
    assert report["rewards"][1]["abstained"] == 1


def test_replay_scores_the_saved_completions_with_other_rewards(
    saved_run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = run_json(capsys, "replay", saved_run, "--reward_funcs", "exact_match")
    assert code == 0
    assert report["rewards"][0]["mean"] == pytest.approx(6 / 8)
    assert report["rewards"][0]["groups"] == 4
    assert main(["rewards", "replay", saved_run]) == 0
    assert "advantages, against those of the run" in capsys.readouterr().out


def test_replay_without_weights_takes_those_of_the_run(
    saved_run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, own = run_json(capsys, "replay", saved_run)
    _, same = run_json(capsys, "replay", saved_run, "--reward_weights", "form=-2")
    _, other = run_json(capsys, "replay", saved_run, "--reward_weights", "form=1")
    assert own == same != other


def test_a_file_that_a_run_saved_is_read_as_messages_with_their_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history = History(str(tmp_path), fresh=True)
    history.add(
        step=0,
        mode="train",
        prompts=[[{"role": "user", "content": "1+1"}]] * 2,
        completions=[[{"role": "assistant", "content": text}] for text in ("2", "3")],
        completion_ids=[[1]] * 2,
        columns=[{"solution": "2"}] * 2,
        scores={},
        advantages=[1.0, -1.0],
        group_size=2,
        generation_prefix="",
    )
    history.flush()
    (file,) = history.folder.iterdir()
    for data in (file, tmp_path):  # it, or the run
        code, report = run_json(capsys, "test", "exact_match", "--data", str(data))
        assert code == 0
        (reward,) = report["rewards"]
        assert (reward["mean"], reward["scored"], reward["groups"]) == (0.5, 2, 1)


def test_equal_texts_have_times_of_their_own() -> None:
    naps = iter([0.2, 0.0])

    def rests(completion: str, nap: int) -> float:
        time.sleep(next(naps))
        return 1.0

    trial = score(rests, Samples(["same"] * 2, columns={"nap": [1, 2]}))
    assert trial.seconds[0] >= 0.2 > trial.seconds[1]


def test_replay_refuses_weights_of_other_rewards(
    saved_run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rewards", "replay", saved_run, "--reward_weights", "rigth=1", "form=1"]) == 2
    assert "did you mean 'right'?" in capsys.readouterr().err


def test_the_numbers_are_those_of_the_textbook() -> None:
    left, right = [1.0, 2.0, 4.0, None, 5.0], [2.0, 1.0, 5.0, 9.0, 5.0]
    expected = statistics.correlation([1.0, 2.0, 4.0, 5.0], [2.0, 1.0, 5.0, 5.0])
    assert correlation(left, right) == pytest.approx(expected)
    assert correlation([1.0], [1.0]) is None
    assert [quantile(range(1, 101), share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    bins = histogram([i / 10 for i in range(101)])
    assert [part["count"] for part in bins] == [10] * 9 + [11]
    assert [bins[0]["from"], bins[-1]["to"]] == pytest.approx([0.0, 10.0])
    found = group_advantages([1.0, 0.0, 1.0, 1.0, None], ["a", "a", "b", "b", "b"])
    spread = statistics.stdev([1.0, 0.0])
    assert found == [
        pytest.approx(0.5 / (spread + 1e-4)),
        pytest.approx(-0.5 / (spread + 1e-4)),
        0.0,
        0.0,
        None,
    ]
