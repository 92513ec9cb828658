"""What else the Array API standard (2024.12) has, and what users of PyTorch type: running sums and products,
differences, diagonals, grids, bits shifted, entries filled, dtypes. `tinyseq` is a namespace of the standard;
docs/not-here.md lists what it leaves out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinyseq import backends, check
from tinyseq.check import explained
from tinyseq.engine.autograd import op, wide
from tinyseq.engine.creation import operand, zeros, zeros_like
from tinyseq.engine.elementwise import _flat, _flat_pair, astype, not_equal, where
from tinyseq.engine.indexing import along, axes_of, picked
from tinyseq.engine.reductions import summed_as
from tinyseq.engine.shapes import broadcast_to, concat, permute_dims, reshape
from tinyseq.engine.tensor import Array, Like, Out, Shape, Tensor, namespace

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

# --- of any numbers


@explained
def empty(shape: Shape, dtype: DTypeLike | None = None, *, device: str | None = None) -> Tensor:
    """`zeros` of that shape and dtype: nothing here writes in place, which alone could make use of less.

    >>> ts.empty(2)
    tensor([0., 0.])
    """
    return zeros(shape, dtype, device=device)


@explained
def empty_like(x: Like, dtype: Any = None, *, device: str | None = None) -> Tensor:
    """`zeros_like`, of x's shape and, unless given, dtype: as `empty` says.

    >>> ts.empty_like(ts.tensor([1, 2]))
    tensor([0, 0])
    """
    return zeros_like(x, dtype, device=device)


# --- entries, one at a time

bitwise_left_shift = _flat_pair("bitwise_left_shift", "a times 2**b, of integers.", "[1, 3]; 2 -> [ 4, 12]")
bitwise_right_shift = _flat_pair("bitwise_right_shift", "The largest integer <= a / 2**b, of integers.",
                                 "[5, -5]; 1 -> [ 2, -3]")
nextafter = _flat_pair("nextafter", "The next number after a on the way to b.", "[1.]; 2. -> [1.0000...]")
signbit = _flat("signbit", "True where the sign is minus, of -0.0 too.", "[-0.0, 2.] -> [ True, False]")


@op
def positive(x: Tensor) -> Out:
    """+x: x as it is, of its shape and dtype.

    >>> ts.positive(ts.tensor([1.0, -2.0]))
    tensor([ 1., -2.])
    """
    return +x, (lambda g: g,)


@op(wide=True)
def copysign(a: Like, b: Like) -> Out:
    """|a| with the sign of b, of -0.0 too; the gradient of b is 0. Shapes and dtypes as for `add`.

    >>> ts.copysign(ts.tensor([1.0, -2.0]), -1.0)
    tensor([-1., -2.])
    """
    xp = namespace(a, b)
    y = xp.copysign(a, b)
    return y, (lambda g: xp.where(y == a, g, -g), lambda g: xp.zeros_like(g))


@op(wide=True)
def hypot(a: Like, b: Like) -> Out:
    """sqrt(a^2 + b^2) without overflow; the gradients at the origin are 0. Shapes and dtypes as for `add`.

    >>> ts.hypot(ts.tensor([3.0]), 4.0)
    tensor([5.])
    """
    xp = namespace(a, b)
    y = xp.hypot(a, b)
    safe = xp.where(y == 0, 1, y)
    return y, (lambda g: g * (a / safe), lambda g: g * (b / safe))


@explained
def masked_fill(x: Like, mask: Like, value: Like) -> Tensor:
    """x with `value`, one number, where the booleans `mask`, which broadcast to x, are True; of x's shape and dtype,
    which has to hold it.

    >>> ts.masked_fill(ts.tensor([1.0, 2.0]), [True, False], -np.inf)
    tensor([-inf,   2.])
    """
    x, mask, value = operand(x), operand(mask, x if isinstance(x, Tensor) else None), check.scalar(value)
    if mask.dtype != bool:
        raise TypeError(f"expected mask to be booleans, True where the value goes, got {check.describe(mask)}")
    y = where(broadcast_to(mask, x.shape), value, x)
    if y.dtype != x.dtype:
        raise TypeError(f"expected value to be a number that {x.dtype} holds, got {check.describe(value)}")
    return y


@explained
def clone(x: Like) -> Tensor:
    """x with memory of its own, of its shape and dtype; its gradient goes to x.

    >>> ts.clone(ts.tensor([1.0, 2.0]))
    tensor([1., 2.])
    """
    x = operand(x)
    return astype(x, x.dtype)


# --- along an axis


@op
def _cumulative_sum(x: Tensor, axis: int) -> Out:
    xp = namespace(x)
    back = lambda g: xp.flip(xp.cumulative_sum(xp.flip(g, axis=axis), axis=axis), axis=axis)
    return xp.cumulative_sum(x, axis=axis), (back,)


@op(wide=True)
def _cumulative_prod(x: Tensor, axis: int) -> Out:
    xp = namespace(x)
    y = xp.cumulative_prod(x, axis=axis)

    def pull(g: Array) -> Array:
        if not bool(xp.any(x == 0)):
            return xp.flip(xp.cumulative_sum(xp.flip(g * y, axis=axis), axis=axis), axis=axis) / x
        steps = [*zip(xp.unstack(x, axis=axis), xp.unstack(y, axis=axis), xp.unstack(g, axis=axis), strict=True)]
        total, found = 0.0, []
        for t in reversed(range(len(steps))):  # y[t] is x[t] y[t - 1]
            total = total + steps[t][2]
            found.append(total * steps[t - 1][1] if t else total)
            total = total * steps[t][0]
        return xp.stack(found[::-1], axis=axis)

    return y, (pull,)


def _running(running: Any, x: Like, axis: int | None, dtype: Any, first: int | None) -> Tensor:
    """Running sums or products, the `first` of them before all others unless it is None."""
    x = operand(x)
    if axis is None and x.ndim != 1:
        raise ValueError("expected an axis, where x has not one alone")
    k, = axes_of((0 if axis is None else check.no_flag(axis),), x.ndim)
    y: Tensor = running(summed_as(x, dtype), k)
    y = y if dtype is None else astype(y, dtype, copy=False)
    if first is not None:
        edge = broadcast_to(astype(operand(first, y), y.dtype), (*y.shape[:k], 1, *y.shape[k + 1 :]))
        y = concat([edge, y], k)
    return y


@explained
def cumulative_sum(x: Tensor, axis: int | None = -1, dtype: Any = None, include_initial: bool = False) -> Tensor:
    """Running sums along `axis`, each including its own entry; of x's shape. Of narrow integers they are 64-bit ones,
    unless `dtype` says otherwise. With `include_initial` a 0 stands before them: one entry more.

    >>> ts.cumulative_sum(ts.tensor([1, 2, 3]))
    tensor([1, 3, 6])
    >>> ts.cumulative_sum(ts.tensor([1, 2, 3]), include_initial=True)
    tensor([0, 1, 3, 6])
    """
    return _running(_cumulative_sum, x, axis, dtype, 0 if include_initial else None)


@explained
def cumulative_prod(x: Tensor, axis: int | None = -1, dtype: Any = None, include_initial: bool = False) -> Tensor:
    """Running products along `axis`, of the shape and dtype that `cumulative_sum` has; what stands before them is a 1.
    The gradient is right at zeros too.

    >>> ts.cumulative_prod(ts.tensor([1.0, 2.0, 3.0]))
    tensor([1., 2., 6.])
    """
    return _running(_cumulative_prod, x, axis, dtype, 1 if include_initial else None)


@wide
def diff(x: Tensor, *, axis: int = -1, n: int = 1, prepend: Like = None, append: Like = None) -> Tensor:
    """What each entry along `axis` is more than the one before it, `n` times over: n entries fewer. `prepend` and
    `append`, of x's shape but for that axis, are joined to it first.

    >>> ts.diff(ts.tensor([1.0, 4.0, 9.0]))
    tensor([3., 5.])
    >>> ts.diff(ts.tensor([1.0, 4.0, 9.0]), prepend=ts.tensor([0.0]))
    tensor([1., 3., 5.])
    """
    n, x = check.integers("diff", 0, n=n), operand(x)
    k, = axes_of((check.no_flag(axis),), x.ndim)
    x = x if prepend is None else concat([operand(prepend, x), x], k)
    x = x if append is None else concat([x, operand(append, x)], k)
    for _ in range(n):
        later, earlier = x[along(k, x.ndim, slice(1, None))], x[along(k, x.ndim, slice(0, -1))]
        x = not_equal(later, earlier) if x.dtype == bool else later - earlier
    return x


# --- shapes


@explained
def swapaxes(x: Like, axis1: int, axis2: int) -> Tensor:
    """Two axes in each other's place.

    >>> ts.swapaxes(ts.zeros((2, 3, 4)), 0, -1).shape
    (4, 3, 2)
    """
    x = operand(x)
    i, j = axes_of((check.no_flag(axis1), check.no_flag(axis2)), x.ndim)
    return permute_dims(x, [{i: j, j: i}.get(k, k) for k in range(x.ndim)])


@op
def diagonal(x: Tensor, *, offset: int = 0) -> Out:
    """The diagonal of each matrix, of the last two axes: (..., n, m) -> (..., k); `offset` counts from the main one,
    upwards.

    >>> ts.diagonal(ts.tensor([[1, 2], [3, 4]]))
    tensor([1, 4])
    >>> ts.diagonal(ts.tensor([[1, 2], [3, 4]]), offset=1)
    tensor([2])
    """
    if x.ndim < 2:
        raise ValueError("expected at least 2 dimensions")
    offset = check.integers("diagonal", offset=offset)
    low, right = max(0, -offset), max(0, offset)
    places = np.arange(max(0, min(x.shape[-2] - low, x.shape[-1] - right)), dtype=np.int64)
    return picked(x, (..., places + low, places + right))


def broadcast_arrays(*arrays: Like) -> tuple[Tensor, ...]:
    """All of them, repeated to the one shape to which they broadcast.

    >>> [x.shape for x in ts.broadcast_arrays(ts.zeros((2, 1)), ts.zeros(3))]
    [(2, 3), (2, 3)]
    """
    tensors = [operand(x) for x in arrays]
    shape = np.broadcast_shapes(*(x.shape for x in tensors))
    return tuple([broadcast_to(x, shape) for x in tensors])


def meshgrid(*arrays: Like, indexing: str = "xy") -> tuple[Tensor, ...]:
    """The coordinates of a grid, of vectors with those along each axis: of n for "ij" n tensors of shape (N1, N2, ...),
    and for "xy" (NumPy's, not PyTorch's) (N2, N1, ...).

    >>> x, y = ts.meshgrid(ts.tensor([1, 2, 3]), ts.tensor([10, 20]))
    >>> x + y
    tensor([[11, 12, 13],
            [21, 22, 23]])
    """
    check.choice("meshgrid", ("xy", "ij"), indexing=indexing)
    vectors = [operand(x) for x in arrays]
    if any(x.ndim != 1 for x in vectors):
        raise ValueError(f"meshgrid: expected vectors, got shapes {', '.join(str(x.shape) for x in vectors)}")
    grids = broadcast_arrays(*(reshape(x, (-1, *(1,) * (len(vectors) - 1 - i))) for i, x in enumerate(vectors)))
    return tuple([swapaxes(x, 0, 1) for x in grids]) if indexing == "xy" and len(grids) > 1 else grids


# --- dtypes


def _of(x: Any) -> Any:
    """The dtype of a Tensor or an array, and what is none as it is."""
    return x if isinstance(x, type) or not hasattr(x, "__array__") else x.dtype


def can_cast(from_: Any, to: Any) -> bool:
    """Whether every number of one dtype, or of a Tensor's, is one of the dtype `to`.

    >>> ts.can_cast(ts.int8, ts.float32), ts.can_cast(ts.tensor([1.5]), ts.int64)
    (True, False)
    """
    return bool(np.can_cast(_of(from_), check.dtype(to)))


def finfo(type: Any) -> Any:
    """The limits of a floating-point dtype, or of a Tensor's: `bits`, `eps`, `max`, `min`, `smallest_normal`, `dtype`.

    >>> ts.finfo(ts.float16).bits, float(ts.finfo(ts.float16).max)
    (16, 65504.0)
    """
    return np.finfo(_of(type))


def iinfo(type: Any) -> Any:
    """The limits of an integer dtype, or of a Tensor's: `bits`, `max`, `min`, `dtype`.

    >>> ts.iinfo(ts.int8).max
    127
    """
    return np.iinfo(_of(type))


def isdtype(dtype: Any, kind: Any) -> bool:
    """Whether a dtype is that one, or one of a kind: "bool", "signed integer", "unsigned integer", "integral", "real
    floating", "complex floating", "numeric", or of any of a tuple of these.

    >>> ts.isdtype(ts.zeros(2).dtype, "real floating")
    True
    """
    return bool(np.isdtype(np.dtype(dtype), kind))


def result_type(*arrays_and_dtypes: Any) -> Any:
    """The dtype of what is computed of Tensors, dtypes and Python's numbers together.

    >>> ts.result_type(ts.float32, ts.tensor([1.0], dtype=ts.float16), 2.0)
    dtype('float32')
    """
    return np.result_type(*map(_of, arrays_and_dtypes))


class Info:
    """What `ts.__array_namespace_info__()` gives: dtypes, and devices, which are backends here."""

    def capabilities(self) -> dict[str, Any]:
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> str:
        return backends.active().name

    def devices(self) -> list[str]:
        return [*backends.BUILT_IN]

    def default_dtypes(self, *, device: str | None = None) -> dict[str, Any]:
        whole = np.dtype(np.int64)
        return {"real floating": np.dtype(np.float32), "complex floating": None, "integral": whole, "indexing": whole}

    def dtypes(self, *, device: str | None = None, kind: Any = None) -> dict[str, Any]:
        names = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64".split()
        return {name: np.dtype(name) for name in names if kind is None or isdtype(name, kind)}
