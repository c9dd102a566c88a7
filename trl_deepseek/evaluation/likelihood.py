"""How likely a model finds what a dataset says: tokens as they are trained on, and their log-probs.

A row is tokenized as TRL's trainers do, by the training template, without being cut. What counts is
what the assistant generates.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trl_deepseek import chat, generation, lm_head
from trl_deepseek.errors import TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
TOKENS_AT_ONCE = 8192


@dataclass(frozen=True)
class Text:
    """One text, T tokens.

    Attributes:
        input_ids: (T,).
        scored: Whether each token counts, (T,).
    """

    input_ids: list[int]
    scored: list[bool]


@dataclass(frozen=True)
class Likelihood:
    """What a model makes of one text.

    Attributes:
        logp: Sum of the log-probabilities of the tokens that count, in nats.
        tokens: How many count; the first of a text never does, since nothing stands before it.
    """

    logp: float
    tokens: int


def demonstrations(
    dataset: Any, tokenizer: PreTrainedTokenizerBase, text_field: str = "text"
) -> list[Text]:
    """The rows of a dataset that SFT reads, as it reads them.

    Args:
        dataset: A table as :func:`trl_deepseek.data.demonstrations.prepare` gives it.
        tokenizer: With the training template installed where there are conversations.
        text_field: Column of plain text.

    Raises:
        TemplateError: There are conversations, and the template does not say what the assistant
            generates, or cannot render one.
    """
    dataset = chat.begin_once(dataset, tokenizer, "the dataset", text_field)
    if chat.installed(tokenizer) is not None:
        dataset = chat.with_thinking(dataset, tokenizer)
    return [_text_of(row, tokenizer, text_field) for row in dataset]


def after(
    prompt: Any, answer: Any, tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any]
) -> Text:
    """A prompt and an answer to it, of which the answer counts.

    Args:
        prompt: Text or messages.
        answer: Of the same kind.
        tokenizer: With the training template where they are messages.
        row: Gives ``tools`` and ``chat_template_kwargs``.
    """
    return _text_of({**row, "prompt": prompt, "completion": answer}, tokenizer, "text")


def likelihoods(
    model: PreTrainedModel,
    texts: Sequence[Text],
    tokenizer: PreTrainedTokenizerBase,
    progress: str | None = None,
) -> list[Likelihood]:
    """What a model makes of each text, batched by length; the model is left as it was found.

    Args:
        model: A causal language model.
        texts: To be scored.
        tokenizer: Gives the padding token.
        progress: What a bar is called that is shown on a terminal; None for no bar.
    """
    import torch
    from tqdm import tqdm

    padding = getattr(tokenizer, "tokenizer", tokenizer).pad_token_id or 0
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i].input_ids))
    found: dict[int, Likelihood] = {}
    hidden = progress is None or not sys.stderr.isatty()
    with (
        generation.evaluating(model),
        tqdm(desc=progress, total=len(texts), disable=hidden) as bar,
    ):
        for batch in _batches(order, texts):
            width = len(texts[batch[0]].input_ids)
            ids = torch.full((len(batch), width), padding)
            mask = torch.zeros_like(ids)
            labels = torch.full_like(ids, lm_head.IGNORED)
            for row, place in enumerate(batch):
                text = texts[place]
                size = len(text.input_ids)
                tokens, scored = torch.tensor(text.input_ids), torch.tensor(text.scored)
                ids[row, :size], mask[row, :size] = tokens, 1
                labels[row, :size][scored.bool()] = tokens[scored.bool()]
            device = model.device
            if not (labels[:, 1:] != lm_head.IGNORED).any():  # nothing of the whole batch counts
                logps = torch.zeros(len(batch), 1)
            else:
                logps = lm_head.token_logps(
                    model,
                    input_ids=ids.to(device),
                    attention_mask=mask.to(device),
                    labels=labels.to(device),
                ).logps
            counts = (labels[:, 1:] != lm_head.IGNORED).sum(dim=1).tolist()
            sums = logps.double().sum(dim=1).tolist()
            for place, logp, count in zip(batch, sums, counts, strict=True):
                found[place] = Likelihood(logp, count)
            bar.update(len(batch))
    return [found[place] for place in range(len(texts))]


def _batches(order: Sequence[int], texts: Sequence[Text]) -> Iterator[Sequence[int]]:
    first = 0
    while first < len(order):
        size = max(1, TOKENS_AT_ONCE // max(1, len(texts[order[first]].input_ids)))
        yield order[first : first + size]
        first += size


def _text_of(row: Mapping[str, Any], tokenizer: Any, text_field: str) -> Text:
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    if "prompt" not in row:
        if "messages" in row:
            ids, marks = _rendered(inner, row["messages"], row, marks=True)
            return Text(ids, [bool(mark) for mark in marks])
        ids = inner(_ended(row[text_field], inner))["input_ids"]
        return Text(ids, [True] * len(ids))
    prompt, answer = row["prompt"], row["completion"]
    if isinstance(prompt, str):
        before = inner(prompt)["input_ids"]
        ids = inner(_ended(prompt + answer, inner))["input_ids"]
        marks = [1] * len(ids)
    else:
        before, _ = _rendered(inner, prompt, row, add_generation_prompt=True)
        has_marks = GENERATION.search(inner.chat_template or "") is not None
        ids, marks = _rendered(inner, [*prompt, *answer], row, marks=has_marks)
    pairs = zip(before, ids, strict=False)
    start = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(before), len(ids)))
    return Text(ids, [place >= start and bool(mark) for place, mark in enumerate(marks)])


def _ended(text: str, tokenizer: Any) -> str:
    return text if text.endswith(tokenizer.eos_token) else text + tokenizer.eos_token


def _rendered(
    tokenizer: Any, messages: Any, row: Mapping[str, Any], *, marks: bool = False, **options: Any
) -> tuple[list[int], list[int]]:
    """The tokens of a conversation, and 1 for each that the assistant generates."""
    from jinja2 import TemplateError as JinjaError

    if marks and GENERATION.search(tokenizer.chat_template or "") is None:
        raise TemplateError(
            "the chat template does not say what the assistant generates ({% generation %})\n"
            "  name a registered one: --chat_template"
        )
    tools = row.get("tools")
    kwargs = {k: v for k, v in (row.get("chat_template_kwargs") or {}).items() if v is not None}
    try:
        encoded = tokenizer.apply_chat_template(
            messages,
            tools=(json.loads(tools) if isinstance(tools, str) else tools) or None,
            return_dict=True,
            return_assistant_tokens_mask=marks,
            **{**kwargs, **options},
        )
    except (JinjaError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise TemplateError(f"the chat template cannot render a conversation: {error}") from error
    ids = list(encoded["input_ids"])
    return ids, list(encoded["assistant_masks"]) if marks else [1] * len(ids)
