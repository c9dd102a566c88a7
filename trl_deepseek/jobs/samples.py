"""The first rows of a training job as the model sees them: tokens, loss or no loss, truncation.

The job's own trainer prepares the data, with a model of a few thousand weights in the place of the
real one, whose vocabulary is all that matters here. So what is shown is what is trained on.
"""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from trl_deepseek.jobs.job import Job


@dataclass(frozen=True)
class Sample:
    """One sequence.

    Attributes:
        row: Row of the prepared dataset, from 0.
        part: ``chosen`` or ``rejected`` of a pair, ``prompt`` where nothing is learnt from the
            data, else empty.
        input_ids: What the model sees, without padding.
        scored: Whether the loss counts each token.
        truncated: Tokens that ``max_length`` cuts off; None where rows are packed.
    """

    row: int
    part: str
    input_ids: list[int]
    scored: list[bool]
    truncated: int | None


def stand_in(tokenizer: PreTrainedTokenizerBase, *, sequence_classification: bool) -> Any:
    """A Llama of hidden size 8 with the tokenizer's vocabulary."""
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        LlamaConfig,
    )

    config = LlamaConfig(
        vocab_size=max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_labels=1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    kind = AutoModelForSequenceClassification if sequence_classification else AutoModelForCausalLM
    model: PreTrainedModel = kind.from_config(config)
    return model


def samples(job: Job, rows: int) -> Iterator[Sample]:
    """The first sequences of a checked job.

    Args:
        job: Its own trainer prepares the data.
        rows: How many rows of the prepared dataset to show.
    """
    limit = getattr(job.config, "max_length", None)
    packed = bool(getattr(job.config, "packing", False))
    with tempfile.TemporaryDirectory() as scratch:
        shown = list(_sequences(_trainer(job, limit, rows, scratch), rows))
        whole: list[Sample] = []
        if limit is not None and not packed:
            whole = list(_sequences(_trainer(job, None, rows, scratch), rows))
    lengths = {(sample.row, sample.part): len(sample.input_ids) for sample in whole}
    for sample in shown:
        full = lengths.get((sample.row, sample.part), len(sample.input_ids))
        truncated = None if packed else full - len(sample.input_ids)
        yield Sample(sample.row, sample.part, sample.input_ids, sample.scored, truncated)


def _trainer(job: Job, max_length: int | None, rows: int, scratch: str) -> Any:
    """The job's trainer on its first rows, with a model of a few thousand weights."""
    inputs = job.inputs
    assert inputs is not None  # a checked job has them
    args = copy.copy(inputs.args)
    args.output_dir, args.report_to, args.eval_strategy = scratch, [], "no"
    args.quantization = args.model_init_kwargs = None
    if hasattr(args, "max_length"):
        args.max_length = max_length
    model = stand_in(inputs.tokenizer, sequence_classification=args.sequence_classification)
    small = replace(
        inputs,
        args=args,
        model=model,
        embedded=None,
        train_dataset=inputs.train_dataset.take(max(rows, 1)),
        eval_dataset=None,
        options={},
    )
    return job.trainer(small)


def _sequences(trainer: Any, rows: int) -> Iterator[Sample]:
    chosen = list(itertools.islice(trainer.train_dataset, rows))
    if "prompt" in chosen[0] and not any(name.endswith("_ids") for name in chosen[0]):
        yield from _prompts(trainer, chosen)
        return
    batch = trainer.data_collator(chosen)
    ids = batch["input_ids"]
    parts = ("chosen", "rejected") if len(ids) == 2 * len(chosen) else ("",)
    for place, tokens in enumerate(ids.tolist()):
        real = (
            batch["attention_mask"][place].bool() if "attention_mask" in batch else ids[place] > -1
        )
        if "labels" in batch:
            scored = batch["labels"][place] != -100
        elif "completion_mask" in batch:
            scored = batch["completion_mask"][place].bool()
        else:  # a reward model reads its score off the last token
            scored = real & (real.cumsum(0) == real.sum())
        kept = [i for i, is_real in enumerate(real.tolist()) if is_real]
        yield Sample(
            place % len(chosen),
            parts[place // len(chosen)],
            [tokens[i] for i in kept],
            [bool(scored[i]) for i in kept],
            None,
        )


def _prompts(trainer: Any, rows: list[dict[str, Any]]) -> Iterator[Sample]:
    """What GRPO generates from."""
    tokenizer = trainer.processing_class
    for number, row in enumerate(rows):
        if isinstance(row["prompt"], str):
            ids = tokenizer(row["prompt"])["input_ids"]
        else:
            ids = tokenizer.apply_chat_template(
                row["prompt"],
                add_generation_prompt=True,
                return_dict=True,
                **trainer.chat_template_kwargs,
            )["input_ids"]
        yield Sample(number, "prompt", list(ids), [False] * len(ids), None)
