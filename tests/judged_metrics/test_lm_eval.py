"""The metric ``lm_eval:TASK``."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from trl_deepseek.errors import ConfigError
from trl_deepseek.evaluation import evaluate, resolve

TASK = """
task: sums
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}} ="
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
"""


@pytest.fixture
def folder(tmp_path: Path) -> str:
    rows = [
        {"question": f"{i}+1", "choices": [str(i + 1), str(i), str(i + 5)], "answer": i % 3}
        for i in range(6)
    ]
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sums.yaml").write_text(TASK.format(file=file))
    return str(tmp_path)


def test_without_lm_eval_one_message_names_the_extra(
    registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "trl-deepseek\[lm-eval\]"'):
        resolve(["lm_eval:sums"], registry)


@pytest.mark.matrix
def test_a_task_of_ones_own_is_measured_as_lm_eval_measures(
    folder: str, registry: Any, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm_eval = pytest.importorskip("lm_eval", reason="the extra 'lm-eval' is not installed")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    # Its own tasks are thousands of files, which take most of a minute to read.
    own = functools.partial(TaskManager, include_defaults=False)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", own)
    with pytest.raises(ConfigError, match="name a task: lm_eval:TASK"):
        resolve(["lm_eval"], registry)
    options = {"include_path": folder}
    with pytest.raises(ConfigError, match=r"no task 'summs' \(did you mean 'sums'\?\)"):
        resolve(["lm_eval:summs"], registry, {"lm_eval:summs": options})
    chosen = resolve(["lm_eval:sums"], registry, {"lm_eval:sums": options})
    found = evaluate({"m": tiny}, Dataset.from_list([]), chosen, registry=registry).estimates()
    theirs = lm_eval.simple_evaluate(
        model=HFLM(pretrained=tiny[0], tokenizer=tiny[1]),
        tasks=["sums"],
        task_manager=own(include_path=folder),
    )["results"]["sums"]
    estimate = found["lm_eval:sums/acc"]
    assert (estimate.value, estimate.count) == (theirs["acc,none"], 6)
    error = math.sqrt(estimate.value * (1 - estimate.value) / (6 - 1))
    assert estimate.high is not None
    assert estimate.high - estimate.value == pytest.approx(1.96 * error)
    assert set(found) == {"lm_eval:sums/acc"}
