"""Matrix products against NumPy's: inside compiled kernels, and shared by threads."""

import os
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from helpers.kernels import close, dtypes, seeds
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("numba")
from tinyseq.backends import pool, threads
from tinyseq.backends.compiled import compiled, products
from tinyseq.backends.compiled.products import CompiledProducts

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


@given(n=st.integers(0, 9), k=st.integers(0, 9), m=st.integers(0, 9), lead=st.sampled_from([(), (1,), (5,), (2, 3)]),
       turned=st.booleans(), given_out=st.booleans(), dtype=dtypes, seed=seeds)
def test_threads_share_a_product(n: int, k: int, m: int, lead: tuple[int, ...], turned: bool, given_out: bool,
                                 dtype: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((*lead, n, k)).astype(dtype), rng.standard_normal((*lead, k, m)).astype(dtype)
    if turned:
        a, b = (np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2) for x in (a, b))
    expected, shares = a @ b, list[int]()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ("large", 2), ("many", 3):
            patch.setattr(threads, name, value)
        patch.setattr(products, "WORTH", 2)
        patch.setattr(pool, "get_num_threads", lambda: 3)
        patch.setattr(products, "share", lambda work, pieces, cost: (shares.append(pieces), pool.share(
            work, pieces, cost)))
        out = np.full_like(expected, np.nan) if given_out else None
        found = CompiledProducts().matmul(a, b, out)
    close(found, expected, dtype)
    work = a.size * m
    assert shares == [min(3, work)] * (work > 1) and (out is None or found is out)


def test_what_is_not_cut_is_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "large", 2)
    monkeypatch.setattr(threads, "many", 1)
    monkeypatch.setattr(products, "WORTH", 2)
    multiply = CompiledProducts().matmul
    for a, b in ((3,), (3, 4)), ((4, 3), (3,)), ((2, 4, 3), (3, 5)), ((1, 4, 3), (2, 3, 5)):
        x, y = np.ones(a, np.float32), np.ones(b)
        assert np.array_equal(multiply(x, y), np.matmul(x, y)) and multiply(x, y).dtype == np.float64
    with pytest.raises(ValueError, match="matmul"):
        multiply(np.ones((4, 3)), np.ones((4, 3)))


def test_a_product_into_its_operand_or_another_shape_is_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ("large", 2), ("many", 3):
        monkeypatch.setattr(threads, name, value)
    monkeypatch.setattr(products, "WORTH", 2)
    monkeypatch.setattr(products, "share", lambda *_: pytest.fail("it was shared"))
    a, b = np.random.default_rng(0).standard_normal((2, 6, 6))
    for out in (a.copy(), b.copy()):
        operands = [out if np.array_equal(out, x) else x for x in (a, b)]
        assert np.array_equal(CompiledProducts().matmul(*operands, out), a @ b)
    with pytest.raises(ValueError, match="mismatch"):
        CompiledProducts().matmul(a, b, np.empty((7, 6)))


def test_few_matrices_are_cut_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ("large", 2), ("many", 3):
        monkeypatch.setattr(threads, name, value)
    monkeypatch.setattr(products, "WORTH", 2)
    shapes = list[tuple[int, ...]]()
    right = np.matmul
    monkeypatch.setattr(products.np, "matmul", lambda a, b, y: (shapes.append(a.shape), right(a, b, y))[1])
    rng = np.random.default_rng(0)
    for lead, part in ((1,), (1, 2, 4)), ((1, 4), (1, 2, 6, 4)), ((2, 1), (2, 1, 2, 4)):
        a, b = rng.standard_normal((*lead, 6, 4)), rng.standard_normal((*lead, 4, 5))
        np.testing.assert_allclose(CompiledProducts().matmul(a, b), right(a, b))
        assert shapes[0] == part, shapes
        shapes.clear()


NUMBERS = """if True:
    import numpy as np, tinyseq as ts
    from tinyseq.backends import pool, threads
    from tinyseq.backends.compiled import products
    sizes, share = [], products.share
    products.share = lambda work, n, cost: (sizes.append(n), share(work, n, cost))
    def tell():
        x, y = ts.full((512, 512), 2.0), ts.full((512, 512), 0.5)
        assert ((x @ y).numpy() == 512).all()
        print(ts.get_num_threads(), threads.library().get(), *sizes)
        sizes.clear()
    tell()
    ts.set_num_threads(3)
    tell()
    ts.set_num_threads(1)
    tell()
    ts.set_num_threads(2)
    tell()
"""


@pytest.mark.skipif(products.gemm() is None, reason="NumPy multiplies with a library of other threads")
@pytest.mark.parametrize("number", ["", "2"])
def test_threads_are_ours_and_openblas_keeps_to_one(number: str) -> None:
    """Where nobody says a number, none of a product that is not LARGE."""
    bare = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")} | {"TINYSEQ_BACKEND": "numba"}
    said = {"OMP_NUM_THREADS": number} if number else {}
    done = subprocess.run([sys.executable, "-c", NUMBERS], env=bare | said, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert others == ["3 1 3", "1 1", "2 1 2"]
    assert first == "2 1 2" if number else re.fullmatch(r"\d+ 1", first)
