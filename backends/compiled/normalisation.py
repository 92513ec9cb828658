"""Softmax and layer norm, compiled: a row at a time, which stays in the first cache; sums are kept in float64."""

import math
from typing import Any

import numpy as np
from tinyseq.backends.compiled import compiled
from tinyseq.backends.compiled.numbers import exp, fma
from tinyseq.backends.compiled.rows import dense, dense_rows, row_max
from tinyseq.backends.normalisation import NormalisationKernels
from tinyseq.backends.pool import share

Array = Any


@compiled
def softmax(x: Array, mask: Any, log: Any, y: Array) -> None:
    """x, y and mask (rows, n), the mask boolean or None."""
    for r in range(x.shape[0]):
        a, out, total = x[r], y[r], 0.0
        if mask is None:
            for i in range(a.size):
                out[i] = a[i]
        else:
            for i in range(a.size):
                out[i] = a[i] if mask[r, i] else -math.inf
        top = row_max(out)
        if log:
            for i in range(a.size):
                out[i] -= top  # to memory, or LLVM would subtract once, what it adds up first: digits are lost
                total += exp(out[i])
            size = x.dtype.type(0 if total < 1 else math.log(total))  # a row with an entry that takes part sums to 1
            for i in range(a.size):
                out[i] -= size
        else:
            for i in range(a.size):
                e = exp(out[i] - top)
                out[i] = e
                total += e
            scale = x.dtype.type(1 / (1 if total < 1 else total))
            for i in range(a.size):
                out[i] *= scale


@compiled
def softmax_backward(g: Array, y: Array, log: Any, dx: Array) -> None:
    """All (rows, n)."""
    for r in range(y.shape[0]):
        h, p, d, total = g[r], y[r], dx[r], 0.0
        if log:
            for i in range(h.size):
                total += h[i]
            along = y.dtype.type(total)
            for i in range(h.size):
                d[i] = h[i] - exp(p[i]) * along
        else:
            for i in range(h.size):
                total += h[i] * p[i]
            along = y.dtype.type(total)
            for i in range(h.size):
                d[i] = p[i] * (h[i] - along)


@compiled
def layer_norm(x: Array, weight: Array, bias: Array, eps: Any, centred: Any, y: Array, moments: Array) -> None:
    """x and y (rows, n), weight and bias (n,), moments (rows, 2) as the portable kernel's."""
    n, kind = x.shape[1], x.dtype.type
    for r in range(x.shape[0]):
        a, out, first = x[r], y[r], x[r, 0] if centred else kind(0)
        total = squares = 0.0
        for i in range(n):
            total += a[i] - first  # so that a row of one value is exactly 0, as from its mean it is not
        mean = kind(total / n) if centred else kind(0)
        for i in range(n):
            z = fma(a[i] - first, kind(1), -mean)  # which LLVM does not turn into one subtraction: digits would be lost
            squares += z * z
        scale = kind(1 / math.sqrt(squares / n + eps))
        shift = -mean * scale
        for i in range(n):
            out[i] = fma(a[i] - first, scale, shift) * weight[i] + bias[i]
        moments[r, 0], moments[r, 1] = mean, scale


@compiled
def layer_norm_backward(g: Array, x: Array, weight: Array, moments: Array, centred: Any, stretch: Any,
                        dx: Array, parts: Array) -> None:
    """g, x and dx (rows, n). parts (stretches, 2, n) are the sums of g normal and of g over `stretch` rows each."""
    n, kind = x.shape[1], x.dtype.type
    parts[:] = 0
    for r in range(x.shape[0]):
        h, a, d, dweight, dbias = g[r], x[r], dx[r], parts[r // stretch, 0], parts[r // stretch, 1]
        first, mean, scale = x[r, 0] if centred else kind(0), moments[r, 0], moments[r, 1]
        total, along, shift = 0.0, 0.0, -mean * scale
        for i in range(n):
            normal, part = fma(a[i] - first, scale, shift), h[i] * weight[i]
            dweight[i] += h[i] * normal
            dbias[i] += h[i]
            total += part
            along += part * normal
        total, along = kind(total / n if centred else 0), kind(along / n)
        for i in range(n):
            d[i] = (h[i] * weight[i] - total - fma(a[i] - first, scale, shift) * along) * scale


class CompiledNormalisation(NormalisationKernels):
    """What replaces the portable kernels. Softmax along another axis than the last has its rows dense in memory."""

    def softmax(self, x: Array, axis: int = -1, mask: Array | None = None, log: bool = False) -> Array:
        if x.dtype.char not in "fd" or not (x.ndim and x.size) or (mask is not None and mask.dtype != bool):
            return super().softmax(x, axis, mask, log)
        turned = x.swapaxes(axis, -1)
        take = None if mask is None else dense_rows(np.broadcast_to(mask, x.shape).swapaxes(axis, -1))
        y = np.empty(turned.shape, x.dtype)
        rows, out = dense_rows(turned), dense_rows(y)
        share(lambda start, stop: softmax(rows[start:stop], take if take is None else take[start:stop], log,
                                          out[start:stop]), len(rows), 8 * x.size)
        return y.swapaxes(axis, -1)

    def softmax_backward(self, g: Array, y: Array, axis: int = -1, log: bool = False) -> Array:
        if y.dtype.char not in "fd" or not y.size:
            return super().softmax_backward(g, y, axis, log)
        turned = y.swapaxes(axis, -1)
        dx = np.empty(turned.shape, y.dtype)
        h, p, d = dense_rows(g.swapaxes(axis, -1), y.dtype), dense_rows(turned), dense_rows(dx)
        share(lambda start, stop: softmax_backward(h[start:stop], p[start:stop], log, d[start:stop]), len(p),
              4 * y.size)
        return dx.swapaxes(axis, -1)

    def layer_norm(self, x: Array, weight: Array | None, bias: Array | None, ndim: int = 1, eps: float = 1e-5,
                   centred: bool = True) -> tuple[Array, Any]:
        if x.dtype.char not in "fd" or not x.size:
            return super().layer_norm(x, weight, bias, ndim, eps, centred)
        shape = x.shape[x.ndim - ndim:]
        n = math.prod(shape)
        rows, y = dense(x).reshape(-1, n), np.empty((x.size // n, n), x.dtype)
        moments, w = np.empty((len(rows), 2), x.dtype), _weight(weight, n, x.dtype)
        b = np.zeros(n, x.dtype) if bias is None else dense(bias).reshape(-1)
        share(lambda start, stop: layer_norm(rows[start:stop], w, b, eps, centred, y[start:stop],
                                             moments[start:stop]), len(rows), 4 * x.size)
        return y.reshape(x.shape), (rows, moments, shape, centred)

    def layer_norm_backward(self, g: Array, saved: Any, weight: Array | None) -> tuple[Array, Array, Array]:
        rows, moments, shape, centred = saved
        if rows.dtype.char not in "fd" or not rows.size:
            return super().layer_norm_backward(g, saved, weight)
        h, dx = dense(g, rows.dtype).reshape(rows.shape), np.empty_like(rows)
        w = _weight(weight, rows.shape[1], rows.dtype)
        stretch = min(64, len(rows) // 4 + 1)  # sums of many more would not be right in float32
        parts = np.empty((-(-len(rows) // stretch), 2, rows.shape[1]), rows.dtype)

        def work(start: int, stop: int) -> None:
            some = slice(start * stretch, stop * stretch)
            layer_norm_backward(h[some], rows[some], w, moments[some], centred, stretch, dx[some], parts[start:stop])

        share(work, len(parts), 6 * rows.size)
        dweight, dbias = self.sum(parts, axis=0)
        return dx.reshape(g.shape), dweight.reshape(shape), dbias.reshape(shape)


def _weight(weight: Array | None, n: int, dtype: Any) -> Array:
    return np.ones(n, dtype) if weight is None else dense(weight).reshape(-1)
