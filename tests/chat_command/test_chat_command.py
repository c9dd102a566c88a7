"""A conversation in a terminal and in a pipe; the model's answers are what a stand-in says."""

from __future__ import annotations

import io
import os
import pty
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from trl_deepseek import generation, load_registry
from trl_deepseek.chat.streaming import Parting
from trl_deepseek.cli.chat import Screen
from trl_deepseek.cli.main import main


class Model:
    """Says the next of its answers, token by token; what it was asked is kept as text."""

    def __init__(self, tokenizer: Any, answers: list[str]) -> None:
        self.tokenizer = tokenizer
        self.answers = iter(answers)
        self.asked: list[str] = []
        self.meanwhile: Callable[[int], None] = lambda _: None
        self.device = "cpu"
        self.generation_config = type("Config", (), {"eos_token_id": tokenizer.eos_token_id})
        self.config = load_registry().models["tiny-deepseek-llm"]()[0].config

    def generate(self, input_ids: Any, streamer: Any, stopping_criteria: Any, **_: Any) -> Any:
        import torch

        self.asked.append(self.tokenizer.decode(input_ids[0]))
        ids = self.tokenizer(next(self.answers), add_special_tokens=False)["input_ids"]
        streamer.put(input_ids[0])
        said: list[int] = []
        for place, token in enumerate([*ids, self.tokenizer.eos_token_id]):
            self.meanwhile(place)
            said.append(token)
            streamer.put(torch.tensor([token]))
            if stopping_criteria(input_ids, None).any():
                break
        streamer.end()
        return torch.tensor([[*input_ids[0].tolist(), *said]])


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Model]:
    def make(*answers: str, template: str = "deepseek-r1") -> Model:
        def load(*_: Any, **given: Any) -> Any:
            return made, made.tokenizer

        tokenizer = generation.check("tiny-deepseek-llm", load_registry(), chat_template=template)
        made = Model(tokenizer, list(answers))
        monkeypatch.setattr(generation, "load", load)
        return made

    return make


def talk(monkeypatch: pytest.MonkeyPatch, text: str, *words: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return main(["chat", "tiny-deepseek-llm", "--chat_template", "deepseek-r1", *words])


def test_in_a_pipe_each_line_is_a_turn_and_the_reasoning_stands_apart(
    model: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = model("I add.\n</think>\n\n46", "</think>\n\nSo it is.\x1b[31m", "again")
    words = ["--system", "Be brief."]
    assert talk(monkeypatch, "12+34\n\n/nothing\nreally?\n/reset\nand now?\n", *words) == 0
    shown = capsys.readouterr()
    assert shown.out == ("[thinking]\nI add.\n[answer]\n46\nSo it is.�[31m\n[thinking]\nagain\n")
    assert "/nothing is no command" in shown.err
    begin = "<｜begin▁of▁sentence｜>Be brief."
    first = f"{begin}<｜User｜>12+34<｜Assistant｜>"
    assert made.asked[0] == f"{first}<think>\n"
    # As DeepSeek's template has it, the reasoning of earlier turns is left out.
    later = f"{first}\n\n46<｜end▁of▁sentence｜><｜User｜>really?<｜Assistant｜><think>\n"
    assert made.asked[1] == later
    assert made.asked[2] == f"{begin}<｜User｜>and now?<｜Assistant｜><think>\n"


def test_a_template_with_the_choice_thinks_or_not(
    model: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("q\n"))
    words = ["chat", "tiny-deepseek-llm", "--chat_template", "deepseek-v3.1"]
    for thinking, end in (("on", "<think>"), ("off", "</think>")):
        made = model("a</think>b", template="deepseek-v3.1")
        sys.stdin.seek(0)
        assert main([*words, "--thinking", thinking]) == 0
        assert made.asked[0].endswith(f"<｜Assistant｜>{end}")


@pytest.mark.parametrize("cut", range(1, 12))
def test_reasoning_and_answer_are_told_apart_wherever_the_pieces_end(cut: int) -> None:
    text = "<think>a<b</think>c</t<think>d"
    parting = Parting(False)
    pieces = [text[i : i + cut] for i in range(0, len(text), cut)]
    parts = [part for piece in pieces for part in parting.feed(piece)] + list(parting.end())
    reasoning = "".join(said for reasons, said in parts if reasons)
    answer = "".join(said for reasons, said in parts if not reasons)
    assert (reasoning, answer) == ("a<bd", "c</t")


class Terminal:
    """A pty in the place of stdin, stdout and stderr of this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ours, theirs = pty.openpty()
        monkeypatch.setattr(sys, "stdin", os.fdopen(os.dup(theirs), "r"))
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, os.fdopen(os.dup(theirs), "w"))
        os.close(theirs)
        self.seen = ""
        self._read = threading.Thread(target=self._reading, daemon=True)
        self._read.start()

    def _reading(self) -> None:
        while True:
            try:
                self.seen += os.read(self.ours, 4096).decode(errors="replace")
            except OSError:  # the other side is closed
                return

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def end(self) -> str:
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            stream.close()
        self._read.join(5)
        return self.seen


def test_ctrl_c_in_an_answer_stops_that_answer_alone(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    made = model("hm</think>one two three", "</think>four", "never</think>")

    def interrupt(place: int) -> None:
        stop = made.tokenizer("hm</think>one", add_special_tokens=False)["input_ids"]
        if len(made.asked) == 1 and place == len(stop):
            os.kill(os.getpid(), signal.SIGINT)

    made.meanwhile = interrupt
    terminal = Terminal(monkeypatch)
    terminal.type("first\nsecond\n\x04")
    code = main(["chat", "tiny-deepseek-llm", "--chat_template", "deepseek-r1"])
    seen = terminal.end()
    assert code == 0
    assert "\x1b[2mh" in seen  # the reasoning is dim
    assert "one" in seen
    assert "two" not in seen
    assert "(stopped)" in seen
    assert "four" in seen
    assert made.asked[1].count("one") == 1  # what was said of it stays in the conversation


def test_ctrl_c_at_the_prompt_ends_with_130(
    model: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model()

    class Interrupting(io.StringIO):
        def readline(self, *_: Any) -> Any:
            os.kill(os.getpid(), signal.SIGINT)
            return ""

    monkeypatch.setattr(sys, "stdin", Interrupting())
    assert main(["chat", "tiny-deepseek-llm", "--chat_template", "deepseek-r1"]) == 130
    assert "interrupted; the conversation is over" in capsys.readouterr().err


def test_a_real_model_streams_what_it_generates_and_repeats_it_by_its_seed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = []
    for seed in ("0", "0", "1"):
        assert talk(monkeypatch, "q\n", "--max_new_tokens", "12", "--seed", seed) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]
    assert said[0].isprintable() or "\n" in said[0]


def test_in_a_pipe_reasoning_that_follows_an_answer_is_set_apart_by_a_line() -> None:
    shown = io.StringIO()
    screen = Screen(Console(file=shown, markup=False, highlight=False))
    for reasons, text in ((False, "46"), (True, "Is it?"), (False, "It is.")):
        screen.show(reasons, text)
    screen.end()
    assert shown.getvalue() == "46\n[thinking]\nIs it?\n[answer]\nIt is.\n"
