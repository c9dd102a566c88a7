"""Log-probabilities of labelled tokens without the full logits, from any causal language model.

The model's own forward runs, through whatever wraps it (PEFT, DDP, FSDP, autocast, gradient
checkpointing). Only its last layer is intercepted: hooks on the LM head hand the layer an empty
input, so that it forms no logits, and put the scores of the labelled positions in their place.
Because the layer is still called, what others hang on that call (the gathering of sharded
weights, a choice between an adapter's copy and the original) happens as always.

A head that is no plain linear layer (quantized, with an adapter on it) and a model that transforms
its logits (soft-capping, scaling) are scored through the full logits of the labelled positions.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trl_deepseek.lm_head.balancing import balancing_loss
from trl_deepseek.lm_head.streaming_softmax import Scores, score

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

logger = logging.getLogger(__name__)

IGNORED = -100
"""The label of a position that is not scored."""

LOGIT_TRANSFORMS = {
    "final_logit_softcapping": None,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "lm_head_multiplier": 1.0,
    "output_multiplier": 1.0,
}
"""Config fields by which a model changes what its head returns; the value that changes nothing."""

_seen_to_transform: set[type] = set()
"""Model classes that change what their head returns without such a field."""


@dataclass(frozen=True)
class HeadOutput:
    """Scores of the next token at every position but the last; zero where nothing is scored.

    From :func:`target_logps`, of every position: (B, T) in place of (B, T-1).

    Attributes:
        logps: Log-probability of the label in nats, (B, T-1), at least float32, with gradient.
        correct: Whether no token is more likely than the label, (B, T-1) bool.
        entropy: Of the next-token distribution in nats, (B, T-1), no gradient; None unless asked.
        aux_loss: The experts' load-balancing loss, scalar, not yet weighted; None where the model
            does not return its router logits.
    """

    logps: Tensor
    correct: Tensor
    entropy: Tensor | None = None
    aux_loss: Tensor | None = None


def token_logps(
    model: nn.Module,
    *,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    labels: Tensor,
    entropy: bool = False,
    **backbone: Any,
) -> HeadOutput:
    """Score ``labels``: position t of the result holds ``log p(labels[:, t + 1] | up to t)``.

    The work of the head grows with the number of labelled positions, and its memory with one tile
    of logits (see :mod:`trl_deepseek.lm_head.streaming_softmax`).

    Args:
        model: A causal language model, possibly wrapped.
        input_ids: Tokens, (B, T); None where ``backbone`` brings ``inputs_embeds``.
        attention_mask: As the model takes it; None for none.
        labels: Tokens to score, (B, T), not shifted; -100 where nothing is scored.
        entropy: Whether to compute the entropy too.
        **backbone: Passed to the model's forward (``position_ids``, ``output_router_logits``, ...).
    """
    given: dict[str, Any] = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "entropy": entropy,
    }
    target = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    found = target_logps(model, target=target, **given, **backbone)
    spread = None if found.entropy is None else found.entropy[:, :-1]
    return HeadOutput(found.logps[:, :-1], found.correct[:, :-1], spread, found.aux_loss)


def target_logps(
    model: nn.Module,
    *,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    target: Tensor,
    entropy: bool = False,
    copies: Tensor | None = None,
    **backbone: Any,
) -> HeadOutput:
    """As :func:`token_logps`, told what each position is to predict; everything is (B, T).

    Args:
        model: A causal language model, possibly wrapped.
        input_ids: Tokens, (B, T); None where ``backbone`` brings ``inputs_embeds``.
        attention_mask: As the model takes it; None for none.
        target: The token to score at each position, (B, T); -100 where nothing is scored.
        entropy: Whether to compute the entropy too.
        copies: How often each token counts in the load-balancing loss, (B, T); None to let
            ``attention_mask`` say it.
        **backbone: Passed to the model's forward.
    """
    causal_lm = unwrap(model)
    layers = _linear_layers(causal_lm.get_output_embeddings())
    weights = attention_mask if copies is None else copies
    arguments = {"attention_mask": attention_mask, "use_cache": False, **backbone}
    if input_ids is not None:
        arguments["input_ids"] = input_ids

    if layers and not _transforms_logits(causal_lm):
        with _scoring_head(layers, target, entropy) as seen:
            outputs = model(**arguments)
        placed = outputs.logits[..., 0]
        if seen and _same(placed, seen[0].logps):
            found = Scores(placed, seen[0].correct, seen[0].entropy)
            return _output(found, balancing_loss(causal_lm, outputs, weights))
        _seen_to_transform.add(type(causal_lm))
        logger.warning(
            "%s transforms its logits; its labelled positions are scored through full logits",
            type(causal_lm).__name__,
        )

    with _labelled_only(causal_lm.get_output_embeddings(), target):
        outputs = model(**arguments)
    found = _place(_score_logits(outputs.logits[0], target[target != IGNORED], entropy), target)
    return _output(found, balancing_loss(causal_lm, outputs, weights))


def unwrap(model: nn.Module) -> Any:
    """The causal language model inside DDP, DeepSpeed, ``torch.compile`` and PEFT wrappers."""
    inner: Any = model
    while True:
        if hasattr(inner, "get_base_model"):
            inner = inner.get_base_model()
        elif isinstance(getattr(inner, "_orig_mod", None), nn.Module):
            inner = inner._orig_mod
        elif isinstance(getattr(inner, "module", None), nn.Module):
            inner = inner.module
        else:
            return inner


def _transforms_logits(model: Any) -> bool:
    config = model.config.get_text_config()
    named = any(
        getattr(config, field, None) not in (None, neutral)
        for field, neutral in LOGIT_TRANSFORMS.items()
    )
    return named or type(model) in _seen_to_transform


def _same(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and torch.allclose(left, right, 0.0, 0.0, equal_nan=True)


def _linear_layers(head: Any) -> list[nn.Module]:
    """The plain linear layers one of which is the head; empty where the head is something else.

    PEFT's ``modules_to_save`` keeps the original beside each adapter's copy and calls one of them.
    """
    candidates: list[Any] = [head]
    if hasattr(head, "modules_to_save") and hasattr(head, "original_module"):
        candidates = [head.original_module, *head.modules_to_save.values()]
    # FSDP makes subclasses of the layer's class; quantized layers have a forward of their own
    plain = [
        isinstance(layer, nn.Linear)
        and type(layer).forward is nn.Linear.forward
        and layer.weight.is_floating_point()
        for layer in candidates
    ]
    return candidates if all(plain) else []


@contextlib.contextmanager
def _scoring_head(layers: list[nn.Module], target: Tensor, entropy: bool) -> Iterator[list[Scores]]:
    """While open, the head returns log-probs (B, T, 1) in place of logits; yields the scores."""
    held: list[Tensor] = []
    seen: list[Scores] = []

    def before(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
        held.append(arguments[0])
        return (arguments[0][:, :0],)

    def after(layer: nn.Module, _: Any, __: Tensor) -> Tensor:
        hidden = held.pop()[:, -target.shape[1] :]  # prompt tuning puts tokens in front
        goal = target.to(hidden.device)
        mask = goal != IGNORED
        scores = score(hidden[mask], layer.weight, layer.bias, goal[mask], entropy=entropy)  # type: ignore[arg-type]
        seen[:] = [_place(scores, goal)]
        return seen[0].logps[..., None].clone()  # FSDP must not be handed a view

    with contextlib.ExitStack() as stack:
        for layer in layers:
            # ahead of the hooks that let go of sharded weights again
            stack.enter_context(_removed(layer.register_forward_hook(after, prepend=True)))
            stack.enter_context(_removed(layer.register_forward_pre_hook(before)))
        yield seen


@contextlib.contextmanager
def _labelled_only(head: nn.Module, target: Tensor) -> Iterator[None]:
    """While open, the head sees the N labelled positions only, as one row (1, N, H)."""

    def before(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
        hidden = arguments[0][:, -target.shape[1] :]
        return (hidden[target.to(hidden.device) != IGNORED][None],)

    with _removed(head.register_forward_pre_hook(before)):
        yield


@contextlib.contextmanager
def _removed(handle: RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _score_logits(logits: Tensor, target: Tensor, entropy: bool) -> Scores:
    """What :func:`score` returns, from full logits (N, V)."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    target = target.to(logits.device)
    logps = logits.log_softmax(dim=-1)
    chosen = logps.gather(1, target[:, None])[:, 0]
    with torch.no_grad():
        correct = chosen >= logps.amax(dim=-1) if len(target) else target.bool()
        spread = -(logps.exp() * logps).sum(dim=-1) if entropy else None
    return Scores(chosen, correct, spread)


def _place(scores: Scores, target: Tensor) -> Scores:
    """Spread N scores over the (B, T) positions they belong to, zero elsewhere.

    ``masked_scatter`` keeps the result connected to the model even where nothing is labelled, so
    that such a batch has a gradient, zero, instead of failing in ``backward``.
    """
    mask = target.to(scores.logps.device) != IGNORED

    def place(values: Tensor) -> Tensor:
        return values.new_zeros(mask.shape).masked_scatter(mask, values)

    spread = None if scores.entropy is None else place(scores.entropy)
    return Scores(place(scores.logps), place(scores.correct), spread)


def _output(scores: Scores, aux_loss: Tensor | None) -> HeadOutput:
    return HeadOutput(scores.logps, scores.correct, scores.entropy, aux_loss)
