"""A chat format on a tokenizer: find it, install it, render and encode with it.

A format is two Jinja sources. While a model is trained the tokenizer carries the training one,
which keeps the reasoning of the last turn and marks what the model generates; what is saved
carries the inference one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_deepseek.errors import TemplateError
from trl_deepseek.registry import Registry, load_registry
from trl_deepseek.types import ChatTemplate, Messages

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
INFERENCE = "trl_deepseek_inference_template"  # attribute of a tokenizer that we installed on


def resolve(name: str, registry: Registry) -> ChatTemplate:
    """The template that ``name`` stands for: a registered one, or a ``.jinja`` file.

    Raises:
        UnknownName: No plugin registers it.
        TemplateError: The file cannot be read.
    """
    if not name.endswith(".jinja"):
        return registry.chat_templates[name]
    try:
        source = Path(name).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"chat template file {name!r} cannot be read: {error}") from error
    return ChatTemplate(source, source)


def recognise(
    tokenizer: PreTrainedTokenizerBase, model_name: str, registry: Registry
) -> str | None:
    """Name of the registered template that the tokenizer's own is, or that the model uses."""
    own = tokenizer.chat_template
    for name, template in registry.chat_templates.items():
        if own is not None and own in (template.inference, template.training, template.official):
            return name
    base = model_name.rstrip("/").rpartition("/")[2].lower()
    for name, template in registry.chat_templates.items():
        if base in template.models:
            return name
    return None


def install(
    tokenizer: PreTrainedTokenizerBase,
    template: ChatTemplate | str,
    registry: Registry | None = None,
) -> ChatTemplate:
    """Make the tokenizer train with ``template``; what is saved later generates with it.

    Raises:
        UnknownName: No plugin registers a template of that name.
        TemplateError: The template's end-of-turn token is not in the vocabulary.
    """
    if isinstance(template, str):
        template = resolve(template, registry or load_registry())
    vocabulary = tokenizer.get_vocab()
    if template.end_of_turn not in vocabulary:
        close = difflib.get_close_matches(template.end_of_turn, vocabulary, n=1)
        hint = f"; it has {close[0]!r}" if close else ""
        raise TemplateError(
            f"the tokenizer has no token {template.end_of_turn!r}, which ends a turn{hint}"
        )
    tokenizer.eos_token = template.end_of_turn
    tokenizer.chat_template = template.training
    setattr(tokenizer, INFERENCE, template.inference)
    return template


@contextmanager
def inference_template(tokenizer: Any) -> Iterator[None]:
    """Show the inference template of an installed format while the tokenizer is saved."""
    inference = getattr(tokenizer, INFERENCE, None)
    if inference is None:
        yield
        return
    training = tokenizer.chat_template
    tokenizer.chat_template = inference
    try:
        yield
    finally:
        tokenizer.chat_template = training


def set_stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let generation stop at the tokenizer's end of turn, beside the model's own stop tokens."""
    config = model.generation_config
    own = config.eos_token_id
    stops = [] if own is None else [own] if isinstance(own, int) else list(own)
    if tokenizer.eos_token_id not in stops:
        stops.insert(0, tokenizer.eos_token_id)
    config.eos_token_id = stops[0] if len(stops) == 1 else stops
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id


def generation_prefix(tokenizer: PreTrainedTokenizerBase) -> str:
    r"""What the generation prompt writes after the model's header: ``<think>\n`` or nothing."""
    if tokenizer.chat_template is None:
        return ""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True
    )
    found = re.search(r"(<think>|</think>)\s*$", prompt)
    return found[0] if found else ""


def render(
    template: ChatTemplate | str,
    messages: Messages,
    *,
    tools: list[Any] | None = None,
    training: bool = False,
    **kwargs: Any,
) -> str:
    """The text of one conversation, without a tokenizer.

    Raises:
        UnknownName: No plugin registers a template of that name.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    if isinstance(template, str):
        template = resolve(template, load_registry())
    rendered, _ = render_jinja_template(
        [messages],
        tools=tools,
        chat_template=template.training if training else template.inference,
        bos_token=BOS,
        eos_token=template.end_of_turn,
        **kwargs,
    )
    text: str = rendered[0]
    return text


def encode(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, **kwargs: Any
) -> dict[str, list[int]]:
    """Token ids and, as ``assistant_masks``, 1 for each token that the model generates."""
    encoded = tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True, **kwargs
    )
    return {name: list(encoded[name]) for name in ("input_ids", "assistant_masks")}
