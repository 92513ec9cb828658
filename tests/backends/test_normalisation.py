"""Softmax and layer norm against plain NumPy, and their gradients against differences."""

import math
from typing import Any

import numpy as np
import pytest
from helpers.kernels import BACKENDS, backends, close, rows, slope
from helpers.rows import layout
from hypothesis import given
from hypothesis import strategies as st
from tinyseq.backends.numpy import NumpyBackend


def plain_softmax(x: np.ndarray, axis: int, mask: Any = True) -> np.ndarray:
    x = np.where(mask, x.astype(np.float64), -math.inf)
    e = np.exp(x - np.maximum(x.max(axis=axis, keepdims=True, initial=-1e300), -1e300))
    return e / np.maximum(e.sum(axis=axis, keepdims=True), 1e-300)


@backends
@given(rows(), st.sampled_from(["none", "full", "broadcast"]))
def test_softmax(backend: NumpyBackend, case: Any, masking: str) -> None:
    x, axis, rng = case
    mask = None if masking == "none" else rng.random(x.shape if masking == "full" else x.shape[-1:]) < 0.6
    y = backend.softmax(x, axis, mask)
    close(y, plain_softmax(x, axis, True if mask is None else mask), x.dtype)
    g = layout(rng.standard_normal(x.shape).astype(x.dtype), 1)
    expected = y * (g - (g * y).sum(axis=axis, keepdims=True))
    close(backend.softmax_backward(g, y, axis), expected, x.dtype)
    if x.dtype == np.float64:
        def f(v: np.ndarray) -> Any:
            return (backend.softmax(v, axis, mask) * g).sum()
        slope(f, [x], [backend.softmax_backward(g, y, axis)], rng)


@backends
@given(rows())
def test_log_softmax(backend: NumpyBackend, case: Any) -> None:
    x, axis, rng = case
    y = backend.softmax(x, axis, log=True)
    close(y, np.log(plain_softmax(x, axis)), x.dtype)
    g = layout(rng.standard_normal(x.shape).astype(x.dtype), 2)
    expected = g - plain_softmax(x, axis) * g.astype(np.float64).sum(axis=axis, keepdims=True)
    close(backend.softmax_backward(g, y, axis, log=True), expected, x.dtype)


@backends
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_extremes(backend: NumpyBackend, dtype: Any) -> None:
    inf = math.inf
    x = np.array([[1e4, -1e4, 1e4], [-inf, 0, -inf], [-inf, -inf, -inf], [-1e4, -1e4, -inf]], dtype)
    expected = np.array([[0.5, 0, 0.5], [0, 1, 0], [0, 0, 0], [0.5, 0.5, 0]], dtype)
    y = backend.softmax(x)
    assert np.array_equal(y, expected)
    assert np.array_equal(backend.softmax_backward(np.ones_like(x), y), np.zeros_like(x))
    z = backend.softmax(x, log=True)
    half = -math.log(2)
    close(z[[0, 1, 3]], [[half, half - 2e4, half], [-inf, 0, -inf], [half, half, -inf]])
    assert (z[2] == -inf).all()
    assert np.isfinite(backend.softmax_backward(np.ones_like(x), z, log=True)).all()


@backends
@given(rows(min_side=1), st.booleans(), st.booleans(), st.data())
def test_layer_norm(backend: NumpyBackend, case: Any, has_weight: bool, has_bias: bool, data: Any) -> None:
    x, _, rng = case
    ndim = data.draw(st.integers(1, x.ndim))
    shape, axes = x.shape[x.ndim - ndim:], tuple(range(x.ndim - ndim, x.ndim))
    weight, bias = (layout(rng.standard_normal(shape).astype(x.dtype), 2) if has else None
                    for has in (has_weight, has_bias))
    one, zero = np.ones(shape), np.zeros(shape)

    def plain(x: Any, weight: Any, bias: Any) -> Any:
        x = x.astype(np.float64)
        y = (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(x.var(axis=axes, keepdims=True) + 1e-3)
        return y * weight + bias

    y, saved = backend.layer_norm(x, weight, bias, ndim, 1e-3)
    close(y, plain(x, one if weight is None else weight, zero if bias is None else bias), x.dtype)
    g = layout(rng.standard_normal(x.shape).astype(x.dtype), 3)
    gradients = backend.layer_norm_backward(g, saved, weight)
    assert [a.shape for a in gradients] == [x.shape, shape, shape]
    assert {a.dtype for a in gradients} == {x.dtype}
    if x.dtype == np.float64:
        inputs = [x, one if weight is None else weight, zero if bias is None else bias]
        slope(lambda *a: (plain(*a) * g).sum(), inputs, gradients, rng)


def test_layer_norm_of_nothing() -> None:
    for shape in ((0, 3), (3, 0)):
        y, saved = BACKENDS[0].layer_norm(np.zeros(shape), np.ones(shape[1]), None)
        dx, dweight, dbias = BACKENDS[0].layer_norm_backward(np.zeros(shape), saved, np.ones(shape[1]))
        assert y.shape == dx.shape == shape and not dweight.any() and not dbias.any()
