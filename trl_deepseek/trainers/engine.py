"""GRPO with vLLM: which engine TRL builds, what it stops at, and the proof that it is the policy.

Touches TRL at the constructor, where its generation by vLLM is replaced by our subclass of it, and
around each generated turn and batch.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import torch

from trl_deepseek import engines, noise, quantization
from trl_deepseek.errors import RunError
from trl_deepseek.replacing import replaced
from trl_deepseek.trainers import replaying
from trl_deepseek.trainers.configs import GRPOConfig
from trl_deepseek.trainers.inputs import Inputs, config_of
from trl_deepseek.trainers.trl_grpo import grpo_trainer

PROVED = 4  # sequences of a process whose log-probs are compared after each sync
TOKENS = 32  # of each
TOLERANCE = GRPOConfig.engine_tolerance  # also where the config is TRL's own


class EngineTraining:
    """Mixin of the GRPO trainer; without ``use_vllm`` it does nothing."""

    def __init__(self: Any, inputs: Any, **kwargs: Any) -> None:
        with policy_in(inputs) if inputs.args.use_vllm else contextlib.nullcontext():
            super().__init__(inputs, **kwargs)  # type: ignore[call-arg]
        self._tolerance = getattr(inputs.args, "engine_tolerance", TOLERANCE)
        if self.use_vllm:
            # An engine stops at the tokens that it finds beside the model, and at these.
            given = self.vllm_generation.generation_kwargs
            own = list(given.get("stop_token_ids") or ())
            stops = self.model.generation_config.eos_token_id
            stops = stops if isinstance(stops, list) else [stops]
            self.eos_token_ids = list(dict.fromkeys([*self.eos_token_ids, *stops]))
            given["stop_token_ids"] = list(dict.fromkeys([*own, *self.eos_token_ids]))

    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As TRL's, with weights that are sent anew to an engine in and after every training.

        TRL sends them where the step is another one than at the last time. It may be the same one
        with other weights: of a checkpoint, of the best model, of another training.
        """
        self._last_loaded_step = -1
        try:
            return super().train(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._last_loaded_step = -1

    def evaluation_loop(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As TRL's; outside training a server may have served another trainer since."""
        if not self.is_in_train:
            self._last_loaded_step = -1
        return super().evaluation_loop(*args, **kwargs)  # type: ignore[misc]

    def _generate_single_turn(self: Any, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.use_vllm:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)  # type: ignore[misc]
        synced = self.vllm_generation.synced
        turn = super()._generate_single_turn(prompt_ids, *args, **kwargs)  # type: ignore[misc]
        if self.vllm_generation.synced > synced and self._tolerance:
            self._prove(prompt_ids, *turn)
        return turn

    def _tool_call_loop(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.use_vllm:
            return super()._tool_call_loop(*args, **kwargs)  # type: ignore[misc]
        self.vllm_generation.goes_on = True
        try:
            return super()._tool_call_loop(*args, **kwargs)  # type: ignore[misc]
        finally:
            self.vllm_generation.goes_on = False

    def _prove(self: Any, prompts: Any, completions: Any, logps: Any) -> None:
        """Compare the engine's log-probs of what it sampled with the policy's.

        Raises:
            RunError: They differ: the engine has other weights.
        """
        engine = self.vllm_generation
        if _changed(engine):
            # No more than a completion may have: prompts have room for one, perhaps for no more.
            with engine.plainly(min(TOKENS, engine.max_completion_length)):
                _, completions, logps, _ = engine.generate(prompts[:PROVED], None, 1)
            logps = [[token[0] for token in row] for row in logps]
        prompts, completions = prompts[:PROVED], [ids[:TOKENS] for ids in completions[:PROVED]]
        width = max(map(len, completions))
        ids, mask = _padded(prompts, completions, width, self._tokenizer.pad_token_id)
        device = self.accelerator.device
        with torch.no_grad():  # without dropout, as the whole turn is
            ours = self._get_per_token_logps_and_entropies(
                self.model, ids.to(device), mask.to(device), width, batch_size=1
            )[0].float()
        theirs = torch.full_like(ours, torch.nan)
        for row, values in enumerate(logps[:PROVED]):
            known = [torch.nan if value is None else value for value in values[:TOKENS]]
            theirs[row, : len(known)] = torch.tensor(known)
        gap = (ours - theirs).abs()
        known = ~gap.isnan()
        sums = torch.stack([gap[known].sum(), known.sum()])
        total, count = self.accelerator.reduce(sums, "sum").tolist()
        mean = total / count if count else float("nan")  # of nothing, nothing is proved
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["sampling/gap_after_sync"].append(mean)
        if not mean <= self._tolerance:
            raise RunError(
                f"step {self.state.global_step}: the engine does not have the weights of the "
                f"policy: of {count:.0f} tokens that it has just sampled, its log-probs differ "
                f"from the policy's by {mean:.3g} nats on average, more than engine_tolerance, "
                f"{self._tolerance:g}\n"
                "  with a server: is it the one of this run alone? Where a precision or a "
                "quantization of the engine's is meant to differ that much, raise "
                "--engine_tolerance"
            )

    def _generate_and_score_completions(self: Any, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        if self.use_vllm and self.embedding_noise is not None:
            # Old log-probs have no noise, and the policy's have it. Without them TRL takes the
            # policy's own, as where it generates without an engine, and the ratio begins at 1.
            output.pop("old_per_token_logps", None)
        return output


def _changed(engine: Any) -> bool:
    """Whether tokens are sampled by something else than the model's probabilities."""
    return bool(
        engine.top_p != 1
        or engine.top_k
        or engine.min_p
        or engine.repetition_penalty != 1
        or engine.structured_outputs_regex
        or engine.generation_kwargs.keys() - {"stop_token_ids", "seed"}
    )


def _padded(
    prompts: list[list[int]], completions: list[list[int]], width: int, padding: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as TRL lays them out, prompts to the left of completions; ids and mask, (B, T)."""
    left = max(map(len, prompts))
    rows, masks = [], []
    for prompt, completion in zip(prompts, completions, strict=True):
        before, after = left - len(prompt), width - len(completion)
        rows.append([padding] * before + [*prompt, *completion] + [padding] * after)
        masks.append([0] * before + [1] * (len(prompt) + len(completion)) + [0] * after)
    return torch.tensor(rows), torch.tensor(masks)


def policy_in(inputs: Any) -> contextlib.AbstractContextManager[None]:
    """Within it, TRL generates by :class:`trl_deepseek.engines.policy.Policy`."""
    from trl_deepseek.engines.policy import Policy

    source = inputs.model if isinstance(inputs.model, str) else None
    return replaced(grpo_trainer, VLLMGeneration=partial(Policy, source=source))


def check_engine(inputs: Inputs) -> None:
    """Refuse what an engine cannot do, before a model is loaded.

    Raises:
        ConfigError: See :func:`trl_deepseek.engines.check`.
    """
    args = inputs.args
    replaying.check(inputs)
    if not args.use_vllm:
        return
    chosen = quantization.choose(args, inputs.registry)
    given = inputs.options.get("quantization_config")
    bits = 8 if getattr(given, "load_in_8bit", False) else chosen.bits if chosen else None
    noised = noise.choose(args, inputs.registry) is not None
    engines.check(args, config_of(inputs), noised=noised, bits=bits)
    if args.vllm_mode == "server":
        engines.check_server(args, name_of(inputs), inputs.tokenizer)


def name_of(inputs: Inputs) -> str:
    """What the policy is called, where it was loaded under a name."""
    if isinstance(inputs.model, str):
        return inputs.model
    return inputs.embedded or str(getattr(inputs.model, "name_or_path", ""))
