"""From prompts, which are text or messages, to the tokens that a model goes on from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trl_deepseek import chat
from trl_deepseek.chat.rendering import normalise
from trl_deepseek.errors import DataError, TemplateError
from trl_deepseek.types import Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Prompt = str | Messages
END = 32  # tokens that are looked at for what an answer begins with


def encode(
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerBase,
    begin: str = "",
    options: Mapping[str, Any] | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
) -> tuple[list[list[int]], list[str]]:
    """The tokens of each prompt with what its answer begins with, and the latter as text.

    Messages are rendered with the inference template, up to where the assistant's turn begins; a
    last message of the assistant is gone on from. Plain text is tokenized as it stands.

    Args:
        prompts: Each is text or messages.
        tokenizer: With a chat template where there are messages.
        begin: What each answer is made to begin with.
        options: ``tools`` and what the template takes, for all prompts.
        rows: For each prompt its own ``tools`` and ``chat_template_kwargs``, which win.

    Returns:
        The tokens, and for each prompt the text at their end that belongs to the answer.

    Raises:
        TemplateError: There are messages and no template, or it cannot render them.
        DataError: A prompt has no tokens.
    """
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    if any(not isinstance(prompt, str) for prompt in prompts) and not inner.chat_template:
        raise TemplateError(
            "a prompt is a conversation, and the tokenizer has no chat template\n"
            "  name one with chat_template"
        )
    opening = inner(begin, add_special_tokens=False)["input_ids"] if begin else []
    template = chat.installed(inner)
    parse = template is not None and template.parses_arguments
    encoded, begun = [], []
    with chat.inference_template(tokenizer):
        for number, prompt in enumerate(prompts):
            if isinstance(prompt, str):
                ids, end = inner(prompt)["input_ids"], prompt
            else:
                row = rows[number] if rows is not None else {}
                own = {**(options or {}), **(row.get("chat_template_kwargs") or {})}
                own |= {"tools": row["tools"]} if row.get("tools") else {}
                ids, end = _render(normalise(prompt, parse_arguments=parse), inner, own)
            says_it = bool(begin) and end.rstrip().endswith(begin.rstrip())
            encoded.append([*ids, *([] if says_it else opening)])
            begun.append("" if says_it else begin)
            if not encoded[-1]:
                raise DataError(f"prompt {number} has no tokens: there is nothing to go on from")
    return encoded, begun


def _render(
    messages: Messages, tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]
) -> tuple[list[int], str]:
    """The tokens of a conversation up to the answer, and their end as text."""
    from jinja2 import TemplateError as JinjaError

    continues = bool(messages) and messages[-1].get("role") == "assistant"
    given = {key: value for key, value in options.items() if value is not None}
    given |= {"add_generation_prompt": not continues, "continue_final_message": continues}
    try:
        encoded = tokenizer.apply_chat_template(messages, return_dict=True, **given)
    except (JinjaError, AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise TemplateError(f"the chat template cannot render a prompt: {error}") from error
    ids = list(encoded["input_ids"])
    return ids, tokenizer.decode(ids[-END:])
