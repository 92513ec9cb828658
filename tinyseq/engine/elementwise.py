"""Functions of one entry at a time: arithmetic, powers and logarithms, comparisons, logic, choice."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from tinyseq import backends, check
from tinyseq.check import called, explained
from tinyseq.engine.autograd import P, R, op
from tinyseq.engine.tensor import Array, Like, Out, Tensor, namespace


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
    """The angle of the point (b, a), in [-pi, pi] (-pi for a of -0.0); the gradients at the origin are 0."""
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

    called(slope, f"{name}.slope")
    return named(name, doc, body, wide=True)


def _of_output(name: str, doc: str, slope: Callable[[Any], Any]) -> Callable[[Tensor], Tensor]:
    """The op `name` of one tensor: its derivative is slope(y), of the result y, which alone is kept."""

    def body(x: Tensor) -> Out:
        y = getattr(namespace(x), name)(x)
        return y, (lambda g: g * slope(y),)

    called(slope, f"{name}.slope")
    return named(name, doc, body, wide=True)


def _flat(name: str, doc: str, pulls: Any = None) -> Callable[[Tensor], Tensor]:
    """The op `name` of one tensor, flat but for steps: without a gradient, or with one of 0."""
    return named(name, doc, lambda x: (getattr(namespace(x), name)(x), pulls))


def named(name: str, doc: str, body: Callable[P, tuple[R, Any]], wide: bool = False) -> Callable[P, R]:
    body.__name__, body.__qualname__, body.__doc__ = name, name, doc
    code = cast(Any, body).__code__
    body.__annotations__ = dict.fromkeys(code.co_varnames[:code.co_argcount], "Like") | body.__annotations__
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
sign = _flat("sign", "-1, 0 or 1; the gradient is 0.", (_zero,))
floor = _flat("floor", "The largest integer <= x; the gradient is 0.", (_zero,))
ceil = _flat("ceil", "The smallest integer >= x; the gradient is 0.", (_zero,))
trunc = _flat("trunc", "The nearest integer towards 0; the gradient is 0.", (_zero,))
round = _flat("round", "The nearest integer, halves the even one; the gradient is 0.", (_zero,))


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

    return named(name, doc, body)


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


def _flat_pair(name: str, doc: str) -> Callable[[Like, Like], Tensor]:
    """The op `name` of two operands, without a gradient."""
    return named(name, doc, lambda a, b: (getattr(namespace(a, b), name)(a, b), None))


def _flat_logic(name: str, doc: str) -> Callable[[Like, Like], Tensor]:
    """The op `name` of two operands that are true or false, without a gradient."""
    return named(name, doc, lambda a, b: (getattr(namespace(a, b), name)(check.operand(a), check.operand(b)), None))


equal = _flat_pair("equal", "a == b.")
not_equal = _flat_pair("not_equal", "a != b.")
less = _flat_pair("less", "a < b.")
less_equal = _flat_pair("less_equal", "a <= b.")
greater = _flat_pair("greater", "a > b.")
greater_equal = _flat_pair("greater_equal", "a >= b.")
logical_and = _flat_logic("logical_and", "Both true: what is not 0 is true.")
logical_or = _flat_logic("logical_or", "One true, or both.")
logical_xor = _flat_logic("logical_xor", "One true, not both.")
bitwise_and = _flat_pair("bitwise_and", "Of booleans, both; of integers, bit by bit.")
bitwise_or = _flat_pair("bitwise_or", "Of booleans, one or both; of integers, bit by bit.")
bitwise_xor = _flat_pair("bitwise_xor", "Of booleans, one, not both; of integers, bit by bit.")
bitwise_invert = _flat("bitwise_invert", "Of booleans, not; of integers, each bit turned.")
logical_not = _flat("logical_not", "True where x is 0 or False.")
isnan = _flat("isnan", "True where x is not a number.")
isinf = _flat("isinf", "True where x is inf or -inf.")
isfinite = _flat("isfinite", "True where x is neither NaN nor an infinity.")
