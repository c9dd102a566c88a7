"""What all trainers share: names become objects on the way in, the inference template goes out.

``PluginTrainer`` stands before a TRL trainer in the bases of each of ours. It touches TRL at the
constructor, where it replaces names and loads quantized models, and at ``_save``, where the
tokenizer must carry the template that generates, not the one that trains.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from trl_deepseek import chat, models, quantization
from trl_deepseek.registry import Registry, load_registry

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def registry_for(args: Any) -> Registry:
    """The registry that a config asks for; a plain TRL config asks for the installed plugins."""
    return load_registry(getattr(args, "plugins", None) or (), getattr(args, "block", None) or ())


class PluginTrainer:
    """Mixin in front of a TRL trainer; see the module's docstring."""

    registry: Registry
    template_name: str | None

    def __init__(self, model: Any, *positional: Any, **options: Any) -> None:
        """Hold the model as ``args.quantization`` says, then hand everything to TRL."""
        model, options = quantization.apply(model, options, self.registry)
        super().__init__(model, *positional, **options)  # type: ignore[call-arg]

    def _resolve_model(
        self,
        model: str | PreTrainedModel,
        args: Any,
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> tuple[str | PreTrainedModel, PreTrainedTokenizerBase]:
        """Turn a model's name into what TRL takes and install the chat template on its tokenizer.

        Raises:
            ModelError: There is no such model or tokenizer.
            UnknownName: ``args.chat_template`` is not registered.
            TemplateError: The template does not fit the tokenizer.
        """
        self.registry = registry_for(args)
        name = model if isinstance(model, str) else getattr(model.config, "_name_or_path", "")
        model, built = models.resolve(model, self.registry, args)
        tokenizer = tokenizer or built or models.load_tokenizer(name, args)
        self.template_name = install_template(tokenizer, name, args, self.registry)
        return model, tokenizer

    def _save(self, *args: Any, **kwargs: Any) -> None:
        with chat.inference_template(self.processing_class):  # type: ignore[attr-defined]
            super()._save(*args, **kwargs)  # type: ignore[misc]


def install_template(
    tokenizer: PreTrainedTokenizerBase, model_name: str, args: Any, registry: Registry
) -> str | None:
    """Install the named or recognised chat template; return its name, None where there is none."""
    named: str | None = getattr(args, "chat_template", None)
    name = named or chat.recognise(tokenizer, model_name, registry)
    if name is None:
        return None
    chat.install(tokenizer, chat.resolve(name, registry))
    logger.info("chat template: %s (%s)", name, "named" if named else "recognised")
    return name
