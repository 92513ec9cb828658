"""Cross-entropy, compiled: two passes over the logits of a row; sums are kept in float64."""

import math
from typing import Any

import numpy as np
from tinyseq.backends.compiled import compiled
from tinyseq.backends.compiled.numbers import exp
from tinyseq.backends.compiled.rows import dense, row_max
from tinyseq.backends.losses import LossKernels
from tinyseq.backends.pool import share

Array = Any


@compiled
def cross_entropy(spread: Array, smoothing: Any, whole: Any, x: Array, targets: Array, weights: Array, kept: Array,
                  losses: Array, top: Array, sums: Array) -> None:
    """x (rows, classes), spread (classes,), of which `whole` is the sum, the others (rows,)."""
    for r in range(x.shape[0]):
        a, total = x[r], 0.0
        top[r] = m = row_max(a)
        for i in range(a.size):
            total += exp(a[i] - m)
        sums[r] = total = 1 if total < 1 else total
        log_s = math.log(total)
        loss = (1 - smoothing) * weights[r] * (log_s - (a[targets[r]] - m))
        if smoothing:
            of_all = 0.0
            for i in range(a.size):
                of_all += spread[i] * (a[i] - m)
            loss += smoothing / a.size * (whole * log_s - of_all)
        losses[r] = loss if kept[r] else 0


@compiled
def cross_entropy_backward(spread: Array, smoothing: Any, whole: Any, g: Array, x: Array, targets: Array,
                           weights: Array, kept: Array, top: Array, sums: Array, dx: Array) -> None:
    """dx and x (rows, classes), spread (classes,), the others (rows,)."""
    for r in range(x.shape[0]):
        a, d, m = x[r], dx[r], top[r]
        hit = g[r] * weights[r] * (1 - smoothing)
        flat = x.dtype.type(g[r] * smoothing / a.size)
        scale = x.dtype.type((hit + flat * whole) / sums[r])
        if not kept[r]:
            d[:] = 0
            continue
        for i in range(a.size):
            d[i] = exp(a[i] - m) * scale
        if smoothing:
            for i in range(a.size):
                d[i] -= flat * spread[i]
        d[targets[r]] -= hit


class CompiledLosses(LossKernels):
    """What replaces the portable kernels."""

    def cross_entropy(self, logits: Array, targets: Array, weight: Array | None = None, smoothing: float = 0.0,
                      ignore_index: int = -100) -> tuple[Array, Array, Any]:
        dtype = logits.dtype
        if dtype.char not in "fd" or not logits.size:
            return super().cross_entropy(logits, targets, weight, smoothing, ignore_index)
        x, kept = dense(logits), targets != ignore_index
        targets = np.where(kept, targets, 0).astype(np.int64, copy=False)
        spread = np.ones(x.shape[1], dtype) if weight is None else dense(weight, dtype)
        weights, whole = kept * spread[targets], spread.sum()  # the first refuses what is no class
        losses, top, sums = (np.empty(len(x), dtype) for _ in range(3))

        def work(start: int, stop: int) -> None:
            of_rows = [a[start:stop] for a in (x, targets, weights, kept, losses, top, sums)]
            cross_entropy(spread, smoothing, whole, *of_rows)

        share(work, len(x), 4 * x.size)
        return losses, weights, (x, targets, kept, weights, spread, smoothing, top, sums)

    def cross_entropy_backward(self, g: Array, saved: Any) -> Array:
        x, targets, kept, weights, spread, smoothing, top, sums = saved
        if x.dtype.char not in "fd" or not x.size:
            return super().cross_entropy_backward(g, saved)
        g, dx, whole = dense(g, x.dtype), np.empty_like(x), spread.sum()

        def work(start: int, stop: int) -> None:
            of_rows = [a[start:stop] for a in (g, x, targets, weights, kept, top, sums, dx)]
            cross_entropy_backward(spread, smoothing, whole, *of_rows)

        share(work, len(x), 4 * x.size)
        return dx
