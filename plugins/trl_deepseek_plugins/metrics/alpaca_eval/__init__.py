"""AlpacaEval: how often a judge prefers a model's answers to a baseline's, length set aside."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from trl_deepseek import hookimpl
from trl_deepseek.chat.reasoning import Completion, answer
from trl_deepseek.errors import ConfigError, DataError
from trl_deepseek.judging import Endpoint, prefer
from trl_deepseek.types import Register
from trl_deepseek_plugins.metrics.alpaca_eval import length_control
from trl_deepseek_plugins.metrics.alpaca_eval.annotations import read_annotations

logger = logging.getLogger(__name__)

INSTRUCTIONS = (
    "You judge which of two responses to an instruction its author would prefer: one that does "
    "what was asked, is true, and is no longer and no shorter than it should be."
)


@hookimpl
def register_metrics(register: Register) -> None:
    register(
        "alpaca_eval",
        alpaca_eval,
        columns=("baseline", "index"),
        format_row=format_row,
        check=check,
    )


def format_row(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A row with ``prompt``, ``baseline`` and ``index``, of one of a file of model outputs.

    Such a file has ``instruction`` and ``output``, perhaps ``generator`` and ``dataset``.
    """
    if "prompt" in row and "baseline" in row:
        return {"index": number, **row}
    return {
        **{name: row[name] for name in ("generator", "dataset") if name in row},
        "prompt": [{"role": "user", "content": row["instruction"]}],
        "baseline": row["output"],
        "index": row.get("index", number),
    }


def check(options: Mapping[str, Any], num_samples: int) -> str | None:
    """What is wrong with the options, or None."""
    for module in ("sklearn", "pandas"):
        if importlib.util.find_spec(module) is None:
            return (
                f"the length-controlled win rate needs {module!r}, which is not installed\n"
                '  install it with: pip install "trl-deepseek[alpaca-eval]"'
            )
    if not isinstance(options["instructions"], str):
        return f"instructions are {options['instructions']!r}; they must be text"
    try:
        if options["baseline_data"] is not None:
            length_control.read_gamed(options["baseline_data"])
        if options["annotations"] is not None:
            read_annotations(options["annotations"])
        else:
            Endpoint.of("alpaca_eval", options["endpoint"])
    except (ConfigError, DataError, ValueError) as error:
        return str(error)
    except OSError as error:
        return f"a file cannot be read: {error}"
    if options["annotations"] is not None and options["endpoint"]:
        return "endpoint is for a judge that is asked, and annotations say what one has said"
    return None


async def alpaca_eval(
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    baseline: Sequence[str],
    index: Sequence[int],
    generation_prefix: str | None = None,
    annotations: str | None = None,
    baseline_data: str | None = None,
    instructions: str = INSTRUCTIONS,
    endpoint: Mapping[str, Any] | None = None,
) -> list[dict[str, float] | None]:
    """The preference for the model's answer over the baseline's, 0.0 to 1.0, a tie 0.5.

    ``length_controlled`` is what the preference would be at equal length: with ``baseline_data``
    the published one, without it that of the minimal formula, which knows no difficulty of an
    instruction. A judge that is asked is asked in both orders, see ``win_rate``, and
    ``position_bias`` says how much the order mattered. Lengths are in characters, of the answer
    without its reasoning. Abstains where the judge is not sure;
    fewer than five judged rows give no ``length_controlled``.

    Source: AlpacaEval, arXiv:2404.04475; :mod:`.length_control`.

    Differs: AlpacaEval's own annotator asks once per pair, in an order drawn at random, and reads
    the probability of the verdict; it reports percent.

    Args:
        prompts: The instructions.
        completions: This model's answers.
        baseline: The answers of the file.
        index: Place of each instruction in AlpacaEval's file.
        generation_prefix: What the prompt has opened.
        annotations: A file of AlpacaEval's annotations, whose preferences are taken instead of
            asking; it has to hold these very answers.
        baseline_data: AlpacaEval's ``df_gamed.csv``.
        instructions: What an asked judge judges by.
        endpoint: As in ``win_rate``.

    Raises:
        DataError: The annotations lack an answer, or the baseline data an instruction.
    """
    gamed = None if baseline_data is None else length_control.read_gamed(baseline_data)
    unknown = [] if gamed is None else [i for i in index if i not in gamed.difficulty]
    if unknown:
        raise DataError(
            f"alpaca_eval: {baseline_data} knows no instruction {unknown[0]}: rows are "
            "AlpacaEval's, in its order, or have a column 'index' that says which they are"
        )
    own = [answer(completion, generation_prefix) for completion in completions]
    found: list[dict[str, float] | None]
    if annotations is not None:
        known = read_annotations(annotations)
        found = [
            {"": known.preference(_instruction(prompt), said, base)}
            for prompt, said, base in zip(prompts, own, baseline, strict=True)
        ]
    else:
        asked = Endpoint.of("alpaca_eval", endpoint)
        said_of = await prefer("alpaca_eval", prompts, own, baseline, None, asked, instructions)
        found = [None if p is None else {"": p.value, "position_bias": p.bias} for p in said_of]
    judged = [place for place, value in enumerate(found) if value is not None]
    if len(judged) < length_control.FOLDS:
        logger.warning(
            "alpaca_eval: no length-controlled win rate, which needs %d judged rows: there are %d",
            *(length_control.FOLDS, len(judged)),
        )
        return found
    at_equal_length = length_control.at_equal_length(
        [(found[place] or {})[""] for place in judged],
        [len(own[place]) for place in judged],
        [len(baseline[place]) for place in judged],
        [index[place] for place in judged],
        gamed,
    )
    for place, value in zip(judged, at_equal_length, strict=True):
        found[place] = {**(found[place] or {}), "length_controlled": value}
    return found


def _instruction(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
