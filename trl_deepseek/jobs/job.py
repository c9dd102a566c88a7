"""A job: what the options of one training command mean, checked before a model is loaded.

Two steps. :func:`settle` finds every name that needs no data (``--dry_run`` stops there);
the kind's ``check`` goes on to read the rows and to make every check of its trainer's constructor,
by calling that trainer's own ``check``. The registry is loaded once and goes all the way into the
trainer.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any

import trl

from trl_deepseek import checkpoints, environment, models, quantization
from trl_deepseek.errors import ConfigError, UserError
from trl_deepseek.jobs import adapters, datasets, idle_rules, running
from trl_deepseek.jobs.options import DataArguments, ModelArguments, build_dataclasses
from trl_deepseek.registry import Registry
from trl_deepseek.trainers import idle
from trl_deepseek.trainers.inputs import Asked, Inputs, check_names, registry_for
from trl_deepseek.types import DatasetKind, Quantization

# What parsing leaves beside the options, and options that are about the one call.
UNSAID = frozenset(
    {"given", "places", "without", "tells", "command", "config", "json", "dry_run", "gpu_memory"}
)


@dataclass
class Job:
    """One training job.

    Attributes:
        options: As parsed; ``options.given`` are those that the user gave, and ``options.without``,
            where there is one, the rows of each dataset that are left out.
        registry: The registry of the run.
        config: The trainer's, built from the options.
        model_options: TRL's ``ModelConfig``, built from the options.
        adapter: The LoRA that the options describe; None without.
        quantization: How the base is held, also by TRL's own flags; None as it is.
        trainer: The trainer's class; None until the job is checked.
        inputs: Of the trainer; None until the job is checked.
        train_dataset: The rows as they were loaded; None until the job is checked.
        eval_dataset: Likewise; None where nothing is evaluated.
        later: What could not be checked yet, each in a sentence.
    """

    options: argparse.Namespace
    registry: Registry
    config: Any
    model_options: Any
    adapter: Any
    quantization: Quantization | None
    trainer: Any = None
    inputs: Inputs | None = None
    train_dataset: Any = None
    eval_dataset: Any = None
    later: list[str] = field(default_factory=list)

    @property
    def model(self) -> str:
        """The name of the model."""
        return str(self.model_options.model_name_or_path)

    def check(self, trainer: Any, kind: DatasetKind, **options: Any) -> Job:
        """Read the rows and make every check of ``trainer``'s constructor.

        Args:
            trainer: The class.
            kind: The kind of rows that it learns from.
            **options: What its ``check`` takes besides.

        Raises:
            UserError: Something does not exist or does not fit.
        """
        self.config.resume_from_checkpoint = running.checkpoint_to_resume(self.config)
        idle.tell(self.config, idle_rules.RESUMED, self.config, self.options.given)
        (source,) = build_dataclasses(self.options, [DataArguments])
        rules = [*idle_rules.DATA, *(idle_rules.MIXED if source.parts else ())]
        idle.tell(source, rules, self.config, self.options.given)
        self.train_dataset, self.eval_dataset = datasets.load(
            source, self.config, self.registry, kind, getattr(self.options, "without", {})
        )
        stock = trl.get_quantization_config(self.model_options)
        kinds = datasets.kinds_to_measure(source, self.config, self.registry)
        self.trainer = trainer
        try:
            self.inputs = trainer.check(
                self.model,
                self.config,
                self.train_dataset,
                self.eval_dataset,
                registry=self.registry,
                eval_kinds=kinds,
                peft_config=self.adapter,
                quantization_config=None if self.config.quantization else stock,
                **options,
            )
        except UserError:
            raise
        except ValueError as error:  # how TRL and peft refuse options that do not go together
            raise ConfigError(str(error)) from error
        given = frozenset(self.options.given)
        asked = {name: value for name, value in vars(self.options).items() if name not in UNSAID}
        self.inputs.asked = Asked(self.options.command, asked, given.intersection(asked))
        return self

    def build(self) -> Any:
        """The trainer of a checked job, with its model loaded."""
        try:
            return self.trainer(self.inputs)
        except UserError:
            raise
        except ValueError as error:
            raise ConfigError(str(error)) from error


def settle(options: argparse.Namespace, config_class: type, registry: Registry) -> Job:
    """The job that the options describe, as far as that needs no data and no weights.

    Raises:
        UserError: An option contradicts another, or a model, quantization or adapter target does
            not exist.
    """
    if options.model_name_or_path is None:
        raise ConfigError("--model_name_or_path is required")
    options = adapters.settled(options)
    config, model = build_dataclasses(options, [config_class, ModelArguments])
    if config.enable_jit_checkpoint:
        raise ConfigError(
            "enable_jit_checkpoint would take SIGTERM from the command, which finishes the step, "
            "saves a checkpoint and says how to go on\n  leave it out"
        )
    start = checkpoints.start_of(config)
    if start is not None and not start.adapter:
        options.model_name_or_path = model.model_name_or_path = start.folder
    if not getattr(options, "dry_run", False):
        check_names(config, registry)
        environment.check_extras(config, model.attn_implementation)
    dry = getattr(options, "dry_run", False)
    models.check(model.model_name_or_path, registry, needs_weights=not dry)
    adapter = adapters.adapter(options, config, model, registry)
    if start is not None:
        checkpoints.check_adapter(start, adapter)
    chosen = quantization.choose(config, registry) or adapters.stock_quantization(model)
    if model.model_name_or_path not in registry.models:
        config.model_init_kwargs = {
            "revision": model.model_revision,
            "attn_implementation": model.attn_implementation,
            "dtype": model.dtype,
            **(config.model_init_kwargs or {}),
        }
    settled = Job(options, registry, config, model, adapter, chosen)
    idle.tell(model, idle_rules.MODEL, settled, options.given)
    return settled


__all__ = ["Job", "registry_for", "settle"]
