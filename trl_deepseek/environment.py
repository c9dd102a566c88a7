"""What a run needs around it and would miss late: trackers, extras, files, a folder to write to.

TRL finds these out when the trainer is built, after the model is loaded, or at the first save.
Every check takes a training config, loads nothing and raises :class:`ConfigError`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trl_deepseek.errors import ConfigError, did_you_mean

EXTRAS = (
    "liger",
    "tensorboard",
    "vllm",
    "wandb",
)  # of this distribution, held to pyproject.toml by a test
SETTINGS_FILES = ("accelerator_config", "fsdp_config", "deepspeed")  # fields that may name a file
# Warnings, as patterns: an option of TRL's that transformers renames, a default that only a GPU can
# use, and peft's search for the base of an adapter on a model that was built in memory.
NOTES_ON_DEFAULTS = (
    r"`\w*gradient_checkpointing\w*` is deprecated",
    ".*pin_memory.*no accelerator",
    "Could not find a config file in None",
)
# Trackers whose distribution and whose test in transformers have another name than they have.
TRACKERS = {
    "azure_ml": ("azureml-sdk", "azureml"),
    "comet_ml": ("comet-ml", "comet"),
    "flyte": ("flytekit", "flytekit"),
}


@contextlib.contextmanager
def without_notes_on_defaults() -> Iterator[None]:
    """Pass over warnings about what TRL or transformers chose, which their user cannot mend."""
    with warnings.catch_warnings():
        for note in NOTES_ON_DEFAULTS:
            warnings.filterwarnings("ignore", note)
        yield


def install(name: str) -> str:
    """The line that says how to install a library."""
    extra = f"'trl-deepseek[{name}]'" if name in EXTRAS else name
    return f"  pip install {extra}"


def check(args: Any) -> None:
    """Every check of this module, for a training config.

    Raises:
        ConfigError: See the others.
    """
    check_trackers(args)
    check_extras(args)
    check_settings_files(args)
    check_output_dir(args.output_dir)


def check_trackers(args: Any) -> None:
    """Refuse trackers in ``report_to`` that do not exist or are not installed.

    Raises:
        ConfigError: Names the tracker and how to install it.
    """
    from transformers.integrations import integration_utils

    given = args.report_to if isinstance(args.report_to, (list, tuple)) else [args.report_to]
    known = list(integration_utils.INTEGRATION_TO_CALLBACK)
    for name in given:
        if name in (None, "none", "all"):
            continue
        if name not in known:
            raise ConfigError(
                f"report_to: there is no tracker {name!r}"
                f"{did_you_mean(name, [*known, 'none'], inline=True)}\n"
                f"  trackers: {', '.join(known)}; none reports to nobody"
            )
        distribution, test = TRACKERS.get(name, (name, name))
        if not getattr(integration_utils, f"is_{test}_available")():
            raise ConfigError(
                f"report_to: {name} is not installed\n{install(distribution)}, or --report_to none"
            )


def check_extras(args: Any, attn_implementation: str | None = None) -> None:
    """Refuse what needs a library that is not installed, or the hub where it cannot be reached.

    Args:
        args: A training config.
        attn_implementation: As asked for; ``args.model_init_kwargs`` may name it as well.

    Raises:
        ConfigError: Names the option and how to install what it needs.
    """
    from transformers.utils import is_liger_kernel_available

    if args.use_liger_kernel and not is_liger_kernel_available():
        raise ConfigError(f"use_liger_kernel: liger-kernel is not installed\n{install('liger')}")
    inner = args.model_init_kwargs if isinstance(args.model_init_kwargs, dict) else {}
    _check_attention(attn_implementation or inner.get("attn_implementation"))
    _check_hub(args)


def _check_attention(name: str | None) -> None:
    from transformers import AttentionInterface
    from transformers.utils import import_utils

    if name is None:
        return
    if name.startswith("flash_attention_"):
        version = name.removeprefix("flash_attention_")
        test = getattr(import_utils, f"is_flash_attn_{version}_available", None)
        asked = inspect.signature(test).parameters if test is not None else {}
        fallback = {"kernels_fallback_ok": True} if "kernels_fallback_ok" in asked else {}
        if test is not None and not test(**fallback):  # an older transformers has no fallback
            raise ConfigError(
                f"attn_implementation: {name} is not installed, or finds no GPU to run on\n"
                f"{install('flash-attn')}, or --attn_implementation sdpa"
            )
        if test is not None:
            return
    # Those with "|" are for generation alone, and not the same in every release.
    known = ["eager", *(key for key in AttentionInterface().valid_keys() if "|" not in key)]
    if "/" not in name and name.split("|")[-1] not in known:  # with a slash it is one of the hub's
        raise ConfigError(
            f"attn_implementation: there is none called {name!r}"
            f"{did_you_mean(name, known, inline=True)}\n"
            f"  known: {', '.join(known)}"
        )


def _check_hub(args: Any) -> None:
    from huggingface_hub import constants, get_token

    if not args.push_to_hub:
        return
    if constants.HF_HUB_OFFLINE:
        raise ConfigError(
            "push_to_hub: HF_HUB_OFFLINE is set, and nothing can be uploaded\n"
            "  unset it, or leave --push_to_hub out and upload the output folder later"
        )
    if not (args.hub_token or get_token()):
        raise ConfigError(
            "push_to_hub: nobody is logged in to the hub\n"
            "  hf auth login, or set HF_TOKEN; or leave --push_to_hub out"
        )


def check_settings_files(args: Any) -> None:
    """Refuse files of deepspeed, FSDP or accelerate that are not there, and deepspeed itself.

    Raises:
        ConfigError: Names the option.
    """
    for option in SETTINGS_FILES:
        given = getattr(args, option, None)
        if isinstance(given, (str, Path)) and given and not Path(given).is_file():
            raise ConfigError(f"{option}: there is no file {str(given)!r}")
    if getattr(args, "deepspeed", None) and importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            f"deepspeed: it is not installed\n{install('deepspeed')}, or leave --deepspeed out"
        )


def check_output_dir(path: str | Path) -> None:
    """Refuse a folder that cannot be made or written to, by trying; nothing is left behind.

    It is tried in a folder of its own beside it, or in it: the processes of a run, which try at the
    same time, would remove it from under each other.

    Raises:
        ConfigError: Names the folder and what the system said.
    """
    folder, whole = Path(path), Path(os.path.abspath(path))
    there = next(each for each in (whole, *whole.parents) if os.path.lexists(each))
    try:
        with tempfile.TemporaryDirectory(dir=there) as aside:
            Path(aside, whole.relative_to(there)).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        file = next((each for each in (folder, *folder.parents) if each.is_file()), None)
        problem = f"the folder {str(path)!r} cannot be written to: {reason}"
        if file is not None:
            what = "it is a file" if file == folder else f"{str(file)!r} is a file"
            problem = f"{str(path)!r} cannot be a folder: {what}"
        raise ConfigError(f"output_dir: {problem}\n  name another one with --output_dir") from error
