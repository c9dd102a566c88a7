"""Whether a checkpoint that TRL or an earlier version wrote, without a manifest, is whole.

Checked by what transformers would read from it: the trainer's state, the weights (as far as their
headers tell), the optimizer, the scheduler and the random states.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

STATE = "trainer_state.json"
WEIGHTS = ("model", "pytorch_model", "adapter_model")
# Folders and files in which DeepSpeed and FSDP keep weights and optimizer, in pieces.
SHARDED = ("global_step*", "pytorch_model_fsdp*")
LONGEST_HEADER = 100 << 20  # as safetensors has it


def difference(folder: Path, *, only_model: bool) -> str | None:
    """The first thing that keeps a run from going on from ``folder``, in one clause; else None.

    Args:
        folder: The checkpoint.
        only_model: Whether the run saves models only, so that the rest may be absent.
    """
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{STATE} is missing"
    except (OSError, ValueError) as error:
        return f"{STATE} cannot be read: {error}"
    if not isinstance(state, dict) or not isinstance(state.get("global_step"), int):
        return f"{STATE} does not say which step it is of"
    sharded = [path for pattern in SHARDED for path in folder.glob(pattern)]
    found = _weights(folder, bool(sharded)) or _damaged(folder.glob("*.pt"))
    if found is not None:
        return found
    rest = {
        "optimizer.pt": sharded or (folder / "optimizer.pt").is_file(),
        # DeepSpeed's own scheduler is in its pieces too
        "scheduler.pt": sharded or (folder / "scheduler.pt").is_file(),
        "rng_state.pth": any(folder.glob("rng_state*.pth")),
    }
    if only_model and not any(rest.values()):
        return None
    missing = [name for name, there in rest.items() if not there]
    if missing:
        return f"{missing[0]} is missing"
    return _damaged(folder.glob("rng_state*.pth"))


def _weights(folder: Path, sharded: bool) -> str | None:
    files = []
    for stem in WEIGHTS:
        for suffix in ("safetensors", "bin"):
            index = folder / f"{stem}.{suffix}.index.json"
            if index.is_file():
                try:
                    named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
                except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
                    return f"{index.name} cannot be read: {error}"
                files += [folder / name for name in sorted(set(named))]
            files += [path for path in [folder / f"{stem}.{suffix}"] if path.is_file()]
    # several adapters lie in folders of their own
    files += folder.glob("*/adapter_model.safetensors")
    files += folder.glob("*/adapter_model.bin")
    if not files:
        return None if sharded else "the weights are missing"
    for file in files:
        if not file.is_file():
            return f"{file.name} is missing"
        found = torn_safetensors(file) if file.suffix == ".safetensors" else _damaged([file])
        if found is not None:
            return found
    return None


def torn_safetensors(file: Path) -> str | None:
    """Why a safetensors file cannot hold what its header says, in one clause; else None."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or not 0 < length <= min(size - 8, LONGEST_HEADER):
            return f"{file.name} is cut short or no safetensors file"
        try:
            header = json.loads(opened.read(length))
            ends = [
                each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"
            ]
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{file.name} has a damaged header"
    due = 8 + length + max(ends, default=0)
    return None if size == due else f"{file.name} has {size} bytes, not {due}"


def _damaged(files: Iterable[Path]) -> str | None:
    """The first of torch's files without a readable table of contents, which ends the file."""
    for file in sorted(files):
        if not zipfile.is_zipfile(file):
            return f"{file.name} is cut short or empty"
    return None
