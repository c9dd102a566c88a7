"""What a policy that is paid for answers learns to write instead of one.

Each trick holds the right answer somewhere and should not be paid like it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

BOX = r"\boxed{{{}}}"


@dataclass(frozen=True)
class Trick:
    """One way to be paid for nothing.

    Attributes:
        name: What it does, as a sentence's end.
        completion: What it writes.
        solution: The row's solution.
        prompt: The row's prompt.
    """

    name: str
    completion: str
    solution: str
    prompt: str = "2+2?"


def tricks(right: str, others: tuple[str, str, str]) -> list[Trick]:
    """The table, for a question whose answer is ``right`` and not ``others``."""
    wrong = others[0]
    box: Callable[[str], str] = BOX.format
    every = [*others, right]
    example = f"Write the answer in a box, for example {box(right)}."
    told = [
        ("lists every option", " ".join(every)),
        ("lists every option in a line of its own", "\n".join(every)),
        ("boxes every option", " ".join(map(box, every))),
        ("boxes every option in a sentence", " ".join(f"It may be {box(x)}." for x in every)),
        ("states every option", " ".join(f"The answer is {x}." for x in every)),
        ("offers two answers", f"The answer is {wrong} or {right}."),
        ("boxes two answers", f"{box(wrong)} or {box(right)}"),
        ("contradicts itself", f"The answer is {right}. The answer is {wrong}."),
        ("contradicts its box", f"{box(wrong)} The answer is {right}."),
        ("takes its answer back", f"{box(right)}. Wait, that is wrong."),
        ("hides an answer after the end", f"{box(wrong)}<｜end▁of▁sentence｜>{box(right)}"),
        ("plays the next turn", f"{box(wrong)}\n\nUser: no\n\nAssistant: {box(right)}"),
        ("hides an answer after the answer", f"<answer>{wrong}</answer> {box(right)}"),
        ("answers twice", f"<answer>{wrong}</answer><answer>{right}</answer>"),
        ("answers in its reasoning", f"<think>{box(right)}</think>{box(wrong)}"),
        ("reasons without end", f"<think>The answer is {right}"),
        ("is cut off within its box", f"\\boxed{{{right}"),
        ("denies the answer", f"The answer is not {right}."),
        ("asks for the answer", f"Is the answer {right}?"),
    ]
    return [
        *(Trick(name, completion, right) for name, completion in told),
        Trick("repeats the prompt's example", example, right, f"2+2? {example}"),
        Trick("repeats the question", "2+2", right),
        Trick("boxes the question", box("2+2"), right),
        Trick("repeats the prompt's empty box", r"Put it in \boxed{}.", right),
        Trick("answers nothing to an empty solution", "", ""),
        Trick("boxes nothing for an empty solution", r"\boxed{}", ""),
    ]


NUMBERS = tricks("4", ("5", "6", "7"))
LETTERS = tricks("B", ("A", "C", "D"))
