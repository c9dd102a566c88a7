"""A model and its tokenizer by name, ready to answer; adapters are put on their base unmerged."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from trl_deepseek import chat, engines, models, quantization
from trl_deepseek.adapters import merging
from trl_deepseek.errors import ConfigError, ModelError
from trl_deepseek.generation.completing import ENGINE
from trl_deepseek.registry import Registry
from trl_deepseek.types import Quantization

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

RECORD = "trl_deepseek.json"  # what training leaves beside an adapter; see trainers.provenance


def check(
    name: str,
    registry: Registry,
    *,
    quantization: str | None = None,
    revision: str | None = None,
    chat_template: str | None = None,
) -> PreTrainedTokenizerBase:
    """Refuse what :func:`load` would, before a weight is read.

    Args:
        name: As there, and so are the others.
        registry: Likewise.
        quantization: Likewise.
        revision: Likewise.
        chat_template: Likewise.

    Returns:
        The tokenizer, with its template installed.

    Raises:
        UserError: There is no such model, adapter, base, tokenizer, quantization or template, or
            its weights are not whole, or the tokenizer has tokens that the model does not know.
    """
    _quantization(name, registry, quantization)
    base, tokenizer_from = name, name
    if is_adapter(name, registry):
        source = merging.inspect(name, registry, merges=False)
        if source.scores:
            raise ModelError(f"{name!r} is the adapter of a reward model, which answers nothing")
        base = source.base
        tokenizer_from = name if _has_tokenizer(name) else base
    models.check(base, registry)
    if base not in registry.models and Path(base).expanduser().is_dir():
        models.check_weights(base, registry, None)
    tokenizer = _tokenizer(tokenizer_from, base, registry, revision, chat_template)
    if tokenizer_from == base and base not in registry.models:
        given = {} if revision is None else {"model_init_kwargs": {"revision": revision}}
        models.check_tokenizer(tokenizer, base, registry, SimpleNamespace(**given))
    return tokenizer


def load(
    name: str,
    registry: Registry,
    *,
    seed: int = 0,
    quantization: str | None = None,
    chat_template: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
    engine: str = "transformers",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer, in eval mode and on its device.

    The named or recognised chat template is installed, and its end of turn ends an answer.

    Args:
        name: An embedded model, a folder, a hub id, or the folder of a LoRA adapter, which is put
            on its base as that was held in training.
        registry: Where names are looked up.
        seed: Of an embedded model's random weights; of the base of an adapter its own seed is used.
        quantization: How the weights are held; None for as they are stored, and for the base of an
            adapter as it was held in training, where the adapter's record says so.
        chat_template: Name of a template; None for the one that is recognised, or the tokenizer's.
        dtype: Of the weights, such as ``bfloat16``; None for as they are stored.
        device: None for the GPU where there is one.
        revision: Of a hub id.
        attn_implementation: As in ``from_pretrained``.
        engine: What answers: ``transformers``, or ``vllm``, which is started beside the model.

    Raises:
        UserError: See :func:`check`; or the model does not load, or has weights that are NaN or
            infinite.
    """
    tokenizer = check(
        name,
        registry,
        quantization=quantization,
        revision=revision,
        chat_template=chat_template,
    )
    chosen = _quantization(name, registry, quantization)
    if engine == "vllm":
        engines.check_bits("engine vllm", None if chosen is None else chosen.bits)
    options: dict[str, Any] = {"dtype": dtype or "auto", "attn_implementation": attn_implementation}
    adapter: str | None = None
    base = name
    if is_adapter(name, registry):
        source = merging.inspect(name, registry, merges=False)
        base, adapter, revision = source.base, name, source.revision
    model: Any
    if base in registry.models:
        if adapter is not None:
            model = models.build_revision(base, revision, registry)
        else:
            model = registry.models[base](seed=seed)[0]
        if chosen is not None:
            model = _quantized(model, chosen, {"dtype": dtype})
    elif chosen is not None:
        model = _quantized(base, chosen, {**options, "dtype": dtype, "revision": revision})
    else:
        model = models.load(base, registry, revision=revision, **options)[0]
    if adapter is not None:
        model = _put_on(model, adapter)
    models.require_finite(name, model.named_parameters())  # or all answers would be one token
    if not getattr(model, "is_quantized", False):
        model = model.to(device or _device())
    chat.set_stop_tokens(model, tokenizer)
    if engine == "vllm":
        from trl_deepseek.engines.answering import Answering

        setattr(model, ENGINE, Answering(model, tokenizer))
    return model.eval(), tokenizer


def is_adapter(name: str, registry: Registry) -> bool:
    """Whether ``name`` is a folder with an adapter and no model."""
    folder = Path(name).expanduser()
    return (
        name not in registry.models
        and (folder / "adapter_config.json").is_file()
        and not (folder / "config.json").is_file()
    )


def _quantization(name: str, registry: Registry, given: str | None) -> Quantization | None:
    """The quantization that is named, or that the base of an adapter was trained in."""
    if given is None and is_adapter(name, registry):
        given = _trained_in(Path(name).expanduser())
        if given is not None and given not in registry.quantizations:
            raise ConfigError(
                f"adapter {name!r} was trained on a base held as {given!r}, which no plugin "
                "registers\n  name a quantization that is the same"
            )
    return None if given is None else registry.quantizations[given]


def _trained_in(folder: Path) -> str | None:
    """The quantization in the record of the run that made the adapter; None without one."""
    file = folder / RECORD
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["settings"].get("quantization")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error
    return found if found is None else str(found)


def _quantized(model: Any, chosen: Quantization, options: dict[str, Any]) -> Any:
    import torch

    given = options.pop("dtype")
    on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    dtype = getattr(torch, given) if given else None
    dtype = dtype or quantization.compute_dtype(chosen, SimpleNamespace(bf16=on_gpu))
    return quantization.load(model, chosen, dtype, **options)


def _put_on(model: Any, adapter: str) -> Any:
    """The model with the adapter beside its weights, not in them."""
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, adapter)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"adapter {adapter!r} does not fit its base: {error}") from error


def _has_tokenizer(folder: str) -> bool:
    files = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
    return any((Path(folder).expanduser() / file).exists() for file in files)


def _tokenizer(
    name: str, base: str, registry: Registry, revision: str | None, chat_template: str | None
) -> PreTrainedTokenizerBase:
    """The tokenizer with the named or recognised template."""
    if name in registry.models:
        tokenizer = registry.models[name]()[1]
    else:
        given = {} if revision is None else {"model_init_kwargs": {"revision": revision}}
        tokenizer = models.load_tokenizer(name, SimpleNamespace(**given))
    chosen = chat_template or chat.recognise(tokenizer, base, registry)
    if chosen is not None:
        chat.install(tokenizer, chosen, registry)
    return tokenizer


def _device() -> torch.device:
    from accelerate import PartialState

    return PartialState().device
