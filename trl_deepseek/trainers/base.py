"""What all trainers share: checked inputs on the way in, the inference template on the way out.

``PluginTrainer`` stands before a TRL trainer in the bases of each of ours. It touches TRL at the
constructor, where names have become objects and quantized models are loaded; around ``train``,
where the embeddings of the policy are noised; at each batch, loss, gradient norm and save, which
the watch of :mod:`trl_deepseek.health` looks at; and at ``_save``, where the tokenizer must carry
the template that generates, not the one that trains.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from accelerate import PartialState
from torch import nn

from trl_deepseek import (
    chat,
    checkpoints,
    data,
    environment,
    models,
    noise,
    quantization,
    report,
    secrets,
)
from trl_deepseek.adapters import fused
from trl_deepseek.errors import ConfigError
from trl_deepseek.registry import Registry
from trl_deepseek.rollouts import record
from trl_deepseek.segments import PrefixSharing
from trl_deepseek.trainers import (
    card,
    idle_rules,
    manifest,
    measuring,
    output_folder,
    provenance,
    recording,
    room,
    trial,
    uneven,
)
from trl_deepseek.trainers.inputs import Inputs, read_split, registry_for
from trl_deepseek.trainers.measuring import MeasuredEvaluation
from trl_deepseek.trainers.room import Room
from trl_deepseek.trainers.saving import TakeUp, WholeCheckpoints
from trl_deepseek.trainers.stopping import StoppableEvaluation
from trl_deepseek.trainers.watching import WatchedTraining
from trl_deepseek.types import DatasetKind

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class PluginTrainer(WatchedTraining, StoppableEvaluation, MeasuredEvaluation, WholeCheckpoints):
    """Mixin in front of a TRL trainer; see the module's docstring."""

    CONFIG: ClassVar[tuple[type, type]]  # ours, and TRL's, of which it is a subclass

    inputs: Inputs  # what it was given, as checked
    embedding_noise: noise.EmbeddingNoise | None = None
    _run: dict[str, Any] | None = None  # its manifest, once it is needed
    left_out: dict[str, list[int]]  # rows of each dataset that cannot be learned from, from 0

    def __init__(self, inputs: Inputs, **options: Any) -> None:
        """Hold the model as ``args.quantization`` says, then hand everything to TRL.

        Args:
            inputs: As ``check`` of the trainer returned them.
            **options: Keyword arguments of TRL's constructor that take precedence over them.

        Raises:
            ConfigError: Noise where processes hold parts of a document.
        """
        self.inputs = inputs
        secrets.guard(inputs.args)  # before anything saves or shows them
        self.left_out = {}
        self._prefix_sharing = PrefixSharing(getattr(inputs.args, "prefix_sharing", "auto"))
        self._settings = provenance.settings_of(inputs.args)  # before TRL settles them further
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
        start = checkpoints.start_of(inputs.args)
        if start is not None:
            checkpoints.check_adapter(start, given.get("peft_config"))
        with output_folder.not_made_in_vain(Path(inputs.args.output_dir)):
            with (
                environment.without_notes_on_defaults(),
                recording.heard(inputs.said.append),
                data.cache_explained(),
            ):
                super().__init__(model, **given)  # type: ignore[call-arg]
            if isinstance(inputs.model, str) and not packed and PartialState().is_main_process:
                models.require_finite(inputs.model, self.model.named_parameters())  # type: ignore[attr-defined]
        self._fuse_adapters()
        if inputs.args.fp16 and inputs.has_adapter:
            quantization.hold_trained_in_float32(self.model)  # type: ignore[attr-defined]
        self.add_callback(TakeUp(self))  # type: ignore[attr-defined]
        self.add_callback(Room(self))  # type: ignore[attr-defined]
        self.add_callback(recording.Log())  # type: ignore[attr-defined]
        if start is not None:
            self._start_from(start)
        chat.set_stop_tokens(self.model, inputs.tokenizer, saves_adapter=inputs.has_adapter)  # type: ignore[attr-defined]
        self.neftune_noise_alpha = None  # the noise has it; here it would noise every pass
        self.embedding_noise = self._embedding_noise()
        self._begin_watch()

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

    @classmethod
    def check(
        cls,
        model: str | PreTrainedModel,
        args: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        registry: Registry | None = None,
        eval_kinds: Mapping[DatasetKind, Any] | None = None,
        **options: Any,
    ) -> Inputs:
        """Every check of the constructor that needs no model; raises as it does.

        The arguments are the constructor's; ``registry`` is that of the run, None to load the one
        that the config asks for, and ``eval_kinds`` the rows to evaluate on in each kind that
        metrics may need, where there are several.
        """
        args = cls._config(args)
        inputs = Inputs(
            registry or registry_for(args),
            args,
            model,
            processing_class,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            options=options,
        )
        with recording.heard(inputs.said.append):
            trial.check(args)
            if args.eval_strategy != "no" and eval_dataset is None:
                raise ConfigError(
                    "eval_dataset: there are no rows to evaluate on, and eval_strategy is "
                    f"{str(getattr(args.eval_strategy, 'value', args.eval_strategy))!r}"
                )
            with data.cache_explained():
                inputs.each_split(lambda rows, _: data.each(rows, data.known_with_code))
                cls._check(inputs)
            inputs.measures = measuring.check(inputs, eval_dataset, eval_kinds)
            idle_rules.tell_of_training(inputs)
        return inputs

    @classmethod
    def _config(cls, args: Any) -> Any:
        """A config that may be settled without changing the user's."""
        ours, stock = cls.CONFIG
        if args is None:
            return ours()
        if not isinstance(args, stock):
            raise ConfigError(
                f"{cls.__name__} needs a {stock.__name__}, not a {type(args).__name__}"
            )
        return copy.copy(args)

    @classmethod
    def _check(cls, inputs: Inputs) -> None:
        """The checks of one trainer, in the order in which they are told."""
        raise NotImplementedError

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
                if measuring.TOKENS.intersection(getattr(part, "column_names", None) or ()):
                    return part
                rows = self._rows(data.known_with_code(part), "eval_dataset")
                return read_split(self.inputs, rows, "eval_dataset")

            with data.cache_explained():
                eval_dataset = data.each(eval_dataset, read)
        metrics: dict[str, float] = super().evaluate(eval_dataset, *args, **kwargs)
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

    def train(self: Any, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As TRL's, with the noise on the model meanwhile.

        ``True`` goes on from the newest whole checkpoint; torn ones that are passed over are named,
        and so is what has changed since. However it ends, the run's report is written.

        Raises:
            ConfigError: There is no whole checkpoint, or the one named is not whole.
        """
        self._resumed = self._checkpoint_to_resume(resume_from_checkpoint)
        if self._resumed is not None and self.is_world_process_zero():
            provenance.compare(Path(self._resumed), self._made_with())
        uneven.tell(self)
        self._fuse_adapters()  # other trainers may have had the same models meanwhile
        noised, folder = self.embedding_noise, Path(self.args.output_dir)
        with contextlib.ExitStack() as around:
            around.enter_context(room.explained(self.args.output_dir))
            if self.args.should_save:
                around.enter_context(output_folder.alone_in(folder))
                self._object_to(folder)
                if self.is_world_process_zero():
                    around.callback(report.written_beside, folder)  # once it is noted how it went
                with room.explained(self.args.output_dir):
                    around.enter_context(manifest.noted(folder, self._manifest(), self._resumed))
                said, resumes = self.inputs.said, self._resumed is not None
                around.enter_context(
                    recording.kept(folder, said, lambda: self.state.global_step, resumes)
                )
            around.enter_context(environment.without_notes_on_defaults())
            if noised is not None:
                around.enter_context(noised.attached(self.model))
            result = super().train(self._resumed, *args, **kwargs)  # type: ignore[misc]
        return result._replace(training_loss=result.metrics["train_loss"])

    def _fuse_adapters(self: Any) -> None:
        """Of all models: with sharing off they are held as by TRL, whoever had them before."""
        held = (self.model, getattr(self, "ref_model", None), *getattr(self, "reward_funcs", ()))
        for model in held:
            if isinstance(model, nn.Module):
                fused.fuse(model, self._prefix_sharing.mode != "off")

    def _start_from(self: Any, start: checkpoints.Start) -> None:
        """Take a checkpoint's weights; full ones have been loaded in the place of the model."""
        if start.adapter:
            self._load_from_checkpoint(start.folder)
        if self.is_world_process_zero():
            what = "adapter" if start.adapter else "weights"
            logger.info("a fresh run from the %s of %s", what, start.folder)

    def _object_to(self: Any, folder: Path) -> None:
        """Warn of a run from Python that mixes with another."""
        if self.inputs.made_with is None and self._resumed is None:
            found = output_folder.objection(folder, self._made_with())
            if found:
                logger.warning("output_dir: %s", found)

    def _made_with(self: Any) -> dict[str, Any]:
        if self.inputs.made_with is None:
            self.inputs.made_with = provenance.of(self.inputs, self._settings)
        made: dict[str, Any] = self.inputs.made_with
        return made

    def _manifest(self: Any) -> dict[str, Any]:
        if self._run is None:
            self._run = manifest.of(self.inputs, self._made_with(), self.accelerator.num_processes)
        run: dict[str, Any] = self._run
        return run

    def create_model_card(self: Any, *args: Any, **kwargs: Any) -> None:
        """As TRL's, with the losses by name and what the run was made of."""
        run = self._manifest()
        with card.named(self, run["parts"]["losses"] or ()):
            super().create_model_card(*args, **kwargs)  # type: ignore[misc]
        if self.is_world_process_zero():
            file = Path(self.args.output_dir, "README.md")
            card.extend(file, run, self.state.log_history, self.registry)

    def _write_own(self: Any, folder: Path) -> None:
        super()._write_own(folder)
        if self.is_world_process_zero():
            record.write_manifest(folder, self._manifest())

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
        with self._model_aside(output_dir) as folder:
            quiet = environment.without_notes_on_defaults()
            with quiet, chat.inference_template(self.processing_class):
                super()._save(str(folder), state_dict)  # type: ignore[misc]
            file = folder / "adapter_config.json"
            if self.inputs.embedded is not None and file.exists():
                # after peft has written it, which would ask the hub for a model of that name
                settings = json.loads(file.read_text(encoding="utf-8"))
                settings["base_model_name_or_path"] = self.inputs.embedded
                settings["revision"] = models.revision_of_seed(self.args.seed)
                text = json.dumps(settings, indent=2, sort_keys=True)
                file.write_text(text, encoding="utf-8")
