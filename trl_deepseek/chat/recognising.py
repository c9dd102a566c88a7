"""Find a chat template: by its name, by a model's name, or by how a tokenizer's own one renders.

Template texts differ from copy to copy in blanks and comments, so they are not compared; a
tokenizer's template is recognised by rendering the same few conversations as a registered one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_deepseek.chat import reasoning
from trl_deepseek.chat.rendering import render
from trl_deepseek.errors import TemplateError, UnknownName, did_you_mean
from trl_deepseek.registry import Registry
from trl_deepseek.types import ChatTemplate, Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_USER = {"role": "user", "content": "u"}
_ANSWER = f"{reasoning.OPEN}\nthoughts\n{reasoning.CLOSE}\n\nanswer"
_PROBES: tuple[tuple[Messages, dict[str, Any]], ...] = (
    ([_USER], {"add_generation_prompt": True}),
    ([_USER], {"add_generation_prompt": True, "thinking": True, "reasoning_effort": "max"}),
    ([_USER, _USER], {"add_generation_prompt": True}),
    (
        [
            {"role": "system", "content": "s"},
            {"role": "system", "content": "t"},
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": _ANSWER},
            {"role": "user", "content": "v"},
            {"role": "assistant", "content": "w"},
        ],
        {},
    ),
    ([{"role": "system", "content": "s"}], {"add_generation_prompt": True}),
)


def resolve(name_or_path: str, registry: Registry) -> ChatTemplate:
    """The template called ``name_or_path``: a registered name, a model's name or a ``.jinja`` file.

    A file is used for training and inference alike.

    Raises:
        TemplateError: The file does not exist or is not valid Jinja.
        UnknownName: No plugin registers that name.
    """
    if name_or_path in registry.chat_templates:
        return registry.chat_templates[name_or_path]
    family = _by_model(name_or_path, registry)
    if family is not None:
        return registry.chat_templates[family]
    if name_or_path.endswith((".jinja", ".jinja2", ".j2")):
        return _from_file(Path(name_or_path).expanduser())
    raise UnknownName("chat_templates", name_or_path, _explain(name_or_path, registry))


def recognise(
    tokenizer: PreTrainedTokenizerBase, model_name: str, registry: Registry
) -> str | None:
    """The registered name of the format that ``tokenizer`` or the model's name stands for.

    The tokenizer's own template is asked first, since a model may be saved under any name.
    """
    source = getattr(tokenizer, "chat_template", None)
    if isinstance(source, dict):
        source = source.get("default")
    if source:
        return _by_rendering(source, registry)
    return _by_model(model_name, registry)


def _by_model(model_name: str, registry: Registry) -> str | None:
    short = model_name.rstrip("/").rsplit("/", 1)[-1].lower()
    for name, template in registry.chat_templates.items():
        if short == name or short in template.models:
            return name
    return None


def _by_rendering(source: str, registry: Registry) -> str | None:
    shown = ChatTemplate(inference=source, training=source)
    seen = _probe(shown)
    if seen is None:
        return None
    for name, template in registry.chat_templates.items():
        if seen in (_probe(template), _probe(template, official_quirks=True)):
            return name
    return None


def _probe(template: ChatTemplate, **options: Any) -> list[str] | None:
    """How the template renders each probe; None where it refuses one."""
    try:
        # Copies of V2.5's template write blanks in front of all else.
        return [
            render(template, messages, **options, **given).lstrip(" ")
            for messages, given in _PROBES
        ]
    except TemplateError:
        return None


def _from_file(path: Path) -> ChatTemplate:
    from jinja2 import TemplateSyntaxError
    from transformers.utils.chat_template_utils import _compile_jinja_template

    try:
        source = path.read_text(encoding="utf-8")
        _compile_jinja_template(source)
    except OSError as error:
        raise TemplateError(
            f"chat template file {str(path)!r} cannot be read: {error.strerror}"
        ) from error
    except (UnicodeDecodeError, TemplateSyntaxError) as error:
        raise TemplateError(
            f"chat template file {str(path)!r} is not valid Jinja: {error}"
        ) from error
    return ChatTemplate(inference=source, training=source)


def _explain(name: str, registry: Registry) -> str:
    names = list(registry.chat_templates)
    lines = [
        f"no plugin registers a chat template named {name!r}"
        f"{did_you_mean(name.rsplit('/', 1)[-1].lower(), names)}"
    ]
    lines.append(f"  registered: {', '.join(names)}; or the path of a .jinja file")
    return "\n".join(lines)
