"""Embedding noise: NEFTune as its paper defines it, and a Gaussian variant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import hookimpl
from trl_deepseek.types import Register, Usual, usually

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_noises(register: Register) -> None:
    register("neftune", neftune)
    register("gaussian", gaussian)


@usually(alpha=Usual(5, 15, "arXiv:2310.05914, appendix A.1: 5, 10 and 15"))
def neftune(embeddings: Tensor, lengths: Tensor, alpha: float = 5.0) -> Tensor:
    """Embeddings plus uniform(-1, 1) * alpha / sqrt(L * H) in each component, (B, T, H).

    Source: arXiv:2310.05914, Algorithm 1; L is each document's own length, as in the authors'
    code. transformers takes the width of the padded or packed batch instead.
    """
    scale = alpha / (lengths * embeddings.size(-1)).sqrt()  # (B, T)
    return embeddings + _scaled(embeddings.new_empty(embeddings.shape).uniform_(-1, 1), scale)


def gaussian(embeddings: Tensor, lengths: Tensor, alpha: float = 5.0) -> Tensor:
    """Embeddings plus a standard normal * alpha / sqrt(L) in each component, (B, T, H).

    At the same alpha its norm is sqrt(3 * H) times that of ``neftune``, since nothing divides by
    the hidden size: alpha 5 drowns the embeddings of most models; start near 0.05.
    """
    scale = alpha / lengths.sqrt()  # (B, T)
    return embeddings + _scaled(embeddings.new_empty(embeddings.shape).normal_(), scale)


def _scaled(draws: Tensor, scale: Tensor) -> Tensor:
    return draws * scale.unsqueeze(-1).to(draws.dtype)
