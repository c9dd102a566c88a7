"""Answers from a model: load it by name, ask it many prompts at once, greedily or by a seed.

``load`` takes an embedded name, a folder, a hub id, or the folder of an adapter, which is put on
its base without merging. ``complete`` answers prompts, the same way whatever stands beside them.
"""

from trl_deepseek.generation.completing import complete, evaluating
from trl_deepseek.generation.loading import check, load
from trl_deepseek.generation.sampling import Completion, Sampling

__all__ = ["Completion", "Sampling", "check", "complete", "evaluating", "load"]
