"""The main job: a tiny model learns to guess, then discovers that thinking pays.

1. SFT on demonstrations of following a ball under five cups, most of which answer at once; the
   others show their steps inside ``<think>``. The model learns both styles and answers at once,
   which is a guess: it has not the layers to follow five swaps in one pass.
2. GRPO with one reward, the right answer. Nothing asks the model to think; it finds out by itself
   that its answers are right when it does.

Everything in it is a name from the registry: model, dataset, template and rewards.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from trl_deepseek import engines, stopping
from trl_deepseek.chat import reasoning
from trl_deepseek.errors import ConfigError
from trl_deepseek.plugin_loading import load_registry
from trl_deepseek.quickstart.result import Point, Result, Stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from trl_deepseek.evaluation import Evaluation

MODEL = "tiny-deepseek-llm"
DATASET = "cups"
TEMPLATE = "deepseek-v3"  # it leaves it to the model whether to think
REWARD = "exact_match"
FORMAT = "think_format"  # measured, never trained on

SFT_STEPS = 300
DECAY_STEPS = 80  # at the end of them
SFT_BATCH = 64
GRPO_STEPS = 40
CONTEXT = 128  # tokens of question and answer, where vLLM generates
DEMONSTRATIONS = 19_200
EVERY = {"sft": 25, "grpo": 4}  # steps between two points of the curves
QUESTIONS = 500  # held out, answered after each stage
CURVE_QUESTIONS = 128  # of them, answered at each point of the curves
MAX_COMPLETION_LENGTH = 40
THREADS = 1


Progress = Callable[[str, int, int, str], None]  # (stage, step, steps, remark)


class Quickstart:
    """The job; ``run`` does it, ``saved`` tells what is on disk so far."""

    def __init__(
        self, output_dir: Path, seed: int, progress: Progress, engine: str = "transformers"
    ) -> None:
        """Check the folder and find every name, before anything is computed.

        Raises:
            ConfigError: ``output_dir`` is not an empty or new folder, or vLLM is missing or broken.
            UnknownName: A plugin that the job needs is blocked or broken.
        """
        from trl_deepseek.evaluation import resolve

        if engine == "vllm":
            engines.check_installed("engine vllm")
        engines.check_importable("GRPO")
        # An interrupted run may leave folders, but with nothing in them.
        files = (path.is_file() for path in output_dir.rglob("*"))
        if output_dir.is_file() or any(files):
            raise ConfigError(
                f"output folder {str(output_dir)!r} is not empty; nothing is overwritten\n"
                "  name a new one with --output_dir"
            )
        self.output_dir = output_dir
        self.seed = seed
        self.engine = engine
        self.progress = progress
        self.saved: list[Path] = []
        self.points: list[Point] = []
        self._evaluations: list[Evaluation] = []
        self._registry = load_registry()
        self._build_model = self._registry.models[MODEL]
        self._dataset = self._registry.datasets[DATASET]
        self._metrics = resolve([REWARD, FORMAT], self._registry, num_samples=1)
        self._registry.chat_templates[TEMPLATE]

    def run(self) -> Result:
        """Train both stages, evaluate each, save models, figures, a picture and a report."""
        import torch

        from trl_deepseek import report
        from trl_deepseek.evaluation import Evaluation
        from trl_deepseek.quickstart.report import picture

        start = time.perf_counter()
        # The tensors are so small that a second thread mostly waits for the first; on a machine
        # that is not idle that costs five times the time.
        torch.set_num_threads(THREADS)
        self._held_out = self._dataset(split="test", kind="prompts", size=QUESTIONS)
        model, tokenizer = self._build_model(seed=self.seed)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        sft = self._stage("sft", self._sft_trainer(model, tokenizer))
        grpo = self._stage("grpo", self._grpo_trainer(model, tokenizer))
        found = Evaluation(
            {name: own for each in self._evaluations for name, own in each.measured.items()},
            [sample for each in self._evaluations for sample in each.samples],
        )
        found.save(self.output_dir / "evaluation")
        seconds = time.perf_counter() - start
        result = Result([sft, grpo], self.points, found, seconds, self.output_dir)
        picture(result).savefig(self.output_dir / "curves.png", dpi=130)
        figures = {**result.as_json(), "points": [asdict(point) for point in result.points]}
        (self.output_dir / "result.json").write_text(json.dumps(figures, indent=1) + "\n")
        report.written_beside(self.output_dir)
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
        found = self.evaluate(name, trainer, QUESTIONS)
        self._evaluations.append(found)
        rewards = [log["reward"] for log in trainer.state.log_history if "reward" in log]
        tail = rewards[-max(1, len(rewards) // 10) :]
        return Stage(
            name,
            exact_match=found.estimates()[REWARD].value,
            thinks=found.estimates()[FORMAT].value,
            mean_length=fmean(sample["tokens"] for sample in found.samples),
            reward=fmean(tail) if tail else None,
            seconds=seconds,
        )

    def evaluate(self, name: str, trainer: Any, questions: int, begin: str = "") -> Evaluation:
        """Answer the first ``questions`` held-out questions greedily."""
        from trl_deepseek.evaluation import evaluate
        from trl_deepseek.generation import Sampling

        return evaluate(
            {name: (trainer.model, trainer.processing_class)},
            self._held_out.take(questions),
            self._metrics,
            Sampling(max_new_tokens=MAX_COMPLETION_LENGTH, begin=begin),
            registry=self._registry,
        )

    def point(self, stage: str, trainer: Any) -> Point:
        """Where the curves are now."""
        found = self.evaluate(stage, trainer, CURVE_QUESTIONS)
        made_to_think = self.evaluate(stage, trainer, CURVE_QUESTIONS, begin=reasoning.OPEN)
        return Point(
            stage,
            trainer.state.global_step,
            exact_match=found.estimates()[REWARD].value,
            thinks=found.estimates()[FORMAT].value,
            mean_length=fmean(sample["tokens"] for sample in found.samples),
            made_to_think=made_to_think.estimates()[REWARD].value,
        )

    def _sft_trainer(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Any:
        from trl_deepseek.trainers.sft import SFTConfig, SFTTrainer

        config = SFTConfig(
            **self._common("sft", SFT_STEPS),
            per_device_train_batch_size=SFT_BATCH,
            learning_rate=3e-3,
            # Steps are learned all at once, at a time that hangs on the seed: until then the rate
            # must not have decayed, nor the optimizer remember gradients of the plateau before.
            lr_scheduler_type="warmup_stable_decay",
            lr_scheduler_kwargs={"num_decay_steps": min(DECAY_STEPS, SFT_STEPS // 3)},
            adam_beta2=0.98,
            warmup_steps=min(20, SFT_STEPS // 3),
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
            use_vllm=self.engine == "vllm",
            vllm_max_model_length=CONTEXT,
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
            job.points.append(job.point(stage, trainer))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % EVERY[stage] == 0:
                job.points.append(job.point(stage, trainer))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
            remark = ""
            if "reward" in logs:
                remark = f"reward {float(logs['reward']):.2f}"
            elif "loss" in logs:
                remark = f"loss {float(logs['loss']):.2f}"
            job.progress(stage, state.global_step, args.max_steps, remark)

    return Curves()
