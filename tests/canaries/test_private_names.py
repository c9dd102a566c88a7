"""Every name of other libraries that we call, replace or read beyond their documented interface.

One table, one test per row, so that an upgrade fails by name; and a search through our own source,
which fails on a name that is missing from the table.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import trl_deepseek
import trl_deepseek_plugins

LIBRARIES = {"accelerate", "bitsandbytes", "jinja2", "peft", "torch", "transformers", "trl"}
PACKAGES = (trl_deepseek, trl_deepseek_plugins)


@dataclass(frozen=True)
class Name:
    """A name that an upgrade may take away.

    Attributes:
        owner: Module or class that has it; for an attribute of instances, their class.
        name: The name itself.
        where: Our file that uses it.
        why: What for.
        parameters: Of a method, where we override or call it, after ``self``.
    """

    owner: str
    name: str
    where: str
    why: str
    parameters: str | None = None

    def __str__(self) -> str:
        return f"{self.owner}.{self.name}"


DPO, KTO, GRPO = "trl.DPOTrainer", "trl.KTOTrainer", "trl.GRPOTrainer"
REWARD, TRAINER = "trl.RewardTrainer", "transformers.Trainer"
BNB4 = "transformers.quantizers.quantizer_bnb_4bit"
FOUR_BIT = "quantization/four_bit.py"

TABLE = [
    # environment: what is installed
    Name("transformers.integrations", "integration_utils", "environment.py", "trackers by name"),
    Name("transformers.utils", "import_utils", "environment.py", "flash attention by version"),
    Name("transformers.utils", "is_liger_kernel_available", "environment.py", "before it is used"),
    # row_findings: what is kept beside a table
    Name("datasets.Dataset", "_fingerprint", "row_findings.py", "stands for the rows"),
    # trainers: what a batch becomes, and what is logged of it
    Name(DPO, "_compute_loss", "trainers/dpo.py", "the one pass", "model inputs return_outputs"),
    Name(KTO, "_compute_loss", "trainers/kto.py", "the one pass", "model inputs return_outputs"),
    Name(DPO, "compute_ref_log_probs", "trainers/dpo.py", "by our pass", "model inputs"),
    Name(KTO, "compute_ref_log_probs", "trainers/kto.py", "by our pass", "model inputs"),
    Name(DPO, "aux_loss_enabled", "trainers/dpo.py", "whether experts are balanced"),
    Name(KTO, "aux_loss_enabled", "trainers/kto.py", "whether experts are balanced"),
    Name(DPO, "router_aux_loss_coef", "trainers/preference_base.py", "how much they are"),
    Name(KTO, "router_aux_loss_coef", "trainers/preference_base.py", "how much they are"),
    Name(DPO, "precompute_ref_logps", "trainers/dpo.py", "whether batches carry the reference's"),
    Name(KTO, "precompute_ref_logps", "trainers/kto.py", "whether batches carry the reference's"),
    Name(DPO, "ld_alpha", "trainers/dpo.py", "what tokens beyond the shorter completion count"),
    Name(DPO, "ref_model", "trainers/preference_base.py", "a property here, so that none is set"),
    Name(KTO, "ref_model", "trainers/preference_base.py", "a property here, so that none is set"),
    Name(DPO, "_metrics", "trainers/preference_base.py", "what is logged"),
    Name(KTO, "_metrics", "trainers/kto.py", "what is logged"),
    Name(REWARD, "_metrics", "trainers/reward.py", "what is logged"),
    Name(GRPO, "_metrics", "trainers/grpo.py", "what is logged"),
    Name(DPO, "_total_train_tokens", "trainers/preference_base.py", "the count of tokens"),
    Name(KTO, "_total_train_tokens", "trainers/preference_base.py", "the count of tokens"),
    Name(REWARD, "_total_train_tokens", "trainers/reward.py", "the count of tokens"),
    Name(DPO, "_tp_size", "trainers/preference_base.py", "how many processes see one batch"),
    Name(KTO, "_tp_size", "trainers/preference_base.py", "how many processes see one batch"),
    Name(REWARD, "_tp_size", "trainers/reward.py", "how many processes see one batch"),
    Name(
        REWARD, "_prepare_dataset", "trainers/reward.py", "rows that are left out are counted",
        "dataset processing_class args dataset_name",
    ),
    Name("trl.DPOConfig", "_VALID_DICT_FIELDS", "trainers/configs.py", "options given as JSON"),
    Name("trl.KTOConfig", "_VALID_DICT_FIELDS", "trainers/configs.py", "options given as JSON"),
    Name("trl.RewardConfig", "_VALID_DICT_FIELDS", "trainers/configs.py", "options given as JSON"),
    Name("trl.trainer.utils", "FusedCausalLMOutput", "trainers/preference_base.py", "our answer"),
    Name(
        "trl.trainer.utils", "RepeatSampler", "trainers/replaying.py", "the first batch of prompts",
        "data_source mini_repeat_count batch_size repeat_count shuffle seed",
    ),
    Name(
        "trl.data_utils", "maybe_extract_prompt", "chat/thinking.py", "prompts inside pairs",
        "example",
    ),
    # GRPO: what is generated, scored and saved
    Name(
        GRPO, "_calculate_rewards", "trainers/grpo.py", "scores are checked and kept",
        "inputs prompts completions completion_ids_list",
    ),
    Name(
        GRPO, "_generate_and_score_completions", "trainers/grpo.py", "weights of the step",
        "inputs",
    ),
    Name(GRPO, "_generate_single_turn", "trainers/sampling.py", "samples as the model is trained"),
    Name(
        GRPO, "_get_per_token_logps_and_entropies", "trainers/scoring.py", "shared prompts",
        "model input_ids attention_mask logits_to_keep batch_size compute_entropy compute_aux_loss "
        "pixel_values image_grid_thw num_images pixel_attention_mask spatial_shapes num_tiles "
        "image_sizes token_type_ids mm_token_type_ids image_position_ids",
    ),
    # GRPO: policy losses and advantages by name
    Name(
        GRPO, "_generate_and_score_completions", "trainers/policy.py", "advantages replaced",
        "inputs",
    ),
    Name(GRPO, "_compute_loss", "trainers/policy.py", "registered policy losses", "model inputs"),
    Name(
        GRPO, "_get_per_token_logps_and_entropies", "trainers/policy.py", "the one pass",
        "model input_ids attention_mask logits_to_keep batch_size compute_entropy compute_aux_loss "
        "pixel_values image_grid_thw num_images pixel_attention_mask spatial_shapes num_tiles "
        "image_sizes token_type_ids mm_token_type_ids image_position_ids",
    ),
    Name(
        GRPO, "get_high_entropy_mask", "trainers/policy.py", "the tokens trained on",
        "entropies mask threshold",
    ),
    Name(GRPO, "_entropy_bonus_enabled", "trainers/policy.py", "whether TRL adds for entropy"),
    Name(GRPO, "_logs", "trainers/policy.py", "advantages in the table of completions"),
    Name(GRPO, "_metrics", "trainers/policy.py", "what is logged"),
    Name(GRPO, "top_entropy_quantile", "trainers/policy.py", "whether tokens are left out"),
    Name(GRPO, "aux_loss_enabled", "trainers/policy.py", "whether experts are balanced"),
    Name(GRPO, "router_aux_loss_coef", "trainers/policy.py", "how much they are"),
    Name(GRPO, "num_generations_eval", "trainers/policy.py", "the size of groups"),
    Name("trl.GRPOConfig", "_VALID_DICT_FIELDS", "trainers/configs.py", "options given as JSON"),
    Name(GRPO, "_tool_call_loop", "trainers/tool_use.py", "calls of tools are counted"),
    Name(
        GRPO, "_get_tool_suffix_ids", "trainers/tool_use.py", "how results are written",
        "tool_messages",
    ),
    Name(GRPO, "_tokenizer", "trainers/tool_use.py", "the end of the turn that calls"),
    Name("transformers.utils", "get_json_schema", "tools/resolving.py", "what the model is told"),
    Name(
        "trl.chat_template_utils", "supports_tool_calling", "trainers/tool_use.py", "asked before",
    ),
    Name(GRPO, "_generate", "trainers/replaying.py", "which prompts are asked", "prompts"),
    Name("trl.trainer.grpo_trainer", "VLLMGeneration", "trainers/engine.py", "ours in its place"),
    Name("trl.generation", "vllm_generation", "engines/policy.py", "its engine with our options"),
    Name("trl.generation.vllm_generation", "VLLMGeneration", "engines/policy.py", "our base"),
    Name(
        "trl.generation.vllm_generation.VLLMGeneration", "_init_vllm", "engines/policy.py",
        "from our folder", "",
    ),
    Name(
        "trl.generation.vllm_generation.VLLMGeneration", "_iter_named_params",
        "engines/policy.py", "weights merged beside the base", "",
    ),
    Name("trl.generation", "vllm_client", "engines/client.py", "its end of the transfer, watched"),
    Name("trl.generation.vllm_client", "VLLMClient", "engines/client.py", "our base"),
    Name(
        "trl.generation.vllm_client.VLLMClient", "update_named_params", "engines/client.py",
        "ends with the side that fails", "metadata named_params",
    ),
    Name(
        "trl.generation.vllm_client.VLLMClient", "_post", "engines/client.py",
        "waits no longer than the server lives", "url kwargs",
    ),
    Name(
        "trl.generation.vllm_client.VLLMClient", "_get", "engines/client.py",
        "waits no longer than the server lives", "url kwargs",
    ),
    Name(
        "trl.generation.vllm_client.VLLMClient", "_start_weight_update", "engines/client.py",
        "ends one that was cut off", "",
    ),
    Name(
        "trl.generation.vllm_client.VLLMClient", "_finish_weight_update", "engines/client.py",
        "ends one that was cut off", "",
    ),
    Name(GRPO, "_last_loaded_step", "trainers/engine.py", "whether weights are sent again"),
    Name(
        "trl.generation.vllm_generation.VLLMGeneration", "_dist", "engines/policy.py",
        "whether the weights are in parts",
    ),
    Name(
        "transformers.core_model_loading", "revert_weight_conversion", "engines/weights.py",
        "experts as they are stored", "model state_dict",
    ),
    Name("peft.tuners.tuners_utils", "BaseTunerLayer", "engines/weights.py", "what is adapted"),
    Name(GRPO, "_step", "trainers/grpo.py", "where in the batch a run stopped"),
    Name(GRPO, "_buffered_inputs", "trainers/grpo.py", "the batch worked off"),
    Name(GRPO, "reward_weights", "trainers/grpo.py", "weights of the step"),
    Name(GRPO, "reward_func_names", "trainers/grpo.py", "what scores are called"),
    Name("peft.tuners.lora", "Linear", "adapters/fused.py", "plain LoRA"),
    Name("peft.tuners.lora.Linear", "forward", "adapters/fused.py", "how it adds", "x args kwargs"),
    Name("accelerate.Accelerator", "_original_forward", "segments/exactness.py", "autocast inside"),
    Name("torch.nn.Module", "_forward_pre_hooks", "adapters/fused.py", "what a call would do"),
    Name("torch.nn.Module", "_forward_hooks", "adapters/fused.py", "what a call would do"),
    # all trainers: what is saved and loaded
    Name(
        "torch.optim.lr_scheduler.LRScheduler", "_last_lr", "trainers/saving.py",
        "the rate of a resumed run",
    ),
    Name(TRAINER, "_save_checkpoint", "trainers/saving.py", "renamed last", "model trial"),
    Name(TRAINER, "_get_output_dir", "trainers/saving.py", "another while saving", "trial"),
    Name(
        TRAINER, "_push_from_checkpoint", "trainers/saving.py", "after the rename",
        "checkpoint_folder",
    ),
    Name(
        TRAINER, "get_batch_samples", "trainers/saving.py", "no step after the last",
        "epoch_iterator num_batches device",
    ),
    Name(
        TRAINER, "_evaluate", "trainers/stopping.py", "evaluations are broken off",
        "trial ignore_keys_for_eval skip_scheduler",
    ),
    Name(
        TRAINER, "_determine_best_metric", "trainers/stopping.py", "the best step is kept",
        "metrics trial",
    ),
    Name(
        TRAINER, "_load_optimizer_and_scheduler", "trainers/saving.py",
        "the schedule is this run's", "checkpoint",
    ),
    Name(
        TRAINER, "_load_rng_state", "trainers/saving.py", "its checkpoint is named where it fails",
        "checkpoint",
    ),
    Name(
        TRAINER, "_load_scaler", "trainers/saving.py", "its checkpoint is named where it fails",
        "checkpoint",
    ),
    Name(
        "transformers.trainer_pt_utils", "safe_globals", "checkpoints/contents.py",
        "NumPy's arrays in random states", "",
    ),
    Name(
        "torch.serialization", "get_unsafe_globals_in_checkpoint", "checkpoints/contents.py",
        "what a pickle would call", "f",
    ),
    Name(
        "torch.optim.lr_scheduler.LRScheduler", "_last_lr", "trainers/saving.py",
        "the rate that is logged",
    ),
    Name("trl.DPOConfig", "sync_ref_model", "trainers/saving.py", "the reference moves"),
    Name(TRAINER, "_tr_loss", "trainers/tallies.py", "the loss since the last log"),
    Name(TRAINER, "_total_loss_scalar", "trainers/tallies.py", "the loss of all steps"),
    Name(TRAINER, "_globalstep_last_logged", "trainers/tallies.py", "the steps in the next log"),
    Name("trl.SFTTrainer", "_metrics", "trainers/tallies.py", "metrics since the last log"),
    Name("trl.SFTTrainer", "_total_train_tokens", "trainers/tallies.py", "the count of tokens"),
    Name(
        TRAINER, "_save", "trainers/base.py", "the template that generates is saved",
        "output_dir state_dict",
    ),
    Name(
        TRAINER, "_load_from_checkpoint", "trainers/base.py", "adapters keep their dtype",
        "resume_from_checkpoint model",
    ),
    Name(
        TRAINER, "_prepare_inputs", "trainers/watching.py", "the batch that the watch would keep",
        "inputs",
    ),
    Name(
        TRAINER, "_get_grad_norm", "trainers/watching.py", "the gradient is looked at",
        "model grad_norm",
    ),
    Name(
        "trl.trainer.grpo_trainer", "create_model_from_path", "trainers/grpo.py",
        "the reference of a model in memory is no file", "model_id architecture kwargs",
    ),
    Name(
        "accelerate.utils", "DynamoBackend", "trainers/trial.py",
        "the backends that torch_compile_backend may name",
    ),
    Name(
        "trl.trainer.grpo_trainer", "BaseTunerLayer", "trainers/adapted_head.py",
        "an adapter on the head is refused",
    ),
    Name("trl.trainer", "grpo_trainer", "trainers/trl_grpo.py", "where these are replaced"),
    Name(TRAINER, "train", "trainers/base.py", "the noise is attached around it"),
    Name(DPO, "_name", "trainers/card.py", "what the card says that it was trained with"),
    Name(DPO, "_paper", "trainers/card.py", "whose paper the card cites"),
    Name(TRAINER, "neftune_noise_alpha", "trainers/base.py", "None, so that the noise is ours"),
    Name(
        "transformers.utils", "is_torch_bf16_gpu_available", "trainers/configs.py", "the default",
        "",
    ),
    Name("accelerate.utils", "gather_object", "trainers/grpo.py", "all processes' completions"),
    Name("transformers.utils", "cached_file", "models/weights.py", "weight files of a hub id"),
    Name("transformers.utils", "logging", "models/weights.py", "its loading is rehearsed in quiet"),
    Name("accelerate.utils", "broadcast_object_list", "trainers/room.py", "what rank 0 has found"),
    # models and their heads
    Name("transformers.PreTrainedConfig", "_name_or_path", "models/published.py", "where it is"),
    Name("transformers.PreTrainedConfig", "_attn_implementation", "segments/exactness.py", "which"),
    Name("transformers.PreTrainedModel", "_is_stateful", "segments/exactness.py", "recurrence"),
    Name("torch.Tensor", "_make_wrapper_subclass", "segments/mask.py", "a mask without numbers"),
    Name("transformers.PreTrainedModel", "base_model", "noise.py", "the backbone"),
    Name("transformers.PreTrainedModel", "get_input_embeddings", "noise.py", "where noise goes"),
    Name("peft.PeftModel", "get_base_model", "noise.py", "the model inside"),
    Name("torch._dynamo.OptimizedModule", "_orig_mod", "lm_head/scoring.py", "what was compiled"),
    Name("torch.nn.Module", "_compiled_call_impl", "segments/exactness.py", "compiled in place"),
    Name("accelerate.hooks", "_hf_hook", "models/loading.py", "a copy shall have no hooks"),
    Name("accelerate.Accelerator", "_original_forward", "models/loading.py", "nor their wrapper"),
    Name(
        "transformers.models.mixtral.modeling_mixtral", "load_balancing_loss_func",
        "lm_head/balancing.py", "the experts' balance",
        "gate_logits num_experts top_k attention_mask",
    ),
    # templates
    Name(
        "transformers.utils.chat_template_utils", "_compile_jinja_template",
        "chat/recognising.py", "the syntax is checked by what will run it", "chat_template",
    ),
    Name(
        "transformers.utils.chat_template_utils", "render_jinja_template", "chat/rendering.py",
        "renders without a tokenizer",
    ),
    # quantization and memory
    Name("transformers.quantizers.auto", "AUTO_QUANTIZER_MAPPING", FOUR_BIT, "ours is put there"),
    Name(BNB4, "Bnb4BitHfQuantizer", FOUR_BIT, "quantizes experts too"),
    Name(
        f"{BNB4}.Bnb4BitHfQuantizer", "_process_model_before_weight_loading",
        FOUR_BIT, "experts become 4-bit",
    ),
    Name(
        f"{BNB4}.Bnb4BitHfQuantizer", "_process_model_after_weight_loading",
        FOUR_BIT, "experts become 4-bit",
    ),
    Name("transformers.core_model_loading", "ConversionOps", FOUR_BIT, "experts as they load"),
    Name("transformers.core_model_loading", "WeightConverter", FOUR_BIT, "experts as they load"),
    Name("bitsandbytes.nn", "parametrize", FOUR_BIT, "experts are parameters"),
    Name(
        "bitsandbytes.nn.parametrize", "replace_parameter_4bit_prequantized",
        FOUR_BIT, "experts are parameters",
    ),
    Name("transformers.integrations", "moe", "memory/rehearsal.py", "experts without data"),
    Name(
        "transformers.integrations.moe", "_grouped_mm", "memory/rehearsal.py",
        "experts without data", "input weight offs",
    ),
    Name("trl.trainer.utils", "add_fused_lm_head", "memory/rehearsal.py", "TRL's head"),
    Name(
        "torch.distributed.distributed_c10d",
        "_get_default_store",
        "jobs/peers.py",
        "what the ranks of a run share",
    ),
    Name(
        "torch.distributed.distributed_c10d",
        "_set_pg_timeout",
        "processes.py",
        "--ddp_timeout on CPUs",
        "timeout group",
    ),
    Name("torch", "_subclasses", "memory/rehearsal.py", "tensors without data"),
    Name("torch.utils", "_python_dispatch", "memory/live.py", "every tensor that is made"),
    Name("torch.utils", "_pytree", "memory/live.py", "every tensor that is made"),
    Name("torch.UntypedStorage", "_cdata", "memory/live.py", "whether two share memory"),
]  # fmt: skip


def resolve(path: str) -> Any:
    parts = path.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(path)


@pytest.mark.parametrize("entry", TABLE, ids=str)
def test_the_name_is_there_and_takes_what_it_took(entry: Name) -> None:
    owner = resolve(entry.owner)
    if isinstance(owner, ModuleType) and not hasattr(owner, entry.name):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(f"{entry.owner}.{entry.name}")
    if not hasattr(owner, entry.name):  # set on instances, or on what it is handed
        classes = [c for c in getattr(owner, "__mro__", [owner]) if c is not object]
        written = "".join(map(source_of, classes))
        assert re.search(rf"\.{entry.name}\b.* = |\"{entry.name}\"", written)
    elif entry.parameters is not None:
        parameters = inspect.signature(inspect.unwrap(getattr(owner, entry.name))).parameters
        assert " ".join(name for name in parameters if name != "self") == entry.parameters


@pytest.mark.parametrize("entry", TABLE, ids=str)
def test_our_file_still_uses_the_name(entry: Name) -> None:
    text = Path(trl_deepseek.__path__[0], entry.where).read_text(encoding="utf-8")
    assert re.search(rf"\b{entry.name}\b", text), f"take {entry} out of the table"


def files() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in Path(package.__path__[0]).rglob("*.py"):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


# The standard library's, and texts of ours that only look like names.
NOT_OF_A_LIBRARY = {
    *("_StoreAction", "_SubParsersAction", "_actions", "_add_container_actions"),  # argparse
    *("_optionals", "_group_actions"),  # argparse
    *("_exit", "_base_executable", "_run_exitfuncs"),  # os, sys, atexit
    *("_fields", "_SentinelObject"),  # named tuples, unittest.mock
    *("_bytes", "_ids", "_token", "_available", "_methods"),
    "_saving",  # the folder that checkpoints are written in
    "_unsorted_args",  # sympy
    *("_trl_deepseek_template", "_trl_deepseek_base_eos", "_trl_deepseek_said"),
    "_trl_deepseek_plain",
    "_trl_deepseek_engine",
    "_trl_deepseek_reader",
}


def is_private(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"_[A-Za-z]\w*", name) is not None


def used_and_defined(tree: ast.Module) -> tuple[set[str], set[str]]:
    """Private names that a file reads, writes as text or imports, and those that it makes."""
    used: set[str] = set()
    defined: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.Attribute):
            is_own = isinstance(node.value, ast.Name) and node.value.id == "self"
            is_made = is_own and isinstance(node.ctx, ast.Store)
            (defined if is_made else used).add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            used.add(node.value)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if not module.startswith("trl_deepseek"):
                used |= {alias.name for alias in node.names} | set(module.split("."))
    return used, defined


def test_every_private_name_that_is_not_ours_is_in_the_table() -> None:
    trees = [tree for _, tree in files()]
    used = set().union(*(used_and_defined(tree)[0] for tree in trees))
    defined = set().union(*(used_and_defined(tree)[1] for tree in trees))
    strange = {name for name in used - defined if is_private(name)} - NOT_OF_A_LIBRARY
    assert strange - {entry.name for entry in TABLE} == set()


def our_classes() -> Iterator[type]:
    for package in PACKAGES:
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not info.name.endswith("__main__"):
                for item in vars(importlib.import_module(info.name)).values():
                    if isinstance(item, type) and item.__module__.startswith("trl_deepseek"):
                        yield item


def test_every_private_member_that_our_classes_share_with_a_librarys_is_in_the_table() -> None:
    """Methods that override one, and attributes of ``self`` that a base class has made."""
    known = {entry.name for entry in TABLE}
    # What Python and torch put on every class of a kind, in no one's source.
    known |= {"_abc_impl", "_backward_cls"}
    for cls in set(our_classes()):
        theirs = [base for base in cls.__mro__ if base.__module__.split(".")[0] in LIBRARIES]
        for base in [base for base in cls.__mro__ if base.__module__.startswith("trl_deepseek")]:
            text = textwrap.dedent(source_of(base))
            names = {*vars(base), *re.findall(r"(?:self|super\(\))\.(\w+)", text)}
            for name in filter(is_private, names - known):
                assert not any(has(library, name) for library in theirs), f"{cls.__name__}.{name}"


def has(cls: type, name: str) -> bool:
    return name in vars(cls) or f"self.{name} = " in source_of(cls)


@functools.cache
def source_of(cls: type) -> str:
    """The class as it is written; empty of one that is made while the program runs, or in C."""
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):
        return ""


def test_every_import_from_within_a_library_is_in_the_table() -> None:
    known = {entry.name for entry in TABLE}
    inner: dict[str, str] = {}
    for path, tree in files():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and "." in (node.module or ""):
                library, *_ = str(node.module).split(".")
                if library in LIBRARIES - {"torch"}:
                    public = importlib.import_module(library)
                    inner |= {a.name: path.name for a in node.names if not hasattr(public, a.name)}
    assert {name: file for name, file in inner.items() if name not in known} == {}


def test_the_searches_find_what_they_look_for() -> None:
    tree = ast.parse("from trl.x import _a\nself._b = y._c\ngetattr(y, '_d')\ndef _e(): ...")
    used, defined = used_and_defined(tree)
    assert {"_a", "_c", "_d"} <= used
    assert {"_b", "_e"} <= defined
    assert isinstance(resolve("trl.trainer.utils"), ModuleType)
    assert has(resolve(GRPO), "_step")
    assert not has(resolve(GRPO), "_stepp")
