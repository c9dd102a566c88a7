"""The works that speed.py and growth.py time: a trainer, exactly so many tokens, what is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import trl
from datasets import Dataset
from log_probs import tokenizer  # type: ignore[import-not-found]
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig


@dataclass(frozen=True)
class Work:
    """One row of the table.

    Attributes:
        trainer: ``DPO``, ``KTO``, ``Reward``, ``SFT`` or ``GRPO``, as classes begin.
        rows: Makes the dataset.
        batch: Rows in a batch.
        options: Of both configs.
        ours: Of our config alone.
        run: What is timed, where it is not ``training_step``.
        stock: TRL's trainer and its config, where they are not called as ours.
        stock_options: Of TRL's config alone.
    """

    trainer: str
    rows: Callable[[], Dataset]
    batch: int
    options: dict[str, Any]
    ours: dict[str, Any] = field(default_factory=dict)
    run: Callable[[Any, Any], Any] | None = None
    stock: Callable[[], tuple[Any, Any]] | None = None
    stock_options: dict[str, Any] = field(default_factory=dict)


def words(count: int, seed: int) -> str:
    """``count`` random tokens."""
    drawn = torch.randint(1000, (count,), generator=torch.Generator().manual_seed(seed))
    return " ".join(f"w{number}" for number in drawn.tolist())


def pairs(prompt: int, completion: int, count: int = 4) -> Dataset:
    """Pairs of exactly so many tokens; the trainers append the one that ends a text."""
    return Dataset.from_list(
        [
            {
                "prompt": words(prompt, 3 * i) + " ",
                "chosen": words(completion - 1, 3 * i + 1),
                "rejected": words(completion - 1, 3 * i + 2),
            }
            for i in range(count)
        ]
    )


def singles(prompt: int, completion: int, count: int = 4) -> Dataset:
    """Labelled completions, each of a prompt of its own."""
    return Dataset.from_list(
        [
            {
                "prompt": words(prompt, 2 * i) + " ",
                "completion": words(completion - 1, 2 * i + 1),
                "label": i % 2 == 0,
            }
            for i in range(count)
        ]
    )


def documents(low: int, high: int, count: int = 16) -> Dataset:
    """Texts whose lengths are spread evenly from ``low`` to ``high``."""
    step = (high - low) / (count - 1)
    return Dataset.from_list([{"text": words(int(low + i * step) - 1, i)} for i in range(count)])


def preference(prompt: int, completion: int, loss: str = "sigmoid", **of_work: Any) -> Work:
    """A loss on four pairs."""
    ours = {"loss_type": [loss]}
    return Work("DPO", lambda: pairs(prompt, completion), 4, {"max_length": 1024}, ours, **of_work)


def stock_orpo() -> tuple[Any, Any]:
    """TRL's ORPO."""
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    return ORPOTrainer, ORPOConfig


def stock_simpo() -> tuple[Any, Any]:
    """TRL's SimPO, which is a loss of its CPO."""
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    return CPOTrainer, CPOConfig


SIMPO = {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": 1.0}


def grpo(prompt: int, completion: int, run: Callable[[Any, Any], Any], group: int = 8) -> Work:
    """Completions of one prompt; ``generate`` may not end one early."""
    options = {
        "num_generations": group,
        "max_completion_length": completion,
        "generation_kwargs": {"min_new_tokens": completion},
        "reward_funcs": [length],
    }
    return Work("GRPO", lambda: prompts(prompt), group, options, run=run)


def prompts(length: int) -> Dataset:
    """Four prompts of exactly so many tokens."""
    return Dataset.from_list([{"prompt": words(length, i)} for i in range(4)])


def length(completions: list[str], **_: Any) -> list[float]:
    """A reward that is not constant."""
    return [float(len(completion)) for completion in completions]


def update(trainer: Any, batch: Any) -> Any:
    """Forward and backward of given completions."""
    ids = torch.tensor([trainer.processing_class(row["prompt"])["input_ids"] for row in batch])
    random = torch.Generator().manual_seed(0)
    shape = (trainer.num_generations, trainer.max_completion_length)
    drawn = torch.randint(4, 1000, shape, generator=random)
    completions = {
        "prompt_ids": ids,
        "prompt_mask": torch.ones_like(ids),
        "completion_ids": drawn,
        "completion_mask": torch.ones_like(drawn),
        "advantages": torch.linspace(-1, 1, len(drawn)),
        "num_items_in_batch": torch.tensor(drawn.numel()),
    }
    loss = trainer.compute_loss(trainer.model, completions)
    loss.backward()
    return loss


def rollout(trainer: Any, batch: Any) -> float:
    """Sampling alone."""
    torch.manual_seed(0)
    ids = [trainer.processing_class(row["prompt"])["input_ids"] for row in batch]
    trainer._generate_single_turn(ids, None, {}, trainer.num_generations)
    return 0.0


def whole(trainer: Any, batch: Any) -> Any:
    """Sampling, rewards, and the update."""
    trainer._step = 0
    return trainer.training_step(trainer.model, batch, None)


PACKED = {"packing": True, "max_length": 4608}
WORKS = {
    "dpo P=512 C=64": preference(512, 64),
    "dpo P=512 C=128": preference(512, 128),
    "dpo P=128 C=256": preference(128, 256),
    "ipo P=512 C=64": preference(512, 64, "ipo", stock_options={"loss_type": ["ipo"]}),
    "orpo P=512 C=64": preference(512, 64, "orpo", stock=stock_orpo),
    "simpo P=512 C=64": preference(512, 64, "simpo", stock=stock_simpo, stock_options=SIMPO),
    "kto P=512 C=64": Work("KTO", lambda: singles(512, 64), 4, {"max_length": 1024}),
    "reward P=512 C=64": Work("Reward", lambda: pairs(512, 64), 4, {"max_length": 1024}),
    "sft packed 64..512": Work(
        "SFT", lambda: documents(64, 512), 1, {**PACKED, "shuffle_dataset": False}
    ),
    "sft packed, padded 64..512": Work(
        "SFT",
        lambda: documents(64, 512),
        1,
        {"shuffle_dataset": False},
        PACKED,
        stock_options={"per_device_train_batch_size": 16},
    ),
    "grpo update P=512 C=64": grpo(512, 64, update),
    "grpo update P=256 C=32": grpo(256, 32, update),
    "grpo update P=256 C=128": grpo(256, 128, update),
    "grpo update P=64 C=256": grpo(64, 256, update),
    "grpo rollout P=512 C=64": grpo(512, 64, rollout),
    "grpo step P=256 C=64": grpo(256, 64, whole),
}


def model(work: Work, layers: int, vocabulary: int) -> Any:
    """A small Llama, always with the same weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=layers,
        num_attention_heads=8,
        max_position_embeddings=8192,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    if work.trainer != "Reward":
        return AutoModelForCausalLM.from_config(config)
    config.num_labels = 1
    return AutoModelForSequenceClassification.from_config(config)


def prepared(library: Any, work: Work, folder: str, layers: int, vocabulary: int) -> Any:
    """A trainer of one side, and the batch that it is to learn from."""
    settings = {
        "output_dir": folder,
        "per_device_train_batch_size": work.batch,
        "gradient_checkpointing": False,
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }
    task = "SEQ_CLS" if work.trainer == "Reward" else "CAUSAL_LM"
    saved = ["score"] if work.trainer == "Reward" else None
    lora = LoraConfig(r=8, target_modules="all-linear", task_type=task, modules_to_save=saved)
    options = {**work.options}
    more = {n: options.pop(n) for n in ("reward_funcs",) if n in options}
    kinds = getattr(library, f"{work.trainer}Trainer"), getattr(library, f"{work.trainer}Config")
    if library is trl and work.stock:
        kinds = work.stock()
    options |= work.stock_options if library is trl else work.ours
    trainer = kinds[0](
        model(work, layers, vocabulary),
        args=kinds[1](**(settings | options)),
        train_dataset=work.rows(),
        processing_class=tokenizer(),
        peft_config=lora,
        **more,
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1  # which training would set
    return trainer, next(iter(trainer.get_train_dataloader()))
