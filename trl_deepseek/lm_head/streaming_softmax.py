r"""Log-probabilities of given targets under ``softmax(hidden @ weight.T)``, never formed whole.

For one position with hidden state h, ``log p(y) = W[y].h - logsumexp_v(W[v].h)``, and therefore
``d log p(y) / d h = W[y] - sum_v p_v W[v]``: the gradient is known up to one factor before the
backward pass begins. While the vocabulary goes by in tiles, four things are kept per position: the
running maximum m, the running sum s of ``exp(z - m)``, the target's logit, and the running vector
``a = sum_v exp(z_v - m) W[v]``, rescaled whenever m grows. After the last tile
``log p = z_y - m - log s`` and the gradient is ``W[y] - a / s``: the backward pass of a frozen head
is one multiplication. It is attention with the head as both keys and values.

A head that is trained itself needs more than that one vector per position, so its tiles are formed
a second time in the backward pass.

Source: online softmax, arXiv:1805.02867, algorithm 3; as attention, arXiv:2112.05682, section 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE_ELEMENTS = {"cpu": 2**21, "accelerator": 2**26}
"""Logits in one tile; in float32 8 MB on a CPU and 256 MB on an accelerator."""


class Scores(NamedTuple):
    """What is known of N positions after one pass over the vocabulary.

    Attributes:
        logps: Log-probability of the target in nats, (N,), at least float32.
        correct: Whether no token is more likely than the target, (N,) bool, no gradient.
        entropy: Of the whole distribution in nats, (N,), no gradient; None unless asked for.
    """

    logps: Tensor
    correct: Tensor
    entropy: Tensor | None


def score(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    *,
    entropy: bool = False,
    temperature: float = 1.0,
) -> Scores:
    """Score ``target`` under the softmax of a linear layer, differentiable in all it is given.

    Under autocast the products run in autocast's type, as the layer's own forward would; sums over
    the vocabulary are kept in float32 (float64 for float64 input).

    Args:
        hidden: Last hidden states of the positions to score, (N, H).
        weight: The layer's weight, (V, H).
        bias: The layer's bias, (V,), or None.
        target: The token to score at each position, (N,), in [0, V).
        entropy: Whether to compute the entropy too; it costs one more pass over each tile.
        temperature: What the logits are divided by.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    wanted = torch.is_grad_enabled() and (
        hidden.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    )
    with torch.autocast(device, enabled=False):
        logps, correct, spread = _StreamingSoftmax.apply(
            hidden, weight, bias, target, dtype, wanted, entropy, 1 / temperature
        )
    return Scores(logps, correct, spread)


def tile_shape(positions: int, vocabulary: int, device: str) -> tuple[int, int]:
    """How many positions (rows) and tokens (columns) one tile of logits spans.

    A rule, not a measurement at run time. Measured on one CPU core, N 512 and 1024, V 32000 and
    102400, H 64 to 1024: with 64 rows, for which the head is read again and again, a pass takes up
    to twice as long as with 1024; the number of columns, from 512 to 8192, changes float32 by about
    a tenth and bfloat16 by up to a quarter. Hence as many rows as there are, up to 1024, and then
    as many columns as the budget leaves. The figures for accelerators (4096 rows, as TRL has) are
    not measured.

    Args:
        positions: N, the positions to score.
        vocabulary: V.
        device: ``cpu`` or the type of an accelerator.
    """
    on_cpu = device == "cpu"
    rows = max(1, min(positions, 1024 if on_cpu else 4096))
    columns = TILE_ELEMENTS["cpu" if on_cpu else "accelerator"] // rows
    return rows, min(max(columns, 1024), 16384, vocabulary)


class _StreamingSoftmax(torch.autograd.Function):
    """The module's docstring as code; positions are rows and tokens are columns of a tile."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        dtype: torch.dtype,
        differentiate: bool,
        want_entropy: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        trains_head = weight.requires_grad or (bias is not None and bias.requires_grad)
        one_pass = differentiate and not trains_head
        positions, vocabulary = hidden.shape[0], weight.shape[0]
        exact = torch.promote_types(dtype, torch.float32)
        rows, columns = tile_shape(positions, vocabulary, hidden.device.type)
        tiles = _Tiles(weight, bias, dtype, rows, columns, scale)

        peak = hidden.new_full((positions,), -torch.inf, dtype=exact)
        total = hidden.new_zeros(positions, dtype=exact)
        target_logit = torch.zeros_like(total)
        weighted = torch.zeros_like(total) if want_entropy else None
        direction = torch.zeros_like(hidden) if one_pass else None  # becomes d log p / d hidden

        for start in range(0, positions, rows):
            part = slice(start, start + rows)
            state, goal = hidden[part].to(dtype), target[part]
            m, s, z_y = peak[part], total[part], target_logit[part]
            u = weighted[part] if weighted is not None else None
            mean = hidden.new_zeros(state.shape, dtype=exact) if one_pass else None
            for first, matrix in tiles:
                z = tiles.logits(state, matrix, first)
                _keep_target(z_y, z, goal, first)
                grown = torch.maximum(m, z.amax(dim=1))
                shrink = (m - grown).exp_()
                z.sub_(grown[:, None])
                if u is not None:
                    # sum of exp(z - m) (z - m); when m grows by g, each term's last factor loses g
                    moved = torch.where(s > 0, s * (m - grown), 0)
                    u.add_(moved).mul_(shrink).add_((z.exp() * z).sum(dim=1))
                z.exp_()
                m.copy_(grown)
                s.mul_(shrink).add_(z.sum(dim=1))
                if mean is not None:
                    tiles.add_product(mean.mul_(shrink[:, None]), tiles.narrowed(z), matrix)
            if direction is not None and mean is not None:
                direction[part] = (tiles.rows_of(goal) - mean.div_(s[:, None])).mul_(scale)

        log_total = total.log()
        logps = target_logit - peak - log_total
        correct = target_logit >= peak
        entropy = log_total - weighted / total if weighted is not None else None
        if differentiate:
            saved = (direction,) if one_pass else (hidden, weight, bias, target, peak + log_total)
            ctx.save_for_backward(*saved)
            ctx.dtype, ctx.scale = dtype, scale
        ctx.mark_non_differentiable(correct, *(() if entropy is None else (entropy,)))
        return logps, correct, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logps: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        if len(ctx.saved_tensors) == 1:
            (direction,) = ctx.saved_tensors
            return grad_logps.to(direction.dtype)[:, None] * direction, *_NO_GRADIENTS
        with torch.autocast(grad_logps.device.type, enabled=False):
            return *_head_gradients(ctx, grad_logps), *_NO_GRADIENTS[2:]


_NO_GRADIENTS = (None,) * 7


def _head_gradients(ctx: Any, grad_logps: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of hidden (N, H), weight (V, H) and bias (V,), the tiles formed a second time.

    ``d log p / d z_v = [v = y] - p_v``. The vocabulary is the outer loop, so that the gradient of
    one tile of the weight is summed in float32 without a float32 copy of the whole weight.
    """
    hidden, weight, bias, target, log_sum = ctx.saved_tensors
    rows, columns = tile_shape(hidden.shape[0], weight.shape[0], hidden.device.type)
    tiles = _Tiles(weight, bias, ctx.dtype, rows, columns, ctx.scale)
    slopes = grad_logps * ctx.scale
    exact = log_sum.dtype
    grad_hidden = torch.zeros_like(hidden, dtype=exact) if ctx.needs_input_grad[0] else None
    grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
    grad_bias = torch.empty_like(bias) if ctx.needs_input_grad[2] else None
    whole = 0 < hidden.shape[0] <= rows and weight.dtype == ctx.dtype
    for first, matrix in tiles:
        span = slice(first, first + matrix.shape[0])
        sums = not whole and grad_weight is not None
        tile_weight = matrix.new_zeros(matrix.shape, dtype=exact) if sums else None
        tile_bias = matrix.new_zeros(matrix.shape[0], dtype=exact)
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            state = hidden[part].to(ctx.dtype)
            slope = tiles.logits(state, matrix, first).sub_(log_sum[part, None]).exp_().neg_()
            _add_at_target(slope, target[part], first)
            slope.mul_(slopes[part, None])
            if grad_bias is not None:
                tile_bias += slope.sum(dim=0)
            slope = tiles.narrowed(slope)
            if grad_hidden is not None:
                tiles.add_product(grad_hidden[part], slope, matrix)
            if tile_weight is not None:
                tiles.add_product(tile_weight, slope.t(), state)
            elif grad_weight is not None:  # one product, whose own sum is exact enough
                torch.mm(slope.t(), state, out=grad_weight[span])
        if grad_weight is not None and tile_weight is not None:
            grad_weight[span] = tile_weight
        if grad_bias is not None:
            grad_bias[span] = tile_bias
    grad_hidden = None if grad_hidden is None else grad_hidden.to(hidden.dtype)
    return grad_hidden, grad_weight, grad_bias


class _Tiles:
    """Products with one tile of the head at a time, in two buffers that are used again and again.

    Args:
        weight: The head's weight, (V, H).
        bias: The head's bias, (V,), or None.
        dtype: In which the products are formed; what is summed is at least float32.
        rows: Positions per tile.
        columns: Tokens per tile.
        scale: What the logits are multiplied by.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        rows: int,
        columns: int,
        scale: float,
    ) -> None:
        self.scale = scale
        self.weight, self.bias, self.dtype, self.columns = weight, bias, dtype, columns
        self.exact = torch.promote_types(dtype, torch.float32)
        self.buffer = weight.new_empty(rows * columns, dtype=self.exact)
        self.narrow = (
            self.buffer if dtype == self.exact else weight.new_empty(rows * columns, dtype=dtype)
        )

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """The first token in each tile of the head, and the tile, (columns, H)."""
        for first in range(0, self.weight.shape[0], self.columns):
            yield first, self.weight[first : first + self.columns].to(self.dtype)

    def rows_of(self, target: Tensor) -> Tensor:
        """The head's rows of the targets, (rows, H)."""
        return self.weight[target].to(self.dtype).to(self.exact)

    def logits(self, state: Tensor, matrix: Tensor, first: int) -> Tensor:
        """Logits of one tile, (rows, columns), in the buffer: valid until the next call."""
        shape = (state.shape[0], matrix.shape[0])
        narrow = self.narrow[: shape[0] * shape[1]].view(shape)
        if self.bias is None:
            torch.mm(state, matrix.t(), out=narrow)
        else:
            bias = self.bias[first : first + shape[1]].to(self.dtype)
            torch.addmm(bias, state, matrix.t(), out=narrow)
        if self.narrow is not self.buffer:
            narrow = self.buffer[: narrow.numel()].view(shape).copy_(narrow)
        return narrow if self.scale == 1 else narrow.mul_(self.scale)

    def narrowed(self, tile: Tensor) -> Tensor:
        """A tile in the buffer in the dtype of the products."""
        if self.narrow is self.buffer:
            return tile
        return self.narrow[: tile.numel()].view(tile.shape).copy_(tile)

    def add_product(self, total: Tensor, left: Tensor, right: Tensor) -> None:
        """Add ``left @ right`` to ``total``, which is at least float32."""
        if self.narrow is self.buffer:
            total.addmm_(left, right)
        else:
            total += left @ right


def _keep_target(kept: Tensor, z: Tensor, target: Tensor, first: int) -> None:
    """Write the target's logit into ``kept``, (rows,), where the target is in this tile."""
    column = target - first
    inside = (column >= 0) & (column < z.shape[1])
    found = z.gather(1, column.clamp(0, z.shape[1] - 1)[:, None])[:, 0]
    kept.copy_(torch.where(inside, found, kept))


def _add_at_target(slope: Tensor, target: Tensor, first: int) -> None:
    """Add 1 in the target's column where the target is in this tile."""
    column = target - first
    inside = (column >= 0) & (column < slope.shape[1])
    column = column.clamp(0, slope.shape[1] - 1)[:, None]
    slope.scatter_add_(1, column, inside[:, None].to(slope.dtype))
