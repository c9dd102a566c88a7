"""Measured against estimated memory of training, and the bytes of quantized models, on CPU.

    python benchmarks/qlora_memory.py [--sequences 2] [--length 256]

Each measurement is a process of its own: it saves a random model of 100 to 300 million parameters,
trains it and lets it go, so that all libraries and the kernels that they compile are in memory,
loads it again as a run would, resets the kernel's high-water mark and trains three steps. What is
compared with the estimate is the high-water mark less the process's size before the model was
loaded again. Linux only.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MIXTURE: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 8,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "intermediate_size": 2048,
    "moe_intermediate_size": 384,
    "n_routed_experts": 24,
    "num_experts_per_tok": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 192,
    "kv_lora_rank": 128,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
}
LLAMA: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "intermediate_size": 2816,
}
SHAPES = {"llama": ("LlamaConfig", LLAMA), "deepseek_v3": ("DeepseekV3Config", MIXTURE)}
MODES = ("fp32", "lora", "qlora")


def config_of(shape: str) -> Any:
    """The config of one of the two models measured."""
    import transformers

    name, options = SHAPES[shape]
    return getattr(transformers, name)(
        **options,
        vocab_size=4096,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        tie_word_embeddings=False,
    )


def status(field: str) -> int:
    """A figure of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def measure(shape: str, mode: str, sequences: int, length: int, checkpointing: bool) -> None:
    """Train three steps and print what was measured and estimated as one JSON line."""
    import torch
    from datasets import Dataset

    from trl_deepseek import SFTConfig, SFTTrainer, load_registry
    from trl_deepseek.adapters import lora
    from trl_deepseek.memory.estimate import estimate
    from trl_deepseek.memory.rehearsal import Step

    torch.set_num_threads(1)
    registry = load_registry()
    _, tokenizer = registry.models["tiny-deepseek-llm"]()
    config = config_of(shape)
    chosen = None if mode == "fp32" else registry.quantizations[mode]
    dtype = torch.float32 if chosen is None else torch.bfloat16
    rows = Dataset.from_dict({"input_ids": [[3] * length] * (4 * sequences)})
    with tempfile.TemporaryDirectory() as folder:
        save(config, folder, dtype)
        args = SFTConfig(
            folder,
            quantization=None if chosen is None else mode,
            model_init_kwargs={"dtype": str(dtype).removeprefix("torch.")},
            bf16=chosen is not None,
            use_cpu=True,
            max_steps=3,
            max_length=length,
            per_device_train_batch_size=sequences,
            gradient_checkpointing=checkpointing,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
        )

        def build() -> Any:
            trainer = SFTTrainer(
                folder, copy.copy(args), train_dataset=rows, processing_class=tokenizer
            )
            for tensor in [*trainer.model.parameters(), *trainer.model.buffers()]:
                if tensor.is_floating_point():  # else it would keep the file mapped, all of it
                    tensor.data = tensor.data.clone()
            drop_mapped_pages(folder)
            return trainer

        build().train()
        give_back()
        before = status("VmRSS")
        trainer = build()
        give_back()
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        loaded = status("VmRSS") - before
        trainer.train()
        measured = status("VmHWM") - before
    step = Step(sequences, length, checkpointing, dtype, torch.bfloat16 if chosen else None)
    found = estimate(
        config,
        step,
        quantization=chosen,
        adapter=None if chosen is None else lora.adapter(chosen, config),
        optimizer=str(args.optim.value),
    )
    held = trainer.accelerator.unwrap_model(trainer.model)
    base = {
        name: parameter.nbytes for name, parameter in held.named_parameters() if "lora_" not in name
    }
    constants = sum(
        value.nbytes
        for name, value in held.state_dict().items()
        if "absmax" in name or "quant_map" in name or "quant_state" in name
    )
    sixteen = 2 * found.parameters
    print(
        json.dumps(
            {
                "model": shape,
                "mode": mode,
                "checkpointing": checkpointing,
                "parameters": found.parameters,
                "measured": measured,
                "estimated": found.peak,
                "loaded": loaded,
                "weights": found.weights,
                "weights_measured": sum(base.values()) + constants,
                "times_16_bit": (sum(base.values()) + constants) / sixteen,
            }
        )
    )


def drop_mapped_pages(folder: str) -> None:
    """Give up the pages of checkpoint files that the loader still maps; they are only cache."""
    libc = ctypes.CDLL("libc.so.6")
    for line in Path("/proc/self/maps").read_text().splitlines():
        if folder in line:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), 4)  # MADV_DONTNEED


def give_back() -> None:
    """Give freed memory back to the kernel."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def save(config: Any, folder: str, dtype: Any) -> None:
    """Write a random model in a process of its own, so that it leaves no trace in this one."""
    config.save_pretrained(folder)
    code = (
        "import sys, torch, transformers as t; c = t.AutoConfig.from_pretrained(sys.argv[1]);"
        "m = t.AutoModelForCausalLM.from_config(c, dtype=getattr(torch, sys.argv[2]));"
        "m.save_pretrained(sys.argv[1])"
    )
    name = str(dtype).removeprefix("torch.")
    subprocess.run([sys.executable, "-c", code, folder, name], check=True)


def main() -> None:
    """One process per measurement, one at a time; prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sequences", type=int, default=2)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--only", nargs="*", default=[], help="llama or deepseek_v3, and modes")
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "MODE", "CHECKPOINTING"))
    args = parser.parse_args()
    if args.one:
        shape, mode, checkpointing = args.one
        measure(shape, mode, args.sequences, args.length, checkpointing == "True")
        return
    print("| model | run | checkpointing | measured | estimated | ratio | weights / 16 bit |")
    print("|---|---|---|---|---|---|---|")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        # Every tensor goes back to the kernel when it dies. glibc otherwise keeps a heap of freed
        # blocks, some 0.4 GB here, which is nobody's memory and comes on top.
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
    }
    for shape in SHAPES:
        for mode in MODES:
            for checkpointing in (False, True):
                if not all(word in (shape, mode) for word in args.only):
                    continue
                command = [sys.executable, __file__, "--one", shape, mode, str(checkpointing)]
                command += ["--sequences", str(args.sequences), "--length", str(args.length)]
                done = subprocess.run(
                    command, capture_output=True, text=True, env=environment, check=False
                )
                if done.returncode:
                    raise SystemExit(done.stderr)
                row = json.loads(done.stdout.strip().splitlines()[-1])
                print(
                    f"| {shape}, {row['parameters'] / 1e6:.0f}M | {mode} | {checkpointing} "
                    f"| {row['measured'] / 1e6:.0f} MB | {row['estimated'] / 1e6:.0f} MB "
                    f"| {row['estimated'] / row['measured']:.2f} | {row['times_16_bit']:.3f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
