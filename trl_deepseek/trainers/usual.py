"""Where the numbers of a training usually lie, with who says so: tables, and the advice they give.

What is impossible is refused (``ranges``); what is merely unusual is warned of here, once for each
number. Options of a loss or a noise carry their ranges themselves
(:func:`trl_deepseek.types.usually`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from trl_deepseek.types import Usual

logger = logging.getLogger(__name__)

Table = Mapping[str, Usual]

LITTLE, MUCH = "hardly anything is learned", "a pretrained model forgets, or diverges"
SFT: Table = MappingProxyType(
    {
        "learning_rate": Usual(1e-6, 5e-5, "docs/choosing.md, SFT", LITTLE, MUCH),
        "num_train_epochs": Usual(
            2, 5, "docs/choosing.md, SFT; arXiv:2401.02954, section 4, has 2 and 4"
        ),
        "batch_size": Usual(4, 32, "docs/choosing.md, SFT"),
    }
)
DPO: Table = MappingProxyType(
    {
        "learning_rate": Usual(
            1e-7, 5e-6, "docs/choosing.md, DPO; arXiv:2401.02954, section 4, has 5e-6", LITTLE, MUCH
        ),
        "num_train_epochs": Usual(
            1, 3, "docs/choosing.md, DPO; arXiv:2401.02954, section 4, has 1", above="it overfits"
        ),
    }
)
KTO: Table = MappingProxyType(
    {
        "learning_rate": Usual(
            5e-7, 5e-6, "TRL's page on KTOTrainer, for arXiv:2402.01306", LITTLE, MUCH
        )
    }
)
REWARD: Table = MappingProxyType(
    {
        "learning_rate": Usual(
            *(5e-6, 1e-5, "arXiv:2307.09288, section 3.2.2; arXiv:2501.12948, 3.1, has 6e-6"),
            *(LITTLE, MUCH),
        )
    }
)
GRPO: Table = MappingProxyType(
    {
        "learning_rate": Usual(
            *(1e-6, 3e-6, "arXiv:2402.03300, section 4.2, to arXiv:2501.12948, section 2.1"),
            *(LITTLE, "the policy collapses, or diverges"),
        ),
        "beta": Usual(
            *(0.0, 0.04, "arXiv:2503.14476, section 2.3, to arXiv:2402.03300, section 4.2"),
            above="the policy stays at its reference",
        ),
        "temperature": Usual(
            *(0.7, 1.0, "arXiv:2501.12948, sections 3.2.2 and 2.1"),
            *("completions are too much alike to be told apart", "completions lose their thread"),
        ),
        "num_generations": Usual(
            *(8, 64, "arXiv:2503.20783, table 6, to arXiv:2402.03300, section 4.2"),
            below="the mean of a group says little of its prompt",
        ),
    }
)
LORA: Table = MappingProxyType(
    {
        "lora_r": Usual(8, 128, "docs/choosing.md, SFT"),
        "lora_alpha": Usual(16, 256, "docs/choosing.md, SFT"),
    }
)
# What LoRA takes for the same effect: its best rate is about ten times that of all weights.
# Source: Schulman et al., "LoRA Without Regret", Thinking Machines, 2025.
LORA_RATE = 10


def advise(values: Mapping[str, Any], table: Table, *, adapter: bool = False) -> None:
    """Warn of each value that is out of the range of its name.

    Args:
        values: Name to value; those without a range or a number are not judged.
        table: Name to range.
        adapter: Whether LoRA is trained instead of all weights.
    """
    for name, usual in table.items():
        value = values.get(name)
        if value is None:
            continue
        rate = name == "learning_rate"
        low, high = usual.low, usual.high * (LORA_RATE if rate and adapter else 1)
        if low <= value <= high:
            continue
        why = usual.above if value > high else usual.below
        logger.warning(
            "%s is %g; %g to %g is usual%s%s (%s)",
            *(name, value, low, high),
            (" for LoRA" if adapter else " for training all weights") if rate else "",
            f": {why}" if why else "",
            usual.source,
        )


def numbers_of(args: Any) -> dict[str, Any]:
    """The numbers of a config that are judged; not the epochs where steps decide."""
    found = dict(vars(args))
    found["batch_size"] = (
        args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    )
    if args.max_steps > 0:
        del found["num_train_epochs"]
    return found


def own(function: Any) -> Table:
    """The ranges that a plugin's function carries."""
    found: Table = getattr(function, "usual", {})
    return found


def of_lora(config: Any) -> Iterator[tuple[str, Any]]:
    """Rank and alpha of a LoRA by the names of their flags."""
    for flag, keyword in (("lora_r", "r"), ("lora_alpha", "lora_alpha")):
        yield flag, getattr(config, keyword, None)
