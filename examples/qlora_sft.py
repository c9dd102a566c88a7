"""QLoRA on one GPU: supervised fine-tuning in 4 bits, then the adapter as plain peft loads it.

    python examples/qlora_sft.py                                        # the tiny model, on CPU
    python examples/qlora_sft.py --model deepseek-ai/deepseek-llm-7b-base

What the second takes in memory, before anything is loaded:

    trl-deepseek sft --qlora --dry_run --model_name_or_path deepseek-llm-7b --gpu_memory 24GB
"""

from __future__ import annotations

import argparse

from trl_deepseek import SFTConfig, SFTTrainer, load_registry


def main() -> None:
    """Train, save the adapter and say where it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="tiny-deepseek-v3")
    parser.add_argument("--output_dir", default="runs/qlora-sft")
    parser.add_argument("--max_steps", type=int, default=30)
    args = parser.parse_args()
    trainer = SFTTrainer(
        args.model,
        SFTConfig(
            args.output_dir,
            quantization="qlora",  # NF4, double quantization, LoRA where the architecture wants it
            chat_template="deepseek-v3",
            max_steps=args.max_steps,
            per_device_train_batch_size=4,
            learning_rate=2e-4,
            max_length=1024,
            logging_steps=5,
            report_to="none",
        ),
        train_dataset=load_registry().datasets["arithmetic"](kind="demonstrations", size=256),
    )
    trainer.train()
    trainer.save_model(args.output_dir)
    print(f"adapter in {args.output_dir}; to put it into the 16-bit base:")
    print(f"  trl-deepseek merge {args.output_dir} --output_dir {args.output_dir}-merged")


if __name__ == "__main__":
    main()
