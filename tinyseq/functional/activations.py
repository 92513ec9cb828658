"""Activations: functions of one entry at a time, and the units gated by a half of their input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tinyseq.check import explained, no_flag
from tinyseq.engine import ops
from tinyseq.engine.autograd import op, wide
from tinyseq.engine.tensor import Out, Tensor, namespace
from tinyseq.functional.arguments import float_backend


@op
def relu(x: Tensor) -> Out:
    """max(x, 0); the gradient at 0 is 0."""
    y = namespace(x).maximum(x, 0)
    return y, (lambda g: g * (y > 0),)


@op(wide=True)
def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Out:
    """x where it is positive, else `negative_slope` x; at 0 the gradient is that slope."""
    xp = namespace(x)
    slopes: Callable[[Any], Any] = lambda g: xp.where(x > 0, g, g * negative_slope)
    return slopes(x), (slopes,)


@op(wide=True)
def elu(x: Tensor, alpha: float = 1.0) -> Out:
    """x where it is positive, else alpha (exp(x) - 1) (Clevert et al. 2016)."""
    xp = namespace(x)
    low = alpha * xp.expm1(xp.minimum(x, 0))
    return xp.where(x > 0, x, low), (lambda g: xp.where(x > 0, g, g * (alpha * xp.exp(xp.minimum(x, 0)))),)


def _gelu_definition(x: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "tanh":
        return 0.5 * x * (1 + ops.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + ops.erf(x / math.sqrt(2)))


@op(definition=_gelu_definition, wide=True)
def gelu(x: Tensor, approximate: str = "none") -> Out:
    """x times the normal distribution function of x (Hendrycks & Gimpel 2016), by erf or the `"tanh"` approximation."""
    if approximate not in ("none", "tanh"):
        raise ValueError("approximate must be 'none' or 'tanh'")
    backend, tanh = float_backend(x), approximate == "tanh"
    return backend.gelu(x, tanh), (lambda g: backend.gelu_backward(g, x, tanh),)


@op(wide=True)
def silu(x: Tensor) -> Out:
    """x sigmoid(x), also called swish (Elfwing et al. 2017)."""
    xp = namespace(x)
    s, x = xp.sigmoid(x), xp.maximum(x, -1000)  # -1000 times 0 is 0, and so must be -inf times 0
    return x * s, (lambda g: g * (s * (1 + x * (1 - s))),)


@explained
def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), right for any x."""
    return ops.logaddexp(x, 0.0)


@explained
def log_sigmoid(x: Tensor) -> Tensor:
    """log(sigmoid(x)), right for any x."""
    return -softplus(ops.negative(x))


@wide
def swiglu(x: Tensor) -> Tensor:
    """silu(a) b, a and b the halves of x (..., 2 F) -> (..., F): the gated unit of Shazeer 2020."""
    a, b = _halves(ops.operand(x), -1)
    return silu(a) * b


@wide
def glu(x: Tensor, axis: int = -1) -> Tensor:
    """a sigmoid(b), a and b the halves of x along `axis` (Dauphin et al. 2017)."""
    a, b = _halves(ops.operand(x), axis)
    return a * ops.sigmoid(b)


def _halves(x: Tensor, axis: int) -> tuple[Tensor, ...]:
    if x.shape[no_flag(axis)] % 2:
        raise ValueError(f"expected x with an even number of entries along axis {axis}, got shape {x.shape}")
    return ops.split(x, 2, axis)
