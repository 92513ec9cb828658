"""Convolution and pooling along time: a few windows at a time, so that no array has every window of a sequence."""

import math
from collections.abc import Iterator
from typing import Any

from tinyseq.backends.rows import RowKernels, blocks

Array = Any


def count_windows(steps: int, size: int, stride: int, dilation: int) -> int:
    """How many windows of `size` entries, `dilation` apart, begin in `steps`, one each `stride`."""
    return max(0, (steps - dilation * (size - 1) - 1) // stride + 1)


def _places(start: int, stop: int, size: int, stride: int, dilation: int) -> list[slice]:
    """Where entry 0, 1, ... of the windows from `start` to `stop` stands in time."""
    return [slice(start * stride + k * dilation, stop * stride + k * dilation, stride) for k in range(size)]


def windows(steps: int, size: int, stride: int, dilation: int) -> list[slice]:
    """Where entry 0, 1, ... of all windows stands in time."""
    return _places(0, count_windows(steps, size, stride, dilation), size, stride, dilation)


class ConvolutionKernels(RowKernels):
    """The part of a backend that goes along x (B, T, C) with windows; a backend adds `xp`.

    What is written out, the windows as rows of a matrix, is about `unfolded` numbers, which stay in the cache; all at
    once they would be `size` times x. n is the number of windows, G that of `groups`, K the `size`.
    """

    unfolded = 1 << 17
    rows = 256  # of a product at least

    def conv1d(self, x: Array, weight: Array, stride: int, dilation: int, groups: int) -> Array:
        """y[b, i] = sum_k weight[:, :, k] x[b, i stride + k dilation]: (B, n, O) of weight (O, C / G, K)."""
        xp, (out, _, size) = self.xp, weight.shape
        y = xp.empty((x.shape[0], count_windows(x.shape[1], size, stride, dilation), out), dtype=x.dtype)
        matrix, every = self._matrix(weight, groups), self._windows(x, y.shape[1], size, stride, dilation)
        for batch, start, stop in self._blocks(y.shape[:2], size * x.shape[2]):
            part, some = y[batch, start:stop], every[batch, start:stop]
            if matrix.ndim == 2:  # each channel alone: no product of matrices
                part[...] = xp.einsum("btkc,kc->btc", some, matrix)
            else:
                part[...] = xp.moveaxis(self._rows(some, groups) @ matrix, 0, 1).reshape(part.shape)
        return y

    def conv1d_backward(self, g: Array, x: Array, weight: Array, stride: int, dilation: int,
                        groups: int) -> tuple[Array, Array]:
        """(dx, dweight) for g (B, n, O)."""
        xp, (out, few, size) = self.xp, weight.shape
        dx = xp.zeros_like(x)
        matrix, every = self._matrix(weight, groups), self._windows(x, g.shape[1], size, stride, dilation)
        total = xp.zeros((groups, size * few, out // groups), dtype=weight.dtype)
        for batch, start, stop in self._blocks(g.shape[:2], size * x.shape[2]):
            part, some = g[batch, start:stop], every[batch, start:stop]
            if matrix.ndim == 2:
                total[:, :, 0] += xp.einsum("btkc,btc->ck", some, part)
                back = (part * w for w in matrix)
            else:
                given = xp.moveaxis(part.reshape(-1, groups, out // groups), 1, 0)  # (G, rows, O / G)
                total += xp.matmul(xp.matrix_transpose(self._rows(some, groups)), given)
                back = xp.matmul(given, xp.matrix_transpose(matrix)).reshape(groups, *some.shape[:3], few)
                back = xp.moveaxis(back, (3, 0), (0, 3)).reshape(size, *part.shape[:2], x.shape[2])
            for entry, place in zip(back, _places(start, stop, size, stride, dilation), strict=True):
                dx[batch, place] += entry
        return dx, total.reshape(groups, size, few, -1).transpose(0, 3, 2, 1).reshape(weight.shape)

    def max_pool1d(self, x: Array, size: int, stride: int, dilation: int) -> tuple[Array, Array]:
        """The largest entry of each window (B, n, C), and which it is in its window: of equal ones the first."""
        xp, (first, *others) = self.xp, windows(x.shape[1], size, stride, dilation)
        y, which = xp.array(x[:, first]), xp.zeros(x[:, first].shape, dtype=xp.int32)
        for k, place in enumerate(others, 1):
            better = (x[:, place] > y) | xp.isnan(x[:, place])
            y, which = xp.where(better, x[:, place], y), xp.where(better, xp.int32(k), which)
        return y, which

    def max_pool1d_backward(self, g: Array, which: Array, steps: int, size: int, stride: int, dilation: int) -> Array:
        """dx (B, `steps`, C) for g (B, n, C)."""
        dx = self.xp.zeros((g.shape[0], steps, g.shape[2]), dtype=g.dtype)
        for k, place in enumerate(windows(steps, size, stride, dilation)):
            dx[:, place] += self.xp.where(which == k, g, g.dtype.type(0))
        return dx

    def sum_pool1d(self, x: Array, size: int, stride: int) -> Array:
        """The sum of each window: (B, n, C)."""
        first, *others = windows(x.shape[1], size, stride, 1)
        y = self.xp.array(x[:, first])
        for place in others:
            y += x[:, place]
        return y

    def sum_pool1d_backward(self, g: Array, steps: int, size: int, stride: int) -> Array:
        """dx (B, `steps`, C) for g (B, n, C)."""
        dx = self.xp.zeros((g.shape[0], steps, g.shape[2]), dtype=g.dtype)
        for place in windows(steps, size, stride, 1):
            dx[:, place] += g
        return dx

    def _matrix(self, weight: Array, groups: int) -> Array:
        """(O, C / G, K) -> (G, K C / G, O / G): what rows of windows are multiplied with; (K, C) of channels alone."""
        out, few, size = weight.shape
        if few == 1 and out == groups:
            return self.xp.ascontiguousarray(weight[:, 0].T)
        apart = weight.reshape(groups, out // groups, few, size).transpose(0, 3, 2, 1)
        return self.xp.ascontiguousarray(apart).reshape(groups, size * few, out // groups)

    def _windows(self, x: Array, n: int, size: int, stride: int, dilation: int) -> Array:
        """A view of all windows of x: (B, n, K, C)."""
        by_row, by_step, by_channel = x.strides
        shape, strides = (x.shape[0], n, size, x.shape[2]), (by_row, by_step * stride, by_step * dilation, by_channel)
        return self.xp.lib.stride_tricks.as_strided(x, shape, strides)

    def _rows(self, some: Array, groups: int) -> Array:
        """Some windows (b, t, K, C) written out: (G, b t, K C / G)."""
        size, width = some.shape[2:]
        apart = self.xp.moveaxis(some.reshape(*some.shape[:3], groups, width // groups), 3, 0)
        return apart.reshape(groups, some.shape[0] * some.shape[1], size * width // groups)

    def _blocks(self, shape: tuple[int, ...], width: int) -> Iterator[tuple[slice, int, int]]:
        """Which rows, and which windows from where to where, of `shape` (B, n), one of `width` numbers."""
        for i in blocks(shape, max(self.rows, self.unfolded // max(width, 1))) if math.prod(shape) else ():
            batch, steps = (*i[:-1], slice(None), slice(None))[:2]
            yield batch, *steps.indices(shape[1])[:2]
