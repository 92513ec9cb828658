"""What other libraries hand in, and NumPy's functions called on a Tensor.

An array is whatever has `__array__`, the protocol of NumPy: a PyTorch tensor or a JAX array on the host, a pandas
column. It is read without a copy where the library allows that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tinyseq import backends
from tinyseq.check import kind_of
from tinyseq.engine import ops

# NumPy's functions whose names here are others; `arctan`, ... are `atan`, ...
NAMES = {
    "absolute": "abs", "amax": "max", "amin": "min", "array_split": "split", "concatenate": "concat",
    "cumprod": "cumulative_prod", "cumsum": "cumulative_sum", "dot": "matmul", "hstack": "concat", "identity": "eye",
    "invert": "bitwise_invert", "left_shift": "bitwise_left_shift", "norm": "vector_norm", "power": "pow",
    "right_shift": "bitwise_right_shift", "transpose": "matrix_transpose", "true_divide": "divide",
    "unique": "unique_all", "vstack": "concat",
}
# NumPy's operators of two operands, and ours once they were used
OPERATORS: dict[Any, Callable[..., Any] | None] = dict.fromkeys((
    np.add, np.subtract, np.multiply, np.divide, np.floor_divide, np.remainder, np.power, np.matmul, np.bitwise_and,
    np.bitwise_or, np.bitwise_xor, np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal,
    np.left_shift, np.right_shift))


def is_foreign(x: Any) -> bool:
    """Whether x is an array of a library that no backend is made of."""
    return hasattr(x, "__array__") and not isinstance(x, (type, np.ndarray, np.generic)) and not (
        type(x) in backends.arrays or hasattr(x, "node"))


def read(x: Any) -> Any:
    """Numbers, nested lists and other libraries' arrays as an array of NumPy's, which shares memory where it can; one
    of a device whose backend was not loaded yet is loaded, and as it is."""
    try:
        return np.asarray(x)
    except Exception as error:
        if not hasattr(x, "__array__"):
            if isinstance(error, ValueError):
                raise ValueError(f"expected numbers, in lists of equal lengths: {error}") from error
            raise
        try:
            return backends.of(x) and x
        except TypeError:
            reason = str(error).strip().rstrip(".")
        raise TypeError(f"{kind_of(x)} cannot be read as an array ({reason}): expected numbers or booleans on the "
                        "host, dense, without gradient, of a dtype that NumPy has: convert it first (ts.from_dlpack "
                        "takes what is on a device)") from error


def name_of(function: Any) -> str:
    """The name here of a function of NumPy; empty where there is none."""
    given = function.__name__
    name = NAMES.get(given, given.replace("arc", "a") if given.startswith("arc") else given)
    return name if hasattr(ops, name) else ""


def called(given: str, function: Any) -> TypeError:
    """The error where NumPy's `function`, as it was `given`, would lose a Tensor's gradient or its device."""
    name = name_of(function)
    write = f"ts.{name}" if name else "functions of ts, or an op of your own (ts.op)"
    inside = f"ts.namespace(x).{name}" if hasattr(np, name or " ") else "functions of ts.namespace(x)"
    return TypeError(f"{given} was called on a Tensor: write {write}; in the body of an op {inside}; on numbers "
                     "without gradient, x.detach().numpy()")


def ufunc(tensor: Any, function: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
    """`array * tensor` and the like, which NumPy computes by its functions, as ours; any other call is refused."""
    if function in OPERATORS and method == "__call__" and not kwargs:
        OPERATORS[function] = ours = OPERATORS[function] or getattr(ops, name_of(function))
        return ours(*inputs)
    raise called(f"np.{function.__name__}" + (method != "__call__") * f".{method}", function)


def function(tensor: Any, fn: Callable[..., Any], types: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """NumPy's function of Tensors that it can read: those on the host, without gradient."""
    if fn in (np.shape, np.ndim, np.size) and len(args) == 1:
        return getattr(args[0], fn.__name__)
    room = fn.__module__.partition(".")[2]

    def host(x: Any) -> Any:
        if isinstance(x, (list, tuple)):
            return type(x)(map(host, x)) if type(x) in (list, tuple) else x
        if not hasattr(x, "node"):
            return x
        if x.node is not None or not isinstance(x.data, np.ndarray):
            raise called(f"np.{room and room + '.'}{fn.__name__}", fn)
        return x.data

    return fn(*map(host, args), **{name: host(x) for name, x in kwargs.items()})
