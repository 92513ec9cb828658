"""Entries by their places: slices and integers, taken, set and added to; and sorted, which finds places."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyseq import check
from tinyseq.check import called, explained
from tinyseq.engine.autograd import op
from tinyseq.engine.creation import asarray, on_host
from tinyseq.engine.tensor import Array, Axis, Like, Out, Tensor, namespace


def axes_of(axis: Axis, ndim: int) -> tuple[int, ...]:
    """`axis` as a tuple of axes counted from the front; all of them for None."""
    whole = type(axis) is int or isinstance(axis, np.integer)  # a bool is none
    axes: Any = range(ndim) if axis is None else (axis,) if whole else tuple(axis)  # type: ignore[arg-type]
    if any(not -ndim <= i < ndim for i in axes):
        raise IndexError(f"axis {axis} is out of range for {ndim} dimensions")
    return tuple(i % ndim for i in axes)


def as_int64(data: Like, where: str = "") -> Array:
    """The array of `data` as int64, so that nothing is reckoned with in a narrow type; it stays where it is.

    Booleans and numbers with a fraction are a TypeError, what int64 does not hold is an IndexError.
    """
    data = on_host(data)
    if data.dtype == np.int64:
        return data
    if data.dtype.kind not in "iu" and data.size:
        raise TypeError(f"{where}expected integers as indices, got dtype {data.dtype} and shape {data.shape}")
    if data.dtype == np.uint64 and isinstance(data, np.ndarray) and data.max(initial=0) > np.iinfo(np.int64).max:
        raise IndexError(f"{where}id {data.max()} is out of range, expected integers that int64 holds")
    return data.astype(np.int64)


def check_ids(name: str, ids: Like, size: int, ignored: int | None = None) -> Array:
    """The integers `ids`, as of `as_int64`. Those out of range, which would be another row's numbers, are refused
    where they come from the host; on a device, where looking would wait for it, nobody looks."""
    ids = as_int64(ids, f"{name}: ")
    known = ids if ignored is None or not isinstance(ids, np.ndarray) else ids[ids != ignored]
    if isinstance(known, np.ndarray) and known.size and known.view(np.uint64).max() >= size:  # one below 0 too
        bad = int(known.min() if known.min() < 0 else known.max())
        raise IndexError(f"{name}: id {bad} is out of range, expected 0 <= id < {size} (ids of shape {ids.shape})")
    return ids


@op
def one_hot(ids: Like, num_classes: int, dtype: Any = np.float32) -> Out:
    """(...,) integers in [0, num_classes) -> (..., num_classes) with a one at each; any other integer is an error.

    float32 unless said otherwise. On a device nobody looks: there a row of zeros comes of a wrong one.

    >>> ts.one_hot([0, 2], 3)
    tensor([[1., 0., 0.],
            [0., 0., 1.]])
    >>> ts.one_hot([3], 3)
    Traceback (most recent call last):
    IndexError: one_hot(ids=[3], num_classes=3): id 3 is out of range, expected 0 <= id < 3 (ids of shape (1,))
    """
    num_classes = check.integers("one_hot", 0, num_classes=num_classes)
    ids = asarray(check_ids("one_hot", ids, num_classes))._data
    xp = namespace(ids)
    return (xp.expand_dims(ids, -1) == xp.arange(num_classes)).astype(check.dtype(dtype)), None


@op
def getitem(x: Tensor, index: Any) -> Out:
    """x[index], as in NumPy: slices, ellipsis, None, integers, integer and boolean arrays, mixed."""
    return picked(x, index)


def picked(x: Tensor, index: Any) -> Out:
    xp, shape = namespace(x), x.shape
    return xp.getitem(x, index), (lambda g: xp.unindex(g, index, shape),)


called(picked, "getitem")  # whose pull-back it makes, for `take` too


def along(axis: int, ndim: int, index: Any) -> tuple[Any, ...]:
    """The index that applies `index` to one axis and takes the others whole."""
    return (*(slice(None),) * axes_of(axis, ndim)[0], index)


@op
def unindex(values: Tensor, index: Any, shape: tuple[int, ...]) -> Out:
    """Zeros of `shape` with `values` added at `index`: what pulls a gradient back through `x[index]`."""
    return namespace(values).unindex(values, index, shape), (lambda g: g[index],)


@op
def setitem(x: Tensor, index: Any, value: Like) -> Out:
    """A copy of x with `value` at `index`, each place given once; what `x[index] = value` makes of x."""
    return _put(x, index, value), (lambda g: _put(g, index, 0), None, lambda g: g[index])


def _put(x: Any, index: Any, value: Any) -> Any:
    if isinstance(x, Tensor) or isinstance(value, Tensor):
        return setitem(asarray(x), index, value)
    y = namespace(x).asarray(x, copy=True)
    y[index] = check.operand(value)
    return y


@op
def take(x: Tensor, indices: Like, axis: int = 0) -> Out:
    """x's slices along `axis` at `indices`: integers, of any shape, which takes the axis' place. Negative ones count
    from the end; out of range is an IndexError. An entry taken twice gets the sum of both gradients.

    >>> x = ts.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> ts.take(x, [1, 1, 0])
    tensor([[3., 4.],
            [3., 4.],
            [1., 2.]])
    >>> ts.take(x, [[0], [1]], axis=1).shape
    (2, 2, 1)
    """
    return picked(x, along(axis, x.ndim, as_int64(indices)))


@op
def take_along_axis(x: Tensor, indices: Like, axis: int = -1) -> Out:
    """For each place along the other axes, the entries of x at that place's `indices` along `axis`.

    `indices` are integers with as many axes as x, which broadcast to x along all others: (B, T) and (B, K) -> (B, K).

    >>> logits = ts.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]])
    >>> ts.take_along_axis(logits, logits.argmax(1, keepdims=True))
    tensor([[0.7],
            [0.5]])
    """
    indices, axis = as_int64(indices), axes_of(axis, x.ndim)[0]
    if indices.ndim != x.ndim:
        raise ValueError("expected indices with as many dimensions as x")
    xp = namespace(indices)
    places = [xp.reshape(xp.arange(n), (-1, *(1,) * (x.ndim - 1 - i))) for i, n in enumerate(x.shape)]
    return picked(x, (*places[:axis], indices, *places[axis + 1 :]))


@op(wide=True)
def index_add(x: Tensor, axis: int, indices: Like, values: Tensor) -> Out:
    """x plus `values` at the `indices` along `axis`; an index given twice is added to twice. x itself stays as it is.

    `values` has x's shape, with that of the integer `indices` in the place of `axis`; another is a ValueError.

    >>> ts.index_add(ts.zeros(3), 0, [0, 0, 2], ts.tensor([1.0, 2.0, 3.0]))
    tensor([3., 0., 3.])
    """
    xp, index = namespace(x, values), along(axis, x.ndim, as_int64(indices))
    expected = (*x.shape[: len(index) - 1], *index[-1].shape, *x.shape[len(index) :])
    if values.shape != expected:
        raise ValueError(f"expected values of shape {expected}")
    return x + xp.unindex(values, index, x.shape), (lambda g: g, None, None, lambda g: g[index])


@op
def argsort(x: Tensor, axis: int = -1, descending: bool = False, stable: bool = True) -> Out:
    """Places of the entries in ascending (or descending) order, int64, of x's shape; tied ones keep their order,
    `stable` or not.

    >>> ts.argsort(ts.tensor([3.0, 1.0, 3.0]))
    tensor([1, 0, 2])
    >>> ts.argsort(ts.tensor([3.0, 1.0, 3.0]), descending=True)
    tensor([0, 2, 1])
    """
    xp = namespace(x)
    if not descending:
        return xp.argsort(x, axis=axis, stable=True).astype(np.int64, copy=False), None
    flipped = xp.argsort(xp.flip(x, axis=axis), axis=axis, stable=True)  # flipped twice, so that ties keep their order
    return xp.flip(x.shape[axis] - 1 - flipped, axis=axis).astype(np.int64, copy=False), None


@explained
def sort(x: Tensor, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """In ascending (or descending) order along `axis`, of x's shape; each gradient goes to the entry that stands there,
    ties in their order.

    >>> ts.sort(ts.tensor([3.0, 1.0, 2.0]))
    tensor([1., 2., 3.])
    >>> ts.sort(ts.tensor([3.0, 1.0, 2.0]), descending=True)
    tensor([3., 2., 1.])
    """
    return take_along_axis(x, argsort(x, axis, descending, stable), axis)


@explained
def topk(x: Tensor, k: int, axis: int = -1, largest: bool = True) -> tuple[Tensor, Tensor]:
    """The k largest (or smallest) entries along `axis`, sorted, and their places, int64; of tied ones the first. Both
    have x's shape with k in the place of `axis`. A k beyond its length is a ValueError.

    >>> values, places = ts.topk(ts.tensor([1.0, 4.0, 2.0, 4.0]), 3)
    >>> values
    tensor([4., 4., 2.])
    >>> places
    tensor([1, 3, 2])
    """
    places = argsort(x, axis, largest)
    k = check.integers("topk", 0, places.shape[axis], k=k)
    places = getitem(places, along(axis, places.ndim, slice(0, k)))
    return take_along_axis(x, places, axis), places
