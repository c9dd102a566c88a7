"""What stands on the page, taken apart by an HTML parser, is what the run left."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek import report
from trl_deepseek.cli.main import main
from trl_deepseek.report import completions, curves
from trl_deepseek.rollouts import history, record


class Page(HTMLParser):
    """A report as a browser would take it apart: its tags, its text and its scripts."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(file.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def stages(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.scripts[0])["stages"]
        return found


EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


def curve(stage: Any, name: str) -> tuple[list[int], list[float]]:
    (found,) = [
        each
        for panel in (*stage["panels"], *stage["more"])
        for each in panel["curves"]
        if each["name"] == name
    ]
    return found["steps"], found["values"]


def test_its_curves_are_what_was_logged(grpo: Path) -> None:
    (stage,) = Page(grpo / "report.html").stages
    logs = [log for log in record.lines(grpo / record.LOG) if "train_runtime" not in log]
    for name in ("loss", "reward", "rewards/varied/mean", "entropy", "grad_norm", "learning_rate"):
        steps, values = curve(stage, name)
        assert steps == [1, 2, 3]
        assert values == pytest.approx([log[name] for log in logs], rel=1e-5)
    titles = [panel["title"] for panel in stage["panels"]]
    assert titles[:4] == ["Loss", "Reward", "Each reward", "Length of completions, tokens"]


def test_its_completions_are_those_of_the_run_with_what_each_reward_gave(grpo: Path) -> None:
    (stage,) = Page(grpo / "report.html").stages
    shown, saved = stage["completions"], list(history.read(grpo))
    assert shown["rewards"] == list(saved[0].scores)
    assert len(shown["rows"]) == len(saved) == 12
    for row, own in zip(shown["rows"], saved, strict=True):
        assert (row["step"], row["completion"]) == (own.step, own.completion)
        assert shown["prompts"][row["prompt"]] == own.prompt
        assert row["scores"] == pytest.approx(list(own.scores.values()))
        varied, thinks = own.scores["varied"], own.scores["think_format"]
        assert varied is not None
        assert thinks is not None
        total = 2 * varied + thinks
        assert row["reward"] == pytest.approx(total)
        assert row["tokens"] == len(own.completion_ids)
        assert row["advantage"] == pytest.approx(own.advantage, rel=1e-5)


def test_it_tells_what_was_run_and_how_to_repeat_it(grpo: Path) -> None:
    page = Page(grpo / "report.html")
    assert "finished" in page.text
    assert "grpo · of tiny-deepseek-llm · on sums.jsonl · 3 steps logged" in page.text
    assert "rewards varied: 2, think_format: 1" in page.text
    assert "trl-deepseek run --from_manifest grpo/run.json --output_dir NEW" in page.text


def test_nothing_is_fetched_and_no_tag_comes_from_a_completion(
    made_up: Callable[..., Path],
) -> None:
    run = made_up(2, lambda step, n: EVIL, lambda step, n: 1.0)
    failed = run / "reward_failures"
    failed.mkdir()
    row = {"prompt": EVIL, "completion": EVIL, "failure": {"message": EVIL, "detail": EVIL}}
    (failed / "step-000001-a.jsonl").write_text(json.dumps(row) + "\n")
    record.append(run / record.WARNINGS, {"time": "", "step": 1, "message": EVIL})
    models = [{"name": EVIL, "metrics": {EVIL: {"value": 0.5, "low": 0, "high": 1, "count": 3}}}]
    (run / "evaluation.json").write_text(json.dumps({"models": models, "differences": []}))
    page = Page(report.write(run))
    assert len(page.scripts) == 3
    assert not [tag for tag, _ in page.tags if tag == "img"]
    addresses = [attributes.get(key) for _, attributes in page.tags for key in ("src", "href")]
    assert not [each for each in addresses if each is not None]
    assert page.stages[0]["completions"]["rows"][0]["completion"] == EVIL
    # as text: in model, metric, warning, and the failure's prompt, completion, message and detail
    assert page.text.count(EVIL) == 7


def test_of_many_completions_it_holds_best_worst_unscored_and_some_of_each_step(
    made_up: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completions, "SAMPLED", 30)
    monkeypatch.setattr(completions, "ENDS", 3)

    def score(step: int, n: int) -> float | None:
        return None if (step, n) == (0, 0) else float(step * 8 + n)

    run = made_up(30, lambda step, n: f"{step} {n}", score)
    page = Page(report.write(run))
    rows = page.stages[0]["completions"]["rows"]
    assert len(rows) < 50
    assert {row["step"] for row in rows} == set(range(30))

    def chosen(why: str) -> set[str]:
        return {row["completion"] for row in rows if why in row["why"]}

    assert chosen("best") == {"29 7", "29 6", "29 5"}
    assert chosen("worst") == {"0 0", "0 1", "0 2"}
    assert chosen("unscored") == {"0 0"}
    assert "of 240 are on this page" in page.text
    assert str(run / "completions") in page.text


def test_of_few_completions_each_scored_one_is_among_the_better_or_the_worse_half(
    made_up: Callable[..., Path],
) -> None:
    run = made_up(1, lambda step, n: str(n), lambda step, n: None if n == 7 else float(n))
    kept = completions.choose(run, 10**6)
    assert kept is not None
    named = {row["completion"]: [why for why in row["why"] if why != "sample"] for row in kept.rows}
    assert named == {
        **{str(n): ["worst"] for n in (7, 0, 1, 2)},
        **{str(n): ["best"] for n in (3, 4, 5, 6)},
        "7": ["worst", "unscored"],
    }


def test_prompts_whose_groups_never_vary_are_named(made_up: Callable[..., Path]) -> None:
    # the two of a pair differ for prompts 2 and 3, for 3 in one step only
    def score(step: int, n: int) -> float:
        return float(n % 2 if n // 2 == 2 or (n // 2 == 3 and step == 1) else n // 2)

    page = Page(report.write(made_up(4, lambda step, n: "x", score)))
    assert "In 11 of 16 groups all completions have the same reward" in page.text
    assert "2 of 4 prompts had no other group:" in page.text
    assert "4 1 prompt 0" in page.text  # groups, mean reward 0 + 2 * 0.5
    assert "4 2 prompt 1" in page.text
    assert "prompt 2" not in page.text
    assert "prompt 3" not in page.text


def test_an_evaluation_is_a_table_with_intervals(tmp_path: Path) -> None:
    metric = {"value": 0.81, "low": 0.77, "high": 0.85, "count": 500}
    difference = {"metric": "m", "a": "A", "b": "B", "value": 0.1, "low": -0.02, "high": 0.2}
    found = {"models": [{"name": "A", "metrics": {"m": metric}}], "differences": [difference]}
    (tmp_path / "evaluation.json").write_text(json.dumps(found))
    page = Page(report.write(tmp_path))
    assert "0.81 0.77 to 0.85 n = 500" in page.text
    assert "m A B 0.1 -0.02 to 0.2 may be chance" in page.text


def test_a_run_that_died_is_reported_from_what_is_on_disk(
    grpo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = json.loads((grpo / "run.json").read_text())
    run["runs"][0] |= {"outcome": "running", "ended": None}
    (tmp_path / "run.json").write_text(json.dumps(run))
    (tmp_path / "checkpoint-2").mkdir()  # and no log: as of TRL's own trainers
    state = (grpo / "checkpoint-2" / "trainer_state.json").read_text()
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text(state)
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path}/report.html\n"
    page = Page(tmp_path / "report.html")
    assert "killed" in page.text
    assert curve(page.stages[0], "loss")[0] == [1, 2]


def test_runs_in_one_folder_are_its_stages_in_the_order_in_which_they_began(
    place: Path, sft: Path, grpo: Path
) -> None:
    page = Page(report.write(place))
    names = [
        attributes["id"] for tag, attributes in page.tags if attributes.get("class") == "stage"
    ]
    assert len(names) == len(page.stages) >= 2
    began = {
        run: json.loads((run / "run.json").read_text())["runs"][0]["started"] for run in (sft, grpo)
    }
    order = sorted(began, key=lambda run: str(began[run]))
    first, second = (page.text.index(f"{run.name} finished") for run in order)
    assert first < second


def test_of_a_long_run_peaks_are_drawn(tmp_path: Path) -> None:
    lines = [{"loss": 100.0 if step == 4321 else 1.0, "step": step} for step in range(1, 9001)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "log.jsonl").write_text(text + '{"loss": 1.0, "st')  # cut short by a kill
    page = Page(report.write(tmp_path))
    steps, values = curve(page.stages[0], "loss")
    assert len(steps) <= 1500
    assert values[steps.index(4321)] == 100.0
    assert statistics.median(values) == 1.0
    assert "Of up to 9000 points, 1500 are drawn" in page.text


def test_a_report_that_cannot_be_written_is_one_warning(
    sft: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report.page, "_render", full)
    assert report.written_beside(sft) is None
    (said,) = caplog.records
    assert "report.html cannot be written" in said.getMessage()


@pytest.mark.matrix
@pytest.mark.usefixtures("place")
def test_a_recipe_is_one_page_and_is_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {
        "output_dir": "chain",
        "model_name_or_path": "tiny-deepseek-llm",
        "dataset_name": "sums.jsonl",
        "max_steps": 1,
        "use_cpu": True,
        "report_to": "none",
        "stages": [{"command": "sft"}],
    }
    Path("recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    assert main(["run", "recipe.yaml"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "report: chain/report.html"
    page = Page(Path("chain/report.html"))
    assert page.text.startswith("chain · trl-deepseek report Recipe chain chain")
    assert "finished sft · of tiny-deepseek-llm · on sums.jsonl · 1 step logged" in page.text
    (stage,) = page.stages
    (logged,) = [log for log in record.lines(Path("chain/sft", record.LOG)) if "loss" in log]
    assert curve(stage, "loss")[1] == pytest.approx([logged["loss"]], rel=1e-5)
    assert Path("chain/sft/report.html").is_file()

    rows = Path("sums.jsonl").read_text()
    Path("sums.jsonl").write_text(rows * 2)
    assert main(["run", "--from_manifest", "chain/run.json", "--output_dir", "anew"]) == 0
    said = capsys.readouterr().err
    assert "what has changed since chain/run.json was written:\n" in said
    assert "\n  stage 'sft': sums.jsonl has changed\n" in said
    assert json.loads(Path("anew/run.json").read_text())["runs"][0]["outcome"] == "finished"
    assert Path("anew/sft/model.safetensors").is_file()
    Path("sums.jsonl").write_text(rows)


def test_what_an_evaluation_alone_measures_is_among_the_first_curves() -> None:
    logs = [
        {"step": 1, "loss": 1.0, "reward": 0.5, "num_tokens": 9},
        {"step": 1, "eval_reward": 0.4, "eval_num_tokens": 9, "eval_exact_match": 0.25},
    ]
    first, rest = curves.panels(logs)
    assert [each.title for each in first] == ["Loss", "Reward", "Metric exact_match, held-out"]
    assert [curve.values for curve in first[2].curves] == [[0.25]]
    assert [each.title for each in rest] == ["eval_num_tokens", "num_tokens"]
