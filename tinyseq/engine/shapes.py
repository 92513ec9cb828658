"""The same entries in another shape or order, joined, cut, repeated."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyseq import check
from tinyseq.engine.autograd import op
from tinyseq.engine.indexing import along, as_int64, axes_of, picked
from tinyseq.engine.tensor import Axis, Like, Out, Outs, Shape, Tensor, namespace


@op
def reshape(x: Tensor, shape: Shape) -> Out:
    """The same entries in the same order, as many in another shape; one length may be -1, which is what is left for it.
    A shape of another number of entries is a ValueError.

    >>> ts.reshape(ts.arange(6), (2, -1))
    tensor([[0, 1, 2],
            [3, 4, 5]])
    """
    xp, before = namespace(x), x.shape
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    y = xp.reshape(x, shape)
    if y.shape != shape and -1 not in shape:  # NumPy takes any number below 0 for one
        raise ValueError("expected lengths, of which one may be -1")
    return y, (lambda g: xp.reshape(g, before),)


@op
def flatten(x: Tensor, start_axis: int = 0) -> Out:
    """The axes from `start_axis` on as one: of all axes, a vector.

    >>> ts.ones((2, 3, 4)).flatten(1).shape
    (2, 12)
    """
    xp, before = namespace(x), x.shape
    first, = axes_of((check.no_flag(start_axis),), max(x.ndim, 1))
    return xp.reshape(x, (*before[:first], math.prod(before[first:]))), (lambda g: xp.reshape(g, before),)


@op
def permute_dims(x: Tensor, axes: Sequence[int]) -> Out:
    """The axes in another order: axis i of the result is axis `axes[i]` of x. Each axis once, or it is a ValueError.

    >>> ts.permute_dims(ts.zeros((2, 3, 4)), (2, 0, 1)).shape
    (4, 2, 3)
    """
    xp, axes = namespace(x), tuple(axes)
    if sorted(axes_of(axes, x.ndim)) != list(range(x.ndim)):
        raise ValueError(f"expected each of {x.ndim} axes once")
    inverse = tuple(sorted(range(x.ndim), key=axes_of(axes, x.ndim).__getitem__))
    return xp.permute_dims(x, axes), (lambda g: xp.permute_dims(g, inverse),)


def _of_matrices(x: Tensor) -> Any:
    if x.ndim < 2:
        raise ValueError("expected at least 2 dimensions")
    return namespace(x)


@op
def matrix_transpose(x: Tensor) -> Out:
    """The last two axes swapped: (..., n, m) -> (..., m, n).

    >>> ts.matrix_transpose(ts.tensor([[1, 2], [3, 4]]))
    tensor([[1, 3],
            [2, 4]])
    """
    xp = _of_matrices(x)
    return xp.matrix_transpose(x), (lambda g: xp.matrix_transpose(g),)


@op
def moveaxis(x: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Out:
    """The axes at `source` moved to `destination`, the others kept in their order.

    >>> ts.moveaxis(ts.zeros((2, 3, 4)), 0, -1).shape
    (3, 4, 2)
    """
    xp, source, destination = namespace(x), check.no_flag(source), check.no_flag(destination)
    return xp.moveaxis(x, source, destination), (lambda g: xp.moveaxis(g, destination, source),)


@op
def expand_dims(x: Tensor, axis: Axis = 0) -> Out:
    """A new axis of length 1 at `axis` of the result; several for a tuple.

    >>> ts.expand_dims(ts.zeros(3), -1).shape
    (3, 1)
    >>> ts.expand_dims(ts.zeros(3), (0, 2)).shape
    (1, 3, 1)
    """
    xp, before = namespace(x), x.shape
    return xp.expand_dims(x, check.no_flag(axis)), (lambda g: xp.reshape(g, before),)


@op
def squeeze(x: Tensor, axis: Axis = None) -> Out:
    """Without the axes of length 1: those given, or all. A given one of another length is a ValueError.

    >>> ts.squeeze(ts.zeros((1, 3, 1))).shape
    (3,)
    >>> ts.squeeze(ts.zeros((1, 3, 1)), 0).shape
    (3, 1)
    """
    xp, before = namespace(x), x.shape
    return xp.squeeze(x, axis=axis), (lambda g: xp.reshape(g, before),)


@op
def broadcast_to(x: Tensor, shape: Sequence[int]) -> Out:
    """Repeated along new leading axes and along axes of length 1 until it has this `shape`, without a copy. The
    gradient is summed over them. A shape to which x does not broadcast is a ValueError.

    >>> ts.broadcast_to(ts.tensor([1, 2]), (3, 2))
    tensor([[1, 2],
            [1, 2],
            [1, 2]])
    """
    return namespace(x).broadcast_to(x, tuple(shape)), (lambda g: g,)


@op
def concat(tensors: Sequence[Like], axis: int | None = 0) -> Out:
    """Joined along an axis that they have, alike along the others; flattened and joined for None.

    >>> ts.concat([ts.zeros((2, 3)), ts.ones((1, 3))])
    tensor([[0., 0., 0.],
            [0., 0., 0.],
            [1., 1., 1.]])
    >>> ts.concat([ts.zeros((2, 3)), ts.ones((2, 1))], axis=-1).shape
    (2, 4)
    """
    xp = namespace(*tensors)
    y = xp.concat(tensors, axis=axis)
    if axis is None:
        shapes = [x.shape for x in tensors]
        ends = list(itertools.accumulate(map(math.prod, shapes)))
        return y, lambda g, needs: [xp.reshape(part, s) for part, s in zip(xp.split(g, ends[:-1]), shapes, strict=True)]
    places = list(itertools.accumulate(x.shape[axis] for x in tensors))[:-1]
    return y, lambda g, needs: xp.split(g, places, axis=axis)


@op
def stack(tensors: Sequence[Like], axis: int = 0) -> Out:
    """Joined along a new axis: tensors of one shape, n of (...) -> (n, ...). Others are a ValueError.

    >>> ts.stack([ts.tensor([1, 2]), ts.tensor([3, 4])])
    tensor([[1, 2],
            [3, 4]])
    >>> ts.stack([ts.zeros(3), ts.ones(3)], axis=1).shape
    (3, 2)
    """
    xp = namespace(*tensors)
    return xp.stack(tensors, axis=check.no_flag(axis)), lambda g, needs: xp.unstack(g, axis=axis)


@op
def unstack(x: Tensor, axis: int = 0) -> Outs:
    """The slices along `axis`, without that axis: (n, ...) -> a tuple of n of (...).

    >>> x, y = ts.unstack(ts.tensor([[1, 2], [3, 4]]))
    >>> x, y
    (tensor([1, 2]), tensor([3, 4]))
    """
    xp = namespace(x)
    return tuple(xp.unstack(x, axis=check.no_flag(axis))), (lambda g: xp.stack(g, axis=axis),)


@op
def split(x: Tensor, sections: int | Sequence[int], axis: int = 0) -> Outs:
    """Cut along `axis` into `sections` equal parts, or before each of the places listed (as `numpy.split`): a tuple of
    tensors, of x's shape along the other axes.

    >>> ts.split(ts.arange(4), 2)
    (tensor([0, 1]), tensor([2, 3]))
    >>> ts.split(ts.arange(4), [1])
    (tensor([0]), tensor([1, 2, 3]))
    >>> ts.split(ts.arange(4), 3)
    Traceback (most recent call last):
    ValueError: split(x=int64[4], sections=3): axis 0 cannot be cut into 3 equal parts
    """
    xp, n = namespace(x), x.shape[axes_of(axis, x.ndim)[0]]
    if isinstance(sections, int):
        if sections < 1 or n % sections:
            raise ValueError(f"axis {axis} cannot be cut into {sections} equal parts")
        sections = [i * (n // sections) for i in range(1, sections)]
    parts = [x[along(axis, x.ndim, slice(a, b))] for a, b in zip([0, *sections], [*sections, n], strict=True)]
    return tuple(parts), (lambda g: xp.concat(g, axis=axis),)


@op
def flip(x: Tensor, axis: Axis = None) -> Out:
    """Reversed along an axis, several, or all; of x's shape.

    >>> ts.flip(ts.tensor([[1, 2], [3, 4]]), axis=1)
    tensor([[2, 1],
            [4, 3]])
    """
    xp = namespace(x)
    return xp.flip(x, axis=check.no_flag(axis)), (lambda g: xp.flip(g, axis=axis),)


@op
def roll(x: Tensor, shift: int | Sequence[int], axis: Axis = None) -> Out:
    """Shifted along an axis, or several by as many shifts, what leaves at one end entering at the other; as if it were
    flattened for None. Of x's shape.

    >>> ts.roll(ts.tensor([1, 2, 3]), 1, axis=0)
    tensor([3, 1, 2])
    """
    xp = namespace(x)
    shift = shift if isinstance(shift, int) else tuple(map(int, shift))  # not in the width they come in
    back = -shift if isinstance(shift, int) else tuple([-n for n in shift])
    return xp.roll(x, shift, check.no_flag(axis)), (lambda g: xp.roll(g, back, axis),)


@op
def repeat(x: Tensor, repeats: int | Sequence[int], *, axis: int) -> Out:
    """Each slice along `axis` `repeats` times in a row, or as often as its own count says: (n, ...) -> (m, ...), where
    m is n times `repeats` or the sum of the counts.

    >>> ts.repeat(ts.tensor([1, 2]), 2, axis=0)
    tensor([1, 1, 2, 2])
    >>> ts.repeat(ts.tensor([1, 2]), [1, 3], axis=0)
    tensor([1, 2, 2, 2])
    """
    xp, after = namespace(x), axes_of(axis, x.ndim)[0] + 1
    if not isinstance(repeats, int):
        places = np.repeat(np.arange(x.shape[after - 1]), as_int64(repeats).astype(np.intp))
        return picked(x, along(axis, x.ndim, places))
    apart = (*x.shape[:after], repeats, *x.shape[after:])
    return xp.repeat(x, repeats, axis=axis), (lambda g: xp.sum(xp.reshape(g, apart), axis=after),)


@op
def tile(x: Tensor, repetitions: Sequence[int]) -> Out:
    """The whole tensor `repetitions` times along each axis (missing leading entries of either are 1): of shape (2, 3),
    repeated (4, 5) times, it is (8, 15).

    >>> ts.tile(ts.tensor([1, 2]), (3,))
    tensor([1, 2, 1, 2, 1, 2])
    >>> ts.tile(ts.tensor([1, 2]), (2, 1))
    tensor([[1, 2],
            [1, 2]])
    """
    repetitions = [check.integers("tile", 0, **{f"repetitions[{i}]": n}) for i, n in enumerate(repetitions)]
    xp, shape, times = namespace(x), x.shape, (*(1,) * (x.ndim - len(repetitions)), *repetitions)
    pairs = [m for pair in zip(times, (*(1,) * (len(times) - x.ndim), *shape), strict=True) for m in pair]
    axes = tuple(range(0, len(pairs), 2))
    return xp.tile(x, times), (lambda g: xp.reshape(xp.sum(xp.reshape(g, pairs), axis=axes), shape),)


@op
def pad(x: Tensor, pad_width: Sequence[tuple[int, int]], constant_values: float = 0.0) -> Out:
    """`pad_width[i]` = (before, after) entries of `constant_values` around axis i: a pair an axis, or it is a
    ValueError. Of x's dtype, and of shape (..., before + n + after, ...) where x is n long.

    >>> ts.pad(ts.tensor([[1, 2]]), [(0, 1), (2, 0)])
    tensor([[0, 0, 1, 2],
            [0, 0, 0, 0]])
    """
    if len(pad_width) != x.ndim or any(w < 0 for pair in pad_width for w in pair):
        raise ValueError(f"expected {x.ndim} pairs of widths >= 0")
    check.scalar(constant_values)
    inside = tuple(slice(before, before + n) for (before, _), n in zip(pad_width, x.shape, strict=True))
    return namespace(x).pad(x, pad_width, constant_values=constant_values), (lambda g: g[inside],)


@op
def tril(x: Tensor, k: int = 0) -> Out:
    """(..., n, m) with zeros above the k-th diagonal of each matrix.

    >>> ts.tril(ts.ones((3, 3)))
    tensor([[1., 0., 0.],
            [1., 1., 0.],
            [1., 1., 1.]])
    >>> ts.tril(ts.ones((2, 2)), k=-1)
    tensor([[0., 0.],
            [1., 0.]])
    """
    xp = _of_matrices(x)
    return xp.tril(x, k=operator.index(k)), (lambda g: xp.tril(g, k=k),)


@op
def triu(x: Tensor, k: int = 0) -> Out:
    """(..., n, m) with zeros below the k-th diagonal of each matrix.

    >>> ts.triu(ts.ones((3, 3)))
    tensor([[1., 1., 1.],
            [0., 1., 1.],
            [0., 0., 1.]])
    >>> ts.triu(ts.ones((2, 2)), k=1)
    tensor([[0., 1.],
            [0., 0.]])
    """
    xp = _of_matrices(x)
    return xp.triu(x, k=operator.index(k)), (lambda g: xp.triu(g, k=k),)
