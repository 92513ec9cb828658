"""What makes rows alike: softmax and layer norm, forward and backward."""

import math
from typing import Any

import numpy as np
from tinyseq.backends.sums import Array, SumKernels


class NormalisationKernels(SumKernels):
    """The part of a backend that normalises; a backend adds `xp`."""

    def softmax(self, x: Array, axis: int = -1, mask: Array | None = None, log: bool = False) -> Array:
        """exp(x) / sum(exp(x)) over `axis`, same shape; zeros where `mask` (boolean, broadcastable to x) is False.

        A row that is fully masked, or -inf throughout, gives zeros. With `log`, for which there is no mask, the
        logarithm of that, without underflow.
        """
        xp = self.xp
        y = xp.empty(x.shape, dtype=x.dtype)

        def work(a: Array, e: Array, *taking: Array) -> None:
            if taking:
                e[...] = -math.inf
                xp.copyto(e, a, where=taking[0])
                a = e
            xp.subtract(a, self._row_max(a), out=e)
            # A row with an entry that takes part sums to at least 1, exp(max - max).
            if log:
                e -= xp.log(xp.maximum(self._row_sum(xp.exp(e)), 1))
            else:
                xp.exp(e, out=e)
                e *= 1 / xp.maximum(self._row_sum(e), 1)

        self._by_pieces(work, axis, x, y, *(() if mask is None else (xp.broadcast_to(mask, x.shape),)))
        return y

    def softmax_backward(self, g: Array, y: Array, axis: int = -1, log: bool = False) -> Array:
        """dx = y (g - sum(g y)) over `axis`, y the softmax; g - exp(y) sum(g) if it is its logarithm."""
        xp = self.xp
        dx = xp.empty(y.shape, dtype=y.dtype)

        def work(h: Array, p: Array, d: Array) -> None:
            if log:
                xp.exp(p, out=d)
                d *= self._row_sum(h)
                xp.subtract(h, d, out=d)
            else:
                xp.subtract(h, self._row_dot(h, p), out=d)
                d *= p

        self._by_pieces(work, axis, g, y, dx)
        return dx

    def layer_norm(self, x: Array, weight: Array | None, bias: Array | None, ndim: int = 1, eps: float = 1e-5,
                   centred: bool = True) -> tuple[Array, Any]:
        """(x - mean) / sqrt(var + eps) * weight + bias over the last `ndim` axes (Ba et al. 2016): (y,
        saved).

        weight and bias have the shape of those axes, or are None. Not `centred` the mean counts as 0: RMS norm (Zhang
        and Sennrich 2019). Saved are x and, of each row, how far its mean is from its first entry, and 1 / std.
        """
        xp = self.xp
        size = math.prod(x.shape[x.ndim - ndim:])
        rows = x.reshape(math.prod(x.shape[:x.ndim - ndim]), size)
        y, moments = xp.empty(rows.shape, dtype=x.dtype), xp.zeros((rows.shape[0], 2), dtype=x.dtype)

        def work(a: Array, b: Array, moment: Array) -> None:
            if centred:
                a = xp.subtract(a, a[:, :1], out=b)  # a row of one value is exactly 0 then, as from its mean it is not
                moment[:, :1] = self._row_sum(a) / size
                a -= moment[:, :1]
            moment[:, 1:] = 1 / xp.sqrt(self._row_dot(a, a) / size + eps)
            xp.multiply(a, moment[:, 1:], out=b)
            if weight is not None:
                b *= weight.reshape(-1)
            if bias is not None:
                b += bias.reshape(-1)

        self._by_pieces(work, -1, rows, y, moments)
        return y.reshape(x.shape), (rows, moments, x.shape[x.ndim - ndim:], centred)

    def layer_norm_backward(self, g: Array, saved: Any, weight: Array | None) -> tuple[Array, Array, Array]:
        """(dx, dweight, dbias) of layer norm; the last two are the gradients for a weight of ones where it is
        None.

        With n = (x - mean) / std and d = g weight: dx = (d - mean(d) - n mean(d n)) / std; without mean(d) if not
        centred.
        """
        xp = self.xp
        rows, moments, shape, centred = saved
        size = rows.shape[1]
        dx = xp.empty(rows.shape, dtype=rows.dtype)
        w = xp.ones(size, dtype=rows.dtype) if weight is None else weight.reshape(-1)

        def work(a: Array, h: Array, d: Array, moment: Array) -> Array:
            z, scale = a - a[:, :1] - moment[:, :1] if centred else a, moment[:, 1:]  # n = z scale
            xp.multiply(h, scale, out=d)
            along = d * z
            sums = xp.concat([self._sum_axis(along, 0), self._sum_axis(h, 0)])
            d *= w
            d -= z * (scale * scale * xp.matmul(along, w[:, None]) / size)
            if centred:
                d -= scale * xp.matmul(h, w[:, None]) / size
            return sums

        parts = self._by_pieces(work, -1, rows, g.reshape(rows.shape), dx, moments)
        dweight, dbias = sum(parts, np.zeros((2, size))).astype(rows.dtype)  # in float64
        return dx.reshape(g.shape), dweight.reshape(shape), dbias.reshape(shape)
