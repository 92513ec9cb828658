"""Functions of one number that NumPy lacks, or has in many steps: erf, sigmoid, GELU."""

import math

import numpy as np
from tinyseq.backends.rows import Array, RowKernels

# erf(x) = tanh(x P(x^2)) in float32, a minimax fit of P on |x| <= 4: within 1.4e-7, 3.1 units in the last
# place. Lowest power first.
ERF32 = (1.12837925, 0.102769864, -1.95287967e-4, -6.14838436e-4, 8.45966704e-5, -4.79462386e-6,
         2.75779685e-8, 5.42153201e-9)


class ActivationKernels(RowKernels):
    """The part of a backend that bends numbers; a backend adds `xp`."""

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
