"""The options of a sampling, and what can be said against them by themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from trl_deepseek.errors import ConfigError
from trl_deepseek.generation import Sampling
from trl_deepseek.jobs.option_types import PAIRS
from trl_deepseek.trainers import ranges

FORMATS = (".jsonl", ".parquet")


@dataclass
class SampleOptions:
    """The options of one sampling; those of training and generation have the same names there."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Embedded model, folder of a model or adapter, or hub id."}
    )
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Embedded dataset, .jsonl/.json/.csv/.parquet file, folder or hub id."},
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of a hub dataset."}
    )
    dataset_split: str = field(default="train", metadata={"help": "Split to take prompts from."})
    columns: list[str] | None = field(
        default=None,
        metadata={
            "help": "Columns to rename, such as question=prompt answer=solution.",
            "metavar": PAIRS,
        },
    )
    output_file: str | None = field(
        default=None, metadata={"help": "The .jsonl or .parquet file to write."}
    )
    max_samples: int | None = field(
        default=1000, metadata={"help": "Prompts to take, from the first; all of them if fewer."}
    )
    num_samples: int = field(default=8, metadata={"help": "Completions per prompt."})
    max_new_tokens: int = field(default=512, metadata={"help": "Longest completion, in tokens."})
    temperature: float | None = field(
        default=None,
        metadata={"help": "When not given: 1.0, and greedy where num_samples is 1."},
    )
    top_p: float = field(default=1.0, metadata={"help": "Nucleus that is sampled from."})
    top_k: int = field(default=0, metadata={"help": "Likeliest tokens to sample from; 0 for all."})
    seed: int = field(default=0, metadata={"help": "Of the sampling, and of embedded items."})
    batch_size: int | None = field(
        default=None, metadata={"help": "Completions that are generated at once."}
    )
    begin: str = field(
        default="", metadata={"help": "What each completion is made to begin with: '<think>'."}
    )
    chat_template: str | None = field(
        default=None,
        metadata={"help": "Registered template or .jinja file; when not given, recognised."},
    )
    quantization: str | None = field(
        default=None,
        metadata={"help": "How the weights are held; that of training for an adapter."},
    )
    dtype: Literal["bfloat16", "float16", "float32"] | None = field(
        default=None, metadata={"help": "Of the weights; when not given, as they are stored."}
    )
    reward_funcs: list[str] | None = field(
        default=None,
        metadata={"help": "Registered names, file.py:function, module.function, model:PATH."},
    )
    reward_weights: list[str] | None = field(
        default=None,
        metadata={"help": "Numbers in the order of the rewards, or name=number; 1 by default."},
    )
    reward_timeout: float | None = field(
        default=300.0, metadata={"help": "Seconds that one call of a reward may take."}
    )
    reward_workers: int = field(
        default=0, metadata={"help": "Worker processes for rewards; 0 scores in this process."}
    )
    allow_unsandboxed_code: bool = field(
        default=False,
        metadata={"help": "Run generated code with your own rights where there is no sandbox."},
    )
    best_of: int | None = field(
        default=None,
        metadata={"help": "Write so many of the best completions of each prompt, for SFT."},
    )
    pairs: bool = field(
        default=False,
        metadata={"help": "Write the best against the worst of each prompt, for preferences."},
    )
    min_reward: float | None = field(
        default=None, metadata={"help": "What a completion that is kept, or chosen, scores."}
    )

    def __post_init__(self) -> None:
        for option in ("model_name_or_path", "dataset_name", "output_file"):
            if getattr(self, option) is None:
                raise ConfigError(f"--{option} is required")
        ranges.check_numbers(self, but=["temperature"])
        self.sampling()
        scored = bool(self.reward_funcs)
        for option in ("best_of", "pairs", "min_reward", "reward_weights"):
            if getattr(self, option) not in (None, False) and not scored:
                raise ConfigError(f"{option} goes by rewards: name some with --reward_funcs")
        if self.best_of is not None and self.pairs:
            raise ConfigError("best_of and pairs are two kinds of rows: leave one of them out")
        needed = self.best_of or (2 if self.pairs else 1)
        if self.num_samples < needed:
            what = "pairs" if self.pairs else f"best_of {self.best_of}"
            raise ConfigError(
                f"num_samples is {self.num_samples}: {what} takes at least {needed} completions "
                "of each prompt"
            )
        if Path(str(self.output_file)).suffix not in FORMATS:
            raise ConfigError(
                f"output_file {self.output_file!r}: its name must end in {' or '.join(FORMATS)}"
            )

    def sampling(self) -> Sampling:
        """How completions are drawn.

        Raises:
            ConfigError: The options do not go together.
        """
        return Sampling(
            num_samples=self.num_samples,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            batch_size=self.batch_size,
            begin=self.begin,
        )
