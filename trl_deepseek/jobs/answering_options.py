"""The options of commands in which a model answers prompts and rewards score the answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from trl_deepseek import engines
from trl_deepseek.generation import Sampling
from trl_deepseek.jobs.option_types import PAIRS


@dataclass(kw_only=True)
class AnsweringOptions:
    """Of ``evaluate`` and ``sample``; training and generation use the same names."""

    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Embedded dataset, .jsonl/.json/.csv/.parquet file, folder or hub id."},
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of a hub dataset."}
    )
    dataset_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Options of an embedded dataset, as JSON: '{\"max_numbers\": 4}'."},
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": "Embedded dataset whose verifier scores these rows, or a registered reward."
        },
    )
    columns: list[str] | None = field(
        default=None,
        metadata={
            "help": "Columns to rename, such as question=prompt answer=solution.",
            "metavar": PAIRS,
        },
    )
    as_messages: bool = field(
        default=False,
        metadata={"help": "Take prompts that are text for the user's turn, answers for replies."},
    )
    max_new_tokens: int = field(default=512, metadata={"help": "Longest answer, in tokens."})
    top_p: float = field(default=1.0, metadata={"help": "Nucleus that is sampled from."})
    top_k: int = field(default=0, metadata={"help": "Likeliest tokens to sample from; 0 for all."})
    seed: int = field(
        default=0, metadata={"help": "Of all that is drawn, and of embedded models and datasets."}
    )
    batch_size: int | None = field(
        default=None, metadata={"help": "Answers that are generated at once."}
    )
    begin: str = field(
        default="", metadata={"help": "What each answer is made to begin with: '<think>'."}
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
    engine: Literal["transformers", "vllm"] = field(
        default="transformers", metadata={"help": "What generates the answers."}
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
    num_samples: int = 1
    temperature: float | None = None

    def check_engine(self) -> None:
        """Refuse an engine that is not there.

        Raises:
            ConfigError: Says how to install it.
        """
        if self.engine == "vllm":
            engines.check_installed("engine vllm")

    @property
    def sampling(self) -> Sampling:
        """How answers are drawn.

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
