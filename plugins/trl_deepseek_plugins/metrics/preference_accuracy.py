"""Does a model prefer what people preferred?"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from trl_deepseek import hookimpl
from trl_deepseek.errors import ConfigError
from trl_deepseek.registry import Registry
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from trl_deepseek.evaluation.likelihood import Likelihood

BASE = "base"  # the reference of an adapter that is switched off


@hookimpl
def register_metrics(register: Register) -> None:
    register(
        "preference_accuracy",
        preference_accuracy,
        over="model",
        rows="preferences",
        scores=True,
    )


def preference_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Any,
    registry: Registry | None = None,
    progress: str | None = None,
    reference: str | None = None,
) -> list[float]:
    """Share of pairs in which the chosen answer has the higher reward; equal rewards count half.

    The reward of a reward model is its score. That of a language model is implicit: the log-ratio
    to a ``reference`` model of the whole answer, or without one the mean log-probability per token.

    Formula: log p(answer | prompt) - log p_ref(answer | prompt)

    Range: 0 to 1; 0.5 is chance.

    Source: arXiv:2305.18290, equation 5; without a reference, arXiv:2405.14734, equation 3.

    Args:
        model: A language model or a reward model.
        tokenizer: Its own.
        dataset: Pairs.
        registry: Where the reference is looked up.
        progress: What a bar is called.
        reference: A model, or ``base`` for what an adapter was put on.
    """
    from trl_deepseek.evaluation import likelihood

    pairs = [(row["prompt"], row["chosen"], row["rejected"], row) for row in dataset]
    if hasattr(model, "score"):
        return _shares(_scores(model, tokenizer, pairs))
    texts = [
        likelihood.after(prompt, answer, tokenizer, row)
        for prompt, *answers, row in pairs
        for answer in answers
    ]
    found = likelihood.likelihoods(model, texts, tokenizer, progress)
    if reference is None:
        return _shares([each.logp / max(1, each.tokens) for each in found])
    known = _by_reference(model, tokenizer, texts, registry, reference, progress)
    return _shares([each.logp - other.logp for each, other in zip(found, known, strict=True)])


def _by_reference(
    model: Any, tokenizer: Any, texts: Any, registry: Any, reference: str, progress: str | None
) -> list[Likelihood]:
    from trl_deepseek import generation
    from trl_deepseek.evaluation import likelihood

    if reference == BASE:
        if not hasattr(model, "disable_adapter"):
            raise ConfigError(
                "preference_accuracy: reference 'base' is for adapters, and this is a whole "
                "model\n  name the model that it is compared with"
            )
        off: contextlib.AbstractContextManager[Any] = model.disable_adapter()
        with off:
            return likelihood.likelihoods(model, texts, tokenizer, progress)
    other, _ = generation.load(reference, registry)
    return likelihood.likelihoods(other, texts, tokenizer, progress)


def _scores(model: Any, tokenizer: Any, pairs: Any) -> list[float]:
    from trl_deepseek.rewards.model_reward import ModelReward

    judge = ModelReward(model, tokenizer, "reward model")
    flat = [(prompt, answer, row) for prompt, *answers, row in pairs for answer in answers]
    return judge(
        [prompt for prompt, _, _ in flat],
        [answer for _, answer, _ in flat],
        tools=[row.get("tools") for _, _, row in flat],
        chat_template_kwargs=[row.get("chat_template_kwargs") for _, _, row in flat],
    )


def _shares(rewards: list[float]) -> list[float]:
    """1 where the first of two is higher, 0.5 where they are equal."""
    pairs = zip(rewards[::2], rewards[1::2], strict=True)
    return [0.5 if chosen == rejected else float(chosen > rejected) for chosen, rejected in pairs]
