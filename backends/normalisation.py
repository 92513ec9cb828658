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
        masks = () if mask is None else (xp.broadcast_to(mask, x.shape),)
        for a, e, *taking in self._pieces(axis, x, y, *masks):
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
                e /= xp.maximum(self._row_sum(e), 1)
        return y

    def softmax_backward(self, g: Array, y: Array, axis: int = -1, log: bool = False) -> Array:
        """dx = y (g - sum(g y)) over `axis`, y the softmax; g - exp(y) sum(g) if it is its logarithm."""
        xp = self.xp
        dx = xp.empty(y.shape, dtype=y.dtype)
        for h, p, d in self._pieces(axis, g, y, dx):
            if log:
                xp.exp(p, out=d)
                d *= self._row_sum(h)
                xp.subtract(h, d, out=d)
            else:
                xp.subtract(h, self._row_dot(h, p), out=d)
                d *= p
        return dx

    def layer_norm(self, x: Array, weight: Array | None, bias: Array | None, ndim: int = 1,
                   eps: float = 1e-5) -> tuple[Array, Any]:
        """(x - mean) / sqrt(var + eps) * weight + bias over the last `ndim` axes (Ba et al. 2016): (y,
        saved).

        weight and bias have the shape of those axes, or are None.
        """
        xp = self.xp
        size = math.prod(x.shape[x.ndim - ndim:])
        rows = x.reshape(math.prod(x.shape[:x.ndim - ndim]), size)
        normal, y = xp.empty(rows.shape, dtype=x.dtype), xp.empty(rows.shape, dtype=x.dtype)
        scale = xp.empty((rows.shape[0], 1), dtype=x.dtype)
        for a, z, b, c in self._pieces(-1, rows, normal, y, scale):
            xp.subtract(a, a[:, :1], out=z)  # so that a row of one value is exactly 0, as from its mean it is not
            z -= self._row_sum(z) / size
            c[...] = 1 / xp.sqrt(self._row_dot(z, z) / size + eps)
            z *= c
            xp.multiply(z, 1 if weight is None else weight.reshape(-1), out=b)
            if bias is not None:
                b += bias.reshape(-1)
        return y.reshape(x.shape), (normal, scale, x.shape[x.ndim - ndim:])

    def layer_norm_backward(self, g: Array, saved: Any, weight: Array | None) -> tuple[Array, Array, Array]:
        """(dx, dweight, dbias) of layer norm; the last two are the gradients for a weight of ones where it is
        None.

        With n = (x - mean) / std and d = g weight: dx = (d - mean(d) - n mean(d n)) / std.
        """
        xp = self.xp
        normal, scale, shape = saved
        size = normal.shape[1]
        rows = g.reshape(normal.shape)
        dx = xp.empty(normal.shape, dtype=normal.dtype)
        w = xp.ones(size, dtype=normal.dtype) if weight is None else weight.reshape(-1)
        dweight, dbias = np.zeros(size), np.zeros(size)  # float64
        for h, d, n, c in self._pieces(-1, rows, dx, normal, scale):
            t = h * n
            dweight += self._sum_axis(t, 0)[0]
            dbias += self._sum_axis(h, 0)[0]
            xp.multiply(n, xp.matmul(t, w[:, None]) / size, out=t)
            t += xp.matmul(h, w[:, None]) / size
            xp.multiply(h, w, out=d)
            d -= t
            d *= c
        dweight, dbias = (a.astype(normal.dtype).reshape(shape) for a in (dweight, dbias))
        return dx.reshape(g.shape), dweight, dbias
