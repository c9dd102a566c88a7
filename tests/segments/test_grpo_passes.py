"""GRPO's passes with shared prompts, against TRL's own (``prefix_sharing="off"``).

What is compared is what TRL's method returns, log-probs, entropies and the balancing loss, and the
gradients of a loss on them.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor

from trl_deepseek import GRPOConfig, GRPOTrainer, releases
from trl_deepseek.errors import ConfigError
from trl_deepseek.segments import PrefixSharing
from trl_deepseek.trainers import scoring

MODELS = ("tiny-deepseek-llm", "tiny-deepseek-v2", "tiny-deepseek-v3")
FEW = [
    ("tiny-deepseek-llm", "full", "sdpa", False),
    ("tiny-deepseek-llm", "lora", "eager", True),
    ("tiny-deepseek-v3", "lora", "sdpa", False),
]
CELLS = [
    pytest.param(*cell, marks=() if cell in FEW else pytest.mark.matrix)
    for cell in itertools.product(MODELS, ("full", "lora", "qlora"), ("sdpa", "eager"), (0, 1))
]
WIDTH = 10  # of completions
BALANCES = releases.has(releases.ROUTER_LOGITS)


def length(completions: list[Any], **_: Any) -> list[float]:
    return [float(len(completion)) for completion in completions]


def trainer(folder: Path, model: str, kind: str, attention: str = "sdpa", **given: Any) -> Any:
    options: dict[str, Any] = {
        "gradient_checkpointing": False,
        "prefix_sharing": "off",
        "quantization": None if kind == "full" else kind,
        "router_aux_loss_coef": 0.1 if model != MODELS[0] and BALANCES else None,
        **given,
    }
    config = GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=WIDTH,
        bf16=False,
        temperature=0.7,
        **options,
    )
    rows = Dataset.from_list([{"prompt": "a"}] * 8)
    made = GRPOTrainer(model, length, config, train_dataset=rows)
    made.model.set_attn_implementation(attention)
    for module in made.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "compute_dtype"):  # of packed weights: bfloat16 differs by its rounding
            module.compute_dtype = torch.float32
    for parameter in made.model.parameters():
        if parameter.dtype == torch.bfloat16:
            parameter.data = parameter.data.float()
    return made


def batch() -> dict[str, Any]:
    """Two groups of four, prompts of 24 and 20 tokens, completions of up to ten."""
    random = torch.Generator().manual_seed(3)
    prompts = torch.randint(3, 200, (2, 24), generator=random).repeat_interleave(4, 0)
    ids = torch.cat([prompts, torch.randint(3, 200, (8, WIDTH), generator=random)], dim=1)
    ids[1, 24:27] = ids[0, 24:27]  # two completions that begin alike
    mask = torch.ones_like(ids)
    mask[4:, :4] = 0
    for row, end in enumerate((10, 6, 10, 1, 8, 10, 3, 10)):
        mask[row, 24 + end :] = 0
    order = torch.randperm(8, generator=random)  # as TRL shuffles them
    return {"input_ids": ids[order], "attention_mask": mask[order], "logits_to_keep": WIDTH}


def passed(made: Any, mode: str, rows: dict[str, Any]) -> tuple[list[Tensor], dict[str, Tensor]]:
    made._prefix_sharing = PrefixSharing(mode)
    made.model.train()
    made.model.zero_grad()
    logps, entropies, aux = made._get_per_token_logps_and_entropies(
        made.model, **rows, compute_entropy=True, compute_aux_loss=made.aux_loss_enabled
    )
    loss = (logps * torch.linspace(-1, 1, logps.numel()).view_as(logps)).sum()
    found = [logps, entropies]
    if aux is not None:
        loss, found = loss + 10 * aux, [*found, aux]
    loss.backward()
    gradients = {
        name: each.grad.clone()
        for name, each in made.model.named_parameters()
        if each.grad is not None
    }
    return [each.detach() for each in found], gradients


def assert_alike(made: Any, mode: str = "on") -> None:
    rows = batch()
    plain, plain_gradients = passed(made, "off", rows)
    shared, gradients = passed(made, mode, rows)
    assert made._prefix_sharing.shared == (mode == "on")
    for ours, theirs in zip(shared, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == plain_gradients.keys()
    whole = max(float(each.abs().max()) for each in plain_gradients.values())
    for name, theirs in plain_gradients.items():
        size = max(float(theirs.abs().max()), 1e-2 * whole)
        torch.testing.assert_close(gradients[name], theirs, rtol=1e-5, atol=1e-5 * size, msg=name)


@pytest.mark.parametrize(("model", "kind", "attention", "checkpointing"), CELLS)
def test_values_and_gradients_are_those_of_the_rows_alone(
    tmp_path: Path, model: str, kind: str, attention: str, checkpointing: bool
) -> None:
    made = trainer(tmp_path, model, kind, attention, gradient_checkpointing=bool(checkpointing))
    assert_alike(made)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return trainer(tmp_path_factory.mktemp("llama"), MODELS[0], "full")


def test_our_head_alone_agrees_with_trls(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrefixSharing, "layout", lambda *_, **__: None)
    assert_alike(llama, "auto")


@pytest.mark.parametrize("model", [MODELS[0], MODELS[2]])
def test_trls_head_scores_shared_prompts_too(
    llama: Any, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = llama if model == MODELS[0] else trainer(tmp_path, model, "full", router_aux_loss_coef=0)
    monkeypatch.setattr(scoring, "TRITON", ("cpu",))
    assert_alike(made)


def test_an_entropy_bonus_has_its_gradient(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama.args, "entropy_coef", 0.1)
    llama._prefix_sharing = PrefixSharing("on")
    found = llama._get_per_token_logps_and_entropies(llama.model, **batch(), compute_entropy=True)
    assert found[1].requires_grad
    assert llama._prefix_sharing.shared == 1


def test_what_rows_bring_beside_tokens_is_not_shared(llama: Any) -> None:
    rows = batch() | {"token_type_ids": torch.zeros_like(batch()["input_ids"])}
    llama._prefix_sharing = PrefixSharing("on")
    with pytest.raises(ConfigError, match="the batch has token_type_ids beside its tokens"):
        llama._get_per_token_logps_and_entropies(llama.model, **rows)
