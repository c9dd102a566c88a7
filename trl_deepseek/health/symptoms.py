"""What goes wrong slowly, told from the logged metrics: pure functions of a run's series.

Each symptom is a function of :class:`Series` that returns a message with what to change, or None.
Thresholds are constants with their reasons; docs/reliability.md lists them. None asks for a metric
to be known: where it is not logged, there is nothing to say.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WINDOW = 5  # logged steps whose mean is judged: a single one is noise
NO_SPREAD = 0.9  # of the groups: then less than a tenth of what is generated teaches anything
CLIPPED = 0.95  # of the completions: hardly any answer is finished when it is scored
COLLAPSED = 0.1  # of the entropy at the start: nine tenths of what can be explored are spent
FAR = 1.0  # nats per token: sampled tokens are e times as likely as under the reference
SATURATED = 10.0  # beta times the KL of a sequence: a sigmoid has no gradient there (4.5e-5)
DROWNED = 0.05  # of the other reward's spread, and less: it cannot turn an advantage round
APART = 0.05  # nats per token: a thousand of them are enough to leave a sequence out of the loss
FALLEN = 0.1  # of its value at the start: more than the noise of a window


@dataclass
class Series:
    """What a run has logged, by metric, and what of its config the symptoms need.

    Attributes:
        values: Each metric's values in order.
        weights: Of each reward, by name.
        normalized: Whether rewards are brought to one scale before they are added.
        beta: Of the loss; None where it has none.
        metrics: Measured at evaluations, as they are logged: whether a larger number is better.
    """

    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    weights: Mapping[str, float] = field(default_factory=dict)
    normalized: bool = False
    beta: float | None = None
    metrics: Mapping[str, bool] = field(default_factory=dict)

    def add(self, record: Mapping[str, Any]) -> None:
        """One line of the log."""
        for name, value in record.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                self.values[name].append(float(value))

    def first(self, name: str) -> float | None:
        """The mean of the first window; None before it is full."""
        return _mean(self.values.get(name, ())[:WINDOW])

    def last(self, name: str) -> float | None:
        """The mean of the last window; None before it is full."""
        return _mean(self.values.get(name, ())[-WINDOW:])

    def has_risen(self) -> bool:
        """Whether the reward is higher than at the start by half of what it varied by then."""
        first, last, spread = self.first("reward"), self.last("reward"), self.first("reward_std")
        return first is not None and last is not None and last > first + 0.5 * (spread or 0.0)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / WINDOW if len(values) == WINDOW else None


Symptom = Callable[[Series], str | None]


def groups_without_spread(run: Series) -> str | None:
    """Groups whose completions all have the same reward have no advantages.

    Not said of a run whose reward has risen: there it is the end of learning, not a fault.
    Source: arXiv:2503.14476, section 3.2.
    """
    share = run.last("frac_reward_zero_std")
    if share is None or share < NO_SPREAD or run.has_risen():
        return None
    return (
        f"in {share:.0%} of the groups all completions have the same reward, from which nothing "
        "is learned: take prompts that are neither too easy nor too hard for the model, or raise "
        "num_generations or temperature; with a reward of 0 throughout, look at some completions "
        "(they are saved in OUTPUT_DIR/completions)"
    )


def one_reward_dominates(run: Series) -> str | None:
    """A reward so small beside another's spread that it cannot change which completion is better.

    What counts is its size, mean and spread, at its largest so far: a reward that has become the
    same for all completions has done its work.
    """
    if run.normalized or len(run.weights) < 2:
        return None
    spreads, sizes = {}, {}
    for name, weight in run.weights.items():
        spread = run.last(f"rewards/{name}/std")
        if not weight or spread is None:
            continue
        means, stds = (run.values[f"rewards/{name}/{what}"] for what in ("mean", "std"))
        spreads[name] = abs(weight) * spread
        sizes[name] = abs(weight) * max(map(math.hypot, means, stds))
    loudest = max(spreads, key=lambda name: spreads[name], default=None)
    if loudest is None:
        return None
    drowned = [
        name
        for name, size in sizes.items()
        if name != loudest and spreads[name] > 0 and size < DROWNED * spreads[loudest]
    ]
    if not drowned:
        return None
    return (
        f"reward {loudest!r} decides alone: with its weight it varies by {spreads[loudest]:.3g}, "
        f"and {' and '.join(map(repr, drowned))} by {max(spreads[n] for n in drowned):.3g} or "
        "less: bring them to one scale, with reward_weights or "
        "multi_objective_aggregation='normalize_then_sum'"
    )


def all_clipped(run: Series) -> str | None:
    """Completions that reach the limit are scored unfinished."""
    share = run.last("completions/clipped_ratio")
    if share is None or share < CLIPPED:
        return None
    return (
        f"{share:.0%} of the completions are cut off at max_completion_length: raise it, or make "
        "sure that the model ends its answers (a model after SFT with this chat template, whose "
        "end of turn is a stop token)"
    )


def entropy_collapse(run: Series) -> str | None:
    """A policy that samples one answer only explores nothing; no fault where the reward has risen.

    Source: arXiv:2505.22617, where reward is bought with entropy and stays where that is spent.
    """
    first, last = run.first("entropy"), run.last("entropy")
    if first is None or last is None or run.first("reward") is None or run.has_risen():
        return None
    if len(run.values["entropy"]) < 2 * WINDOW or last >= COLLAPSED * first:
        return None
    return (
        f"the entropy has fallen from {first:.3g} to {last:.3g} nats per token and the reward has "
        "not risen: lower the learning rate, raise temperature or epsilon_high, or add "
        "entropy_coef or beta"
    )


def kl_explosion(run: Series) -> str | None:
    """The policy has left its reference: GRPO logs nats per token, KTO nats per sequence."""
    kl = run.last("kl")
    if kl is None:
        return None
    remedy = "lower the learning rate, or raise beta"
    if run.values.get("reward"):
        if kl <= FAR:
            return None
        return (
            f"the KL from the reference is {kl:.3g} nats per token (usual is below 0.1): {remedy}"
        )
    if run.beta is None or run.beta * kl <= SATURATED:
        return None
    return (
        f"the KL from the reference is {kl:.3g} nats per completion, where a loss with beta "
        f"{run.beta:g} has no gradient left: lower the learning rate or beta"
    )


def answers_are_lost(run: Series) -> str | None:
    """Also what was preferred has become far less likely than under the reference.

    The KL that KTO logs cannot show it: an estimate below 0 counts as 0.
    """
    lost = run.last("rewards/chosen")  # beta times the log-ratio
    if lost is None or lost >= -SATURATED:
        return None
    return (
        f"preferred completions have become less likely than under the reference: beta times the "
        f"log-ratio is {lost:.3g}, where a sigmoid has no gradient left: lower the learning rate, "
        "raise beta, or add a likelihood term, such as loss_type sft with loss_weights"
    )


def engine_and_trainer_differ(run: Series) -> str | None:
    """Tokens are sampled with other probabilities than they are trained with.

    Source: arXiv:2510.26788, where such a gap, from 16-bit arithmetic alone, ends runs.
    """
    gap = run.last("sampling/sampling_logp_difference/mean")
    if gap is None or gap <= APART:
        return None
    kept = run.last("sampling/importance_sampling_ratio/mean")
    left_out = (
        f"; the importance ratio is {kept:.2g} on average, so that completions count for less than "
        "they should or not at all"
        if kept is not None and kept < 0.9
        else ""
    )
    return (
        f"the engine that samples and the policy that is trained give a token log-probs that are "
        f"{gap:.3g} nats apart on average{left_out}: have both compute in one precision (float16 "
        "is finer than bfloat16), and sample by top_p 1, top_k 0 and repetition_penalty 1, which "
        "the policy's log-probs do not know of"
    )


def metric_falls(run: Series) -> str | None:
    """The reward rises and what it should stand for falls: it is being gamed, or overfitted.

    Metrics are rewards of weight 0, the reward on the evaluation dataset, and ``eval_metrics``.
    """
    if not run.has_risen():
        return None
    means = {f"rewards/{name}/mean": WINDOW for name, weight in run.weights.items() if not weight}
    held_out = {"eval_reward": 1, **dict.fromkeys(run.metrics, 1)}
    for name, window in {**means, **held_out}.items():
        better = 1 if run.metrics.get(name, True) else -1
        values = [better * value for value in run.values.get(name, ())]
        if len(values) < max(3, 2 * window):
            continue
        first = sum(values[:window]) / window
        latest = values[-2 * window :] if window == 1 else values[-window:]
        if max(latest) < first - FALLEN * abs(first):
            return (
                f"the reward has risen and {name} has {'fallen' if better > 0 else 'risen'} from "
                f"{better * first:.3g} to {better * latest[-1]:.3g}: what is rewarded is not what "
                "is wanted, or only known prompts improve; read completions with high rewards, "
                "and stop at the checkpoint where it was best"
            )
    return None


SYMPTOMS: tuple[Symptom, ...] = (
    groups_without_spread,
    one_reward_dominates,
    all_clipped,
    entropy_collapse,
    kl_explosion,
    answers_are_lost,
    engine_and_trainer_differ,
    metric_falls,
)
