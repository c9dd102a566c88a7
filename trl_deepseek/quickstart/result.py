"""What the quickstart finds: a row for each stage, points of the curves."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trl_deepseek.evaluation import Evaluation


@dataclass(frozen=True)
class Stage:
    """One row of the final table.

    Attributes:
        name: ``sft`` or ``grpo``.
        exact_match: Share of held-out questions answered right, greedily.
        thinks: Share of held-out answers with well-formed ``<think>...</think>``.
        mean_length: Mean tokens per held-out answer.
        reward: Mean training reward over the stage's last tenth; None where nothing was rewarded.
        seconds: Training time, evaluations included.
    """

    name: str
    exact_match: float
    thinks: float
    mean_length: float
    reward: float | None
    seconds: float


@dataclass(frozen=True)
class Point:
    """One point of the curves.

    Attributes:
        stage: ``sft`` or ``grpo``.
        step: Optimizer steps since the stage began.
        exact_match: As in :class:`Stage`, of some of the questions; so are the next two.
        thinks: As in :class:`Stage`.
        mean_length: As in :class:`Stage`.
        made_to_think: Share answered right where the answer is made to begin with ``<think>``: what
            the model could do, if it chose to.
    """

    stage: str
    step: int
    exact_match: float
    thinks: float
    mean_length: float
    made_to_think: float


@dataclass(frozen=True)
class Result:
    """What the job leaves behind."""

    stages: list[Stage]
    points: list[Point]
    evaluation: Evaluation  # of both stages, side by side
    seconds: float
    output_dir: Path

    def as_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {
            "stages": [asdict(stage) for stage in self.stages],
            "seconds": round(self.seconds, 1),
            "output_dir": str(self.output_dir),
        }
