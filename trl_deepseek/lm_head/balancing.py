"""The load-balancing loss of a mixture of experts, right for DeepSeek-V3 too.

DeepSeek-V3 routes by sigmoid affinities normalised over the experts; softmax of their logarithm is
that normalisation. Source: arXiv:2412.19437, equations 17 to 20, over the batch and not per
sequence; Switch Transformer, arXiv:2101.03961, equations 4 to 6.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


def balancing_loss(model: Any, outputs: Any, weights: Tensor | None) -> Tensor | None:
    """The loss of one forward, scaled as ``transformers`` scales it; None without router logits.

    Args:
        model: The causal language model, unwrapped.
        outputs: What its forward returned.
        weights: How often each token counts, (B, T): an attention mask, or the copies that a token
            stands for; None where all count alike.
    """
    computed: Tensor | None = getattr(outputs, "aux_loss", None)
    router_logits = getattr(outputs, "router_logits", None)
    if not router_logits:
        return computed
    if computed is not None and (weights is None or _is_mask(weights)):
        return computed
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    config = model.config.get_text_config()
    experts = getattr(config, "n_routed_experts", None) or config.num_experts
    if config.model_type == "deepseek_v3":
        router_logits = _log_affinities(router_logits)
    mask = weights if weights is not None and weights.dim() == 2 else None
    if mask is not None:  # prompt tuning puts tokens in front, which count
        front = router_logits[0].numel() // router_logits[0].shape[-1] // len(mask) - mask.shape[1]
        mask = F.pad(mask, (front, 0), value=1)
    return load_balancing_loss_func(router_logits, experts, config.num_experts_per_tok, mask)


@contextlib.contextmanager
def balanced_by_trl(*models: Any) -> Iterator[None]:
    """Inside, TRL's own forward finds what it needs to balance the experts of DeepSeek-V3.

    TRL reads ``num_experts``, which the config does not have, and takes the softmax of the router's
    logits. Other models are left as they are.

    Args:
        *models: Causal language models, unwrapped.
    """
    with contextlib.ExitStack() as stack:
        for model in models:
            config = model.config.get_text_config()
            if config.model_type == "deepseek_v3" and not hasattr(config, "num_experts"):
                config.num_experts = config.n_routed_experts
                stack.callback(delattr, config, "num_experts")
                stack.callback(model.base_model.register_forward_hook(_show_affinities).remove)
        yield


def _show_affinities(_module: Any, _inputs: Any, outputs: Any) -> None:
    if getattr(outputs, "router_logits", None):
        outputs.router_logits = _log_affinities(outputs.router_logits)


def _log_affinities(router_logits: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(F.logsigmoid(layer) for layer in router_logits)


def _is_mask(weights: Tensor) -> bool:
    """Whether nothing counts twice, so that what the model made of its mask is right."""
    return weights.dim() != 2 or int(weights.max()) <= 1
