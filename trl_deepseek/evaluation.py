"""Generate answers to held-out prompts and score them with the same rewards that train."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trl_deepseek import chat
from trl_deepseek.rewards import as_batch

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from trl_deepseek.types import Reward


@dataclass(frozen=True)
class Evaluation:
    """Greedy answers to held-out prompts, and what they scored.

    Attributes:
        completions: The answers' text, without special tokens.
        lengths: Generated tokens of each answer, its end-of-turn token included.
        scores: Mean of each reward over the answers it did not abstain from; None where it
            abstained from all.
        seconds: Time to generate and score.
    """

    completions: list[str]
    lengths: list[int]
    scores: Mapping[str, float | None]
    seconds: float

    @property
    def mean_length(self) -> float:
        """Mean generated tokens per answer."""
        return sum(self.lengths) / len(self.lengths)


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    rewards: Sequence[Reward],
    *,
    max_new_tokens: int,
    batch_size: int = 256,
    begin: str = "",
) -> Evaluation:
    """Answer every prompt greedily and score the answers.

    Args:
        model: Left in the mode (train or eval) it was found in.
        tokenizer: With a chat template.
        dataset: Conversational ``prompt`` and the columns that the rewards need.
        rewards: Synchronous rewards.
        max_new_tokens: Longest answer, in tokens.
        batch_size: Prompts generated for at once.
        begin: What every answer begins with, such as ``<think>``, instead of what the model would
            begin with; not part of the answers returned.
    """
    start = time.perf_counter()
    prompts = list(dataset["prompt"])
    answers: list[list[int]] = []
    for first in range(0, len(prompts), batch_size):
        batch = prompts[first : first + batch_size]
        answers += _generate(model, tokenizer, batch, max_new_tokens, begin)
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    columns = {name: list(dataset[name]) for name in dataset.column_names if name != "prompt"}
    scores = {}
    for reward in rewards:
        given = as_batch(reward)(
            prompts=prompts,
            completions=[[{"role": "assistant", "content": text}] for text in texts],
            completion_ids=answers,
            generation_prefix=chat.generation_prefix(tokenizer),
            **columns,
        )
        counted = [score for score in given if score is not None]
        scores[reward.name] = sum(counted) / len(counted) if counted else None
    return Evaluation(texts, [len(ids) for ids in answers], scores, time.perf_counter() - start)


def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Any],
    max_new_tokens: int,
    begin: str,
) -> list[list[int]]:
    """The token ids of each greedy answer, up to and including its end of turn."""
    import torch

    rows = tokenizer.apply_chat_template(prompts, add_generation_prompt=True)["input_ids"]
    opening = tokenizer.encode(begin, add_special_tokens=False)
    encoded = tokenizer.pad(
        {"input_ids": [[*row, *opening] for row in rows]}, padding_side="left", return_tensors="pt"
    ).to(model.device)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        output = model.generate(**encoded, max_new_tokens=max_new_tokens, do_sample=False)
    model.train(was_training)
    generated = output[:, encoded["input_ids"].shape[1] :]
    ends = model.generation_config.eos_token_id
    stop = torch.tensor([ends] if isinstance(ends, int) else ends, device=generated.device)
    is_end = torch.isin(generated, stop)
    # What follows the first end of turn in a row is padding.
    lengths = [int(row.nonzero()[0]) + 1 if row.any() else len(row) for row in is_end]
    return [ids[:length].tolist() for ids, length in zip(generated, lengths, strict=True)]
