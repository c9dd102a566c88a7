"""The guide: from what the data is to a method, a loss, rewards, a preset, and why.

docs/choosing.md is the same guide as a page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from trl_deepseek.recommending.figures import Figures
from trl_deepseek.recommending.kinds import CHOICES, Kind
from trl_deepseek.recommending.solutions import Form

GROUP, PROMPTS = 8, 4  # completions per prompt, and prompts per step, that one GPU holds
ROWS_PER_STEP = 32  # of SFT, where a preset does not say: the most that the method has
# The reward that reads each form of solutions.
REWARDS: Mapping[Form, str] = {
    "letters": "multiple_choice",
    "numbers": "numeric_match",
    "formulas": "math_accuracy",
    "words": "exact_match",
}
READS: Mapping[Form, str] = {
    "letters": "letters of choices",
    "numbers": "numbers, compared by value",
    "formulas": "formulas or numbers, compared mathematically",
    "words": "a few words, compared as they are",
}


@dataclass
class Advice:
    """What is suggested.

    Attributes:
        method: The training command.
        loss: Its loss.
        preset: Where its numbers come from.
        rewards: Of GRPO.
        options: Further options of the command: what the preset has for a cluster, or what the
            data needs.
        reasons: Sentences.
    """

    method: str
    loss: str
    preset: str
    rewards: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    @property
    def command(self) -> str:
        """The command of the loss, where it has one of its own."""
        return self.loss if self.method == "preference" else self.method


def advise(kind: Kind, figures: Figures) -> Advice:
    """What to train on data of a kind."""
    advice = GUIDE[kind.name](kind, figures)
    advice.reasons += _about_all(kind, figures)
    return advice


def _pairs(kind: Kind, figures: Figures) -> Advice:
    return Advice(
        *("preference", "dpo", "seed-dpo"),
        reasons=[
            f"{kind.layout}: two completions of a prompt, one preferred, are what DPO learns from "
            "without a reward model",
            "start from a model after SFT, whose answers these are like; `--loss_type ipo` where "
            "the preferences are noisy, `orpo` to do without SFT and without a reference",
            "for GRPO against preferences train a reward model on the same file first: "
            "`trl-deepseek reward`, then `--reward_funcs model:FOLDER`",
        ],
    )


def _labels(kind: Kind, figures: Figures) -> Advice:
    share = figures.desirable or 0.0
    return Advice(
        *("preference", "kto", "seed-dpo"),
        reasons=[
            f"{kind.layout}: single completions that are good or bad ({share:.0%} good), which no "
            "loss on pairs can read; KTO weighs both classes alike",
        ],
    )


def _demonstrations(kind: Kind, figures: Figures) -> Advice:
    advice = Advice("sft", "nll", "seed-sft")
    advice.reasons.append(
        f"{kind.layout}: answers to imitate, and nothing that says which is better"
    )
    if figures.reasoning >= 0.5:
        advice.preset = "deepseek-r1-sft"
        advice.options |= {
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": ROWS_PER_STEP,
        }
        advice.reasons.append(
            f"{figures.reasoning:.0%} of the answers reason: these are rows of a cold start before "
            "GRPO; all weights are trained, unless you add --use_peft"
        )
    elif figures.reasoning:
        advice.reasons.append(
            f"{figures.reasoning:.0%} of the answers reason and the others do not: the model will "
            "do either"
        )
    return advice


def _solutions(kind: Kind, figures: Figures) -> Advice:
    read = kind.solutions
    assert read is not None  # of this kind
    shares = ", ".join(f"{share:.0%} {form}" for form, share in read.shares.items())
    reward = REWARDS[read.form]
    advice = _grpo(
        "deepseek-math-grpo",
        [reward],
        figures,
        f"{kind.layout} ({shares}): an answer that can be checked is a reward, and a better one "
        f"than a model's opinion; {reward} reads {READS[read.form]}",
    )
    advice.reasons.append(
        "where the model has to reason before it answers, add the reward think_format; R1-Zero "
        "is trained so (`--preset deepseek-r1-zero`)"
    )
    return advice


def _tests(kind: Kind, figures: Figures) -> Advice:
    reward = str(kind.reward)
    return _grpo(
        "dr-grpo",
        [reward],
        figures,
        f"{kind.layout}: {reward} runs them in a sandbox, and the share that passes is the reward; "
        "programs need the 3,000 tokens of this preset",
    )


def _verified(kind: Kind, figures: Figures) -> Advice:
    if kind.reward is None:  # named, it would score the rows of others too
        why = f"{kind.layout}; name no rewards, so that each scores the rows of its own tasks"
        return _grpo("deepseek-math-grpo", [], figures, why)
    why = f"{kind.layout}: it scores answers as their author does, also where none is named"
    return _grpo("deepseek-math-grpo", [kind.reward], figures, why)


def _grpo(preset: str, rewards: list[str], figures: Figures, why: str) -> Advice:
    prompts = min(PROMPTS, figures.rows)
    options = {
        "num_generations": GROUP,
        "per_device_train_batch_size": GROUP,
        "gradient_accumulation_steps": prompts,
    }
    small = (
        f"the batch is for one GPU: {GROUP} completions for each of {prompts} prompts a step; "
        f"{preset} has that of a cluster"
    )
    return Advice("grpo", "grpo", preset, rewards, options, [why, small])


GUIDE: Mapping[str, Callable[[Kind, Figures], Advice]] = {
    "pairs": _pairs,
    "verified": _verified,
    "labels": _labels,
    "demonstrations": _demonstrations,
    "solutions": _solutions,
    "tests": _tests,
}


def _about_all(kind: Kind, figures: Figures) -> Iterator[str]:
    """What is said of data of any kind."""
    if kind.columns:
        renamed = ", ".join(f"{old} is read as {new}" for old, new in kind.columns.items())
        yield f"columns: {renamed}"
    if kind.unreadable:
        fault = next(iter(kind.unreadable.values()))
        yield (
            f"{len(kind.unreadable)} of {kind.sampled} rows that were tried cannot be scored: "
            f"leave them out, or the reward abstains from them; one: {fault}"
        )
    if kind.name == "solutions" and set(CHOICES).intersection(figures.columns):
        yield "the column of choices is no part of the prompt: write the choices into it"
    if figures.repeated:
        yield f"{figures.repeated} of {figures.rows} rows repeat an earlier one: leave them out"
    if figures.rows < 100:
        yield f"{figures.rows} rows are few: hundreds of them teach a format, thousands a task"
    if figures.tools:
        yield (
            f"{figures.tools:.0%} of the rows use tools: the chat template has to render them; "
            "`trl-deepseek show-sample` shows what the model sees"
        )
    if len(figures.languages) > 1 and kind.name in ("solutions", "tests"):
        listed = ", ".join(f"{name} {share:.0%}" for name, share in figures.languages.items())
        yield (
            f"several languages ({listed}): the reward language_consistency keeps an answer in one"
        )
