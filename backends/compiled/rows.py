"""Rows for compiled kernels: arrays made dense, the largest entry of a row."""

import math
from typing import Any

import numpy as np
from tinyseq.backends.compiled import apart, inline
from tinyseq.backends.compiled.numbers import ZERO, maximum

Array = Any


def dense(x: Array, dtype: Any = None) -> Array:
    """x as an array that kernels take, of `dtype` or its own: without gaps, and writable, since Numba would compile a
    kernel once more for arrays that are not."""
    x = np.ascontiguousarray(x, dtype)
    return x if x.flags.writeable else x.copy()


def dense_rows(x: Array, dtype: Any = None) -> Array:
    """x (..., n) dense as (rows, n)."""
    return dense(x, dtype).reshape(-1, x.shape[-1])


@inline
def row_max(x: Any) -> Any:
    """The largest entry of x (n,); 0 of a row of -inf, so that x - max stays -inf."""
    top = x.dtype.type(-math.inf)
    for i in range(x.size):
        top = maximum(top, x[i])
    return ZERO if top == -math.inf else top


@inline
def grow(a: Any, b: Any) -> None:
    """b += a, both (n,), which do not overlap."""
    apart()
    for j in range(a.size):
        b[j] += a[j]
