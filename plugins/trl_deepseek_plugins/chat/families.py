"""Which models use which family, what the family's turns end with and which roles it has.

``models`` are names without the organisation, in lower case, of models that publish this format;
a base model has the one that its chat model uses.
"""

from __future__ import annotations

from typing import Any

from trl_deepseek_plugins.chat.responses import FENCED, PLAIN, response_template

ROLES = ("system", "user", "assistant", "tool")
WITHOUT_TOOLS = ROLES[:3]
WITH_DEVELOPER = (*ROLES, "developer")
WITH_REMINDER = (*WITH_DEVELOPER, "latest_reminder")

FAMILIES: dict[str, dict[str, Any]] = {
    "deepseek-llm": {
        "models": (
            "deepseek-llm-7b-base",
            "deepseek-llm-7b-chat",
            "deepseek-llm-67b-base",
            "deepseek-llm-67b-chat",
            "deepseek-math",
            "deepseek-math-7b-base",
            "deepseek-math-7b-instruct",
            "deepseek-math-7b-rl",
            "deepseek-moe-16b-base",
            "deepseek-moe-16b-chat",
            "deepseek-v2",
            "deepseek-v2-chat",
            "deepseek-v2-lite",
            "deepseek-v2-lite-chat",
            "deepseek-coder-v2-base",
            "deepseek-coder-v2-instruct",
            "deepseek-coder-v2-lite-base",
            "deepseek-coder-v2-lite-instruct",
            "tiny-deepseek-llm",
        ),
        "roles": WITHOUT_TOOLS,
    },
    "deepseek-coder": {
        "models": (
            "deepseek-coder-1.3b-instruct",
            "deepseek-coder-5.7bmqa-instruct",
            "deepseek-coder-6.7b-instruct",
            "deepseek-coder-7b-instruct-v1.5",
            "deepseek-coder-33b-instruct",
        ),
        "end_of_turn": "<|EOT|>",
        "roles": WITHOUT_TOOLS,
    },
    "deepseek-v2-0628": {"models": ("deepseek-v2-chat-0628",), "roles": WITHOUT_TOOLS},
    "deepseek-v2.5": {
        "models": ("deepseek-v2.5-1210", "deepseek-coder-v2-instruct-0724", "tiny-deepseek-v2"),
        "response": FENCED,
    },
    "deepseek-v3": {"models": ("deepseek-v3-base", "tiny-deepseek-v3"), "response": FENCED},
    "deepseek-v3-0324": {"models": ("deepseek-prover-v2-671b",), "response": FENCED},
    "deepseek-r1": {
        "models": ("deepseek-r1-zero",),
        "opens_thinking": True,
        "response": FENCED,
    },
    "deepseek-r1-distill": {
        "models": (
            "deepseek-r1-distill-qwen-1.5b",
            "deepseek-r1-distill-qwen-7b",
            "deepseek-r1-distill-qwen-14b",
            "deepseek-r1-distill-qwen-32b",
            "deepseek-r1-distill-llama-8b",
            "deepseek-r1-distill-llama-70b",
        ),
        "opens_thinking": True,
        "response": FENCED,
    },
    "deepseek-r1-0528": {"models": ("deepseek-r1-0528-qwen3-8b",), "response": FENCED},
    "deepseek-v3.1": {
        "models": ("deepseek-v3.1-base", "deepseek-v3.1-terminus"),
        "response": PLAIN,
    },
    "deepseek-v3.2-exp": {"models": ("deepseek-v3.2-exp-base",), "response": PLAIN},
    "deepseek-v3.2": {
        "models": ("deepseek-v3.2-speciale",),
        "parses_arguments": True,
        "roles": WITH_DEVELOPER,
        "response": response_template("function_calls", "", "</function_results>\n\n"),
    },
    "deepseek-v4": {
        "models": (
            "deepseek-v4-flash",
            "deepseek-v4-flash-base",
            "deepseek-v4-pro",
            "deepseek-v4-pro-base",
        ),
        "parses_arguments": True,
        "roles": WITH_REMINDER,
        "response": response_template("tool_calls", ""),
    },
    "deepseek-v4-0731": {
        "models": ("deepseek-v4-flash-0731", "deepseek-v4-pro-0731"),
        "parses_arguments": True,
        "roles": WITH_REMINDER,
        "response": response_template("tool_calls", ""),
    },
    "deepseek-v4.1": {
        "models": ("deepseek-v4.1-flash", "deepseek-v4.1-flash-1017", "deepseek-v4.1-pro"),
        "parses_arguments": True,
        "roles": WITH_REMINDER,
        "response": response_template(" calls", " "),
    },
    "role-tokens": {"end_of_turn": "<|end|>", "roles": WITHOUT_TOOLS},
}
