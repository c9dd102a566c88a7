"""Metrics in training: what the policy answers to the rows that it is evaluated on, and how well.

``MeasuredEvaluation`` stands between ``PluginTrainer`` and the TRL trainer, at
``evaluation_loop``, whose metrics are logged, given to callbacks, and the best checkpoint is chosen
by. Measuring leaves the model, the random state and thus the rest of the run as they would be.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy
import torch
from accelerate.utils import gather_object

from trl_deepseek import chat, data, evaluation, rewards
from trl_deepseek.errors import ConfigError, DataError, TemplateError
from trl_deepseek.evaluation import Chosen, Rows
from trl_deepseek.generation import Sampling
from trl_deepseek.rewards.contract import Settings
from trl_deepseek.types import DatasetKind

logger = logging.getLogger(__name__)

MAX_NEW_TOKENS = 512
TOKENS = frozenset({"input_ids", "prompt_ids", "chosen_ids", "chosen_input_ids"})


@dataclass
class Measures:
    """The metrics of a run and the rows that they are measured on.

    Attributes:
        metrics: With their options.
        rows: For each evaluation dataset, by its name (None where there is one without a name),
            the rows of each metric.
    """

    metrics: list[Chosen] = field(default_factory=list)
    rows: dict[str | None, Rows] = field(default_factory=dict)


def check(inputs: Any, given: Any, of_kinds: Mapping[DatasetKind, Any] | None) -> Measures:
    """The metrics that a config names, found, and their rows seen to be what they need.

    Args:
        inputs: Of the trainer, checked so far.
        given: The evaluation dataset, or a mapping of them, as the caller gave it.
        of_kinds: Its rows of each kind, where it has several; None where it is what it is.

    Raises:
        UnknownName: Nobody registers a metric or a reward of that name.
        ConfigError: A metric does not fit the run, or nothing would be measured.
        DataError: The rows lack what a metric needs.
    """
    args = inputs.args
    names = getattr(args, "eval_metrics", None) or []
    _check_best(args, names, inputs.registry)
    options = getattr(args, "metric_kwargs", None)
    if not names and not options:
        return Measures()
    _check_whole(args)
    metrics = evaluation.resolve(names, inputs.registry, options, models=1)
    functions = [each.reward for each in metrics if each.reward is not None]
    rewards.check_sandbox(functions, getattr(args, "allow_unsandboxed_code", False))
    for each in metrics:
        if args.metric_for_best_model in (each.name, f"eval_{each.name}"):
            _check_direction(args, each)
    if given is None:
        raise ConfigError(
            "eval_metrics are measured where the run evaluates, and there is nothing to evaluate "
            "on\n  add --eval_strategy steps or epoch, or an eval_dataset"
        )
    datasets = dict(given) if isinstance(given, Mapping) else {None: given}
    rows = {
        name: _prepared(
            metrics,
            of_kinds or each,
            data.source_of(each, name or "eval_dataset"),
            inputs.tokenizer,
        )
        for name, each in datasets.items()
    }
    return Measures(metrics, rows)


def _check_whole(args: Any) -> None:
    """Refuse runs in which no process has the whole model.

    Accelerate reads the environment that its launcher sets; transformers the config, of DeepSpeed
    both.
    """
    sharded = args.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if sharded or getattr(args.deepspeed_plugin, "zero_stage", 0) == 3:
        raise ConfigError(
            "eval_metrics: with FSDP and ZeRO-3 no process has the whole model, which would "
            "have to answer\n  leave them out and run trl-deepseek evaluate on the checkpoints"
        )


def _check_best(args: Any, names: Sequence[str], registry: Any) -> None:
    """Refuse to choose the best checkpoint by a metric that is not measured."""
    best = (args.metric_for_best_model or "").removeprefix("eval_")
    known = best in registry.metrics or best in registry.rewards
    if args.load_best_model_at_end and known and best not in names:
        raise ConfigError(
            f"metric_for_best_model is {best!r}, which the run does not measure\n"
            f"  add --eval_metrics {' '.join([*names, best])}"
        )


def _check_direction(args: Any, metric: Chosen) -> None:
    greater = args.greater_is_better
    if greater is not None and bool(greater) != metric.higher_is_better:
        raise ConfigError(
            f"greater_is_better is {str(bool(greater)).lower()}: the best model has the "
            f"{'highest' if metric.higher_is_better else 'lowest'} {metric.name}\n"
            f"  write --greater_is_better {str(metric.higher_is_better).lower()}"
        )


def _prepared(metrics: Sequence[Chosen], rows: Any, source: str, tokenizer: Any) -> Rows:
    """The rows of each metric, which they have been found to fit."""
    for each in rows.values() if isinstance(rows, Mapping) else [rows]:
        if not hasattr(each, "column_names") or not hasattr(each, "__len__"):
            raise DataError(
                f"{source}: eval_metrics are measured on a table, and this is a "
                f"{type(each).__name__}\n  read the rows whole: datasets.Dataset"
            )
        if chat.holds_conversations(each) and not tokenizer.chat_template:
            raise TemplateError(
                f"{source} holds conversations, and the tokenizer has no chat template\n"
                "  name one with chat_template"
            )
    return evaluation.prepare(rows, metrics)


class MeasuredEvaluation:
    """Mixin in front of a TRL trainer; see the module's docstring."""

    inputs: Any
    _asked: Any = None  # the dataset that is being evaluated on: its name, or itself

    def evaluate(self: Any, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As TRL's; the metrics are measured on the rows as they are given."""
        before, self._asked = self._asked, eval_dataset
        try:
            return super().evaluate(eval_dataset, *args, **kwargs)  # type: ignore[misc]
        finally:
            self._asked = before

    def evaluation_loop(
        self: Any,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """As transformers', with the run's metrics among those that it returns."""
        output = super().evaluation_loop(  # type: ignore[misc]
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        rows = self._rows_to_measure() if metric_key_prefix.startswith("eval") else None
        if rows is not None:
            found = self._measure(rows)
            output.metrics.update({f"{metric_key_prefix}_{n}": value for n, value in found.items()})
        return output

    def _rows_to_measure(self: Any) -> Rows | None:
        """The rows of each metric; None where there are no metrics, or the rows are tokens."""
        measures: Measures = self.inputs.measures
        if not measures.metrics:
            return None
        if self._asked is None or isinstance(self._asked, str):
            return measures.rows[self._asked]
        if TOKENS.intersection(getattr(self._asked, "column_names", None) or ()):
            logger.warning("eval_metrics are not measured: the rows given to evaluate are tokens")
            return None
        source = data.source_of(self._asked, "eval_dataset")
        return _prepared(measures.metrics, self._asked, source, self.processing_class)

    def _measure(self: Any, rows: Rows) -> dict[str, float]:
        """Each metric's numbers over all rows, of which each process answers its share."""
        processes = self.accelerator.num_processes
        parts = rows.by_metric
        shared = processes > 1 and all(len(part) >= processes for part in parts.values())
        if shared:
            first = self.accelerator.process_index
            mine = {n: part.select(range(first, len(part), processes)) for n, part in parts.items()}
            rows = Rows(mine)
        args = self.args
        longest = args.eval_max_new_tokens or getattr(args, "max_completion_length", None)
        own = getattr(args, "reward_settings", None)
        with _as_it_was():
            found = evaluation.evaluate(
                {
                    f"step {self.state.global_step}": (
                        self.accelerator.unwrap_model(self.model),
                        self.processing_class,
                    )
                },
                rows,
                self.inputs.measures.metrics,
                Sampling(
                    max_new_tokens=longest or MAX_NEW_TOKENS,
                    batch_size=args.per_device_eval_batch_size,
                ),
                registry=self.inputs.registry,
                settings=Settings(output_dir=args.output_dir) if own is None else own(),
                chat_template_kwargs=getattr(args, "chat_template_kwargs", None),
            )
        numbers: dict[str, float] = {}
        for measured in next(iter(found.measured.values())):
            if shared and measured.units:
                shares = gather_object([list(measured.units)])
                units = [None] * sum(map(len, shares))
                for rank, share in enumerate(shares):
                    units[rank::processes] = share
                measured = replace(measured, units=units)
            numbers |= measured.numbers()
        return numbers


@contextlib.contextmanager
def _as_it_was() -> Iterator[None]:
    """Afterwards random numbers go on as if nothing had been; data says again nothing it has said.

    Rewards may draw; rows were checked and reported when the run began.
    """
    quiet = logging.getLogger(data.__name__)
    level = quiet.level
    python, arrays = random.getstate(), numpy.random.get_state()
    quiet.setLevel(logging.WARNING)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        quiet.setLevel(level)
        random.setstate(python)
        numpy.random.set_state(arrays)
