"""GRPO: TRL's trainer with models, templates and rewards by name, and rewards under a contract.

Where it touches TRL: at the constructor, where each reward function is replaced by one that keeps
its deadline and checks its scores (``trl_deepseek.rewards``); around a generated batch, to set the
weights of the step and to save the completions; and at checkpoints, to save the batch that is
being worked off, so that a run resumed in the middle of it goes on exactly.
"""

from __future__ import annotations

import contextlib
import json
import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import trl
from accelerate.utils import gather_object

from trl_deepseek import chat, data, rewards
from trl_deepseek.checkpoints.states import Stateful
from trl_deepseek.errors import RewardError
from trl_deepseek.policy.plan import PolicyPlan, plan
from trl_deepseek.replacing import replaced
from trl_deepseek.rewards import verifiers, weights
from trl_deepseek.rewards.contract import Settings
from trl_deepseek.rewards.placing import Guards
from trl_deepseek.rollouts import table
from trl_deepseek.rollouts.history import History
from trl_deepseek.tools import Guard
from trl_deepseek.trainers import adapted_head, reference, replaying, tool_use
from trl_deepseek.trainers.base import PluginTrainer
from trl_deepseek.trainers.configs import GRPOConfig
from trl_deepseek.trainers.engine import EngineTraining, check_engine
from trl_deepseek.trainers.inputs import Inputs, find, read_conversations
from trl_deepseek.trainers.policy import PolicyTrainer
from trl_deepseek.trainers.replaying import ReplayedRollouts
from trl_deepseek.trainers.sampling import SampledAsTrained
from trl_deepseek.trainers.scoring import ScoredCompletions
from trl_deepseek.trainers.tool_use import ToolUse
from trl_deepseek.trainers.trl_grpo import grpo_trainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TABLES = 10  # of completions, shown over a run
# The dataset's columns that are saved with the completions are all but these.
_SAVED_APART = ("prompt", "completion", "completion_ids")


@dataclass
class _Scored:
    """What one process generated and everyone's scores of it."""

    prompts: list[Any]
    completions: list[Any]
    completion_ids: list[list[int]]
    scores: torch.Tensor  # (B over all processes, rewards)


@dataclass(frozen=True)
class _Rewards:
    """The rewards of a run, and what was found out about them."""

    functions: list[Any]
    weights: weights.Weights | None
    settings: Settings
    code_runs: str | None  # how generated code is run; None where none is
    policy: PolicyPlan
    tools: Guard


class GRPOTrainer(
    ToolUse,
    SampledAsTrained,
    EngineTraining,
    ReplayedRollouts,
    PluginTrainer,
    ScoredCompletions,
    PolicyTrainer,
    trl.GRPOTrainer,
):
    """Drop-in for ``trl.GRPOTrainer``; see it for the arguments.

    Each of ``reward_funcs`` may also be a registered name, ``file.py:function``,
    ``module.function`` or a function of one sample, ``f(completion, **columns) -> float | None``;
    ``tools`` and ``environment_factory`` may be named likewise;
    ``model`` may also be the name of an embedded model. With ``args.beta`` a model in memory is
    copied as its own reference.

    Raises:
        UnknownName: No plugin registers that reward, model or template.
        DataError: A reward needs a column that the dataset does not have.
        ConfigError: A reward cannot be called or isolated, or a weight has no reward.
        RewardError: While training: a reward failed, and ``reward_on_error`` is ``raise``, or it
            failed on everything ``reward_max_failures`` times in a row.
    """

    CONFIG = (GRPOConfig, trl.GRPOConfig)

    def __init__(
        self,
        model: str | PreTrainedModel | Inputs,
        reward_funcs: Any = None,
        args: trl.GRPOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(model, Inputs):
            model = self.check(
                model,
                args,
                train_dataset,
                eval_dataset,
                processing_class,
                reward_funcs=reward_funcs,
                **kwargs,
            )
            kwargs = {}
        inputs, chosen, args = model, model.parts, model.args
        self._weights, self.policy = chosen.weights, chosen.policy
        self._saves_completions = getattr(args, "save_completions", True)
        self._history: History | None = None
        self._next_table = 0
        self._scored: _Scored | None = None
        self._tools = chosen.tools
        self._prefix = chat.generation_prefix(inputs.tokenizer)
        self._guards = guards = Guards(
            chosen.functions, inputs.registry, chosen.settings, self._prefix, _use_gpu()
        )
        weakref.finalize(self, guards.close)
        with (
            _first_weights(args, self._weights),
            _reference_in_memory(inputs),
            adapted_head.allowed(),
        ):
            super().__init__(inputs, reward_funcs=guards.functions, **kwargs)
        if chosen.code_runs is not None and self.accelerator.is_main_process:
            record = Path(args.output_dir, "generated_code.json")
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(json.dumps({"runs": chosen.code_runs}) + "\n")

    @classmethod
    def _check(cls, inputs: Inputs) -> None:
        args, registry = inputs.args, inputs.registry
        policy = plan(args, registry)
        functions = rewards.resolve(verifiers.named(inputs), registry)
        rewards.check_kept(functions, args)
        tools = tool_use.check(inputs)
        inputs.each_split(lambda rows, split: _read(rows, split, functions, tools))
        data.each(inputs.train_dataset, partial(_check_batch, args=args))
        ours = isinstance(args, GRPOConfig)
        code_runs = rewards.check_sandbox(functions, ours and args.allow_unsandboxed_code)
        settings = args.reward_settings() if ours else Settings(output_dir=args.output_dir)
        weighed = weights.weigh(args.reward_weights, [rewards.name_of(each) for each in functions])
        inputs.parts = _Rewards(functions, weighed, settings, code_runs, policy, tools)
        find(inputs)
        tool_use.check_template(inputs, tools)
        adapted_head.check(inputs)
        check_engine(inputs)
        inputs.advise(policy.bound)
        read_conversations(inputs)
        replaying.check_saved(inputs)

    def _rows(self, dataset: Any, split: str) -> Any:
        return _read(dataset, split, self.inputs.parts.functions, self._tools)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As TRL's; all completions are on disk when it returns or is interrupted."""
        try:
            return super().train(*args, **kwargs)
        finally:
            if self._history is not None:
                self._history.flush()

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        mode = "train" if self.model.training else "eval"
        if self._weights is not None and not self._weights.constant:
            now = self._weights.at(self.state.global_step)
            self.reward_weights[: len(now)] = torch.tensor(now)
            for name, weight in zip(self.reward_func_names, now, strict=False):
                self._metrics[mode][f"rewards/{name}/weight"].append(weight)
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self._scored is not None:
            self._report(inputs, self._scored, output["advantages"], mode)
            self._scored = None
        return output

    def _weights_by_name(self) -> dict[str, float]:
        return dict(zip(self.reward_func_names, self.reward_weights.tolist(), strict=True))

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[Any],
        completions: list[Any],
        completion_ids_list: list[list[int]],
    ) -> torch.Tensor:
        scores: torch.Tensor = super()._calculate_rewards(
            inputs, prompts, completions, completion_ids_list
        )
        # Functions have been checked one by one, where NaN says that one abstained.
        models = [isinstance(function, torch.nn.Module) for function in self.reward_funcs]
        wrong = scores.isinf() | (scores.isnan() & scores.new_tensor(models).bool())
        if wrong.any():
            name = self.reward_func_names[int(wrong.any(dim=0).nonzero()[0])]
            raise RewardError(f"reward {name!r} gave a score that is not finite")
        self._scored = _Scored(prompts, completions, completion_ids_list, scores)
        return scores

    def _report(
        self, inputs: list[dict[str, Any]], scored: _Scored, advantages: torch.Tensor, mode: str
    ) -> None:
        """Save a batch from all processes, and show some of it now and then."""
        step = self.state.global_step
        shows = mode == "train" and step >= self._next_table and not self.args.disable_tqdm
        if not (self._saves_completions or shows):
            return
        columns = [{k: v for k, v in row.items() if k not in _SAVED_APART} for row in inputs]
        prompts = gather_object(scored.prompts)
        completions = gather_object(scored.completions)
        ids = gather_object(scored.completion_ids)
        columns = gather_object(columns)
        everyones = self.accelerator.gather(advantages).tolist()
        if not self.accelerator.is_main_process:
            return
        by_name = dict(zip(self.reward_func_names, scored.scores.T.tolist(), strict=True))
        if self._saves_completions:
            if self._history is None:
                self._history = History(self.args.output_dir, fresh=step == 0)
            self._history.add(
                step=step,
                mode=mode,
                prompts=prompts,
                completions=completions,
                completion_ids=ids,
                columns=columns,
                scores=by_name,
                advantages=everyones,
                group_size=self.num_generations if mode == "train" else self.num_generations_eval,
                generation_prefix=self._prefix,
                weights=self._weights_by_name(),
            )
        if shows:
            self._next_table = step + max(1, self.state.max_steps // TABLES)
            table.show(step, prompts, completions, by_name, everyones)

    def _write_own(self, folder: Path) -> None:
        super()._write_own(folder)
        if not self.args.save_only_model:
            state = {"step": self._step, "buffer": self._buffered_inputs}
            torch.save(state, self._window_file(folder))

    def _read_own(self, folder: Path) -> None:
        super()._read_own(folder)
        file = self._window_file(folder)
        if file.exists():
            state = torch.load(file, weights_only=True)
            self._step, self._buffered_inputs = state["step"], state["buffer"]

    def _with_state(self) -> dict[str, Stateful]:
        return super()._with_state() | self._guards.with_state()

    def _window_file(self, checkpoint: str | os.PathLike[str]) -> Path:
        """Where this process keeps the generated batch that it is working off."""
        return Path(checkpoint, f"generated_batch_{self.accelerator.process_index}.pt")


def _read(dataset: Any, split: str, functions: list[Any], tools: Guard) -> Any:
    """The dataset, or each of a mapping, with its prompts and the rewards' columns checked."""

    def read(part: Any) -> Any:
        columns = getattr(part, "column_names", None)  # a stream may not know them
        if isinstance(columns, list):
            rewards.check_columns(functions, columns)
        if hasattr(part, "__len__"):  # else streamed
            rewards.check_rows(functions, part)
        return data.check_prompts(
            part,
            data.source_of(part, split),
            rewards.columns_of(functions),
            environments=None if tools.environments is None else tools.environments.names,
        )

    return data.each(dataset, read)


def _check_batch(dataset: Any, args: Any) -> None:
    prompts = args.generation_batch_size // args.num_generations
    data.check_batch(dataset, prompts, data.source_of(dataset, "train_dataset"))


def _use_gpu() -> Callable[[], None] | None:
    """What gives a thread that runs a reward this process's GPU, which is set per thread."""
    if not torch.cuda.is_available():
        return None
    return partial(torch.cuda.set_device, int(os.environ.get("LOCAL_RANK", "0")))


@contextlib.contextmanager
def _first_weights(args: Any, given: weights.Weights | None) -> Iterator[None]:
    """Show TRL's constructor weights by position, and leave the config as the user wrote it."""
    written = args.reward_weights
    args.reward_weights = None if given is None else given.at(0)
    try:
        yield
    finally:
        args.reward_weights = written


def _reference_in_memory(inputs: Inputs) -> contextlib.AbstractContextManager[None]:
    """Around TRL's constructor, which takes no reference but loads one by name."""
    copied = reference.copy_in_memory(inputs) if inputs.args.beta else None
    if copied is None:
        return contextlib.nullcontext()
    return replaced(grpo_trainer, create_model_from_path=lambda *_args, **_kwargs: copied)


__all__ = ["GRPOConfig", "GRPOTrainer"]
