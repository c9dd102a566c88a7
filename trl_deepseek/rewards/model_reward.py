"""A trained reward model as a reward function: what ``model:PATH`` in ``reward_funcs`` stands for.

Texts are rendered, ended and tokenized as they were in training, so that a completion gets the very
score the trainer would give it. ``transformers`` reads that score at the last token that is not
padding, on either side.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_deepseek.chat import reasoning
from trl_deepseek.errors import ModelError, UserError
from trl_deepseek.types import Messages

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from trl_deepseek.registry import Registry


class ModelReward:
    """Scores completions with a reward model; has TRL's reward signature.

    Args:
        model: A sequence classifier with one label.
        tokenizer: Its tokenizer, with the template it was trained with.
        name: What the reward is logged as.
        batch_size: Texts per forward pass.
        max_length: Tokens of a text that are scored; None for what the model has positions for. Of
            longer ones the beginning is cut off, since the score is read at the end.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        *,
        batch_size: int = 16,
        max_length: int | None = None,
    ) -> None:
        self.__name__ = name
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.max_length = max_length or getattr(model.config, "max_position_embeddings", None)

    def __call__(
        self,
        prompts: Sequence[str | Messages],
        completions: Sequence[str | Messages],
        generation_prefix: str = "",
        tools: Sequence[Any] | None = None,
        chat_template_kwargs: Sequence[Any] | None = None,
        **_: Any,
    ) -> list[float]:
        """One score per completion; they have no scale but their differences.

        Args:
            prompts: Texts or conversations.
            completions: Of the same kind.
            generation_prefix: What the generation prompt wrote for the model, and the completions
                therefore lack, such as ``<think>``.
            tools: A list of tools per prompt, rendered as in training.
            chat_template_kwargs: Arguments of the template per prompt.
            **_: Other columns, which the score does not depend on.
        """
        count = len(completions)
        texts = [
            self.encode(prompt, completion, generation_prefix, tool, options)
            for prompt, completion, tool, options in zip(
                prompts,
                completions,
                tools or [None] * count,
                chat_template_kwargs or [None] * count,
                strict=True,
            )
        ]
        scores = [0.0] * count
        by_length = sorted(range(count), key=lambda index: len(texts[index]))
        for start in range(0, count, self.batch_size):
            chosen = by_length[start : start + self.batch_size]
            for index, score in zip(chosen, self.score([texts[i] for i in chosen]), strict=True):
                scores[index] = score
        return scores

    def encode(
        self,
        prompt: str | Messages,
        completion: str | Messages,
        generation_prefix: str = "",
        tools: Any = None,
        template_options: Any = None,
    ) -> list[int]:
        """The tokens of prompt and completion as the trainer tokenizes a chosen text."""
        if isinstance(prompt, str) and isinstance(completion, str):
            text, end = prompt + completion, self.tokenizer.eos_token
            ids = self.tokenizer(text if text.endswith(end) else text + end)["input_ids"]
        elif isinstance(prompt, str) or isinstance(completion, str):
            raise TypeError("a prompt and its completion are both texts or both conversations")
        else:
            ids = self.tokenizer.apply_chat_template(
                [*prompt, *_with_prefix(completion, generation_prefix)],
                tokenize=True,
                return_dict=True,
                tools=json.loads(tools) if isinstance(tools, str) else tools,
                **(template_options or {}),
            )["input_ids"]
        return list(ids[-self.max_length :]) if self.max_length else list(ids)

    def score(self, texts: Sequence[Sequence[int]]) -> list[float]:
        """Scores of one batch of tokenized texts."""
        import torch

        padded = self.tokenizer.pad(
            {"input_ids": list(texts)}, padding_side="right", return_tensors="pt"
        ).to(self.model.device)
        with torch.inference_mode():
            logits = self.model(**padded, use_cache=False).logits
        return [float(score) for score in logits[:, 0]]


class DeferredReward:
    """The reward model at a path, checked now and loaded when it is first called.

    Args:
        path: What the trainer saved, or a hub id.
        registry: Where its chat template is looked up; None for the installed plugins.

    Raises:
        ModelError: See :func:`check_reward_model`.
    """

    def __init__(self, path: str, registry: Registry | None = None) -> None:
        check_reward_model(path)
        self.__name__ = _name(path)
        self.path = path
        self._registry = registry
        self._loaded: ModelReward | None = None
        self._lock = threading.Lock()

    def __call__(
        self,
        prompts: Sequence[str | Messages],
        completions: Sequence[str | Messages],
        **columns: Any,
    ) -> list[float]:
        """As :class:`ModelReward`."""
        with self._lock:  # rewards may be called from several threads
            if self._loaded is None:
                self._loaded = load_reward_model(self.path, self._registry)
        return self._loaded(prompts, completions, **columns)

    def __reduce__(self) -> tuple[type[DeferredReward], tuple[str]]:
        return DeferredReward, (self.path,)  # a worker process loads its own


def load_reward_model(
    path: str, registry: Registry | None = None, *, batch_size: int = 16
) -> ModelReward:
    """The reward model in a folder (or at a hub id), an adapter on its base included.

    Args:
        path: What the trainer saved.
        registry: Where its chat template is looked up; None for the installed plugins.
        batch_size: Texts per forward pass.

    Raises:
        ModelError: See :func:`check_reward_model`; or it does not load.
    """
    from accelerate import PartialState
    from transformers import AutoModelForSequenceClassification

    from trl_deepseek import models
    from trl_deepseek.plugin_loading import load_registry

    check_reward_model(path)
    registry = registry if registry is not None else load_registry()
    adapter = _read(Path(path).expanduser() / "adapter_config.json")
    source = path if adapter is None else adapter["base_model_name_or_path"]
    try:
        if adapter is not None and source in registry.models:
            base = models.build_revision(source, adapter.get("revision"), registry)
            model = models.as_reward_model(base)
        else:
            model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1)
        if adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, path).merge_and_unload()
    except UserError:
        raise
    except (OSError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"reward model {path!r} does not load: {lines[0]}") from error
    tokenizer = tokenizer_of(path, registry)
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model = model.to(PartialState().device)
    return ModelReward(model, tokenizer, _name(path), batch_size=batch_size)


def tokenizer_of(path: str, registry: Registry) -> PreTrainedTokenizerBase:
    """The tokenizer of a reward model, with the template that it was trained with."""
    from trl_deepseek import chat, models

    tokenizer = models.load_tokenizer(path, None)
    template = chat.recognise(tokenizer, path, registry)
    if template is not None:
        chat.install(tokenizer, template, registry)
    return tokenizer


def is_reward_model(path: str) -> bool:
    """Whether a folder holds a sequence classifier, or an adapter for one."""
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        return False
    config, adapter = _read(folder / "config.json"), _read(folder / "adapter_config.json")
    if config is None:
        return adapter is not None and adapter.get("task_type") == "SEQ_CLS"
    kinds = config.get("architectures") or []
    return any(str(kind).endswith("ForSequenceClassification") for kind in kinds)


def check_reward_model(path: str) -> None:
    """Refuse a folder that holds no reward model, from its config files alone.

    A name that is no folder here is taken for a hub id, of which nothing is known before loading.

    Raises:
        ModelError: It is missing, a language model, has more than one label, lacks weights or
            tokenizer, or is an adapter without its score head or its base.
    """
    folder = Path(path).expanduser()
    where = f"reward model {path!r}"
    if not folder.is_dir():
        if folder.exists() or path.startswith((".", "/", "~")) or path.count("/") != 1:
            raise ModelError(f"{where}: no such folder\n  train one with `trl-deepseek reward`")
        return
    config, adapter = _read(folder / "config.json"), _read(folder / "adapter_config.json")
    if config is None and adapter is None:
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:5])
        holds = f"has neither config.json nor adapter_config.json, but {found}"
        raise ModelError(
            f"{where} {holds if found else 'is an empty folder'}\n"
            f"  `trl-deepseek reward --output_dir {path}` trains one there"
        )
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise ModelError(f"{where} has no weights (*.safetensors or *.bin)")
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise ModelError(f"{where} has no tokenizer; copy that of its base model beside it")
    if adapter is not None:
        _check_adapter(where, adapter)
    else:
        _check_classifier(where, config or {})


def _check_adapter(where: str, adapter: dict[str, Any]) -> None:
    if adapter.get("task_type") != "SEQ_CLS":
        raise ModelError(
            f"{where} is an adapter for {adapter.get('task_type') or 'no task'}, not a reward "
            "model's (SEQ_CLS)\n  train one with `trl-deepseek reward`"
        )
    base = adapter.get("base_model_name_or_path")
    if not base:
        raise ModelError(f"{where} is an adapter that does not say on which base model it belongs")
    folder = Path(base).expanduser()
    if base.startswith((".", "/", "~")) and not folder.is_dir():
        raise ModelError(f"{where} is an adapter on {base!r}, which does not exist")


def _check_classifier(where: str, config: dict[str, Any]) -> None:
    kinds = config.get("architectures") or []
    if not any(kind.endswith("ForSequenceClassification") for kind in kinds):
        raise ModelError(
            f"{where} is a {', '.join(kinds) or 'model without a head'}, not a sequence "
            "classifier\n  a language model becomes one with `trl-deepseek reward`; to score "
            "with a language model's text, use a judge reward"
        )
    labels = len(config.get("id2label") or {0: "", 1: ""})  # transformers leaves out its default, 2
    if labels != 1:
        raise ModelError(f"{where} tells {labels} labels apart; a reward model has one")


def _name(path: str) -> str:
    """What a model at ``path`` is logged as: its last part, as TRL does."""
    return path.rstrip("/").rpartition("/")[2]


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{str(path)!r} is not valid JSON: {error}") from error
    return content


def _with_prefix(completion: Messages, prefix: str) -> Messages:
    """The completion with the opening of its reasoning, which the generation prompt wrote."""
    if not completion or not prefix.startswith(reasoning.OPEN):
        return completion
    first, *rest = completion
    content = first.get("content")
    if not isinstance(content, str) or content.startswith(reasoning.OPEN):
        return completion
    return [{**first, "content": prefix + content}, *rest]
