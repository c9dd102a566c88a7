"""Begin a fresh run from the weights of a checkpoint: ``init_from_checkpoint``.

Full weights stand in the place of the model, so that a reference is a copy of them too; an adapter
is loaded onto the LoRA that the run puts on its base.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_deepseek.checkpoints import finding
from trl_deepseek.errors import ConfigError

OPTION = "init_from_checkpoint"
ADAPTER = "adapter_config.json"
# Settings of an adapter that its weights' shapes and meaning depend on.
COMPARED = ("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "target_modules")


@dataclass(frozen=True)
class Start:
    """The checkpoint that a fresh run takes its weights from.

    Attributes:
        folder: The checkpoint.
        adapter: Whether it holds an adapter and no model.
    """

    folder: str
    adapter: bool


def start_of(args: Any) -> Start | None:
    """What the config's ``init_from_checkpoint`` names; None without it.

    Raises:
        ConfigError: It is no whole checkpoint, or the run is to be resumed as well.
    """
    named = getattr(args, OPTION, None)
    if named is None:
        return None
    folder = Path(named)
    adapter = (folder / ADAPTER).is_file()
    resumed = getattr(args, "resume_from_checkpoint", None)
    if resumed is not None and str(resumed).lower() != "false":
        instead = "" if adapter else f", with model_name_or_path {named} in its place"
        raise ConfigError(
            f"{OPTION} begins a fresh run and resume_from_checkpoint goes on with one\n"
            f"  to go on with a run that began so, leave {OPTION} out{instead}"
        )
    finding.check(named, OPTION, only_model=True)
    return Start(str(named), adapter)


def resumed(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run that began with ``init_from_checkpoint``, to go on with it."""
    options = dict(options)
    named = options.pop(OPTION)
    if not Path(named, ADAPTER).is_file():
        options["model_name_or_path"] = named
    return options


def check_adapter(start: Start, peft_config: Any) -> None:
    """Refuse an adapter that does not fit the run's own.

    Args:
        start: Of the run.
        peft_config: The adapter that the run trains; None where it trains all weights.

    Raises:
        ConfigError: They differ, or only one of them is there.
    """
    if not start.adapter:
        return
    if peft_config is None:
        raise ConfigError(
            f"{OPTION}: {start.folder!r} holds an adapter, and the run trains all weights\n"
            "  add use_peft or quantization with the same rank, or merge it: trl-deepseek merge"
        )
    saved = json.loads(Path(start.folder, ADAPTER).read_text(encoding="utf-8"))
    now = peft_config.to_dict()
    differing = [
        f"{name} is {was} there and {is_now} here"
        for name in COMPARED
        for was, is_now in [(_plain(saved.get(name)), _plain(now.get(name)))]
        # peft settles a pattern or None, such as in target_modules, to the names of layers
        if was != is_now and type(was) is type(is_now)
    ]
    if differing:
        raise ConfigError(
            f"{OPTION}: the adapter in {start.folder!r} is another than the run's: "
            + "; ".join(differing)
        )


def _plain(value: Any) -> Any:
    if isinstance(value, (set, list, tuple)):
        return sorted(value)
    return getattr(value, "value", value)
