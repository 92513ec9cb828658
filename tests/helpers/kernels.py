"""What tests of kernels share: the NumPy backend whole and in pieces, plain comparisons, a central difference."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from helpers.rows import layout
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tinyseq.backends.numpy import NumpyBackend


class Pieces(NumpyBackend):
    block = piece = 7


BACKENDS: tuple[NumpyBackend, ...] = (NumpyBackend(), Pieces())
if find_spec("numba"):
    from tinyseq.backends.numba import NumbaBackend

    BACKENDS += NumbaBackend(),
backends = pytest.mark.parametrize("backend", BACKENDS, ids=["whole", "pieces", "numba"][:len(BACKENDS)])

dtypes = st.sampled_from([np.float32, np.float64])
seeds = st.integers(0, 2**32 - 1)


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


def steep_scans() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """a and b (1, T, 1) of linear recurrences that are finite step by step, from a state of 0, though a product of
    eight a, or a sum, overflows or is far larger than all states."""
    tall, even, still, sums, far = (np.array([[1.0, 0.0]] * n, "f") for n in (100, 400, 300, 200, 100))
    tall[:, 0], tall[98, 0], tall[99, 1] = 1e8, 0, 1  # a state of 0 through all of them
    even[:, 0], even[19:21, 1] = 10, (1e36, -1e37)  # which cancel
    still[0], still[1:] = (0, 1), (10, -9)  # 1 at every step
    sums[3, 1], sums[65:67, 1] = 3e38, -3e38  # which cancel one by one
    far[0, 1], far[1:, 0] = 1e-30, np.tile([1e20, 1e20, 1e-30], 33) * np.tile([1, 1, 1e-10], 33)
    return {name: (x[None, :, :1], x[None, :, 1:]) for name, x in
            (("tall", tall), ("even", even), ("still", still), ("sums", sums), ("far", far))}


def step_by_step(a: Any, b: Any) -> Any:
    """h_t = a_t h_(t-1) + b_t from 0 on, in their own dtype."""
    h, state = np.empty_like(b), np.zeros_like(b[:, 0])
    for t in range(b.shape[1]):
        h[:, t] = state = a[:, t] * state + b[:, t]
    return h


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
