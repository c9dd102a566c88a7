"""TRL's generation by vLLM, with the policy that is trained in it and nothing else.

A subclass of TRL's own: the engine and the transfer of weights are TRL's. Here is what it is
started from (a model in memory is written to a folder first), which weights it gets
(:mod:`trl_deepseek.engines.weights`), and what is said when it fails.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration

from trl_deepseek.engines import weights
from trl_deepseek.engines.client import Client
from trl_deepseek.engines.starting import starting, written
from trl_deepseek.errors import RunError, boundary
from trl_deepseek.replacing import replaced

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)


class Policy(VLLMGeneration):
    """The policy in vLLM, colocated or on a server.

    Attributes:
        source: What a colocated engine is started from; None to write the model to a folder.
        room: Tokens that a prompt and its completion may have together.
        synced: How often it was given the policy's weights.
        goes_on: Whether completions that have begun are generated further, behind results of tools.
    """

    def __init__(self, *args: Any, source: str | None, **kwargs: Any) -> None:
        self.source = source
        self.synced, self.goes_on = 0, False
        super().__init__(*args, **kwargs)

    def _init_vllm(self) -> None:
        if self.mode == "server":
            with (
                boundary(RunError, "the vLLM server cannot be used"),
                replaced(vllm_generation, VLLMClient=Client),
            ):
                super()._init_vllm()
            held = [None]
            if self.accelerator.is_main_process:
                held = [self.vllm_client.room]
                self._say_precision(self.vllm_client.dtype)
            (self.room,) = broadcast_object_list(held)
            return
        with (
            written(self.model, self.processing_class, self.source) as folder,
            starting(),
            _built_with(model=folder, dtype=self._dtype(), quantization=None),
        ):
            super()._init_vllm()
        config = self.llm.llm_engine.model_config
        self.room = config.max_model_len
        self._say_precision(config.dtype)

    def _dtype(self) -> torch.dtype:
        """What the trainer computes in; of itself an engine takes 16 bits for weights in 32."""
        mixed = {"bf16": torch.bfloat16, "fp16": torch.float16}
        dtype: torch.dtype = mixed.get(self.accelerator.mixed_precision, self.model.dtype)
        return dtype

    def _say_precision(self, held: torch.dtype) -> None:
        computes = self._dtype()
        if held != computes:  # of a server, which is started by others
            logger.warning(
                "the vLLM server computes in %s, and the trainer in %s, so that their log-probs "
                "differ: start it with --dtype %s",
                *map(_word, (held, computes, computes)),
            )
        elif self.accelerator.is_main_process:
            same = held == self.model.dtype
            where = "" if same else f"; it is trained in {_word(self.model.dtype)}"
            logger.info("vLLM holds the policy in %s%s", _word(held), where)

    def _iter_named_params(self) -> Iterator[tuple[str, Tensor]]:
        if self._dist.is_fsdp or self.accelerator.distributed_type == "DEEPSPEED":
            yield from super()._iter_named_params()
        else:
            yield from weights.named(self.model)

    def sync_weights(self) -> None:
        """As TRL's; what an engine derives from its weights is derived anew."""
        with boundary(RunError, "the engine did not take the policy's weights"), torch.no_grad():
            super().sync_weights()
            if self.mode == "colocate":
                derive_again(self.llm)
        self.synced += 1

    def generate(self, prompts: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        """As TRL's, which lets an engine cut completions at the end of its context.

        What has been written counts for the completion, so that one that fits at its first turn
        fits at each.

        Raises:
            RunError: Prompt and completion do not fit into it, or it failed.
        """
        if prompts and not self.goes_on:
            longest = max(map(len, prompts))
            needed = longest + self.max_completion_length
            if needed > self.room:
                served = self.mode == "server"
                option = "the server's --max_model_len" if served else "--vllm_max_model_length"
                raise RunError(
                    f"a prompt of {longest} tokens and a completion of "
                    f"{self.max_completion_length} do not fit into the {self.room} of the engine\n"
                    f"  {option} {needed}, or more"
                )
        with boundary(_failed):
            return super().generate(prompts, *args, **kwargs)

    def end(self) -> None:
        """End a colocated engine; of itself one ends with Python, after what it runs on is gone."""
        if self.mode == "colocate":
            self.llm.llm_engine.engine_core.shutdown()

    @contextlib.contextmanager
    def plainly(self, tokens: int) -> Iterator[None]:
        """Within it, it samples ``tokens`` by the model's own probabilities, the same each time."""
        plain = {
            "repetition_penalty": 1.0,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": None,
            "max_completion_length": tokens,
            "structured_outputs_regex": None,
            "generation_kwargs": {"seed": 0, "ignore_eos": True},
        }
        kept = {name: getattr(self, name) for name in plain}
        self.__dict__.update(plain)
        try:
            yield
        finally:
            self.__dict__.update(kept)


def _built_with(**options: Any) -> contextlib.AbstractContextManager[None]:
    """Within it, TRL builds its engine with these options in the place of its own.

    Weights are sent in 16 bits or more, so that an engine holds no quantized ones.
    """
    kept = vllm_generation.LLM
    return replaced(vllm_generation, LLM=lambda **given: kept(**{**given, **options}))


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _failed(message: str) -> RunError:
    return RunError(f"vLLM failed while it generated: {message}")


def derive_again(llm: Any) -> None:
    """Have latent attention derive its absorbed projections from the weights that it has now.

    They are derived when a model is loaded, and decoding reads nothing else; they are changed in
    place, for the graphs that have been captured.
    """
    engine = llm.llm_engine
    for module in engine.model_executor.driver_worker.model_runner.model.modules():
        if not (hasattr(module, "kv_b_proj") and hasattr(module, "process_weights_after_loading")):
            continue
        before = {k: v for k, v in vars(module).items() if isinstance(v, torch.Tensor)}
        module.process_weights_after_loading(engine.model_config.dtype)
        for name, old in before.items():
            new = getattr(module, name)
            if new is not old and new.shape == old.shape:
                old.copy_(new)
                setattr(module, name, old)
