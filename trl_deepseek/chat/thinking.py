"""Prompts that fit their completions, where a format's prompt says whether the model is to think.

TRL renders the prompt of a row apart from its completion. In V3.1 and later the prompt ends in
``<think>`` or ``</think>``, so a row whose completion has reasoning must say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trl_deepseek import row_findings
from trl_deepseek.chat.installing import generation_prefix
from trl_deepseek.chat.messages import reasoning_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KWARGS = "chat_template_kwargs"
_COMPLETIONS = ("completion", "chosen", "rejected")


def with_thinking(dataset: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Say ``thinking`` in ``chat_template_kwargs`` of each row whose prompt is rendered apart.

    True where a completion of the row has reasoning, else False; a row that says it itself keeps
    what it says. Prompts that stand inside ``chosen`` and ``rejected`` are taken out of them, as
    TRL does later. The dataset is returned as it is where the format has no such option, or where
    no completion has reasoning.

    Args:
        dataset: A ``Dataset`` or ``IterableDataset`` with conversational ``prompt`` and
            ``completion``, or with ``chosen`` and ``rejected``.
        tokenizer: With the chat template that trains.
    """
    names = list(dataset.column_names or next(iter(dataset), {}))
    columns = [column for column in _COMPLETIONS if column in names]
    if not columns or (columns == ["completion"] and "prompt" not in names):
        return dataset
    if generation_prefix(tokenizer, thinking=True) == generation_prefix(tokenizer):
        return dataset
    from trl.data_utils import maybe_extract_prompt

    def thinks(row: Mapping[str, Any]) -> bool:
        return any(_has_reasoning(row[column]) for column in columns)

    def say(row: Mapping[str, Any]) -> dict[str, Any]:
        said = {"thinking": thinks(row), **_given(row.get(KWARGS))}
        return {**maybe_extract_prompt(dict(row)), KWARGS: said}

    if hasattr(dataset, "__len__"):  # a stream is read once
        found = row_findings.find(
            dataset, columns, lambda row: [[]] if thinks(row) else [], key=["thinks", columns]
        )
        if next(found, None) is None:
            return dataset
    return dataset.map(say)


def without_empty_options(dataset: Any) -> Any:
    """The dataset, in which a row without ``chat_template_kwargs`` has none of them, not None.

    None stands in rows of a file beside others that have some, and TRL would unpack it.
    """
    if KWARGS not in (dataset.column_names or next(iter(dataset), {})):
        return dataset
    features = dataset.features
    options = features[KWARGS] if features else {}
    if getattr(options, "dtype", None) == "null":
        return dataset.remove_columns(KWARGS)
    if hasattr(dataset, "__len__"):
        column = dataset.select_columns([KWARGS]).with_format("arrow")[:][KWARGS]
        if not column.null_count:
            return dataset
    # Columnar data has None for what a row does not say; rows of unlike options are held as JSON.
    none = dict.fromkeys(options) if isinstance(options, dict) else {}

    def filled(row: Mapping[str, Any]) -> dict[str, Any]:
        return {KWARGS: none if row[KWARGS] is None else row[KWARGS]}

    return dataset.map(filled, features=features)


def _has_reasoning(completion: Any) -> bool:
    if not isinstance(completion, list) or not completion or not isinstance(completion[-1], dict):
        return False
    return bool(reasoning_of(completion[-1]))


def _given(kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    # Columnar data fills what one row says with None in the others.
    return {name: value for name, value in (kwargs or {}).items() if value is not None}
