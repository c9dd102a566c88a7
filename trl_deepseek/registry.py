"""What the registry holds: items by kind and name, each with the plugin it comes from."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from trl_deepseek import hookspecs
from trl_deepseek.errors import ModelError, UnknownName, boundary, did_you_mean
from trl_deepseek.policy_types import Advantage, PolicyLoss
from trl_deepseek.types import (
    ChatTemplate,
    EmbeddedDataset,
    Loss,
    Metric,
    ModelBuilder,
    Noise,
    Preset,
    Quantization,
    Reward,
    Tool,
)

HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("register_"))
KINDS = tuple(hook.removeprefix("register_") for hook in HOOKS)
SINGULAR = MappingProxyType(
    {kind: kind.removesuffix("s").replace("losse", "loss").replace("_", " ") for kind in KINDS}
)

T = TypeVar("T")


@dataclass(frozen=True)
class Origin:
    """Where a plugin comes from; a file or module has neither ``distribution`` nor ``version``."""

    plugin: str
    distribution: str | None
    version: str | None
    file: str | None


@dataclass(frozen=True)
class Entry:
    """One registered item and its origin."""

    kind: str
    name: str
    item: Any
    origin: Origin


@dataclass(frozen=True)
class BrokenPlugin:
    """An installed plugin that does not load, and why."""

    origin: Origin
    cause: str


class Catalog(Mapping[str, T], Generic[T]):
    """The items of one kind by name; an unknown name raises :class:`UnknownName`."""

    def __init__(
        self, kind: str, entries: Mapping[str, Entry], broken: Sequence[BrokenPlugin]
    ) -> None:
        self._kind = kind
        self._entries = entries
        self._broken = broken

    def __getitem__(self, name: str) -> T:
        if name in self._entries:
            item: T = self._entries[name].item
            return item
        raise UnknownName(self._kind, name, self._explain(name))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: str, default: Any = None) -> Any:
        """The item called ``name``, or ``default``."""
        # Mapping.get expects a KeyError, which UnknownName is not.
        return self[name] if name in self else default  # noqa: SIM401

    def _explain(self, name: str) -> str:
        hint = did_you_mean(name, self)
        kind = SINGULAR[self._kind]
        article = "an" if kind.startswith("a") else "a"
        lines = [f"no plugin registers {article} {kind} named {name!r}{hint}"]
        lines.append(f"  registered: {', '.join(self) or '(none)'}")
        lines += [
            f"  plugin {broken.origin.plugin!r} might, but does not load: {broken.cause}"
            for broken in self._broken
        ]
        return "\n".join(lines)


class _Datasets(Catalog[EmbeddedDataset]):
    """The embedded datasets, and the tasks of those that have some."""

    def __getitem__(self, name: str) -> EmbeddedDataset:
        head, colon, task = name.partition(":")
        if colon and name in self:
            return super().__getitem__(head).of(task)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        head, colon, task = str(name).partition(":")
        if colon and task and super().__contains__(head):
            return super().__getitem__(head).has_tasks
        return super().__contains__(name)


class Registry:
    """Everything that the loaded plugins offer, by kind and name."""

    def __init__(
        self,
        entries: Iterable[Entry],
        broken: Sequence[BrokenPlugin] = (),
        blocked: Sequence[Origin] = (),
    ) -> None:
        self._entries: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
        for entry in entries:
            self._entries[entry.kind][entry.name] = entry
        self.broken = tuple(broken)
        self.blocked = tuple(blocked)

    @property
    def chat_templates(self) -> Catalog[ChatTemplate]:
        """Chat formats, named in ``chat_template``."""
        return self._catalog("chat_templates")

    @property
    def noises(self) -> Catalog[Noise]:
        """Embedding noises, named in ``noise``."""
        return self._catalog("noises")

    @property
    def losses(self) -> Catalog[Loss]:
        """Losses, named in ``loss_type``."""
        return self._catalog("losses")

    @property
    def rewards(self) -> Catalog[Reward]:
        """Reward functions, named in ``reward_funcs``."""
        return self._catalog("rewards")

    @property
    def quantizations(self) -> Catalog[Quantization]:
        """Ways to hold the base model in memory, named in ``quantization``."""
        return self._catalog("quantizations")

    @property
    def metrics(self) -> Catalog[Metric]:
        """Metrics, named in ``evaluate --metrics``, where any reward may be named too."""
        return self._catalog("metrics")

    @property
    def advantages(self) -> Catalog[Advantage]:
        """Advantages, named in ``advantage`` of GRPO."""
        return self._catalog("advantages")

    @property
    def policy_losses(self) -> Catalog[PolicyLoss]:
        """Policy losses, named in ``loss_type`` of GRPO."""
        return self._catalog("policy_losses")

    @property
    def models(self) -> Catalog[ModelBuilder]:
        """Embedded models, named in ``model_name_or_path``.

        Their tokenizers carry the chat template that names the model among its ``models``.
        """
        templates = self.chat_templates.values()
        entries = {
            name: replace(entry, item=_with_template(entry.item, name, templates))
            for name, entry in self._entries["models"].items()
        }
        return Catalog("models", entries, self.broken)

    @property
    def datasets(self) -> Catalog[EmbeddedDataset]:
        """Embedded datasets, named in ``dataset_name``; ``DATASET:TASK`` is a task of one."""
        return _Datasets("datasets", self._entries["datasets"], self.broken)

    @property
    def tools(self) -> Catalog[Tool]:
        """Tools, named in ``tools``."""
        return self._catalog("tools")

    @property
    def presets(self) -> Catalog[Preset]:
        """Settings of training commands, named in ``preset``."""
        return self._catalog("presets")

    def entries(self, kind: str | None = None) -> list[Entry]:
        """Every item of one kind, or of all, with its origin; sorted by kind and name."""
        kinds = KINDS if kind is None else (kind,)
        return [self._entries[k][name] for k in kinds for name in sorted(self._entries[k])]

    def _catalog(self, kind: str) -> Catalog[Any]:
        return Catalog(kind, self._entries[kind], self.broken)


def _with_template(
    build: ModelBuilder, name: str, templates: Iterable[ChatTemplate]
) -> ModelBuilder:
    """``build``, whose tokenizer carries the template of ``name`` unless it brings its own."""

    @functools.wraps(build)
    def built(*args: Any, **options: Any) -> Any:
        with boundary(ModelError, f"model {name!r} cannot be built"):
            model, tokenizer = build(*args, **options)
        own = next((template for template in templates if name in template.models), None)
        if own is not None and tokenizer.chat_template is None:
            tokenizer.chat_template = own.inference
        return model, tokenizer

    return built
