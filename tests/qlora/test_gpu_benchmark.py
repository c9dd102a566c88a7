"""The benchmark that needs a GPU, as far as it goes without one."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_qlora.py"
SHAPE = LlamaConfig(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    pad_token_id=2,
)
ARGS = argparse.Namespace(batch=1, steps=2, length=16, layers=2)


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_qlora", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there: run the benchmark itself")
def test_without_a_gpu_it_says_so_and_ends_well() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "skipped: no CUDA device\n")


def test_both_sides_train_the_same_number_of_weights_on_a_4_bit_base(
    script: Any, tmp_path: Path
) -> None:
    LlamaForCausalLM(SHAPE).to(torch.bfloat16).save_pretrained(tmp_path / "model")
    trained = {}
    for who in ("trl_deepseek", "trl"):
        trainer = script.build_trainer(who, str(tmp_path / "model"), ARGS)
        assert any(p.dtype == torch.uint8 for p in trainer.model.parameters())
        trainer.train()
        assert trainer.state.global_step == 2
        trained[who] = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    assert trained["trl_deepseek"] == trained["trl"] > 0


def test_the_estimate_grows_with_the_batch(script: Any) -> None:
    larger = argparse.Namespace(**{**vars(ARGS), "batch": 8})
    assert 0 < script.estimate(SHAPE, ARGS) < script.estimate(SHAPE, larger)
