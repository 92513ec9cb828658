"""The linear recurrence h_t = a_t h_(t-1) + b_t, all steps of it.

A step is a product and a sum of few numbers, so that what it costs in NumPy is the calls. Where rows are many they are
laid side by side and a step is two calls on all. Where they are few, the time axis is cut into blocks that go on at
the same time, each as if nothing had come before it; what did comes to them afterwards, times the product of their a.
Nothing is divided, so an a of 0 or next to it is like any other.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tinyseq.backends.rows import RowKernels

Array = Any
SIDE_BY_SIDE = 512  # numbers in a step from which blocks of time do not pay
IN_BLOCKS = 2048  # numbers in a step of all blocks, about


class LinearKernels(RowKernels):
    """The part of a backend that runs linear recurrences."""

    def linear_scan(self, a: Array, b: Array, h0: Array, reverse: bool) -> Array:
        """h (B, T, H) with h_t = a_t h_(t-1) + b_t, from h0 (B, H) on; `reverse` from the last step to the first.

        a and b (B, T, H), of one dtype, of any strides.
        """
        xp, (rows, steps, width) = self.xp, b.shape
        h = xp.empty(b.shape, dtype=b.dtype)
        if not h.size:
            return h
        if reverse:
            a, b, y = a[:, ::-1], b[:, ::-1], h[:, ::-1]
        else:
            y = h
        blocks = min(math.isqrt(steps), IN_BLOCKS // (rows * width)) if rows * width < SIDE_BY_SIDE else 1
        if blocks < 2 or not self._scan_blocks(a, b, h0, y, blocks):
            tile, state = max(1, self.block // (rows * width)), h0.reshape(-1)
            for t in range(0, steps, tile):
                part = slice(t, t + tile)
                z = self._steps_first(b[:, part])
                state = self._advance(self._steps_first(a[:, part]), z, state)
                y[:, part] = z.reshape(-1, rows, width).swapaxes(0, 1)
        return h

    def _steps_first(self, x: Array) -> Array:
        """A copy of x (B, T, H) as (T, B H)."""
        return self.xp.array(x.swapaxes(0, 1), order="C").reshape(x.shape[1], -1)

    def _advance(self, a: Array, z: Array, state: Array) -> Array:
        """z (T, N) becomes the states from `state` (N,) on, and a is used up; the last of them."""
        xp = self.xp
        for p, q in zip(a, z, strict=True):
            xp.multiply(p, state, p)
            xp.add(q, p, q)
            state = q
        return state

    def _scan_blocks(self, a: Array, b: Array, h0: Array, y: Array, blocks: int) -> bool:
        """The same into y by `blocks` of time at once; False where an a is beyond 1, whose products
        would overflow or hide what a later a makes small again."""
        xp, (rows, steps, width) = self.xp, b.shape
        each = steps // blocks
        cut = steps - steps % blocks
        split: Callable[[Array], Array] = lambda x: x[:, :cut].reshape(rows, blocks, each, width).transpose(2, 1, 0, 3)
        if not np.abs(a).max() <= 1:
            return False
        products, z = (xp.array(split(x), order="C") for x in (a, b))
        share = xp.empty(z.shape[1:], dtype=z.dtype)
        for t in range(1, each):
            xp.multiply(products[t], z[t - 1], share)
            xp.add(z[t], share, z[t])
            xp.multiply(products[t], products[t - 1], products[t])
        before = xp.empty(z.shape[1:], dtype=z.dtype)  # the state in which each block begins
        state = h0
        for k in range(blocks):
            before[k] = state
            state = products[-1, k] * state + z[-1, k]
        xp.multiply(products, before, products)
        xp.add(z, products, z)
        y[:, :cut].reshape(rows, blocks, each, width)[...] = z.transpose(2, 1, 0, 3)
        for t in range(cut, steps):
            state = a[:, t] * state + b[:, t]
            y[:, t] = state
        return True
