"""Supervised fine-tuning: TRL's trainer with models, templates and noise by name."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import trl
from datasets import Dataset

from trl_deepseek import data, lm_head
from trl_deepseek.data import demonstrations, labels, lengths
from trl_deepseek.errors import ConfigError
from trl_deepseek.losses.plan import plan
from trl_deepseek.segments import by_documents
from trl_deepseek.trainers.base import PluginTrainer
from trl_deepseek.trainers.configs import SFTConfig
from trl_deepseek.trainers.inputs import Inputs, find, read_conversations
from trl_deepseek.trainers.lean_head import LeanHead

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class SFTTrainer(PluginTrainer, trl.SFTTrainer):
    """Drop-in for ``trl.SFTTrainer``; see it for the arguments.

    ``model`` may also be the name of an embedded model, and the datasets may hold Alpaca or
    ShareGPT rows. With a registered chat template the loss on conversations is on what the
    assistant generates, unless ``args.assistant_only_loss`` says otherwise.

    Raises:
        UnknownName: No plugin registers that model, template or noise.
        DataError: A dataset holds no demonstrations, or a row is malformed.
        TemplateError: The dataset holds conversations and there is no template to render them.
    """

    CONFIG = (SFTConfig, trl.SFTConfig)

    def __init__(
        self,
        model: str | PreTrainedModel | Inputs,
        args: trl.SFTConfig | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(model, Inputs):
            model = self.check(model, args, train_dataset, eval_dataset, processing_class, **kwargs)
            kwargs = {}
        unlabelled: list[int] = []
        if _is_prepared(model.args) and data_collator is None:
            model.train_dataset, unlabelled = _labelled(model.train_dataset)
        super().__init__(model, data_collator=data_collator, **kwargs)
        if unlabelled:
            self.left_out["train"] = unlabelled
        parts = {
            "what the assistant generates": self.args.assistant_only_loss,
            "the completions": self.completion_only_loss,
        }
        which = next((part for part, chosen in parts.items() if chosen), "every token")
        logger.info("the loss is on %s", which)

    @classmethod
    def _config(cls, args: Any) -> Any:
        """As TRL, from any training arguments."""
        if args is None or isinstance(args, trl.SFTConfig):
            return super()._config(args)
        return SFTConfig(**{**args.to_dict(), "hub_token": args.hub_token})

    @classmethod
    def _check(cls, inputs: Inputs) -> None:
        args = inputs.args
        _check_dataset_kwargs(args, inputs.train_dataset)
        _check_padding_free(args)
        plan(args, inputs.registry)
        if _reads_rows(args, inputs.options):
            for split, rows in inputs.splits.items():
                data.each(rows, partial(_layout, args=args, split=split))
        find(inputs)
        inputs.advise()
        inputs.train_dataset, kind = _read(inputs.train_dataset, inputs, "train_dataset")
        inputs.eval_dataset, _ = _read(inputs.eval_dataset, inputs, "eval_dataset")
        if _reads_rows(args, inputs.options):
            for rows in inputs.splits.values():
                data.each(rows, partial(_check_completions, args))
        if args.assistant_only_loss is None:
            args.assistant_only_loss = kind == "conversations" and _template_marks(inputs)
        elif args.assistant_only_loss and kind == "conversations":
            _require_marks(inputs)
        read_conversations(inputs)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As TRL's, with a cheaper head and cheaper attention in packed rows where there are.

        Alone it could not balance the experts of DeepSeek-V3 either.
        """
        mode = self._prefix_sharing.mode
        lean = mode != "off" and LeanHead.is_faster(model, self.args)
        packed = by_documents(model, mode, inputs.get("position_ids"))
        with lm_head.balanced_by_trl(lm_head.unwrap(model)), packed:
            return super().compute_loss(LeanHead(model) if lean else model, inputs, *args, **kwargs)

    def _rows(self, dataset: Any, split: str) -> Any:
        return _read(dataset, self.inputs, split)[0]

    def _prepare_dataset(
        self,
        dataset: Any,
        processing_class: Any,
        args: Any,
        packing: bool,
        formatting_func: Any,
        dataset_name: str,
    ) -> Any:
        """TRL's in two steps: between them, rows are still whole and it is said what is cut.

        Labels are made between them too, and TRL does not write every row again to cut none.
        """
        prepare = super()._prepare_dataset
        whole = copy.copy(args)
        whole.max_length, whole.shuffle_dataset = None, False
        ours = False
        if formatting_func is None:  # it is shown a row's columns, and none that are ours
            dataset, ours = labels.reserve(dataset)
        rows = prepare(dataset, processing_class, whole, False, formatting_func, dataset_name)
        if ours:
            masks = ["completion_mask"] * bool(self.completion_only_loss) + ["assistant_masks"]
            masks = [name for name in masks if name in rows.column_names]
            rows = labels.fill(rows, masks, f"Building labels for {dataset_name} dataset")
        source = data.source_of(dataset, f"the {dataset_name} dataset")
        # What packing splits is trained on whole; its best fit cuts like the rest.
        limit = args.max_length if not packing or args.packing_strategy == "bfd" else None
        keep_end = not packing and args.truncation_mode == "keep_end"
        rows, self.left_out[dataset_name], cut = lengths.learnable(
            rows, source, limit, keep_end=keep_end
        )
        if not packing and not cut:
            args = copy.copy(args)
            args.max_length = None
        rows = prepare(rows, processing_class, args, packing, None, dataset_name)
        return lengths.learnable(rows, f"packed {source}", None)[0] if packing else rows


def _is_prepared(args: Any) -> bool:
    """Whether rows are tokens that are left as they are."""
    return bool((args.dataset_kwargs or {}).get("skip_prepare_dataset"))


def _reads_rows(args: Any, options: Mapping[str, Any]) -> bool:
    """Whether rows are ours to read: neither formatted by a function nor prepared already."""
    return not _is_prepared(args) and not options.get("formatting_func")


def _layout(dataset: Any, *, args: Any, split: str) -> Any:
    name = data.source_of(dataset, split)
    return demonstrations.layout_of(dataset, text_field=args.dataset_text_field, name=name)


def _read(dataset: Any, inputs: Inputs, name: str) -> tuple[Any, str | None]:
    """A dataset, or each of a mapping, as TRL reads it; and what kind it is."""
    if dataset is None or not _reads_rows(inputs.args, inputs.options):
        return dataset, None
    if isinstance(dataset, Mapping):
        read = {key: _read(part, inputs, key) for key, part in dataset.items()}
        kind = next((kind for _, kind in read.values()), None)
        return {key: part for key, (part, _) in read.items()}, kind
    dataset, layout = demonstrations.prepare(
        dataset,
        text_field=inputs.args.dataset_text_field,
        has_template=inputs.template_name is not None,
        name=data.source_of(dataset, name),
        processes=inputs.args.dataset_num_proc,
    )
    return dataset, layout.kind


def _labelled(rows: Any) -> tuple[Any, list[int]]:
    """Rows of tokens that the loss counts one of, and the numbers of the others.

    A stream is kept whole, and so is a table whose labels a format makes from what is stored.
    """
    if isinstance(rows, Dataset) and rows.format["type"] is None and "labels" in rows.column_names:
        return lengths.learnable(rows, data.source_of(rows, "train_dataset"), None)[:2]
    return rows, []


def _check_dataset_kwargs(args: Any, rows: Any) -> None:
    """Refuse to leave rows as they are that are no tokens; the task's own options are checked."""
    columns = getattr(rows, "column_names", None)  # a stream may not know them
    if not isinstance(columns, list) or not _is_prepared(args):
        return
    if "input_ids" not in columns:
        raise ConfigError(
            "dataset_kwargs: skip_prepare_dataset is for rows of tokens, with input_ids\n"
            f"  columns found: {', '.join(columns or ())}"
        )


def _check_padding_free(args: Any) -> None:
    """Refuse what TRL refuses once the model is loaded."""
    if args.padding_free and not args.packing and args.max_length is not None:
        raise ConfigError(
            "padding_free: `max_length` is not enforced without packing, and it is "
            f"{args.max_length}\n"
            "  set packing, or max_length null for rows that are short enough already"
        )


def _check_completions(args: Any, rows: Any) -> None:
    """Refuse to learn completions only where there are none: TRL would learn every token."""
    columns = getattr(rows, "column_names", None)  # a stream may not know them
    known = {"completion", "completion_mask", "labels"}
    if args.completion_only_loss and isinstance(columns, list) and not known.intersection(columns):
        raise ConfigError(
            "completion_only_loss: the rows have no completion, so that every token would be "
            f"learned\n  columns found: {', '.join(columns)}\n"
            "  give prompt and completion, or leave completion_only_loss out"
        )


def _require_marks(inputs: Inputs) -> None:
    """Refuse a template that does not say what the assistant generates; TRL knows its own."""
    name = inputs.template_name
    if name is not None and GENERATION.search(inputs.tokenizer.chat_template) is None:
        raise ConfigError(
            f"assistant_only_loss: chat template {name!r} has no {{% generation %}}, which "
            "says what the assistant generates\n"
            "  add it to the template, or leave assistant_only_loss out"
        )


def _template_marks(inputs: Inputs) -> bool:
    """Whether a template of ours says what the assistant generates."""
    if inputs.template_name is None:
        return False
    marks = GENERATION.search(inputs.tokenizer.chat_template) is not None
    if not marks:
        logger.warning(
            "chat template %s has no {%% generation %%}: the loss is not on the assistant's "
            "tokens only",
            inputs.template_name,
        )
    return marks


__all__ = ["SFTConfig", "SFTTrainer"]
