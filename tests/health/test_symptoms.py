"""Each warning from the log lines that it is about, once, and none from a run that is well."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset

from trl_deepseek import (
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    load_registry,
)
from trl_deepseek.health.advice import Advice

REGISTRY = load_registry()
Log = Sequence[dict[str, float]]


def said(
    log: Log,
    caplog: pytest.LogCaptureFixture,
    weights: dict[str, float] | None = None,
    *,
    normalized: bool = False,
    beta: float | None = None,
) -> list[str]:
    """The warnings that a run with this log gives."""
    caplog.clear()
    advice = Advice(lambda: weights or {}, normalized, beta)
    state = SimpleNamespace(is_world_process_zero=True, global_step=0, log_history=[])
    advice.on_train_begin(None, state, None)
    for record in log:
        state.global_step += 1
        advice.on_log(None, state, None, logs=record)
    return [record.getMessage() for record in caplog.records]


def constant(**values: float) -> Log:
    return [dict(values) for _ in range(12)]


def line(name: str, start: float, end: float, steps: int = 12, **values: float) -> Log:
    """A metric that goes straight from ``start`` to ``end``."""
    return [{name: start + (end - start) * i / (steps - 1), **values} for i in range(steps)]


TWO = {"right": 1.0, "length": 1.0}
SPREADS = {"rewards/right/std": 0.4, "rewards/right/mean": 0.5}
LOUD = {"rewards/length/std": 80.0, "rewards/length/mean": -200.0}
GAMED = [
    {**a, **b, "reward_std": 0.2}
    for a, b in zip(line("reward", 0.2, 0.9), line("rewards/judge/mean", 0.8, 0.4), strict=True)
]
CASES: list[tuple[str, Log, dict[str, Any], str]] = [
    ("no spread", constant(frac_reward_zero_std=0.95, reward=0.0, reward_std=0.0), {}, "95% of"),
    ("one decides", constant(**SPREADS, **LOUD), {"weights": TWO}, "reward 'length' decides alone"),
    ("clipped", constant(**{"completions/clipped_ratio": 1.0}), {}, "100% of the completions"),
    ("entropy", line("entropy", 2.0, 0.01, 30, reward=0.1, reward_std=0.3), {}, "the entropy has"),
    ("kl", line("kl", 0.0, 4.0, reward=0.1), {"beta": 0.04}, "nats per token"),
    ("kl of kto", line("kl", 0.0, 400.0), {"beta": 0.1}, "has no gradient left"),
    ("lost answers", line("rewards/chosen", -1.0, -60.0, 20), {}, "log-ratio is -10.3,"),
    (
        "the engine and the trainer differ",
        constant(
            **{
                "sampling/sampling_logp_difference/mean": 0.2,
                "sampling/importance_sampling_ratio/mean": 0.4,
            }
        ),
        {},
        "0.2 nats apart on average; the importance ratio is 0.4 on average",
    ),
    ("gamed", GAMED, {"weights": {"main": 1.0, "judge": 0.0}}, "rewards/judge/mean has fallen"),
    (
        "overfitted",
        [*line("reward", 0.1, 0.9, reward_std=0.2), *line("eval_reward", 0.5, 0.2, 4)],
        {},
        "eval_reward has fallen from 0.5 to 0.3",
    ),
]


@pytest.mark.parametrize(
    ("log", "options", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_symptom_is_said_once_with_what_to_change(
    log: Log, options: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    messages = said([*log, *([log[-1]] * 20)], caplog, **options)
    assert len(messages) == 1
    assert words in messages[0]
    assert said(log[:4], caplog, **options) == []  # a window is judged, not a step


WELL: list[tuple[str, Log, dict[str, Any]]] = [
    (
        "a solved task has groups without spread and no entropy",
        [
            {"reward": r, "entropy": e, "frac_reward_zero_std": f, "reward_std": 0.3}
            for r, e, f in zip(
                *(
                    [next(iter(record.values())) for record in line("x", start, end, 30)]
                    for start, end in ((0.2, 0.98), (1.0, 0.02), (0.3, 0.95))
                ),
                strict=True,
            )
        ],
        {},
    ),
    (
        "a format that all have learned does not count as drowned",
        [
            *constant(**SPREADS, **{"rewards/format/std": 0.5, "rewards/format/mean": 0.5}),
            *constant(**SPREADS, **{"rewards/format/std": 0.01, "rewards/format/mean": 1.0}),
        ],
        {"weights": {"right": 1.0, "format": 0.2}},
    ),
    (
        "rewards are brought to one scale",
        constant(**SPREADS, **LOUD),
        {"weights": TWO, "normalized": True},
    ),
    ("a margin that grows is learning", line("rewards/chosen", 0.0, -4.0), {}),
    ("the entropy of sft falls as it learns", line("entropy", 3.0, 0.01), {}),
    (
        "an engine in 16 bits rounds otherwise",
        constant(**{"sampling/sampling_logp_difference/mean": 0.02}),
        {},
    ),
    ("the metric rises too", line("eval_reward", 0.2, 0.5, 6, reward=0.5, reward_std=0.1), {}),
]


@pytest.mark.parametrize(
    ("log", "options"), [case[1:] for case in WELL], ids=[case[0] for case in WELL]
)
def test_a_run_that_is_well_is_left_alone(
    log: Log, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert said(log, caplog, **options) == []


def test_a_real_run_warns_and_one_that_goes_on_knows_what_was_logged(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    model, tokenizer = REGISTRY.models["tiny-deepseek-llm"]()
    config = GRPOConfig(
        **{**settings, "max_steps": 6, "save_strategy": "no"},
        num_generations=2,
        max_completion_length=2,
        chat_template="deepseek-v3",
    )
    trainer = GRPOTrainer(
        model,
        nothing,
        config,
        train_dataset=REGISTRY.datasets["arithmetic"](size=8),
        processing_class=tokenizer,
    )
    trainer.train()
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    starts = [message.split(": ")[0] for message in told if message.startswith("step ")]
    assert starts == ["step 5", "step 5"]  # equal rewards, and no answer ends in two tokens
    advice = Advice(dict, normalized=False, beta=None)
    advice.on_train_begin(None, trainer.state, None)
    assert len(advice.run.values["reward"]) == 6


def nothing(completions: list[Any], **_: Any) -> list[float]:
    return [0.0] * len(completions)


def test_kto_on_one_class_is_said(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"prompt": "a", "completion": str(number), "label": True} for number in range(4)]
    KTOTrainer.check("tiny-deepseek-llm", KTOConfig(**settings), Dataset.from_list(rows))
    told = [record.getMessage() for record in caplog.records]
    assert [message for message in told if message.startswith("all 4 examples are desirable")]


def test_a_run_that_cannot_do_its_task_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    """On the lines of a real one: the quickstart's GRPO after a quarter of its SFT."""
    log = json.loads((Path(__file__).parent / "failing_grpo_log.json").read_text())
    messages = said(log, caplog, {"exact_match": 1.0}, beta=0.0)
    assert [message.split(": take")[0] for message in messages] == [
        "step 5: in 91% of the groups all completions have the same reward, from which nothing is "
        "learned"
    ]
