"""The linear recurrence, held to one step of one sequence at a time, in blocks of time too."""

from typing import Any

import numpy as np
import pytest
from helpers.kernels import backends, close, dtypes, seeds, steep_scans, step_by_step
from helpers.rows import layout
from hypothesis import given
from hypothesis import strategies as st
from tinyseq.backends import linear
from tinyseq.backends.numpy import NumpyBackend


def plain(a: Any, b: Any, h0: Any, reverse: bool) -> Any:
    """In float64."""
    h, state = np.empty(b.shape), np.asarray(h0, np.float64)
    for t in reversed(range(b.shape[1])) if reverse else range(b.shape[1]):
        h[:, t] = state = a[:, t].astype(float) * state + b[:, t]
    return h


@backends
@given(st.integers(0, 3), st.sampled_from([0, 1, 2, 5, 16, 41, 100]), st.integers(0, 3), dtypes, seeds, st.booleans(),
       st.integers(0, 3), st.sampled_from([0.0, 0.5, 1.0]))
def test_equal_to_its_definition(backend: NumpyBackend, rows: int, steps: int, width: int, dtype: Any, seed: int,
                                 reverse: bool, kind: int, zeros: float) -> None:
    rng = np.random.default_rng(seed)
    a = rng.uniform(-1, 1, (rows, steps, width)) * (rng.random((rows, steps, width)) >= zeros)
    a, b, h0 = (layout(x.astype(dtype), kind) for x in (a, rng.standard_normal(a.shape),
                                                        rng.standard_normal((rows, width))))
    close(backend.linear_scan(a, b, h0, reverse), plain(a, b, h0, reverse), dtype)


@pytest.mark.parametrize("shape", [(1, 10_000, 1), (3, 10_000, 7), (2, 10_007, 300)])
@pytest.mark.parametrize("lowest", [-1.0, 0.0, 0.9, 1.0])
def test_as_exact_as_the_loop_over_ten_thousand_steps(shape: Any, lowest: float) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(lowest, 1, shape), rng.standard_normal(shape)
    a[:, 100::1000], a[:, 200::1000] = 0, 1e-30
    expected = plain(a, b, np.zeros(shape[::2]), False)
    top = np.abs(expected).max()
    for dtype, error in ("float64", 1e-12), ("float32", 1e-5):
        narrow = a.astype(dtype), b.astype(dtype), np.zeros(shape[::2], dtype)
        expected = plain(*narrow, False)
        assert np.abs(NumpyBackend().linear_scan(*narrow, False) - expected).max() <= error * top


@backends
@pytest.mark.parametrize("reverse", [False, True])
def test_steep_products_do_no_harm(backend: NumpyBackend, reverse: bool) -> None:
    for name, (a, b) in steep_scans().items():
        expected = step_by_step(a, b)
        assert np.isfinite(expected).all(), name
        turned = slice(None, None, -1 if reverse else 1)
        h = backend.linear_scan(a[:, turned], b[:, turned], np.zeros((1, 1), "f"), reverse)[:, turned]
        assert np.array_equal(h, expected), name


def test_what_is_not_finite_begins_where_it_begins_in_the_loop() -> None:
    for first in np.nan, np.inf, 3e38:
        a, b = np.full((1, 100, 1), 0.5, "f"), np.ones((1, 100, 1), "f")
        (a if np.isnan(first) else b)[:, 3] = first
        a[:, 4], a[:, 60], b[:, 4] = 1, 0, b[:, 3]
        with np.errstate(all="ignore"):
            h, expected = NumpyBackend().linear_scan(a, b, np.ones((1, 1), "f"), False), step_by_step(a, b)
        assert np.array_equal(h[:, 3:], expected[:, 3:], equal_nan=True) and np.isfinite(h[:, :3]).all()
        assert not np.isfinite(h[:, 4:]).any()


def test_array_calls_grow_with_the_blocks_not_with_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    class Counting:
        def __getattr__(self, name: str) -> Any:
            nonlocal calls
            calls += 1
            return getattr(np, name)

    backend = NumpyBackend()
    monkeypatch.setattr(backend, "xp", Counting())
    backend.linear_scan(np.ones((1, 1024, 64)), np.ones((1, 1024, 64)), np.ones((1, 64)), False)
    assert calls < 1024 / 4 and linear.SIDE_BY_SIDE > 64
