"""Embedding's rows, raw bits, and dropout masks made of them."""

import math
from typing import Any

import numpy as np
import pytest
from helpers.kernels import BACKENDS, close, seeds
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


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


@pytest.mark.parametrize("height", [200, 40_000])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16"])
def test_narrow_ids_find_their_rows(dtype: str, height: int) -> None:
    ids = np.array([100, 3, 100, 127], dtype)  # 127 + height is more than the type holds
    ids = ids if dtype == "uint8" else np.concatenate([ids, np.array([-1, -100], dtype)])
    g = np.arange(ids.size * 2.0).reshape(-1, 2)
    expected = np.zeros((height, 2))
    np.add.at(expected, ids.astype(int), g)
    close(BACKENDS[0].unindex(g, ids, (height, 2)), expected)
