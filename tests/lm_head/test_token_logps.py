"""``token_logps`` through real models and their wrappers, against the model's own full logits."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

from trl_deepseek import load_registry
from trl_deepseek.lm_head import IGNORED, streaming_softmax, token_logps, unwrap
from trl_deepseek.lm_head.scoring import _linear_layers

MODELS = ("tiny-deepseek-llm", "tiny-deepseek-v2", "tiny-deepseek-v3")


def build(name: str = "tiny-deepseek-llm") -> Any:
    return load_registry().models[name]()[0]


def batch(vocabulary: int = 200) -> dict[str, Any]:
    """Two rows of 12, the second padded, the first five tokens of each a prompt."""
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(1, vocabulary, (2, 12), generator=random)
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    labels = ids.masked_fill(mask == 0, IGNORED)
    labels[:, :5] = IGNORED
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def expected(model: nn.Module, rows: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Log-probs and argmax matches from the model's own logits, shifted by hand."""
    outputs = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"])
    length = rows["input_ids"].shape[1]
    logits = outputs.logits[:, -length:][:, :-1].float()
    labels = rows["labels"][:, 1:]
    scored = labels != IGNORED
    goal = labels.clamp(min=0)
    logps = logits.log_softmax(-1).gather(2, goal[..., None])[..., 0] * scored
    return logps, (logits.argmax(-1) == goal) & scored


def assert_same_values_and_gradients(
    model: nn.Module, rows: dict[str, Any], **forward: Any
) -> None:
    slope = torch.linspace(-1.0, 1.0, rows["input_ids"][:, 1:].numel())
    results = []
    for ours in (True, False):
        model.zero_grad()
        if ours:
            output = token_logps(model, **rows, **forward)
            logps, correct = output.logps, output.correct
        else:
            logps, correct = expected(model, rows)
        (logps.flatten() * slope).sum().backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        results.append((logps.detach(), correct, gradients))
    (logps, correct, gradients), (true_logps, true_correct, true_gradients) = results
    torch.testing.assert_close(logps, true_logps, rtol=1e-5, atol=1e-5)
    assert torch.equal(correct, true_correct)
    assert gradients.keys() == true_gradients.keys()
    assert gradients
    for name, gradient in gradients.items():
        scale = float(true_gradients[name].abs().max())
        torch.testing.assert_close(
            gradient, true_gradients[name], rtol=1e-4, atol=1e-5 * max(scale, 1e-3)
        )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_architecture_agrees_with_its_own_logits(name: str, checkpointing: bool) -> None:
    model = build(name).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    assert _linear_layers(model.get_output_embeddings())
    assert_same_values_and_gradients(model, batch())


@pytest.mark.parametrize(
    "name", [*MODELS[:2], pytest.param(MODELS[2], marks=pytest.mark.transformers("5.13"))]
)
def test_lora_with_a_frozen_head_agrees_and_the_disabled_adapter_is_the_base_model(
    name: str,
) -> None:
    base = build(name)
    rows = batch()
    without, _ = expected(base, rows)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear"))
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            nn.init.normal_(parameter, std=0.1)
    assert_same_values_and_gradients(model, rows)
    with model.disable_adapter(), torch.no_grad():
        reference = token_logps(model, **rows).logps
    torch.testing.assert_close(reference, without.detach(), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(token_logps(model, **rows).logps, reference, atol=1e-3)


def test_an_adapters_own_copy_of_the_head_is_trained_and_the_original_used_without_it() -> None:
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = get_peft_model(build(), config)
    head = unwrap(model).get_output_embeddings()
    assert len(_linear_layers(head)) == 2
    nn.init.normal_(head.modules_to_save["default"].weight, std=0.1)
    rows = batch()
    assert_same_values_and_gradients(model, rows)
    with model.disable_adapter():
        torch.testing.assert_close(
            token_logps(model, **rows).logps, expected(model, rows)[0], rtol=1e-5, atol=1e-5
        )


def test_an_adapter_on_the_head_falls_back_to_full_logits_with_the_same_result() -> None:
    model = get_peft_model(build(), LoraConfig(r=4, target_modules=["q_proj", "lm_head"]))
    assert not _linear_layers(unwrap(model).get_output_embeddings())
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    assert_same_values_and_gradients(model, batch())


def test_prompt_tuning_puts_tokens_in_front_and_shifts_nothing() -> None:
    model = get_peft_model(build(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    assert_same_values_and_gradients(model, batch())


def test_tied_embeddings_receive_the_gradients_of_both_ends() -> None:
    config = LlamaConfig(
        vocab_size=230,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(config)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert_same_values_and_gradients(model, batch())


def test_soft_capped_logits_are_scored_as_the_model_caps_them() -> None:
    config = Gemma2Config(
        vocab_size=230,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=48,
        final_logit_softcapping=0.5,
    )
    assert_same_values_and_gradients(AutoModelForCausalLM.from_config(config), batch())


def test_a_model_that_changes_its_logits_unannounced_is_noticed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain: Any = type(build())

    class Doubling(plain):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            outputs = super().forward(*args, **kwargs)
            outputs.logits = outputs.logits * 2
            return outputs

    model = build()
    model.__class__ = Doubling
    assert_same_values_and_gradients(model, batch())
    assert "Doubling transforms its logits" in caplog.text


def test_accelerates_autocast_scores_as_the_autocast_model_does() -> None:
    from accelerate.utils import convert_outputs_to_fp32

    model = build()
    plain = model.forward
    model.forward = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(plain))
    rows = batch()
    logps, _ = expected(model, rows)
    ours = token_logps(model, **rows).logps
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, logps, rtol=1e-5, atol=1e-5)
    ours.sum().backward()
    assert model.lm_head.weight.grad.dtype == torch.float32


def test_bfloat16_weights_score_as_their_own_logits() -> None:
    model = build().bfloat16()
    rows = batch()
    torch.testing.assert_close(
        token_logps(model, **rows).logps, expected(model, rows)[0], rtol=1e-5, atol=1e-5
    )


def test_nothing_labelled_is_zero_with_a_zero_gradient() -> None:
    model = build()
    rows = batch()
    rows["labels"] = torch.full_like(rows["labels"], IGNORED)
    output = token_logps(model, **rows)
    assert not output.logps.any()
    output.logps.sum().backward()
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_entropy_is_given_when_asked_for() -> None:
    model, rows = build(), batch()
    assert token_logps(model, **rows).entropy is None
    found = token_logps(model, **rows, entropy=True).entropy
    logits = model(rows["input_ids"], attention_mask=rows["attention_mask"]).logits[:, :-1]
    logps = logits.log_softmax(-1)
    wanted = -(logps.exp() * logps).sum(-1) * (rows["labels"][:, 1:] != IGNORED)
    assert found is not None
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-5, atol=1e-5)


def test_only_labelled_positions_reach_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    plain = streaming_softmax._StreamingSoftmax.apply

    def count(hidden: Tensor, *rest: Any) -> Any:
        counted.append(len(hidden))
        return plain(hidden, *rest)

    monkeypatch.setattr(streaming_softmax._StreamingSoftmax, "apply", count)
    rows = batch()
    token_logps(build(), **rows)
    assert counted == [int((rows["labels"][:, 1:] != IGNORED).sum())]


def test_no_tensor_of_the_logits_size_is_formed_in_a_whole_step(largest_tensor: Any) -> None:
    config = LlamaConfig(
        vocab_size=20_000,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    model = AutoModelForCausalLM.from_config(config)
    ids = torch.randint(1, 20_000, (4, 256))
    with largest_tensor() as largest:
        token_logps(model, input_ids=ids, labels=ids).logps.sum().backward()
    logits = 4 * 255 * 20_000
    assert largest.elements < logits / 5
    with largest_tensor() as plain:
        model(ids)
    assert plain.elements >= logits


def test_the_model_is_left_as_it_was_also_when_its_forward_fails() -> None:
    model, rows = build(), batch()
    before, _ = expected(model, rows)
    token_logps(model, **rows)
    handle = model.model.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        token_logps(model, **rows)
    handle.remove()
    assert not model.lm_head._forward_hooks
    assert not model.lm_head._forward_pre_hooks
    assert torch.equal(expected(model, rows)[0], before)


@pytest.mark.transformers("5.19")
class TestMixtureOfExperts:
    def test_v2_balance_loss_is_the_one_of_transformers(self) -> None:
        from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

        model, rows = build("tiny-deepseek-v2"), batch()
        output = token_logps(model, **rows, output_router_logits=True)
        plain = model(rows["input_ids"], rows["attention_mask"], output_router_logits=True)
        wanted = load_balancing_loss_func(plain.router_logits, 8, 2, rows["attention_mask"])
        assert output.aux_loss is not None
        torch.testing.assert_close(output.aux_loss, wanted)

    def test_v3_balance_loss_is_the_papers_with_normalised_sigmoid_affinities(self) -> None:
        model, rows = build("tiny-deepseek-v3"), batch()
        output = token_logps(model, **rows, output_router_logits=True)
        plain = model(rows["input_ids"], rows["attention_mask"], output_router_logits=True)
        kept = rows["attention_mask"].flatten().bool()
        fractions = torch.zeros(8, dtype=torch.float64)
        shares = torch.zeros(8, dtype=torch.float64)
        tokens = 0
        for layer in plain.router_logits:  # equations 17 to 20, summed over layers
            affinity = layer.detach().double().sigmoid()[kept]
            for row in affinity:
                fractions[row.topk(2).indices] += 1
                shares += row / row.sum()
                tokens += 1
        wanted = 8 * (fractions / tokens * shares / tokens).sum()
        assert output.aux_loss is not None
        assert output.aux_loss.item() == pytest.approx(wanted.item(), rel=1e-5)

    def test_tokens_that_prompt_tuning_puts_in_front_are_balanced_too(self) -> None:
        tuned = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
        found = []
        for front in (0, 3):
            model, rows = build("tiny-deepseek-v3"), batch()
            if front:
                model = get_peft_model(model, tuned)
                table = model.prompt_encoder["default"].embedding.weight
                table.data = model.get_input_embeddings().weight.data[10:13].clone()
            else:
                ahead = torch.arange(10, 13).expand(2, -1)
                rows = {
                    name: torch.cat([torch.full_like(ahead, -100) if name == "labels" else
                                     ahead if name == "input_ids" else torch.ones_like(ahead),
                                     each], dim=1)
                    for name, each in rows.items()
                }  # fmt: skip
            found.append(token_logps(model, **rows, output_router_logits=True).aux_loss)
        torch.testing.assert_close(found[1], found[0])

    @pytest.mark.parametrize("name", MODELS[1:])
    def test_the_balance_loss_reaches_the_routers_weights_under_checkpointing(
        self, name: str
    ) -> None:
        found = []
        for checkpointing in (False, True):
            model = build(name).train()
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            output = token_logps(model, **batch(), output_router_logits=True)
            assert output.aux_loss is not None
            output.aux_loss.backward()
            routers = [p.grad for n, p in model.named_parameters() if n.endswith("gate.weight")]
            assert all(gradient is not None and gradient.any() for gradient in routers)
            found.append(routers)
        torch.testing.assert_close(found[0], found[1])

    def test_a_dense_model_has_none(self) -> None:
        assert token_logps(build(), **batch(), output_router_logits=True).aux_loss is None


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_ddp_sees_the_forward_and_reduces_every_gradient() -> None:
    model = build()
    wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(model))
    rows = batch()
    token_logps(model, **rows).logps.sum().backward()
    token_logps(wrapped, **rows).logps.sum().backward()
    for one, other in zip(model.parameters(), wrapped.module.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("head_alone", [False, True])
def test_fsdp2_gathers_the_head_for_the_forward_and_shards_its_gradient(head_alone: bool) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = build()
    sharded = copy.deepcopy(model)
    mesh = init_device_mesh("cpu", (1,))
    if head_alone:
        fully_shard(sharded.lm_head, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    rows = batch()
    assert _linear_layers(sharded.lm_head)
    token_logps(model, **rows).logps.sum().backward()
    token_logps(sharded, **rows).logps.sum().backward()
    for one, other in zip(model.parameters(), sharded.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad.full_tensor())


def test_a_quantized_head_falls_back_to_full_logits() -> None:
    import bitsandbytes as bnb

    model = build()
    quantized = bnb.nn.Linear4bit(128, model.config.vocab_size, bias=False, quant_type="nf4")
    quantized.weight = bnb.nn.Params4bit(model.lm_head.weight.data, requires_grad=False)
    model.lm_head = quantized.to("cpu")
    assert not _linear_layers(model.lm_head)
    assert_same_values_and_gradients(model, batch())
