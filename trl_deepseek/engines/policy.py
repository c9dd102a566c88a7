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
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration

from trl_deepseek.engines import server, weights
from trl_deepseek.engines.starting import starting, written
from trl_deepseek.errors import RunError, boundary

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)


class Policy(VLLMGeneration):
    """The policy in vLLM, colocated or on a server.

    Attributes:
        source: What a colocated engine is started from; None to write the model to a folder.
        synced: How often it was given the policy's weights.
        goes_on: Whether completions that have begun are generated further, behind results of tools.
    """

    def __init__(self, *args: Any, source: str | None, **kwargs: Any) -> None:
        self.source = source
        self.synced, self.goes_on = 0, False
        super().__init__(*args, **kwargs)

    def _init_vllm(self) -> None:
        if self.mode == "server":
            with boundary(RunError, "the vLLM server cannot be used"):
                super()._init_vllm()
            if self.accelerator.is_main_process:
                client = self.vllm_client
                client._post = server.watched(client._post, client.base_url)
            return
        with (
            written(self.model, self.processing_class, self.source) as folder,
            starting(),
            _built_with(model=folder, dtype=self._dtype(), quantization=None),
        ):
            super()._init_vllm()
        self._say_precision()

    def _dtype(self) -> torch.dtype:
        """What the trainer computes in; of itself an engine takes 16 bits for weights in 32."""
        mixed = {"bf16": torch.bfloat16, "fp16": torch.float16}
        dtype: torch.dtype = mixed.get(self.accelerator.mixed_precision, self.model.dtype)
        return dtype

    def _say_precision(self) -> None:
        held = str(self.llm.llm_engine.model_config.dtype).removeprefix("torch.")
        trained = str(self.model.dtype).removeprefix("torch.")
        if self.accelerator.is_main_process:
            where = "" if held == trained else f"; it is trained in {trained}"
            logger.info("vLLM holds the policy in %s%s", held, where)

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
        if self.mode == "colocate" and prompts and not self.goes_on:
            room = self.llm.llm_engine.model_config.max_model_len
            longest = max(map(len, prompts))
            if longest + self.max_completion_length > room:
                raise RunError(
                    f"a prompt of {longest} tokens and a completion of "
                    f"{self.max_completion_length} do not fit into the {room} of the engine\n"
                    f"  --vllm_max_model_length {longest + self.max_completion_length}, or more"
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


@contextlib.contextmanager
def _built_with(**options: Any) -> Iterator[None]:
    """Within it, TRL builds its engine with these options in the place of its own.

    Weights are sent in 16 bits or more, so that an engine holds no quantized ones.
    """
    kept = vllm_generation.LLM
    vllm_generation.LLM = lambda **given: kept(**{**given, **options})
    try:
        yield
    finally:
        vllm_generation.LLM = kept


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
