"""GRPO on saved completions: the run that saved them, without generating."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trl_deepseek import GRPOConfig, GRPOTrainer, load_registry
from trl_deepseek.errors import ConfigError, DataError, RunError
from trl_deepseek.rollouts import record
from trl_deepseek.rollouts.history import History, read

REGISTRY = load_registry()


def by_length(completions: list[Any], **_: Any) -> list[float]:
    return [float(len(completion[0]["content"]) % 7) for completion in completions]


def trainer(folder: Path, **given: Any) -> Any:
    options: dict[str, Any] = {"per_device_train_batch_size": 4, "num_generations": 2}
    config = GRPOConfig(
        output_dir=str(folder),
        **{**options, "max_completion_length": 4, "max_steps": 2, "learning_rate": 1e-3, **given},
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        gradient_checkpointing=False,
    )
    rows = REGISTRY.datasets["arithmetic"](size=8)
    evaluated = rows if config.eval_strategy != "no" else None
    return GRPOTrainer(
        "tiny-deepseek-llm", by_length, config, train_dataset=rows, eval_dataset=evaluated
    )


def test_a_run_on_the_completions_of_another_is_that_run(tmp_path: Path) -> None:
    first = trainer(tmp_path / "first")
    first.train()
    second = trainer(tmp_path / "second", rollouts=str(tmp_path / "first"))
    second.model.generate = None  # is not needed
    second.train()
    for mine, theirs in zip(read(tmp_path / "second"), read(tmp_path / "first"), strict=True):
        assert mine == theirs
    # in another order within a batch: what is drawn while generating is not drawn here
    logged = [
        [(row["loss"], row["grad_norm"]) for row in each.state.log_history if "loss" in row]
        for each in (first, second)
    ]
    assert len(logged[0]) == 2
    for theirs, mine in zip(*logged, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-5)
    saved = str(tmp_path / "first")
    with pytest.raises(
        DataError, match=r"first' holds nothing that was generated at step 2\n  --ma"
    ):
        trainer(tmp_path / "third", rollouts=saved, max_steps=3)
    other = (
        r"^rollouts: .*first' holds no completion that was generated at step 0 .*\n.*\n  changed"
    )
    with pytest.raises(DataError, match=rf"{other} since: seed: 42 -> 7$"):
        trainer(tmp_path / "third", rollouts=saved, seed=7)
    epochs: dict[str, Any] = {"rollouts": saved, "max_steps": -1}  # of 4 steps; 2 are saved
    with pytest.raises(DataError, match=r"first' holds nothing that was generated at step 2\n"):
        trainer(tmp_path / "third", num_train_epochs=1, **epochs)
    half = trainer(tmp_path / "third", num_train_epochs=0.5, **epochs)
    half.args.max_steps = 3
    with pytest.raises(
        RunError, match=r"^.*first' holds no completion that was generated at step 2"
    ):
        half.train()
    with pytest.raises(DataError, match=r"first' holds nothing that was generated for an evaluat"):
        trainer(tmp_path / "third", rollouts=saved, eval_strategy="steps", eval_steps=1)
    with pytest.raises(ConfigError, match=r"^rollouts: nothing is generated from saved ones"):
        trainer(tmp_path / "fourth", rollouts=str(tmp_path / "first"), use_vllm=True)
    with pytest.raises(DataError):
        trainer(tmp_path / "fifth", rollouts=str(tmp_path))


def test_saved_ones_that_cannot_be_or_are_not_this_runs_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    history = History(str(tmp_path / "saved"), fresh=True)
    rows = REGISTRY.datasets["arithmetic"](size=8)
    history.add(
        step=0,
        mode="train",
        prompts=[prompt for prompt in rows["prompt"] for _ in "ab"],
        completions=[[{"role": "assistant", "content": "2!"}]] * 16,
        completion_ids=[REGISTRY.models["tiny-deepseek-llm"]()[1]("2!")["input_ids"]] * 16,
        columns=[{}] * 16,
        scores={},
        advantages=[0.0] * 16,
        group_size=2,
        generation_prefix="",
    )
    history.flush()
    record.write_manifest(tmp_path / "saved", {"settings": {"temperature": 0.5, "beta": 1.0}})
    given: dict[str, Any] = {"rollouts": str(tmp_path / "saved"), "max_steps": 1}
    trainer(tmp_path / "own", **given)
    assert "was generated with other settings or data:" in caplog.text
    assert caplog.text.endswith("  temperature: 0.5 -> 1.0\n")
    with pytest.raises(ConfigError, match=r"is the output folder, whose completions this run repl"):
        trainer(tmp_path / "saved", **given)
    (file,) = (tmp_path / "saved" / "completions").iterdir()
    rows = pq.read_table(file)
    for ids in ([[3, 4]], [[10**6]]):
        place = rows.column_names.index("completion_ids")
        pq.write_table(rows.set_column(place, "completion_ids", pa.array(ids * 16)), file)
        with pytest.raises(DataError, match=r"holds tokens of another tokenizer: the words of one"):
            trainer(tmp_path / "other", **given)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match=r"batches-00000000-00000000.parquet' is no whole file of"):
        trainer(tmp_path / "torn", **given)
