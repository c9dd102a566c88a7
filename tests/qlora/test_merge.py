from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

from trl_deepseek import SFTConfig, SFTTrainer, load_registry
from trl_deepseek.adapters import merging
from trl_deepseek.cli.main import main
from trl_deepseek.errors import ConfigError, ModelError, RunError

TINY = ("tiny-deepseek-llm", "tiny-deepseek-v2", "tiny-deepseek-v3")
FIFTY = [f"{a}+{b}" for a in range(11, 21) for b in range(3, 8)]
Usage = namedtuple("Usage", "total used free")
Memory = namedtuple("Memory", "available")


def train(model: str, folder: Path, **options: Any) -> str:
    """A QLoRA run of a few steps; returns the folder of its adapter."""
    args = SFTConfig(
        str(folder),
        **{"quantization": "qlora", "max_steps": 16, **options},
        chat_template="deepseek-v3",
        per_device_train_batch_size=8,
        gradient_checkpointing=False,
        learning_rate=5e-3,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=5,
    )
    rows = load_registry().datasets["arithmetic"](kind="demonstrations", size=64)
    trained = SFTTrainer(model, args, train_dataset=rows)
    trained.train()
    trained.save_model(str(folder))
    return str(folder)


def relative_errors(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Per token, (50, T)."""
    return (found - expected).norm(dim=-1) / expected.norm(dim=-1)


def logits_with_the_routing_of(leader: Any, model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The logits of ``model`` where each token goes to the experts that ``leader`` chooses."""
    decisions: list[Any] = []
    hooks = [
        *(
            gate.register_forward_hook(lambda *call: decisions.append(call[2]))
            for gate in gates(leader)
        ),
        *(gate.register_forward_hook(lambda *_: decisions.pop(0)) for gate in gates(model)),
    ]
    leader(ids)
    logits: torch.Tensor = model(ids).logits
    assert not decisions
    for hook in hooks:
        hook.remove()
    return logits


def gates(model: Any) -> list[Any]:
    return [m for name, m in model.named_modules() if name.endswith("mlp.gate")]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> str:
    return train("tiny-deepseek-llm", tmp_path_factory.mktemp("adapter"))


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(name, marks=[pytest.mark.matrix] * (name != "tiny-deepseek-v3"))
        for name in TINY
    ],
)
def test_merged_is_base_and_adapter_on_fifty_prompts(
    model: str, adapter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = adapter if model == TINY[0] else train(model, tmp_path / "adapter")
    output = tmp_path / "merged"
    capsys.readouterr()
    assert main(["merge", folder, "--output_dir", str(output), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["logits"] < 1e-2
    assert said["prompts"] == len(merging.PROMPTS)

    # Three lines of plain peft and transformers, and the merged folder, on prompts of our own.
    base, tokenizer = load_registry().models[model](seed=5)
    adapted: Any = PeftModel.from_pretrained(base.bfloat16().float(), folder).eval()
    merged = AutoModelForCausalLM.from_pretrained(output).eval()
    assert {p.dtype for n, p in merged.named_parameters() if "gate.weight" not in n} == {
        torch.bfloat16
    }
    assert AutoTokenizer.from_pretrained(output).chat_template
    merged = merged.float()
    ids = tokenizer(FIFTY, return_tensors="pt")["input_ids"]  # all of one length
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 6}
    with torch.no_grad():
        expected, got = adapted(ids).logits, merged(ids).logits
        with adapted.disable_adapter():
            plain = adapted(ids).logits
        answers = [m.generate(input_ids=ids, **options).tolist() for m in (adapted, merged)]
        routed = logits_with_the_routing_of(adapted, merged, ids)
    assert relative_errors(got, expected).median() < 1e-2
    # A router near a tie may turn with the last bit of a weight; all else agrees token by token.
    assert relative_errors(routed, expected).max() < 1e-2
    if model == TINY[0]:
        assert answers[0] == answers[1]
    same = sum(a == b for a, b in zip(*answers, strict=True))
    assert same >= 48
    assert (plain - expected).norm() / expected.norm() > 0.3  # the adapter does something


def test_what_is_written(adapter: str, tmp_path: Path) -> None:
    output = tmp_path / "new" / "merged"
    assert main(["merge", adapter, "--output_dir", str(output)]) == 0
    files = {path.name for path in output.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= files
    assert not any(name.endswith(".bin") or name.startswith("adapter") for name in files)
    assert [path.name for path in output.parent.iterdir()] == ["merged"]
    template = load_registry().chat_templates["deepseek-v3"]
    assert (output / "chat_template.jinja").read_text(encoding="utf-8") == template.inference
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "Relative error of a token's logits, median" in card
    assert f"of {len(merging.PROMPTS)}" in card


def test_a_merge_that_goes_wrong_writes_nothing(
    adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = merging._ask

    def off_after_merging(model: Any, *args: Any) -> Any:
        logits, answer = ask(model, *args)
        return (logits if hasattr(model, "peft_config") else logits * 1.05), answer

    monkeypatch.setattr(merging, "_ask", off_after_merging)
    source = merging.inspect(adapter, load_registry())
    with pytest.raises(RunError, match="differs from base and adapter by 5"):
        merging.merge(source, tmp_path / "merged", load_registry(), dtype=torch.bfloat16)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("disk", "memory"), [(10**6, 10**12), (10**12, 10**6)])
def test_too_little_room_is_refused_before_anything_is_written(
    adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: int, memory: int
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, disk))
    monkeypatch.setattr("psutil.virtual_memory", lambda: Memory(memory))
    source = merging.inspect(adapter, load_registry())
    what = "the disk" if disk < memory else "memory"
    with pytest.raises(ConfigError, match=rf"GB of {what}, where 0\.0 GB are free"):
        merging.check_room(source, tmp_path / "merged", 2)
    assert not list(tmp_path.iterdir())


def test_an_output_folder_that_holds_something_is_refused(adapter: str, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    assert main(["merge", adapter, "--output_dir", str(tmp_path)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no adapter: there is no adapter_config.json"),
        ({"config.json": {}}, "it contains: config.json"),
        ({"adapter_config.json": {"peft_type": "VERA"}}, "is a VERA adapter; merge takes LoRA"),
        ({"adapter_config.json": {"peft_type": "LORA"}}, "has no weights"),
    ],
)
def test_what_is_no_adapter_is_refused(files: dict[str, Any], message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(ModelError) as caught:
        merging.inspect(str(tmp_path), load_registry())
    assert message in str(caught.value)


def test_a_quantized_base_is_refused(adapter: str, tmp_path: Path) -> None:
    from trl_deepseek import quantization
    from trl_deepseek.quantization import four_bit

    registry = load_registry()
    model, _ = registry.models["tiny-deepseek-llm"](seed=5)
    held = quantization.load(model, registry.quantizations["qlora"], torch.bfloat16)
    four_bit.save(held, tmp_path)
    with pytest.raises(ModelError, match="an adapter is merged into 16 bits only"):
        merging.inspect(adapter, registry, str(tmp_path))
