from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from trl_deepseek import load_registry, models, quantization
from trl_deepseek.adapters import lora
from trl_deepseek.cli.main import main
from trl_deepseek.errors import ConfigError, ModelError
from trl_deepseek.memory.estimate import (
    base_bytes,
    estimate,
    largest_batch,
    state_bytes,
    states_bytes,
)
from trl_deepseek.memory.live import LiveBytes
from trl_deepseek.memory.rehearsal import Step, assemble, rehearse
from trl_deepseek.memory.report import parse_size
from trl_deepseek.models import published, skeleton
from trl_deepseek.types import Quantization

TINY = ("tiny-deepseek-llm", "tiny-deepseek-v2", "tiny-deepseek-v3")


def answer(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    assert main([*flags, "--dry_run", "--json"]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


@pytest.mark.parametrize("name", list(published.PUBLISHED))
def test_shipped_configs_have_the_published_number_of_parameters(name: str) -> None:
    model = skeleton.build(published.config(name))
    assert sum(p.numel() for p in model.parameters()) == published.PUBLISHED[name].parameters
    lora.check(lora.target_modules(model.config), None, model.config)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("deepseek-ai/deepseek-llm-7b-chat", "deepseek-llm-7b"),
        ("deepseek-ai/DeepSeek-V2-Lite", "deepseek-v2-lite"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "deepseek-r1-distill-qwen-1.5b"),
        ("deepseek-math-7b", "deepseek-math-7b"),
        ("someone/deepseek-llm-7b-chat", None),
        ("deepseek-ai/deepseek-llm-67b-chat", None),
    ],
)
def test_names_and_hub_ids_of_shipped_configs(name: str, key: str | None) -> None:
    assert published.find(name) == key


def test_a_shipped_config_cannot_be_trained_and_says_where_the_weights_are() -> None:
    with pytest.raises(ModelError) as caught:
        models.check("deepseek-llm-7b", load_registry())
    assert str(caught.value) == (
        "model 'deepseek-llm-7b' is a shipped config without weights, for --dry_run\n"
        "  the weights are on the hub: deepseek-ai/deepseek-llm-7b-base"
    )


@pytest.mark.parametrize("held", ["qlora", "int8", "lora", "qlora-lora-experts"])
@pytest.mark.parametrize("name", TINY)
def test_weights_are_counted_as_bitsandbytes_holds_them(name: str, held: str) -> None:
    registry = load_registry()
    chosen = registry.quantizations[held]
    model, _ = registry.models[name]()
    real = quantization.load(model, chosen, torch.bfloat16)
    constants = ("absmax", "quant_map", "SCB")
    held_bytes = sum(p.nbytes for p in real.parameters()) + sum(
        value.nbytes for key, value in real.state_dict().items() if key.endswith(constants)
    )
    step = Step(1, 8, False, torch.bfloat16, None)
    counted = sum(base_bytes(assemble(model.config, step, chosen, None), chosen).values())
    assert counted == pytest.approx(held_bytes, rel=0.002)


def test_a_quantized_model_takes_less_than_a_third_of_16_bit() -> None:
    # That these are the bytes which bitsandbytes holds is what the test above shows.
    from transformers import DeepseekV3Config, LlamaConfig

    mixture = published.config("deepseek-v2-lite").to_dict()
    shape = {key: mixture[key] for key in ("moe_intermediate_size", "n_shared_experts")}
    v3 = DeepseekV3Config(
        hidden_size=1024,
        num_hidden_layers=8,
        num_attention_heads=16,
        num_key_value_heads=16,
        n_routed_experts=64,
        n_group=1,
        topk_group=1,
        vocab_size=4096,
        **shape,
    )
    llama = LlamaConfig(hidden_size=1024, intermediate_size=2816, vocab_size=4096)
    stock = Quantization(bits=4, quantize_experts=False)
    qlora = load_registry().quantizations["qlora"]
    step = Step(1, 8, False, torch.bfloat16, None)

    def share(config: Any, chosen: Quantization) -> float:
        model = assemble(config, step, chosen, None)
        sixteen = 2 * sum(p.numel() for p in model.parameters())
        return sum(base_bytes(model, chosen).values()) / sixteen

    assert share(llama, qlora) < 0.30
    assert share(v3, qlora) < 0.30
    assert share(v3, stock) > 0.85


@pytest.mark.parametrize("held", ["qlora", "lora"])
@pytest.mark.parametrize("name", TINY)
def test_trained_parameters_are_those_that_peft_trains(name: str, held: str) -> None:
    from peft import get_peft_model

    registry = load_registry()
    chosen = registry.quantizations[held]
    model, _ = registry.models[name]()
    adapter = lora.adapter(chosen, model.config)
    found = estimate(
        model.config, Step(1, 8, False, torch.bfloat16, None), quantization=chosen, adapter=adapter
    )
    real = get_peft_model(
        quantization.load(model, chosen, torch.bfloat16), lora.adapter(chosen, model.config)
    )
    assert found.trainable == sum(p.numel() for p in real.parameters() if p.requires_grad)
    assert found.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", TINY)
def test_the_rehearsal_finds_what_a_real_pass_holds(name: str, checkpointing: bool) -> None:
    # The same count of live storages, once over real tensors and the whole model.
    from trl.trainer.utils import add_fused_lm_head

    model, _ = load_registry().models[name]()
    step = Step(4, 128, checkpointing, torch.float32, None)
    found = rehearse(model.config, step, None, None)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    add_fused_lm_head(model)
    ids = torch.randint(0, 256, (4, 128), generator=torch.Generator().manual_seed(0))
    with LiveBytes([*model.parameters(), *model.buffers(), ids]) as live:
        loss = model(input_ids=ids, labels=ids, fused_lm_head=True).loss
        turning = live.peak
        loss.backward()
    gradients = sum(p.nbytes for p in model.parameters())
    estimated = found.activations + found.head
    assert estimated == pytest.approx(max(turning, live.peak - gradients), rel=0.1) or (
        turning <= estimated <= live.peak
    )


def test_shallow_models_tell_what_a_deep_one_holds() -> None:
    from transformers import LlamaConfig

    shape = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4}
    step = Step(2, 64, False, torch.float32, None)
    found = {
        depth: rehearse(
            LlamaConfig(**shape, num_hidden_layers=depth, vocab_size=128), step, None, None
        )
        for depth in (4, 12)
    }
    # Four layers are rehearsed as they are.
    assert found[12].activations == found[4].activations + 8 * found[4].layer
    assert found[12].layer == found[4].layer > 0


@pytest.mark.parametrize("lean_head", [False, True])
def test_the_head_of_a_wide_batch_is_found_without_walking_through_its_tiles(
    monkeypatch: pytest.MonkeyPatch, lean_head: bool
) -> None:
    from transformers import LlamaConfig

    shape = {"hidden_size": 64, "intermediate_size": 8, "num_attention_heads": 4}
    config = LlamaConfig(**shape, num_hidden_layers=2, vocab_size=4096)
    step = Step(40, 512, True, torch.float32, None, lean_head=lean_head)
    found = rehearse(config, step, None, None)
    monkeypatch.setattr("trl_deepseek.memory.rehearsal.HEAD_TOKENS", 10**9)  # all of them
    assert found == rehearse(config, step, None, None)
    assert found.head > 0 or lean_head


def test_bytes_of_optimizer_states() -> None:
    assert state_bytes(10_000, 4, "adamw_torch_fused") == 80_000
    assert state_bytes(10_000, 2, "adamw_torch") == 40_000
    # 40 blocks of 256, each with a float32, in both moments
    assert state_bytes(10_000, 2, "paged_adamw_8bit") == 2 * (10_000 + 40 * 4)
    assert state_bytes(1_000, 2, "paged_adamw_8bit") == 8_000
    assert state_bytes(10_000, 4, "sgd") == 0


def test_states_of_embeddings_stay_in_32_bits() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(1_000, 64), torch.nn.Linear(64, 1_000, False))
    linear = 2 * (64_000 + 250 * 4)
    assert states_bytes(model, "adamw_8bit") == 2 * 4 * 64_000 + linear
    model[0].requires_grad_(False)
    assert states_bytes(model, "adamw_8bit") == linear


@pytest.mark.parametrize("budget", [99, 100, 1_000, 12_345, 10**6, 10**9])
def test_the_largest_batch_is_the_last_that_fits(budget: int) -> None:
    def peak(batch: int) -> int:
        return 40 + 60 * batch + 500 * min(batch, 7)  # steeper at first, as with the head's tiles

    fitting = [batch for batch in range(4097) if batch == 0 or peak(batch) <= budget]
    assert largest_batch(budget, peak) == fitting[-1]


@pytest.mark.matrix
@pytest.mark.slow
def test_of_several_processes_the_first_one_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    words = ("sft", "--model_name_or_path", TINY[0], "--dataset_name", "arithmetic")
    assert main([*words, "--output_dir", "never", "--dry_run", "--json"]) == 0
    assert capsys.readouterr().out == ""


def test_deepseek_llm_7b_on_a_gpu_of_24_gb(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(
        capsys,
        *("sft", "--qlora", "--model_name_or_path", "deepseek-llm-7b", "--gpu_memory", "24GB"),
        *("--max_length", "512", "--per_device_train_batch_size", "1"),
    )
    assert found["parameters"] == 6_910_365_696
    # Rank 64 on q, k, v, o (4096 x 4096) and gate, up, down (4096 x 11008) of 30 layers
    assert found["trainable"] == 30 * 64 * (4 * 2 * 4096 + 3 * (4096 + 11008))
    # Linear layers at 4 bits and a byte (and 4/256) per 64; embeddings, head and norms as they are
    linear = 30 * (4 * 4096**2 + 3 * 4096 * 11008)
    expected = linear * (0.5 + (1 + 4 / 256) / 64) + 2 * (2 * 102400 * 4096) + 4 * 61 * 4096
    assert found["weights_bytes"] == pytest.approx(expected, rel=1e-4)
    assert found["optimizer"] == "paged_adamw_8bit"
    assert found["fits"] is True
    assert found["largest_batch"] > 1
    assert found["peak_bytes"] <= found["sum_bytes"]


@pytest.mark.parametrize(
    ("command", "sequences", "reference"),
    [
        (["sft"], 4, False),
        (["preference"], 8, True),
        (["preference", "--loss_type", "orpo"], 8, False),
        (["preference", "--loss_type", "kto"], 4, True),
        (["reward"], 8, False),
        (["grpo", "--num_generations", "4"], 4, False),
        (["preference", "--qlora"], 8, False),
    ],
)
def test_every_training_command_answers(
    capsys: pytest.CaptureFixture[str], command: list[str], sequences: int, reference: bool
) -> None:
    name = ["--model_name_or_path", "tiny-deepseek-llm", "--per_device_train_batch_size", "4"]
    found = answer(capsys, *command, *name, "--gradient_accumulation_steps", "1")
    assert found["sequences"] == sequences
    assert (found["reference_bytes"] > 0) is reference
    assert found["activations_bytes"] > 0
    # A preference loss is scored by our head, whose tiles stay below the backbone's own peak.
    if command[0] == "preference":  # our head forms no logits
        vocabulary = load_registry().models["tiny-deepseek-llm"]()[0].config.vocab_size
        assert found["head_bytes"] < sequences * found["length"] * vocabulary * 4
    else:
        assert (found["head_bytes"] > 0) is (command[0] != "reward")


def test_tables_are_printed_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model_name_or_path", "tiny-deepseek-v3", "--gpu_memory", "1MB", "--qlora"]
    assert main(["sft", "--dry_run", *flags]) == 0
    printed = capsys.readouterr().out
    for word in (
        "routed experts",
        "shared experts",
        "optimizer",
        "logits and head",
        "no batch does",
    ):
        assert word in printed


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GB", 24 * 10**9), ("22.5GiB", int(22.5 * 2**30)), ("80 gb", 80 * 10**9), ("1000", 1000)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["24 bananas", "", "GB", "-1GB", "0"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is no size; write 24GB or 22\.5GiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--qlora", "--quantization", "int8"], "contradict each other"),
        (["--qlora", "--load_in_4bit"], "both say how the model is held"),
        (["--lora_experts"], "--lora_experts needs --quantization"),
        (["--qlora", "--lora_target_modules", "q_porj"], "'q_porj' matches no linear layer"),
        (["--quantization", "qlroa"], "did you mean 'qlora'"),
        (["--qlora", "--lora_experts"], "holds the routed experts in 4 bits"),
    ],
)
def test_flags_that_cannot_be_meant_exit_with_2(
    capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(["sft", "--dry_run", "--model_name_or_path", "tiny-deepseek-v3", *flags]) == 2
    assert message in capsys.readouterr().err
