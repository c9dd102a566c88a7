"""A run of ``runs.py`` with a server, as one of several processes; writes its weights.

Called with a folder, the server's address and a port to meet it at by ``test_server_training.py``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from trl_deepseek.sources import import_file

if __name__ == "__main__":
    runs: Any = import_file(Path(__file__).parent / "runs.py")
    transport: Any = import_file(Path(__file__).parent / "gloo_transport.py")
    transport.replace_in_trainer(pytest.MonkeyPatch())
    folder, rank = Path(sys.argv[1]), os.environ["RANK"]
    options = runs.greedy(folder / rank)
    trainer = runs.trainer(
        folder / "run",
        vllm_mode="server",
        vllm_server_base_url=sys.argv[2],
        vllm_group_port=int(sys.argv[3]),
        per_device_train_batch_size=8 // int(os.environ["WORLD_SIZE"]),
        use_cpu=True,
        bf16=False,
        **options,
    )
    trainer.train()
    torch.save((runs.weights_of(trainer), runs.gaps(trainer)), folder / rank / "end.pt")
