"""Sums of products: matrices and vectors, and named axes (`einsum`, `tensordot`) as (batched) matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from typing import Any

import numpy as np

from tinyseq.check import explained, no_flag
from tinyseq.engine.autograd import op, wide
from tinyseq.engine.creation import like, operand
from tinyseq.engine.elementwise import multiply
from tinyseq.engine.indexing import axes_of
from tinyseq.engine.reductions import sum
from tinyseq.engine.shapes import expand_dims, permute_dims, reshape
from tinyseq.engine.tensor import Array, Like, Out, Tensor, namespace

Names = list[Any]  # of the axes of an operand: those of one name go together


def matmul_arrays(a: Array, b: Array) -> Array:
    """a @ b, where several matrices times one are one product."""
    if a.ndim > 2 and b.ndim == 2:
        xp, rows = namespace(a, b), math.prod(a.shape[:-1])
        return xp.reshape(xp.matmul(xp.reshape(a, (rows, a.shape[-1])), b), (*a.shape[:-1], b.shape[-1]))
    return namespace(a, b).matmul(a, b)


def matmul_over_rows(a: Array, b: Array) -> Array:
    """The sum of the products of each row of a (..., n) with that of b (..., m): (n, m)."""
    xp = namespace(a, b)
    if a.ndim != 2:
        a, b = (xp.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1])) for x in (a, b))
    return xp.matmul(xp.matrix_transpose(a), b)


@op
def matmul(a: Like, b: Like) -> Out:
    """(..., n, k) @ (..., k, m) -> (..., n, m), leading axes broadcast; a 1-D operand is a row (left) or a column.

    Another k, or a number, is a ValueError.

    >>> a, b = ts.tensor([[1.0, 2.0], [3.0, 4.0]]), ts.tensor([1.0, -1.0])
    >>> ts.matmul(a, b)                                         # or a @ b
    tensor([-1., -1.])
    >>> ts.matmul(ts.ones((5, 2, 3)), ts.ones((3, 4))).shape
    (5, 2, 4)
    """
    xp, a_ndim, b_ndim = namespace(a, b), a.ndim, b.ndim
    if a_ndim == 0 or b_ndim == 0 or a.shape[-1] != b.shape[-2 if b_ndim > 1 else -1]:
        raise ValueError("expected (..., n, k) @ (..., k, m) with the same k")

    def pull_a(g: Array) -> Array:
        if b_ndim == 1:
            return xp.expand_dims(g, -1) * b
        if a_ndim == 1:
            return xp.squeeze(xp.matmul(xp.expand_dims(g, -2), xp.matrix_transpose(b)), axis=-2)
        return matmul_arrays(g, xp.matrix_transpose(b))

    def pull_b(g: Array) -> Array:
        if a_ndim == 1:
            return g * a if b_ndim == 1 else xp.expand_dims(a, -1) * xp.expand_dims(g, -2)
        if b_ndim == 1:
            return xp.squeeze(xp.matmul(xp.matrix_transpose(a), xp.expand_dims(g, -1)), axis=-1)
        return matmul_over_rows(a, g) if b_ndim == 2 else xp.matmul(xp.matrix_transpose(a), g)

    return matmul_arrays(a, b), (pull_a, pull_b)


def _both(a: Like, b: Like) -> tuple[Tensor, Tensor]:
    """Two operands, where the first Tensor of them lives."""
    first = a if isinstance(a, Tensor) else operand(b)
    return like(first, a), like(first, b)


@wide
def vecdot(a: Like, b: Like, axis: int = -1) -> Tensor:
    """Sum of a * b along `axis`, which is as long in both; along the others they broadcast.

    >>> ts.vecdot(ts.tensor([1.0, 2.0]), ts.tensor([3.0, 4.0]))
    tensor(11.)
    >>> ts.vecdot(ts.ones((5, 3)), ts.ones(3)).shape
    (5,)
    """
    a, b = _both(a, b)
    i, j = (axes_of(axis, x.ndim)[0] for x in (a, b))
    if a.shape[i] != b.shape[j]:
        raise ValueError(f"vecdot: expected axis {axis} as long in both, got shapes {a.shape} and {b.shape}")
    products = multiply(a, b)
    return sum(products, axis, dtype=products.dtype)


@explained
def outer(a: Like, b: Like) -> Tensor:
    """(n,), (m,) -> (n, m): every product.

    >>> ts.outer(ts.tensor([1, 2]), ts.tensor([10, 20, 30]))
    tensor([[10, 20, 30],
            [20, 40, 60]])
    """
    a, b = _both(a, b)
    if a.ndim != 1 or b.ndim != 1:
        raise ValueError(f"outer: expected two vectors, got shapes {a.shape} and {b.shape}")
    return multiply(expand_dims(a, 1), b)


@explained
def tensordot(a: Tensor, b: Tensor, axes: int | tuple[Sequence[int], Sequence[int]] = 2) -> Tensor:
    """Sum of products over pairs of axes: the last `axes` of a with the first of b, or two lists of axes.

    What is left are the other axes of a, then those of b.

    >>> ts.tensordot(ts.ones((2, 3)), ts.ones((3, 4)), 1).shape
    (2, 4)
    >>> ts.tensordot(ts.ones((2, 3)), ts.ones((4, 3)), ([1], [1])).shape
    (2, 4)
    """
    a, b, axes = operand(a), operand(b), no_flag(axes)
    of_a, of_b = (range(-axes, 0), range(axes)) if isinstance(axes, int) else axes
    p, q = list(range(a.ndim)), list(range(a.ndim, a.ndim + b.ndim))
    try:
        for i, j in zip(of_a, of_b, strict=True):
            if a.shape[i] != b.shape[j]:
                raise ValueError
            q[j] = p[i]
    except (IndexError, ValueError):
        raise ValueError(f"tensordot: axes {axes} do not fit the shapes {a.shape} and {b.shape}") from None
    return _contract(p, a, q, b, {*p} ^ {*q})[1]


@explained
def einsum(subscripts: str, *operands: Like) -> Tensor:
    """Einstein's summation, as `numpy.einsum`: "bij,bjk->bik". An index twice in one operand takes its diagonal.

    Operands are taken in their order, and each product of two is one (batched) matrix product.

    >>> a = ts.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> ts.einsum("ij,j->i", a, ts.ones(2))                     # a @ ones
    tensor([3., 7.])
    >>> ts.einsum("ii->", a)                                    # the trace
    tensor(5.)
    >>> ts.einsum("bij,bjk->bik", ts.ones((5, 2, 3)), ts.ones((5, 3, 4))).shape
    (5, 2, 4)
    """
    tensors = [operand(x) for x in operands]
    return (_einsum if len(tensors) < 3 else wide(_einsum))(subscripts, *tensors)


def _einsum(subscripts: str, *operands: Tensor) -> Tensor:
    inputs, output = _subscripts(subscripts, [x.shape for x in operands])
    (names, y), *rest = map(_diagonal, inputs, operands)
    names, y = _sum_out(names, y, {*output, *"".join(inputs[1:])})
    for i, (others, x) in enumerate(rest, 2):
        names, y = _contract(names, y, others, x, {*output, *"".join(inputs[i:])})
    return permute_dims(y, [names.index(c) for c in output])


def _diagonal(names: str, x: Tensor) -> tuple[Names, Tensor]:
    """x, whose axes have `names`, with each of them once: the entries where axes of one name have one index."""
    once = list(dict.fromkeys(names))
    if len(once) == len(names):
        return once, x
    for name, n in zip(names, x.shape, strict=True):
        if n != (m := x.shape[names.index(name)]):
            raise ValueError(f"einsum: index {name!r} is {m} and {n} long in an operand of shape {x.shape}")
    shape = [x.shape[names.index(name)] for name in once]
    places = [np.arange(n).reshape(-1, *(1,) * (len(shape) - 1 - i)) for i, n in enumerate(shape)]
    return once, x[tuple([places[once.index(name)] for name in names])]


def _sum_out(names: Names, x: Tensor, keep: Set[Any]) -> tuple[Names, Tensor]:
    """x, whose axes have `names`, summed over those that are not to keep."""
    axes = tuple(i for i, c in enumerate(names) if c not in keep)
    return [c for c in names if c in keep], sum(x, axes) if axes else x


def _contract(p: Names, a: Tensor, q: Names, b: Tensor, keep: Set[Any]) -> tuple[Names, Tensor]:
    """The product of a, with axes p, and b, with axes q, summed over the names that are not to keep."""
    for c in [c for c in p if c in q]:
        n, m = a.shape[p.index(c)], b.shape[q.index(c)]
        if n != m and 1 not in (n, m):
            raise ValueError(f"einsum: index {c!r} is {n} long in an operand of shape {a.shape} and {m} in {b.shape}")
        if n != m:  # an axis of length 1 stands for any length
            p, a = _sum_out(p, a, {*p} - {c}) if n == 1 else (p, a)
            q, b = _sum_out(q, b, {*q} - {c}) if m == 1 else (q, b)
    (p, a), (q, b) = _sum_out(p, a, keep | {*q}), _sum_out(q, b, keep | {*p})
    batch, inner = [c for c in p if c in q and c in keep], [c for c in p if c in q and c not in keep]
    rows, columns = [c for c in p if c not in q], [c for c in q if c not in p]
    length = dict(zip(p + q, a.shape + b.shape, strict=True))
    def shape(names: Names) -> list[int]: return [length[c] for c in names]
    n, k, m = (math.prod(shape(names)) for names in (rows, inner, columns))
    left = reshape(permute_dims(a, [p.index(c) for c in (*batch, *rows, *inner)]), (*shape(batch), n, k))
    right = reshape(permute_dims(b, [q.index(c) for c in (*batch, *inner, *columns)]), (*shape(batch), k, m))
    names = [*batch, *rows, *columns]
    return names, reshape(left @ right, shape(names))


_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _subscripts(text: str, shapes: list[tuple[int, ...]]) -> tuple[list[str], str]:
    """The letters of each operand and of the output, an ellipsis written out, the output inferred if not given."""
    left, arrow, output = text.replace(" ", "").partition("->")
    inputs = left.split(",")
    if len(inputs) != len(shapes):
        raise ValueError(f"einsum: {text!r} has {len(inputs)} operands, given shapes {shapes}")
    free = [c for c in _LETTERS if c not in text]
    widths = [len(shape) - len(names.replace("...", "")) for names, shape in zip(inputs, shapes, strict=True)]
    for names, shape, width in zip(inputs, shapes, widths, strict=True):
        if width < 0 or (width > 0 and "..." not in names):
            raise ValueError(f"einsum: {names!r} in {text!r} does not fit an operand of shape {shape}")
    dots = "".join(free[: max(widths, default=0)])
    inputs = [names.replace("...", dots[len(dots) - width :]) for names, width in zip(inputs, widths, strict=True)]
    if not arrow:
        letters = sorted({c for c in "".join(inputs) if "".join(inputs).count(c) == 1 and c not in dots})
        output = ("..." if dots else "") + "".join(letters)
    output = output.replace("...", dots)
    if not set(output) <= set("".join(inputs)) or len(set(output)) < len(output):
        raise ValueError(f"einsum: the output of {text!r} must have indices of the operands, each once, {shapes}")
    return inputs, output
