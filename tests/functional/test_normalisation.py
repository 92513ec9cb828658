"""Softmax and norms: far out, of one value, and of large numbers in float16."""

import math

import numpy as np
import pytest
from helpers.functions import composed, dtypes, results
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
import tinyseq.functional as F
from tinyseq import nn

INF = math.inf


@dtypes
@pytest.mark.parametrize("kernel", [True, False])
def test_softmax_far_out(kernel: bool, dtype: str) -> None:
    x = ts.tensor([[1e4, 1e4, -1e4], [-INF, 1e4, -1e4], [-INF, -1e4, -1e4], [-INF] * 3], dtype, requires_grad=True)
    expected = [[0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 0]]
    half = -math.log(2)
    logs = [[half, half, -2e4 + half], [-INF, 0, -2e4], [-INF, half, half], [-INF] * 3]
    with pytest.MonkeyPatch.context() if kernel else composed():
        y, dx = results(F.softmax, [x], {})
        z, dz = results(F.log_softmax, [x], {})
    rounding = 1e-6 if kernel or dtype == "float64" else 1e-3  # the definition subtracts a logarithm of size 1e4
    np.testing.assert_allclose(y, expected, rtol=rounding)
    np.testing.assert_allclose(z, logs, rtol=rounding)
    assert np.isfinite(dx).all() and np.isfinite(dz).all()
    assert not dx[3].any() and not dx[np.array(expected) == 0].any()


@pytest.mark.parametrize("kernel", [True, False])
@given(value=st.floats(-(2.0**99), 2.0**99, width=32), rows=st.integers(1, 3), size=st.integers(1, 300))
def test_layer_norm_of_one_value_is_exactly_zero(kernel: bool, value: float, rows: int, size: int) -> None:
    x = ts.full((rows, size), value, requires_grad=True)
    norm = F.normalisation._layer_norm if kernel else F.normalisation._layer_norm.definition
    assert not norm(x, None, None, 1, 1e-5).detach().numpy().any()


@pytest.mark.reference
@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0])
def test_small_numbers_of_float16_are_normalized_with_float32s_epsilon_as_torchs(size: float) -> None:
    torch = pytest.importorskip("torch")
    x = (size * np.random.default_rng(0).standard_normal((3, 8))).astype("float16")
    y = torch.nn.functional.rms_norm(torch.tensor(x), (8,)).numpy()
    norm = nn.RMSNorm(8, dtype="float16")
    for found in (F.rms_norm(ts.tensor(x), 8), norm(ts.tensor(x)), small_step(norm, x)):
        np.testing.assert_allclose(found.detach().numpy(), y, rtol=2e-3)


def small_step(norm: nn.RMSNorm, x: np.ndarray) -> ts.Tensor:
    """As a layer's step normalizes few rows."""
    backend = ts.backends.load(ts.tensor(x).backend)
    weight = norm.weight.detach().data
    return ts.Tensor(backend.norm_few(backend.asarray(x.T), weight, None, None, False).T)


def test_float16_norms_and_attention_of_large_numbers() -> None:
    x = ts.tensor([[3e4, -3e4, 1e4, -1e4]], np.float16)
    for norm in (F.layer_norm, F.rms_norm):
        assert abs(norm(x, 4).numpy() - [[1.342, -1.342, 0.447, -0.447]]).max() < 1e-3
        assert not norm(ts.zeros((1, 4), np.float16), 4, eps=1e-12).numpy().any()
    q = ts.full((1, 3, 4), 300.0, np.float16)
    assert (F.attention(q, q, q, scale=1.0).numpy() == 300).all()  # scores of 360,000
