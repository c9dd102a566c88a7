"""What would make training differ from what a row of conversations says.

Each fault is one sentence about a row and the way out. They are found by reading the messages and
by rendering them with the template that trains, so that they hold for templates that we do not
know, too.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trl_deepseek.chat.control_tokens import literal
from trl_deepseek.chat.installing import installed
from trl_deepseek.chat.message_faults import COMMON, Fault, misplaced, unlearnable, unreadable
from trl_deepseek.chat.messages import (
    ANSWERS,
    TARGETS,
    Conversation,
    conversations,
    is_conversation,
    reasoning_of,
    text_of,
)
from trl_deepseek.errors import DataError, TemplateError, boundary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Where the classes' own ``apply_chat_template`` stands, which renders a template and no more.
_WRITERS = ("transformers.tokenization_utils_base", "transformers.processing_utils")


class Inspector:
    """Finds the faults of rows, for one tokenizer.

    Args:
        tokenizer: With the chat template that trains; without one nothing is rendered.
        control_tokens: What finds a literal control token; None where they are allowed.
        tools: Definitions that every row is rendered with; None where each brings its own.
        masks: Whether the loss is taken by the template's marks, so that a message may opt out.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        control_tokens: re.Pattern[str] | None,
        tools: Sequence[Any] | None = None,
        masks: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.control_tokens = control_tokens
        self.tools = tools
        self.masks = masks and ".train" in str(tokenizer.chat_template)
        self._rendered: set[tuple[Any, ...]] = set()  # sequences of roles that can be written

    def key(self) -> list[str] | None:
        """What the faults of a row depend on besides it; a tokenizer writes with nothing else.

        None where it is not known to: tools are functions, and a tokenizer may write by itself.
        """
        inner: Any = getattr(self.tokenizer, "tokenizer", self.tokenizer)
        both = {id(each): each for each in (self.tokenizer, inner)}.values()
        writers = [vars(each).get("apply_chat_template") for each in both]  # not the class's own
        if (
            self.tools is not None
            or any(type(each).apply_chat_template.__module__ not in _WRITERS for each in both)
            or any(w is not None and not isinstance(w, functools.partial) for w in writers)
        ):
            return None
        template = installed(self.tokenizer)
        return [
            *(str(type(each)) for each in both),
            str(self.tokenizer.chat_template),
            str(inner.special_tokens_map),
            str(sorted(inner.get_added_vocab())),
            *(f"{w.func.__module__}.{w.func.__name__} {w.args[1:]}" for w in writers if w),
            str(template and template.parses_arguments),
            str(self.control_tokens and self.control_tokens.pattern),
            str(self.masks),
        ]

    def faults(self, row: Mapping[str, Any]) -> Iterator[Fault]:
        """The faults of a row, cheapest first.

        Raises:
            DataError: Its tools are no tool definitions.
            TemplateError: The template cannot render it.
        """
        for column in (*TARGETS, "prompt"):
            value: Any = row.get(column)
            if is_conversation(value) and not all(isinstance(m, Mapping) for m in value):
                yield Fault(f"{column} has a message that is none (null)", "leave the row out")
                return
        where = None if self.control_tokens is None else literal(row, self.control_tokens)
        if where is not None:
            yield Fault(f"{where}, which the tokenizer reads as a control token", _ESCAPE)
        for column in TARGETS:
            if is_conversation(row.get(column)):
                thinks = self.control_tokens is not None
                yield from unlearnable(row[column], column, masks=self.masks, thinks=thinks)
        prompt: Any = row.get("prompt")
        for column in ANSWERS if is_conversation(prompt) else ():
            if is_conversation(row.get(column)):
                yield from misplaced(prompt, row[column], column, masks=self.masks)
        for conversation in conversations(row):
            for number, message in enumerate(conversation):
                yield from unreadable(message, number)
        if not isinstance(row.get("chat_template_kwargs") or {}, Mapping):
            raise DataError("column 'chat_template_kwargs' holds no mapping of options to values")
        if self.tokenizer.chat_template is not None:
            for conversation in conversations(row):
                yield from self._unwritten(conversation, row)

    def _unwritten(self, conversation: Conversation, row: Mapping[str, Any]) -> Iterator[Fault]:
        """What the template leaves out, or writes as something else."""
        tools, own = self._tools(row), _own_tools(row)
        if own and self.tools is not None and not _told(conversation, own):
            yield Fault(
                "the column tools has definitions, and here prompts are written with the tools "
                "that the trainer is given alone",
                "pass the functions as GRPOTrainer(tools=[...]), or write the definitions into the "
                "system message and remove the column",
            )
        asked = [i for i, m in enumerate(conversation) if m.get("role") == "user"]
        thoughts = [
            (m, thought)
            for m in conversation[(asked or [-1])[-1] + 1 :]
            if m.get("role") == "assistant" and (thought := reasoning_of(m))
        ]
        systems = [m for m in conversation if m.get("role") == "system"]
        turns = tuple(m.get("role") for m in conversation)
        seen = turns in self._rendered and not row.get("chat_template_kwargs")
        odd = tools or thoughts or len(systems) > 1 or any(map(_may_fail, conversation))
        if seen and not odd:
            return
        text = self.render(conversation, row, tools)
        self._rendered.add(turns)
        lost = [m for m, thought in thoughts if thought not in text]
        if lost:
            yield _LOST if lost[-1] is conversation[-1] else _LOST_EARLIER
        if any(text_of(m).strip() not in text for m in systems):
            yield Fault(
                f"there are {len(systems)} system messages, and the chat template does not write "
                "all of them",
                "join them into one, or name a template that writes several",
            )
        for message in conversation:
            yield from self._misread(message, conversation, row, text)
        if (
            tools
            and text == self.render(conversation, row, None)
            and not _told(conversation, tools)
        ):
            yield Fault(
                "there are tool definitions, and the chat template does not write them: the model "
                "would not know its tools",
                "name a template that does, such as --chat_template deepseek-v4, write them into "
                "the system message, or remove them",
            )

    def _misread(
        self, message: dict[str, Any], conversation: Conversation, row: Mapping[str, Any], text: str
    ) -> Iterator[Fault]:
        role, said = message.get("role"), text_of(message).strip()
        if role in COMMON and not message.get("tool_calls"):
            return
        names = [
            (call.get("function") or {}).get("name") for call in message.get("tool_calls") or ()
        ]
        if (role not in COMMON and said not in text) or any(n and n not in text for n in names):
            what = f"the {role} message" if role != "assistant" else "a tool call"
            yield Fault(
                f"the chat template does not write {what}",
                "name a template that does, or rewrite the data: "
                f"every template has {', '.join(COMMON)}",
            )
        elif role not in (*COMMON, "tool"):
            others = (
                self._as(other, message, conversation, row) for other in ("assistant", "system")
            )
            if text == next(others) != next(others):
                yield Fault(
                    f"the chat template writes the {role} message as an assistant's",
                    f"call it system or user, or name a template that has a {role}",
                )

    def changes(self, row: Mapping[str, Any]) -> Iterator[str]:
        """What the template writes otherwise than the row has it, as the authors' own does."""
        if self.tokenizer.chat_template is None:
            return
        if self._renames_developer(row):
            yield "has no role developer and writes the message as a system's"
        for conversation in conversations(row):
            asked = [i for i, m in enumerate(conversation) if m.get("role") == "user"]
            last = (asked or [0])[-1]
            early = [
                thought
                for message in conversation[:last]
                if message.get("role") == "assistant" and (thought := reasoning_of(message))
            ]
            late = [i for i, m in enumerate(conversation) if i and m.get("role") == "system"]
            if not (early or late):
                continue
            text = self.render(conversation, row, self._tools(row))
            if any(thought not in text for thought in early):
                yield (
                    "leaves out the reasoning of turns before the last question (drop_thinking "
                    "false in chat_template_kwargs keeps it)"
                )
            if any(self._stands_before(conversation, i, text) for i in late):
                yield "writes a later system message before the turns that it follows"

    @staticmethod
    def _stands_before(conversation: Conversation, number: int, text: str) -> bool:
        """Whether a message is written before the last turn that it follows."""
        said = text_of(conversation[number]).strip()
        turns = [text_of(m).strip() for m in conversation[:number] if m.get("role") != "system"]
        return bool(said and turns and turns[-1]) and text.rfind(said) < text.find(turns[-1])

    def _renames_developer(self, row: Mapping[str, Any]) -> bool:
        """Whether the row has a developer and the template writes a system."""
        return any(
            message.get("role") == "developer"
            and self.render(conversation, row, self._tools(row))
            == self._as("system", message, conversation, row)
            for conversation in conversations(row)
            for message in conversation
        )

    def _as(
        self, role: str, message: Any, conversation: Conversation, row: Mapping[str, Any]
    ) -> str | None:
        """The text with another role for one message; None where that cannot be rendered."""
        changed = [{**m, "role": role} if m is message else m for m in conversation]
        try:
            return self.render(changed, row, self._tools(row))
        except TemplateError:
            return None

    def _tools(self, row: Mapping[str, Any]) -> Any:
        return _own_tools(row) if self.tools is None else self.tools

    def render(self, conversation: Conversation, row: Mapping[str, Any], tools: Any) -> str:
        """The text that the tokenizer makes of a row's conversation.

        Raises:
            TemplateError: The template cannot render it.
        """
        with boundary(_cannot_render):  # a template may raise anything; it is about this row
            text: str = self.tokenizer.apply_chat_template(
                [dict(message) for message in conversation],
                tools=tools or None,
                tokenize=False,
                **(row.get("chat_template_kwargs") or {}),
            )
        return text


def _cannot_render(said: str) -> TemplateError:
    said = said.removeprefix("TemplateError: ")  # Jinja's, raised by the template itself
    return TemplateError(f"the chat template cannot render this conversation: {said}")


_ESCAPE = "--control_tokens escape encodes it as the text it is; allow lets it through"
_LOST = Fault(
    "the last assistant turn has reasoning, and the chat template does not render it: the model "
    "would learn to answer without",
    "name a template that does, such as --chat_template deepseek-r1, or remove the reasoning from "
    "the data",
)
_LOST_EARLIER = Fault(
    "an assistant turn behind the last question has reasoning, and the chat template does not "
    "render it: the model would learn to act without",
    "give the row its tools, or chat_template_kwargs with drop_thinking false, name a template "
    "that renders it, or remove the reasoning from the data",
)


def _own_tools(row: Mapping[str, Any]) -> Any:
    """The tool definitions of a row's column ``tools``, which may hold them as JSON.

    Raises:
        DataError: They are no list of definitions.
    """
    tools = row.get("tools")
    try:
        tools = json.loads(tools) if isinstance(tools, str) else tools
    except ValueError as error:
        raise DataError(
            f"column 'tools' holds text that is not JSON: {error}\n  where a row has no tools, "
            "write null or []"
        ) from error
    if tools and not (isinstance(tools, list) and all(isinstance(t, Mapping) for t in tools)):
        raise DataError("column 'tools' holds no list of tool definitions")
    return tools or None


def _may_fail(message: Mapping[str, Any]) -> bool:
    """Whether not every format can write a message: it has tools, parts, or a rare role."""
    is_text = isinstance(message.get("content"), (str, type(None)))
    return not is_text or bool(message.get("tool_calls")) or message.get("role") not in COMMON


def _told(conversation: Conversation, tools: Sequence[Any]) -> bool:
    """Whether the system messages name every tool, as where their author wrote them out."""
    said = " ".join(text_of(m) for m in conversation if m.get("role") in ("system", "developer"))
    names = [
        getattr(tool, "__name__", "")
        if callable(tool)
        else (tool.get("function") or tool).get("name") or ""
        for tool in tools
    ]
    return all(name and name in said for name in names)
