"""A LoRA config whose targets stay where they were put, on models with routed experts.

peft takes ``gate_proj``, ``up_proj`` and ``down_proj`` on DeepSeek-V2 and V3 for the names that
routed experts had in older versions of transformers, and moves the three from ``target_modules``
to the experts' 3-D parameters. The dense layers and shared experts, which do bear these names, are
then not adapted at all, and 4-bit experts cannot be. :class:`PinnedLoraConfig` undoes that move.

Plain peft would make the same move when it loads the adapter. What is saved therefore names the MLP
layers by their parameter (``gate_proj.weight``), which peft takes as it stands; the adapter's own
weights have the same names and shapes either way.
"""

from __future__ import annotations

import copy
from typing import Any

from peft import LoraConfig

MOVED = ("gate_proj", "up_proj", "down_proj")
PINNED = ("target_modules", "target_parameters", "rank_pattern", "alpha_pattern")
PATTERNS = ("rank_pattern", "alpha_pattern")
PACKED = r".*\.parametrizations\..*"  # 4-bit experts: their "down_proj" is no linear layer


class PinnedLoraConfig(LoraConfig):
    """``peft.LoraConfig`` that ignores attempts to move its targets."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = vars(self)["target_parameters"]
        self.target_parameters = set(given or ())
        self.__dict__["is_pinned"] = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name in PINNED and self.__dict__.get("is_pinned"):
            return
        super().__setattr__(name, value)

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        # A copy: peft doubles the rank of moved targets by writing into the dictionary.
        return dict(value) if name in PATTERNS and isinstance(value, dict) else value

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write the config that plain peft reads as this one."""
        plain = copy.copy(self)
        plain.__class__ = LoraConfig
        names = set(self.target_modules or ())
        moved = {name for name in names if name.rpartition(".")[2] in MOVED}
        plain.target_modules = names - moved
        parameters = {f"{name}.weight" for name in moved}
        plain.target_parameters = parameters.union(self.target_parameters or ())
        if plain.exclude_modules == PACKED:
            plain.exclude_modules = None
        if moved:
            plain.lora_dropout = 0.0  # peft refuses dropout there; it only matters in training
        plain.save_pretrained(save_directory, **kwargs)
