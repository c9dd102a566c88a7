"""DeepSeek's chat formats, each as two Jinja files: one to generate with, one to train with."""

from __future__ import annotations

from pathlib import Path

from trl_deepseek import ChatTemplate, hookimpl
from trl_deepseek.types import Register

FOLDER = Path(__file__).parent


@hookimpl
def register_chat_templates(register: Register) -> None:
    register("deepseek-v3", _read("deepseek-v3", models=("deepseek-v3", "deepseek-v3-base")))
    register(
        "deepseek-r1",
        _read("deepseek-r1", models=("deepseek-r1", "deepseek-r1-zero"), opens_thinking=True),
    )
    register("role-tokens", _read("role-tokens", end_of_turn="<|end|>"))


def _read(
    name: str,
    models: tuple[str, ...] = (),
    end_of_turn: str = "<｜end▁of▁sentence｜>",
    opens_thinking: bool = False,
) -> ChatTemplate:
    inference, training = (
        (FOLDER / f"{name}.{use}.jinja").read_text(encoding="utf-8").rstrip("\n")
        for use in ("inference", "training")
    )
    return ChatTemplate(
        inference,
        training,
        end_of_turn=end_of_turn,
        models=models,
        opens_thinking=opens_thinking,
    )
