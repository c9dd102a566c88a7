"""What other libraries do that quantization leans on, beyond the names of the table."""

from __future__ import annotations


def test_peft_still_rewrites_the_names_of_experts_in_configs() -> None:
    from peft.utils import transformers_weight_conversion as conversion

    assert callable(conversion.convert_peft_config_for_transformers)


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
