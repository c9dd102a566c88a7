"""Metrics on two processes are those of one: each answers its share, in the order of the rows."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = '''
import json, sys
from datasets import Dataset
from trl_deepseek import SFTConfig, SFTTrainer

FILE = """
from trl_deepseek import hookimpl

@hookimpl
def register_metrics(register):
    register("order", order, over="completions", aggregate=lambda sums: dict(sums))

def order(completions, place, **_):
    said = [text[-1]["content"] for text in completions]
    return [{"sum": float(n), "size": float(len(t) * (n + 1))} for t, n in zip(said, place)]
"""
folder = sys.argv[1]
plugin = folder + "-plugin.py"
open(plugin, "w").write(FILE)
rows = [
    {
        "prompt": [{"role": "user", "content": f"{n}+1"}],
        "completion": [{"role": "assistant", "content": str(n + 1)}],
        "place": n,
    }
    for n in range(5)
]
config = SFTConfig(
    folder, eval_metrics=["order"], eval_max_new_tokens=6, report_to="none", use_cpu=True,
    bf16=False, chat_template="deepseek-v3", plugins=[plugin], disable_tqdm=True,
)
data = Dataset.from_list(rows)
trainer = SFTTrainer("tiny-deepseek-llm", config, train_dataset=data, eval_dataset=data)
found = trainer.evaluate()
with open(f"{folder}-{trainer.accelerator.process_index}.json", "w") as file:
    json.dump({k: v for k, v in found.items() if "order" in k}, file)
'''


@pytest.mark.slow
@pytest.mark.matrix
def test_both_processes_find_what_one_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "evaluate.py"
    file.write_text(SCRIPT)
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    subprocess.run([*launcher, str(file), str(tmp_path / "two")], check=True, timeout=300, env=env)
    monkeypatch.setattr(sys, "argv", [str(file), str(tmp_path / "one")])
    runpy.run_path(str(file))
    found = [
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one-0", "two-0", "two-1")
    ]
    assert found[0]["eval_order/sum"] == 0 + 1 + 2 + 3 + 4
    assert found[0] == found[1] == found[2]
