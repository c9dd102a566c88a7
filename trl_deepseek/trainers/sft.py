"""Supervised fine-tuning: TRL's trainer with models, templates and noise by name."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import trl

from trl_deepseek import chat, data, lm_head
from trl_deepseek.data import demonstrations, lengths
from trl_deepseek.trainers.base import PluginTrainer
from trl_deepseek.trainers.configs import SFTConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


def _own_config(args: Any) -> Any:
    """A config that may be settled without changing the user's; as TRL, from any arguments."""
    if args is None:
        return SFTConfig()
    if isinstance(args, trl.SFTConfig):
        return copy.copy(args)
    return SFTConfig(**{**args.to_dict(), "hub_token": args.hub_token})


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

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: trl.SFTConfig | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        args = _own_config(args)
        model, tokenizer = self._resolve_model(model, args, processing_class)
        self._reads_rows = not (
            kwargs.get("formatting_func") or (args.dataset_kwargs or {}).get("skip_prepare_dataset")
        )
        train_dataset, kind = self._read(train_dataset, args, tokenizer, "train_dataset")
        eval_dataset, _ = self._read(eval_dataset, args, tokenizer, "eval_dataset")
        if args.assistant_only_loss is None:
            args.assistant_only_loss = kind == "conversations" and self._template_marks(tokenizer)
        super().__init__(
            model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            **kwargs,
        )
        chat.set_stop_tokens(self.model, tokenizer)
        parts = {
            "what the assistant generates": args.assistant_only_loss,
            "the completions": self.completion_only_loss,
        }
        which = next((part for part, chosen in parts.items() if chosen), "every token")
        logger.info("the loss is on %s", which)

    def compute_loss(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """As TRL's, which alone could not balance the experts of DeepSeek-V3."""
        with lm_head.balanced_by_trl(lm_head.unwrap(model)):
            return super().compute_loss(model, *args, **kwargs)

    def _rows(self, dataset: Any, split: str, args: Any) -> Any:
        return self._read(dataset, args, self.processing_class, split)[0]

    def _prepare_dataset(
        self,
        dataset: Any,
        processing_class: Any,
        args: Any,
        packing: bool,
        formatting_func: Any,
        dataset_name: str,
    ) -> Any:
        """TRL's in two steps: between them, rows are still whole and it is said what is cut."""
        prepare = super()._prepare_dataset
        whole = copy.copy(args)
        whole.max_length, whole.shuffle_dataset = None, False
        rows = prepare(dataset, processing_class, whole, False, formatting_func, dataset_name)
        source = data.source_of(dataset, f"the {dataset_name} dataset")
        # What packing splits is trained on whole; its best fit cuts like the rest.
        limit = args.max_length if not packing or args.packing_strategy == "bfd" else None
        keep_end = not packing and args.truncation_mode == "keep_end"
        rows, self.left_out[dataset_name] = lengths.learnable(
            rows, source, limit, keep_end=keep_end
        )
        rows = prepare(rows, processing_class, args, packing, None, dataset_name)
        return lengths.learnable(rows, f"packed {source}", None)[0] if packing else rows

    def _read(self, dataset: Any, args: Any, tokenizer: Any, name: str) -> tuple[Any, str | None]:
        """A dataset, or each of a mapping, as TRL reads it; and what kind it is."""
        if dataset is None or not self._reads_rows:
            return dataset, None
        if isinstance(dataset, Mapping):
            read = {key: self._read(part, args, tokenizer, key) for key, part in dataset.items()}
            kind = next((kind for _, kind in read.values()), None)
            return {key: part for key, (part, _) in read.items()}, kind
        name = data.source_of(dataset, name)
        dataset, layout = demonstrations.prepare(
            dataset,
            text_field=args.dataset_text_field,
            has_template=self.template_name is not None,
            name=name,
        )
        return dataset, layout.kind

    def _template_marks(self, tokenizer: Any) -> bool:
        """Whether a template of ours says what the assistant generates."""
        if self.template_name is None:
            return False
        marks = GENERATION.search(tokenizer.chat_template) is not None
        if not marks:
            logger.warning(
                "chat template %s has no {%% generation %%}: the loss is not on the assistant's "
                "tokens only",
                self.template_name,
            )
        return marks


__all__ = ["SFTConfig", "SFTTrainer"]
