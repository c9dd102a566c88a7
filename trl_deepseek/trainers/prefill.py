"""Rollouts on the transformers path: each prompt is encoded once, its cache repeated.

TRL hands ``generate`` every prompt as often as it has completions. Here the distinct prompts go
through the model once, all but their last token; the cache is then copied for each completion and
``generate`` goes on from it. What is drawn from, and in what order, stays as it is: with the same
seed the same tokens are sampled, save where a draw falls within the rounding of its distribution.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig
from transformers.cache_utils import DynamicLayer

from trl_deepseek.lm_head import unwrap
from trl_deepseek.segments import exactness
from trl_deepseek.trainers.roomy_cache import roomy_cache

logger = logging.getLogger(__name__)

SHORTEST = 16
"""Tokens of prompt below which one more call of the model costs more than it saves."""


_tried: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
"""Models that were tried, and whether they go on from a cache."""


@contextlib.contextmanager
def shared_prefill(model: Any) -> Iterator[None]:
    """Within it, ``model.generate`` encodes each of its prompts once.

    Where that is not known to be the same (another kind of cache, images, more than one beam),
    ``generate`` is what it was.
    """
    generate: Callable[..., Any] = model.generate

    def begun(*arguments: Any, generation_config: Any = None, **inputs: Any) -> Any:
        if (
            not arguments
            and _known(model, generation_config, inputs)
            and _goes_on(model, generate, inputs)
        ):
            inputs |= _prefilled(model, inputs["input_ids"], inputs["attention_mask"])
        return generate(*arguments, generation_config=generation_config, **inputs)

    with generating(model, begun):
        yield


@contextlib.contextmanager
def generating(model: Any, generate: Callable[..., Any]) -> Iterator[None]:
    """Within it, ``model.generate`` is ``generate``."""
    before = vars(model).get("generate")
    vars(model)["generate"] = generate
    try:
        yield
    finally:
        del vars(model)["generate"]
        if before is not None:
            vars(model)["generate"] = before


def _known(model: nn.Module, config: Any, inputs: dict[str, Any]) -> bool:
    """Whether a plain cache of keys and values is all that a prompt leaves behind."""
    if set(inputs) != {"input_ids", "attention_mask"} or inputs["input_ids"].shape[1] < SHORTEST:
        return False
    if config is None:
        return False

    def asked(name: str) -> Any:
        """An option; what is not set in the config is the model's, as for ``generate``."""
        value = getattr(config, name, None)
        of_model = getattr(model, "generation_config", None)
        return getattr(of_model, name, None) if value is None else value

    changed = ("cache_implementation", "prefill_chunk_size", "prompt_lookup_num_tokens")
    if asked("use_cache") is False or any(map(asked, changed)):
        return False
    if (asked("num_beams") or 1) > 1 or (asked("num_return_sequences") or 1) > 1:
        return False
    peft = getattr(model, "peft_config", None) or {}
    if any(each.is_prompt_learning for each in peft.values()):
        return False
    inner = unwrap(model)
    if inner.config.is_encoder_decoder or getattr(inner, "_is_stateful", False):
        return False
    text = inner.config.get_text_config(decoder=True)
    if exactness.length_dependent(text):  # a prompt without its last token has other positions
        return False
    layers = DynamicCache(config=text).layers
    return all(type(layer) is DynamicLayer for layer in layers)


def _goes_on(model: nn.Module, generate: Callable[..., Any], inputs: dict[str, Any]) -> bool:
    """Whether the model says the same going on from a cache that is given to it; tried once.

    As many rows as in its last prefill would hide what a model keeps of that, as Qwen2-VL does.
    """
    inner = unwrap(model)
    if inner not in _tried:
        more = {name: each[:1, :SHORTEST].repeat(3, 1) for name, each in inputs.items()}
        more["attention_mask"] = torch.ones_like(more["attention_mask"])
        rows = {name: each[:2] for name, each in more.items()}
        greedy = GenerationConfig(
            do_sample=False, max_new_tokens=4, min_new_tokens=4, pad_token_id=0,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        try:
            plain = torch.stack(generate(**more, generation_config=greedy).logits)[:, :2]
            begun = _prefilled(model, rows["input_ids"], rows["attention_mask"])
            ours = torch.stack(generate(**rows, **begun, generation_config=greedy).logits)
        except Exception as error:  # whatever a model does with a cache that is given to it
            logger.warning("prompts are encoded for each completion: %s", error)
            _tried[inner] = False
            return False
        off = float((ours - plain).float().norm() / plain.float().norm())
        _tried[inner] = off <= exactness.tolerance(model)
        if not _tried[inner]:
            logger.warning(
                "prompts are encoded for each completion: %s says something else from a cache",
                type(inner).__name__,
            )
    return _tried[inner]


def _prefilled(model: nn.Module, ids: Tensor, mask: Tensor) -> dict[str, Any]:
    """The cache of (B, T) prompts padded on the left up to their last token; {} if all differ."""
    both = torch.stack([ids, mask], dim=1)
    distinct, rows = torch.unique(both, dim=0, return_inverse=True)
    if len(distinct) == len(ids):
        return {}
    prompts, seen = distinct[:, 0, :-1], distinct[:, 1, :-1]
    inner = unwrap(model)
    cache = roomy_cache(inner.config.get_text_config(decoder=True))
    taken = inspect.signature(inner.forward).parameters  # called so since transformers 5.24
    name = "cache" if "cache" in taken else "past_key_values"
    model(
        input_ids=prompts,
        attention_mask=seen,
        position_ids=(seen.cumsum(dim=-1) - 1).clamp(min=0),
        use_cache=True,
        logits_to_keep=1,
        **{name: cache},
    )
    cache.batch_select_indices(rows)
    return {name: cache}
