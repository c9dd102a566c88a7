"""Options that nothing could use as they are meant: one message each, before a model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from trl_deepseek import models
from trl_deepseek.cli.main import main

# command, its options, the whole message behind the command's name
REFUSED = [
    ("sft", "--max_length -5", "max_length is -5: it must be at least 1\n"),
    ("sft", "--max_length 0", "max_length is 0: it must be at least 1\n"),
    (
        "sft",
        "--gradient_accumulation_steps -2",
        "gradient_accumulation_steps is -2: it must be at least 1\n",
    ),
    (
        "sft",
        "--gradient_accumulation_steps 0",
        "gradient_accumulation_steps is 0: it must be at least 1\n",
    ),
    (
        "sft",
        "--per_device_train_batch_size 0",
        "per_device_train_batch_size is 0: it must be at least 1\n",
    ),
    (
        "sft",
        "--per_device_eval_batch_size -1",
        "per_device_eval_batch_size is -1: it must be at least 1\n",
    ),
    ("sft", "--learning_rate -1", "learning_rate is -1.0: it must be at least 0\n"),
    ("sft", "--learning_rate -1e-5", "learning_rate is -1e-05: it must be at least 0\n"),
    ("sft", "--learning_rate nan", "learning_rate is nan: it must be at least 0 and finite\n"),
    ("sft", "--learning_rate inf", "learning_rate is inf: it must be at least 0 and finite\n"),
    ("sft", "--weight_decay nan", "weight_decay is nan: it must be at least 0 and finite\n"),
    ("sft", "--adam_beta1 2", "adam_beta1 is 2.0: it must be at least 0 and below 1\n"),
    ("sft", "--adam_beta2 1", "adam_beta2 is 1.0: it must be at least 0 and below 1\n"),
    ("sft", "--adam_epsilon -1", "adam_epsilon is -1.0: it must be at least 0\n"),
    ("sft", "--max_grad_norm -1", "max_grad_norm is -1.0: it must be at least 0\n"),
    ("sft", "--max_grad_norm nan", "max_grad_norm is nan: it must be at least 0\n"),
    ("sft", "--warmup_steps -1", "warmup_steps is -1.0: it must be at least 0\n"),
    ("sft", "--dataloader_num_workers -1", "dataloader_num_workers is -1: it must be at least 0\n"),
    ("sft", "--num_train_epochs 0", "num_train_epochs is 0.0: it must be greater than 0\n"),
    (
        "sft",
        "--max_steps 0",
        "max_steps is 0: it must be at least 1, or -1: num_train_epochs decides\n",
    ),
    (
        "sft",
        "--max_steps -2",
        "max_steps is -2: it must be at least 1, or -1: num_train_epochs decides\n",
    ),
    ("sft", "--seed -1", "seed is -1: it must be at least 0 and at most 4294967295\n"),
    (
        "sft",
        "--logging_steps 0",
        "logging_steps is 0.0: it must be greater than 0\n  logging_strategy 'no' logs nothing\n",
    ),
    (
        "sft",
        "--logging_steps nan",
        "logging_steps is nan: it must be greater than 0\n  logging_strategy 'no' logs nothing\n",
    ),
    ("sft", "--save_steps -3", "save_steps is -3.0: it must be at least 0\n"),
    (
        "sft",
        "--use_peft --lora_dropout nan",
        "lora_dropout is nan: it must be at least 0 and below 1\n",
    ),
    (
        "sft",
        "--use_peft --lora_dropout 1",
        "lora_dropout is 1.0: it must be at least 0 and below 1\n",
    ),
    ("sft", "--use_peft --lora_r 0", "lora_r is 0: it must be at least 1\n"),
    ("sft", "--use_peft --lora_alpha 0", "lora_alpha is 0: it must be greater than 0\n"),
    (
        "sft",
        "--lora_r 8",
        "--lora_r without an adapter: all weights would be trained\n  add --use_peft for LoRA, or --qlora; or leave it out\n",
    ),
    (
        "sft",
        "--lora_target_modules q_proj --lora_alpha 3",
        "--lora_alpha, --lora_target_modules without an adapter: all weights would be trained\n  add --use_peft for LoRA, or --qlora; or leave them out\n",
    ),
    (
        "sft",
        "--packing_strategy best",
        "argument --packing_strategy/--packing-strategy: invalid choice: 'best' (choose from 'bfd', 'bfd_split', 'wrapped')\n  trl-deepseek sft --help lists the options\n",
    ),
    (
        "sft",
        "--report_to tensorboard",
        "report_to: tensorboard is not installed\n  pip install 'trl-deepseek[tensorboard]', or --report_to none\n",
    ),
    (
        "sft",
        "--report_to wandb mlflow",
        "report_to: wandb is not installed\n  pip install 'trl-deepseek[wandb]', or --report_to none\n",
    ),
    (
        "sft",
        "--report_to tensorbord",
        "report_to: there is no tracker 'tensorbord' (did you mean 'tensorboard'?)\n  trackers: azure_ml, comet_ml, mlflow, neptune, tensorboard, trackio, wandb, codecarbon, clearml, dagshub, flyte, dvclive, swanlab, kubeflow; none reports to nobody\n",
    ),
    (
        "sft",
        "--use_liger_kernel",
        "use_liger_kernel: liger-kernel is not installed\n  pip install 'trl-deepseek[liger]'\n",
    ),
    (
        "sft",
        "--attn_implementation flash_attention_2",
        "attn_implementation: flash_attention_2 is not installed, or finds no GPU to run on\n  pip install flash-attn, or --attn_implementation sdpa\n",
    ),
    (
        "sft",
        "--attn_implementation fast",
        "attn_implementation: there is none called 'fast'\n  known: eager, flash_attention_4, flash_attention_3, flash_attention_2, flex_attention, sdpa, paged|eager\n",
    ),
    (
        "sft",
        "--push_to_hub",
        "push_to_hub: HF_HUB_OFFLINE is set, and nothing can be uploaded\n  unset it, or leave --push_to_hub out and upload the output folder later\n",
    ),
    ("sft", "--deepspeed nowhere.json", "deepspeed: there is no file 'nowhere.json'\n"),
]


@pytest.mark.parametrize(("command", "options", "message"), REFUSED)
def test_an_option_is_refused_with_this_message(
    command: str,
    options: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def no_model(*args: object, **kwargs: object) -> None:
        raise AssertionError("a model was about to be loaded")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "resolve", no_model)
    tiny = ["--model_name_or_path", "tiny-deepseek-llm", "--dataset_name", "arithmetic"]
    assert main([command, *options.split(), *tiny, "--chat_template", "deepseek-llm"]) == 2
    assert capsys.readouterr() == ("", f"trl-deepseek {command}: {message}")
