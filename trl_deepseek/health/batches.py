"""A batch as a trainer hands it to the model, read back: the text of its rows, and its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BEGINNING = 100  # characters of a row in a message


def describe(batch: Any, tokenizer: Any) -> list[str]:
    """The beginning of each row's text, as far as the batch has tokens.

    Args:
        batch: Of any trainer: ``input_ids`` (B, T), of pairs the chosen rows before the rejected
            ones, in one row also several documents whose positions begin anew; or GRPO's
            ``prompt_ids`` and ``completion_ids``.
        tokenizer: That made the tokens, or a processor.
    """
    if not isinstance(batch, Mapping):
        return []
    decode = getattr(tokenizer, "tokenizer", tokenizer).decode
    return [_beginning(decode(tokens)) for tokens in _rows(batch)]


def kept(batch: Any) -> Any:
    """The batch without what cannot be read back as plain tensors, numbers and text."""
    import torch

    if isinstance(batch, torch.Tensor):
        return batch.detach().cpu()
    if isinstance(batch, Mapping):
        return {str(name): kept(value) for name, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return [kept(value) for value in batch]
    return batch if isinstance(batch, (str, int, float, bool, type(None))) else repr(batch)


def _rows(batch: Mapping[str, Any]) -> list[list[int]]:
    """The tokens of each row, without padding."""
    ids, mask = batch.get("input_ids"), batch.get("attention_mask")
    if ids is None:
        prompts, completions = batch.get("prompt_ids"), batch.get("completion_ids")
        if prompts is None or completions is None:
            return []
        first = _unpadded(prompts, batch.get("prompt_mask"))
        second = _unpadded(completions, batch.get("completion_mask"))
        return [prompt + completion for prompt, completion in zip(first, second, strict=True)]
    positions = batch.get("position_ids")
    if mask is None and positions is not None and positions.shape == ids.shape:
        return [
            document
            for tokens, places in zip(ids.tolist(), positions.tolist(), strict=True)
            for document in _documents(tokens, places)
        ]
    return _unpadded(ids, mask)


def _unpadded(ids: Any, mask: Any) -> list[list[int]]:
    if mask is None or mask.shape != ids.shape:
        rows: list[list[int]] = ids.tolist()
        return rows
    return [row[real.bool()].tolist() for row, real in zip(ids, mask, strict=True)]


def _documents(tokens: list[int], places: list[int]) -> list[list[int]]:
    starts = [number for number, place in enumerate(places) if place == 0]
    ends = [*starts[1:], len(tokens)]
    return [tokens[start:end] for start, end in zip(starts, ends, strict=True)]


def _beginning(text: str) -> str:
    return text if len(text) <= BEGINNING else f"{text[:BEGINNING]}..."
