"""``trl-deepseek plugins check``: does a plugin keep the promises that runs rely on?

Every item is tried by itself, without a model. Rewards get the closest look, since they run most
often, in threads and in worker processes, on whatever a model writes.
"""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from trl_deepseek.chat.reasoning import CLOSE, OPEN
from trl_deepseek.errors import (
    ConfigError,
    DataError,
    PluginError,
    RunError,
    TrlDeepseekError,
    boundary,
)
from trl_deepseek.plugin_kit import again, made_up, policy
from trl_deepseek.plugin_kit.made_up import COLUMNS
from trl_deepseek.plugin_kit.tricks import NUMBERS
from trl_deepseek.plugin_loading import load_registry
from trl_deepseek.policy_types import Advantage, PolicyLoss
from trl_deepseek.registry import SINGULAR, Entry, Origin
from trl_deepseek.rewards.signature import signature_of
from trl_deepseek.rollouts.trial import Samples, score
from trl_deepseek.tools import resolving
from trl_deepseek.types import (
    ChatTemplate,
    EmbeddedDataset,
    Loss,
    Metric,
    Preset,
    Reward,
    Tool,
)
from trl_deepseek.workers.calls import Failure, Outcome, run_to_end

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
NAMES_ALIKE = re.compile(r"[-_.]+")  # as in names of distributions
PATIENCE = 20.0  # seconds that a reward may take for a completion of a million characters
SAID = (
    "4",
    "",
    "The answer is 4.",
    f"{OPEN}\nTwo and two.\n{CLOSE}\n\n4",
    f"Two and two.\n{CLOSE}\n\n4",
    "\\boxed{4}",
    "```python\nprint(4)\n```",
    "答案是 4",
)
HUGE = ("word " * 200_000, "a" * 1_000_000, OPEN * 100_000, "{" * 500_000)


@dataclass(frozen=True)
class Check:
    """One claim about one item.

    Attributes:
        item: ``reward 'x'``, or the plugin.
        claim: What should hold.
        problem: Why it does not; None where it does.
    """

    item: str
    claim: str
    problem: str | None = None


def check(
    target: str,
    plugins: Sequence[str] = (),
    block: Sequence[str] = (),
    values: Mapping[str, Any] = COLUMNS,
) -> list[Check]:
    """Every check of everything that one plugin registers.

    Args:
        target: Name of an installed plugin or distribution, path of a file, or name of a module.
        plugins: Further plugins to load beside it.
        block: Plugins to leave out.
        values: What to give rewards in a column of that name; in others a value of the type that
            their parameter is annotated with, ``"4"`` where there is none.

    Raises:
        ConfigError: There is no such plugin.
    """
    installed = load_registry(plugins, block)
    broken = [b for b in installed.broken if _is_of(b.origin, target)]
    if broken:
        return [Check(f"plugin {target!r}", "loads", broken[0].cause)]
    entries = [entry for entry in installed.entries() if _is_of(entry.origin, target)]
    if not entries:
        try:
            loaded = load_registry([*plugins, target], block).entries()
            name = Path(target).stem if target.endswith(".py") else target
            entries = [entry for entry in loaded if entry.origin.plugin == name]
        except PluginError as error:
            if not _exists(target):
                raise ConfigError(
                    f"no installed plugin or distribution is called {target!r}, and it is no file "
                    f"or module: {error}\n  `trl-deepseek plugins` lists the installed ones"
                ) from error
            claim = "has names of its own" if "two plugins register" in str(error) else "loads"
            return [Check(f"plugin {target!r}", claim, str(error))]
    checks = [
        Check(f"plugin {target!r}", "loads"),
        Check(f"plugin {target!r}", "has names of its own"),
    ]
    for entry in entries:
        checks += _item(entry, values)
    return checks


def _is_of(origin: Origin, target: str) -> bool:
    """Whether an installed plugin is what ``target`` names: acme-rewards is acme_rewards."""
    if target.endswith(".py"):
        return origin.file is not None and Path(target).resolve() == Path(origin.file).resolve()
    names = {NAMES_ALIKE.sub("-", name) for name in (origin.plugin, origin.distribution) if name}
    return NAMES_ALIKE.sub("-", target) in names


def _exists(target: str) -> bool:
    if target.endswith(".py"):
        return Path(target).expanduser().is_file()
    try:
        import importlib.util

        return importlib.util.find_spec(target) is not None
    except (ImportError, ValueError):
        return False


def _item(entry: Entry, values: Mapping[str, Any]) -> Iterator[Check]:
    what = f"{SINGULAR[entry.kind]} {entry.name!r}"

    def claim(text: str, test: Callable[[], str | None]) -> Check:
        try:
            with boundary(RunError):
                return Check(what, text, test())
        except TrlDeepseekError as error:  # here that is a finding
            return Check(what, text, str(error))

    item = entry.item
    yield claim("has a name in lower case", lambda: _name(entry.name))
    if isinstance(item, Reward):
        yield from (claim(text, test) for text, test in _Tried(item, values).claims())
    if isinstance(item, Loss):
        yield claim("gives one finite loss per sequence, with a gradient", lambda: _loss(item))
    if isinstance(item, PolicyLoss):
        yield from (claim(text, test) for text, test in policy.loss_claims(item))
    if isinstance(item, Advantage):
        yield from (claim(text, test) for text, test in policy.advantage_claims(item))
    if isinstance(item, Preset):
        yield claim("sets what its command has", lambda: _preset(item))
    if isinstance(item, Metric):
        yield claim("gives what an evaluation can take", lambda: _metric(item, values))
    if isinstance(item, ChatTemplate):
        yield claim("renders a conversation", lambda: _template(item))
    if isinstance(item, Tool):
        yield claim("can be described to a model", lambda: resolving.check(item))
    if isinstance(item, EmbeddedDataset) and not item.has_tasks:
        yield claim("builds rows of some kind", lambda: _dataset(item))


def _metric(metric: Metric, values: Mapping[str, Any]) -> str | None:
    """Answers to four prompts, two each, measured; a metric over a model is only looked at."""
    from trl_deepseek.evaluation import scoring
    from trl_deepseek.evaluation.choosing import TASK, Chosen
    from trl_deepseek.evaluation.questions import Questions
    from trl_deepseek.generation import Completion

    taken = inspect.signature(metric.function).parameters
    if metric.format_row is not None or {"answers", "score"} & set(taken):
        return None  # it needs rows, or answers of other models, that cannot be made up here
    chosen = Chosen(metric.name, metric)
    if metric.over == "model":
        unknown = [name for name in chosen.columns if name not in (*metric.columns, TASK)]
        return f"nothing is offered as {unknown[0]!r}" if unknown else None
    texts = [list(SAID[i : i + 2]) for i in range(0, len(SAID), 2)]
    answers = [[Completion(text, (1, 2), True) for text in own] for own in texts]
    columns = {name: [values.get(name, "4")] * len(texts) for name in chosen.columns}
    questions = Questions(["2+2?"] * len(texts), columns, [{}] * len(texts))
    answered = scoring.Answered(questions, answers, "", {"model": texts})
    found = scoring.measure_answers(chosen, answered, None, [[1.0, 0.0]] * len(texts))
    if metric.aggregate is not None:
        found.estimates(0)
    return None


def _name(name: str) -> str | None:
    return None if NAME.fullmatch(name) else f"write it like {_slug(name)!r}"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9_.-]+", "_", name.lower()).strip("_.-") or "my_item"


class _Tried:
    """One reward, and what is claimed of it."""

    def __init__(self, reward: Reward, values: Mapping[str, Any]) -> None:
        self.reward = reward
        self.values = values
        self.untouched = again.frozen(reward.function)

    def claims(self) -> Iterator[tuple[str, Callable[[], str | None]]]:
        """Each claim, and a function that tells why it does not hold."""
        yield "can be called as a reward", self.signature
        yield "pickles, as worker processes need", self.pickles
        yield "scores text", lambda: self.scores(SAID)
        yield "scores messages as it scores text", self.forms
        yield "scores the same when asked again", self.deterministic
        yield "leaves alone what it is given", self.leaves_alone
        yield "scores an empty batch", self.empty
        yield "does not pay tricks", self.tricks
        yield "scores huge completions in time", lambda: _failure(self.outcomes(HUGE), HUGE)

    @property
    def columns(self) -> list[str]:
        """The columns it needs, declared or not."""
        return list(dict.fromkeys((*self.reward.columns, *signature_of(self.reward).columns)))

    @property
    def given(self) -> dict[str, Any]:
        """A value for each column, that of any sample."""
        return made_up.columns(self.reward.function, self.columns, self.values)

    def scores(self, said: Sequence[str]) -> str | None:
        found = _failure(self.outcomes(said), said)
        made_up = {name: value for name, value in self.given.items() if name not in self.values}
        if found is None or not made_up:
            return found
        columns = ", ".join(f"{name}={value!r}" for name, value in made_up.items())
        return f"{found}\nwith {columns}; --data FILE takes the columns from a row of yours"

    def signature(self) -> str | None:
        accepts = signature_of(self.reward).accepts
        unseen = [column for column in self.reward.columns if accepts and column not in accepts]
        if unseen:
            return f"it is registered with the column {unseen[0]!r}, which it has no parameter for"
        return None

    def pickles(self) -> None:
        pickle.loads(pickle.dumps(self.reward.function))

    def samples(self, said: Sequence[str], messages: bool = False) -> Samples:
        given = self.given
        return Samples(
            [[{"role": "assistant", "content": text}] if messages else text for text in said],
            prompts=[[{"role": "user", "content": "2+2?"}] if messages else "2+2?"] * len(said),
            completion_ids=[list(range(min(len(text), 1000))) for text in said],
            columns={name: [copy.deepcopy(value) for _ in said] for name, value in given.items()},
            options={"generation_prefix": "", "max_completion_length": 512},
        )

    def outcomes(self, said: Sequence[str], messages: bool = False) -> Sequence[Outcome]:
        return score(self.reward, self.samples(said, messages), PATIENCE).outcomes

    def forms(self) -> str | None:
        texts, messages = self.outcomes(SAID), self.outcomes(SAID, messages=True)
        for text, one, other in zip(SAID, texts, messages, strict=True):
            if isinstance(other, Failure):
                return f"on messages that say {text!r}: {other.message}"
            if one != other:
                return f"{text!r} scores {one} as text and {other} as messages"
        return None

    def deterministic(self) -> str | None:
        """Asked of a copy from before the first call."""
        untouched = self.untouched
        function = self.reward.function if untouched is None else pickle.loads(untouched)

        def ask(function: Any) -> Sequence[Outcome]:
            return _Tried(replace(self.reward, function=function), self.values).outcomes(SAID)

        return again.differs(function, ask, SAID)

    def leaves_alone(self) -> str | None:
        for messages in (False, True):
            samples = self.samples(SAID, messages)
            before = _frozen(samples)
            score(self.reward, samples, PATIENCE)
            if _frozen(samples) != before:
                return "it changed its arguments, which other rewards score too"
        return None

    def tricks(self) -> str | None:
        """Asked only of rewards that tell a right from a wrong answer to ``solution``."""
        if "solution" not in self.columns or self.values.get("solution", "4") != "4":
            return None
        right, wrong = self.outcomes((r"\boxed{4}", r"\boxed{5}"))
        if not isinstance(right, float) or not isinstance(wrong, float) or right <= wrong:
            return None
        given = self.samples([trick.completion for trick in NUMBERS])
        columns = {**given.columns, "solution": [trick.solution for trick in NUMBERS]}
        prompts = [trick.prompt for trick in NUMBERS]
        samples = replace(given, columns=columns, prompts=prompts)
        paid = score(self.reward, samples, PATIENCE).outcomes
        for trick, outcome in zip(NUMBERS, paid, strict=True):
            if isinstance(outcome, float) and outcome >= right:
                return (
                    f"it pays {outcome} to {trick.completion!r} for the solution "
                    f"{trick.solution!r}, which {trick.name}"
                )
        return None

    def empty(self) -> str | None:
        signature = signature_of(self.reward)
        if signature.per_sample:
            return None  # it is called once per sample, here never
        nothing: dict[str, Any] = {
            name: [] for name in ("prompts", "completions", "completion_ids")
        }
        nothing |= {"max_completion_length": 512, **{name: [] for name in self.columns}}
        returned = self.reward.function(**signature.select(nothing))
        if inspect.isawaitable(returned):
            returned = run_to_end(returned)
        return None if list(returned) == [] else f"it returned {returned!r} for no completions"


def _failure(outcomes: Sequence[Outcome], said: Sequence[str]) -> str | None:
    for text, outcome in zip(said, outcomes, strict=True):
        if isinstance(outcome, Failure):
            shown = repr(text if len(text) < 60 else text[:20] + "...")
            return f"on {shown}: {outcome.message}"
    return None


def _frozen(samples: Samples) -> str:
    seen: Mapping[str, Any] = vars(samples)
    return json.dumps(seen, sort_keys=True, default=str)


def _loss(loss: Loss) -> str | None:
    import torch

    from trl_deepseek.losses import bind, invented

    (bound,) = bind([loss], {}, None)
    batch: Any = invented(loss.data)
    values, _ = bound(batch)
    if not values.requires_grad:
        return "its result has no gradient with respect to what it is given"
    learned = getattr(batch, fields(batch)[0].name)
    (gradient,) = torch.autograd.grad(values.sum(), learned, allow_unused=True)
    if gradient is None:
        return f"its result does not depend on {fields(batch)[0].name!r}"
    return None if torch.isfinite(gradient).all() else f"its gradient is {gradient.tolist()}"


def _preset(preset: Preset) -> str | None:
    from trl_deepseek.jobs import presets

    return presets.fault_of(preset)


def _dataset(dataset: EmbeddedDataset) -> str | None:
    said = []
    for kind in ("prompts", "demonstrations", "preferences"):
        try:
            rows = dataset(kind=kind, size=2)
        except DataError as error:
            said.append(str(error))
        else:
            named = "prompt" in rows.column_names
            return None if named else f"its {kind} have no column 'prompt'"
    return said[0]


def _template(template: ChatTemplate) -> str | None:
    from trl_deepseek import chat

    messages = [
        {"role": "user", "content": "a question"},
        {"role": "assistant", "content": "an answer"},
    ]
    for training in (False, True):
        text = chat.render(template, messages, training=training)
        missing = [m["content"] for m in messages if m["content"] not in text]
        if missing:
            return f"{missing[0]!r} is missing from what it renders, training={training}"
    return None
