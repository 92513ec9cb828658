"""Where a vector stands in its sequence, for layers that do not see it: learned and sinusoidal positions."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyseq import check, functional
from tinyseq.engine import ops
from tinyseq.engine.tensor import Like, Tensor
from tinyseq.nn import init
from tinyseq.nn.masks import numbers
from tinyseq.nn.module import Module, Parameter


class SinusoidalPositions(Module):
    """x plus sines and cosines of its positions (Vaswani et al. 2017, section 3.5), of any length, with nothing to
    learn:

        y[t, 2i] = x[t, 2i] + sin(t / 10000^(2i/E))               E = `d_model`, t = 0, 1, 2, ...
        y[t, 2i+1] = x[t, 2i+1] + cos(t / 10000^(2i/E))

    >>> positions = nn.SinusoidalPositions(4)
    >>> y = positions(ts.zeros((1, 3, 4)))
    >>> [[round(v, 2) for v in row] for row in y[0].tolist()]
    [[0.0, 1.0, 0.0, 1.0], [0.84, 0.54, 0.01, 1.0], [0.91, -0.42, 0.02, 1.0]]
    >>> ts.all(positions(ts.zeros((1, 1, 4)), ids=[2]) == y[:, 2:])
    tensor(True)
    """

    alone = False

    def __init__(self, d_model: int) -> None:
        self.d_model = d_model = check.integers("SinusoidalPositions", 1, d_model=d_model)
        self._frequencies = 10000.0 ** (-np.arange(0, d_model, 2) / d_model)

    def forward(self, x: Tensor, ids: Like = None) -> Tensor:
        """x (B, T, d_model) -> the same shape. `ids`, (T,) or (B, T), are the positions: 0, 1, 2, ... unless given."""
        x = _placed(self, x, self.d_model, ids)
        cos, sin = angles(x, ids, self._frequencies)
        waves = ops.reshape(ops.stack([sin, cos], -1), (*sin.shape[:-1], 2 * sin.shape[-1]))
        return x + waves[..., : self.d_model]


class LearnedPositions(Module):
    """x (B, T, d_model) plus rows of weight (max_length, d_model): one a position, for max_length positions.

    The weight is drawn from N(0, 0.02^2), as in GPT-2.

    >>> positions = nn.LearnedPositions(max_length=20, d_model=4)
    >>> x = ts.zeros((2, 5, 4))
    >>> ts.all(positions(x) == positions.weight[:5])
    tensor(True)

    Raises ValueError for more than max_length positions, IndexError for `ids` beyond them.
    """

    alone = False

    def __init__(self, max_length: int, d_model: int, dtype: Any = np.float32) -> None:
        max_length, d_model = check.integers("LearnedPositions", 1, max_length=max_length, d_model=d_model)
        self.max_length, self.d_model = max_length, d_model
        self.weight = init.normal_(Parameter(ops.zeros((max_length, d_model), dtype)), std=0.02)

    def forward(self, x: Tensor, ids: Like = None) -> Tensor:
        """x (B, T, d_model) -> the same shape. `ids`, (T,) or (B, T), are the positions: 0, 1, 2, ... unless given."""
        most, width = self.weight.shape
        x = _placed(self, x, width, ids)
        if ids is None and x.shape[-2] > most:
            raise ValueError(f"LearnedPositions: expected at most max_length = {most} positions, got {x.shape[-2]}")
        return x + functional.embedding(np.arange(x.shape[-2]) if ids is None else ids, self.weight)


def _placed(module: Module, x: Tensor, width: int, ids: Like) -> Tensor:
    """x (..., d_model); what is none is refused, and positions that are not one for each vector."""
    x = x if isinstance(x, Tensor) else numbers(type(module).__name__, f"x (B, T, {width})", x)
    shape, given = x.shape, () if ids is None else np.shape(ids)
    if len(shape) < 2 or shape[-1] != width or (given and shape[-1 - len(given) : -1] != given):
        raise ValueError(f"{type(module).__name__}: expected x (B, T, {width}) and ids (T,) or (B, T), got shapes "
                         f"{shape} and {given}")
    return x


def angles(x: Tensor, ids: Like, frequencies: Any) -> tuple[Tensor, Tensor]:
    """cos and sin (..., D/2) of ids (...) times frequencies (D/2,), as x's dtype and where it lives."""
    ids = ops.like(x, np.arange(x.shape[-2]) if ids is None else ids)
    angles = ids[..., None] * ops.like(x, frequencies)  # in float64
    return ops.cos(angles).astype(x.dtype), ops.sin(angles).astype(x.dtype)
