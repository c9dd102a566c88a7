"""Questions to one model behind an OpenAI-compatible endpoint: at a pace, each asked once."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from trl_deepseek.errors import ConfigError, did_you_mean
from trl_deepseek.judging.cache import Cache
from trl_deepseek.judging.pace import Pace

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MODEL_VARIABLE = "TRL_DEEPSEEK_JUDGE_MODEL"
REWARD = "register functools.partial(llm_judge, model=...) under a name of your own"
CACHE = "~/.cache/trl_deepseek/judge.sqlite"

Question = list[dict[str, str]]
Read = TypeVar("Read")

# The pace goes on from one call to the next, so it is kept by what it limits.
_paces: dict[tuple[str, str, float], Pace] = {}


@dataclass(frozen=True)
class Endpoint:
    """Which model is asked, where, and how hard.

    Attributes:
        model: The judge's name; when None, the environment's ``TRL_DEEPSEEK_JUDGE_MODEL``.
        base_url: When None, the environment's ``OPENAI_BASE_URL``, else OpenAI's.
        api_key: When None, the environment's ``OPENAI_API_KEY``; endpoints of one's own need none.
        temperature: The judge's.
        concurrency: Requests at once.
        requests_per_minute: Most requests in a minute to this endpoint, further attempts included,
            per process; None for no limit.
        retries: Further attempts after an error that may pass (429, 5xx, no connection), with
            growing pauses or as long as the endpoint asks for.
        seconds: Time for one attempt.
        cache: File of replies; None for none.
    """

    model: str | None = None
    base_url: str | None = None
    api_key: str | None = None
    temperature: float = 0.0
    concurrency: int = 8
    requests_per_minute: float | None = None
    retries: int = 4
    seconds: float = 60.0
    cache: str | None = CACHE

    @classmethod
    def of(cls, who: str, options: Mapping[str, Any] | None) -> Endpoint:
        """The endpoint that a metric's option ``endpoint`` describes, seen to be complete.

        Args:
            who: What needs the judge, for messages.
            options: Attributes of this class, but for the key, which only the environment has.

        Raises:
            ConfigError: One is unknown or out of range, or see :meth:`found`.
        """
        if not isinstance(options or {}, Mapping):
            raise ConfigError(f'endpoint is {options!r}; write {{"model": ..., "base_url": ...}}')
        given = dict(options or {})
        known = [field.name for field in fields(cls) if field.name != "api_key"]
        for name in given:
            if name == "api_key":
                raise ConfigError("endpoint: the key stands in the environment: OPENAI_API_KEY")
            if name not in known:
                raise ConfigError(
                    f"endpoint has no option {name!r}{did_you_mean(name, known, inline=True)}\n"
                    f"  its options: {', '.join(known)}"
                )
        endpoint = cls(**given)
        endpoint.check()
        way = f'give it: --metric_kwargs \'{{"{who}": {{"endpoint": {{"model": ...}}}}}}\''
        endpoint.found("it", way)
        return endpoint

    def check(self) -> None:
        """Refuse numbers that nothing can be asked with.

        Raises:
            ConfigError: Names the option.
        """
        lowest = {"temperature": 0.0, "concurrency": 1, "retries": 0}
        above = {"requests_per_minute": 0.0, "seconds": 0.0}
        for name, least in {**lowest, **above}.items():
            value = getattr(self, name)
            if value is None and name == "requests_per_minute":
                continue
            kinds: Any = int if isinstance(least, int) else (int, float)
            fits = isinstance(value, kinds) and not isinstance(value, bool)
            if not fits or not (value > least or (value == least and name in lowest)):
                bound = "at least" if name in lowest else "above"
                whole = "a whole number, " if isinstance(least, int) else ""
                raise ConfigError(
                    f"endpoint: {name} is {value!r}; it must be {whole}{bound} {least:g}"
                )
        for name in ("model", "base_url", "cache"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ConfigError(f"endpoint: {name} is {value!r}; it must be text")

    def found(self, who: str, way: str = REWARD) -> tuple[str, str, str]:
        """The model's name, the endpoint's address (empty for OpenAI's) and the key.

        Args:
            who: What needs the judge, for messages.
            way: How else it is named.

        Raises:
            ConfigError: The module, the name or the key is missing.
        """
        if importlib.util.find_spec("openai") is None:
            raise ConfigError(
                f"{who} asks a judge through the module 'openai', which is not installed\n"
                '  install it with: pip install "trl-deepseek[judge]"'
            )
        name = self.model or os.environ.get(MODEL_VARIABLE)
        if not name:
            raise ConfigError(
                f"{who} needs a model: set {MODEL_VARIABLE} to the judge's name, or {way}"
            )
        where = self.base_url or os.environ.get("OPENAI_BASE_URL", "")
        key = self.api_key or os.environ.get("OPENAI_API_KEY")
        if not key and not where:
            raise ConfigError(f"{who} needs OPENAI_API_KEY, or OPENAI_BASE_URL of your own server")
        return name, where, key or "none"  # the client wants one, the endpoint may not


@dataclass(frozen=True)
class Replies(Generic[Read]):
    """What was read from the replies.

    Attributes:
        values: Per question, in their order; None where it was not asked, the reply could not be
            read, or the request failed.
        asked: Requests made; equal questions and those in the cache are none.
        unsure: Distinct questions whose reply could not be read.
        failed: Distinct questions whose request failed to the last retry.
    """

    values: list[Read | None]
    asked: int
    unsure: int
    failed: int


async def ask(
    who: str,
    questions: Sequence[Question | None],
    read: Callable[[str], Read | None],
    endpoint: Endpoint,
) -> Replies[Read]:
    """Ask the judge every question; equal ones once, and none that the cache has a reply to.

    Only replies that can be read are kept in the cache.

    Args:
        who: What needs the judge, for messages.
        questions: Conversations that end with the user; None for what is not asked.
        read: What a reply says; None where that is not certain. A reply that was cut off is not
            read.
        endpoint: Which model, where.

    Raises:
        ConfigError: See :meth:`Endpoint.found`.
        openai.OpenAIError: Every request failed.
    """
    distinct = {str(question): question for question in questions if question}
    if not distinct:
        return Replies([None] * len(questions), 0, 0, 0)
    name, where, key = endpoint.found(who)
    cache = Cache(Path(endpoint.cache).expanduser() if endpoint.cache else None)
    client = _client(name, where, key, endpoint)
    judge = _Judge(client, name, endpoint, cache, read)
    async with client:
        found = await asyncio.gather(*map(judge.say, distinct.values()), return_exceptions=True)
    cache.close()
    failures = [reply for reply in found if isinstance(reply, BaseException)]
    if len(failures) == len(found):
        raise failures[0]
    if failures:
        warnings.warn(
            f"{len(failures)} of {len(found)} requests to the judge failed: {failures[0]}",
            stacklevel=1,
        )
    said = {
        text: None if isinstance(reply, BaseException) else reply
        for text, reply in zip(distinct, found, strict=True)
    }
    values = [said[str(question)] if question else None for question in questions]
    unsure = sum(reply is None for reply in found)
    return Replies(values, judge.asked, unsure, len(failures))


class _Judge(Generic[Read]):
    """Asks one model and remembers what it said."""

    def __init__(
        self,
        client: AsyncOpenAI,
        name: str,
        endpoint: Endpoint,
        cache: Cache,
        read: Callable[[str], Read | None],
    ) -> None:
        self.asked = 0
        self._client = client
        self._name = name
        self._temperature = endpoint.temperature
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        self._cache = cache
        self._read = read

    async def say(self, question: Question) -> Read | None:
        key = (str(self._client.base_url), self._name, self._temperature, question)
        reply = self._cache.get(key)
        if reply is None:
            async with self._slots:
                self.asked += 1
                answered = await self._client.chat.completions.create(
                    model=self._name,
                    messages=question,  # type: ignore[arg-type]
                    temperature=self._temperature,
                )
            choice = answered.choices[0]
            reply = (choice.message.content or "") if choice.finish_reason != "length" else ""
        found = self._read(reply)
        if found is not None:
            self._cache.put(key, reply)
        return found


def _client(name: str, where: str, key: str, endpoint: Endpoint) -> AsyncOpenAI:
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    http = None
    if (per_minute := endpoint.requests_per_minute) is not None:
        # Around every request that leaves: the client's own further attempts keep to the pace too.
        pace = _paces.setdefault((where, name, per_minute), Pace(per_minute))
        http = DefaultAsyncHttpxClient(event_hooks={"request": [pace.wait]})
    return AsyncOpenAI(
        base_url=where or None,
        api_key=key,
        max_retries=endpoint.retries,
        timeout=endpoint.seconds,
        http_client=http,
    )
