"""Tensors from numbers, lists and arrays: their dtypes, and numbers that are refused."""

import math

import numpy as np
import pytest
from helpers.tensors import equal

import tinyseq as ts


def test_numbers_never_widen() -> None:
    x = ts.ones(2)
    for y in (ts.stack([x[0], 1.0]), ts.full(2, np.float64(1)), ts.tensor(np.float64(1)) * x, ts.zeros(2, dtype=None),
              ts.arange(0, 2, np.float32(0.5))):
        assert y.dtype == np.float32
    with pytest.raises(TypeError, match=r"zeros.*complex"):
        ts.zeros(2, dtype=complex)


def test_numbers_that_a_dtype_does_not_hold_are_refused_wherever_they_are_made() -> None:
    for make in (lambda: ts.arange(300, dtype=ts.int8), lambda: ts.linspace(0, 1000, 3, dtype=ts.int8),
                 lambda: ts.full((3,), 1e10, dtype=ts.int8), lambda: ts.full((3,), math.nan, dtype=ts.int64)):
        with pytest.raises(ValueError, match="expected numbers from"):
            make()
    assert ts.arange(128, dtype=ts.int8).numpy().dtype == np.int8
    with pytest.raises(ValueError, match="tensordot"):
        ts.tensordot(ts.ones(1), ts.ones(3), 1)
    x = ts.ones(3)
    with pytest.raises(TypeError, match="expected"):
        x[0] = None


def test_one_hot_and_ids_out_of_range() -> None:
    with pytest.raises(IndexError, match="id 3 is out of range, expected 0 <= id < 3"):
        ts.one_hot(ts.tensor([0, 3]), 3)


@pytest.mark.reference
def test_dlpack_to_and_from_pytorch() -> None:
    torch = pytest.importorskip("torch")
    t = ts.tensor([[1.0, 2.0], [3.0, 4.0]])
    there = torch.from_dlpack(t)
    there[0, 0] = 7.0  # the same memory
    equal(t, [[7.0, 2.0], [3.0, 4.0]])
    back = ts.from_dlpack(torch.arange(3, dtype=torch.float64))
    assert back.dtype == np.float64
    equal(back, [0.0, 1.0, 2.0])
