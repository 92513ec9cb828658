"""Kernels of the NumPy backend, held to plain float64 definitions, to finite differences and to PyTorch.

Every property runs at two sizes of a cache piece, the usual one and one of 7 elements, which cuts everything.
"""

import ctypes
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tinyseq.backends.attention import blocks
from tinyseq.backends.numpy import NumpyBackend, keep_memory
from tinyseq.backends.recurrent import CELLS

import tinyseq as ts


class Pieces(NumpyBackend):
    block = 7


BACKENDS = (NumpyBackend(), Pieces())
backends = pytest.mark.parametrize("backend", BACKENDS, ids=["whole", "pieces"])
cells = pytest.mark.parametrize("cell", sorted(CELLS))
dtypes = st.sampled_from([np.float32, np.float64])
seeds = st.integers(0, 2**32 - 1)


def layout(x: np.ndarray, kind: int) -> np.ndarray:
    """x as it is, with a backward last axis, as a transposed copy or as a strided slice; always read-only."""
    if kind == 1:
        x = x[..., ::-1].copy()[..., ::-1]
    elif kind == 2:
        x = np.asfortranarray(x)
    elif kind == 3:
        x = np.repeat(x, 2, axis=-1)[..., ::2]
    x.flags.writeable = False
    return x


def close(got: Any, expected: Any, dtype: Any = None) -> None:
    """Equal to rounding, 1e-10 or (float32) 1e-5 of the largest entry, with `dtype` where it is given.

    Where all entries are small it is of 0.1: inputs are of order one, and rounding is relative to them.
    """
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    if dtype is not None:
        assert got.dtype == dtype
    finite = np.isfinite(expected)
    assert np.array_equal(got[~finite], expected[~finite], equal_nan=True)
    scale = np.abs(expected[finite]).max(initial=0.1)
    error = np.abs(got[finite] - expected[finite]).max(initial=0)
    assert error <= (1e-10 if got.dtype == np.float64 else 1e-5) * scale, (error, scale)


def slope(f: Any, inputs: list[np.ndarray], gradients: Any, rng: np.random.Generator) -> None:
    """Along one random direction, `gradients` give the central difference, of order 4, of the scalar f (float64)."""
    directions = [rng.standard_normal(x.shape) for x in inputs]
    h = 1e-4
    up, down, top, bottom = (f(*[x + s * h * d for x, d in zip(inputs, directions, strict=True)])
                             for s in (1, -1, 2, -2))
    expected = sum((d * g).sum() for d, g in zip(directions, gradients, strict=True))
    found = (8 * (up - down) - (top - bottom)) / (12 * h)
    assert abs(found - expected) <= 1e-7 * max(1, abs(expected))


@st.composite
def rows(draw: Any, min_side: int = 0) -> tuple[np.ndarray, int, np.random.Generator]:
    """An array of one to three dimensions in some layout, an axis of it, and a generator."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=min_side, max_side=6))
    rng = np.random.default_rng(draw(seeds))
    x = (3 * rng.standard_normal(shape)).astype(draw(dtypes))
    return layout(x, draw(st.integers(0, 3))), draw(st.integers(-len(shape), len(shape) - 1)), rng


# ---- pieces, memory, namespace


@given(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0), st.integers(1, 40), st.integers(0, 2))
def test_blocks_cover_each_element_once(shape: tuple[int, ...], size: int, whole: int) -> None:
    seen = np.zeros(shape, dtype=int)
    unit = math.prod(shape[len(shape) - whole:]) if whole else 1
    for i in blocks(shape, size, whole):
        assert seen[i].size <= max(size, unit)
        seen[i] += 1
    assert (seen == 1).all()


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


# ---- elementwise functions


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


# ---- indexing


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


# ---- softmax and cross-entropy


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


# ---- layer norm, GELU, dropout


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


# ---- optimizer steps


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


# ---- recurrent scans


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def plain_cell(cell: str, x: Any, h: Any, c: Any, w: Any, u: Any, b: Any, d: Any) -> tuple[Any, Any]:
    """One step of one sequence: x (I,), h and c (H,) to the next h and c, by the equations of rnn_forward."""
    if cell.startswith("rnn"):
        a = w @ x + b + u @ h + d
        return (np.tanh(a) if cell == "rnn_tanh" else np.maximum(a, 0)), c
    if cell == "lstm":
        i, f, g, o = np.split(w @ x + b + u @ h + d, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    size = len(h)
    r, z = np.split(sigmoid((w @ x + b + u @ h + d)[:2 * size]), 2)
    u_n, w_n, b_n, d_n = u[2 * size:], w[2 * size:], b[2 * size:], d[2 * size:]
    inner = r * (u_n @ h + d_n) if cell == "gru" else u_n @ (r * h) + d_n
    n = np.tanh(w_n @ x + b_n + inner)
    return (1 - z) * n + z * h, c


def plain_scan(cell: str, x: Any, h0: Any, c0: Any, *weights: Any, lengths: Any, reverse: bool) -> Any:
    """One sequence and one step at a time, in float64: y (B, T, H), h_n and c_n (B, H)."""
    arrays = [np.asarray(a, np.float64) for a in (x, h0, c0, *weights)]
    x, h0, c0, *weights = arrays
    y, h_n, c_n = np.zeros((*x.shape[:2], h0.shape[1])), h0.copy(), c0.copy()
    for row in range(x.shape[0]):
        length = x.shape[1] if lengths is None else lengths[row]
        for t in reversed(range(length)) if reverse else range(length):
            h_n[row], c_n[row] = plain_cell(cell, x[row, t], h_n[row], c_n[row], *weights)
            y[row, t] = h_n[row]
    return y, h_n, c_n


@st.composite
def scans(draw: Any, cell: str) -> Any:
    batch, steps, inputs, hidden = (draw(st.integers(low, 5)) for low in (0, 0, 1, 1))
    rng = np.random.default_rng(draw(seeds))
    dtype = draw(dtypes)
    gates = len(CELLS[cell].order)
    shapes = [(batch, steps, inputs), (batch, hidden), (batch, hidden), (gates * hidden, inputs),
              (gates * hidden, hidden), (gates * hidden,), (gates * hidden,)]
    kind = draw(st.integers(0, 3))
    arrays = [layout(rng.standard_normal(s).astype(dtype), kind) for s in shapes]
    lengths = rng.integers(0, steps + 1, batch) if draw(st.booleans()) else None
    return arrays, lengths, draw(st.booleans()), rng


def forward(backend: NumpyBackend, cell: str, arrays: Any, lengths: Any, reverse: bool) -> Any:
    x, h0, c0, *weights = arrays
    return backend.rnn_forward(cell, x, h0, c0 if cell == "lstm" else None, *weights, lengths, reverse)


@backends
@cells
@given(data=st.data())
def test_scan_equals_its_definition(backend: NumpyBackend, cell: str, data: Any) -> None:
    arrays, lengths, reverse, rng = data.draw(scans(cell))
    y, h_n, c_n, saved = forward(backend, cell, arrays, lengths, reverse)
    expected = plain_scan(cell, *arrays, lengths=lengths, reverse=reverse)
    dtype = arrays[0].dtype
    close(y, expected[0], dtype)
    close(h_n, expected[1], dtype)
    if cell == "lstm":
        close(c_n, expected[2], dtype)
    else:
        assert c_n is None
    gradients = [layout(rng.standard_normal(a.shape).astype(dtype), 2) for a in expected]
    if cell != "lstm":
        gradients[2] = None
    needs = [True, True, cell == "lstm", True, True, True, True]
    pulled = backend.rnn_backward(cell, saved, *gradients, needs)
    for array, g, need in zip(arrays, pulled, needs, strict=True):
        assert (g.shape, g.dtype) == (array.shape, dtype) if need else g is None
    if dtype == np.float64 and cell != "rnn_relu":     # relu: a corner may lie between the two points
        def f(*a: Any) -> Any:
            outputs = plain_scan(cell, *a, lengths=lengths, reverse=reverse)
            return sum((o * g).sum() for o, g in zip(outputs, gradients, strict=True) if g is not None)
        used = [k for k, need in enumerate(needs) if need]

        def of_used(*a: Any) -> Any:
            return f(*[a[used.index(k)] if k in used else arrays[k] for k in range(7)])
        slope(of_used, [arrays[k] for k in used], [pulled[k] for k in used], rng)


@backends
@cells
@given(steps=st.integers(1, 3), dtype=dtypes, seed=seeds)
def test_a_scan_of_few_rows_is_that_of_many(backend: NumpyBackend, cell: str, steps: int, dtype: Any,
                                            seed: int) -> None:
    rng, rows = np.random.default_rng(seed), len(CELLS[cell].order) * 24
    shapes = (9, steps, 2), (9, 24), (9, 24), (rows, 2), (rows, 24), (rows,), (rows,)
    x, h0, c0, *weights = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    many = forward(backend, cell, [x, h0, c0, *weights], None, False)
    few = forward(backend, cell, [x[:1], h0[:1], c0[:1], *weights], None, False)
    for one, nine in zip(few[:3], many[:3], strict=True):
        assert one is nine is None or close(one, nine[:1]) is None


@cells
@given(data=st.data(), needs=st.lists(st.booleans(), min_size=7, max_size=7))
def test_scan_gives_what_is_needed_and_takes_none_for_zero(cell: str, data: Any, needs: list[bool]) -> None:
    arrays, lengths, reverse, rng = data.draw(scans(cell))
    y, h_n, _, saved = forward(BACKENDS[0], cell, arrays, lengths, reverse)
    gy = rng.standard_normal(y.shape).astype(y.dtype)
    everything = BACKENDS[0].rnn_backward(cell, saved, gy, np.zeros_like(h_n), np.zeros_like(h_n), [True] * 7)
    some = BACKENDS[0].rnn_backward(cell, saved, gy, None, None, needs)
    for wanted, one, two in zip(needs, some, everything, strict=True):
        assert wanted or one is None
        if wanted and two is not None:
            assert np.array_equal(one, two)
    only_end = BACKENDS[0].rnn_backward(cell, saved, None, np.ones_like(h_n), None, [True] * 7)
    same = BACKENDS[0].rnn_backward(cell, saved, np.zeros_like(y), np.ones_like(h_n), None, [True] * 7)
    for one, two in zip(only_end, same, strict=True):
        assert (one is None and two is None) or np.array_equal(one, two)


@backends
@cells
@given(data=st.data())
def test_scan_never_sees_the_padding(backend: NumpyBackend, cell: str, data: Any) -> None:
    arrays, lengths, reverse, _ = data.draw(scans(cell))
    if lengths is None:
        return
    x = arrays[0].copy()
    x[np.arange(x.shape[1]) >= lengths[:, None]] = math.nan
    longer = np.concatenate((x, np.full((x.shape[0], 2, x.shape[2]), math.nan, x.dtype)), axis=1)
    y, h_n, c_n, saved = forward(backend, cell, arrays, lengths, reverse)
    y2, h2, c2, saved2 = forward(backend, cell, [longer, *arrays[1:]], lengths, reverse)
    close(y2[:, :x.shape[1]], y)
    close(h2, h_n)
    assert not y2[:, x.shape[1]:].any() and (c_n is None or np.array_equal(c2, c_n))
    needs = [True, True, cell == "lstm", True, True, True, True]
    g = np.ones_like(y)
    g2 = np.ones_like(y2)
    g2[np.arange(y2.shape[1]) >= lengths[:, None]] = math.nan
    for k, (one, two) in enumerate(zip(backend.rnn_backward(cell, saved, g, h_n, c_n, needs),
                                       backend.rnn_backward(cell, saved2, g2, h_n, c_n, needs), strict=True)):
        if k == 0:
            assert not two[:, x.shape[1]:].any()
            two = two[:, :x.shape[1]]
        if needs[k]:
            close(two, one)


@pytest.mark.reference
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("lengths", [None, [4, 7, 1, 7, 2]])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "gru", "lstm"])
def test_scan_is_torchs(cell: str, bias: bool, lengths: Any, dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, h0, c0 = (rng.standard_normal(s).astype(dtype) for s in ((5, 7, 3), (2, 5, 6), (2, 5, 6)))
    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}.get(cell, torch.nn.RNN)
    options = {"nonlinearity": "relu"} if cell == "rnn_relu" else {}
    torch.manual_seed(0)
    net = kind(3, 6, bias=bias, batch_first=True, bidirectional=True, dtype=torch.tensor(x).dtype, **options)
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, h0, c0)]
    given = leaves[0]
    if lengths is not None:
        given = torch.nn.utils.rnn.pack_padded_sequence(given, torch.tensor(lengths), batch_first=True,
                                                        enforce_sorted=False)
    out, ends = net(given, (leaves[1], leaves[2]) if cell == "lstm" else leaves[1])
    if lengths is not None:
        out, _ = torch.nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=7)
    outputs = [out, *(ends if cell == "lstm" else [ends])]
    gradients = [rng.standard_normal(o.shape).astype(dtype) for o in outputs]
    sum((o * torch.tensor(g)).sum() for o, g in zip(outputs, gradients, strict=True)).backward()
    dx = 0
    for k, suffix in enumerate(("", "_reverse")):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[:4 if bias else 2]
        weights = [getattr(net, f"{n}_l0{suffix}") for n in names]
        arrays = [w.detach().numpy() for w in weights] + [None] * (0 if bias else 2)
        y, h_n, c_n, saved = BACKENDS[0].rnn_forward(
            cell, x, h0[k], c0[k] if cell == "lstm" else None, *arrays,
            None if lengths is None else np.array(lengths), reverse=k == 1)
        close(y, out[..., 6 * k:6 * k + 6].detach().numpy(), dtype)
        close(h_n, outputs[1][k].detach().numpy(), dtype)
        g_end = [g[k] for g in gradients[1:]]
        if cell == "lstm":
            close(c_n, outputs[2][k].detach().numpy(), dtype)
        pulled = BACKENDS[0].rnn_backward(cell, saved, gradients[0][..., 6 * k:6 * k + 6], g_end[0],
                                          g_end[1] if cell == "lstm" else None, [True] * 5 + [bias] * 2)
        dx = dx + pulled[0]
        close(pulled[1], leaves[1].grad[k].numpy(), dtype)
        if cell == "lstm":
            close(pulled[2], leaves[2].grad[k].numpy(), dtype)
        for g, w in zip(pulled[3:], weights, strict=False):
            close(g, w.grad.numpy(), dtype)
    close(dx, leaves[0].grad.numpy(), dtype)
