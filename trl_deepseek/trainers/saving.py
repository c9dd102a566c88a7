"""Checkpoints of the trainers: whole or not there, and a run that goes on from one is exact.

``WholeCheckpoints`` stands between ``PluginTrainer`` and the TRL trainer. While transformers and
TRL save, they are shown another folder to save in; what is ours is added there, and once every
process has written, the folder gets its name (``trl_deepseek.checkpoints.writing``). What follows
on a checkpoint, the push to a hub and the removal of older ones, comes after that.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from trl_deepseek import checkpoints
from trl_deepseek.checkpoints import finding, rotating, states, writing
from trl_deepseek.errors import ConfigError, RunError, TrlDeepseekError, boundary, describe
from trl_deepseek.trainers import tallies

logger = logging.getLogger(__name__)

STATES = "plugin_states_{}.pt"
REFERENCE = "reference.pt"
SETTINGS = ("weight_decay", "betas", "eps", "initial_lr")  # of an optimizer, in a config


class WholeCheckpoints:
    """Mixin in front of a TRL trainer; see the module's docstring."""

    _aside = False  # whether a checkpoint is being written under another name
    _resumed: str | None = None  # the checkpoint that the run goes on from
    _first_step = 0  # of the run, also where it has been resumed since

    def _get_output_dir(self: Any, trial: Any) -> str:
        folder: str = super()._get_output_dir(trial)  # type: ignore[misc]
        return os.path.join(folder, writing.ASIDE) if self._aside else folder

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._aside:  # else once the folder has its name
            super()._push_from_checkpoint(checkpoint_folder)  # type: ignore[misc]

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        """As TRL's, into a folder that gets its name when all is in it."""
        folder = Path(self._get_output_dir(trial=trial))
        final = folder / f"checkpoint-{self.state.global_step}"
        written = folder / writing.ASIDE / final.name
        if self.args.should_save:
            writing.clear(folder)
        self.accelerator.wait_for_everyone()
        self._aside = True
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
        finally:
            self._aside = False
        written.mkdir(parents=True, exist_ok=True)  # a process that has saved nothing yet
        self._write_own(written)
        best = self._best_checkpoint(folder, final)
        if best is not None:
            self.state.best_model_checkpoint = str(best)
            if self.args.should_save:
                self.state.save_to_json(str(written / "trainer_state.json"))
        self._publish(written, final)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))
        if self.args.should_save:
            keep = {final} if best is None else {final, best}
            rotating.rotate(folder, self.args.save_total_limit, keep)

    def _best_checkpoint(self: Any, folder: Path, final: Path) -> Path | None:
        """The checkpoint of the best step so far; None where it was not saved, as in TRL's."""
        if self.state.best_global_step:
            best = folder / f"checkpoint-{self.state.best_global_step}"
            if best == final or best.is_dir():
                return best
        known = self.state.best_model_checkpoint
        return None if known is None else Path(known)

    def _publish(self: Any, written: Path, final: Path) -> None:
        """Rename, by one process for each disk that the folder is on; all wait for all."""
        facts = {
            "step": self.state.global_step,
            "processes": self.accelerator.num_processes,
            "only_model": self.args.save_only_model,
        }
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            writing.publish(written, final, **facts)
        self.accelerator.wait_for_everyone()
        # another machine whose disk is its own has its processes' files still to be named
        if self.is_local_process_zero() and not self.is_world_process_zero() and written.is_dir():
            writing.publish(written, final, **facts)
        self.accelerator.wait_for_everyone()

    def _write_own(self: Any, folder: Path) -> None:
        """Add what is ours to a checkpoint; every process calls it."""
        if self.args.save_only_model:
            return
        rank = self.accelerator.process_index
        tallies.write(self, folder, rank)
        held = states.take(self._with_state())
        if held:
            torch.save(held, folder / STATES.format(rank))
        if self._moving_reference() is not None and self.is_world_process_zero():
            torch.save(self._moving_reference().state_dict(), folder / REFERENCE)

    def _read_own(self: Any, folder: Path) -> None:
        """Take back what :meth:`_write_own` has written, where it is there."""
        rank = self.accelerator.process_index
        tallies.read(self, folder, rank)
        file = folder / STATES.format(rank)
        held = torch.load(file, weights_only=True) if file.is_file() else {}
        states.give_back(self._with_state(), held, str(folder))
        reference = self._moving_reference()
        if reference is not None and (folder / REFERENCE).is_file():
            saved = torch.load(folder / REFERENCE, map_location="cpu", weights_only=True)
            reference.load_state_dict(saved)
        elif getattr(self.args, "sync_ref_model", False) and self.is_world_process_zero():
            logger.warning("%s does not hold the reference, which begins anew", folder)

    def _moving_reference(self: Any) -> Any:
        """The reference that ``sync_ref_model`` moves; None where it stays or is in pieces."""
        in_pieces = self.is_deepspeed_enabled or self.is_fsdp_enabled
        if in_pieces or not getattr(self.args, "sync_ref_model", False):
            return None
        return None if self.ref_model is None else self.accelerator.unwrap_model(self.ref_model)

    def _with_state(self: Any) -> dict[str, states.Stateful]:
        """What plugins of the run remember, by a name that says what it is."""
        return states.of_registry(self.registry)

    def _checkpoint_to_resume(self: Any, wanted: Any) -> str | None:
        """The checkpoint that ``train`` is to go on from; what was passed over or is lost is said.

        Raises:
            ConfigError: There is none, or it is not whole.
        """
        if wanted is None or wanted is False:
            return None
        only_model = self.args.save_only_model
        if wanted is True:
            found = checkpoints.newest(self.args.output_dir, only_model=only_model)
            message = found.passed_over()
            if message is not None and self.is_world_process_zero():
                logger.warning("%s", message)
            if found.folder is None:
                raise ConfigError(
                    f"resume_from_checkpoint: no whole checkpoint in {self.args.output_dir!r}"
                )
            wanted = found.folder
        else:
            wanted = checkpoints.check(wanted, "resume_from_checkpoint", only_model=only_model)
        lost = finding.what_is_lost(wanted, self.accelerator.num_processes)
        if lost and self.is_world_process_zero():
            logger.warning("going on from %s is not exact: %s", wanted, "; ".join(lost))
        return str(wanted)

    def _load_optimizer_and_scheduler(self: Any, checkpoint: str | None) -> None:
        """As transformers', which would also take the learning rates of the run as it was.

        Where settings have changed, such as ``max_steps``, the schedule is that of this run from
        its first step on; where they have not, the numbers are the same to the last bit.
        """
        scheduler = getattr(self.lr_scheduler, "scheduler", self.lr_scheduler)
        ours = isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
        rates = list(scheduler.base_lrs) if ours else []
        groups = [] if self.is_deepspeed_enabled else self.optimizer.param_groups
        settings = [{name: group[name] for name in SETTINGS if name in group} for group in groups]
        with boundary(RunError, f"{checkpoint}: its optimizer or schedule is not of this run"):
            super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is None or self.is_deepspeed_enabled:
            return
        for group, given in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(given)
        if ours:
            scheduler.base_lrs = rates
            scheduler._last_lr = [
                rate * factor(scheduler.last_epoch)
                for rate, factor in zip(rates, scheduler.lr_lambdas, strict=True)
            ]
            for group, rate in zip(self.optimizer.param_groups, scheduler._last_lr, strict=True):
                group["lr"] = rate

    def _load_rng_state(self: Any, checkpoint: str | None) -> None:
        """As transformers', with its checkpoint named where the states are none."""
        with boundary(RunError, f"{checkpoint}: its random states cannot be taken back"):
            super()._load_rng_state(checkpoint)  # type: ignore[misc]

    def _load_scaler(self: Any, checkpoint: str | None) -> None:
        """Likewise."""
        with boundary(RunError, f"{checkpoint}: its scaler cannot be taken back"):
            super()._load_scaler(checkpoint)  # type: ignore[misc]

    def get_batch_samples(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As transformers'; a run that had ended and is resumed makes no further step."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return [], None
        return super().get_batch_samples(*args, **kwargs)  # type: ignore[misc]

    def log(self: Any, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As TRL's; the mean loss at the end is of the whole run, also where it was resumed."""
        if "train_loss" in logs:
            steps = max(self.state.global_step - self._first_step, 0.001)
            logs["train_loss"] = self._total_loss_scalar / steps
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    @contextlib.contextmanager
    def _model_aside(self: Any, output_dir: str | None) -> Iterator[Path]:
        """Where to save a model: outside a checkpoint, the former one is replaced at once."""
        folder = Path(output_dir or self.args.output_dir)
        if self._aside or not self.args.should_save:
            yield folder
            return
        yield writing.begin_model(folder)
        writing.publish_model(folder)


class TakeUp(TrainerCallback):
    """When training begins: what was left aside is cleared, and what was saved is taken back."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See the class; transformers has set its sums to zero by now."""
        trainer = self._trainer
        trainer._first_step = state.global_step
        if args.should_save:
            writing.clear(Path(args.output_dir))
        if trainer._resumed is not None:
            try:
                trainer._read_own(Path(trainer._resumed))
            except TrlDeepseekError:
                raise
            except Exception as error:  # a file holds something else than was written there
                message = f"{trainer._resumed} cannot be taken up: {describe(error)}"
                raise RunError(message) from error
