"""A reward from another model's judgement, over any OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from trl_deepseek import hookimpl
from trl_deepseek.chat.reasoning import Completion, answer, text
from trl_deepseek.errors import ConfigError
from trl_deepseek.judging import Endpoint, ask, grading, read_score
from trl_deepseek.judging.asking import CACHE, Question
from trl_deepseek.rewards.columns import options_from_columns
from trl_deepseek.types import Register

INSTRUCTIONS = (
    "You judge how good a response to a question is: correct first, then complete, then clear. "
    "Where a reference answer is given, a response that contradicts it is wrong."
)


@hookimpl
def register_rewards(register: Register) -> None:
    register("llm_judge", llm_judge, timeout=3600.0, requires=("openai",), check=lacking)


def lacking() -> str | None:
    """What is missing in the environment to ask a judge; None where nothing is."""
    try:
        Endpoint().found("it")
    except ConfigError as error:
        return str(error)
    return None


@options_from_columns("instructions", "scale", "show_reasoning")
async def llm_judge(
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    solution: Sequence[object] | None = None,
    generation_prefix: str | None = None,
    model: str | None = None,
    base_url: str | None = None,
    api_key: str | None = None,
    instructions: str = INSTRUCTIONS,
    scale: tuple[float, float] = (0, 10),
    show_reasoning: bool = False,
    temperature: float = 0.0,
    concurrency: int = 8,
    requests_per_minute: float | None = None,
    retries: int = 4,
    seconds: float = 60.0,
    cache: str | None = CACHE,
    log_metric: Callable[[str, float], None] | None = None,
    **_: object,
) -> list[float | None]:
    """A judge model's score, from 0.0 (least of its scale) to 1.0 (most).

    The judge sees the prompt, the reference (the column ``solution``, where there is one) and the
    answer, and has to end with ``Score: N``. Abstains where its reply has no such line, two that
    differ, a number off the scale, or was cut off; and where a request failed to the last retry.
    An empty answer scores 0.0 unasked.

    Replies with a score are kept on disk and not asked for again.

    Range: 0.0 to 1.0.

    Source: LLM-as-a-judge, arXiv:2306.05685, single-answer grading (there from 1 to 10).

    Args:
        prompts: TRL's.
        completions: TRL's.
        solution: Reference answers; optional.
        generation_prefix: What the prompt has opened.
        model: The judge's name; when None, the environment's ``TRL_DEEPSEEK_JUDGE_MODEL``.
        base_url: The endpoint; when None, the environment's ``OPENAI_BASE_URL``, else OpenAI's.
        api_key: When None, the environment's ``OPENAI_API_KEY``; endpoints of one's own need none.
        instructions: What to judge by.
        scale: The least and the most the judge may give.
        show_reasoning: Whether it sees the reasoning too.
        temperature: The judge's.
        concurrency: Requests at once.
        requests_per_minute: Most requests in a minute to this endpoint, further attempts included,
            per training process; None for no limit.
        retries: Further attempts after an error that may pass (429, 5xx, no connection), with
            growing pauses or as long as the endpoint asks for.
        seconds: Time for one attempt.
        cache: File of replies; None for none.
        log_metric: Passed by the trainer.

    Raises:
        ConfigError: The model's name or the API key is missing.
        openai.OpenAIError: Every request failed.
    """
    jobs: list[Question | None] = []
    for place, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        given = answer(completion, generation_prefix)
        shown = text(completion, generation_prefix) if show_reasoning else given
        reference = None if solution is None else solution[place]
        asked = grading(instructions, scale, prompt, reference, shown)
        jobs.append(asked if given else None)
    endpoint = Endpoint(
        model,
        base_url,
        api_key,
        temperature,
        concurrency,
        requests_per_minute,
        retries,
        seconds,
        cache,
    )
    replies = await ask("llm_judge", jobs, lambda reply: read_score(reply, scale), endpoint)
    if log_metric is not None and any(jobs):
        log_metric("judge/failed", float(replies.failed))
        log_metric("judge/unsure", float(replies.unsure))
        log_metric("judge/asked", float(replies.asked))
    return [value if job else 0.0 for job, value in zip(jobs, replies.values, strict=True)]
