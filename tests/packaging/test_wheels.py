"""The wheel is whole, and a stranger's distribution beside it is found through its entry point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
THIRD_PARTY = ROOT / "examples" / "third_party_plugin"


def run(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def build_wheel(source: Path, into: Path) -> Path:
    # Without isolation, since a test must not need the network; setuptools is a test requirement.
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--no-index", "--wheel-dir", into, source)
    (wheel,) = into.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our own wheel, built from what git would ship, so that no stale build folder takes part."""
    source = tmp_path_factory.mktemp("source")
    listed = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    for name in run(*listed, cwd=ROOT).splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    return build_wheel(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with both wheels; the heavy libraries are lent from this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "lent.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    theirs = build_wheel(THIRD_PARTY, tmp_path_factory.mktemp("theirs"))
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, theirs)
    return folder


def test_the_wheel_contains_every_module_template_and_data_file(wheel: Path) -> None:
    shipped = set(zipfile.ZipFile(wheel).namelist())
    wanted = set()
    for root in (ROOT, ROOT / "plugins"):
        for package in root.glob("trl_deepseek*"):
            for path in package.rglob("*"):
                if path.suffix in (".py", ".jinja", ".json", ".typed") and path.is_file():
                    wanted.add(str(path.relative_to(root)))
    assert len(wanted) > 30
    assert {name for name in wanted if "__pycache__" not in name} <= shipped


def test_a_third_party_reward_is_listed_with_its_distribution(environment: Path) -> None:
    rows = json.loads(run(environment / "bin" / "trl-deepseek", "plugins", "--json"))
    (row,) = [row for row in rows if row["distribution"] == "acme-rewards"]
    assert (row["kind"], row["version"]) == ("reward", "0.1.0")
    assert Path(row["file"]).is_relative_to(environment)
    ours = [row for row in rows if row["distribution"] == "trl-deepseek"]
    assert all(Path(row["file"]).is_relative_to(environment) for row in ours)
    assert {row["kind"] for row in rows}.isdisjoint({"broken", "blocked"})


@pytest.mark.slow
def test_a_third_party_reward_is_used_by_name_from_the_wheels(
    environment: Path, tmp_path: Path
) -> None:
    rows = json.loads(run(environment / "bin" / "trl-deepseek", "plugins", "--json"))
    (name,) = [row["name"] for row in rows if row["distribution"] == "acme-rewards"]
    options = {
        "model_name_or_path": "tiny-deepseek-llm",
        "dataset_name": "arithmetic",
        "reward_funcs": name,
        "chat_template": "deepseek-r1",
        "max_steps": 1,
        "logging_steps": 1,
        "max_completion_length": 8,
        "output_dir": tmp_path / "out",
        "report_to": "none",
    }
    flags = [word for option, value in options.items() for word in (f"--{option}", value)]
    command = (environment / "bin" / "trl-deepseek", "grpo", *flags, "--json")
    printed = json.loads(run(*command, cwd=tmp_path))
    assert printed["output_dir"] == str(tmp_path / "out")
    state = json.loads(next((tmp_path / "out").glob("checkpoint-*/trainer_state.json")).read_text())
    assert f"rewards/{name}/mean" in state["log_history"][0]
    assert os.environ["HF_HUB_OFFLINE"] == "1"
