"""What is refused before a model is loaded is what TRL's constructors refuse, and nothing else."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
import trl
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import BitsAndBytesConfig, dynamic_module_utils

import trl_deepseek
from trl_deepseek import load_registry
from trl_deepseek.errors import DataError, UserError
from trl_deepseek.models import load_config

ROWS: dict[str, dict[str, Any]] = {
    "SFT": {"text": "1+1=2"},
    "DPO": {"prompt": "1+1=", "chosen": "2", "rejected": "3"},
    "KTO": {"prompt": "1+1=", "completion": "2", "label": True},
    "Reward": {"chosen": "1+1=2", "rejected": "1+1=3"},
    "GRPO": {"prompt": "1+1="},
}
LORA = {"peft_config": LoraConfig(target_modules=["q_proj"])}
SELECTIVE = {"gradient_checkpointing_kwargs": {"selective": True}}
TWICE = {"gradient_checkpointing_kwargs": {"selective": True, "use_reentrant": True}}
# kind, options of the config, of the trainer, changes of a row, whether rows are streamed
CASES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], bool]] = [
    ("SFT", {"padding_free": True, "max_length": 16}, {}, {}, False),
    ("SFT", {**SELECTIVE, "gradient_checkpointing": False}, {}, {}, False),
    ("SFT", {**TWICE, "gradient_checkpointing": True}, {}, {}, False),
    ("SFT", {"eval_strategy": "steps"}, {}, {}, False),
    ("SFT", {}, {}, {"image": "a.png"}, False),
    ("DPO", {}, {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}, {}, False),
    ("SFT", {"torch_compile": True, "torch_compile_backend": "inductr"}, {}, {}, False),
    ("DPO", {"sync_ref_model": True}, LORA, {}, False),
    ("DPO", {"sync_ref_model": True, "precompute_ref_log_probs": True}, {}, {}, False),
    ("DPO", {"precompute_ref_log_probs": True, "max_steps": 1}, {}, {}, True),
    ("DPO", {}, {}, {"images": ["a.png"]}, False),
    ("KTO", {"sync_ref_model": True}, LORA, {}, False),
    ("KTO", {"sync_ref_model": True, "precompute_ref_log_probs": True}, {}, {}, False),
    ("Reward", {"eval_strategy": "steps"}, {}, {}, False),
    ("GRPO", {"sync_ref_model": True}, {}, {}, False),
    ("GRPO", {"sync_ref_model": True, "beta": 0.1}, LORA, {}, False),
]


def given(kind: str, module: Any, folder: Path, options: Any, row: Any, streamed: bool) -> Any:
    """Positional and keyword arguments of a trainer."""
    model, tokenizer = load_registry().models["tiny-deepseek-llm"]()
    rows: Any = Dataset.from_list([{**ROWS[kind], **row}] * 4)
    args = getattr(module, f"{kind}Config")(
        str(folder), report_to="none", use_cpu=True, bf16=False, **options
    )
    rewards = {"reward_funcs": lambda completions, **_: [0.0] * len(completions)}
    return (model,), {
        "args": args,
        "train_dataset": rows.to_iterable_dataset() if streamed else rows,
        "processing_class": tokenizer,
        **(rewards if kind == "GRPO" else {}),
    }


@pytest.mark.parametrize(
    ("kind", "options", "trainer_options", "row", "streamed"),
    CASES,
    ids=[f"{case[0]}-{'-'.join([*case[1], *case[2], *case[3]])}" for case in CASES],
)
def test_trl_refuses_what_is_refused(
    kind: str,
    options: dict[str, Any],
    trainer_options: dict[str, Any],
    row: dict[str, Any],
    streamed: bool,
    tmp_path: Path,
) -> None:
    name = f"{kind}Trainer"
    place, named = given(kind, trl, tmp_path, options, row, streamed)
    with pytest.raises((ValueError, NotImplementedError)):
        getattr(trl, name)(*place, **named, **trainer_options)
    place, named = given(kind, trl_deepseek, tmp_path, options, row, streamed)
    ours = getattr(trl_deepseek, name)
    with pytest.raises(UserError) as error:
        ours.check(*place, **named, **trainer_options)
    assert isinstance(error.value, (ValueError, DataError))


def test_an_adapter_is_given_once(tmp_path: Path) -> None:
    (model,), named = given("SFT", trl_deepseek, tmp_path, {}, {}, False)
    with pytest.raises(ValueError, match="adapter already"):
        trl_deepseek.SFTTrainer.check(get_peft_model(model, LORA["peft_config"]), **named, **LORA)


@pytest.fixture
def with_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model whose code comes with it, where nobody answers a question."""
    folder = tmp_path / "with_code"
    model, tokenizer = load_registry().models["tiny-deepseek-llm"]()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(settings))
    code = 'from transformers import LlamaConfig\nclass Own(LlamaConfig):\n    model_type = "own"\n'
    (folder / "own.py").write_text(code)
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))

    def asked(question: str = "") -> str:
        raise AssertionError(f"asked at a prompt: {question}")

    monkeypatch.setattr(builtins, "input", asked)
    return str(folder)


def test_code_of_a_model_runs_only_when_it_is_trusted(with_code: str, tmp_path: Path) -> None:
    _, named = given("SFT", trl, tmp_path, {}, {}, False)
    with pytest.raises(ValueError, match="custom code"):
        trl.SFTTrainer(with_code, **named)
    _, named = given("SFT", trl_deepseek, tmp_path, {}, {}, False)
    with pytest.raises(ValueError, match=r"custom code.*\n.*--trust_remote_code true"):
        trl_deepseek.SFTTrainer.check(with_code, **named)
    _, named = given("SFT", trl_deepseek, tmp_path, {"trust_remote_code": True}, {}, False)
    trl_deepseek.SFTTrainer.check(with_code, **named)
    config = load_config(with_code, load_registry(), trust=True)
    assert type(config).__name__ == "Own"
