"""Tensors from numbers, lists and arrays: on the active backend, float32 unless said otherwise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyseq import backends, check
from tinyseq.check import explained
from tinyseq.engine.graph import grad_enabled
from tinyseq.engine.interop import read
from tinyseq.engine.tensor import Array, Like, Shape, Tensor, namespace

if TYPE_CHECKING:  # it costs more than the rest of this module
    from numpy.typing import DTypeLike


@explained
def tensor(data: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """A new tensor with a copy of `data`, of its shape: a number, nested lists, an array or a Tensor.

    Python's and NumPy's numbers become float32, int64 or bool; arrays keep their dtype, and a device's array its
    backend. Numbers that a narrower integer dtype does not hold are a ValueError, and so are lists of unequal lengths.
    Gradients need floating-point numbers: others with `requires_grad` are a TypeError.

    >>> ts.tensor([[1, 2], [3, 4]])
    tensor([[1, 2],
            [3, 4]])
    >>> ts.tensor(np.ones(2)).dtype                             # an array's own: NumPy makes float64
    dtype('float64')
    >>> x = ts.tensor([3.0], requires_grad=True)
    >>> (x * x).backward()
    >>> x.grad
    tensor([6.])
    """
    return _tensor(data, dtype, True, requires_grad)


@explained
def asarray(data: Any, dtype: Any = None, *, device: str | None = None, copy: bool | None = None) -> Tensor:
    """Like `tensor`, of the same shape and dtype, but shares memory where it can; a Tensor is returned as it is, or as
    `dtype`. With `copy` it never shares, and where that is False it is an error not to; `device` is the name of a
    backend.

    >>> array = np.zeros(2, np.float32)
    >>> x = ts.asarray(array)
    >>> array[0] = 5.0
    >>> x
    tensor([5., 0.])
    """
    if device is not None:
        return asarray(data, dtype, copy=copy).to(backends.load(device).name)
    if not isinstance(data, Tensor):
        return _tensor(data, dtype, copy)
    if copy is False and dtype not in (None, data.dtype):
        raise ValueError(f"expected copy to be None or True, to make {np.dtype(dtype)} of {data.dtype}")
    return data if dtype is None and not copy else data.astype(dtype or data.dtype, copy=copy is not False)


def _tensor(data: Any, dtype: Any, copy: bool | None, requires_grad: bool = False, beside: Any = None) -> Tensor:
    data = data.item() if isinstance(data, np.generic) else data
    backend, plain = backends.active() if beside is None else backends.of(beside._data), not hasattr(data, "__array__")
    if isinstance(data, Tensor):
        data, backend = data._data, backends.of(data._data)
    elif isinstance(data, (list, tuple)) and any(isinstance(x, Tensor) for x in data):
        raise TypeError("expected numbers, got Tensors in a list: ts.stack joins them")
    elif type(data) in backends.arrays and not isinstance(data, np.ndarray):  # on a device: it stays there
        backend = backends.of(data)
    data = data if isinstance(data, backend.array_types) else read(data)
    if data.dtype.kind not in "biuf":
        raise TypeError(f"expected real numbers or booleans, got dtype {data.dtype}")
    if dtype is not None:
        check.fitting(data, check.dtype(dtype))
    elif plain and data.dtype == np.int_:  # of 32 bits on some platforms
        dtype = np.int64
    elif plain and data.dtype == np.float64:
        dtype = np.float32 if beside is None or beside.dtype.kind != "f" else beside.dtype
    return Tensor(backend.asarray(data, dtype=dtype, copy=copy), requires_grad)


def operand(data: Any, beside: Tensor | None = None) -> Tensor:
    """`asarray(data)`, but while gradients are recorded a copy of what is on the host: its owner may refill it. Host
    data is put where the Tensor `beside` it lives; numbers with fractions are as wide as that, if it has some."""
    if isinstance(data, Tensor):
        return data
    shared = not grad_enabled() or (type(data) in backends.arrays and not isinstance(data, np.ndarray))
    return _tensor(data, None, None if shared else True, beside=beside)


def like(x: Tensor, data: Any) -> Tensor:
    """An `operand` beside x: host data is put where x lives."""
    return operand(data, x)


def on_host(data: Any) -> Array:
    """The array of a Tensor, an array as it is, and what is none, numbers or another library's, as NumPy's."""
    data = data._data if isinstance(data, Tensor) else data
    return data if type(data) in backends.arrays else read(data)


@explained
def from_dlpack(x: Any, *, device: str | None = None, copy: bool | None = None) -> Tensor:
    """A tensor that shares the memory of another library's (PyTorch, JAX, CuPy, ...), and has its shape and dtype.

    On the backend where new tensors are born: the active one has to read the memory in which `x` lies. From there to
    the `device` if one is named, and with memory of its own with `copy`.

    >>> ts.from_dlpack(np.arange(3))                            # anything with __dlpack__
    tensor([0, 1, 2])
    """
    return asarray(Tensor(backends.active().xp.from_dlpack(x)), device=device, copy=copy)


def _new(name: str, *args: Any, dtype: Any, device: str | None, requires_grad: bool = False, **more: Any) -> Tensor:
    """What the function `name` of a `device`, else of the active backend, makes, float32 unless said otherwise; or that
    of the array given."""
    of_another = name.endswith("_like")
    args = (asarray(args[0], device=device)._data, *args[1:]) if of_another else args
    xp = namespace(args[0]) if of_another else (backends.active() if device is None else backends.load(device)).xp
    dtype = np.float32 if dtype is None and not of_another else dtype
    if args[0] is None:  # of which older NumPys make a number
        raise TypeError("expected numbers")
    data = getattr(xp, name)(*args, dtype=dtype if dtype is None else check.dtype(dtype), **more)
    return Tensor(data, requires_grad)


@explained
def zeros(shape: Shape, dtype: DTypeLike | None = None, requires_grad: bool = False, *,
          device: str | None = None) -> Tensor:
    """All entries 0, float32: (2, 3), or one number for a vector. On the active backend, or that named `device`, as in
    all functions that make tensors.

    >>> ts.zeros((2, 3))
    tensor([[0., 0., 0.],
            [0., 0., 0.]])
    >>> ts.zeros(2, dtype=ts.int64)
    tensor([0, 0])
    """
    return _new("zeros", shape, dtype=dtype, requires_grad=requires_grad, device=device)


@explained
def ones(shape: Shape, dtype: DTypeLike | None = None, requires_grad: bool = False, *,
         device: str | None = None) -> Tensor:
    """All entries 1, float32: (2, 3), or one number for a vector.

    >>> ts.ones((2, 3))
    tensor([[1., 1., 1.],
            [1., 1., 1.]])
    """
    return _new("ones", shape, dtype=dtype, requires_grad=requires_grad, device=device)


@explained
def full(shape: Shape, fill_value: float, dtype: DTypeLike | None = None, requires_grad: bool = False, *,
         device: str | None = None) -> Tensor:
    """Of this shape, all entries `fill_value`, whose type decides the dtype (float32 for a float) unless `dtype` does.

    >>> ts.full((2, 2), 0.5)
    tensor([[0.5, 0.5],
            [0.5, 0.5]])
    >>> ts.full(3, 7)
    tensor([7, 7, 7])
    """
    value = check.scalar(fill_value.item() if isinstance(fill_value, np.generic) else fill_value)
    dtype = dtype or {int: np.int64, bool: np.bool}.get(type(value))
    check.fitting(np.asarray(value), dtype or np.float32)
    return _new("full", shape, value, dtype=dtype, requires_grad=requires_grad, device=device)


@explained
def zeros_like(x: Like, dtype: Any = None, *, device: str | None = None) -> Tensor:
    """Zeros of x's shape and, unless given, dtype, where x lives.

    >>> ts.zeros_like(ts.tensor([1, 2, 3]))
    tensor([0, 0, 0])
    """
    return _new("zeros_like", x, dtype=dtype, device=device)


@explained
def ones_like(x: Like, dtype: Any = None, *, device: str | None = None) -> Tensor:
    """Ones of x's shape and, unless given, dtype, where x lives.

    >>> ts.ones_like(ts.tensor([1, 2, 3]), dtype=ts.float32)
    tensor([1., 1., 1.])
    """
    return _new("ones_like", x, dtype=dtype, device=device)


@explained
def full_like(x: Like, fill_value: float, dtype: Any = None, *, device: str | None = None) -> Tensor:
    """`fill_value` in x's shape and, unless given, dtype, where x lives.

    >>> ts.full_like(ts.zeros((2, 2)), 0.5)
    tensor([[0.5, 0.5],
            [0.5, 0.5]])
    """
    return _new("full_like", x, check.scalar(fill_value), dtype=dtype, device=device)


@explained
def arange(start: float, stop: float | None = None, step: float = 1, dtype: Any = None, *,
           device: str | None = None) -> Tensor:
    """start, start + step, ... before `stop`, of shape (n,); `arange(n)` is 0 .. n-1. int64 for integers, float32 if
    any argument is a float.

    >>> ts.arange(3)
    tensor([0, 1, 2])
    >>> ts.arange(0, 1, 0.25)
    tensor([0.  , 0.25, 0.5 , 0.75])
    """
    if not step:  # None is 1 to NumPy
        raise ValueError(f"expected step to be a number other than 0, got {step}")
    if dtype is None:
        fractions = any(isinstance(x, (float, np.floating)) for x in (start, stop, step))
        dtype = np.float32 if fractions else np.int64
    start, stop = (0, start) if stop is None else (start, stop)
    if (n := math.ceil((stop - start) / step)) > 0:
        check.fitting(np.asarray([start, start + (n - 1) * step]), check.dtype(dtype))
    return _new("arange", start, stop, step, dtype=dtype, device=device)


@explained
def linspace(start: float, stop: float, num: int, dtype: Any = None, endpoint: bool = True, *,
             device: str | None = None) -> Tensor:
    """`num` evenly spaced numbers from `start` to `stop`, which is the last unless `endpoint` is False: (num,), float32
    unless said otherwise.

    >>> ts.linspace(0, 1, 5)
    tensor([0.  , 0.25, 0.5 , 0.75, 1.  ])
    >>> ts.linspace(0, 1, 4, endpoint=False)
    tensor([0.  , 0.25, 0.5 , 0.75])
    """
    start, stop = check.numbers("linspace", start=start, stop=stop)
    num = check.integers("linspace", 0, num=num)
    check.fitting(np.asarray([start, stop]), check.dtype(dtype or np.float32))
    return _new("linspace", start, stop, num, dtype=dtype, endpoint=endpoint, device=device)


@explained
def eye(n_rows: int, n_cols: int | None = None, k: int = 0, dtype: Any = None, *,
        device: str | None = None) -> Tensor:
    """(n_rows, n_cols) with ones on the k-th diagonal, zeros elsewhere, float32 unless said otherwise; square unless
    `n_cols` is given.

    >>> ts.eye(2)
    tensor([[1., 0.],
            [0., 1.]])
    >>> ts.eye(2, 3, k=1)
    tensor([[0., 1., 0.],
            [0., 0., 1.]])
    """
    n_rows, n_cols = check.integers("eye", 0, n_rows=n_rows, n_cols=n_rows if n_cols is None else n_cols)
    k = check.integers("eye", k=k)
    return _new("eye", n_rows, n_cols, k=k, dtype=dtype, device=device)
