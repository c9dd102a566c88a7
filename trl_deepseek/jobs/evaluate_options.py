"""The options of an evaluation; those of training and generation have the same names there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trl_deepseek.errors import ConfigError
from trl_deepseek.jobs.answering_options import AnsweringOptions
from trl_deepseek.rewards import weights
from trl_deepseek.rewards.contract import Settings
from trl_deepseek.trainers import ranges

NO_METRICS = "--metrics is required: name a metric or several"


@dataclass(kw_only=True)
class EvaluateOptions(AnsweringOptions):
    """The options of one evaluation."""

    models: list[str] | None = field(
        default=None,
        metadata={"help": "Embedded models, folders of models or adapters, hub ids; one or more."},
    )
    metrics: list[str] | None = field(
        default=None,
        metadata={
            "help": "Registered metrics (see `trl-deepseek plugins`), or whatever --reward_funcs "
            "takes: a reward is a metric. When not given: the verifier that the dataset brings."
        },
    )
    metric_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": 'Options of metrics, as JSON: \'{"pass_at_k": {"k": [1, 8]}}\'.'},
    )
    dataset_split: str | None = field(
        default=None,
        metadata={"help": "Split to measure on. When not given: test, or the only one there is."},
    )
    max_samples: int | None = field(
        default=500, metadata={"help": "Rows to measure on, from the first; all if there are less."}
    )
    num_samples: int = field(default=1, metadata={"help": "Answers per prompt."})
    temperature: float | None = field(
        default=None,
        metadata={"help": "When not given: greedy, and 1.0 where num_samples is more than 1."},
    )
    chat_template_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "What the template takes, as JSON: '{\"thinking\": true}'."},
    )
    reward_on_error: str = field(
        default="raise",
        metadata={"help": "When a reward fails on an answer: raise, abstain, or a number."},
    )
    reward_isolation: bool = field(
        default=False,
        metadata={"help": "Run every reward in its own worker processes, killed at the timeout."},
    )
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder for samples.parquet, values.parquet and evaluation.json."},
    )

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("--models is required: name a model or several")
        if not self.metrics and self.dataset_name is None:
            raise ConfigError(NO_METRICS)
        if self.metrics and self.task is not None:
            raise ConfigError("task and metrics both say what is measured: leave one out")
        mappings = ("metric_kwargs", "chat_template_kwargs", "dataset_kwargs")
        ranges.read_mappings(self, mappings, ())
        _ = self.sampling
        ranges.check_numbers(self, but=["temperature"])

    @property
    def reward_settings(self) -> Settings:
        """What the ``reward_*`` options mean."""
        on_error: Any = self.reward_on_error
        if on_error not in ("raise", "abstain"):
            on_error = weights.number(on_error, "reward_on_error", "raise, abstain or a number")
        return Settings(
            on_error=on_error,
            timeout=self.reward_timeout,
            workers=self.reward_workers,
            isolate=self.reward_isolation,
            output_dir=self.output_dir or ".",
            max_completion_length=self.max_new_tokens,
            allow_unsandboxed_code=self.allow_unsandboxed_code,
        )
