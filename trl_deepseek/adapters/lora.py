"""Which modules LoRA adapts, by architecture.

peft has no default for DeepSeek's architectures. Routers are never adapted, nor is the LM head:
TRL computes log-probs from its weight directly, so an adapter there would never be trained. What is
adapted is checked against the model's skeleton, before a weight is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from trl_deepseek import releases
from trl_deepseek.errors import ConfigError, boundary
from trl_deepseek.models import skeleton
from trl_deepseek.types import Quantization

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PretrainedConfig

MLP = ("gate_proj", "up_proj", "down_proj")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
COMPRESSED_KEYS = ("kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")  # 3-D parameters, not modules
HEADS = ("lm_head", "score")
ROUTER = "mlp.gate"
FIELDS = (  # what TRL's --lora_* options set
    "task_type",
    "r",
    "target_modules",
    "target_parameters",
    "lora_alpha",
    "lora_dropout",
    "bias",
    "use_rslora",
    "use_dora",
    "modules_to_save",
)


def target_modules(config: PretrainedConfig) -> list[str]:
    """Names of the linear layers to adapt in a model with this config.

    Multi-head latent attention (DeepSeek-V2 and later) has its own projections; everything else is
    taken to name its layers as Llama does. The MLP names stand for dense layers and shared experts.
    """
    if getattr(config, "kv_lora_rank", None) is None:
        return [*ATTENTION, *MLP]
    queries = ["q_proj"] if config.q_lora_rank is None else ["q_a_proj", "q_b_proj"]
    return [*queries, *COMPRESSED_KEYS, *MLP]


def adapter(
    quantization: Quantization,
    config: PretrainedConfig,
    sequence_classification: bool = False,
    **overrides: Any,
) -> LoraConfig:
    """The LoRA that a quantization asks for on a model with this config, checked.

    Args:
        quantization: Gives rank, alpha, dropout, and whether routed experts are adapted.
        config: Gives the names of the layers.
        sequence_classification: Whether it is a reward model, whose ``score`` is trained whole.
        **overrides: Keyword arguments of ``peft.LoraConfig`` that win over these.

    Raises:
        ConfigError: See :func:`check`; or dropout together with LoRA on experts.
    """
    options: dict[str, Any] = {
        "target_modules": target_modules(config),
        "task_type": "SEQ_CLS" if sequence_classification else "CAUSAL_LM",
        "bias": "none",
        **quantization.lora,
    }
    if sequence_classification:
        options["modules_to_save"] = ["score"]
    if quantization.lora_experts:
        options["target_parameters"] = list(EXPERTS)
    options |= overrides
    if options.get("target_parameters") and options.get("lora_dropout", 0.0):
        raise ConfigError(
            f"lora_dropout is {options['lora_dropout']}: peft has no dropout for LoRA on routed "
            "experts\n  set lora_dropout to 0, or leave the experts out"
        )
    check(options["target_modules"], options.get("target_parameters"), config)
    if quantization.bits == 4 and quantization.quantize_experts and has_experts(config):
        from trl_deepseek.adapters.pinned import PACKED

        options.setdefault("exclude_modules", PACKED)
    return pinned(options, config)


def has_experts(config: PretrainedConfig) -> bool:
    """Whether a model with this config has routed experts of DeepSeek's kind."""
    return bool(getattr(config, "n_routed_experts", None))


def pinned(options: dict[str, Any], config: PretrainedConfig) -> LoraConfig:
    """A LoRA config that peft does not rewrite; see :mod:`trl_deepseek.adapters.pinned`."""
    from peft import LoraConfig

    from trl_deepseek.adapters.pinned import PinnedLoraConfig

    is_list = not isinstance(options.get("target_modules"), str)
    kind = PinnedLoraConfig if has_experts(config) and is_list else LoraConfig
    return kind(**options)


def check(
    modules: Sequence[str] | str | None,
    parameters: Sequence[str] | None,
    config: PretrainedConfig,
) -> None:
    """Refuse targets that would not be trained, before weights are read.

    Raises:
        ConfigError: A target matches nothing in the model, or is its router or its LM head.
    """
    model = skeleton.build(config)
    linear = {name for name, module in model.named_modules() if hasattr(module, "in_features")}
    routers = {name for name, _ in model.named_modules() if name.endswith(f".{ROUTER}")}
    linear -= routers  # before transformers 5.13 DeepSeek-V2's is a linear layer
    three_d = {name for name, parameter in model.named_parameters() if parameter.dim() == 3}
    targets = [modules] if isinstance(modules, str) else list(modules or ())
    for target in targets:
        if target == "all-linear":
            check_all_linear(config)
            continue
        is_pattern = isinstance(modules, str)
        if target in HEADS:
            raise ConfigError(
                f"lora_target_modules: LoRA on {target!r} would never be trained, since TRL "
                "computes log-probs from its weight directly\n  leave it out, or train it whole: "
                f"--lora_modules_to_save {target}"
            )
        if any(_matches(target, name, is_pattern) for name in routers):
            raise ConfigError(
                f"lora_target_modules: {target!r} is the router of the experts, which is never "
                f"adapted\n  adaptable: {_short(linear)}"
            )
        if not any(_matches(target, name, is_pattern) for name in linear):
            raise ConfigError(
                f"lora_target_modules: {target!r} matches no linear layer of this "
                f"{config.model_type} model\n  it has: {_short(linear)}"
            )
    for target in parameters or ():
        if not any(name == target or name.endswith(f".{target}") for name in three_d):
            has = ", ".join(sorted({".".join(name.split(".")[-3:]) for name in three_d}))
            raise ConfigError(
                f"lora_target_parameters: {target!r} matches no expert parameter of this "
                f"{config.model_type} model\n  it has: {has or '(no routed experts)'}"
            )


def check_config(given: Any, config: Callable[[], PretrainedConfig]) -> None:
    """Refuse a LoRA config, written by hand, that peft would refuse once the model is loaded.

    Args:
        given: A config of peft's; None, and what is no LoRA, is left alone.
        config: Returns that of the model.

    Raises:
        ConfigError: None of the targets is in the model, or peft's LoRA on all layers breaks it.
    """
    from peft import LoraConfig

    if not isinstance(given, LoraConfig):
        return
    targets = given.target_modules
    if targets == "all-linear":
        check_all_linear(config())
    if not targets or targets == "all-linear" or given.target_parameters:
        return
    whole = config()
    if whole.get_text_config() is not whole:
        return  # a model that sees, too: its skeleton is not built here
    names = [name for name, _ in skeleton.build(whole).named_modules() if name]
    names += ["score"]  # of a reward model
    wanted = [targets] if isinstance(targets, str) else sorted(targets)
    is_pattern = isinstance(targets, str)
    if not any(_matches(target, name, is_pattern) for target in wanted for name in names):
        check(targets if is_pattern else wanted, None, whole)


def _check_saved(modules: Sequence[str], config: PretrainedConfig) -> None:
    """Refuse modules to train whole that are not there, which peft passes over."""
    names = [name for name, _ in skeleton.build(config).named_modules() if name]
    for target in modules:
        if target != "score" and not any(_matches(target, name, False) for name in names):
            has = sorted({name.rpartition(".")[2] for name in names} - set(map(str, range(999))))
            raise ConfigError(
                f"lora_modules_to_save: {target!r} is no module of this {config.model_type} model\n"
                f"  it has: {', '.join(has)}"
            )


def check_all_linear(config: PretrainedConfig) -> None:
    """Refuse LoRA on all layers where peft's on the router breaks the model.

    Raises:
        ConfigError: Names the release that it needs.
    """
    if config.model_type == "deepseek_v3" and not releases.has(releases.ROUTER_ROUTES):
        raise ConfigError(
            "target_modules: 'all-linear' takes the router of this deepseek_v3 model too, which "
            f"breaks it here\n  {releases.needs(releases.ROUTER_ROUTES)}; or name the layers, such "
            f"as {', '.join(target_modules(config)[:3])}"
        )


def lora_config(options: Any, config: PretrainedConfig) -> LoraConfig | None:
    """The LoRA that the ``--lora_*`` options describe; None without ``--use_peft``.

    Raises:
        ConfigError: See :func:`check`.
    """
    from trl import get_peft_config

    if not options.use_peft:
        return None
    chosen = options.lora_target_modules or target_modules(config)
    check(chosen, options.lora_target_parameters, config)
    _check_saved(options.lora_modules_to_save or (), config)
    if not options.lora_target_modules and not options.lora_target_parameters:
        options.lora_target_modules = chosen
    with boundary(ConfigError, "lora"):
        plain = get_peft_config(options)
    return pinned({key: value for key, value in vars(plain).items() if key in FIELDS}, config)


def _matches(target: str, name: str, is_pattern: bool) -> bool:
    """Whether peft would adapt ``name``: a list holds suffixes, a string is a pattern."""
    if is_pattern:
        return re.fullmatch(target, name) is not None
    return name == target or name.endswith(f".{target}")


def _short(names: set[str]) -> str:
    return ", ".join(sorted({name.rpartition(".")[2] for name in names} - set(HEADS)))


def targets(peft_config: Any, layer: str) -> bool:
    """Whether an adapter names ``layer``, such as ``lm_head``, among those that it changes."""
    named = getattr(peft_config, "target_modules", None) or ()
    if isinstance(named, str):  # a pattern; "all-linear" leaves the output layer out
        return named != "all-linear" and re.fullmatch(named, layer) is not None
    return any(name.split(".")[-1] == layer for name in named)
