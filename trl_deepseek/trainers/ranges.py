"""What the numbers and words of a training config can be: tables, and the check that reads them.

TRL and transformers accept ``max_length=-5`` (and cut the last five tokens), ``learning_rate=nan``
or ``gradient_accumulation_steps=-2`` (and train nothing). A number is refused here when nothing
uses it as it is meant; what TRL refuses by itself, such as numbers that do not divide each other,
is left to it.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from trl_deepseek.errors import ConfigError, did_you_mean

# Field -> the interval it lies in, "(" and ")" without the end, "[" and "]" with it. Without an
# upper end of its own, "inf)" asks for a finite number and "inf]" takes infinity too.
NUMBERS = {
    # Optimisation.
    "learning_rate": "[0, inf)",
    "weight_decay": "[0, inf)",
    "adam_beta1": "[0, 1)",
    "adam_beta2": "[0, 1)",
    "adam_epsilon": "[0, inf)",
    "max_grad_norm": "[0, inf]",  # 0 switches clipping off, infinity only measures
    "warmup_steps": "[0, inf)",  # below 1 a share of all steps
    "label_smoothing_factor": "[0, 1)",
    "num_train_epochs": "(0, inf)",
    "max_steps": "[1, inf)",
    "per_device_train_batch_size": "[1, inf)",
    "per_device_eval_batch_size": "[1, inf)",
    "gradient_accumulation_steps": "[1, inf)",
    "eval_accumulation_steps": "[1, inf)",
    "seed": "[0, 4294967295]",  # NumPy's seeds
    "data_seed": "[0, 18446744073709551615]",
    "router_aux_loss_coef": "[0, inf)",
    # Reading data, saving, logging.
    "max_length": "[1, inf)",
    "dataloader_num_workers": "[0, inf)",
    "dataloader_prefetch_factor": "[1, inf)",
    "dataset_num_proc": "[1, inf)",
    "save_total_limit": "[1, inf)",
    "ddp_bucket_cap_mb": "(0, inf)",
    "torch_empty_cache_steps": "[1, inf)",
    "eval_delay": "[0, inf)",
    "eval_steps": "[0, inf)",  # below 1 a share of all steps, like the next
    "save_steps": "[0, inf)",
    "ddp_timeout": "(0, inf)",
    # Preferences and reward models.
    "beta": "[0, inf)",
    "label_smoothing": "[0, 1]",
    "loss_weights": "[0, inf)",
    "ld_alpha": "[0, 1]",
    "f_alpha_divergence_coef": "(-inf, inf)",
    "discopop_tau": "(0, inf)",
    "ref_model_mixup_alpha": "[0, 1]",
    "ref_model_sync_steps": "[1, inf)",
    "precompute_ref_batch_size": "[1, inf)",
    "desirable_weight": "[0, inf)",
    "undesirable_weight": "[0, inf)",
    "center_rewards_coefficient": "[0, inf)",
    # Generation and policy losses.
    "num_generations": "[1, inf)",
    "num_generations_eval": "[1, inf)",
    "generation_batch_size": "[1, inf)",
    "steps_per_generation": "[1, inf)",
    "max_completion_length": "[1, inf)",
    "temperature": "(0, inf)",  # log-probabilities are divided by it
    "top_p": "(0, 1]",
    "top_k": "[0, inf)",
    "min_p": "[0, 1]",
    "repetition_penalty": "(0, inf)",
    "num_beams": "[1, inf)",
    "num_iterations": "[1, inf)",
    "epsilon": "[0, inf]",
    "epsilon_high": "[0, inf]",
    "delta": "[0, inf]",
    "sapo_temperature_neg": "(0, inf)",
    "sapo_temperature_pos": "(0, inf)",
    "vespo_k_pos": "[0, inf)",
    "vespo_k_neg": "[0, inf)",
    "vespo_lambda_pos": "[0, inf)",
    "vespo_lambda_neg": "[0, inf)",
    "top_entropy_quantile": "[0, 1]",
    "entropy_coef": "(-inf, inf)",
    "entropy_coef_min": "(-inf, inf)",
    "entropy_coef_max": "(-inf, inf)",
    "entropy_coef_delta": "[0, inf)",
    "entropy_target": "[0, inf)",
    "max_tool_calling_iterations": "[0, inf)",
    "off_policy_mask_threshold": "(0, inf)",
    "engine_tolerance": "[0, inf)",
    "num_completions_to_print": "[0, inf)",
    "vllm_server_port": "[1, 65535]",
    "vllm_group_port": "[1, 65535]",
    "vllm_server_timeout": "[0, inf)",
    "vllm_gpu_memory_utilization": "(0, 1]",
    "vllm_max_model_length": "[1, inf)",
    "vllm_tensor_parallel_size": "[1, inf)",
    "vllm_importance_sampling_clip_min": "[0, inf)",
    "vllm_importance_sampling_clip_max": "(0, inf]",
    "vllm_importance_sampling_cap": "(0, inf]",
    # Rewards.
    "reward_timeout": "(0, inf)",
    "reward_workers": "[0, 256]",  # each a process with the user's libraries in memory
    "reward_memory_limit": "(0, inf)",
    "reward_max_failures": "[1, inf)",
    # Sampling from a model, beside training and in it.
    "max_samples": "[1, inf)",
    "num_samples": "[1, inf)",
    "max_new_tokens": "[1, inf)",
    "batch_size": "[1, inf)",
    "best_of": "[1, inf)",
    "min_reward": "(-inf, inf)",
    "eval_max_new_tokens": "[1, inf)",
    # LoRA.
    "lora_r": "[1, inf)",
    "lora_alpha": "(0, inf)",
    "lora_dropout": "[0, 1)",
}
# The largest whole number where no interval says less: nothing has more rows, steps or tokens, and
# beyond it memory, time and arithmetic end runs in ways of their own.
LARGEST = 2**31 - 1
# Where less is more than anybody can mean.
MOST = {
    **dict.fromkeys(("num_generations", "num_generations_eval", "num_samples", "lora_r"), 2**16),
    **dict.fromkeys(("dataloader_num_workers", "dataset_num_proc"), 2**10),
}
# Numbers that may be broken and count steps or epochs all the same.
COUNTS = ("num_train_epochs", "warmup_steps", "eval_delay", "eval_steps", "save_steps")
# Values outside of the interval that switch something off.
SWITCHES = {"max_steps": (-1, "num_train_epochs decides"), "top_k": (-1, "all tokens")}

# TRL looks at these words only after the first rollout.
POLICY_WORDS = {
    "scale_rewards": ("group", "batch", "none"),
    "importance_sampling_level": ("token", "sequence"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "kl_in": ("loss", "reward"),
    "vllm_mode": ("colocate", "server"),
    "vllm_model_impl": ("vllm", "transformers"),
    "vllm_importance_sampling_mode": (
        *("token_truncate", "token_mask"),
        *("sequence_truncate", "sequence_mask"),
    ),
}


# What JSON can hold beside objects.
KINDS = {
    bool: "a truth value",
    float: "a number",
    int: "a number",
    list: "a list",
    str: "text",
    type(None): "null",
}
# Of TRL's DPO, which knows others only when the first loss is computed.
DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")


def check_numbers(config: Any, *, but: Sequence[str] = ()) -> None:
    """Refuse numbers that nothing could use as they are meant.

    Args:
        config: A dataclass; of its fields those in :data:`NUMBERS` are looked at, where they are
            set.
        but: Fields that mean something else there.

    Raises:
        ConfigError: A number lies outside of its interval, or is no number; names the field.
    """
    for field in fields(config):
        value = getattr(config, field.name, None)
        if (
            value is None
            and isinstance(field.default, (int, float))
            and not _may_be_none(config, field.name)
        ):
            raise ConfigError(f"{field.name} is null: it must be a number, or be left out")
        if field.name in NUMBERS and field.name not in but and value is not None:
            for number in value if isinstance(value, (list, tuple)) else [value]:
                _check_number(field.name, number, value)
    check_largest(config)
    # Only where steps are what is counted.
    strategy = getattr(config, "logging_strategy", None)
    if strategy == "steps" and not 0 < config.logging_steps <= LARGEST:
        much = f" and at most {LARGEST}" * (config.logging_steps > LARGEST)
        raise ConfigError(
            f"logging_steps is {config.logging_steps}: it must be greater than 0{much}\n"
            "  logging_strategy 'no' logs nothing"
        )


def check_largest(config: Any) -> None:
    """Refuse whole numbers beyond all counting, also within options of options.

    Raises:
        ConfigError: Names the field.
    """
    for field in fields(config):
        if field.name not in NUMBERS:
            _check_largest(field.name, getattr(config, field.name, None))


def _check_largest(name: str, value: Any) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_largest(f"{name}: {key}", inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_largest(name, inner)
    elif isinstance(value, int) and not -LARGEST <= value <= LARGEST:
        raise ConfigError(f"{name} is {value}: it must be at most {LARGEST}")


def _written(config: Any, name: str) -> str:
    """The annotation as it is written: parsers of command lines overwrite ``field.type``."""
    annotations = (inspect.get_annotations(cls) for cls in type(config).__mro__)
    return str(next((own[name] for own in annotations if name in own), ""))


def _may_be_none(config: Any, name: str) -> bool:
    written = _written(config, name)
    return "None" in written or "Optional" in written


def _literals(config: Any, name: str) -> tuple[str, ...]:
    """The words of a ``Literal``."""
    found = re.search(r"Literal\[([^]]*)\]", _written(config, name))
    return () if found is None else tuple(re.findall(r"""["']([^"']*)["']""", found[1]))


def check_options(option: str, values: Mapping[str, Any]) -> None:
    """Refuse numbers in a mapping of options, as :func:`check_numbers` does in a config."""
    for name, value in values.items():
        if name in NUMBERS and value is not None:
            try:
                _check_number(name, value, value)
            except ConfigError as error:
                raise ConfigError(f"{option}: {error}") from error


def check_lora(given: Any) -> None:
    """Refuse numbers in a LoRA config of peft's, by the names that the command line has."""
    for field in ("r", "lora_alpha", "lora_dropout"):
        name = f"lora_{field.removeprefix('lora_')}"
        value = getattr(given, field, None)
        if value is not None:
            _check_number(name, value, value)


def _check_number(name: str, number: Any, value: Any) -> None:
    text = NUMBERS[name]
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise ConfigError(f"{name} is {value!r}: it must be a number, {in_words(text, 0)}")
    low, high = (float(end) for end in text[1:-1].split(","))
    most = MOST.get(name, LARGEST)
    counts = isinstance(number, int) or (name in COUNTS and math.isfinite(number))
    if high == math.inf and counts and number > most:
        text, high = f"{text.partition(',')[0]}, {most}]", most
    above = number >= low if text[0] == "[" else number > low
    below = number <= high if text[-1] == "]" else number < high
    if above and below:
        return
    if name in SWITCHES:
        switch, meaning = SWITCHES[name]
        if number == switch:
            return
        raise ConfigError(
            f"{name} is {value}: it must be {in_words(text, number)}, or {switch}: {meaning}"
        )
    raise ConfigError(f"{name} is {value}: it must be {in_words(text, number)}")


def in_words(interval: str, number: float) -> str:
    """``at least 0 and below 1`` for ``[0, 1)``; ``finite`` is said where ``number`` is not."""
    low, high = (end.strip() for end in interval[1:-1].split(","))
    words = []
    if low != "-inf":
        words.append(f"{'at least' if interval[0] == '[' else 'greater than'} {low}")
    if high != "inf":
        words.append(f"{'at most' if interval[-1] == ']' else 'below'} {high}")
    elif interval[-1] == ")" and not math.isfinite(number):
        words.append("finite")
    return " and ".join(words)


def check_words(config: Any, words: Mapping[str, Sequence[str]] | None = None) -> None:
    """Refuse words that are none of those that a field can have.

    Args:
        config: A dataclass; ``choices`` in the metadata of its fields and ``Literal`` types are
            checked as well, which an argument parser does and a Python caller would miss.
        words: Field to the words that it can have.

    Raises:
        ConfigError: Names the field and what it can be.
    """
    allowed = {
        field.name: field.metadata.get("choices") or _literals(config, field.name)
        for field in fields(config)
    }
    for name, choices in {**allowed, **(words or {})}.items():
        value = getattr(config, name, None)
        if value is None and (not _literals(config, name) or _may_be_none(config, name)):
            continue
        if choices and value not in choices:
            listed = ", ".join(map(str, choices))
            hint = did_you_mean(value, map(str, choices), inline=True)
            raise ConfigError(f"{name} is {value!r}{hint}: it must be one of {listed}")


def read_mappings(config: Any, names: Sequence[str], files: Sequence[str]) -> None:
    """Turn the JSON objects that a command line gives into mappings.

    Args:
        config: A dataclass, changed in place where a field is text.
        names: Its fields that are mappings.
        files: Those of them that may also be the path of a file.

    Raises:
        ConfigError: The text of a field is no JSON object; names the field.
    """
    for name in names:
        text = getattr(config, name, None)
        if isinstance(text, (list, tuple)):
            raise ConfigError(f"{name} is {text!r}: it must be a mapping of names to values")
        if not isinstance(text, str) or (name in files and not text.lstrip().startswith("{")):
            continue
        try:
            value = json.loads(text, object_pairs_hook=_once)
        except ValueError as error:
            problem = f"is not valid JSON: {error}"
        else:
            if isinstance(value, dict):
                # Transformers reads its own, and also turns the text "true" inside into True.
                if name not in getattr(type(config), "_VALID_DICT_FIELDS", ()):
                    setattr(config, name, value)
                continue
            problem = f"is {KINDS[type(value)]}, not an object in braces"
        raise ConfigError(f"{name} {text!r} {problem}\n  {_as_json(name, text)}")


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are there once each."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"{twice!r} is there twice")
    return found


def _as_json(name: str, text: str) -> str:
    """What to write instead, from ``name=value`` where that is what was written."""
    example: dict[str, Any] = {}
    for part in text.replace(",", " ").split():
        key, equals, value = part.partition("=")
        if not (key.isidentifier() and equals and value):
            example = {}
            break
        try:
            example[key] = json.loads(value)
        except ValueError:
            example[key] = value
    shown = json.dumps(example) if example else '{"option": 0.5}'
    return f"write --{name} '{shown}', or a mapping in YAML"
