"""What the training commands share: options, the checks before a model is loaded, the run."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trl

from trl_deepseek import chat, environment, models, noise
from trl_deepseek.cli import dry_run
from trl_deepseek.errors import ConfigError
from trl_deepseek.jobs import adapters, datasets
from trl_deepseek.jobs.options import (
    DataArguments,
    ModelArguments,
    add_dataclasses,
    build_dataclasses,
)
from trl_deepseek.registry import Registry
from trl_deepseek.types import DatasetKind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def add_training_arguments(
    parser: argparse.ArgumentParser, config_class: type, *more: type
) -> None:
    """The options of one training command."""
    add_dataclasses(parser, [DataArguments, *more, config_class, ModelArguments])
    adapters.add_flags(parser)
    parser.add_argument("--config", metavar="FILE", help="YAML file of options; flags win over it.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object at the end.")
    dry_run.add_flags(parser)
    parser.set_defaults(disable_tqdm=not sys.stderr.isatty(), config_class=config_class, tells=True)


@dataclass
class Job:
    """One checked training job: everything named in the options, found."""

    registry: Registry
    config: Any
    model: Any  # its name
    train_dataset: Any  # Dataset or IterableDataset
    eval_dataset: Any
    trainer_options: dict[str, Any]

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer, without the model.

        Raises:
            ModelError: There is none.
        """
        if self.model in self.registry.models:  # small enough to be built for it
            return self.registry.models[self.model]()[1]
        return models.load_tokenizer(self.model, self.config)


def prepare(args: argparse.Namespace, config_class: type, kind: DatasetKind) -> Job:
    """Check the options and load the data, before a model is loaded.

    Raises:
        UserError: Something the options name does not exist or does not fit.
    """
    from trl_deepseek.trainers.base import registry_for

    if not sys.stderr.isatty():
        hide_progress_bars()
    if args.model_name_or_path is None:
        raise ConfigError("--model_name_or_path is required")
    if args.dataset_name is None and args.datasets is None:
        raise ConfigError("--dataset_name is required")
    adapters.apply_flags(args)
    _apply_lora_defaults(args)
    args.resume_from_checkpoint = checkpoint_to_resume(args)
    config, source, model = build_dataclasses(args, [config_class, DataArguments, ModelArguments])
    registry = registry_for(config)
    if config.chat_template is not None:
        chat.resolve(config.chat_template, registry)
    noise.choose(config, registry)
    name = model.model_name_or_path
    models.check(name, registry)

    environment.check_trackers(config)
    environment.check_extras(config, model.attn_implementation)
    environment.check_output_dir(config.output_dir)
    args.dataset_name = source.source
    options = {
        "peft_config": adapters.adapter(args, config, model, registry),
        "quantization_config": None if config.quantization else trl.get_quantization_config(model),
    }
    if name not in registry.models:
        config.model_init_kwargs = {
            "revision": model.model_revision,
            "attn_implementation": model.attn_implementation,
            "dtype": model.dtype,
            **(config.model_init_kwargs or {}),
        }
    return Job(registry, config, name, *datasets.load(source, config, registry, kind), options)


def run(args: argparse.Namespace, build: Callable[[], Any]) -> int:
    """Build the trainer, train, save, and say where; progress goes to stderr with ``--json``."""
    with machine_readable(args.json):
        try:
            trainer = build()
        except ValueError as error:  # how TRL refuses options that do not go together
            raise ConfigError(str(error)) from error
        output = trainer.args.output_dir
        try:
            result = trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(saved_checkpoint(output)) from None
        trainer.save_model(output)
        if trainer.args.push_to_hub:
            trainer.push_to_hub()
    if not trainer.is_world_process_zero():
        return 0
    if args.json:
        print(json.dumps({"output_dir": str(output), "metrics": result.metrics}))
    else:
        print(f"model and tokenizer saved in {output}")
    return 0


def hide_progress_bars() -> None:
    """Switch off the bars of datasets and transformers, whose redraws would fill a log file."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.disable_progress_bar()


@contextlib.contextmanager
def machine_readable(wanted: bool) -> Iterator[None]:
    """Keep stdout for the one JSON object: everything printed inside goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr) if wanted else contextlib.nullcontext():
        yield


def saved_checkpoint(output_dir: str) -> str:
    """One clause about what an interrupted run leaves behind."""
    from transformers.trainer_utils import get_last_checkpoint

    last = get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None
    if last is None:
        return "no checkpoint had been saved yet"
    return f"the last checkpoint is {last}; go on with --resume_from_checkpoint {last}"


def checkpoint_to_resume(args: argparse.Namespace) -> str | None:
    """The folder that ``--resume_from_checkpoint`` means; ``true`` is the last one of the run.

    Raises:
        ConfigError: There is no such checkpoint.
    """
    from transformers.trainer_utils import get_last_checkpoint

    wanted = args.resume_from_checkpoint
    if wanted is None or wanted.lower() == "false":
        return None
    if wanted.lower() != "true":
        if not Path(wanted, "trainer_state.json").is_file():
            raise ConfigError(f"--resume_from_checkpoint: {wanted!r} is no checkpoint folder")
        return str(wanted)
    output = args.output_dir or "trainer_output"
    last: str | None = get_last_checkpoint(output) if Path(output).is_dir() else None
    if last is None:
        raise ConfigError(
            f"--resume_from_checkpoint true: no checkpoint in the output folder {output!r}"
        )
    return last


def _apply_lora_defaults(args: argparse.Namespace) -> None:
    """``--use_peft`` also means weight decay 0.01 and 3 % warm-up, unless they are given."""
    if args.use_peft:
        for option, value in (("weight_decay", 0.01), ("warmup_steps", 0.03)):
            if option not in args.given:
                setattr(args, option, value)
