"""A trained model stops where its base stopped and at its template's end of turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, GenerationConfig

import trl_deepseek
from trl_deepseek import chat, load_registry
from trl_deepseek.adapters import merging

REGISTRY = load_registry()
USER: dict[str, Any] = {"role": "user", "content": "q"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("a", "b"))
ROWS: dict[str, dict[str, Any]] = {
    "SFT": {"prompt": [USER], "completion": [GOOD]},
    "DPO": {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    "KTO": {"prompt": [USER], "completion": [GOOD], "label": True},
    "GRPO": {"prompt": [USER]},
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base model that stops at two tokens, as many published ones do."""
    model, tokenizer = REGISTRY.models["tiny-deepseek-llm"]()
    model.generation_config.eos_token_id = [1, 5]
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def trainer_of(kind: str, base: Path, output: Path, **options: Any) -> Any:
    args: Any = getattr(trl_deepseek, f"{kind}Config")(
        str(output),
        report_to="none",
        use_cpu=True,
        chat_template="role-tokens",
        max_steps=1,
        per_device_train_batch_size=2,
        save_strategy="no",
        **({"num_generations": 2, "max_completion_length": 2} if kind == "GRPO" else {}),
    )
    if kind == "GRPO":
        options["reward_funcs"] = [lambda completions, **_: [0.0, 1.0]]
    data = Dataset.from_list([ROWS[kind]] * 2)
    return getattr(trl_deepseek, f"{kind}Trainer")(
        str(base), args=args, train_dataset=data, **options
    )


@pytest.mark.parametrize("kind", sorted(ROWS))
def test_a_trained_model_keeps_the_stops_of_its_base(kind: str, base: Path, tmp_path: Path) -> None:
    trainer = trainer_of(kind, base, tmp_path / "run")
    trainer.train()
    trainer.save_model(str(tmp_path / "run"))
    saved = GenerationConfig.from_pretrained(tmp_path / "run")
    end = trainer.processing_class.convert_tokens_to_ids("<|end|>")
    assert set(saved.eos_token_id) == {1, 5, end}


def test_a_merged_model_keeps_the_stops_of_its_base(base: Path, tmp_path: Path) -> None:
    trainer = trainer_of("SFT", base, tmp_path / "run", peft_config=LoraConfig(r=2))
    trainer.train()
    trainer.save_model(str(tmp_path / "run"))
    source = merging.inspect(str(tmp_path / "run"), REGISTRY)
    merging.merge(source, tmp_path / "merged", REGISTRY, dtype=torch.float32, max_new_tokens=2)
    saved = GenerationConfig.from_pretrained(tmp_path / "merged")
    end = trainer.processing_class.convert_tokens_to_ids("<|end|>")
    assert set(saved.eos_token_id) == {1, 5, end}


@pytest.mark.parametrize(("family", "stops"), [("role-tokens", False), ("deepseek-v3", True)])
def test_it_is_said_where_an_adapter_would_not_stop(
    family: str, stops: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model, tokenizer = REGISTRY.models["tiny-deepseek-llm"]()
    chat.install(tokenizer, family)
    chat.set_stop_tokens(model, tokenizer, saves_adapter=True)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    expected = (
        "the base does not stop at '<|end|>', the end of a turn, and an adapter's folder cannot "
        f"say so: merge it, load it with trl-deepseek, or set eos_token_id=[{end}, 1] in the "
        "generation_config of the model that you load it onto"
    )
    assert [r.getMessage() for r in caplog.records] == ([] if stops else [expected])


@pytest.mark.parametrize("stop", ["<|end|>", 5, 1])
def test_a_saved_model_stops_at_each_of_them(stop: Any, base: Path, tmp_path: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    tokenizer: Any = REGISTRY.models["tiny-deepseek-llm"]()[1]
    chat.install(tokenizer, "role-tokens")
    chat.set_stop_tokens(model, tokenizer)
    token = tokenizer.convert_tokens_to_ids(stop) if isinstance(stop, str) else stop
    model.lm_head.weight.data.zero_()
    model.save_pretrained(tmp_path / "saved")
    saved: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    bias = {(token,): 100.0}  # whatever it reads, it says this
    ids = tokenizer("hi", return_tensors="pt")
    out = saved.generate(**ids, max_new_tokens=8, do_sample=False, sequence_bias=bias)
    assert out[0, ids["input_ids"].shape[1] :].tolist() == [token]
