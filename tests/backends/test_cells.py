"""The gates of cells: each kernel is its definition in `functional.recurrence`, forward and backward."""

from typing import Any

import numpy as np
import pytest
from helpers.kernels import backends, close, dtypes, seeds
from hypothesis import given
from hypothesis import strategies as st

from tinyseq.engine.tensor import Tensor
from tinyseq.functional import recurrence

shapes = st.lists(st.integers(0, 4), max_size=2)


def drawn(seed: int, dtype: Any, lead: list[int], size: int, gates: int, scale: float) -> list[Any]:
    """u, v (*lead, gates size), turned in memory, a state (*lead, size), and a gradient of one; nobody writes."""
    rng = np.random.default_rng(seed)
    found = [(rng.standard_normal((n * size, *lead)) * scale).astype(dtype) for n in (gates, gates, 1, 1)]
    for a in found:
        a.flags.writeable = False
    return [np.moveaxis(a, 0, -1) for a in found]


def wide(a: Any) -> Tensor:
    return Tensor(a.astype(np.float64), requires_grad=True)


@backends
@given(seed=seeds, dtype=dtypes, lead=shapes, size=st.integers(1, 40), scale=st.sampled_from([1.0, 5.0]))
def test_gates_of_lstm(backend: Any, seed: int, dtype: Any, lead: list[int], size: int, scale: float) -> None:
    u, v, c, gh = drawn(seed, dtype, lead, size, 4, scale)
    given_tensors = [wide(a) for a in (u, v, c)]
    expected = recurrence._lstm_definition(*given_tensors)
    h, new, gates = backend.lstm_gates(u, v, c)
    found = backend.lstm_gates_backward(gh, 2 * gh, gates, c, new)
    tf = [wide(gh).detach(), 2 * wide(gh).detach()]
    ((expected[0] * tf[0]).sum() + (expected[1] * tf[1]).sum()).backward()
    for got, want in zip((h, new, *found), (*expected, *(t.grad for t in given_tensors)), strict=True):
        assert got.dtype == dtype and got.shape == want.shape
        near(got, want)


@backends
@given(seed=seeds, dtype=dtypes, lead=shapes, size=st.integers(1, 40), scale=st.sampled_from([1.0, 5.0]))
def test_gates_of_gru(backend: Any, seed: int, dtype: Any, lead: list[int], size: int, scale: float) -> None:
    u, v, h, g = drawn(seed, dtype, lead, size, 3, scale)
    given_tensors = [wide(a) for a in (u, v, h)]
    expected = recurrence._gru_definition(*given_tensors)
    new, gates = backend.gru_gates(u, v, h)
    found = backend.gru_gates_backward(g, gates, v, h)
    (expected * wide(g).detach()).sum().backward()
    for got, want in zip((new, *found), (expected, *(t.grad for t in given_tensors)), strict=True):
        assert got.dtype == dtype and got.shape == want.shape
        near(got, want)


def near(got: Any, want: Any) -> None:
    unit = {"f": 2e-5, "d": 1e-12}[got.dtype.char]
    want = want.detach().numpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=unit * max(1, np.abs(want).max(initial=0)))


@backends
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_nan_stays_one_in_its_row_and_gates_close_at_any_size(backend: Any, dtype: Any) -> None:
    u, c = np.zeros((3, 8), dtype), np.ones((3, 2), dtype)
    u[1, 0], u[2] = np.nan, [-1e4, 1e4] * 4
    h, new, _ = backend.lstm_gates(u, np.zeros_like(u), c)
    assert np.array_equal(np.isnan(h), [[0, 0], [1, 0], [0, 0]])
    close(new[2], [0, 2], dtype)
    h, _ = backend.gru_gates(u[:, :6], np.zeros_like(u[:, :6]), c)
    assert np.array_equal(np.isnan(h), [[0, 0], [1, 0], [0, 0]])
    close(h[2], [-1, 1], dtype)
