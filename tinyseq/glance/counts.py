"""Multiply-adds by formula, of every op that does them: matrix products, attention, recurrences. Padding counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tinyseq.engine.products import matmul
from tinyseq.functional.attention import _attention
from tinyseq.functional.layers import linear
from tinyseq.functional.parallel import _linear_scan
from tinyseq.functional.recurrence import GATES, _scan


def _matmul(a: Any, b: Any) -> int:
    rows = a.shape[:-1]
    if b.ndim > 2:
        rows = (*_broadcast(a.shape[:-2], b.shape[:-2]), *rows[-1:])
    return int(math.prod(rows) * math.prod(b.shape[-2:]))


def _broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    wide = max(len(a), len(b))
    a, b = ((1,) * (wide - len(x)) + x for x in (a, b))
    return tuple(m if n == 1 else n for n, m in zip(a, b, strict=True))


def _recurrence(cell: str, x: Any, h0: Any, *_: Any) -> int:
    batch, steps, inputs = x.shape
    return int(batch * steps * GATES[cell] * h0.shape[1] * (inputs + h0.shape[1]))


# The body of an op -> how many multiply-adds it does, of its arguments.
_FORMULAS: dict[Any, Callable[..., int]] = {
    matmul: _matmul,
    linear: lambda x, weight, bias=None: x.size * weight.shape[0],
    # query (..., T, D) with every key (..., S, D), and weights (..., T, S) with every value (..., S, E)
    _attention: lambda query, key, value, *_: math.prod(query.shape[:-1]) * key.shape[-2] * (
        query.shape[-1] + value.shape[-1]),
    _scan: _recurrence,
    _linear_scan: lambda a, b, *_: b.size,
}
_OF_BODY = {op.__wrapped__: formula for op, formula in _FORMULAS.items()}


def multiply_adds(body: Any, args: list[Any]) -> int:
    """How many multiply-adds an op does that is given these arguments; 0 of one that adds no products."""
    formula = _OF_BODY.get(body)
    return int(formula(*args)) if formula is not None else 0
