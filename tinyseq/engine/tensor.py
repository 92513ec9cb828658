"""The Tensor that users hold: an array, the node that it came from, and the functions as methods and operators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np

from tinyseq import backends
from tinyseq.check import describe, explained, kind_of
from tinyseq.engine import interop, ops
from tinyseq.engine.graph import Leaf, Node, grad_enabled, name_of, serials
from tinyseq.engine.methods import Methods
from tinyseq.interrupts import together

Array = Any
Like = Any  # what an op takes as an operand: a Tensor, a number, an array
Axis = int | tuple[int, ...] | None
Shape = int | Sequence[int]

namespaces = backends.namespaces
PLAIN = frozenset({float, int, bool, str, type(None), slice, type(Ellipsis)})  # operands that need no unwrapping


def namespace(*operands: Any) -> Any:
    """The functions that apply to `operands`, under the names of the Array API: those of the library of their arrays,
    or tinyseq's if one of them is a Tensor.

    The body of an op is written with these and with operators. It is given the arrays in its Tensors, on whatever
    backend they are, and for gradients of gradients the Tensors. Numbers and None may be among the operands; without
    any array or Tensor it is a TypeError.

    >>> @ts.op
    ... def softsign(x):
    ...     xp = ts.namespace(x)
    ...     size = 1 + xp.abs(x)
    ...     return x / size, (lambda g: g / (size * size),)
    """
    found = None
    for x in operands:
        if type(x) not in PLAIN:
            found = namespaces[type(x)]
            if found is ops:  # of a Tensor
                return found
    if found is None:
        raise TypeError(f"expected a Tensor or an array, got {', '.join(map(kind_of, operands))}")
    return found


class Tensor(Methods):
    """An array with a gradient. Make one with `ts.tensor`, `ts.zeros`, ...; functions and methods have NumPy's names.

    `data` is the backend's array, of any shape. `grad`, a Tensor or None, is what `backward` accumulated. Comparisons,
    integer and boolean results carry no gradient. `x[i] = v` makes `x` a new node (no gradient computed so far changes)
    and copies.

    >>> x = ts.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    >>> y = (x @ x.T).sum()
    >>> y
    tensor(52., op=sum)
    >>> y.backward()
    >>> x.grad
    tensor([[ 8., 12.],
            [ 8., 12.]])
    >>> x[0], x[:, -1].detach()
    (tensor([1., 2.], op=getitem), tensor([2., 4.]))
    """

    __slots__ = ("_data", "node", "grad", "__weakref__")
    __hash__ = object.__hash__

    _data: Array
    node: Node | None
    grad: Tensor | None

    def __init__(self, data: Array, requires_grad: bool = False) -> None:
        """Wrap a backend's array, without a copy. `ts.tensor(...)` is what users call."""
        self._data = data
        self.node = None
        self.grad = None
        if requires_grad:
            self.requires_grad = requires_grad

    # --- what it is
    @property
    def data(self) -> Array:
        """The backend's array. Assigning a new one, of the same shape and dtype, counts as writing to the tensor.

        >>> ts.ones(2).data
        array([1., 1.], dtype=float32)
        """
        return self._data

    @data.setter
    def data(self, value: Array) -> None:
        value = backends.of(self._data).asarray(value._data if isinstance(value, Tensor) else value, dtype=self.dtype)
        if value.shape != self.shape:
            raise ValueError(f"data: a tensor of shape {self.shape} cannot be given data of shape {value.shape}")
        together(*self._holds(value))

    def written(self) -> None:
        """Tell the engine that the array was changed in place: graphs that were made from the old values are void.

        A tensor that an op computed is a RuntimeError.

        >>> x = ts.tensor([1.0, 2.0], requires_grad=True)
        >>> y = (x * x).sum()
        >>> x.data[0] = 5.0
        >>> x.written()
        >>> y.backward()
        Traceback (most recent call last):
        RuntimeError: a leaf of shape (2,) was written to after its use: run the forward pass anew
        """
        together(*self._holds(self._data))

    def _holds(self, data: Array) -> list[tuple[Any, str, Any]]:
        """What has to be set, all at once, for a leaf to hold `data`: a mark that nodes from before are void, and of
        another array than it has that array and a new node."""
        if isinstance(self.node, Leaf):
            mark = (self.node, "written", next(serials))
            return [mark] if data is self._data else [mark, (self, "_data", data), (self, "node", Leaf(self, data))]
        if self.node is not None:
            raise RuntimeError("only leaves can be written to: this tensor was computed by "
                               f"{name_of(self.node)}; use .detach() for one that stands alone")
        return [(self, "_data", data)]

    @property
    def requires_grad(self) -> bool:
        """True if gradients flow to or through this tensor. It can be set, on a leaf of floating-point numbers.

        >>> x = ts.ones(2, requires_grad=True)
        >>> x.requires_grad, x.detach().requires_grad
        (True, False)
        """
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value not in (True, False):
            raise TypeError(f"requires_grad: expected True or False, got {describe(value)}; ts.tensor makes Tensors")
        if value == (self.node is not None):
            return
        if self.node is not None and not isinstance(self.node, Leaf):
            raise RuntimeError("requires_grad can be switched off on leaves only; use .detach() on a computed tensor")
        if value and self.dtype.kind != "f":
            raise TypeError(f"only floating-point tensors can require a gradient, this one has dtype {self.dtype}")
        self.node = Leaf(self, self._data) if value else None

    @property
    def is_leaf(self) -> bool:
        """True if no recorded op computed it: of constants too, which have no `Leaf`.

        >>> x = ts.ones(2, requires_grad=True)
        >>> x.is_leaf, (x + x).is_leaf
        (True, False)
        """
        return self.node is None or isinstance(self.node, Leaf)

    @property
    def shape(self) -> tuple[int, ...]:
        """Its length along each axis.

        >>> ts.zeros((2, 3)).shape
        (2, 3)
        """
        return self._data.shape  # type: ignore[no-any-return]

    @property
    def dtype(self) -> Any:
        """The type of its entries, NumPy's: `ts.float32` and others.

        >>> ts.zeros(2).dtype == ts.float32
        True
        """
        return self._data.dtype

    @property
    def ndim(self) -> int:
        """How many axes it has.

        >>> ts.zeros((2, 3)).ndim
        2
        """
        return self._data.ndim  # type: ignore[no-any-return]

    @property
    def size(self) -> int:
        """How many entries it has.

        >>> ts.zeros((2, 3)).size
        6
        """
        return self._data.size  # type: ignore[no-any-return]

    @property
    def backend(self) -> str:
        """Name of the backend whose array this is.

        >>> ts.zeros(2).backend
        'numpy'
        """
        return backends.of(self._data).name

    def __repr__(self) -> str:
        notes = [np.array2string(self._host(), separator=", ", prefix="tensor(")]
        notes += [f"shape={self.shape}"] if not self.size else []
        notes += [f"dtype={self.dtype}"] if self.dtype.name not in ("float32", "int64", "bool") else []
        notes += [] if backends.on_host(self._data) else [f"backend={self.backend!r}"]
        notes += [] if self.node is None else ["requires_grad=True" if self.is_leaf else f"op={name_of(self.node)}"]
        return f"tensor({', '.join(notes)})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    # --- with others
    def _host(self) -> np.ndarray[Any, Any]:
        return cast("np.ndarray[Any, Any]", backends.of(self._data).asnumpy(self._data))

    def numpy(self) -> np.ndarray[Any, Any]:
        """The values as a NumPy array, of its shape and dtype (no copy on the NumPy backend). A tensor that requires a
        gradient is refused.

        >>> ts.tensor([1.0, 2.0]).numpy()
        array([1., 2.], dtype=float32)
        >>> ts.ones(2, requires_grad=True).numpy()
        Traceback (most recent call last):
        RuntimeError: numpy() would silently drop the gradient of this tensor: call .detach() first
        """
        self._refuse_silent_detach("numpy()")
        return self._host()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        self._refuse_silent_detach("np.array or np.asarray, which NumPy's functions call,")
        if not backends.on_host(self._data):
            raise TypeError(f"this tensor lives on {self.backend!r}: call .numpy() to copy it to the host")
        return np.array(self._data, dtype=dtype, copy=copy)

    __array_ufunc__, __array_function__ = interop.ufunc, interop.function

    def __dlpack__(self, **kwargs: Any) -> Any:
        self._refuse_silent_detach("DLPack")
        return self._data.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> Any:
        return self._data.__dlpack_device__()

    def _refuse_silent_detach(self, how: str) -> None:
        if self.node is not None:
            raise RuntimeError(f"{how} would silently drop the gradient of this tensor: call .detach() first")

    def item(self) -> Any:
        """The value of a one-element tensor, as a Python number. Of another it is a ValueError.

        >>> ts.tensor([0.5]).item()
        0.5
        """
        if self.size != 1:
            raise ValueError(f"item() needs exactly one element, this tensor has shape {self.shape}")
        return self._host().item()

    def tolist(self) -> Any:
        """The values as nested Python lists; of a tensor without axes a number.

        >>> ts.tensor([[1, 2], [3, 4]]).tolist()
        [[1, 2], [3, 4]]
        """
        return self._host().tolist()

    def detach(self) -> Tensor:
        """The same array, shape and dtype, without its history: no gradient flows through it.

        >>> x = ts.tensor([2.0], requires_grad=True)
        >>> (x * x.detach()).backward()
        >>> x.grad
        tensor([2.])
        """
        return Tensor(self._data)

    @explained
    def to(self, target: Any) -> Tensor:
        """This tensor, of the same shape, on another backend (`.to("cupy")`) or as another dtype (`.to(ts.float64)`),
        differentiably.

        On its own backend it comes back itself; a dtype makes a copy. A backend that cannot run here is an error that
        says why.

        >>> ts.tensor([1.0, 2.0]).to(ts.int64)
        tensor([1, 2])
        >>> ts.ones(2).to("numpy").backend
        'numpy'
        """
        if isinstance(target, str) and (target in backends.BUILT_IN or not hasattr(np, target)):
            return self if target == self.backend else ops.to_backend(self, target)
        return self.astype(target)

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of a 0-dimensional tensor")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        len(self)  # refuses 0 dimensions
        return iter(ops.unstack(self))

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(f"the truth of a tensor of shape {self.shape} is ambiguous: use ts.any or ts.all")
        return bool(self.item())

    def __float__(self) -> float: return float(self.item())
    def __int__(self) -> int: return int(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu":
            raise TypeError(f"only integer tensors can be used as an index, this one has dtype {self.dtype}")
        return int(self.item())

    def _refuse_computed(self, how: str) -> None:
        if not self.is_leaf:
            raise RuntimeError(f"only leaves can be {how}, not what {name_of(self.node)} computed: .detach() it")

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        self._refuse_computed("copied")
        copy = type(self)(backends.of(self._data).asarray(self._data, copy=True), requires_grad=self.requires_grad)
        copy.grad = None if self.grad is None else self.grad.detach().__deepcopy__(memo)
        return copy

    def __reduce__(self) -> Any:
        self._refuse_computed("pickled")
        return _unpickle, (type(self), self.backend, self._host(), self.requires_grad)

    # --- operators: those that are not among the functions that `ops` puts here
    def __pos__(self) -> Tensor: return self
    def __iadd__(self, other: Like) -> Tensor: return self._assign(self + other)
    def __isub__(self, other: Like) -> Tensor: return self._assign(self - other)
    def __imul__(self, other: Like) -> Tensor: return self._assign(self * other)
    def __itruediv__(self, other: Like) -> Tensor: return self._assign(self / other)

    def _assign(self, new: Tensor) -> Tensor:
        """`x += y` is a new tensor; but under no_grad a leaf that requires a gradient is written to: a training step by
        hand."""
        if not isinstance(self.node, Leaf) or grad_enabled():
            return new
        self.data = new._data
        return self

    def __getitem__(self, index: Any) -> Tensor: return ops.getitem(self, _of_arrays(index))

    def __setitem__(self, index: Any, value: Like) -> None:
        if isinstance(self.node, Leaf) and grad_enabled():
            raise RuntimeError("assignment to a leaf that requires a gradient: do it under ts.no_grad(), or on a copy")
        if not self.is_leaf and not grad_enabled():
            raise RuntimeError(f"assignment under no_grad would cut the history of this tensor, computed by "
                               f"{name_of(self.node)}: assign to x.detach() instead")
        new = ops.setitem(self, _of_arrays(index), value)
        together(*self._holds(new._data) if isinstance(self.node, Leaf)
                 else [(self, "_data", new._data), (self, "node", new.node)])

    # --- shapes
    @property
    def T(self) -> Tensor:
        """Transpose of a matrix: (n, m) -> (m, n). Of another number of axes it is a ValueError.

        >>> ts.zeros((2, 3)).T.shape
        (3, 2)
        """
        if self.ndim != 2:
            raise ValueError(f".T is for 2 dimensions, this tensor has shape {self.shape}: use .mT or permute_dims")
        return ops.matrix_transpose(self)

    @property
    def mT(self) -> Tensor:
        """The last two axes swapped: (..., n, m) -> (..., m, n).

        >>> ts.zeros((5, 2, 3)).mT.shape
        (5, 3, 2)
        """
        return ops.matrix_transpose(self)

    def reshape(self, *shape: Any, **named: Any) -> Tensor:
        """The same entries in the same order: `x.reshape(2, -1)`, `x.reshape((2, -1))` or `x.reshape(shape=(2, -1))`;
        -1 is what is left for it.

        >>> ts.arange(6).reshape(2, -1)
        tensor([[0, 1, 2],
                [3, 4, 5]])
        """
        if named:
            return ops.reshape(self, *[shape] * bool(shape), **named)
        return ops.reshape(self, shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)

    def permute_dims(self, *axes: Any, **named: Any) -> Tensor:
        """The axes in another order: `x.permute_dims(0, 2, 1)`, `x.permute_dims((0, 2, 1))` or
        `x.permute_dims(axes=(0, 2, 1))`.

        >>> ts.zeros((2, 3, 4)).permute_dims(0, 2, 1).shape
        (2, 4, 3)
        """
        if named:
            return ops.permute_dims(self, *[axes] * bool(axes), **named)
        return ops.permute_dims(self, axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes)


def _of_arrays(index: Any) -> Any:
    """An index with the arrays of its Tensors: no gradient goes to a place."""
    if isinstance(index, tuple):
        return tuple(map(_of_arrays, index))
    return index._data if isinstance(index, Tensor) else index


def _unpickle(kind: type[Tensor], backend: str, data: Any, requires_grad: bool) -> Tensor:
    return kind(backends.load(backend).asarray(data), requires_grad=requires_grad)


namespaces[Tensor] = ops

Out = tuple[Tensor, Any]  # output and pull-backs of an op's body, typed as the caller sees it
Outs = tuple[tuple[Tensor, ...], Any]
