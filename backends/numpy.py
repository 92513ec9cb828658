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
import os
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

Array = Any
Index = tuple[Any, ...]

# erf(x) = tanh(x P(x^2)) in float32, a minimax fit of P on |x| <= 4: within 1.4e-7, 3.1 units in the last
# place.
ERF32 = (1.12837925, 0.102769864, -1.95287967e-4, -6.14838436e-4, 8.45966704e-5, -4.79462386e-6,
         2.75779685e-8, 5.42153201e-9)
# W. J. Cody, "Rational Chebyshev approximation for the error function", Math. Comp. 23 (1969): below 0.46875
# erf is x A(x^2)/B(x^2), above erfc is exp(-x^2) C(x)/D(x). Lowest power first.
ERF_A = (3209.37758913846947, 377.485237685302021, 113.864154151050156, 3.16112374387056560,
         0.185777706184603153)
ERF_B = (2844.23683343917062, 1282.61652607737228, 244.024637934444173, 23.6012909523441209, 1.0)
ERF_C = (1230.33935479799725, 2051.07837782607147, 1712.04761263407058, 881.952221241769090,
         298.635138197400131, 66.1191906371416295, 8.88314979438837594, 0.564188496988670089,
         2.15311535474403846e-8)
ERF_D = (1230.33935480374942, 3439.36767414372164, 4362.61909014324716, 3290.79923573345963,
         1621.38957456669019, 537.181101862009858, 117.693950891312499, 15.7449261107098347, 1.0)


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


def blocks(shape: tuple[int, ...], size: int, whole: int = 0) -> Iterator[Index]:
    """Index tuples that cut an array of `shape` into views of about `size` elements or fewer.

    The last `whole` axes are never cut. Cutting by index works on any strides, and on a mask broadcast to
    `shape`.
    """
    inner = math.prod(shape[1:])
    if len(shape) <= whole or inner * shape[0] <= size:
        yield (...,)
    elif inner <= size or len(shape) - 1 <= whole:
        step = max(1, size // max(inner, 1))
        for i in range(0, shape[0], step):
            yield (slice(i, i + step), ...)
    else:
        for i in range(shape[0]):
            for rest in blocks(shape[1:], size, whole):
                yield (i, *rest)


def horner(x: Array, coefficients: Sequence[float]) -> Array:
    """The polynomial in x with `coefficients`, lowest power first: a new array shaped like x."""
    y = x * coefficients[-1]
    for a in coefficients[-2:0:-1]:
        y += a
        y *= x
    y += coefficients[0]
    return y


class Cell(NamedTuple):
    """What the recurrent scan must know of a cell. `order` names PyTorch's blocks of weight rows as the scan
    stacks them: first the gates with a sigmoid. Per step and hidden unit it keeps `states` numbers (h, and c
    of an LSTM), `kept` activations for backward and `slopes` gradients of pre-activations."""

    order: tuple[int, ...]
    sigmoids: int
    states: int
    kept: int
    slopes: int


CELLS = {
    "rnn_tanh": Cell((0,), 0, 1, 0, 1),
    "rnn_relu": Cell((0,), 0, 1, 0, 1),
    "gru": Cell((0, 1, 2), 2, 1, 4, 4),
    "gru_before": Cell((0, 1, 2), 2, 1, 3, 3),
    "lstm": Cell((0, 1, 3, 2), 3, 2, 5, 4),
}


class Packing(NamedTuple):
    """How a padded batch becomes rows without padding: step by step, and in each step the longest sequence
    first.

    Sequences that end leave at the right, so step t works on the first n columns of every (features, batch)
    array. `runs` groups steps with equal n: (number of steps, n). `rows` and `times` (both (N,)) say where in
    (B, T) the packed rows stand, and `order` (B,) sorts the batch; all three are None where every sequence
    has full length.
    """

    batch: int
    steps: int
    reverse: bool
    runs: list[tuple[int, int]]
    rows: Array
    times: Array
    order: Array


class Scan(NamedTuple):
    """What a recurrent scan saves for its backward pass; `runs` holds (states, kept activations) of each
    run."""

    packing: Packing
    x: Array
    runs: list[tuple[Array, Array]]
    w_ih: Array
    w_hh: Array


class NumpyBackend:
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
        lacking = (self.unstack, self.cumulative_sum)  # new in NumPy 2.1
        ours = (self.erf, self.sigmoid, self.logsumexp, self.unindex)
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

    def random_raw(self, seed: int, stream: int, n: int) -> Array:
        """`n` random uint64 (n,), the same on every backend: NumPy's Philox4x64-10, key `seed`, counter
        `stream`.

        Streams are 2**128 counters apart, so no two draws overlap.
        """
        return np.random.Philox(key=seed, counter=stream << 128).random_raw(n)

    # ---- functions that the library lacks

    def unstack(self, x: Array, /, *, axis: int = 0) -> tuple[Array, ...]:
        return tuple(self.xp.moveaxis(x, axis, 0))

    def cumulative_sum(self, x: Array, /, *, axis: int) -> Array:
        return self.xp.cumsum(x, axis=axis)

    def erf(self, x: Array) -> Array:
        """The error function, elementwise: float64 within 2e-16 (Cody 1969), float32 within 1.4e-7."""
        xp = self.xp
        x = xp.asarray(x)
        x = x.astype(xp.result_type(x, xp.float32), copy=False)
        if x.dtype == xp.float32:
            return self._erf32(x)
        a = xp.minimum(xp.abs(x), 6.0)  # erf(6) rounds to 1
        s = xp.minimum(a, 0.5) ** 2
        near = x * (horner(s, ERF_A) / horner(s, ERF_B))
        far = 1 - xp.exp(-a * a) * (horner(a, ERF_C) / horner(a, ERF_D))
        return xp.where(a <= 0.46875, near, xp.copysign(far, x))

    def _erf32(self, x: Array) -> Array:
        bounded = self.xp.clip(x, -4.0, 4.0)  # erf(4) rounds to 1
        y = horner(bounded * bounded, ERF32)
        y *= bounded
        return self.xp.tanh(y)

    def sigmoid(self, x: Array) -> Array:
        """1 / (1 + exp(-x)), elementwise, with full relative precision in both tails."""
        xp = self.xp
        z = xp.exp(-xp.abs(x))
        return xp.where(x >= 0, 1, z) / (1 + z)

    def logsumexp(self, x: Array, /, *, axis: int | tuple[int, ...] | None = None,
                  keepdims: bool = False) -> Array:
        """log(sum(exp(x))) over `axis`; -inf where all entries are -inf or there are none."""
        xp = self.xp
        if x.size == 0:
            return xp.sum(x, axis=axis, keepdims=keepdims) - math.inf
        top = xp.max(x, axis=axis, keepdims=True)
        shift = xp.where(xp.isfinite(top), top, 0)
        s = xp.sum(xp.exp(x - shift), axis=axis, keepdims=True)
        y = xp.where(s > 0, xp.log(xp.where(s > 0, s, 1)) + shift, top)
        return y if keepdims else xp.squeeze(y, axis=axis)

    def unindex(self, g: Array, index: Any, shape: tuple[int, ...]) -> Array:
        """Zeros of `shape` with g (shaped like x[index]) added in at `index`: the adjoint of x -> x[index].

        The order of addition is fixed, so results repeat bit by bit; float16 is summed in float32.
        """
        xp = self.xp
        parts = [xp.asarray(i) if isinstance(i, list) else i
                 for i in (index if isinstance(index, tuple) else (index,))]
        lists = [i for i in parts if getattr(i, "ndim", 0) and i.dtype != bool]
        if not lists:  # slices, integers, boolean masks: each element is taken once
            y = xp.zeros(shape, dtype=g.dtype)
            y[index] = g
            return y
        wide = xp.float32 if g.dtype == xp.float16 else g.dtype
        if len(parts) == 1:
            rows = lists[0].reshape(-1)
            y = self._add_rows(g.reshape(rows.shape[0], *shape[1:]), rows, shape, wide)
        else:
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
            rows = np.where(rows < 0, rows + shape[0], rows)
            order = np.argsort(rows, kind="stable")
            rows = rows[order]
            starts = np.flatnonzero(np.concatenate(([True], rows[1:] != rows[:-1])))
            y[rows[starts]] = np.add.reduceat(g[order], starts, axis=0, dtype=dtype)
        return y

    # ---- softmax and cross-entropy

    def softmax(self, x: Array, axis: int = -1, mask: Array | None = None) -> Array:
        """exp(x) / sum(exp(x)) over `axis`, same shape; zeros where `mask` (boolean, broadcastable to x) is
        False.

        A row that is fully masked, or -inf throughout, gives zeros.
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
            xp.exp(e, out=e)
            # A row with an entry that takes part sums to at least 1, exp(max - max).
            e /= xp.maximum(self._row_sum(e), 1)
        return y

    def softmax_backward(self, g: Array, y: Array, axis: int = -1) -> Array:
        """dx = y (g - sum(g y)) over `axis`, y the softmax."""
        xp = self.xp
        dx = xp.empty(y.shape, dtype=y.dtype)
        for h, p, d in self._pieces(axis, g, y, dx):
            xp.multiply(h, p, out=d)
            xp.subtract(h, self._row_sum(d), out=d)
            d *= p
        return dx

    def log_softmax(self, x: Array, axis: int = -1) -> Array:
        """x - log(sum(exp(x))) over `axis`, same shape; a row that is -inf throughout stays so."""
        xp = self.xp
        y = xp.empty(x.shape, dtype=x.dtype)
        for a, z in self._pieces(axis, x, y):
            xp.subtract(a, self._row_max(a), out=z)
            z -= xp.log(xp.maximum(self._row_sum(xp.exp(z)), 1))
        return y

    def log_softmax_backward(self, g: Array, y: Array, axis: int = -1) -> Array:
        """dx = g - exp(y) sum(g) over `axis`, y the log-softmax."""
        xp = self.xp
        dx = xp.empty(y.shape, dtype=y.dtype)
        for h, z, d in self._pieces(axis, g, y, dx):
            xp.exp(z, out=d)
            d *= self._row_sum(h)
            xp.subtract(h, d, out=d)
        return dx

    def _pieces(self, axis: int, *arrays: Array) -> Iterator[list[Array]]:
        """Views of the same few rows of each array, a row running along `axis`, which comes last.

        Arrays with fewer axes than the first are cut along those that they have.
        """
        moved = [self.xp.moveaxis(a, axis, -1) if axis != -1 else a for a in arrays]
        if moved[0].size:
            for i in blocks(moved[0].shape, self.block, whole=1):
                yield [a[i] for a in moved]

    def _row_max(self, x: Array) -> Array:
        """The largest entry of each row, (..., 1); a finite number for rows of -inf, so that x - max stays
        -inf."""
        return self.xp.maximum(self.xp.max(x, axis=-1, keepdims=True), self.xp.finfo(x.dtype).min)

    def _row_sum(self, x: Array) -> Array:
        """The sum of each row, (..., 1): a product with ones is much faster than a reduction of short
        rows."""
        return self.xp.matmul(x, self.xp.ones((x.shape[-1], 1), dtype=x.dtype))

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
            xp.subtract(a, self._row_sum(a) / size, out=z)
            xp.multiply(z, z, out=b)
            c[...] = 1 / xp.sqrt(self._row_sum(b) / size + eps)
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
        dweight, dbias = xp.zeros(size, dtype=normal.dtype), xp.zeros(size, dtype=normal.dtype)
        for h, d, n, c in self._pieces(-1, rows, dx, normal, scale):
            t = h * n
            ones = xp.ones(h.shape[0], dtype=h.dtype)
            dweight += ones @ t
            dbias += ones @ h
            xp.multiply(h, 1 if weight is None else weight.reshape(-1), out=d)
            xp.multiply(d, n, out=t)
            xp.multiply(n, self._row_sum(t) / size, out=t)
            t += self._row_sum(d) / size
            d -= t
            d *= c
        return dx.reshape(g.shape), dweight.reshape(shape), dbias.reshape(shape)

    def gelu(self, x: Array, tanh: bool = False) -> Array:
        """x Phi(x), Phi the normal distribution function; `tanh`: its approximation (Hendrycks and Gimpel
        2016)."""
        xp = self.xp
        y = xp.empty(x.shape, dtype=x.dtype)
        for i in blocks(x.shape, self.block):
            part = xp.maximum(x[i], -100)  # -100 Phi(-100) is 0, and so is not -inf times 0
            xp.multiply(part, self._gelu_phi(part, tanh), out=y[i])
        return y

    def gelu_backward(self, g: Array, x: Array, tanh: bool = False) -> Array:
        """dx = g (Phi(x) + x phi(x)), phi the derivative of Phi."""
        xp = self.xp
        dx = xp.empty(x.shape, dtype=x.dtype)
        for i in blocks(x.shape, self.block):
            part = xp.clip(x[i], -100, 100)
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
            xp.multiply(g[i], square, out=dx[i])
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

    def dropout_mask(self, shape: tuple[int, ...], p: float, seed: int, stream: int) -> Array:
        """Boolean array of `shape`, True (keep) with probability 1 - p: where 32 random bits are >= p
        2**32."""
        if p >= 1:
            return self.xp.zeros(shape, dtype=bool)
        n = math.prod(shape)
        bits = self.random_raw(seed, stream, (n + 1) // 2).view(self.xp.uint32)[:n]
        return (bits >= min(round(p * 2**32), 2**32 - 1)).reshape(shape)

    # ---- optimizer steps, in place on lists of arrays

    def sgd_step(self, params: Sequence[Array], grads: Sequence[Array], buffers: Sequence[Array], lr: float,
                 momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> None:
        """One step of torch.optim.SGD: d = g + weight_decay p; b = momentum b + d, with b zero at first;
        p -= lr b, or lr (d + momentum b) with `nesterov`. `buffers` may be empty without momentum."""
        for k, (p_all, g_all) in enumerate(zip(params, grads, strict=True)):
            for i in blocks(p_all.shape, self.block):
                p, d = p_all[i], g_all[i]
                if weight_decay:
                    d = d + weight_decay * p
                if momentum:
                    b = buffers[k][i]
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
        xp = self.xp
        root = math.sqrt(1 - beta2**step)
        rate = lr * root / (1 - beta1**step)
        for p_all, g_all, m_all, v_all in zip(params, grads, m, v, strict=True):
            for i in blocks(p_all.shape, self.block):
                p, d, mean, square = p_all[i], g_all[i], m_all[i], v_all[i]
                if weight_decay and decoupled:
                    p *= 1 - lr * weight_decay
                elif weight_decay:
                    d = d + weight_decay * p
                t = xp.empty_like(p)
                xp.multiply(d, 1 - beta1, out=t)
                mean *= beta1
                mean += t
                xp.multiply(d, d, out=t)
                t *= 1 - beta2
                square *= beta2
                square += t
                xp.sqrt(square, out=t)
                t += eps * root
                xp.divide(mean, t, out=t)
                t *= rate
                p -= t

    def global_norm(self, grads: Sequence[Array]) -> Array:
        """The Euclidean norm of all gradients (at least one) together, a scalar that stays on the device."""
        xp = self.xp
        flat = [g.reshape(-1) for g in grads]
        return xp.sqrt(sum((xp.vdot(g, g) for g in flat[1:]), xp.vdot(flat[0], flat[0])))

    def scale(self, arrays: Sequence[Array], factor: Array) -> None:
        """Multiply each array by `factor` (a scalar on the device), in place."""
        for a in arrays:
            a *= self.xp.asarray(factor, dtype=a.dtype)

    # ---- recurrent scans

    def rnn_forward(self, cell: str, x: Array, h0: Array, c0: Array | None, w_ih: Array, w_hh: Array,
                    b_ih: Array | None, b_hh: Array | None, lengths: np.ndarray[Any, Any] | None = None,
                    reverse: bool = False) -> tuple[Array, Array, Array | None, Scan]:
        """One recurrent layer in one direction: (y (B, T, H), h_n (B, H), c_n (B, H) or None, saved).

        cell: a key of CELLS. x (B, T, I); h0 and, for an LSTM, c0 (B, H); weights w_ih (G H, I), w_hh (G H,
        H) and biases (G H,) or None, G gates stacked as in PyTorch (GRU: r, z, n; LSTM: i, f, g, o). With s
        the sigmoid and a_k = W_k x + b_k + U_k h + d_k:

            rnn_tanh, rnn_relu   h' = tanh(a), max(a, 0)
            lstm                 c' = s(a_f) c + s(a_i) tanh(a_g),  h' = s(a_o) tanh(c')
            gru                  r = s(a_r), z = s(a_z), n = tanh(W_n x + b_n + r (U_n h + d_n)),  h' = n + z
            (h - n) gru_before           the same with n = tanh(W_n x + b_n + U_n (r h) + d_n)

        lengths (B,), integers from 0 to T in host memory: y is zero past the end and h_n is the state at the
        last real step. `reverse` runs from each sequence's last real step to its first.

        Inside, the state is (H, n): the recurrent product U h is fastest so. One tanh serves all gates, since
        s(a) = tanh(a/2)/2 + 1/2 and the inner half is multiplied into the weights.
        """
        xp, spec = self.xp, CELLS[cell]
        packing = self._pack_plan(x.shape[0], x.shape[1], w_hh.shape[1], lengths, reverse)
        packed, hidden = self._pack(x, packing), w_hh.shape[1]
        w_in, w_rec = self._arrange(w_ih, spec), self._arrange(w_hh, spec)
        bias, d_n = self._biases(b_ih, b_hh, cell, hidden)
        split = 2 * hidden if cell == "gru_before" else w_rec.shape[0]
        advance = getattr(self, f"_{cell}_forward")
        state = self._to_columns([h0] if c0 is None else [h0, c0], packing)
        final = xp.empty(state.shape, dtype=x.dtype)
        y = xp.empty((packed.shape[0], hidden), dtype=x.dtype)
        runs, start = [], 0
        for k, n in packing.runs:
            stop = start + k * n
            final[..., n:state.shape[-1]] = state[..., n:]  # sequences that ended
            z = w_in @ packed[start:stop].T
            if bias is not None:
                z += bias
            z = z.reshape(-1, k, n)
            states = xp.empty((k + 1, spec.states, hidden, n), dtype=x.dtype)
            states[0] = state[..., :n]
            kept = xp.empty((k, spec.kept, hidden, n), dtype=x.dtype)
            u = xp.empty((w_rec.shape[0], n), dtype=x.dtype)
            for t in range(k):
                xp.matmul(w_rec[:split], states[t, 0], out=u[:split])
                if cell == "gru_before":
                    reset_h = self._gru_before_reset(u, z[:, t], states[t], kept[t])
                    xp.matmul(w_rec[split:], reset_h, out=u[split:])
                advance(u, z[:, t], states[t], states[t + 1], kept[t], d_n)
            y[start:stop].reshape(k, n, hidden)[...] = states[1:, 0].swapaxes(1, 2)
            runs.append((states, kept))
            state, start = states[-1], stop
        final[..., :state.shape[-1]] = state
        ends = self._from_columns(final, packing)
        saved = Scan(packing, packed, runs, w_ih, w_hh)
        return self._unpack(y, packing), ends[0], ends[1] if spec.states == 2 else None, saved

    def rnn_backward(self, cell: str, saved: Scan, gy: Array | None, gh: Array | None, gc: Array | None,
                     needs: Sequence[bool]) -> tuple[Array | None, ...]:
        """(dx, dh0, dc0, dw_ih, dw_hh, db_ih, db_hh) for gradients of y, h_n and c_n (None: zero).

        needs: which of the seven are wanted; the others are None. The slopes of all activations are computed
        for a run of steps at once, so that a step is a product per gate; the slopes of the weights are one
        product after the scan.
        """
        xp, spec = self.xp, CELLS[cell]
        packing, packed, runs, w_ih, w_hh = saved
        hidden, total, dtype = w_hh.shape[1], packed.shape[0], packed.dtype
        before = cell == "gru_before"
        ends = [xp.zeros((packing.batch, hidden), dtype=dtype) if g is None else g for g in (gh, gc)]
        ending = self._to_columns(ends[:1] if spec.kept == 0 else ends, packing)  # (1 or 2, H, B)
        gradient = ending[..., :0]
        factors, retreat = getattr(self, f"_{cell}_factors"), getattr(self, f"_{cell}_backward")
        first = hidden if cell == "gru" else 0  # rows of slopes before those of the recurrent weights
        w_back = xp.ascontiguousarray(w_hh[:2 * hidden].T if before else w_hh.T)
        w_back_n = xp.ascontiguousarray(w_hh[2 * hidden:].T)
        g_rows = xp.zeros((total, hidden), dtype=dtype) if gy is None else self._pack(gy, packing)
        slopes = xp.empty((spec.slopes * hidden, total), dtype=dtype)
        old_h = xp.empty((hidden, total), dtype=dtype)
        reset_h = xp.empty((hidden, total if before else 0), dtype=dtype)
        stop = total
        for (k, n), (states, kept) in zip(reversed(packing.runs), reversed(runs), strict=True):
            start = stop - k * n
            gradient = xp.concatenate((gradient, ending[..., gradient.shape[-1]:n]), axis=-1)
            g_steps = xp.ascontiguousarray(g_rows[start:stop].reshape(k, n, hidden).swapaxes(1, 2))
            f = factors(states, kept)
            dz = xp.empty((k, spec.slopes, hidden, n), dtype=dtype)
            for t in range(k - 1, -1, -1):
                retreat(gradient, g_steps[t], f[t], kept[t], dz[t])
                if before:
                    self._gru_before_unreset(gradient, w_back_n @ dz[t, 2], f[t], kept[t], dz[t])
                d = dz[t].reshape(-1, n)[first:first + w_back.shape[1]]
                xp.matmul(w_back, d, out=gradient[0])
            self._steps_of(slopes, start, stop, k)[...] = dz.reshape(k, -1, n).swapaxes(0, 1)
            self._steps_of(old_h, start, stop, k)[...] = states[:-1, 0].swapaxes(0, 1)
            if before:
                self._steps_of(reset_h, start, stop, k)[...] = (states[:-1, 0] * kept[:, 0]).swapaxes(0, 1)
            stop = start
        gradient = xp.concatenate((gradient, ending[..., gradient.shape[-1]:]), axis=-1)
        if cell.startswith("gru"):
            gradient = gradient[:1] + gradient[1:]  # what came through the weights, and what was carried by z
        starts = self._from_columns(gradient, packing)
        d_in, d_rec = slopes[:w_ih.shape[0]], slopes[first:]
        if first:  # slopes are stacked n, r, z, r n: the first three belong to W, the last three to U
            w_ih = xp.roll(w_ih, hidden, axis=0)
        ones = xp.ones(total, dtype=dtype)
        dx = self._unpack(d_in.T @ w_ih, packing) if needs[0] else None
        dw_ih = xp.roll(d_in @ packed, -first, axis=0) if needs[3] else None
        db_ih = xp.roll(d_in @ ones, -first, axis=0) if needs[5] else None
        dw_hh = None
        if needs[4] and before:
            dw_hh = xp.concatenate((d_rec[:2 * hidden] @ old_h.T, d_rec[2 * hidden:] @ reset_h.T))
        elif needs[4]:
            dw_hh = d_rec @ old_h.T
        dc0 = starts[1] if needs[2] and cell == "lstm" else None
        dh0 = starts[0] if needs[1] else None
        return dx, dh0, dc0, dw_ih, dw_hh, db_ih, d_rec @ ones if needs[6] else None

    # Steps of the cells. Forward: u (G H, n) recurrent products, free to be overwritten; x (G H, n) the
    # input's share with biases; old and new (states, H, n); kept (kept, H, n). Both u and x come with the
    # half of the sigmoid inside. Factors: for k steps at once, the slopes that a step multiplies into a
    # gradient, (k, F, H, n). Backward: gradient[0] (H, n) holds dL/dh' from the steps that follow, g (H, n)
    # that of y; dz (slopes, H, n) receives the slopes of the pre-activations. gradient[1] is dL/dc of an
    # LSTM, and of a GRU what z carries back.

    def _rnn_tanh_forward(self, u: Array, x: Array, old: Array, new: Array, kept: Array, d: Array) -> None:
        self.xp.add(u, x, out=u)
        self.xp.tanh(u, out=new[0])

    def _rnn_relu_forward(self, u: Array, x: Array, old: Array, new: Array, kept: Array, d: Array) -> None:
        self.xp.add(u, x, out=u)
        self.xp.maximum(u, 0, out=new[0])

    def _rnn_tanh_factors(self, states: Array, kept: Array) -> Array:
        return 1 - self.xp.square(states[1:])

    def _rnn_relu_factors(self, states: Array, kept: Array) -> Array:
        return (states[1:] > 0).astype(states.dtype)

    def _rnn_backward(self, gradient: Array, g: Array, f: Array, kept: Array, dz: Array) -> None:
        dh = gradient[0]
        dh += g
        self.xp.multiply(dh, f[0], out=dz[0])

    _rnn_tanh_backward = _rnn_relu_backward = _rnn_backward

    def _lstm_forward(self, u: Array, x: Array, old: Array, new: Array, kept: Array, d: Array) -> None:
        xp = self.xp
        gates, sigmoids = kept[:4].reshape(u.shape), kept[:3]
        xp.add(u, x, out=u)
        xp.tanh(u, out=gates)
        sigmoids *= 0.5
        sigmoids += 0.5
        i, f, o, g, tanh_c = kept
        h, c = new
        xp.multiply(f, old[1], out=c)
        xp.multiply(i, g, out=tanh_c)
        c += tanh_c
        xp.tanh(c, out=tanh_c)
        xp.multiply(o, tanh_c, out=h)

    def _lstm_factors(self, states: Array, kept: Array) -> Array:
        """From dL/dc' to a_i, a_f, a_g; from dL/dh' to a_o and to c'."""
        xp = self.xp
        i, _, o, g, tanh_c = (kept[:, j] for j in range(5))
        y = xp.empty(kept.shape, dtype=kept.dtype)
        slope = kept[:, :3] * (1 - kept[:, :3])
        xp.multiply(g, slope[:, 0], out=y[:, 0])
        xp.multiply(states[:-1, 1], slope[:, 1], out=y[:, 1])
        xp.multiply(i, 1 - g * g, out=y[:, 2])
        xp.multiply(tanh_c, slope[:, 2], out=y[:, 3])
        xp.multiply(o, 1 - tanh_c * tanh_c, out=y[:, 4])
        return y

    def _lstm_backward(self, gradient: Array, g: Array, f: Array, kept: Array, dz: Array) -> None:
        xp = self.xp
        dh, dc = gradient
        dh += g
        xp.multiply(dh, f[3], out=dz[3])
        dh *= f[4]
        dc += dh
        xp.multiply(dc, f[:3], out=dz[:3])
        dc *= kept[1]

    def _gru_gates(self, u: Array, x: Array, kept: Array) -> None:
        """r and z from their pre-activations, into kept[:2]."""
        xp = self.xp
        gates = kept[:2].reshape(-1, u.shape[1])
        xp.add(u[:gates.shape[0]], x[:gates.shape[0]], out=gates)
        xp.tanh(gates, out=gates)
        gates *= 0.5
        gates += 0.5

    def _gru_mix(self, h: Array, z: Array, n: Array, out: Array) -> None:
        self.xp.subtract(h, n, out=out)
        out *= z
        out += n

    def _gru_forward(self, u: Array, x: Array, old: Array, new: Array, kept: Array, d: Array) -> None:
        xp = self.xp
        self._gru_gates(u, x, kept)
        r, z, n, q = kept
        hidden = q.shape[0]
        xp.add(u[2 * hidden:], d, out=q)
        xp.multiply(r, q, out=n)
        n += x[2 * hidden:]
        xp.tanh(n, out=n)
        self._gru_mix(old[0], z, n, new[0])

    def _gru_factors(self, states: Array, kept: Array) -> Array:
        """From dL/dh' to a_n, a_r, a_z and U_n h + d_n."""
        xp = self.xp
        r, z, n, q = (kept[:, j] for j in range(4))
        y = xp.empty(kept.shape, dtype=kept.dtype)
        xp.multiply(1 - z, 1 - n * n, out=y[:, 0])
        xp.multiply(y[:, 0], r, out=y[:, 3])
        xp.multiply(y[:, 3], q * (1 - r), out=y[:, 1])
        xp.multiply(states[:-1, 0] - n, z * (1 - z), out=y[:, 2])
        return y

    def _gru_backward(self, gradient: Array, g: Array, f: Array, kept: Array, dz: Array) -> None:
        dh, carried = gradient
        dh += g
        dh += carried
        self.xp.multiply(dh, f, out=dz)
        self.xp.multiply(dh, kept[1], out=carried)

    def _gru_before_reset(self, u: Array, x: Array, old: Array, kept: Array) -> Array:
        """The gates, then r h, which the weights of n multiply."""
        self._gru_gates(u, x, kept)
        return kept[0] * old[0]

    def _gru_before_forward(self, u: Array, x: Array, old: Array, new: Array, kept: Array, d: Array) -> None:
        xp = self.xp
        _, z, n = kept
        hidden = n.shape[0]
        xp.add(u[2 * hidden:], x[2 * hidden:], out=n)
        xp.tanh(n, out=n)
        self._gru_mix(old[0], z, n, new[0])

    def _gru_before_factors(self, states: Array, kept: Array) -> Array:
        """From dL/d(r h) to a_r; from dL/dh' to a_z and a_n."""
        xp = self.xp
        r, z, n = (kept[:, j] for j in range(3))
        y = xp.empty(kept.shape, dtype=kept.dtype)
        xp.multiply(states[:-1, 0], r * (1 - r), out=y[:, 0])
        xp.multiply(states[:-1, 0] - n, z * (1 - z), out=y[:, 1])
        xp.multiply(1 - z, 1 - n * n, out=y[:, 2])
        return y

    _gru_before_backward = _gru_backward  # its slope of a_r is overwritten once d_rh is known

    def _gru_before_unreset(self, gradient: Array, d_rh: Array, f: Array, kept: Array, dz: Array) -> None:
        """Take d_rh = dL/d(r h) on to a_r and to h."""
        self.xp.multiply(d_rh, f[0], out=dz[0])
        d_rh *= kept[0]
        gradient[1] += d_rh

    # Layouts of the scan.

    def _arrange(self, w: Array, spec: Cell) -> Array:
        """Weight rows (G H, ...) in the scan's order, those of sigmoid gates halved: a contiguous copy."""
        parts = w.reshape(len(spec.order), w.shape[0] // len(spec.order), *w.shape[1:])
        scaled = [parts[k] * 0.5 if j < spec.sigmoids else parts[k] for j, k in enumerate(spec.order)]
        return self.xp.concatenate(scaled)

    def _biases(self, b_ih: Array | None, b_hh: Array | None, cell: str,
                hidden: int) -> tuple[Array | None, Any]:
        """What is added to the input's share (G H, 1), and d_n (H, 1), which a GRU adds before it resets."""
        d_n: Any = 0
        total = b_ih
        if b_hh is not None:
            if cell == "gru":
                d_n = b_hh[2 * hidden:, None]
                b_hh = self.xp.concatenate((b_hh[:2 * hidden], self.xp.zeros_like(b_hh[2 * hidden:])))
            total = b_hh if b_ih is None else b_ih + b_hh
        return None if total is None else self._arrange(total, CELLS[cell])[:, None], d_n

    def _pack_plan(self, batch: int, steps: int, hidden: int, lengths: np.ndarray[Any, Any] | None,
                   reverse: bool) -> Packing:
        """Where each step's rows stand, and runs of steps on equally many sequences, `self.block` states at
        most."""
        rows = times = order = None
        if lengths is None:
            counts = np.full(steps, batch)
        else:
            sort = np.argsort(-lengths, kind="stable")
            ends = lengths[sort]
            active = np.arange(steps)[:, None] < ends  # (T, B)
            counts = active.sum(axis=1)
            t, column = np.nonzero(active)
            rows, times = self.asarray(sort[column]), self.asarray(ends[column] - 1 - t if reverse else t)
            order = self.asarray(sort)
        runs: list[tuple[int, int]] = []
        for n in counts[counts > 0].tolist():
            if runs and runs[-1][1] == n and (runs[-1][0] + 1) * n * hidden <= self.block:
                runs[-1] = (runs[-1][0] + 1, n)
            else:
                runs.append((1, n))
        return Packing(batch, steps, reverse, runs, rows, times, order)

    def _pack(self, x: Array, packing: Packing) -> Array:
        """(B, T, F) to packed rows (N, F)."""
        if packing.rows is not None:
            return x[packing.rows, packing.times]
        x = x[:, ::-1] if packing.reverse else x
        return self.xp.ascontiguousarray(x.swapaxes(0, 1)).reshape(packing.batch * packing.steps, x.shape[2])

    def _unpack(self, packed: Array, packing: Packing) -> Array:
        """Packed rows (N, F) to (B, T, F), zero past the end."""
        shape = packing.batch, packing.steps, packed.shape[1]
        if packing.rows is not None:
            y = self.xp.zeros(shape, dtype=packed.dtype)
            y[packing.rows, packing.times] = packed
            return y
        y = packed.reshape(shape[1], shape[0], shape[2]).swapaxes(0, 1)
        return self.xp.ascontiguousarray(y[:, ::-1] if packing.reverse else y)

    def _to_columns(self, arrays: Sequence[Array], packing: Packing) -> Array:
        """States (B, H) to (number of states, H, B), the longest sequence first."""
        return self.xp.stack([(a if packing.order is None else a[packing.order]).T for a in arrays])

    def _from_columns(self, columns: Array, packing: Packing) -> Array:
        """(number of states, H, B) to (number of states, B, H) in the batch's own order."""
        y = self.xp.empty((columns.shape[0], columns.shape[2], columns.shape[1]), dtype=columns.dtype)
        y[:, slice(None) if packing.order is None else packing.order] = columns.swapaxes(1, 2)
        return y

    def _steps_of(self, array: Array, start: int, stop: int, k: int) -> Array:
        """Columns start to stop of (F, N), as a view (F, k, n) of k steps."""
        return array[:, start:stop].reshape(array.shape[0], k, (stop - start) // k)
