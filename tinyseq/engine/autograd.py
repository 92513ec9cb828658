"""Recording: an op returns its output and how to pull a gradient back through it.

    @op
    def tanh(x):
        y = namespace(x).tanh(x)
        return y, (lambda g: g * (1 - y * y),)

`@op` runs the body on the arrays inside its Tensors and, where a gradient will be wanted, leaves a `Node` behind: the
op, its parents' nodes, its constants and the pull-backs. A node is not a Tensor and keeps no computed parent's value:
beside the leaves' own arrays only what some pull-back uses stays alive. `backward` walks the nodes from the output to
the leaves.

For gradients of gradients the same bodies run once more, on Tensors this time (`_replay` in gradients.py): then the
pull-backs are made of Tensors too, and what they compute can be differentiated again. No op needs a second rule.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Self, cast, overload

import numpy as np

from tinyseq import backends, check
from tinyseq.check import P, R, called, describe, explain, explained, users_frame
from tinyseq.engine import mistakes
from tinyseq.engine.creation import like, operand
from tinyseq.engine.graph import Node, modes, serials
from tinyseq.engine.interop import is_foreign
from tinyseq.engine.tensor import PLAIN, Array, Tensor, namespaces
from tinyseq.scope import Scope


@overload
def op(body: Callable[P, tuple[R, Any]]) -> Callable[P, R]: ...
@overload
def op(*, definition: Callable[..., Any] | None = None, wide: bool = ...,
       ) -> Callable[[Callable[P, tuple[R, Any]]], Callable[P, R]]: ...
def op(body: Any = None, *, definition: Callable[..., Any] | None = None, wide: bool = False) -> Any:
    """Make a differentiable function from a body that runs on arrays.

    Its annotations are those of the function that users call: where they say Tensor, the body gets the array inside,
    and a Tensor only when it is run again for gradients of gradients.

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
    given float16 it computes in float32, forward and back, and rounds once.

    >>> @ts.op
    ... def cube(x):
    ...     return x**3, (lambda g: 3 * g * x**2,)
    >>> ts.value_and_grad(cube)(ts.tensor(2.0))
    (tensor(8., op=cube), tensor(12.))
    """
    check.function("op", body=body or op, definition=definition or op)
    if body is None:
        return functools.partial(op, definition=definition, wide=wide)
    called(body, body.__name__.lstrip("_"))
    return _recorded(body, definition, wide)


def _recorded(body: Any, definition: Callable[..., Any] | None, wide: bool) -> Any:
    """The function that runs `body` on the arrays in its Tensors and records it. Every op goes through these lines."""
    # What a node's `op` is: were it `call`, that would refer to itself, a cycle.
    made = types.SimpleNamespace(__name__=body.__name__, body=body, definition=definition)
    operands = _operands(body)
    forms: dict[bool, Any] = {}

    def again(wide: bool) -> Any:
        """The op once more, in float32 or on a device."""
        if wide not in forms:
            forms[wide] = _recorded(body, definition, wide)
        return forms[wide]

    @functools.wraps(body)
    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            args, kwargs = _positional(body, args, kwargs)
        raw, parents = [], []  # one entry an argument; one a slot
        listed = False  # whether an argument has several slots
        lent: tuple[int, ...] = ()  # places of arguments that their owner can write to
        for a in args:
            if isinstance(a, Tensor):
                x = a._data
                if wide and x.itemsize == 2 and x.dtype.kind == "f":  # float16, at the least cost
                    return _in_float32(again(False), args, kwargs)
                raw.append(x)
                parents.append(a.node)
            elif type(a) in PLAIN or (
                    type(a) is tuple and len(raw) not in operands and PLAIN.issuperset(map(type, a))):
                raw.append(a)
                parents.append(None)
            else:
                try:
                    x, nodes = _unwrap(a, args, operands.get(len(raw)))
                except (TypeError, ValueError) as error:
                    raise explain(error, body, args, kwargs) from error
                raw.append(x)
                parents += nodes
                listed = listed or type(x) is Slots
                lent = lent if type(x) is Slots else (*lent, len(raw) - 1)
        recording = any(parents) and (not (stack := modes.get()) or stack[-1].enabled)  # grad_enabled(), without a call
        if recording and (lent or kwargs):
            for i in lent:
                raw[i] = frozen(raw[i])
            kwargs = {name: frozen(x) for name, x in kwargs.items()}
        watchers = _watchers.get() if _watched else ()
        try:
            result = body(*raw, **kwargs) if not watchers else watchers[-1].run(body, raw, kwargs)
        except (TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            if isinstance(error, (TypeError, ValueError)) and (moved := _moved(args, kwargs)):
                # NumPy arrays beside a device's: put there, and once more
                return again(wide)(*moved[0], **moved[1])
            given = [x if isinstance(a, Tensor) or type(x) is Slots else a for a, x in zip(args, raw, strict=True)]
            raise explain(mistakes.of_body(in_slots(raw), error), body, given, kwargs) from error
        if type(result) is not tuple or len(result) != 2:
            raise TypeError(f"{made.__name__}: the body of an op must return (output, pull-backs), got "
                            f"{describe(result)}: end it with `return y, (lambda g: ...,)`, or `return y, None`")
        out, pulls = result
        if watchers:
            pulls = watchers[-1].forward(body.__name__.lstrip("_"), body, raw, kwargs, out, pulls)
        try:
            if pulls is None or not recording:
                return tuple([wrap(y) for y in out]) if type(out) is tuple else wrap(out)
            constants = _constants(raw, parents) if listed or None in parents else None
            return attach(made, parents, constants, kwargs, out, pulls)
        except (TypeError, AttributeError) as error:
            raise mistakes.of_output(made.__name__, out, error) from error

    call.definition = definition  # type: ignore[attr-defined]
    call.body = body  # type: ignore[attr-defined]
    return called(call, body.__name__.lstrip("_"))


def wide(fn: Callable[P, R]) -> Callable[P, R]:
    """A function of Tensors that, given float16, computes in float32, forward and back, and rounds once; `explained`
    too."""

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        for a in (*args, *kwargs.values()) if kwargs else args:
            if isinstance(a, Tensor) and a._data.itemsize == 2 and a.dtype.kind == "f":
                return _in_float32(fn, args, kwargs)
        return fn(*args, **kwargs)

    return explained(called(call, fn.__name__))


def _in_float32(fn: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    def widen(a: Any) -> Any: return a.astype(np.float32) if getattr(a, "dtype", None) == np.float16 else a
    def narrow(y: Any) -> Any: return y.astype(np.float16) if y.dtype == np.float32 else y

    out = fn(*map(widen, args), **{name: widen(a) for name, a in kwargs.items()})
    if any(isinstance(a, Tensor) and a.dtype.kind == "f" and a.dtype.itemsize > 2 for a in (*args, *kwargs.values())):
        return out  # these decide
    return tuple(map(narrow, out)) if type(out) is tuple else narrow(out)


_EMPTY: dict[str, Any] = {}
_new = object.__new__


def wrap(array: Array, node: Node | None = None) -> Tensor:
    """A Tensor around what an op computed."""
    tensor, kind = _new(Tensor), type(array)
    if kind not in backends.arrays:
        if kind is Tensor:
            raise TypeError("expected an array, got a Tensor")
        array = namespaces[kind].asarray(array)  # NumPy turns 0-dimensional results into scalars
    tensor._data = array
    tensor.node = node
    tensor.grad = None
    return tensor


def attach(op: Any, parents: list[Node | None], args: list[Any] | None, kwargs: Any, out: Any, pulls: Any) -> Any:
    """Tensors for `out`, one array or a tuple of them, with a node. See `Node` for the arguments.

    An op with several outputs has one node for itself, and one an output that hands its gradient up.
    """
    node = _new(Node)
    node.op, node.serial, node.index = op, next(serials), None
    node.args, node.kwargs, node.parents = args, kwargs or _EMPTY, tuple(parents)
    if type(pulls) is tuple:
        if len(pulls) != len(parents) and (any(parents[len(pulls) :]) or mistakes.too_many(op.body, pulls)):
            raise mistakes.of_count(op.__name__, len(pulls), len(parents))
        if args is not None:  # keep only the closures that will be called
            pulls = tuple([f if p is not None else None for f, p in zip(pulls, parents, strict=False)])
    node.pulls = pulls
    if type(out) is not tuple:
        if out.dtype.kind != "f":
            return wrap(out)
        shape, first = out.shape, parents[0]  # a shared tuple is one object less for the garbage collector
        node.shape = first.shape if first is not None and first.shape == shape else shape
        node.dtype = out.dtype
        return wrap(out, node)
    node.shape, node.dtype = [y.shape for y in out], [y.dtype for y in out]
    return tuple([wrap(y, _part(node, i) if y.dtype.kind == "f" else None) for i, y in enumerate(out)])


def _part(parent: Node, index: int) -> Node:
    """The node of one output of several."""
    node = Node()
    node.op, node.serial, node.parents, node.args, node.kwargs = None, next(serials), (parent,), (), {}
    node.pulls, node.shape, node.dtype, node.index = (), parent.shape[index], parent.dtype[index], index
    return node


class Slots(list[Any]):
    """A list or tuple argument with Tensors in it: one slot an entry."""


def _moved(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]] | None:
    """The arguments of an op on a device with NumPy's arrays among them put there; None if there are none."""
    here = next((a for a in args if isinstance(a, Tensor) and not isinstance(a._data, np.ndarray)), None)
    if here is None or not any(isinstance(a, np.ndarray) for a in (*args, *kwargs.values())):
        return None

    def move(a: Any) -> Any: return a if not isinstance(a, np.ndarray) else like(here, a)._data if a.ndim else a.item()
    return list(map(move, args)), {name: move(a) for name, a in kwargs.items()}


def _operands(body: Any) -> dict[int, bool]:
    """Places of a body's arguments that are operands by their annotations: False for one, True for a list of them."""
    code, kinds = getattr(body, "__code__", None), getattr(body, "__annotations__", {})
    names = code.co_varnames[: code.co_argcount] if code else ()
    found = {i: getattr(kinds[name], "__name__", str(kinds[name])) for i, name in enumerate(names) if name in kinds}
    return {i: kind == "Sequence[Like]" for i, kind in found.items()
            if kind.removesuffix(" | None") in ("Tensor", "Like", "Sequence[Like]")}


def _unwrap(a: Any, args: Sequence[Any], several: bool | None = None) -> tuple[Any, list[Node | None]]:
    """The raw form of an argument that is no Tensor, and the nodes of its slots. `several`: None for one that is no
    operand, else whether it is a list of them."""
    if type(a) in backends.arrays:  # one of NumPy's without axes, beside a Tensor, is a number
        number = not a.ndim and isinstance(a, np.ndarray) and any(isinstance(x, Tensor) for x in args)
        return a.item() if number else a, [None]
    if isinstance(a, (list, tuple)):
        first = next((x for x in a if isinstance(x, Tensor)), a[0] if several and a else None)
        if first is not None:
            first = operand(first)
            slots = [x if isinstance(x, Tensor) else like(first, x) if getattr(x, "ndim", 0) or isinstance(x, list)
                     else like(first, x).astype(first.dtype) for x in a]
            return Slots(x._data for x in slots), [x.node for x in slots]
        if several is None:
            return _plain(a), [None]
    elif not is_foreign(a):
        return _plain(a), [None]
    first = next((x for x in args if isinstance(x, Tensor)), None)
    return _unwrap(operand(a, first)._data, args)


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
    slots = iter(parents)  # here and not through `over_slots`, which costs a call each
    return [Slots(x if next(slots) is None else None for x in a) if type(a) is Slots
            else a if next(slots) is None else None for a in raw]


def over_slots(fn: Callable[[Any, Any], Any], args: Sequence[Any], parents: Sequence[Node | None]) -> list[Any]:
    """`args` with fn(x, parent) in place of what is in each slot."""
    slots = iter(parents)
    return [Slots(fn(x, next(slots)) for x in a) if type(a) is Slots else fn(a, next(slots)) for a in args]


def in_slots(args: Sequence[Any]) -> list[Any]:
    """What is in the slots of `args`, one after another."""
    return [x for a in args for x in (a if type(a) is Slots else (a,))]


def _positional(body: Any, args: Any, kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Move a call's keyword arguments to their positions, so that Tensors among them are found."""
    names = body.__code__.co_varnames[: body.__code__.co_argcount]
    given = dict(zip(names[::-1], (body.__defaults__ or ())[::-1], strict=False)) | kwargs
    rest = {name: value for name, value in kwargs.items() if name not in names[len(args) :]}
    for name, value in rest.items():
        if name not in body.__code__.co_varnames[: len(names) + body.__code__.co_kwonlyargcount]:
            raise explain(TypeError(), body, args, kwargs)
        if isinstance(value, Tensor):
            raise TypeError(f"{body.__name__}() takes {name!r} by keyword only, where no gradient can go: not a "
                            "Tensor, whose place is before the `*`")
    try:
        return (*args, *[given[name] for name in names[len(args) :]]), rest
    except KeyError as name:
        raise TypeError(f"{body.__name__}() missing its argument {name}") from None


_watched = False  # until somebody watches, in any thread: keeps the usual path short
_watchers: ContextVar[tuple[watching, ...]] = ContextVar("watchers", default=())


class watching(Scope):
    """See every op of this thread or asyncio task inside a `with` block: the base of `debug`."""

    stack = _watchers

    def run(self, body: Any, raw: list[Any], kwargs: dict[str, Any]) -> Any:
        """What `body(*raw, **kwargs)` returns, of an op whose other arguments and output `forward` is given next."""
        return body(*raw, **kwargs)

    def forward(self, name: str, body: Any, raw: list[Any], kwargs: dict[str, Any], out: Any, pulls: Any) -> Any:
        """`body(*raw, **kwargs)` gave `out, pulls`: returns the pull-backs to go on with, which may watch as well."""
        return pulls

    def in_place(self, name: str, body: Callable[..., Any], args: Sequence[Any]) -> Any:
        """What `body(*args)` returns, which writes to arrays in lists: an op from what they were to what they are."""
        before = list(copy.deepcopy(args))
        out = body(*args)
        self.forward(name, lambda *args: ((body(*args), args), None), before, {}, (out, args), None)
        return out

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        global _watched
        _watched = True  # here, as a decorated generator enters its stack without `__enter__`
        return super().__new__(cls)


def joint(pulls: Any) -> Callable[[Any, tuple[bool, ...]], Sequence[Any]]:
    """Pull-backs in either form of an op's contract, as a joint one."""
    if callable(pulls):
        return cast(Callable[[Any, tuple[bool, ...]], Sequence[Any]], pulls)
    return lambda g, needs: [f(g) if f is not None and need else None for f, need in zip(pulls, needs, strict=False)]


def users_line() -> str:
    """`file:line` of the innermost frame outside tinyseq."""
    frame = users_frame()
    return f"called at {frame.f_code.co_filename}:{frame.f_lineno}"
