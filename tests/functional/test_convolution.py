"""Convolution and pooling: how large their memory is, which entry is the largest, where nothing is at hand. Values and
gradients are judged by tests/functional/test_functional.py."""

import tracemalloc

import numpy as np
import pytest

import tinyseq as ts
import tinyseq.functional as F


def test_memory_does_not_grow_with_the_size_of_a_window() -> None:
    with ts.use_backend("numpy"):
        check_memory()


def check_memory() -> None:
    x, weight = ts.ones((4, 4000, 64), requires_grad=True), ts.ones((64, 64, 9), requires_grad=True)
    tracemalloc.start()
    y = F.conv1d(x, weight, padding="same")
    y.backward(ts.ones_like(y.detach()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * x.data.nbytes  # y, what is padded, its gradient and the like; windows would be 9 each way


def test_the_gradient_goes_to_the_first_of_equal_entries_and_nan_is_the_largest() -> None:
    x = ts.tensor([[[1.0], [1.0], [1.0]]], requires_grad=True)
    F.max_pool1d(x, 3).sum().backward()
    assert x.grad is not None and x.grad.flatten().tolist() == [1.0, 0.0, 0.0]
    assert np.isnan(F.max_pool1d(ts.tensor([[[1.0], [np.nan], [3.0]]]), 3).item())


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_of_nothing_nothing_can_be_made(mode: str) -> None:
    assert F.pad(ts.zeros((0, 2)), [(0, 0), (0, 0)], mode).shape == (0, 2)
    with pytest.raises(ValueError, match=r"pad.*at least"):
        F.pad(ts.zeros((0, 2)), [(1, 0), (0, 0)], mode)
