"""A reward from another model's judgement, over any OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_deepseek import hookimpl
from trl_deepseek.chat.reasoning import Completion, answer, text
from trl_deepseek.rewards.columns import options_from_columns
from trl_deepseek.types import Register
from trl_deepseek_plugins.rewards.judge.asking import ask_messages, read_score
from trl_deepseek_plugins.rewards.judge.cache import Cache
from trl_deepseek_plugins.rewards.judge.pace import Pace

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MODEL_VARIABLE = "TRL_DEEPSEEK_JUDGE_MODEL"
INSTRUCTIONS = (
    "You judge how good a response to a question is: correct first, then complete, then clear. "
    "Where a reference answer is given, a response that contradicts it is wrong."
)

Message = dict[str, str]

# The pace goes on from one call of the reward to the next, so it is kept by what it limits.
_paces: dict[tuple[str, str, float], Pace] = {}


@hookimpl
def register_rewards(register: Register) -> None:
    register("llm_judge", llm_judge, timeout=3600.0, requires=("openai",))


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
    cache: str | None = "~/.cache/trl_deepseek/judge.sqlite",
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
        ValueError: The model's name or the API key is missing.
        openai.OpenAIError: Every request failed.
    """
    jobs: list[list[Message] | None] = []
    for place, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        given = answer(completion, generation_prefix)
        shown = text(completion, generation_prefix) if show_reasoning else given
        reference = None if solution is None else solution[place]
        asked = ask_messages(instructions, scale, prompt, reference, shown)
        jobs.append(asked if given else None)
    if not any(jobs):
        return [0.0] * len(jobs)
    client, name = _client(model, base_url, api_key, retries, seconds, requests_per_minute)
    store = Cache(Path(cache).expanduser() if cache else None)
    judge = _Judge(client, name, temperature, scale, asyncio.Semaphore(concurrency), store)
    async with client:
        # Equal questions are asked once.
        distinct = {str(job): job for job in jobs if job}
        replies = await asyncio.gather(
            *(judge.score(job) for job in distinct.values()), return_exceptions=True
        )
    store.close()
    failures = [reply for reply in replies if isinstance(reply, BaseException)]
    if len(failures) == len(replies):
        raise failures[0]
    if failures:
        warnings.warn(
            f"{len(failures)} of {len(replies)} requests to the judge failed: {failures[0]}",
            stacklevel=1,
        )
    scores = dict(zip(distinct, replies, strict=True))
    found = [scores[str(job)] if job else 0.0 for job in jobs]
    if log_metric is not None:
        log_metric("judge/failed", float(len(failures)))
        log_metric("judge/unsure", float(sum(reply is None for reply in replies)))
        log_metric("judge/asked", float(judge.asked))
    return [None if isinstance(score, BaseException) else score for score in found]


class _Judge:
    """Asks one model, at a pace, and remembers what it said."""

    def __init__(
        self,
        client: AsyncOpenAI,
        model: str,
        temperature: float,
        scale: tuple[float, float],
        slots: asyncio.Semaphore,
        cache: Cache,
    ) -> None:
        self.asked = 0
        self._client = client
        self._model = model
        self._temperature = temperature
        self._scale = scale
        self._slots = slots
        self._cache = cache

    async def score(self, messages: list[Message]) -> float | None:
        """The judge's score of what ``messages`` show; None where it is not sure to be one."""
        key = (str(self._client.base_url), self._model, self._temperature, messages)
        reply = self._cache.get(key)
        if reply is None:
            async with self._slots:
                self.asked += 1
                answered = await self._client.chat.completions.create(
                    model=self._model,
                    messages=messages,  # type: ignore[arg-type]
                    temperature=self._temperature,
                )
            choice = answered.choices[0]
            reply = (choice.message.content or "") if choice.finish_reason != "length" else ""
        found = read_score(reply, self._scale)
        if found is not None:
            self._cache.put(key, reply)
        return found


def _client(
    model: str | None,
    base_url: str | None,
    api_key: str | None,
    retries: int,
    seconds: float,
    per_minute: float | None,
) -> tuple[AsyncOpenAI, str]:
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    name = model or os.environ.get(MODEL_VARIABLE)
    if not name:
        raise ValueError(
            f"llm_judge needs a model: set {MODEL_VARIABLE}, or register "
            "functools.partial(llm_judge, model=...) under a name of your own"
        )
    key = api_key or os.environ.get("OPENAI_API_KEY")
    if not key:
        if not (base_url or os.environ.get("OPENAI_BASE_URL")):
            raise ValueError(
                "llm_judge needs OPENAI_API_KEY, or OPENAI_BASE_URL of your own server"
            )
        key = "none"  # the client wants one, the endpoint may not
    http = None
    if per_minute is not None:
        # Around every request that leaves: the client's own further attempts keep to the pace too.
        where = base_url or os.environ.get("OPENAI_BASE_URL", "")
        pace = _paces.setdefault((where, name, per_minute), Pace(per_minute))
        http = DefaultAsyncHttpxClient(event_hooks={"request": [pace.wait]})
    client = AsyncOpenAI(
        base_url=base_url, api_key=key, max_retries=retries, timeout=seconds, http_client=http
    )
    return client, name
