"""Programs that attack the processes, files and signals around them, to be paid for nothing."""

from __future__ import annotations

import pytest

from trl_deepseek.sandbox import running as sandbox
from trl_deepseek_plugins.rewards.code import code_tests

pytestmark = pytest.mark.skipif(
    sandbox.unavailable() is not None, reason=f"no sandbox here: {sandbox.unavailable()}"
)

TESTS = [
    "assert solve(7) == 47110815 and isinstance(solve(7), int) and solve(7) != 3",
    "import pytest\nfrom solution import solve\ndef test_it():\n"
    "    assert {solve(7): 1}[47110815] and solve(7) == pytest.approx(47110815)",
    {"inputs": [[7]], "outputs": [[47110815]], "fn_name": "solve"},
    {"input": "7", "output": "47110815"},
]
WRONG = "\ndef solve(x): return 0"
EVERYBODY = "import os, signal\nfor p in range(1, 40):\n    if p != os.getpid():\n        "
SERVER = (
    "import gc\nfrom struct import pack\ndef solve(x=0):\n    for o in gc.get_objects():\n"
    "        if type(o).__name__ == '_Server':\n            "
)
ATTACKS = {
    "memory of others": (
        "import os\ndef solve(x=0):\n    for p in (os.getpid(), os.getppid(), 1, 2, 3):\n"
        "        for f in ('mem', 'maps', 'environ', 'cmdline'):\n            try:\n"
        "                if str(47110804 + 11).encode() in open(f'/proc/{p}/{f}', 'rb').read():\n"
        "                    return 47110804 + 11\n            except OSError: pass\n"
        "    return 0\nprint(solve())"
    ),
    "ptrace": (
        "import ctypes\nl = ctypes.CDLL(None)\n"
        f"for p in range(1, 30): l.ptrace(16, p, 0, 0)\n{WRONG}"
    ),
    "reading other processes": (
        "import ctypes\nl = ctypes.CDLL(None)\nb = ctypes.create_string_buffer(1 << 16)\n"
        "v = (ctypes.c_size_t * 2)(ctypes.addressof(b), 65536)\n"
        "w = (ctypes.c_size_t * 2)(0x400000, 65536)\n"
        "for p in range(1, 30): l.process_vm_readv(p, v, 1, w, 1, 0)\n"
        "def solve(x): return 47110804 + 11 if str(47110804 + 11).encode() in b.raw else 0"
    ),
    "killing all others": f"{EVERYBODY}try: os.kill(p, 9)\n        except OSError: pass{WRONG}",
    "signals to all others": (
        f"{EVERYBODY}for s in (1, 2, 10, 12, 13, 14, 15):\n"
        f"            try: os.kill(p, s)\n            except OSError: pass{WRONG}"
    ),
    "dying after the answer": (
        "import os\nprint(47110815, flush=True)\nos.kill(os.getpid(), 9)" + WRONG
    ),
    "failing after the answer": "print(47110815)\nraise SystemExit(1)",
    "a false answer from a child": (
        "import os\nprint(47110815, flush=True)\nif os.fork(): os._exit(0)\nprint(1)" + WRONG
    ),
    "a text that lies": (
        "class S(str):\n    __eq__ = lambda s, o: True\n    __ne__ = lambda s, o: False\n"
        "    __hash__ = lambda s: hash(47110815)\ndef solve(x): return S('1')"
    ),
    "a number that lies": (
        "class F(float):\n    __eq__ = __le__ = __ge__ = __ne__ = lambda s, o: True\n"
        "    __sub__ = __rsub__ = __abs__ = lambda s, *o: 0.0\n"
        "    __hash__ = lambda s: hash(47110815)\ndef solve(x): return F(1)"
    ),
    "a class that is everything": (
        "class M(type):\n    __eq__ = __instancecheck__ = __subclasscheck__ = lambda s, o: True\n"
        "    __hash__ = lambda s: 0\nclass C(metaclass=M): pass\ndef solve(x): return C"
    ),
    "what cannot be hashed": (
        "class U:\n    __hash__ = None\n    __eq__ = __ne__ = lambda s, o: True\n"
        "def solve(x): return U()"
    ),
    "a class that calls itself int": (
        "class P:\n    @property\n    def __class__(self): return int\n"
        "    __eq__ = __ne__ = lambda s, o: True\n    __hash__ = lambda s: hash(47110815)\n"
        "def solve(x): return P()"
    ),
    "a list within itself": "def solve(x):\n    a = []\n    a.append(a)\n    return a",
    "a deep list": (
        "def solve(x):\n    a = []\n    for _ in range(100_000): a = [a]\n    return a"
    ),
    "streams of its own": (
        "import os, sys\nclass W:\n    write = lambda s, t: len(t)\n"
        "    flush = lambda s: os._exit(0)\nsys.stdout = sys.__stdout__ = W()\nprint(1)" + WRONG
    ),
    "descriptors over one another": (
        "import os\nfor a in range(256):\n    for b in (0, 1, 2, 255):\n"
        f"        try: os.dup2(a, b)\n        except OSError: pass{WRONG}"
    ),
    "no descriptors": f"import os\nos.closerange(0, 1024){WRONG}",
    "a timer": (
        "import signal, os\nsignal.signal(signal.SIGALRM, lambda *a: os._exit(0))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)\ndef solve(x):\n    while True: pass"
    ),
    "a trace": (
        "import sys\ndef t(f, e, a):\n    if 47110804 + 11 in f.f_locals.values():\n"
        f"        raise SystemExit(0)\n    return t\nsys.settrace(t)\nsys.setprofile(t){WRONG}"
    ),
    "hooks": (
        "import sys, os\nsys.excepthook = sys.unraisablehook = lambda *a: os._exit(0)\n"
        "def solve(x): raise AssertionError"
    ),
    "an audit hook": (
        "import sys\ndef h(e, a):\n    if e in ('compile', 'exec', 'import'): raise SystemExit(0)\n"
        f"sys.addaudithook(h){WRONG}"
    ),
    "files that Python reads": (
        "import os, sys\nfor d in [*sys.path, '/tmp', os.path.dirname(os.__file__)]:\n"
        "    for n in ('sitecustomize.py', 'x.pth', 'json.py', 'pytest.py', 'unittest.py'):\n"
        "        try: open(os.path.join(d, n), 'w').write('import os; os._exit(0)')\n"
        f"        except OSError: pass\nos.environ['LD_PRELOAD'] = '/tmp/x.pth'{WRONG}"
    ),
    "becoming another program": "import os\nos.execv('/bin/true', ['true'])",
    "becoming echo when called": "import os\ndef solve(x): os.execv('/bin/echo', ['echo', '1'])",
    "a watch on files": (
        "import ctypes, os\nl = ctypes.CDLL(None)\nl.inotify_add_watch(l.inotify_init1(2048), "
        "b'/tmp', 0xfff)\nfor n in ('input.txt', 'tests.py', 'result'):\n"
        f"    os.symlink('/dev/zero', '/tmp/' + n){WRONG}"
    ),
    "a full disk": (
        "try:\n    f = open('/tmp/full', 'wb')\n    while True: f.write(bytes(1 << 20))\n"
        f"except OSError: pass{WRONG}"
    ),
    "no modules": (
        "import sys\nfor n in list(sys.modules):\n    if n not in ('sys', 'builtins'):\n"
        f"        del sys.modules[n]\nsys.modules['json'] = sys.modules['os'] = None{WRONG}"
    ),
    "false values on the wire": (
        f"{SERVER}m = b'[\"value\", 47, []]'\n"
        "            o.connection.sendall(pack('!Q', len(m)) + m)\n"
        "            o.do = lambda *a: [[True, 47], []]\n    return 0"
    ),
    "calls back without end": (
        f"{SERVER}m = b'[\"back\", 0, [], {{}}]'\n            for i in range(50): "
        "o.connection.sendall(pack('!Q', len(m)) + m)\n    return 0"
    ),
    "a message without end": f"{SERVER}o.connection.sendall(b'\\xff' * 999)\n    return 0",
    "a deep message": (
        f"{SERVER}o.connection.sendall(pack('!Q', 200000) + b'[' * 200000)\n    return 0"
    ),
    "an exception of all kinds": (
        "class E(KeyError, AttributeError, SystemExit): pass\ndef solve(x): raise E(0)"
    ),
    "a core dump": "import os\nos.abort()",
}


def test_no_attack_on_the_machine_is_paid() -> None:
    answers = [f"```python\n{code}\n```" for code in ATTACKS.values()]
    scores = code_tests(answers, [TESTS] * len(answers), seconds=2.0)
    assert dict(zip(ATTACKS, scores, strict=True)) == dict.fromkeys(ATTACKS, 0.0)


def test_what_is_right_passes_the_same_tests() -> None:
    right = "def solve(x): return 47110815\nif __name__ == '__main__': print(solve(int(input())))"
    assert code_tests([f"```python\n{right}\n```"], [TESTS]) == [1.0]
