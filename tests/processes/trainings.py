"""Train with every trainer: ``test_two_processes.py`` has it done by one process and by two.

Each process writes what it holds in the end into ``FOLDER/RANK``. A step is of four rows or
completions, whatever the number of processes. Only what is known of sharded models is run on them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from trl_deepseek import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
    load_registry,
)
from trl_deepseek.cli.main import main

REGISTRY = load_registry()
RANK = int(os.environ.get("RANK", "0"))
PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))
STEPS, ROWS = 3, 4

PAIRS = [
    {
        "prompt": f"{i}+{i}=",
        "chosen": f"{2 * i}" + "!" * (i % 3),
        "rejected": f"{i} " * (1 + i % 4),
    }
    for i in range(11, 11 + STEPS * ROWS)
]
# The loss `kto` compares with completions moved on by a row within a process's batch: every second
# one is the same here, so that a batch of two moves on what a batch of four does.
SINGLES = [
    {"prompt": f"{i}+{i}=", "completion": "yes!" if i % 2 else "no no", "label": i % 4 in (1, 2)}
    for i in range(STEPS * ROWS)
]


def length(completion: str) -> float:
    return float(len(completion))


def no_rank(completion: str) -> float:
    assert "RANK" not in os.environ, "a worker must not take itself for a rank"
    return float(completion.count("1"))


def fails_on_the_last_process(completion: str) -> float:
    if PROCESSES == RANK + 1:
        raise ValueError("out of paper")
    return 1.0


def said(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    """Instead of sampling: what is said depends on the prompt and on the place in the group."""
    tokenizer = trainer.processing_class
    first = RANK * len(prompts)
    asked = [tokenizer.apply_chat_template(p, add_generation_prompt=True) for p in prompts]
    ids = [each if isinstance(each, list) else each["input_ids"] for each in asked]
    completions = []
    for place, prompt in enumerate(prompts, first):
        chance = random.Random(f"{prompt} {place % trainer.num_generations}")
        text = "".join(chance.choices("0123456789 ", k=chance.randint(2, 6)))
        completions.append([*tokenizer(text).input_ids, tokenizer.eos_token_id])
    return {"prompt_ids": ids, "completion_ids": completions, "logprobs": None}


def options(folder: Path, **more: Any) -> dict[str, Any]:
    """Plain gradient steps, so that a difference of gradients is one of weights."""
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": ROWS // PROCESSES,
        "max_steps": STEPS,
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        **more,
    }


def run(name: str, trainer: Any, folder: Path) -> None:
    """Train; keep what was logged and the weights."""
    trainer.train()
    logged = [line for line in trainer.state.log_history if "loss" in line]
    (folder / f"{name}.json").write_text(json.dumps(logged))
    weights = trainer.model.state_dict().items()
    whole = {key: v.full_tensor() if hasattr(v, "full_tensor") else v for key, v in weights}
    torch.save(whole, folder / f"{name}.pt")


def tiny() -> tuple[Any, Any]:
    model, tokenizer = REGISTRY.models["tiny-deepseek-llm"]()
    return model, tokenizer


def generating(name: str, folder: Path, rewards: list[Any], **more: Any) -> None:
    model, tokenizer = tiny()
    given = {"num_generations": ROWS, "max_completion_length": 8, "chat_template": "role-tokens"}
    config = GRPOConfig(**options(folder.parent / name, **{**given, **more}))
    rows = REGISTRY.datasets["arithmetic"](size=STEPS * ROWS // config.num_generations)
    trainer = GRPOTrainer(
        model, rewards, config, train_dataset=rows, processing_class=tokenizer, rollout_func=said
    )
    run(name, trainer, folder)


def everything(whole: Path) -> None:
    folder = whole / str(RANK)
    folder.mkdir(parents=True)

    model, tokenizer = tiny()
    config = SFTConfig(**options(whole / "sft", chat_template="deepseek-v3"))
    rows = REGISTRY.datasets["arithmetic"](kind="demonstrations", size=STEPS * ROWS)
    run("sft", SFTTrainer(model, config, train_dataset=rows, processing_class=tokenizer), folder)

    pairs = Dataset.from_list(PAIRS)
    for loss in ("dpo", "orpo"):
        model, tokenizer = tiny()
        paired = DPOConfig(**options(whole / loss, loss_type=loss))
        run(loss, DPOTrainer(model, None, paired, None, pairs, None, tokenizer), folder)

    if os.environ.get("ACCELERATE_USE_FSDP"):
        return
    model, tokenizer = tiny()
    unpaired = KTOConfig(**options(whole / "kto", train_sampling_strategy="sequential"))
    singles = Dataset.from_list(SINGLES)
    run("kto", KTOTrainer(model, None, unpaired, None, singles, None, tokenizer), folder)

    scored = RewardConfig(**options(whole / "reward"))
    run("reward", RewardTrainer("tiny-deepseek-llm", scored, train_dataset=pairs), folder)

    generating("grpo", folder, [length, no_rank], beta=0.1, reward_workers=1)
    named = {
        "advantage": "reinforce_pp",
        "loss_type": "cispo",
        "loss_kwargs": {"epsilon_high": 5.0},
    }
    penalised = {"beta": 0.1, "kl_in": "reward", "num_generations": 2, "drop_equal_groups": True}
    generating("policy", folder, [length, no_rank], **named, **penalised, reward_workers=1)
    failing = {"reward_on_error": "abstain", "reward_max_failures": STEPS + 1}
    generating("abstaining", folder, [length, fails_on_the_last_process], **failing)

    words = [
        *("sft", "--model_name_or_path", "tiny-deepseek-llm", "--dataset_name", "arithmetic"),
        *("--chat_template", "deepseek-v3", "--max_steps", "1", "--report_to", "none", "--json"),
        *("--use_cpu", "true", "--bf16", "false", "--per_device_train_batch_size", "1"),
        *("--output_dir", str(whole / "command")),
    ]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(words)
    (folder / "command.json").write_text(json.dumps({"code": code, "stdout": out.getvalue()}))


if __name__ == "__main__":
    everything(Path(sys.argv[1]))
