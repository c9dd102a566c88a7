"""The disk under a run: is there room for what it will write, and what is said when there is not.

Room is checked when training begins and before each checkpoint, so that a run on a disk that fills
up ends with its last checkpoint whole. What fails all the same, a disk that became read-only, a
quota, a folder that was removed, a closed stdout, ends it with one message.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback

from trl_deepseek import checkpoints
from trl_deepseek.checkpoints import finding
from trl_deepseek.errors import ConfigError, RunError
from trl_deepseek.memory import disk
from trl_deepseek.rollouts import record

# What the system says of a disk whatever file it is about; all else counts of files that are ours,
# and some of it where safetensors names none.
OF_A_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ESTALE, errno.EMFILE}
OF_A_FILE = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR}
WAYS_OUT = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room, your quota is used up",
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.ENOENT: "see who removed it",
    errno.ENOTDIR: "see who put a file in its place",
    errno.EEXIST: "see who put a file in its place",
    errno.EMFILE: "allow more open files (ulimit -n)",
}
WRITABLE = "make it writable"
# How safetensors tells of an OSError, and torch of a file that it could not write.
BY_NUMBER = re.compile(r"\(os error (\d+)\)")
OF_TORCH = ("PytorchStreamWriter", "inline_container", "unexpected pos", "iostream error")


@contextlib.contextmanager
def explained(folder: str) -> Iterator[None]:
    """What the disk or a closed stdout brings about inside comes out as one message.

    Args:
        folder: The run's output folder.

    Raises:
        RunError: Names the folder, what failed, the last whole checkpoint and what to do.
    """
    try:
        yield
    except Exception as error:
        found = _fault(error, folder)
        if found is None:
            raise
        raise RunError(found) from error


def _fault(error: BaseException, folder: str) -> str | None:
    each: BaseException | None = error
    while each is not None:
        if isinstance(each, BrokenPipeError) and each.filename is None:
            what = "stdout or stderr is closed: whoever read it has ended"
            return f"{what}\n  {_goes_on(folder, 'send it to a file')}"
        number = _number(each, folder)
        if number is not None:
            name = getattr(each, "filename", None)
            where = f" ({name})" if name else ""
            room = f"; {disk.readable(disk.free(folder))} are free" * (number == errno.ENOSPC)
            return (
                f"{folder!r} cannot be written: {os.strerror(number)}{where}{room}\n"
                f"  {_goes_on(folder, WAYS_OUT.get(number, WRITABLE))}"
            )
        each = each.__cause__ or each.__context__
    return None


def _number(error: BaseException, folder: str) -> int | None:
    """The system's number of a fault that is the disk's; None for any other."""
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := BY_NUMBER.search(text)):
        number = int(match[1])
        return number if number in OF_A_DISK | OF_A_FILE else None
    if number is None and isinstance(error, RuntimeError) and any(s in text for s in OF_TORCH):
        return errno.EIO if disk.free(folder) > 2**20 else errno.ENOSPC
    if number in OF_A_DISK:
        return number
    name = getattr(error, "filename", None)
    ours = isinstance(name, str) and Path(name).absolute().is_relative_to(Path(folder).absolute())
    return number if ours else None


def _goes_on(folder: str, way_out: str) -> str:
    found = checkpoints.newest(folder, only_model=True)
    goes_on = "begin anew"
    if found.folder is not None or found.unread is not None:
        goes_on = f"go on with --resume_from_checkpoint {found.folder or 'true'}"
    return f"{found.last('no checkpoint is there')}; {way_out} and {goes_on}"


class Room(TrainerCallback):
    """Checks for room when training begins and before each checkpoint."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._size = 0  # bytes of a checkpoint

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Estimate.

        Raises:
            ConfigError: The first checkpoints and the model do not fit.
        """
        if not args.should_save:
            self._end_together(None)
            return
        model = self._trainer.accelerator.unwrap_model(self._trainer.model)
        adapter = hasattr(model, "peft_config")
        self._size = disk.checkpoint_bytes(model, args, adapter=adapter)
        left = state.max_steps - state.global_step
        saves = None
        if args.save_strategy == "steps" and state.save_steps:
            saves = math.ceil(left / state.save_steps)
        number = disk.copies(args, saves, len(finding.steps(args.output_dir)))
        final = disk.model_bytes(model, adapter=adapter)
        found = disk.shortage(args.output_dir, self._size, number, final) if left > 0 else None
        self._end_together(found and ConfigError(f"output_dir: {found}\n  {disk.ways_out(number)}"))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check, where a checkpoint comes next."""
        if control.should_save or (control.should_evaluate and args.save_strategy == "best"):
            self._check(args)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Likewise."""
        self.on_step_end(args, state, control)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Learn how large a checkpoint really is, and whether the folder is still the run's.

        Raises:
            RunError: It was removed; this checkpoint is in a new one.
        """
        if not args.should_save:
            self._end_together(None)
            return
        folder = Path(args.output_dir)
        saved = folder / f"checkpoint-{state.global_step}"
        if saved.is_dir():
            self._size = sum(path.stat().st_size for path in saved.rglob("*") if path.is_file())
        gone = not (folder / record.MANIFEST).is_file()
        message = (
            f"{str(folder)!r} was removed or emptied while the run went on\n"
            f"  {_goes_on(str(folder), 'see who did it')}"
        )
        self._end_together(RunError(message) if gone else None)

    def _check(self, args: Any) -> None:
        found = None
        if args.should_save:
            found = disk.shortage(args.output_dir, self._size, 1, 0)
        way = _goes_on(args.output_dir, "make room")
        self._end_together(found and RunError(f"{found}\n  {way}"))

    def _end_together(self, error: Any) -> None:
        """Raise on every process what the first one has found."""
        verdict = broadcast_object_list([error])[0]
        if verdict:
            raise verdict
