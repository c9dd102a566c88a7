"""The policy's weights as an engine is to have them: merged, in 16 bits or more, by stored name.

TRL merges an adapter into its base before it sends the weights, and takes it out again after. Where
the base is in 16 bits each time leaves the last bits of the frozen weights changed, and in 4 bits
more than that. Here the sum is formed beside the base, one layer at a time, and the base stays as
it is. A base in 4 bits is sent as the 16-bit numbers that it stands for.

transformers holds the experts of a layer as one parameter; engines load them one by one, as they
are stored.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers.core_model_loading import revert_weight_conversion

from trl_deepseek.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


def named(model: Any, buffers: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Every weight of the policy under the name that it has in a checkpoint.

    Args:
        model: A transformers model, with or without an adapter of peft, not sharded.
        buffers: Whether the buffers that a checkpoint has, which are not trained, are among them.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    held = _as_held(model)
    if buffers:
        stored = {name for name, _ in base.named_buffers()} & base.state_dict().keys()
        held = itertools.chain(held, ((_plain(name), base.get_buffer(name)) for name in stored))
    for name, value in held:
        # Experts, which transformers holds as one parameter, are stored one by one.
        yield from revert_weight_conversion(base, {name: value}).items()


def _as_held(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Merged weights under the names that the base has for them, tied ones once."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    prefix = model.prefix if base is not model else None
    adapted: dict[int, list[Any]] = defaultdict(list)  # two adapt the experts of one layer
    for module in base.modules():
        if isinstance(module, BaseTunerLayer):
            adapted[id(module.get_base_layer())].append(module)
    seen: set[int] = set()
    for path, module in base.named_modules():
        if "original_module" in path or (prefix and prefix in path):
            continue
        tied = seen & {id(parameter) for parameter in module.parameters(recurse=False)}
        seen |= {id(parameter) for parameter in module.parameters(recurse=False)}
        if tied or isinstance(module, BaseTunerLayer):
            continue
        layers = adapted.get(id(module), [])
        with merged(module, layers) as values:
            for name, value in values.items():
                yield ".".join(filter(None, (_plain(path), name))), value


def _plain(path: str) -> str:
    """A path without what peft puts into it."""
    for part in ("base_layer", "modules_to_save.default"):
        path = path.replace(f".{part}", "").removeprefix(f"{part}.")
    return path


@contextmanager
def merged(base: Any, layers: Sequence[Any]) -> Iterator[dict[str, Tensor]]:
    """A module's own weights with the adapters on it added; the module is left as it was.

    Args:
        base: The module that is adapted.
        layers: Of peft, which adapt it; none for a module as it is.

    Raises:
        ConfigError: An adapter is of a kind that cannot be added to a base in 4 bits.
    """
    if not layers or hasattr(getattr(base, "weight", None), "quant_state"):
        own = _own_weights(base)
        for layer in layers:
            own["weight"] = own["weight"] + _delta(layer).to(own["weight"])
        yield own
        return
    held = {name: parameter.data for name, parameter in base.named_parameters(recurse=False)}
    for layer in layers:
        layer.merge(safe_merge=True)  # into copies, which take the place of `data`
    try:
        yield _own_weights(base)
    finally:
        for name, parameter in base.named_parameters(recurse=False):
            parameter.data = held[name]
        for layer in layers:
            layer.merged_adapters.clear()


def _delta(layer: Any) -> Tensor:
    """What the active adapters add to the weight of a linear layer."""
    if any(getattr(layer, "lora_variant", {}).get(name) for name in layer.active_adapters):
        raise ConfigError(
            "use_vllm: an adapter with DoRA cannot be added to a base in 4 bits\n"
            "  add --use_dora false, or hold the base in 16 bits"
        )
    added = [layer.get_delta_weight(name) for name in layer.active_adapters]
    return torch.stack(added).sum(0) if len(added) > 1 else added[0]


def _own_weights(module: Any) -> dict[str, Tensor]:
    """A module's own parameters by name, without those of its parts; packed ones unpacked."""
    found = {}
    for name, parameter in module.named_parameters(recurse=False):
        state = getattr(parameter, "quant_state", None)
        value = parameter.data
        if state is not None:
            import bitsandbytes as bnb

            value = bnb.functional.dequantize_4bit(value, state)
        found[name] = value
    for name in getattr(module, "parametrizations", ()):  # experts in 4 bits
        found[name] = getattr(module, name).detach()
    return found
