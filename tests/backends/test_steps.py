"""Kernels of few vectors, features first: each is what its function in `functional` says of (..., E)."""

from typing import Any

import numpy as np
import pytest
from helpers.kernels import BACKENDS
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
import tinyseq.functional as F
from tinyseq import backends

dtypes = st.sampled_from(["float16", "float32", "float64"])
seeds = st.integers(0, 2**32 - 1)
batches = st.integers(0, 4)      # 0: a vector alone, (E,)


def close(got: Any, expected: Any) -> None:
    got, expected = ts.Tensor(got).numpy(), expected.numpy()
    assert got.dtype == expected.dtype and got.shape == expected.shape
    unit = {"float16": 4e-3, "float32": 1e-5, "float64": 1e-12}[str(got.dtype)]
    np.testing.assert_allclose(got, expected, rtol=unit, atol=unit * max(1, np.abs(expected).max(initial=0)))


def drawn(seed: int, dtype: str, *shapes: tuple[int, ...]) -> list[Any]:
    """Arrays of the active backend; nothing writes into them (`kept`)."""
    rng = np.random.default_rng(seed)
    return [ts.asarray(rng.standard_normal(shape).astype(dtype)).data for shape in shapes]


def kernels(x: Any) -> list[Any]:
    """The backend of an array, and of NumPy's the others too."""
    return [*BACKENDS] if isinstance(x, np.ndarray) else [backends.of(x)]


def columns(batch: int, size: int) -> tuple[int, ...]:
    return (size, batch) if batch else (size,)


@given(seed=seeds, dtype=dtypes, batch=batches, bias=st.booleans(),
       sizes=st.tuples(st.integers(1, 90), st.integers(1, 9)))
def test_linear(seed: int, dtype: str, batch: int, sizes: tuple[int, int], bias: bool) -> None:
    x, weight, b = drawn(seed, dtype, columns(batch, sizes[0]), (sizes[1], sizes[0]), (sizes[1],))
    before, given_bias = x.copy(), b if bias else None
    for backend in kernels(x):
        y = backend.linear_few(x, weight, given_bias)
        close(y.T, F.linear(ts.Tensor(x.T), ts.Tensor(weight), None if given_bias is None else ts.Tensor(b)))
    close(x, ts.Tensor(before))


@given(seed=seeds, dtype=dtypes, batch=batches, size=st.integers(1, 70), centred=st.booleans(), weight=st.booleans(),
       bias=st.booleans(), eps=st.sampled_from([None, 1e-5, 1e-2]), scale=st.sampled_from([1.0, 300.0]),
       alike=st.booleans())
def test_norms(seed: int, dtype: str, batch: int, size: int, centred: bool, weight: bool, bias: bool,
               eps: float | None, scale: float, alike: bool) -> None:
    x, w, b = drawn(seed, dtype, columns(batch, size), (size,), (size,))
    x = x[:1] + 0 * x if alike else x
    x = (x * scale).astype(dtype)
    before, bias = x.copy(), bias and centred
    given_w, given_eps = ts.Tensor(w) if weight else None, eps or float(np.finfo(np.promote_types(dtype, "f")).eps)
    for backend in kernels(x):
        y = backend.norm_few(x, w if weight else None, b if bias else None, eps, centred)
        close(y.T, F.rms_norm(ts.Tensor(x.T), size, given_w, given_eps) if not centred else
              F.layer_norm(ts.Tensor(x.T), size, given_w, ts.Tensor(b) if bias else None, given_eps))
    close(x, ts.Tensor(before))


@given(seed=seeds, dtype=dtypes, batch=batches, size=st.integers(1, 70), scale=st.sampled_from([1.0, 1e4]))
def test_gelu(seed: int, dtype: str, batch: int, size: int, scale: float) -> None:
    x = (drawn(seed, dtype, columns(batch, size))[0] * scale).astype(dtype)
    before = x.copy()
    for backend in kernels(x):
        close(backend.gelu_few(x), F.gelu(ts.Tensor(x), "tanh"))
    close(x, ts.Tensor(before))


@given(seed=seeds, dtype=dtypes, batch=batches, few=st.integers(1, 3), shared=st.integers(1, 3),
       steps=st.integers(0, 70), wide=st.sampled_from([1, 2, 5, 33, 40]), masked=st.booleans(), sliced=st.booleans(),
       cap=st.sampled_from([None, 2.0, 30.0]))
def test_attention(seed: int, dtype: str, batch: int, few: int, shared: int, steps: int, wide: int, masked: bool,
                   sliced: bool, cap: float | None) -> None:
    q, k, v = drawn(seed, dtype, (batch, few * shared, wide), *[(batch, few, steps + 3, wide)] * 2)
    q = (q * 30).astype(dtype)
    k, v = (k[:, :, :steps], v[:, :, 3:]) if sliced else (k[:, :, :steps].copy(), v[:, :, :steps].copy())
    mask = ts.asarray(np.random.default_rng(seed).random((batch, steps)) < 0.6).data if masked else None
    before = q.copy(), k.copy(), v.copy()
    one = [ts.Tensor(q[:, :, None]), ts.Tensor(k)]
    taking = None if mask is None else ts.Tensor(mask)[:, None, None]
    for backend in kernels(q):
        y, weights = backend.attention_few(q, k, v, mask, cap or 0.0)
        close(y.reshape(q.shape), F.attention(*one, ts.Tensor(v), taking, softcap=cap)[:, :, 0])
        close(weights.reshape(batch, few * shared, steps), F.attention_weights(*one, taking, softcap=cap)[:, :, 0])
    for now, then in zip((q, k, v), before, strict=True):
        close(now, ts.Tensor(then))


@given(seed=seeds, dtype=st.sampled_from(["float32", "float64"]), batch=st.integers(1, 4))
def test_a_nan_stays_in_its_row(seed: int, dtype: str, batch: int) -> None:
    x, weight, keys = drawn(seed, dtype, (5, batch), (3, 5), (batch, 1, 4, 5))
    x[2, 0] = np.nan
    for backend in kernels(x):
        q = x.T[:, None]
        for y in (backend.linear_few(x, weight, None).T, backend.norm_few(x, weight[0], None, None).T,
                  backend.attention_few(q, keys, keys)[0].reshape(batch, -1)):
            nan = np.isnan(ts.Tensor(y).numpy())
            assert nan[0].all() and not nan[1:].any()


@pytest.mark.parametrize("rows", [(3, 4), (4, 1)])
def test_weights_that_do_not_fit_are_refused(rows: tuple[int, int]) -> None:
    x, weight = drawn(0, "float32", (5,), rows)
    for backend in kernels(x):
        with pytest.raises(ValueError, match=r"dim|shape|align"):
            backend.linear_few(x, weight, None)


@given(seed=seeds, dtype=st.sampled_from(["float32", "float64"]), batch=batches, n=st.integers(0, 9),
       few=st.sampled_from([1, 2, 4]), activation=st.sampled_from(["relu", "gelu", "gelu_tanh", "silu", "swiglu"]),
       norm=st.sampled_from(["layer", "rms"]), first=st.booleans(), bias=st.booleans(), masked=st.booleans(),
       turned=st.booleans())
def test_a_layer_in_one_kernel_is_its_parts(seed: int, dtype: str, batch: int, n: int, few: int, activation: str,
                                            norm: str, first: bool, bias: bool, masked: bool, turned: bool) -> None:
    layer = ts.nn.TransformerEncoderLayer(24, 4, 20, 0.1, activation, norm_first=first, bias=bias, norm=norm,
                                          num_kv_heads=few, dtype=dtype).eval()
    shaken = [p.detach() + 0.3 * ts.asarray(a) for p, a in zip(layer.parameters(), drawn(
        seed, dtype, *[p.shape for p in layer.parameters()]), strict=True)]
    for p, a in zip(layer.parameters(), shaken, strict=True):
        p.data = a.data
    rows = max(1, batch)
    x, past, angles = drawn(seed, dtype, columns(batch, 24), (rows, 2, few, 10, 6), (2, rows, 1, 3))
    mask = ts.asarray(np.random.default_rng(seed).random((rows, n + 1)) < 0.6).data if masked else None
    turn = [*angles] if turned else None
    parts, layer._parts = layer._parts, lambda: None  # type: ignore[method-assign]
    after = past.copy()
    expected = layer.step(x, after, n, mask, turn)
    for backend in kernels(x):
        written = past.copy()
        y = backend.layer_few(parts, x, written, n, mask, turn)
        other = {"numpy": True, "numba": activation == "gelu", "cupy": turned or activation in ("gelu", "swiglu")}
        assert (y is None) == other[backend.name]
        if y is not None:
            close(y, ts.Tensor(expected))
            close(written, ts.Tensor(after))
            assert backend.layer_few(parts, x, past, 10, None, turn) is None  # past the end


@given(seed=seeds, dtype=st.sampled_from(["float16", "float32", "float64"]), batch=st.integers(0, 4),
       words=st.integers(1, 40))
def test_the_best_is_the_greatest_log_probability_and_its_first_place(seed: int, dtype: str, batch: int,
                                                                      words: int) -> None:
    logits = ts.tensor(np.random.default_rng(seed).integers(-3, 3, (batch, words)).astype(dtype))  # some alike
    logs = F.log_softmax(logits).numpy()
    for backend in kernels(logits.data):
        scores, places = map(ts.Tensor, backend.best_few(logits.data))
        assert scores.shape == places.shape == (batch, 1)
        close(scores.data, ts.tensor(logs.max(axis=1, keepdims=True)))
        assert (places.numpy() == logits.numpy().argmax(axis=1)[:, None]).all()
        for bad in (np.nan, np.inf, -np.inf):
            with np.errstate(invalid="ignore"):
                found = backend.best_few(ts.full((2, words), bad, dtype=dtype).data)[0]
            assert not (ts.Tensor(found).numpy() > -np.inf).any()


@pytest.mark.parametrize("option", ["window", "q_norm", "k_norm", "softcap"])
def test_a_layer_with_attention_of_another_kind_is_no_one_kernel(option: str) -> None:
    layer = ts.nn.TransformerEncoderLayer(8, 2, 16)
    assert layer._parts() is not None
    value = {"window": 2, "softcap": 3.0}.get(option, ts.nn.RMSNorm(8))
    layer.self_attn = ts.nn.MultiheadAttention(8, 2, **{option: value})
    assert layer._parts() is None
