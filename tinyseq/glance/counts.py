"""Multiply-adds by formula, of every op that does them: matrix products, attention, recurrences. Padding counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyseq.backends.convolution import count_windows
from tinyseq.engine.products import matmul
from tinyseq.functional.attention import _attention
from tinyseq.functional.convolution import _conv1d
from tinyseq.functional.layers import linear
from tinyseq.functional.parallel import _linear_scan, turning_scan
from tinyseq.functional.recurrence import GATES, _scan


def _matmul(a: Any, b: Any) -> int:
    products = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return int(math.prod((*products, *a.shape[-2:-1], *b.shape[-2:])))


def _recurrence(cell: str, x: Any, h0: Any, *_: Any) -> int:
    batch, steps, inputs = x.shape
    return int(batch * steps * GATES[cell] * h0.shape[1] * (inputs + h0.shape[1]))


def _convolution(x: Any, weight: Any, bias: Any, stride: int, dilation: int, *_: Any) -> int:
    return int(x.shape[0] * count_windows(x.shape[1], weight.shape[2], stride, dilation) * weight.size)


# The body of an op -> how many multiply-adds it does, of its arguments.
_FORMULAS: dict[Any, Callable[..., int]] = {
    matmul: _matmul,
    linear: lambda x, weight, bias=None: x.size * weight.shape[0],
    # query (..., T, D) with every key (..., S, D), and weights (..., T, S) with every value (..., S, E)
    _attention: lambda query, key, value, *_: math.prod(query.shape[:-1]) * key.shape[-2] * (
        query.shape[-1] + value.shape[-1]),
    _scan: _recurrence,
    _conv1d: _convolution,
    _linear_scan: lambda a, b, *_: b.size,
    turning_scan: lambda kept, angle, b, *_: 2 * b.size,  # complex ones: four of real numbers for two entries
}
_OF_BODY = {op.__wrapped__: formula for op, formula in _FORMULAS.items()}


def multiply_adds(body: Any, args: list[Any]) -> int:
    """How many multiply-adds an op does that is given these arguments; 0 of one that adds no products."""
    formula = _OF_BODY.get(body)
    return int(formula(*args)) if formula is not None else 0
