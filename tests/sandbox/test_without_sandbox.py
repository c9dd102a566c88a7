"""What happens where there is no sandbox, and what the watcher does by itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from trl_deepseek.errors import ConfigError
from trl_deepseek.sandbox import running as sandbox
from trl_deepseek.sandbox.supervise import Limits, supervise


@pytest.fixture
def no_bwrap(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PATH", "/nonexistent")
    sandbox.unavailable.cache_clear()
    yield
    sandbox.unavailable.cache_clear()


@pytest.mark.usefixtures("no_bwrap")
def test_without_bwrap_code_is_refused_with_the_install_command() -> None:
    with pytest.raises(ConfigError) as caught:
        sandbox.run_python("print(1)")
    assert str(caught.value) == (
        "generated code needs a sandbox to run in, and there is none: "
        "the program bwrap (bubblewrap) is not installed\n"
        "  install it with: apt-get install bubblewrap\n"
        "  to run it with your own rights on this machine instead: --allow_unsandboxed_code"
    )


@pytest.mark.usefixtures("no_bwrap")
def test_without_bwrap_code_runs_when_that_was_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "secret-of-the-user")
    program = "import os, sys; print(sys.stdin.read(), os.listdir('.'), 'A_TOKEN' in os.environ)"
    outcome = sandbox.run_python(program, "hello", allow_unsandboxed=True)
    assert (outcome.stdout, outcome.returncode) == ("hello ['program.py'] False\n", 0)


def test_a_bwrap_that_cannot_make_namespaces_is_no_sandbox(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    from pathlib import Path

    fake = Path(str(tmp_path), "bwrap")
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")
    sandbox.unavailable.cache_clear()
    try:
        assert sandbox.unavailable() == "bwrap: No permissions to create new namespace"
        with pytest.raises(ConfigError, match="user namespaces"):
            sandbox.require()
    finally:
        sandbox.unavailable.cache_clear()


def python(program: str) -> list[str]:
    return [sys.executable, "-I", "-c", program]


def test_input_that_nobody_reads_and_output_larger_than_a_pipe_pass_through() -> None:
    outcome = supervise(python("print('x' * 300_000)"), Limits(), b"y" * 1_000_000)
    assert (len(outcome.stdout), outcome.returncode) == (300_001, 0)
    echo = "import sys; sys.stdout.write(sys.stdin.read())"
    outcome = supervise(python(echo), Limits(), b"y" * 500_000)
    assert (outcome.stdout, outcome.returncode) == ("y" * 500_000, 0)


def test_bytes_that_are_no_text_are_replaced() -> None:
    outcome = supervise(python(r"import os; os.write(1, b'a\xff')"), Limits())
    assert outcome.stdout == "a\N{REPLACEMENT CHARACTER}"


def test_a_child_that_keeps_the_pipe_open_does_not_keep_us_waiting() -> None:
    program = "import subprocess; subprocess.Popen(['sleep', '3600']); print('done')"
    outcome = supervise(python(program), Limits(wall_time=600), env={"PATH": "/usr/bin:/bin"})
    assert (outcome.stdout, outcome.stopped_by) == ("done\n", None)
    outcome = supervise(
        python(program), Limits(wall_time=600), b"y" * 1_000_000, env={"PATH": "/usr/bin:/bin"}
    )
    assert (outcome.stdout, outcome.stopped_by) == ("done\n", None)
