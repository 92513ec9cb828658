"""The linear recurrence, compiled: the loop over time as it is written."""

from typing import Any

import numpy as np
from tinyseq.backends.compiled import apart, compiled, exact
from tinyseq.backends.compiled.rows import dense
from tinyseq.backends.linear import LinearKernels
from tinyseq.backends.pool import share

Array = Any
LANES = 256  # numbers side by side that go through all steps at once


@exact
def advance(a: Array, b: Array, old: Array, new: Array) -> None:
    apart()
    for i in range(new.size):
        new[i] = a[i] * old[i] + b[i]


@compiled
def linear_scan(a: Array, b: Array, h0: Array, reverse: bool, h: Array, start: int, stop: int) -> None:
    """Pieces start to stop of h (B, T, H), as of LinearKernels.linear_scan: each LANES columns of one row."""
    pieces, steps = -(-h.shape[2] // LANES), h.shape[1]
    for piece in range(start, stop):
        row, left = piece // pieces, piece % pieces * LANES
        right = min(left + LANES, h.shape[2])
        state = h0[row, left:right]
        for step in range(steps):
            t = steps - 1 - step if reverse else step
            new = h[row, t, left:right]
            advance(a[row, t, left:right], b[row, t, left:right], state, new)
            state = new


class CompiledLinear(LinearKernels):
    """What replaces the portable kernel."""

    def linear_scan(self, a: Array, b: Array, h0: Array, reverse: bool) -> Array:
        if b.dtype.char not in "fd":
            return super().linear_scan(a, b, h0, reverse)
        a, b, h0 = map(dense, (a, b, h0))
        h = np.empty_like(b)
        pieces = b.shape[0] * -(-b.shape[2] // LANES)
        share(lambda start, stop: linear_scan(a, b, h0, reverse, h, start, stop), pieces, 2 * b.size)
        return h
