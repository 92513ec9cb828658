"""Activations' kernels against plain NumPy, at their extremes too."""

import math
from typing import Any

import numpy as np
import pytest
from helpers.kernels import BACKENDS, backends, close, rows
from helpers.rows import layout
from hypothesis import given
from hypothesis import strategies as st
from tinyseq.backends.numpy import NumpyBackend


@given(st.lists(st.floats(-30, 30) | st.sampled_from([0.46875, 0.5, 1e4, -1e4, math.inf, -math.inf])))
def test_erf(values: list[float]) -> None:
    expected = np.array([math.erf(v) for v in values])
    got = BACKENDS[0].erf(np.array(values))
    assert np.abs(got - expected).max(initial=0) <= 2.3e-16
    small = np.array(values, np.float32)
    expected32 = np.array([math.erf(v) for v in small.tolist()])
    got32 = BACKENDS[0].erf(small)
    assert got32.dtype == np.float32 and np.abs(got32 - expected32).max(initial=0) <= 1.8e-7


def test_erf_keeps_relative_precision_near_zero_and_promotes() -> None:
    x = np.geomspace(1e-300, 0.6, 500)
    expected = np.array([math.erf(v) for v in x])
    assert (np.abs(BACKENDS[0].erf(x) / expected - 1) <= 5e-16).all()
    x32 = np.geomspace(1e-30, 4, 500).astype(np.float32)
    expected = np.array([math.erf(v) for v in x32.tolist()])
    assert (np.abs(BACKENDS[0].erf(x32) / expected - 1) <= 5e-7).all()
    assert BACKENDS[0].erf(np.float64(0.3)) == pytest.approx(math.erf(0.3), rel=1e-15)
    assert BACKENDS[0].erf(np.arange(3)).dtype == np.float64


@backends
@given(values=st.lists(st.floats(-700, 40), min_size=1, max_size=20))
def test_sigmoid_has_relative_precision_in_both_tails(backend: NumpyBackend, values: list[float]) -> None:
    x = np.array(values)
    expected = np.array([math.exp(v) / (1 + math.exp(v)) for v in values])
    assert (np.abs(backend.sigmoid(x) / expected - 1) <= 2e-15).all()
    close(backend.sigmoid(x) + backend.sigmoid(-x), np.ones_like(x))


@backends
def test_sigmoid_extremes(backend: NumpyBackend) -> None:
    for dtype in (np.float32, np.float64):
        y = backend.sigmoid(np.array([-math.inf, -1e4, 1e4, math.inf], dtype))
        assert y.dtype == dtype and y.tolist() == [0, 0, 1, 1]


@backends
@pytest.mark.parametrize("tanh", [False, True])
@given(rows())
def test_gelu(backend: NumpyBackend, tanh: bool, case: Any) -> None:
    x, _, rng = case

    def plain(x: Any) -> Any:
        x = x.astype(np.float64)
        if tanh:
            return x * (0.5 + 0.5 * np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return x * (0.5 + 0.5 * np.array([math.erf(v / math.sqrt(2)) for v in x.ravel()]).reshape(x.shape))

    y = backend.gelu(x, tanh)
    # Phi is right to rounding of 1, so that its far left tail has absolute precision only.
    assert y.dtype == x.dtype and (np.abs(y - plain(x)) <= 2 * np.finfo(x.dtype).eps * np.abs(x)).all()
    g = layout(rng.standard_normal(x.shape).astype(x.dtype), 1)
    dx = backend.gelu_backward(g, x, tanh)
    expected = g * (plain(x.astype(np.float64) + 1e-5) - plain(x.astype(np.float64) - 1e-5)) / 2e-5
    assert dx.dtype == x.dtype
    tolerance = 1e-8 if x.dtype == np.float64 else 1e-5
    assert np.abs(dx - expected).max(initial=0) <= tolerance * np.abs(expected).max(initial=1)


@backends
@pytest.mark.parametrize("tanh", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gelu_extremes(backend: NumpyBackend, tanh: bool, dtype: Any) -> None:
    x = np.array([-math.inf, -1e4, 0, 1e4, math.inf, math.nan], dtype)
    assert np.array_equal(backend.gelu(x, tanh), [0, 0, 0, 1e4, math.inf, math.nan], equal_nan=True)
    slopes = backend.gelu_backward(np.ones_like(x), x, tanh)
    assert np.array_equal(slopes, [0, 0, 0.5, 1, 1, math.nan], equal_nan=True)
    scalar = backend.gelu(dtype(1), tanh)
    assert scalar.shape == () and scalar == pytest.approx(0.8413, abs=3e-4)
