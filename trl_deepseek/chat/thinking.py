"""Prompts that fit their completions, where a format's prompt says whether the model is to think.

TRL renders the prompt of a row apart from its completion. In V3.1 and later the prompt ends in
``<think>`` or ``</think>``, so a row whose completion has reasoning must say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trl_deepseek.chat.checking import reasoning_of
from trl_deepseek.chat.installing import generation_prefix

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

KWARGS = "chat_template_kwargs"
_COMPLETIONS = ("completion", "chosen", "rejected")


def with_thinking(dataset: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Say ``thinking`` in ``chat_template_kwargs`` of each row with a prompt apart.

    True where a completion of the row has reasoning, else False; a row that says it itself keeps
    what it says. The dataset is returned as it is where the format has no such option, or where no
    completion has reasoning.

    Args:
        dataset: With conversational ``prompt`` and ``completion``, or ``chosen`` and ``rejected``.
        tokenizer: With the chat template that trains.
    """
    columns = [column for column in _COMPLETIONS if column in dataset.column_names]
    if "prompt" not in dataset.column_names or not columns:
        return dataset
    if generation_prefix(tokenizer, thinking=True) == generation_prefix(tokenizer):
        return dataset
    thinks = [
        any(_has_reasoning(row[column]) for column in columns)
        for row in dataset.select_columns(columns)
    ]
    if not any(thinks):
        return dataset

    def say(row: Mapping[str, Any], number: int) -> dict[str, Any]:
        return {KWARGS: {"thinking": thinks[number], **_given(row.get(KWARGS))}}

    return dataset.map(say, with_indices=True)


def _has_reasoning(completion: Any) -> bool:
    if not isinstance(completion, list) or not completion or not isinstance(completion[-1], dict):
        return False
    return bool(reasoning_of(completion[-1]))


def _given(kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    # Columnar data fills what one row says with None in the others.
    return {name: value for name, value in (kwargs or {}).items() if value is not None}
