"""Put a chat template into a tokenizer so that it trains right and is saved right.

A tokenizer has one ``chat_template``. While training it must be the training template, which shows
the last turn's reasoning and marks what is generated; what is saved must be the inference
template. ``install`` sets the first and remembers the second on the tokenizer object.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trl_deepseek import releases
from trl_deepseek.chat import reasoning
from trl_deepseek.chat.one_shape import shape_messages
from trl_deepseek.chat.recognising import resolve
from trl_deepseek.errors import TemplateError
from trl_deepseek.plugin_loading import load_registry
from trl_deepseek.registry import Registry
from trl_deepseek.types import ChatTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_MARK = "_trl_deepseek_template"
_BASE_EOS = "_trl_deepseek_base_eos"
_PLACEHOLDER = "\ue000"  # a private-use character: no template writes it by itself


def install(
    tokenizer: PreTrainedTokenizerBase,
    template: ChatTemplate | str,
    registry: Registry | None = None,
) -> ChatTemplate:
    """Make ``tokenizer`` train with ``template``.

    Its ``eos_token`` becomes the template's end of turn, so that trainers and generation stop
    there; a padding token that was the old one stays the old one.

    Args:
        tokenizer: Changed in place; may be a processor.
        template: A template or the name of one.
        registry: Where a name is looked up; the installed plugins by default.

    Raises:
        UnknownName: No plugin registers that name.
        TemplateError: The tokenizer does not know the template's end of turn as one token.
    """
    if isinstance(template, str):
        template = resolve(template, registry if registry is not None else load_registry())
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    end = template.end_of_turn
    if inner.convert_tokens_to_ids(end) in (None, inner.unk_token_id):
        raise TemplateError(
            f"the tokenizer has no token {end!r}, with which this chat template ends a turn\n"
            "  choose the family that the model was trained with, or add the token first: "
            f"tokenizer.add_tokens([{end!r}]) and model.resize_token_embeddings(len(tokenizer))"
        )
    if inner.pad_token is None:
        inner.pad_token = inner.eos_token
    if not hasattr(inner, _BASE_EOS):
        setattr(inner, _BASE_EOS, inner.eos_token_id)
    inner.eos_token = end
    shape_messages(inner, parse_arguments=template.parses_arguments)
    for each in {id(tokenizer): tokenizer, id(inner): inner}.values():
        each.chat_template = template.training
        setattr(each, _MARK, template)
    return template


def installed(tokenizer: PreTrainedTokenizerBase) -> ChatTemplate | None:
    """The template that :func:`install` put into ``tokenizer``, or None."""
    return getattr(tokenizer, _MARK, None)


def parse_tool_calls(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make ``tokenizer.parse_response`` find the tool calls of answers, as TRL's GRPO needs it to.

    Does nothing where no template is installed, or the tokenizer already knows how.

    Raises:
        TemplateError: The installed template does not say how its calls are read, or transformers
            is too old to type their arguments.
    """
    template, inner = installed(tokenizer), getattr(tokenizer, "tokenizer", tokenizer)
    if template is None or getattr(inner, "response_template", None) is not None:
        return
    if template.response is None:
        raise TemplateError(
            "there are tools, and this chat template does not say how to read calls of them\n"
            "  name one that does, such as --chat_template deepseek-v4"
        )
    if not releases.has(releases.TYPED_ARGUMENTS):
        raise TemplateError(
            "there are tools, and the arguments of calls cannot be read by their types\n"
            f"  {releases.needs(releases.TYPED_ARGUMENTS)}"
        )
    inner.response_template = dict(template.response)


@contextmanager
def inference_template(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Show the inference template inside the block, as saving and generating need it."""
    template = installed(tokenizer)
    if template is None:
        yield
        return
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    objects = list({id(tokenizer): tokenizer, id(inner): inner}.values())
    trained = [each.chat_template for each in objects]
    for each in objects:
        each.chat_template = template.inference
    try:
        yield
    finally:
        for each, source in zip(objects, trained, strict=True):
            each.chat_template = source


def set_stop_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, saves_adapter: bool = False
) -> None:
    """Make ``model`` stop at the template's end of turn, and still wherever it stopped before.

    Does nothing where no template is installed, or the model does not generate.

    Args:
        model: Its ``generation_config`` is changed.
        tokenizer: With an installed template.
        saves_adapter: Whether an adapter alone will be saved, whose folder has no
            ``generation_config``: what is lost there is said.
    """
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    config = getattr(model, "generation_config", None)
    if installed(tokenizer) is None or config is None:
        return
    own = config.eos_token_id
    own = own if isinstance(own, (list, tuple)) else [own]
    stops = [inner.eos_token_id, *own, getattr(inner, _BASE_EOS, None)]
    unique = list(dict.fromkeys(stop for stop in stops if stop is not None))
    config.eos_token_id = unique[0] if len(unique) == 1 else unique
    config.pad_token_id = inner.pad_token_id
    if saves_adapter and inner.eos_token_id not in own:
        logger.warning(
            "the base does not stop at %r, the end of a turn, and an adapter's folder cannot say "
            "so: merge it, load it with trl-deepseek, or set eos_token_id=%s in the "
            "generation_config of the model that you load it onto",
            inner.eos_token,
            unique,
        )


def generation_prefix(tokenizer: PreTrainedTokenizerBase, **kwargs: Any) -> str:
    r"""What the generation prompt writes behind the assistant's header.

    ``"<think>\n"`` where the format opens the reasoning, ``"</think>"`` where it closes it before
    it begins, else ``""``. A reward sees completions without it.

    Args:
        tokenizer: With or without an installed template.
        **kwargs: Template options, such as ``thinking``.
    """
    if not getattr(tokenizer, "chat_template", None):
        return ""
    user = [{"role": "user", "content": _PLACEHOLDER}]
    prompt: str = tokenizer.apply_chat_template(
        user, tokenize=False, add_generation_prompt=True, **kwargs
    )
    header = prompt.rsplit(_PLACEHOLDER, 1)[-1]
    for opening in (reasoning.OPEN, reasoning.CLOSE):
        if opening in header:
            return header[header.index(opening) :]
    return ""
