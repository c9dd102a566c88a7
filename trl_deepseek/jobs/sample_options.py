"""The options of a sampling, and what can be said against them by themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trl_deepseek.errors import ConfigError
from trl_deepseek.jobs.answering_options import AnsweringOptions
from trl_deepseek.jobs.options import TASK_AND_REWARDS
from trl_deepseek.trainers import ranges

FORMATS = (".jsonl", ".parquet")


GO_BY_REWARDS = ("best_of", "pairs", "min_reward", "reward_weights")


@dataclass(kw_only=True)
class SampleOptions(AnsweringOptions):
    """The options of one sampling; those of training and generation have the same names there."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Embedded model, folder of a model or adapter, or hub id."}
    )
    dataset_split: str = field(default="train", metadata={"help": "Split to take prompts from."})
    output_file: str | None = field(
        default=None, metadata={"help": "The .jsonl or .parquet file to write."}
    )
    max_samples: int | None = field(
        default=1000, metadata={"help": "Prompts to take, from the first; all of them if fewer."}
    )
    num_samples: int = field(default=8, metadata={"help": "Completions per prompt."})
    temperature: float | None = field(
        default=None,
        metadata={"help": "When not given: 1.0, and greedy where num_samples is 1."},
    )
    reward_funcs: list[str] | None = field(
        default=None,
        metadata={"help": "Registered names, file.py:function, module.function, model:PATH."},
    )
    reward_weights: list[str] | None = field(
        default=None,
        metadata={"help": "Numbers in the order of the rewards, or name=number; 1 by default."},
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
        ranges.read_mappings(self, ("dataset_kwargs",), ())
        ranges.check_largest(self)
        _ = self.sampling
        if self.task is not None and self.reward_funcs:
            raise ConfigError(TASK_AND_REWARDS)
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

    @property
    def goes_by_rewards(self) -> str | None:
        """The first option that is given and goes by rewards."""
        given = (each for each in GO_BY_REWARDS if getattr(self, each) not in (None, False))
        return next(given, None)
