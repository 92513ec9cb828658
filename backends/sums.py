"""Sums of float32 whose error does not grow with their length; what is float16 is reckoned with in float32."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tinyseq.backends.rows import RowKernels

Array = Any
reduce: Any = np.add.reduce  # whose types know no bool as keepdims


class SumKernels(RowKernels):
    """The part of a backend that sums."""

    stretch = 64  # numbers that are summed one after another, twice as many at most; in up to eight sums as many again
    few = 1 << 16  # numbers of which NumPy's own sum is fast enough

    def sum(self, x: Array, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Array:
        """The sum over an axis, several, or all.

        NumPy adds one after another what does not lie densest in memory: of a million equal float32 1 % is lost. Here
        axes are taken in the order of memory, long ones by stretches, as products with ones where that is possible.
        """
        kind = x.dtype.char
        if kind == "e":
            return self.sum(x.astype(np.float32), axis, keepdims).astype(np.float16)
        whole = axis is None or (not isinstance(axis, int) and len(axis) == x.ndim)
        if kind != "f" or x.size <= 2 * self.stretch or (whole and x.size <= self.few and x.flags.forc):
            return reduce(x, axis=axis, keepdims=keepdims)
        axes = (axis,) if isinstance(axis, int) else range(x.ndim) if axis is None else axis
        n, axes = math.prod([x.shape[i] for i in axes]), tuple([i % x.ndim for i in axes])
        if n <= 2 * self.stretch:
            return reduce(x, axis=axis, keepdims=keepdims)
        if x.size <= self.few:
            x = np.ascontiguousarray(x)  # which costs less than to think about it
        shape = [1 if i in axes else m for i, m in enumerate(x.shape)]
        if x.flags.c_contiguous and max(axes) - min(axes) < len(axes):  # neighbours are one axis
            y = self._sum_axis(x.reshape(math.prod(x.shape[:min(axes)]), n, -1), 1).reshape(shape)
        else:
            order = sorted(range(x.ndim), key=lambda i: -abs(x.strides[i]))
            y = x.transpose(order)
            for k in reversed(range(x.ndim)):
                y = self._sum_axis(y, k) if order[k] in axes else y
            y = y.transpose([order.index(i) for i in range(x.ndim)])
        return y if keepdims else y.squeeze(axes)

    def _sum_axis(self, x: Array, k: int) -> Array:
        """The sum over axis k of float32 x, whose axes are in the order of memory; the axis stays, with length 1."""
        n, lead, inner = x.shape[k], x.shape[:k], x.shape[k + 1:]
        alone, ones = math.prod(inner) == 1, len(inner) == 1 and x.strides[-1] == x.itemsize
        if alone and x.size > self.few and x.flags.c_contiguous:
            return self._row_sum(x.reshape(-1, n)).reshape(*lead, 1, *inner)
        sums = 8 if ones and inner[0] % 4 == 0 else 4 if ones else 2  # a product of fours keeps more sums at a time
        if alone or n <= sums * self.stretch:
            return np.matmul(np.ones((1, n), x.dtype), x) if ones else np.add.reduce(x, axis=k, keepdims=True)
        every, stop = (slice(None),) * k, n - n % self.stretch
        y = x[(*every, slice(stop))].reshape(*lead, n // self.stretch, self.stretch, *inner)
        y = np.matmul(np.ones((1, self.stretch), x.dtype), y)[..., 0, :] if ones else np.add.reduce(y, axis=k + 1)
        y = self._sum_axis(y, k)
        return y if stop == n else y + self._sum_axis(x[(*every, slice(stop, n))], k)

    def mean(self, x: Array, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Array:
        """The mean over an axis, several, or all; float64 of integers and booleans."""
        total = self.xp.sum(x if x.dtype.kind == "f" else x.astype(np.float64), axis=axis, keepdims=keepdims)
        return total / (x.size // max(total.size, 1))

    def cumulative_sum(self, x: Array, /, *, axis: int) -> Array:
        """Running sums along an axis: those of stretches, and what all stretches before come to."""
        if x.dtype == np.float16:
            return self.cumulative_sum(x.astype(np.float32), axis=axis).astype(np.float16)
        k, n = axis % x.ndim, x.shape[axis]
        if x.dtype != np.float32 or n <= 2 * self.stretch:
            return np.cumsum(x, axis=k)
        if x.size <= self.block:
            return np.cumsum(x, axis=k, dtype=np.float64).astype(x.dtype)
        every, stop = (slice(None),) * k, n - n % self.stretch
        apart = (*x.shape[:k], n // self.stretch, self.stretch, *x.shape[k + 1:])
        y = np.empty(x.shape, x.dtype)
        parts, rest = y[(*every, slice(stop))].reshape(apart), y[(*every, slice(stop, n))]
        np.cumsum(x[(*every, slice(stop))].reshape(apart), axis=k + 1, out=parts)
        np.cumsum(x[(*every, slice(stop, n))], axis=k, out=rest)
        before = np.cumsum(parts[(*every, slice(None), -1)], axis=k, dtype=np.float64).astype(x.dtype)
        parts[(*every, slice(1, None))] += np.expand_dims(before[(*every, slice(-1))], k + 1)
        rest += before[(*every, slice(-1, None))]
        return y

    def unindex(self, g: Array, index: Any, shape: tuple[int, ...]) -> Array:
        """Zeros of `shape` with g (shaped like x[index]) added in at `index`: the adjoint of x -> x[index].

        The order of addition is fixed, so results repeat bit by bit; float16 is summed in float32 at least.
        """
        xp = self.xp
        parts = tuple(xp.asarray(i) if isinstance(i, (list, np.ndarray)) else i
                      for i in (index if isinstance(index, tuple) else (index,)))
        if any(getattr(i, "ndim", 0) and i.dtype != bool for i in parts):
            return self._add_at(g, parts, shape).astype(g.dtype, copy=False)
        y = xp.zeros(shape, dtype=g.dtype)  # slices, integers, boolean masks: each element is taken once
        y[parts] = g
        return y

    def _add_at(self, g: Array, parts: tuple[Any, ...], shape: tuple[int, ...]) -> Array:
        """unindex where one of the parts is an array of integers, so that an element may be taken again."""
        if len(parts) == 1:
            rows, wide = parts[0].reshape(-1), np.float32 if g.dtype == np.float16 else g.dtype
            return self._add_rows(g.reshape(rows.shape[0], *shape[1:]), rows, shape, wide)
        # one after another, and many in one place
        wide = g.dtype if g.dtype.kind != "f" or (g.itemsize > 2 and g.size <= math.prod(shape)) else np.float64
        y = np.zeros(shape, dtype=wide)
        np.add.at(y, parts, g.astype(wide, copy=False))
        return y

    def _add_rows(self, g: Array, rows: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """Zeros of `shape` with g[i] (N, ...) added to row rows[i] (N,): sort the rows, then sum each
        stretch."""
        y = np.zeros(shape, dtype=dtype)
        if g.size:
            rows = rows.astype(np.int64, copy=False)  # in a narrow type the sum overflows
            rows = np.where(rows < 0, rows + shape[0], rows)
            order = np.argsort(rows, kind="stable")
            rows = rows[order]
            starts = np.flatnonzero(np.concatenate(([True], rows[1:] != rows[:-1])))
            if rows.size > 2 * self.stretch and (sizes := np.diff(starts, append=rows.size)).max() > 2 * self.stretch:
                place = np.arange(rows.size) - np.repeat(starts, sizes)
                starts = np.flatnonzero(place % self.stretch == 0)
                parts = np.add.reduceat(g[order], starts, axis=0, dtype=dtype)
                return self._add_rows(parts, rows[starts], shape, dtype)
            y[rows[starts]] = np.add.reduceat(g[order], starts, axis=0, dtype=dtype)
        return y

    def _wide(self, x: Array) -> Array:
        """x, as float32 if it is float16."""
        return x.astype(np.float32) if x.dtype.char == "e" else x
