"""The first rows of a training job as the model sees them: tokens, loss or no loss, truncation.

The job's own trainer prepares the data, with a model of a few thousand weights in the place of the
real one, whose vocabulary is all that matters here. So what is shown is what is trained on.
"""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trl_deepseek import processes
from trl_deepseek.data import preferences
from trl_deepseek.trainers import idle

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from trl_deepseek.jobs.job import Job


@dataclass(frozen=True)
class Sample:
    """One sequence.

    Attributes:
        row: Row of the dataset as it was given, from 0; of the packed rows where they are packed.
        part: ``chosen`` or ``rejected`` of a pair, ``prompt`` where nothing is learnt from the
            data, else empty.
        input_ids: What the model sees, without padding.
        scored: Whether the loss counts each token.
        truncated: Tokens that ``max_length`` cuts off; None where rows are packed.
        left_out: Whether ``max_length`` leaves nothing to learn, so that the row is left out.
    """

    row: int
    part: str
    input_ids: list[int]
    scored: list[bool]
    truncated: int | None
    left_out: bool = False


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


def row_numbers(dataset: Any, config: Any) -> list[int]:
    """The rows of a table that a job reads: all, or those that teach something; none of a stream.

    Args:
        dataset: As the job was given it.
        config: The job's config; ``drop_bad_rows`` is read.
    """
    if not hasattr(dataset, "__len__"):
        return []
    bad = preferences.bad_rows(dataset) if getattr(config, "drop_bad_rows", False) else {}
    numbers = set(range(len(dataset))).difference(*bad.values())
    return sorted(numbers)


def samples(job: Job, rows: int) -> Iterator[Sample]:
    """The first sequences of a checked job, cut as training cuts them.

    Args:
        job: Its own trainer prepares the data.
        rows: How many rows of the prepared dataset to show.
    """
    config = job.config
    limit = getattr(config, "max_length", None)
    packed = bool(getattr(config, "packing", False))
    with tempfile.TemporaryDirectory() as scratch:
        limited = {} if packed or limit is None else {"max_length": None}
        trainer = small_trainer(job, scratch, rows, **limited)
        if packed:
            yield from _sequences(trainer, rows, range(rows))
            return
        left_out = trainer.left_out.get("train", ())
        last = max(left_out, default=-1) + rows + 1
        numbers = row_numbers(job.train_dataset, config) or range(last)
        names = [n for i, n in enumerate(numbers) if i not in left_out]
        keep_end = getattr(config, "truncation_mode", "keep_start") == "keep_end"
        whole = list(_sequences(trainer, rows, names))
    if limit is None or (whole and whole[0].part == "prompt"):
        yield from whole
    elif config.sequence_classification:  # a pair is left out where one of its texts is too long
        long = {sample.row for sample in whole if len(sample.input_ids) > limit}
        yield from (replace(sample, left_out=sample.row in long) for sample in whole)
    else:
        yield from (_cut(sample, limit, keep_end) for sample in whole)


def small_trainer(job: Job, scratch: str, rows: int | None = None, **changes: Any) -> Any:
    """The trainer of a checked job, with a model of a few thousand weights in place of the real.

    Args:
        job: Its data is prepared as for training.
        scratch: A folder for what the trainer writes.
        rows: How many rows to train on, with none to evaluate on; None for all.
        **changes: Fields of the config.
    """
    inputs = job.inputs
    assert inputs is not None  # a checked job has them
    args = copy.copy(inputs.args)
    args.output_dir, args.report_to, args.eval_strategy = scratch, [], "no"
    args.quantization = args.model_init_kwargs = None
    if hasattr(args, "use_vllm"):
        args.use_vllm = False  # nothing is generated, and a server may serve a run
    for name, value in {**processes.accumulated(args), **changes}.items():
        setattr(args, name, value)
    small = replace(
        inputs,
        args=args,
        model=stand_in(inputs.tokenizer, sequence_classification=args.sequence_classification),
        embedded=None,
        options={},
    )
    if rows is not None:
        small.train_dataset, small.eval_dataset = inputs.train_dataset.take(max(rows, 1)), None
    with processes.planned(1), idle.said_before():
        return job.trainer(small)


def _cut(sample: Sample, limit: int, keep_end: bool) -> Sample:
    kept = slice(-limit, None) if keep_end else slice(None, limit)
    ids, scored = sample.input_ids[kept], sample.scored[kept]
    truncated = len(sample.input_ids) - len(ids)
    return replace(
        sample, input_ids=ids, scored=scored, truncated=truncated, left_out=not any(scored[1:])
    )


def _sequences(trainer: Any, rows: int, names: Sequence[int]) -> Iterator[Sample]:
    chosen = list(itertools.islice(trainer.train_dataset, rows))
    truncated = None if getattr(trainer.args, "packing", False) else 0
    if "prompt" in chosen[0] and not any(name.endswith("_ids") for name in chosen[0]):
        yield from _prompts(trainer, chosen, names)
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
            names[place % len(chosen)],
            parts[place // len(chosen)],
            [tokens[i] for i in kept],
            [bool(scored[i]) for i in kept],
            truncated,
        )


def _prompts(trainer: Any, rows: list[dict[str, Any]], names: Sequence[int]) -> Iterator[Sample]:
    """What GRPO generates from."""
    tokenizer = trainer.processing_class
    for number, row in zip(names, rows, strict=False):
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
