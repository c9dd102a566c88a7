"""How surprised a model is by the answers of a dataset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trl_deepseek import hookimpl
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@hookimpl
def register_metrics(register: Register) -> None:
    register(
        "perplexity",
        perplexity,
        over="model",
        rows="demonstrations",
        aggregate=from_sums,
        higher_is_better=False,
    )


def perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Any,
    progress: str | None = None,
) -> list[dict[str, float] | None]:
    """Perplexity of the assistant's tokens, by the training template; of plain text, of all tokens.

    Every token of the dataset counts alike. It is exp of the trainer's evaluation loss where that
    looks at all rows in one batch; over several, the trainer takes the mean of the batches' means.
    A row of which no token counts abstains.

    Formula: exp(-sum of log p(token | before) / number of tokens)

    Range: from 1; the vocabulary's size is what a uniform guess has.

    Source: Jelinek et al., 1977, Journal of the Acoustical Society of America 62, S63.
    """
    from trl_deepseek.evaluation import likelihood

    texts = likelihood.demonstrations(dataset, tokenizer)
    found = likelihood.likelihoods(model, texts, tokenizer, progress)
    return [{"nll": -each.logp, "tokens": each.tokens} if each.tokens else None for each in found]


def from_sums(sums: Mapping[str, float]) -> float:
    """The perplexity of a dataset from what its rows add up to."""
    mean = sums["nll"] / sums["tokens"]
    return math.exp(mean) if mean < 700 else math.inf  # beyond, a float has no such number
