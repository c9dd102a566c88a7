"""What a trainer's constructor is given, found and checked before a model is loaded.

Each trainer has a class method ``check``, which makes every check that comes before the model: it
is what the constructor calls first, and what a job of the command line calls beforehand. So the two
cannot differ. The checks themselves live with their subjects; here is their order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_deepseek import chat, checkpoints, data, environment, models, noise, quantization, releases
from trl_deepseek.adapters import lora
from trl_deepseek.errors import ConfigError, TemplateError, did_you_mean
from trl_deepseek.plugin_loading import load_registry
from trl_deepseek.registry import Registry
from trl_deepseek.trainers import ranges, refused, usual
from trl_deepseek.trainers.measuring import Measures

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trl_deepseek.losses.bound import BoundLoss

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """The command that a run comes from.

    Attributes:
        command: ``sft``, ``preference``, ``reward`` or ``grpo``.
        options: All of its options, as parsed.
        given: The names of those that were given, by flag or file.
    """

    command: str
    options: Mapping[str, Any]
    given: frozenset[str]


@dataclass
class Inputs:
    """The checked inputs of one trainer, which its constructor takes in the place of a model.

    Attributes:
        registry: The one registry of the run.
        args: The config, a copy that may be settled further.
        model: A model in memory, or a name that TRL loads.
        tokenizer: With the training template installed.
        template_name: Of the template; None where the tokenizer's own is kept.
        embedded: The name of the embedded model that is trained; None for any other.
        train_dataset: Rows as TRL reads them; so is ``eval_dataset``.
        options: Of TRL's constructor that had to be looked at, such as ``peft_config``.
        parts: What this kind of training has besides: the losses, or the rewards.
        tools: Definitions that every row is rendered with; None for those of the row.
        once_checked: What is made of a dataset, given it and its name, once its rows are checked.
        measures: The metrics that are measured while it is evaluated.
        made_with: The run's record (see ``provenance``); None until it is needed.
        asked: What a command was asked for; None from Python.
        said: What was warned of so far, before there was a folder to keep it in.
    """

    registry: Registry
    args: Any
    model: Any
    tokenizer: Any
    template_name: str | None = None
    embedded: str | None = None
    train_dataset: Any = None
    eval_dataset: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    parts: Any = None
    tools: Any = None
    once_checked: Callable[[Any, str], Any] = lambda dataset, _: dataset
    measures: Measures = field(default_factory=Measures)
    made_with: dict[str, Any] | None = None
    asked: Asked | None = None
    said: list[str] = field(default_factory=list)

    @property
    def splits(self) -> dict[str, Any]:
        """The datasets by the names of TRL's arguments."""
        return {"train_dataset": self.train_dataset, "eval_dataset": self.eval_dataset}

    def each_split(self, read: Callable[[Any, str], Any]) -> None:
        """Put ``read(dataset, split)`` in the place of each dataset."""
        for split, dataset in self.splits.items():
            setattr(self, split, read(dataset, split))

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter is trained, on a model that may carry it already."""
        return (
            self.options.get("peft_config") is not None
            or getattr(self.args, "quantization", None) is not None
            or (hasattr(self.model, "peft_config") and hasattr(self.model, "get_base_model"))
        )

    def advise(self, losses: Iterable[BoundLoss] = (), *, general: bool = True) -> None:
        """Warn of numbers that are out of their usual range, of a model that comes from somewhere.

        Args:
            losses: Of the run; their own options are judged too.
            general: Whether the ranges of the config hold for them.
        """
        held: Any = getattr(self.model, "config", None)
        if held is not None and not getattr(held, "_name_or_path", None):
            return
        table = getattr(self.args, "usual", {}) if general else {}
        usual.advise(usual.numbers_of(self.args), table, adapter=self.has_adapter)
        usual.advise(dict(usual.of_lora(self.options.get("peft_config"))), usual.LORA)
        noised = noise.choose(self.args, self.registry)
        if noised is not None:
            ranges = {f"noise_{name}": each for name, each in usual.own(noised.function).items()}
            usual.advise({"noise_alpha": noised.options.get("alpha")}, ranges)
        for bound in losses:
            usual.advise(bound.options, usual.own(bound.loss.function))


def registry_for(args: Any) -> Registry:
    """The registry that a config asks for; a plain TRL config asks for the installed plugins."""
    return load_registry(getattr(args, "plugins", None) or (), getattr(args, "block", None) or ())


def check_names(args: Any, registry: Registry) -> None:
    """Refuse names in a config that nobody registers, and what is missing around the run.

    Raises:
        UnknownName: A template, noise or quantization is not registered.
        ConfigError: Options do not fit together, or a library, file or folder is not there.
    """
    environment.check(args)
    noise.choose(args, registry)
    quantization.choose(args, registry)
    if getattr(args, "chat_template", None) is not None:
        chat.resolve(args.chat_template, registry)
    _check_template_path(args)


def _check_template_path(args: Any) -> None:
    """Refuse what TRL would not find once the model is loaded."""
    path = getattr(args, "chat_template_path", None)
    if path is None:
        return
    if getattr(args, "chat_template", None) is not None:
        raise ConfigError("chat_template_path and chat_template name two templates: leave one out")
    if not path.endswith((".jinja", ".j2")):
        models.load_tokenizer(path, None)
    elif not Path(path).is_file():
        raise ConfigError(f"chat_template_path: there is no file {path!r}")


def find(inputs: Inputs) -> None:
    """Find everything that has a name, and install the chat template on the tokenizer.

    Args:
        inputs: With the model as the caller gave it, and the tokenizer or None for the model's own.

    Raises:
        ModelError: There is no such model or tokenizer.
        UnknownName: A template, noise or quantization is not registered.
        ConfigError: Options do not fit together, or not with the model.
        TemplateError: The template does not fit the tokenizer.
    """
    model, args, registry = inputs.model, inputs.args, inputs.registry
    check_names(args, registry)
    model = started(model, args, inputs.options)
    refused.check(model, args, inputs.options, adapter=inputs.has_adapter)
    quantization.check(model, args, inputs.options, registry)
    name = model if isinstance(model, str) else getattr(model.config, "_name_or_path", "")
    inputs.embedded = model if isinstance(model, str) and model in registry.models else None
    inputs.model, built = models.resolve(model, registry, args)
    inputs.tokenizer = inputs.tokenizer or built or models.load_tokenizer(name, args)
    for split, rows in inputs.splits.items():
        data.each(
            rows, partial(refused.check_rows, split=split, args=args, tokenizer=inputs.tokenizer)
        )
    _check_special_tokens(inputs.tokenizer, args)
    models.check_tokenizer(inputs.tokenizer, inputs.model, registry, args)
    _check_float16(inputs)
    _check_balancing(inputs)
    if isinstance(inputs.model, str):
        ranges.check_lora(inputs.options.get("peft_config"))
        lora.check_config(inputs.options.get("peft_config"), partial(_whole_config, inputs))
    inputs.template_name = install_template(inputs.tokenizer, name, args, registry)


def _check_special_tokens(tokenizer: Any, args: Any) -> None:
    """Refuse an ``eos_token`` or ``pad_token`` that the vocabulary does not have."""
    known = getattr(tokenizer, "tokenizer", tokenizer).get_vocab()
    for option in ("eos_token", "pad_token"):
        token = getattr(args, option, None)
        if token is not None and token not in known:
            raise ConfigError(
                f"{option}: the tokenizer has no token {token!r}{did_you_mean(token, known)}"
            )


def _check_float16(inputs: Inputs) -> None:
    """Refuse to train whole weights held in float16, whose gradients cannot be unscaled."""
    if not inputs.args.fp16 or inputs.has_adapter:
        return
    dtype = (getattr(inputs.args, "model_init_kwargs", None) or {}).get("dtype")
    if not isinstance(inputs.model, str):
        dtype = inputs.model.dtype
    if str(dtype).removeprefix("torch.") == "float16":
        raise ConfigError(
            "fp16: all weights are trained and held in float16, where their gradients cannot be "
            "unscaled\n  hold them in float32 (dtype), or train an adapter"
        )


def _check_balancing(inputs: Inputs) -> None:
    """Refuse to balance experts of a model that does not say how it routes, as TRL does later."""
    coefficient = getattr(inputs.args, "router_aux_loss_coef", None)
    if not coefficient:
        return
    config = config_of(inputs)
    if hasattr(config, "output_router_logits"):
        return
    said = f"router_aux_loss_coef is {coefficient}, and a model of type {config.model_type!r} "
    if getattr(config, "n_routed_experts", None):
        raise ConfigError(
            f"{said}does not return what its routers said here\n"
            f"  {releases.needs(releases.ROUTER_LOGITS)}; or leave router_aux_loss_coef out"
        )
    raise ConfigError(
        f"{said}is not a Mixture-of-Experts model: there are no experts to balance\n"
        "  leave router_aux_loss_coef out"
    )


def _size(inputs: Inputs) -> int:
    """How many tokens the model has embeddings for."""
    return int(config_of(inputs).vocab_size)


def config_of(inputs: Inputs) -> Any:
    """The config of the language model, which is not loaded for it."""
    return _whole_config(inputs).get_text_config()


def _whole_config(inputs: Inputs) -> Any:
    model, args = inputs.model, inputs.args
    if not isinstance(model, str):
        return model.config
    revision = (args.model_init_kwargs or {}).get("revision")
    trust = getattr(args, "trust_remote_code", False)
    return models.load_config(model, inputs.registry, revision, trust=trust)


def started(model: Any, args: Any, options: Mapping[str, Any]) -> Any:
    """The model, or the checkpoint with full weights that ``init_from_checkpoint`` names instead.

    Raises:
        ConfigError: The checkpoint is not whole, or does not go with the other arguments.
    """
    start = checkpoints.start_of(args)
    if start is None:
        return model
    if not isinstance(model, str):
        raise ConfigError(
            "init_from_checkpoint goes with a model that is named, and this one is in memory\n"
            "  load the checkpoint's weights into it yourself, or name the model"
        )
    if not start.adapter:
        return start.folder
    if getattr(args, "quantization", None) is None:
        checkpoints.check_adapter(start, options.get("peft_config"))
    return model


def install_template(
    tokenizer: PreTrainedTokenizerBase, model_name: str, args: Any, registry: Registry
) -> str | None:
    """Install the named or recognised chat template; return its name, None where there is none."""
    named: str | None = getattr(args, "chat_template", None)
    name = named or chat.recognise(tokenizer, model_name, registry)
    if name is None:
        if tokenizer.chat_template is not None:
            logger.info("chat template: the tokenizer's own, which renders as no registered one")
        return None
    chat.install(tokenizer, chat.resolve(name, registry))
    logger.info("chat template: %s (%s)", name, "named" if named else "recognised")
    return name


def read_conversations(inputs: Inputs) -> None:
    """Have the conversations of both datasets checked and ready to be rendered.

    Raises:
        DataError: A conversation would not be trained on as it reads.
        TemplateError: There are conversations and no template to render them.
    """
    if getattr(inputs.args, "control_tokens", "error") == "escape":
        chat.escape(inputs.tokenizer)
    if hasattr(inputs.train_dataset, "column_names"):
        _check_stream(inputs.train_dataset, inputs.args)
    inputs.each_split(lambda rows, split: data.each(rows, partial(read_split, inputs, split=split)))


def _check_stream(dataset: Any, args: Any) -> None:
    if not hasattr(dataset, "__len__") and args.max_steps <= 0:
        raise ConfigError(
            "max_steps is needed: how many rows a stream has is not known beforehand\n"
            "  add --max_steps, or read the rows whole, without --dataset_streaming"
        )


def read_split(inputs: Inputs, dataset: Any, split: str) -> Any:
    """One dataset of :func:`read_conversations`."""
    if not hasattr(dataset, "column_names"):
        logger.warning("%s is not a datasets.Dataset: conversations are not checked", split)
        return inputs.once_checked(dataset, split)
    args, tokenizer = inputs.args, inputs.tokenizer
    source = data.source_of(dataset, split)
    dataset = data.check_tokens(dataset, source, partial(_size, inputs))
    has_template = tokenizer.chat_template or getattr(args, "chat_template_path", None)
    if chat.holds_conversations(dataset) and not has_template:
        raise TemplateError(
            f"{source} holds conversations, and the tokenizer has no chat template\n"
            "  name one with chat_template; registered: "
            f"{', '.join(inputs.registry.chat_templates)}"
        )
    field = getattr(args, "dataset_text_field", None) or "text"
    dataset = chat.begin_once(dataset, tokenizer, source, field)
    dataset = chat.check_conversations(
        dataset,
        tokenizer,
        source,
        # A template that we do not know may be meant to be filled with tokens.
        control_tokens=inputs.template_name is not None
        and getattr(args, "control_tokens", "error") == "error",
        tools=inputs.tools,
        masks=bool(getattr(args, "assistant_only_loss", False)),
        processes=getattr(args, "dataset_num_proc", None),
        show_progress=not args.disable_tqdm,
    )
    dataset = inputs.once_checked(chat.without_empty_options(dataset), split)
    return dataset if inputs.template_name is None else chat.with_thinking(dataset, tokenizer)
