"""The functions of tensors, under the names of the Array API standard (2024.12).

Each is an `@op`: a body that runs on arrays and on Tensors alike, and how to pull a gradient back (see `tensor`). What
is a combination of other ops is written as one. Results have NumPy's shapes and dtypes, except that Python and NumPy
scalars never widen an array. `axis` counts from the end when negative; a tuple of axes is several at once.
"""

from __future__ import annotations

import builtins
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from tinyseq import backends, check
from tinyseq.check import explained
from tinyseq.tensor import Array, Axis, Like, P, R, Tensor, grad_enabled, namespace, op, wide

Out = tuple[Tensor, Any]  # what a body returns: its output and the pull-backs
Outs = tuple[tuple[Tensor, ...], Any]
Shape = int | Sequence[int]

# --- creation: on the active backend, float32 unless said otherwise ------------------------------------------------


@explained
def tensor(data: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """A new tensor with a copy of `data`: a number, nested lists, an array or a Tensor.

    Python floats become float32, integers int64, booleans bool; arrays keep their dtype (and their backend). Numbers
    that a narrower integer dtype does not hold are a ValueError.
    """
    return _tensor(data, dtype, True, requires_grad)


@explained
def asarray(data: Any, dtype: Any = None) -> Tensor:
    """Like `tensor`, but shares memory where it can; a Tensor is returned as it is."""
    if isinstance(data, Tensor):
        return data if dtype is None else data.astype(dtype)
    return _tensor(data, dtype, None)


def _tensor(data: Any, dtype: Any, copy: bool | None, requires_grad: bool = False,
            backend: backends.Backend | None = None) -> Tensor:
    backend, numbers = backend or backends.active(), False
    if isinstance(data, Tensor):
        data, backend = data._data, backends.of(data._data)
    elif isinstance(data, (list, tuple)) and builtins.any(isinstance(x, Tensor) for x in data):
        raise TypeError("expected numbers, got Tensors in a list: ts.stack joins them")
    elif type(data) in backends.arrays and not isinstance(data, np.ndarray):  # on a device: it stays there
        backend = backends.of(data)
    elif isinstance(data, np.generic) or not hasattr(data, "__array__"):
        numbers = True
        try:
            data = np.asarray(data.item() if isinstance(data, np.generic) else data)
        except ValueError as error:
            raise ValueError(f"expected numbers, in lists of equal lengths: {error}") from error
    data = data if isinstance(data, backend.array_types) else np.asarray(data)
    if data.dtype.kind not in "biuf":
        raise TypeError(f"expected real numbers or booleans, got dtype {data.dtype}")
    if dtype is not None:
        check.fitting(data, check.dtype(dtype))
    elif numbers and data.dtype == np.float64:
        dtype = np.float32
    return Tensor(backend.asarray(data, dtype=dtype, copy=copy), requires_grad)


def like(x: Tensor, data: Any) -> Tensor:
    """An `operand`, with host data put where x lives."""
    return operand(data, backends.of(x._data))


def operand(data: Any, backend: backends.Backend | None = None) -> Tensor:
    """`asarray(data)`, but while gradients are recorded a copy of what is on the host: its owner may refill it."""
    if isinstance(data, Tensor):
        return data
    shared = not grad_enabled() or (type(data) in backends.arrays and not isinstance(data, np.ndarray))
    return _tensor(data, None, None if shared else True, backend=backend)


@explained
def from_dlpack(x: Any) -> Tensor:
    """A tensor that shares the memory of another library's (PyTorch, JAX, CuPy, ...)."""
    return Tensor(backends.active().xp.from_dlpack(x))


def _new(name: str, *args: Any, dtype: Any, requires_grad: bool = False, **more: Any) -> Tensor:
    """What the active backend's function `name` makes, float32 unless said otherwise; or that of the array given."""
    like = name.endswith("_like")
    xp = namespace(args[0]) if like else backends.active().xp
    dtype = np.float32 if dtype is None and not like else dtype
    if args[0] is None:  # of which older NumPys make a number
        raise TypeError("expected numbers")
    data = getattr(xp, name)(*args, dtype=dtype if dtype is None else check.dtype(dtype), **more)
    return Tensor(data, requires_grad)


@explained
def zeros(shape: Shape, dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """All entries 0."""
    return _new("zeros", shape, dtype=dtype, requires_grad=requires_grad)


@explained
def ones(shape: Shape, dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """All entries 1."""
    return _new("ones", shape, dtype=dtype, requires_grad=requires_grad)


@explained
def full(shape: Shape, fill_value: float, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """All entries `fill_value`, whose type decides the dtype (float32 for a float) unless `dtype` does."""
    value = check.scalar(fill_value.item() if isinstance(fill_value, np.generic) else fill_value)
    dtype = dtype or {int: np.int64, bool: np.bool}.get(type(value))
    check.fitting(np.asarray(value), dtype or np.float32)
    return _new("full", shape, value, dtype=dtype, requires_grad=requires_grad)


@explained
def zeros_like(x: Like, dtype: Any = None) -> Tensor:
    """Zeros of x's shape and, unless given, dtype, where x lives."""
    return _new("zeros_like", raw(x), dtype=dtype)


@explained
def ones_like(x: Like, dtype: Any = None) -> Tensor:
    """Ones of x's shape and, unless given, dtype, where x lives."""
    return _new("ones_like", raw(x), dtype=dtype)


@explained
def full_like(x: Like, fill_value: float, dtype: Any = None) -> Tensor:
    """`fill_value` in x's shape and, unless given, dtype, where x lives."""
    return _new("full_like", raw(x), check.scalar(fill_value), dtype=dtype)


@explained
def arange(start: float, stop: float | None = None, step: float = 1, dtype: Any = None) -> Tensor:
    """`arange(n)` is 0 .. n-1. int64 for integers, float32 if any argument is a float."""
    if not step:  # None is 1 to NumPy
        raise ValueError(f"expected step to be a number other than 0, got {step}")
    if dtype is None:
        fractions = builtins.any(isinstance(x, (float, np.floating)) for x in (start, stop, step))
        dtype = np.float32 if fractions else np.int64
    start, stop = (0, start) if stop is None else (start, stop)
    if (n := math.ceil((stop - start) / step)) > 0:
        check.fitting(np.asarray([start, start + (n - 1) * step]), check.dtype(dtype))
    return _new("arange", start, stop, step, dtype=dtype)


@explained
def linspace(start: float, stop: float, num: int, dtype: Any = np.float32, endpoint: bool = True) -> Tensor:
    """`num` evenly spaced numbers from `start` to `stop`, which is the last unless `endpoint` is False."""
    start, stop = check.numbers("linspace", start=start, stop=stop)
    num = check.integers("linspace", 0, num=num)
    check.fitting(np.asarray([start, stop]), check.dtype(dtype))
    return _new("linspace", start, stop, num, dtype=dtype, endpoint=endpoint)


@explained
def eye(n_rows: int, n_cols: int | None = None, k: int = 0, dtype: Any = np.float32) -> Tensor:
    """(n_rows, n_cols) with ones on the k-th diagonal."""
    n_rows, n_cols = check.integers("eye", 0, n_rows=n_rows, n_cols=n_rows if n_cols is None else n_cols)
    k = check.integers("eye", k=k)
    return _new("eye", n_rows, n_cols, k=k, dtype=dtype)


@op
def one_hot(ids: Like, num_classes: int, dtype: Any = np.float32) -> Out:
    """(...,) integers in [0, num_classes) -> (..., num_classes) with a one at each; any other integer is an error."""
    num_classes = check.integers("one_hot", 0, num_classes=num_classes)
    ids = raw(check_ids("one_hot", ids, num_classes))
    xp = namespace(ids)
    return (xp.expand_dims(ids, -1) == xp.arange(num_classes)).astype(check.dtype(dtype)), None


def check_ids(name: str, ids: Like, size: int, ignored: int | None = None) -> Array:
    """The integers `ids`, as of `integers`. Those out of range, which would be another row's numbers, are refused
    where they come from the host; on a device, where looking would wait for it, nobody looks."""
    ids = integers(ids, f"{name}: ")
    known = ids if ignored is None or not isinstance(ids, np.ndarray) else ids[ids != ignored]
    if isinstance(known, np.ndarray) and known.size and (known.min() < 0 or known.max() >= size):
        bad = int(known.min() if known.min() < 0 else known.max())
        raise IndexError(f"{name}: id {bad} is out of range, expected 0 <= id < {size} (ids of shape {ids.shape})")
    return ids


def raw(x: Like) -> Array:
    return x._data if isinstance(x, Tensor) else asarray(x)._data


def integers(data: Like, where: str = "") -> Array:
    """The array of `data` as int64, so that nothing is reckoned with in a narrow type; it stays where it is.

    Booleans and numbers with a fraction are a TypeError, what int64 does not hold is an IndexError.
    """
    data = data._data if isinstance(data, Tensor) else data
    data = data if type(data) in backends.arrays else np.asarray(data)
    if data.dtype == np.int64:
        return data
    if data.dtype.kind not in "iu" and data.size:
        raise TypeError(f"{where}expected integers as indices, got dtype {data.dtype} and shape {data.shape}")
    if data.dtype == np.uint64 and isinstance(data, np.ndarray) and data.max(initial=0) > np.iinfo(np.int64).max:
        raise IndexError(f"{where}id {data.max()} is out of range, expected integers that int64 holds")
    return data.astype(np.int64)


# --- elementwise ---------------------------------------------------------------------------------------------------


@op
def identity(x: Tensor) -> Out:
    """A tensor with the same values: a new place in the graph."""
    return x, (lambda g: g,)


@op
def add(a: Like, b: Like) -> Out:
    """a + b."""
    return a + b, (lambda g: g, lambda g: g)


@op
def subtract(a: Like, b: Like) -> Out:
    """a - b."""
    return a - b, (lambda g: g, lambda g: -g)


@op
def multiply(a: Like, b: Like) -> Out:
    """a * b."""
    return a * b, (lambda g: g * b, lambda g: g * a)


@op(wide=True)
def divide(a: Like, b: Like) -> Out:
    """a / b."""
    y = a / b
    return y, (lambda g: g / b, lambda g: -g * y / b)


@op
def negative(x: Tensor) -> Out:
    """-x."""
    return -x, (lambda g: -g,)


@op(wide=True)
def pow(a: Like, b: Like) -> Out:
    """a**b. At a = 0 the gradient of b is 0 (for b >= 0); at b = 0 that of a is 0, as in PyTorch.

    Integers to a negative integer power are no integers: a ValueError (on a device nobody looks at an array of powers).
    """
    xp = namespace(a, b)
    if type(b) is int and b < 0 and a.dtype.kind != "f":
        raise ValueError("integers to a negative power are no integers: use x.astype(ts.float32), or a power of -1.0")
    y = a**b if isinstance(b, (int, float)) else xp.pow(a, b)  # ** of a 0-d array 2 forgets its dtype in NumPy 2.0

    def pull_a(g: Array) -> Array:
        if isinstance(b, (int, float)):
            return g * (b * a ** (b - 1)) if b else _zero(g)
        return xp.where(b == 0, 0, g * (b * xp.where(b == 0, 1, a) ** xp.where(b == 0, 1, b - 1)))

    def pull_b(g: Array) -> Array:
        return g * y * xp.log(xp.where((a == 0) & (b >= 0), xp.ones_like(y), a))

    return y, (pull_a, pull_b)


@op
def floor_divide(a: Like, b: Like) -> Out:
    """The largest integer <= a / b; no gradient."""
    return a // b, None


@op(wide=True)
def remainder(a: Like, b: Like) -> Out:
    """a - b * floor(a / b): the sign is b's."""
    xp = namespace(a, b)
    return xp.remainder(a, b), (lambda g: g, lambda g: -g * xp.floor_divide(a, b))


@explained
def reciprocal(x: Like) -> Tensor:
    """1 / x."""
    return divide(1.0, x)


@op(wide=True)
def atan2(a: Like, b: Like) -> Out:
    """The angle of the point (b, a), in (-pi, pi]; the gradients at the origin are 0."""
    xp = namespace(a, b)

    def over(g: Array) -> Array:  # the square of the distance
        square = a * a + b * b
        return g / xp.where(square == 0, math.inf, square)

    return xp.atan2(a, b), (lambda g: over(g) * b, lambda g: -over(g) * a)


def _zero(g: Array) -> Array:
    return namespace(g).zeros_like(g)


def _of_input(name: str, doc: str, slope: Callable[[Any, Any], Any]) -> Callable[[Tensor], Tensor]:
    """The op `name` of one tensor x: its derivative is slope(namespace, x)."""

    def body(x: Tensor) -> Out:
        xp = namespace(x)
        return getattr(xp, name)(x), (lambda g: g * slope(xp, x),)

    return _named(name, doc, body, wide=True)


def _of_output(name: str, doc: str, slope: Callable[[Any], Any]) -> Callable[[Tensor], Tensor]:
    """The op `name` of one tensor: its derivative is slope(y), of the result y, which alone is kept."""

    def body(x: Tensor) -> Out:
        y = getattr(namespace(x), name)(x)
        return y, (lambda g: g * slope(y),)

    return _named(name, doc, body, wide=True)


def _step(name: str, doc: str) -> Callable[[Tensor], Tensor]:
    """The op `name` of one tensor, flat but for its steps."""
    return _named(name, doc, lambda x: (getattr(namespace(x), name)(x), (_zero,)))


def _named(name: str, doc: str, body: Callable[P, tuple[R, Any]], wide: bool = False) -> Callable[P, R]:
    body.__name__, body.__qualname__, body.__doc__ = name, name, doc
    return op(wide=wide)(body)


square = _of_input("square", "x * x.", lambda xp, x: 2 * x)
sqrt = _of_output("sqrt", "Square root.", lambda y: 0.5 / y)
exp = _of_output("exp", "e**x.", lambda y: y)
expm1 = _of_output("expm1", "exp(x) - 1, exact near 0.", lambda y: y + 1)
log = _of_input("log", "Natural logarithm.", lambda xp, x: 1 / x)
log1p = _of_input("log1p", "log(1 + x), exact near 0.", lambda xp, x: 1 / (x + 1))
log2 = _of_input("log2", "Logarithm to base 2.", lambda xp, x: 1 / (x * math.log(2)))
log10 = _of_input("log10", "Logarithm to base 10.", lambda xp, x: 1 / (x * math.log(10)))
sin = _of_input("sin", "Sine.", lambda xp, x: xp.cos(x))
cos = _of_input("cos", "Cosine.", lambda xp, x: -xp.sin(x))
tan = _of_output("tan", "Tangent.", lambda y: 1 + y * y)
asin = _of_input("asin", "Inverse sine.", lambda xp, x: 1 / xp.sqrt(1 - x * x))
acos = _of_input("acos", "Inverse cosine.", lambda xp, x: -1 / xp.sqrt(1 - x * x))
atan = _of_input("atan", "Inverse tangent.", lambda xp, x: 1 / (1 + x * x))
sinh = _of_input("sinh", "Hyperbolic sine.", lambda xp, x: xp.cosh(x))
cosh = _of_input("cosh", "Hyperbolic cosine.", lambda xp, x: xp.sinh(x))
tanh = _of_output("tanh", "Hyperbolic tangent.", lambda y: 1 - y * y)
asinh = _of_input("asinh", "Inverse hyperbolic sine.", lambda xp, x: 1 / xp.sqrt(x * x + 1))
acosh = _of_input("acosh", "Inverse hyperbolic cosine.", lambda xp, x: 1 / xp.sqrt(x * x - 1))
atanh = _of_input("atanh", "Inverse hyperbolic tangent.", lambda xp, x: 1 / (1 - x * x))
erf = _of_input("erf", "The error function, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x.",
                lambda xp, x: (2 / math.sqrt(math.pi)) * xp.exp(-x * x))
sigmoid = _of_output("sigmoid", "1 / (1 + exp(-x)), right for any x.", lambda y: y * (1 - y))
abs = _of_input("abs", "|x|; the gradient at 0 is 0.", lambda xp, x: xp.sign(x))
sign = _step("sign", "-1, 0 or 1; the gradient is 0.")
floor = _step("floor", "The largest integer <= x; the gradient is 0.")
ceil = _step("ceil", "The smallest integer >= x; the gradient is 0.")
trunc = _step("trunc", "The nearest integer towards 0; the gradient is 0.")
round = _step("round", "The nearest integer, halves the even one; the gradient is 0.")


@op(wide=True)
def logaddexp(a: Like, b: Like) -> Out:
    """log(exp(a) + exp(b)), without overflow; the gradients are the softmax of a and b, and 0 where both are -inf."""
    xp = namespace(a, b)

    def share(x: Array, other: Array) -> Array:
        if builtins.any(isinstance(v, (int, float)) and math.isfinite(v) for v in (a, b)):
            return xp.sigmoid(x - other)
        tied = a == b  # where both are infinite there is no difference
        half = xp.sigmoid(xp.where(tied, 0.0, x) - xp.where(tied, 0.0, other))
        return xp.where(tied & (a == -math.inf), 0.0, half)

    return xp.logaddexp(a, b), (lambda g: g * share(a, b), lambda g: g * share(b, a))


def _of_pair(name: str, doc: str) -> Callable[[Like, Like], Tensor]:
    """The op `maximum` or `minimum`: the gradient goes to the one that was taken."""

    def body(a: Like, b: Like) -> Out:
        y = getattr(namespace(a, b), name)(a, b)
        where = namespace(y).where
        pull: Callable[[Any], Any] = lambda x: lambda g: where(a == b, g * 0.5, where(x == y, g, _zero(g)))
        return y, (pull(a), pull(b))

    return _named(name, doc, body)


maximum = _of_pair("maximum", "The larger of each pair; where they are equal each gets half of the gradient.")
minimum = _of_pair("minimum", "The smaller of each pair; where they are equal each gets half of the gradient.")


@op
def clip(x: Tensor, min: Like = None, max: Like = None) -> Out:
    """x limited to [min, max] (max where min > max). At a bound the gradient goes to x; beyond one, to the bound."""
    xp = namespace(x, min, max)
    raised = x if min is None else xp.maximum(x, min)
    y = raised if max is None else xp.minimum(raised, max)
    low = x < min if min is not None else xp.zeros_like(x, dtype=bool)
    high = raised > max if max is not None else xp.zeros_like(x, dtype=bool)
    pull: Callable[[Any], Any] = lambda here: lambda g: xp.where(here, g, _zero(g))
    return y, (pull(~(low | high)), pull(low & ~high), pull(high))


@op
def where(condition: Like, a: Like, b: Like) -> Out:
    """`a` where the boolean `condition` holds, else `b`."""
    xp = namespace(a, b, condition)
    if isinstance(a, (int, float)) and isinstance(b, (int, float)) and float in (type(a), type(b)):
        a = xp.asarray(a, dtype=np.float32)  # two Python numbers make float32, as everywhere
    pull_a, pull_b = (lambda g: xp.where(condition, g, _zero(g))), (lambda g: xp.where(condition, _zero(g), g))
    y = xp.where(check.operand(condition), a, b)
    if y.dtype.kind in "OU":  # of None, of text
        raise TypeError("expected numbers to choose from")
    return y, (None, pull_a, pull_b)


@op
def astype(x: Tensor, dtype: Any) -> Out:
    """Converted to `dtype`; gradients pass between floating-point types."""
    return x.astype(check.dtype(dtype)), (lambda g: g,)


@op
def to_backend(x: Tensor, name: str) -> Out:
    """Copied to the backend called `name`; gradients come back to this one."""
    here = x.backend if isinstance(x, Tensor) else backends.of(x).name
    return _move(x, name), (lambda g: _move(g, here),)


def _move(x: Any, name: str) -> Any:
    return to_backend(x, name) if isinstance(x, Tensor) else backends.load(name).asarray(backends.of(x).asnumpy(x))


# --- comparisons and logic: boolean results, no gradient -----------------------------------------------------------


def _compare(name: str, doc: str) -> Callable[[Like, Like], Tensor]:
    return _named(name, doc, lambda a, b: (getattr(namespace(a, b), name)(a, b), None))


def _logic(name: str, doc: str) -> Callable[[Like, Like], Tensor]:
    return _named(name, doc, lambda a, b: (
        getattr(namespace(a, b), name)(check.operand(a), check.operand(b)), None))


def _test(name: str, doc: str) -> Callable[[Tensor], Tensor]:
    return _named(name, doc, lambda x: (getattr(namespace(x), name)(x), None))


equal = _compare("equal", "a == b.")
not_equal = _compare("not_equal", "a != b.")
less = _compare("less", "a < b.")
less_equal = _compare("less_equal", "a <= b.")
greater = _compare("greater", "a > b.")
greater_equal = _compare("greater_equal", "a >= b.")
logical_and = _logic("logical_and", "Both true: what is not 0 is true.")
logical_or = _logic("logical_or", "One true, or both.")
logical_xor = _logic("logical_xor", "One true, not both.")
bitwise_and = _compare("bitwise_and", "Of booleans, both; of integers, bit by bit.")
bitwise_or = _compare("bitwise_or", "Of booleans, one or both; of integers, bit by bit.")
bitwise_xor = _compare("bitwise_xor", "Of booleans, one, not both; of integers, bit by bit.")
bitwise_invert = _test("bitwise_invert", "Of booleans, not; of integers, each bit turned.")
logical_not = _test("logical_not", "0, or False.")
isnan = _test("isnan", "Not a number.")
isinf = _test("isinf", "inf or -inf.")
isfinite = _test("isfinite", "Neither NaN nor an infinity.")


# --- reductions ----------------------------------------------------------------------------------------------------


def _axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """`axis` as a tuple of axes counted from the front; all of them for None."""
    whole = type(axis) is int or isinstance(axis, np.integer)  # a bool is none
    axes: Any = range(ndim) if axis is None else (axis,) if whole else tuple(axis)  # type: ignore[arg-type]
    if builtins.any(not -ndim <= i < ndim for i in axes):
        raise IndexError(f"axis {axis} is out of range for {ndim} dimensions")
    return tuple(i % ndim for i in axes)


def _expander(x: Tensor, axis: Axis, keepdims: bool) -> Callable[[Tensor], Tensor]:
    """The function that gives a reduction's output the axes of x that it lost, with length 1."""
    axes = _axes(axis, x.ndim)
    return lambda y: y if keepdims else namespace(y).expand_dims(y, axes)


def _count(x: Tensor, axis: Axis) -> int:
    return math.prod(x.shape[i] for i in _axes(axis, x.ndim))


def _first(x: Tensor, axes: Sequence[int]) -> Tensor:
    """The first entry of x along each of the axes, with length 1."""
    return x[tuple([slice(1) if i in axes else slice(None) for i in range(x.ndim)])]


@op
def sum(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Out:
    """Sum over an axis, several, or all."""
    xp, shape, expand = namespace(x), x.shape, _expander(x, axis, keepdims)
    return xp.sum(x, axis=axis, keepdims=keepdims), (lambda g: xp.broadcast_to(expand(g), shape),)


@op(wide=True)
def mean(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Out:
    """Mean over an axis, several, or all."""
    xp, shape, expand, n = namespace(x), x.shape, _expander(x, axis, keepdims), _count(x, axis)
    return xp.mean(x, axis=axis, keepdims=keepdims), (lambda g: xp.broadcast_to(expand(g) / n, shape),)


def _divisor(x: Tensor, axis: Axis, correction: float) -> float:
    """How many numbers count along the axes of a variance."""
    n = _count(x, axis)
    if type(correction) not in (int, float):
        correction = check.numbers("var", correction=correction)
    if correction and not correction < n:
        raise ValueError(f"expected correction < {n}, as many numbers as there are along axis {axis} of "
                         f"shape {x.shape}, got {correction}")
    return n - correction


@op(wide=True)
def var(x: Tensor, axis: Axis = None, correction: float = 0, keepdims: bool = False) -> Out:
    """Variance: squared deviations from the mean, summed and divided by n - `correction` (0, unlike PyTorch's 1)."""
    xp, expand, n = namespace(x), _expander(x, axis, keepdims), _divisor(x, axis, correction)
    x = x if x.dtype.kind == "f" else x.astype(np.float64)
    deviation = x - _first(x, _axes(axis, x.ndim))  # which is exactly 0 for equal entries, as from their mean it is not
    deviation -= xp.mean(deviation, axis=axis, keepdims=True)
    y = xp.sum(deviation * deviation, axis=axis, keepdims=keepdims) / n
    return y, (lambda g: expand(g) * deviation * 2 / n,)


@explained
@wide
def std(x: Tensor, axis: Axis = None, correction: float = 0, keepdims: bool = False) -> Tensor:
    """Standard deviation, the root of `var`; where it is 0 so is the gradient."""
    return _root(var(x, axis, correction, keepdims), 2)


@op(wide=True)
def _root(x: Tensor, n: float) -> Out:
    """The n-th root, with a gradient of 0 where x is 0."""
    xp = namespace(x)
    safe = xp.where(x == 0, 1, x)
    y = xp.where(x == 0, 0, safe ** (1 / n))
    return y, (lambda g: g * (y / (safe * n)),)


@op(wide=True)
def prod(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Out:
    """Product. Its gradient, the product of the others, is right at zeros as well."""
    xp, expand, axes = namespace(x), _expander(x, axis, keepdims), _axes(axis, x.ndim)
    y = xp.prod(x, axis=axis, keepdims=keepdims)

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


def _extreme(name: str, doc: str) -> _Reduction:
    """The op `max` or `min` over axes: entries of x that equal the result share the gradient."""

    def body(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Out:
        xp, expand = namespace(x), _expander(x, axis, keepdims)
        y = getattr(xp, name)(x, axis=axis, keepdims=keepdims)

        def pull(g: Array) -> Array:
            tied = (x == expand(y)).astype(g.dtype)
            return expand(g) * (tied / xp.sum(tied, axis=axis, keepdims=True))

        return y, (pull,)

    return _named(name, doc, body, wide=True)


max = _extreme("max", "The largest entry; tied ones share the gradient equally.")
min = _extreme("min", "The smallest entry; tied ones share the gradient equally.")


@op(wide=True)
def logsumexp(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Out:
    """log of the sum of exp(x), without overflow; -inf (gradient 0) where every entry is -inf."""
    xp, expand = namespace(x), _expander(x, axis, keepdims)
    top = xp.max(x, axis=axis, keepdims=True) if x.size else xp.sum(x, axis=axis, keepdims=True) - math.inf
    shift = xp.where(top == -math.inf, 0, xp.minimum(top, np.finfo(x.dtype).max))
    parts = xp.exp(xp.minimum(x - shift, 1))  # at most 0, but for infinite entries, beside which others are nothing
    total = xp.sum(parts, axis=axis, keepdims=True)
    total = xp.where(total == 0, 1, total)
    y = xp.where(xp.isinf(top), top, xp.log(total) + shift)
    pull = lambda g: expand(g) / total * parts
    return y if keepdims else xp.squeeze(y, axis=axis), (pull,)


@op
def cumulative_sum(x: Tensor, axis: int = -1) -> Out:
    """Running sums along `axis`, each including its own entry."""
    xp = namespace(x)
    back = lambda g: xp.flip(xp.cumulative_sum(xp.flip(g, axis=axis), axis=axis), axis=axis)
    return xp.cumulative_sum(x, axis=check.no_flag(axis)), (back,)


def _found(name: str, doc: str) -> _Reduction:
    """The op `name` over axes, without a gradient."""

    def body(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Out:
        return getattr(namespace(x), name)(x, axis=axis, keepdims=keepdims), None

    return _named(name, doc, body)


any = _found("any", "True where any entry is not 0.")
all = _found("all", "True where no entry is 0.")
argmax = _found("argmax", "Place of the largest entry (the first of tied ones) along `axis`, or of all, flattened.")
argmin = _found("argmin", "Place of the smallest entry (the first of tied ones) along `axis`, or of all, flattened.")


# --- sorting -------------------------------------------------------------------------------------------------------


@op
def argsort(x: Tensor, axis: int = -1, descending: bool = False) -> Out:
    """Places of the entries in ascending (or descending) order; tied ones keep their order."""
    xp = namespace(x)
    if not descending:
        return xp.argsort(x, axis=axis, stable=True), None
    flipped = xp.argsort(xp.flip(x, axis=axis), axis=axis, stable=True)  # flipped twice, so that ties keep their order
    return xp.flip(x.shape[axis] - 1 - flipped, axis=axis), None


@explained
def sort(x: Tensor, axis: int = -1, descending: bool = False) -> Tensor:
    """In ascending (or descending) order; each gradient goes to the entry that stands there, ties in their order."""
    return take_along_axis(x, argsort(x, axis, descending), axis)


@explained
def topk(x: Tensor, k: int, axis: int = -1, largest: bool = True) -> tuple[Tensor, Tensor]:
    """The k largest (or smallest) entries along `axis`, sorted, and their places; of tied ones the first."""
    places = argsort(x, axis, largest)
    k = check.integers("topk", 0, places.shape[axis], k=k)
    places = getitem(places, _along(axis, x.ndim, slice(0, k)))
    return take_along_axis(x, places, axis), places


# --- products ------------------------------------------------------------------------------------------------------


def times(a: Array, b: Array) -> Array:
    """a @ b, where several matrices times one are one product."""
    if a.ndim > 2 and b.ndim == 2:
        xp, rows = namespace(a, b), math.prod(a.shape[:-1])
        return xp.reshape(xp.matmul(xp.reshape(a, (rows, a.shape[-1])), b), (*a.shape[:-1], b.shape[-1]))
    return namespace(a, b).matmul(a, b)


def times_over_rows(a: Array, b: Array) -> Array:
    """The sum of the products of each row of a (..., n) with that of b (..., m): (n, m)."""
    xp = namespace(a, b)
    if a.ndim != 2:
        a, b = (xp.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1])) for x in (a, b))
    return xp.matmul(xp.matrix_transpose(a), b)


@op
def matmul(a: Like, b: Like) -> Out:
    """(..., n, k) @ (..., k, m) -> (..., n, m), leading axes broadcast; a 1-D operand is a row (left) or a column."""
    xp, a_ndim, b_ndim = namespace(a, b), a.ndim, b.ndim
    if a_ndim == 0 or b_ndim == 0 or a.shape[-1] != b.shape[-2 if b_ndim > 1 else -1]:
        raise ValueError("expected (..., n, k) @ (..., k, m) with the same k")

    def pull_a(g: Array) -> Array:
        if b_ndim == 1:
            return xp.expand_dims(g, -1) * b
        if a_ndim == 1:
            return xp.squeeze(xp.matmul(xp.expand_dims(g, -2), xp.matrix_transpose(b)), axis=-2)
        return times(g, xp.matrix_transpose(b))

    def pull_b(g: Array) -> Array:
        if a_ndim == 1:
            return g * a if b_ndim == 1 else xp.expand_dims(a, -1) * xp.expand_dims(g, -2)
        if b_ndim == 1:
            return xp.squeeze(xp.matmul(xp.matrix_transpose(a), xp.expand_dims(g, -1)), axis=-1)
        return times_over_rows(a, g) if b_ndim == 2 else xp.matmul(xp.matrix_transpose(a), g)

    return times(a, b), (pull_a, pull_b)


def _both(a: Like, b: Like) -> tuple[Tensor, Tensor]:
    """Two operands, where the first Tensor of them lives."""
    first = a if isinstance(a, Tensor) else operand(b)
    return like(first, a), like(first, b)


@explained
@wide
def vecdot(a: Like, b: Like, axis: int = -1) -> Tensor:
    """Sum of a * b along `axis`, which is as long in both."""
    a, b = _both(a, b)
    i, j = (_axes(axis, x.ndim)[0] for x in (a, b))
    if a.shape[i] != b.shape[j]:
        raise ValueError(f"vecdot: expected axis {axis} as long in both, got shapes {a.shape} and {b.shape}")
    return sum(multiply(a, b), axis)


@explained
def outer(a: Like, b: Like) -> Tensor:
    """(n,), (m,) -> (n, m): every product."""
    a, b = _both(a, b)
    if a.ndim != 1 or b.ndim != 1:
        raise ValueError(f"outer: expected two vectors, got shapes {a.shape} and {b.shape}")
    return multiply(expand_dims(a, 1), b)


@explained
@wide
def vector_norm(x: Tensor, axis: Axis = None, keepdims: bool = False, ord: float = 2) -> Tensor:
    """(sum |x|^ord)^(1/ord); the largest |x| for `ord=inf`. The gradient at 0 is 0."""
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


# --- shape ---------------------------------------------------------------------------------------------------------


@op
def reshape(x: Tensor, shape: Shape) -> Out:
    """The same entries in the same order; one length may be -1."""
    xp, before = namespace(x), x.shape
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    y = xp.reshape(x, shape)
    if y.shape != shape and -1 not in shape:  # NumPy takes any number below 0 for one
        raise ValueError("expected lengths, of which one may be -1")
    return y, (lambda g: xp.reshape(g, before),)


@op
def permute_dims(x: Tensor, axes: Sequence[int]) -> Out:
    """The axes in another order: axis i of the result is axis `axes[i]` of x."""
    xp, axes = namespace(x), tuple(axes)
    if sorted(_axes(axes, x.ndim)) != list(range(x.ndim)):
        raise ValueError(f"expected each of {x.ndim} axes once")
    inverse = tuple(sorted(range(x.ndim), key=_axes(axes, x.ndim).__getitem__))
    return xp.permute_dims(x, axes), (lambda g: xp.permute_dims(g, inverse),)


def _of_matrices(x: Tensor) -> Any:
    if x.ndim < 2:
        raise ValueError("expected at least 2 dimensions")
    return namespace(x)


@op
def matrix_transpose(x: Tensor) -> Out:
    """The last two axes swapped."""
    xp = _of_matrices(x)
    return xp.matrix_transpose(x), (lambda g: xp.matrix_transpose(g),)


@op
def moveaxis(x: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Out:
    """The axes at `source` moved to `destination`, the others kept in their order."""
    xp, source, destination = namespace(x), check.no_flag(source), check.no_flag(destination)
    return xp.moveaxis(x, source, destination), (lambda g: xp.moveaxis(g, destination, source),)


@op
def expand_dims(x: Tensor, axis: Axis = 0) -> Out:
    """A new axis of length 1 at `axis` of the result."""
    xp, before = namespace(x), x.shape
    return xp.expand_dims(x, check.no_flag(axis)), (lambda g: xp.reshape(g, before),)


@op
def squeeze(x: Tensor, axis: Axis = None) -> Out:
    """Without the axes of length 1: those given, or all."""
    xp, before = namespace(x), x.shape
    return xp.squeeze(x, axis=axis), (lambda g: xp.reshape(g, before),)


@op
def broadcast_to(x: Tensor, shape: Sequence[int]) -> Out:
    """Repeated along new leading axes and along axes of length 1, without a copy."""
    return namespace(x).broadcast_to(x, tuple(shape)), (lambda g: g,)


@op
def concat(tensors: Sequence[Like], axis: int | None = 0) -> Out:
    """Joined along an axis that they have; flattened and joined for None."""
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
    """Joined along a new axis."""
    xp = namespace(*tensors)
    return xp.stack(tensors, axis=check.no_flag(axis)), lambda g, needs: xp.unstack(g, axis=axis)


def _along(axis: int, ndim: int, index: Any) -> tuple[Any, ...]:
    """The index that applies `index` to one axis and takes the others whole."""
    return (*(slice(None),) * _axes(axis, ndim)[0], index)


@op
def unstack(x: Tensor, axis: int = 0) -> Outs:
    """The slices along `axis`, without that axis."""
    xp = namespace(x)
    return tuple(xp.unstack(x, axis=check.no_flag(axis))), (lambda g: xp.stack(g, axis=axis),)


@op
def split(x: Tensor, sections: int | Sequence[int], axis: int = 0) -> Outs:
    """Cut along `axis` into `sections` equal parts, or before each of the places listed (as `numpy.split`)."""
    xp, n = namespace(x), x.shape[_axes(axis, x.ndim)[0]]
    if isinstance(sections, int):
        if sections < 1 or n % sections:
            raise ValueError(f"axis {axis} cannot be cut into {sections} equal parts")
        sections = [i * (n // sections) for i in range(1, sections)]
    parts = [x[_along(axis, x.ndim, slice(a, b))] for a, b in zip([0, *sections], [*sections, n], strict=True)]
    return tuple(parts), (lambda g: xp.concat(g, axis=axis),)


@op
def flip(x: Tensor, axis: Axis = None) -> Out:
    """Reversed along an axis, several, or all."""
    xp = namespace(x)
    return xp.flip(x, axis=check.no_flag(axis)), (lambda g: xp.flip(g, axis=axis),)


@op
def roll(x: Tensor, shift: int | Sequence[int], axis: Axis) -> Out:
    """Shifted along an axis, or several by as many shifts, what leaves at one end entering at the other."""
    xp = namespace(x)
    shift = shift if isinstance(shift, int) else tuple(map(int, shift))  # not in the width they come in
    back = -shift if isinstance(shift, int) else tuple([-n for n in shift])
    return xp.roll(x, shift, check.no_flag(axis)), (lambda g: xp.roll(g, back, axis),)


@op
def repeat(x: Tensor, repeats: int | Sequence[int], axis: int) -> Out:
    """Each slice along `axis` `repeats` times in a row, or as often as its own count says."""
    xp, after = namespace(x), _axes(axis, x.ndim)[0] + 1
    if not isinstance(repeats, int):
        places = np.repeat(np.arange(x.shape[after - 1]), integers(repeats))
        return _picked(x, _along(axis, x.ndim, places))
    apart = (*x.shape[:after], repeats, *x.shape[after:])
    return xp.repeat(x, repeats, axis), (lambda g: xp.sum(xp.reshape(g, apart), axis=after),)


@explained
def tile(x: Tensor, repetitions: Sequence[int]) -> Tensor:
    """The whole tensor `repetitions` times along each axis (missing leading entries of either are 1)."""
    repetitions = [check.integers("tile", 0, **{f"repetitions[{i}]": n}) for i, n in enumerate(repetitions)]
    times = (*(1,) * (x.ndim - len(repetitions)), *repetitions)
    shape = (*(1,) * (len(times) - x.ndim), *x.shape)
    pairs = [m for pair in zip(times, shape, strict=True) for m in pair]
    spread = reshape(x, [m for n in shape for m in (1, n)])
    return reshape(broadcast_to(spread, pairs), [a * b for a, b in zip(times, shape, strict=True)])


@op
def pad(x: Tensor, pad_width: Sequence[tuple[int, int]], constant_values: float = 0.0) -> Out:
    """`pad_width[i]` = (before, after) entries of `constant_values` around axis i."""
    if len(pad_width) != x.ndim or builtins.any(w < 0 for pair in pad_width for w in pair):
        raise ValueError(f"expected {x.ndim} pairs of widths >= 0")
    check.scalar(constant_values)
    inside = tuple(slice(before, before + n) for (before, _), n in zip(pad_width, x.shape, strict=True))
    return namespace(x).pad(x, pad_width, constant_values=constant_values), (lambda g: g[inside],)


@op
def tril(x: Tensor, k: int = 0) -> Out:
    """Zero above the k-th diagonal of each matrix."""
    xp = _of_matrices(x)
    return xp.tril(x, k=operator.index(k)), (lambda g: xp.tril(g, k=k),)


@op
def triu(x: Tensor, k: int = 0) -> Out:
    """Zero below the k-th diagonal of each matrix."""
    xp = _of_matrices(x)
    return xp.triu(x, k=operator.index(k)), (lambda g: xp.triu(g, k=k),)


# --- indexing ------------------------------------------------------------------------------------------------------


def _index(index: Any) -> Any:
    """An index with the arrays of its Tensors."""
    if isinstance(index, tuple):
        return tuple(_index(i) for i in index)
    return index._data if isinstance(index, Tensor) else index


def getitem(x: Tensor, index: Any) -> Tensor:
    """x[index], as in NumPy: slices, ellipsis, None, integers, integer and boolean arrays, mixed."""
    return _getitem(x, _index(index))


@op
def _getitem(x: Tensor, index: Any) -> Out:
    return _picked(x, index)


def _picked(x: Tensor, index: Any) -> Out:
    xp, shape = namespace(x), x.shape
    return xp.getitem(x, index), (lambda g: xp.unindex(g, index, shape),)


def unindex(values: Tensor, index: Any, shape: Sequence[int]) -> Tensor:
    """Zeros of `shape` with `values` added at `index`: what pulls a gradient back through `x[index]`."""
    return _unindex(values, _index(index), tuple(shape))


@op
def _unindex(values: Tensor, index: Any, shape: tuple[int, ...]) -> Out:
    return namespace(values).unindex(values, index, shape), (lambda g: g[index],)


def setitem(x: Tensor, index: Any, value: Like) -> Tensor:
    """A copy of x with `value` at `index`, each place given once; what `x[index] = value` makes of x."""
    return _setitem(x, _index(index), value)


@op
def _setitem(x: Tensor, index: Any, value: Like) -> Out:
    return _put(x, index, value), (lambda g: _put(g, index, 0), None, lambda g: g[index])


def _put(x: Any, index: Any, value: Any) -> Any:
    if isinstance(x, Tensor) or isinstance(value, Tensor):
        return setitem(asarray(x), index, value)
    y = namespace(x).asarray(x, copy=True)
    y[index] = check.operand(value)
    return y


@op
def take(x: Tensor, indices: Like, axis: int = 0) -> Out:
    """x's slices along `axis` at `indices`: integers, of any shape."""
    return _picked(x, _along(axis, x.ndim, integers(indices)))


@op
def take_along_axis(x: Tensor, indices: Like, axis: int = -1) -> Out:
    """For each place along the other axes, the entries of x at that place's `indices` along `axis`."""
    indices, axis = integers(indices), _axes(axis, x.ndim)[0]
    if indices.ndim != x.ndim:
        raise ValueError("expected indices with as many dimensions as x")
    xp = namespace(indices)
    places = [xp.reshape(xp.arange(n), (-1, *(1,) * (x.ndim - 1 - i))) for i, n in enumerate(x.shape)]
    return _picked(x, (*places[:axis], indices, *places[axis + 1 :]))


@op
def index_add(x: Tensor, indices: Like, values: Tensor, axis: int = 0) -> Out:
    """x plus `values` at the `indices` along `axis`; an index given twice is added to twice."""
    xp, index = namespace(x, values), _along(axis, x.ndim, integers(indices))
    expected = (*x.shape[: len(index) - 1], *index[-1].shape, *x.shape[len(index) :])
    if values.shape != expected:
        raise ValueError(f"expected values of shape {expected}")
    return x + xp.unindex(values, index, x.shape), (lambda g: g, None, lambda g: g[index])


from tinyseq.contract import einsum, tensordot  # noqa: E402, F401  (they are made of the ops above)
