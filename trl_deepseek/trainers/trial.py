"""Options that torch and transformers read only when training begins, tried beforehand.

An optimizer that is not installed, arguments that it does not take or a scheduler without its end
are found out when the model is loaded. Here the optimizer of one number is made with them by the
functions that a trainer calls, and asked for the learning rate at some steps.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from typing import Any

import trl

from trl_deepseek.errors import ConfigError, boundary, did_you_mean
from trl_deepseek.trainers import ranges

OF_LAYERS = ("galore", "apollo", "lomo")  # optimizers that look for layers in the model
DEFAULT = {"adamw_torch", "adamw_torch_fused"}
# Of options of sampling, with an engine and without, what is TRL's to say and in which words it is
# said here. Where they say otherwise it reads another number of answers, or trains on log-probs of
# another temperature than was sampled at.
SAID = {
    True: {
        "n": "num_generations",
        "max_tokens": "max_completion_length",
        "logprobs": "what TRL compares the policy's with",
        "temperature": "the config's own",
    },
    False: {
        "num_return_sequences": "num_generations",
        "return_dict_in_generate": "False",
        "temperature": "the config's own",
    },
}


def check(args: Any) -> None:
    """Refuse what would end the run as it begins.

    Args:
        args: A training config.

    Raises:
        ConfigError: Names the option.
    """
    if args.dataloader_persistent_workers and not args.dataloader_num_workers:
        raise ConfigError(
            "dataloader_persistent_workers: with dataloader_num_workers 0 there are none\n"
            "  set dataloader_num_workers, or leave it out"
        )
    multiple = getattr(args, "pad_to_multiple_of", None)
    if multiple not in (None, "auto") and not (str(multiple).isdecimal() and int(multiple)):
        raise ConfigError(f"pad_to_multiple_of is {multiple}: it must be at least 1, or auto")
    _check_checkpointing(args)
    _compile(args)
    engine = getattr(args, "use_vllm", None)  # which has a check of its own for the rest
    if engine is False:
        _check_generation(args)
        _check_stop_strings(args)
    if engine is not None:
        _check_said(args.generation_kwargs or {}, SAID[engine], args.temperature)
    if args.deepspeed is None:  # whose file may have both
        optimizer = _optimizer(args)
        if optimizer is not None:
            _check_scheduler(args, optimizer)


def _optimizer(args: Any) -> Any:
    """The optimizer of one number; None where it can only be made for a whole model."""
    import torch
    from transformers import Trainer

    model = torch.nn.Linear(1, 1)
    name = str(getattr(args.optim, "value", args.optim))
    if name in DEFAULT and not args.optim_args:
        return torch.optim.AdamW(model.parameters(), lr=args.learning_rate)
    what = f"optim {name!r}" + (f" with optim_args {args.optim_args!r}" * bool(args.optim_args))
    if any(each in name for each in OF_LAYERS):
        try:
            Trainer.get_optimizer_cls_and_kwargs(args, model)
        except ImportError as error:
            raise ConfigError(f"{what}: {error}") from error
        except ValueError:  # the one number is none of its layers
            pass
        return None
    with boundary(ConfigError, what):
        kind, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
        if args.optim_args:
            without = copy.copy(args)
            without.optim_args = None
            if Trainer.get_optimizer_cls_and_kwargs(without, model) == (kind, options):
                raise ConfigError(f"{what}: this optimizer takes none of them")
        if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
            return None
        return kind(model.parameters(), **options)


def _check_scheduler(args: Any, optimizer: Any) -> None:
    from transformers import get_scheduler

    name = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    given = f" with lr_scheduler_kwargs {args.lr_scheduler_kwargs}" * bool(args.lr_scheduler_kwargs)
    steps = args.max_steps if args.max_steps > 0 else 100
    with boundary(ConfigError, f"lr_scheduler_type {name!r}{given}"):
        scheduler = get_scheduler(
            args.lr_scheduler_type,
            optimizer=optimizer,
            num_warmup_steps=args.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=args.lr_scheduler_kwargs,
        )
        for factor in getattr(scheduler, "lr_lambdas", ()):
            for step in {0, 1, steps // 2, steps}:
                if not math.isfinite(factor(step)):
                    raise ValueError(f"the learning rate of step {step} is not finite")


def _check_checkpointing(args: Any) -> None:
    from torch.utils.checkpoint import checkpoint

    known = {*inspect.signature(checkpoint).parameters} - {"function", "args", "kwargs"}
    known |= {"preserve_rng_state"}  # which torch takes out of its own kwargs
    for option in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
        given = getattr(args, option, None)
        if option.startswith("gradient") and isinstance(args, trl.SFTConfig):
            known = known | {"selective"}  # TRL's own, which keeps what is dear to compute
            _check_selective(args, given if isinstance(given, dict) else {})
        unknown = sorted(set(given) - known) if isinstance(given, dict) else []
        if unknown:
            raise ConfigError(
                f"{option} has no {', '.join(map(repr, unknown))}\n"
                f"  it takes {', '.join(sorted(known))}"
            )


def _check_selective(args: Any, given: dict[str, Any]) -> None:
    if given.get("selective") and not args.gradient_checkpointing:
        raise ConfigError(
            "gradient_checkpointing_kwargs: selective requires gradient_checkpointing, and it is "
            "false"
        )
    if given.get("selective") and given.get("use_reentrant"):
        raise ConfigError(
            "gradient_checkpointing_kwargs: selective checkpointing is non-reentrant\n"
            "  leave use_reentrant out"
        )


def _compile(args: Any) -> None:
    import torch
    from accelerate.utils import DynamoBackend

    backend = args.torch_compile_backend
    known = [each.value.lower() for each in DynamoBackend]
    if backend is not None and backend.lower() not in known:
        hint = did_you_mean(backend, known, inline=True)
        raise ConfigError(
            f"torch_compile_backend: there is none called {backend!r}{hint}\n"
            f"  known: {', '.join(known)}"
        )
    if args.torch_compile_mode is None:
        return
    with boundary(ConfigError, f"torch_compile_mode {args.torch_compile_mode!r}"):
        torch.compile(
            torch.nn.Identity(),
            backend=args.torch_compile_backend or "inductor",
            mode=args.torch_compile_mode,
        )


def _check_said(given: Mapping[str, Any], said: Mapping[str, str], temperature: float) -> None:
    for name, instead in said.items():
        if name in given and (name, given[name]) != ("temperature", temperature):
            raise ConfigError(f"generation_kwargs: {name} is {instead} here\n  leave it out")


def _check_stop_strings(args: Any) -> None:
    """Refuse them where they would not be seen, or where all that they end would carry no loss."""
    if not (args.generation_kwargs or {}).get("stop_strings"):
        return
    for option in ("mask_truncated_completions", "use_transformers_continuous_batching"):
        if getattr(args, option):
            why = "counts what they end as cut off" if option.startswith("mask") else "has none"
            raise ConfigError(
                f"generation_kwargs: stop_strings: {option} {why}\n  leave one of the two out"
            )


def _check_generation(args: Any) -> None:
    from transformers import GenerationConfig

    cache, options = args.cache_implementation, args.generation_kwargs or {}
    with boundary(ConfigError, f"cache_implementation {cache!r}"):
        GenerationConfig(cache_implementation=cache).validate(strict=True)
    known = vars(GenerationConfig())
    unknown = sorted(set(options) - known.keys())
    if unknown:
        raise ConfigError(
            f"generation_kwargs: there is no {', '.join(map(repr, unknown))} in generation\n"
            "  see transformers.GenerationConfig"
        )
    ranges.check_options("generation_kwargs", options)
    with boundary(ConfigError, "generation_kwargs"):
        GenerationConfig(**{"do_sample": True, **options}).validate(strict=True)
