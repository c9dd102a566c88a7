"""For authors of plugins: a pytest plugin, loaded by pytest wherever trl-deepseek is installed.

    def test_short(check_reward):
        check_reward(short, [("four", {"limit": 5}, 1.0), ("seventeen", {"limit": 5}, 0.0)])

Fixtures: ``check_reward`` holds a reward to a table of cases in every form that a completion comes
in; ``make_completion`` writes completions; ``train_one_step`` runs GRPO on the embedded tiny model;
``check_plugin`` runs the suite behind ``trl-deepseek plugins check``.
The functions behind them can be called without pytest too.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek.chat.reasoning import CLOSE, OPEN, Completion
from trl_deepseek.plugin_kit import conformance, made_up
from trl_deepseek.rollouts.trial import Samples, score
from trl_deepseek.workers.calls import Failure

Case = tuple[Completion, Mapping[str, Any], float | None]
CheckReward = Callable[..., None]
MakeCompletion = Callable[..., Completion]
TrainOneStep = Callable[..., dict[str, Any]]
CheckPlugin = Callable[..., None]


def check(
    reward: Callable[..., Any],
    cases: Sequence[Case],
    *,
    tolerance: float = 1e-6,
    pickles: bool = True,
    **options: Any,
) -> None:
    """Hold a reward to a table of cases.

    Each case is scored as text and as messages, alone and with all others in one batch, twice;
    the score must be the expected one every time. The reward must pickle, which worker processes
    need, and score an empty batch.

    Args:
        reward: In TRL's batch form or per sample, sync or async.
        cases: Completion, values of the columns, expected score (None where it should abstain).
        tolerance: Largest difference from the expected score.
        pickles: Whether it must pickle; a function defined inside a test cannot.
        options: What a trainer would pass beside the columns, such as ``generation_prefix``.

    Raises:
        AssertionError: It does not hold; the message has the case and the form it was given in.
    """
    assert cases, "a table without cases holds a reward to nothing"
    if pickles:
        pickle.loads(pickle.dumps(reward))
    columns = list(cases[0][1])
    nothing = Samples([], columns={name: [] for name in columns}, options=options)
    assert score(reward, nothing).outcomes == [], "an empty batch has no scores"
    for form, shape in (("text", _as_text), ("messages", _as_messages)):
        for together in (True, False):
            batches = [list(cases)] if together else [[case] for case in cases]
            for batch in batches * 2:
                _check_batch(reward, batch, shape, form, columns, options, tolerance)


def completion(
    answer: str = "four",
    *,
    reasoning: str | None = None,
    prefilled: bool = False,
    messages: bool = False,
) -> Completion:
    """A completion as a model would write it.

    Args:
        answer: What follows the reasoning.
        reasoning: What stands between ``<think>`` and ``</think>``; None for a completion that
            does not reason.
        prefilled: Whether the prompt has already opened ``<think>``.
        messages: As a conversation instead of text.
    """
    start = "" if prefilled else f"{OPEN}\n"
    text = answer if reasoning is None else f"{start}{reasoning}\n{CLOSE}\n\n{answer}"
    return _as_messages(text) if messages else text


def one_step(
    reward: Any,
    output_dir: str | Path,
    rows: Sequence[Mapping[str, Any]] | None = None,
    **config: Any,
) -> dict[str, Any]:
    """Train the embedded tiny model with GRPO for one step; returns what was logged.

    Args:
        reward: What ``GRPOTrainer`` takes as ``reward_funcs``.
        output_dir: Where it may write.
        rows: Rows with ``prompt`` and the reward's columns; the embedded arithmetic when None.
        config: Further fields of ``GRPOConfig``.
    """
    from datasets import Dataset

    from trl_deepseek import GRPOConfig, GRPOTrainer, load_registry

    registry = load_registry(config.get("plugins") or ())
    size = 4
    data = registry.datasets["arithmetic"](size=size) if rows is None else Dataset.from_list(rows)
    settings: dict[str, Any] = {
        "output_dir": str(output_dir),
        "chat_template": "deepseek-v3",
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "max_completion_length": 8,
        "max_steps": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
    }
    arguments = GRPOConfig(**{**settings, **config})
    model, tokenizer = registry.models["tiny-deepseek-llm"]()
    trainer = GRPOTrainer(model, reward, arguments, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    log: dict[str, Any] = trainer.state.log_history[0]
    return log


def conforms(target: str, values: Mapping[str, Any] | None = None) -> None:
    """Run every check of ``trl-deepseek plugins check`` on a plugin.

    Args:
        target: Name of an installed plugin or distribution, path of a file, or name of a module.
        values: What to give rewards in columns of these names.

    Raises:
        AssertionError: A check does not hold; the message has all of those.
    """
    checks = conformance.check(target, values={**made_up.COLUMNS, **(values or {})})
    problems = [f"{c.item}: {c.claim}: NO, {c.problem}" for c in checks if c.problem is not None]
    assert not problems, "\n".join(problems)


@pytest.fixture
def check_plugin() -> CheckPlugin:
    """:func:`conforms`."""
    return conforms


@pytest.fixture
def check_reward() -> CheckReward:
    """:func:`check`."""
    return check


@pytest.fixture
def make_completion() -> MakeCompletion:
    """:func:`completion`."""
    return completion


@pytest.fixture
def train_one_step(tmp_path: Path) -> TrainOneStep:
    """:func:`one_step`, writing into the test's own folder."""

    def train(reward: Any, rows: Sequence[Mapping[str, Any]] | None = None, **config: Any) -> Any:
        return one_step(reward, tmp_path / "run", rows, **config)

    return train


def _as_text(said: Completion) -> Completion:
    return said


def _as_messages(said: Completion) -> Completion:
    return [{"role": "assistant", "content": said}] if isinstance(said, str) else said


def _check_batch(
    reward: Callable[..., Any],
    batch: Sequence[Case],
    shape: Callable[[Completion], Completion],
    form: str,
    columns: Sequence[str],
    options: Mapping[str, Any],
    tolerance: float,
) -> None:
    samples = Samples(
        [shape(said) for said, _, _ in batch],
        prompts=["a question"] * len(batch),
        completion_ids=[list(range(len(str(said)))) for said, _, _ in batch],
        columns={name: [row[name] for _, row, _ in batch] for name in columns},
        options=options,
    )
    for (said, _, expected), outcome in zip(batch, score(reward, samples).outcomes, strict=True):
        where = f"{said!r} as {form}, in a batch of {len(batch)}"
        assert not isinstance(outcome, Failure), f"{where}: {outcome.message}\n{outcome.detail}"
        right = (
            outcome == expected
            if outcome is None or expected is None
            else abs(outcome - expected) <= tolerance
        )
        assert right, f"{where}: scored {outcome}, not {expected}"
