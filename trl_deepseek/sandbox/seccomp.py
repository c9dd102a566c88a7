"""The system calls that generated code may not make, as a filter that the kernel runs.

Namespaces hide what is outside; this closes what they leave open: making namespaces of one's own
(and mounting memory in them), memory that belongs to no process and so escapes its limits, sockets
that no network namespace covers (vsock), and parts of the kernel that a test never needs.
"""

from __future__ import annotations

import errno
import platform
import struct

# Number of each refused call on x86_64 and aarch64; newer calls have one number everywhere.
REFUSED = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mq_open": (240, 180),
    "msgctl": (71, 187),
    "msgget": (68, 186),
    "msgrcv": (70, 188),
    "msgsnd": (69, 189),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "semctl": (66, 191),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "setns": (308, 268),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmget": (29, 194),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
MACHINES = {"x86_64": 0, "aarch64": 1}
AUDIT = (0xC000003E, 0xC00000B7)  # what the kernel calls the two machines
SOCKET, SETSOCKOPT, CLONE, CLONE3 = (41, 198), (54, 208), (56, 220), 435
BUFFERS = (7, 8, 32, 33)  # SO_SNDBUF, SO_RCVBUF and FORCE: how much waits in a socket is counted
X32 = 0x40000000  # from here on, x86_64 numbers mean another interface
NEW_NAMESPACE = 0x7E020000  # any of the CLONE_NEW* flags
AF_UNIX = 1

# Classic BPF: load a 32-bit word, compare it, return.
LOAD, EQUAL, ABOVE, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, MACHINE, FIRST_ARGUMENT, THIRD_ARGUMENT = (
    0,
    4,
    16,
    32,
)  # where in the kernel's struct seccomp_data
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000


def program(machine: str | None = None) -> bytes | None:
    """The filter for this machine, as ``bwrap --seccomp`` reads it; None where there is none."""
    place = MACHINES.get(machine or platform.machine())
    if place is None:
        return None
    code = [
        _step(LOAD, MACHINE),
        _step(EQUAL, AUDIT[place], yes=1),
        _step(RETURN, KILL),
        _step(LOAD, NUMBER),
    ]
    if place == 0:
        code += [_step(ABOVE, X32, no=1), _step(RETURN, REFUSE | errno.ENOSYS)]
    for numbers in REFUSED.values():
        code += [_step(EQUAL, numbers[place], no=1), _step(RETURN, REFUSE | errno.EPERM)]
    code += [
        # clone3 hides its flags from filters; the C library then falls back to clone.
        _step(EQUAL, CLONE3, no=1),
        _step(RETURN, REFUSE | errno.ENOSYS),
        _step(EQUAL, CLONE[place], no=4),
        _step(LOAD, FIRST_ARGUMENT),
        _step(ANY_BIT, NEW_NAMESPACE, no=1),
        _step(RETURN, REFUSE | errno.EPERM),
        _step(RETURN, ALLOW),
        _step(EQUAL, SETSOCKOPT[place], no=len(BUFFERS) + 3),
        _step(LOAD, THIRD_ARGUMENT),
        *(_step(EQUAL, name, yes=len(BUFFERS) - i) for i, name in enumerate(BUFFERS)),
        _step(RETURN, ALLOW),
        _step(RETURN, REFUSE | errno.EPERM),
        _step(EQUAL, SOCKET[place], no=3),
        _step(LOAD, FIRST_ARGUMENT),
        _step(EQUAL, AF_UNIX, yes=1),
        _step(RETURN, REFUSE | errno.EACCES),
        _step(RETURN, ALLOW),
    ]
    return b"".join(code)


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    """One instruction; ``yes`` and ``no`` are how many to skip after a comparison."""
    return struct.pack("=HBBI", code, yes, no, value)
