"""The CuPy backend on CPU-emulated CuPy: kernels, models and budgets. See cupy_on_cpu/README.md for how to run it.

Each kernel is held to the portable method that it overrides, in both orders of threads and watched for races. The
other tests of the project run on it too (`make cupy`).
"""

import math
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cupy_on_cpu
import numpy as np
import pytest
from helpers.kernels import steep_scans, step_by_step
from helpers.steps import STEPS as COUNTED
from helpers.steps import steady
from hypothesis import given
from hypothesis import strategies as st

if not getattr(sys.modules.get("cupy"), "_on_cpu", False):
    pytest.skip("tests of the CuPy backend run with: PYTHONPATH=tests python -m pytest -p cupy_on_cpu.plugin",
                allow_module_level=True)

import cupy as cp
from tinyseq.backends import cupy as ours
from tinyseq.backends import doctor

import tinyseq as ts
import tinyseq.functional as F
from tinyseq import backends, decode, nn, optim

CUPY, NUMPY = backends.load("cupy"), backends.load("numpy")
CELLS = {"rnn_tanh": 1, "rnn_relu": 1, "gru": 3, "gru_before": 3, "lstm": 4}  # gates
dtypes = st.sampled_from(["float32", "float64"])
seeds = st.integers(0, 1000)
ADDRESS = cupy_on_cpu.settings.settings.address
# under AddressSanitizer there is no memory pool, and a fault ends the process
without_address = pytest.mark.skipif(ADDRESS, reason="not under AddressSanitizer")


def device(x: Any, kind: int = 0) -> Any:
    """x on the device: contiguous, backwards, as a transposed copy, or every second entry of something longer."""
    if not isinstance(x, np.ndarray):
        return [device(a, kind) for a in x] if isinstance(x, list) else x
    y = cp.asarray(np.ascontiguousarray(x)).reshape(x.shape)
    if kind == 1:
        y = cp.flip(cp.ascontiguousarray(cp.flip(y))).reshape(x.shape)
    elif kind == 2:
        y = cp.array(y, order="F")
    elif kind == 3 and x.ndim:
        y = cp.repeat(y, 2, axis=-1)[..., ::2]
    return y


def close(got: Any, expected: Any, widest: float = 1) -> None:
    """Equal in shape, dtype and values, to 1e-10 or (float32) 1e-5 of the largest entry, or of 0.1."""
    if expected is None or isinstance(expected, bool):
        assert got is expected
        return
    got, expected = cp.asnumpy(got), np.asarray(expected)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    if expected.dtype.kind != "f":
        assert np.array_equal(got, expected)
        return
    finite = np.isfinite(expected)
    assert np.array_equal(got[~finite], expected[~finite], equal_nan=True)
    scale = np.abs(expected[finite]).max(initial=0.1)
    tolerance = {"float64": 1e-10, "float32": 1e-5, "float16": 2e-3}[expected.dtype.name] * scale * widest
    assert np.abs(got[finite] - expected[finite]).max(initial=0) <= tolerance


def check(name: str, *args: Any, kind: int = 0, **options: Any) -> Any:
    """The kernel `name` on the device against the portable one; both results. Tuples are what backward is given."""
    results = getattr(CUPY, name)(*[device(a, kind) for a in args], **options), getattr(NUMPY, name)(*args, **options)
    pairs = zip(*results, strict=True) if isinstance(results[1], tuple) else [results]
    for got, expected in pairs:
        if not isinstance(expected, tuple):
            close(got, expected)
    return results


@contextmanager
def watched(reverse: bool) -> Iterator[None]:
    with cupy_on_cpu.using(reverse=reverse, races=not ADDRESS):
        yield


# --- kernels ---------------------------------------------------------------------------------------------------------


@st.composite
def arrays(draw: Any) -> tuple[Any, ...]:
    """(x, g, axis, layout, generator): two arrays of one shape of up to three dimensions."""
    shape = draw(st.sampled_from([(3,), (150,), (2, 3), (3, 150), (150, 2), (3, 0), (0, 2), (2, 3, 4), (2, 1, 70)]))
    rng, dtype = np.random.default_rng(draw(seeds)), draw(dtypes)
    x, g = (3 * rng.standard_normal((2, *shape))).astype(dtype)
    return x, g, draw(st.integers(-len(shape), len(shape) - 1)), draw(st.integers(0, 3)), rng


def check_softmax(case: Any, masked: str) -> None:
    x, g, axis, kind, rng = case
    shapes = {"none": None, "full": x.shape, "row": x.shape[-1:], "column": (*x.shape[:-1], 1)}
    mask = None if shapes[masked] is None else rng.random(shapes[masked]) < 0.6
    _, y = check("softmax", x, axis, mask, kind=kind)
    check("softmax_backward", g, y, axis, kind=kind)
    if x.shape[axis]:
        _, y = check("softmax", x, axis, kind=kind, log=True)
        check("softmax_backward", g, y, axis, kind=kind, log=True)


@given(arrays(), st.sampled_from(["none", "full", "row", "column"]), st.booleans())
def test_softmax(case: Any, masked: str, reverse: bool) -> None:
    with watched(reverse):
        check_softmax(case, masked)


def test_softmax_extremes() -> None:
    inf = math.inf
    x = np.array([[1e4, -1e4, 1e4], [-inf, 0, -inf], [-inf, -inf, -inf], [0, math.nan, 0]], "float32")
    check("softmax", x[:3])
    check("softmax", x[:3], log=True)
    assert np.isnan(CUPY.softmax(device(x)).get()[3]).all()
    deep = np.random.default_rng(0).random((2, 1, 2, 3, 4)) < 0.5
    check("softmax", np.zeros((2, 2, 2, 3, 4), "float32"), 1, deep)
    check("softmax", np.zeros((2, 2, 2, 3, 0), "float32"), -1, deep[..., :0])


def check_cross_entropy(n: int, classes: int, weighted: bool, smoothing: float, dtype: str, kind: int,
                        seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, weight = (4 * rng.standard_normal((n, classes))).astype(dtype), rng.random(classes).astype(dtype)
    targets = np.where(rng.random(n) < 0.3, -100, rng.integers(0, classes, n))
    got, expected = check("cross_entropy", x, targets, weight if weighted else None, smoothing, kind=kind)
    g = rng.standard_normal(n).astype(dtype)
    close(CUPY.cross_entropy_backward(device(g, kind), got[2]), NUMPY.cross_entropy_backward(g, expected[2]))


@given(st.integers(0, 5), st.sampled_from([1, 5, 300]), st.booleans(), st.sampled_from([0.0, 0.1, 1.0]), dtypes,
       st.integers(0, 3), seeds, st.booleans())
def test_cross_entropy(n: int, classes: int, weighted: bool, smoothing: float, dtype: str, kind: int, seed: int,
                       reverse: bool) -> None:
    with watched(reverse):
        check_cross_entropy(n, classes, weighted, smoothing, dtype, kind, seed)


def check_layer_norm(shape: tuple[int, ...], ndim: int, affine: bool, dtype: str, kind: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, g = rng.standard_normal((2, *shape)).astype(dtype)
    weight, bias = rng.standard_normal((2, *shape[len(shape) - ndim:])).astype(dtype)
    got, expected = check("layer_norm", x, *((weight, bias) if affine else (None, None)), ndim, kind=kind)
    gradients = CUPY.layer_norm_backward(device(g, kind), got[1], device(weight) if affine else None)
    for a, b in zip(gradients, NUMPY.layer_norm_backward(g, expected[1], weight if affine else None), strict=True):
        close(a, b)


@given(st.sampled_from([(2, 3), (300, 5), (3, 2, 40), (0, 3), (1, 200)]), st.integers(1, 2), st.booleans(), dtypes,
       st.integers(0, 3), seeds, st.booleans())
def test_layer_norm(shape: tuple[int, ...], ndim: int, affine: bool, dtype: str, kind: int, seed: int,
                    reverse: bool) -> None:
    with watched(reverse):
        check_layer_norm(shape, ndim, affine, dtype, kind, seed)


@given(arrays(), st.booleans(), st.booleans())
def test_elementwise(case: Any, tanh: bool, reverse: bool) -> None:
    x, g, _, kind, _ = case
    with watched(reverse):
        check("gelu", x, tanh, kind=kind)
        check("gelu_backward", g, x, tanh, kind=kind)
        check("erf", x, kind=kind)
        check("sigmoid", x, kind=kind)


def test_elementwise_extremes() -> None:
    far = np.array([-math.inf, -1e4, -90.0, 0, 90, 1e4, math.inf], "float32")
    for tanh in (False, True):
        check("gelu", far, tanh)
        check("gelu_backward", np.ones_like(far), far, tanh)
    check("sigmoid", far)
    check("erf", far)
    check("erf", np.arange(3))


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 30), st.floats(0, 1), st.booleans())
def test_random_bits_are_numpys(seed: int, stream: int, n: int, p: float, reverse: bool) -> None:
    with watched(reverse):
        check("random_raw", seed, stream, n)
        check("dropout_mask", (n, 3), p, seed, stream)
        for dtype in ("float32", "float64") if p < 1 else ():
            x = np.random.default_rng(n).standard_normal((n, 3)).astype(dtype)
            (got, keep), (expected, mask) = CUPY.dropout(device(x), p, seed, stream), NUMPY.dropout(x, p, seed, stream)
            close(got, expected)
            close(CUPY.dropout_backward(device(2 * x, 2), keep, p), NUMPY.dropout_backward(2 * x, mask, p))


def check_scan(cell: str, sizes: tuple[int, ...], lengths: bool, reverse: bool, bias: tuple[bool, bool], dtype: str,
               kind: int, seed: int) -> None:
    (batch, steps, inputs, size), gates = sizes, CELLS[cell]
    rng = np.random.default_rng(seed)
    shapes = [(batch, steps, inputs), (batch, size), (batch, size), (gates * size, inputs), (gates * size, size),
              (gates * size,), (gates * size,)]
    args = [rng.standard_normal(s).astype(dtype) for s in shapes]
    args = [a if use else None for a, use in zip(args, (1, 1, cell == "lstm", 1, 1, *bias), strict=True)]
    long = rng.integers(0, steps + 1, batch) if lengths else None
    mask = rng.integers(0, 3, (batch, size)).astype(dtype) if seed % 2 else None
    got, expected = check("rnn_forward", cell, *args, long, reverse, mask, kind=kind)
    gradients = [None if y is None else rng.standard_normal(y.shape).astype(dtype) for y in expected[:3]]
    needs = [a is not None for a in args]
    some = [None if rng.random() < 0.3 else g for g in gradients]
    pulled = CUPY.rnn_backward(cell, got[3], *[device(g, kind) for g in some], needs)
    for a, b in zip(pulled, NUMPY.rnn_backward(cell, expected[3], *some, needs), strict=True):
        close(a, b, widest=2)


SIZES = [(3, 4, 5, 6), (1, 2, 1, 1), (2, 0, 3, 2), (0, 3, 2, 2), (70, 2, 3, 5)]  # batch, steps, inputs, hidden


WAYS = {"all steps a launch": {"one_launch": 1 << 20}, "a step a launch": {"one_launch": 0},
        "cuBLAS": {"one_launch": 0, "one_kernel": 0}}


@pytest.mark.parametrize("cell", CELLS)
@given(st.sampled_from([*SIZES, (9, 3, 4, 33)]), st.booleans(), st.booleans(), st.tuples(st.booleans(), st.booleans()),
       dtypes, st.integers(0, 3), seeds, st.booleans(), st.sampled_from(list(WAYS)))
def test_scans(cell: str, sizes: tuple[int, ...], lengths: bool, reverse: bool, bias: tuple[bool, bool], dtype: str,
               kind: int, seed: int, backwards: bool, way: str) -> None:
    with watched(backwards), patch.multiple(CUPY, **WAYS[way]):
        check_scan(cell, sizes, lengths, reverse, bias, dtype, kind, seed)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("way", WAYS)
def test_scans_read_only_what_they_wrote(cell: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_of_nan(make: Any, *args: Any, **options: Any) -> Any:
        y = make(*args, **options)
        if y.dtype.kind == "f":
            y.fill(math.nan)
        return y

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(cp, name, partial(full_of_nan, getattr(cp, name)))
    with patch.multiple(CUPY, **WAYS[way]):
        for seed in range(2):
            check_scan(cell, (3, 4, 5, 6), True, False, (True, True), "float32", 0, seed)


def check_attention(lead: tuple[int, ...], sizes: tuple[int, ...], masked: tuple[int, ...] | None, shared: bool,
                    causal: bool, p: float, dtype: str, kind: int, seed: int) -> None:
    (t, s, d, e), rng = sizes, np.random.default_rng(seed)
    few = (*lead[:-1], 1) if shared and lead else lead
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in ((*lead, t, d), (*few, s, d), (*few, s, e))]
    mask = None if masked is None else rng.random([n if m else 1 for m, n in zip(masked, (t, s), strict=True)]) < 0.6
    rest = mask, causal, 0.3, (p, seed, 5)
    there = [device(a, kind) for a in arrays]
    (got, saved), (expected, kept) = CUPY.attention(*there, device(mask), *rest[1:]), NUMPY.attention(*arrays, *rest)
    close(got, expected)
    g = rng.standard_normal(expected.shape).astype(dtype)
    for a, b in zip(CUPY.attention_backward(device(g, kind), saved), NUMPY.attention_backward(g, kept), strict=True):
        close(a, b)


@given(st.sampled_from([(), (2,), (2, 3), (2, 1, 3), (0,), (1, 2, 1, 2)]),
       st.sampled_from([(3, 4, 2, 3), (1, 1, 1, 1), (40, 35, 33, 5), (35, 70, 3, 65), (3, 0, 2, 2), (0, 3, 2, 2),
                        (2, 3, 129, 2)]),
       st.sampled_from([None, (1, 1), (0, 1), (1, 0)]), st.booleans(), st.booleans(), st.sampled_from([0.0, 0.4]),
       dtypes, st.integers(0, 3), seeds, st.booleans())
def test_attention(lead: tuple[int, ...], sizes: tuple[int, ...], masked: tuple[int, ...] | None, shared: bool,
                   causal: bool, p: float, dtype: str, kind: int, seed: int, reverse: bool) -> None:
    with watched(reverse):
        check_attention(lead, sizes, masked, shared, causal, p, dtype, kind, seed)


def test_attention_extremes() -> None:
    q, k = np.array([[[0.0], [1e4], [-1e4]]], "float32"), np.array([[[1e4], [-1e4], [0.0]]], "float32")
    for causal in (False, True):
        for mask in (None, np.array([[[False, False, True]]]), np.zeros((1, 3, 3), bool)):
            got = CUPY.attention(*map(device, (q, k, q, mask)), causal, 1.0, (0.0, 0, 0))
            expected = NUMPY.attention(q, k, q, mask, causal, 1.0, (0.0, 0, 0))
            close(got[0], expected[0])
            for a, b in zip(CUPY.attention_backward(device(q), got[1]), NUMPY.attention_backward(q, expected[1]),
                            strict=True):
                close(a, b)
    q[0, 1] = math.nan
    assert np.isnan(CUPY.attention(*map(device, (q, k, k)), None, False, 1.0, (0.0, 0, 0))[0].get()).any((0, 2)).tolist(
        ) == [False, True, False]


def parameters(rng: Any, dtype: str, many: int = 0) -> list[Any]:
    """Arrays as parameters may be: matrices, vectors, one number, none, one of several blocks, a transposed one."""
    shapes = [(4, 5), (9,), (), (0, 3), (2, 3, 4), (300,), *[(1,)] * many]
    return [*(np.asarray(rng.standard_normal(s), dtype) for s in shapes), rng.standard_normal((3, 4)).astype(dtype).T]


@given(dtypes, st.integers(0, 3), seeds, st.sampled_from([0.0, 0.1]), st.booleans(), st.booleans())
def test_optimizers(dtype: str, kind: int, seed: int, decay: float, flag: bool, reverse: bool) -> None:
    check_optimizers(dtype, 0, kind, seed, decay, flag, reverse)


def test_optimizers_with_more_arrays_than_a_launch_takes() -> None:
    check_optimizers("float32", ours.MANY, 0, 0, 0.1, False, False)


def check_optimizers(dtype: str, many: int, kind: int, seed: int, decay: float, flag: bool, reverse: bool) -> None:
    rng = np.random.default_rng(seed)
    host = [parameters(rng, dtype, many) for _ in range(3)]
    host[2] = [np.asarray(np.abs(v)) for v in host[2]]
    with watched(reverse):
        there = [[cp.array(a, order="K") for a in some] for some in host]
        for step in (1, 2):
            grads = parameters(rng, dtype, many)
            g = [device(a, kind) for a in grads]
            close(CUPY.global_norm(g), np.asarray(NUMPY.global_norm(grads), dtype))
            CUPY.scale(g, cp.asarray(0.5))
            NUMPY.scale(grads, np.float64(0.5))
            for backend, (p, m, v), gradients in ((CUPY, there, g), (NUMPY, host, grads)):
                backend.adam_step(p, gradients, m, v, step, 0.1, weight_decay=decay, decoupled=flag)
                backend.sgd_step(p, gradients, m, 0.1, 0.9, nesterov=flag, weight_decay=decay)
                backend.sgd_step(p, gradients, [], 0.1)
            for some, expected in zip([g, *there], [grads, *host], strict=True):
                for a, b in zip(some, expected, strict=True):
                    close(a, b)


@given(dtypes, st.integers(0, 3), seeds, st.sampled_from([0.0, 0.1]), st.booleans(), st.booleans(), st.booleans(),
       st.sampled_from([0, ours.MANY]))
def test_rmsprop_and_lion(dtype: str, kind: int, seed: int, decay: float, centred: bool, moving: bool, reverse: bool,
                          many: int) -> None:
    rng = np.random.default_rng(seed)
    params, grads, buffers = (parameters(rng, dtype, many) for _ in range(3))
    squares, means = [np.asarray(1 + a * a) for a in params], [np.zeros_like(a) for a in params]
    host = params, squares, means if centred else [], buffers if moving else [], [a.copy() for a in buffers]
    there = [[cp.array(a, order="K") for a in some] for some in host]
    with watched(reverse):
        for backend, (p, s, m, b, c), g in ((CUPY, there, device(grads, kind)), (NUMPY, host, grads)):
            backend.rmsprop_step(p, g, s, m, b, 0.1, 0.9, 1e-3, decay, 0.7)
            backend.lion_step(p, g, c, 0.1, weight_decay=decay)
    for some, expected in zip(there, host, strict=True):
        for a, b in zip(some, expected, strict=True):
            close(a, b)


@given(dtypes, st.integers(0, 3), seeds, st.sampled_from([0.0, 0.1]), st.sampled_from([None, 1e-30, 0.5]),
       st.booleans())
def test_adafactor(dtype: str, kind: int, seed: int, decay: float, least: float | None, reverse: bool) -> None:
    check_adafactor(dtype, kind, seed, decay, least, reverse, 0)


def test_adafactor_with_more_arrays_than_a_launch_takes() -> None:
    check_adafactor("float32", 0, 0, 0.1, None, False, ours.MANY)


def check_adafactor(dtype: str, kind: int, seed: int, decay: float, least: float | None, reverse: bool,
                    many: int) -> None:
    rng = np.random.default_rng(seed)
    wide = [(70, 3), (3, 70), (2, 33, 2)]
    params, *grads = ([*parameters(rng, dtype, many), *(rng.standard_normal(s).astype(dtype) for s in wide)]
                      for _ in range(3))
    rows = [np.zeros_like(p, shape=(*p.shape[:-1], 1) if p.ndim > 1 else p.shape) for p in params]
    columns = [np.zeros_like(p, shape=(*p.shape[:-2], 1, p.shape[-1]) if p.ndim > 1 else (0,)) for p in params]
    host = params, rows, columns
    there = [[cp.array(a, order="K") for a in some] for some in host]
    with watched(reverse):
        for step in (1, 2):
            for backend, (p, r, c), g in ((CUPY, there, device(grads[step - 1], kind)), (NUMPY, host, grads[step - 1])):
                backend.adafactor_step(p, g, r, c, step, 0.1, eps=(least, 1e-3), weight_decay=decay)
    for some, expected in zip(there, host, strict=True):
        for a, b in zip(some, expected, strict=True):
            close(a, b)


def test_adafactor_takes_each_dtype_by_itself() -> None:
    for backend in (CUPY, NUMPY):
        params = [backend.xp.asarray(np.full((2, 3), 0.5, t)) for t in ("float32", "float64")]
        grads = [backend.xp.asarray(np.full((2, 3), 1e-12, t)) for t in ("float32", "float64")]
        rows, columns = ([backend.xp.zeros(s, p.dtype) for p in params] for s in ((2, 1), (1, 3)))
        backend.adafactor_step(params, grads, rows, columns, 1, 0.1)
        found = [np.asarray(backend.asnumpy(p)) for p in params]
        if backend is CUPY:
            expected = found
    for a, b in zip(expected, found, strict=True):
        assert a.dtype == b.dtype
        assert np.allclose(a, b, rtol=1e-6, atol=0)


@given(dtypes, seeds, st.sampled_from([0, 1, 3, 9]), st.integers(0, 9), st.sampled_from([1, 2, 4]),
       st.sampled_from(["relu", "gelu", "gelu_tanh", "silu", "swiglu"]), st.sampled_from(["layer", "rms"]),
       st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_a_layers_step_is_its_parts(dtype: str, seed: int, batch: int, n: int, few: int, act: str, norm: str,
                                    first: bool, bias: bool, masked: bool, reverse: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = max(1, batch)  # 0: one row, without an axis
    x = rng.standard_normal((24, batch) if batch else 24).astype(dtype)
    past = rng.standard_normal((rows, 2, few, 10, 6)).astype(dtype)
    mask = rng.random((rows, n + 1)) < 0.6 if masked else None
    options: Any = {"norm_first": first, "bias": bias, "norm": norm, "num_kv_heads": few, "dtype": dtype}
    with ts.use_backend("numpy"):
        layer = nn.TransformerEncoderLayer(24, 4, 20, 0.1, act, **options).eval()
        for p in layer.parameters():
            p.data = p.detach() + 0.3 * ts.asarray(rng.standard_normal(p.shape).astype(dtype))
        layer.norm1.eps, layer.norm2.eps = rng.choice(np.array([None, 1e-5, 0.1]), 2)
        expected = past.copy()
        y = layer.step(x, expected, n, mask, None)
    arrays, *rest = layer._parts() or ((), ())
    there = device(past)
    with watched(reverse):
        found = CUPY.layer_few(lambda: (device(arrays), *rest), device(x), there, n, device(mask), None)
    assert (found is not None) == (act not in ("gelu", "swiglu"))
    if found is not None:
        close(found, y)
        close(there, expected)
    assert CUPY.layer_few(lambda: (device(arrays), *rest), device(x), there, 10, None, None) is None  # past the end


@given(dtypes, st.integers(1, 4), st.sampled_from([1, 2, 31, 300]), seeds)
def test_best_of_rows(dtype: str, rows: int, words: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-3, 3, (rows, words)).astype(dtype)  # some alike
    check("best_few", x)
    for bad in (math.nan, math.inf, -math.inf):
        assert not (CUPY.best_few(device(np.full((2, words), bad, dtype)))[0].get() > -math.inf).any()


@given(dtypes, st.integers(0, 3), seeds, st.sampled_from([0, ours.MANY]), st.booleans())
def test_copies(dtype: str, kind: int, seed: int, many: int, mixed: bool) -> None:
    host = parameters(np.random.default_rng(seed), dtype, many) + [np.ones(3, "float16")] * mixed
    there = [*device(host, kind), cp.broadcast_to(cp.ones((), dtype), (2, 3))]
    got = CUPY.copies(there)
    for a, b, c in zip(got, [*host, np.ones((2, 3), dtype)], there, strict=True):
        close(a, b)
        a[...] = 7
        close(c, b)


@pytest.mark.parametrize("many", [0, ours.MANY])
def test_a_norm_has_room_for_large_squares(many: int) -> None:
    host = [1e30 * p for p in parameters(np.random.default_rng(0), "float32", many)]
    close(CUPY.global_norm([cp.asarray(p) for p in host]) / 1e30, np.asarray(NUMPY.global_norm(host)) / 1e30)


scalars = st.sampled_from([int, float, np.float32, np.float64])


@given(scalars, st.sampled_from([int, np.int32, np.int64]), dtypes)
def test_numbers_of_any_type_reach_the_kernels(real: Any, whole: Any, dtype: str) -> None:
    x = np.random.default_rng(0).standard_normal((4, 5)).astype(dtype)
    number = real(1 if real is int else 0.1)
    targets, ids = np.array([0, 3, 2, 4]), np.array([0, 1, 1, 2])

    def run(kind: Any, index: Any) -> list[Any]:
        value = kind(number)
        losses, weights, saved = CUPY.cross_entropy(device(x), device(targets), None, value, index(3))
        found = [losses, weights, CUPY.cross_entropy_backward(losses, saved)]
        found += [CUPY.layer_norm(device(x), None, None, eps=value)[0]]
        found += [CUPY.embedding_backward(device(x), device(ids), 3, index(1))]
        p, g, m, v = (device(np.abs(x)) for _ in range(4))
        beta = value if number < 1 else kind(0)
        CUPY.adam_step([p], [g], [m], [v], 1, value, beta, beta, value, value)
        CUPY.sgd_step([p], [g], [m], value, value, index(1), value)
        return [a.get().tolist() for a in (*found, p, m, v)]

    assert run(real, whole) == run(float, int)


def test_kernels_name_the_dtype_that_they_refuse() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    for dtype, name in (("int64", "int64"), (bfloat16, "bfloat16")):
        with pytest.raises(TypeError, match=f"softmax takes float32 and float64.*got {name}"):
            CUPY.softmax(cp.ones((2, 3), dtype))


def test_optimizers_take_what_their_kernels_cannot() -> None:
    for types in (["float32"] * 3, ["float32", "float64", "float32"]):
        host = [np.ones(4, t) for t in types]
        there = [cp.repeat(cp.asarray(a), 2)[::2] for a in host]
        for backend, p in ((CUPY, there), (NUMPY, host)):
            grads = [a.copy() for a in p[::-1]]
            backend.adam_step(p, grads, [0 * a for a in p], [0 * a for a in p], 1, 0.1)
            backend.sgd_step(p, grads, [], 0.1)
            backend.scale(p, backend.xp.asarray(0.5))
        for a, b in zip(there, host, strict=True):
            close(a, b)
        close(CUPY.global_norm(there).astype("float64"), np.float64(NUMPY.global_norm(host)), widest=1e7)


@given(st.sampled_from([(7, 3), (20, 2, 2), (5, 130), (6,)]), st.integers(0, 40), dtypes, st.integers(0, 3), seeds,
       st.booleans())
def test_unindex_is_numpys_and_repeats_bit_by_bit(shape: tuple[int, ...], n: int, dtype: str, kind: int, seed: int,
                                                  reverse: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(-shape[0], shape[0], n)
    indices: list[Any] = [rows, rows.reshape(-1, 1) % 2]
    if len(shape) > 1:
        indices += [(slice(None), rows % 2), (rows, rows % 2), (0, rows % 2)]
    with watched(reverse):
        for index in indices:
            g = rng.standard_normal(np.empty(shape)[index].shape).astype(dtype)
            there = tuple(map(device, index)) if isinstance(index, tuple) else device(index)
            first = CUPY.unindex(device(g, kind), there, shape)
            close(first, NUMPY.unindex(g, index, shape))
            for given_index in (there, index):
                assert (CUPY.unindex(device(g, kind), given_index, shape) == first).all()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
def test_unindex_takes_narrow_ids(dtype: str) -> None:
    ids, g = np.array([3, 100, 100, 7], dtype), np.arange(8.0).reshape(4, 2)
    for index in (ids, -ids if dtype.startswith("i") else ids):
        close(CUPY.unindex(device(g), device(index), (300, 2)), NUMPY.unindex(g, index, (300, 2)))


def test_rows_wider_than_a_grid() -> None:
    width = 128 * 65535 + 1
    y = CUPY.unindex(cp.ones((1, width), "float32"), np.array([0]), (1, width))
    assert y.shape == (1, width) and bool((y == 1).all())
    y = CUPY.embedding_backward(cp.ones((2, width), "float32"), np.array([0, 5]), 1)
    assert y.shape == (1, width) and bool((y == 1).all())


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("padding_idx", [None, 1])
def test_ids_that_are_no_row_add_to_none(width: int, padding_idx: int | None) -> None:
    ids, g = np.array([0, 1, 3, -1, 1, 1 << 40, 4]), np.arange(7.0 * width).reshape(7, width)
    real = (ids >= 0) & (ids < 4)
    expected = NUMPY.embedding_backward(g[real], ids[real], 4, padding_idx)
    close(CUPY.embedding_backward(device(g), device(ids), 4, padding_idx), expected)


def test_unindex_sums_float16_in_float32_and_integers() -> None:
    for index in (np.zeros(4096, int), (np.zeros(4096, int), slice(None))):
        y = CUPY.unindex(cp.ones((4096, 2), "float16"), index, (3, 2))
        assert y.dtype == np.float16 and y.get().tolist() == [[4096, 4096], [0, 0], [0, 0]]
    assert CUPY.unindex(cp.ones(3, "int64"), np.array([1, 1, 0]), (3,)).get().tolist() == [1, 2, 0]


@given(st.sampled_from([(), (7,), (3, 4), (1500,), (0,)]), st.sampled_from([1, 5, 130]), dtypes, st.integers(0, 3),
       seeds, st.sampled_from([None, 0, 2]), st.booleans())
def test_embedding(shape: tuple[int, ...], width: int, dtype: str, kind: int, seed: int, padding_idx: int | None,
                   reverse: bool) -> None:
    rng = np.random.default_rng(seed)
    ids, table = rng.integers(0, 4, shape), rng.standard_normal((4, width)).astype(dtype)
    g = rng.standard_normal((*shape, width)).astype(dtype)
    with watched(reverse):
        check("embedding", table, ids, kind=kind)
        check("embedding_backward", g, ids, 4, padding_idx=padding_idx, kind=kind)


@given(st.integers(0, 3), st.sampled_from([0, 1, 7, 128, 300]), st.sampled_from([0, 1, 5, 40]), dtypes,
       st.integers(0, 3), seeds, st.booleans(), st.booleans())
def test_linear_scan(rows: int, steps: int, width: int, dtype: str, kind: int, seed: int, backwards: bool,
                     reverse: bool) -> None:
    rng = np.random.default_rng(seed)
    a, b, h0 = (rng.uniform(-1, 1, shape).astype(dtype) for shape in ((rows, steps, width),) * 2 + ((rows, width),))
    with watched(reverse):
        check("linear_scan", a, b, h0, backwards, kind=kind)


def scanned(a: Any, b: Any, h0: Any, backwards: bool = False) -> Any:
    return CUPY.asnumpy(CUPY.linear_scan(*map(CUPY.asarray, (a, b, h0)), backwards))


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("name", steep_scans())
def test_linear_scan_steps_through_what_is_steep(name: str, backwards: bool) -> None:
    a, b = (x[:, ::-1] if backwards else x for x in steep_scans()[name])
    with watched(False):
        h = scanned(a, b, np.zeros((1, 1), "f"), backwards)
    assert np.array_equal(h[:, ::-1] if backwards else h, step_by_step(*steep_scans()[name]))


def test_linear_scan_is_not_finite_from_where_its_input_is_not() -> None:
    a, b = np.full((1, 100, 1), 1e8, "f"), np.zeros((1, 100, 1), "f")
    a[:, 3] = np.nan
    h = scanned(a, b, np.zeros((1, 1), "f"))
    assert not h[0, :3].any() and np.isnan(h[0, 3:]).all()


def test_linear_scan_has_the_same_bits_run_to_run() -> None:
    """Forward and gradients, in both orders of threads."""
    rng, runs = np.random.default_rng(0), []
    a, b, h0 = (ts.tensor(rng.uniform(-1, 1, shape).astype("f"), requires_grad=True)
                for shape in ((2, 300, 40),) * 2 + ((2, 40),))
    for reverse in (False, True, False):
        with watched(reverse):
            h = F.linear_scan(a, b, h0)
            runs.append([x.detach().numpy().tobytes() for x in (h, *ts.grad(ts.sum(h * h), [a, b, h0]))])
    assert runs[0] == runs[1] == runs[2]


def test_kernels_go_back_in_float16() -> None:
    rng = np.random.default_rng(0)
    g, x = (rng.standard_normal((6, 5)).astype("float16") for _ in range(2))
    wide = lambda a: a.astype("float64")
    for name, options in (("softmax_backward", {}), ("softmax_backward", {"log": True}), ("gelu_backward", {})):
        slopes = getattr(CUPY, name)(device(g), device(x), **options)
        close(slopes, getattr(NUMPY, name)(wide(g), wide(x), **options).astype("float16"))
    ids = np.array([0, 1, 1, 3, 1, 0])
    summed = CUPY.embedding_backward(device(g), cp.asarray(ids), 4)
    close(summed, NUMPY.embedding_backward(wide(g), ids, 4).astype("float16"))
    _, _, saved = CUPY.cross_entropy(device(x), cp.asarray(ids % 5))
    _, _, expected = NUMPY.cross_entropy(wide(x), ids % 5)
    slopes = CUPY.cross_entropy_backward(device(g[:, 0]), saved)
    close(slopes, NUMPY.cross_entropy_backward(wide(g[:, 0]), expected).astype("float16"))


def test_kernels_take_float16() -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 5)).astype("float16")
    for name, options in (("softmax", {}), ("softmax", {"log": True}), ("gelu", {}), ("erf", {}), ("sigmoid", {})):
        y = getattr(CUPY, name)(device(x), **options)
        close(y, getattr(NUMPY, name)(x.astype("float64"), **options).astype("float16"))
    y, saved = CUPY.layer_norm(device(x), None, None)
    assert y.dtype == CUPY.layer_norm_backward(y, saved, None)[0].dtype == np.float16
    table = cp.ones((4, 2), "float16")
    with cupy_on_cpu.counting() as seen:
        assert CUPY.embedding(table[:0], cp.zeros(3, int)).shape == (3, 2) and seen["sync"] == 0
    y = CUPY.embedding(table, cp.array([3, 4, -1]))
    assert y.dtype == np.float16 and np.isnan(y.get()).tolist() == [[False] * 2, [True] * 2, [True] * 2]


# --- products --------------------------------------------------------------------------------------------------------


def views(x: Any) -> dict[str, Any]:
    """x (..., r, c) in ways that cuBLAS can read without a copy."""
    return {"plain": x, "transposed": cp.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2),
            "part": cp.concatenate((x, x), axis=-1)[..., : x.shape[-1]]}


def flipped(x: Any) -> Any:
    """x, stored with its matrices in the opposite order: cuBLAS cannot step backwards."""
    return cp.ascontiguousarray(x[::-1])[::-1]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_products_copy_nothing(dtype: str) -> None:
    kind = np.dtype(getattr(pytest.importorskip("ml_dtypes"), dtype)) if dtype == "bfloat16" else np.dtype(dtype)
    rng = np.random.default_rng(0)
    for lead_a, lead_b in (((), ()), ((5,), (5,)), ((2, 3), (2, 3)), ((4,), ()), ((1,), (4,)), ((2, 1, 3), (3,))):
        a, b = rng.standard_normal((*lead_a, 2, 6)), rng.standard_normal((*lead_b, 6, 3))
        expected = np.matmul(a, b)
        for u in views(cp.asarray(a.astype(kind))).values():
            for v in views(cp.asarray(b.astype(kind))).values():
                with cupy_on_cpu.counting() as seen:
                    y = CUPY.matmul(u, v)
                copied = lead_a == (2, 1, 3)  # broadcast inside: no one stride leads through it
                assert copied or (seen["launch"], seen["gemm"]) == (1, 1), (lead_a, lead_b, seen)
                assert (y.shape, y.dtype) == (expected.shape, kind)
                error = np.abs(y.get().astype("float64") - expected).max()
                assert error <= {"float16": 2e-2, "bfloat16": 1e-1, "float32": 1e-5, "float64": 1e-12}[dtype]


def test_products_of_matrices_in_the_opposite_order() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 5, 4, 4))
    for u, v in ((flipped(device(a)), device(b)), (device(a), flipped(device(b))), (flipped(device(a)).mT, device(b))):
        close(CUPY.matmul(u, v), u.get() @ v.get())


def test_sums_of_halves_are_kept_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    monkeypatch.setattr(cp.cuda.cublas, "setMathMode", lambda handle, mode: modes.append(mode))
    a = cp.ones((3, 3))
    for dtype, expected in (("float16", [16, 0]), ("float32", []), ("float64", [])):
        CUPY.matmul(a.astype(dtype), a.astype(dtype))
        assert modes == expected
        modes.clear()


def test_products_of_thin_and_empty_matrices_and_vectors() -> None:
    for m, k, n in ((1, 1, 1), (1, 5, 1), (5, 1, 5), (3, 0, 2), (0, 3, 2), (3, 2, 0)):
        a, b = np.ones((2, m, k), "float32"), np.ones((2, k, n), "float32")
        close(CUPY.matmul(device(a), device(b)), a @ b)
        close(CUPY.matmul(device(a.mT.copy()).swapaxes(1, 2), device(b)[:, ::-1]), a @ b)
    close(CUPY.matmul(cp.ones(3), cp.ones((3, 2))), np.full(2, 3.0))


def test_tf32_is_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    a = cp.ones((2, 3, 3), "float32")
    for chosen in (False, True):
        monkeypatch.setattr(CUPY, "tf32", chosen)
        with cupy_on_cpu.counting() as seen:
            CUPY.matmul(a, a)
            CUPY.matmul(a.astype("float64"), a.astype("float64"))
        assert seen.kernels["gemmStridedBatchedTF32<float32>"] == chosen
        assert seen.kernels["gemmStridedBatched<float64>"] == 1
    monkeypatch.setenv("TINYSEQ_TF32", "1")
    assert ours.CupyBackend().tf32
    monkeypatch.delenv("TINYSEQ_TF32")
    assert not ours.CupyBackend().tf32


# --- ids -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1, 5, 2**40])
def test_an_id_out_of_range_is_an_error_on_the_host_and_nan_on_the_device(bad: int) -> None:
    table = nn.Embedding(5, 3)
    ids = np.array([1, bad, 4])
    for given_ids in (ids, ids.tolist()):
        with pytest.raises(IndexError, match=f"id {bad} is out of range"):
            table(given_ids)
        with pytest.raises(IndexError, match=f"id {bad} is out of range"):
            F.cross_entropy(ts.zeros((3, 5)), given_ids)
        if bad != -1:
            with pytest.raises(IndexError, match="out of bounds"):
                table.weight[given_ids]
    there = ts.tensor(ids)
    y = table(there)
    assert np.isnan(y.detach().numpy()).all(axis=1).tolist() == [False, True, False]
    ts.sum(y).backward()
    assert table.weight.grad.numpy().tolist() == [[0] * 3, [1] * 3, [0] * 3, [0] * 3, [1] * 3]
    logits = ts.tensor(np.ones((3, 5)), requires_grad=True)
    for losses in (F.cross_entropy(logits, there, reduction="none"), F.nll_loss(logits, there, reduction="none")):
        assert np.isnan(losses.detach().numpy()).tolist() == [False, True, False]
    F.cross_entropy(logits, there, reduction="sum").backward()
    assert np.isnan(logits.grad.numpy()).all(axis=1).tolist() == [False, True, False]


# --- models: the same losses as on NumPy, within budgets -------------------------------------------------------------


class Tagger(nn.Module):
    """Ids and lengths -> a label at every step; the last states join in, so that all gradients flow."""

    def __init__(self, cell: Any, words: int, labels: int, width: int = 6, **options: Any) -> None:
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        self.rnn = cell(width, width, **options)
        self.norm = nn.LayerNorm(width * self.rnn.directions)
        self.dropout = nn.Dropout(0.2)
        self.out = nn.Linear(width * self.rnn.directions, labels)

    def forward(self, ids: Any, lengths: Any) -> Any:
        y, state = self.rnn(self.embedding(ids), lengths=lengths)
        h = state[0] if isinstance(state, tuple) else state
        return self.out(self.dropout(F.gelu(self.norm(y)))) + h.mean()


class Translator(nn.Module):
    """An encoder and a decoder with attention; `attention` makes that from the widths of query and memory."""

    def __init__(self, attention: Any, encoder: Any, words: int, width: int = 6) -> None:
        memory = 2 * width
        decoder = nn.AttentionDecoder(words, width, memory, attention(memory, memory), memory, dropout=0.1)
        self.model = nn.EncoderDecoder(nn.Embedding(words, width), encoder(width, width, bidirectional=True), decoder)

    def forward(self, ids: Any, lengths: Any) -> Any:
        return self.model(ids, lengths, ids)


class Pronounce(nn.Module):
    """The model of examples/pronounce.py."""

    def __init__(self) -> None:
        pytest.importorskip("tqdm")
        folder = str(Path(__file__).parents[2] / "examples")
        # matplotlib does not load beside AddressSanitizer
        with patch.object(sys, "path", [folder, *sys.path]), patch.object(ts, "plot", None, create=True):
            example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "pronounce.py"))
        self.model = example["build_model"](width=6, embedding=4, dropout=0.0)

    def forward(self, ids: Any, lengths: Any) -> Any:
        return self.model(ids, lengths, ids)


WORDS, BATCH, STEPS = 11, 4, 5
MODELS: dict[str, Callable[[], nn.Module]] = {
    "RNN": lambda: Tagger(nn.RNN, WORDS, WORDS),
    "RNN relu": lambda: Tagger(nn.RNN, WORDS, WORDS, nonlinearity="relu"),
    "GRU": lambda: Tagger(nn.GRU, WORDS, WORDS),
    "GRU before": lambda: Tagger(nn.GRU, WORDS, WORDS, reset="before"),
    "LSTM": lambda: Tagger(nn.LSTM, WORDS, WORDS),
    "LSTM 2 layers, 2 directions": lambda: Tagger(nn.LSTM, WORDS, WORDS, num_layers=2, bidirectional=True, dropout=0.3),
    "GRU, dot attention": lambda: Translator(nn.DotAttention, nn.GRU, WORDS),
    "LSTM, additive attention": lambda: Translator(lambda q, m: nn.AdditiveAttention(q, m, 8), nn.LSTM, WORDS),
    "examples/pronounce.py": Pronounce,
}
# launches, products included: for each time step, and besides. As measured: a step that takes more has become worse
LAUNCHES = {
    "RNN": (0, 52), "RNN relu": (0, 52), "GRU": (0, 53), "GRU before": (8, 49), "LSTM": (0, 55),
    "LSTM 2 layers, 2 directions": (0, 128), "GRU, dot attention": (0, 111), "LSTM, additive attention": (0, 139),
    "examples/pronounce.py": (0, 109),
}


def batch(steps: int = STEPS) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(1)
    lengths = np.array([steps, 3, 0, 1])
    ids, targets = rng.integers(1, WORDS, (2, BATCH, steps))
    return ids, np.where(np.arange(steps) < lengths[:, None], targets, 0), lengths


def training(name: str, ids: Any, targets: Any, lengths: Any) -> Callable[[], ts.Tensor]:
    """A step of training from seed 0, on the active backend."""
    ts.manual_seed(0)
    model = MODELS[name]()
    optimizer = optim.AdamW(model.parameters(), lr=0.01) if "LSTM" in name else optim.SGD(model.parameters(), 0.1, 0.9)

    def step() -> ts.Tensor:
        loss = F.cross_entropy(model(ids, lengths), targets, ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        return loss

    return step


@pytest.mark.parametrize("name", MODELS)
def test_losses_are_numpys(name: str) -> None:
    losses = {}
    for backend in ("numpy", "cupy"):
        with ts.use_backend(backend):
            step = training(name, *batch())
            losses[backend] = [step().item() for _ in range(3)]
    np.testing.assert_allclose(losses["cupy"], losses["numpy"], rtol=0, atol=1e-4)
    assert losses["cupy"][2] != losses["cupy"][0]


@without_address
@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_keeps_to_its_budget(name: str) -> None:
    found = {}
    for steps in (STEPS, STEPS + 4):
        seen = steady(training(name, *map(ts.tensor, batch(steps))))
        assert [seen[event] for event in ("sync", "h2d", "d2h", "malloc")] == [0] * 4, seen
        found[steps] = seen["launch"]
    each, besides = LAUNCHES[name]
    assert found[STEPS + 4] - found[STEPS] == 4 * each
    assert found[STEPS] <= each * STEPS + besides, found


# of tests/helpers/steps.py; tests/benchmarks/launches.py prints where they come from
LAUNCHES_OF = {"LSTM, 2 layers": 59, "GRU, 2 layers": 53, "Transformer, 2 layers": 121, "a token of it": 19,
               "AdamW's step": 1, "RMSprop's step": 1, "Lion's step": 1, "Adafactor's step": 3}


@without_address
@pytest.mark.parametrize("name", COUNTED)
def test_launches_stay_few(name: str) -> None:
    seen = steady(COUNTED[name]())
    assert seen["launch"] <= LAUNCHES_OF[name] and seen["malloc"] == 0, seen


@without_address
def test_a_batch_on_the_host_is_copied_and_not_waited_for() -> None:
    seen = steady(training("GRU, dot attention", *batch()))
    assert (seen["sync"], seen["d2h"], seen["malloc"]) == (0, 0, 0) and seen["h2d"] <= 6


@without_address
def test_a_decoded_token_keeps_to_its_budget() -> None:
    model = nn.LanguageModel(WORDS, 32, 4, num_layers=2, dim_feedforward=128, activation="gelu_tanh").eval()
    tokens = decode.stream(model, model.start(np.arange(8)[None]), 3, -1, 40)
    seen = steady(lambda: next(tokens))
    assert seen["launch"] <= 34 and (seen["sync"], seen["d2h"], seen["h2d"], seen["malloc"]) == (2, 2, 1, 0), seen


def test_models_move_between_backends() -> None:
    ids, _, lengths = batch()
    with ts.use_backend("numpy"):
        ts.manual_seed(0)
        model = MODELS["LSTM"]().eval()
        expected = model(ids, lengths).detach().numpy()
        state = model.state_dict()
        assert {p.backend for p in model.parameters()} == {"numpy"}
    other = MODELS["LSTM"]().eval()
    assert {p.backend for p in other.parameters()} == {"cupy"}
    other.load_state_dict(state)
    close(other(ids, lengths).data, expected)
    with ts.use_backend("numpy"):
        close(model.to("cupy")(ids, lengths).data, expected)  # ids and lengths come from the host, wherever it is
        model.to("numpy").load_state_dict(other.state_dict())
        close(cp.asarray(model(ids, lengths).data), expected)
    x = ts.tensor([1.0, 2.0], requires_grad=True)
    ts.sum(x.to("numpy") * 3).backward()
    assert x.grad.backend == "cupy" and x.grad.tolist() == [3, 3]


def test_mixed_backends_are_named() -> None:
    there, here = ts.ones(3), ts.ones(3).to("numpy")
    for mixed in (lambda: there + here, lambda: here * there, lambda: ts.concat([there, here]),
                  lambda: ts.where(there > 0, here, here)):
        with pytest.raises(TypeError, match=r"cupy and numpy: use .to\(\"cupy\"\)"):
            mixed()


# --- where it cannot run ---------------------------------------------------------------------------------------------


def outside(program: str, **variables: str) -> str:
    """What a fresh process without the emulator prints."""
    environment = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "PYTHONPATH", "TINYSEQ_BACKEND")}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment | variables)
    return run.stdout + run.stderr[-500:]


USE = """
import tinyseq as ts
try:
    ts.use_backend("cupy")
except (ImportError, RuntimeError) as error:
    print(type(error).__name__, error)
"""


def test_what_is_missing_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    said = outside("import sys; sys.modules['cupy'] = None\n" + USE)
    assert said.startswith("ImportError") and "pip install 'tinyseq[cuda13]'" in said and said.count("\n") == 1
    said = outside(USE, CUDA_VISIBLE_DEVICES="")
    assert said.startswith("RuntimeError the cupy backend cannot run here: ") and said.count("\n") == 1
    assert ". Run: " in said

    broken = "import sys, importlib.abc\nclass F(importlib.abc.MetaPathFinder):\n    def find_spec(self, name, *_):\n"
    broken += "        if name == 'cupy': raise ImportError('=====\\nlibc.so.9 is not found\\nmore')\n"
    said = outside(broken + "sys.meta_path.insert(0, F())\n" + USE)
    assert said == f"ImportError CuPy is installed but does not load (libc.so.9 is not found): {ours.DOCTOR}\n"


@pytest.mark.parametrize("error", [RuntimeError("libcublas.so.13 is not found\nmore"), ImportError("libcublas.so.13")])
@pytest.mark.parametrize("where", [(cp.cuda.device, "get_cublas_handle"), (cp.cuda.nvrtc, "getVersion")])
def test_what_keeps_cuda_from_starting_is_the_doctors_finding_or_the_error(
        where: tuple[Any, str], error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking() -> None:
        raise error

    monkeypatch.setattr(*where, lacking, raising=False)
    found = [doctor.Finding("The driver is gone.", "sudo reboot")]
    said = ("The driver is gone. Run: sudo reboot", f"{doctor.line(error)}: {ours.DOCTOR}")
    for findings, why in zip((found, []), said, strict=True):
        monkeypatch.setattr(doctor, "diagnose", lambda facts, findings=findings: findings)
        with pytest.raises(RuntimeError) as raised:
            ours.CupyBackend()
        assert str(raised.value) == f"the cupy backend cannot run here: {why}"


# --- both compilers, and planted faults -----------------------------------------------------------------------------


@without_address
@pytest.mark.parametrize("char", ["f", "d"])
def test_nvrtc_compiles_every_kernel(char: str) -> None:
    reason = cupy_on_cpu.nvrtc_missing()
    if reason:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    cupy_on_cpu.check_nvrtc(ours.source(char))


# name: what is changed in the source, into what, the check that must fail then, and what the emulator says
FAULTS: dict[str, tuple[str, str, Callable[[], Any], str | None]] = {
    "missing barrier": (
        "of_warp[threadIdx.x / 32] = v;\n  __syncthreads();", "of_warp[threadIdx.x / 32] = v;",
        lambda: check("softmax", np.ones((2, 300), "float32")), "race in shared memory"),
    "missing barrier at the end of a loop": (
        "    __syncthreads();\n  }\n  for (int k = 0; k < 4; k++)", "  }\n  for (int k = 0; k < 4; k++)",
        lambda: check("embedding_backward", np.ones((1100, 3), "float32"), np.arange(1100) % 7, 9),
        "race in shared memory"),
    "race": (
        "sums[blockIdx.y * (I)gridDim.x + blockIdx.x] = sum;", "sums[0] += sum;",
        lambda: check("global_norm", [np.ones(700, "float32")]), "race in global memory"),
    "off by one": (
        "ROW(i) for (I i = threadIdx.x; i < n;", "ROW(i) for (I i = threadIdx.x; i <= n;",
        lambda: check("softmax", np.random.default_rng(0).random((3, 5)).astype("float32")), "race in global memory"),
    "missing barrier between steps": (
        "  __syncthreads();                                  // the next step's", "  // the next step's",
        lambda: check_scan("lstm", (3, 4, 5, 6), False, False, (True, True), "float32", 0, 0), "race in"),
    "a key that a query may not see": (
        "s <= a.s - a.t + t)", "s <= a.s - a.t + t + 1)",
        lambda: check_attention((2,), (3, 4, 2, 3), None, False, True, 0.0, "float32", 0, 0), None),
    "wrong stride over time": (
        "hs[(b * S + next) * H + j]) = h;", "hs[(b + S * next) * H + j]) = h;",
        lambda: check_scan("gru", (3, 4, 5, 6), False, False, (True, True), "float32", 0, 0), "race in global memory"),
    "wrong stride of a mask": (
        "r % d2 * s2;", "r % d2 * s1;",
        lambda: check("softmax", np.ones((2, 3, 4), "float32"), -1, np.arange(24).reshape(2, 3, 4) % 5 > 1), None),
}


@without_address
@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong, run, error = FAULTS[name]
    with watched(False):
        run()
    source = ours.source
    assert source("f").count(right) == 1
    monkeypatch.setattr(ours, "source", lambda char: source(char).replace(right, wrong))
    ours.kernel.cache_clear()
    ours.module.cache_clear()
    try:
        with watched(False), pytest.raises(cupy_on_cpu.EmulatorError if error else AssertionError, match=error):
            run()
    finally:
        ours.kernel.cache_clear()
        ours.module.cache_clear()
