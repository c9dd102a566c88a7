"""Which models use which family, and what the family's turns end with."""

from __future__ import annotations

from typing import Any

FAMILIES: dict[str, dict[str, Any]] = {
    "deepseek-v3": {"models": ("deepseek-v3", "deepseek-v3-base", "tiny-deepseek-v3")},
    "deepseek-r1": {
        "models": ("deepseek-r1", "deepseek-r1-zero"),
        "opens_thinking": True,
    },
    "role-tokens": {"end_of_turn": "<|end|>"},
}
