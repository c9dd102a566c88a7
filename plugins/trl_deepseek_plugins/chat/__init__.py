"""DeepSeek's chat formats: a folder of Jinja files per family, ``inference`` and ``training``.

Families share pieces in ``fragments/``. A tokenizer stores one string and has no loader, so
``{% include "..." %}`` is replaced here by the file's text: what reaches the tokenizer is one
self-contained template. Where both templates share a fragment, its ``{% generation %}`` marks are
taken out of ``inference``, since other programs do not know them. In ``training`` each mark is
written twice, with and without, so that a message with ``"train": false`` or ``"weight": 0``
carries no loss in any family. A family whose official template has defects that ``inference`` mends
also has ``official``, which keeps them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from trl_deepseek import hookimpl
from trl_deepseek.types import ChatTemplate, Register
from trl_deepseek_plugins.chat.families import FAMILIES, ROLES

FOLDER = Path(__file__).parent
INCLUDE = re.compile(r'\{%-? include "([^"]+)" -?%\}')
MARK = re.compile(r"\{%-? (?:end)?generation -?%\}")
GENERATED = re.compile(r"\{%- generation -%\}(.*?)\{%- endgeneration -%\}", re.DOTALL)
UNLESS_UNTRAINED = (
    "{%- if message.train is false or message.weight == 0 -%}\\1{%- else -%}\\g<0>{%- endif -%}"
)
COMMENT = re.compile(r"\{#-?.*?-?#\}", re.DOTALL)


@hookimpl
def register_chat_templates(register: Register) -> None:
    for name, family in FAMILIES.items():
        register(name, build(name, **family))


def build(name: str, roles: Sequence[str] = ROLES, **about: object) -> ChatTemplate:
    """The template of one family, assembled from its files; ``roles`` are those it can write.

    All of ours read content given as parts; no official one does.
    """
    official = FOLDER / name / "official.jinja"
    read = assemble(FOLDER / "fragments" / "read_messages.jinja").strip()
    read = f"{{%- set roles = {list(roles)} -%}}" + read
    training = GENERATED.sub(UNLESS_UNTRAINED, assemble(FOLDER / name / "training.jinja"))
    return ChatTemplate(
        inference=read + MARK.sub("", assemble(FOLDER / name / "inference.jinja")),
        training=read + training,
        official=assemble(official) if official.exists() else None,
        **about,  # type: ignore[arg-type]
    )


def assemble(path: Path) -> str:
    """The text of ``path`` with its includes in place and without comments, newlines included."""

    def text(match: re.Match[str]) -> str:
        return expand(FOLDER / match[1])

    def expand(file: Path) -> str:
        bare = COMMENT.sub("", file.read_text(encoding="utf-8"))
        return INCLUDE.sub(text, bare).strip()

    return expand(path) + "\n"
