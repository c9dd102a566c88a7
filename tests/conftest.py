from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from trl_deepseek import releases

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"


# A suite started in the background, or with nohup, inherits that signals are ignored, and so would
# what it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _no_plugins_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRL_DEEPSEEK_PLUGINS", raising=False)
    monkeypatch.delenv("TRL_DEEPSEEK_BLOCK", raising=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what an older transformers does not have."""
    for item in items:
        for mark in item.iter_markers("transformers"):
            if not releases.has(mark.args[0]):
                item.add_marker(pytest.mark.skip(reason=releases.needs(mark.args[0])))


@pytest.fixture
def repository() -> Path:
    return Path(__file__).parents[1]
