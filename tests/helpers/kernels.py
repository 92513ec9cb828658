"""What tests of kernels share: the NumPy backend whole and in pieces, plain comparisons, a central difference."""

from typing import Any

import numpy as np
import pytest
from helpers.rows import layout
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tinyseq.backends.numpy import NumpyBackend


class Pieces(NumpyBackend):
    block = 7


BACKENDS = (NumpyBackend(), Pieces())
backends = pytest.mark.parametrize("backend", BACKENDS, ids=["whole", "pieces"])

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
