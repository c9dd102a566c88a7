"""Options that nothing could use as they are meant: one message each, before a model is loaded."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from trl_deepseek import jobs, models
from trl_deepseek.cli import training
from trl_deepseek.cli.main import main
from trl_deepseek.cli.parser import Parser
from trl_deepseek.errors import ConfigError
from trl_deepseek.jobs.options import DataArguments, ModelArguments, build_dataclasses

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
        "--packing_strategy: invalid choice: 'best' (choose from 'bfd', 'bfd_split', 'wrapped')\n  trl-deepseek sft --help lists the options\n",
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


# The same without the rest of the command: command, its options, the whole message
REFUSED_BY_CONFIGS = [
    ("sft", "--deepspeed nowhere.json", "deepspeed: there is no file 'nowhere.json'"),
    (
        "sft",
        "--accelerator_config nowhere.json",
        "accelerator_config: there is no file 'nowhere.json'",
    ),
    (
        "sft",
        "--lr_scheduler_kwargs {min_lr:1}",
        "lr_scheduler_kwargs '{min_lr:1}' is not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)\n  write --lr_scheduler_kwargs '{\"option\": 0.5}', or a mapping in YAML",
    ),
    (
        "sft",
        "--lr_scheduler_kwargs min_lr=1e-6",
        "lr_scheduler_kwargs 'min_lr=1e-6' is not valid JSON: Expecting value: line 1 column 1 (char 0)\n  write --lr_scheduler_kwargs '{\"min_lr\": 1e-06}', or a mapping in YAML",
    ),
    (
        "sft",
        "--model_init_kwargs [1]",
        "model_init_kwargs '[1]' is a list, not an object in braces\n  write --model_init_kwargs '{\"option\": 0.5}', or a mapping in YAML",
    ),
    (
        "sft",
        "--num_processes 4 --mixed_precision bf16",
        "--num_processes, --mixed_precision: settings of the launcher, which starts the processes\n  put them into a file of their own: accelerate launch --config_file FILE -m trl_deepseek sft ...",
    ),
    (
        "sft",
        "--torch_dtype bfloat16 --lerning_rate 1",
        "unknown options torch_dtype, lerning_rate\n  --torch_dtype (it is called dtype)\n  --lerning_rate (did you mean '--learning_rate'?)",
    ),
    (
        "preference",
        "--loss_kwargs gamma=1",
        "loss_kwargs 'gamma=1' is not valid JSON: Expecting value: line 1 column 1 (char 0)\n  write --loss_kwargs '{\"gamma\": 1}', or a mapping in YAML",
    ),
    (
        "preference",
        "--loss_kwargs {gamma:1}",
        "loss_kwargs '{gamma:1}' is not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)\n  write --loss_kwargs '{\"option\": 0.5}', or a mapping in YAML",
    ),
    (
        "preference",
        "--loss_kwargs 3",
        "loss_kwargs '3' is a number, not an object in braces\n  write --loss_kwargs '{\"option\": 0.5}', or a mapping in YAML",
    ),
    ("preference", "--beta nan", "beta is nan: it must be at least 0 and finite"),
    ("preference", "--beta -1", "beta is -1.0: it must be at least 0"),
    (
        "preference",
        "--loss_weights 1 -1e-5",
        "loss_weights is [1.0, -1e-05]: it must be at least 0",
    ),
    ("preference", "--ld_alpha 2", "ld_alpha is 2.0: it must be at least 0 and at most 1"),
    (
        "reward",
        "--center_rewards_coefficient nan",
        "center_rewards_coefficient is nan: it must be at least 0 and finite",
    ),
    ("grpo", "--temperature 0", "temperature is 0.0: it must be greater than 0"),
    ("grpo", "--top_p 0", "top_p is 0.0: it must be greater than 0 and at most 1"),
    ("grpo", "--top_k -2", "top_k is -2: it must be at least 0, or -1: all tokens"),
    ("grpo", "--num_generations 0", "num_generations is 0: it must be at least 1"),
    (
        "grpo",
        "--num_generations 3",
        "generation_batch_size (8) must be divisible by num_generations (3).",
    ),
    ("grpo", "--max_completion_length 0", "max_completion_length is 0: it must be at least 1"),
    ("grpo", "--beta nan", "beta is nan: it must be at least 0 and finite"),
    ("grpo", "--epsilon nan", "epsilon is nan: it must be at least 0"),
    (
        "grpo",
        "--loss_type gspo",
        "loss_type is 'gspo' (did you mean 'sapo'?): it must be one of grpo, dr_grpo, dapo, bnpo, cispo, sapo, luspo, vespo",
    ),
    ("grpo", "--scale_rewards foo", "scale_rewards is 'foo': it must be one of group, batch, none"),
    (
        "grpo",
        "--importance_sampling_level seq",
        "importance_sampling_level is 'seq': it must be one of token, sequence",
    ),
    (
        "grpo",
        "--vllm_mode local",
        "vllm_mode is 'local' (did you mean 'colocate'?): it must be one of colocate, server",
    ),
    (
        "grpo",
        "--reward_workers 10000",
        "reward_workers is 10000: it must be at least 0 and at most 256",
    ),
    ("grpo", "--reward_timeout nan", "reward_timeout is nan: it must be greater than 0 and finite"),
    (
        "grpo",
        "--reward_memory_limit inf",
        "reward_memory_limit is inf: it must be greater than 0 and finite",
    ),
    (
        "grpo",
        "--reward_on_error nan",
        "reward_on_error: 'nan' is not a number\n  allowed: raise, abstain or a number",
    ),
]
# command, a YAML file of its options, the whole message
REFUSED_IN_YAML = [
    ("sft", "learning_rate: .nan", "learning_rate is nan: it must be at least 0 and finite"),
    (
        "sft",
        "learning_rate: 1e-5\nseed: 1\nlearning_rate: 2e-5",
        "run.yaml:3: not valid YAML: 'learning_rate' is there twice, in lines 1 and 3",
    ),
    (
        "sft",
        "model_init_kwargs: &a\n  b: *a",
        "run.yaml:1: not valid YAML: an alias stands for something that contains it",
    ),
    (
        "sft",
        "env: 3",
        "run.yaml:1: env must be a mapping of environment variables to values, such as\n  env:\n    WANDB_PROJECT: mine",
    ),
    (
        "sft",
        "env: {A: [1]}",
        "run.yaml:1: env must be a mapping of environment variables to values, such as\n  env:\n    WANDB_PROJECT: mine",
    ),
    (
        "sft",
        "num_processes: 4\nmixed_precision: bf16\nlerning_rate: 1\ntorch_dtype: bfloat16",
        "run.yaml:3: unknown options lerning_rate, torch_dtype\n  line 3: 'lerning_rate' (did you mean 'learning_rate'?)\n  line 4: 'torch_dtype' (it is called dtype)\nnum_processes, mixed_precision: settings of the launcher, which starts the processes\n  put them into a file of their own: accelerate launch --config_file FILE -m trl_deepseek sft ...",
    ),
    (
        "sft",
        "max_length: 1.5",
        "run.yaml:1: --max_length: invalid int value: '1.5'\n  trl-deepseek sft --help lists the options",
    ),
    ("sft", "max_length: true", "run.yaml:1: max_length takes a number, not true"),
    ("sft", "max_length: {a: 1}", "run.yaml:1: max_length takes a number, not a mapping"),
    ("sft", "max_length: [1]", "run.yaml:1: max_length takes one value, not a list"),
    (
        "sft",
        "packing: 3",
        "run.yaml:1: --packing: Truthy value expected: got 3 but expected one of yes/no, true/false, t/f, y/n, 1/0 (case insensitive).\n  trl-deepseek sft --help lists the options",
    ),
    (
        "sft",
        "save_strategy: yes",
        "run.yaml:1: --save_strategy: invalid choice: 'true' (choose from 'no', 'steps', 'epoch', 'best')\n  trl-deepseek sft --help lists the options",
    ),
    (
        "sft",
        "datasets: [3]",
        "datasets: 3 is no mapping with a path\n  in YAML: datasets: [{path: a.jsonl, weight: 0.7}, {path: b.jsonl, weight: 0.3}]",
    ),
    (
        "sft",
        "seed: !!python/name:os.system",
        "run.yaml:1: not valid YAML: tag:yaml.org,2002:python/name:os.system is no setting",
    ),
    ("sft", "3: 4", "run.yaml:1: unknown option '3'"),
    (
        "sft",
        "lr_scheduler_kwargs: 3",
        "lr_scheduler_kwargs '3' is a number, not an object in braces\n  write --lr_scheduler_kwargs '{\"option\": 0.5}', or a mapping in YAML",
    ),
    (
        "grpo",
        "scale_rewards: no\ntemperature: -1e-6",
        "temperature is -1e-06: it must be greater than 0",
    ),
    ("sft", "", "config file 'run.yaml' must be a mapping of option names to values"),
]


@functools.cache
def parser_of(command: str) -> Parser:
    parser = Parser(prog=f"trl-deepseek {command}")
    training.add_arguments(parser, command)
    return parser


def configs(command: str, *argv: str) -> None:
    args = parser_of(command).parse_args(list(argv))
    build_dataclasses(args, [jobs.kind(args.command).OPTIONS[-1], DataArguments, ModelArguments])


@pytest.mark.parametrize(("command", "options", "message"), REFUSED_BY_CONFIGS)
def test_a_config_refuses_what_it_cannot_mean(command: str, options: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configs(command, *options.split())
    assert str(caught.value) == message


@pytest.mark.parametrize(("command", "text", "message"), REFUSED_IN_YAML)
def test_yaml_is_refused_with_this_message(
    command: str, text: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(text + "\n")
    with pytest.raises(ConfigError) as caught:
        configs(command, "--config", "run.yaml")
    assert str(caught.value) == message


def test_yaml_means_numbers_words_and_lists_where_they_are_meant(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(
        "learning_rate: 1e-6\nlr_scheduler_kwargs: {min_lr: 1e-6}\nsave_strategy: no\n"
        "report_to: [none]\nplugins: []\nreward_on_error: -0.00001\nscale_rewards: false\n"
        "max_steps: 1e3\nrun_name: 007\nbf16: no\n"
    )
    args = parser_of("grpo").parse_args(["--config", "run.yaml"])
    (config,) = build_dataclasses(args, [jobs.kind(args.command).OPTIONS[-1]])
    assert config.learning_rate == 1e-6
    assert config.lr_scheduler_kwargs == {"min_lr": 1e-6}
    assert config.save_strategy == "no"
    assert config.report_to == []
    assert config.plugins == []
    assert float(config.reward_on_error) == -1e-5
    assert config.scale_rewards == "none"
    assert config.max_steps == 1000
    assert config.run_name == "007"
    assert config.bf16 is False
    assert {"plugins", "save_strategy"} <= args.given
