"""Post-training in stages: a recipe says which, each starts where an earlier one ended."""

from trl_deepseek.pipeline.progress import Progress
from trl_deepseek.pipeline.recipe import Recipe, Stage, read

__all__ = ["Progress", "Recipe", "Stage", "read"]
