"""How the options of a stage name earlier stages of its recipe.

Where an option names a model or rows, the bare name of an earlier stage is what that stage made:
its folder, or the file of its rows. ``model:NAME`` is its reward model. ``{NAME}``, anywhere, is
its folder; ``{model_name_or_path}`` is the model that the recipe begins with. A folder or file that
has the name of a stage is written ``./NAME``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trl_deepseek.errors import ConfigError
from trl_deepseek.rewards.resolving import MODEL_PREFIX

if TYPE_CHECKING:
    from trl_deepseek.jobs.recipe import Stage
    from trl_deepseek.jobs.stages import Kind

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
IN_BRACES = re.compile(r"\{(" + NAME.pattern + r")\}")
MODELS = ("model_name_or_path", "adapter", "models", "base_model_name_or_path")
ROWS = ("dataset_name", "eval_dataset", "datasets.path")


class References:
    """Resolves the options of one stage.

    Args:
        earlier: The stages that it can name.
        start: The model that the recipe begins with.
        later: The names of those that it cannot, since they come after it; and its own.

    Attributes:
        uses: Those that it has named, by name.
    """

    def __init__(
        self, earlier: Sequence[Stage], start: str | None, later: Collection[str] = ()
    ) -> None:
        self.start, self.later = start, later
        self.known: Mapping[str, Stage] = {stage.name: stage for stage in earlier}
        self.uses: dict[str, Stage] = {}

    def resolve(self, value: Any, option: str) -> Any:
        """An option's value with what earlier stages make in place of their names.

        Args:
            value: As it is written.
            option: Its name; that of a mapping's key follows behind a dot.

        Raises:
            ConfigError: There is no such stage before, or it makes something else.
        """
        if isinstance(value, dict):
            return {key: self.resolve(inner, f"{option}.{key}") for key, inner in value.items()}
        if isinstance(value, list):
            return [self.resolve(inner, option) for inner in value]
        if not isinstance(value, str):
            return value
        if value in self.known and option in MODELS:
            return self._use(value).output_dir
        if value in self.known and option in ROWS:
            return self._rows_of(value, option)
        if value in self.later and option in (*MODELS, *ROWS):
            raise ConfigError(
                f"{option}: stage {value!r} is not an earlier one\n"
                f"  put it before this one; a folder or file of that name is written ./{value}"
            )
        prefix, _, name = value.partition(MODEL_PREFIX)
        if not prefix and name in self.known:
            return MODEL_PREFIX + self._scorer(name, option)
        return IN_BRACES.sub(lambda match: self._folder(match, option), value)

    def _use(self, name: str) -> Stage:
        self.uses[name] = self.known[name]
        return self.known[name]

    def _rows_of(self, name: str, option: str) -> str:
        stage = self._use(name)
        if stage.kind.makes != "rows":
            raise ConfigError(
                f"{option}: stage {name!r} ({stage.command}) writes no rows; sample does\n"
                f"  a file or dataset of that name is written ./{name}"
            )
        return stage.kind.where(stage.output_dir)

    def _scorer(self, name: str, option: str) -> str:
        stage = self._use(name)
        if stage.kind.makes != "scorer":
            raise ConfigError(
                f"{option}: stage {name!r} ({stage.command}) trains no reward model; reward does"
            )
        return stage.output_dir

    def _folder(self, match: re.Match[str], option: str) -> str:
        if match[1] == "model_name_or_path" and self.start:
            return self.start
        if match[1] not in self.known:
            raise ConfigError(
                f"{option}: {match[0]} is no earlier stage"
                + (f"; there are {', '.join(self.known)}" if self.known else "; this is the first")
            )
        return self._use(match[1]).output_dir


def sources_of(kind: Kind, named: Any, earlier: Sequence[Stage]) -> list[Stage]:
    """The stages whose models a stage works on; none where they are no stages'.

    Args:
        kind: Of the stage.
        named: Its option for them, resolved; None is the last model before it.
        earlier: The stages before it.

    Raises:
        ConfigError: What is named cannot be worked on.
    """
    if kind.model == "adapter":
        return [_adapter_to_merge(named, earlier)]
    if named is None:
        sources = [stage for stage in earlier if stage.kind.makes == "policy"][-1:]
    else:
        names = named if isinstance(named, list) else [named]
        sources = [stage for stage in earlier if stage.output_dir in names]
    for source in sources:
        if kind.trains and source.saves_adapter:
            raise ConfigError(
                f"it would start from the adapter that stage {source.name!r} saves\n"
                "  put '- command: merge' between the two"
            )
    return sources


def _adapter_to_merge(named: str | None, earlier: Sequence[Stage]) -> Stage:
    """The stage whose adapter is merged: the one before, or the one that is named."""
    if named is not None:
        source = next((stage for stage in earlier if stage.output_dir == named), None)
    else:
        source = earlier[-1] if earlier else None
    if source is None or not source.saves_adapter:
        which = "the stage before it" if named is None else f"adapter {named!r}"
        raise ConfigError(
            f"{which} is no stage that saves an adapter\n"
            "  'adapter: NAME' names one, and `trl-deepseek merge` merges others beforehand"
        )
    return source
