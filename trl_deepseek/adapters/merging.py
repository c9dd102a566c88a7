"""Put a LoRA adapter into the 16-bit base it was trained on, and check that nothing changed.

The base is read in 16 bits, never in 4: rounding the sum of a weight and its adapter to 4 bits
would undo what was learned. The sum is formed in float32 and rounded once. What base and adapter
say to some prompts is compared with what the merged, rounded model says.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_deepseek import chat, models
from trl_deepseek.errors import ConfigError, ModelError, RunError
from trl_deepseek.models import skeleton
from trl_deepseek.registry import Registry

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

PROMPTS = (
    "What is 17 + 25?",
    "Name the capital of France.",
    "Write a haiku about rain.",
    "Translate 'good morning' into German.",
    "Explain in one sentence why the sky is blue.",
    "def fibonacci(n):",
    "List three prime numbers greater than 50.",
    "Is a tomato a fruit or a vegetable?",
)
TOLERANCE = 1e-2  # of the logits, relative; rounding to bfloat16 alone gives some 2e-3
WORD = 4  # bytes per weight while merging
SPARE = 1.05  # room beside the weights, on disk and in memory
_NAME_BASE = "name it in its adapter_config.json, as base_model_name_or_path"


@dataclass(frozen=True)
class Source:
    """An adapter and its base, as far as their config files tell.

    Attributes:
        adapter: The adapter's folder.
        base: Name of the base model.
        revision: Of the base; an embedded model's seed.
        config: Of the base.
        scores: Whether it is a reward model.
        parameters: Of the base.
    """

    adapter: Path
    base: str
    revision: str | None
    config: PretrainedConfig
    scores: bool
    parameters: int


@dataclass(frozen=True)
class Agreement:
    """How close the merged model is to base and adapter.

    Attributes:
        logits: Relative error of a token's logits (L2 norm over the vocabulary), the median over
            all tokens. The largest says little where experts are routed: a token on which the
            router is undecided may go elsewhere after the last bit of a weight has changed.
        worst: The largest.
        same: Prompts answered alike, greedily; None for a reward model.
        prompts: Prompts compared.
    """

    logits: float
    worst: float
    same: int | None
    prompts: int


def inspect(
    adapter: str, registry: Registry, base: str | None = None, *, merges: bool = True
) -> Source:
    """Find the adapter and its base, reading config files only.

    Args:
        adapter: The adapter's folder.
        registry: Where embedded models are looked up.
        base: The base, where it is elsewhere than the adapter says.
        merges: Whether they are to be merged, which a base in 4 or 8 bits cannot be.

    Raises:
        ModelError: The folder holds no LoRA adapter, or its base is missing or not in 16 bits.
    """
    folder = Path(adapter).expanduser()
    file = folder / "adapter_config.json"
    if not folder.exists():
        raise ModelError(f"adapter {adapter!r}: there is no such folder")
    if not file.is_file():
        found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        raise ModelError(
            f"{adapter!r} holds no adapter: there is no adapter_config.json\n"
            f"  it contains: {', '.join(found[:12]) or '(nothing)'}"
        )
    try:
        settings = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ModelError(f"{str(file)!r} is no JSON object: {error}") from error
    kind = settings.get("peft_type")
    if kind != "LORA":
        named = f"is a {kind} adapter" if kind else "names no peft_type in adapter_config.json"
        raise ModelError(f"{adapter!r} {named}; {'merge takes' if merges else 'it must be'} LoRA")
    if not any((folder / f"adapter_model.{kind}").is_file() for kind in ("safetensors", "bin")):
        raise ModelError(f"{adapter!r} has no weights: there is no adapter_model.safetensors")
    name = base or settings.get("base_model_name_or_path")
    if not name:
        raise ModelError(
            f"{adapter!r} does not say on which base model it belongs\n  "
            + ("name it: --base_model_name_or_path NAME" if merges else _NAME_BASE)
        )
    models.check(name, registry)
    revision = settings.get("revision")
    hub = name not in registry.models
    config = models.load_config(name, registry, revision if hub else None)
    if merges and getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            f"base model {name!r} is stored quantized; an adapter is merged into 16 bits only\n"
            "  name the model it was made from: --base_model_name_or_path NAME"
        )
    _check_readable(folder / "adapter_model.safetensors")
    shape = skeleton.build(config)
    count = sum(parameter.numel() for parameter in shape.parameters())
    return Source(folder, name, revision, config, settings.get("task_type") == "SEQ_CLS", count)


def _check_readable(file: Path) -> None:
    """Refuse weights that were cut off or are something else; reads their header only."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        return  # they are in the older format
    try:
        with safe_open(file, "pt"):
            pass
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{str(file)!r} holds no whole weights: {error}\n  copy the adapter again"
        ) from error


def check_room(source: Source, output: Path, width: int) -> None:
    """Refuse before anything is written where disk or memory does not suffice.

    Args:
        source: What is to be merged.
        output: The folder to write; must not hold anything yet.
        width: Bytes per weight on disk.

    Raises:
        ConfigError: It does not suffice, or ``output`` is not empty.
    """
    import psutil

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"--output_dir {str(output)!r} exists already; name a new folder")
    parent = next(path for path in output.absolute().parents if path.exists())
    free = shutil.disk_usage(parent).free
    available = psutil.virtual_memory().available
    for what, has, needs in (
        ("the disk", free, width * source.parameters),
        ("memory", available, WORD * source.parameters),
    ):
        if has < needs * SPARE:
            raise ConfigError(
                f"merging into {source.base!r} takes {needs * SPARE / 1e9:.1f} GB of {what}, where "
                f"{has / 1e9:.1f} GB are free\n  nothing was written"
            )


def merge(
    source: Source,
    output: Path,
    registry: Registry,
    *,
    dtype: torch.dtype,
    prompts: Sequence[str] = PROMPTS,
    max_new_tokens: int = 16,
) -> Agreement:
    """Merge, compare and write the model, its tokenizer and a card.

    Args:
        source: From :func:`inspect`.
        output: The folder to write; it appears whole or not at all.
        registry: Where embedded models and chat templates are looked up.
        dtype: Of the merged weights.
        prompts: Asked of both models.
        max_new_tokens: Longest answer compared.

    Raises:
        ModelError: The base or the adapter does not load.
        RunError: The two models disagree; nothing is written.
    """
    import torch
    from peft import PeftModel

    base, tokenizer = _load(source, registry)
    _round(base, source, dtype)  # the 16-bit base, held wider while the sum is formed
    base.float()
    try:
        adapted: Any = PeftModel.from_pretrained(base, str(source.adapter)).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"adapter {str(source.adapter)!r} does not fit: {error}") from error
    name = None if source.scores else chat.recognise(tokenizer, source.base, registry)
    if name is not None:
        chat.install(tokenizer, chat.resolve(name, registry))
    before = [_ask(adapted, tokenizer, text, max_new_tokens, source.scores) for text in prompts]
    merged = adapted.merge_and_unload()
    _round(merged, source, dtype)
    merged.float()  # the comparison is of weights, not of 16-bit arithmetic
    after = [_ask(merged, tokenizer, text, max_new_tokens, source.scores) for text in prompts]
    errors = torch.cat(
        [
            ((new - old).norm(dim=-1) / old.norm(dim=-1)).flatten()
            for (old, _), (new, _) in zip(before, after, strict=True)
        ]
    )
    alike = sum(old == new for (_, old), (_, new) in zip(before, after, strict=True))
    typical, worst = float(errors.median()), float(errors.max())
    agreement = Agreement(typical, worst, None if source.scores else alike, len(prompts))
    if not agreement.logits <= TOLERANCE:
        raise RunError(
            f"the merged model differs from base and adapter by {agreement.logits:.1e} of the "
            f"logits, more than {TOLERANCE:.0e}; nothing was written\n"
            "  is the base the one that the adapter was trained on? An adapter that changes little "
            "is lost where 16 bits round it away: --dtype float32 keeps it"
        )
    _round(merged, source, dtype)
    chat.set_stop_tokens(merged, tokenizer)
    _write(merged, tokenizer, source, agreement, output)
    return agreement


def _load(source: Source, registry: Registry) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    import torch
    import transformers

    embedded = source.base in registry.models
    own = any((source.adapter / file).exists() for file in ("tokenizer.json", "tokenizer.model"))
    if embedded:
        base = models.build_revision(source.base, source.revision, registry)
        base = models.as_reward_model(base) if source.scores else base
    else:
        kind = "SequenceClassification" if source.scores else "CausalLM"
        loader: Any = getattr(transformers, f"AutoModelFor{kind}")
        labels = {"num_labels": 1} if source.scores else {}
        try:
            base = loader.from_pretrained(
                source.base, revision=source.revision, dtype=torch.float32, **labels
            )
        except (OSError, ValueError) as error:
            raise ModelError(f"base model {source.base!r} does not load: {error}") from error
    if embedded and not own:
        return base, registry.models[source.base]()[1]
    return base, models.load_tokenizer(str(source.adapter) if own else source.base, None)


def _ask(
    model: Any, tokenizer: Any, prompt: str, max_new_tokens: int, scores: bool
) -> tuple[torch.Tensor, list[int]]:
    """Logits on a prompt and the tokens of the greedy answer to it."""
    import torch

    if tokenizer.chat_template and not scores:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )["input_ids"]
    else:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    mask = torch.ones_like(ids)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits.float()
        if scores:
            return logits, []
        answer = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
        )
    return logits, answer[0, ids.shape[1] :].tolist()


def _round(model: Any, source: Source, dtype: torch.dtype) -> None:
    """Cast to ``dtype`` what the architecture holds in it; routers, for one, stay in float32."""
    shape = skeleton.build(source.config, sequence_classification=source.scores, dtype=dtype)
    dtypes = {n: t.dtype for n, t in [*shape.named_parameters(), *shape.named_buffers()]}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtypes.get(name, dtype))


def _write(model: Any, tokenizer: Any, source: Source, agreement: Agreement, output: Path) -> None:
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was interrupted
    partial.mkdir(parents=True)
    model.save_pretrained(partial)
    with chat.inference_template(tokenizer):
        tokenizer.save_pretrained(partial)
    (partial / "README.md").write_text(card(source, agreement, str(model.dtype)), encoding="utf-8")
    if output.exists():
        output.rmdir()
    partial.rename(output)


def card(source: Source, agreement: Agreement, dtype: str) -> str:
    """The model card of a merged model."""
    answers = (
        f"\n- Greedy answers that are the same: {agreement.same} of {agreement.prompts}"
        if agreement.same is not None
        else ""
    )
    base = f"base_model: {source.base}\n" if "/" in source.base and source.base[0] != "/" else ""
    return f"""---
library_name: transformers
{base}tags:
- trl
- trl_deepseek
---

# {Path(source.base).name}, with an adapter merged into it

A LoRA adapter (`{source.adapter.name}`) added to the weights of `{source.base}` and rounded to
{dtype.removeprefix("torch.")}. It loads with transformers alone.

Checked against base and adapter on {agreement.prompts} prompts, in float32:

- Relative error of a token's logits, median: {agreement.logits:.1e}
- The same, largest: {agreement.worst:.1e}{answers}
"""
