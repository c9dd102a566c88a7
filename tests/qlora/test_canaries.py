"""Names inside other libraries that this area leans on; one failure per name that has gone."""

from __future__ import annotations

import importlib
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("module", "path"),
    [
        ("bitsandbytes.nn.parametrize", "replace_parameter_4bit_prequantized"),
        ("transformers.core_model_loading", "ConversionOps"),
        ("transformers.core_model_loading", "WeightConverter"),
        ("transformers.integrations.moe", "_grouped_mm"),
        (
            "transformers.quantizers.quantizer_bnb_4bit",
            "Bnb4BitHfQuantizer._process_model_after_weight_loading",
        ),
        ("peft.utils.transformers_weight_conversion", "convert_peft_config_for_transformers"),
        ("trl", "GRPOTrainer._generate_single_turn"),
        ("trl.trainer.utils", "add_fused_lm_head"),
    ],
)
def test_a_private_name_is_still_there(module: str, path: str) -> None:
    found: Any = importlib.import_module(module)
    for name in path.split("."):
        assert hasattr(found, name), f"{module} has no {path} any more"
        found = getattr(found, name)


def test_transformers_still_looks_its_4_bit_quantizer_up_by_this_name() -> None:
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
    from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

    assert AUTO_QUANTIZER_MAPPING["bitsandbytes_4bit"] is Bnb4BitHfQuantizer


def test_bitsandbytes_still_repacks_for_cpu_under_this_switch() -> None:
    import bitsandbytes as bnb

    assert hasattr(bnb.nn.Linear4bit(64, 64), "support_avx512bf16_for_cpu")


def test_rows_that_fill_no_block_of_64_are_dequantized_rightly_in_blocks_of_32() -> None:
    import bitsandbytes.functional as bnb
    import torch

    weight = torch.randn(256, 96, generator=torch.Generator().manual_seed(0))
    packed, state = bnb.quantize_4bit(weight, blocksize=32, quant_type="nf4")
    assert (bnb.dequantize_4bit(packed, state) - weight).norm() / weight.norm() < 0.1
