"""Everything that is wrong with a job, in one report: every check, and then one step in small.

A check stops at the first mistake. So here an option or row that was refused is set aside and the
check made again, until nothing is refused or nothing can be set aside; what could then not be
looked at is said. The checks are those of the job itself, so their messages are those of the
command. What only a look at all rows shows comes after them: what ``max_length`` cuts and leaves
out, rows that repeat others or stand in both datasets, the space for a checkpoint, the first batch.
"""

from __future__ import annotations

import argparse
import logging
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from trl_deepseek import data, jobs
from trl_deepseek.data import repeats
from trl_deepseek.data.loading import lines_of
from trl_deepseek.errors import RunError, TemplateError, UserError, describe
from trl_deepseek.jobs import trial
from trl_deepseek.jobs.findings import SHOWN, Finding, Report, Warnings
from trl_deepseek.jobs.job import Job
from trl_deepseek.jobs.places import option_of
from trl_deepseek.jobs.samples import row_numbers, small_trainer
from trl_deepseek.jobs.setting_aside import TOGETHER, set_aside
from trl_deepseek.memory import disk

# What is said of too few rows, when some have been set aside.
TOO_FEW = re.compile(r"has no rows|one generated batch|none of the \d+ rows|^all \d+ rows")


def validate(
    options: argparse.Namespace,
    defaults: Mapping[str, Any],
    *,
    with_model: bool = True,
    to_come: Collection[str] = (),
    aside: Iterable[str] = (),
) -> Report:
    """Look at one job.

    Args:
        options: As parsed; ``command`` is the training command.
        defaults: What each option is when it is not given.
        with_model: Whether to load the model and make one forward and backward pass.
        to_come: Folders of reward models that are still to be trained.
        aside: Options that were set aside before, since what was given for them is none.
    """
    report = Report()
    handler = Warnings(report)
    logger = logging.getLogger("trl_deepseek")
    logger.addHandler(handler)
    try:
        _Validation(options, defaults, to_come, set(aside), report).run(with_model)
    finally:
        logger.removeHandler(handler)
    return report


class _Validation:
    """One job on its way through the checks."""

    def __init__(
        self,
        options: argparse.Namespace,
        defaults: Mapping[str, Any],
        to_come: Collection[str],
        aside: set[str],
        report: Report,
    ) -> None:
        self.options = argparse.Namespace(**vars(options), without={"train": set(), "eval": set()})
        self.options.given = set(options.given)
        self.defaults = defaults
        self.more = {"to_come": to_come} if options.command == "grpo" else {}
        self.report = report
        self.aside = aside  # options that were refused

    def run(self, with_model: bool) -> None:
        """Fill the report."""
        together = ("eval_dataset", *TOGETHER["eval_dataset"])
        evaluates = {n: getattr(self.options, n) for n in together if hasattr(self.options, n)}
        # The rows to train on first, so that a row is known to be one of them.
        vars(self.options).update({name: self.defaults[name] for name in evaluates})
        job = self._checked("train")
        if evaluates["eval_strategy"] not in ("no", None) or evaluates["eval_dataset"]:
            vars(self.options).update(evaluates)
            job = self._checked("eval")
        if job is None:
            self._look_at_rows()
            self.report.unchecked.append(
                "what max_length cuts, repeated rows, space for checkpoints and the first batch: "
                "mend the problems above first"
            )
            return
        self.report.unchecked += job.later
        self._compare_rows(job)
        self._attempt("the space for checkpoints", self._space, job)
        parts = None if job.inputs is None else job.inputs.parts
        if not getattr(parts, "functions", True):
            self.report.unchecked.append("the first batch: no reward is there yet to score it")
        elif self._attempt("the first batch", self._small_batch, job):
            self._try_model(with_model, job.config)

    def _try_model(self, wanted: bool, config: Any) -> None:
        if not wanted:
            self.report.unchecked.append("the model's own forward and backward pass: --no_model")
        elif self.report.problems:
            self.report.unchecked.append(
                "the model's own forward and backward pass: mend the problems above first"
            )
        elif getattr(config, "use_vllm", False) and config.vllm_mode == "server":
            self.report.unchecked.append(
                "the model's own forward and backward pass: it would put its weights into the "
                "server, which may serve a run"
            )
        else:
            self._attempt("the model's forward and backward pass", self._one_step, self.options)

    def _attempt(self, what: str, look: Callable[[Any], None], at: Any) -> bool:
        """Whether one look went well; what it raises is a problem."""
        try:
            look(at)
        except (UserError, RunError) as error:
            self._refused(error, "train")
        except Exception as error:  # whatever a model, a collator or a plugin raises
            self.report.problems.append(Finding(f"{what}: {describe(error)}"))
        else:
            return True
        return False

    def _checked(self, split: str) -> Job | None:
        """The job with everything set aside that it refuses; None where that does not end well."""
        while True:
            try:
                job: Job = jobs.kind(self.options.command).check(self.options, **self.more)
                return job
            except UserError as error:
                follows = isinstance(error, TemplateError) and self.aside & {"chat_template"}
                if follows or not self._set_aside(error, split):
                    return None

    def _set_aside(self, error: UserError, split: str) -> bool:
        """Note an error, and set aside the rows or the option it is about; whether that went."""
        values = {name: getattr(self.options, name) for name in sorted(self.options.given)}
        option = option_of(error, {**self.defaults, **values})
        if option in self.aside:  # without it, it is missing
            return False
        if error.rows:
            return self._refused(error, split)
        if any(self.options.without.values()) and TOO_FEW.search(str(error)):
            return False
        self.report.add(error, self.options.places.get(option or ""))
        if option is None or option not in values or option == "model_name_or_path":
            return False
        if set_aside(self.options, option, error, self.defaults):
            self.aside.add(option)
        return True

    def _refused(self, error: UserError | RunError, split: str) -> bool:
        """Note what is wrong with rows, each by itself, and leave them out from now on."""
        faults: Mapping[int, str] = getattr(error, "rows", {})
        if not faults:
            self.report.add(error)
            return False
        gone = sorted(self.options.without[split])
        numbers = {row: _original(row, gone) for row in faults}
        source = str(self._source(split))
        lines = self._lines(split, set(numbers.values()))
        for row in list(faults)[:SHOWN]:
            place = f"{source}:{lines[numbers[row]]}" if numbers[row] in lines else source
            finding = Finding(f"row {numbers[row]}: {faults[row]}", place)
            if finding not in self.report.problems:
                self.report.problems.append(finding)
        if len(faults) > SHOWN:
            more = f"{len(faults) - SHOWN} more rows cannot be used either"
            self.report.problems.append(Finding(more, source))
        self.options.without[split] |= set(numbers.values())
        return True

    def _source(self, split: str) -> Any:
        held_out = self.options.eval_dataset if split == "eval" else None
        parts = self.options.datasets
        return held_out or self.options.dataset_name or ("datasets" if parts else split)

    def _lines(self, split: str, rows: Collection[int]) -> dict[int, int]:
        """Lines of the file that the rows of a split are all of."""
        is_whole = split == "eval" or self.options.dataset_train_split == "train"
        return lines_of(str(self._source(split)), rows) if is_whole else {}

    def _look_at_rows(self) -> None:
        """The rows alone, where something else keeps the job from reading them."""
        looks: Mapping[str, Any] = {
            "sft": ("demonstrations", data.check_demonstrations),
            "preference": ("preferences", data.check_preferences),
            "reward": ("preferences", data.check_preferences),
            "grpo": ("prompts", data.check_prompts),
        }
        kind, check = looks[self.options.command]
        if self.aside & {"dataset_name", "datasets", "columns"}:
            return
        try:
            train = trial.rows(self.options, kind)
        except UserError as error:
            option = option_of(error, self.options.places)
            self.report.add(error, self.options.places.get(option or ""))
            return
        while True:
            try:
                check(train, str(self._source("train")))
                return
            except UserError as error:
                if not self._refused(error, "train"):
                    return
                train = data.without(train, error.rows)
                if not len(train):
                    return

    def _compare_rows(self, job: Job) -> None:
        """Rows that repeat others, and rows to test on that are trained on."""
        train, held_out = job.train_dataset, job.eval_dataset
        for split, dataset in (("train", train), ("eval", held_out)):
            if dataset is None:
                continue
            if not hasattr(dataset, "__len__"):
                self.report.unchecked.append(f"repeated rows of {self._source(split)}: a stream")
                return
            self.report.facts[f"{split}_rows"] = len(dataset)
            found = repeats.repeated(dataset)
            self.report.facts[f"repeated_in_{split}"] = len(found)
            if found:
                what = "say what an earlier row says"
                self.report.warnings.append(self._about(split, found, len(dataset), what))
        if held_out is not None:
            found = repeats.leaked(train, held_out)
            self.report.facts["leaked"] = len(found)
            if found:
                what = "are trained on, and measure memory\n  leave them out of one of the two"
                self.report.problems.append(self._about("eval", found, len(held_out), what))

    def _about(self, split: str, found: Collection[int], total: int, what: str) -> Finding:
        gone = sorted(self.options.without[split])
        numbers = [_original(row, gone) for row in sorted(found)]
        lines, source = self._lines(split, numbers[:1]), str(self._source(split))
        place = f"{source}:{lines[numbers[0]]}" if numbers[0] in lines else source
        held_out = " to evaluate on" if split == "eval" else ""
        said = f"{len(found)} of {total} rows{held_out} {what}"
        head, newline, rest = said.partition("\n")
        return Finding(f"{head} ({data.some(numbers)}){newline}{rest}", place)

    def _space(self, job: Job) -> None:
        """Compare a checkpoint with what is free."""
        self.report.facts["free_bytes"] = disk.free(job.config.output_dir)
        self.report.facts["checkpoint_bytes"] = disk.check_room(job)

    def _small_batch(self, job: Job) -> None:
        """Prepare all rows and collate the first batch, as training does."""
        with tempfile.TemporaryDirectory() as scratch:
            before = len(self.report.warnings)
            trainer = small_trainer(job, scratch)
            lost = trainer.left_out.get("train", [])
            self.report.facts["left_out"] = len(lost)
            numbers = row_numbers(job.train_dataset, job.config)
            if lost and numbers:
                self._place_lost(before, lost, numbers)
            batch = next(iter(trainer.get_train_dataloader()))
            self.report.facts |= trial.shape_of(batch)

    def _place_lost(self, before: int, lost: list[int], numbers: list[int]) -> None:
        """Give the warning about rows that are left out the line of the first."""
        gone = sorted(self.options.without["train"])
        row = numbers[lost[0]] if lost[0] < len(numbers) else None
        lines = {} if row is None else self._lines("train", {_original(row, gone)})
        for place, finding in enumerate(self.report.warnings[before:], before):
            if "are left out" in finding.message and lines:
                where = f"{self._source('train')}:{next(iter(lines.values()))}"
                self.report.warnings[place] = Finding(finding.message, where)

    def _one_step(self, options: argparse.Namespace) -> None:
        """Load the model and let it learn from the first batch."""
        self.report.facts |= trial.step(options, self.more)


def _original(row: int, gone: list[int]) -> int:
    """The number that a row had before the rows ``gone``, in their order, were left out."""
    for other in gone:
        row += other <= row
    return row
