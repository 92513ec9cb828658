"""Beside array-api-strict, which has the Array API standard and nothing else: what it takes, tinyseq takes, with the
same dtypes, shapes and values. Names and arguments that are left out stand in tests/engine/test_standard.py."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts

pytestmark = [pytest.mark.reference, pytest.mark.filterwarnings("ignore")]

DTYPES = "float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool".split()
SHAPES = [(), (0,), (4,), (2, 3), (3, 0), (2, 1, 3)]
ONE = """abs acos acosh asin asinh atan atanh bitwise_invert ceil cos cosh exp expm1 floor isfinite isinf isnan log
log1p log2 log10 logical_not negative positive reciprocal round sign signbit sin sinh square sqrt tan tanh trunc nonzero
matrix_transpose tril triu unique_counts unique_inverse unique_values zeros_like ones_like flip squeeze""".split()
TWO = """add atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor copysign divide equal
floor_divide greater greater_equal hypot less less_equal logaddexp logical_and logical_or logical_xor maximum minimum
multiply nextafter not_equal pow remainder subtract matmul vecdot result_type""".split()
BOTH: dict[str, Sequence[Any]] = {"axis": [None, 0, -1], "keepdims": [False, True]}
RUNNING: dict[str, Sequence[Any]] = {"axis": [0, -1], "dtype": [None, "float64", "int32"],
                                     "include_initial": [False, True]}
MORE: dict[str, dict[str, Sequence[Any]]] = {
    **dict.fromkeys(["all", "any", "max", "min", "mean", "argmax", "argmin", "count_nonzero"], BOTH),
    **dict.fromkeys(["sum", "prod"], BOTH | {"dtype": [None, "float64", "int32", "uint8"]}),
    **dict.fromkeys(["std", "var"], BOTH | {"correction": [0, 1.0]}),
    **dict.fromkeys(["cumulative_sum", "cumulative_prod"], RUNNING),
    "diff": {"axis": [0, -1], "n": [0, 1, 2]}, "roll": {"shift": [1, -2], "axis": [None, 0]},
    "sort": {"axis": [0, -1], "descending": [False, True], "stable": [False, True]},
    "argsort": {"axis": [0, -1], "descending": [False, True]}, "repeat": {"repeats": [2], "axis": [0, -1]},
    "astype": {"dtype": DTYPES, "copy": [False, True]}, "clip": {"min": [None, 1], "max": [None, 3]},
    "expand_dims": {"axis": [0, -1]}, "unstack": {"axis": [0, -1]}, "full_like": {"fill_value": [1]},
}


def array(dtype: str, shape: tuple[int, ...], seed: int) -> Any:
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return np.asarray(rng.random(shape) < 0.5)
    low = 1 if dtype[0] == "u" else -5
    return np.asarray(rng.integers(low, 6, shape) / (2 if dtype[0] == "f" else 1), dtype)


def call(library: Any, name: str, arrays: list[Any], options: dict[str, Any]) -> Any:
    """What a function gives, as NumPy's; or its error."""
    def plain(y: Any) -> Any:
        if isinstance(y, (tuple, list)):
            return [*map(plain, y)]
        return np.from_dlpack(y) if hasattr(y, "__dlpack__") else str(y).rpartition(".")[2]

    given = {key: getattr(library, v) if key == "dtype" and v else v for key, v in options.items()}
    position = [given.pop(key) for key in ("repeats", "fill_value") if key in given]
    position += [given.pop("dtype")] if name == "astype" else []
    try:
        with np.errstate(all="ignore"):
            return plain(getattr(library, name)(*[library.asarray(a) for a in arrays], *position, **given))
    except Exception as error:
        return error


def compare(name: str, arrays: list[Any], options: dict[str, Any]) -> None:
    strict = pytest.importorskip("array_api_strict")
    expected = call(strict, name, arrays, options)
    if isinstance(expected, Exception):  # not in the standard
        return
    found = call(ts, name, arrays, options)
    assert not isinstance(found, Exception), (name, arrays, options, found)
    pairs = zip(found, expected, strict=True) if isinstance(expected, list) else [(found, expected)]
    for y, z in pairs:
        assert type(y) is type(z) and (isinstance(y, str) or (y.dtype, y.shape) == (z.dtype, z.shape)), (name, y, z)
        np.testing.assert_array_equal(y, z) if isinstance(y, str) or y.dtype.kind != "f" else (
            np.testing.assert_allclose(y, z, rtol=1e-5 if y.dtype.itemsize < 8 else 1e-12, atol=1e-6))


@pytest.mark.parametrize("name", [*ONE, *MORE])
@given(data=st.data())
def test_a_function_of_an_array_is_the_standards(name: str, data: st.DataObject) -> None:
    choose: Callable[[Sequence[Any]], Any] = lambda options: data.draw(st.sampled_from(options))
    options, shape = {key: choose(values) for key, values in MORE.get(name, {}).items()}, choose(SHAPES)
    if options.get("axis") is not None and name != "expand_dims":  # of a number NumPy alone takes one
        shape = shape or (4,)
    if not options.get("correction") or min(shape, default=0) > 1:
        compare(name, [array(choose(DTYPES), shape, data.draw(st.integers(0, 99)))], options)


@pytest.mark.parametrize("name", [*TWO, "where", "searchsorted", "tensordot", "can_cast"])
@given(data=st.data())
def test_a_function_of_several_arrays_is_the_standards(name: str, data: st.DataObject) -> None:
    choose: Callable[[Sequence[Any]], Any] = lambda options: data.draw(st.sampled_from(options))
    one, two, seed = choose(DTYPES), choose(DTYPES), data.draw(st.integers(0, 99))
    shapes = [(2, 3), (3, 4)] if name in ("matmul", "tensordot") else [(4,), (4,)]
    a, b = (array(dtype, shape, seed + i) for i, (dtype, shape) in enumerate(zip((one, two), shapes, strict=True)))
    if name in ("floor_divide", "remainder", "pow", "bitwise_left_shift", "bitwise_right_shift") and two != "bool":
        b = np.asarray(np.abs(b) + 1, two)
    first = {"where": [array("bool", (4,), seed)]}.get(name, [])
    if name == "can_cast":  # of other kinds the standard says nothing
        b = a if a.dtype.kind != b.dtype.kind else b
        strict = pytest.importorskip("array_api_strict")
        kinds = [(getattr(library, str(a.dtype)), getattr(library, str(b.dtype))) for library in (ts, strict)]
        assert ts.can_cast(*kinds[0]) == strict.can_cast(*kinds[1])
        return
    a = np.sort(a) if name == "searchsorted" else a
    compare(name, [*first, a, b], {"axes": 1} if name == "tensordot" else {})


def test_every_function_of_the_standard_is_compared() -> None:
    strict = pytest.importorskip("array_api_strict")
    there = {name for name in strict.__all__ if inspect.isfunction(getattr(strict, name)) and hasattr(ts, name)
             and name[0] != "_"}
    elsewhere = """arange asarray broadcast_arrays broadcast_to concat empty empty_like eye finfo from_dlpack full iinfo
        isdtype linspace meshgrid moveaxis ones permute_dims reshape stack take take_along_axis tile unique_all
        zeros""".split()  # where dtypes are the input's, or said
    assert not there - {*ONE, *TWO, *MORE, "where", "searchsorted", "tensordot", "can_cast", *elsewhere}
