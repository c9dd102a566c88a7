"""QLoRA on one GPU: GRPO in 4 bits with a reward by name.

    python examples/qlora_grpo.py                                       # the tiny model, on CPU
    python examples/qlora_grpo.py --model deepseek-ai/deepseek-llm-7b-base

Rollouts come from the policy that is trained: 4-bit weights, adapters in place, dropout off.
"""

from __future__ import annotations

import argparse

from trl_deepseek import GRPOConfig, GRPOTrainer, load_registry


def main() -> None:
    """Train and save the adapter."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="tiny-deepseek-llm")
    parser.add_argument("--output_dir", default="runs/qlora-grpo")
    parser.add_argument("--max_steps", type=int, default=10)
    args = parser.parse_args()
    trainer = GRPOTrainer(
        args.model,
        ["exact_match"],
        GRPOConfig(
            args.output_dir,
            quantization="qlora",
            chat_template="deepseek-v3",
            max_steps=args.max_steps,
            per_device_train_batch_size=8,
            num_generations=8,
            max_completion_length=16,
            learning_rate=1e-5,
            logging_steps=1,
            report_to="none",
        ),
        train_dataset=load_registry().datasets["arithmetic"](kind="prompts", size=64),
    )
    trainer.train()
    trainer.save_model(args.output_dir)
    print(f"adapter in {args.output_dir}")


if __name__ == "__main__":
    main()
