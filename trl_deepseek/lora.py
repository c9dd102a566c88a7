"""Which modules LoRA adapts, by architecture.

peft has no default for DeepSeek's architectures. Routers are never adapted, nor is the LM head:
TRL computes log-probs from its weight directly, so an adapter there would never be trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trl_deepseek.errors import ConfigError

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PretrainedConfig

MLP = ("gate_proj", "up_proj", "down_proj")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
COMPRESSED_KEYS = ("kv_a_proj_with_mqa", "kv_b_proj", "o_proj")


def target_modules(config: PretrainedConfig) -> list[str]:
    """Names of the linear layers to adapt in a model with this config.

    Multi-head latent attention (DeepSeek-V2 and later) has its own projections; everything else is
    taken to name its layers as Llama does.
    """
    if getattr(config, "kv_lora_rank", None) is None:
        return [*ATTENTION, *MLP]
    queries = ["q_proj"] if config.q_lora_rank is None else ["q_a_proj", "q_b_proj"]
    return [*queries, *COMPRESSED_KEYS, *MLP]


def lora_config(options: Any, config: PretrainedConfig) -> LoraConfig | None:
    """The LoRA that the ``--lora_*`` options describe; None without ``--use_peft``.

    Raises:
        ConfigError: LoRA on the LM head, which TRL cannot train.
    """
    from trl import get_peft_config

    chosen = options.lora_target_modules or target_modules(config)
    if "lm_head" in chosen:
        raise ConfigError(
            "lora_target_modules: LoRA on 'lm_head' would never be trained, since TRL computes "
            "log-probs from its weight directly\n  leave it out, or train it whole: "
            "--lora_modules_to_save lm_head"
        )
    if not options.lora_target_modules and not options.lora_target_parameters:
        options.lora_target_modules = chosen
    return get_peft_config(options)
