"""How answers are drawn, and what an answer is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trl_deepseek.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import LogitsProcessorList


@dataclass(frozen=True)
class Sampling:
    """How many answers each prompt gets, and how they are drawn.

    Attributes:
        num_samples: Answers per prompt.
        max_new_tokens: Tokens of the longest answer.
        temperature: 0 is greedy; None is greedy for one sample and 1.0 for several.
        top_p: Share of probability that is drawn from, most probable tokens first.
        top_k: Number of tokens that is drawn from; 0 for all.
        seed: Of the draws. An answer depends on the seed, the prompt's number and the sample's, not
            on what else is answered at the same time.
        batch_size: Answers generated at once; None for as many as make 16,384 tokens.
        begin: What each answer is made to begin with, such as ``<think>``. Where the prompt's own
            end says it already it is not said twice.

    Raises:
        ConfigError: A value is out of range, or several greedy answers are asked for.
    """

    num_samples: int = 1
    max_new_tokens: int = 512
    temperature: float | None = None
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    batch_size: int | None = None
    begin: str = ""

    def __post_init__(self) -> None:
        lowest = {"num_samples": 1, "max_new_tokens": 1, "top_k": 0, "seed": 0, "batch_size": 1}
        for name, least in lowest.items():
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole and value >= least) and not (name == "batch_size" and value is None):
                raise ConfigError(f"{name} is {value!r}; it must be a whole number from {least}")
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature is {self.temperature}; it must be 0 or more")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.is_greedy and self.num_samples > 1:
            raise ConfigError(
                f"temperature 0 is greedy: all {self.num_samples} samples of a prompt would be the "
                "same\n  leave temperature or num_samples out"
            )

    @property
    def is_greedy(self) -> bool:
        """Whether the most probable token is taken each time."""
        if self.temperature is None:
            return self.num_samples == 1
        return self.temperature == 0


@dataclass(frozen=True)
class Completion:
    """One answer.

    Attributes:
        text: Without special tokens; begins with ``Sampling.begin`` where that was put in front.
        token_ids: What was generated, after ``begin``, its end of turn included.
        finished: Whether it ended by itself, rather than at ``max_new_tokens``.
    """

    text: str
    token_ids: tuple[int, ...]
    finished: bool


def uniforms(seed: int, rows: Sequence[tuple[int, int]], count: int) -> Tensor:
    """Numbers from [0, 1), (rows, count), each row by the seed, its prompt and its sample alone."""
    import numpy
    import torch

    drawn = [numpy.random.default_rng([seed, *row]).random(count) for row in rows]
    return torch.from_numpy(numpy.stack(drawn))


def drawing(sampling: Sampling, draws: Tensor, prompt_length: int) -> LogitsProcessorList:
    """What makes greedy generation sample: only the token that a row draws is left possible.

    A token is the one in whose stretch of the cumulated probabilities the row's number falls, so
    that each row has random numbers of its own, which ``do_sample`` draws for the batch as a whole.

    Args:
        sampling: Gives temperature, top_k and top_p, applied in this order, as transformers does.
        draws: (B, max_new_tokens), from :func:`uniforms`.
        prompt_length: Tokens before the first that is generated.
    """
    import torch
    from transformers import (
        LogitsProcessor,
        LogitsProcessorList,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    class Draw(LogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            wide = torch.float32 if scores.device.type == "mps" else torch.float64
            cumulated = scores.to(wide).softmax(dim=-1).cumsum(dim=-1)  # (B, V)
            now = draws[:, input_ids.shape[1] - prompt_length, None].to(cumulated)
            token = torch.searchsorted(cumulated, now * cumulated[:, -1:], right=True)
            token = token.clamp(max=scores.shape[1] - 1)
            return torch.full_like(scores, -math.inf).scatter_(1, token, 0.0)

    chosen = LogitsProcessorList()
    if sampling.temperature not in (None, 1.0):
        chosen.append(TemperatureLogitsWarper(float(sampling.temperature or 1.0)))
    if sampling.top_k:
        chosen.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        chosen.append(TopPLogitsWarper(sampling.top_p))
    chosen.append(Draw())
    return chosen
