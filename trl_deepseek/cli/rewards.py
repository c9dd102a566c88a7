"""``trl-deepseek rewards``: try rewards on completions, before a run or on those of one."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from typing import Any

from trl_deepseek import rewards
from trl_deepseek.cli import rewards_report
from trl_deepseek.cli.output import hide_progress_bars
from trl_deepseek.cli.parser import add_plugin_options
from trl_deepseek.errors import ConfigError
from trl_deepseek.plugin_loading import load_registry
from trl_deepseek.registry import Registry
from trl_deepseek.rewards import weights
from trl_deepseek.rollouts import history, rows, statistics
from trl_deepseek.rollouts.trial import Samples, Trial, score


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="test | replay")
    test = actions.add_parser(
        "test",
        help="Score the completions of a file; no model is needed.",
        prog=parser.prog + " test",
    )
    test.add_argument("names", nargs="*", metavar="NAME", help="Rewards to try.")
    test.add_argument(
        "--data",
        required=True,
        metavar="FILE",
        help="A row per completion: .jsonl, .parquet, ..., or the folder of a GRPO run.",
    )
    test.add_argument(
        "--tokenizer",
        metavar="MODEL",
        help="Embedded model, folder or hub id whose tokenizer counts tokens, for rewards that "
        "need them and rows without completion_ids.",
    )
    replay = actions.add_parser(
        "replay",
        help="Weigh or score anew the completions that a GRPO run saved.",
        prog=parser.prog + " replay",
    )
    replay.add_argument("run", metavar="RUN", help="The run's output folder.")
    replay.add_argument(
        "--reward_weights",
        nargs="+",
        metavar="NAME=NUMBER",
        help="Weights of the rewards in the total, 1 for those not named; the run's own when none "
        "is given.",
    )
    for sub in (test, replay):
        sub.add_argument(
            "--reward_funcs",
            nargs="+",
            default=[],
            metavar="REWARD",
            help="Registered names, file.py:function or module.function; "
            "replay takes the run's own scores when none is given.",
        )
        sub.add_argument(
            "--reward_timeout",
            type=float,
            metavar="SECONDS",
            help="Most time that a call may take.",
        )
        sub.add_argument(
            "--max_completion_length",
            type=int,
            metavar="TOKENS",
            help="Told to rewards that ask for it, as a run would.",
        )
        sub.add_argument(
            "--generation_prefix",
            metavar="TEXT",
            help="What the template writes after the assistant header, such as '<think>\\n'.",
        )
        sub.add_argument(
            "--allow_unsandboxed_code",
            action="store_true",
            help="Run generated code with your own rights where there is no sandbox.",
        )
        sub.add_argument("--json", action="store_true", help="Print one JSON object.")
        add_plugin_options(sub)


def run(args: argparse.Namespace) -> int:
    registry = load_registry(args.plugins, args.block)
    with _machine_readable(args.json):
        report = _test(args, registry) if args.action == "test" else _replay(args, registry)
    if args.json:
        print(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        rewards_report.show(report)
    return 1 if any(reward["failed"] for reward in report["rewards"]) else 0


def _test(args: argparse.Namespace, registry: Registry) -> dict[str, Any]:
    functions = rewards.resolve([*args.names, *args.reward_funcs], registry)
    if not functions:
        raise ConfigError("name a reward to try\n  registered: " + ", ".join(registry.rewards))
    rewards.check_sandbox(functions, args.allow_unsandboxed_code)
    if not args.data.endswith(".jsonl") and not sys.stderr.isatty():
        hide_progress_bars()  # datasets reads it, else it need not be imported
    samples = rows.read_file(args.data, registry, _options(args))
    if args.tokenizer is not None:
        samples = rows.count_tokens(samples, args.tokenizer, registry)
    trials = _score(functions, samples, args)
    return {"data": args.data, **_report(trials, samples)}


def _replay(args: argparse.Namespace, registry: Registry) -> dict[str, Any]:
    functions = rewards.resolve(args.reward_funcs, registry)
    rewards.check_sandbox(functions, args.allow_unsandboxed_code)
    saved = list(history.read(args.run))
    samples = rows.from_history(saved, _options(args))
    if functions:
        trials = _score(functions, samples, args)
    else:
        # A reward that a resumed run added has no score of the earlier completions.
        names = dict.fromkeys(name for row in saved for name in row.scores)
        nothing = [0.0] * len(saved)
        trials = [Trial(name, [row.scores.get(name) for row in saved], nothing) for name in names]
    weighed = weights.weigh(args.reward_weights, [trial.name for trial in trials])
    totals = _totals(trials, weighed, saved)
    report = {"run": args.run, **_report([*trials, Trial("total", totals, [])], samples)}
    assert samples.groups is not None
    advantages = statistics.group_advantages(totals, samples.groups)
    before = [row.advantage for row in saved]
    pairs = [(a, b) for a, b in zip(before, advantages, strict=True) if a and b]
    report["advantages"] = {
        "correlation": statistics.correlation(before, advantages),
        "sign_changes": sum((a > 0) != (b > 0) for a, b in pairs),
        "compared": len(pairs),
    }
    steps = sorted({row.step for row in saved})
    report["steps"] = [
        {"step": step, "total": _mean_at(step, saved, totals)}
        | {trial.name: _mean_at(step, saved, statistics.scored(trial)) for trial in trials}
        for step in steps
    ]
    return report


def _options(args: argparse.Namespace) -> dict[str, Any]:
    options = {name: getattr(args, name) for name in ("generation_prefix", "max_completion_length")}
    known: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if "generation_prefix" in known:  # a shell passes \n as two characters
        known["generation_prefix"] = known["generation_prefix"].replace("\\n", "\n")
    return {**known, "allow_unsandboxed_code": args.allow_unsandboxed_code}


def _score(functions: Sequence[Any], samples: Samples, args: argparse.Namespace) -> list[Trial]:
    rewards.check_columns(functions, samples.columns)
    columns = samples.columns.items()
    rows = [{k: v[i] for k, v in columns} for i in range(len(samples.completions))]
    rewards.check_rows(functions, rows)
    return [score(function, samples, args.reward_timeout) for function in functions]


def _report(trials: Sequence[Trial], samples: Samples) -> dict[str, Any]:
    scores = {trial.name: statistics.scored(trial) for trial in trials}
    names = list(scores)
    return {
        "samples": len(samples.completions),
        "rewards": [statistics.summarise(trial, samples.groups) for trial in trials],
        "correlations": [
            {
                "rewards": [left, right],
                "correlation": statistics.correlation(scores[left], scores[right]),
            }
            for place, left in enumerate(names)
            for right in names[place + 1 :]
        ],
    }


def _totals(
    trials: Sequence[Trial], weighed: weights.Weights | None, saved: Sequence[history.Row]
) -> list[float | None]:
    """The weighted sum of what scored each sample, as TRL takes it; None where nothing did."""
    totals: list[float | None] = []
    columns = [statistics.scored(trial) for trial in trials]
    at = {step: weighed.at(step) for step in {row.step for row in saved}} if weighed else {}
    for row, scores in zip(saved, zip(*columns, strict=True), strict=True):
        now = at.get(row.step) or [row.weights.get(trial.name, 1.0) for trial in trials]
        known = [w * value for w, value in zip(now, scores, strict=True) if value is not None]
        totals.append(sum(known) if known else None)
    return totals


def _mean_at(
    step: int, saved: Sequence[history.Row], values: Sequence[float | None]
) -> float | None:
    return statistics.mean(
        [v for row, v in zip(saved, values, strict=True) if row.step == step and v is not None]
    )


def _machine_readable(wanted: bool) -> contextlib.AbstractContextManager[Any]:
    """Keep stdout for the JSON object, whatever a reward prints."""
    import sys

    return contextlib.redirect_stdout(sys.stderr) if wanted else contextlib.nullcontext()
