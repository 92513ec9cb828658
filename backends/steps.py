"""Kernels of few vectors: what a model needs that goes on by one position, for each row of a batch.

Features come first, x (E,) of a batch of one or (E, B), so that a product is `weight.dot(x)`. There is little to
compute: the time is that of the calls, and each kernel makes as few as it can.
"""

import functools
import math
from typing import Any

import numpy as np
from tinyseq.backends.cells import CellKernels

Array = Any
ROOT = math.sqrt(2 / math.pi)


@functools.lru_cache
def constants(dtype: Any, *numbers: float) -> list[Array]:
    """Numbers as arrays () of a dtype: NumPy takes longer over those that are none."""
    return [np.array(number, dtype=dtype) for number in numbers]


@functools.lru_cache
def average(n: int, dtype: Any) -> Array:
    """What n features are multiplied by to get their mean."""
    return np.full(n, 1 / n, dtype=dtype)


class StepKernels(CellKernels):
    """A mix-in of NumpyBackend."""

    xp: Any
    softmax: Any
    _wide: Any

    def linear_few(self, x: Array, weight: Array, bias: Array | None) -> Array:
        """weight (O, I) times x (I,) or (I, B), plus bias (O,) if there is one: (O,) or (O, B)."""
        y = weight.dot(x)
        if bias is not None:
            rows = y.T
            rows += bias
        return y

    def norm_few(self, x: Array, weight: Array | None, bias: Array | None, eps: float | None,
                 centred: bool = True) -> Array:
        """Layer norm over the features, or RMS norm if not `centred`, of x (E,) or (E, B); as x. An `eps` of None is
        the dtype's, of float16 float32's."""
        if x.dtype.char == "e":
            return self.norm_few(self._wide(x), weight, bias, eps, centred).astype(x.dtype)
        eps = np.finfo(x.dtype).eps if eps is None else eps
        mean = average(len(x), x.dtype)
        if centred:
            x = x - x[0, ...]  # so that equal features are exactly 0, as from their mean they are not
            x -= mean.dot(x)
        square = x.dot(x) / len(x) if x.ndim == 1 else mean.dot(x * x)
        y = x * (square + eps) ** -0.5
        rows = y.T
        if weight is not None:
            rows *= weight
        if bias is not None:
            rows += bias
        return y

    def gelu_few(self, x: Array) -> Array:
        """GELU by its tanh approximation, of finite x of any shape."""
        if x.dtype.char == "e":
            return self.gelu_few(self._wide(x)).astype(x.dtype)
        cube, once, half = constants(x.dtype, 0.044715 * ROOT, ROOT, 0.5)
        y = x * x
        y *= cube
        y += once
        y *= x
        np.tanh(y, out=y)
        y *= x
        y += x
        y *= half
        return y

    def attention_few(self, q: Array, k: Array, v: Array, mask: Array = None, cap: float = 0.0) -> tuple[Array, Array]:
        """Attention of one query a row: q (B, heads, D), k and v (B, few, S, D), mask (B, S), True takes part ->
        (B, few, heads / few, D), and the weights, with S in the place of D. `cap`: functional.attention's softcap, 0
        for none. float16 is computed in float32."""
        if q.dtype.char == "e":
            y, weights = self.attention_few(self._wide(q), self._wide(k), self._wide(v), mask, cap)
            return y.astype(q.dtype), weights.astype(q.dtype)
        batch, few, steps, wide = k.shape
        scale, = constants(q.dtype, wide**-0.5)
        weights = (q * scale).reshape(batch, few, q.shape[1] // few, wide) @ k.swapaxes(-1, -2)
        weights = np.tanh(weights / cap) * cap if cap else weights
        if mask is not None or not steps:
            weights = self.softmax(weights, -1, None if mask is None else mask[:, None, None])
        else:  # short, where that kernel is for many
            weights -= np.maximum.reduce(weights, -1, keepdims=True)
            np.exp(weights, out=weights)
            weights /= np.add.reduce(weights, -1, keepdims=True)
        return weights @ v, weights

    def best_few(self, logits: Array) -> tuple[Array, Array]:
        """The greatest log-probability of each row of logits (N, V), and where it stands: (N, 1). NaN where there is no
        softmax; on a GPU -inf where all logits are."""
        total = self.xp.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True)
        return -self.xp.log(total), logits.argmax(axis=1, keepdims=True)

    def layer_few(self, parts: Any, x: Array, past: Array, n: int, mask: Array | None, turn: Any) -> Array | None:
        """A whole `TransformerEncoderLayer.step` as one kernel, of what parts() says of the layer. None where there is
        no such kernel: the layer calls its parts, which are the definition."""
        return None
