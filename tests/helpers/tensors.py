"""What tests of tensors share: leaves in float64, equality to rounding, ways to call a function."""

import functools
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


def apart(outputs: Any, leaves: list[ts.Tensor]) -> None:
    """Gradients are their owner's: what is written to one is seen by no output, leaf, seed or other gradient, nor by a
    second walk back through the graph, which has what the ops saved."""
    roots = [y for y in (outputs if isinstance(outputs, (tuple, list)) else [outputs]) if y.requires_grad]
    seeds = [ts.asarray(np.random.default_rng(y.size).standard_normal(y.shape), y.dtype).to(y.backend)
             for y in roots]
    if roots:
        found = [g for g in ts.grad(roots, leaves, seeds, retain_graph=True, allow_unused=True) if g is not None]
        everything = [t.detach() for t in (*roots, *leaves, *seeds, *found)]
        before = [t.numpy().copy() for t in everything]
        for g in reversed(found):
            assert getattr(g.data.flags, "writeable", True)     # of CuPy's all are
            g.data[...], everything = 7, everything[:-1]
            for t, values in zip(everything, before, strict=False):
                assert np.array_equal(t.numpy(), values, equal_nan=True)
        again = [g for g in ts.grad(roots, leaves, seeds, allow_unused=True) if g is not None]
        for g, values in zip(again, before[len(before) - len(found):], strict=True):
            assert np.array_equal(g.numpy(), values, equal_nan=True)


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
        if code is not None and code.co_freevars == ("fn",) and code.co_filename.endswith("autograd.py"):
            return True
        fn = getattr(fn, "__wrapped__", None)
    return False


def kinds(x: Any, torch: bool) -> dict[str, Any]:
    """An array in each form, and a tuple of arrays with each in that form; what is none as it is."""
    if isinstance(x, tuple):
        parts = [kinds(part, torch) for part in x]
        return {kind: tuple(part[kind] for part in parts) for kind in parts[0]}
    given: dict[str, Any] = {"Tensor": ts.tensor(x), "array": np.array(x), "list": x.tolist()}
    if torch:
        import torch as library

        given["torch"] = library.tensor(x)
    return given


def same(a: Any, b: Any) -> bool:
    """Whether two results are of the same Tensors and arrays, in the same tuples; of two backends, to rounding."""
    if isinstance(a, (tuple, list, dict)):
        pairs = zip(a.values(), b.values(), strict=True) if isinstance(a, dict) else zip(a, b, strict=True)
        return type(a) is type(b) and all(same(*pair) for pair in pairs)
    if isinstance(a, (ts.Tensor, np.ndarray)):
        x, y = (v.detach().numpy() if isinstance(v, ts.Tensor) else v for v in (a, b))
        two = isinstance(a, ts.Tensor) and isinstance(b, ts.Tensor) and a.backend != b.backend and x.dtype.kind in "fc"
        alike = functools.partial(np.allclose, rtol=1e-6, atol=1e-6) if two else np.array_equal
        return type(a) is type(b) and x.dtype == y.dtype and x.shape == y.shape and bool(alike(x, y, equal_nan=True))
    return bool(a == b)


def compare(fn: Callable[[Any], Any], x: Any, told: str, torch: bool) -> list[str]:
    """Where a function of an array in one of its forms gives something else than of a Tensor."""
    found, given = [], kinds(x, torch)
    state = ts.random.get_state()
    wanted = fn(given.pop("Tensor"))
    for kind, form in given.items():
        ts.random.set_state(state)
        try:
            alike = same(wanted, fn(form))
        except Exception as error:
            found.append(f"{told} as {kind}: {type(error).__name__}: {error}")
        else:
            found += [] if alike else [f"{told} as {kind}: another result"]
    return found


def named(name: str, fn: Any) -> Any:
    """The function under another name."""
    fn.__name__ = name
    return fn
