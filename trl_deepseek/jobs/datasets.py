"""The datasets that a job's options name: one or several, columns renamed, and held-out rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trl_deepseek import data, evaluation
from trl_deepseek.errors import ConfigError
from trl_deepseek.jobs.options import DataArguments
from trl_deepseek.registry import Registry
from trl_deepseek.types import DatasetKind

TRLS_KEY = "skip_prepare_dataset"  # of SFTConfig.dataset_kwargs, the same option


def load(
    options: DataArguments,
    config: Any,
    registry: Registry,
    kind: DatasetKind,
    without: Mapping[str, Collection[int]] = MappingProxyType({}),
) -> tuple[Any, Any]:
    """The rows to train on and those to evaluate on, None where the run does not evaluate.

    Args:
        options: Which datasets, and what is done to them.
        config: The training config: its seed, and whether it evaluates.
        registry: Where embedded datasets are looked up.
        kind: Which shape of an embedded dataset is wanted.
        without: Rows to leave out of ``train`` and of ``eval``, tables both; for a validation that
            goes on behind the rows that it has refused.

    Raises:
        ConfigError: Options contradict each other or are malformed.
        DataError: A dataset cannot be loaded, or has no such column.
    """
    if options.dataset_name is None and not options.parts:
        raise ConfigError("--dataset_name is required")
    mapping = data.column_mapping(options.columns or [])
    evaluates = config.eval_strategy != "no"
    if getattr(config, "eval_on_start", False) and not evaluates:
        raise ConfigError(
            "eval_on_start: there is nothing to evaluate on: eval_strategy is 'no'\n"
            "  add --eval_strategy steps or epoch"
        )
    if options.eval_dataset is not None and not evaluates:
        raise ConfigError(
            "eval_dataset names rows that nothing would look at: eval_strategy is 'no'\n"
            "  add --eval_strategy steps or epoch"
        )
    if options.parts and evaluates and options.eval_dataset is None:
        raise ConfigError(
            "datasets are for training; name the rows to evaluate on with --eval_dataset"
        )
    if (
        evaluates
        and options.eval_dataset is None
        and options.dataset_name not in registry.datasets
        and Path(str(options.dataset_name)).expanduser().is_file()
    ):
        raise ConfigError(
            f"eval_strategy: {options.dataset_name} is one file, in which no rows are held out\n"
            "  name a file with the rows to evaluate on: --eval_dataset FILE"
        )
    turned: Any = data.as_messages if options.as_messages else lambda rows: rows
    streaming, subset = options.dataset_streaming, options.dataset_config

    def one(name: str, split: str, held_out: bool) -> Any:
        load = data.load_held_out if held_out else data.load
        rows = load(
            name,
            registry,
            kind=kind,
            split=split,
            subset=None if held_out else subset,
            seed=config.seed,
            streaming=streaming,
            options=options_of(name, options),
        )
        return turned(data.rename_columns(rows, mapping, name))

    if options.parts:
        train = data.mix(options.parts, registry, kind=kind, seed=config.seed, streaming=streaming)
        train = turned(data.rename_columns(train, mapping, options.source))
    else:
        train = one(str(options.dataset_name), options.dataset_train_split, held_out=False)
    train = data.without(train, without.get("train", ()))
    if not evaluates:
        return train, None
    named, split = options.eval_dataset, options.dataset_test_split
    held_out = one(named or str(options.dataset_name), split, held_out=named is not None)
    return train, data.without(held_out, without.get("eval", ()))


def options_of(name: str, options: DataArguments) -> Any:
    """The ``dataset_kwargs`` of one of the datasets: they are about that which is trained on."""
    if name != options.dataset_name or options.dataset_kwargs is None:
        return None
    own: Any = options.dataset_kwargs
    return {key: value for key, value in own.items() if key != TRLS_KEY}


def kinds_to_measure(
    options: DataArguments, config: Any, registry: Registry
) -> dict[DatasetKind, Any] | None:
    """The held-out rows of an embedded dataset in each kind, where metrics are measured on them.

    None where there are none, or where the rows are a user's, which are of one kind.
    """
    name = options.eval_dataset or options.dataset_name
    measures = bool(getattr(config, "eval_metrics", None)) and config.eval_strategy != "no"
    if not measures or name is None or name not in registry.datasets:
        return None
    measured = evaluation.resolve(config.eval_metrics, registry, config.metric_kwargs)
    split = options.dataset_test_split
    return {
        kind: data.load_held_out(
            name,
            registry,
            kind=kind,
            split=split,
            seed=config.seed,
            options=options_of(name, options),
        )
        for kind in {each.rows for each in measured}
        if kind is not None
    }
