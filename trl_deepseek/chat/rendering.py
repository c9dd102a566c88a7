"""Render a conversation with a template, as text or as tokens with the mask of what was generated.

Rendering is transformers' own, so a conversation looks here as ``apply_chat_template`` shows it to
a trainer. What a message says is brought into one shape first: keys whose value is None are
dropped, as columnar files add them, and tool arguments written as JSON are parsed where the
template wants to see their parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trl_deepseek.chat import reasoning
from trl_deepseek.chat.one_shape import shaped
from trl_deepseek.errors import TemplateError
from trl_deepseek.types import ChatTemplate, Message, Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BOS = "<｜begin▁of▁sentence｜>"
_QUESTION: Message = {"role": "user", "content": ""}
_THOUGHT = "\ue002"  # a private-use character: no template writes it by itself


@dataclass(frozen=True)
class Encoding:
    """One conversation as tokens.

    Attributes:
        text: The rendered conversation.
        input_ids: Its tokens, (T,).
        assistant_mask: 1 where the model generates the token, else 0, (T,); all 0 unless the
            training template was used.
    """

    text: str
    input_ids: list[int]
    assistant_mask: list[int]


def render(
    template: ChatTemplate,
    messages: Sequence[Message],
    *,
    tools: Sequence[Any] | None = None,
    training: bool = False,
    official_quirks: bool = False,
    **kwargs: Any,
) -> str:
    """The text of a conversation.

    Args:
        template: The chat format.
        messages: The conversation.
        tools: Tool definitions, for formats that render them.
        training: Use the training template instead of the inference one.
        official_quirks: Render as the authors' template does even where it is wrong.
        **kwargs: What the format understands: ``add_generation_prompt``, ``thinking``,
            ``drop_thinking``, ``reasoning_effort``, ``bos_token``, ``continue_final_message`` (a
            last assistant message that holds nothing but a thought ends inside that thought).

    Raises:
        TemplateError: The template cannot render this conversation.
    """
    source = template.training if training else template.inference
    if official_quirks:
        if training:
            raise TemplateError("official_quirks is for inference: a training template has none")
        source = template.official or template.inference
    return _render(source, template, messages, tools, False, kwargs)[0]


def encode(
    template: ChatTemplate,
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    *,
    tools: Sequence[Any] | None = None,
    training: bool = False,
    **kwargs: Any,
) -> Encoding:
    """The tokens of a conversation and which of them the model generates.

    Args:
        template: The chat format.
        messages: The conversation.
        tokenizer: Its own chat template is not used.
        tools: Tool definitions, for formats that render them.
        training: Use the training template, which knows what the model generates.
        **kwargs: As for :func:`render`.

    Raises:
        TemplateError: The template cannot render this conversation.
    """
    source = template.training if training else template.inference
    if tokenizer.bos_token is not None:
        kwargs.setdefault("bos_token", tokenizer.bos_token)
    text, spans = _render(source, template, messages, tools, training, kwargs)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return Encoding(text, encoded["input_ids"], mask_of(encoded["offset_mapping"], spans))


def mask_of(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[int]:
    """1 for each token that overlaps one of ``spans`` (in characters, in order), else 0."""
    mask = []
    remaining = list(reversed(spans))
    for start, end in offsets:
        while remaining and start >= remaining[-1][1]:
            remaining.pop()
        mask.append(int(bool(remaining) and end > remaining[-1][0]))
    return mask


def normalise(messages: Sequence[Message], *, parse_arguments: bool) -> Messages:
    """The messages without empty keys and in one shape."""
    clean = [{key: value for key, value in m.items() if value is not None} for m in messages]
    return shaped(clean, parse_arguments=parse_arguments)


def _is_unanswered(messages: Sequence[Message]) -> bool:
    """Whether the last message is an assistant's that has not begun its answer."""
    last = messages[-1] if messages else {}
    return last.get("role") == "assistant" and not (last.get("content") or last.get("tool_calls"))


def _continue_thought(
    source: str,
    template: ChatTemplate,
    messages: Sequence[Message],
    tools: Sequence[Any] | None,
    spans: bool,
    kwargs: Mapping[str, Any],
) -> tuple[str, list[tuple[int, int]]]:
    """The text up to the end of a thought that is to be continued, and what was generated of it.

    It is the prompt of that turn, what opens the thought where the prompt has not, and the thought.
    Where the prompt rules thinking out, the thought is left out, as DeepSeek's encoders do.
    """
    *before, last = messages
    thought = next((str(last[key]) for key in reasoning.KEYS if last.get(key)), "")
    options = {**kwargs, "add_generation_prompt": True, "continue_final_message": False}
    if thought and source == template.training:
        options.setdefault("thinking", True)
    prompt, found = _render(source, template, before, tools, spans, options)
    if not thought or prompt.endswith(reasoning.CLOSE):
        return prompt, found
    opened = prompt.rstrip().endswith(reasoning.OPEN)
    opening = "" if opened else _opening(source, template, options)
    text = prompt + opening + thought
    return text, [*found, (len(prompt), len(text))] if spans else found


def _opening(source: str, template: ChatTemplate, options: Mapping[str, Any]) -> str:
    """What opens a thought: as this format's prompts do, or else as its models are trained to."""
    prompt = _render(source, template, [_QUESTION], None, False, options)[0]
    if reasoning.OPEN in prompt:
        return prompt[prompt.rindex(reasoning.OPEN) :]
    answer = {"role": "assistant", "content": "a", reasoning.KEYS[0]: _THOUGHT}
    trained = _render(template.training, template, [_QUESTION, answer], None, False, {})[0]
    before, thought, _ = trained.partition(_THOUGHT)
    opening = before.removeprefix(prompt)
    return opening if thought and opening != before else f"{reasoning.OPEN}\n"


def _render(
    source: str,
    template: ChatTemplate,
    messages: Sequence[Message],
    tools: Sequence[Any] | None,
    spans: bool,
    kwargs: Mapping[str, Any],
) -> tuple[str, list[tuple[int, int]]]:
    from jinja2 import TemplateError as JinjaError
    from transformers.utils.chat_template_utils import render_jinja_template

    if not messages:
        raise TemplateError("a conversation without messages cannot be rendered")
    if kwargs.get("continue_final_message") is True and _is_unanswered(messages):
        return _continue_thought(source, template, messages, tools, spans, kwargs)
    options = {"bos_token": BOS, "eos_token": template.end_of_turn, **kwargs}
    try:
        texts, found = render_jinja_template(
            conversations=[normalise(messages, parse_arguments=template.parses_arguments)],
            tools=list(tools) if tools else None,
            chat_template=source,
            return_assistant_tokens_mask=spans,
            continue_final_message=options.pop("continue_final_message", False),
            add_generation_prompt=options.pop("add_generation_prompt", False),
            **options,
        )
    except (JinjaError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise TemplateError(
            f"the chat template cannot render this conversation: {error}"
        ) from error
    return texts[0], [tuple(span) for span in found[0]] if spans else []
