"""Sums, whose error must not grow with their length: of every function and layer that sums."""

import math
import os
from typing import Any

import numpy as np
import pytest
from helpers.rows import layout
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
import tinyseq.functional as F

LONG = 1_000_000 if os.environ.get("TINYSEQ_TEST_PROFILE") == "thorough" else 1 << 18
REDUCTIONS = [  # on columns of one value: name, what is done over axis 0 of (n, 2), what it is for n entries of v
    ("sum", lambda x: ts.sum(x, 0), lambda n, v: n * v), ("mean", lambda x: ts.mean(x, 0), lambda n, v: v),
    ("var", lambda x: ts.var(x, 0), lambda n, v: 0), ("std", lambda x: ts.std(x, 0), lambda n, v: 0),
    ("logsumexp", lambda x: ts.exp(ts.logsumexp(x, 0)), lambda n, v: n * np.exp(v)),
    ("vector_norm", lambda x: ts.vector_norm(x, axis=0), lambda n, v: n**0.5 * v),
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
    ("index_add", lambda x: ts.index_add(ts.zeros((3, 2), x.dtype), 0, np.ones(len(x), int), x)[1], lambda n, v: n * v),
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
    assert y.dtype == np.float16 or y.shape == ()  # losses are float32
    np.testing.assert_allclose(y.numpy(), exact(8192, np.float64(x[0, 0])), rtol=5e-3)  # e^9 has 4e-3


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


def test_infinities_stay_in_their_column() -> None:
    x = np.ones((1000, 4), np.float32)
    x[500, :3] = math.inf, -math.inf, math.nan
    np.testing.assert_array_equal(ts.sum(ts.asarray(x), 0).numpy(), [math.inf, -math.inf, math.nan, 1000])
