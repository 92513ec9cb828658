"""Compiled scans wide enough for pieces of products, on one thread and on several, against the portable ones."""

from typing import Any

import numpy as np
import pytest
from helpers.kernels import close, dtypes, seeds
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("numba")
from tinyseq.backends.compiled import products, recurrent
from tinyseq.backends.numba import NumbaBackend
from tinyseq.backends.numpy import NumpyBackend
from tinyseq.backends.recurrent import CELLS
from tinyseq.backends.threads import get_num_threads, set_num_threads

sizes = st.integers(1, 300)


@given(sizes, sizes, sizes, dtypes, seeds, st.booleans())
def test_pieces_make_up_a_product(n: int, inner: int, outer: int, dtype: Any, seed: int, add: bool) -> None:
    rng = np.random.default_rng(seed)
    a, w, c = (rng.standard_normal(shape).astype(dtype) for shape in ((n, inner), (inner, outer), (n, outer)))
    expected = a @ w + c if add else a @ w
    for source, turned in (w, False), (np.ascontiguousarray(w.T), True):
        pieces, found = np.empty_like(w), c.copy()
        recurrent.cut(source, turned, pieces)
        recurrent.product(products.gemm(), a, pieces, recurrent.WIDTH, found, add)
        close(found, expected, dtype)
    found = np.empty((inner, outer), dtype)
    recurrent.turned_product(products.gemm(), a, c, found)
    close(found, a.T @ c, dtype)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cell", sorted(CELLS))
@pytest.mark.parametrize(("batch", "steps", "width", "hidden"), [(40, 9, 70, 130), (3, 4, 70, 130), (1, 100, 7, 65)])
def test_as_the_portable_kernels(batch: int, steps: int, width: int, hidden: int, cell: str, threads: int,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    for module in recurrent, recurrent.share.__globals__:
        monkeypatch.setitem(module if isinstance(module, dict) else vars(module), "LEAST", 1)
    rng, rows, before = np.random.default_rng(0), len(CELLS[cell].order) * hidden, get_num_threads()
    shapes = ((batch, steps, width), (batch, hidden), (batch, hidden), (rows, width), (rows, hidden), (rows,), (rows,))
    x, h0, c0, *weights = (0.1 * rng.standard_normal(shape) for shape in shapes)
    gradients = [rng.standard_normal(shape) for shape in ((batch, steps, hidden), h0.shape, h0.shape)]
    c0, gradients[2] = (c0, gradients[2]) if cell == "lstm" else (None, None)
    mask, lengths = rng.integers(0, 2, h0.shape) * 2.0, rng.integers(0, steps + 1, batch)
    lengths[0] = steps
    set_num_threads(threads)
    try:
        for options in (None, False, None), (lengths, True, mask):
            found, expected = [], []
            for backend, results in (NumbaBackend(), found), (NumpyBackend(), expected):
                *outputs, saved = backend.rnn_forward(cell, x, h0, c0, *weights, *options)
                for _ in range(2):  # what is saved stays as it is
                    pulled = backend.rnn_backward(cell, saved, *gradients, [True, True, cell == "lstm", *[True] * 4])
                    results += [*outputs, *pulled]
            for one, two in zip(found, expected, strict=True):
                assert one is two is None or close(one, two, np.float64) is None
    finally:
        set_num_threads(before)


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_what_is_not_a_number_stays_so(cell: str) -> None:
    rows, c0 = len(CELLS[cell].order) * 5, np.ones((2, 5), "f") if cell == "lstm" else None
    x, w_ih, w_hh = np.ones((2, 4, 3), "f"), np.ones((rows, 3), "f"), np.ones((rows, 5), "f")
    x[0, 2], x[1, 1] = np.nan, -1e30
    y = NumbaBackend().rnn_forward(cell, x, np.ones((2, 5), "f"), c0, w_ih, w_hh, None, None)[0]
    assert np.isnan(y[0, 2:]).all() and np.isfinite(y[0, :2]).all() and np.isfinite(y[1]).all()
