"""Ways to hold the base model while an adapter is trained on it: 4-bit, 8-bit or 16-bit.

``qlora`` is the recipe of arXiv:2305.14314: NF4 blocks (section 3), double quantization of their
constants, 16-bit compute and a paged optimizer. Two things differ from the paper: the moments are
held in 8 bits (arXiv:2110.02861), and the routed experts of DeepSeek-V2 and V3 are quantized too.
"""

from __future__ import annotations

from trl_deepseek import hookimpl
from trl_deepseek.types import Quantization, Register

# Rank and alpha as in the project's SFT defaults; dropout from arXiv:2305.14314, appendix B.2.
LORA = {"r": 64, "lora_alpha": 128, "lora_dropout": 0.05}
PAGED = "paged_adamw_8bit"


@hookimpl
def register_quantizations(register: Register) -> None:
    register("qlora", Quantization(bits=4, lora=LORA, optimizer=PAGED))
    register("qlora-lora-experts", QLORA_WITH_LORA_EXPERTS)
    register("int8", Quantization(bits=8, lora=LORA, optimizer=PAGED))
    register("lora", Quantization(lora=LORA))


# peft allows no dropout on 3-D parameters. The experts themselves stay in 16 bit.
QLORA_WITH_LORA_EXPERTS = Quantization(
    bits=4,
    quantize_experts=False,
    lora_experts=True,
    lora={**LORA, "lora_dropout": 0.0},
    optimizer=PAGED,
)
