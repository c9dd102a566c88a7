"""Kill real training processes at random moments, resume them, and compare with undisturbed runs.

    python scripts/kill_campaign.py --kills 200 --seed 0 --json

One process imports everything and forks a child for each run, which calls the command line's
``main``. About half of the children are killed while a save is under way, the others at any moment.
Each is then resumed with ``--resume_from_checkpoint true`` (a recipe: run again), and its weights,
optimizer, random states and log, but for times, are compared bit by bit with those of a run that
nobody killed; of a recipe also what it has sampled and measured, and that no stage was run again
that was done. Stages of a recipe are processes of their own, which are told to end when it is
killed; those of the recipes after the first are killed with it. Runs of two processes are started
by torchrun; one process is killed, or both and torchrun, by turns.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import psutil
import torch
import trl
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from trl_deepseek import checkpoints, jobs, load_registry
from trl_deepseek.cli.main import main as command_line
from trl_deepseek.jobs import stage_process
from trl_deepseek.rollouts import record
from trl_deepseek.trainers import dpo, grpo, kto, reward, sft  # imported once, for all children
from trl_deepseek.yaml_files import write_mapping

LOADED = (dpo, grpo, kto, reward, sft)
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}

REWARDS = '''
class Novelty:
    """Scores what it has not seen lately: what it remembers changes every score."""

    __name__ = "novelty"

    def __init__(self):
        self.seen = []

    def __call__(self, completions, **_):
        scores = []
        for completion in completions:
            text = completion[0]["content"]
            scores.append(float(len(set(text) - set("".join(self.seen)))) + len(text) % 3)
            self.seen = [*self.seen, text][-5:]
        return scores

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = list(state["seen"])


novelty = Novelty()


def length(completions, **_):
    return [float(len(completion[0]["content"]) % 7) for completion in completions]
'''
SHARED: dict[str, Any] = {
    "model_name_or_path": "tiny-deepseek-llm",
    "chat_template": "deepseek-v3",
    "dataset_name": "rows.jsonl",
    "report_to": ["none"],
    "use_cpu": True,
    "bf16": False,
    "per_device_train_batch_size": 2,
    "max_steps": 6,
    "learning_rate": 0.001,
    "logging_steps": 4,
    "save_steps": 2,
    "save_total_limit": 2,
}
GRPO: dict[str, Any] = {
    "num_generations": 2,
    "max_completion_length": 8,
    "beta": 0.0,
    "save_steps": 1,
    "save_total_limit": 1,
}
ACCUMULATES = {"gradient_accumulation_steps": 2}
TWO = "two processes"
STAGES = "with its stages"
ASKED = {"dataset_name": "arithmetic", "max_samples": 8, "max_new_tokens": 8}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("sft", {}),
    "sft, noise": ("sft", {"noise": "neftune", **ACCUMULATES}),
    "sft, LoRA, dropout": ("sft", {"use_peft": True, "lora_r": 4, "lora_dropout": 0.2}),
    "sft, QLoRA": ("sft", {"qlora": True, "lora_r": 4}),
    "dpo": ("dpo", {}),
    "orpo, limit 1": ("orpo", {"save_total_limit": 1, "save_steps": 1}),
    "dpo, moving reference": ("dpo", {"sync_ref_model": True, "ref_model_sync_steps": 2}),
    "kto": ("kto", {}),
    "kto, QLoRA, accumulation": ("kto", {"qlora": True, "lora_r": 4, **ACCUMULATES}),
    "reward": ("reward", {}),
    "reward, LoRA, noise": ("reward", {"use_peft": True, "lora_r": 4, "noise": "neftune"}),
    "grpo, in a window": (
        "grpo",
        {**GRPO, "reward_funcs": ["rewards.py:length"], "steps_per_generation": 4},
    ),
    "grpo, KL, LoRA, dropout, workers": (
        "grpo",
        {
            **GRPO,
            "reward_funcs": ["rewards.py:length"],
            "beta": 0.1,
            "use_peft": True,
            "lora_r": 4,
            "lora_dropout": 0.2,
            "reward_workers": 1,
            "steps_per_generation": 3,
        },
    ),
    "grpo, accumulation, 2 iterations": (
        "grpo",
        {
            **GRPO,
            "reward_funcs": ["rewards.py:length"],
            **ACCUMULATES,
            "num_iterations": 2,
            "max_steps": 5,
        },
    ),
    "grpo, stateful reward": (
        "grpo",
        {**GRPO, "reward_funcs": ["rewards.py:novelty"], "steps_per_generation": 2},
    ),
    "recipe": (
        "run",
        {"stages": [{"command": "reward"}, {"command": "preference", "loss_type": ["simpo"]}]},
    ),
    "recipe, killed with its stages": (
        "run",
        {
            "stages": [
                {"command": "sft", "name": "first", "dataset_name": "arithmetic", "save_steps": 1},
                {"command": "sample", **ASKED, "num_samples": 2},
                {"command": "sft", "dataset_name": "sample", "control_tokens": "escape"},
                {"command": "evaluate", **ASKED, "metrics": ["rewards.py:length"]},
            ]
        },
    ),
    "recipe to GRPO, killed with its stages": (
        "run",
        {
            "stages": [
                {"command": "sft", "dataset_name": "arithmetic", "lora_r": 4, "use_peft": True},
                {"command": "merge"},
                {"command": "preference", "loss_type": ["ipo"], "max_steps": 4},
                {
                    "command": "grpo",
                    "dataset_name": "arithmetic",
                    **GRPO,
                    "reward_funcs": ["rewards.py:novelty"],
                    "steps_per_generation": 3,
                },
                {"command": "evaluate", **ASKED, "metrics": ["exact_match", "rewards.py:length"]},
            ]
        },
    ),
    f"sft, noise, {TWO}": ("sft", {"noise": "neftune", "save_steps": 1}),
    f"dpo, LoRA, dropout, {TWO}": (
        "dpo",
        {"use_peft": True, "lora_r": 4, "lora_dropout": 0.2, **ACCUMULATES},
    ),
    f"grpo, in a window, {TWO}": (
        "grpo",
        {
            **GRPO,
            "reward_funcs": ["rewards.py:novelty"],
            "reward_workers": 1,
            "steps_per_generation": 4,
        },
    ),
}
KINDS: dict[str, Any] = {"sft": "demonstrations", "grpo": "prompts"}
ROWS = 64
TIMES = ("runtime", "per_second", "step_time")
REDONE = "a stage that was done was run again"
LIMIT = 300.0  # seconds after which a run hangs


def write_config(folder: Path, command: str, options: dict[str, Any]) -> list[str]:
    """Write the run's files into its folder; the words of its command line."""
    (folder / "rewards.py").write_text(REWARDS)
    kind = KINDS.get(command, "preferences")
    rows = load_registry().datasets["arithmetic"](kind=kind, size=ROWS)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if command == "run":
        shared = {name: value for name, value in SHARED.items() if name != "model_name_or_path"}
        stages = [
            {**shared, **stage} if stage["command"] in jobs.TRAINING else stage
            for stage in options["stages"]
        ]
        recipe = {"output_dir": "out", "model_name_or_path": SHARED["model_name_or_path"]}
        write_mapping(folder / "config.yaml", {**recipe, "stages": stages})
        return ["run", "config.yaml"]
    write_mapping(folder / "config.yaml", {**SHARED, "output_dir": "out", **options})
    return [command, "--config", "config.yaml"]


class Child:
    """One run in a process of its own, forked from this one."""

    def __init__(self, folder: Path, words: list[str], name: str) -> None:
        self.started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                os.setsid()
                os.chdir(folder)
                log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(log, 1)
                os.dup2(log, 2)
                if name.endswith(STAGES):
                    stage_process.wait_for = forked
                code = launched(words) if name.endswith(TWO) else command_line(words)
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            finally:
                os._exit(code)
        self.code: int | None = None

    def ended(self) -> bool:
        """Whether it has; its exit code is then in ``code``."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def kill(self) -> None:
        """Kill it and what it started, at once."""
        ranks = self.ranks()
        with contextlib.suppress(ProcessLookupError):  # it has not begun, or has just ended
            os.killpg(self.pid, signal.SIGKILL)
        for process in [*ranks, psutil.Process(self.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        while not self.ended():
            time.sleep(0.005)

    def ranks(self) -> list[psutil.Process]:
        """Processes that torchrun has started, and that have begun to work."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.pid).children()
            return [each for each in children if "trl_deepseek" in each.cmdline()]
        return []

    def kill_one(self, chance: random.Random) -> None:
        """Kill a process of several; torchrun is to end the others, and itself."""
        chance.choice(self.ranks()).kill()
        self.wait()

    def wait(self) -> float:
        """Seconds that it took to end; one that hangs is killed."""
        while not self.ended():
            if time.monotonic() - self.started > LIMIT:
                self.kill()
            time.sleep(0.01)
        return time.monotonic() - self.started


def forked(
    command: list[str],
    options: Mapping[str, Any],
    errors: IO[str] | None = None,
    limit: float | None = None,
) -> tuple[int, str]:
    """A stage in a process of the group of its recipe's, which has no launcher."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.dup2(writing, 1)
            sys.stdout = os.fdopen(1, "w", closefd=False)
            code = command_line(command[command.index("trl_deepseek") + 1 :])
            sys.stdout.flush()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as output:
        text = output.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


def launched(words: list[str]) -> int:
    """Run a command in two processes, as torchrun does."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    os.execv(sys.executable, [*launcher, "--nproc_per_node=2", "-m", "trl_deepseek", *words])


def done_in(folder: Path) -> dict[str, Any]:
    """What is noted of the stages of a recipe that are done; nothing of any other run."""
    file = folder / "pipeline.json"
    noted = json.loads(file.read_text())["stages"] if file.exists() else {}
    return {name: stage for name, stage in noted.items() if "seconds" in stage}


def left_by(folder: Path) -> dict[str, Any]:
    """What a run leaves, but for times: each tensor, and the logs."""
    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.suffix == ".safetensors":
            found[name] = load_file(file)
        elif file.suffix in (".pt", ".pth"):
            found[name] = torch.load(file, weights_only=False)
        elif file.name == "trainer_state.json":
            log = json.loads(file.read_text())["log_history"]
            found[name] = [_without_times(line) for line in log]
        elif file.suffix == ".jsonl" and file.name != record.WARNINGS:  # a resumed run says more
            lines = file.read_text().splitlines()
            found[name] = [_without_times(json.loads(line)) for line in lines]
    for name, stage in done_in(folder).items():
        found[f"result of {name}"] = _without_times(stage["result"])
    return found


def _without_times(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    kept = {name: each for name, each in value.items() if not any(t in name for t in TIMES)}
    return {name: _without_times(each) for name, each in kept.items()}


def same(a: Any, b: Any) -> bool:
    """Bitwise."""
    if isinstance(a, torch.Tensor):
        return (
            isinstance(b, torch.Tensor)
            and (a.dtype, a.shape) == (b.dtype, b.shape)
            and torch.equal(*(each.reshape(-1).view(torch.uint8) for each in (a, b)))
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


def moment(
    child: Child, out: Path, chance: random.Random, length: float, in_a_save: bool, one: bool
) -> str:
    """Let the child run until it is to be killed, and kill it; where it was then.

    Args:
        child: The run.
        out: Its output folder.
        chance: Draws the moment.
        length: Seconds that an undisturbed run takes.
        in_a_save: Whether to wait for a save, and kill within it.
        one: Whether to kill one process of several.
    """
    until = chance.uniform(0, length)
    saves = chance.randint(1, 4)  # of which to hit
    delay = chance.uniform(0, 0.05)
    seen, aside = 0, False
    while not child.ended():
        now = in_a_save and saving(out)
        seen += now and not aside
        aside = now
        if in_a_save and seen == saves:
            time.sleep(delay)
            break
        if not in_a_save and time.monotonic() - child.started > until:
            break
        time.sleep(0.002)
    if child.ended():
        return "after its end"
    in_a_save = saving(out)
    if one and child.ranks():
        child.kill_one(chance)
    else:
        child.kill()
    if in_a_save:
        return "in a save"
    return "outside" if any(out.glob("**/checkpoint-*")) else "before the first"


def saving(out: Path) -> bool:
    """Whether a save is under way, of the run or of a stage."""
    with contextlib.suppress(FileNotFoundError):  # a run looks whether it may write, then leaves
        return (out / "_saving").exists() or any(out.glob("*/_saving"))
    return False


def resume(folder: Path, words: list[str], name: str) -> tuple[int | None, str]:
    """Go on with a killed run as its user would; the exit code, and what was found."""
    found = checkpoints.newest(folder / "out")
    before = done_in(folder / "out")
    if words[0] != "run" and found.folder is not None:
        words = [*words, "--resume_from_checkpoint", "true"]
    child = Child(folder, words, name)
    child.wait()
    after = done_in(folder / "out")
    if any(after.get(name) != stage for name, stage in before.items()):
        return child.code, REDONE
    return child.code, f"{len(found.torn)} torn" if found.torn else ""


def campaign(
    kills: int,
    minutes: float,
    seed: int,
    names: list[str],
    show: Callable[[str], None],
    keep: Path,
) -> list[dict[str, Any]]:
    """Kill and resume; one record per kill."""
    chance = random.Random(seed)
    gc.collect()
    gc.freeze()  # a child that collects garbage would else copy all that is imported
    started = time.monotonic()
    records: list[dict[str, Any]] = []
    references: dict[str, tuple[dict[str, Any], float]] = {}
    for number in range(kills):
        if time.monotonic() - started > 60 * minutes:
            show(f"stopped after {minutes:g} minutes")
            break
        name = names[number % len(names)]
        command, options = CONFIGS[name]
        root = Path(tempfile.mkdtemp(prefix="kill-", dir=keep))
        if name not in references:
            undisturbed = root / "undisturbed"
            undisturbed.mkdir()
            words = write_config(undisturbed, command, options)
            child = Child(undisturbed, words, name)
            seconds = child.wait()
            if child.code != 0:
                sys.exit(f"{name}: {(undisturbed / 'log.txt').read_text()[-3000:]}")
            references[name] = left_by(undisturbed / "out"), seconds
        expected, seconds = references[name]
        folder = root / "killed"
        folder.mkdir()
        words = write_config(folder, command, options)
        turn = number // len(names)
        in_a_save = turn % 2 == 0
        child = Child(folder, words, name)
        where = moment(child, folder / "out", chance, seconds, in_a_save, turn % 4 < 2)
        code, note = resume(folder, words, name)
        found = left_by(folder / "out")
        differing = [key for key in expected if not same(found.get(key), expected[key])]
        verdict = f"exit {code}" if code else "differs" if differing else "bitwise"
        verdict = "redone" if note == REDONE else verdict
        records.append(
            {"config": name, "killed": where, "verdict": verdict, "differing": differing}
        )
        show(f"{number + 1:4} {name:34} {where:18} {verdict} {note} {', '.join(differing[:3])}")
        if verdict == "bitwise":
            shutil.rmtree(root)
    return records


def main() -> int:
    """See the module; 0 where every resumed run is the undisturbed one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin none after")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--configs", nargs="+", choices=list(CONFIGS), default=list(CONFIGS))
    parser.add_argument("--json", action="store_true", help="print the records as one JSON list")
    args = parser.parse_args()
    keep = Path(tempfile.mkdtemp(prefix="kill-campaign-"))
    errors = Console(stderr=True, highlight=False)

    def show(line: str) -> None:
        errors.print(line, markup=False)

    records = campaign(args.kills, args.minutes, args.seed, args.configs, show, keep)
    if args.json:
        print(json.dumps(records))
    else:
        Console().print(summary(records))
    whole = all(each["verdict"] == "bitwise" for each in records)
    if whole:
        shutil.rmtree(keep)
    else:
        show(f"what was not bitwise is kept in {keep}")
    return 0 if whole else 1


def summary(records: list[dict[str, Any]]) -> Table:
    """Kills by config and moment, and how many ended in the undisturbed run's bits."""
    moments = ("before the first", "outside", "in a save", "after its end")
    table = Table(title=f"{len(records)} kills (trl {trl.__version__}, torch {torch.__version__})")
    for heading in ("config", *moments, "bitwise", "of"):
        table.add_column(heading, justify="left" if heading == "config" else "right")
    for name in dict.fromkeys(each["config"] for each in records):
        mine = [each for each in records if each["config"] == name]
        counted = Counter(each["killed"] for each in mine)
        bitwise = sum(each["verdict"] == "bitwise" for each in mine)
        cells = [str(counted[each]) for each in moments]
        table.add_row(name, *cells, str(bitwise), str(len(mine)))
    return table


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        # libraries read these when they are imported
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ENVIRONMENT})
    sys.exit(main())
