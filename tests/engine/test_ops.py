"""Laws of all functions of tensors: as NumPy's in values, dtypes and gradients (`helpers/rows.py`)."""

import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.rows import NUMBER, REAL, ROWS, Row, inputs
from helpers.tensors import apart, by_name, equal, is_wide, leaf
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq.engine import ops
from tinyseq.testing import check_grad

TABLES = [(ops, ROWS)]  # a module of functions, and its rows
every_row = pytest.mark.parametrize("row", [r for _, rows in TABLES for r in rows], ids=lambda r: r.name)


def tensors(arrays: list[Any]) -> list[Any]:
    """On the active backend; NumPy's keep their strides and stay read-only."""
    return [ts.asarray(x) if isinstance(x, np.ndarray) else x for x in arrays]


def same(got: Any, expected: Any, tolerance: float) -> None:
    """The same shape, dtype and values, floating-point ones within `tolerance` of the largest entry."""
    assert isinstance(got, ts.Tensor)
    expected = np.asarray(expected)
    ours = np.int64 if expected.dtype == np.intp != got.dtype else expected.dtype  # NumPy's has 32 bits in browsers
    assert (got.shape, got.dtype) == (expected.shape, ours)
    found = got.detach().numpy()
    scale = np.abs(expected[np.isfinite(expected)], dtype=np.float64).max(initial=1.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale if expected.dtype.kind == "f" else 0)


@every_row
@given(data=st.data())
def test_values_are_numpys(row: Row, data: st.DataObject) -> None:
    choose = lambda options: data.draw(st.sampled_from(options))
    shapes, kwargs = row.make(choose)
    dtypes = [choose([k for k in row.kinds if k != "bool"] if s is NUMBER else row.kinds) for s in shapes]
    arrays = inputs(row, choose, shapes, dtypes, smooth=False)
    got, expected = row.fn(*tensors(arrays), **kwargs), row.twin(*arrays, **kwargs)
    if not isinstance(expected, tuple):
        got, expected = (got,), (expected,)
    assert len(got) == len(expected)
    for y, z in zip(got, expected, strict=True):
        same(y, z, 1e-5 if "float32" in (*dtypes, str(y.dtype)) else 1e-10)


differentiable = [r for _, rows in TABLES for r in rows if "float64" in r.kinds and r.smooth is not None]


@pytest.mark.parametrize("row", differentiable, ids=lambda r: r.name)
@given(data=st.data())
def test_gradients_are_central_differences(row: Row, data: st.DataObject) -> None:
    choose = lambda options: data.draw(st.sampled_from(options))
    shapes, kwargs = row.make(choose)
    arrays = inputs(row, choose, shapes, ["float64"] * len(shapes), smooth=True)
    arguments = tensors(arrays)
    if row.smooth:
        def fn(*xs: Any) -> Any:
            return row.fn(*xs, **kwargs)

        fn.__name__ = row.name
        check_grad(fn, *arguments, order=2)
        with ts.debug():  # in float32 nothing widens on the way back
            leaves = [ts.tensor(x, np.float32, requires_grad=True) if isinstance(x, np.ndarray) else x for x in arrays]
            if kwargs.get("dtype") != "float64":
                y = row.fn(*leaves, **kwargs)
                for part in y if isinstance(y, tuple) else [y]:
                    if part.requires_grad:
                        part.backward(ts.ones_like(part), retain_graph=True)
                apart(y, [x for x in leaves if isinstance(x, ts.Tensor)])
    elif row.smooth is False:
        for x in arguments:
            if isinstance(x, ts.Tensor):
                x.requires_grad = True
        y = row.fn(*arguments, **kwargs)
        assert not any(part.requires_grad for part in (y if isinstance(y, tuple) else [y]))


@pytest.mark.parametrize("row", [r for r in ROWS if r.wrong], ids=lambda r: r.name)
def test_wrong_arguments_are_named(row: Row) -> None:
    for given_ in row.wrong:
        *args, kwargs = given_ if isinstance(given_[-1], dict) else (*given_, {})
        args = [ts.tensor(x) if isinstance(x, np.ndarray) else x for x in args]
        with pytest.raises((TypeError, ValueError, IndexError)) as error:
            row.fn(*args, **kwargs)
        message = str(error.value)
        assert re.match(r"[a-z]\w+[(:]", message), message  # the op, or the one that it calls
        for x in args:
            if isinstance(x, ts.Tensor):
                shape = ", ".join(map(str, x.shape))
                assert f"[{shape}]" in message or f"({shape})" in message or f"({shape},)" in message, message


def test_every_public_function_has_a_row() -> None:
    for module, rows in TABLES:
        public = {name for name, f in vars(module).items() if inspect.isfunction(f) and not name.startswith("_")
                  and f.__module__.startswith("tinyseq.engine.")}
        # for kernels, on arrays; for layers
        internal = {"matmul_arrays", "matmul_over_rows", "check_ids", "as_int64", "operand", "backward"}
        internal |= {"can_cast", "finfo", "iinfo", "isdtype", "result_type"}  # of dtypes: test_standard.py
        assert public - internal == {row.name for row in rows}


# --- float16 ---------------------------------------------------------------------------------------------------------

STRETCHES = [1.0, 3e-3, 30.0, 300.0]  # how far the domain of an op is stretched, if it has none of its own
PRODUCTS = {"matmul", "linear", "einsum", "tensordot"}  # rounded before a bias is added or what was broadcast is summed


def within_float16(got: Any, exact: Any, widest: float = 2.0**-14) -> None:
    """float16 within two units in the last place of the largest entry of the float64 values, or of `widest`, and
    finite where these fit."""
    assert got.dtype == np.float16
    fits = np.abs(exact) < 65504
    scale = np.abs(exact[fits]).max(initial=widest)
    assert np.isfinite(got[fits]).all()
    np.testing.assert_allclose(got[fits], exact[fits], rtol=0, atol=2 * 2.0**-10 * scale + 2.0**-22)  # float32's own


@pytest.mark.parametrize("row", [r for r in ROWS if "float32" in r.kinds], ids=lambda r: r.name)
@given(data=st.data())
def test_float16_is_computed_in_float32_and_rounded_once(row: Row, data: st.DataObject) -> None:
    """Values and gradients against float64 of the same numbers: near, and finite where they fit."""
    choose = lambda options: data.draw(st.sampled_from(options))
    shapes, kwargs = row.make(choose)
    if str(kwargs.get("dtype")) not in ("None", "float16") or not any(isinstance(s, tuple) for s in shapes):
        return
    stretch = choose(STRETCHES[: 3 if row.name in PRODUCTS else 4]) if row.domain == REAL else 1.0
    arrays = [np.asarray(x * stretch, np.float16) if isinstance(x, np.ndarray) else float(np.float16(x * stretch))
              for x in inputs(row, choose, shapes, ["float32"] * len(shapes), smooth=True)]
    found, exact = (_both_ways(row, arrays, kwargs, dtype) for dtype in (np.float16, np.float64))
    terms = _both_ways(row, [np.asarray(abs(x)) for x in arrays], kwargs, np.float64) if row.name in PRODUCTS else exact
    for y, z, t in zip(found, exact, terms, strict=True):
        if z.dtype == np.float64:
            within_float16(y, z, 2 * np.abs(t).max(initial=2.0**-14) if row.name in PRODUCTS else 2.0**-14)
        else:
            np.testing.assert_array_equal(y, z)


@pytest.mark.parametrize("row", [r for r in ROWS if "float32" in r.kinds and r.fn is vars(ops)[r.name]],
                         ids=lambda r: r.name)
@given(data=st.data())
def test_float16_by_position_and_by_name_is_the_same(row: Row, data: st.DataObject) -> None:
    choose = lambda options: data.draw(st.sampled_from(options))
    shapes, kwargs = row.make(choose)
    stretch = choose(STRETCHES) if row.domain == REAL else 1.0
    arrays = [np.asarray(x * stretch) if isinstance(x, np.ndarray) else x for x in inputs(
        row, choose, shapes, ["float32"] * len(shapes), smooth=True)]
    named = row._replace(fn=by_name(row.fn))
    for y, z in zip(*(_both_ways(r, arrays, kwargs, np.float16) for r in (row, named)), strict=True):
        np.testing.assert_array_equal(y, z)


def test_those_that_are_wide_are_among_them() -> None:
    wide = {name for name, f in vars(ops).items() if is_wide(f)}
    called = {r.name for r in ROWS if "float32" in r.kinds and r.fn is vars(ops)[r.name]}
    assert len(wide) > 30 and wide <= called | {"index_add"}  # whose Tensors are not its first arguments: below


@given(st.integers(0, 999), st.integers(1, 6))
def test_float16_is_added_to_in_float32_however_often_an_index_stands(seed: int, times: int) -> None:
    rng = np.random.default_rng(seed)
    x, values = (rng.uniform(-2, 2, n).astype(np.float16) for n in (1, times))
    found = ts.index_add(ts.tensor(x), 0, [0] * times, ts.tensor(values))
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found.numpy(), (x.astype("f") + values.astype("f").sum()).astype(np.float16))
    named = ts.index_add(x=ts.tensor(x), axis=0, indices=[0] * times, values=ts.tensor(values))
    np.testing.assert_array_equal(found.numpy(), named.numpy())


def _both_ways(row: Row, arrays: list[Any], kwargs: Any, dtype: Any) -> list[Any]:
    """What a row gives, then its gradients, of arrays taken as `dtype`."""
    leaves = [ts.tensor(x, dtype, requires_grad=row.smooth is not False) if isinstance(x, np.ndarray) else x
              for x in arrays]
    with np.errstate(over="ignore"):  # what does not fit becomes infinite
        y = row.fn(*leaves, **kwargs)
        outputs = [part for part in (y if isinstance(y, tuple) else [y])]
        roots = [part for part in outputs if part.requires_grad]
        wanted = [x for x in leaves if isinstance(x, ts.Tensor)] if roots else []
        seeds = [np.random.default_rng(i).choice([0.5, -1.0, 2.0], part.shape) for i, part in enumerate(roots)]
        seeds = [ops.like(part, np.asarray(s, dtype)) for part, s in zip(roots, seeds, strict=True)]
        grads = ts.grad(roots, wanted, seeds, allow_unused=True) if roots else []
    return [part.detach().numpy() for part in outputs] + [g.numpy() for g in grads if g is not None]


# --- conventions and extremes ----------------------------------------------------------------------------------------


def slopes_at(fn: Callable[..., Any], *values: Any) -> list[Any]:
    xs = [leaf(v) for v in values]
    y = fn(*xs)
    return [g.numpy() for g in ts.grad(y.sum(), xs)]


CONVENTIONS: list[tuple[str, Callable[..., Any], Callable[..., Any], tuple[Any, ...]]] = [
    ("max", lambda x: ts.max(x, 1), lambda t, x: t.amax(x, 1), ([[1.0, 3, 3], [2, 2, 2]],)),
    ("min", lambda x: ts.min(x), lambda t, x: t.amin(x), ([[1.0, 3, 1], [1, 2, 2]],)),
    ("abs", ts.abs, lambda t, x: t.abs(x), ([-1.0, 0, 2],)),
    ("sign", ts.sign, lambda t, x: t.sign(x), ([-1.0, 0, 2],)),
    ("clip", lambda x: ts.clip(x, -1.0, 1.0), lambda t, x: t.clamp(x, -1.0, 1.0), ([-1.0, 1, 2, -3, 0],)),
    ("clip", ts.clip, lambda t, *a: t.clamp(*a), ([-1.0, 1, 2, -3, 0], [-1.0] * 5, [1.0] * 5)),
    ("clip", ts.clip, lambda t, *a: t.clamp(*a), ([-1.0, 3, 9, 7, 0], [5.0] * 5, [1.0] * 5)),
    ("maximum", ts.maximum, lambda t, a, b: t.maximum(a, b), ([1.0, 2, 3], [1.0, 3, 2])),
    ("minimum", ts.minimum, lambda t, a, b: t.minimum(a, b), ([1.0, 2, 3], [1.0, 3, 2])),
    ("std", lambda x: ts.std(x, 1), lambda t, x: t.std(x, 1, correction=0), ([[2.0, 2, 2], [1, 2, 4]],)),
    ("vector_norm", ts.vector_norm, lambda t, x: t.linalg.vector_norm(x), ([0.0, 0],)),
    ("prod", lambda x: ts.prod(x, 1), lambda t, x: t.prod(x, 1), ([[0.0, 2, 3], [0, 0, 3], [0, 0, 0], [1, 2, 3]],)),
    ("pow", ts.pow, lambda t, a, b: t.pow(a, b), ([0.0, 0, 2, 0], [0.0, 2, 0, 1])),
    ("pow", lambda x: x**0, lambda t, x: x**0, ([0.0, 2],)),
    ("floor", ts.floor, lambda t, x: t.floor(x), ([1.0, 2.5],)),
    ("sort", lambda x: ts.sort(x) * np.arange(4),
     lambda t, x: t.sort(x, stable=True)[0] * t.arange(4), ([2.0, 1, 2, 1],)),
    ("sort", lambda x: ts.sort(x, descending=True) * np.arange(4),
     lambda t, x: t.sort(x, stable=True, descending=True)[0] * t.arange(4), ([2.0, 1, 2, 1],)),
    ("logsumexp", ts.logsumexp, lambda t, x: t.logsumexp(x, 0), ([-math.inf, 1.0, 1e4],)),
    ("logsumexp", ts.logsumexp, lambda t, x: t.logsumexp(x, 0), ([-1e4, -1e4],)),
    ("sigmoid", ts.sigmoid, lambda t, x: t.sigmoid(x), ([-math.inf, -1e4, -700.0, 0, 1e4],)),
    ("logaddexp", ts.logaddexp, lambda t, a, b: t.logaddexp(a, b), ([-math.inf, 1e4, 0], [0.0, -1e4, 0])),
    ("where", lambda a, b: ts.where(a > 0, a, b), lambda t, a, b: t.where(a > 0, a, b), ([-1.0, 0, 1], [4.0, 5, 6])),
]


@pytest.mark.reference
@pytest.mark.parametrize("case", CONVENTIONS, ids=lambda c: c[0])
def test_conventions_are_pytorchs(case: Any) -> None:
    torch = pytest.importorskip("torch")
    _, ours, theirs, values = case
    xs = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
    y = theirs(torch, *xs)
    np.testing.assert_allclose(ours(*map(leaf, values)).detach().numpy(), y.detach().numpy(), rtol=1e-14)
    for got, expected in zip(slopes_at(ours, *values), torch.autograd.grad(y.sum(), xs), strict=True):
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-12)  # of logsumexp at -1e4 PyTorch's has 2e-13


@pytest.mark.parametrize("name", "max min abs sign clip maximum minimum std prod pow sort floor logsumexp".split())
def test_conventions_are_in_the_docstrings(name: str) -> None:
    text = getattr(ops, name).__doc__
    assert "gradient" in text


def test_conventions() -> None:
    """The same without PyTorch."""
    for fn, values, expected in (
        (lambda x: ts.max(x), [1.0, 3.0, 3.0], [0, 0.5, 0.5]), (ts.abs, [-2.0, 0.0, 2.0], [-1, 0, 1]),
        (lambda x: ts.clip(x, -1.0, 1.0), [-1.0, 1.0, 2.0], [1, 1, 0]), (ts.vector_norm, [0.0, 0.0], [0, 0]),
        (ts.std, [2.0, 2.0], [0, 0]), (ts.prod, [0.0, 2.0, 3.0], [6, 0, 0]), (ts.prod, [0.0, 0.0, 3.0], [0, 0, 0]),
        (lambda x: ts.maximum(x, 1.0), [0.0, 1.0, 2.0], [0, 0.5, 1]), (ts.logsumexp, [-math.inf, -math.inf], [0, 0]),
        (lambda x: ts.sort(x) * np.arange(3), [2.0, 1.0, 2.0], [1, 0, 2]), (lambda x: x**0, [0.0, 1.0], [0, 0]),
    ):
        np.testing.assert_allclose(slopes_at(fn, values)[0], expected, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extremes(dtype: Any) -> None:
    x = leaf([-math.inf, -1e4, 0.0, 1e4], dtype=dtype)
    equal(ts.sigmoid(x), [0, 0, 0.5, 1])
    equal(ts.grad(ts.sigmoid(x).sum(), x), [0, 0, 0.25, 0])
    equal(ts.logsumexp(x), 1e4)
    equal(ts.grad(ts.logsumexp(x), x), [0, 0, 0, 1])
    nothing = leaf([[-math.inf, -math.inf], [0.0, -math.inf]], dtype=dtype)
    equal(ts.logsumexp(nothing, 1), [-math.inf, 0])
    equal(ts.grad(ts.logsumexp(nothing, 1)[1], nothing), [[0, 0], [1, 0]])
    assert not np.isnan(ts.grad(ts.logsumexp(nothing, 1).sum(), nothing).data).any()
    equal(ts.erf(x), [-1, -1, 0, 1])


INF = math.inf


@pytest.mark.parametrize(("fn", "x", "slopes"), [
    (ts.logsumexp, [0, INF], [0, 1]), (ts.logsumexp, [INF, INF], [0.5, 0.5]), (ts.logsumexp, [-INF, 0], [0, 1]),
    (ts.logsumexp, [-INF, -INF], [0, 0]), (lambda x: ts.logsumexp(ts.stack([ts.logsumexp(x)] * 2)), [-INF] * 2, [0, 0]),
    (lambda x: ts.logaddexp(x[0], x[1]), [0, INF], [0, 1]), (lambda x: ts.logaddexp(x[0], x[1]), [INF] * 2, [0.5] * 2),
    (lambda x: ts.logaddexp(ts.logaddexp(x[0], x[1]), x[1]), [-INF, -INF], [0, 0]),
    (lambda x: ts.vector_norm(x, ord=0.5), [1, 0], [1, 0]), (lambda x: ts.vector_norm(x, ord=0.5), [0, 0], [0, 0]),
    (lambda x: ts.vector_norm(x, ord=1), [INF, 2], [1, 1]), (lambda x: ts.atan2(x[0], x[1]), [0, 0], [0, 0]),
    (lambda x: ts.sum(x**0), [INF, -INF], [0, 0]),
    (lambda x: ts.sum(ts.einsum("ii->i", ts.reshape(ts.stack([x[0], x[1], x[1], x[0]]), (2, 2)))), [3, INF], [2, 0]),
])
def test_gradients_at_the_edge(fn: Any, x: list[float], slopes: list[float]) -> None:
    for dtype in (np.float32, np.float64, np.float16):
        leaf = ts.tensor(x, dtype, requires_grad=True)
        assert ts.grad(fn(leaf), leaf).tolist() == slopes
