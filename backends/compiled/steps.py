"""Kernels of few vectors, compiled: products that read each weight once, at the speed of memory; norms, attention."""

import math
from typing import Any

import numpy as np
from tinyseq.backends.compiled import compiled, contiguous
from tinyseq.backends.compiled.numbers import exp
from tinyseq.backends.pool import share
from tinyseq.backends.steps import StepKernels

Array = Any
FEW = 8  # vectors, beyond which a product of matrices is faster
NONE = {kind: np.empty(0, kind) for kind in "fd"}  # where there is no weight or bias
NO_MASK = np.empty((0, 0), bool)


@compiled
def products(x: Array, weight: Array, bias: Array, y: Array, start: int, stop: int) -> None:
    """y[:, start:stop] of y (B, O) = x (B, I) times weight (O, I), turned, plus bias (O,), if there is one.

    Two rows at a time, far from each other: memory is read ahead in both, nearly twice as fast as in one."""
    far = (stop - start + 1) // 2
    for o in range(start, start + far):
        other = min(o + far, stop - 1)
        w, v = weight[o], weight[other]
        for b in range(x.shape[0]):
            row = x[b]
            sum_w = sum_v = x.dtype.type(0)
            for i in range(row.size):
                sum_w += w[i] * row[i]
                sum_v += v[i] * row[i]
            y[b, o], y[b, other] = sum_w, sum_v
    if bias.size:
        for b in range(x.shape[0]):
            for o in range(start, stop):
                y[b, o] += bias[o]


@compiled
def norms(x: Array, weight: Array, bias: Array, eps: float, centred: bool, y: Array) -> None:
    """Layer or RMS norm of the rows of x (B, E)."""
    one = x.dtype.type(1)
    for b in range(x.shape[0]):
        row, out = x[b], y[b]
        shift = mean = square = x.dtype.type(0)
        if centred:
            shift = row[0]  # so that equal features are exactly 0, as from their mean they are not
            for i in range(row.size):
                mean += row[i] - shift
            mean /= x.dtype.type(row.size)
        for i in range(row.size):
            out[i] = (row[i] - shift) - mean
            square += out[i] * out[i]
        scale = one / np.sqrt(square / x.dtype.type(row.size) + x.dtype.type(eps))
        for i in range(row.size):
            out[i] *= scale
        if weight.size:
            for i in range(row.size):
                out[i] *= weight[i]
        if bias.size:
            for i in range(row.size):
                out[i] += bias[i]


@compiled
def attentions(q: Array, k: Array, v: Array, mask: Array, y: Array, weights: Array, start: int, stop: int) -> None:
    """Of rows and heads of keys start to stop, of B times few: q and y (B, few, shared, D), k and v (B, few, S, D),
    mask (B, S) or empty, weights (B, few, shared, S)."""
    few, shared, wide, steps = q.shape[1], q.shape[2], q.shape[3], k.shape[2]
    scale = q.dtype.type(1 / math.sqrt(wide))
    for place in range(start, stop):
        b, h = place // few, place % few
        keys, values = k[b, h], v[b, h]
        for g in range(shared):
            query, out, w = q[b, h, g], y[b, h, g], weights[b, h, g]
            most, seen = q.dtype.type(-np.inf), not mask.size
            for s in range(steps):
                key, score = contiguous(keys[s]), q.dtype.type(0)
                for i in range(wide):
                    score += query[i] * key[i]
                w[s] = score * scale
            if mask.size:
                for s in range(steps):
                    seen |= mask[b, s]
                    w[s] = w[s] if mask[b, s] else q.dtype.type(-np.inf)
            for s in range(steps):
                most = w[s] if w[s] > most else most
            total = q.dtype.type(0)
            if not seen:  # nothing but weights of 0
                most = total = q.dtype.type(1)
            for s in range(steps):
                w[s] = exp(w[s] - most)
                total += w[s]
            for s in range(steps):
                w[s] /= total
            for i in range(wide):
                out[i] = q.dtype.type(0)
            for s in range(steps):
                value = contiguous(values[s])
                for i in range(wide):
                    out[i] += w[s] * value[i]


def fits(a: Array | None, kind: str, shape: tuple[int, ...]) -> bool:
    """Whether an array, if there is one, is of that dtype and shape: kernels look at neither."""
    return a is None or (a.dtype.char == kind and a.shape == shape)


class CompiledSteps(StepKernels):
    """What replaces the portable kernels."""

    gelu: Any

    def linear_few(self, x: Array, weight: Array, bias: Array | None) -> Array:
        kind, (height, width) = x.dtype.char, weight.shape
        if kind not in NONE or x.size > FEW * width or not (
                fits(weight, kind, (height, len(x))) and weight.flags.c_contiguous and fits(bias, kind, (height,))):
            return super().linear_few(x, weight, bias)
        bias = NONE[kind] if bias is None else bias
        rows = np.ascontiguousarray(x.T).reshape(-1, width)
        y = np.empty((len(rows), height), kind)
        share(lambda start, stop: products(rows, weight, bias, y, start, stop), height,
              weight.size // 4)  # as long as a simple kernel takes over so many
        return y[0] if x.ndim == 1 else y.T

    def norm_few(self, x: Array, weight: Array | None, bias: Array | None, eps: float | None,
                 centred: bool = True) -> Array:
        kind = x.dtype.char
        if kind not in NONE or not (fits(weight, kind, x.shape[:1]) and fits(bias, kind, x.shape[:1])):
            return super().norm_few(x, weight, bias, eps, centred)
        rows = np.ascontiguousarray(x.T).reshape(-1, len(x))
        y, none = np.empty_like(rows), NONE[kind]
        norms(rows, none if weight is None else weight, none if bias is None else bias,
              float(np.finfo(kind).eps) if eps is None else eps, centred, y)
        return y[0] if x.ndim == 1 else y.T

    def gelu_few(self, x: Array) -> Array:
        return super().gelu_few(x) if x.dtype.char not in NONE else self.gelu(x.T, tanh=True).T

    def attention_few(self, q: Array, k: Array, v: Array, mask: Array | None = None) -> tuple[Array, Array]:
        kind, (batch, few, steps, wide) = q.dtype.char, k.shape
        alike = fits(k, kind, (len(q), few, steps, q.shape[2])) and fits(v, kind, k.shape)
        if kind not in NONE or not alike or not steps or not k.strides[3] == v.strides[3] == q.itemsize:
            return super().attention_few(q, k, v, mask)
        q = np.ascontiguousarray(q).reshape(batch, few, q.shape[1] // few, wide)
        y, weights = np.empty_like(q), np.empty((*q.shape[:3], steps), kind)
        mask = NO_MASK if mask is None else np.ascontiguousarray(mask)
        share(lambda start, stop: attentions(q, k, v, mask, y, weights, start, stop), batch * few,
              weights.size * wide)
        return y, weights
