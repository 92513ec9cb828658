"""Every function of tensors against its NumPy twin, in values, dtypes and gradients. The table is in `rows.py`."""

import inspect
import math
import os
import re
from typing import Any

import numpy as np
import pytest
from helpers.rows import NUMBER, REAL, ROWS, Row, inputs, layout
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
import tinyseq.functional as F
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
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
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
        internal = {"raw", "times", "times_over_rows", "check_ids", "integers", "operand", "backward"}
        assert public - internal == {row.name for row in rows}


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_a_power_by_an_array_without_axes_has_the_wider_dtype(exponent: float) -> None:
    assert (ts.ones((2, 3)) ** ts.tensor(np.array(exponent), dtype=np.float64)).dtype == np.float64


# --- sums, whose error must not grow with their length ---------------------------------------------------------------

LONG = 1_000_000 if os.environ.get("TINYSEQ_TEST_PROFILE") == "thorough" else 1 << 18
REDUCTIONS = [  # on columns of one value: name, what is done over axis 0 of (n, 2), what it is for n entries of v
    ("sum", lambda x: ts.sum(x, 0), lambda n, v: n * v), ("mean", lambda x: ts.mean(x, 0), lambda n, v: v),
    ("var", lambda x: ts.var(x, 0), lambda n, v: 0), ("std", lambda x: ts.std(x, 0), lambda n, v: 0),
    ("logsumexp", lambda x: ts.exp(ts.logsumexp(x, 0)), lambda n, v: n * np.exp(v)),
    ("vector_norm", lambda x: ts.vector_norm(x, 0), lambda n, v: n**0.5 * v),
    ("cumulative_sum", lambda x: ts.cumulative_sum(x, 0)[-1], lambda n, v: n * v),
    ("vecdot", lambda x: ts.vecdot(x, x, 0), lambda n, v: n * v * v),
    ("einsum", lambda x: ts.einsum("ij->j", x), lambda n, v: n * v),
    ("softmax", lambda x: F.softmax(x, 0)[0], lambda n, v: 1 / n),
    ("linear's bias", lambda x: _slope(lambda b: F.linear(x, ts.ones((2, 2), x.dtype), b), 2, v=x),
     lambda n, v: n * v),
    ("a broadcast argument", lambda x: _slope(lambda b: x + b, 2, v=x), lambda n, v: n * v),
    ("rms_norm's weight", lambda x: _slope(lambda w: F.rms_norm(x, 2, w, 1e-30), 2, v=x), lambda n, v: n * v),
    ("layer_norm's bias", lambda x: _slope(lambda b: F.layer_norm(x, 2, ts.ones(2, x.dtype), b), 2, v=x),
     lambda n, v: n * v),
    ("a row of an embedding", lambda x: _slope(lambda w: F.embedding(np.ones(len(x), int), w), (3, 2), v=x)[1],
     lambda n, v: n * v),
    ("take", lambda x: _slope(lambda w: w[np.ones(len(x), int)], (3, 2), v=x)[1], lambda n, v: n * v),
    ("take of several axes", lambda x: _slope(
        lambda w: w[np.zeros((len(x), 1), int), np.arange(2)], (3, 2), v=x)[0], lambda n, v: n * v),
    ("index_add", lambda x: ts.index_add(ts.zeros((3, 2), x.dtype), np.ones(len(x), int), x)[1], lambda n, v: n * v),
    ("nll_loss", lambda x: F.nll_loss(-x, np.zeros(len(x), int), reduction="sum"), lambda n, v: n * v),
]


def _slope(fn: Any, shape: Any, v: Any) -> Any:
    """The gradient of fn at ones, weighted by v."""
    leaf = ts.ones(shape, v.dtype, requires_grad=True)
    return ts.grad(fn(leaf), leaf, v)


@pytest.mark.parametrize(("reduce", "exact"), [r[1:] for r in REDUCTIONS], ids=[r[0] for r in REDUCTIONS])
@pytest.mark.parametrize(("n", "value"), [(LONG, 0.1), (LONG - 63, 0.7), (5000, 1.1)])
def test_sums_of_many_rows_lose_nothing(reduce: Any, exact: Any, value: float, n: int) -> None:
    x = np.full((n, 2), value, np.float32)
    for laid in (x, np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]):
        expected = exact(n, np.float64(x[0, 0]))
        np.testing.assert_allclose(reduce(ts.asarray(laid)).numpy(), expected, rtol=2e-6 if expected else 0, atol=0)


@pytest.mark.parametrize(("reduce", "exact"), [r[1:] for r in REDUCTIONS], ids=[r[0] for r in REDUCTIONS])
def test_sums_of_float16_do_not_stop_at_2048(reduce: Any, exact: Any) -> None:
    x = np.full((8192, 2), 1.1, np.float16)
    y = reduce(ts.asarray(x))
    assert y.dtype == np.float16
    np.testing.assert_allclose(y.numpy(), exact(8192, np.float64(x[0, 0])), rtol=5e-3)  # e^9 has 4e-3


def test_float16_has_room_for_what_fits() -> None:
    ties = ts.ones(70_000, np.float16, requires_grad=True)
    ts.max(ties).backward(ts.tensor(np.float16(60_000), np.float16))
    assert ties.grad is not None and abs(ties.grad.numpy()[0] - 6 / 7) < 1e-3  # of the sum, which does not fit
    assert ts.mean(ties).item() == 1
    x = ts.full((3, 4), 300.0, np.float16) * ts.tensor([1.0, -1.0, 1.0, -1.0], np.float16)
    assert ts.std(x).item() == 300 and ts.vector_norm(x, 1).tolist() == [600] * 3
    assert ts.erf(x).dtype == np.float16 and ts.divide(x, ts.ones((3, 4))).dtype == np.float32


@given(data=st.data())
def test_sums_of_any_layout_and_axes(data: st.DataObject) -> None:
    """Against float64, where stretches are cut: an axis of each kind before, between and behind others."""
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 64, 257, 300]), min_size=1, max_size=3))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = layout((rng.random(shape) + 0.5).astype(np.float32), data.draw(st.integers(0, 3)))
    x = x.transpose(data.draw(st.permutations(range(x.ndim))))
    axis = data.draw(st.none() | st.integers(0, x.ndim - 1) | st.sets(st.integers(0, x.ndim - 1)).map(tuple))
    keepdims = data.draw(st.booleans())
    for name in ("sum", "mean", "var"):
        got, expected = getattr(ts, name)(ts.asarray(x), axis, keepdims=keepdims), getattr(np, name)(
            x, axis=axis, dtype=np.float64, keepdims=keepdims)
        assert got.shape == np.shape(expected) and got.dtype == np.float32
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5 if name == "var" else 2e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint32", "int64", "uint64"])
def test_numpys_integers_are_taken_as_pythons(kind: str) -> None:
    """Not in their width: -100 is no int8 twice over, and no unsigned integer."""
    n, x = np.dtype(kind).type, ts.tensor(np.arange(300.0), requires_grad=True)
    weights = np.random.default_rng(0).normal(size=300)
    for narrow, plain in (((n(100),), (100,)), (n(100), 100), (np.array([100], kind), (100,))):
        axis = 0 if isinstance(narrow, np.generic) else (0,)
        found, expected = (ts.grad(ts.sum(ts.roll(x, shift, axis) * weights), x) for shift in (narrow, plain))
        np.testing.assert_array_equal(found.numpy(), expected.numpy())
    assert ts.pad(x, [(n(100), n(0))]).shape == (400,)
    assert ts.tile(x, (n(100),)).shape == (30_000,)
    assert ts.repeat(x, np.full(300, 2, kind), 0).shape == (600,)
    assert ts.topk(x, n(3), n(0))[0].tolist() == [299, 298, 297]
    assert ts.functional.layer_norm(ts.ones((2, 4)), n(4)).shape == (2, 4)


@pytest.mark.parametrize("ord", [0.5, 1.5, 3, 8, 16])
@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_powers_of_a_norm_may_be_larger_than_it(kind: str, ord: float) -> None:
    x = ts.tensor(np.array([3e4, 3e4, 1.0, 0.0], kind) if ord >= 1.5 else np.array([6.0, 6, 1, 0], kind), None, True)
    wide = ts.tensor(x.detach().numpy().astype(np.longdouble).astype("float64") / 3e4, None, True)
    y, z = ts.vector_norm(x, ord=ord), ts.vector_norm(wide, ord=ord)
    close = {"float16": 2e-3, "float32": 1e-6, "float64": 1e-12}[kind]
    np.testing.assert_allclose(y.item(), z.item() * 3e4, rtol=close)
    np.testing.assert_allclose(ts.grad(y, x).numpy(), ts.grad(z, wide).numpy(), atol=close)


def test_numbers_that_a_dtype_does_not_hold_are_refused_wherever_they_are_made() -> None:
    for make in (lambda: ts.arange(300, dtype=ts.int8), lambda: ts.linspace(0, 1000, 3, dtype=ts.int8),
                 lambda: ts.full((3,), 1e10, dtype=ts.int8), lambda: ts.full((3,), math.nan, dtype=ts.int64)):
        with pytest.raises(ValueError, match="expected numbers from"):
            make()
    assert ts.arange(128, dtype=ts.int8).numpy().dtype == np.int8
    with pytest.raises(ValueError, match="tensordot"):
        ts.tensordot(ts.ones(1), ts.ones(3), 1)
    x = ts.ones(3)
    with pytest.raises(TypeError, match="expected"):
        x[0] = None


def test_infinities_stay_in_their_column() -> None:
    x = np.ones((1000, 4), np.float32)
    x[500, :3] = math.inf, -math.inf, math.nan
    np.testing.assert_array_equal(ts.sum(ts.asarray(x), 0).numpy(), [math.inf, -math.inf, math.nan, 1000])


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
        grads = ts.grad(roots, wanted, [ts.asarray(s, dtype) for s in seeds], allow_unused=True) if roots else []
    return [part.detach().numpy() for part in outputs] + [g.numpy() for g in grads if g is not None]


# --- at the edge of the numbers --------------------------------------------------------------------------------------

INF = math.inf
EDGES = np.array([0.0, -0.0, 1.0, -1.0, 0.5, 2.0, INF, -INF, 1e-42, 1e-30, 1e20, -1e20, 50.0, -50.0], np.float32)
LIKE_TORCH = """sqrt exp expm1 log log1p log2 log10 sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf
    sigmoid abs floor ceil trunc round square negative reciprocal add subtract multiply divide pow maximum minimum"""


@pytest.mark.reference
@pytest.mark.parametrize("name", LIKE_TORCH.split())
def test_edges_are_torchs(name: str) -> None:
    """Values and gradients at infinities, zeros and subnormals, for two operands at all pairs of them."""
    torch = pytest.importorskip("torch")
    theirs = getattr(torch, name)
    binary = name in "add subtract multiply divide pow maximum minimum".split()
    arrays = [a.reshape(-1) for a in np.meshgrid(EDGES, EDGES)] if binary else [EDGES]
    ours = [ts.tensor(a, requires_grad=True) for a in arrays]
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    y = theirs(*leaves)
    y.backward(torch.ones_like(y))
    with np.errstate(all="ignore"):
        z = getattr(ts, name)(*ours)
        z.backward(ts.ones_like(z))
    for got, expected in [(z, y.detach()), *[(x.grad, t.grad) for x, t in zip(ours, leaves, strict=True)]]:
        np.testing.assert_allclose(got.detach().numpy(), expected.numpy(), rtol=3e-6, atol=1e-37)


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


def test_einsum_takes_diagonals_only() -> None:
    x = ts.tensor([[1.0, INF], [math.nan, 2.0]])
    assert ts.einsum("ii->i", x).tolist() == [1, 2] and ts.einsum("ii", x).item() == 3


def test_numpys_arrays_beside_a_tensor() -> None:
    """Those without axes are numbers; others follow NumPy's rules, and go where the Tensor lives."""
    x = ts.tensor([1.0, 2.0, 3.0], requires_grad=True)
    for y in (x * np.array(2.0), np.array(2.0) * x, ts.where(np.array([True, False, True]), x, np.array(7.0))):
        assert y.dtype == np.float32 and y.backend == x.backend
    for y in (x + np.ones(3), np.ones(3) + x, ts.maximum(x, np.ones(3)), ts.divide(np.ones(3), x)):
        assert y.dtype == np.float64 and y.backend == x.backend
    assert (x * np.ones(3, np.float32)).dtype == np.float32
    assert ts.grad(ts.sum(x * np.arange(3)), x).tolist() == [0, 1, 2]
    assert (x > np.array([0, 5, 0])).tolist() == [True, False, True]


def test_no_backend_and_no_dtype_is_refused() -> None:
    with pytest.raises(TypeError, match=r"to\(.*got None"):
        ts.ones(2).to(None)
