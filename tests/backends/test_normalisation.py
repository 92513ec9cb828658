"""Softmax and layer norm against plain NumPy, and their gradients against differences."""

import math
from typing import Any

import numpy as np
import pytest
from helpers.kernels import backends, close, rows, slope
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
    far = backend.softmax(np.full((1, 3), 1e4, dtype), log=True)  # no digits of 1e4 are in it
    close(far, np.full((1, 3), -math.log(3)), dtype)
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


@backends
@given(rows(min_side=1), st.booleans())
def test_rms_norm(backend: NumpyBackend, case: Any, has_weight: bool) -> None:
    x, _, rng = case
    weight = rng.standard_normal(x.shape[-1:]).astype(x.dtype) if has_weight else None
    one = np.ones(x.shape[-1])

    def plain(x: Any, weight: Any) -> Any:
        x = x.astype(np.float64)
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-3) * weight

    y, saved = backend.layer_norm(x, weight, None, 1, 1e-3, False)
    close(y, plain(x, one if weight is None else weight), x.dtype)
    g = rng.standard_normal(x.shape).astype(x.dtype)
    dx, dweight, _ = backend.layer_norm_backward(g, saved, weight)
    assert dx.dtype == dweight.dtype == x.dtype
    if x.dtype == np.float64:
        slope(lambda *a: (plain(*a) * g).sum(), [x, one if weight is None else weight], [dx, dweight], rng)


@backends
def test_layer_norm_far_from_zero_of_one_value_and_of_many_rows(backend: NumpyBackend) -> None:
    rng = np.random.default_rng(0)
    x = (1e4 + rng.standard_normal((3000, 40))).astype("f")
    x[7] = 1234.567
    y, saved = backend.layer_norm(x, None, None)
    assert not y[7].any()
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(1, keepdims=True)) / np.sqrt(exact.var(1, keepdims=True) + 1e-5)
    assert abs(y - exact).max() < 1e-5
    g = np.full_like(x, 0.1)
    _, dweight, dbias = backend.layer_norm_backward(g, saved, None)
    assert (abs(dbias - 3000 * np.float64(g[0, 0])) <= 4e-4).all()
    assert abs(dweight - (g * exact).sum(0)).max() < 1e-4


@backends
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_stays_in_its_row(backend: NumpyBackend, dtype: Any) -> None:
    x = np.random.default_rng(0).standard_normal((3, 70)).astype(dtype)
    x[1, 40] = math.nan
    for y in (backend.softmax(x), backend.softmax(x, log=True), backend.layer_norm(x, None, None)[0]):
        assert np.isnan(y).all(axis=1).tolist() == [False, True, False] and np.isnan(y).sum() == 70
    mask = ~np.isnan(x)
    assert np.isfinite(backend.softmax(x, -1, mask)).all()


@backends
def test_a_mask_of_numbers_is_refused(backend: NumpyBackend) -> None:
    with pytest.raises(TypeError):
        backend.softmax(np.zeros((2, 3)), -1, np.ones(3, int))


@backends
def test_long_rows_keep_their_digits(backend: NumpyBackend) -> None:
    n = 1 << 20
    x = np.full((1, n), 0.1, np.float32)
    assert (abs(backend.softmax(x) * n - 1) <= 1e-6).all()
    assert (abs(backend.softmax(x, log=True) + math.log(n)) <= 4e-6).all()
    assert abs(backend.softmax_backward(x, np.full_like(x, 1 / n))).max() <= 1e-12


@backends
def test_results_do_not_hang_on_threads(backend: NumpyBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, g, w = (rng.standard_normal(shape).astype("f") for shape in ((3000, 300), (3000, 300), 300))
    found = []
    for threads in (1, 3):
        monkeypatch.setattr("tinyseq.backends.pool.get_num_threads", lambda n=threads: n)
        y, saved = backend.layer_norm(x, w, w)
        found.append([y, *backend.layer_norm_backward(g, saved, w), backend.softmax(x), backend.gelu(x)])
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


@backends
def test_layer_norm_of_nothing(backend: NumpyBackend) -> None:
    for shape in ((0, 3), (3, 0)):
        y, saved = backend.layer_norm(np.zeros(shape), np.ones(shape[1]), None)
        dx, dweight, dbias = backend.layer_norm_backward(np.zeros(shape), saved, np.ones(shape[1]))
        assert y.shape == dx.shape == shape and not dweight.any() and not dbias.any()
