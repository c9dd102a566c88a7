"""What a metric is; imported from :mod:`trl_deepseek.types`, of which this is a part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["demonstrations", "preferences", "prompts"]


@dataclass(frozen=True)
class Estimate:
    """A number about a model, and how sure it is.

    Attributes:
        value: The number.
        low: Lower end of its 95 % interval; None where none is known.
        high: Upper end.
        count: Rows that it is over.
    """

    value: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Metric:
    """A registered metric: callable with the registered function's own signature.

    What it is handed depends on ``over``; a function gets those of its parameters by name that are
    offered, and the rest with defaults are its options, which ``metric_kwargs`` sets.

    - ``completions``: a reward's signature, either form: all answers to all prompts at once, or
      ``completion`` and the row's columns one by one; and if it takes them ``answers`` (by model,
      in the order of the evaluation, its own the last, a text per completion) and ``score``
      (``score(texts)`` gives what the reward that the option ``judge`` names says of other answers
      to the same prompts; None where it names none). One value per answer; that of a prompt is the
      mean of its answers'.
    - ``groups``: all answers to one prompt, ``completions`` (texts), with ``prompt``, the row's
      columns, ``generation_prefix``, and ``scores`` (one per answer, None where the judge
      abstained) where there is a ``judge``. One value per prompt.
    - ``model``: ``model``, ``tokenizer`` and ``dataset`` (of kind ``rows``), and if it takes them
      ``registry``, ``sampling``, ``progress`` (what a bar is called, or None) and ``complete``
      (``complete(prompts)`` gives the model's ``completions``, (N, S), drawn as all others are, and
      kept with them; into its ``values`` goes what is to be kept beside each, (N, S) by a label).
      One value per row, or a mapping of names to :class:`Estimate` where there are no rows.

    A value is a number, None to abstain, or a mapping of names to numbers, which are then shown as
    ``metric/name``. Where ``aggregate`` is given, the mapping holds what is added up over prompts,
    and ``aggregate(sums)`` makes the number, or a mapping of several, of a model out of the sums.

    Attributes:
        name: The name it was registered under.
        function: The registered function itself.
        over: See above.
        columns: Dataset columns that the function needs beside its parameters without default.
        rows: The kind of rows of an embedded dataset that it is measured on, or ``rows(options)``
            that says so; None for a metric over a model that brings its own.
        format_row: ``format_row(row, number)`` makes of a row (column to value) of a file format of
            its own one with ``prompt`` and the columns that it needs; raises ValueError or
            KeyError where it cannot. Rows that are such already stay as they are.
        aggregate: See above; None for the mean.
        judge: For ``groups``: the reward that scores each answer, where the option ``judge`` names
            no other.
        requires: Modules of optional packages that it imports when it is called.
        check: ``check(options)`` says what is wrong with the options (``judge`` among them, None
            where no reward judges), or None. It may take ``num_samples``, answers per prompt, and
            ``models``, how many are measured side by side, or None, by these names.
        check_row: Says what is wrong with a row of the dataset (column to value), or None.
        higher_is_better: Whether a larger number is a better model.
        scores: For ``model``: whether it measures reward models too, which answer nothing.
    """

    name: str
    function: Callable[..., Any]
    over: Literal["completions", "groups", "model"] = "completions"
    columns: tuple[str, ...] = ()
    rows: Kind | Callable[[Mapping[str, Any]], Kind] | None = "prompts"
    format_row: Callable[[Mapping[str, Any], int], Mapping[str, Any]] | None = None
    aggregate: Callable[[Mapping[str, float]], float | Mapping[str, float]] | None = None
    judge: str | None = None
    requires: tuple[str, ...] = ()
    check: Callable[..., str | None] | None = None
    check_row: Callable[[Mapping[str, Any]], str | None] | None = None
    higher_is_better: bool = True
    scores: bool = False

    def __post_init__(self) -> None:
        kinds = ("completions", "groups", "model")
        if self.over not in kinds:
            raise ValueError(f"over is {self.over!r}; it must be one of {', '.join(kinds)}")
        known = ("demonstrations", "preferences", "prompts", None)
        if self.rows not in known and not callable(self.rows):
            raise ValueError(f"rows is {self.rows!r}; it must be one of {known}")
        if self.rows is None and self.over != "model":
            raise ValueError("rows is None, which is for metrics over a model alone")
        if self.judge is not None and self.over != "groups":
            raise ValueError("judge is for metrics over groups: others score answers themselves")
        for flag in ("higher_is_better", "scores"):
            if not isinstance(getattr(self, flag), bool):
                raise ValueError(f"{flag} is {getattr(self, flag)!r}; it must be True or False")
        for option in ("columns", "requires"):
            if not all(isinstance(name, str) for name in getattr(self, option)):
                raise ValueError(f"{option} is {getattr(self, option)!r}; it must hold names")
        for option in ("aggregate", "format_row", "check", "check_row"):
            if getattr(self, option) is not None and not callable(getattr(self, option)):
                raise ValueError(f"{option} is {getattr(self, option)!r}; it must be a function")

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the registered function."""
        return self.function(*args, **options)
