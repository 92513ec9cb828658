"""Embedding's rows, raw bits, and dropout masks made of them."""

import math
from typing import Any

import numpy as np
import pytest
from helpers.kernels import BACKENDS, backends, close, seeds
from helpers.rows import layout
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tinyseq.backends import pool
from tinyseq.backends.numpy import NumpyBackend


def test_random_integers_are_philox() -> None:
    b = BACKENDS[0]
    assert np.array_equal(b.random_raw(3, 2, 10), np.random.Philox(key=3, counter=2 << 128).random_raw(10))
    assert b.random_raw(3, 2, 10).dtype == np.uint64 and b.random_raw(3, 2, 0).shape == (0,)
    streams = [b.random_raw(seed, stream, 4).tolist() for seed in (0, 1) for stream in (0, 1, 2)]
    assert len({tuple(s) for s in streams}) == 6


@backends
@given(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0), st.floats(0, 1), seeds | st.integers(0, 2**65),
       st.integers(0, 99) | st.integers(2**64 - 1, 2**64), st.integers(0, 2**70) | st.integers(0, 9999))
def test_dropout_mask_compares_halves_of_raw_integers(backend: NumpyBackend, shape: Any, p: float, seed: int,
                                                      stream: int, start: int) -> None:
    mask = backend.dropout_mask(shape, p, seed, stream, start)
    skip = start % 8
    raw = BACKENDS[0].random_raw(seed, stream, (skip + math.prod(shape) + 1) // 2, start // 8)
    halves = np.stack([raw & 0xFFFFFFFF, raw >> np.uint64(32)], axis=1).ravel()[skip:][:math.prod(shape)]
    assert mask.dtype == bool and mask.shape == shape
    if p < 1:
        assert np.array_equal(mask.ravel(), halves >= round(p * 2**32))


def test_dropout_rate() -> None:
    for p in (0.0, 0.1, 0.5, 0.9, 1.0):
        kept = BACKENDS[0].dropout_mask((100_000,), p, 7, 1).mean()
        assert abs(kept - (1 - p)) <= 5 * math.sqrt(p * (1 - p) / 100_000)


@backends
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@given(seed=seeds, p=st.sampled_from([0.0, 0.1, 0.9, 1 - 2**-33]), kind=st.integers(0, 3))
def test_dropout_is_the_masks(backend: NumpyBackend, dtype: str, seed: int, p: float, kind: int) -> None:
    x = np.random.default_rng(seed).standard_normal((5, 7)).astype(dtype)
    x[0, 0], x[1, 1], x[2, 2] = math.nan, math.inf, -math.inf
    laid = layout(x, kind)
    with np.errstate(invalid="ignore", over="ignore"):
        y, keep = backend.dropout(laid, p, seed, 3)
        expected = x * BACKENDS[0].dropout_mask(x.shape, p, seed, 3) * (1 / (1 - p))
        assert y.dtype == expected.dtype and keep.dtype == bool and np.array_equal(y, expected, equal_nan=True)
        assert np.array_equal(backend.dropout_backward(laid, keep, p), expected, equal_nan=True)
    assert np.array_equal(laid, x, equal_nan=True)


def test_a_long_mask_is_shared_out_and_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "get_num_threads", lambda: 3)
    for start in (0, 1, 8 * 5 + 3):
        one, *_, last = (b.dropout_mask((700, 701), 0.3, 5, 6, start) for b in BACKENDS)
        assert np.array_equal(one, last)


@backends
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@given(n=st.integers(0, 40), width=st.sampled_from([1, 15, 16, 33]), height=st.integers(1, 5), seed=seeds,
       kind=st.integers(0, 3))
def test_rows_are_added_where_they_were_taken(backend: NumpyBackend, dtype: str, n: int, width: int, height: int,
                                              seed: int, kind: int) -> None:
    rng = np.random.default_rng(seed)
    g, ids = rng.standard_normal((n * 5, width)).astype(dtype), rng.integers(-height, height, n * 5)
    expected = np.zeros((height, width))
    np.add.at(expected, ids, g.astype(float))
    found = backend.unindex(layout(g, kind).reshape(n, 5, width), ids.reshape(n, 5), (height, width))
    assert found.dtype == dtype
    if dtype != "float16":
        close(found, expected)
    if n:
        with pytest.raises(IndexError):
            backend.unindex(g, np.where(np.arange(n * 5) == n, height, ids), (height, width))


@backends
def test_a_row_that_is_taken_often_loses_nothing(backend: NumpyBackend) -> None:
    g = np.full((1 << 18, 16), 0.1, np.float32)
    found = backend.unindex(g, np.ones(len(g), int), (3, 16))
    np.testing.assert_allclose(found[1], len(g) * np.float64(g[0]), rtol=2e-6)


@pytest.mark.parametrize("height", [200, 40_000])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16"])
def test_narrow_ids_find_their_rows(dtype: str, height: int) -> None:
    ids = np.array([100, 3, 100, 127], dtype)  # 127 + height is more than the type holds
    ids = ids if dtype == "uint8" else np.concatenate([ids, np.array([-1, -100], dtype)])
    g = np.arange(ids.size * 2.0).reshape(-1, 2)
    expected = np.zeros((height, 2))
    np.add.at(expected, ids.astype(int), g)
    for backend in BACKENDS:
        close(backend.unindex(g, ids, (height, 2)), expected)
