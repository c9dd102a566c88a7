"""Options of a training that count only with others, and what each needs: a table for ``idle``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import trl

from trl_deepseek.losses.bound import BoundLoss
from trl_deepseek.losses.plan import SHARED_OPTIONS, LossPlan
from trl_deepseek.trainers.idle import Rule, defaults_of, tell


def tell_of_training(inputs: Any) -> None:
    """Warn of options of a training that it does not read.

    Args:
        inputs: Of a trainer, as checked.
    """
    tell(inputs.args, TRAINING, inputs, getattr(inputs.args, "given", None))


def _evaluates(run: Any) -> bool:
    # from Python, rows that are handed over may be evaluated on by a call
    return run.args.eval_strategy != "no" or run.eval_dataset is not None


def _computes(run: Any) -> bool:
    return _evaluates(run) and run.options.get("compute_metrics") is not None


def _bound(run: Any) -> Sequence[BoundLoss]:
    """The registered losses of a run; none where TRL's own code computes them."""
    if isinstance(run.parts, LossPlan):
        return run.parts.losses
    return [run.parts] if isinstance(run.parts, BoundLoss) else []


def _loss_reads(name: str) -> Callable[[Any], bool]:
    def reads(run: Any) -> bool:
        bound = _bound(run)
        return not bound or any(name in each.options for each in bound)

    return reads


def _has_text_field(run: Any) -> bool:
    columns = getattr(run.train_dataset, "column_names", None)
    return not isinstance(columns, list) or run.args.dataset_text_field in columns


def _of(name: str, *values: Any) -> Callable[[Any], bool]:
    """Whether an option is one of ``values``, or set at all where there are none."""
    if values:
        return lambda run: getattr(run.args, name) in values
    return lambda run: bool(getattr(run.args, name))


def _optimizer_reads(name: str) -> Callable[[Any], bool]:
    """Whether the optimizer is made otherwise where ``name`` is as by default."""

    def reads(run: Any) -> bool:
        import torch
        from transformers import Trainer

        model = torch.nn.Linear(1, 1)
        without = copy.copy(run.args)
        setattr(without, name, defaults_of(run.args)[name])
        try:
            made, other = (
                Trainer.get_optimizer_cls_and_kwargs(args, model) for args in (run.args, without)
            )
        except (ValueError, ImportError):  # needs the layers of the whole model
            return True
        return bool(made != other)

    return reads


def _has_tools(run: Any) -> bool:
    return any(run.options.get(name) for name in ("tools", "environment_factory"))


def _places_rewards(run: Any) -> bool:
    return bool(run.args.reward_workers or run.args.reward_isolation)


_vllm = _of("use_vllm")
EVALUATION = "rows to evaluate on: eval_strategy is 'no'"
TRAINING = (
    # When something happens.
    Rule(("num_train_epochs",), "max_steps to be left out", lambda run: run.args.max_steps <= 0),
    Rule(("logging_steps",), "logging_strategy steps", _of("logging_strategy", "steps")),
    Rule(("save_steps",), "save_strategy steps", _of("save_strategy", "steps")),
    Rule(
        ("save_total_limit",),
        "save_strategy steps, epoch or best",
        lambda run: run.args.save_strategy != "no",
    ),
    Rule(("eval_steps",), "eval_strategy steps", _of("eval_strategy", "steps")),
    Rule(
        ("eval_delay",), "eval_strategy steps or epoch", lambda run: run.args.eval_strategy != "no"
    ),
    # Evaluation.
    Rule(
        (
            *("per_device_eval_batch_size", "eval_accumulation_steps", "prediction_loss_only"),
            *("bf16_full_eval", "fp16_full_eval", "eval_packing", "num_generations_eval"),
            *("eval_metrics", "metric_for_best_model"),
        ),
        EVALUATION,
        _evaluates,
    ),
    Rule(
        (
            "include_for_metrics",
            "batch_eval_metrics",
            "eval_do_concat_batches",
            "eval_use_gather_object",
        ),
        "compute_metrics, an argument of the trainer",
        _computes,
    ),
    Rule(("metric_kwargs", "eval_max_new_tokens"), "eval_metrics", _of("eval_metrics")),
    Rule(("greater_is_better",), "metric_for_best_model", _of("metric_for_best_model")),
    # The optimizer and its schedule.
    *(
        Rule((name,), "an optimizer that takes it (optim)", _optimizer_reads(name))
        for name in ("adam_beta1", "adam_beta2", "adam_epsilon", "optim_target_modules")
    ),
    Rule(
        ("warmup_steps",),
        "an lr_scheduler_type with a warm-up, such as constant_with_warmup",
        lambda run: (
            run.args.lr_scheduler_type not in ("constant", "reduce_lr_on_plateau", "greedy")
        ),
    ),
    Rule(
        ("lr_scheduler_kwargs",),
        "an lr_scheduler_type that takes some",
        lambda run: run.args.lr_scheduler_type not in ("constant", "constant_with_warmup"),
    ),
    # Memory and speed.
    Rule(
        ("gradient_checkpointing_kwargs",),
        "gradient_checkpointing",
        lambda run: (
            run.args.gradient_checkpointing or getattr(run.args, "activation_checkpointing", False)
        ),
    ),
    Rule(
        ("activation_checkpointing_kwargs",),
        "activation_checkpointing",
        _of("activation_checkpointing"),
    ),
    Rule(("liger_kernel_config",), "use_liger_kernel", _of("use_liger_kernel")),
    Rule(
        ("dataloader_multiprocessing_context", "dataloader_in_order"),
        "dataloader_num_workers",
        _of("dataloader_num_workers"),
    ),
    # Rows and their order.
    Rule(("packing_strategy",), "packing", lambda run: run.args.packing or run.args.eval_packing),
    Rule(("dataset_text_field",), "rows with a column of that name", _has_text_field),
    Rule(("truncation_mode",), "max_length", _of("max_length")),
    Rule(
        ("train_sampling_strategy",),
        "another trainer: GRPO shuffles prompts by itself (shuffle_dataset)",
        lambda run: not isinstance(run.args, trl.GRPOConfig),
    ),
    Rule(
        ("data_seed",),
        "rows that are shuffled by it; here they are in order, or shuffled by seed",
        lambda run: (
            not isinstance(run.args, trl.GRPOConfig)
            and run.args.train_sampling_strategy != "sequential"
        ),
    ),
    Rule(
        ("length_column_name",),
        "train_sampling_strategy group_by_length or batch_rebalance",
        _of("train_sampling_strategy", "group_by_length", "batch_rebalance"),
    ),
    # Losses and references.
    Rule(
        ("label_smoothing_factor",),
        "SFT with loss_type nll; losses on preferences have label_smoothing",
        lambda run: isinstance(run.args, trl.SFTConfig) and run.args.loss_type == "nll",
    ),
    *(
        Rule(
            (name,), "a loss with this option; `trl-deepseek plugins show NAME`", _loss_reads(name)
        )
        for name in SHARED_OPTIONS
    ),
    Rule(
        ("ref_model_mixup_alpha", "ref_model_sync_steps"), "sync_ref_model", _of("sync_ref_model")
    ),
    Rule(
        ("precompute_ref_batch_size",), "precompute_ref_log_probs", _of("precompute_ref_log_probs")
    ),
    Rule(
        ("f_alpha_divergence_coef",),
        "f_divergence_type alpha_divergence",
        _of("f_divergence_type", "alpha_divergence"),
    ),
    Rule(("use_bias_correction_kl",), "beta above 0: there is no KL term", _of("beta")),
    Rule(
        ("entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target"),
        "use_adaptive_entropy",
        _of("use_adaptive_entropy"),
    ),
    # The model.
    Rule(
        ("model_init_kwargs", "trust_remote_code"),
        "a model that is loaded; an embedded one is built as it is",
        lambda run: run.embedded is None,
    ),
    # Generation.
    Rule(
        (
            *("vllm_mode", "vllm_model_impl", "vllm_enable_sleep_mode", "vllm_server_base_url"),
            *("vllm_structured_outputs_regex", "vllm_server_host", "vllm_server_port"),
            *("vllm_server_timeout", "vllm_group_port", "vllm_gpu_memory_utilization"),
            *("vllm_max_model_length", "vllm_tensor_parallel_size"),
            *("vllm_importance_sampling_correction", "vllm_importance_sampling_mode"),
            *("vllm_importance_sampling_clip_max", "vllm_importance_sampling_clip_min"),
            "engine_tolerance",
        ),
        "engine vllm",
        _vllm,
    ),
    Rule(
        (
            *("vllm_server_base_url", "vllm_server_host", "vllm_server_port"),
            *("vllm_server_timeout", "vllm_group_port"),
        ),
        "vllm_mode server",
        lambda run: not _vllm(run) or run.args.vllm_mode == "server",
    ),
    Rule(
        (
            *("vllm_gpu_memory_utilization", "vllm_max_model_length", "vllm_model_impl"),
            *("vllm_tensor_parallel_size", "vllm_enable_sleep_mode"),
        ),
        "vllm_mode colocate",
        lambda run: not _vllm(run) or run.args.vllm_mode == "colocate",
    ),
    Rule(
        (
            "vllm_importance_sampling_mode",
            "vllm_importance_sampling_clip_max",
            "vllm_importance_sampling_clip_min",
        ),
        "vllm_importance_sampling_correction",
        lambda run: not _vllm(run) or run.args.vllm_importance_sampling_correction,
    ),
    Rule(
        ("cache_implementation", "use_transformers_continuous_batching"),
        "engine transformers",
        lambda run: not _vllm(run),
    ),
    Rule(
        ("transformers_continuous_batching_config",),
        "use_transformers_continuous_batching",
        _of("use_transformers_continuous_batching"),
    ),
    # Rewards and tools.
    Rule(("reward_memory_limit",), "reward_workers or reward_isolation", _places_rewards),
    Rule(
        ("reward_max_failures",),
        "reward_on_error abstain or a number",
        lambda run: run.args.reward_on_error != "raise",
    ),
    Rule(
        ("tool_on_error", "tool_timeout", "tool_isolation", "max_tool_calling_iterations"),
        "tools",
        _has_tools,
    ),
    # What is told, and to whom.
    Rule(
        (
            "num_completions_to_print",
            "log_unique_prompts",
            "log_multimodal",
            "log_completions_hub_repo",
        ),
        "log_completions",
        _of("log_completions"),
    ),
    Rule(
        (
            "hub_token",
            "hub_model_id",
            "hub_strategy",
            "hub_private_repo",
            "hub_always_push",
            "hub_revision",
        ),
        "push_to_hub",
        _of("push_to_hub"),
    ),
    Rule(("run_name",), "a tracker in report_to", _of("report_to")),
    Rule(
        ("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
        "report_to trackio",
        lambda run: "trackio" in (run.args.report_to or ()),
    ),
    Rule(
        ("do_train", "do_eval", "do_predict"),
        "a script of transformers', which reads it",
        lambda run: False,
    ),
    Rule(
        ("label_names",), "a trainer that finds its labels by name; TRL's do not", lambda run: False
    ),
)
