"""QLoRA on a GPU: peak memory and tokens per second of a 7B model, ours and stock TRL's.

    python benchmarks/gpu_qlora.py [--layers 30] [--length 2048] [--batch 1] [--steps 10] [--lines]

The model has the shape of deepseek-llm-7b and random weights, so nothing is downloaded. Both runs
are processes of their own on the same GPU, one after the other: trl_deepseek with
``quantization="qlora"``, and TRL with the flags ``--load_in_4bit --use_peft`` and the same LoRA
targets (TRL knows none), rank and batch. Needs CUDA; without it this says so and ends with 0.
``--lines`` prints each figure as soon as it is known, for ``benchmarks/gpu.sh``, and without CUDA
goes through it all with a tiny model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from typing import Any

WARM_UP = 2  # steps that are not timed


def build_trainer(who: str, folder: str, args: argparse.Namespace) -> Any:
    """The trainer of one of the two runs; the rest of the config is the same."""
    import torch
    import trl
    from datasets import Dataset
    from transformers import AutoConfig

    import trl_deepseek
    from trl_deepseek import load_registry
    from trl_deepseek.adapters import lora

    registry = load_registry()
    _, tokenizer = registry.models["tiny-deepseek-llm"]()
    rows = args.batch * args.steps
    data = Dataset.from_dict({"input_ids": [[3] * args.length] * rows})
    common: dict[str, Any] = {
        "output_dir": folder,
        "max_steps": args.steps,
        "max_length": args.length,
        "per_device_train_batch_size": args.batch,
        "gradient_checkpointing": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": args.steps,
        "use_cpu": not torch.cuda.is_available(),  # as the tests do
    }
    if who == "trl_deepseek":
        config = trl_deepseek.SFTConfig(**common, quantization="qlora")
        return trl_deepseek.SFTTrainer(
            folder, config, train_dataset=data, processing_class=tokenizer
        )
    chosen = registry.quantizations["qlora"]
    options = trl.ModelConfig(
        load_in_4bit=True,
        use_peft=True,
        lora_r=chosen.lora["r"],
        lora_alpha=chosen.lora["lora_alpha"],
        lora_target_modules=lora.target_modules(AutoConfig.from_pretrained(folder)),
    )
    return trl.SFTTrainer(
        folder,
        trl.SFTConfig(**common, model_init_kwargs={"dtype": options.dtype}),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=trl.get_peft_config(options),
        quantization_config=trl.get_quantization_config(options),
    )


def measure(who: str, folder: str, args: argparse.Namespace) -> None:
    """Train and print peak bytes and tokens per second as one JSON line."""
    import torch
    from transformers import TrainerCallback

    trainer = build_trainer(who, folder, args)
    started = [0.0]

    class Clock(TrainerCallback):
        def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.global_step == WARM_UP:
                synchronize()
                started[0] = time.perf_counter()

    on_gpu = torch.cuda.is_available()
    synchronize = torch.cuda.synchronize if on_gpu else lambda: None
    trainer.add_callback(Clock())
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    synchronize()
    tokens = (args.steps - WARM_UP) * args.batch * args.length
    found = {"tokens_per_second": tokens / (time.perf_counter() - started[0])}
    if on_gpu:
        found |= {
            "peak": torch.cuda.max_memory_allocated(),
            "reserved": torch.cuda.max_memory_reserved(),
        }
    print(json.dumps(found))


def estimate(config: Any, args: argparse.Namespace) -> int:
    """The peak that ``--dry_run`` gives for this run."""
    import torch

    from trl_deepseek import load_registry
    from trl_deepseek.adapters import lora
    from trl_deepseek.memory import estimate as memory
    from trl_deepseek.memory.rehearsal import Step

    chosen = load_registry().quantizations["qlora"]
    step = Step(args.batch, args.length, True, torch.bfloat16, torch.bfloat16)
    adapter = lora.adapter(chosen, config)
    found = memory.estimate(
        config, step, quantization=chosen, adapter=adapter, optimizer="paged_adamw_8bit"
    )
    return found.peak


def main() -> None:
    """Both runs, and a table in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--lines", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("WHO", "FOLDER"))
    args = parser.parse_args()
    import torch

    on_gpu = torch.cuda.is_available()
    if not on_gpu and not args.lines:
        print("skipped: no CUDA device")
        return
    if args.one:
        who, folder = args.one
        measure(who, folder, args)
        return
    from transformers import AutoModelForCausalLM

    from trl_deepseek.models import published

    config = published.config("deepseek-llm-7b")
    config.num_hidden_layers = args.layers
    if not on_gpu:
        config.num_hidden_layers, args.length = 2, 64
        config.hidden_size, config.intermediate_size = 64, 128
        config.num_attention_heads = config.num_key_value_heads = 4
        config.head_dim = 16
    rest = [f"--{name}={getattr(args, name)}" for name in ("layers", "length", "batch", "steps")]
    rest += ["--lines"] if args.lines else []
    tell = lines if args.lines else table
    with tempfile.TemporaryDirectory() as folder:
        with torch.device("cuda" if on_gpu else "cpu"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(folder)
        del model
        torch.cuda.empty_cache()
        tell("plan", {})
        tell("estimated", {"peak": estimate(config, args)})
        for who in ("trl_deepseek", "trl"):
            command = [sys.executable, __file__, "--one", who, folder, *rest]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(done.stderr, file=sys.stderr)
                tell(who, {"failed": done.stderr.strip().splitlines()[-1][:200]})
            else:
                tell(who, json.loads(done.stdout.strip().splitlines()[-1]))


def lines(name: str, found: dict[str, Any]) -> None:
    """What ``benchmarks/gpu/run.py`` reads."""
    from benchmarks.gpu import MARK

    cells = {"plan": ["estimated", "trl_deepseek", "trl"]} if name == "plan" else {"cell": name}
    print(MARK + json.dumps({**cells, **found}), flush=True)


def table(name: str, found: dict[str, Any]) -> None:
    """A row of the table in Markdown; its head for the plan."""
    if name == "plan":
        print("| run | peak allocated | peak reserved | tokens/s |\n|---|---|---|---|")
        return
    sizes = [f"{found[key] / 1e9:.2f} GB" if key in found else "" for key in ("peak", "reserved")]
    speed = f"{found['tokens_per_second']:.0f}" if "tokens_per_second" in found else ""
    print(f"| {' | '.join([name, found.get('failed', sizes[0]), sizes[1], speed])} |", flush=True)


if __name__ == "__main__":
    main()
