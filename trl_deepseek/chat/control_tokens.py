"""Control tokens that stand literally in data: refuse them, or encode them as the text they are.

DeepSeek's role, think and tool tokens are added tokens, so a tokenizer turns them into control ids
wherever they occur: a user who writes ``<｜Assistant｜>`` would begin an assistant turn. Neither
``skip_special_tokens`` nor ``split_special_tokens`` concerns them, since they are not ``special``.

Escaping replaces each by a private-use character before the template sees the message, so that the
template cannot act on it either, and that character's tokens by the plain encoding of the text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trl_deepseek.chat import reasoning
from trl_deepseek.chat.one_shape import shaped
from trl_deepseek.errors import DataError, TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COLUMNS = ("messages", "prompt", "completion", "chosen", "rejected", "tools")
THINKING = (reasoning.OPEN, reasoning.CLOSE)  # an assistant may write its reasoning inline

_PLACEHOLDERS = 0xF0000  # first of 65,534 private-use characters, which mean nothing to a template
_PRIVATE = re.compile("[\U000f0000-\U000ffffd]")


def pattern_of(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str] | None:
    """What finds each control token of ``tokenizer`` in a text; None where it has none.

    Added tokens that look like text, such as the letters that deepseek-coder adds, are no control
    tokens.
    """
    tokens = [
        token.content
        for token in getattr(tokenizer, "tokenizer", tokenizer).added_tokens_decoder.values()
        if token.special or "｜" in token.content or re.fullmatch(r"[<\[].+[>\]]", token.content)
    ]
    if not tokens:
        return None
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))


def literal(row: Mapping[str, Any], pattern: re.Pattern[str]) -> str | None:
    """Where a row's conversations contain a control token literally, in words; None if nowhere.

    Text that is no conversation is left alone: there the user has written the format himself.
    """
    for column in COLUMNS:
        value = row.get(column)
        if not isinstance(value, list) or not value or not isinstance(value[0], dict):
            continue
        for message in value:
            role = message.get("role", column)
            for text in _texts(message):
                for match in pattern.finditer(text):
                    if not (role == "assistant" and match[0] in THINKING):
                        return f"the {role} text contains {match[0]!r}"
    return None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key != "role":
                yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)


def escape(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make ``tokenizer.apply_chat_template`` encode control tokens in messages as plain text.

    What is saved is unchanged. Only tokens are escaped, not text: with ``tokenize=False`` the
    rendered text holds what the message held.

    Raises:
        TemplateError: The tokenizer cannot say which characters a token stands for.
    """
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    if not inner.is_fast:
        raise TemplateError(
            "control_tokens=escape needs a fast tokenizer, one with a tokenizer.json"
        )
    # On the instance, as a partial of a module's function: datasets pickles tokenizers.
    inner.apply_chat_template = functools.partial(_apply_escaped, inner)


def _apply_escaped(
    tokenizer: PreTrainedTokenizerBase, conversation: Any, *args: Any, **kwargs: Any
) -> Any:
    original = functools.partial(type(tokenizer).apply_chat_template, tokenizer)
    template = getattr(tokenizer, "_trl_deepseek_template", None)  # what install() put there
    if template is not None:
        conversation = shaped(conversation, parse_arguments=template.parses_arguments)
    pattern = pattern_of(tokenizer)
    if pattern is None or args:
        return original(conversation, *args, **kwargs)
    tokens = list(tokenizer.get_added_vocab())
    marked = _mark(conversation, pattern, tokens)
    tools = _mark(kwargs.get("tools"), pattern, tokens)
    if marked == conversation and tools == kwargs.get("tools"):
        return original(conversation, **kwargs)
    if tools is not None:
        kwargs["tools"] = tools
    texts = original(marked, **_without(kwargs, _TOKENIZING), tokenize=False)
    if not kwargs.get("tokenize", True):
        return _unmark(texts, tokens)
    encoded = original(
        marked,
        **{**_without(kwargs, _SHAPING), "return_dict": True},
        tokenizer_kwargs={"return_offsets_mapping": True},
    )
    offsets = encoded.pop("offset_mapping")
    plain = functools.lru_cache(functools.partial(plain_ids, tokenizer))
    for name in encoded:
        if isinstance(texts, str):
            encoded[name] = _replace(name, encoded[name], texts, offsets, tokens, plain)
        else:
            encoded[name] = [
                _replace(name, *one, tokens, plain)
                for one in zip(encoded[name], texts, offsets, strict=True)
            ]
    if kwargs.get("padding") or kwargs.get("return_tensors"):
        encoded = tokenizer.pad(
            encoded,
            padding=kwargs.get("padding", False),
            padding_side=kwargs.get("padding_side"),
            return_tensors=kwargs.get("return_tensors"),
        )
    return encoded if kwargs.get("return_dict", True) else encoded["input_ids"]


_SHAPING = ("padding", "padding_side", "return_tensors", "tokenizer_kwargs", "return_dict")
_TOKENIZING = (*_SHAPING, "tokenize", "return_assistant_tokens_mask", "truncation", "max_length")


def _without(kwargs: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in names}


def _mark(value: Any, pattern: re.Pattern[str], tokens: Sequence[str], role: str = "") -> Any:
    """``value`` with each control token as the private-use character of its number."""
    if isinstance(value, str):
        if _PRIVATE.search(value):
            raise DataError(
                "a message contains a character of Unicode's private plane 15, which "
                "control_tokens=escape uses itself"
            )

        def mark(match: re.Match[str]) -> str:
            if role == "assistant" and match[0] in THINKING:
                return match[0]
            return chr(_PLACEHOLDERS + tokens.index(match[0]))

        return pattern.sub(mark, value)
    if isinstance(value, dict):
        role = value.get("role") or role
        return {
            key: inner if key == "role" else _mark(inner, pattern, tokens, role)
            for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_mark(inner, pattern, tokens, role) for inner in value]
    return value


def _unmark(text: Any, tokens: Sequence[str]) -> Any:
    if not isinstance(text, str):
        return [_unmark(one, tokens) for one in text]
    return _PRIVATE.sub(lambda match: tokens[ord(match[0]) - _PLACEHOLDERS], text)


def _replace(
    name: str,
    values: Sequence[int],
    text: str,
    offsets: Sequence[tuple[int, int]],
    tokens: Sequence[str],
    plain: Callable[[str], tuple[int, ...]],
) -> list[int]:
    """One row of ``input_ids`` or of a mask, a placeholder's tokens replaced by the plain ones."""
    result: list[int] = []
    last = -1
    for value, (start, end) in zip(values, offsets, strict=True):
        place = next((i for i in range(start, end) if _PRIVATE.match(text[i])), None)
        if place is None:
            result.append(value)
            continue
        if end - start != 1:
            raise TemplateError(
                f"the tokenizer joins an escaped control token with {text[start:end]!r}"
            )
        if place != last:  # a placeholder is several tokens, the bytes of one character
            ids = plain(tokens[ord(text[place]) - _PLACEHOLDERS])
            result += ids if name == "input_ids" else [value] * len(ids)
        last = place
    return result


def plain_ids(tokenizer: PreTrainedTokenizerBase, token: str) -> tuple[int, ...]:
    """The ids of ``token``'s text, none of them a control id.

    Raises:
        TemplateError: They do not decode to that text.
    """
    added = set(tokenizer.get_added_vocab().values())
    # Half a control token is none; where a part still is one, each character by itself is not.
    for parts in ((token[:1], token[1:]), tuple(token)):
        ids = [i for part in parts for i in tokenizer.encode(part, add_special_tokens=False)]
        if not added.intersection(ids):
            break
    if tokenizer.decode(ids, clean_up_tokenization_spaces=False) != token:
        raise TemplateError(f"the tokenizer cannot write {token!r} as plain text")
    return tuple(ids)
