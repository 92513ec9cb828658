"""Matrix products inside compiled kernels against NumPy's."""

from typing import Any

import numpy as np
import pytest
from helpers.kernels import close, dtypes, seeds
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("numba")
from tinyseq.backends.compiled import compiled, products

multiply, multiply_turned, turned_multiply = products.multiply, products.multiply_turned, products.turned_multiply


@compiled
def three(blas: Any, a: Any, b: Any, at: Any, bt: Any, c: Any) -> None:
    multiply(blas, a, b, c[0], False)
    multiply_turned(blas, a, bt, c[1], False)
    turned_multiply(blas, at, b, c[2], True)


@given(n=st.integers(0, 9), k=st.integers(0, 9), m=st.integers(0, 9), dtype=dtypes, seed=seeds)
def test_products(n: int, k: int, m: int, dtype: Any, seed: int) -> None:
    blas = products.gemm()
    if blas is None:
        pytest.skip("NumPy multiplies with a library whose product cannot be called")
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((n, k + 2)).astype(dtype)[:, 1:k + 1], rng.standard_normal((k, m)).astype(dtype)
    c = np.ones((3, n, m), dtype)
    three(blas, a, b, np.ascontiguousarray(a.T), np.ascontiguousarray(b.T), c)
    for got, expected in zip(c, (a @ b, a @ b, 1 + a @ b), strict=True):
        close(got, expected, dtype)
