"""The last layer at the positions that are read, and at no others.

Of what the last layer makes of a prompt only keys and values have a reader, the completions behind
it: its queries, the output of its attention and its MLP have none, but at the last token, which
predicts. So those modules, which work position by position, are handed the positions that are read
and give zeros elsewhere. Which those are says the mask, which travels as an argument, so that
a layer that gradient checkpointing runs again in the backward pass does the same again. Values that
are read, and all gradients, are as without.

A last layer with experts is left alone: its router counts every token.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from trl_deepseek.lm_head import unwrap
from trl_deepseek.segments.mask import SegmentMask

_EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts")

READER = "_trl_deepseek_reader"
"""Of an attention module: what picks out positions around it."""


class Reader:
    """Hands modules of one layer the positions that are read, as its attention's mask says them.

    Attributes:
        mask: Of the pass that goes through the layer; None where it reads every position.
    """

    def __init__(self) -> None:
        self.mask: SegmentMask | None = None

    def heed(
        self, _: nn.Module, arguments: tuple[Any, ...], given: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """In front of attention, to which the mask comes in the backward pass again."""
        mask = given.get("attention_mask")
        if not isinstance(mask, SegmentMask) or mask.places is None:
            self.mask = None
            return None
        self.mask = mask
        return arguments, {**given, "attention_mask": mask.last}

    def leave(self, *_: Any) -> None:
        """Behind the layer's last module: nothing is kept, and others may call its modules."""
        self.mask = None

    def pick(self, _: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """In front of a module: (R, L, H) becomes (1, N, H)."""
        if self.mask is None or self.mask.places is None:
            return None
        hidden, *rest = arguments
        return (hidden.flatten(0, 1)[self.mask.places.to(hidden.device)][None], *rest)

    def put_back(self, _: nn.Module, __: Any, found: Tensor) -> Tensor | None:
        """Behind it: (1, N, H) becomes (R, L, H), zero where nothing is read."""
        if self.mask is None or self.mask.places is None:
            return None
        rows, width = self.mask.shape[0], self.mask.shape[-1]
        whole = found.new_zeros(rows * width, found.shape[-1])
        places = self.mask.places.to(found.device)
        return whole.index_copy(0, places, found[0]).view(rows, width, -1)


def arrange(model: nn.Module) -> None:
    """Let the model's last layer heed :attr:`SegmentMask.places`, from now on.

    A model whose last layer has no modules that are known to work position by position stays as it
    is, and so does every pass without such a mask.
    """
    layer = _last_layer(model)
    attention, mlp = (getattr(layer, name, None) for name in ("self_attn", "mlp"))
    if not isinstance(attention, nn.Module) or not isinstance(mlp, nn.Module):
        return
    if hasattr(attention, READER):  # a copy has one of its own
        return
    reader = Reader()
    setattr(attention, READER, reader)
    attention.register_forward_pre_hook(reader.heed, with_kwargs=True)
    for module in _by_position(attention, mlp):
        module.register_forward_pre_hook(reader.pick)
        module.register_forward_hook(reader.put_back)
    mlp.register_forward_hook(reader.leave, always_call=True)


def _last_layer(model: nn.Module) -> nn.Module | None:
    inner = unwrap(model)
    config = inner.config.get_text_config()
    if any(getattr(config, name, None) for name in _EXPERTS):
        return None
    layers = getattr(inner.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) < config.num_hidden_layers:
        return None
    return layers[config.num_hidden_layers - 1]


def _by_position(attention: nn.Module, mlp: nn.Module) -> list[nn.Module]:
    """Modules of the layer whose values at a position hang on their input at it alone."""
    found = [getattr(attention, name, None) for name in ("q_proj", "o_proj")]
    return [each for each in (*found, mlp) if isinstance(each, nn.Module) and _is_linear(each)]


def _is_linear(module: nn.Module) -> bool:
    """Whether it is made of linear layers, adapters on them and what has no weights."""
    leaves = (each for each in module.modules() if not any(each.children()))
    return all(
        isinstance(each, nn.Linear) or next(each.parameters(), None) is None for each in leaves
    )
