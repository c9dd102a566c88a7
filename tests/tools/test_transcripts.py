"""Rollouts with a tool are, byte for byte, what each family's official code writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from trl_deepseek import GRPOConfig, GRPOTrainer, chat, load_registry

GOLDENS = Path(__file__).parents[1] / "chat" / "goldens"
REGISTRY = load_registry()
EOS = "<｜end▁of▁sentence｜>"
OLDER = "tool_call_one_full_no_gp__content_text"
NEWER = "tool_one_full__thinking"
# The case, what the prompt ends with, and what the results end with.
FAMILIES = {
    "deepseek-v3-0324": (OLDER, "<｜Assistant｜>", "<｜tool▁outputs▁end｜>"),
    "deepseek-r1-0528": (OLDER, "<｜Assistant｜>", "<｜tool▁outputs▁end｜>"),
    "deepseek-v3.1": (
        "tool_call_one_full_no_gp__content_none",
        "<｜Assistant｜></think>",
        "<｜tool▁output▁end｜>",
    ),
    "deepseek-v3.2-exp": (
        "tool_call_one_full_no_gp__content_none",
        "<｜Assistant｜></think>",
        "<｜tool▁output▁end｜>",
    ),
    "deepseek-v3.2": (NEWER, "<｜Assistant｜><think>", "</function_results>\n\n<think>"),
    "deepseek-v4": (NEWER, "<｜Assistant｜><think>", "</tool_result><｜Assistant｜><think>"),
    "deepseek-v4-0731": (NEWER, "<｜Assistant｜><think>", "</tool_result><｜Assistant｜><think>"),
    "deepseek-v4.1": (NEWER, "<｜Assistant｜><think>", "</tool_result><｜Assistant｜><think>"),
}
CALLED: list[tuple[str, str]] = []
SAYS: list[str] = []


def get_weather(city: str, unit: str) -> str:
    """Get the current weather of a city.

    Args:
        city: Its name.
        unit: Of temperature.
    """
    CALLED.append((city, unit))
    return SAYS[-1]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> GRPOTrainer:
    args = GRPOConfig(
        str(tmp_path_factory.mktemp("run")),
        chat_template="deepseek-v4",
        report_to="none",
        use_cpu=True,
        per_device_train_batch_size=2,
        num_generations=2,
        max_completion_length=2000,
        gradient_checkpointing=False,
    )
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": "q"}]}] * 2)
    reward = lambda completions, **_: [0.0] * len(completions)  # noqa: E731
    return GRPOTrainer("tiny-deepseek-llm", reward, args, rows, tools=[get_weather])


def golden(family: str) -> dict[str, Any]:
    cases = json.loads((GOLDENS / f"{family}.json").read_text(encoding="utf-8"))["cases"]
    found: dict[str, Any] = next(c for c in cases if c["name"] == FAMILIES[family][0])
    return found


def roll_out(
    trainer: Any, family: str, prompt: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[int], list[int], list[int], list[dict[str, Any]]]:
    """Have a model that says ``said`` roll out; prompt, completion, mask and messages."""
    from trl.chat_template_utils import parse_response

    tokenizer: Any = trainer._tokenizer
    chat.install(tokenizer, family)
    tokenizer.response_template = None
    chat.parse_tool_calls(tokenizer)
    first, *later = [tokenizer.encode(text) for text in said]
    turns: Iterator[list[int]] = iter(later)
    monkeypatch.setattr(
        trainer, "_generate_single_turn", lambda *_, **__: ([list(next(turns))], None)
    )
    trainer.chat_template_kwargs = {"thinking": prompt.endswith("<think>")}
    trainer._sync_tool_dicts = [{f.__name__: f for f in trainer.tools}]
    trainer._async_tool_dicts = [{}]
    ids = tokenizer.encode(prompt)
    message = parse_response(tokenizer, first, prefix=ids, tools=trainer.tools)
    masks, completions, completion_ids, *_ = trainer._tool_call_loop(
        [[{"role": "user", "content": "Weather in Paris?"}]],
        [ids], [list(first)], [[message]], None, None, None,
    )  # fmt: skip
    return ids, completion_ids[0], masks[0], completions[0]


@pytest.mark.transformers("5.15")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_rollout_is_the_official_transcript(
    family: str, trainer: GRPOTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = golden(family)
    _, opened, closed = FAMILIES[family]
    whole = case["expected"][: case["expected"].rindex(EOS) + len(EOS)]
    begin = whole.rindex(opened, 0, whole.index(EOS)) + len(opened)
    call_end = whole.index(EOS) + len(EOS)
    results_end = whole.rindex(closed) + len(closed)
    SAYS.append(next(m["content"] for m in case["messages"] if m["role"] == "tool"))
    CALLED.clear()
    said = [whole[begin:call_end], whole[results_end:]]
    prompt, completion, mask, messages = roll_out(trainer, family, whole[:begin], said, monkeypatch)
    tokenizer: Any = trainer.processing_class
    assert CALLED == [("Paris", "celsius")]
    assert [message["role"] for message in messages] == ["assistant", "tool", "assistant"]
    assert tokenizer.decode([*prompt, *completion]) == whole
    trained = [token for token, counts in zip(completion, mask, strict=True) if counts]
    masked = [token for token, counts in zip(completion, mask, strict=True) if not counts]
    assert tokenizer.decode(trained) == "".join(said)
    assert tokenizer.decode(masked) == whole[call_end:results_end]
    assert trainer._metrics["train"]["tools/get_weather/calls"].pop() == 1
    assert trainer._metrics["train"]["tools/malformed"].pop() == 0


@pytest.mark.transformers("5.15")
@pytest.mark.parametrize("family", ["deepseek-v3-0324", "deepseek-v3.1", "deepseek-v4"])
def test_a_malformed_call_is_counted_and_ends_the_rollout(
    family: str, trainer: GRPOTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = golden(family)["expected"]
    opened = FAMILIES[family][1]
    begin = case.rindex(opened, 0, case.index(EOS)) + len(opened)
    call = case[begin : case.index(EOS)]
    broken = call.replace('"Paris"', "Paris").replace('name="get_weather"', "get_weather")
    CALLED.clear()
    _, _, mask, messages = roll_out(trainer, family, case[:begin], [broken + EOS], monkeypatch)
    assert not CALLED
    assert set(mask) == {1}
    assert [message["role"] for message in messages] == ["assistant"]
    assert trainer._metrics["train"]["tools/malformed"].pop() == 1
