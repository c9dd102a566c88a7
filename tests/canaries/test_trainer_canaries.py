"""What TRL, transformers and PEFT do that our trainers and noise lean on, beyond the names of the
table in test_private_names.py: one test per habit, so that an upgrade fails by name.
"""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
import trl
from accelerate import ParallelismConfig
from datasets import Dataset

from trl_deepseek import Registry, load_registry
from trl_deepseek.rewards.contract import Settings
from trl_deepseek.rewards.placing import Guards

TRAINERS = ("SFTTrainer", "DPOTrainer", "KTOTrainer", "GRPOTrainer", "RewardTrainer")


@pytest.mark.parametrize("trainer", ["SFTTrainer", "DPOTrainer", "KTOTrainer", "RewardTrainer"])
def test_rows_are_prepared_where_ours_counts_what_is_lost(trainer: str) -> None:
    # With max_length None in args, nothing is cut or left out.
    found = list(inspect.signature(getattr(trl, trainer)._prepare_dataset).parameters)
    more = ["packing", "formatting_func"] if trainer == "SFTTrainer" else []
    assert found == ["self", "dataset", "processing_class", "args", *more, "dataset_name"]


@pytest.mark.parametrize("trainer", TRAINERS)
def test_no_trainer_saves_its_tokenizer_other_than_in_save(trainer: str) -> None:
    # base: the template that is saved is chosen in _save, which none of TRL's may go around.
    assert getattr(trl, trainer)._save is transformers.Trainer._save


@pytest.mark.parametrize("trainer", TRAINERS)
def test_no_trainer_trains_other_than_in_train(trainer: str) -> None:
    assert getattr(trl, trainer).train is transformers.Trainer.train


@pytest.mark.parametrize(
    "field",
    ["assistant_only_loss", "dataset_text_field", "dataset_kwargs", "chat_template_path"],
)
def test_the_sft_config_has_the_field(field: str) -> None:
    assert field in {each.name for each in dataclasses.fields(trl.SFTConfig)}


@pytest.mark.parametrize(
    "name",
    ["model", "args", "data_collator", "train_dataset", "eval_dataset", "processing_class"],
)
def test_the_sft_trainer_takes_the_argument(name: str) -> None:
    assert name in inspect.signature(trl.SFTTrainer.__init__).parameters


@pytest.mark.parametrize("name", ["cp_enabled", "sp_enabled", "tp_size"])
def test_the_parallelism_config_tells(name: str) -> None:
    assert getattr(ParallelismConfig(), name) in (False, 1)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    model, tokenizer = load_registry().models["tiny-deepseek-llm"]()
    folder = str(tmp_path_factory.mktemp("canary"))
    args = trl.SFTConfig(
        folder, use_cpu=True, bf16=False, neftune_noise_alpha=5.0, report_to="none", max_steps=1,
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": "1+1=", "completion": "2"}])
    return trl.SFTTrainer(model, args, train_dataset=data, processing_class=tokenizer)


def test_the_trainer_keeps_the_alpha_of_neftune_under_this_name(trainer: Any) -> None:
    # base: setting it to None after the constructor is what routes the noise to ours.
    assert trainer.neftune_noise_alpha == 5.0


def test_without_that_alpha_transformers_adds_no_noise(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(transformers.trainer, "activate_neftune", lambda *args: calls.append(args))
    monkeypatch.setattr(transformers.trainer, "deactivate_neftune", lambda *args: None)
    trainer.train()
    assert len(calls) == 1
    trainer.neftune_noise_alpha = None
    trainer.train()
    assert len(calls) == 1


def test_the_trainer_knows_whether_only_completions_are_scored(trainer: Any) -> None:
    assert trainer.completion_only_loss is True


def test_the_trainer_knows_its_parallelism(trainer: Any) -> None:
    assert trainer.accelerator.parallelism_config is None


def test_the_fused_head_calls_the_backbone_so_that_hooks_see_its_arguments(trainer: Any) -> None:
    seen: list[set[str]] = []
    hook = trainer.model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(set(kwargs)), with_kwargs=True
    )
    batch = trainer.data_collator(list(trainer.train_dataset))
    trainer.model(**batch, fused_lm_head=True)
    hook.remove()
    assert {"input_ids", "attention_mask"} <= seen[0]


def test_a_peft_model_calls_the_backbone_too() -> None:
    model, _ = load_registry().models["tiny-deepseek-llm"]()
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    base = wrapped.get_base_model()
    seen: list[Any] = []
    hook = base.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    wrapped(
        input_ids=torch.ones(1, 3, dtype=torch.long),
        attention_mask=torch.ones(1, 3, dtype=torch.long),
    )
    hook.remove()
    assert len(seen) == 1


def test_restarting_positions_without_a_mask_mean_packing() -> None:
    from transformers.masking_utils import find_packed_sequence_indices

    assert find_packed_sequence_indices(torch.tensor([[0, 1, 0, 1, 2]])).tolist() == [
        [0, 0, 1, 1, 1]
    ]


def test_the_collator_of_packed_rows_gives_positions_and_no_mask(tmp_path: Path) -> None:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    batch = collate([{"input_ids": [1, 2, 3, 4], "labels": [1, 2, 3, 4], "seq_lengths": [3, 1]}])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0]]
    assert "attention_mask" not in batch


def test_trl_awaits_a_guarded_reward_under_its_own_name() -> None:
    from trl.trainer.utils import get_callable_name, is_async_callable

    def short(completions: list[str]) -> list[float]:
        return [0.0] * len(completions)

    (guard,) = Guards([short], Registry([]), Settings()).functions
    assert is_async_callable(guard)
    assert get_callable_name(guard) == "short"


def test_kto_moves_completions_on_unless_the_loss_is_called_apo_zero_unpaired() -> None:
    # kto: shows TRL this name where a loss needs no estimate of the KL, and "kto" where it does.
    source = inspect.getsource(trl.KTOTrainer.__init__)
    assert 'calculate_kl = args.loss_type not in ["apo_zero_unpaired"]' in source
