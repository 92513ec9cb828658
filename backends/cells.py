"""The gates of cells: what a step of an LSTM or GRU does between its products and its new state, forward and backward.

With u = W x + b and v = U h + d (..., G H), gates in PyTorch's order, and a state (..., H), all of one dtype.
"""

from typing import Any

Array = Any


class CellKernels:
    """The part of a backend that runs cells, beside what steps of generation need."""

    xp: Any

    def _sigmoids(self, x: Array) -> None:
        """sigmoid(x) = tanh(x/2)/2 + 1/2 in the place of x."""
        x *= 0.5
        self.xp.tanh(x, out=x)
        x *= 0.5
        x += 0.5

    def lstm_gates(self, u: Array, v: Array, c: Array) -> tuple[Array, Array, Any]:
        """h' = o tanh(c') and c' = f c + i g (..., H), and i, f, g, o, side by side."""
        xp, size = self.xp, c.shape[-1]
        gates = u + v
        self._sigmoids(gates[..., : 2 * size])
        xp.tanh(gates[..., 2 * size : 3 * size], out=gates[..., 2 * size : 3 * size])
        self._sigmoids(gates[..., 3 * size :])
        i, f, g, o = xp.split(gates, 4, axis=-1)
        new = f * c + i * g
        return o * xp.tanh(new), new, gates

    def lstm_gates_backward(self, gh: Array, gc: Array, gates: Array, c: Array,
                            new: Array) -> tuple[Array, Array, Array]:
        """The gradients of u, v and c, from those of h' and c' = `new`."""
        i, f, g, o = self.xp.split(gates, 4, axis=-1)
        t = self.xp.tanh(new)
        dc = gh * o * (1 - t * t) + gc
        slopes = dc * g * (i - i * i), dc * c * (f - f * f), dc * i * (1 - g * g), gh * t * (o - o * o)
        d = self.xp.concat(slopes, axis=-1)
        return d, d, dc * f

    def gru_gates(self, u: Array, v: Array, h: Array) -> tuple[Array, Array]:
        """h' = (1 - z) n + z h (..., H), n = tanh(u_n + r v_n), and r, z, n, side by side."""
        size = h.shape[-1]
        gates = u + v
        self._sigmoids(gates[..., : 2 * size])
        r, z, n = self.xp.split(gates, 3, axis=-1)
        n[...] = self.xp.tanh(u[..., 2 * size :] + r * v[..., 2 * size :])
        return n + z * (h - n), gates

    def gru_gates_backward(self, g: Array, gates: Array, v: Array, h: Array) -> tuple[Array, Array, Array]:
        """The gradients of u, v and h, from that of h'."""
        r, z, n = self.xp.split(gates, 3, axis=-1)
        dn = g * (1 - z) * (1 - n * n)
        dr, dz = dn * v[..., 2 * h.shape[-1] :] * (r - r * r), g * (h - n) * (z - z * z)
        return self.xp.concat((dr, dz, dn), axis=-1), self.xp.concat((dr, dz, dn * r), axis=-1), g * z
