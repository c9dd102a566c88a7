"""Run Python code that nobody has read, where it can do no harm: bubblewrap, or not at all.

Inside there is no network (not even loopback), no process but its own, no environment, and of
the file system only the system's programs and libraries and the Python installation, read-only.
``/tmp`` and ``/dev/shm`` are private, small and gone afterwards. It runs without capabilities,
without the system calls in :mod:`trl_deepseek.sandbox.seccomp` and, where we are root, as a user
that owns nothing. Limits: see :class:`Limits`.

It protects the machine from the code. It cannot keep code from cheating on tests that run in the
code's own interpreter.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import os
import platform
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from trl_deepseek.errors import ConfigError
from trl_deepseek.sandbox import seccomp
from trl_deepseek.sandbox.supervise import Limits, Outcome, supervise
from trl_deepseek.workers.supervised import end_with_parent

INSTALL = "apt-get install bubblewrap"
ALLOW = "--allow_unsandboxed_code"
NOBODY = 65534
ENVIRONMENT = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "MALLOC_ARENA_MAX": "2",  # else each thread takes 64 MiB of the limit on addresses
    "OMP_NUM_THREADS": "1",  # libraries that start a thread per core would spend the limit
    "OPENBLAS_NUM_THREADS": "1",
    "PATH": "/usr/bin:/bin",
}
PROGRAM = "/program.py"
DISKS = ("/tmp", "/dev/shm")  # private and in memory

# Sets the kernel's limits on itself and, as root, gives up being root; then becomes the program.
LAUNCHER = f"""
import json, os, resource, signal, sys
{inspect.getsource(end_with_parent)}
limits, user, parent, command = json.loads(sys.argv[1])
if parent:
    end_with_parent(parent)
for name, value in limits.items():
    which = getattr(resource, name)
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    try:
        resource.setrlimit(which, (value, value))
    except ValueError:
        if sys.platform == "linux":
            raise
if user is not None:
    os.setgroups([])
    for number in (user, 65534):
        try:
            os.setresgid(number, number, number)
            os.setresuid(number, number, number)
            break
        except OSError:
            continue
    if os.getuid() == 0:
        sys.exit("cannot stop being root")
os.execv(command[0], command)
"""


def run_python(
    program: str, stdin: str = "", limits: Limits | None = None, *, allow_unsandboxed: bool = False
) -> Outcome:
    """Run a Python program and say what became of it.

    Args:
        program: Its source; it runs as ``__main__``.
        stdin: What it reads.
        limits: What it may use; the defaults when None.
        allow_unsandboxed: Where there is no sandbox, run it with this user's rights all the same,
            in an empty folder with an empty environment. Its limits then hold for each process,
            not against one that means harm.

    Raises:
        ConfigError: There is no sandbox and running without was not allowed.
    """
    limits = limits or Limits()
    source = program.encode(errors="surrogatepass")
    if unavailable() is None:
        return _run_inside(source, stdin.encode(errors="surrogatepass"), limits)
    if not allow_unsandboxed:
        require()
    with tempfile.TemporaryDirectory(prefix="trl-deepseek-") as folder:
        file = Path(folder, "program.py")
        file.write_bytes(source)
        command = _launch(limits, None, os.getpid(), str(file))
        environment = {**ENVIRONMENT, "HOME": folder}
        return supervise(command, limits, stdin.encode(), env=environment, cwd=folder)


def require() -> None:
    """Check that code can be run in the sandbox here.

    Raises:
        ConfigError: It cannot; with the reason and the way out.
    """
    reason = unavailable()
    if reason is not None:
        raise ConfigError(
            f"generated code needs a sandbox to run in, and there is none: {reason}\n"
            f"  {_remedy(reason)}\n"
            f"  to run it with your own rights on this machine instead: {ALLOW}"
        )


@lru_cache(maxsize=1)
def unavailable() -> str | None:
    """Why there is no sandbox here, or None where there is one; tried once per process."""
    if shutil.which("bwrap") is None:
        return "the program bwrap (bubblewrap) is not installed"
    if seccomp.program() is None:
        return f"there is no filter of system calls for {platform.machine()}"
    try:
        outcome = _run_inside(b"print(6 * 7)", b"", Limits())
    except OSError as error:
        return f"bwrap cannot be started: {error}"
    if outcome.returncode == 0 and outcome.stdout == "42\n":
        return None
    said = outcome.stderr.strip().splitlines()
    return said[-1] if said else f"a trial run ended with code {outcome.returncode}"


def _remedy(reason: str) -> str:
    if "not installed" in reason:
        return f"install it with: {INSTALL}"
    if "no filter" in reason:
        return f"it is known for {' and '.join(seccomp.MACHINES)}"
    return (
        "bwrap needs user namespaces: as root, sysctl -w kernel.unprivileged_userns_clone=1 "
        "kernel.apparmor_restrict_unprivileged_userns=0, or start the container with them allowed"
    )


def _run_inside(source: bytes, stdin: bytes, limits: Limits) -> Outcome:
    with _in_memory(source) as program, _in_memory(seccomp.program() or b"") as calls:
        # As root, bwrap needs no user namespace, and the launcher can become a real other user,
        # which matters: the kernel does not hold root to a limit on processes.
        root = os.geteuid() == 0
        user = random.randrange(1 << 20, 1 << 30) if root else None
        inside = _bubblewrap(program, calls, limits, root)
        command = [*inside, *_launch(limits, user, 0, PROGRAM)]
        return supervise(command, limits, stdin, pass_fds=[program, calls], disks=DISKS)


def _bubblewrap(program: int, calls: int, limits: Limits, root: bool) -> list[str]:
    """The sandbox: everything is absent but what is listed here."""
    bwrap = shutil.which("bwrap") or "bwrap"
    spaces = ["pid", "net", "ipc", "uts", "cgroup-try", *([] if root else ["user"])]
    command = [bwrap, *(f"--unshare-{space}" for space in spaces)]
    command += ["--die-with-parent", "--new-session", "--cap-drop", "ALL", "--seccomp", str(calls)]
    if root:
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command += ["--uid", str(NOBODY), "--gid", str(NOBODY)]
    command += ["--hostname", "sandbox", "--clearenv"]
    for name, value in ENVIRONMENT.items():
        command += ["--setenv", name, value]
    command += _system()
    small = ["--perms", "1777", "--size", str(limits.file_size), "--tmpfs"]
    command += ["--dev", "/dev", *small, DISKS[1], "--remount-ro", "/dev", *small, DISKS[0]]
    command += ["--perms", "0444", "--ro-bind-data", str(program), PROGRAM]
    # There is no /proc: the code needs none, and it is a wide window.
    return [*command, "--remount-ro", "/", "--chdir", "/tmp", "--"]


def _system() -> list[str]:
    """The system's programs and libraries and this Python's installation, read-only."""
    command = ["--ro-bind", "/usr", "/usr", "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"):
        path = Path(name)
        if path.is_symlink():
            command += ["--symlink", os.readlink(name), name]
        elif path.is_dir():
            command += ["--ro-bind", name, name]
    prefix = Path(sys.base_prefix).resolve()
    if not prefix.is_relative_to("/usr"):
        if Path.home().resolve().is_relative_to(prefix):
            raise OSError(f"Python is installed in {prefix}, where the user's own files are")
        for parent in reversed(prefix.parents[:-1]):  # else as closed to others as they are here
            command += ["--perms", "0755", "--dir", str(parent)]
        command += ["--ro-bind", str(prefix), str(prefix)]
    return command


def _launch(limits: Limits, user: int | None, parent: int, program: str) -> list[str]:
    # The interpreter itself, not the virtual environment's link to it, which is not there inside.
    python = str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
    kernel = {
        "RLIMIT_CPU": math.ceil(limits.cpu_time),
        "RLIMIT_FSIZE": limits.file_size,
        "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": 256,
        "RLIMIT_NPROC": limits.processes,
        "RLIMIT_AS": limits.memory,
    }
    command = [python, "-I", "-B", program]
    return [python, "-I", "-S", "-c", LAUNCHER, json.dumps([kernel, user, parent, command])]


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[int]:
    """A file descriptor that reads as ``data``."""
    descriptor = os.memfd_create("program")
    try:
        os.write(descriptor, data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)
