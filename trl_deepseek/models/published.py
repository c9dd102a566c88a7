"""Configs of common DeepSeek models, shipped without weights.

They answer ``--dry_run`` and the choice of LoRA targets without a network. The numbers are those of
each model's ``config.json`` on the hub; the parameter counts are those that the hub shows for its
safetensors, and tests hold the configs to them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FOLDER = Path(__file__).parent / "configs"
ORGANISATION = "deepseek-ai/"


@dataclass(frozen=True)
class PublishedModel:
    """One shape of model.

    Attributes:
        hub_id: Where the weights are.
        parameters: As published.
        variants: Endings of the names of models with the same shape.
    """

    hub_id: str
    parameters: int
    variants: tuple[str, ...] = ()


PUBLISHED: Mapping[str, PublishedModel] = MappingProxyType(
    {
        "deepseek-llm-7b": PublishedModel(
            "deepseek-ai/deepseek-llm-7b-base", 6_910_365_696, ("base", "chat")
        ),
        "deepseek-math-7b": PublishedModel(
            "deepseek-ai/deepseek-math-7b-base", 6_910_365_696, ("base", "instruct", "rl")
        ),
        "deepseek-coder-6.7b": PublishedModel(
            "deepseek-ai/deepseek-coder-6.7b-base", 6_740_512_768, ("base", "instruct")
        ),
        "deepseek-v2-lite": PublishedModel(
            "deepseek-ai/DeepSeek-V2-Lite", 15_706_484_224, ("chat",)
        ),
        "deepseek-r1-distill-qwen-1.5b": PublishedModel(
            "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1_777_088_000
        ),
        "deepseek-r1-distill-qwen-7b": PublishedModel(
            "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", 7_615_616_512
        ),
        "deepseek-r1-distill-llama-8b": PublishedModel(
            "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", 8_030_261_248
        ),
    }
)


def find(name: str) -> str | None:
    """The key of the shape that a model's name or hub id stands for; None for unknown ones."""
    short = name.lower().removeprefix(ORGANISATION)
    for key, model in PUBLISHED.items():
        if short == key or short in {f"{key}-{variant}" for variant in model.variants}:
            return key
    return None


def config(key: str) -> PretrainedConfig:
    """The shipped config of one of :data:`PUBLISHED`."""
    from transformers import AutoConfig

    values = json.loads((FOLDER / f"{key}.json").read_text(encoding="utf-8"))
    result: PretrainedConfig = AutoConfig.for_model(values.pop("model_type"), **values)
    result._name_or_path = PUBLISHED[key].hub_id
    return result
