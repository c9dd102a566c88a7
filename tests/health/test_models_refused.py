"""Models that lack weights, do not fit or are damaged: refused by name, before they are loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from trl_deepseek import (
    DPOConfig,
    DPOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
    load_registry,
    models,
)
from trl_deepseek.errors import ModelError

REGISTRY = load_registry()
WEIGHT = "model.layers.1.mlp.up_proj.weight"
Save = Callable[..., Path]


@pytest.fixture(scope="module")
def whole(saved_model: Save, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_model(tmp_path_factory.mktemp("whole"))


def edited(folder: Path, tmp_path: Path, file: str, **values: Any) -> Path:
    """The same folder with other values in one of its JSON files."""
    copied = tmp_path / "model"
    copied.mkdir()
    for path in folder.iterdir():
        (copied / path.name).symlink_to(path)
    content = json.loads((folder / file).read_text())
    (copied / file).unlink()
    (copied / file).write_text(json.dumps({**content, **values}))
    return copied


def with_file(folder: Path, tmp_path: Path, content: bytes) -> Path:
    """The same folder with this content instead of its weights."""
    copied = edited(folder, tmp_path, "config.json")
    (copied / "model.safetensors").unlink()
    (copied / "model.safetensors").write_bytes(content)
    return copied


def check(model: Any, settings: dict[str, Any], texts: Dataset, **options: Any) -> None:
    SFTTrainer.check(str(model), SFTConfig(**settings), texts, **options)


def test_a_whole_model_is_taken(whole: Path, settings: dict[str, Any], texts: Dataset) -> None:
    check(whole, settings, texts)


def test_weights_that_are_missing_are_named(
    saved_model: Save, tmp_path: Path, settings: dict[str, Any], texts: Dataset
) -> None:
    folder = saved_model(tmp_path / "model", lambda tensors: tensors.pop(WEIGHT))
    with pytest.raises(ModelError) as refused:
        check(folder, settings, texts)
    lines = str(refused.value).splitlines()
    assert lines[0] == f"model '{folder}' lacks weights, which would be random: {WEIGHT}"
    assert not Path(settings["output_dir"]).exists()


def test_weights_without_a_tensor_are_no_model(
    saved_model: Save, tmp_path: Path, settings: dict[str, Any], texts: Dataset
) -> None:
    folder = saved_model(tmp_path / "model", dict.clear)
    with pytest.raises(ModelError) as refused:
        check(folder, settings, texts)
    assert str(refused.value) == (
        f"model '{folder}' lacks all weights: {folder}/model.safetensors holds no tensors"
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"num_hidden_layers": 3}, "more layers than the num_hidden_layers of its config.json, 3"),
        ({"num_hidden_layers": -1}, "more layers than the num_hidden_layers of its config.json, -"),
        ({"num_attention_heads": 0}, "transformers does not take its config.json: ZeroDivision"),
        ({"hidden_size": 7}, "transformers does not take its config.json: "),
        ({"hidden_size": "many"}, "transformers does not take its config.json: "),
        ({"vocab_size": -5}, "cannot be built from its config.json: "),
    ],
    ids=str,
)
def test_a_config_that_no_model_can_have_is_named(
    whole: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    texts: Dataset,
    values: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises(ModelError, match=re.escape(said)):
        check(edited(whole, tmp_path, "config.json", **values), settings, texts)


def test_a_weight_of_another_shape_is_named_with_both(
    saved_model: Save, tmp_path: Path, settings: dict[str, Any], texts: Dataset
) -> None:
    def cut(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.weight"] = tensors["model.norm.weight"][:7].clone()

    folder = saved_model(tmp_path / "model", cut)
    with pytest.raises(ModelError, match=r"model\.norm\.weight is 7, not 128"):
        check(folder, settings, texts)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "is a Git LFS pointer",
        ),
        (b"no weights", "is cut off, or holds no weights"),
    ],
    ids=["empty", "html", "lfs", "text"],
)
def test_a_file_that_is_no_weights_is_named(
    whole: Path, tmp_path: Path, content: bytes, words: str
) -> None:
    folder = with_file(whole, tmp_path, content)
    with pytest.raises(ModelError) as refused:
        models.check(str(folder), REGISTRY)
    assert str(refused.value).startswith(f"{folder}/model.safetensors {words}")


def test_a_file_that_is_cut_off_is_named(whole: Path, tmp_path: Path) -> None:
    content = (whole / "model.safetensors").read_bytes()
    folder = with_file(whole, tmp_path, content[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors is cut off, or holds no weights"):
        models.check(str(folder), REGISTRY)


def test_an_index_that_lists_a_lost_shard_is_refused(whole: Path, tmp_path: Path) -> None:
    folder = edited(whole, tmp_path, "config.json")
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {WEIGHT: "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"not there: model-00001-of-00001\.safetensors"):
        models.check(str(folder), REGISTRY)


def test_arguments_of_a_training_are_no_weights(whole: Path, tmp_path: Path) -> None:
    folder = edited(whole, tmp_path, "config.json")
    (folder / "model.safetensors").unlink()
    torch.save({"a": 1}, folder / "training_args.bin")
    with pytest.raises(ModelError, match="has no weights"):
        models.check(str(folder), REGISTRY)


def test_weights_as_torch_saves_them_are_read_too(
    whole: Path, tmp_path: Path, settings: dict[str, Any], texts: Dataset
) -> None:
    folder = edited(whole, tmp_path, "config.json")
    (folder / "model.safetensors").unlink()
    state = REGISTRY.models["tiny-deepseek-llm"]()[0].state_dict()
    torch.save(state, folder / "pytorch_model.bin")
    check(folder, settings, texts)
    del state[WEIGHT]
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=WEIGHT):
        check(folder, settings, texts)


def test_a_tokenizer_with_tokens_beyond_the_embeddings_is_refused(
    whole: Path, settings: dict[str, Any], texts: Dataset
) -> None:
    tokenizer = REGISTRY.models["tiny-deepseek-llm"]()[1]
    rows = json.loads((whole / "config.json").read_text())["vocab_size"]
    tokenizer.add_tokens([f"<new{number}>" for number in range(rows - len(tokenizer) + 1)])
    with pytest.raises(ModelError) as refused:
        check(whole, settings, texts, processing_class=tokenizer)
    assert f"beyond the model's {rows} embeddings: '<new" in str(refused.value)
    assert f"({rows})" in str(refused.value)


def test_an_end_of_text_that_is_no_token_is_refused(
    whole: Path, tmp_path: Path, settings: dict[str, Any], texts: Dataset
) -> None:
    folder = edited(whole, tmp_path, "config.json", eos_token_id=999_999)
    with pytest.raises(ModelError, match="ends a text with token 999999"):
        check(folder, settings, texts)


def test_an_unknown_eos_that_the_tokenizer_would_add_unasked_is_refused(
    whole: Path, tmp_path: Path, settings: dict[str, Any], texts: Dataset
) -> None:
    folder = edited(whole, tmp_path, "tokenizer_config.json", eos_token="<|endoftext|>")
    with pytest.raises(ModelError, match=r"'<\|endoftext\|>'"):
        check(folder, settings, texts)


def test_a_base_that_is_not_finite_is_refused_in_memory_as_on_disk(
    poisoned_base: str, settings: dict[str, Any], texts: Dataset
) -> None:
    with pytest.raises(ModelError, match="NaN or infinite: " + WEIGHT):
        SFTTrainer(poisoned_base, SFTConfig(**settings), train_dataset=texts)
    model, tokenizer = REGISTRY.models["tiny-deepseek-llm"]()
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("inf")
    with pytest.raises(ModelError, match=r"NaN or infinite: lm_head\.weight"):
        SFTTrainer(model, SFTConfig(**settings), train_dataset=texts, processing_class=tokenizer)


def test_generation_settings_that_cannot_be_read_are_not_taken_for_none(
    whole: Path, tmp_path: Path, settings: dict[str, Any], texts: Dataset
) -> None:
    folder = edited(whole, tmp_path, "config.json")
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "generation_config.json").write_text('{"eos_token_id": [1,')
    with pytest.raises(ModelError, match=r"generation_config\.json' is not valid JSON"):
        check(folder, settings, texts)


def test_only_a_reward_model_may_have_a_new_head(
    whole: Path, tmp_path: Path, settings: dict[str, Any], texts: Dataset
) -> None:
    pairs = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 4)
    RewardTrainer.check(str(whole), RewardConfig(**settings), pairs)
    scorer = AutoModelForSequenceClassification.from_pretrained(whole, num_labels=1)
    folder = edited(whole, tmp_path, "config.json")
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    scorer.save_pretrained(folder)
    RewardTrainer.check(str(folder), RewardConfig(**settings), pairs)
    with pytest.raises(ModelError, match="a LlamaForSequenceClassification, a reward model"):
        DPOTrainer.check(str(folder), DPOConfig(**settings), pairs)


def test_experts_that_are_stored_one_by_one_are_found(
    tmp_path: Path, settings: dict[str, Any], texts: Dataset
) -> None:
    """transformers fuses them as it loads; their names in the file are not those in the model."""
    model, tokenizer = REGISTRY.models["tiny-deepseek-v3"]()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert any(".experts.0." in name for name in stored)
    assert not set(stored) <= set(model.state_dict())
    check(tmp_path / "model", settings, texts)
