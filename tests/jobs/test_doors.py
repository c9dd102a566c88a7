"""One mistake, three doors: the command, the recipe and the trainer in Python say the same of it.

The model is a folder whose weights cannot be read, so that whatever loads it fails otherwise.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from trl_deepseek import (
    DPOConfig,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
    data,
    load_registry,
    plugin_loading,
    preference_trainer,
)
from trl_deepseek.cli.main import main
from trl_deepseek.errors import UserError

MESSAGES = {"messages": [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]}
PAIR = {
    "prompt": [{"role": "user", "content": "1+1"}],
    "chosen": [{"role": "assistant", "content": "2"}],
    "rejected": [{"role": "assistant", "content": "3"}],
}
SINGLE = {"prompt": PAIR["prompt"], "completion": PAIR["chosen"], "label": True}
PROMPT = {"prompt": PAIR["prompt"], "solution": "2"}
CONTROL = [{"role": "user", "content": "<｜User｜>"}]

# command, loss, config, trainer, the kind of rows, a good row, more options
KINDS: dict[str, tuple[str, Any, Any, Any, Any, dict[str, Any], dict[str, Any]]] = {
    "sft": ("sft", None, SFTConfig, SFTTrainer, "demonstrations", MESSAGES, {}),
    "pairs": ("preference", ["dpo"], DPOConfig, None, "preferences", PAIR, {}),
    "singles": ("preference", "kto", KTOConfig, None, "preferences", SINGLE, {}),
    "reward": ("reward", "bradley_terry", RewardConfig, RewardTrainer, "preferences", PAIR, {}),
    "grpo": (
        "grpo",
        None,
        GRPOConfig,
        GRPOTrainer,
        "prompts",
        PROMPT,
        {"reward_funcs": ["exact_match"], "num_generations": 2},
    ),
}
# kind of training, what is wrong with its options, with its second row, and a part of the message
CASES: list[tuple[str, dict[str, Any], dict[str, Any] | None, str]] = [
    *[(kind, {"chat_template": "deepsek-v3"}, None, "'deepseek-v3'") for kind in KINDS],
    *[(kind, {"noise": "neftun"}, None, "did you mean 'neftune'?") for kind in KINDS],
    *[(kind, {"quantization": "qlor"}, None, "did you mean 'qlora'?") for kind in KINDS],
    *[(kind, {"plugins": ["none.py"]}, None, "'none.py' does not exist") for kind in KINDS],
    ("sft", {"padding_free": True}, None, "`max_length` is not enforced"),
    ("sft", {"completion_only_loss": True}, None, "columns found: messages"),
    (
        "sft",
        {"gradient_checkpointing_kwargs": {"selective": True, "use_reentrant": True}},
        None,
        "non",
    ),
    ("sft", {"torch_compile_backend": "inductr"}, None, "did you mean 'inductor'?"),
    ("sft", {}, {**MESSAGES, "images": ["a.png"]}, "vision-related"),
    ("sft", {}, {**MESSAGES, "chat_template_kwargs": "high"}, "'chat_template_kwargs'"),
    ("pairs", {"sync_ref_model": True, "precompute_ref_log_probs": True}, None, "precomputed"),
    ("singles", {"sync_ref_model": True, "precompute_ref_log_probs": True}, None, "precomputed"),
    ("grpo", {"cache_implementation": "nope"}, None, "cache_implementation"),
    ("sft", {}, {"messages": [*CONTROL, MESSAGES["messages"][1]]}, "row 1: "),
    ("pairs", {}, {**PAIR, "prompt": CONTROL}, "row 1: "),
    ("singles", {}, {**SINGLE, "prompt": CONTROL}, "row 1: "),
    ("reward", {}, {**PAIR, "prompt": CONTROL}, "row 1: "),
    ("grpo", {}, {**PROMPT, "prompt": CONTROL}, "row 1: "),
    ("sft", {}, {"messages": [{"role": "narrator", "content": "x"}]}, "narrator"),
    ("pairs", {}, {**PAIR, "chosen": None}, "row 1"),
    ("reward", {}, {**PAIR, "chosen": None}, "row 1"),
    ("singles", {}, {**SINGLE, "label": None}, "row 1"),
    ("grpo", {}, {**PROMPT, "prompt": None}, "row 1"),
    ("pairs", {"loss_type": ["dpx"]}, None, "'dpx'"),
    ("pairs", {"loss_type": ["bradley_terry"]}, None, "'bradley_terry'"),
    ("pairs", {"loss_kwargs": {"nonsense": 1}}, None, "no option 'nonsense'"),
    ("pairs", {"loss_kwargs": {"beta": -1.0}}, None, "beta"),
    ("singles", {"loss_kwargs": {"nonsense": 1}}, None, "no option 'nonsense'"),
    ("singles", {"per_device_train_batch_size": 1}, None, "per_device_train_batch_size is 1"),
    ("reward", {"loss_type": "bradly_terry"}, None, "did you mean 'bradley_terry'?"),
    ("reward", {"loss_kwargs": {"nonsense": 1}}, None, "no option 'nonsense'"),
    ("grpo", {"loss_type": "gsqo"}, None, "did you mean 'gspo'?"),
    ("grpo", {"loss_type": "gpg", "loss_kwargs": {"k": 1}}, None, "no option 'k'"),
    ("grpo", {"advantage": "rlo"}, None, "did you mean 'rloo'?"),
    ("grpo", {"advantage": "pass_at_k", "advantage_kwargs": {"k": 99}}, None, "k = 99"),
    ("grpo", {"reward_funcs": ["exact_mach"]}, None, "did you mean 'exact_match'?"),
    ("grpo", {"reward_funcs": ["code_tests"]}, None, "'code_tests'"),
    ("grpo", {"reward_weights": {"nobody": 1.0}}, None, "nobody"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that is whole by its files, and whose weights are NaN: loading it would say so."""
    folder = tmp_path_factory.mktemp("model")
    language_model, tokenizer = load_registry().models["tiny-deepseek-llm"]()
    with torch.no_grad():
        for parameter in language_model.parameters():
            parameter.fill_(float("nan"))
    language_model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("kind", "options", "row", "part"),
    CASES,
    ids=[f"{kind}-{next(iter(wrong), 'row')}-{part[:12]}" for kind, wrong, _, part in CASES],
)
def test_every_door_says_the_same_before_a_model_is_loaded(
    kind: str,
    options: dict[str, Any],
    row: dict[str, Any] | None,
    part: str,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    command, loss, config_class, trainer_class, rows, good, more = KINDS[kind]
    lines = [good] * 8 if row is None else [good, row, *[good] * 6]
    Path("rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    given: dict[str, Any] = {
        "chat_template": "deepseek-v3",
        "report_to": "none",
        "use_cpu": True,
        "per_device_train_batch_size": 2,
        **({} if loss is None else {"loss_type": loss}),
        **more,
        **options,
    }
    common = {"model_name_or_path": model, "dataset_name": "rows.jsonl"}

    Path("config.yaml").write_text(yaml.safe_dump({**common, **given, "output_dir": "out"}))
    assert main([command, "--config", "config.yaml"]) == 2
    said = capsys.readouterr().err.rstrip()  # what was told of the run, then the error
    placed = said.rpartition(f"trl-deepseek {command}: ")[2]
    message = re.sub(r"^config\.yaml:\d+: ", "", placed)
    assert part in message

    first = {"command": "sft", "dataset_name": "arithmetic"}
    stage = {"command": command, "dataset_name": "rows.jsonl", "name": "wrong", **given}
    recipe = {"output_dir": "out", "model_name_or_path": model, "stages": [first, stage]}
    first["chat_template"] = "deepseek-v3"
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["run", "recipe.yaml"]) == 2
    said = capsys.readouterr().err
    assert re.search(rf"recipe\.yaml:\d+: stage 'wrong': {re.escape(message)}", said)
    assert not Path("out").exists()

    dataset = data.load("rows.jsonl", load_registry(), kind=rows, split="train")
    extra = {"reward_funcs": given.pop("reward_funcs")} if kind == "grpo" else {}
    with pytest.raises(UserError) as error:
        build(config_class, trainer_class, model, dataset, given, extra)
    assert str(error.value) == message


def build(
    config_class: Any, trainer_class: Any, model: str, dataset: Any, given: Any, extra: Any
) -> Any:
    """The trainer as one would write it in Python."""
    args = config_class("out", **given)
    if trainer_class is None:
        return preference_trainer(model, given["loss_type"], dataset, args)
    return trainer_class(model, args=args, train_dataset=dataset, **extra)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that installed plugins are looked for."""
    found: list[int] = []
    installed = plugin_loading._installed

    def counted() -> Any:
        found.append(1)
        return installed()

    monkeypatch.setattr(plugin_loading, "_installed", counted)
    return found


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["sft"], marks=pytest.mark.matrix),
        ["preference", "--loss_type", "dpo"],
        pytest.param(["preference", "--loss_type", "kto"], marks=pytest.mark.matrix),
        pytest.param(["reward"], marks=pytest.mark.matrix),
        ["grpo", "--reward_funcs", "exact_match", "--max_completion_length", "4"],
    ],
    ids=" ".join,
)
def test_a_run_loads_the_registry_once(
    words: list[str], loads: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model_name_or_path", "tiny-deepseek-llm", "--chat_template", "deepseek-v3"]
    flags += ["--dataset_name", "arithmetic", "--max_steps", "1", "--report_to", "none"]
    assert main([*words, *flags, "--output_dir", str(tmp_path / "out")]) == 0
    assert len(loads) == 1
