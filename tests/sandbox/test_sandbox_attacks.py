"""Programs that mean harm, run in the sandbox: each says BREACH where it got what it wanted."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import psutil
import pytest

from trl_deepseek.sandbox.running import run_python, unavailable
from trl_deepseek.sandbox.supervise import Limits, Outcome

pytestmark = pytest.mark.skipif(
    unavailable() is not None, reason=f"no sandbox here: {unavailable()}"
)

PATIENCE = 60.0  # seconds, with a loaded machine; what these programs do takes for ever
NAME = f"hostile{os.getpid()}"  # how the kernel calls the program and all that it forks

# Each attempt must fail with OSError (or find nothing); the program must live to say so.
TRY = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl(15, b"{NAME}", 0, 0, 0)
"""
TRY += """
def attempt(what):
    try:
        got = what()
    except (OSError, ImportError) as error:
        print("refused", type(error).__name__, flush=True)
    else:
        print("BREACH", got, flush=True)
"""


def run(program: str, limits: Limits | None = None) -> Outcome:
    outcome = run_python(TRY + program, limits=limits)
    deadline = time.monotonic() + 5  # the kernel ends a whole PID namespace, but not at once
    while any(process.info["name"] == NAME for process in psutil.process_iter(["name"])):
        assert time.monotonic() < deadline, "the sandbox left a process behind"
        time.sleep(0.01)
    return outcome


def contained(outcome: Outcome, attempts: int) -> None:
    assert "BREACH" not in outcome.stdout, outcome.stdout
    assert outcome.stdout.count("refused") == attempts, outcome
    assert outcome.returncode == 0, outcome.stderr


def test_an_honest_program_runs_with_its_input_and_the_standard_library() -> None:
    program = "import json, sys; print(json.loads(sys.stdin.read())['a'] + 1)"
    outcome = run_python(program, '{"a": 41}')
    assert (outcome.stdout, outcome.stderr, outcome.returncode) == ("42\n", "", 0)
    assert outcome.stopped_by is None


def test_threads_fit_into_the_limits() -> None:
    program = """
import threading, time
threads = [threading.Thread(target=time.sleep, args=(0.2,)) for _ in range(20)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(threads))
"""
    assert run(program).stdout == "20\n"


def test_home_and_other_files_of_the_user_are_not_there(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    for path in [
        secret,
        Path.home() / ".ssh",
        Path(__file__),
        Path("/etc/passwd"),
        Path("/proc/1"),
    ]:
        contained(run(f"attempt(lambda: os.stat({str(path)!r}))"), 1)
    listing = run(
        f"print(os.path.isdir({str(Path.home())!r}) and os.listdir({str(Path.home())!r}))"
    )
    # At most the way to a Python that is installed below the home folder.
    assert listing.stdout.strip() in {"False", "['.pyenv']", "['miniconda3']", "['.local']"}


def test_the_environment_holds_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "secret-of-the-user")
    outcome = run("print(dict(os.environ)); print('done')")
    assert "secret-of-the-user" not in outcome.stdout
    assert outcome.stdout.endswith("done\n")
    assert "secret-of-the-user" in run_outside("import os; print(dict(os.environ))")


def run_outside(program: str) -> str:
    """What the same program sees without the sandbox, so that a test cannot pass by accident."""
    import subprocess
    import sys

    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    ).stdout


def test_nothing_outside_can_be_written(tmp_path: Path) -> None:
    targets = ["/x", "/usr/x", "/etc/x", "/dev/x", "/program.py", str(tmp_path / "x")]
    program = f"for path in {targets}:\n    attempt(lambda: open(path, 'w').write('x'))"
    contained(run(program), len(targets))
    assert list(tmp_path.iterdir()) == []
    assert run("open('/tmp/x', 'w').write('x'); print(os.listdir('/tmp'))").stdout == "['x']\n"
    assert run("print(os.listdir('/tmp'))").stdout == "[]\n"


def test_no_socket_reaches_anything_loopback_included(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(tmp_path / "socket"))
        local.listen()
        port = server.getsockname()[1]
        connect = (
            f"import socket; s = socket.create_connection(('127.0.0.1', {port}), 2); print('in')"
        )
        assert run_outside(connect) == "in\n"
        program = f"""
import socket
attempt(lambda: socket.create_connection(("127.0.0.1", {port}), 2))
attempt(lambda: socket.create_connection(("8.8.8.8", 53), 2))
attempt(lambda: socket.getaddrinfo("localhost.localdomain.example", 80))
attempt(lambda: socket.socket(socket.AF_UNIX).connect({str(tmp_path / "socket")!r}))
attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
"""
        contained(run(program), 5)


def test_it_cannot_signal_or_trace_anyone_else() -> None:
    program = f"""
libc = ctypes.CDLL(None, use_errno=True)
def trace(pid):
    if libc.ptrace(16, pid, 0, 0):
        raise OSError(ctypes.get_errno(), "ptrace")
for pid in ({os.getpid()}, {os.getppid()}):
    attempt(lambda: os.kill(pid, 9))
    attempt(lambda: trace(pid))
"""
    contained(run(program), 4)
    run("os.kill(os.getppid(), 9)")
    run("os.kill(1, 9)")
    run("os.kill(-1, 9)")
    run("os.killpg(0, 9)")  # and we are here to see it


def test_a_fork_bomb_meets_the_limit_and_ends_with_its_parent() -> None:
    program = """
import time
made = 0
try:
    while made < 1000:
        if os.fork() == 0:
            time.sleep(3600)
        made += 1
except OSError:
    print("refused after", made < 40)
"""
    outcome = run(program)
    assert outcome.stdout == "refused after True\n"
    assert outcome.seconds < PATIENCE
    bomb = "while True:\n    try: os.fork()\n    except OSError: pass"
    assert run(bomb, Limits(wall_time=1.5)).stopped_by == "wall_time"


def test_a_daemon_does_not_outlive_the_run() -> None:
    program = """
import time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(3600)
    os._exit(0)
print("gone")
"""
    outcome = run(program)
    assert outcome.stdout == "gone\n"
    assert outcome.seconds < PATIENCE


def test_ten_gigabytes_of_memory_are_refused_or_end_the_run() -> None:
    program = """
try:
    hoard = bytearray(10 << 30)
except MemoryError:
    print("refused")
"""
    assert run(program).stdout == "refused\n"
    family = """
import time
for _ in range(6):
    if os.fork() == 0:
        hoard = bytearray(os.urandom(1)) * (150 << 20)
        time.sleep(3600)
time.sleep(3600)
"""
    outcome = run(family, Limits(memory=400 << 20))
    assert outcome.stopped_by == "memory"
    assert outcome.seconds < PATIENCE


def test_ten_gigabytes_of_files_are_refused() -> None:
    program = """
def fill(folder, files):
    for number in range(files):
        with open(f"{folder}/{number}", "wb") as file:
            for _ in range(10 << 10):
                file.write(bytes(1 << 20))
attempt(lambda: fill("/tmp", 1))
attempt(lambda: fill("/tmp", 10))
attempt(lambda: fill("/dev/shm", 10))
"""
    contained(run(program, Limits(file_size=8 << 20)), 3)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_endless_output_is_cut_and_ends_the_run(stream: str) -> None:
    outcome = run(f"while True: sys.{stream}.write('x' * 4096)", Limits(output=100_000))
    assert outcome.stopped_by == "output"
    assert len(getattr(outcome, stream)) == 100_000
    assert outcome.seconds < PATIENCE


def test_links_lead_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    program = f"""
os.symlink({str(secret)!r}, "/tmp/file")
os.symlink("/", "/tmp/root")
os.symlink("/proc/1/root", "/tmp/other")
attempt(lambda: open("/tmp/file").read())
attempt(lambda: open("/tmp/root{secret}").read())
attempt(lambda: open("/tmp/other{secret}").read())
attempt(lambda: open("/tmp/../../../..{secret}").read())
attempt(lambda: os.link("/program.py", "/tmp/copy"))
attempt(lambda: os.chroot("/tmp"))
attempt(lambda: open("/tmp/root/usr/bin/x", "w"))
"""
    contained(run(program), 7)


def test_it_is_nobody_and_has_no_capability() -> None:
    program = """
attempt(lambda: os.setuid(0))
attempt(lambda: os.chown("/program.py", os.getuid(), 0) if os.getuid() else print("BREACH"))
import resource, socket
attempt(lambda: socket.sethostname("x"))
def raise_limit():
    try:
        resource.setrlimit(resource.RLIMIT_NPROC, (resource.RLIM_INFINITY,) * 2)
    except ValueError as error:
        raise OSError(str(error)) from error
attempt(raise_limit)
"""
    contained(run(program), 4)


@pytest.mark.parametrize(
    ("program", "limits"),
    [
        ("while True: pass", Limits(cpu_time=1, wall_time=3600)),
        ("import time; time.sleep(3600)", Limits(wall_time=1)),
        (
            "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(3600)",
            Limits(wall_time=1),
        ),
        ("9 ** 9 ** 9", Limits(wall_time=1)),
        ("import threading; l = threading.Lock(); l.acquire(); l.acquire()", Limits(wall_time=1)),
    ],
)
def test_time_is_limited(program: str, limits: Limits) -> None:
    outcome = run(program, limits)
    assert outcome.returncode != 0
    assert outcome.seconds < PATIENCE


def test_many_runs_at_once_do_not_take_each_others_processes() -> None:
    outcomes: list[Outcome] = []
    bomb = "while True:\n    try: os.fork()\n    except OSError: pass"
    polite = "import subprocess; print(subprocess.run(['true']).returncode)"

    def attack() -> None:
        run_python(TRY + bomb, limits=Limits(wall_time=2))

    bomber = threading.Thread(target=attack)
    bomber.start()
    while not any(process.info["name"] == NAME for process in psutil.process_iter(["name"])):
        assert bomber.is_alive(), "the bomb did not go off"
    for _ in range(3):
        outcomes.append(run_python(polite))
    bomber.join()
    assert [outcome.stdout for outcome in outcomes] == ["0\n"] * 3


CALLS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    ctypes.set_errno(0)
    result = getattr(libc, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return name
"""


def test_it_cannot_make_namespaces_and_mount_memory_in_them() -> None:
    program = """
for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000):
    attempt(lambda: call("unshare", flag))
attempt(lambda: call("mount", b"x", b"/tmp", b"tmpfs", 0, None))
stack = ctypes.create_string_buffer(1 << 16)
child = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(lambda _: 0)
top = ctypes.c_void_p(ctypes.addressof(stack) + len(stack) - 16)
attempt(lambda: call("clone", child, top, 0x10000000 | 17, None))
attempt(lambda: call("setns", 0, 0))
"""
    contained(run(CALLS + program), 7)


def test_it_cannot_hold_memory_outside_of_its_processes() -> None:
    program = """
attempt(lambda: os.memfd_create("x"))
attempt(lambda: call("shmget", 1, 1 << 30, 0o1600))
attempt(lambda: call("semget", 1, 32000, 0o1600))
attempt(lambda: call("msgget", 1, 0o1600))
attempt(lambda: call("mq_open", b"/x", 0o102, 0o600, None))
"""
    contained(run(CALLS + program), 5)


@pytest.mark.parametrize(
    "hoard",
    [
        pytest.param(
            "for d in ('/tmp', '/dev/shm'):\n"
            "    with open(f'{d}/x', 'wb') as file: file.write(bytes(60 << 20))\n",
            id="files",
        ),
        pytest.param(
            "import socket\nfor _ in range(30):\n    if os.fork() == 0: break\nkept = []\n"
            "for _ in range(100):\n    kept.append(socket.socketpair())\n"
            "    for end in kept[-1]:\n        end.setblocking(False)\n        try:\n"
            "            while True: end.send(bytes(1 << 16))\n        except OSError: pass\n",
            id="sockets",
        ),
    ],
)
def test_what_is_held_outside_of_processes_counts_as_memory(hoard: str) -> None:
    outcome = run(f"{hoard}\nimport time\ntime.sleep(3600)", Limits(memory=100 << 20))
    assert outcome.stopped_by == "memory"


def test_sockets_hold_no_more_than_is_counted() -> None:
    program = """
import socket
a, b = socket.socketpair()
for option in (socket.SO_SNDBUF, socket.SO_RCVBUF, 32, 33):
    attempt(lambda: a.setsockopt(socket.SOL_SOCKET, option, 1 << 30))
a.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
"""
    contained(run(program), 4)


def test_what_processes_share_counts_once() -> None:
    program = """
import time
hoard = bytearray(b"x") * (60 << 20)
for _ in range(5):
    if os.fork() == 0:
        time.sleep(0.5)
        os._exit(0)
for _ in range(5): os.wait()
print("done")
"""
    assert run(program, Limits(memory=200 << 20)).stdout == "done\n"


def test_pools_of_processes_and_event_loops_work() -> None:
    program = """
import asyncio, math, multiprocessing
if __name__ == "__main__":
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            print(pool.map(math.sqrt, [4.0, 9.0]))
    value = multiprocessing.Value("i", 3)
    with value.get_lock():
        print(value.value)
    print(asyncio.run(asyncio.sleep(0, 5)))
"""
    outcome = run(program)
    assert (outcome.stdout, outcome.stderr) == ("[2.0, 3.0]\n[2.0, 3.0]\n3\n5\n", "")


def test_sockets_that_namespaces_do_not_cover_are_refused_and_pairs_work() -> None:
    program = """
import socket
for family in (40, 16, 17, 2, 10):  # vsock, netlink, packet, inet, inet6
    attempt(lambda: socket.socket(family, socket.SOCK_STREAM if family != 16 else socket.SOCK_RAW))
attempt(lambda: call("syscall", 425, 8, 0))  # io_uring_setup, by which calls could be made unseen
a, b = socket.socketpair()
a.send(b"x")
assert b.recv(1) == b"x"
import asyncio, threading, subprocess
assert asyncio.run(asyncio.sleep(0, 7)) == 7
threading.Thread(target=int).start()
assert subprocess.run(["true"]).returncode == 0
"""
    contained(run(CALLS + program), 6)


def test_the_filter_knows_its_machines_and_no_other() -> None:
    from trl_deepseek.sandbox import seccomp

    assert seccomp.program("sparc") is None
    for machine in seccomp.MACHINES:
        code = seccomp.program(machine)
        assert code is not None
        assert len(code) % 8 == 0
    for numbers in zip(*seccomp.REFUSED.values(), strict=True):
        assert len(set(numbers)) == len(numbers), "two calls have one number"
