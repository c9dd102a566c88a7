"""Options of commands that count only with others: of the model, the rows, and of answers."""

from __future__ import annotations

from trl_deepseek.trainers.idle import Rule

# Of TRL's ModelConfig; the rules ask the job.
MODEL = (
    Rule(
        ("model_revision", "dtype", "attn_implementation"),
        "a model that is loaded; an embedded one is built as it is",
        lambda job: job.model not in job.registry.models,
    ),
    Rule(
        ("bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage"),
        "load_in_4bit",
        lambda job: job.model_options.load_in_4bit,
    ),
    Rule(
        ("lora_task_type",),
        "use_peft without quantization",
        lambda job: job.model_options.use_peft and not job.config.quantization,
    ),
)
# Of DataArguments; the rules ask the training config.
DATA = (
    Rule(
        ("dataset_test_split",),
        "eval_strategy steps or epoch",
        lambda config: config.eval_strategy != "no",
    ),
)
# Of a mixture; each of datasets has its own.
MIXED = (Rule(("dataset_train_split", "dataset_config"), "dataset_name", lambda config: False),)


# Of a training config, whose command says whether it is to be resumed.
RESUMED = (
    Rule(
        ("ignore_data_skip", "restore_callback_states_from_checkpoint"),
        "resume_from_checkpoint",
        lambda config: config.resume_from_checkpoint is not None,
    ),
)
# Of what draws answers; the rule asks how.
DRAWING = (
    Rule(("top_p", "top_k"), "a temperature above 0", lambda sampling: not sampling.is_greedy),
)
# Of what scores answers; the rule asks by which rewards.
SCORING = (
    Rule(
        ("reward_timeout", "reward_workers", "reward_isolation", "reward_on_error"),
        "rewards that score the answers",
        bool,
    ),
)
