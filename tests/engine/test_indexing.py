"""Entries by their places: tensors index and are assigned to as NumPy's arrays are, with gradients."""

from typing import Any

import numpy as np
import pytest
from helpers.rows import INDICES
from helpers.tensors import equal, leaf
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts


def test_a_gradient_through_a_view() -> None:
    x = leaf(np.arange(6.0))
    view = x.reshape(2, 3).T[::-1]
    y = view * 2
    y[0] = 0.0  # another array: what the view shows stays
    y.sum().backward()
    equal(x.grad, [2, 2, 0, 2, 2, 0])
    equal(x, np.arange(6.0))


@given(st.sampled_from(INDICES), st.randoms(use_true_random=False))
def test_tensors_index_as_arrays_do(index: Any, rng: Any) -> None:
    def tensors(i: Any) -> Any:
        if isinstance(i, tuple):
            return tuple(map(tensors, i))
        return ts.tensor(i) if isinstance(i, np.ndarray) and rng.random() < 0.5 else i

    array = np.arange(24.0).reshape(3, 2, 4)
    x = leaf(array)
    picked, expected = x[tensors(index)], array[index]
    equal(picked, expected)
    picked.backward(np.ones(expected.shape))
    count = np.zeros(array.shape)
    np.add.at(count, index, 1.0)
    equal(x.grad, count)


@given(st.sampled_from(INDICES))
def test_tensors_are_assigned_to_as_arrays_are(index: Any) -> None:
    array = np.arange(24.0).reshape(3, 2, 4)
    x, v = leaf(array), leaf(-1.0)
    y = x * 1.0
    before = y * y  # computed from the old values
    y[index] = v
    expected = array.copy()
    expected[index] = -1.0
    equal(y, expected)
    (before.sum() + (y * 3.0).sum()).backward()
    kept = np.ones(array.shape)
    kept[index] = 0.0
    equal(x.grad, 2 * array + 3 * kept)


def test_assignment_never_cuts_a_history() -> None:
    x = leaf(1.0, 2.0)
    y = x * 2
    with ts.no_grad(), pytest.raises(RuntimeError, match="computed by multiply"):
        y[0] = 0.0
    (y + x).sum().backward()
    equal(x.grad, [3.0, 3.0])


def test_assignment_rebinds() -> None:
    x = ts.tensor([1.0, 2.0, 3.0])
    alias, view = x.detach(), x[:2]
    x[0] = leaf(5.0, dtype=np.float32)
    assert x.requires_grad and not x.is_leaf
    equal(alias, [1, 2, 3])
    equal(view, [1, 2])
    x[1:] = np.array([7.0, 8.0])
    assert x.dtype == np.float32
    equal(x, [5, 7, 8])
    with pytest.raises(ValueError, match=r"setitem\(x=float32\[3\], index=slice\(0, 2, None\), value=float32\[3\]\)"):
        x[0:2] = ts.ones(3)
