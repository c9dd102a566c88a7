"""The last layer works on what is read of a laid out batch, and gives what it would give."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

from trl_deepseek import load_registry
from trl_deepseek.lm_head import IGNORED, unwrap
from trl_deepseek.segments import PrefixSharing, lay_out

PROMPT, ANSWER, ROWS = 24, 6, 3


def built(kind: Any = LlamaConfig, model: Any = AutoModelForCausalLM, **options: Any) -> Any:
    torch.manual_seed(0)
    config = kind(
        vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=2, pad_token_id=0, **options,
    )  # fmt: skip
    return model.from_config(config).double().train()


def batch() -> dict[str, Any]:
    random = torch.Generator().manual_seed(1)
    prompts = torch.randint(3, 200, (1, PROMPT), generator=random).repeat(ROWS, 1)
    ids = torch.cat([prompts, torch.randint(3, 200, (ROWS, ANSWER), generator=random)], dim=1)
    labels = ids.clone()
    labels[:, :PROMPT] = IGNORED
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def seen(model: Any, passes: Any) -> list[list[int]]:
    """How many positions the MLP of each layer is handed, in turn, while something passes."""
    layers = unwrap(model).base_model.layers
    found: list[list[int]] = [[] for _ in layers]
    handles = [
        # the projection inside, since what stands in front of the MLP picks positions out
        layer.mlp.gate_proj.register_forward_pre_hook(
            lambda _, x, counts=counts: counts.append(x[0].shape[:-1].numel())
        )
        for layer, counts in zip(layers, found, strict=True)
    ]
    passes()
    for handle in handles:
        handle.remove()
    return found


def scored(model: Any, mode: str, rows: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    model.zero_grad()
    found = PrefixSharing(mode).token_logps(model, **rows)
    slope = torch.linspace(-1.0, 1.0, found.logps.numel(), dtype=torch.float64)
    (found.logps * slope.view_as(found.logps)).sum().backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return found.logps.detach(), grads


def assert_alike(model: Any, rows: dict[str, Any]) -> None:
    logps, gradients = scored(model, "off", rows)
    shared, found = scored(model, "on", rows)
    torch.testing.assert_close(shared, logps, rtol=1e-6, atol=1e-6)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        # norms are formed in float32 whatever the model's type
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


# each answer has the prompt's last token, which predicts its first, to itself
TOKENS = PROMPT - 1 + ROWS * (1 + ANSWER)
READ = ROWS * ANSWER


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config, Qwen3Config])
def test_it_is_handed_what_is_scored_and_gives_the_values_and_gradients_of_the_batch(
    kind: Any, attention: str
) -> None:
    model = built(kind, attn_implementation=attention)
    assert_alike(model, batch())
    sharing = PrefixSharing("on")
    sharing.token_logps(model, **batch())
    counts = seen(model, lambda: sharing.token_logps(model, **batch()))
    assert counts == [[TOKENS], [TOKENS], [READ]]


class Queries(TorchDispatchMode):
    """Counts the queries of each call of torch's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "scaled_dot_product" in str(func):
            self.counts.append(args[0].shape[2])
        return func(*args, **(kwargs or {}))


def test_segments_that_nobody_reads_do_not_attend() -> None:
    model, sharing = built(), PrefixSharing("on")
    sharing.token_logps(model, **batch())
    with Queries() as queries:
        sharing.token_logps(model, **batch())
    answers = [1 + ANSWER] * ROWS
    assert queries.counts == [PROMPT - 1, *answers, PROMPT - 1, *answers, *answers]


@pytest.mark.parametrize("reentrant", [False, True])
def test_layers_run_again_in_the_backward_pass_are_handed_the_same(reentrant: bool) -> None:
    model = built()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    assert_alike(model, batch())
    sharing = PrefixSharing("on")
    sharing.token_logps(model, **batch())
    counts = seen(model, lambda: sharing.token_logps(model, **batch()).logps.sum().backward())
    assert counts == [[TOKENS] * 2, [TOKENS] * 2, [READ] * 2]


def test_adapters_of_the_last_layer_are_trained_as_without() -> None:
    lora = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(built(), lora).double().train()
    assert_alike(model, batch())


@pytest.mark.parametrize(
    "adapter",
    [
        LoraConfig(r=2, target_modules="all-linear", use_dora=True, init_lora_weights=False),
        LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, init_lora_weights=False),
        IA3Config(
            target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"],
            init_ia3_weights=False,
        ),
    ],
)  # fmt: skip
def test_other_adapters_than_lora_are_trained_as_without(adapter: Any) -> None:
    model = get_peft_model(built(), adapter).double().train()
    assert_alike(model, batch())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_a_model_that_has_been_shared_is_shared_too(copied: Any) -> None:
    model = built()
    assert_alike(model, batch())
    twin = copied(model)
    assert_alike(twin, batch())
    counts = seen(twin, lambda: PrefixSharing("on").token_logps(twin, **batch()))
    assert [each[-1] for each in counts] == [TOKENS, TOKENS, READ]


def test_modules_of_the_last_layer_may_be_called_by_others_afterwards() -> None:
    model = built()
    last = model.model.layers[-1]
    x = torch.randn(3, 11, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = last.mlp(x), last.self_attn.q_proj(x)
    PrefixSharing("on").token_logps(model, **batch())
    assert torch.equal(last.mlp(x), before[0])
    assert torch.equal(last.self_attn.q_proj(x), before[1])


def test_a_classifier_is_handed_the_tokens_that_are_scored() -> None:
    model = built(model=AutoModelForSequenceClassification, num_labels=1)
    rows = {name: each for name, each in batch().items() if name != "labels"}
    sharing = PrefixSharing("on")
    found = sharing.row_scores(model, **rows).logits
    torch.testing.assert_close(found, model(**rows).logits)
    counts = seen(model, lambda: sharing.row_scores(model, **rows))
    assert counts == [[TOKENS], [TOKENS], [ROWS]]


def test_a_batch_that_is_read_nearly_whole_is_handed_whole() -> None:
    model, rows = built(), batch()
    rows["labels"] = rows["input_ids"]
    assert_alike(model, rows)
    sharing = PrefixSharing("on")
    sharing.token_logps(model, **rows)
    counts = seen(model, lambda: sharing.token_logps(model, **rows))
    assert counts == [[TOKENS]] * 3


def test_a_batch_without_labels_has_gradients_of_zero() -> None:
    model, rows = built(), batch()
    rows["labels"] = torch.full_like(rows["labels"], IGNORED)
    logps, gradients = scored(model, "on", rows)
    assert not logps.any()
    assert gradients
    assert not any(gradient.any() for gradient in gradients.values())


def test_passes_of_others_are_handed_whole_as_before() -> None:
    model, rows = built(), batch()
    ids, real = rows["input_ids"], rows["attention_mask"]
    before = model(input_ids=ids, attention_mask=real).logits
    PrefixSharing("on").token_logps(model, **rows)
    assert torch.equal(model(input_ids=ids, attention_mask=real).logits, before)
    layout = lay_out(ids, real)
    assert layout is not None
    laid = model(
        input_ids=layout.input_ids,
        attention_mask=layout.mask(),
        position_ids=layout.position_ids,
    )
    torch.testing.assert_close(layout.back(laid.logits), before)


def test_a_last_layer_with_experts_counts_every_token() -> None:
    model = load_registry().models["tiny-deepseek-v3"](seed=0)[0].train()
    last = model.model.layers[-1].mlp
    assert not isinstance(last.gate, nn.Linear)
    counts: list[int] = []
    sharing = PrefixSharing("on")
    sharing.token_logps(model, **batch())
    handle = last.gate.register_forward_pre_hook(
        lambda _, x: counts.append(x[0].shape[:-1].numel())
    )
    sharing.token_logps(model, **batch())
    handle.remove()
    assert counts == [TOKENS]


def test_a_pass_that_fails_leaves_nothing_behind() -> None:
    model = built()
    sharing = PrefixSharing("on")
    sharing.token_logps(model, **batch())

    def fail(*_: Any) -> None:
        raise RuntimeError("full")

    handle = model.model.layers[-1].mlp.down_proj.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="full"):
        sharing.token_logps(model, **batch())
    handle.remove()
    ids = batch()["input_ids"]
    counts = seen(model, lambda: model(input_ids=ids))
    assert counts == [[ids.numel()]] * 3
    assert_alike(model, batch())
