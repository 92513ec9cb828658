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
from tinyseq.backends.steps import StepKernels
from tinyseq.backends.sums import SumKernels

Array = Any
Index = tuple[Any, ...]
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


class NumpyBackend(SumKernels, AttentionKernels, PathKernels, RecurrentKernels, StepKernels):
    """NumPy arrays, and the portable version of every kernel."""

    name = "numpy"
    array_types: tuple[type, ...] = (np.ndarray, np.generic)  # arrays, and what NumPy makes of 0-d ones
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

    def embedding(self, table: Array, ids: Array) -> Array:
        """Rows of `table` (V, E) at integer ids (...): (..., E)."""
        return table[ids]

    def embedding_backward(self, g: Array, ids: Array, height: int, padding_idx: int | None = None) -> Array:
        """The gradient (V, E) of a table of `height` rows, zero in row `padding_idx`."""
        y = self.unindex(g, ids, (height, g.shape[-1]))
        if padding_idx is not None:
            y[padding_idx] = 0
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
