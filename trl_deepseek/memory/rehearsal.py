"""One training step on tensors without data: what autograd holds, and at what peak.

The model is the real one, built from its config on fake tensors, with the adapter that peft puts on
it and with stand-ins where the real run would dequantize weights. The loss is TRL's own fused LM
head, or the score of a reward model.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrize

from trl_deepseek.adapters.lora import EXPERTS, HEADS, ROUTER
from trl_deepseek.lm_head.streaming_softmax import score
from trl_deepseek.memory.live import LiveBytes
from trl_deepseek.models import skeleton

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PretrainedConfig

    from trl_deepseek.types import Quantization


HEAD_TOKENS = 2**13
"""Tokens beyond which one more adds a fixed number of bytes to the peak of the LM head: some tiles
of it are whole then."""


@dataclass(frozen=True)
class Step:
    """What one training step looks like, as far as memory goes.

    Attributes:
        sequences: Sequences in one forward pass (a preference pair is two).
        length: Tokens in each.
        checkpointing: Whether layers are run again in the backward pass instead of remembered.
        dtype: Of weights that are not quantized.
        autocast: The dtype of mixed precision; None for none.
        sequence_classification: Whether the model is a reward model.
        lean_head: Whether log-probs come from our head (registered preference losses), not TRL's.
    """

    sequences: int
    length: int
    checkpointing: bool
    dtype: torch.dtype
    autocast: torch.dtype | None
    sequence_classification: bool = False
    lean_head: bool = False


@dataclass(frozen=True)
class Rehearsed:
    """Bytes found by the rehearsal of one step, without gradients of parameters.

    Attributes:
        activations: The peak in the backbone.
        head: By how much the LM head's tiles raise that peak.
        layer: What one more layer adds to it.
    """

    activations: int
    head: int
    layer: int


def assemble(
    config: PretrainedConfig,
    step: Step,
    quantization: Quantization | None,
    adapter: PeftConfig | None,
) -> Any:
    """The model of the run on the meta device: adapter on, frozen parts frozen, norms prepared."""
    from trl_deepseek.quantization import keep_norms_in_float32

    model: Any = skeleton.build(
        config, sequence_classification=step.sequence_classification, dtype=step.dtype
    )
    is_quantized = quantization is not None and quantization.bits is not None
    if is_quantized:
        keep_norms_in_float32(model)
    if adapter is not None:
        from peft import get_peft_model

        if step.sequence_classification:
            adapter.task_type = "SEQ_CLS"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft's about patterns that match nothing here
            model = get_peft_model(model, adapter)
    if is_quantized and adapter is not None:
        for parameter in model.parameters():
            if parameter.requires_grad:  # as TRL does with adapters on a quantized model, or we do
                scaled = step.autocast is torch.float16
                parameter.data = parameter.data.to(torch.float32 if scaled else torch.bfloat16)
    return model


def rehearse(
    config: PretrainedConfig,
    step: Step,
    quantization: Quantization | None,
    adapter: PeftConfig | None,
) -> Rehearsed:
    """Run the forward and backward pass of one step without data.

    Layers of a kind are alike, so two shallow models, of which one has two layers more, tell what a
    deep one holds: the peak is a sum over layers, whatever the phase in which it is reached.
    """
    depth = config.num_hidden_layers
    shallow = min(depth, (getattr(config, "first_k_dense_replace", None) or 0) + 2)
    deeper = min(depth, shallow + 2)

    def passing(layers: int, head: bool, sequences: int = step.sequences) -> int:
        fewer = copy.deepcopy(config)
        fewer.num_hidden_layers = layers
        one = replace(step, sequences=sequences)
        model = assemble(fewer, one, quantization, copy.deepcopy(adapter))
        return _peak(model, one, quantization, head)

    def with_head() -> int:
        """Of the shallow model; walking through all tiles of a wide batch would take minutes."""
        few = -(-HEAD_TOKENS // step.length)
        if step.sequences <= 2 * few:
            return passing(shallow, True)
        low, high = passing(shallow, True, few), passing(shallow, True, 2 * few)
        return high + (high - low) * (step.sequences - 2 * few) // few

    least = passing(shallow, False)
    layer = (passing(deeper, False) - least) // (deeper - shallow) if deeper > shallow else 0
    head = 0 if step.sequence_classification else max(0, with_head() - least)
    return Rehearsed(least + layer * (depth - shallow), head, layer or least // depth)


def _peak(model: Any, step: Step, quantization: Quantization | None, head: bool) -> int:
    """The most bytes alive in one pass, without the gradients of parameters."""
    with FakeTensorMode(allow_non_fake_inputs=True), _grouped_matmul(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers about its own names
        model = model.to_empty(device="cpu")
        model.train()
        if quantization is not None and quantization.bits is not None:
            _dequantize_on_use(model, quantization, step.dtype)
        if step.checkpointing:
            model.gradient_checkpointing_enable(
                {"use_reentrant": False, "preserve_rng_state": False}
            )
            model.enable_input_require_grads()
        ids = torch.zeros(step.sequences, step.length, dtype=torch.long)
        held = LiveBytes([*model.parameters(), *model.buffers(), ids])
        most = gradients = 0

        def note(parameter: Tensor) -> None:
            nonlocal most, gradients
            most = max(most, held.peak - gradients)
            gradients += parameter.nbytes
            held.restart()

        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(note)
        mixed = torch.autocast(
            "cpu", dtype=step.autocast or torch.bfloat16, enabled=step.autocast is not None
        )
        with held:
            with mixed:
                loss = _loss(model, step, ids, head)
            loss.backward()
        return max(most, held.peak - gradients)


def _loss(model: Any, step: Step, ids: Tensor, head: bool) -> Tensor:
    from trl.trainer.utils import add_fused_lm_head

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if step.sequence_classification:
        scores: Tensor = model(input_ids=ids, use_cache=False).logits
        return scores.float().sum()
    if not head or step.lean_head:
        hidden: Tensor = base.base_model(input_ids=ids, use_cache=False).last_hidden_state
        if not head:
            return hidden.sum()
        layer = base.get_output_embeddings()
        return score(hidden.flatten(0, 1), layer.weight, layer.bias, ids.flatten()).logps.sum()
    add_fused_lm_head(base)
    loss: Tensor = model(input_ids=ids, labels=ids, fused_lm_head=True).loss
    return loss


class _Dequantized(torch.autograd.Function):
    """A linear map whose weight exists in 16 bits only while it is used, as bitsandbytes' does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.weight = weight
        return x @ torch.empty_like(weight, dtype=x.dtype).t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0]
        return gradient @ torch.empty_like(ctx.weight, dtype=gradient.dtype), None


class _Unpacked(nn.Module):
    """Stands in for the dequantization of an expert parameter."""

    def forward(self, packed: Tensor) -> Tensor:
        return torch.empty_like(packed)


def _dequantize_on_use(model: nn.Module, quantization: Quantization, dtype: torch.dtype) -> None:
    for name, module in list(model.named_modules()):
        is_adapter = "lora_" in name
        if isinstance(module, nn.Linear) and not is_adapter and not name.endswith((*HEADS, ROUTER)):
            module.forward = _packed_forward(module, dtype)  # type: ignore[method-assign]
        if (
            name.endswith("mlp.experts")
            and quantization.bits == 4
            and quantization.quantize_experts
        ):
            for expert in EXPERTS:
                short = expert.rpartition(".")[2]
                parametrize.register_parametrization(module, short, _Unpacked(), unsafe=True)


def _packed_forward(module: nn.Linear, dtype: torch.dtype) -> Any:
    def forward(x: Tensor) -> Tensor:
        result: Tensor = _Dequantized.apply(x.to(dtype), module.weight)
        if module.bias is not None:
            result = result + module.bias.to(dtype)
        return result.to(x.dtype)

    return forward


class _Grouped(torch.autograd.Function):
    """The shapes of a grouped matrix product; torch's own does not take fake float32 tensors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return x.new_empty(x.shape[0], weight.shape[2])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = gradients[0].shape[0]
        for_input = (
            gradients[0].new_empty(rows, weight.shape[1]) if ctx.needs_input_grad[0] else None
        )
        return for_input, torch.empty_like(weight) if x is not None else None


@contextlib.contextmanager
def _grouped_matmul() -> Iterator[None]:
    from transformers.integrations import moe

    def grouped(input: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
        result: Tensor = _Grouped.apply(input.to(weight.dtype), weight)
        return result

    with mock.patch.object(moe, "_grouped_mm", grouped):
        yield
