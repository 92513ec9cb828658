"""Sums over all paths of a sequence: the forward recursions of a linear-chain CRF and of CTC, with their gradients.

Both work on logarithms in float64 whatever comes in, so that thousands of steps leave float32's digits intact.
"""

from typing import Any

import numpy as np
from tinyseq.backends.rows import RowKernels

Array = Any
NEVER = -1e30  # log 0, yet a number: differences of two are no NaN
LEAST = 1e-280  # a sum below it may have lost terms that exp rounded to 0


class PathKernels(RowKernels):
    """The part of a backend that sums over paths. Lengths are int64 arrays."""

    def _time_first(self, x: Array) -> Array:
        """(B, T, K) as (T, B, K)."""
        return self.xp.ascontiguousarray(x.swapaxes(0, 1))

    def _real(self, lengths: Array | None, steps: int) -> Any:
        """Where rows are still going on, by step (T, B, 1); where all have full length, True by step."""
        if lengths is None or (isinstance(lengths, np.ndarray) and lengths.min(initial=steps) == steps):
            return [True] * steps
        return (self.xp.arange(steps)[:, None] < self.xp.asarray(lengths))[..., None]

    def _go(self, real: Any, new: Array, old: Array) -> Array:
        return new if real is True else self.xp.where(real, new, old)

    def chain_forward(self, a: Array, x: Array, moves: Array, lengths: Array | None) -> tuple[Array, Any]:
        """a'[j] = log sum_i exp(a[i] + moves[i, j]) + x_t[j], for all t in turn: (a at each row's end (B, K), saved).

        a (B, K) is the state before x (B, T, K), moves (K, K); all float64. A step is a product of matrices,
        exp(a - max a) exp(moves - max of each column): FloatingPointError where numbers lie so far apart, or are
        no numbers, that it cannot be right.
        """
        xp = self.xp
        with np.errstate(invalid="ignore", divide="ignore"):
            tops = moves.max(axis=0)
            ways = xp.exp(moves - tops)
            steps, real = self._time_first(x) + tops, self._real(lengths, x.shape[1])
            p, q = xp.empty(steps.shape, dtype=a.dtype), xp.empty(steps.shape, dtype=a.dtype)
            for t in range(len(steps)):
                top = a.max(axis=1, keepdims=True)
                xp.exp(a - top, out=p[t])
                q[t] = p[t] @ ways
                a = self._go(real[t], xp.log(q[t]) + (top + steps[t]), a)
        if q.size and not q.min() > LEAST:
            raise FloatingPointError("exp left float64's range")
        return a, (p, q, ways, real)

    def chain_backward(self, g: Array, saved: Any) -> tuple[Array, Array, Array]:
        """(da, dx, dmoves) for g (B, K): how probable each state and each move is, weighted by g.

        d a[i] = sum_j exp(a[i] + moves[i, j] - log sum) d a'[j], whose factors are ratios of p, ways and q.
        """
        p, q, ways, real = saved
        dx, r = self.xp.empty(p.shape, dtype=p.dtype), self.xp.empty(p.shape, dtype=p.dtype)
        for t in reversed(range(len(p))):
            dx[t] = self._go(real[t], g, 0.0)
            r[t] = dx[t] / q[t]
            g = self._go(real[t], p[t] * (r[t] @ ways.T), g)
        flat = (-1, p.shape[2])
        return g, dx.swapaxes(0, 1), ways * (p.reshape(flat).T @ r.reshape(flat))

    def alignments_forward(self, x: Array, skips: Array, lengths: Array | None) -> tuple[Array, Any]:
        """The logarithm (B, L) of the sum over all ways to each place of a path: (that, saved).

        A way begins before the first place, and at each step of x (B, T, L), float64, stays, moves by one or, where
        `skips` (B, L), by two, then takes x_t. Ways that there are not have NEVER or less.
        """
        xp = self.xp
        batch, steps, places = x.shape
        x, real = xp.maximum(self._time_first(x), NEVER), self._real(lengths, steps)
        barred = xp.where(skips, 0.0, NEVER)
        a = xp.full((batch, places + 2), NEVER, dtype=x.dtype)  # two places in front, from which nothing comes
        a[:, 2] = 0
        shares = xp.empty((steps, 3, batch, places), dtype=x.dtype)
        for share, emitted, on in zip(shares, x, real, strict=True):
            share[0], share[1] = a[:, 2:], a[:, 1:-1]
            xp.add(a[:, :-2], barred, out=share[2])
            top = share.max(axis=0)
            share -= top
            xp.exp(share, out=share)
            total = share.sum(axis=0)
            share /= total
            a[:, 2:] = self._go(on, xp.log(total) + top + emitted, a[:, 2:])
        return a[:, 2:], (shares, real)

    def alignments_backward(self, g: Array, saved: Any) -> Array:
        """dx (B, T, L) for g (B, L)."""
        shares, real = saved
        steps, _, batch, places = shares.shape
        dx = self.xp.empty((steps, batch, places), dtype=shares.dtype)
        d = self.xp.zeros((batch, places + 2), dtype=shares.dtype)
        d[:, 2:] = g
        for t in reversed(range(steps)):
            dx[t] = self._go(real[t], d[:, 2:], 0.0)
            stay, move, skip = shares[t] * dx[t]
            d[:, 2:] = self._go(real[t], stay, d[:, 2:])
            d[:, 1:-1] += move
            d[:, :-2] += skip
        return dx.swapaxes(0, 1)
