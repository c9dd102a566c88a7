"""What all trainers share: checked inputs on the way in, the inference template on the way out.

``PluginTrainer`` stands before a TRL trainer in the bases of each of ours. It touches TRL at the
constructor, where names have become objects and quantized models are loaded; around ``train``,
where the embeddings of the policy are noised; at each batch, loss, gradient norm and save, which
the watch of :mod:`trl_deepseek.health` looks at; and at ``_save``, where the tokenizer must carry
the template that generates, not the one that trains.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers.trainer_utils import get_last_checkpoint

from trl_deepseek import chat, data, health, models, noise, quantization
from trl_deepseek.errors import ConfigError
from trl_deepseek.health.advice import Advice
from trl_deepseek.registry import Registry
from trl_deepseek.trainers import provenance
from trl_deepseek.trainers.inputs import Inputs, read_split

# Columns of rows that have been through a trainer already.
TOKENIZED = frozenset({"input_ids", "prompt_ids", "chosen_ids", "chosen_input_ids"})


class PluginTrainer:
    """Mixin in front of a TRL trainer; see the module's docstring."""

    inputs: Inputs  # what it was given, as checked
    embedding_noise: noise.EmbeddingNoise | None
    left_out: dict[str, list[int]]  # rows of each dataset that cannot be learned from, from 0
    watch: health.Watch

    def __init__(self, inputs: Inputs, **options: Any) -> None:
        """Hold the model as ``args.quantization`` says, then hand everything to TRL.

        Args:
            inputs: As ``check`` of the trainer returned them.
            **options: Keyword arguments of TRL's constructor that take precedence over them.

        Raises:
            ConfigError: Noise where processes hold parts of a document.
        """
        self.inputs = inputs
        self.left_out = {}
        self._made: dict[str, Any] | None = None
        given = {
            "args": inputs.args,
            "train_dataset": inputs.train_dataset,
            "eval_dataset": inputs.eval_dataset,
            "processing_class": inputs.tokenizer,
            **inputs.options,
            **options,
        }
        packed = self._check_base(given)
        model, given = quantization.apply(inputs.model, given, inputs.registry)
        super().__init__(model, **given)  # type: ignore[call-arg]
        if isinstance(inputs.model, str) and not packed and PartialState().is_main_process:
            models.require_finite(inputs.model, self.model.named_parameters())  # type: ignore[attr-defined]
        chat.set_stop_tokens(self.model, inputs.tokenizer)  # type: ignore[attr-defined]
        self.neftune_noise_alpha = None  # the noise has it; here it would noise every pass
        self.embedding_noise = self._embedding_noise()
        self.watch = self._watch()
        self.add_callback(self._advice())  # type: ignore[attr-defined]

    def _check_base(self, given: dict[str, Any]) -> bool:
        """Whether a model on disk will be packed as it is loaded; its files are checked first.

        Values that are not finite are lost in packing. What stays as it is is checked in memory.
        """
        name, args = self.inputs.model, self.inputs.args
        if not isinstance(name, str):
            return False
        chosen = quantization.choose(args, self.inputs.registry)
        packed = bool(chosen and chosen.bits) or given.get("quantization_config") is not None
        if (packed or not Path(name).is_dir()) and PartialState().is_main_process:
            models.check_weights(name, self.inputs.registry, args, finite=packed)
        return packed

    @property
    def registry(self) -> Registry:
        """The registry of the run."""
        return self.inputs.registry

    @property
    def template_name(self) -> str | None:
        """The name of the chat template; None where the tokenizer's own was kept."""
        return self.inputs.template_name

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As TRL's; a dataset given here is read and checked as the constructor's are."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):

            def read(part: Any) -> Any:
                if TOKENIZED.intersection(getattr(part, "column_names", None) or ()):
                    return part
                return read_split(self.inputs, self._rows(part, "eval_dataset"), "eval_dataset")

            eval_dataset = data.each(eval_dataset, read)
        metrics: dict[str, float] = super().evaluate(eval_dataset, *args, **kwargs)  # type: ignore[misc]
        return metrics

    def _rows(self, dataset: Any, split: str) -> Any:
        """The dataset in the layout that TRL reads, its rows checked; each trainer has its own."""
        return dataset

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

    def _watch(self: Any) -> health.Watch:
        losses = getattr(self.args, "loss_type", None) or "loss"
        folder = self.args.output_dir
        return health.Watch(
            [losses] if isinstance(losses, str) else losses,
            folder,
            self.processing_class,
            self.accelerator.process_index,
            step=lambda: self.state.global_step,
            last_checkpoint=lambda: get_last_checkpoint(folder) if Path(folder).is_dir() else None,
        )

    def _advice(self: Any) -> Advice:
        aggregation = getattr(self.args, "multi_objective_aggregation", None)
        normalized = aggregation == "normalize_then_sum"
        return Advice(self._weights_by_name, normalized, getattr(self.args, "beta", None))

    def _weights_by_name(self) -> dict[str, float]:
        """What each reward counts now; nothing where there are none."""
        return {}

    def _prepare_inputs(self: Any, inputs: Any) -> Any:
        """As TRL's; what the model is trained on is what the watch would keep."""
        batch = super()._prepare_inputs(inputs)  # type: ignore[misc]
        if self.model.training:
            self.watch.saw(batch)
        return batch

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As TRL's; a loss that is not finite stops the run."""
        with self.watch.around_step():
            loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
            self.watch.check_loss(loss)
        return loss

    def _get_grad_norm(self: Any, model: Any, grad_norm: Any = None) -> Any:
        """As transformers', which has it for the log; one that is not finite stops the run."""
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[misc]
        self.watch.check_gradient(norm, self.accelerator.scaler, model)
        return norm

    def save_model(self: Any, *args: Any, **kwargs: Any) -> None:
        """As TRL's, of weights that are finite."""
        self.watch.check_weights(self.model)
        super().save_model(*args, **kwargs)  # type: ignore[misc]

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
            self._made = provenance.record(
                self.args, self.inputs.train_dataset, template, self.registry
            )
        return self._made

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        """As TRL's, and what the run is made with beside it."""
        self.watch.check_weights(self.model, self.optimizer)
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        if self.is_world_process_zero():
            folder = Path(self._get_output_dir(trial=trial))
            folder /= f"checkpoint-{self.state.global_step}"
            if folder.is_dir():
                provenance.write(folder, self._made_with())

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
        if self.inputs.embedded is not None and file.exists():
            # after peft has written it, which would ask the hub for a model of that name
            settings = json.loads(file.read_text(encoding="utf-8"))
            settings["base_model_name_or_path"] = self.inputs.embedded
            settings["revision"] = models.revision_of_seed(self.args.seed)
            file.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
