"""The NumPy backend: a namespace of array functions and the hand-written kernels.

A kernel is a pair of methods, forward and backward, on raw arrays: forward returns the result and what
backward needs, backward turns the gradient of the result (called `g`) into gradients of the inputs.
Everything is written on `self.xp`, so a backend whose library looks like NumPy inherits it all and overrides
what it has faster.

Rules that every kernel keeps: it never writes to its inputs, keeps their dtype, takes arrays of any strides
and of size zero, and gives no NaN and no warning for entries of -inf or +-1e4. Large elementwise work runs in
pieces of `self.block` elements, so that the chain of small steps stays in the processor's cache.
"""

import ctypes
import math
import operator
import os
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from tinyseq.backends.attention import AttentionKernels, blocks
from tinyseq.backends.paths import PathKernels
from tinyseq.backends.recurrent import RecurrentKernels

Array = Any
Index = tuple[Any, ...]
reduce: Any = np.add.reduce  # whose types know no bool as keepdims

# erf(x) = tanh(x P(x^2)) in float32, a minimax fit of P on |x| <= 4: within 1.4e-7, 3.1 units in the last
# place. Lowest power first.
ERF32 = (1.12837925, 0.102769864, -1.95287967e-4, -6.14838436e-4, 8.45966704e-5, -4.79462386e-6,
         2.75779685e-8, 5.42153201e-9)


def keep_memory() -> None:
    """Tell glibc to keep freed memory for the next array instead of handing it back to the system.

    Fresh memory is a hidden cost of training with NumPy: every large temporary is mapped, faulted in page by
    page and unmapped again, at every step. The process then holds on to its peak memory. Only on Linux with
    glibc; the environment variable TINYSEQ_KEEP_MEMORY=0 switches it off.
    """
    if os.environ.get("TINYSEQ_KEEP_MEMORY", "1") == "0" or sys.platform != "linux":
        return
    try:
        if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            return
        mallopt = ctypes.CDLL(None).mallopt
    except (ValueError, OSError, AttributeError):  # another C library: nothing to tell it
        return
    mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD: arrays below 32 MiB (the most glibc allows) come from the heap
    mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD: the heap shrinks only when 1 GiB at its end is free
    mallopt(-2, 1 << 26)  # M_TOP_PAD: and grows by 64 MiB at a time


class NumpyBackend(AttentionKernels, PathKernels, RecurrentKernels):
    """NumPy arrays, and the portable version of every kernel."""

    name = "numpy"
    array_types: tuple[type, ...] = (np.ndarray, np.generic)  # arrays, and what NumPy makes of 0-d ones
    stretch = 64  # numbers that are summed one after another, at most twice as many, or in four sums as many again
    few = 1 << 16  # numbers of which NumPy's own sum is fast enough
    block = 1 << 15  # elements a piece: a few float32 arrays of 128 KiB stay in the second-level cache

    def __init__(self) -> None:
        keep_memory()
        self.xp = self.namespace(np)

    def namespace(self, library: ModuleType) -> ModuleType:
        """`library` under Array API 2024.12 names: a new module with its functions and those that it
        lacks."""
        xp = ModuleType(f"tinyseq.backends.{self.name}.xp", "Array functions under Array API names.")
        public = {k: v for k, v in vars(library).items() if not k.startswith("__") or k == "__getattr__"}
        lacking = (self.unstack,)  # new in NumPy 2.1
        ours = (self.sum, self.mean, self.cumulative_sum, self.erf, self.sigmoid, self.getitem, self.unindex)
        vars(xp).update({f.__name__: f for f in lacking} | public | {f.__name__: f for f in ours})
        return xp

    # ---- arrays in and out

    def asarray(self, data: Any, dtype: Any = None, copy: bool | None = None) -> Array:
        """`data` (numbers, nested lists, a NumPy array) as an array of this backend."""
        return self.xp.asarray(data, dtype=dtype, copy=copy)

    def asnumpy(self, array: Array) -> np.ndarray[Any, Any]:
        """`array` as a NumPy array in host memory."""
        return np.asarray(array)

    def synchronize(self) -> None:
        """Wait until all work handed to the device is done: here it always is."""

    def random_raw(self, seed: int, stream: int, n: int, skip: int = 0) -> Array:
        """`n` random uint64 (n,), the same on every backend: NumPy's Philox4x64-10, key `seed`, counter
        `stream`, without the first 4 `skip` of them.

        Streams are 2**128 counters apart, so no two draws overlap.
        """
        return np.random.Philox(key=seed, counter=(stream << 128) + skip).random_raw(n)

    # ---- sums whose error does not grow with their length; float16 is summed in float32

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
        if alone or n <= (4 if ones else 2) * self.stretch:
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

    # ---- functions that the library lacks

    def unstack(self, x: Array, /, *, axis: int = 0) -> tuple[Array, ...]:
        return tuple(self.xp.moveaxis(x, axis, 0))

    def erf(self, x: Array) -> Array:
        """The error function, elementwise: float64 by Python's, entry by entry, float32 within 1.4e-7."""
        xp = self.xp
        x = xp.asarray(x)
        x = x.astype(xp.result_type(x, xp.float32), copy=False)
        if x.dtype != xp.float32:
            return xp.asarray(np.fromiter(map(math.erf, x.reshape(-1).tolist()), x.dtype).reshape(x.shape))
        bounded = xp.clip(x, -4.0, 4.0)  # erf(4) rounds to 1
        square = bounded * bounded
        y = square * ERF32[-1]
        for a in ERF32[-2:0:-1]:
            y += a
            y *= square
        y += ERF32[0]
        y *= bounded
        return xp.tanh(y)

    def sigmoid(self, x: Array) -> Array:
        """1 / (1 + exp(-x)), elementwise, with full relative precision in both tails."""
        xp = self.xp
        z = xp.exp(-xp.abs(x))
        return xp.where(x >= 0, 1, z) / (1 + z)

    getitem = staticmethod(operator.getitem)

    def unindex(self, g: Array, index: Any, shape: tuple[int, ...]) -> Array:
        """Zeros of `shape` with g (shaped like x[index]) added in at `index`: the adjoint of x -> x[index].

        The order of addition is fixed, so results repeat bit by bit; float16 is summed in float32 at least.
        """
        xp = self.xp
        parts = [xp.asarray(i) if isinstance(i, list) else i
                 for i in (index if isinstance(index, tuple) else (index,))]
        lists = [i for i in parts if getattr(i, "ndim", 0) and i.dtype != bool]
        if not lists:  # slices, integers, boolean masks: each element is taken once
            y = xp.zeros(shape, dtype=g.dtype)
            y[index] = g
            return y
        if len(parts) == 1:
            rows, wide = lists[0].reshape(-1), xp.float32 if g.dtype == xp.float16 else g.dtype
            y = self._add_rows(g.reshape(rows.shape[0], *shape[1:]), rows, shape, wide)
        else:  # one after another, and many in one place
            wide = g.dtype if g.dtype.kind != "f" or (g.itemsize > 2 and g.size <= math.prod(shape)) else xp.float64
            y = xp.zeros(shape, dtype=wide)
            xp.add.at(y, index, g.astype(wide, copy=False))
        return y.astype(g.dtype, copy=False)

    def embedding(self, table: Array, ids: Array) -> Array:
        """Rows of `table` (V, E) at integer ids (...): (..., E)."""
        return table[ids]

    def embedding_backward(self, g: Array, ids: Array, height: int, padding_idx: int | None = None) -> Array:
        """The gradient (V, E) of a table of `height` rows, zero in row `padding_idx`."""
        y = self.unindex(g, ids, (height, g.shape[-1]))
        if padding_idx is not None:
            y[padding_idx] = 0
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

    # ---- softmax and cross-entropy

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

    def _pieces(self, axis: int | None, *arrays: Array) -> Iterator[list[Array]]:
        """Views of the same few rows of each array, a row running along `axis`, which comes last.

        Arrays with fewer axes than the first are cut along those that they have. For `axis` None rows are cut too.
        """
        moved = [self.xp.moveaxis(a, axis, -1) for a in arrays] if axis not in (None, -1) else arrays
        if moved[0].size:
            for i in blocks(moved[0].shape, self.block, whole=axis is not None):
                yield [a[i] for a in moved]

    def cross_entropy(self, logits: Array, targets: Array, weight: Array | None = None,
                      smoothing: float = 0.0, ignore_index: int = -100) -> tuple[Array, Array, Any]:
        """Cross-entropy of softmax(logits) (N, C) with integer targets (N,): (losses (N,), weights (N,),
        saved).

        loss_n = (1 - s) w[t_n] (-log p_n[t_n]) + s/C sum_c w_c (-log p_n[c]), with class weights `weight`
        (C,) or ones and s = smoothing: torch.nn.functional.cross_entropy, label smoothing after Szegedy et
        al. 2016. `weights` is w[t_n]: a mean over the batch is losses.sum() / weights.sum(). A row whose
        target is `ignore_index` has loss, weight and gradient zero whatever its logits. Other targets must be
        in [0, C).
        """
        xp = self.xp
        classes, dtype = logits.shape[1], logits.dtype
        kept = targets != ignore_index
        targets = xp.where(kept, targets, 0)
        spread = xp.ones(classes, dtype=dtype) if weight is None else weight.astype(dtype, copy=False)
        weights = kept * spread[targets]
        top, sums, losses = (xp.empty(kept.shape, dtype=dtype) for _ in range(3))
        for x, t, keep, w, m, s, loss in self._pieces(-1, logits, targets, kept, weights, top, sums, losses):
            m[...] = self._row_max(x)[:, 0]
            z = x - m[:, None]
            at_target = xp.take_along_axis(z, t[:, None], axis=1)[:, 0]
            total = z @ spread if smoothing else 0
            s[...] = self._row_sum(xp.exp(z, out=z))[:, 0]
            log_s = xp.log(xp.maximum(s, 1))
            loss[...] = (1 - smoothing) * w * (log_s - xp.where(keep, at_target, 0))
            if smoothing:
                loss += (smoothing / classes) * (spread.sum() * log_s - total)
            xp.copyto(loss, 0, where=~keep)
        return losses, weights, (logits, targets, kept, weights, spread, smoothing, top, sums)

    def cross_entropy_backward(self, g: Array, saved: Any) -> Array:
        """dlogits (N, C) for g (N,): p ((1 - s) w[t] + s/C sum(w)) - (1 - s) w[t] onehot(t) - s/C w, times
        g."""
        xp = self.xp
        logits, targets, kept, weights, spread, smoothing, top, sums = saved
        dx = xp.empty(logits.shape, dtype=logits.dtype)
        flat = g * (smoothing / max(logits.shape[1], 1))
        hit = g * weights * (1 - smoothing)
        scale = (hit + flat * spread.sum()) / xp.maximum(sums, 1)
        for d, x, t, keep, m, a, b, c in self._pieces(-1, dx, logits, targets, kept, top, scale, flat, hit):
            xp.subtract(x, m[:, None], out=d)
            xp.exp(d, out=d)
            d *= a[:, None]
            if smoothing:
                d -= b[:, None] * spread
            d[xp.arange(d.shape[0]), t] -= c
            xp.copyto(d, 0, where=~keep[:, None])
        return dx

    # ---- layer norm, GELU, dropout

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

    def gelu(self, x: Array, tanh: bool = False) -> Array:
        """x Phi(x), Phi the normal distribution function; `tanh`: its approximation (Hendrycks and Gimpel
        2016)."""
        xp = self.xp
        y = xp.empty(x.shape, dtype=x.dtype)
        for a, out in self._pieces(None, x, y):
            part = xp.maximum(a, -100)  # -100 Phi(-100) is 0, and so is not -inf times 0
            xp.multiply(part, self._gelu_phi(part, tanh), out=out)
        return y

    def gelu_backward(self, g: Array, x: Array, tanh: bool = False) -> Array:
        """dx = g (Phi(x) + x phi(x)), phi the derivative of Phi."""
        xp = self.xp
        dx = xp.empty(x.shape, dtype=x.dtype)
        for h, a, d in self._pieces(None, g, x, dx):
            part = xp.clip(a, -100, 100)
            phi = self._gelu_phi(part, tanh)
            square = part * part
            if tanh:  # Phi = (1 + tanh u)/2, and (1 - tanh(u)^2)/2 = 2 Phi (1 - Phi)
                square *= 6 * 0.044715 * math.sqrt(2 / math.pi)
                square += 2 * math.sqrt(2 / math.pi)
                square *= phi * (1 - phi)
            else:
                square *= -0.5
                square = xp.exp(square)
                square *= 1 / math.sqrt(2 * math.pi)
            square *= part
            square += phi
            xp.multiply(h, square, out=d)
        return dx

    def _gelu_phi(self, x: Array, tanh: bool) -> Array:
        if tanh:
            u = x * x
            u *= 0.044715 * math.sqrt(2 / math.pi)
            u += math.sqrt(2 / math.pi)
            u *= x
            y = self.xp.tanh(u)
        else:
            y = self.erf(x * math.sqrt(0.5))
        y += 1
        y *= 0.5
        return y

    def dropout_mask(self, shape: tuple[int, ...], p: float, seed: int, stream: int, start: int = 0) -> Array:
        """Boolean array of `shape`, True (keep) with probability 1 - p: where 32 random bits are >= p
        2**32. It is the stretch from entry `start` of a longer one."""
        skip, n = start % 8, math.prod(shape)
        bits = self.random_raw(seed, stream, (skip + n + 1) // 2, start // 8).view(self.xp.uint32)[skip:skip + n]
        return (bits >= round(p * 2**32)).reshape(shape)  # 2**32, where p is 1, is reached by no 32 bits

    # ---- optimizer steps, in place on lists of arrays

    def sgd_step(self, params: Sequence[Array], grads: Sequence[Array], buffers: Sequence[Array], lr: float,
                 momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> None:
        """One step of torch.optim.SGD: d = g + weight_decay p; b = momentum b + d, with b zero at first;
        p -= lr b, or lr (d + momentum b) with `nesterov`. `buffers` may be empty without momentum."""
        if any(p.dtype.char == "e" for p in params):
            return self._in_float32(self.sgd_step, (params, grads, buffers), lr, momentum, nesterov, weight_decay)
        for arrays in zip(params, grads, buffers if momentum else grads, strict=True):
            for p, d, b in self._pieces(None, *arrays):
                if weight_decay:
                    d = d + weight_decay * p
                if momentum:
                    b *= momentum
                    b += d
                    d = d + momentum * b if nesterov else b
                p -= lr * d

    def adam_step(self, params: Sequence[Array], grads: Sequence[Array], m: Sequence[Array],
                  v: Sequence[Array], step: int, lr: float, beta1: float = 0.9, beta2: float = 0.999,
                  eps: float = 1e-8, weight_decay: float = 0.0, decoupled: bool = False) -> None:
        """Step number `step` (from 1) of Adam (Kingma and Ba 2015), or AdamW (Loshchilov and Hutter 2019) if
        `decoupled`; `m` and `v` are the running means of the gradient and its square.

        m += (1 - beta1) (g - m);  v += (1 - beta2) (g^2 - v);  p -= lr m^ / (sqrt(v^) + eps), with
        m^ = m / (1 - beta1^step) and v^ = v / (1 - beta2^step).
        """
        if any(p.dtype.char == "e" for p in params):
            return self._in_float32(self.adam_step, (params, grads, m, v), step, lr, beta1, beta2, eps, weight_decay,
                                    decoupled)
        root = math.sqrt(1 - beta2**step)
        rate = lr * root / (1 - beta1**step)
        for arrays in zip(params, grads, m, v, strict=True):
            for p, d, mean, square in self._pieces(None, *arrays):
                if weight_decay and decoupled:
                    p *= 1 - lr * weight_decay
                elif weight_decay:
                    d = d + weight_decay * p
                mean *= beta1
                mean += d * (1 - beta1)
                square *= beta2
                square += d * d * (1 - beta2)
                t = mean / (self.xp.sqrt(square) + eps * root)
                t *= rate
                p -= t

    def _in_float32(self, step: Any, lists: Sequence[Sequence[Array]], *args: Any) -> None:
        """A step on lists of arrays, the second of which are gradients, with float32 for float16, rounded once."""
        wide = [[self._wide(a) for a in arrays] for arrays in lists]
        step(*wide, *args)
        for i, arrays in enumerate(lists):
            for a, w in zip(arrays, wide[i], strict=True):
                if w is not a and i != 1:
                    a[...] = w

    def _wide(self, x: Array) -> Array:
        """x, as float32 if it is float16."""
        return x.astype(np.float32) if x.dtype.char == "e" else x

    def global_norm(self, grads: Sequence[Array]) -> Array:
        """The Euclidean norm of all gradients (at least one) together, a scalar that stays on the device, of float16
        in float32. Where squares overflow, multiples of the largest entry are squared."""
        flat = [self._wide(g.reshape(-1)) for g in grads]
        squares = sum(map(self._squares, flat))
        if squares == math.inf:
            top = max(abs(g).max() for g in flat if g.size)
            if top < math.inf:
                return top * self.xp.sqrt(sum(self._squares(g / top) for g in flat))
        return self.xp.sqrt(squares)

    def _squares(self, x: Array) -> Array:
        """The sum of the squares of x (N,), in stretches, so that many small ones are not lost."""
        xp, total = self.xp, 0
        if x.size > self.few:
            rows = x[:x.size - x.size % self.long].reshape(-1, self.long)
            total, x = xp.sum(xp.vecdot(rows, rows)), x[rows.size:]
        return total + xp.vdot(x, x)

    def scale(self, arrays: Sequence[Array], factor: Array) -> None:
        """Multiply each array by `factor` (a scalar on the device), in place; float16 by it in float32."""
        for a in arrays if factor != 1 else ():
            if a.dtype == np.float16:  # the factor may be too small for it
                a[...] = self._wide(a) * factor
            else:
                a *= self.xp.asarray(factor, dtype=a.dtype)
