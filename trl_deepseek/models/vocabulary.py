"""Whether a tokenizer fits a model: each token has a row of the embeddings, and one ends texts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_deepseek import health
from trl_deepseek.errors import ModelError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check(tokenizer: PreTrainedTokenizerBase, config: Any, name: str, rows: int | None) -> None:
    """Refuse a tokenizer some of whose tokens a model does not know.

    Args:
        tokenizer: A tokenizer, or a processor that holds one.
        config: Of the model.
        name: Of the model, for messages.
        rows: Of the model's embeddings.

    Raises:
        ModelError: Tokens stand beyond the embeddings, or what ends a text is no token.
    """
    inner: Any = getattr(tokenizer, "tokenizer", tokenizer)
    vocabulary: dict[str, int] = inner.get_vocab()
    if rows is None:
        return
    beyond = sorted((number, token) for token, number in vocabulary.items() if number >= rows)
    if beyond:
        named = health.some([f"{token!r} ({number})" for number, token in beyond])
        raise ModelError(
            f"the tokenizer of {name!r} has tokens beyond the model's {rows} embeddings: {named}\n"
            "  take the model's own tokenizer, or load the model in Python and give it more: "
            f"model.resize_token_embeddings({beyond[-1][0] + 1})"
        )
    own = _stored_tokens(name)
    if own and inner.eos_token is not None and inner.eos_token not in own:
        raise ModelError(
            f"the tokenizer of {name!r} ends a text with {inner.eos_token!r}, which is none of its "
            f"tokens{did_you_mean(inner.eos_token, own)}\n"
            "  mend eos_token in its tokenizer_config.json"
        )
    ends = getattr(config.get_text_config(), "eos_token_id", None)
    for end in ends if isinstance(ends, Iterable) else [ends]:
        if end is not None and not 0 <= end < rows:
            raise ModelError(
                f"the config of model {name!r} ends a text with token {end}, and it has {rows}\n"
                "  mend eos_token_id in its config.json"
            )


def _stored_tokens(name: str) -> set[str]:
    """The tokens in a folder's ``tokenizer.json``; loading adds an unknown eos to them unasked."""
    file = Path(name).expanduser() / "tokenizer.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        words = content["model"]["vocab"]
        listed = words if isinstance(words, dict) else [word for word, _ in words]
        return {*listed, *(token["content"] for token in content.get("added_tokens") or ())}
    except (OSError, ValueError, KeyError, TypeError):
        return set()  # another kind of tokenizer
