"""Dropout with NumPy's random bits, and the gradient of an embedding without sorting, compiled."""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from tinyseq.backends.compiled import compiled, intrinsic
from tinyseq.backends.compiled.rows import dense, grow
from tinyseq.backends.layers import LayerKernels
from tinyseq.backends.pool import share

Array = Any

U = np.uint64
ONE = U(1)
M0, M1, W0, W1 = map(U, (0xD2E7470EE14C6C93, 0xCA5A826395121157, 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B))
AT_ONCE = 1 << 11  # entries whose bits wait in the first-level cache
FEW = 64  # numbers that are summed one after another


@intrinsic
def high(context: Any, a: Any, b: Any) -> Any:
    """The upper 64 of the 128 bits of a * b: one instruction."""
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(x, wide) for x in args))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), args[0].type)

    return a(a, b), build


@compiled
def philox(key: Any, stream: Any, first: Any, out: Array) -> None:
    """Philox4x64-10 (Salmon et al. 2011), four numbers of each counter from `first` on: out (4 n,)."""
    for i in range(out.size // 4):
        a, b, c, d = first + U(i), U(0), stream, U(0)
        k0, k1 = key, U(0)
        for _ in range(10):
            a, b, c, d = high(M1, c) ^ b ^ k0, M1 * c, high(M0, a) ^ d ^ k1, M0 * a
            k0, k1 = k0 + W0, k1 + W1
        out[4 * i], out[4 * i + 1], out[4 * i + 2], out[4 * i + 3] = a, b, c, d


@compiled
def draw(key: Any, stream: Any, start: int, threshold: Any, keep: Array) -> None:
    """keep (n,): whether 32 bits are at least the threshold, from entry `start` on of the stream's."""
    raw = np.empty(AT_ONCE // 2 + 4, U)
    bits = raw.view(np.uint32)
    for begin in range(0, keep.size, AT_ONCE):
        at, part = start + begin, keep[begin:begin + AT_ONCE]
        philox(key, stream, U(at // 8) + ONE, raw[:(at % 8 + part.size + 7) // 8 * 4])
        some = bits[at % 8:]
        for i in range(part.size):
            part[i] = some[i] >= threshold


@compiled
def multiply(x: Array, keep: Array, scale: float, y: Array) -> None:
    """y = x keep scale, all (n,)."""
    number = x.dtype.type
    kept, dropped = number(scale), number(0)
    for i in range(x.size):
        y[i] = x[i] * (kept if keep[i] else dropped)


@compiled
def places(rows: Array, order: Array, ends: Array) -> None:
    """Where each row is named, by counting: order (N,) of the places in rows (N,), in which row r's end at ends[r] of
    (V,), zeros when it begins, and begin where those of the row before end."""
    height = ends.size
    for row in rows:
        ends[row + height if row < 0 else row] += 1
    total = 0
    for r in range(height):
        total += ends[r]
        ends[r] = total - ends[r]
    for i in range(rows.size):
        r = rows[i] + height if rows[i] < 0 else rows[i]
        order[ends[r]] = i
        ends[r] += 1


@compiled
def add_rows(g: Array, order: Array, ends: Array, start: int, stop: int, y: Array) -> None:
    """Rows start to stop of y (V, E), which is zeros, become the sums of theirs of g (N, E); of many in float64."""
    total = np.empty(y.shape[1])
    for r in range(start, stop):
        begin = ends[r - 1] if r else 0
        if ends[r] - begin <= FEW:
            for k in range(begin, ends[r]):
                grow(g[order[k]], y[r])
        else:
            total[:] = 0
            for k in range(begin, ends[r]):
                grow(g[order[k]], total)
            y[r] = total


class CompiledLayers(LayerKernels):
    """What replaces the portable kernels."""

    def dropout_mask(self, shape: tuple[int, ...], p: float, seed: int, stream: int, start: int = 0) -> Array:
        threshold = round(p * 2**32)
        if threshold == 2**32 or max(seed, stream, 4 * start) >= 1 << 64:
            return super().dropout_mask(shape, p, seed, stream, start)
        keep = np.empty(math.prod(shape), np.bool)
        args = U(seed), U(stream)
        share(lambda i, j: draw(*args, start + i, np.uint32(threshold), keep[i:j]), keep.size, 4 * keep.size)
        return keep.reshape(shape)

    def dropout_backward(self, g: Array, keep: Array, p: float) -> Array:
        if g.dtype.char not in "fd":
            return super().dropout_backward(g, keep, p)
        y = np.empty(g.shape, g.dtype)
        x, mask, out = dense(g).reshape(-1), keep.ravel(), y.reshape(-1)
        share(lambda i, j: multiply(x[i:j], mask[i:j], 1 / (1 - p), out[i:j]), x.size, 2 * x.size)
        return y

    def _add_rows(self, g: Array, rows: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        height, width = shape[0], math.prod(shape[1:])
        if g.dtype != dtype or g.dtype.char not in "fd" or width < 16 or not rows.size or (  # where counting is dear
                rows.min() < -height or rows.max() >= height):
            return super()._add_rows(g, rows, shape, dtype)
        y, order, ends = np.zeros(shape, dtype), np.empty(rows.size, np.int64), np.zeros(height, np.int64)
        g, flat = dense(g).reshape(-1, width), y.reshape(height, width)
        places(rows.astype(np.int64), order, ends)
        share(lambda start, stop: add_rows(g, order, ends, start, stop, flat), height, 2 * g.size)
        return y
