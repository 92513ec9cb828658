"""Functions of one number that NumPy lacks, or has in many steps: erf, sigmoid, GELU."""

import math

import numpy as np
from tinyseq.backends.rows import Array, RowKernels

# erf(x) = tanh(x P(x^2)) in float32, a minimax fit of P on |x| <= 4: within 1.4e-7, 3.1 units in the last
# place. Lowest power first.
ERF32 = (1.12837925, 0.102769864, -1.95287967e-4, -6.14838436e-4, 8.45966704e-5, -4.79462386e-6,
         2.75779685e-8, 5.42153201e-9)
GELU32 = tuple(a * math.sqrt(0.5) / 2**k for k, a in enumerate(ERF32))  # Phi(x) = (1 + erf(x / sqrt(2))) / 2
GELU_TANH = (math.sqrt(2 / math.pi), 0.044715 * math.sqrt(2 / math.pi))


class ActivationKernels(RowKernels):
    """The part of a backend that bends numbers; a backend adds `xp`."""

    def erf(self, x: Array) -> Array:
        """The error function, elementwise: float64 by Python's, entry by entry, float32 within 1.4e-7."""
        xp = self.xp
        x = xp.asarray(x)
        x = x.astype(xp.result_type(x, xp.float32), copy=False)
        if x.dtype != xp.float32:
            return xp.asarray(np.fromiter(map(math.erf, x.reshape(-1).tolist()), x.dtype).reshape(x.shape))
        return self._odd_tanh(xp.clip(x, -4.0, 4.0), ERF32)  # erf(4) rounds to 1

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

        def work(a: Array, out: Array) -> None:
            a = xp.clip(a, -100.0, math.inf)  # -100 Phi(-100) is 0, and so is not -inf times 0
            with np.errstate(over="ignore"):
                xp.multiply(a, self._gelu_phi(a, tanh), out=out)

        self._by_pieces(work, None, x, y)
        return y

    def gelu_backward(self, g: Array, x: Array, tanh: bool = False) -> Array:
        """dx = g (Phi(x) + x phi(x)), phi the derivative of Phi."""
        xp = self.xp
        dx = xp.empty(x.shape, dtype=x.dtype)

        def work(h: Array, a: Array, d: Array) -> None:
            part = xp.clip(a, -100.0, 100.0)
            phi = self._gelu_phi(part, tanh)
            if tanh:  # Phi = (1 + tanh u)/2, and (1 - tanh(u)^2)/2 = 2 Phi (1 - Phi)
                slope = (part * part * (6 * GELU_TANH[1]) + 2 * GELU_TANH[0]) * (phi * (1 - phi))
            else:
                slope = xp.exp(part * part * -0.5 - 0.5 * math.log(2 * math.pi))
            slope *= part
            slope += phi
            xp.multiply(h, slope, out=d)

        self._by_pieces(work, None, g, x, dx)
        return dx

    def _gelu_phi(self, x: Array, tanh: bool) -> Array:
        """Phi(x) of x >= -100."""
        exact = not tanh and x.dtype != self.xp.float32
        y = self.erf(x * math.sqrt(0.5)) if exact else self._odd_tanh(x, GELU_TANH if tanh else GELU32)
        y *= 0.5
        y += 0.5
        return y

    def _odd_tanh(self, x: Array, powers: tuple[float, ...]) -> Array:
        """tanh(x P(x^2)), the coefficients of P with the lowest power first."""
        square = x * x
        y = square * powers[-1]
        for a in powers[-2:0:-1]:
            y += a
            y *= square
        y += powers[0]
        y *= x
        return self.xp.tanh(y)
