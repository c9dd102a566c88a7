"""Embedded models: DeepSeek's three architectures at under a million parameters each.

They are built from their configs with random weights and share one packaged tokenizer: 256 byte
tokens, so that any text survives a round trip, plus DeepSeek's control tokens as added tokens. They
exist so that every command, example and test runs without a hub or a GPU.

The tokenizer's files are data; ``scripts/make_tiny_tokenizer.py`` wrote them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_deepseek import hookimpl
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

TOKENIZER = Path(__file__).parent / "tiny_tokenizer"


@hookimpl
def register_models(register: Register) -> None:
    register("tiny-deepseek-llm", tiny_deepseek_llm)
    register("tiny-deepseek-v2", tiny_deepseek_v2)
    register("tiny-deepseek-v3", tiny_deepseek_v3)


def tiny_deepseek_llm(seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A Llama of 0.9 million parameters, the architecture of deepseek-llm-7b."""
    from transformers import LlamaConfig

    shape = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    return _build(LlamaConfig, seed, **shape, intermediate_size=352, num_key_value_heads=4)


def tiny_deepseek_v2(seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Multi-head latent attention and a mixture of experts, as DeepSeek-V2-Lite."""
    from transformers import DeepseekV2Config

    return _build(DeepseekV2Config, seed, **_LATENT, q_lora_rank=None, aux_loss_alpha=0.001)


def tiny_deepseek_v3(seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """As DeepSeek-V3: compressed queries too, and sigmoid routing with a correction bias."""
    from transformers import DeepseekV3Config

    # transformers knows one way of routing; other engines ask the configuration which
    routing = {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}
    return _build(DeepseekV3Config, seed, **_LATENT, q_lora_rank=32, **routing)


_LATENT: dict[str, Any] = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 256,
    "moe_intermediate_size": 64,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 16,
    "v_head_dim": 24,
}


def _build(
    config_class: type[PretrainedConfig], seed: int, **shape: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A randomly initialised model; the caller's random state is left as it was."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    config = config_class(
        vocab_size=len(tokenizer),
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        use_cache=True,
        **shape,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model, tokenizer
