from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from trl_deepseek import load_registry
from trl_deepseek.errors import RunError
from trl_deepseek.noise import NamedNoise, document_lengths

LENGTHS = torch.tensor([[3, 3, 3, 1000, 1000], [50, 50, 50, 50, 50]])


def draws(name: str, alpha: float, hidden: int = 4096) -> torch.Tensor:
    """What the noise adds to each component, (B, T, H)."""
    torch.manual_seed(0)
    clean = torch.zeros(*LENGTHS.shape, hidden)
    return load_registry().noises[name](clean, LENGTHS, alpha=alpha)


def test_neftune_is_uniform_within_alpha_over_root_of_length_times_hidden_size() -> None:
    added = draws("neftune", alpha=5.0)
    for row, column, length in ((0, 0, 3), (0, 4, 1000), (1, 2, 50)):
        bound = 5.0 / math.sqrt(length * 4096)
        component = added[row, column] / bound
        assert component.abs().max() <= 1.0 + 1e-6
        assert component.abs().max() > 0.99
        # The moments of uniform(-1, 1): 0, 1/3, 1/5.
        assert component.mean().item() == pytest.approx(0.0, abs=0.04)
        assert component.square().mean().item() == pytest.approx(1 / 3, abs=0.02)
        assert component.pow(4).mean().item() == pytest.approx(1 / 5, abs=0.02)


def test_gaussian_is_normal_with_deviation_alpha_over_root_of_length() -> None:
    added = draws("gaussian", alpha=0.5)
    for row, column, length in ((0, 0, 3), (0, 4, 1000), (1, 2, 50)):
        component = added[row, column] / (0.5 / math.sqrt(length))
        # The moments of the standard normal: 0, 1, 3.
        assert component.mean().item() == pytest.approx(0.0, abs=0.06)
        assert component.square().mean().item() == pytest.approx(1.0, abs=0.08)
        assert component.pow(4).mean().item() == pytest.approx(3.0, abs=0.5)


@pytest.mark.parametrize("name", ["neftune", "gaussian"])
def test_noise_is_added_in_the_embeddings_own_dtype(name: str) -> None:
    clean = torch.ones(2, 5, 8, dtype=torch.bfloat16)
    noised = load_registry().noises[name](clean, LENGTHS)
    assert noised.dtype == torch.bfloat16
    assert not torch.equal(noised, clean)


def mask(*rows: str) -> torch.Tensor:
    return torch.tensor([[int(c) for c in row] for row in rows])


@pytest.mark.parametrize(
    ("attention_mask", "position_ids", "expected"),
    [
        pytest.param(None, None, [[6] * 6, [6] * 6], id="no mask: whole rows"),
        pytest.param(mask("111100", "110000"), None, [[4] * 4, [2] * 2], id="padded on the right"),
        pytest.param(mask("001111", "000001"), None, [[4] * 4, [1]], id="padded on the left"),
        pytest.param(
            mask("011110", "001100"), None, [[4] * 4, [2] * 2], id="padded on both sides, as GRPO"
        ),
        pytest.param(
            None, mask("012301", "001234"), [[4, 4, 4, 4, 2, 2], [1, 5, 5, 5, 5, 5]], id="packed"
        ),
        pytest.param(None, mask("012012"), [[3] * 6, [3] * 6], id="one row of positions for all"),
        pytest.param(
            mask("001111", "000011"),
            mask("110123", "111101"),
            [[4] * 4, [2] * 2],
            id="padded on the left with its positions, as while generating",
        ),
        pytest.param(
            mask("001111", "000011"),
            mask("012345", "012345"),
            [[4] * 4, [2] * 2],
            id="padded on the left, positions counted through",
        ),
        pytest.param(
            mask("111100", "111110"),
            mask("012345", "012301"),
            [[4] * 4, [4, 4, 4, 4, 1]],
            id="padded on the right with positions",
        ),
        pytest.param(
            torch.zeros(2, 1, 6, 6),
            mask("012323", "012334"),
            # Prefix of two or three tokens, then a branch of two each; and of one and two.
            [[4, 4, 4, 4, 4, 4], [4, 4, 4, 4, 5, 5]],
            id="two branches on a shared prefix",
        ),
    ],
)
def test_length_of_the_document_of_each_token(
    attention_mask: Any, position_ids: Any, expected: list[list[int]]
) -> None:
    lengths, real = document_lengths(attention_mask, position_ids, torch.zeros(2, 6, 1))
    assert [row[keep].tolist() for row, keep in zip(lengths, real, strict=True)] == expected
    assert (lengths >= 1).all()


def test_a_noise_that_raises_is_named() -> None:
    def broken(embeddings: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("oh")

    with pytest.raises(RunError) as error:
        NamedNoise("mine", broken, {})(torch.zeros(1, 2, 3), torch.ones(1, 2))
    assert str(error.value) == "noise 'mine' failed: ZeroDivisionError: oh"


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        (torch.zeros(1, 2), "(1, 2), torch.float32"),
        (torch.zeros(1, 2, 3, dtype=torch.float64), "(1, 2, 3), torch.float64"),
        (None, "NoneType"),
    ],
)
def test_a_noise_that_returns_something_else_is_refused(returned: Any, found: str) -> None:
    with pytest.raises(RunError) as error:
        NamedNoise("mine", lambda embeddings, lengths: returned, {})(
            torch.zeros(1, 2, 3), torch.ones(1, 2)
        )
    assert str(error.value) == (
        "noise 'mine' must return embeddings as it got them ((1, 2, 3), torch.float32), "
        f"not {found}"
    )
