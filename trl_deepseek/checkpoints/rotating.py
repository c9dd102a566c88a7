"""Remove the oldest checkpoints, never the last whole one."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from trl_deepseek.checkpoints import finding, writing


def rotate(folder: Path, limit: int | None, keep: Collection[Path]) -> None:
    """Keep ``limit`` checkpoints: those in ``keep``, and the youngest others.

    Args:
        folder: Of the run.
        limit: ``save_total_limit``; None or 0 for all.
        keep: Whole ones that must stay: the one just written, and the best.
    """
    if not limit or limit < 0:
        return
    # as transformers, by time: one with a higher step may be of an earlier run
    oldest_first = sorted(
        finding.steps(folder), key=lambda each: (each.stat().st_mtime_ns, finding.step_of(each))
    )
    others = [each for each in oldest_first if each not in keep]
    excess = len(oldest_first) - max(limit, len(keep))
    for checkpoint in others[: max(0, excess)]:
        writing.discard(checkpoint)
