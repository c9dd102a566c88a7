"""What lies in a checkpoint's torch files, seen before a run goes on from them.

They are pickles, and a pickle can hold calls. Here each is read as the resume will read it, by
torch's reader that knows tensors and plain values and runs nothing else; tensors stay on the disk.
``training_args.bin`` is not looked at: nobody reads it back.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from trl_deepseek.errors import describe

READ = ("*.pt", "*.pth", "pytorch_model*.bin", "adapter_model.bin")
SHOWN = 3  # names in a message


def unreadable(folder: Path) -> str | None:
    """The first torch file that cannot be taken back, in one clause; None where all can.

    Args:
        folder: The checkpoint; not the folders in it, which are DeepSpeed's or FSDP's to read.
    """
    import torch
    from transformers.trainer_pt_utils import safe_globals

    for file in sorted(path for pattern in READ for path in folder.glob(pattern)):
        if not file.is_file():
            continue
        with safe_globals():  # NumPy's arrays in random states, as transformers has it
            try:
                torch.load(file, mmap=True, map_location="cpu", weights_only=True)
            except Exception as error:
                calls = _calls(file)
                if calls:
                    return f"{file.name} holds calls of {_some(calls)}, which are never run"
                return f"{file.name} cannot be read: {describe(error).partition('. ')[0]}"
    return None


def _calls(file: Path) -> list[str]:
    """What a file would have Python import, beyond tensors and plain values."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    try:
        return sorted(get_unsafe_globals_in_checkpoint(file))
    except Exception:  # it is torn, or of an older format
        return []


def _some(names: Iterable[str]) -> str:
    known = list(names)
    return ", ".join(known[:SHOWN]) + (f" and {len(known) - SHOWN} more" * (len(known) > SHOWN))
