"""What crosses a hook: the items that plugins register and the tensors that losses see.

Shape letters, here and everywhere: B batch (pairs or single examples), G completions per prompt,
T tokens, H hidden size, V vocabulary. Log-probabilities are in nats.

This module must stay importable without torch, so that plugins and the command line start at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from trl_deepseek.dataset_types import EmbeddedDataset as EmbeddedDataset
from trl_deepseek.metric_types import Estimate as Estimate
from trl_deepseek.metric_types import Metric as Metric
from trl_deepseek.tool_types import Tool as Tool

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Message = dict[str, Any]
Messages = list[Message]
LossOutput = "Tensor | tuple[Tensor, dict[str, Tensor]]"
DatasetKind = Literal["demonstrations", "preferences", "prompts"]


class Register(Protocol):
    """What a hook hands to a plugin: call it once per item."""

    def __call__(self, name: str, item: Any, **options: Any) -> None:
        """Offer ``item`` under ``name``; the options allowed depend on the hook."""


@dataclass(frozen=True)
class ChatTemplate:
    """One chat format as Jinja source, for generating and for training.

    Attributes:
        inference: Renders conversations as the model's authors do.
        training: Renders the same text where the two must agree, keeps the reasoning of the last
            assistant turn and marks what the model generates with ``{% generation %}``.
        end_of_turn: The token that ends an assistant turn; becomes the tokenizer's ``eos_token``
            and a stop token in ``generation_config``.
        models: Names (lower case, without the organisation) of the models that use this format.
        opens_thinking: Whether the generation prompt already contains ``<think>``.
        parses_arguments: Whether tool arguments must be mappings, since the format writes them
            one by one; JSON strings are parsed before rendering.
        official: Renders as the authors' template does where ``inference`` mends it, else None.
        response: How an answer is taken apart into reasoning, tool calls and content: what
            transformers reads as ``tokenizer.response_template``. None where no parser is known.
    """

    inference: str
    training: str
    end_of_turn: str = "<｜end▁of▁sentence｜>"
    models: tuple[str, ...] = ()
    opens_thinking: bool = False
    parses_arguments: bool = False
    official: str | None = None
    response: Mapping[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True)
class PairLogps:
    """What a loss on B preference pairs sees. All tensors are (B,); log-probs in nats.

    Attributes:
        chosen: Summed over the chosen completion, with gradient.
        rejected: Summed over the rejected completion, with gradient.
        ref_chosen: The reference model's, no gradient; None when registered ``reference=False``.
        ref_rejected: As ``ref_chosen``, for the rejected completion.
        chosen_length: Scored tokens of the chosen completion.
        rejected_length: Scored tokens of the rejected completion.
        chosen_nll: Mean negative log-likelihood of prompt + chosen; only with ``prompt_nll=True``.
    """

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor | None
    ref_rejected: Tensor | None
    chosen_length: Tensor
    rejected_length: Tensor
    chosen_nll: Tensor | None = None

    @property
    def chosen_ratio(self) -> Tensor:
        """Log-ratio of policy to reference on the chosen completion, (B,)."""
        return _log_ratio(self.chosen, self.ref_chosen)

    @property
    def rejected_ratio(self) -> Tensor:
        """Log-ratio of policy to reference on the rejected completion, (B,)."""
        return _log_ratio(self.rejected, self.ref_rejected)


@dataclass(frozen=True)
class UnpairedLogps:
    """What a loss on B labelled single examples sees (KTO). All tensors are (B,), nats.

    Attributes:
        completion: Summed over the completion, with gradient.
        ref_completion: The reference model's, no gradient; None when ``reference=False``.
        label: Boolean, True where the completion is desirable.
        length: Scored tokens of the completion.
        kl: Scalar, the batch's estimate of the policy's divergence from the reference; no
            gradient; None for losses registered ``kl=False``.
    """

    completion: Tensor
    ref_completion: Tensor | None
    label: Tensor
    length: Tensor
    kl: Tensor | None = None

    @property
    def ratio(self) -> Tensor:
        """Log-ratio of policy to reference on the completion, (B,)."""
        return _log_ratio(self.completion, self.ref_completion)


def _log_ratio(policy: Tensor, reference: Tensor | None) -> Tensor:
    """Log-ratio of the two models, (B,).

    Raises:
        ValueError: There is no reference.
    """
    if reference is None:
        raise ValueError("there are no reference log-probs: it runs without a reference model")
    return policy - reference


@dataclass(frozen=True)
class PairRewards:
    """What the loss of a reward model sees of B preference pairs. All tensors are (B,).

    Attributes:
        chosen: Score of prompt + chosen, with gradient.
        rejected: Score of prompt + rejected, with gradient.
        margin: The dataset's column ``margin``, no gradient; None where it has none.
    """

    chosen: Tensor
    rejected: Tensor
    margin: Tensor | None = None


@dataclass(frozen=True)
class Loss:
    """A registered loss: callable with the registered function's own signature.

    Attributes:
        name: The name it was registered under.
        function: Pure function of log-probs; returns the loss per sequence, (B,), or that and a
            dict of metrics, each a scalar or (B,). ``rewards/chosen`` and ``rewards/rejected``
            (unpaired: ``rewards``), (B,), stand in for beta times the log-ratio, and the trainer's
            accuracies and margins follow them.
        data: What it is defined on: preference ``pairs`` (:class:`PairLogps`), ``unpaired``
            labelled examples (:class:`UnpairedLogps`), or ``rewards`` (the scores that a reward
            model gives, :class:`PairRewards`).
        reference: Whether it needs the reference model's log-probs (an option called
            ``reference_free`` switches that off for a run).
        prompt_nll: Whether it needs ``PairLogps.chosen_nll``.
        kl: Whether it needs ``UnpairedLogps.kl``.
    """

    name: str
    function: Callable[..., Any]
    data: Literal["pairs", "unpaired", "rewards"] = "pairs"
    reference: bool = True
    prompt_nll: bool = False
    kl: bool = False

    def __post_init__(self) -> None:
        if self.data not in ("pairs", "unpaired", "rewards"):
            raise ValueError(f"data is {self.data!r}; it must be 'pairs', 'unpaired' or 'rewards'")
        for option in ("reference", "prompt_nll", "kl"):
            if not isinstance(getattr(self, option), bool):
                raise ValueError(f"{option} is {getattr(self, option)!r}; it must be True or False")

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the registered function."""
        return self.function(*args, **options)

    @property
    def options(self) -> Mapping[str, Any]:
        """Name and default of each option that ``loss_kwargs`` may set."""
        parameters = list(inspect.signature(self.function).parameters.values())
        return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


@dataclass(frozen=True)
class Reward:
    """A registered reward: callable with the registered function's own signature.

    ``function(prompts, completions, completion_ids, **columns) -> list[float | None]``, or per
    sample ``function(completion, **columns) -> float | None``; sync or async; None abstains.

    Attributes:
        name: The name it was registered under; TRL logs ``rewards/<name>``.
        function: The registered function itself.
        columns: Dataset columns that the function needs, checked before a model is loaded.
        timeout: Seconds that one call may take, or one sample where samples are scored one by
            one; None for the run's ``reward_timeout``.
        isolate: Whether it runs in worker processes, which are killed at the timeout.
        samplewise: Whether each score depends on that sample alone, so that a batch may be split
            over processes and equal samples scored once. Per-sample functions always are.
        runs_code: Whether it runs code from the completions, for which there must be a sandbox.
        requires: Modules of optional packages that it imports when it is called; looked for before
            a model is loaded.
        check_row: Says what is wrong with a row of the dataset (column to value), or None; every
            row is asked about before a model is loaded.
        check: Says what it lacks to be called at all, such as a key in the environment, or None;
            asked before a model is loaded.
        tasks: The tasks whose rows it scores, which the column ``task`` names; it abstains from all
            other rows. None for every row.
    """

    name: str
    function: Callable[..., Any]
    columns: tuple[str, ...] = ()
    timeout: float | None = None
    isolate: bool = False
    samplewise: bool = False
    runs_code: bool = False
    requires: tuple[str, ...] = ()
    check_row: Callable[[Mapping[str, Any]], str | None] | None = None
    check: Callable[[], str | None] | None = None
    tasks: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        limit: Any = self.timeout
        known = isinstance(limit, (int, float)) and not isinstance(limit, bool)
        if limit is not None and not (known and 0 < limit < float("inf")):
            raise ValueError(f"timeout is {limit!r}; it must be seconds above 0, or None")
        for option in ("isolate", "samplewise", "runs_code"):
            if not isinstance(getattr(self, option), bool):
                raise ValueError(f"{option} is {getattr(self, option)!r}; it must be True or False")
        for option in ("columns", "requires"):
            if not all(isinstance(name, str) for name in getattr(self, option)):
                raise ValueError(f"{option} is {getattr(self, option)!r}; it must hold names")

    @property
    def __name__(self) -> str:
        return self.name

    def __call__(self, *args: Any, **columns: Any) -> Any:
        """Call the registered function."""
        return self.function(*args, **columns)


@dataclass(frozen=True)
class Quantization:
    """How the base model is held in memory and which adapter is trained on it.

    Attributes:
        bits: 4, 8 or None (not quantized: the weights are held in the run's compute dtype).
        quant_type: ``nf4`` or ``fp4`` where ``bits`` is 4.
        double_quant: Whether the constants of 4-bit blocks are quantized too.
        compute_dtype: ``bfloat16``, ``float16`` or ``float32``; ``auto`` is what the run trains in.
        quantize_experts: Whether 4-bit covers the routed experts, which bitsandbytes leaves out.
        lora_experts: Whether LoRA adapts the routed experts too; not with ``quantize_experts``.
        lora: Keyword arguments of ``peft.LoraConfig``, without the target modules.
        optimizer: Used on CUDA where the config leaves ``optim`` at its default; None for that.
    """

    bits: Literal[4, 8] | None = None
    quant_type: Literal["nf4", "fp4"] = "nf4"
    double_quant: bool = True
    compute_dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    quantize_experts: bool = True
    lora_experts: bool = False
    lora: Mapping[str, Any] = field(default_factory=dict)
    optimizer: str | None = None

    def __post_init__(self) -> None:
        allowed = {
            "bits": (4, 8, None),
            "quant_type": ("nf4", "fp4"),
            "compute_dtype": ("auto", "bfloat16", "float16", "float32"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                known = ", ".join(map(repr, values))
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {known}")
        if self.bits == 4 and self.quantize_experts and self.lora_experts:
            raise ValueError(
                "4-bit experts cannot carry LoRA: peft adapts a parameter, and a 4-bit expert is "
                "no longer one; set quantize_experts=False or lora_experts=False"
            )


@dataclass(frozen=True)
class Preset:
    """The numbers of one paper for one training command, each with its source.

    ``SFTConfig(**preset.values, output_dir=...)`` and ``ModelConfig(**preset.model)`` are how
    Python uses it; ``--preset NAME`` gives both to the command.

    Attributes:
        description: One line: whose numbers they are, and what for.
        command: The training command: ``sft``, ``preference``, ``reward`` or ``grpo``.
        values: Field of that command's config to value.
        sources: Every option of ``values`` and ``model`` to where its value comes from: the
            paper with section or equation, or ``ours:`` and the reason.
        model: Field of ``ModelConfig`` to value: LoRA and its numbers.
        notes: What the paper does besides, and what of it TRL cannot express; a sentence each.
    """

    description: str
    command: str
    values: Mapping[str, Any]
    sources: Mapping[str, str]
    model: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """All that it sets: ``values`` and ``model``."""
        return {**self.values, **self.model}

    def __post_init__(self) -> None:
        if isinstance(self.notes, str) or not all(isinstance(note, str) for note in self.notes):
            raise ValueError(f"notes is {self.notes!r}; it must hold sentences")
        without = [name for name in self.options if not self.sources.get(name)]
        if without:
            raise ValueError(f"no source is given for {', '.join(without)}")
        idle = [name for name in self.sources if name not in self.options]
        if idle:
            raise ValueError(f"a source is given for {', '.join(idle)}, which it does not set")


@dataclass(frozen=True)
class Usual:
    """Where a number usually lies, as advice: a value outside is warned of and not refused.

    Attributes:
        low: The least that is usual.
        high: The most.
        source: Who says so.
        below: What less of it does, where that is known.
        above: What more of it does.
    """

    low: float
    high: float
    source: str
    below: str = ""
    above: str = ""


Function = TypeVar("Function", bound=Callable[..., Any])


def usually(**options: Usual) -> Callable[[Function], Function]:
    """Say of a loss's or a noise's options where they usually lie, by decorating the function."""

    def mark(function: Function) -> Function:
        function.__dict__["usual"] = options
        return function

    return mark


class Noise(Protocol):
    """Adds noise to input embeddings.

    Called in the policy's gradient pass only, on documents that may be padded, packed into one row
    or share a prefix. It may draw from torch's global random state, which is restored afterwards.
    """

    def __call__(self, embeddings: Tensor, lengths: Tensor, **options: Any) -> Tensor:
        """Return noised ``embeddings``, same shape and dtype.

        Args:
            embeddings: (B, T, H).
            lengths: Tokens of the document that each token stands in, (B, T), integers, at least
                1. What is returned for padding is not used.
            **options: ``alpha``, the size of the noise, where the run gives one as
                ``noise_alpha``; a noise without that parameter refuses the option.
        """


class ModelBuilder(Protocol):
    """Builds an embedded model and its tokenizer."""

    def __call__(self, *, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Build both anew, the weights random from ``seed``."""
