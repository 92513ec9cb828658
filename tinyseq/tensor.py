"""Tensors and gradients: an op returns its output and how to pull a gradient back through it.

    @op
    def tanh(x):
        y = namespace(x).tanh(x)
        return y, (lambda g: g * (1 - y * y),)

`@op` runs the body on the arrays inside its Tensors and, where a gradient will be wanted, leaves a `Node` behind: the
op, its parents' nodes, its constants and the pull-backs. A node is not a Tensor and keeps no parent's value, so only
what some pull-back uses stays alive. `backward` walks the nodes from the output to the leaves.

For gradients of gradients the same bodies run once more, on Tensors this time (`_replay`): then the pull-backs are
made of Tensors too, and what they compute can be differentiated again. No op needs a second rule.
"""

from __future__ import annotations

import functools
import itertools
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextvars import ContextVar
from operator import attrgetter
from types import MappingProxyType
from typing import Any, ParamSpec, Self, TypeVar, cast, overload

import numpy as np

from tinyseq import backends, check
from tinyseq.check import describe, explain, explained
from tinyseq.interrupts import together
from tinyseq.scope import Scope

Array = Any
Like = Any  # what an op takes as an operand: a Tensor, a number, an array
P = ParamSpec("P")
R = TypeVar("R")

namespaces = backends.namespaces


def namespace(*operands: Any) -> Any:
    """The functions that apply to `operands`: their backend's `xp`, or tinyseq's own ops if one of them is a Tensor."""
    found = None
    for x in operands:
        if type(x) not in _PLAIN:
            found = namespaces[type(x)]
            if isinstance(x, Tensor):
                return found
    if found is None:
        raise TypeError(f"expected a Tensor or an array, got {', '.join(type(x).__name__ for x in operands)}")
    return found


# What each thread and each asyncio task decides for itself: the last one counts.
_modes: ContextVar[tuple[no_grad, ...]] = ContextVar("modes", default=())
_watchers: ContextVar[tuple[watching, ...]] = ContextVar("watchers", default=())
_PLAIN = frozenset({float, int, bool, str, type(None), slice, type(Ellipsis)})  # operands that need no unwrapping


class Node:
    """One application of an op in the graph: how a gradient passes back through it."""

    __slots__ = ("op", "serial", "parents", "args", "kwargs", "pulls", "shape", "dtype", "index")

    op: Any  # its name, body and definition; None for a leaf and for one output of several
    serial: int  # a node is younger than its parents
    parents: Sequence[Node | None]  # one entry a slot (see `op`): None where no gradient goes
    args: Sequence[Any]  # the raw arguments with None in place of each parent's value; empty if all have parents
    kwargs: dict[str, Any]
    pulls: Any  # a tuple of pull-backs or one joint pull-back; None once the graph is freed
    shape: Any
    dtype: Any
    index: int | None  # which output of its only parent this node is, if that op has several


class Leaf(Node):
    """Where a gradient ends up: a Tensor that was made with `requires_grad`."""

    __slots__ = ("tensor", "data", "written")

    def __init__(self, tensor: Tensor, data: Array) -> None:
        self.op, self.serial, self.parents, self.index = None, next(serials), (), None
        self.shape, self.dtype = data.shape, data.dtype
        self.tensor, self.data, self.written = weakref.ref(tensor), data, False


serials = itertools.count()


class Tensor:
    """An array with a gradient. Make one with `ts.tensor`, `ts.zeros`, ...; functions and methods have NumPy's names.

    `data` is the backend's array. `grad`, a Tensor or None, is what `backward` accumulated. Comparisons, integer and
    boolean results carry no gradient. `x[i] = v` makes `x` a new node (no gradient computed so far changes) and copies.
    """

    __slots__ = ("_data", "node", "grad", "__weakref__")
    __array_ufunc__ = None  # so that `ndarray * tensor` asks the Tensor, and yields one
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
            self.requires_grad = True

    # --- what it is
    @property
    def data(self) -> Array:
        """The backend's array. Assigning a new one, of the same shape and dtype, counts as writing to the tensor."""
        return self._data

    @data.setter
    def data(self, value: Array) -> None:
        value = backends.of(self._data).asarray(value._data if isinstance(value, Tensor) else value, dtype=self.dtype)
        if value.shape != self.shape:
            raise ValueError(f"data: a tensor of shape {self.shape} cannot be given data of shape {value.shape}")
        together(*self._holds(value))

    def written(self) -> None:
        """Tell the engine that the array was changed in place: graphs that were made from the old values are void."""
        old = self.node
        if isinstance(old, Leaf):
            self.node = Leaf(self, self._data)  # first: what is marked is no tensor's node, whatever interrupts
            old.written = True
        else:
            self._holds(self._data)  # refuses a computed tensor

    def _holds(self, data: Array) -> list[tuple[Any, str, Any]]:
        """What has to be set, all at once, for a leaf to hold `data`: its array, a new node, and a mark at the old."""
        if isinstance(self.node, Leaf):
            return [(self, "_data", data), (self, "node", Leaf(self, data)), (self.node, "written", True)]
        if self.node is not None:
            raise RuntimeError("only leaves can be written to: this tensor was computed by "
                               f"{name_of(self.node)}; use .detach() for one that stands alone")
        return [(self, "_data", data)]

    @property
    def requires_grad(self) -> bool:
        """True if gradients flow to or through this tensor."""
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value not in (True, False):
            raise TypeError(f"requires_grad: expected True or False, got {describe(value)}")
        if value == (self.node is not None):
            return
        if self.node is not None and not isinstance(self.node, Leaf):
            raise RuntimeError("requires_grad can be switched off on leaves only; use .detach() on a computed tensor")
        if value and self.dtype.kind != "f":
            raise TypeError(f"only floating-point tensors can require a gradient, this one has dtype {self.dtype}")
        self.node = Leaf(self, self._data) if value else None

    @property
    def is_leaf(self) -> bool:
        """True if no recorded op computed it."""
        return self.node is None or isinstance(self.node, Leaf)

    @property
    def shape(self) -> tuple[int, ...]: return self._data.shape  # type: ignore[no-any-return]

    @property
    def dtype(self) -> Any: return self._data.dtype

    @property
    def ndim(self) -> int: return self._data.ndim  # type: ignore[no-any-return]

    @property
    def size(self) -> int: return self._data.size  # type: ignore[no-any-return]

    @property
    def backend(self) -> str:
        """Name of the backend whose array this is."""
        return backends.of(self._data).name

    def __repr__(self) -> str:
        notes = [np.array2string(self._host(), separator=", ", prefix="tensor(")]
        notes += [f"shape={self.shape}"] if not self.size else []
        notes += [f"dtype={self.dtype}"] if self.dtype.name not in ("float32", "int64", "bool") else []
        notes += [f"backend={self.backend!r}"] if self.backend != "numpy" else []
        notes += [] if self.node is None else ["requires_grad=True" if self.is_leaf else f"op={name_of(self.node)}"]
        return f"tensor({', '.join(notes)})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    # --- with others
    def _host(self) -> np.ndarray[Any, Any]:
        return cast("np.ndarray[Any, Any]", backends.of(self._data).asnumpy(self._data))

    def numpy(self) -> np.ndarray[Any, Any]:
        """The values as a NumPy array (no copy on the NumPy backend). A tensor that requires a gradient is refused."""
        self._refuse_silent_detach("numpy()")
        return self._host()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        self._refuse_silent_detach("np.asarray")
        if self.backend != "numpy":
            raise TypeError(f"this tensor lives on {self.backend!r}: call .numpy() to copy it to the host")
        return np.array(self._data, dtype=dtype, copy=copy)

    def __dlpack__(self, **kwargs: Any) -> Any:
        self._refuse_silent_detach("DLPack")
        return self._data.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> Any:
        return self._data.__dlpack_device__()

    def _refuse_silent_detach(self, how: str) -> None:
        if self.node is not None:
            raise RuntimeError(f"{how} would silently drop the gradient of this tensor: call .detach() first")

    def item(self) -> Any:
        """The value of a one-element tensor, as a Python number."""
        if self.size != 1:
            raise ValueError(f"item() needs exactly one element, this tensor has shape {self.shape}")
        return self._host().item()

    def tolist(self) -> Any:
        """The values as nested Python lists."""
        return self._host().tolist()

    def detach(self) -> Tensor:
        """The same array without its history."""
        return Tensor(self._data)

    @explained
    def to(self, target: Any) -> Tensor:
        """This tensor on another backend (`.to("cupy")`) or as another dtype (`.to(ts.float64)`), differentiably."""
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

    # --- gradients
    @explained
    def backward(self, grad: Like = None, *, retain_graph: bool = False, create_graph: bool = False) -> None:
        """Add d(self)/d(leaf) to the `.grad` of every leaf that this tensor was computed from.

        `grad` weights this tensor's entries (same shape); it may be left out for a one-element tensor. The graph is
        freed on the way unless `retain_graph`; with `create_graph` the gradients can themselves be differentiated.
        """
        for leaf, g in pull_back([self], [grad], None, create_graph, retain_graph or create_graph).items():
            tensor = cast(Leaf, leaf).tensor()
            while tensor is not None:
                old = tensor.grad  # a sum is a new array, and the first gradient could belong to someone else
                new = _grown(old, g)
                # Threads may share a leaf: who came first is added to. In one line, where no tracer can raise halfway.
                with _swapping: tensor.grad = now = new if tensor.grad is old else tensor.grad  # noqa: E701
                if now is new:
                    break

    # --- operators
    def __neg__(self) -> Tensor: return ops.negative(self)
    def __pos__(self) -> Tensor: return self
    def __abs__(self) -> Tensor: return ops.abs(self)
    def __invert__(self) -> Tensor: return ops.bitwise_invert(self)
    def __add__(self, other: Like) -> Tensor: return ops.add(self, other)
    def __radd__(self, other: Like) -> Tensor: return ops.add(other, self)
    def __sub__(self, other: Like) -> Tensor: return ops.subtract(self, other)
    def __rsub__(self, other: Like) -> Tensor: return ops.subtract(other, self)
    def __mul__(self, other: Like) -> Tensor: return ops.multiply(self, other)
    def __rmul__(self, other: Like) -> Tensor: return ops.multiply(other, self)
    def __truediv__(self, other: Like) -> Tensor: return ops.divide(self, other)
    def __rtruediv__(self, other: Like) -> Tensor: return ops.divide(other, self)
    def __floordiv__(self, other: Like) -> Tensor: return ops.floor_divide(self, other)
    def __rfloordiv__(self, other: Like) -> Tensor: return ops.floor_divide(other, self)
    def __mod__(self, other: Like) -> Tensor: return ops.remainder(self, other)
    def __rmod__(self, other: Like) -> Tensor: return ops.remainder(other, self)
    def __pow__(self, other: Like) -> Tensor: return ops.pow(self, other)
    def __rpow__(self, other: Like) -> Tensor: return ops.pow(other, self)
    def __matmul__(self, other: Like) -> Tensor: return ops.matmul(self, other)
    def __rmatmul__(self, other: Like) -> Tensor: return ops.matmul(other, self)
    def __and__(self, other: Like) -> Tensor: return ops.bitwise_and(self, other)
    def __rand__(self, other: Like) -> Tensor: return ops.bitwise_and(other, self)
    def __or__(self, other: Like) -> Tensor: return ops.bitwise_or(self, other)
    def __ror__(self, other: Like) -> Tensor: return ops.bitwise_or(other, self)
    def __xor__(self, other: Like) -> Tensor: return ops.bitwise_xor(self, other)
    def __rxor__(self, other: Like) -> Tensor: return ops.bitwise_xor(other, self)
    def __eq__(self, other: Like) -> Tensor: return ops.equal(self, other)  # type: ignore[override]
    def __ne__(self, other: Like) -> Tensor: return ops.not_equal(self, other)  # type: ignore[override]
    def __lt__(self, other: Like) -> Tensor: return ops.less(self, other)
    def __le__(self, other: Like) -> Tensor: return ops.less_equal(self, other)
    def __gt__(self, other: Like) -> Tensor: return ops.greater(self, other)
    def __ge__(self, other: Like) -> Tensor: return ops.greater_equal(self, other)

    def __iadd__(self, other: Like) -> Tensor: return self._assign(self + other)
    def __isub__(self, other: Like) -> Tensor: return self._assign(self - other)
    def __imul__(self, other: Like) -> Tensor: return self._assign(self * other)
    def __itruediv__(self, other: Like) -> Tensor: return self._assign(self / other)

    def _assign(self, new: Tensor) -> Tensor:
        """`x += y` is a new tensor, but for a leaf under no_grad, which is written to: a training step by hand."""
        if not isinstance(self.node, Leaf) or grad_enabled():
            return new
        self.data = new._data
        return self

    def __getitem__(self, index: Any) -> Tensor: return ops.getitem(self, index)

    def __setitem__(self, index: Any, value: Like) -> None:
        if isinstance(self.node, Leaf) and grad_enabled():
            raise RuntimeError("assignment to a leaf that requires a gradient: do it under ts.no_grad(), or on a copy")
        if not self.is_leaf and not grad_enabled():
            raise RuntimeError(f"assignment under no_grad would cut the history of this tensor, computed by "
                               f"{name_of(self.node)}: assign to x.detach() instead")
        new = ops.setitem(self, index, value)
        together(*self._holds(new._data) if isinstance(self.node, Leaf)
                 else [(self, "_data", new._data), (self, "node", new.node)])

    # --- functions that users expect as methods
    @property
    def T(self) -> Tensor:
        """Transpose of a matrix."""
        if self.ndim != 2:
            raise ValueError(f".T is for 2 dimensions, this tensor has shape {self.shape}: use .mT or permute_dims")
        return ops.matrix_transpose(self)

    @property
    def mT(self) -> Tensor:
        """The last two dimensions swapped."""
        return ops.matrix_transpose(self)

    def abs(self) -> Tensor: return ops.abs(self)
    def exp(self) -> Tensor: return ops.exp(self)
    def log(self) -> Tensor: return ops.log(self)
    def sqrt(self) -> Tensor: return ops.sqrt(self)
    def square(self) -> Tensor: return ops.square(self)
    def sin(self) -> Tensor: return ops.sin(self)
    def cos(self) -> Tensor: return ops.cos(self)
    def tanh(self) -> Tensor: return ops.tanh(self)
    def sigmoid(self) -> Tensor: return ops.sigmoid(self)
    def clip(self, min: Like = None, max: Like = None) -> Tensor: return ops.clip(self, min, max)
    def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor: return ops.sum(self, axis, keepdims)
    def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor: return ops.mean(self, axis, keepdims)
    def prod(self, axis: Axis = None, keepdims: bool = False) -> Tensor: return ops.prod(self, axis, keepdims)
    def max(self, axis: Axis = None, keepdims: bool = False) -> Tensor: return ops.max(self, axis, keepdims)
    def min(self, axis: Axis = None, keepdims: bool = False) -> Tensor: return ops.min(self, axis, keepdims)
    def any(self, axis: Axis = None, keepdims: bool = False) -> Tensor: return ops.any(self, axis, keepdims)
    def all(self, axis: Axis = None, keepdims: bool = False) -> Tensor: return ops.all(self, axis, keepdims)
    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Tensor: return ops.argmax(self, axis, keepdims)
    def argmin(self, axis: int | None = None, keepdims: bool = False) -> Tensor: return ops.argmin(self, axis, keepdims)
    def var(self, axis: Axis = None, correction: float = 0, keepdims: bool = False) -> Tensor:
        return ops.var(self, axis, correction, keepdims)

    def std(self, axis: Axis = None, correction: float = 0, keepdims: bool = False) -> Tensor:
        return ops.std(self, axis, correction, keepdims)

    def sort(self, axis: int = -1, descending: bool = False) -> Tensor: return ops.sort(self, axis, descending)
    def argsort(self, axis: int = -1, descending: bool = False) -> Tensor: return ops.argsort(self, axis, descending)
    def astype(self, dtype: Any) -> Tensor: return ops.astype(self, dtype)
    def expand_dims(self, axis: Axis = 0) -> Tensor: return ops.expand_dims(self, axis)
    def squeeze(self, axis: Axis = None) -> Tensor: return ops.squeeze(self, axis)
    def flatten(self) -> Tensor: return ops.reshape(self, (-1,))
    def take(self, indices: Like, axis: int = 0) -> Tensor: return ops.take(self, indices, axis)

    def reshape(self, *shape: Any) -> Tensor:
        """`x.reshape(2, -1)` or `x.reshape((2, -1))`."""
        return ops.reshape(self, shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)

    def permute_dims(self, *axes: Any) -> Tensor:
        """`x.permute_dims(0, 2, 1)` or `x.permute_dims((0, 2, 1))`."""
        return ops.permute_dims(self, axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes)


Axis = int | tuple[int, ...] | None


def _unpickle(kind: type[Tensor], backend: str, data: Any, requires_grad: bool) -> Tensor:
    return kind(backends.load(backend).asarray(data), requires_grad=requires_grad)


def name_of(node: Node | None) -> str:
    """What to call the op that made a node, one output of several included."""
    return "" if node is None or not (node.op or node.parents) else (node.op or node.parents[0].op).__name__.lstrip("_")  # type: ignore


# --- recording -----------------------------------------------------------------------------------------------------


@overload
def op(body: Callable[P, tuple[R, Any]]) -> Callable[P, R]: ...
@overload
def op(*, definition: Callable[..., Any] | None = None, wide: bool = ...,
       ) -> Callable[[Callable[P, tuple[R, Any]]], Callable[P, R]]: ...
def op(body: Any = None, *, definition: Callable[..., Any] | None = None, wide: bool = False) -> Any:
    """Make a differentiable function from a body that runs on arrays.

    The body returns `(output, pulls)`. `output` is an array or a tuple of arrays. `pulls` is one of

    - a tuple with a pull-back, or None, for each positional argument: `g -> gradient of that argument`;
    - one joint pull-back `pull(g, needs) -> gradients`, with one entry a slot: a slot is a positional argument, or an
      entry of one that is a list or tuple with Tensors in it. `needs[i]` says whether slot i's gradient is wanted;
    - None, where there is no gradient.

    With several outputs `g` is a tuple. The engine sums a gradient over broadcast axes and casts it to its argument's
    dtype. A body is pure: it draws no random number and writes to no argument; a pull-back does not write to `g`.
    While gradients are recorded it is given copies of NumPy arrays and lists, as their owner may refill them.

    A body written with the functions of `namespace(x)` and operators runs on Tensors too: gradients of any order come
    for free. One that calls a kernel names the composed `definition` that it equals, a function of Tensors with the
    same arguments, which is what gradients of gradients use. One that takes several steps, forward or back, is `wide`:
    as `wide` below says of float16.

    >>> @op
    ... def cube(x):
    ...     return x**3, (lambda g: 3 * g * x**2,)
    """
    check.function("op", body=body or op, definition=definition or op)
    if body is None:
        return functools.partial(op, definition=definition, wide=wide)
    made = types.SimpleNamespace(__name__=body.__name__, body=body, definition=definition)  # `call` would hold itself

    @functools.wraps(body)
    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            args, kwargs = _positional(body, args, kwargs)
        raw, parents, listed = [], [], False
        lent: tuple[int, ...] = ()  # places of arguments that their owner can write to
        for a in args:
            if isinstance(a, Tensor):
                x = a._data
                if wide and x.itemsize == 2 and x.dtype.kind == "f":  # float16, at the least cost
                    return _in_float32(functools.partial(op, definition=definition)(body), args, kwargs)
                raw.append(x)
                parents.append(a.node)
            elif type(a) in _PLAIN or (type(a) is tuple and _PLAIN.issuperset(map(type, a))):
                raw.append(a)
                parents.append(None)
            else:
                x, nodes = _unwrap(a, args)
                raw.append(x)
                parents += nodes
                listed = True
                if type(x) is not _Slots:
                    lent = (*lent, len(raw) - 1)
        if (lent or kwargs) and any(parents) and grad_enabled():  # the caller may refill them before `backward`
            for i in lent:
                raw[i] = frozen(raw[i])
            kwargs = {name: frozen(x) for name, x in kwargs.items()}
        try:
            result = body(*raw, **kwargs)
        except (TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            if isinstance(error, (TypeError, ValueError)) and (moved := _moved(args, kwargs)):
                return functools.partial(op, definition=definition, wide=wide)(body)(*moved[0], **moved[1])
            raise explain(_elsewhere(raw, error), body, raw, {}) from error
        if type(result) is not tuple or len(result) != 2:
            raise TypeError(f"{body.__name__}: the body of an op must return (output, pull-backs)")
        out, pulls = result
        if _watched and (watchers := _watchers.get()):
            pulls = watchers[-1].forward(body.__name__, body, raw, kwargs, out, pulls)
        if pulls is None or not any(parents) or ((modes := _modes.get()) and not modes[-1].enabled):
            return tuple([_wrap(y) for y in out]) if type(out) is tuple else _wrap(out)
        constants = _constants(raw, parents) if listed or None in parents else ()
        return attach(made, parents, constants, kwargs, out, pulls)

    call.definition = definition  # type: ignore[attr-defined]
    call.body = body  # type: ignore[attr-defined]
    return call


def wide(fn: Callable[P, R]) -> Callable[P, R]:
    """A function of Tensors that, given float16, computes in float32, forward and back, and rounds once."""

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        for a in args:
            if isinstance(a, Tensor) and a._data.itemsize == 2 and a.dtype.kind == "f":
                return _in_float32(fn, args, kwargs)
        return fn(*args, **kwargs)

    return call


def _in_float32(fn: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    widen: Callable[[Any], Any] = lambda a: a.astype(np.float32) if getattr(a, "dtype", None) == np.float16 else a
    out = fn(*map(widen, args), **{name: widen(a) for name, a in kwargs.items()})
    given = [a.dtype for a in (*args, *kwargs.values()) if isinstance(a, Tensor) and a.dtype.kind == "f"]
    if any(dtype != np.float16 for dtype in given):  # the others decide
        return out
    narrow: Callable[[Any], Any] = lambda y: y.astype(np.float16) if y.dtype == np.float32 else y
    return tuple(map(narrow, out)) if type(out) is tuple else narrow(out)


_watched = False  # until somebody watches, in any thread: keeps the usual path short
_EMPTY: dict[str, Any] = {}
_new = object.__new__


def _wrap(array: Array, node: Node | None = None) -> Tensor:
    """A Tensor around what an op computed."""
    tensor = _new(Tensor)
    # NumPy turns 0-dimensional results into scalars
    tensor._data = array if type(array) in backends.arrays else namespaces[type(array)].asarray(array)
    tensor.node = node
    tensor.grad = None
    return tensor


def attach(op: Any, parents: list[Node | None], args: Sequence[Any], kwargs: Any, out: Any, pulls: Any) -> Any:
    """Tensors for `out`, one array or a tuple of them, with a node. See `Node` for the arguments.

    An op with several outputs has one node for itself, and one an output that hands its gradient up.
    """
    node = _new(Node)
    node.op, node.serial, node.args, node.kwargs, node.index = op, next(serials), args, kwargs or _EMPTY, None
    node.parents = tuple(parents)
    if type(pulls) is tuple and len(pulls) < len(parents) and any(parents[len(pulls) :]):
        raise TypeError(f"{op.__name__}: a Tensor has no pull-back of its own ({len(pulls)} for {len(parents)} slots): "
                        "it is in a list where one Tensor is expected (ts.stack them), or the op lacks a pull-back")
    if type(pulls) is tuple and args:  # keep only the closures that will be called
        pulls = tuple([f if p is not None else None for f, p in zip(pulls, parents, strict=False)])
    node.pulls = pulls
    if type(out) is not tuple:
        if out.dtype.kind != "f":
            return _wrap(out)
        shape, first = out.shape, parents[0]  # a shared tuple is one object less for the garbage collector
        node.shape = first.shape if first is not None and first.shape == shape else shape
        node.dtype = out.dtype
        return _wrap(out, node)
    node.shape, node.dtype = [y.shape for y in out], [y.dtype for y in out]
    return tuple([_wrap(y, _part(node, i) if y.dtype.kind == "f" else None) for i, y in enumerate(out)])


def _part(parent: Node, index: int) -> Node:
    """The node of one output of several."""
    node = Node()
    node.op, node.serial, node.parents, node.args, node.kwargs = None, next(serials), (parent,), (), {}
    node.pulls, node.shape, node.dtype, node.index = (), parent.shape[index], parent.dtype[index], index
    return node


class _Slots(list[Any]):
    """A list or tuple argument with Tensors in it: one slot an entry."""


def _moved(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]] | None:
    """The arguments of an op on a device with NumPy's arrays among them put there; None if there are none."""
    here = next((a for a in args if isinstance(a, Tensor) and not isinstance(a._data, np.ndarray)), None)
    if here is None or not any(isinstance(a, np.ndarray) for a in (*args, *kwargs.values())):
        return None
    move: Callable[[Any], Any] = lambda a: (
        a if not isinstance(a, np.ndarray) else ops.like(here, a)._data if a.ndim else a.item())
    return list(map(move, args)), {name: move(a) for name, a in kwargs.items()}


def _unwrap(a: Any, args: Sequence[Any]) -> tuple[Any, list[Node | None]]:
    """The raw form of an argument that is no Tensor, and the nodes of its slots."""
    if type(a) in backends.arrays:  # one of NumPy's without axes, beside a Tensor, is a number
        number = not a.ndim and isinstance(a, np.ndarray) and any(isinstance(x, Tensor) for x in args)
        return a.item() if number else a, [None]
    if isinstance(a, (list, tuple)) and any(isinstance(x, Tensor) for x in a):
        first = next(x for x in a if isinstance(x, Tensor))
        slots = [x if isinstance(x, Tensor) else ops.like(first, x) if getattr(x, "ndim", 0)
                 else ops.like(first, x).astype(first.dtype) for x in a]
        return _Slots(x._data for x in slots), [x.node for x in slots]
    return _plain(a), [None]


def _plain(a: Any) -> Any:
    """NumPy's scalars as Python's, which never widen an array and are not reckoned with in their width."""
    if type(a) in (list, tuple):
        return type(a)(map(_plain, a))
    return a.item() if isinstance(a, np.generic) else a


def frozen(a: Any) -> Any:
    """A copy of what its owner may refill before `backward`: of a NumPy array, or of a list or tuple that holds some.

    Arrays on a device are taken as they are: kernels hand them to each other, and each copy would be one more.
    """
    if isinstance(a, np.ndarray):
        return a.copy("K")
    return type(a)(map(frozen, a)) if type(a) in (list, tuple) else a


def _constants(raw: list[Any], parents: list[Node | None]) -> list[Any]:
    """The raw arguments with None in place of each parent's value."""
    slots = iter(parents)
    return [_Slots(x if next(slots) is None else None for x in a) if type(a) is _Slots
            else a if next(slots) is None else None for a in raw]


def _positional(body: Any, args: Any, kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Move a call's keyword arguments to their positions, so that Tensors among them are found."""
    names = body.__code__.co_varnames[: body.__code__.co_argcount]
    given = dict(zip(names[::-1], (body.__defaults__ or ())[::-1], strict=False)) | kwargs
    rest = {name: value for name, value in kwargs.items() if name not in names[len(args) :]}
    for name, value in rest.items():
        if name in ("dim", "keepdim"):
            raise TypeError(f"{body.__name__}() has no argument {name!r}: the names are NumPy's, axis= and keepdims=")
        if isinstance(value, Tensor):
            raise TypeError(f"{body.__name__}() takes {name!r} by keyword only, where no gradient can go: not a Tensor")
    try:
        return (*args, *[given[name] for name in names[len(args) :]]), rest
    except KeyError as name:
        raise TypeError(f"{body.__name__}() missing its argument {name}") from None


def _elsewhere(raw: list[Any], error: Exception) -> Exception:
    """The error of a body, or what explains it: that its arguments live on different backends."""
    flat = [x for a in raw for x in (a if type(a) is _Slots else [a])]
    places = sorted({backends.of(a).name for a in flat if type(a) in backends.arrays})
    if len(places) > 1 and (isinstance(error, TypeError) or "numpy.ndarray" in str(error)):
        return TypeError(f'its arguments live on different backends, {" and ".join(places)}: use .to("{places[0]}")')
    return error


def grad_enabled() -> bool:
    """True where this thread or asyncio task records gradients."""
    modes = _modes.get()
    return not modes or modes[-1].enabled


class no_grad(Scope):
    """Record nothing in this thread or asyncio task: as `with ts.no_grad():` or as a decorator.

    What a decorated generator or asynchronous function hands out or waits for runs in the mode that its caller has.
    """

    stack, enabled = _modes, False


class enable_grad(no_grad):
    """Record again, inside `no_grad`."""

    enabled = True


class watching(Scope):
    """See every op of this thread or asyncio task inside a `with` block: the base of `debug`."""

    stack = _watchers

    def forward(self, name: str, body: Any, raw: list[Any], kwargs: dict[str, Any], out: Any, pulls: Any) -> Any:
        """`body(*raw, **kwargs)` gave `out, pulls`: returns the pull-backs to go on with, which may watch as well."""
        return pulls

    def __enter__(self) -> Self:
        global _watched
        _watched = True
        return super().__enter__()


def watcher() -> watching | None:
    """Who watches the ops of this thread or asyncio task."""
    return next(reversed(_watchers.get()), None)


def joint(pulls: Any) -> Callable[[Any, tuple[bool, ...]], Sequence[Any]]:
    """Pull-backs in either form of an op's contract, as a joint one."""
    if callable(pulls):
        return cast(Callable[[Any, tuple[bool, ...]], Sequence[Any]], pulls)
    return lambda g, needs: [f(g) if f is not None and need else None for f, need in zip(pulls, needs, strict=False)]


def users_line() -> str:
    """`file:line` of the innermost frame outside tinyseq."""
    frame: Any = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == "tinyseq":
        frame = frame.f_back
    return f"called at {frame.f_code.co_filename}:{frame.f_lineno}"


# --- gradients -----------------------------------------------------------------------------------------------------


@explained
def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Like = None,
    *,
    create_graph: bool = False,
    retain_graph: bool = False,
    allow_unused: bool = False,
) -> Any:
    """d(outputs)/d(inputs), weighted by `grad_outputs` and summed over the outputs; `.grad` is left alone.

    Returns a Tensor of its input's shape and dtype, or a list of them for a sequence of inputs. `inputs` may be leaves
    or computed tensors. With `create_graph` the result can be differentiated again. An input that the outputs do not
    depend on is an error, unless `allow_unused`: then its entry is None.

    >>> x = ts.tensor(2.0, requires_grad=True)
    >>> slope = ts.grad(x**3, x, create_graph=True)   # 3 x^2 = 12
    >>> ts.grad(slope, x)                             # 6 x = 12
    """
    single, alone = isinstance(inputs, Tensor), isinstance(outputs, Tensor)
    if callable(outputs):
        raise TypeError("grad takes the tensor to differentiate; for a function there is value_and_grad(fn)(*args)")
    wanted, roots = _several("inputs", inputs), _several("outputs", outputs)
    seeds = [grad_outputs] * len(roots) if grad_outputs is None or alone else list(grad_outputs)
    for i, x in enumerate(wanted):
        if x.node is None:
            raise ValueError(f"input {i}, of shape {x.shape}, does not require a gradient")
    found = pull_back(roots, seeds, {x.node for x in wanted}, create_graph, retain_graph or create_graph)
    results: list[Tensor | None] = []
    for i, x in enumerate(wanted):
        g = found.get(cast(Node, x.node))
        if g is None and not allow_unused:
            raise ValueError(f"the outputs do not depend on input {i}, of shape {x.shape}: pass allow_unused=True "
                             "for None in its place")
        results.append(g if g is None else _grown(None, g))
    return results[0] if single else results


def _several(name: str, given: Any) -> list[Tensor]:
    several = list(given) if isinstance(given, (list, tuple)) else [given]
    if not all(isinstance(x, Tensor) for x in several):
        raise TypeError(f"expected {name} to be a Tensor or a list of them, got {describe(given)}")
    return several


_swapping = threading.Lock()


def _grown(old: Tensor | None, g: Any) -> Tensor:
    """A gradient, added to what was there, that the user may write to: g could be an array that others hold, or a
    broadcast one."""
    if not isinstance(g, Tensor):
        return Tensor(namespaces[type(g)].asarray(g if old is None else old._data + g, copy=old is None or None))
    with enable_grad():
        return g.astype(g.dtype) if old is None else old + g


def value_and_grad(fn: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., tuple[Any, Any]]:
    """The function `(*args) -> (fn(*args), its gradient with respect to the arguments at argnums)`.

    `fn` returns a one-element Tensor, or a tuple of which the first entry is one. Nests for higher orders.
    """

    check.function("value_and_grad", fn=fn)
    whole = [check.integers("value_and_grad", argnums=i) for i in (
        argnums if isinstance(argnums, (list, tuple)) else [argnums])]

    def wrapped(*args: Any) -> tuple[Any, Any]:
        arguments, outer = list(args), grad_enabled()
        with enable_grad():
            for i in whole:
                x = ops.asarray(args[i])
                arguments[i] = ops.identity(x) if x.requires_grad and outer else Tensor(x._data, True)
            value = fn(*arguments)
            loss = value[0] if isinstance(value, tuple) else value
            own = {arguments[i].node for i in whole}
            graph = _order([loss.node], {}) if loss.node is not None else []
            outside = any(type(node) is Leaf and node not in own for node in graph)  # the gradient depends on these too
            grads = grad(loss, [arguments[i] for i in whole], create_graph=outer and outside)
        return value, grads[0] if isinstance(argnums, int) else grads

    return wrapped


def pull_back(
    outputs: Sequence[Tensor], seeds: Sequence[Like], wanted: Set[Node | None] | None, create_graph: bool = False,
    retain_graph: bool = False, stop: bool = False, known: Mapping[Node, Tensor] = MappingProxyType({}),
) -> dict[Node, Any]:
    """Gradients of `outputs`, weighted by `seeds`, at the `wanted` nodes, or at all leaves where that is None.

    They are arrays, or Tensors if `create_graph`. With `stop` no gradient passes on through a wanted node; the graph is
    not looked at beyond the `known` ones, whose Tensors are given.
    """
    if create_graph and not grad_enabled():
        with enable_grad():
            return pull_back(outputs, seeds, wanted, create_graph, retain_graph, stop, known)
    grads: dict[Node, Any] = {}
    for y, seed in zip(outputs, seeds, strict=True):
        if y.node is None:
            raise ValueError(f"this tensor of shape {y.shape} was not computed from one that requires a gradient")
        g = _seed(y, seed, create_graph)
        grads[y.node] = grads[y.node] + g if y.node in grads else g
    order = _order(list(grads), known)
    needed = None if wanted is None else _reaching(order, wanted)
    replayed = _replay(order, known) if create_graph else None
    found: dict[Node, Any] = {}
    own: set[Node] = set()  # nodes whose gradient is a sum that we allocated: more is added in place
    for node in reversed(order):
        g = grads.pop(node, None)
        if g is None:
            continue
        if wanted is not None and node in wanted:
            found[node] = g
            if stop:
                continue
        if type(node) is Leaf:
            if wanted is None:
                found[node] = g
            continue
        parents, pulls = node.parents, node.pulls
        if node.index is not None:  # one output of several: hand its gradient up to the op
            grads.setdefault(parents[0], [None] * len(parents[0].shape))[node.index] = g  # type: ignore
            continue
        if pulls is None:
            raise _freed(node)
        if replayed is not None:
            pulls = replayed[node]
        if type(g) is list:
            g = _fill(g, node)
        joint = callable(pulls)
        if joint:
            pulls = pulls(g, tuple([p is not None and (needed is None or p in needed) for p in parents]))
        for parent, pull in zip(parents, pulls, strict=False):
            if parent is None or pull is None or (needed is not None and parent not in needed):
                continue
            h = pull if joint else pull(g)
            if h.shape != parent.shape:
                h = _unbroadcast(h, parent, node)
            if h.dtype is not parent.dtype and h.dtype != parent.dtype:
                h = h.astype(parent.dtype)
            old = grads.get(parent)
            if old is None:
                grads[parent] = h
            elif parent in own:
                old += h
                grads[parent] = old
            else:
                grads[parent] = old + h
                if replayed is None:
                    own.add(parent)
        if not retain_graph:
            node.pulls, node.parents, node.args = None, (), ()
    return found


def _freed(node: Node) -> RuntimeError:
    return RuntimeError(f"the graph of {name_of(node)} was freed by an earlier backward: pass retain_graph=True there")


def _seed(y: Tensor, seed: Like, create_graph: bool) -> Any:
    """The gradient to start from at output `y`: of its shape and dtype, an array or a Tensor."""
    xp = namespaces[type(y._data)]
    if seed is None:
        if y.size != 1:
            raise ValueError(f"an output of shape {y.shape} needs its gradient given (grad, grad_outputs), as it has "
                             "not just one element, got None")
        g = xp.ones(y.shape, dtype=y.dtype)
    else:
        g = backends.of(y._data).asarray(seed._data if isinstance(seed, Tensor) else seed, dtype=y.dtype)
        if g.shape != y.shape:
            raise ValueError(f"the gradient of an output of shape {y.shape} must have that shape, got {g.shape}")
    if not create_graph:
        return g
    return seed.astype(y.dtype) if isinstance(seed, Tensor) else Tensor(g)


def _order(roots: list[Node], known: Mapping[Node, Tensor]) -> list[Node]:
    """The nodes that `roots` were computed from, each after its parents; nothing beyond the `known` ones."""
    seen = set(roots)
    for node in roots:  # grows as it goes
        if node in known:
            continue
        if type(node) is Leaf and node.written:
            raise RuntimeError(f"a leaf of shape {node.shape} was written to after its use: run the forward pass again")
        for parent in node.parents:
            if parent is not None and parent not in seen:
                seen.add(parent)
                roots.append(parent)
    roots.sort(key=attrgetter("serial"))
    return roots


def _reaching(order: list[Node], wanted: Set[Node | None]) -> set[Node]:
    """The nodes from which a gradient reaches a wanted one."""
    needed: set[Node] = set()
    for node in order:
        if node in wanted or any(parent in needed for parent in node.parents):
            needed.add(node)
    return needed


def _fill(several: list[Any], node: Node) -> tuple[Any, ...]:
    """Zeros in place of the gradients of outputs that were not used."""
    given = next(g for g in several if g is not None)
    wrap, array = (Tensor, given._data) if isinstance(given, Tensor) else (lambda x: x, given)
    zeros = namespace(array).zeros
    return tuple(wrap(zeros(shape, dtype=dtype)) if g is None else g
                 for g, shape, dtype in zip(several, node.shape, node.dtype, strict=True))


def _unbroadcast(g: Any, parent: Node, node: Node) -> Any:
    """Sum a gradient over the axes along which its argument was broadcast."""
    extra = g.ndim - len(parent.shape)
    if extra < 0:  # assignment drops leading axes of length 1
        g = g.reshape((1,) * -extra + g.shape)
    if extra > 0:
        g = namespace(g).sum(g, axis=tuple(range(extra)))
    if g.ndim == len(parent.shape):
        axes = tuple([i for i, n in enumerate(parent.shape) if n == 1 and g.shape[i] != 1])
        g = namespace(g).sum(g, axis=axes, keepdims=True) if axes else g
    if g.shape != parent.shape:
        raise RuntimeError(f"a pull-back of {name_of(node)} returned shape {g.shape} for an argument of {parent.shape}")
    return g


# --- gradients of gradients ----------------------------------------------------------------------------------------


def _replay(order: list[Node], known: Mapping[Node, Tensor]) -> dict[Node, Any]:
    """Run the ops of a graph once more, on Tensors: their pull-backs, made of Tensors.

    The values computed on the way take the original ones' places in the graph, so that derivatives with respect to
    any tensor in it are found. Values of `known` nodes are not computed again.
    """
    values: dict[Node, Any] = {}
    pulls: dict[Node, Any] = {}
    with enable_grad():
        for node in order:
            if node in known:
                values[node] = known[node]
                continue
            if type(node) is Leaf:
                values[node] = _wrap(node.data, node)
                continue
            if node.index is not None:
                out = values[cast(Node, node.parents[0])][node.index]
            elif node.pulls is None:
                raise _freed(node)
            else:
                args = _arguments(node, values)
                if node.op.definition is not None:
                    out, pulls[node] = _run_definition(node, args)
                else:
                    out, pulls[node] = node.op.body(*args, **node.kwargs)
                if type(out) is tuple:
                    values[node] = tuple([Tensor(y._data) if any(y is a for a in args) else y for y in out])
                    continue
                if any(out is a for a in args):  # a body may return what it was given
                    out = Tensor(out._data)
            out.node = node
            values[node] = out
    return pulls


def _arguments(node: Node, values: dict[Node, Any]) -> list[Any]:
    """A node's arguments with Tensors in the places of its parents."""
    if not node.args:
        return [values[cast(Node, parent)] for parent in node.parents]
    slots = iter(node.parents)

    def fill(constant: Any) -> Any:
        parent = next(slots)
        return constant if parent is None else values[parent]

    return [_Slots(map(fill, a)) if type(a) is _Slots else fill(a) for a in node.args]


def _run_definition(node: Node, args: list[Any]) -> tuple[Any, Any]:
    """What an op with a kernel of its own gives, and its joint pull-back, by its composed definition."""

    first = next(x for a in args for x in (a if type(a) is _Slots else [a]) if isinstance(x, Tensor))

    def alias(a: Any) -> Any:  # gradients stop here: what lies behind an argument is not this op's business
        if isinstance(a, Tensor):
            return ops.identity(a)
        return ops.like(first, a) if type(a) in backends.arrays and a.dtype.kind == "f" else a  # without gradient

    args = [_Slots(map(alias, a)) if type(a) is _Slots else alias(a) for a in args]
    out = node.op.definition(*args, **node.kwargs)

    def pull(g: Any, needs: tuple[bool, ...]) -> list[Any]:
        flat = [x for a in args for x in (a if type(a) is _Slots else [a])]
        nodes = [x.node if isinstance(x, Tensor) else None for x in flat]
        nodes += node.parents[len(nodes) :]  # what a recomputed function closes over
        known = {x.node: x for x in flat if isinstance(x, Tensor) and x.node is not None}
        return pull_through(out, g, nodes, needs, create_graph=True, known=known)

    return Tensor(out._data) if isinstance(out, Tensor) else tuple(Tensor(y._data) for y in out), pull


def pull_through(out: Any, g: Any, nodes: Sequence[Node | None], needs: Sequence[bool], **how: Any) -> list[Any]:
    """A joint pull-back of a function that was recorded: its output or outputs, their gradients, its slots' nodes."""
    pairs = [(y, h) for y, h in ([(out, g)] if isinstance(out, Tensor) else zip(out, g, strict=True)) if y.node]
    wanted = {n for n, need in zip(nodes, needs, strict=True) if need}
    found: dict[Any, Any] = pull_back([y for y, _ in pairs], [h for _, h in pairs], wanted, retain_graph=True,
                                      stop=True, **how)
    return [found.get(n) for n in nodes]


from tinyseq import ops  # noqa: E402  (the methods of Tensor call them, and they are made by the @op above)

namespaces[Tensor] = ops
