"""TRL's configs with the fields that name plugin items. Nothing else of TRL's is changed.

They stand apart from the trainers so that parsing a command line does not import the trainers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import trl

from trl_deepseek import environment, processes, secrets
from trl_deepseek.errors import ConfigError
from trl_deepseek.rewards import weights
from trl_deepseek.rewards.contract import Settings
from trl_deepseek.trainers import ranges
from trl_deepseek.trainers import usual as tables
from trl_deepseek.trainers.config_fields import (
    ClassWeights,
    MeasuringFields,
    PolicyFields,
    PreferenceFields,
    ToolFields,
)

if TYPE_CHECKING:
    RewardWeights = Mapping[str, Any] | Sequence[Any] | str | None
else:
    RewardWeights = list[str] | None  # what a command line can say, for the argument parser


def settle_precision(config: Any) -> None:
    """Choose where TRL's default, bfloat16, does not exist: it would refuse to train there.

    Without a GPU that is float32; on a GPU that only emulates bfloat16, a quantized model trains
    in float16.
    """
    import torch
    from transformers.utils import is_torch_bf16_gpu_available

    if config.bf16 is not None or config.fp16 or config.use_cpu:
        return
    if not torch.cuda.is_available():
        config.bf16 = is_torch_bf16_gpu_available()  # another accelerator may have it
    elif config.quantization is not None:
        config.bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        config.fp16 = not config.bf16


@dataclass
class PluginConfig:
    """The fields that all trainers share.

    Args:
        chat_template: Registered name or path of a ``.jinja`` file. When None, the family is
            recognised from the tokenizer's own template or the model's name.
        noise: Registered noise on the input embeddings of the policy while it trains, such as
            ``neftune``.
        noise_alpha: Size of the noise; its own default when None. Transformers'
            ``neftune_noise_alpha`` stands for both.
        control_tokens: What happens to control tokens that stand literally in a conversation:
            ``error`` refuses the data, ``escape`` encodes them as the text they are, ``allow``
            lets them through.
        plugins: Python files and modules to load as plugins, beside the installed ones.
        block: Names of plugins to leave out.
        quantization: Registered way to hold the base model, such as ``qlora``; implies LoRA.
        lora_experts: With ``quantization``: whether LoRA adapts the routed experts too.
        prefix_sharing: Whether what the rows of a batch begin with in common, such as the prompt of
            a pair, is encoded once: ``auto`` where that is exact and faster, ``on`` always, or the
            run ends where it is not exact, ``off`` never.
        init_from_checkpoint: A checkpoint whose weights, or adapter, a fresh run begins with.
        logging_nan_inf_filter: As transformers', where it is true and logs 0 for NaN.
    """

    sequence_classification: ClassVar[bool] = False  # whether the model has one score as output
    sequences_per_example: ClassVar[int] = 1  # sequences in a forward pass per row of the batch
    compares_with_reference: ClassVar[bool] = False  # whether a frozen copy may be held beside it
    usual: ClassVar[tables.Table] = {}  # where numbers usually lie, of a pretrained model
    words: ClassVar[Mapping[str, Sequence[str]]] = {}  # field -> what it can be, beside `choices`
    given: ClassVar[frozenset[str]] = frozenset()  # of an instance: the fields that it was given

    chat_template: str | None = field(
        default=None,
        metadata={
            "help": "Registered chat template (see `trl-deepseek plugins`) or a .jinja file."
        },
    )
    noise: str | None = field(
        default=None,
        metadata={"help": "Registered noise on the policy's input embeddings, such as neftune."},
    )
    noise_alpha: float | None = field(
        default=None,
        metadata={"help": "Size of the noise. When not given: the noise's own default."},
    )
    control_tokens: Literal["error", "escape", "allow"] = field(
        default="error",
        metadata={"help": "Control tokens that stand literally in a conversation."},
    )
    plugins: list[str] | None = field(
        default=None,
        metadata={
            "help": "Python files and modules to load as plugins, beside the installed ones."
        },
    )
    block: list[str] | None = field(
        default=None, metadata={"help": "Names of plugins to leave out."}
    )
    quantization: str | None = field(
        default=None,
        metadata={
            "help": "Registered way to hold the base model: qlora, int8, lora, ... Implies LoRA."
        },
    )
    lora_experts: bool = field(
        default=False,
        metadata={"help": "With --quantization: adapt the routed experts too, in 16 bit."},
    )
    prefix_sharing: Literal["auto", "on", "off"] = field(
        default="auto",
        metadata={
            "help": "Encode once what rows of a batch begin with in common: auto where that is "
            "exact and faster, on always, off never."
        },
    )
    init_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "Begin a fresh run with the weights, or adapter, of this checkpoint."},
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Leave losses that are not finite out of the log."}
    )

    def __new__(cls, *values: Any, **named: Any) -> Any:
        """Remember what is given, which no field can tell once its default is there."""
        made: Any = super().__new__(cls)
        made.given = frozenset(named).union(each.name for each in fields(cls)[: len(values)])
        return made

    def __post_init__(self) -> None:
        own: Any = type(self)
        ranges.read_mappings(
            self,
            [*own._VALID_DICT_FIELDS, "liger_kernel_config", "metric_kwargs"],
            environment.SETTINGS_FILES,
        )
        ranges.check_numbers(self)
        ranges.check_words(self, self.words)
        environment.check_settings_files(self)
        settle_precision(self)
        processes.settle_device(self)
        with environment.without_notes_on_defaults():
            super().__post_init__()  # type: ignore[misc]
        ranges.check_largest(self)  # of mappings that were text until now
        processes.hold_to_timeout(self)

    @property
    def world_size(self) -> int:
        """As transformers', or how many processes a plan is for."""
        running: int = super().world_size  # type: ignore[misc]
        return max(running, processes.number_planned())

    def to_dict(self) -> dict[str, Any]:
        """As TRL's, for trackers and files: without secrets, wherever they stand."""
        found: dict[str, Any] = secrets.hidden(super().to_dict())  # type: ignore[misc]
        return found


@dataclass
class SFTConfig(PluginConfig, MeasuringFields, trl.SFTConfig):
    """``trl.SFTConfig`` with plugin names.

    Args:
        assistant_only_loss: As TRL's; when None, true for conversations whose chat template is
            registered (named or recognised), else false.
    """

    usual: ClassVar[tables.Table] = tables.SFT

    assistant_only_loss: bool | None = field(
        default=None,
        metadata={
            "help": "Compute the loss on what the assistant generates only. When not given: "
            "true for conversations with a registered chat template, else false."
        },
    )


@dataclass
class GRPOConfig(PluginConfig, PolicyFields, MeasuringFields, ToolFields, trl.GRPOConfig):
    """``trl.GRPOConfig`` with plugin names and the contract around rewards.

    Args:
        loss_type: Registered policy loss; TRL's own code computes its own names, see
            :mod:`trl_deepseek.policy.plan`.
        reward_weights: As TRL's, one number per reward; or by name, ``{"math_accuracy": 1.0,
            "think_format": {0: 0.5, 500: 0.0}}``, where a mapping of steps is a schedule, straight
            between them. On the command line ``math_accuracy=1.0 think_format=0.2``.
        reward_on_error: What a sample gets when a reward fails on it: ``raise`` stops the run,
            ``abstain`` gives it no score of that reward, a number is its score.
        reward_timeout: Seconds that one call of a reward may take; None for no limit.
        reward_workers: Worker processes for synchronous rewards; 0 scores in this process.
        reward_isolation: Run every reward in worker processes of its own, killed at the timeout.
        reward_memory_limit: GiB of memory that one worker process may have.
        reward_max_failures: A reward that fails on every sample of so many calls in a row stops
            the run, whatever ``reward_on_error`` is.
        allow_unsandboxed_code: Run generated code with your own rights where there is no sandbox;
            ``output_dir/generated_code.json`` then says so.
        save_completions: Save every completion with its scores in ``output_dir/completions``.
        rollouts: Folder of a run with saved completions: nothing is generated, and each step
            trains on what that run generated at this step; to debug a loss or a reward.
        engine: A short word for ``use_vllm``: ``transformers`` or ``vllm`` generates.
        engine_tolerance: With ``use_vllm``: nats per token by which the engine's log-probs may
            differ from the policy's just after it was given the policy's weights; 0 for any.

    Raises:
        ConfigError: One of these has a value that it cannot have.
    """

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [
        *trl.GRPOConfig._VALID_DICT_FIELDS,
        *("advantage_kwargs", "loss_kwargs"),
    ]
    usual: ClassVar[tables.Table] = tables.GRPO
    compares_with_reference: ClassVar[bool] = True
    words: ClassVar[Mapping[str, Sequence[str]]] = ranges.POLICY_WORDS

    loss_type: str = field(
        default="dapo",
        metadata={"help": "Registered policy loss (see `trl-deepseek plugins`)."},
    )
    reward_weights: RewardWeights = field(
        default=None,
        metadata={
            "help": "Weights of the rewards: numbers in their order, or name=number. In YAML also "
            "{name: number} and {name: {step: number}}, a schedule.",
            "metavar": "NAME=NUMBER",
        },
    )
    reward_on_error: str = field(
        default="raise",
        metadata={
            "help": "When a reward fails on a sample: raise, abstain, or a number, its score."
        },
    )
    reward_timeout: float | None = field(
        default=300.0, metadata={"help": "Seconds that one call of a reward may take."}
    )
    reward_workers: int = field(
        default=0,
        metadata={"help": "Worker processes for rewards; 0 scores in the training process."},
    )
    reward_isolation: bool = field(
        default=False,
        metadata={"help": "Run every reward in its own worker processes, killed at the timeout."},
    )
    reward_memory_limit: float = field(
        default=4.0, metadata={"help": "GiB of memory that one worker process may have."}
    )
    reward_max_failures: int = field(
        default=3,
        metadata={"help": "Stop when a reward fails on all samples of so many calls in a row."},
    )
    allow_unsandboxed_code: bool = field(
        default=False,
        metadata={"help": "Run generated code with your own rights where there is no sandbox."},
    )
    save_completions: bool = field(
        default=True,
        metadata={"help": "Save every completion with its scores in OUTPUT_DIR/completions."},
    )
    rollouts: str | None = field(
        default=None,
        metadata={"help": "Train on the completions that a run saved, without generating."},
    )
    engine: Literal["transformers", "vllm"] | None = field(
        default=None, metadata={"help": "What generates; vllm is use_vllm."}
    )
    engine_tolerance: float = field(
        default=0.1,
        metadata={
            "help": "With use_vllm: nats per token by which the engine's log-probs may differ from "
            "the policy's just after it was given the weights, or the run stops; 0 for any."
        },
    )

    def __post_init__(self) -> None:
        self.reward_weights = weights.parse(self.reward_weights)
        older = {"true": "group", "false": "none"}  # TRL's two older words
        scale: Any = vars(self)["scale_rewards"]
        self.scale_rewards = older.get(str(scale).lower(), scale)
        if self.engine is not None:
            if vars(self)["use_vllm"] and self.engine != "vllm":
                raise ConfigError(
                    f"engine {self.engine} and use_vllm contradict each other: leave one out"
                )
            self.use_vllm = self.engine == "vllm"
        super().__post_init__()
        self.reward_settings()
        self.tool_settings()

    def reward_settings(self) -> Settings:
        """What the ``reward_*`` fields mean.

        Raises:
            ConfigError: One has a value that it cannot have.
        """
        on_error: Any = self.reward_on_error
        if on_error not in ("raise", "abstain"):
            on_error = weights.number(on_error, "reward_on_error", "raise, abstain or a number")
        return Settings(
            on_error=on_error,
            timeout=self.reward_timeout,
            workers=self.reward_workers,
            isolate=self.reward_isolation,
            memory=int(self.reward_memory_limit * 2**30),
            max_failures=self.reward_max_failures,
            output_dir=str(self.output_dir),
            max_completion_length=self.max_completion_length,
            allow_unsandboxed_code=self.allow_unsandboxed_code,
            processes=self.world_size,
        )


@dataclass
class RewardConfig(PluginConfig, trl.RewardConfig):
    """``trl.RewardConfig`` with plugin names.

    Args:
        loss_type: Registered loss on the two scores of a pair.
        loss_kwargs: Options of that loss.
        drop_bad_rows: Whether to leave out rows in which chosen equals rejected or one of them is
            empty. They are counted and reported either way.
    """

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*trl.RewardConfig._VALID_DICT_FIELDS, "loss_kwargs"]
    usual: ClassVar[tables.Table] = tables.REWARD
    sequence_classification: ClassVar[bool] = True
    sequences_per_example: ClassVar[int] = 2

    loss_type: str = field(
        default="bradley_terry",
        metadata={"help": "Registered loss on the two scores of a pair (`trl-deepseek plugins`)."},
    )
    loss_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Options of the loss, as JSON: '{\"label_smoothing\": 0.1}'."},
    )
    drop_bad_rows: bool = field(
        default=False,
        metadata={"help": "Leave out rows where chosen equals rejected or one of them is empty."},
    )


@dataclass
class DPOConfig(PluginConfig, PreferenceFields, MeasuringFields, trl.DPOConfig):
    """``trl.DPOConfig`` with plugin names.

    Args:
        loss_type: Registered losses on pairs.
        label_smoothing: The loss's option of this name; when None, the loss's own default.
    """

    usual: ClassVar[tables.Table] = tables.DPO
    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*trl.DPOConfig._VALID_DICT_FIELDS, "loss_kwargs"]
    sequences_per_example: ClassVar[int] = 2
    compares_with_reference: ClassVar[bool] = True
    words: ClassVar[Mapping[str, Sequence[str]]] = {"f_divergence_type": ranges.DIVERGENCES}

    loss_type: list[str] = field(
        default_factory=lambda: ["sigmoid"],
        metadata={
            "help": "Registered loss on pairs (see `trl-deepseek plugins`), or several, with "
            "--loss_weights."
        },
    )
    label_smoothing: float | None = field(
        default=None,
        metadata={"help": "Share of pairs taken to be the wrong way round, below 0.5."},
    )


@dataclass
class KTOConfig(PluginConfig, PreferenceFields, MeasuringFields, ClassWeights, trl.KTOConfig):
    """``trl.KTOConfig`` with plugin names.

    Args:
        loss_type: Registered loss on labelled single examples.
    """

    usual: ClassVar[tables.Table] = tables.KTO
    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*trl.KTOConfig._VALID_DICT_FIELDS, "loss_kwargs"]
    compares_with_reference: ClassVar[bool] = True

    loss_type: str = field(
        default="kto",
        metadata={"help": "Registered loss on labelled singles (see `trl-deepseek plugins`)."},
    )
