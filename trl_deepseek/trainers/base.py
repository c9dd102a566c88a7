"""What all trainers share: names become objects on the way in, the inference template goes out.

``PluginTrainer`` stands before a TRL trainer in the bases of each of ours. It touches TRL at the
constructor, where it replaces names and loads quantized models; around ``train``, where the
embeddings of the policy are noised; and at ``_save``, where the tokenizer must carry the template
that generates, not the one that trains.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer_utils import get_last_checkpoint

from trl_deepseek import chat, data, models, noise, quantization
from trl_deepseek.errors import ConfigError, TemplateError
from trl_deepseek.plugin_loading import load_registry
from trl_deepseek.registry import Registry
from trl_deepseek.trainers import provenance

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# Columns of rows that have been through a trainer already.
TOKENIZED = frozenset({"input_ids", "prompt_ids", "chosen_ids", "chosen_input_ids"})


def registry_for(args: Any) -> Registry:
    """The registry that a config asks for; a plain TRL config asks for the installed plugins."""
    return load_registry(getattr(args, "plugins", None) or (), getattr(args, "block", None) or ())


class PluginTrainer:
    """Mixin in front of a TRL trainer; see the module's docstring."""

    registry: Registry
    template_name: str | None
    embedding_noise: noise.EmbeddingNoise | None
    embedded: str | None  # the name of the embedded model that is trained
    left_out: dict[str, list[int]]  # rows of each dataset that cannot be learned from, from 0

    def __init__(self, model: Any, *positional: Any, **options: Any) -> None:
        """Hold the model as ``args.quantization`` says, then hand everything to TRL.

        Raises:
            ConfigError: Noise where processes hold parts of a document.
            DataError: A conversation would not be trained on as it reads.
            TemplateError: There are conversations and no template to render them.
        """
        self.left_out = {}
        self._given = options.get("train_dataset")
        self._made: dict[str, Any] | None = None
        options = self._read_conversations(options)
        model, options = quantization.apply(model, options, self.registry)
        super().__init__(model, *positional, **options)  # type: ignore[call-arg]
        self.neftune_noise_alpha = None  # the noise has it; here it would noise every pass
        self.embedding_noise = self._embedding_noise()

    def _read_conversations(self, options: dict[str, Any]) -> dict[str, Any]:
        """The constructor's options, their datasets checked and ready to be rendered.

        Everything that would not be trained on as it reads is refused before the model is loaded.
        """
        args, tokenizer = options["args"], options["processing_class"]
        if getattr(args, "control_tokens", "error") == "escape":
            chat.escape(tokenizer)
        read = dict(options)
        for split in ("train_dataset", "eval_dataset"):
            read[split] = data.each(
                options.get(split),
                partial(self._read_split, split=split, args=args, tokenizer=tokenizer),
            )
        return read

    def _read_split(
        self, dataset: Any, split: str, args: Any, tokenizer: PreTrainedTokenizerBase
    ) -> Any:
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
        if self.template_name is not None:
            dataset = chat.with_thinking(dataset, tokenizer)
        return chat.check_conversations(
            dataset,
            tokenizer,
            source,
            # A template that we do not know may be meant to be filled with tokens.
            control_tokens=self.template_name is not None
            and getattr(args, "control_tokens", "error") == "error",
            show_progress=not args.disable_tqdm,
        )

    def _rows(self, dataset: Any, split: str, args: Any) -> Any:
        """The dataset in the layout that TRL reads, its rows checked; each trainer has its own."""
        return dataset

    def evaluate(
        self: Any, eval_dataset: Any = None, *args: Any, **kwargs: Any
    ) -> dict[str, float]:
        """As TRL's; a dataset given here is read and checked as the constructor's are."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):

            def read(part: Any) -> Any:
                if TOKENIZED.intersection(getattr(part, "column_names", None) or ()):
                    return part
                part = self._rows(part, "eval_dataset", self.args)
                return self._read_split(part, "eval_dataset", self.args, self.processing_class)

            eval_dataset = data.each(eval_dataset, read)
        metrics: dict[str, float] = super().evaluate(eval_dataset, *args, **kwargs)  # type: ignore[misc]
        return metrics

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

    def train(self: Any, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As TRL's, with the noise on the model meanwhile.

        What has changed since the checkpoint that the run goes on from is said.
        """
        self._compare_with(resume_from_checkpoint)
        noised = self.embedding_noise
        with contextlib.nullcontext() if noised is None else noised.attached(self.model):
            return super().train(resume_from_checkpoint, *args, **kwargs)  # type: ignore[misc]

    def _compare_with(self: Any, checkpoint: Any) -> None:
        if checkpoint is True:
            folder = self.args.output_dir
            checkpoint = get_last_checkpoint(folder) if Path(folder).is_dir() else None
        if isinstance(checkpoint, (str, os.PathLike)) and self.is_world_process_zero():
            provenance.compare(Path(checkpoint), self._made_with())

    def _made_with(self: Any) -> dict[str, Any]:
        if self._made is None:
            template = getattr(self.processing_class, "chat_template", None)
            self._made = provenance.record(self.args, self._given, template, self.registry)
        return self._made

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        """As TRL's, and what the run is made with beside it."""
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        if self.is_world_process_zero():
            folder = Path(self._get_output_dir(trial=trial))
            folder /= f"checkpoint-{self.state.global_step}"
            if folder.is_dir():
                provenance.write(folder, self._made_with())

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
