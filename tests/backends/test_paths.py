"""Sums over all paths of a sequence: the kernels give what their definitions give."""

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from helpers.kernels import BACKENDS, backends
from helpers.layers import leaf, normal, seeds
from hypothesis import given
from hypothesis import strategies as st
from tinyseq.backends.numpy import NumpyBackend

import tinyseq as ts
from tinyseq.nn import structured


@pytest.fixture(autouse=True)
def on_host() -> Any:
    with ts.use_backend("numpy"):
        yield


@backends
@given(seeds, st.integers(1, 3), st.integers(1, 6), st.integers(1, 4))
def test_chains_are_their_definition(backend: NumpyBackend, seed: int, batch: int, steps: int, tags: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.choice([None, 1]) and rng.integers(0, steps + 1, batch)
    leaves = [leaf(normal(rng, *shape)) for shape in ((batch, tags), (batch, steps, tags), (tags, tags))]
    y, saved = backend.chain_forward(*(x.detach().numpy() for x in leaves), lengths)
    expected = structured._chain_definition(*leaves, lengths)
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-12)
    g = rng.standard_normal(y.shape)
    for found, slope in zip(backend.chain_backward(g, saved), ts.grad(expected, leaves, ts.asarray(g)), strict=True):
        np.testing.assert_allclose(found, slope.numpy(), rtol=1e-9, atol=1e-12)


def ctc_case(rng: np.random.Generator, batch: int, steps: int, labels: int, classes: int, wide: float = 1.0) -> Any:
    """Scores, paths, where they may skip, lengths and counts, as CTCLoss makes them of labels 1 to classes - 1."""
    x = wide * rng.standard_normal((batch, steps, classes))
    lengths, counts = rng.integers(0, steps + 1, batch), rng.integers(0, labels + 1, batch)
    path = np.zeros((batch, 2 * labels + 1), np.int64)
    path[:, 1::2] = np.where(np.arange(labels) < counts[:, None], rng.integers(1, classes, (batch, labels)), 0)
    skips = np.zeros(path.shape, bool)
    skips[:, 2:] = (path[:, 2:] != 0) & (path[:, 2:] != path[:, :-2])
    return x, path, skips, lengths, counts


def is_defined(backend: NumpyBackend, rng: Any, x: np.ndarray, *case: Any, digits: float = 1e-9) -> None:
    y, saved = backend.alignments_forward(x, *case)
    one = leaf(x)
    expected = structured._alignments_definition(one, *case)
    known = expected.detach().numpy()
    possible = known > structured.NEVER / 2
    np.testing.assert_allclose(y[possible], known[possible], rtol=1e-12, atol=1e-12)
    assert (y[~possible] <= structured.NEVER / 2).all()
    g = np.where(possible, rng.standard_normal(y.shape), 0.0)
    if x.size:
        (slope,) = ts.grad(expected, [one], ts.asarray(g))
        for _ in range(2):                                              # what is saved stays as it is
            np.testing.assert_allclose(backend.alignments_backward(g, saved), slope.numpy(), rtol=digits,
                                       atol=max(1e-12, digits / 100))


@backends
@given(seeds, st.integers(0, 3), st.integers(0, 20), st.integers(0, 4), st.sampled_from([1.0, 20.0, 250.0]),
       st.booleans())
def test_alignments_are_their_definition(
    backend: NumpyBackend, seed: int, batch: int, steps: int, labels: int, wide: float, forbid: bool,
) -> None:
    rng = np.random.default_rng(seed)
    x, *case = ctc_case(rng, batch, steps, labels, 3, min(wide, 60.0))
    if forbid:
        x[rng.random(x.shape) < 0.1] = -np.inf
    if wide > 60:                                                       # a few scores that are all but impossible
        x[rng.random(x.shape) < 0.1] = -wide
    before = x.copy()
    x.flags.writeable = False
    try:
        is_defined(backend, rng, x, *case)
    except FloatingPointError:                                          # on which the definition itself is used
        assert backend.name == "numpy" and wide > 1
    np.testing.assert_array_equal(x, before)


@backends
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_alignments_of_narrow_scores_are_those_of_wide_ones(backend: NumpyBackend, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    x, *case = ctc_case(rng, 3, 30, 4, 5)
    x = np.repeat(x.astype(dtype), 2, axis=2)[:, :, ::2]                # a view
    (y, saved), (wide, _) = (backend.alignments_forward(a, *case) for a in (x, x.astype(np.float64)))
    np.testing.assert_array_equal(y, wide)
    assert y.dtype == np.float64 and backend.alignments_backward(np.ones(3), saved).shape == x.shape


@backends
def test_alignments_that_none_can_reach_and_no_numbers(backend: NumpyBackend) -> None:
    rng = np.random.default_rng(0)
    x, path, skips, _, counts = ctc_case(rng, 2, 40, 3, 4)
    lengths = np.array([40, 20])
    x[:, :, :] = -1e4                                                   # possible all the same
    x[1, 20:] = np.nan                                                  # padding
    for score, one in ((-1e4, -1e4 * 40), (-np.inf, -np.inf)):
        x[0] = score
        try:
            y = backend.alignments_forward(x, path, skips, lengths, counts)[0]
        except FloatingPointError:
            assert backend.name == "numpy"
            y = structured._alignments_definition(ts.asarray(x), path, skips, lengths, counts).numpy()
        assert abs(y[0] - one) < 100 or (y[0] < structured.NEVER / 2 and one == -np.inf)
        assert abs(y[1] + 1e4 * 20) < 100
    x[0, 3] = np.nan
    try:
        assert np.isnan(backend.alignments_forward(x, path, skips, lengths, counts)[0][0])
    except FloatingPointError:
        assert backend.name == "numpy"


@backends
def test_alignments_keep_their_digits_over_long_sequences(backend: NumpyBackend) -> None:
    """A path that is likely, and one all through which the scores are even; and scores that are no logarithms."""
    rng = np.random.default_rng(0)
    x, path, skips, _, _ = ctc_case(rng, 2, 600, 150, 5)
    right = path[0, np.minimum(np.arange(600) // 2, 300)]
    x[0] -= np.where(np.arange(5) == right[:, None], 0.0, 30.0)
    for more in (0.0, 15.0):
        is_defined(backend, rng, x + more, path, skips, np.array([600, 590]), np.array([150, 140]), digits=1e-8)


@backends
@given(seeds, st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.sampled_from([np.float32, np.float64]),
       st.booleans())
def test_best_paths_are_the_best_of_all(
    backend: NumpyBackend, seed: int, batch: int, steps: int, tags: int, dtype: Any, forbid: bool,
) -> None:
    rng = np.random.default_rng(seed)
    x, start, moves, end = (rng.standard_normal(shape).astype(dtype) for shape in (
        (tags, steps, batch), tags, (tags, tags), tags))
    lengths = rng.choice([None, 1]) and rng.integers(0, steps + 1, batch)
    x = x.T
    if forbid:
        x[rng.random(x.shape) < 0.2] = moves[rng.random(moves.shape) < 0.2] = -np.inf
    known = [a.astype(np.float64) for a in (x, start, moves, end)]
    for a in (x, start, moves, end):
        a.flags.writeable = False
    found, score = backend.best_paths(x, start, moves, end, lengths)
    assert found.shape == (batch, steps) and score.dtype == np.float64
    x, start, moves, end = known
    for b in range(batch):
        n = steps if lengths is None else max(lengths[b], 1)
        every = {y: start[y[0]] + x[b, range(n), y].sum() + sum(moves[pair] for pair in pairwise(y)) + end[y[-1]]
                 for y in product(range(tags), repeat=n)}
        np.testing.assert_allclose(score[b], max(every.values()), rtol=1e-12)
        np.testing.assert_allclose(every[tuple(found[b, :n])], score[b], rtol=1e-12)
        assert (found[b, n:] == found[b, n - 1]).all()


@backends
@given(st.integers(0, 4), st.integers(0, 2), st.booleans())
def test_best_paths_of_no_numbers_have_none(backend: NumpyBackend, step: int, tag: int, move: bool) -> None:
    x, moves, zero = np.zeros((2, 5, 3)), np.zeros((3, 3)), np.zeros(3)
    if move:
        moves[step % 3, tag] = np.nan
    else:
        x[0, step, tag] = np.nan
    score = backend.best_paths(x, zero, moves, zero, None)[1]
    assert np.isnan(score).tolist() == [True, move]
    assert not np.isnan(backend.best_paths(x, zero, moves, zero, np.array([0, 1]))[1][1])
    assert move or np.isnan(backend.best_paths(x, zero, moves, zero, np.array([step, 5]))[1][0]) == (not step)


@backends
def test_alignments_that_open_late(backend: NumpyBackend) -> None:
    """The way from 1 to 3 is closed, while 1 grows and 3 vanishes, farther apart than float64 reaches."""
    x = np.zeros((1, 44, 4))
    x[0, 3:40] = -np.inf, 18, -np.inf, -18
    path, skips = np.array([[0, 1, 0, 2, 0, 3, 0]]), np.array([[False, False, False, True, False, True, False]])
    try:
        is_defined(backend, np.random.default_rng(0), x, path, skips, np.array([44]), np.array([3]))
    except FloatingPointError:
        assert backend.name == "numpy"


def test_the_portable_kernel_refuses_what_leaves_its_range() -> None:
    rng = np.random.default_rng(0)
    x, *case = ctc_case(rng, 2, 5, 1, 3)
    for wrong in (1e4, -1e4, np.nan, np.inf):
        x[0, 0, 0] = wrong
        with pytest.raises(FloatingPointError):
            BACKENDS[0].alignments_forward(x, *case)
