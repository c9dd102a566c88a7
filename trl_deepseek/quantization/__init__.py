"""One name -> the base model in 4, 8 or 16 bits, ready for an adapter, and the LoRA on it.

``check`` and ``apply`` are all that the trainers call. The steps, each of which may be used alone:
``choose`` the registered item, find the ``compute_dtype``, ``load`` (or convert) the model and
``prepare`` it.
"""

from trl_deepseek.quantization.applying import apply, check, describe
from trl_deepseek.quantization.choosing import bitsandbytes_config, choose, compute_dtype
from trl_deepseek.quantization.loading import (
    hold_trained_in_float32,
    keep_norms_in_float32,
    load,
    prepare,
)

__all__ = [
    "apply",
    "bitsandbytes_config",
    "check",
    "choose",
    "compute_dtype",
    "describe",
    "hold_trained_in_float32",
    "keep_norms_in_float32",
    "load",
    "prepare",
]
