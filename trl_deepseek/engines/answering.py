"""Answers by vLLM in the place of ``model.generate``, for evaluation and sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trl_deepseek.engines.starting import starting, written
from trl_deepseek.errors import RunError, boundary

MEMORY = 0.3  # of the GPU, where the model itself lies too, as in GRPO


class Answering:
    """vLLM with the weights that a model has now, its adapter merged.

    Args:
        model: Of transformers, with or without an adapter.
        tokenizer: With its template.

    Raises:
        RunError: vLLM does not start.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        with written(model, tokenizer, None) as folder, starting():
            from vllm import LLM

            self.llm = LLM(
                model=folder,
                dtype=model.dtype,
                gpu_memory_utilization=MEMORY,
                max_num_batched_tokens=4096,
            )

    def answer(
        self,
        prompts: Sequence[list[int]],
        draws: Sequence[tuple[int, int]],
        sampling: Any,
        stops: Sequence[int],
    ) -> list[list[int]]:
        """The tokens of each answer, up to and including the one that ends it.

        Args:
            prompts: Their tokens.
            draws: The numbers of prompt and sample: each answer has draws of its own by them.
            sampling: See ``trl_deepseek.generation.Sampling``.
            stops: Tokens that end an answer.

        Raises:
            RunError: vLLM failed.
        """
        from vllm import SamplingParams

        temperature = 1.0 if sampling.temperature is None else sampling.temperature
        settings = [
            SamplingParams(
                temperature=0.0 if sampling.is_greedy else temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                max_tokens=sampling.max_new_tokens,
                stop_token_ids=list(stops),
                seed=hash((sampling.seed, *draw)) & 0x7FFFFFFF,
            )
            for draw in draws
        ]
        asked = [{"prompt_token_ids": ids} for ids in prompts]
        with boundary(RunError, "vLLM failed while it generated"):
            found = self.llm.generate(asked, sampling_params=settings, use_tqdm=False)
        return [list(each.outputs[0].token_ids) for each in found]
