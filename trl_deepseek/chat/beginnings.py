"""Text that begins once: a beginning-of-text token in the data and one from the tokenizer are two.

A chat template writes its own, and transformers adds none to what it renders. Plain text is
tokenized as it stands, and some tokenizers put their token in front of it whatever it begins with.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trl_deepseek import row_findings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def begin_once(
    dataset: Any, tokenizer: PreTrainedTokenizerBase, source: str, text_field: str = "text"
) -> Any:
    """The dataset, without the token in front of plain text where the tokenizer adds it.

    Args:
        dataset: A ``Dataset`` or ``IterableDataset``.
        tokenizer: With which the text is tokenized.
        source: The dataset's name, for messages.
        text_field: The column of plain text.
    """
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    bos = inner.bos_token
    if not bos or inner(f"{bos}x")["input_ids"][:2] != [inner.bos_token_id] * 2:
        return dataset
    names: Any = dataset.column_names or next(iter(dataset), {})
    first = ["prompt"] if "prompt" in names else [text_field, "chosen", "rejected"]
    columns = [column for column in first if column in names]

    def doubles(row: Mapping[str, Any]) -> list[row_findings.Words]:
        begins = (isinstance(row[c], str) and row[c].startswith(bos) for c in columns)
        return [[]] if any(begins) else []

    def bare(row: dict[str, Any]) -> dict[str, Any]:
        return {c: _without(bos, row[c]) if isinstance(row[c], str) else row[c] for c in columns}

    if not columns:
        return dataset
    if hasattr(dataset, "__len__"):
        key = ["doubles", bos, columns]
        count = len([*row_findings.find(dataset, columns, doubles, key=key)])
        if not count:
            return dataset
        logger.warning(
            "%s: %d of %d texts begin with %s, which the tokenizer adds itself: it is left out of "
            "the text, so that each begins once",
            source,
            count,
            len(dataset),
            bos,
        )
    return dataset.map(bare)


def _without(bos: str, text: str) -> str:
    while text.startswith(bos):
        text = text.removeprefix(bos)
    return text
