"""The gates of cells, compiled."""

from typing import Any

import numpy as np
from tinyseq.backends.cells import CellKernels
from tinyseq.backends.compiled import compiled
from tinyseq.backends.compiled.numbers import ONE, sigmoid, tanh
from tinyseq.backends.compiled.rows import dense_rows

Array = Any

# Rows of all arrays are those of a batch; the portable methods say what they hold.


@compiled
def lstm_forward(u: Array, v: Array, c: Array, gates: Array, h: Array, new: Array) -> None:
    size = c.shape[1]
    for b in range(c.shape[0]):
        for j in range(2 * size):
            gates[b, j] = sigmoid(u[b, j] + v[b, j])
        for j in range(2 * size, 3 * size):
            gates[b, j] = tanh(u[b, j] + v[b, j])
        for j in range(3 * size, 4 * size):
            gates[b, j] = sigmoid(u[b, j] + v[b, j])
        for j in range(size):
            new[b, j] = gates[b, size + j] * c[b, j] + gates[b, j] * gates[b, 2 * size + j]
            h[b, j] = gates[b, 3 * size + j] * tanh(new[b, j])


@compiled
def lstm_backward(gh: Array, gc: Array, gates: Array, c: Array, new: Array, d: Array, dc: Array) -> None:
    size = c.shape[1]
    for b in range(c.shape[0]):
        for j in range(size):
            o, t = gates[b, 3 * size + j], tanh(new[b, j])
            dc[b, j] = gh[b, j] * o * (ONE - t * t) + gc[b, j]
            d[b, 3 * size + j] = gh[b, j] * t * (o - o * o)
        for j in range(size):
            i, f, g = gates[b, j], gates[b, size + j], gates[b, 2 * size + j]
            d[b, j] = dc[b, j] * g * (i - i * i)
            d[b, size + j] = dc[b, j] * c[b, j] * (f - f * f)
            d[b, 2 * size + j] = dc[b, j] * i * (ONE - g * g)
            dc[b, j] *= f


@compiled
def gru_forward(u: Array, v: Array, h: Array, gates: Array, new: Array) -> None:
    size = h.shape[1]
    for b in range(h.shape[0]):
        for j in range(2 * size):
            gates[b, j] = sigmoid(u[b, j] + v[b, j])
        for j in range(size):
            n = gates[b, 2 * size + j] = tanh(u[b, 2 * size + j] + gates[b, j] * v[b, 2 * size + j])
            new[b, j] = n + gates[b, size + j] * (h[b, j] - n)


@compiled
def gru_backward(g: Array, gates: Array, v: Array, h: Array, du: Array, dv: Array, dh: Array) -> None:
    size = h.shape[1]
    for b in range(h.shape[0]):
        for j in range(size):
            z, n = gates[b, size + j], gates[b, 2 * size + j]
            du[b, 2 * size + j] = g[b, j] * (ONE - z) * (ONE - n * n)
            du[b, size + j] = dv[b, size + j] = g[b, j] * (h[b, j] - n) * (z - z * z)
            dh[b, j] = g[b, j] * z
        for j in range(size):
            r, dn = gates[b, j], du[b, 2 * size + j]
            du[b, j] = dv[b, j] = dn * v[b, 2 * size + j] * (r - r * r)
            dv[b, 2 * size + j] = dn * r


class CompiledCells(CellKernels):
    """What replaces the portable kernels."""

    def lstm_gates(self, u: Array, v: Array, c: Array) -> tuple[Array, Array, Any]:
        if c.dtype.char not in "fd" or not c.size:
            return super().lstm_gates(u, v, c)
        gates, h, new = np.empty(u.shape, u.dtype), np.empty(c.shape, c.dtype), np.empty(c.shape, c.dtype)
        lstm_forward(*map(dense_rows, (u, v, c, gates, h, new)))
        return h, new, gates

    def lstm_gates_backward(self, gh: Array, gc: Array, gates: Array, c: Array,
                            new: Array) -> tuple[Array, Array, Array]:
        if c.dtype.char not in "fd" or not c.size:
            return super().lstm_gates_backward(gh, gc, gates, c, new)
        d, dc = np.empty(gates.shape, c.dtype), np.empty(c.shape, c.dtype)
        lstm_backward(*map(dense_rows, (gh, gc, gates, c, new, d, dc)))
        return d, d, dc

    def gru_gates(self, u: Array, v: Array, h: Array) -> tuple[Array, Array]:
        if h.dtype.char not in "fd" or not h.size:
            return super().gru_gates(u, v, h)
        gates, new = np.empty(u.shape, u.dtype), np.empty(h.shape, h.dtype)
        gru_forward(*map(dense_rows, (u, v, h, gates, new)))
        return new, gates

    def gru_gates_backward(self, g: Array, gates: Array, v: Array, h: Array) -> tuple[Array, Array, Array]:
        if h.dtype.char not in "fd" or not h.size:
            return super().gru_gates_backward(g, gates, v, h)
        du, dv, dh = np.empty(v.shape, v.dtype), np.empty(v.shape, v.dtype), np.empty(h.shape, h.dtype)
        gru_backward(*map(dense_rows, (g, gates, v, h, du, dv, dh)))
        return du, dv, dh
