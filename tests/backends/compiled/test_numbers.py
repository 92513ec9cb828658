"""Functions of numbers in compiled loops against NumPy's, over all of the floats."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("numba")
from tinyseq.backends.compiled import compiled, numbers

exp, log, tanh, sigmoid = numbers.exp, numbers.log, numbers.tanh, numbers.sigmoid
erf, maximum = numbers.erf, numbers.maximum


@compiled
def exps(x: Any, y: Any) -> None:
    for i in range(x.size):
        y[i] = exp(x[i])


@compiled
def logs(x: Any, y: Any) -> None:
    for i in range(x.size):
        y[i] = log(x[i])


@compiled
def tanhs(x: Any, y: Any) -> None:
    for i in range(x.size):
        y[i] = tanh(x[i])


@compiled
def sigmoids(x: Any, y: Any) -> None:
    for i in range(x.size):
        y[i] = sigmoid(x[i])


@compiled
def erfs(x: Any, y: Any) -> None:
    for i in range(x.size):
        y[i] = erf(x[i])


@compiled
def largest(x: Any) -> Any:
    top = x[0]
    for i in range(x.size):
        top = maximum(top, x[i])
    return top


LOOPS = {"exp": (exps, np.exp), "tanh": (tanhs, np.tanh), "sigmoid": (sigmoids, lambda x: 1 / (1 + np.exp(-x))),
         "erf": (erfs, np.vectorize(lambda x: math.erf(float(x))))}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LOOPS)
@given(values=st.lists(st.floats(-86, 86) | st.floats(-1e-3, 1e-3), min_size=1, max_size=40))
def test_equal_to_numpys(name: str, dtype: Any, values: list[float]) -> None:
    loop, reference = LOOPS[name]
    x = np.array(values, dtype)
    y, expected = np.empty_like(x), reference(x.astype(np.longdouble))
    loop(x, y)
    of_one = 1 if name == "sigmoid" else 0  # the precision of its small values
    finfo = np.finfo(dtype)
    assert (abs(y - expected) <= 8 * finfo.eps * np.maximum(abs(expected), of_one) + finfo.tiny).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ends_of_the_numbers(dtype: Any) -> None:
    x = np.array([math.nan, math.inf, -math.inf, 1e4, -1e4, 0, -0.0], dtype)
    for name, expected in {"exp": [math.nan, math.inf, 0, math.inf, 0, 1, 1], "tanh": [math.nan, 1, -1, 1, -1, 0, 0],
                           "sigmoid": [math.nan, 1, 0, 1, 0, 0.5, 0.5], "erf": [math.nan, 1, -1, 1, -1, 0, 0]}.items():
        y = np.empty_like(x)
        LOOPS[name][0](x, y)
        assert np.array_equal(y, np.array(expected, dtype), equal_nan=True), name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_of_many(dtype: Any) -> None:
    x = np.random.default_rng(0).standard_normal(99).astype(dtype)
    assert largest(x) == x.max() and largest(np.full_like(x, -math.inf)) == -math.inf
    x[37] = math.nan
    assert np.isnan(largest(x))


@given(st.lists(st.floats(0, allow_infinity=False) | st.floats(0.5, 2), min_size=1, max_size=40))
def test_logarithms(values: list[float]) -> None:
    x = np.array([*values, 0, -0.0, math.inf, math.nan, -1, -math.inf])
    y = np.empty_like(x)
    logs(x, y)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = np.log(x.astype(np.longdouble))
    finite = np.isfinite(expected)
    assert np.array_equal(y[~finite], expected[~finite].astype(float), equal_nan=True)
    assert (abs(y[finite] - expected[finite]) <= 2 * np.finfo(float).eps * abs(expected[finite])).all()
