"""The linear recurrence h_t = a_t h_(t-1) + b_t, all steps of it.

A step is a product and a sum of few numbers, so that what it costs in NumPy is the calls. Where rows are many they are
laid side by side and a step is two calls on all. Where they are few, the time axis is cut into blocks that go on at
the same time, each as if nothing had come before it, beside the products of their a. The states in which they end are
a linear recurrence again, of fewer steps; what a block begins with then comes to all its steps, times those products.
Nothing is divided, so an a of 0 or next to it is like any other.
"""

from typing import Any

import numpy as np
from tinyseq.backends.rows import RowKernels

Array = Any
SIDE_BY_SIDE = 512  # numbers in a step above which blocks of time do not pay
LONG = 64  # steps from which they do


class LinearKernels(RowKernels):
    """The part of a backend that runs linear recurrences."""

    def linear_scan(self, a: Array, b: Array, h0: Array, reverse: bool) -> Array:
        """h (B, T, H) with h_t = a_t h_(t-1) + b_t, from h0 (B, H) on; `reverse` from the last step to the first.

        a and b (B, T, H), of one dtype, of any strides.
        """
        h = self.xp.empty(b.shape, dtype=b.dtype)
        if h.size:
            a, b, y = (x[:, ::-1] if reverse else x for x in (a, b, h))
            self._scan(a, b, h0, y)
        return h

    def _scan(self, a: Array, b: Array, state: Array, y: Array) -> None:
        """The same into y, forwards."""
        rows, steps, width = b.shape
        if rows * width <= SIDE_BY_SIDE and steps >= LONG and self._scan_blocks(a, b, state, y):
            return
        tile = max(1, self.block // (rows * width))
        for t in range(0, steps, tile):
            part = slice(t, t + tile)
            z = self._steps_first(b[:, part])
            self._advance(self._steps_first(a[:, part]), z, state.reshape(-1))
            y[:, part], state = z.reshape(-1, rows, width).swapaxes(0, 1), z[-1]

    def _steps_first(self, x: Array) -> Array:
        """A copy of x (B, T, H) as (T, B H)."""
        return self.xp.array(x.swapaxes(0, 1), order="C").reshape(x.shape[1], -1)

    def _advance(self, a: Array, z: Array, state: Array) -> None:
        """z (T, N) becomes the states from `state` (N,) on, and a is used up."""
        xp = self.xp
        for p, q in zip(a, z, strict=True):
            xp.multiply(p, state, p)
            xp.add(q, p, q)
            state = q

    def _scan_blocks(self, a: Array, b: Array, h0: Array, y: Array) -> bool:
        """The same by blocks of time at once. False where an a is beyond 1, whose products would overflow or hide what
        a later a makes small again, or a sum overflows: the last state shows it, as nothing is finite after that."""
        xp, (rows, steps, width) = self.xp, b.shape
        if not max(a.max(), -a.min()) <= 1:
            return False
        each = round(steps ** (1 / 3))
        blocks, cut = steps // each, steps - steps % each

        def split(x: Array) -> Array:
            return x[:, :cut].reshape(rows, blocks, each, width).transpose(2, 1, 0, 3)

        p, q = (xp.array(split(x), order="C") for x in (a, b))
        both = xp.empty((each, 2, *q.shape[1:]), dtype=q.dtype)  # states from nothing, products
        both[0, 0], both[0, 1] = q[0], p[0]
        begin = xp.empty((blocks + 1, rows, width), dtype=q.dtype)
        begin[0] = h0
        with np.errstate(all="ignore"):
            for p_t, q_t, before, now, state in zip(p[1:], q[1:], both, both[1:], both[1:, 0], strict=False):
                xp.multiply(p_t, before, now)
                xp.add(state, q_t, state)
            ends, products = both[-1].swapaxes(1, 2)
            self._scan(products, ends, h0, begin[1:].swapaxes(0, 1))
            if not np.isfinite(begin[-1]).all():
                return False
            states, products = both[:, 0], both[:, 1]
            xp.multiply(products, begin[:-1], products)
            xp.add(states, products, split(y))
        if cut < steps:
            self._scan(a[:, cut:], b[:, cut:], begin[-1], y[:, cut:])
        return True
