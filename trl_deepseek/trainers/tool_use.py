"""Tools in GRPO: checked before a model is loaded, called under a contract, and counted.

Where it touches TRL: the functions and environments that it is given, the rewards that it makes of
the latter, behind its loop of tool calls, where what the loop did is counted, and where it asks how
results are written. TRL masks all that a tool says out of the loss by itself.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from trl.chat_template_utils import supports_tool_calling

from trl_deepseek import chat, tools
from trl_deepseek.chat.control_tokens import pattern_of
from trl_deepseek.errors import TemplateError
from trl_deepseek.trainers.config_fields import ToolFields

# How every family begins a call; an answer that has it and no call that can be read is malformed.
_BEGUN = re.compile(r"<｜tool▁call|｜DSML｜")


def check(inputs: Any) -> tools.Guard:
    """The tools of a trainer's inputs under their contract, in TRL's place for them.

    Raises:
        UserError: One does not exist, cannot be described, or cannot be isolated.
    """
    args, options = inputs.args, inputs.options
    settings = args.tool_settings() if isinstance(args, ToolFields) else tools.Settings()
    guard = tools.Guard(tools.resolve(options.pop("tools", None), inputs.registry), settings)
    factory = tools.check_factory(options.pop("environment_factory", None), settings)
    if guard.functions:
        options["tools"] = guard.functions
    if factory is not None:
        guard.environments = tools.Environments(factory, guard)
        options["environment_factory"] = guard.environments.factory
    inputs.tools = guard.functions  # TRL renders prompts with these alone
    return guard


def check_template(inputs: Any, guard: tools.Guard) -> None:
    """See that the template writes calls and results, and that calls are read, where there are any.

    Raises:
        TemplateError: It does not.
    """
    if not (guard.functions or inputs.options.get("environment_factory")):
        return
    tokenizer = inputs.tokenizer
    chat.parse_tool_calls(tokenizer)
    if not supports_tool_calling(tokenizer):
        raise TemplateError(
            "there are tools, and this chat template does not write calls and their results\n"
            "  name one that does, such as --chat_template deepseek-v4"
        )
    if getattr(inputs.args, "control_tokens", "error") == "error":
        guard.control_tokens = pattern_of(tokenizer)


class ToolUse:
    """The mixin of a trainer whose model calls tools; it has its guard in ``_tools``."""

    _tools: tools.Guard

    def __init__(self: Any, inputs: Any, **kwargs: Any) -> None:
        super().__init__(inputs, **kwargs)  # type: ignore[call-arg]
        if self._tools.environments is not None:
            # TRL puts what scores environments behind all other rewards, without the contract.
            own = [self._guards.guard(each) for each in self._tools.environments.rewards()]
            others = self.reward_funcs[: len(self.reward_funcs) - len(own)]
            self.reward_funcs = self._guards.functions = [*others, *own]

    def _tool_call_loop(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = super()._tool_call_loop(*args, **kwargs)  # type: ignore[misc]
        if self._tools.failure is not None:
            raise self._tools.failure
        mode = "train" if self.model.training else "eval"
        counts = self._tools.take_counts()
        counts["tools/malformed"] = sum(map(_malformed, result[1]))
        here = torch.tensor(list(counts.values()), device=self.accelerator.device)
        everywhere = self.accelerator.reduce(here, "sum").tolist()
        for name, count in zip(counts, everywhere, strict=True):
            self._metrics[mode][name].append(float(count))
        return result

    def _get_tool_suffix_ids(self: Any, tool_messages: list[dict[str, Any]]) -> list[int]:
        """What a family writes behind the call that the model wrote, up to where it goes on.

        TRL renders one call of no tool that is known and takes off what stands before its results.
        Families since V3.2 write that differently once results follow, unless tools are defined,
        and some close the results when there is one for each call.
        """
        tokenizer = self.processing_class
        if chat.installed(tokenizer) is None:
            return super()._get_tool_suffix_ids(tool_messages)  # type: ignore[misc]
        calls = [
            {"type": "function", "function": {"name": message["name"], "arguments": {}}}
            for message in tool_messages
        ]
        called: list[dict[str, Any]] = [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "", "reasoning_content": "r", "tool_calls": calls},
        ]

        def render(messages: list[dict[str, Any]], opens: bool) -> list[int]:
            ids: list[int] = tokenizer.apply_chat_template(
                messages,
                tools=self.tools or None,
                add_generation_prompt=opens,
                return_dict=False,
                **self.chat_template_kwargs,
            )
            return ids

        end = self._tokenizer.eos_token_id
        turns = render(called, False).count(end)
        whole = render([*called, *tool_messages], True)
        ends = [place for place, token in enumerate(whole) if token == end]
        return whole[ends[turns - 1] + 1 :]


def _malformed(completion: list[dict[str, Any]]) -> int:
    """The answers of a conversation that begin a call which cannot be read."""
    return sum(
        message["role"] == "assistant"
        and not message.get("tool_calls")
        and _BEGUN.search(str(message.get("content"))) is not None
        for message in completion
    )


__all__ = ["ToolUse", "check", "check_template"]
