"""GELU and sigmoid, compiled."""

import math
from typing import Any

import numpy as np
from tinyseq.backends.activations import ActivationKernels
from tinyseq.backends.compiled import compiled
from tinyseq.backends.compiled.numbers import HALF, ONE, F, erf, exp, tanh
from tinyseq.backends.compiled.rows import dense
from tinyseq.backends.pool import share

Array = Any
MOST = F(100)  # beyond which Phi is 0 or 1: -100 times 0 is 0, as -inf times 0 is not
ROOT, CUBIC = math.sqrt(2 / math.pi), 0.044715 * math.sqrt(2 / math.pi)  # Phi = (1 + tanh(x (ROOT + CUBIC x^2))) / 2


@compiled
def gelu(x: Array, approximate: Any, y: Array) -> None:
    """y = x Phi(x), both (n,)."""
    kind = x.dtype.type
    half, b, a = kind(math.sqrt(0.5)), kind(ROOT), kind(CUBIC)
    if approximate:
        for i in range(x.size):
            v = -MOST if x[i] < -MOST else x[i]
            y[i] = v * (HALF * tanh(v * (a * v * v + b)) + HALF)
    else:
        for i in range(x.size):
            v = -MOST if x[i] < -MOST else x[i]
            y[i] = v * (HALF * erf(half * v) + HALF)


@compiled
def gelu_backward(g: Array, x: Array, approximate: Any, dx: Array) -> None:
    """dx = g (Phi(x) + x phi(x)), all (n,)."""
    kind = x.dtype.type
    half, b, a = kind(math.sqrt(0.5)), kind(ROOT), kind(CUBIC)
    b2, a6, peak = kind(2 * ROOT), kind(6 * CUBIC), kind(1 / math.sqrt(2 * math.pi))
    if approximate:
        for i in range(x.size):
            v = -MOST if x[i] < -MOST else MOST if x[i] > MOST else x[i]
            p = HALF * tanh(v * (a * v * v + b)) + HALF
            dx[i] = g[i] * (p + v * (a6 * v * v + b2) * p * (ONE - p))  # (1 - tanh(u)^2)/2 = 2 Phi (1 - Phi)
    else:
        for i in range(x.size):
            v = -MOST if x[i] < -MOST else MOST if x[i] > MOST else x[i]
            dx[i] = g[i] * (HALF * erf(half * v) + HALF + v * peak * exp(-HALF * v * v))


@compiled
def sigmoid(x: Array, y: Array) -> None:
    """y = 1 / (1 + exp(-x)), both (n,), the small ones with all their digits."""
    for i in range(x.size):
        z = exp(-abs(x[i]))
        y[i] = (z if x[i] < 0 else ONE) / (ONE + z)


class CompiledActivations(ActivationKernels):
    """What replaces the portable kernels."""

    def sigmoid(self, x: Array) -> Array:
        if not isinstance(x, np.ndarray) or x.dtype.char not in "fd" or not x.ndim:
            return super().sigmoid(x)
        y = np.empty(x.shape, x.dtype)
        a, b = dense(x).reshape(-1), y.reshape(-1)
        share(lambda start, stop: sigmoid(a[start:stop], b[start:stop]), x.size, 4 * x.size)
        return y

    def gelu(self, x: Array, tanh: bool = False) -> Array:
        if x.dtype.char not in "fd":
            return super().gelu(x, tanh)
        y = np.empty(x.shape, x.dtype)
        a, b = dense(x).reshape(-1), y.reshape(-1)
        share(lambda start, stop: gelu(a[start:stop], tanh, b[start:stop]), x.size, 4 * x.size)
        return y

    def gelu_backward(self, g: Array, x: Array, tanh: bool = False) -> Array:
        if x.dtype.char not in "fd":
            return super().gelu_backward(g, x, tanh)
        dx = np.empty(x.shape, x.dtype)
        h, a, d = dense(g, x.dtype).reshape(-1), dense(x).reshape(-1), dx.reshape(-1)
        share(lambda start, stop: gelu_backward(h[start:stop], a[start:stop], tanh, d[start:stop]), x.size, 8 * x.size)
        return dx
