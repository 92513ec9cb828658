"""Kernels of few vectors, compiled: products that read each weight once, at the speed of memory; norms, attention."""

import math
from typing import Any

import numpy as np
from tinyseq.backends.compiled import compiled, contiguous
from tinyseq.backends.compiled.activations import gelu
from tinyseq.backends.compiled.numbers import exp, sigmoid
from tinyseq.backends.compiled.rows import dense
from tinyseq.backends.pool import LEAST, share
from tinyseq.backends.steps import StepKernels
from tinyseq.backends.threads import get_num_threads

Array = Any
FEW = 8  # vectors, beyond which a product of matrices is faster
NONE = {kind: np.empty(0, kind) for kind in "fd"}  # where there is no weight or bias
ACTIVATIONS = RELU, GELU, SILU, SWIGLU = range(4)
NAMES = dict(zip(("relu", "gelu_tanh", "silu", "swiglu"), ACTIVATIONS, strict=True))
NO_TURN = {kind: np.empty((0, 0), kind) for kind in "fd"}
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


@compiled
def activate(x: Array, activation: int) -> Array:
    """A function of ACTIVATIONS of the rows of x (B, F), which is used up."""
    zero, half = x.dtype.type(0), x.shape[1] // 2
    if activation == RELU:
        for b in range(x.shape[0]):
            for i in range(x.shape[1]):
                x[b, i] = zero if x[b, i] < zero else x[b, i]
    elif activation == GELU:
        gelu(x.reshape(-1), True, x.reshape(-1))
    else:
        for b in range(x.shape[0]):
            for i in range(half if activation == SWIGLU else x.shape[1]):
                x[b, i] *= sigmoid(x[b, i])
    if activation != SWIGLU:
        return x
    y = np.empty((x.shape[0], half), x.dtype)
    for b in range(x.shape[0]):
        for i in range(half):
            y[b, i] = x[b, i] * x[b, half + i]
    return y


@compiled
def add(x: Array, y: Array) -> None:
    """x (B, E) to y."""
    for b in range(x.shape[0]):
        for i in range(x.shape[1]):
            y[b, i] += x[b, i]


@compiled
def rotate(x: Array, cos: Array, sin: Array) -> None:
    """`functional.rotate` of x (B, heads, D) by cos and sin (1 or B, D / 2), in its place."""
    half = cos.shape[1]
    for b in range(x.shape[0]):
        turn = b if cos.shape[0] > 1 else 0
        for h in range(x.shape[1]):
            for i in range(half):
                p, q = x[b, h, i], x[b, h, half + i]
                x[b, h, i] = p * cos[turn, i] - q * sin[turn, i]
                x[b, h, half + i] = q * cos[turn, i] + p * sin[turn, i]


@compiled
def layer(x: Array, past: Array, n: int, mask: Array, cos: Array, sin: Array, heads: int, activation: int, first: bool,
          centred: bool, w_in: Array, b_in: Array, w_out: Array, b_out: Array, w_1: Array, b_1: Array, w_2: Array,
          b_2: Array, g_1: Array, s_1: Array, g_2: Array, s_2: Array, eps_1: float, eps_2: float, y: Array) -> None:
    """`TransformerEncoderLayer.step`: x and y (B, E), past (B, 2, few, capacity, D)."""
    batch, few, wide = x.shape[0], past.shape[2], past.shape[4]
    given, normed, added = x, np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    if first:
        norms(x, g_1, s_1, eps_1, centred, normed)
        given = normed
    qkv = np.empty((batch, w_in.shape[0]), x.dtype)
    products(given, w_in, b_in, qkv, 0, w_in.shape[0])
    parts = qkv.reshape(batch, heads + 2 * few, wide)
    if cos.size:
        rotate(parts[:, : heads + few], cos, sin)
    q = np.empty((batch, heads, wide), x.dtype)
    for b in range(batch):
        for i in range(wide):
            for h in range(few):
                past[b, 0, h, n, i] = parts[b, heads + h, i]
                past[b, 1, h, n, i] = parts[b, heads + few + h, i]
            for h in range(heads):
                q[b, h, i] = parts[b, h, i]
    seen, weights = np.empty((batch, heads, wide), x.dtype), np.empty((batch, few, heads // few, n + 1), x.dtype)
    shape = batch, few, heads // few, wide
    attentions(q.reshape(shape), past[:, 0, :, : n + 1], past[:, 1, :, : n + 1], mask, seen.reshape(shape), weights, 0,
               batch * few)
    products(seen.reshape(batch, heads * wide), w_out, b_out, added, 0, w_out.shape[0])
    add(x, added)
    if first:
        norms(added, g_2, s_2, eps_2, centred, normed)
        given = normed
    else:
        norms(added, g_1, s_1, eps_1, centred, added)
        given = added
    inner = np.empty((batch, w_1.shape[0]), x.dtype)
    products(given, w_1, b_1, inner, 0, w_1.shape[0])
    products(activate(inner, activation), w_2, b_2, y, 0, w_2.shape[0])
    add(added, y)
    if not first:
        norms(y, g_2, s_2, eps_2, centred, y)


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
        rows = dense(x.T).reshape(-1, width)
        y = np.empty((len(rows), height), kind)
        share(lambda start, stop: products(rows, weight, bias, y, start, stop), height,
              weight.size // 4)  # as long as a simple kernel takes over so many
        return y[0] if x.ndim == 1 else y.T

    def norm_few(self, x: Array, weight: Array | None, bias: Array | None, eps: float | None,
                 centred: bool = True) -> Array:
        kind = x.dtype.char
        if kind not in NONE or not (fits(weight, kind, x.shape[:1]) and fits(bias, kind, x.shape[:1])):
            return super().norm_few(x, weight, bias, eps, centred)
        rows = dense(x.T).reshape(-1, len(x))
        y, none = np.empty_like(rows), NONE[kind]
        norms(rows, none if weight is None else weight, none if bias is None else bias,
              float(np.finfo(kind).eps) if eps is None else eps, centred, y)
        return y[0] if x.ndim == 1 else y.T

    def gelu_few(self, x: Array) -> Array:
        return super().gelu_few(x) if x.dtype.char not in NONE else self.gelu(x.T, tanh=True).T

    def attention_few(self, q: Array, k: Array, v: Array, mask: Array = None, cap: float = 0.0) -> tuple[Array, Array]:
        kind, (batch, few, steps, wide) = q.dtype.char, k.shape
        alike = fits(k, kind, (len(q), few, steps, q.shape[2])) and fits(v, kind, k.shape)
        if kind not in NONE or not alike or not steps or not k.strides[3] == v.strides[3] == q.itemsize or cap:
            return super().attention_few(q, k, v, mask, cap)
        q = dense(q).reshape(batch, few, q.shape[1] // few, wide)
        y, weights = np.empty_like(q), np.empty((*q.shape[:3], steps), kind)
        mask = NO_MASK if mask is None else dense(mask)
        share(lambda start, stop: attentions(q, k, v, mask, y, weights, start, stop), batch * few,
              weights.size * wide)
        return y, weights

    def layer_few(self, parts: Any, x: Array, past: Array, n: int, mask: Array | None, turn: Any) -> Array | None:
        if (found := parts()) is None:
            return None
        arrays, eps, heads, activation, first, centred = found
        kind, width, (batch, _, few, _, wide) = x.dtype.char, len(x), past.shape
        inner = arrays[6].shape[1]
        rows = (heads + 2 * few) * wide, width, inner * (1 + (activation == "swiglu")), width
        shapes = [shape for size, fan in zip(rows, (width, heads * wide, width, inner), strict=True)
                  for shape in ((size, fan), (size,))]
        if kind not in NONE or batch > FEW or past.dtype.char != kind or x.shape[1:] not in ((), (batch,)) or (
                activation not in NAMES or n >= past.shape[3] or not (mask is None or mask.shape == (batch, n + 1))):
            return None
        if turn is not None and 2 * turn[0].shape[-1] != wide:  # a part of a head's entries
            return None
        if width * inner // 4 >= 2 * LEAST and get_num_threads() > 1:  # its products are shared by threads
            return None
        for a, shape in zip(arrays, (*shapes, *[(width,)] * 4), strict=True):
            if a is not None and (a.shape != shape or a.dtype.char != kind or not a.flags.c_contiguous):
                return None
        cos, sin = (NO_TURN[kind],) * 2 if turn is None else [a.reshape(-1, wide // 2) for a in turn]
        given = dense(x.T).reshape(batch, width)
        y = np.empty_like(given)
        rest: Any = [NONE[kind] if a is None else a for a in arrays]
        rest += [*[float(np.finfo(kind).eps if e is None else e) for e in eps], y]
        layer(given, past, n, NO_MASK if mask is None else mask, cos, sin, heads, NAMES[activation], first, centred,
              *rest)
        return y[0] if x.ndim == 1 else y.T
