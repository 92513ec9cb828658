"""Sums of products, where the table of `test_ops.py` does not look."""

import math

import tinyseq as ts


def test_einsum_takes_diagonals_only() -> None:
    x = ts.tensor([[1.0, math.inf], [math.nan, 2.0]])
    assert ts.einsum("ii->i", x).tolist() == [1, 2] and ts.einsum("ii", x).item() == 3
