"""Many entries to one: sums, means, extremes, norms, along an axis, several, or all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from tinyseq import check
from tinyseq.engine.autograd import op, wide
from tinyseq.engine.creation import asarray, ones
from tinyseq.engine.elementwise import abs, isfinite, named, pow, square, where
from tinyseq.engine.indexing import axes_of
from tinyseq.engine.shapes import squeeze
from tinyseq.engine.tensor import Array, Axis, Out, Tensor, namespace


def _expander(x: Tensor, axis: Axis, keepdims: bool) -> Callable[[Tensor], Tensor]:
    """The function that gives a reduction's output the axes of x that it lost, with length 1."""
    axes = axes_of(axis, x.ndim)
    def expand(y: Tensor) -> Any: return y if keepdims else namespace(y).expand_dims(y, axes)
    return expand


def _divisor(x: Tensor, axis: Axis, correction: float = 0) -> float:
    """How many numbers count along the axes of a mean, or with a `correction` of a variance."""
    n = math.prod(x.shape[i] for i in axes_of(axis, x.ndim))
    if type(correction) not in (int, float):
        correction = check.numbers("var", correction=correction)
    if correction and not correction < n:
        raise ValueError(f"expected correction < {n}, as many numbers as there are along axis {axis} of "
                         f"shape {x.shape}, got {correction}")
    return n - correction


def summed_as(x: Any, dtype: Any) -> Any:
    """x in the dtype of its sums: that given, or of booleans and integers a 64-bit one, on every platform."""
    if dtype is None and x.dtype.kind == "f":
        return x
    kind = (np.uint64 if x.dtype.kind == "u" else np.int64) if dtype is None else check.dtype(dtype)
    return x if x.dtype == kind else x.astype(kind)


@op
def sum(x: Tensor, axis: Axis = None, keepdims: bool = False, dtype: Any = None) -> Out:
    """Sum over an axis, several, or all; `keepdims` keeps those with length 1. Of booleans and narrow integers it is a
    64-bit integer, unless `dtype` says otherwise.

    >>> x = ts.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> ts.sum(x)
    tensor(10.)
    >>> ts.sum(x, axis=1)
    tensor([3., 7.])
    >>> ts.sum(x, axis=1, keepdims=True)
    tensor([[3.],
            [7.]])
    """
    xp, shape, expand = namespace(x), x.shape, _expander(x, axis, keepdims)
    y = xp.sum(summed_as(x, dtype), axis=axis, keepdims=keepdims)
    return y if dtype is None else y.astype(dtype, copy=False), (lambda g: xp.broadcast_to(expand(g), shape),)


@op(wide=True)
def mean(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Out:
    """Mean over an axis, several, or all; `keepdims` keeps those with length 1. Of integers it is float64.

    >>> x = ts.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> ts.mean(x)
    tensor(2.5)
    >>> ts.mean(x, axis=0)
    tensor([2., 3.])
    """
    xp, shape, expand, n = namespace(x), x.shape, _expander(x, axis, keepdims), _divisor(x, axis)
    return xp.mean(x, axis=axis, keepdims=keepdims), (lambda g: xp.broadcast_to(expand(g) / n, shape),)


@op(wide=True)
def var(x: Tensor, axis: Axis = None, correction: float = 0, keepdims: bool = False) -> Out:
    """Variance: squared deviations from the mean, summed and divided by n - `correction` (0, unlike PyTorch's 1).

    Over an axis, several, or all; `keepdims` keeps those with length 1. A `correction` not below n is a ValueError.

    >>> x = ts.tensor([1.0, 2.0, 3.0, 6.0])
    >>> ts.var(x)
    tensor(3.5)
    >>> ts.var(x, correction=1)                                 # 14 / 3
    tensor(4.6666...)
    """
    xp, expand, n = namespace(x), _expander(x, axis, keepdims), _divisor(x, axis, correction)
    x, axes = x if x.dtype.kind == "f" else x.astype(np.float64), axes_of(axis, x.ndim)
    first = x[tuple([slice(1) if i in axes else slice(None) for i in range(x.ndim)])]
    deviation = x - first  # exactly 0 for equal entries, as from their mean it is not
    deviation -= xp.mean(deviation, axis=axis, keepdims=True)
    y = xp.sum(deviation * deviation, axis=axis, keepdims=keepdims) / n
    return y, (lambda g: expand(g) * deviation * 2 / n,)


@wide
def std(x: Tensor, axis: Axis = None, correction: float = 0, keepdims: bool = False) -> Tensor:
    """Standard deviation, the root of `var`, of its shape and dtype; where it is 0 so is the gradient.

    >>> ts.std(ts.tensor([[1.0, 3.0], [5.0, 5.0]]), axis=1)
    tensor([1., 0.])
    """
    return _root(var(x, axis, correction, keepdims), 2)


@op(wide=True)
def _root(x: Tensor, n: float) -> Out:
    """The n-th root, with a gradient of 0 where x is 0."""
    xp = namespace(x)
    safe = xp.where(x == 0, 1, x)
    y = xp.where(x == 0, 0, safe ** (1 / n))
    return y, (lambda g: g * (y / (safe * n)),)


@op(wide=True)
def prod(x: Tensor, axis: Axis = None, keepdims: bool = False, dtype: Any = None) -> Out:
    """Product over an axis, several, or all; its shape and dtype as for `sum`. Its gradient, the product of the others,
    is right at zeros as well.

    >>> x = ts.tensor([0.0, 2.0, 3.0], requires_grad=True)
    >>> ts.prod(x).backward()
    >>> x.grad
    tensor([6., 0., 0.])
    """
    xp, expand, axes, x = namespace(x), _expander(x, axis, keepdims), axes_of(axis, x.ndim), summed_as(x, dtype)
    y = xp.prod(x, axis=axis, keepdims=keepdims)
    y = y if dtype is None else y.astype(dtype, copy=False)

    def pull(g: Array) -> Array:
        if not bool(xp.any(x == 0)):
            return expand(g * y) / x
        moved = xp.moveaxis(x, axes, tuple(range(-len(axes), 0)))  # (..., the axes that are multiplied)
        flat = xp.reshape(moved, (*moved.shape[: x.ndim - len(axes)], -1))
        rows = xp.broadcast_to(xp.expand_dims(flat, -2), (*flat.shape, flat.shape[-1]))  # (..., n, n)
        diagonal = xp.tril(xp.triu(xp.ones_like(rows))) != 0
        others = xp.where(diagonal, 1.0, rows)  # row i: the factors, the i-th replaced by 1
        others = xp.moveaxis(xp.reshape(xp.prod(others, axis=-1), moved.shape), tuple(range(-len(axes), 0)), axes)
        return expand(g) * others

    return y, (pull,)


class _Reduction(Protocol):
    def __call__(self, x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor: ...


def _extreme(name: str, doc: str, shown: str) -> _Reduction:
    """The op `max` or `min` over axes: entries of x that equal the result share the gradient."""

    def body(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Out:
        """{doc}

        Over an axis, several, or all; `keepdims` keeps those with length 1. Of no entry it is a ValueError.

        >>> ts.{name}(ts.tensor([[3., 1.], [0., 2.], [0., 0.]]), axis=1)
        tensor({shown})
        >>> ts.grad(ts.{name}(x := ts.tensor([2.0, 2.0], requires_grad=True)), x)
        tensor([0.5, 0.5])
        """
        xp, expand = namespace(x), _expander(x, axis, keepdims)
        y = getattr(xp, name)(x, axis=axis, keepdims=keepdims)

        def pull(g: Array) -> Array:
            tied = (x == expand(y)).astype(g.dtype)
            return expand(g) * (tied / xp.sum(tied, axis=axis, keepdims=True))

        return y, (pull,)

    return named(name, doc, f" -> {shown}", body, wide=True)


max = _extreme("max", "The largest entry; tied ones share the gradient equally.", "[3., 2., 0.]")
min = _extreme("min", "The smallest entry; tied ones share the gradient equally.", "[1., 0., 0.]")


@op(wide=True)
def logsumexp(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Out:
    """log of the sum of exp(x), without overflow; -inf (gradient 0) where every entry is -inf.

    Over an axis, several, or all, of floating-point numbers; `keepdims` keeps those with length 1. The gradient is the
    softmax.

    >>> ts.logsumexp(ts.tensor([0.0, 0.0, 0.0, 0.0]))           # log 4
    tensor(1.3862...)
    >>> ts.logsumexp(ts.tensor([1000.0, -1000.0]))
    tensor(1000.)
    """
    xp, expand = namespace(x), _expander(x, axis, keepdims)
    top = xp.max(x, axis=axis, keepdims=True) if x.size else xp.sum(x, axis=axis, keepdims=True) - math.inf
    shift = xp.where(top == -math.inf, 0, xp.minimum(top, np.finfo(x.dtype).max))
    parts = xp.exp(xp.minimum(x - shift, 1))  # at most 0, but for infinite entries, beside which others are nothing
    total = xp.sum(parts, axis=axis, keepdims=True)
    total = xp.where(total == 0, 1, total)
    y = xp.where(xp.isinf(top), top, xp.log(total) + shift)
    return y if keepdims else xp.squeeze(y, axis=axis), (lambda g: expand(g) / total * parts,)


def _found(name: str, doc: str, shown: str) -> _Reduction:
    """The op `name` over axes, without a gradient."""

    def body(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Out:
        """{doc}

        `keepdims` keeps the axes with length 1. No gradient; a place is int64.

        >>> x = ts.tensor([[3., 1.], [0., 2.], [0., 0.]])
        >>> ts.{name}(x, axis=1)
        tensor({shown})
        >>> ts.{name}(x, axis=1, keepdims=True).shape
        (3, 1)
        """
        y = getattr(namespace(x), name)(x, axis=axis, keepdims=keepdims)
        return y if name in ("any", "all") else y.astype(np.int64), None

    return named(name, doc, f" -> {shown}", body)


any = _found("any", "True where any entry along an axis, several, or all, is not 0.", "[ True,  True, False]")
all = _found("all", "True where no entry along an axis, several, or all, is 0.", "[ True, False, False]")
argmax = _found("argmax", "Where along `axis`, or in all flattened, the largest entry stands first.", "[0, 1, 0]")
argmin = _found("argmin", "Where along `axis`, or in all flattened, the smallest entry stands first.", "[1, 0, 0]")


@wide
def vector_norm(x: Tensor, *, axis: Axis = None, keepdims: bool = False, ord: float = 2) -> Tensor:
    """(sum |x|^ord)^(1/ord), over an axis, several, or all; the largest |x| for `ord=inf`. The gradient at 0 is 0.

    `keepdims` keeps those axes with length 1. An `ord` of 0 or less is a ValueError.

    >>> x = ts.tensor([3.0, -4.0])
    >>> ts.vector_norm(x)
    tensor(5.)
    >>> ts.vector_norm(x, ord=1), ts.vector_norm(x, ord=np.inf)
    (tensor(7.), tensor(4.))
    """
    if not ord > 0:
        raise ValueError(f"vector_norm: expected ord > 0, got {ord}")
    if math.isinf(ord):
        return max(abs(x), axis, keepdims)
    if ord == 1:
        return sum(abs(x), axis, keepdims)
    if ord == 2:
        return _root(sum(square(x), axis, keepdims), ord)
    x = asarray(x)
    top = max(abs(x.detach()), axis, keepdims=True) if x.size else ones((1,) * x.ndim, x.dtype)
    top = where(isfinite(top) & (top > 0), top, 1.0)  # powers of what is at most 1 fit
    zero = x == 0
    y = _root(sum(where(zero, 0.0, pow(abs(where(zero, 1.0, x / top)), ord)), axis, keepdims), ord)
    return y * (top if keepdims or not x.size else squeeze(top, axis))
