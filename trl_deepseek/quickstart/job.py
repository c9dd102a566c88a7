"""The main job: a tiny model learns to answer at once, then discovers that thinking pays.

1. SFT on demonstrations of two-digit sums, more than half of which answer at once; the others show
   their steps inside ``<think>``. The model learns both styles and prefers to answer at once, where
   it is mostly wrong. SFT stops when answers that are made to think are mostly right.
2. GRPO with one reward, the right answer. Nothing asks the model to think; it finds out by itself
   that its answers are right when it does.

Everything in it is a name from the registry: model, dataset, template and rewards.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_deepseek import stopping
from trl_deepseek.chat import reasoning
from trl_deepseek.errors import ConfigError
from trl_deepseek.plugin_loading import load_registry

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MODEL = "tiny-deepseek-llm"
DATASET = "arithmetic"
TEMPLATE = "deepseek-v3"  # it leaves it to the model whether to think
REWARD = "exact_match"
FORMAT = "think_format"  # measured, never trained on

SFT_STEPS = 500  # at most
TAUGHT = 0.6  # of the answers that are made to think are right: then SFT stops
GRPO_STEPS = 60
DEMONSTRATIONS = 25_600
EVERY = {"sft": 10, "grpo": 5}  # steps between two points of the curves
QUESTIONS = 500  # held out, answered after each stage
CURVE_QUESTIONS = 128  # of them, answered at each point of the curves
MAX_COMPLETION_LENGTH = 32


@dataclass(frozen=True)
class Stage:
    """One row of the final table.

    Attributes:
        name: ``sft`` or ``grpo``.
        exact_match: Share of held-out questions answered right, greedily.
        thinks: Share of held-out answers with well-formed ``<think>...</think>``.
        mean_length: Mean tokens per held-out answer.
        reward: Mean training reward over the stage's last tenth; None where nothing was rewarded.
        seconds: Training time, evaluations included.
    """

    name: str
    exact_match: float
    thinks: float
    mean_length: float
    reward: float | None
    seconds: float


@dataclass(frozen=True)
class Point:
    """One point of the curves.

    Attributes:
        stage: ``sft`` or ``grpo``.
        step: Optimizer steps since the stage began.
        exact_match: As in :class:`Stage`, of some of the questions; so are the next two.
        thinks: As in :class:`Stage`.
        mean_length: As in :class:`Stage`.
        made_to_think: Share answered right where the answer is made to begin with ``<think>``: what
            the model could do, if it chose to.
    """

    stage: str
    step: int
    exact_match: float
    thinks: float
    mean_length: float
    made_to_think: float


@dataclass(frozen=True)
class Result:
    """What the job leaves behind."""

    stages: list[Stage]
    points: list[Point]
    rewards: list[tuple[int, float]]  # (GRPO step, mean training reward)
    seconds: float
    output_dir: Path

    def as_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {
            "stages": [asdict(stage) for stage in self.stages],
            "seconds": round(self.seconds, 1),
            "output_dir": str(self.output_dir),
        }


Progress = Callable[[str, int, int, str], None]  # (stage, step, steps, remark)


class Quickstart:
    """The job; ``run`` does it, ``saved`` tells what is on disk so far."""

    def __init__(self, output_dir: Path, seed: int, progress: Progress) -> None:
        """Check the folder and find every name, before anything is computed.

        Raises:
            ConfigError: ``output_dir`` is not an empty or new folder.
            UnknownName: A plugin that the job needs is blocked or broken.
        """
        # An interrupted run may leave folders, but with nothing in them.
        files = (path.is_file() for path in output_dir.rglob("*"))
        if output_dir.is_file() or any(files):
            raise ConfigError(
                f"output folder {str(output_dir)!r} is not empty; nothing is overwritten\n"
                "  name a new one with --output_dir"
            )
        self.output_dir = output_dir
        self.seed = seed
        self.progress = progress
        self.saved: list[Path] = []
        self.points: list[Point] = []
        registry = load_registry()
        self._build_model = registry.models[MODEL]
        self._dataset = registry.datasets[DATASET]
        self._rewards = [registry.rewards[REWARD], registry.rewards[FORMAT]]
        registry.chat_templates[TEMPLATE]

    def run(self) -> Result:
        """Train both stages, evaluate each, save models, figures and the curves' picture."""
        import torch

        from trl_deepseek.quickstart.report import write_picture

        start = time.perf_counter()
        # The tensors are so small that a second thread mostly waits for the first; on a machine
        # that is not idle that costs five times the time.
        torch.set_num_threads(1)
        self._held_out = self._dataset(split="test", kind="prompts", size=QUESTIONS)
        model, tokenizer = self._build_model(seed=self.seed)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        sft = self._stage("sft", self._sft_trainer(model, tokenizer))
        grpo = self._stage("grpo", trainer := self._grpo_trainer(model, tokenizer))
        history = [
            (log["step"], log["reward"]) for log in trainer.state.log_history if "reward" in log
        ]
        result = Result(
            [sft, grpo], self.points, history, time.perf_counter() - start, self.output_dir
        )
        write_picture(result, self.output_dir / "curves.png")
        figures = {**result.as_json(), "points": [asdict(p) for p in result.points]}
        (self.output_dir / "result.json").write_text(json.dumps(figures, indent=1) + "\n")
        return result

    def _stage(self, name: str, trainer: Any) -> Stage:
        from trl_deepseek.trainers.stopping import StopWhenAsked

        start = time.perf_counter()
        trainer.add_callback(_callback(self, name, trainer))
        trainer.add_callback(StopWhenAsked())
        folder = self.output_dir / name
        with stopping.waiting():
            trainer.train()
            seconds = time.perf_counter() - start
            trainer.save_model(str(folder))
        self.saved.append(folder)
        point = self.evaluate(name, trainer, QUESTIONS)
        rewards = [log["reward"] for log in trainer.state.log_history if "reward" in log]
        tail = rewards[-max(1, len(rewards) // 10) :]
        return Stage(
            name,
            point.exact_match,
            point.thinks,
            point.mean_length,
            sum(tail) / len(tail) if tail else None,
            seconds,
        )

    def evaluate(self, stage: str, trainer: Any, questions: int) -> Point:
        """Answer the first ``questions`` held-out questions greedily."""
        rows = self._held_out.take(questions)
        found, lengths = self._scored(trainer, rows, "")
        made_to_think, _ = self._scored(trainer, rows, reasoning.OPEN)
        return Point(
            stage,
            trainer.state.global_step,
            found[REWARD],
            found[FORMAT],
            sum(lengths) / len(lengths),
            made_to_think[REWARD],
        )

    def _scored(
        self, trainer: Any, rows: Dataset, begin: str
    ) -> tuple[dict[str, float], list[int]]:
        """The mean of each reward over the answers, and their lengths in tokens."""
        from trl_deepseek import chat, generation
        from trl_deepseek.rewards import as_batch

        tokenizer, prompts = trainer.processing_class, list(rows["prompt"])
        sampling = generation.Sampling(max_new_tokens=MAX_COMPLETION_LENGTH, begin=begin)
        answers = [a for (a,) in generation.complete(trainer.model, tokenizer, prompts, sampling)]
        given = {
            "prompts": prompts,
            "completions": [[{"role": "assistant", "content": each.text}] for each in answers],
            "completion_ids": [list(each.token_ids) for each in answers],
            "generation_prefix": chat.generation_prefix(tokenizer),
            "solution": list(rows["solution"]),
        }
        scores = {reward.name: as_batch(reward)(**given) for reward in self._rewards}
        means = {name: sum(given) / len(given) for name, given in scores.items()}
        return means, [len(each.token_ids) for each in answers]

    def _sft_trainer(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Any:
        from trl_deepseek.trainers.sft import SFTConfig, SFTTrainer

        config = SFTConfig(
            **self._common("sft", SFT_STEPS),
            per_device_train_batch_size=128,
            learning_rate=3e-3,
            lr_scheduler_type="cosine",
            warmup_steps=20,
        )
        rows = self._dataset(kind="demonstrations", size=DEMONSTRATIONS, seed=self.seed)
        return SFTTrainer(model, config, train_dataset=rows, processing_class=tokenizer)

    def _grpo_trainer(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Any:
        from trl_deepseek.trainers.grpo import GRPOConfig, GRPOTrainer

        config = GRPOConfig(
            **self._common("grpo", GRPO_STEPS),
            per_device_train_batch_size=128,
            num_generations=8,
            max_completion_length=MAX_COMPLETION_LENGTH,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            beta=0.0,
        )
        rows = self._dataset(kind="prompts", size=DEMONSTRATIONS, seed=self.seed)
        return GRPOTrainer(model, REWARD, config, train_dataset=rows, processing_class=tokenizer)

    def _common(self, stage: str, steps: int) -> dict[str, Any]:
        return {
            "output_dir": str(self.output_dir / stage),
            "chat_template": TEMPLATE,
            "max_steps": steps,
            "seed": self.seed,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "gradient_checkpointing": False,
            "dataloader_pin_memory": False,
        }


def _callback(job: Quickstart, stage: str, trainer: Any) -> Any:
    """Reports progress and adds points to the curves while a stage trains."""
    from transformers import PrinterCallback, TrainerCallback

    trainer.remove_callback(PrinterCallback)

    class Curves(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            job.points.append(job.evaluate(stage, trainer, CURVE_QUESTIONS))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % EVERY[stage] == 0:
                job.points.append(job.evaluate(stage, trainer, CURVE_QUESTIONS))
                # When this comes depends on the seed, and much later the answers at once come
                # right too, so that there would be nothing left for thinking to win.
                if stage == "sft" and job.points[-1].made_to_think >= TAUGHT:
                    control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
            remark = ""
            if "reward" in logs:
                remark = f"reward {float(logs['reward']):.2f}"
            elif "loss" in logs:
                remark = f"loss {float(logs['loss']):.2f}"
            job.progress(stage, state.global_step, args.max_steps, remark)

    return Curves()
