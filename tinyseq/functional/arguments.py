"""What the functions of several themes ask of their arguments: dtypes, and lengths."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyseq import backends, check
from tinyseq.engine import ops
from tinyseq.engine.creation import on_host
from tinyseq.engine.tensor import Like, Tensor


def float_backend(x: Tensor) -> Any:
    """The backend of x, which must be floating-point."""
    if x.dtype.kind != "f":
        raise TypeError(f"expected floating-point numbers, got {x.dtype}: use x.astype(ts.float32)")
    return backends.of(x)


def one_dtype(**given: Any) -> None:
    """Refuse arguments of several dtypes, which kernels and definitions would widen each in its own way."""
    if len({a.dtype for a in given.values() if a is not None}) > 1:
        found = ", ".join(f"{name} {a.dtype}" for name, a in given.items() if a is not None)
        raise TypeError(f"expected one dtype, got {found}: convert the weights, module.to(dtype), or the input, "
                        "x.astype(dtype)")


def matched(x: Tensor, data: Like) -> Tensor:
    """Targets and weights where x lives and in its dtype: a loss is as wide as its input."""
    y = ops.like(x, data)
    return y if y.dtype == x.dtype else y.astype(x.dtype)


def lengths_of(where: str, lengths: Like, x: Tensor) -> Any:
    """The lengths (B,) of x's rows, checked; None where all rows have full length. On a device nobody looks."""
    if lengths is None or x.ndim != 3:  # which the op itself refuses
        return None
    data = checked_lengths(lengths, x.shape[1], x.shape[0], where)
    return None if backends.on_host(data) and data.min(initial=x.shape[1]) == x.shape[1] else data


def real_steps(x: Tensor, lengths: Like) -> Tensor:
    """(B, T, 1), True where the rows of x (B, T, ...) have not ended, beside it."""
    return (ops.like(x, np.arange(x.shape[1])) < ops.expand_dims(ops.like(x, lengths), 1))[..., None]


def checked_lengths(lengths: Like, steps: int, rows: int | None = None, where: str = "", name: str = "lengths") -> Any:
    """Lengths (B,), integers from 0 to `steps`, as an int64 array; on a device nobody looks at them. B is `rows` if
    given. The error speaks of the argument `name` of `where`."""
    try:
        data = on_host(lengths)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{where and f'{where}: '}expected {name} as integers, got {check.describe(lengths)}: "
                        f"{error}") from None
    wrong = data.ndim != 1 or rows not in (None, len(data)) or (data.size and data.dtype.kind not in "iu")
    if wrong or (backends.on_host(data) and data.size and not (data.min() >= 0 and data.max() <= steps)):
        raise ValueError(f"{where and f'{where}: '}expected {name} as {'B' if rows is None else rows} integer"
                         f"{'s' * (rows != 1)} from 0 to the {steps} steps, got shape {data.shape} and dtype "
                         f"{data.dtype}: {data.tolist()}")
    return data.astype(np.int64, copy=False)
