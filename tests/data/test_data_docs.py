from __future__ import annotations

import re
from pathlib import Path
from typing import Any


def test_the_examples_of_the_data_page_run(repository: Path) -> None:
    text = (repository / "docs" / "data.md").read_text(encoding="utf-8")
    renamed, mixed, task = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(renamed, names)
    assert names["rows"].column_names == ["prompt", "chosen", "rejected"]
    exec(mixed, names)
    assert "prompt" in names["mixture"].column_names
    exec(task, names)
    assert len(names["rows"]) == 100
