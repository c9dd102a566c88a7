"""Fields that several of our configs share, but not all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from trl_deepseek.errors import ConfigError
from trl_deepseek.tools.guarding import Settings


@dataclass
class MeasuringFields:
    """The fields of configs whose model answers, so that metrics can be measured in training.

    Args:
        eval_metrics: Registered metrics, and whatever names a reward, measured on the evaluation
            dataset at each evaluation, with one greedy answer, and logged as ``eval_NAME``.
        metric_kwargs: Options of metrics by the metric's name, as those of ``evaluate``.
        eval_max_new_tokens: Longest answer; when None, GRPO's ``max_completion_length``, else 512.
    """

    eval_metrics: list[str] | None = field(
        default=None,
        metadata={"help": "Metrics and rewards to measure at each evaluation, as eval_NAME."},
    )
    metric_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": 'Options of eval_metrics, as JSON: \'{"win_rate": {"against": "reference"}}\'.'
        },
    )
    eval_max_new_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Longest answer that eval_metrics look at. When not given: that of training "
            "with GRPO, else 512."
        },
    )

    def __post_init__(self) -> None:
        names: Any = self.eval_metrics or []
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise ConfigError(
                f"eval_metrics is {names!r}: it must be a list of names; a function of yours is "
                "file.py:function"
            )
        super().__post_init__()  # type: ignore[misc]


@dataclass
class PreferenceFields:
    """The fields that configs for preference losses add to TRL's.

    Args:
        beta: The loss's option of this name; when None, the loss's own default.
        loss_kwargs: Options of the losses; see :func:`trl_deepseek.losses.bound.bind`.
        drop_bad_rows: Whether to leave out rows in which chosen equals rejected or a completion is
            empty. They are counted and reported either way.
    """

    beta: float | None = field(
        default=None,
        metadata={
            "help": "How strongly the loss holds the policy to its reference; each loss has its "
            "own default."
        },
    )
    loss_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Options of the loss, as JSON: '{\"gamma\": 0.5}'. "
            "`trl-deepseek plugins show NAME` lists them."
        },
    )
    drop_bad_rows: bool = field(
        default=False,
        metadata={"help": "Leave out rows where chosen equals rejected or a completion is empty."},
    )


@dataclass
class ClassWeights:
    """How much desirable and undesirable examples count in an unpaired loss.

    Args:
        desirable_weight: When None, set so that both classes count alike.
        undesirable_weight: When None, set so that both classes count alike.
    """

    desirable_weight: float | None = field(
        default=None,
        metadata={"help": "Unpaired losses: weight of desirable examples; by default from counts."},
    )
    undesirable_weight: float | None = field(
        default=None,
        metadata={"help": "Unpaired losses: weight of undesirable examples; default from counts."},
    )


@dataclass
class ToolFields:
    """How GRPO treats the tools that a model calls.

    Args:
        tool_on_error: What a call that fails means: ``tell`` lets the model read what went wrong,
            ``raise`` stops the run.
        tool_timeout: Seconds that one call of a tool may take; None for no limit.
        tool_isolation: Run every tool in a worker process, which is killed at the timeout.
    """

    tool_on_error: str = field(
        default="tell",
        metadata={"help": "When a call of a tool fails: tell (the model reads why) or raise."},
    )
    tool_timeout: float | None = field(
        default=30.0, metadata={"help": "Seconds that one call of a tool may take."}
    )
    tool_isolation: bool = field(
        default=False,
        metadata={"help": "Run every tool in a worker process, killed at the timeout."},
    )

    def tool_settings(self) -> Settings:
        """What the ``tool_*`` options mean.

        Raises:
            ConfigError: One has a value that it cannot have.
        """
        on_error: Any = self.tool_on_error
        if on_error not in ("tell", "raise"):
            raise ConfigError(f"tool_on_error is {on_error!r}; it must be tell or raise")
        if self.tool_timeout is not None and not 0 < self.tool_timeout < float("inf"):
            raise ConfigError(f"tool_timeout is {self.tool_timeout}; it must be above 0")
        return Settings(on_error, self.tool_timeout, self.tool_isolation)


@dataclass
class PolicyFields:
    """The fields of GRPO's config that name what it is trained on.

    Args:
        advantage: Registered advantage; when None, TRL's own, by ``scale_rewards`` and
            ``multi_objective_aggregation``.
        advantage_kwargs: Options of that advantage.
        drop_equal_groups: With ``advantage``: whether groups of equal rewards are left out of it
            and of the mean.
        loss_kwargs: Options of the policy loss that ``loss_type`` names.
        kl_estimator: Of the KL term; when None, the loss's own.
        kl_in: Where the KL term goes: ``loss``, or ``reward``, as a penalty on each completion.
    """

    advantage: str | None = field(
        default=None,
        metadata={"help": "Registered advantage (`trl-deepseek plugins`). When not given: TRL's."},
    )
    advantage_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Options of the advantage, as JSON: '{\"k\": 4}'."}
    )
    drop_equal_groups: bool = field(
        default=False,
        metadata={"help": "With --advantage: leave out groups whose rewards are all equal."},
    )
    loss_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Options of the policy loss, as JSON: '{\"epsilon\": 0.1}'. "
            "`trl-deepseek plugins show NAME` lists them."
        },
    )
    kl_estimator: Literal["k1", "k2", "k3", "unbiased"] | None = field(
        default=None,
        metadata={
            "help": "Estimator of the KL term. When not given: the loss's own, mostly k3.",
            "choices": ["k1", "k2", "k3", "unbiased"],
        },
    )
    kl_in: Literal["loss", "reward"] = field(
        default="loss",
        metadata={"help": "Where the KL term goes: into the loss, or as a penalty into rewards."},
    )
