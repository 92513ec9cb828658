"""Searching and sets: where entries are, which there are, and how often. All places are int64; none has a gradient."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tinyseq import backends, check
from tinyseq.check import explained
from tinyseq.engine.autograd import op
from tinyseq.engine.indexing import as_int64
from tinyseq.engine.reductions import sum
from tinyseq.engine.tensor import Axis, Like, Out, Outs, Tensor, namespace


@op
def nonzero(x: Tensor) -> Outs:
    """Where x is not 0: for each axis the places along it, (n,), in the order of the entries. A number has no places:
    a ValueError.

    >>> ts.nonzero(ts.tensor([[1, 0], [2, 3]]))
    (tensor([0, 1, 1]), tensor([0, 0, 1]))
    """
    if not x.ndim:
        raise ValueError("expected at least one axis")
    return tuple([i.astype(np.int64, copy=False) for i in namespace(x).nonzero(x)]), None


@explained
def count_nonzero(x: Like, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """How many entries are not 0, over an axis, several, or all; `keepdims` keeps those with length 1.

    >>> ts.count_nonzero(ts.tensor([[1, 0], [2, 3]]), axis=1)
    tensor([1, 2])
    """
    return sum(_is_not_0(x), axis, keepdims)


@op
def _is_not_0(x: Tensor) -> Out:
    return x != 0, None


@op
def searchsorted(a: Tensor, b: Like, side: str = "left", sorter: Like = None) -> Out:
    """Where each entry of b would stand in a (n,), which is sorted, from 0 to n: before the entries that equal it, or
    behind them for the side "right". Of b's shape, int64; `sorter`, from `argsort`, sorts an a that is not.

    An a that is not sorted is a ValueError; on a device nobody looks.

    >>> ts.searchsorted(ts.tensor([1.0, 2.0, 2.0]), ts.tensor([2.0, 0.0, 5.0]))
    tensor([1, 0, 3])
    >>> ts.searchsorted(ts.tensor([1.0, 2.0, 2.0]), ts.tensor([2.0]), side="right")
    tensor([3])
    """
    check.choice("searchsorted", ("left", "right"), side=side)
    if a.ndim != 1:
        raise ValueError("expected a with one axis")
    xp = namespace(a, b)
    a, b = a if sorter is None else a[as_int64(sorter)], check.operand(b)
    if backends.on_host(a) and (a[1:] < a[:-1]).any():
        raise ValueError("expected a in ascending order, or a sorter")
    return xp.searchsorted(a, b, side=side).astype(np.int64, copy=False), None


@op(wide=True)
def isclose(a: Like, b: Like, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Out:
    """True where |a - b| <= atol + rtol |b|; infinities are close to themselves, and NaN to NaN with `equal_nan`.

    a and b broadcast, and one at least is a Tensor or an array.

    >>> ts.isclose(ts.tensor([1.0, 2.0]), ts.tensor([1.000001, 2.1]))
    tensor([ True, False])
    """
    rtol, atol = check.numbers("isclose", least=0, rtol=rtol, atol=atol)
    a, b = check.operand(a), check.operand(b)
    return namespace(a, b).isclose(a, b, rtol=rtol, atol=atol, equal_nan=equal_nan), None


class UniqueAll(NamedTuple):
    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCounts(NamedTuple):
    values: Tensor
    counts: Tensor


class UniqueInverse(NamedTuple):
    values: Tensor
    inverse_indices: Tensor


@op
def _unique(x: Tensor) -> Outs:
    xp, shape = namespace(x), x.shape
    found = xp.unique(x, return_index=True, return_inverse=True, return_counts=True, equal_nan=False)
    first, inverse, counts = [i.astype(np.int64, copy=False) for i in found[1:]]
    return (found[0], first, xp.reshape(inverse, shape), counts), None


@explained
def unique_all(x: Like) -> UniqueAll:
    """The entries of x, each once, in ascending order: `values` (n,); where in the flattened x each stands first,
    `indices` (n,); which of them each entry of x is, `inverse_indices`, of x's shape; how often each is there, `counts`
    (n,). Each NaN is another value.

    >>> ts.unique_all(ts.tensor([3, 1, 3])).indices
    tensor([1, 0])
    """
    return UniqueAll(*_unique(x))


@explained
def unique_counts(x: Like) -> UniqueCounts:
    """The entries of x, each once, in ascending order, and how often each is there: `values` (n,), `counts` (n,).

    >>> values, counts = ts.unique_counts(ts.tensor([3, 1, 3]))
    >>> values, counts
    (tensor([1, 3]), tensor([1, 2]))
    """
    values, _, _, counts = _unique(x)
    return UniqueCounts(values, counts)


@explained
def unique_inverse(x: Like) -> UniqueInverse:
    """The entries of x, each once, in ascending order, `values` (n,), and which of them each entry of x is:
    `inverse_indices`, of x's shape.

    >>> values, places = ts.unique_inverse(ts.tensor([3, 1, 3]))
    >>> values[places]
    tensor([3, 1, 3])
    """
    values, _, inverse, _ = _unique(x)
    return UniqueInverse(values, inverse)


@explained
def unique_values(x: Like) -> Tensor:
    """The entries of x, each once, in ascending order: (n,).

    >>> ts.unique_values(ts.tensor([3, 1, 3]))
    tensor([1, 3])
    """
    return _unique(x)[0]
