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
    """max(x, 0), of x's shape and dtype; the gradient at 0 is 0.

    >>> F.relu(ts.tensor([-1.0, 0.0, 2.0]))
    tensor([0., 0., 2.])
    """
    y = namespace(x).maximum(x, 0)
    return y, (lambda g: g * (y > 0),)


@op(wide=True)
def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Out:
    """x where it is positive, else `negative_slope` x, of x's shape; at 0 the gradient is that slope (Maas et al.
    2013).

    >>> F.leaky_relu(ts.tensor([-2.0, 3.0]), negative_slope=0.5)
    tensor([-1.,  3.])
    """
    xp = namespace(x)
    slopes: Callable[[Any], Any] = lambda g: xp.where(x > 0, g, g * negative_slope)
    return slopes(x), (slopes,)


@op(wide=True)
def elu(x: Tensor, alpha: float = 1.0) -> Out:
    """x where it is positive, else alpha (exp(x) - 1), of x's shape (Clevert et al. 2016).

    >>> F.elu(ts.tensor([-np.inf, 0.0, 2.0]), alpha=0.5)
    tensor([-0.5,  0. ,  2. ])
    """
    xp = namespace(x)
    low = alpha * xp.expm1(xp.minimum(x, 0))
    return xp.where(x > 0, x, low), (lambda g: xp.where(x > 0, g, g * (alpha * xp.exp(xp.minimum(x, 0)))),)


def _gelu_definition(x: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "tanh":
        return 0.5 * x * (1 + ops.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + ops.erf(x / math.sqrt(2)))


@op(definition=_gelu_definition, wide=True)
def gelu(x: Tensor, approximate: str = "none") -> Out:
    """x times the normal distribution function of x (Hendrycks & Gimpel 2016), by erf or the `"tanh"` approximation.

    Of x's shape and dtype, floating-point; integers are a TypeError.

    >>> F.gelu(ts.tensor(1.0))
    tensor(0.8413...)
    >>> F.gelu(ts.tensor(1.0), "tanh")
    tensor(0.8411...)
    """
    if approximate not in ("none", "tanh"):
        raise ValueError("approximate must be 'none' or 'tanh'")
    backend, tanh = float_backend(x), approximate == "tanh"
    return backend.gelu(x, tanh), (lambda g: backend.gelu_backward(g, x, tanh),)


@op(wide=True)
def silu(x: Tensor) -> Out:
    """x sigmoid(x), of x's shape, also called swish (Elfwing et al. 2017).

    >>> F.silu(ts.tensor(1.0))
    tensor(0.7310...)
    >>> F.silu(ts.tensor([0.0, 1000.0]))
    tensor([   0., 1000.])
    """
    xp = namespace(x)
    s, x = xp.sigmoid(x), xp.maximum(x, -1000)  # -1000 times 0 is 0, and so must be -inf times 0
    return x * s, (lambda g: g * (s * (1 + x * (1 - s))),)


@explained
def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), of x's shape, right for any x.

    >>> F.softplus(ts.tensor(0.0))                              # log 2
    tensor(0.6931...)
    >>> F.softplus(ts.tensor(1000.0))
    tensor(1000.)
    """
    return ops.logaddexp(x, 0.0)


@explained
def log_sigmoid(x: Tensor) -> Tensor:
    """log(sigmoid(x)), of x's shape, right for any x.

    >>> F.log_sigmoid(ts.tensor(0.0))                           # -log 2
    tensor(-0.6931...)
    >>> F.log_sigmoid(ts.tensor(-1000.0))
    tensor(-1000.)
    """
    return -softplus(ops.negative(x))


@wide
def swiglu(x: Tensor) -> Tensor:
    """silu(a) b, a and b the halves of x (..., 2 F) -> (..., F): the gated unit of Shazeer 2020. An odd length is a
    ValueError.

    >>> F.swiglu(ts.zeros((2, 6))).shape
    (2, 3)
    >>> F.swiglu(ts.tensor([1000.0, 2.0]))
    tensor([2000.])
    """
    a, b = _halves(ops.operand(x), -1)
    return silu(a) * b


@wide
def glu(x: Tensor, axis: int = -1) -> Tensor:
    """a sigmoid(b), a and b the halves of x along `axis`: (..., 2 F) -> (..., F), or the like along another (Dauphin et
    al. 2017). An odd length is a ValueError.

    >>> F.glu(ts.tensor([[6.0, 0.0]]))
    tensor([[3.]])
    """
    a, b = _halves(ops.operand(x), axis)
    return a * ops.sigmoid(b)


def _halves(x: Tensor, axis: int) -> tuple[Tensor, ...]:
    if x.shape[no_flag(axis)] % 2:
        raise ValueError(f"expected x with an even number of entries along axis {axis}, got shape {x.shape}")
    return ops.split(x, 2, axis)
