"""The one-pass scores against ``log_softmax`` over full logits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from trl_deepseek.lm_head import streaming_softmax
from trl_deepseek.lm_head.streaming_softmax import score, tile_shape

VOCABULARY = 301


@pytest.fixture(autouse=True)
def several_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tiles, so that small tensors meet every border: last tile narrower, last rows fewer."""
    monkeypatch.setattr(
        streaming_softmax, "tile_shape", lambda n, v, device: (max(1, min(n, 7)), min(64, v))
    )


def tensors(
    dtype: torch.dtype, *, bias: bool = False, frozen: bool = True, scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(19, 24, generator=random, dtype=torch.float64) * scale
    weight = torch.randn(VOCABULARY, 24, generator=random, dtype=torch.float64)
    offset = torch.randn(VOCABULARY, generator=random, dtype=torch.float64) if bias else None
    target = torch.randint(VOCABULARY, (19,), generator=random)
    target[:3] = torch.tensor([0, 63, VOCABULARY - 1])  # the borders of tiles
    return (
        hidden.to(dtype).requires_grad_(),
        weight.to(dtype).requires_grad_(not frozen),
        None if offset is None else offset.to(dtype).requires_grad_(not frozen),
        target,
    )


def full(hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias)
    return logits.log_softmax(dim=-1).gather(1, target[:, None])[:, 0]


def gradients(logps: Tensor, *leaves: Tensor | None) -> list[Tensor]:
    slope = torch.linspace(-1.0, 2.0, len(logps), dtype=logps.dtype)
    wanted = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
    return list(torch.autograd.grad((logps * slope).sum(), wanted))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_values_and_gradients_equal_log_softmax_in_float64(bias: bool, frozen: bool) -> None:
    hidden, weight, offset, target = tensors(torch.float64, bias=bias, frozen=frozen)
    expected = full(hidden, weight, offset, target)
    scores = score(hidden, weight, offset, target)
    torch.testing.assert_close(scores.logps, expected, rtol=1e-12, atol=1e-12)
    found = gradients(scores.logps, hidden, weight, offset)
    wanted = gradients(expected, hidden, weight, offset)
    assert len(found) == 1 + (not frozen) * (1 + bias)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("frozen", [False, True])
def test_bfloat16_is_as_close_to_the_truth_as_full_logits_are(frozen: bool) -> None:
    narrow = tensors(torch.bfloat16, frozen=frozen, bias=True)
    hidden, weight, offset, target = narrow
    exact = [None if t is None else t.detach().double().requires_grad_(t.requires_grad)
             for t in (hidden, weight, offset)]  # fmt: skip
    truth = full(exact[0], exact[1], exact[2], target)  # type: ignore[arg-type]
    logits = torch.nn.functional.linear(hidden, weight, offset).float()
    plain = logits.log_softmax(dim=-1).gather(1, target[:, None])[:, 0]
    ours = score(*narrow).logps
    assert ours.dtype == torch.float32
    assert (ours - truth).abs().max() <= (plain - truth).abs().max() * 1.01
    true_grads = gradients(truth, *exact)
    for ours_grad, plain_grad, true_grad in zip(
        gradients(ours, hidden, weight, offset),
        gradients(plain, hidden, weight, offset),
        true_grads,
        strict=True,
    ):
        assert ours_grad.dtype == torch.bfloat16
        error, allowed = (ours_grad - true_grad).norm(), (plain_grad - true_grad).norm()
        assert error <= 1.5 * allowed


def test_a_new_maximum_in_every_tile_loses_nothing() -> None:
    logits = torch.arange(VOCABULARY, dtype=torch.float64)[None] * 3.0  # spans 900 nats
    hidden = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([VOCABULARY - 2])
    scores = score(hidden, logits.T.contiguous(), None, target, entropy=True)
    # geometric distribution of ratio exp(-3), seen from its second most likely member
    log_p = [math.log1p(-math.exp(-3.0)) - 3.0 * k for k in range(60)]
    assert scores.logps.item() == pytest.approx(log_p[1], rel=1e-12)
    expected = -sum(math.exp(value) * value for value in log_p)
    assert scores.entropy is not None
    assert scores.entropy.item() == pytest.approx(expected, rel=1e-12)


def test_entropy_and_argmax_equal_those_of_full_logits() -> None:
    hidden, weight, offset, target = tensors(torch.float64, bias=True, scale=0.2)
    distribution = torch.nn.functional.linear(hidden, weight, offset).log_softmax(dim=-1)
    best = distribution.argmax(dim=-1)
    target = torch.where(torch.arange(19) % 2 == 0, best, target)
    scores = score(hidden, weight, offset, target, entropy=True)
    expected = -(distribution.exp() * distribution).sum(dim=-1)
    assert scores.entropy is not None
    assert not scores.entropy.requires_grad
    torch.testing.assert_close(scores.entropy, expected.detach(), rtol=1e-12, atol=1e-12)
    assert torch.equal(scores.correct, best == target)
    assert scores.correct.any()
    assert not scores.correct.all()


@pytest.mark.parametrize("frozen", [False, True])
def test_no_position_at_all_gives_zero_gradients(frozen: bool) -> None:
    hidden, weight, _, target = tensors(torch.float32, frozen=frozen)
    scores = score(hidden[:0], weight, None, target[:0])
    assert scores.logps.shape == (0,)
    for gradient in gradients(scores.logps, hidden, weight):
        assert not gradient.any()


def test_autocast_computes_in_its_own_type_and_returns_gradients_in_the_weights_type() -> None:
    hidden, weight, _, target = tensors(torch.float32, frozen=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = score(hidden, weight, None, target)
    rounded = score(hidden.bfloat16(), weight.bfloat16(), None, target)
    assert torch.equal(scores.logps, rounded.logps)
    assert [g.dtype for g in gradients(scores.logps, hidden, weight)] == [torch.float32] * 2


@pytest.mark.parametrize("frozen", [False, True])
def test_nothing_of_the_size_of_the_logits_is_ever_formed(
    frozen: bool, monkeypatch: pytest.MonkeyPatch, largest_tensor: Any
) -> None:
    monkeypatch.undo()
    positions, vocabulary = 2048, 20_000
    hidden = torch.randn(positions, 4, requires_grad=True)
    weight = torch.randn(vocabulary, 4, requires_grad=not frozen)
    target = torch.randint(vocabulary, (positions,))
    with largest_tensor() as largest:
        score(hidden, weight, None, target, entropy=True).logps.sum().backward()
    rows, columns = tile_shape(positions, vocabulary, "cpu")
    assert largest.elements == rows * columns < positions * vocabulary / 10
    with largest_tensor() as plain:  # the measure itself sees full logits
        full(hidden, weight, None, target)
    assert plain.elements == positions * vocabulary


def test_a_pass_without_gradients_keeps_nothing_per_position_and_hidden_size(
    largest_tensor: Any,
) -> None:
    hidden = torch.randn(100, 512)  # N * H exceeds a tile of logits and a tile of the weight
    weight = torch.randn(VOCABULARY, 512)
    target = torch.randint(VOCABULARY, (100,))
    with torch.no_grad(), largest_tensor() as largest:
        score(hidden.requires_grad_(), weight, None, target)
    assert largest.elements < hidden.numel()
    with largest_tensor() as largest:
        score(hidden, weight, None, target)
    assert largest.elements >= hidden.numel()


@pytest.mark.parametrize(
    ("positions", "vocabulary"), [(1, 32000), (300, 102400), (2000, 102400), (9, 256), (0, 256)]
)
def test_the_tile_rule_stays_within_its_budget(positions: int, vocabulary: int) -> None:
    for device, limit in streaming_softmax.TILE_ELEMENTS.items():
        rows, columns = tile_shape(positions, vocabulary, device)
        assert 1 <= rows <= max(1, positions)
        assert 1 <= columns <= vocabulary
        assert rows * columns <= limit
