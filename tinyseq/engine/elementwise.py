"""Functions of one entry at a time: arithmetic, powers and logarithms, comparisons, logic, choice."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyseq import backends, check
from tinyseq.check import P, R, called, explained
from tinyseq.engine.autograd import op
from tinyseq.engine.tensor import Array, Like, Out, Tensor, namespace


@op
def add(a: Like, b: Like) -> Out:
    """a + b, entry by entry.

    Shapes broadcast and dtypes are joined as NumPy does both; a Python number joins no dtype. One of the two is a
    Tensor or an array.

    >>> ts.add(ts.tensor([[1.0], [2.0]]), ts.tensor([10.0, 20.0]))
    tensor([[11., 21.],
            [12., 22.]])
    >>> ts.add(ts.tensor([1.0]), ts.tensor([1]))                # float32 and int64
    tensor([2.], dtype=float64)
    """
    return a + b, (lambda g: g, lambda g: g)


@op
def subtract(a: Like, b: Like) -> Out:
    """a - b, entry by entry. Shapes and dtypes as for `add`.

    >>> ts.subtract(10.0, ts.tensor([1.0, 2.0]))
    tensor([9., 8.])
    """
    return a - b, (lambda g: g, lambda g: -g)


@op
def multiply(a: Like, b: Like) -> Out:
    """a * b, entry by entry. Shapes and dtypes as for `add`.

    >>> x = ts.tensor([1.0, 2.0], requires_grad=True)
    >>> ts.multiply(x, ts.tensor([3.0, 4.0])).sum().backward()
    >>> x.grad
    tensor([3., 4.])
    """
    return a * b, (lambda g: g * b, lambda g: g * a)


@op(wide=True)
def divide(a: Like, b: Like) -> Out:
    """a / b, entry by entry. Shapes and dtypes as for `add`; of integers it is float64.

    >>> ts.divide(ts.tensor([1.0, 3.0]), 2)
    tensor([0.5, 1.5])
    >>> ts.divide(ts.tensor([1, 3]), ts.tensor([2, 2]))
    tensor([0.5, 1.5], dtype=float64)
    """
    y = a / b
    return y, (lambda g: g / b, lambda g: -g * y / b)


@op
def negative(x: Tensor) -> Out:
    """-x, of x's shape and dtype.

    >>> ts.negative(ts.tensor([1.0, -2.0]))
    tensor([-1.,  2.])
    """
    return -x, (lambda g: -g,)


@op(wide=True)
def pow(a: Like, b: Like) -> Out:
    """a**b, entry by entry. Shapes and dtypes as for `add`.

    At a = 0 the gradient of b is 0 (for b >= 0); at b = 0 that of a is 0, as in PyTorch. Integers to a negative integer
    power are no integers: a ValueError (on a device nobody looks at an array of powers).

    >>> ts.pow(ts.tensor([1.0, 2.0, 3.0]), 2)
    tensor([1., 4., 9.])
    >>> ts.pow(ts.tensor([2, 4]), -1)
    Traceback (most recent call last):
    ValueError: pow(a=int64[2], b=-1): integers to a negative power are no integers: use x.astype(ts.float32)...
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
    """The largest integer <= a / b, entry by entry; no gradient. Shapes and dtypes as for `add`.

    >>> ts.floor_divide(ts.tensor([7, -7]), 2)
    tensor([ 3, -4])
    """
    return a // b, None


@op(wide=True)
def remainder(a: Like, b: Like) -> Out:
    """a - b * floor(a / b), entry by entry: the sign is b's. Shapes and dtypes as for `add`.

    >>> ts.remainder(ts.tensor([7, -7]), 3)
    tensor([1, 2])
    """
    xp = namespace(a, b)
    return xp.remainder(a, b), (lambda g: g, lambda g: -g * xp.floor_divide(a, b))


@explained
def reciprocal(x: Like) -> Tensor:
    """1 / x, of x's shape, as `divide` says of dtypes.

    >>> ts.reciprocal(ts.tensor([4.0, 0.5]))
    tensor([0.25, 2.  ])
    """
    return divide(1.0, x)


@op(wide=True)
def atan2(a: Like, b: Like) -> Out:
    """The angle of the point (b, a), in [-pi, pi] (of a = -0.0 and b < 0: -pi); the gradients at the origin are 0.

    a and b broadcast; floating-point, or integers as NumPy takes them.

    >>> ts.atan2(ts.tensor(1.0), ts.tensor(-1.0))               # 3 pi / 4
    tensor(2.3561...)
    """
    xp = namespace(a, b)

    def over(g: Array) -> Array:  # the square of the distance
        square = a * a + b * b
        return g / xp.where(square == 0, math.inf, square)

    return xp.atan2(a, b), (lambda g: over(g) * b, lambda g: -over(g) * a)


def _zero(g: Array) -> Array:
    return namespace(g).zeros_like(g)


# The first line of a function's docstring and its example, "x; other operand -> result", stand in its row below; the
# rest in that of its body here.


def _of_input(name: str, doc: str, example: str, slope: Callable[[Any, Any], Any]) -> Callable[[Tensor], Tensor]:
    """The op `name` of one tensor x: its derivative is slope(namespace, x)."""

    def body(x: Tensor) -> Out:
        """{doc}

        Entry by entry: of x's shape, and of its dtype if that is floating-point.

        >>> ts.{name}(ts.tensor({given}))
        tensor({shown})
        """
        xp = namespace(x)
        return getattr(xp, name)(x), (lambda g: g * slope(xp, x),)

    called(slope, f"{name}.slope")
    return named(name, doc, example, body, wide=True)


def _of_output(name: str, doc: str, example: str, slope: Callable[[Any], Any]) -> Callable[[Tensor], Tensor]:
    """The op `name` of one tensor: its derivative is slope(y), of the result y, which alone is kept."""

    def body(x: Tensor) -> Out:
        """{doc}

        Entry by entry: of x's shape, and of its dtype if that is floating-point.

        >>> ts.{name}(ts.tensor({given}))
        tensor({shown})
        """
        y = getattr(namespace(x), name)(x)
        return y, (lambda g: g * slope(y),)

    called(slope, f"{name}.slope")
    return named(name, doc, example, body, wide=True)


def _flat(name: str, doc: str, example: str, pulls: Any = None) -> Callable[[Tensor], Tensor]:
    """The op `name` of one tensor, flat but for steps: without a gradient, or with one of 0."""

    def body(x: Tensor) -> Out:
        """{doc}

        Entry by entry: of x's shape.

        >>> ts.{name}(ts.tensor({given}))
        tensor({shown})
        """
        return getattr(namespace(x), name)(x), pulls

    return named(name, doc, example, body)


def named(name: str, doc: str, example: str, body: Callable[P, tuple[R, Any]], wide: bool = False) -> Callable[P, R]:
    """The op of a body whose docstring is a template."""
    given, _, shown = example.replace("; ", "), ts.tensor(").partition(" -> ")
    body.__name__, body.__qualname__ = name, name
    body.__doc__ = (body.__doc__ or "{doc}").format(name=name, doc=doc, given=given, shown=shown)
    return op(wide=wide)(body)


square = _of_input("square", "x * x.", "[-3., 2.] -> [9., 4.]", lambda xp, x: 2 * x)
sqrt = _of_output("sqrt", "Square root: below 0 NaN, and the gradient at 0 is inf.", "9. -> 3.", lambda y: 0.5 / y)
exp = _of_output("exp", "e**x.", "1. -> 2.7182...", lambda y: y)
expm1 = _of_output("expm1", "exp(x) - 1, exact near 0.", "1e-5 -> 1.0000...e-05", lambda y: y + 1)
log = _of_input("log", "Natural logarithm: of 0 -inf, below 0 NaN.", "0.5 -> -0.6931...", lambda xp, x: 1 / x)
log1p = _of_input("log1p", "log(1 + x), exact near 0.", "1e-5 -> 9.9999...e-06", lambda xp, x: 1 / (x + 1))
log2 = _of_input("log2", "Logarithm to base 2.", "10. -> 3.3219...", lambda xp, x: 1 / (x * math.log(2)))
log10 = _of_input("log10", "Logarithm to base 10.", "2. -> 0.3010...", lambda xp, x: 1 / (x * math.log(10)))
sin = _of_input("sin", "Sine.", "1. -> 0.8414...", lambda xp, x: xp.cos(x))
cos = _of_input("cos", "Cosine.", "1. -> 0.5403...", lambda xp, x: -xp.sin(x))
tan = _of_output("tan", "Tangent: sin(x) / cos(x).", "1. -> 1.5574...", lambda y: 1 + y * y)
asin = _of_input("asin", "Inverse sine: sin(y) = x.", "1. -> 1.5707...", lambda xp, x: 1 / xp.sqrt(1 - x * x))
acos = _of_input("acos", "Inverse cosine: cos(y) = x.", "-1. -> 3.1415...", lambda xp, x: -1 / xp.sqrt(1 - x * x))
atan = _of_input("atan", "Inverse tangent: tan(y) = x.", "1. -> 0.7853...", lambda xp, x: 1 / (1 + x * x))
sinh = _of_input("sinh", "Hyperbolic sine: (e**x - e**-x) / 2.", "1. -> 1.1752...", lambda xp, x: xp.cosh(x))
cosh = _of_input("cosh", "Hyperbolic cosine: (e**x + e**-x) / 2.", "1. -> 1.5430...", lambda xp, x: xp.sinh(x))
tanh = _of_output("tanh", "Hyperbolic tangent: sinh(x) / cosh(x).", "1. -> 0.7615...", lambda y: 1 - y * y)
asinh = _of_input("asinh", "The inverse of sinh: sinh(y) = x.", "1. -> 0.8813...", lambda xp, x: 1 / xp.sqrt(x * x + 1))
acosh = _of_input("acosh", "The inverse of cosh: cosh(y) = x.", "2. -> 1.3169...", lambda xp, x: 1 / xp.sqrt(x * x - 1))
atanh = _of_input("atanh", "The inverse of tanh: tanh(y) = x.", "0.5 -> 0.5493...", lambda xp, x: 1 / (1 - x * x))
erf = _of_input("erf", "The error function, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x.",
                "0.5 -> 0.5204...", lambda xp, x: (2 / math.sqrt(math.pi)) * xp.exp(-x * x))
sigmoid = _of_output("sigmoid", "1 / (1 + exp(-x)), right for any x.", "[0., 99.] -> [0.5, 1. ]", lambda y: y * (1 - y))
abs = _of_input("abs", "|x|; the gradient at 0 is 0.", "[-2., 3.] -> [2., 3.]", lambda xp, x: xp.sign(x))
sign = _flat("sign", "-1, 0 or 1; the gradient is 0.", "[-0.5, 0., 2.] -> [-1.,  0.,  1.]", (_zero,))
floor = _flat("floor", "The largest integer <= x; the gradient is 0.", "[1.5, -1.5] -> [ 1., -2.]", (_zero,))
ceil = _flat("ceil", "The smallest integer >= x; the gradient is 0.", "[1.5, -1.5] -> [ 2., -1.]", (_zero,))
trunc = _flat("trunc", "The nearest integer towards 0; the gradient is 0.", "[1.5, -1.5] -> [ 1., -1.]", (_zero,))
round = _flat("round", "The nearest integer, halves the even one; the gradient is 0.", "0.5 -> 0.", (_zero,))


@op(wide=True)
def logaddexp(a: Like, b: Like) -> Out:
    """log(exp(a) + exp(b)), without overflow; the gradients are the softmax of a and b, and 0 where both are -inf.

    a and b broadcast; floating-point, or integers as NumPy takes them.

    >>> ts.logaddexp(ts.tensor(0.0), 0.0)                       # log 2
    tensor(0.6931...)
    >>> ts.logaddexp(ts.tensor(1000.0), -np.inf)
    tensor(1000.)
    """
    xp = namespace(a, b)

    def share(x: Array, other: Array) -> Array:
        if any(isinstance(v, (int, float)) and math.isfinite(v) for v in (a, b)):
            return xp.sigmoid(x - other)
        tied = a == b  # where both are infinite there is no difference
        half = xp.sigmoid(xp.where(tied, 0.0, x) - xp.where(tied, 0.0, other))
        return xp.where(tied & (a == -math.inf), 0.0, half)

    return xp.logaddexp(a, b), (lambda g: g * share(a, b), lambda g: g * share(b, a))


def _of_pair(name: str, doc: str, example: str) -> Callable[[Like, Like], Tensor]:
    """The op `maximum` or `minimum`: the gradient goes to the one that was taken."""

    def body(a: Like, b: Like) -> Out:
        """{doc}

        Shapes and dtypes as for `add`. Where a and b are equal each gets half of the gradient.

        >>> ts.{name}(ts.tensor({given}))
        tensor({shown})
        >>> ts.grad(ts.{name}(x := ts.tensor(2.0, requires_grad=True), 2.0), x)
        tensor(0.5)
        """
        y = getattr(namespace(a, b), name)(a, b)
        where = namespace(y).where
        pull: Callable[[Any], Any] = lambda x: lambda g: where(a == b, g * 0.5, where(x == y, g, _zero(g)))
        return y, (pull(a), pull(b))

    return named(name, doc, example, body)


maximum = _of_pair("maximum", "The larger of each pair.", "[1., 5.]; [2., 3.] -> [2., 5.]")
minimum = _of_pair("minimum", "The smaller of each pair.", "[1., 5.]; [2., 3.] -> [1., 3.]")


@op
def clip(x: Tensor, min: Like = None, max: Like = None) -> Out:
    """x limited to [min, max] (max where min > max). At a bound the gradient goes to x; beyond one, to the bound.

    Bounds broadcast with x; None is no bound.

    >>> ts.clip(ts.tensor([-2.0, 0.5, 3.0]), 0.0, 1.0)
    tensor([0. , 0.5, 1. ])
    >>> ts.clip(ts.tensor([-2.0, 0.5, 3.0]), max=1.0)
    tensor([-2. ,  0.5,  1. ])
    """
    xp = namespace(x, min, max)
    raised = x if min is None else xp.maximum(x, min)
    y = raised if max is None else xp.minimum(raised, max)
    low = x < min if min is not None else xp.zeros_like(x, dtype=bool)
    high = raised > max if max is not None else xp.zeros_like(x, dtype=bool)
    pull: Callable[[Any], Any] = lambda here: lambda g: xp.where(here, g, _zero(g))
    return y, (pull(~(low | high)), pull(low & ~high), pull(high))


@op
def where(condition: Like, a: Like, b: Like) -> Out:
    """`a` where the boolean `condition` holds, else `b`: the three broadcast. Two Python numbers, one of them a float,
    make float32.

    The gradient goes to what was chosen, but what was not is computed too: where its own slope is not finite, NaN comes
    of 0 times that. Choose the argument first: `ts.log(ts.where(x > 0, x, 1.0))`.

    >>> x = ts.tensor([-4.0, 9.0])
    >>> ts.where(x > 0, x, 0.0)
    tensor([0., 9.])
    """
    xp = namespace(a, b, condition)
    if isinstance(a, (int, float)) and isinstance(b, (int, float)) and float in (type(a), type(b)):
        a = xp.asarray(a, dtype=np.float32)  # two Python numbers make float32, as everywhere
    if isinstance(condition, bool):  # of which CuPy takes none
        condition = xp.asarray(condition)
    y = xp.where(check.operand(condition), a, b)
    if y.dtype.kind in "OU":  # of None, of text
        raise TypeError("expected numbers to choose from")
    return y, (None, lambda g: xp.where(condition, g, _zero(g)), lambda g: xp.where(condition, _zero(g), g))


@op
def astype(x: Tensor, dtype: Any, *, copy: bool = True) -> Out:
    """x converted to `dtype`, of x's shape: a copy, or without `copy` itself if it has that already; gradients pass
    between floating-point types. A fraction is cut off on the way to an integer type, as NumPy does.

    >>> ts.astype(ts.tensor([1.75, -1.75]), ts.int64)
    tensor([ 1, -1])
    >>> ts.astype(ts.tensor([1.0]), "complex64")
    Traceback (most recent call last):
    TypeError: astype(x=float32[1], dtype='complex64'): expected dtype to be a dtype of real numbers or booleans...
    """
    return x.astype(check.dtype(dtype), copy=copy), (lambda g: g,)


@op
def to_backend(x: Tensor, name: str) -> Out:
    """Copied to the backend called `name`; gradients come back to this one."""
    here = x.backend if isinstance(x, Tensor) else backends.of(x).name
    return _move(x, name), (lambda g: _move(g, here),)


def _move(x: Any, name: str) -> Any:
    return to_backend(x, name) if isinstance(x, Tensor) else backends.load(name).asarray(backends.of(x).asnumpy(x))


def _flat_pair(name: str, doc: str, example: str) -> Callable[[Like, Like], Tensor]:
    """The op `name` of two operands, without a gradient."""

    def body(a: Like, b: Like) -> Out:
        """{doc}

        a and b broadcast, and one at least is a Tensor or an array. No gradient.

        >>> ts.{name}(ts.tensor({given}))
        tensor({shown})
        """
        return getattr(namespace(a, b), name)(a, b), None

    return named(name, doc, example, body)


def _flat_logic(name: str, doc: str, example: str) -> Callable[[Like, Like], Tensor]:
    """The op `name` of two operands that are true or false, without a gradient."""

    def body(a: Like, b: Like) -> Out:
        """{doc}

        a and b broadcast, and one at least is a Tensor or an array; the result is boolean. No gradient.

        >>> ts.{name}(ts.tensor({given}))
        tensor({shown})
        """
        return getattr(namespace(a, b), name)(check.operand(a), check.operand(b)), None

    return named(name, doc, example, body)


equal = _flat_pair("equal", "a == b, a boolean.", "[1, 2]; [1, 3] -> [ True, False]")
not_equal = _flat_pair("not_equal", "a != b, a boolean.", "[1, 2]; [1, 3] -> [False,  True]")
less = _flat_pair("less", "a < b, a boolean.", "[1, 2, 3]; 2 -> [ True, False, False]")
less_equal = _flat_pair("less_equal", "a <= b, a boolean.", "[1, 2, 3]; 2 -> [ True,  True, False]")
greater = _flat_pair("greater", "a > b, a boolean.", "[1, 2, 3]; 2 -> [False, False,  True]")
greater_equal = _flat_pair("greater_equal", "a >= b, a boolean.", "[1, 2, 3]; 2 -> [False,  True,  True]")
logical_and = _flat_logic("logical_and", "Both true: what is not 0 is true.", "[1, 1]; [0, 2] -> [False,  True]")
logical_or = _flat_logic("logical_or", "One true, or both.", "[0, 1]; [0, 2] -> [False,  True]")
logical_xor = _flat_logic("logical_xor", "One true, not both.", "[1, 1]; [2, 0] -> [False,  True]")
bitwise_and = _flat_pair("bitwise_and", "Of booleans, both; of integers, bit by bit.", "[6, 5]; 3 -> [2, 1]")
bitwise_or = _flat_pair("bitwise_or", "Of booleans, one or both; of integers, bit by bit.", "[6, 5]; 3 -> [7, 7]")
bitwise_xor = _flat_pair("bitwise_xor", "Of booleans, one, not both; of integers, bit by bit.", "[6, 5]; 3 -> [5, 6]")
bitwise_invert = _flat("bitwise_invert", "Of booleans, not; of integers, each bit turned.", "[6, -1] -> [-7,  0]")
logical_not = _flat("logical_not", "True where x is 0 or False.", "[0, 2] -> [ True, False]")
isnan = _flat("isnan", "True where x is not a number.", "[1., np.nan] -> [False,  True]")
isinf = _flat("isinf", "True where x is inf or -inf.", "[1., -np.inf] -> [False,  True]")
isfinite = _flat("isfinite", "True where x is neither NaN nor an infinity.", "[1., np.inf] -> [ True, False]")
