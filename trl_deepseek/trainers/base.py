"""What all trainers share: names become objects on the way in, the inference template goes out.

``PluginTrainer`` stands before a TRL trainer in the bases of each of ours. It touches TRL at the
constructor, where it replaces names and loads quantized models; around ``train``, where the
embeddings of the policy are noised; and at ``_save``, where the tokenizer must carry the template
that generates, not the one that trains.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_deepseek import chat, data, models, noise, quantization
from trl_deepseek.errors import ConfigError, TemplateError
from trl_deepseek.plugin_loading import load_registry
from trl_deepseek.registry import Registry

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
    embedding_noise: noise.EmbeddingNoise | None
    embedded: str | None  # the name of the embedded model that is trained
    rows_bring_tools = True  # whether prompts are rendered with a row's own tool definitions

    def __init__(self, model: Any, *positional: Any, **options: Any) -> None:
        """Hold the model as ``args.quantization`` says, then hand everything to TRL.

        Raises:
            ConfigError: Noise where processes hold parts of a document.
            DataError: A conversation would not be trained on as it reads.
            TemplateError: There are conversations and no template to render them.
        """
        options = self._read_conversations(options)
        model, options = quantization.apply(model, options, self.registry)
        super().__init__(model, *positional, **options)  # type: ignore[call-arg]
        chat.set_stop_tokens(self.model, self.processing_class)  # type: ignore[attr-defined]
        self.neftune_noise_alpha = None  # the noise has it; here it would noise every pass
        self.embedding_noise = self._embedding_noise()

    def _read_conversations(self, options: dict[str, Any]) -> dict[str, Any]:
        """The constructor's options, their datasets checked and ready to be rendered.

        Everything that would not be trained on as it reads is refused before the model is loaded.
        """
        args, tokenizer = options["args"], options["processing_class"]
        tools = options.get("tools") or (None if self.rows_bring_tools else [])
        if getattr(args, "control_tokens", "error") == "escape":
            chat.escape(tokenizer)
        read = dict(options)
        for split in ("train_dataset", "eval_dataset"):
            given = options.get(split)
            if isinstance(given, dict):
                parts = given.items()
                read[split] = {
                    n: self._read_split(part, split, args, tokenizer, tools) for n, part in parts
                }
            elif given is not None:
                read[split] = self._read_split(given, split, args, tokenizer, tools)
        return read

    def _read_split(self, dataset: Any, split: str, args: Any, tokenizer: Any, tools: Any) -> Any:
        if not hasattr(dataset, "column_names"):
            logger.warning("%s is not a datasets.Dataset: conversations are not checked", split)
            return dataset
        source = data.source_of(dataset, split)
        if chat.holds_conversations(dataset) and not self._has_template(args, tokenizer):
            raise TemplateError(
                f"{source} holds conversations, and the tokenizer has no chat template\n"
                "  name one with chat_template; registered: "
                f"{', '.join(self.registry.chat_templates)}"
            )
        field = getattr(args, "dataset_text_field", None) or "text"
        dataset = chat.begin_once(dataset, tokenizer, source, field)
        if self.template_name is not None:
            dataset = chat.with_thinking(dataset, tokenizer)
        return chat.check_conversations(
            dataset,
            tokenizer,
            source,
            # A template that we do not know may be meant to be filled with tokens.
            control_tokens=self.template_name is not None
            and getattr(args, "control_tokens", "error") == "error",
            tools=tools,
            masks=bool(getattr(args, "assistant_only_loss", False)),
            show_progress=not args.disable_tqdm,
        )

    @staticmethod
    def _has_template(args: Any, tokenizer: PreTrainedTokenizerBase) -> bool:
        return bool(tokenizer.chat_template or getattr(args, "chat_template_path", None))

    def _embedding_noise(self: Any) -> noise.EmbeddingNoise | None:
        chosen = noise.choose(self.args, self.registry)
        if chosen is None:
            return None
        parallel = self.accelerator.parallelism_config
        if parallel is not None and (parallel.cp_enabled or parallel.sp_enabled):
            raise ConfigError(
                f"noise {chosen.name!r} needs the length of each document, which context and "
                "sequence parallelism split: leave out one of the two"
            )
        alike = 1 if parallel is None else parallel.tp_size  # tensor parallel ranks see one batch
        return noise.EmbeddingNoise(
            chosen,
            seed=self.args.seed,
            process=self.accelerator.process_index // alike,
            step=lambda: self.state.global_step,
        )

    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As TRL's; the noise is on the model meanwhile, and off it again whatever happens."""
        if self.embedding_noise is None:
            return super().train(*args, **kwargs)  # type: ignore[misc]
        with self.embedding_noise.attached(self.model):
            return super().train(*args, **kwargs)  # type: ignore[misc]

    def _resolve_model(
        self,
        model: str | PreTrainedModel,
        args: Any,
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> tuple[str | PreTrainedModel, PreTrainedTokenizerBase]:
        """Turn a model's name into what TRL takes and install the chat template on its tokenizer.

        Raises:
            ModelError: There is no such model or tokenizer.
            UnknownName: ``args.chat_template`` or ``args.noise`` is not registered.
            ConfigError: The options of the noise do not fit.
            TemplateError: The template does not fit the tokenizer.
        """
        self.registry = registry_for(args)
        noise.choose(args, self.registry)
        name = model if isinstance(model, str) else getattr(model.config, "_name_or_path", "")
        self.embedded = model if isinstance(model, str) and model in self.registry.models else None
        model, built = models.resolve(model, self.registry, args)
        tokenizer = tokenizer or built or models.load_tokenizer(name, args)
        self.template_name = install_template(tokenizer, name, args, self.registry)
        return model, tokenizer

    def _load_from_checkpoint(self: Any, checkpoint: str, model: Any = None) -> None:
        """As transformers'; peft would leave 16-bit adapters in 32 bits, and the run inexact."""
        target = self.model if model is None else model
        dtypes = {name: parameter.dtype for name, parameter in target.named_parameters()}
        super()._load_from_checkpoint(checkpoint, model)  # type: ignore[misc]
        for name, parameter in target.named_parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(dtypes.get(name, parameter.dtype))

    def _save(self: Any, output_dir: str | None = None, state_dict: Any = None) -> None:
        """As TRL's; an adapter on an embedded model also says on which weights it belongs."""
        with chat.inference_template(self.processing_class):
            super()._save(output_dir, state_dict)  # type: ignore[misc]
        file = Path(output_dir or self.args.output_dir) / "adapter_config.json"
        if self.embedded is not None and file.exists():
            # after peft has written it, which would ask the hub for a model of that name
            settings = json.loads(file.read_text(encoding="utf-8"))
            settings["base_model_name_or_path"] = self.embedded
            settings["revision"] = models.revision_of_seed(self.args.seed)
            file.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")


def install_template(
    tokenizer: PreTrainedTokenizerBase, model_name: str, args: Any, registry: Registry
) -> str | None:
    """Install the named or recognised chat template; return its name, None where there is none."""
    named: str | None = getattr(args, "chat_template", None)
    name = named or chat.recognise(tokenizer, model_name, registry)
    if name is None:
        if tokenizer.chat_template is not None:
            logger.info("chat template: the tokenizer's own, which renders as no registered one")
        return None
    chat.install(tokenizer, chat.resolve(name, registry))
    logger.info("chat template: %s (%s)", name, "named" if named else "recognised")
    return name
