from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig

from trl_deepseek import SFTConfig, SFTTrainer, load_registry
from trl_deepseek.errors import ConfigError, RunError

PLUGIN = """
from pathlib import Path
from trl_deepseek import hookimpl

SEEN = []

def flip(embeddings, lengths, alpha=1.0):
    "A user's own noise: it keeps what it was given."
    SEEN.append((tuple(embeddings.shape), lengths.unique().tolist(), alpha))
    Path(__file__).with_suffix(".seen").write_text(repr(SEEN))
    return -alpha * embeddings

def broken(embeddings, lengths):
    return embeddings.sum()

@hookimpl
def register_noises(register):
    register("flip", flip)
    register("broken", broken)
"""

RANK = """
import contextlib, json, sys
from pathlib import Path
import torch
from datasets import Dataset
from trl_deepseek import SFTConfig, SFTTrainer, load_registry

folder = Path(sys.argv[1])
model, tokenizer = load_registry().models["tiny-deepseek-llm"](seed=0)
data = Dataset.from_list([{"text": "the same"}] * 8)
args = SFTConfig(str(folder / "out"), use_cpu=True, bf16=False, report_to="none", max_steps=2,
                 per_device_train_batch_size=2, save_strategy="no", noise="neftune",
                 learning_rate=0.0, gradient_checkpointing=True, disable_tqdm=True)
trainer = SFTTrainer(model, args, train_dataset=data, processing_class=tokenizer)
added = []
embedding = model.get_input_embeddings()
clean = embedding.weight.detach().clone()
def see(module, inputs, output):
    added.append((output.detach() - clean[inputs[0]]).abs().sum().item())
noise = trainer.embedding_noise
attached = noise.attached

@contextlib.contextmanager
def watched(model):
    with attached(model):
        hook = embedding.register_forward_hook(see)
        yield
        hook.remove()
noise.attached = watched
trainer.train()
rank = trainer.accelerator.process_index
result = {"firings": noise.firings, "added": added, "wrapped": type(trainer.model_wrapped).__name__}
(folder / f"rank{rank}.json").write_text(json.dumps(result))
"""


def train(
    folder: Path, *, peft_config: Any = None, resume: str | None = None, **options: Any
) -> Any:
    model, tokenizer = load_registry().models["tiny-deepseek-llm"](seed=0)
    defaults: dict[str, Any] = {
        "max_steps": 2,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "per_device_train_batch_size": 2,
        "disable_tqdm": True,
        "learning_rate": 1e-3,
    }
    data = Dataset.from_list([{"text": "x" * n} for n in range(3, 19)])
    trainer = SFTTrainer(
        model,
        SFTConfig(str(folder), **{**defaults, **options}),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "my_noise.py"
    file.write_text(PLUGIN)
    return file


def test_a_users_function_gets_embeddings_lengths_and_alpha(tmp_path: Path, plugin: Path) -> None:
    train(tmp_path, plugins=[str(plugin)], noise="flip", noise_alpha=0.5, max_steps=1)
    [(shape, lengths, alpha)] = eval(plugin.with_suffix(".seen").read_text())
    assert shape[0] == 2
    assert shape[2] == 128
    assert shape[1] == max(lengths)
    assert alpha == 0.5


def test_a_users_mistake_stops_the_run_and_names_the_noise(tmp_path: Path, plugin: Path) -> None:
    with pytest.raises(RunError, match="noise 'broken' must return embeddings as it got them"):
        train(tmp_path, plugins=[str(plugin)], noise="broken")


def test_options_are_checked_before_a_model_is_loaded(tmp_path: Path) -> None:
    # The folder holds no model, which would be the next thing to be said.
    data = Dataset.from_list([{"text": "x"}])
    args = SFTConfig(str(tmp_path), use_cpu=True, bf16=False, noise_alpha=5.0)
    with pytest.raises(ConfigError, match="noise_alpha is set, but noise is not"):
        SFTTrainer(str(tmp_path / "no-model"), args, train_dataset=data)


def test_a_resumed_run_draws_what_the_interrupted_one_would_have(tmp_path: Path) -> None:
    options: dict[str, Any] = {"noise": "neftune", "max_steps": 4, "gradient_accumulation_steps": 2}
    straight = train(tmp_path / "a", **options)
    train(tmp_path / "b", save_strategy="steps", save_steps=2, **options)
    resumed = train(tmp_path / "b", resume=str(tmp_path / "b" / "checkpoint-2"), **options)
    assert resumed.embedding_noise.firings == 4
    clean = train(tmp_path / "c", **{**options, "noise": None})
    different = 0
    for ours, theirs, none in zip(
        resumed.model.parameters(), straight.model.parameters(), clean.model.parameters(),
        strict=True,
    ):  # fmt: skip
        assert torch.equal(ours, theirs)
        different += not torch.equal(ours, none)
    assert different > 0


@pytest.mark.parametrize(
    "peft_config",
    [
        LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]),
        LoraConfig(target_modules=["q_proj", "embed_tokens"]),
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ],
    ids=["embedding trained whole", "embedding with an adapter", "prompt tuning"],
)
def test_other_adapters_are_noised_once_per_pass_too(tmp_path: Path, peft_config: Any) -> None:
    trainer = train(tmp_path, noise="neftune", peft_config=peft_config)
    assert trainer.embedding_noise.firings == 2


def test_a_quantized_model_is_noised_once_per_pass(tmp_path: Path) -> None:
    trainer = train(tmp_path, noise="neftune", quantization="qlora", packing=True, max_length=32)
    assert trainer.model.is_loaded_in_4bit
    assert trainer.embedding_noise.firings == 2


@pytest.mark.matrix
@pytest.mark.slow
def test_under_ddp_each_process_draws_its_own_noise(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    run = subprocess.run(
        [*launch, str(script), str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank{n}.json").read_text()) for n in (0, 1))
    for rank in (first, second):
        assert rank["wrapped"] == "DistributedDataParallel"
        assert rank["firings"] == len(rank["added"]) == 2
        assert min(rank["added"]) > 0
    # All rows are the same text, so the sums differ only where the draws do.
    sums = [*first["added"], *second["added"]]
    assert len(set(sums)) == 4
