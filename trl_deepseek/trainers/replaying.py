"""GRPO on the completions that a run saved, without generating: to debug a loss or a reward.

At each step the policy is trained on what that run generated at this step for the same prompts.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trl.trainer.utils import RepeatSampler

from trl_deepseek.errors import ConfigError, DataError, RunError
from trl_deepseek.rollouts import history, record
from trl_deepseek.trainers import provenance

logger = logging.getLogger(__name__)

# Settings that bear on what is generated, and so on what is trained on.
DRAWN_BY = (
    "seed", "data_seed", "per_device_train_batch_size", "gradient_accumulation_steps",
    "generation_batch_size", "steps_per_generation", "num_generations", "num_iterations",
    "shuffle_dataset", "max_completion_length", "temperature", "top_p", "top_k", "min_p",
    "repetition_penalty", "generation_kwargs", "chat_template_kwargs", "mask_truncated_completions",
)  # fmt: skip


class ReplayedRollouts:
    """Mixin of the GRPO trainer; without ``rollouts`` it does nothing."""

    def __init__(self: Any, inputs: Any, **kwargs: Any) -> None:
        self._prompts_asked: list[Any] = []
        self._saved: dict[tuple[str, int, str], deque[list[int]]] | None = None
        folder = getattr(inputs.args, "rollouts", None)
        if folder is not None:
            self._saved = defaultdict(deque)
            for row in history.read(folder):
                self._saved[row.mode, row.step, _key(row.prompt)].append(row.completion_ids)
        super().__init__(inputs, **kwargs)  # type: ignore[call-arg]

    def _generate(self: Any, prompts: list[Any]) -> Any:
        self._prompts_asked = prompts
        return super()._generate(prompts)  # type: ignore[misc]

    def _generate_single_turn(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self._saved is None:
            return super()._generate_single_turn(*args, **kwargs)  # type: ignore[misc]
        mode = "train" if self.model.training else "eval"
        step = self.state.global_step
        found = []
        for prompt in self._prompts_asked:
            left = self._saved.get((mode, step, _key(prompt)))
            if not left:
                raise RunError(_absent(str(self.args.rollouts), step, prompt))
            found.append(left.popleft())
        return found, None


def _key(prompt: Any) -> str:
    return json.dumps(prompt, sort_keys=True)


def check(inputs: Any) -> None:
    """Refuse settings with which saved rollouts cannot be gone through again.

    Raises:
        ConfigError: See the messages.
    """
    args = inputs.args
    folder = getattr(args, "rollouts", None)
    if folder is None:
        return
    if args.use_vllm:
        raise ConfigError("rollouts: nothing is generated from saved ones; leave --use_vllm out")
    if inputs.tools:
        raise ConfigError("rollouts: turns with tools cannot be gone through again")
    if args.world_size > 1:
        raise ConfigError(
            f"rollouts: saved ones are gone through in one process, and there are {args.world_size}"
        )
    if Path(folder).resolve() == Path(args.output_dir).resolve():
        raise ConfigError(
            f"rollouts: {str(folder)!r} is the output folder, whose completions this run replaces\n"
            "  name another --output_dir"
        )


def check_saved(inputs: Any) -> None:
    """Refuse rollouts that are not there, or not what this run asks for.

    What the run that saved them was made with and this one is not, is said.

    Raises:
        DataError: There are none, they are of another tokenizer, or not for the prompts that this
            run asks for.
    """
    folder = getattr(inputs.args, "rollouts", None)
    if folder is None:
        return
    _check_tokenizer(history.read(folder), inputs.tokenizer, str(folder))  # says if none are there
    before = record.read_manifest(Path(folder)) or {}
    now = provenance.of(inputs)
    now["settings"] = {name: now["settings"].get(name) for name in DRAWN_BY}
    now["plugins"], now["adapter"] = {}, before.get("adapter")
    changed = provenance.differences(before, now)
    _check_prompts(inputs, str(folder), changed)
    if changed:
        logger.warning(
            "rollouts: what %s holds was generated with other settings or data:\n%s",
            folder,
            "\n".join(f"  {each}" for each in changed),
        )


def _check_prompts(inputs: Any, folder: str, changed: Iterable[str]) -> None:
    """Refuse rollouts without those for the first batch of this run, or for a later step of it.

    Args:
        inputs: Of the run.
        folder: With the rollouts.
        changed: What the run that saved them was made with and this one is not.
    """
    args, rows = inputs.args, inputs.train_dataset
    every_row = list(history.read(folder))
    saved = [row for row in every_row if row.mode == "train"]
    if args.eval_strategy != "no" and len(saved) == len(every_row):
        raise DataError(
            f"rollouts: {folder!r} holds nothing that was generated for an evaluation\n"
            "  --eval_strategy no"
        )
    if hasattr(rows, "__len__"):  # what a stream begins with is not known before it is read
        order = RepeatSampler(
            rows,
            args.num_generations,
            args.generation_batch_size // args.num_generations,
            shuffle=args.shuffle_dataset,
            seed=args.seed,
        )
        first = itertools.islice(order, args.generation_batch_size)
        asked = [rows[place]["prompt"] for place in first]
        there = Counter(_key(row.prompt) for row in saved if row.step == 0)
        for prompt in asked:
            there[_key(prompt)] -= 1
            if there[_key(prompt)] < 0:
                differs = "".join(f"\n  changed since: {each}" for each in changed)
                raise DataError(f"rollouts: {_absent(folder, 0, prompt)}{differs}")
    every, rest = divmod(
        args.steps_per_generation * args.num_iterations, args.gradient_accumulation_steps
    )
    steps = {row.step for row in saved}
    for step in range(0, _steps(args, rows), every) if every and not rest else ():
        if step not in steps:
            raise DataError(
                f"rollouts: {folder!r} holds nothing that was generated at step {step}\n"
                f"  --max_steps {step}, or fewer"
            )


def _steps(args: Any, rows: Any) -> int:
    """How many the run makes, in one process; of a stream, what ``max_steps`` says."""
    if args.max_steps > 0 or not hasattr(rows, "__len__"):
        return int(args.max_steps)
    batches = len(rows) * args.num_generations // args.generation_batch_size  # cut off, as TRL does
    passes = batches * args.steps_per_generation * args.num_iterations
    epoch = max(math.ceil(passes / args.gradient_accumulation_steps), 1)
    return math.ceil(args.num_train_epochs * epoch)


def _absent(folder: str, step: int, prompt: Any) -> str:
    return (
        f"{folder!r} holds no completion that was generated at step {step} for the prompt "
        f"{str(prompt)[:80]}\n"
        "  give the dataset, seed, batch sizes and no more steps than the run had that saved them"
    )


def _check_tokenizer(rows: Iterable[history.Row], tokenizer: Any, folder: str) -> None:
    """Refuse the tokens of another tokenizer, which are other words here."""
    for row in rows:
        ids = row.completion_ids
        said = row.completion if isinstance(row.completion, str) else row.completion[-1]["content"]
        known = max(ids, default=0) < len(tokenizer)
        texts = [tokenizer.decode(ids, skip_special_tokens=skip) for skip in (True, False) if known]
        if not any(str(said or "").strip() in text for text in texts):
            raise DataError(
                f"rollouts: {folder!r} holds tokens of another tokenizer: the words of one "
                f"completion are {str(said)[:40]!r} there and {''.join(texts[:1])[:40]!r} here\n"
                "  give the model whose tokenizer generated them"
            )
        if said:
            return
