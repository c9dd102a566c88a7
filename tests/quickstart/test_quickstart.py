from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from trl_deepseek.cli.main import main
from trl_deepseek.evaluation import Evaluation, Measured
from trl_deepseek.quickstart import job, report
from trl_deepseek.quickstart.result import Point, Result, Stage

SMALL = {
    "SFT_STEPS": 5,
    "GRPO_STEPS": 2,
    "SFT_BATCH": 16,
    "DEMONSTRATIONS": 80,
    "EVERY": {"sft": 2, "grpo": 1},
    "CURVE_QUESTIONS": 8,
    "QUESTIONS": 16,
    "MAX_COMPLETION_LENGTH": 8,
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same job with fewer steps; what it teaches is shown by the job itself, not here."""
    for name, value in SMALL.items():
        monkeypatch.setattr(job, name, value)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_job_ends_with_figures_a_picture_and_a_model_that_plain_transformers_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    results: list[Result] = []
    run = job.Quickstart.run

    def kept(self: job.Quickstart) -> Result:
        results.extend([] if results else [run(self)])
        return results[0]

    monkeypatch.setattr(job.Quickstart, "run", kept)
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["quickstart", "--seed", "1", "--output_dir", str(out)]) == 0
    _is_printed(capsys.readouterr().out, results[0])

    other = str(tmp_path / "same")  # the result of the same run, for programs
    assert main(["quickstart", "--seed", "1", "--output_dir", other, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"stages", "seconds", "output_dir"}
    assert [stage["name"] for stage in printed["stages"]] == ["sft", "grpo"]
    for stage in printed["stages"]:
        assert 0 <= stage["exact_match"] <= 1
        assert 0 <= stage["thinks"] <= 1
        assert 0 < stage["mean_length"] <= 8
    assert printed["output_dir"] == str(out)
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text()
    assert all(f'id="stage-{place}"' in page for place in (0, 1))
    found = json.loads((out / "result.json").read_text())
    assert found["stages"] == printed["stages"]
    assert [(p["stage"], p["step"]) for p in found["points"]] == [
        *(("sft", step) for step in (0, 2, 4)),
        *(("grpo", step) for step in (0, 1, 2)),
    ]
    compared = json.loads((out / "evaluation" / "evaluation.json").read_text())
    assert [
        (model["name"], model["metrics"]["exact_match"]["value"]) for model in compared["models"]
    ] == [(stage["name"], stage["exact_match"]) for stage in printed["stages"]]

    from transformers import pipeline

    answer = pipeline("text-generation", str(out / "grpo"))
    assert not re.search(r"{%-? *generation", answer.tokenizer.chat_template)
    reply: Any = answer([{"role": "user", "content": "3 a12 b45 c13 d23 e35"}], max_new_tokens=4)
    assert reply[0]["generated_text"][-1]["role"] == "assistant"

    assert main(["quickstart", "--output_dir", str(out)]) == 2
    assert "is not empty; nothing is overwritten" in capsys.readouterr().err


def _is_printed(text: str, result: Result) -> None:
    """Each stage's figures, the gain, answers of both stages side by side, and where things are."""
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines()]
    for stage in result.stages:
        figures = [f"{stage.exact_match:.1%}", f"{stage.thinks:.1%}"]
        assert [stage.name, *figures] in [row[:3] for row in cells]
    assert "grpo less sft: " in text
    assert ["after sft", "after grpo"] in [
        re.split(r"\s*┃\s*", line.strip("┃ "))[1:] for line in text.splitlines()
    ]
    questions: dict[str, list[str]] = {}
    for sample in result.evaluation.samples:
        asked = json.loads(sample["prompt"])[-1]["content"]
        questions.setdefault(asked, []).append(sample["completion"].strip())
    shown = {row[0]: row[1:] for row in cells if row[0] in questions}
    assert len(shown) == report.SHOWN
    assert all(answers == questions[asked] for asked, answers in shown.items())
    assert f"models, curves.png and report.html in {result.output_dir}" in text.replace("\n", "")


@pytest.mark.usefixtures("small")
def test_an_interrupted_job_names_what_was_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = job.Quickstart._stage

    def interrupted(self: job.Quickstart, name: str, trainer: Any) -> Any:
        if name == "grpo":
            raise KeyboardInterrupt
        return stage(self, name, trainer)

    monkeypatch.setattr(job.Quickstart, "_stage", interrupted)
    out = tmp_path / "run"
    assert main(["quickstart", "--output_dir", str(out)]) == 130
    assert capsys.readouterr().err.endswith(
        f"trl-deepseek quickstart: interrupted; saved so far: {out / 'sft'}; "
        "`trl-deepseek quickstart` begins anew, in another folder\n"
    )
    assert (out / "sft" / "model.safetensors").is_file()


def test_a_folder_that_an_interrupted_run_left_empty_is_used_again(tmp_path: Path) -> None:
    (tmp_path / "run" / "sft").mkdir(parents=True)
    job.Quickstart(tmp_path / "run", 0, lambda *_: None)


def result(exact_match: float, thinks: float, made_to_think: float, tokens: float) -> Result:
    """A run that ends so."""
    rise = [
        Point("sft", 0, 0.0, 0.0, 40.0, 0.0),
        Point("sft", 10, 0.2, 0.0, 7.0, 0.9),
        Point("grpo", 0, 0.2, 0.0, 7.0, 0.9),
        Point("grpo", 4, exact_match, thinks, tokens, made_to_think),
    ]
    stages = [
        Stage("sft", 0.2, 0.0, 7.0, None, 60.0),
        Stage("grpo", exact_match, thinks, tokens, 0.9, 40.0),
    ]
    return Result(stages, rise, evaluation(), 100.0, Path("run"))


def evaluation() -> Evaluation:
    """Four questions, of which the first stage has one right and the second all."""
    question = json.dumps([{"role": "user", "content": "3 a12 b45"}])
    answered = {"sft": "#### 1", "grpo": "<think>3a12>3</think>#### 3"}
    right = {"sft": [0.0, 1.0, 0.0, 0.0], "grpo": [1.0] * 4}
    return Evaluation(
        {name: [Measured("exact_match", [{"": x} for x in own])] for name, own in right.items()},
        [
            {
                "model": name,
                "prompt": question,
                "completion": said,
                "metrics/exact_match": right[name][0],
            }
            for name, said in answered.items()
        ],
    )


@pytest.mark.parametrize(
    "ends",
    [(0.97, 1.0, 0.97), (0.2, 0.0, 0.2), (0.0, 0.0, 0.0), (0.21, 0.19, 1.0), (1.0, 1.0, 1.0)],
)
def test_the_picture_names_each_curve_beside_the_axes_and_no_text_lies_on_another(
    ends: tuple[float, float, float],
) -> None:
    figure = report.picture(result(*ends, tokens=36.0))
    figure.draw_without_rendering()
    assert not any(axes.get_legend() for axes in figure.axes)
    boxes = {
        text.get_text(): text.get_window_extent() for axes in figure.axes for text in axes.texts
    }
    assert {name.split(":")[0] for name in boxes} == {
        *("right", "thinks first", "right, if made to think", "a guess", "answer length"),
        *("SFT", "GRPO"),
    }
    whole = figure.get_window_extent()
    for name, box in boxes.items():
        assert whole.x0 <= box.x0 <= box.x1 <= whole.x1, name
        assert not any(other.overlaps(box) for key, other in boxes.items() if key != name), name
        for axes in figure.axes:
            assert not axes.get_window_extent().overlaps(box), name


def test_the_answers_to_a_question_stand_side_by_side_as_the_model_wrote_them() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(report.answers(result(0.97, 1.0, 0.97, 36.0)))
    row = next(line for line in console.export_text().splitlines() if "3 a12 b45" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == ["3 a12 b45", "#### 1", "<think>3a12>3</think>#### 3"]


def test_the_gain_is_a_paired_difference_with_its_interval() -> None:
    said = re.fullmatch(
        r"grpo less sft: \+75 points of exact match \(95 % interval \+(\d+) to \+(\d+)\)",
        report.gain(result(1.0, 1.0, 1.0, 36.0)),
    )
    assert said is not None
    assert int(said[1]) <= 75 <= int(said[2])
