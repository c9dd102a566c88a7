"""What an embedded dataset is; imported from :mod:`trl_deepseek.types`, of which this is a part."""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trl_deepseek.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

ASKED = ("split", "kind", "size", "seed")  # what every builder is called with
TASK = "task"  # the parameter that is what stands behind the colon of DATASET:TASK


@dataclass(frozen=True)
class EmbeddedDataset:
    """A registered dataset: callable with the registered builder's own signature.

    Attributes:
        name: The name it was registered under, and behind a colon the task of it that is meant.
        function: ``build(split="train", kind="prompts", size=None, seed=0, **options)``; options
            are what ``dataset_kwargs`` sets. One with a parameter ``task`` is named
            ``DATASET:TASK``.
        verifier: The registered reward that scores answers to it, for runs that name none.
        system_prompt: What every prompt that is a conversation begins with.
        requires: Modules of optional packages that the builder imports; looked for before it runs.
    """

    name: str
    function: Callable[..., Dataset]
    verifier: str | None = None
    system_prompt: str | None = None
    requires: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for option in ("verifier", "system_prompt"):
            value = getattr(self, option)
            if value is not None and (not isinstance(value, str) or not value):
                raise ValueError(f"{option} is {value!r}; it must be text, or None")

    @property
    def has_tasks(self) -> bool:
        """Whether ``DATASET:TASK`` names a part of it."""
        return TASK in inspect.signature(self.function).parameters

    def of(self, task: str) -> EmbeddedDataset:
        """One task of it, as a dataset."""
        build = functools.partial(self.function, task=task)
        return replace(self, name=f"{self.name}:{task}", function=build)

    @property
    def options(self) -> Mapping[str, Any] | None:
        """Name and default of what ``dataset_kwargs`` may set; None where the builder checks."""
        parameters = list(inspect.signature(self.function).parameters.values())
        if any(each.kind is each.VAR_KEYWORD for each in parameters):
            return None
        named = [each for each in parameters if each.name not in (*ASKED, TASK)]
        return {each.name: each.default for each in named}

    def __call__(
        self,
        split: str = "train",
        kind: str = "prompts",
        size: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Dataset:
        """Build the rows of one split.

        Raises:
            ConfigError: An option is not known, or a module is not installed.
            DataError: The builder has no such split, kind or task.
        """
        for module in self.requires:
            if importlib.util.find_spec(module) is None:
                raise ConfigError(
                    f"dataset {self.name!r} needs the module {module!r}, which is not installed\n"
                    f"  install it with: pip install {module}"
                )
        known = self.options
        for option in options if known is not None else ():
            if option not in (known or ()):
                raise ConfigError(
                    f"dataset_kwargs: {self.name} has no option {option!r}"
                    f"{did_you_mean(option, known or (), inline=True)}\n"
                    f"  options: {', '.join(known or ()) or '(none)'}"
                )
        rows = self.function(split=split, kind=kind, size=size, seed=seed, **options)
        if self.system_prompt is not None:
            rows = rows.map(functools.partial(_begun, self.system_prompt))
        rows.info.dataset_name = self.name
        return rows


def _begun(system: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose prompt begins with the system message, where it is messages without one."""
    prompt = row.get("prompt")
    if not isinstance(prompt, list) or (prompt and prompt[0]["role"] == "system"):
        return {}
    return {"prompt": [{"role": "system", "content": system}, *prompt]}


def dataset_options(value: Any, name: str, *, embedded: bool) -> dict[str, Any]:
    """What ``dataset_kwargs`` says of a dataset.

    Raises:
        DataError: It is for a file, folder or hub dataset, which has no options.
    """
    options = dict(value or {})
    if options and not embedded:
        raise DataError(
            f"dataset_kwargs are options of embedded datasets, and {name!r} is none\n"
            "  leave them out"
        )
    return options


__all__ = ["EmbeddedDataset", "dataset_options"]
