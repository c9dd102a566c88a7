"""Words that an answer shares with a reference: BLEU and ROUGE, by the usual libraries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trl_deepseek import hookimpl
from trl_deepseek.chat.reasoning import Completion, answer
from trl_deepseek.types import Register


@hookimpl
def register_metrics(register: Register) -> None:
    known: dict[str, Any] = {"rows": "demonstrations", "columns": ("reference",)}
    register("bleu", bleu, aggregate=bleu_of_sums, requires=("sacrebleu",), **known)
    register("rouge", rouge, requires=("rouge_score",), **known)


def bleu(
    completions: Sequence[Completion],
    reference: Sequence[str | Sequence[str] | None],
    generation_prefix: str | None = None,
    tokenize: str | None = None,
) -> list[dict[str, float] | None]:
    """BLEU of the answers against the column ``reference``, over all of them, by sacrebleu.

    What is compared is the answer after its reasoning. An embedded dataset's demonstrations, and
    those of a file, bring ``reference``. A row without one abstains. Where no answer has four
    words, it is 0 whatever they say: BLEU counts runs of up to four.

    Range: 0 to 100.

    Source: ACL P02-1040; sacrebleu, arXiv:1804.08771.

    Args:
        completions: TRL's.
        reference: A text, or several.
        generation_prefix: What the prompt has opened.
        tokenize: sacrebleu's tokenizer: 13a, intl, zh, ja-mecab, char, ...; 13a when not given.
    """
    import sacrebleu

    found: list[dict[str, float] | None] = []
    for completion, row in zip(completions, reference, strict=True):
        if row is None:
            found.append(None)
            continue
        known = [[row]] if isinstance(row, str) else [[each] for each in row]
        said = answer(completion, generation_prefix)
        score = sacrebleu.corpus_bleu([said], known, tokenize=tokenize or "13a")
        counts = {f"correct_{i}": n for i, n in enumerate(score.counts)}
        totals = {f"total_{i}": n for i, n in enumerate(score.totals)}
        found.append({**counts, **totals, "said": score.sys_len, "known": score.ref_len})
    return found


def bleu_of_sums(sums: Mapping[str, float]) -> float:
    """BLEU of a corpus from its n-gram counts."""
    from sacrebleu.metrics.bleu import BLEU

    orders = sum(name.startswith("total_") for name in sums)
    return float(
        BLEU.compute_bleu(
            correct=[int(sums[f"correct_{i}"]) for i in range(orders)],
            total=[int(sums[f"total_{i}"]) for i in range(orders)],
            sys_len=int(sums["said"]),
            ref_len=int(sums["known"]),
            smooth_method="exp",
        ).score
    )


def rouge(
    completions: Sequence[Completion],
    reference: Sequence[str | Sequence[str] | None],
    generation_prefix: str | None = None,
    types: Sequence[str] = ("rouge1", "rouge2", "rougeL"),
    stemmer: bool = False,
) -> list[dict[str, float] | None]:
    """ROUGE of the answers against the column ``reference``, the mean F1 of each kind.

    What is compared is the answer after its reasoning, with the best of several references. A row
    without one abstains. The library keeps Latin letters and digits only: of other scripts nothing
    is left to compare.

    Range: 0 to 1.

    Source: ACL W04-1013; the library rouge-score.

    Args:
        completions: TRL's.
        reference: A text, or several.
        generation_prefix: What the prompt has opened.
        types: rouge1 to rouge9, rougeL, rougeLsum.
        stemmer: Whether words are reduced to their stems.
    """
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(list(types), use_stemmer=stemmer)
    found: list[dict[str, float] | None] = []
    for completion, row in zip(completions, reference, strict=True):
        if row is None:
            found.append(None)
            continue
        known = [row] if isinstance(row, str) else list(row)
        scores = scorer.score_multi(known, answer(completion, generation_prefix))
        found.append({name: score.fmeasure for name, score in scores.items()})
    return found
