"""Answer many prompts: batched by length, in the order they came, each by draws of its own.

Where a model was loaded with another engine (``generation.load(engine=...)``), that answers: all
prompts at once, greedily the same, by other draws where they are drawn.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trl_deepseek.generation import prompts as encoding
from trl_deepseek.generation.prompts import Prompt
from trl_deepseek.generation.sampling import Completion, Sampling, drawing, uniforms

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

TOKENS_AT_ONCE = 16_384  # prompts and answers of a batch; 8 GB of keys and values for 7B in 16 bits
ROWS_AT_ONCE = 256
ENGINE = "_trl_deepseek_engine"  # of a model, what answers in its place


def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    tools: Sequence[Any] | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
    indices: Sequence[int] | None = None,
    progress: str | None = None,
) -> list[list[Completion]]:
    """``sampling.num_samples`` answers to each prompt, in the order of the prompts.

    An answer depends on the model, its prompt and, where it is drawn, on the seed and the numbers
    of prompt and sample; not on the batch, up to the last bits of the arithmetic.

    Args:
        model: Any causal language model; left in the mode (train or eval) it was found in.
        tokenizer: With an inference template or an installed one; see ``trl_deepseek.chat``.
        prompts: Each is text, or messages. A last message of the assistant is gone on from.
        sampling: How answers are drawn.
        tools: Definitions for all prompts.
        chat_template_kwargs: What the template takes, such as ``thinking``, for all prompts.
        rows: For each prompt its own ``tools`` and ``chat_template_kwargs``, which win; other keys
            are not read.
        indices: The number of each prompt, for the draws, where these are some of many.
        progress: What a bar is called that is shown on a terminal; None for no bar.

    Raises:
        TemplateError: There are messages and no template, or it cannot render them.
        DataError: A prompt is empty.
    """
    options = {"tools": tools, **(chat_template_kwargs or {})}
    encoded, begun = encoding.encode(prompts, tokenizer, sampling.begin, options, rows)
    _warn_of_long(model, encoded, sampling)
    numbers = list(range(len(encoded)) if indices is None else indices)
    # The longest first: what does not fit into memory shows at once.
    wanted = sorted(
        (
            (place, sample)
            for place in range(len(encoded))
            for sample in range(sampling.num_samples)
        ),
        key=lambda each: -len(encoded[each[0]]),
    )
    answers: dict[tuple[int, int], list[int]] = {}
    config = _config(model, tokenizer, sampling)
    engine = getattr(model, ENGINE, None)
    lengths = [len(encoded[place]) for place, _ in wanted]
    batches = _batches(lengths, sampling) if engine is None else [range(len(wanted))]
    with evaluating(model), _bar(progress, len(wanted)) as bar:
        for batch in batches:
            part = [wanted[i] for i in batch]
            draws = [(numbers[place], sample) for place, sample in part]
            asked = [encoded[place] for place, _ in part]
            if engine is None:
                found = _generate(model, config, asked, sampling, draws)
            else:
                found = engine.answer(asked, draws, sampling, config.eos_token_id)
            answers |= dict(zip(part, found, strict=True))
            bar.update(len(part))
    stops = set(config.eos_token_id)
    return [
        [
            _completion(answers[place, sample], begun[place], tokenizer, stops)
            for sample in range(sampling.num_samples)
        ]
        for place in range(len(encoded))
    ]


def _generate(
    model: Any,
    config: GenerationConfig,
    prompts: Sequence[list[int]],
    sampling: Sampling,
    draws: Sequence[tuple[int, int]],
) -> list[list[int]]:
    """The tokens of each answer, up to and including the one that ends it."""
    import torch

    width = max(map(len, prompts))
    padding = [[config.pad_token_id] * (width - len(ids)) for ids in prompts]
    ids = torch.tensor([[*pad, *row] for pad, row in zip(padding, prompts, strict=True)])
    mask = torch.tensor([[0] * len(pad) + [1] * (width - len(pad)) for pad in padding])
    options: dict[str, Any] = {}
    if not sampling.is_greedy:
        numbers = uniforms(sampling.seed, draws, sampling.max_new_tokens).to(
            model.device, torch.float32 if model.device.type == "mps" else torch.float64
        )
        options["logits_processor"] = drawing(sampling, numbers, width)
    try:
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            **options,
        )
    except torch.OutOfMemoryError:
        if len(prompts) == 1:
            raise
        torch.cuda.empty_cache()
        half = len(prompts) // 2
        logger.warning("%d answers at once do not fit into memory: half of them", len(prompts))
        parts = [slice(None, half), slice(half, None)]
        return [
            answer
            for part in parts
            for answer in _generate(model, config, prompts[part], sampling, draws[part])
        ]
    stops = set(config.eos_token_id)
    return [_up_to_stop(row, stops) for row in output[:, width:].tolist()]


def _up_to_stop(ids: list[int], stops: set[int]) -> list[int]:
    """What follows the first token that ends an answer is padding."""
    end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
    return ids[: end + 1]


def _completion(ids: list[int], begin: str, tokenizer: Any, stops: set[int]) -> Completion:
    text = begin + tokenizer.decode(ids, skip_special_tokens=True)
    return Completion(text, tuple(ids), bool(ids) and ids[-1] in stops)


def _config(model: Any, tokenizer: Any, sampling: Sampling) -> GenerationConfig:
    """Greedy, since :func:`drawing` draws; what else a model's authors set stays."""
    from transformers import GenerationConfig

    inner = getattr(tokenizer, "tokenizer", tokenizer)
    own = getattr(model.generation_config, "eos_token_id", None)
    stops = [*(own if isinstance(own, (list, tuple)) else [own]), inner.eos_token_id]
    known = list(dict.fromkeys(stop for stop in stops if stop is not None))
    padding = inner.pad_token_id if inner.pad_token_id is not None else next(iter(known), 0)
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        repetition_penalty=1.0,
        eos_token_id=known,
        pad_token_id=padding,
        use_cache=True,
    )


def _batches(lengths: Sequence[int], sampling: Sampling) -> Iterator[range]:
    """Places that are answered together; the lengths fall."""
    first = 0
    while first < len(lengths):
        fitting = TOKENS_AT_ONCE // (lengths[first] + sampling.max_new_tokens)
        size = sampling.batch_size or min(ROWS_AT_ONCE, max(1, fitting))
        yield range(first, min(first + size, len(lengths)))
        first += size


def _warn_of_long(model: Any, encoded: Sequence[list[int]], sampling: Sampling) -> None:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is None:
        return
    over = sum(len(ids) + sampling.max_new_tokens > positions for ids in encoded)
    if over:
        logger.warning(
            "%d of %d prompts and an answer of %d tokens are longer than the %d positions that the "
            "model knows; what comes after them is worth little",
            *(over, len(encoded), sampling.max_new_tokens, positions),
        )


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Without dropout and gradients, and then as it was before."""
    import torch

    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:  # one by one: parts of it may have been in another mode
            module.training = True


def _bar(name: str | None, total: int) -> Any:
    from tqdm import tqdm

    return tqdm(desc=name, total=total, disable=name is None or not sys.stderr.isatty())
