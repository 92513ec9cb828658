"""Kernels of the NumPy backend, held to plain float64 definitions, to finite differences and to PyTorch.

Every property runs at two sizes of a cache piece, the usual one and one of 7 elements, which cuts everything.
"""

import ctypes
import math
from typing import Any

import numpy as np
import pytest
from helpers.kernels import BACKENDS, backends, close, dtypes, seeds, slope
from helpers.rows import layout
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tinyseq.backends.numpy import NumpyBackend, keep_memory

import tinyseq as ts


@st.composite
def rows(draw: Any, min_side: int = 0) -> tuple[np.ndarray, int, np.random.Generator]:
    """An array of one to three dimensions in some layout, an axis of it, and a generator."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=min_side, max_side=6))
    rng = np.random.default_rng(draw(seeds))
    x = (3 * rng.standard_normal(shape)).astype(draw(dtypes))
    return layout(x, draw(st.integers(0, 3))), draw(st.integers(-len(shape), len(shape) - 1)), rng


# --- memory, namespace -----------------------------------------------------------------------------------------------


def test_memory_is_kept_unless_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Library:
        def mallopt(self, option: int, value: int) -> int:
            calls.append(option)
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("os.confstr", lambda name: "glibc 2.36", raising=False)
    monkeypatch.setenv("TINYSEQ_KEEP_MEMORY", "0")
    keep_memory()
    assert not calls
    monkeypatch.delenv("TINYSEQ_KEEP_MEMORY")
    keep_memory()
    assert calls == [-3, -1, -2]
    monkeypatch.setattr("os.confstr", lambda name: None, raising=False)
    keep_memory()
    assert len(calls) == 3


@given(rows(min_side=1))
def test_functions_that_old_libraries_lack(case: Any) -> None:
    x, axis, _ = case
    close(BACKENDS[0].cumulative_sum(x, axis=axis), np.cumsum(x, axis=axis), x.dtype)
    parts = BACKENDS[0].unstack(x, axis=axis)
    assert len(parts) == x.shape[axis] and np.array_equal(np.stack(parts, axis=axis), x)


def test_namespace_has_the_library_and_what_it_lacks() -> None:
    xp = BACKENDS[0].xp
    assert xp.tanh is np.tanh and xp.linalg.norm is np.linalg.norm
    for name in "erf sigmoid unindex unstack vecdot cumulative_sum matrix_transpose permute_dims \
                 concat isdtype take_along_axis".split():
        assert callable(getattr(xp, name))
    assert not hasattr(np, "erf"), "NumPy's own module must stay as it was"


# --- elementwise functions -------------------------------------------------------------------------------------------


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


@given(st.lists(st.floats(-700, 40), min_size=1, max_size=20))
def test_sigmoid_has_relative_precision_in_both_tails(values: list[float]) -> None:
    x = np.array(values)
    expected = np.array([math.exp(v) / (1 + math.exp(v)) for v in values])
    assert (np.abs(BACKENDS[0].sigmoid(x) / expected - 1) <= 1e-15).all()
    close(BACKENDS[0].sigmoid(x) + BACKENDS[0].sigmoid(-x), np.ones_like(x))


def test_sigmoid_extremes() -> None:
    for dtype in (np.float32, np.float64):
        y = BACKENDS[0].sigmoid(np.array([-math.inf, -1e4, 1e4, math.inf], dtype))
        assert y.dtype == dtype and y.tolist() == [0, 0, 1, 1]


@given(rows(), st.booleans(), st.booleans())
def test_logsumexp(case: Any, keepdims: bool, holes: bool) -> None:
    x, axis, rng = case
    x = x.copy()
    if holes:
        x[rng.random(x.shape) < 0.5] = -math.inf
    with np.errstate(divide="ignore"):
        expected = np.log(np.exp(x.astype(np.float64)).sum(axis=axis, keepdims=keepdims))
        everything = np.log(np.exp(x.astype(np.float64)).sum())
    close(ts.logsumexp(ts.asarray(x), axis, keepdims).data, expected, x.dtype)
    close(ts.logsumexp(ts.asarray(x)).data, everything)


def test_logsumexp_extremes() -> None:
    x = np.array([[1e4, 1e4], [-1e4, -math.inf], [-math.inf, -math.inf], [math.inf, 0]])
    expected = [1e4 + math.log(2), -1e4, -math.inf, math.inf]
    assert ts.logsumexp(ts.asarray(x), 1).tolist() == expected


# --- indexing --------------------------------------------------------------------------------------------------------


@st.composite
def indexed(draw: Any) -> tuple[tuple[int, ...], Any, int]:
    """A shape, an index that it allows (basic, a mask, integer arrays along some axes), and a seed."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5))
    kind = draw(st.sampled_from(["basic", "mask", "rows", "mixed", "arrays"]))
    small = hnp.array_shapes(max_dims=2, min_side=0, max_side=6)

    def integers(n: int, size: Any) -> Any:
        return draw(hnp.arrays(np.int64, size, elements=st.integers(-n, n - 1)))

    if kind == "basic":
        index = draw(hnp.basic_indices(shape, allow_newaxis=True))
    elif kind == "mask":
        index = draw(hnp.arrays(bool, shape))
    elif kind == "rows":
        index = integers(shape[0], draw(small))
    elif kind == "mixed":
        index = (integers(shape[0], 3).tolist(), ..., draw(st.sampled_from([None, slice(None, None, -1)])))
        index = index if len(shape) > 1 else index[0]
    else:
        size = draw(small)
        index = tuple(integers(n, size) for n in shape)
    return shape, index, draw(seeds)


@given(indexed(), dtypes)
def test_unindex_is_the_adjoint_of_indexing(case: Any, dtype: Any) -> None:
    shape, index, seed = case
    numbers = np.arange(math.prod(shape)).reshape(shape)
    g = np.random.default_rng(seed).standard_normal(numbers[index].shape).astype(dtype)
    expected = np.bincount(numbers[index].ravel(), g.ravel(), numbers.size).reshape(shape)
    first = BACKENDS[0].unindex(g, index, shape)
    close(first, expected, dtype)
    assert np.array_equal(first, BACKENDS[0].unindex(g, index, shape))


def test_unindex_sums_float16_in_float32() -> None:
    ones = np.ones((4096, 2), np.float16)  # float16 counts to 2,048 only
    for index in (np.zeros(4096, int), (np.zeros(4096, int), slice(None))):
        y = BACKENDS[0].unindex(ones, index, (3, 2))
        assert y.dtype == np.float16 and y.tolist() == [[4096, 4096], [0, 0], [0, 0]]


# --- softmax and cross-entropy ---------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_extremes(smoothing: float) -> None:
    nan, inf = math.nan, math.inf
    x = np.array([[1e4, -1e4], [nan, nan], [-inf, -inf], [-1e4, -1e4]], np.float32)
    losses, weights, saved = BACKENDS[0].cross_entropy(x, np.array([1, -100, -100, 0]), None, smoothing)
    close(losses, [2e4 * (1 - smoothing / 2), 0, 0, math.log(2)], np.float32)
    assert weights.tolist() == [1, 0, 0, 1]
    dx = BACKENDS[0].cross_entropy_backward(np.ones(4, np.float32), saved)
    s = smoothing / 2
    close(dx, [[1 - s, s - 1], [0, 0], [0, 0], [s - 0.5, 0.5 - s]], np.float32)


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


# --- layer norm, GELU, dropout ---------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("tanh", [False, True])
def test_gelu_extremes(tanh: bool) -> None:
    x = np.array([-math.inf, -1e4, 0, 1e4, math.inf], np.float32)
    assert BACKENDS[0].gelu(x, tanh).tolist() == [0, 0, 0, 1e4, math.inf]
    assert BACKENDS[0].gelu_backward(np.ones_like(x), x, tanh).tolist() == [0, 0, 0.5, 1, 1]
    scalar = BACKENDS[0].gelu(np.float32(1), tanh)
    assert scalar.shape == () and scalar == pytest.approx(0.8413, abs=3e-4)


def test_random_integers_are_philox() -> None:
    b = BACKENDS[0]
    assert np.array_equal(b.random_raw(3, 2, 10), np.random.Philox(key=3, counter=2 << 128).random_raw(10))
    assert b.random_raw(3, 2, 10).dtype == np.uint64 and b.random_raw(3, 2, 0).shape == (0,)
    streams = [b.random_raw(seed, stream, 4).tolist() for seed in (0, 1) for stream in (0, 1, 2)]
    assert len({tuple(s) for s in streams}) == 6


@given(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0), st.floats(0, 1), seeds, st.integers(0, 99))
def test_dropout_mask_compares_halves_of_raw_integers(shape: Any, p: float, seed: int, stream: int) -> None:
    mask = BACKENDS[0].dropout_mask(shape, p, seed, stream)
    raw = BACKENDS[0].random_raw(seed, stream, (math.prod(shape) + 1) // 2)
    halves = np.stack([raw & 0xFFFFFFFF, raw >> np.uint64(32)], axis=1).ravel()[:math.prod(shape)]
    assert mask.dtype == bool and mask.shape == shape
    if p < 1:
        assert np.array_equal(mask.ravel(), halves >= round(p * 2**32))


def test_dropout_rate() -> None:
    for p in (0.0, 0.1, 0.5, 0.9, 1.0):
        kept = BACKENDS[0].dropout_mask((100_000,), p, 7, 1).mean()
        assert abs(kept - (1 - p)) <= 5 * math.sqrt(p * (1 - p) / 100_000)


# --- optimizer steps -------------------------------------------------------------------------------------------------


def tensors(rng: np.random.Generator, dtype: Any = np.float64) -> list[np.ndarray]:
    """Arrays as parameters may be: matrices, vectors, one number, none, and a transposed one."""
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in ((4, 5), (9,), (), (0, 3), (2, 3, 4))]
    return [*arrays, rng.standard_normal((3, 4)).astype(dtype).T]


@backends
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(momentum=st.sampled_from([0.0, 0.9]), nesterov=st.booleans(), decay=st.sampled_from([0.0, 0.1]),
       seed=seeds)
def test_sgd_step(backend: NumpyBackend, dtype: Any, momentum: float, nesterov: bool, decay: float,
                  seed: int) -> None:
    rng = np.random.default_rng(seed)
    params, buffers = tensors(rng, dtype), [np.zeros_like(p) for p in tensors(rng, dtype)] if momentum else []
    expected = [p.astype(np.float64) for p in params]
    running: list[Any] = [None] * len(params)
    for step in range(3):
        grads = tensors(rng, dtype)
        before = [g.copy() for g in grads]
        backend.sgd_step(params, grads, buffers, 0.1, momentum, nesterov, decay)
        assert all(map(np.array_equal, grads, before))
        for k, g in enumerate(grads):
            d = g + decay * expected[k]
            if momentum:
                running[k] = d if step == 0 else momentum * running[k] + d
                d = d + momentum * running[k] if nesterov else running[k]
            expected[k] = expected[k] - 0.1 * d
    for p, e in zip(params, expected, strict=True):
        close(p, e, dtype)


@backends
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(decay=st.sampled_from([0.0, 0.1]), decoupled=st.booleans(), seed=seeds)
def test_adam_step(backend: NumpyBackend, dtype: Any, decay: float, decoupled: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    params = tensors(rng, dtype)
    m, v = ([np.zeros_like(p) for p in params] for _ in range(2))
    expected = [p.astype(np.float64) for p in params]
    mean, square = ([np.zeros(p.shape) for p in params] for _ in range(2))
    for step in range(1, 4):
        grads = tensors(rng, dtype)
        before = [g.copy() for g in grads]
        backend.adam_step(params, grads, m, v, step, 0.1, 0.8, 0.95, 1e-4, decay, decoupled)
        assert all(map(np.array_equal, grads, before))
        for k, g in enumerate(grads):
            if decoupled:
                expected[k] = expected[k] * (1 - 0.1 * decay)
            d = g + (0 if decoupled else decay) * expected[k]
            mean[k] = 0.8 * mean[k] + 0.2 * d
            square[k] = 0.95 * square[k] + 0.05 * d * d
            hat = np.sqrt(square[k] / (1 - 0.95**step)) + 1e-4
            expected[k] = expected[k] - 0.1 * mean[k] / (1 - 0.8**step) / hat
    for p, e in zip(params, expected, strict=True):
        close(p, e, dtype)


@pytest.mark.reference
@pytest.mark.parametrize("name, options", [
    ("SGD", {}), ("SGD", {"momentum": 0.9, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "nesterov": True}), ("Adam", {"weight_decay": 0.1}),
    ("AdamW", {"weight_decay": 0.1})])
def test_optimizer_steps_are_torchs(name: str, options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    params = tensors(rng)
    states = [[np.zeros_like(p) for p in params] for _ in range(2)]
    leaves = [torch.tensor(p.copy(), requires_grad=True) for p in params]
    optimizer = getattr(torch.optim, name)(leaves, lr=0.01, **options)
    for step in range(1, 5):
        grads = tensors(rng)
        for leaf, g in zip(leaves, grads, strict=True):
            leaf.grad = torch.tensor(g.copy())
        optimizer.step()
        if name == "SGD":
            BACKENDS[1].sgd_step(params, grads, states[0], 0.01, **options)
        else:
            BACKENDS[1].adam_step(params, grads, *states, step, 0.01, decoupled=name == "AdamW", **options)
    for p, leaf in zip(params, leaves, strict=True):
        close(p, leaf.detach().numpy())


@pytest.mark.parametrize("height", [200, 40_000])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16"])
def test_narrow_ids_find_their_rows(dtype: str, height: int) -> None:
    ids = np.array([100, 3, 100, 127], dtype)  # 127 + height is more than the type holds
    ids = ids if dtype == "uint8" else np.concatenate([ids, np.array([-1, -100], dtype)])
    g = np.arange(ids.size * 2.0).reshape(-1, 2)
    expected = np.zeros((height, 2))
    np.add.at(expected, ids.astype(int), g)
    close(BACKENDS[0].unindex(g, ids, (height, 2)), expected)


@given(dtypes, seeds)
def test_global_norm_and_scale(dtype: Any, seed: int) -> None:
    grads = tensors(np.random.default_rng(seed), dtype)
    norm = BACKENDS[0].global_norm(grads)
    close(norm, np.linalg.norm(np.concatenate([g.ravel() for g in grads])), dtype)
    before = [g.copy() for g in grads]
    BACKENDS[0].scale(grads, np.float64(0.5))
    for g, b in zip(grads, before, strict=True):
        close(g, b * 0.5, dtype)
