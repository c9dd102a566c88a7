r"""Score rows of answers with this package, TRL's ``accuracy_reward`` and math-verify's default.

    python benchmarks/answers.py [--rows tests/answers] [--json]

A false positive is a wrong answer that is paid, a false negative a right one that is not; an
abstention counts as not paid. The rows of ``math_accuracy`` and ``numeric_match`` count; what
follows the reasoning is given to all three.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def collect(folder: Path) -> list[dict[str, Any]]:
    """Rows whose solution is text and whose expected score says right or wrong."""
    found = []
    for file in sorted(folder.glob("*.jsonl")):
        for row in map(json.loads, file.read_text().splitlines()):
            if row["reward"] in ("math_accuracy", "numeric_match") and row["expected"] is not None:
                found.append(row)
    return found


def main() -> int:
    """Print the table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, default=Path("tests/answers"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    from math_verify import parse, verify
    from trl.rewards import accuracy_reward

    from trl_deepseek import load_registry
    from trl_deepseek.chat.reasoning import answer

    rewards = load_registry().rewards
    rows = collect(options.rows)
    names = ("trl-deepseek", "TRL accuracy_reward", "math-verify default")
    figures = {name: {"false_positives": 0, "false_negatives": 0, "abstained": 0} for name in names}
    right = sum(row["expected"] == 1.0 for row in rows)
    for row in rows:
        said = answer(row["completion"], row.get("generation_prefix"))
        gold = row["columns"]["solution"]
        text = str(gold)
        message = [[{"role": "assistant", "content": said}]]
        scores = (
            rewards[row["reward"]](completions=[row["completion"]], solution=[gold])[0],
            accuracy_reward(message, [text])[0],
            float(verify(parse(text), parse(said))),
        )
        for name, score in zip(names, scores, strict=True):
            paid, figure = score == 1.0, figures[name]
            figure["abstained"] += score is None
            figure["false_positives"] += paid and row["expected"] != 1.0
            figure["false_negatives"] += not paid and row["expected"] == 1.0
    if options.json:
        print(json.dumps({"rows": len(rows), "right": right, "scored_by": figures}))
        return 0
    print(f"{len(rows)} rows, {right} right, {len(rows) - right} wrong")
    print("| scored by | wrong answers paid | right answers not paid | abstained |")
    print("|---|---|---|---|")
    for name, figure in figures.items():
        print(f"| {name} | {' | '.join(map(str, figure.values()))} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
