"""Time and peak memory of preference training: this package, stock TRL, and plain full logits.

    python benchmarks/log_probs.py [--steps 3] [--vocabulary 32000 102400] [--optim sgd] [--json]

Each cell of the table is one training run of a small Llama in a process of its own, so that its
peak memory is its own: 4 pairs per batch, 512 tokens per text, of which 64 or 384 are the prompt,
float32, no gradient checkpointing. The hidden size is small (64), so that the LM head dominates
as it does in a large model's memory. All three see the same rows and weights.

    ours          trl_deepseek.DPOTrainer with loss_type dpo, orpo or simpo
    TRL           trl.DPOTrainer; ORPOTrainer and CPOTrainer (SimPO) of trl.experimental
    full logits   ours, with log-probs from the full logits of every position

Peak memory is what the run adds to the process: the highest resident size less that before
training. Gradients and Adam's state are part of it on every side; the table's last line says how
much that is, and ``--optim sgd`` leaves the state out. A step's time is the fastest of
``--steps``, after one that is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LENGTH = 512
PAIRS = 4
METHODS = ("dpo", "orpo", "simpo")
SIDES = ("ours", "TRL", "full logits")
STATES = {"adamw_torch": 3, "sgd": 1}  # gradients and optimizer state, in sizes of the weights
WORDS = 1000  # of the vocabulary that the rows use


def rows(prompt: int, count: int) -> Any:
    """Random texts of exactly ``LENGTH`` tokens, the first ``prompt`` of which are the prompt."""
    import random

    from datasets import Dataset

    chance = random.Random(0)

    def text(length: int) -> str:
        return " ".join(f"w{chance.randrange(WORDS)}" for _ in range(length))

    # the trainers append the token that ends a text
    answer = LENGTH - prompt - 1
    return Dataset.from_list(
        [
            {"prompt": text(prompt) + " ", "chosen": text(answer), "rejected": text(answer)}
            for _ in range(count)
        ]
    )


def tokenizer() -> Any:
    """One token per word, so that lengths are exact."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in range(WORDS))]
    plain = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def model(vocabulary: int) -> Any:
    """A Llama of two narrow layers under a wide head."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=64,
            intermediate_size=176,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=1024,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def trainer(
    method: str, side: str, vocabulary: int, data: Any, folder: str, steps: int, optim: str
) -> Any:
    """The trainer of one cell."""
    common: dict[str, Any] = {
        "output_dir": folder,
        "max_steps": steps,
        "optim": optim,
        "per_device_train_batch_size": PAIRS,
        "gradient_checkpointing": False,
        "bf16": False,
        "max_length": LENGTH,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }
    policy = model(vocabulary)
    rest: dict[str, Any] = {"train_dataset": data, "processing_class": tokenizer()}
    if side != "TRL":
        from trl_deepseek import DPOConfig, DPOTrainer

        kind = DPOTrainer if side == "ours" else full_logits_trainer()
        if method == "dpo":
            rest["ref_model"] = model(vocabulary)
        return kind(policy, args=DPOConfig(**common, loss_type=[method]), **rest)
    if method == "dpo":
        import trl

        rest["ref_model"] = model(vocabulary)
        return trl.DPOTrainer(policy, args=trl.DPOConfig(**common), **rest)
    if method == "orpo":
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

        return ORPOTrainer(policy, args=ORPOConfig(**common), **rest)
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    return CPOTrainer(policy, args=CPOConfig(**common, loss_type="simpo", cpo_alpha=0.0), **rest)


def full_logits_trainer() -> Any:
    """Our trainer with the log-probs that a textbook takes, for the third column."""
    import torch

    from trl_deepseek import DPOTrainer
    from trl_deepseek.lm_head import IGNORED, HeadOutput

    class FullLogits(DPOTrainer):
        def token_logps(self, model: Any, *, labels: Any, **inputs: Any) -> HeadOutput:
            inputs["use_cache"] = False
            logits = model(**inputs).logits[:, :-1].float()
            goal, scored = labels[:, 1:].clamp(min=0), labels[:, 1:] != IGNORED
            logps = logits.log_softmax(-1).gather(2, goal[..., None])[..., 0] * scored
            with torch.no_grad():
                correct = (logits.argmax(-1) == goal) & scored
            return HeadOutput(logps, correct)

    return FullLogits


def resident(which: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (at most so far) of this process, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(which):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {which} in /proc/self/status")


def run_cell(
    method: str, side: str, optim: str, vocabulary: int, prompt: int, steps: int
) -> dict[str, float]:
    """Train and measure; to be called in a process that has done nothing else."""
    import torch
    from transformers import TrainerCallback

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    marks: list[float] = []
    losses: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            marks.append(-time.perf_counter())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            marks[-1] += time.perf_counter()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    with tempfile.TemporaryDirectory() as folder:
        data = rows(prompt, PAIRS * (steps + 1))
        run = trainer(method, side, vocabulary, data, folder, steps + 1, optim)
        run.add_callback(Clock())
        before = resident("VmRSS")
        run.train()
    trained = sum(p.numel() * p.element_size() for p in run.model.parameters())
    return {
        "seconds": min(marks[1:]),
        "megabytes": resident("VmHWM") - before,
        "gradients_and_state": trained * STATES[optim] / 2**20,
        "first_loss": losses[0],
    }


def measure(
    method: str, side: str, optim: str, vocabulary: int, prompt: int, steps: int
) -> dict[str, Any]:
    """One cell in a process of its own."""
    cell = [method, side, optim, str(vocabulary), str(prompt), str(steps)]
    done = subprocess.run(
        [sys.executable, __file__, "--cell", *cell], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        raise SystemExit(f"the cell {' '.join(cell)} failed with {done.returncode}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    named = {"method": method, "side": side, "vocabulary": vocabulary, "prompt": prompt, **figures}
    print(json.dumps(named), file=sys.stderr, flush=True)  # what is known so far
    return named


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one line per method, vocabulary and prompt, ratios to stock TRL last."""
    lines = [
        "| loss | vocabulary | prompt | ours | TRL | full logits | time, ours / TRL "
        "| memory, ours / TRL |",
        "|---|---|---|---|---|---|---|---|",
    ]
    by_cell: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for result in results:
        key = (result["method"], result["vocabulary"], result["prompt"])
        by_cell.setdefault(key, {})[result["side"]] = result
    for (method, vocabulary, prompt), sides in by_cell.items():
        cells = [f"{sides[s]['seconds']:.2f} s, {sides[s]['megabytes']:.0f} MB" for s in SIDES]
        ratios = [f"{sides['ours'][k] / sides['TRL'][k]:.2f}" for k in ("seconds", "megabytes")]
        words = [method, str(vocabulary), f"{prompt} of {LENGTH}", *cells, *ratios]
        lines.append(f"| {' | '.join(words)} |")
    fixed = {result["vocabulary"]: result["gradients_and_state"] for result in results}
    shares = ", ".join(f"{size:.0f} MB at vocabulary {name}" for name, size in fixed.items())
    return "\n".join(
        [*lines, "", f"Of each memory figure, gradients and optimizer state are {shares}."]
    )


def main() -> int:
    """Measure every cell, one after another, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[32_000, 102_400])
    parser.add_argument("--prompt", type=int, nargs="+", default=[64, 384])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--optim", choices=STATES, default="adamw_torch")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cell", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        method, side, optim, *numbers = args.cell
        print(json.dumps(run_cell(method, side, optim, *map(int, numbers))))
        return 0
    results = [
        measure(method, side, args.optim, vocabulary, prompt, args.steps)
        for vocabulary in args.vocabulary
        for prompt in args.prompt
        for method in args.methods
        for side in SIDES
    ]
    print(json.dumps(results) if args.json else table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
