"""What makes the NumPy backend: its namespace, indexing."""

import math
from typing import Any

import numpy as np
from helpers.kernels import BACKENDS, close, dtypes, rows, seeds
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinyseq as ts


@given(rows(min_side=1))
def test_functions_that_old_libraries_lack(case: Any) -> None:
    x, axis, _ = case
    close(BACKENDS[0].cumulative_sum(x, axis=axis), np.cumsum(x, axis=axis), x.dtype)
    parts = BACKENDS[0].unstack(x, axis=axis)
    assert len(parts) == x.shape[axis] and np.array_equal(np.stack(parts, axis=axis), x)


def test_namespace_has_the_library_and_what_it_lacks() -> None:
    xp = BACKENDS[0].xp
    assert xp.tanh is np.tanh and xp.linalg.norm is np.linalg.norm
    for name in "erf sigmoid unindex unstack vecdot cumulative_sum matrix_transpose permute_dims \
                 concat isdtype take_along_axis".split():
        assert callable(getattr(xp, name))
    assert not hasattr(np, "erf"), "NumPy's own module must stay as it was"


@given(rows(), st.booleans(), st.booleans())
def test_logsumexp(case: Any, keepdims: bool, holes: bool) -> None:
    x, axis, rng = case
    x = x.copy()
    if holes:
        x[rng.random(x.shape) < 0.5] = -math.inf
    with np.errstate(divide="ignore"):
        expected = np.log(np.exp(x.astype(np.float64)).sum(axis=axis, keepdims=keepdims))
        everything = np.log(np.exp(x.astype(np.float64)).sum())
    close(ts.logsumexp(ts.asarray(x), axis, keepdims).data, expected, x.dtype)
    close(ts.logsumexp(ts.asarray(x)).data, everything)


def test_logsumexp_extremes() -> None:
    x = np.array([[1e4, 1e4], [-1e4, -math.inf], [-math.inf, -math.inf], [math.inf, 0]])
    expected = [1e4 + math.log(2), -1e4, -math.inf, math.inf]
    assert ts.logsumexp(ts.asarray(x), 1).tolist() == expected


@st.composite
def indexed(draw: Any) -> tuple[tuple[int, ...], Any, int]:
    """A shape, an index that it allows (basic, a mask, integer arrays along some axes), and a seed."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5))
    kind = draw(st.sampled_from(["basic", "mask", "rows", "mixed", "arrays"]))
    small = hnp.array_shapes(max_dims=2, min_side=0, max_side=6)

    def integers(n: int, size: Any) -> Any:
        return draw(hnp.arrays(np.int64, size, elements=st.integers(-n, n - 1)))

    if kind == "basic":
        index = draw(hnp.basic_indices(shape, allow_newaxis=True))
    elif kind == "mask":
        index = draw(hnp.arrays(bool, shape))
    elif kind == "rows":
        index = integers(shape[0], draw(small))
    elif kind == "mixed":
        index = (integers(shape[0], 3).tolist(), ..., draw(st.sampled_from([None, slice(None, None, -1)])))
        index = index if len(shape) > 1 else index[0]
    else:
        size = draw(small)
        index = tuple(integers(n, size) for n in shape)
    return shape, index, draw(seeds)


@given(indexed(), dtypes)
def test_unindex_is_the_adjoint_of_indexing(case: Any, dtype: Any) -> None:
    shape, index, seed = case
    numbers = np.arange(math.prod(shape)).reshape(shape)
    g = np.random.default_rng(seed).standard_normal(numbers[index].shape).astype(dtype)
    expected = np.bincount(numbers[index].ravel(), g.ravel(), numbers.size).reshape(shape)
    first = BACKENDS[0].unindex(g, index, shape)
    close(first, expected, dtype)
    assert np.array_equal(first, BACKENDS[0].unindex(g, index, shape))


def test_unindex_sums_float16_in_float32() -> None:
    ones = np.ones((4096, 2), np.float16)  # float16 counts to 2,048 only
    for index in (np.zeros(4096, int), (np.zeros(4096, int), slice(None))):
        y = BACKENDS[0].unindex(ones, index, (3, 2))
        assert y.dtype == np.float16 and y.tolist() == [[4096, 4096], [0, 0], [0, 0]]
