"""Datasets: loaded by name, and brought into the layouts that the trainers read."""

from trl_deepseek.data.loading import check_lines, load, require_columns, source_of

__all__ = ["check_lines", "load", "require_columns", "source_of"]
