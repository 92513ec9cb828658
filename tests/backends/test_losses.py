"""Cross-entropy's kernel against plain NumPy, and PyTorch."""

import math
from typing import Any

import numpy as np
import pytest
from helpers.kernels import BACKENDS, backends, close, dtypes, seeds, slope
from helpers.rows import layout
from hypothesis import given
from hypothesis import strategies as st
from tinyseq.backends.numpy import NumpyBackend


def plain_cross_entropy(x: Any, t: Any, weight: Any, smoothing: float, ignored: int) -> np.ndarray:
    x = x.astype(np.float64)
    losses = []
    for row, k in zip(x, t, strict=True):
        minus_log_p = np.log(np.exp(row - row.max()).sum()) - (row - row.max()) if row.size else row
        smooth = (weight * minus_log_p).sum() / max(row.size, 1)
        loss = (1 - smoothing) * weight[k] * minus_log_p[k] + smoothing * smooth if k != ignored else 0
        losses.append(loss)
    return np.array(losses, dtype=np.float64)


@st.composite
def classified(draw: Any) -> Any:
    n, c = draw(st.integers(0, 9)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(seeds))
    dtype = draw(dtypes)
    x = layout((4 * rng.standard_normal((n, c))).astype(dtype), draw(st.integers(0, 3)))
    ignored = draw(st.sampled_from([-100, 0]))
    t = np.where(rng.random(n) < 0.3, ignored, rng.integers(0, c, n))
    weight = rng.random(c).astype(dtype) if draw(st.booleans()) else None
    return x, t, weight, draw(st.sampled_from([0.0, 0.1, 1.0])), ignored, rng


@backends
@given(classified())
def test_cross_entropy(backend: NumpyBackend, case: Any) -> None:
    x, t, weight, smoothing, ignored, rng = case
    losses, weights, saved = backend.cross_entropy(x, t, weight, smoothing, ignored)
    w = np.ones(x.shape[1]) if weight is None else weight
    close(losses, plain_cross_entropy(x, t, w, smoothing, ignored), x.dtype)
    assert np.array_equal(weights, np.where(t == ignored, 0, w[np.where(t == ignored, 0, t)]))
    g = layout(rng.standard_normal(len(t)).astype(x.dtype), 1)
    dx = backend.cross_entropy_backward(g, saved)
    assert dx.dtype == x.dtype and not dx[t == ignored].any()
    if x.dtype == np.float64:
        slope(lambda v: (plain_cross_entropy(v, t, w, smoothing, ignored) * g).sum(), [x], [dx], rng)


@backends
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_extremes(backend: NumpyBackend, smoothing: float) -> None:
    nan, inf = math.nan, math.inf
    x = np.array([[1e4, -1e4], [nan, nan], [-inf, -inf], [-1e4, -1e4]], np.float32)
    losses, weights, saved = backend.cross_entropy(x, np.array([1, -100, -100, 0]), None, smoothing)
    close(losses, [2e4 * (1 - smoothing / 2), 0, 0, math.log(2)], np.float32)
    assert weights.tolist() == [1, 0, 0, 1]
    dx = backend.cross_entropy_backward(np.ones(4, np.float32), saved)
    s = smoothing / 2
    close(dx, [[1 - s, s - 1], [0, 0], [0, 0], [s - 0.5, 0.5 - s]], np.float32)


@backends
def test_many_classes_keep_their_digits_and_others_are_refused(backend: NumpyBackend) -> None:
    n = 1 << 20
    losses, _, saved = backend.cross_entropy(np.full((1, n), 0.1, np.float32), np.array([3]))
    close(losses, [math.log(n)], np.float32)
    dx = backend.cross_entropy_backward(np.ones(1, np.float32), saved)
    assert (abs(np.delete(dx[0], 3) * n - 1) <= 1e-6).all()
    for wrong in (4, -5):
        with pytest.raises(IndexError):
            backend.cross_entropy(np.zeros((2, 4)), np.array([0, wrong]))


@pytest.mark.reference
@given(classified())
def test_cross_entropy_is_torchs(case: Any) -> None:
    torch = pytest.importorskip("torch")
    x, t, weight, smoothing, ignored, _ = case
    leaf = torch.tensor(x.copy(), requires_grad=True)
    w = None if weight is None else torch.tensor(weight)
    losses, weights, saved = BACKENDS[1].cross_entropy(x, t, weight, smoothing, ignored)
    if weights.sum() == 0:
        return
    for reduction in ("none", "sum", "mean"):
        loss = torch.nn.functional.cross_entropy(leaf, torch.tensor(t), w, label_smoothing=smoothing,
                                                 ignore_index=ignored, reduction=reduction)
        ours = {"none": losses, "sum": losses.sum(), "mean": losses.sum() / weights.sum()}[reduction]
        close(ours, loss.detach().numpy())
        (expected,) = torch.autograd.grad(loss.sum(), leaf)
        g = np.full(len(t), 1 if reduction != "mean" else 1 / weights.sum(), x.dtype)
        close(BACKENDS[1].cross_entropy_backward(g, saved), expected.numpy())
