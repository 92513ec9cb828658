"""What tests of tensors share: leaves in float64, equality to rounding, ways to call a function."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

import tinyseq as ts


def leaf(*values: Any, dtype: Any = np.float64) -> ts.Tensor:
    return ts.tensor(np.array(values[0] if len(values) == 1 else values, dtype=dtype), requires_grad=True)


def equal(t: ts.Tensor | None, values: Any) -> None:
    assert t is not None
    np.testing.assert_allclose(t.detach().numpy(), values, rtol=1e-12, atol=1e-12)


def keyword_only(x: Any, *, w: Any) -> Any:
    """The body of an op whose w is given by keyword only."""
    return x * w, (lambda g: g * w,)


def by_name(fn: Callable[..., Any]) -> Callable[..., Any]:
    """fn, called with each argument by its name, as far as they have one."""

    def call(*args: Any, **options: Any) -> Any:
        parameters = inspect.signature(fn).parameters.values()
        names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        return fn(**dict(zip(names, args, strict=False)), **options)

    return call


def is_wide(fn: Any) -> bool:
    """Whether fn is made by `@wide` or `@op(wide=True)`: given float16 it computes in float32."""
    while fn is not None:
        code = getattr(fn, "__code__", None)
        if code is not None and "wide" in code.co_freevars:
            return bool(inspect.getclosurevars(fn).nonlocals["wide"])
        if code is not None and code.co_qualname == "wide.<locals>.call":
            return True
        fn = getattr(fn, "__wrapped__", None)
    return False
