"""One page about a run or a recipe, ``report.html``, made of nothing but the files in its folder.

``reading`` finds the runs in a folder and what each has written down; ``curves`` and
``completions`` choose what is shown of it; ``page`` lays it out. The page needs no network, and no
file beside it. A run that is unfinished, or was killed, is reported like any other.
"""

from trl_deepseek.report.page import write, written_beside

__all__ = ["write", "written_beside"]
