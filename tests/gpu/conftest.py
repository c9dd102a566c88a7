"""Tests that need CUDA; ``benchmarks/gpu.sh`` runs them, on a CPU only to see that they run."""

from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def device() -> str:
    """Where the tests run: ``cuda``, or ``cpu`` in a dry run."""
    if torch.cuda.is_available():
        return "cuda"
    if os.environ.get("TRL_DEEPSEEK_GPU_DRY_RUN"):
        return "cpu"
    pytest.skip("no CUDA device")
