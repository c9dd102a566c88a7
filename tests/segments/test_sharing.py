"""Shared prefixes through real models: the values and gradients of the batch as it is."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, OPTConfig

from trl_deepseek import DPOConfig, load_registry
from trl_deepseek.errors import ConfigError
from trl_deepseek.lm_head import IGNORED
from trl_deepseek.segments import PrefixSharing, exactness

MODELS = ("tiny-deepseek-llm", "tiny-deepseek-v2", "tiny-deepseek-v3")


def build(name: str = "tiny-deepseek-llm", attention: str = "sdpa") -> Any:
    model = load_registry().models[name](seed=0)[0]
    model.set_attn_implementation(attention)
    return model.train()


def batch() -> dict[str, Any]:
    """Six rows on two prompts, of several lengths, padded on both sides."""
    random = torch.Generator().manual_seed(1)
    prompts = torch.randint(3, 200, (2, 20), generator=random).repeat_interleave(3, 0)
    ids = torch.cat([prompts, torch.randint(3, 200, (6, 12), generator=random)], dim=1)
    ids[1, 20:26] = ids[0, 20:26]  # two completions that begin alike
    mask = torch.ones_like(ids)
    mask[1, 28:] = 0
    mask[2, 21:] = 0
    mask[3:, :2] = 0
    labels = ids.masked_fill(mask == 0, IGNORED)
    labels[:, :20] = IGNORED
    labels[0] = ids[0]  # one row's prompt is scored too
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def scored(model: Any, mode: str, rows: dict[str, Any], **given: Any) -> tuple[Any, Any]:
    model.zero_grad()
    found = PrefixSharing(mode).token_logps(model, **rows, entropy=True, **given)
    slope = torch.linspace(-1.0, 1.0, found.logps.numel()).view_as(found.logps)
    loss = (found.logps * slope).sum()
    if found.aux_loss is not None:
        loss = loss + 10 * found.aux_loss
    loss.backward()
    return found, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_alike(model: Any, rows: dict[str, Any], **given: Any) -> None:
    plain, plain_gradients = scored(model, "off", rows, **given)
    shared, gradients = scored(model, "on", rows, **given)
    torch.testing.assert_close(shared.logps, plain.logps, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shared.entropy, plain.entropy.where(plain.logps != 0, 0))
    assert torch.equal(shared.correct, plain.correct & (plain.logps != 0))
    if plain.aux_loss is not None:
        torch.testing.assert_close(shared.aux_loss, plain.aux_loss, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == plain_gradients.keys()
    for name, gradient in plain_gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(
            gradients[name], gradient, rtol=1e-5, atol=1e-5 * max(scale, 1e-3)
        )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_values_and_gradients_are_those_of_the_batch(name: str, attention: str) -> None:
    assert_alike(build(name, attention), batch())


def test_a_model_that_accelerate_trains_in_16_bits_is_shared() -> None:
    script = """
import torch
from accelerate import Accelerator
from trl_deepseek import load_registry
from trl_deepseek.segments import PrefixSharing
model = load_registry().models["tiny-deepseek-llm"](seed=0)[0].train()
model = Accelerator(mixed_precision="bf16", cpu=True).prepare_model(model)
ids = torch.randint(3, 200, (2, 20), generator=torch.Generator().manual_seed(0))
ids[1, :12] = ids[0, :12]
found = {m: PrefixSharing(m).token_logps(model, input_ids=ids, labels=ids) for m in ("on", "off")}
print(float((found["on"].logps - found["off"].logps).abs().mean()))
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout.split()[-1]) < 0.05  # nats


def test_layers_run_again_in_the_backward_pass_see_the_same_segments() -> None:
    model = build()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_alike(model, batch())


def test_a_prompt_counts_in_the_balancing_loss_as_often_as_it_stands_in_the_batch() -> None:
    for name in ("tiny-deepseek-v2", "tiny-deepseek-v3"):
        assert_alike(build(name), batch(), output_router_logits=True)


def test_auto_shares_what_gains_and_leaves_what_does_not() -> None:
    model = build()
    random = torch.Generator().manual_seed(0)
    alike = torch.randint(3, 200, (1, 2000), generator=random).repeat(4, 1)
    alike[:, -8:] = torch.randint(3, 200, (4, 8), generator=random)
    sharing = PrefixSharing("auto")
    assert sharing.layout(model, alike, None) is not None
    apart = torch.randint(3, 200, (4, 60), generator=random)
    assert sharing.layout(model, apart, None) is None
    assert sharing.shared == 1


def left_alone(model: Any, caplog: pytest.LogCaptureFixture, **given: Any) -> str:
    """What ``auto`` says once of a batch that it leaves, and ``on`` refuses with."""
    rows = batch()
    caplog.set_level("WARNING", "trl_deepseek.segments.sharing")  # what Python shows unasked
    auto = PrefixSharing("auto")
    auto.mode = "on"  # as if it gained
    with pytest.raises(ConfigError, match="prefix_sharing on: ") as refused:
        auto.token_logps(model, **rows, **given)
    auto.mode = "auto"
    for _ in range(2):
        auto.token_logps(model, **rows, **given)
    assert auto.shared == 0
    (said,) = [r.getMessage() for r in caplog.records if r.name.endswith("segments.sharing")]
    reason = said.removeprefix("prefixes are not shared: ")
    assert reason in str(refused.value)
    return reason


def small(config: Any, **options: Any) -> Any:
    return AutoModelForCausalLM.from_config(
        config(
            vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, **options,
        )
    ).train()  # fmt: skip


def test_models_that_are_not_exact_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    sliding = small(MistralConfig, sliding_window=8)
    assert left_alone(sliding, caplog) == "MistralForCausalLM attends within a sliding window"
    caplog.clear()
    prompted = get_peft_model(
        build(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    )
    assert "PROMPT_TUNING puts tokens of its own" in left_alone(prompted, caplog)
    caplog.clear()
    scaled = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    dynamic = small(LlamaConfig, rope_parameters=scaled)
    assert "depend on the longest row" in left_alone(dynamic, caplog)


def test_what_differs_from_row_to_row_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    lora = LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.1)
    dropping = get_peft_model(build(), lora).train()
    assert "differs from row to row" in left_alone(dropping, caplog)
    caplog.clear()
    assert "noise on the embeddings" in left_alone(build(), caplog, noised=True)


def test_a_compiled_model_is_not_compiled_anew_for_each_layout(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = batch()
    wrapped: Any = torch.compile(build())
    in_place = build()
    in_place.compile()
    for model in (wrapped, in_place):
        caplog.clear()
        with caplog.at_level("WARNING"):
            found = PrefixSharing("auto").layout(model, rows["input_ids"], rows["attention_mask"])
        assert found is None
        assert "torch.compile would compile the model anew" in caplog.text
        with pytest.raises(ConfigError, match="would compile the model"):
            PrefixSharing("on").layout(model, rows["input_ids"], rows["attention_mask"])


def test_dropout_without_a_module_is_told_and_the_random_stream_left_alone() -> None:
    model = small_opt(dropout=0.1)
    sharing, rows = PrefixSharing("auto"), batch() | {"attention_mask": torch.ones(6, 32)}
    sharing._pays = lambda *_: True  # type: ignore[method-assign]
    del rows["labels"]
    assert sharing.layout(model.eval(), **rows) is not None
    torch.manual_seed(3)
    assert sharing.layout(model.train(), **rows) is None
    torch.testing.assert_close(torch.rand(1), torch.rand(1, generator=torch.manual_seed(3)))
    assert "draws random numbers in training" in str(sharing._said)
    assert sharing.layout(model.eval(), **rows) is not None


def small_opt(**options: Any) -> Any:
    sizes = {"hidden_size": 16, "ffn_dim": 16, "num_attention_heads": 2, "word_embed_proj_dim": 16}
    return AutoModelForCausalLM.from_config(
        OPTConfig(vocab_size=256, num_hidden_layers=1, **sizes, **options)
    )


def test_lora_that_looks_for_tokens_in_each_row_is_left_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lora = LoraConfig(
        r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", alora_invocation_tokens=[5, 6]
    )
    assert "invocation tokens" in left_alone(get_peft_model(build(), lora), caplog)


def test_padding_on_the_left_is_left_alone_where_attention_is_scaled_by_position() -> None:
    model, rows = small(LlamaConfig), batch()
    assert not exactness.left_padding_shifts(model, {})
    attend = model.model.layers[0].self_attn
    attend.register_forward_pre_hook(_scaled_by_position, with_kwargs=True)
    with pytest.raises(ConfigError, match="padding on the left moves positions"):
        PrefixSharing("on").token_logps(model, **rows)


def _scaled_by_position(_: Any, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    scale = 1 + 0.01 * given["position_ids"][..., None]
    return args, {**given, "hidden_states": given["hidden_states"] * scale}


def test_a_model_that_does_not_heed_the_mask_is_found_by_trying() -> None:
    model = build()
    for layer in model.model.layers:
        attend = layer.self_attn.forward
        layer.self_attn.forward = partial(_without_mask, attend)
    with pytest.raises(ConfigError, match="gives other values for a row of segments"):
        PrefixSharing("on").token_logps(model, **batch())


def _without_mask(attend: Any, *args: Any, **given: Any) -> Any:
    return attend(*args, **{**given, "attention_mask": None})


@pytest.mark.parametrize("mode", [None, True, "maybe"])
def test_only_the_three_modes_are_taken(mode: Any, tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match=f"prefix_sharing is {mode!r}.* one of auto, on, off"):
        PrefixSharing(mode)
    with pytest.raises(ConfigError, match=f"prefix_sharing is {mode!r}.* one of auto, on, off"):
        DPOConfig(str(tmp_path), prefix_sharing=mode)
