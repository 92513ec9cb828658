"""Convolution in blocks: however windows are cut, they are the same."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tinyseq.backends.convolution import count_windows, windows

from tinyseq import backends

BACKEND: Any = type(backends.load("numpy"))()


@given(st.integers(0, 12), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_windows_are_those_that_fit(steps: int, size: int, stride: int, dilation: int) -> None:
    starts = [i for i in range(0, steps, stride) if i + dilation * (size - 1) < steps]
    assert count_windows(steps, size, stride, dilation) == len(starts)
    for k, place in enumerate(windows(steps, size, stride, dilation)):
        assert [*range(steps)][place] == [i + k * dilation for i in starts]


@pytest.mark.parametrize("groups", [1, 2, 4])
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 2), st.integers(1, 40), st.booleans())
def test_any_blocks_give_the_same(groups: int, batch: int, more: int, stride: int, unfolded: int, turned: bool) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(batch, more + 4, 4)), rng.normal(size=(4, 4 // groups, 3))
    x = np.ascontiguousarray(x.transpose(2, 1, 0)).T if turned else x  # strides of any kind
    whole = BACKEND.conv1d(x, weight, stride, 2, groups)
    g = rng.normal(size=whole.shape)
    expected = BACKEND.conv1d_backward(g, x, weight, stride, 2, groups)
    small: Any = type(BACKEND)()
    small.rows, small.unfolded = 1, unfolded
    np.testing.assert_allclose(small.conv1d(x, weight, stride, 2, groups), whole, atol=1e-12)
    for found, wanted in zip(small.conv1d_backward(g, x, weight, stride, 2, groups), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-12)
