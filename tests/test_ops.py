"""Every function of tensors against its NumPy twin, in values, dtypes and gradients. The table is in `rows.py`."""

import inspect
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import NUMBER, ROWS, Row, inputs

import tinyseq as ts
from tinyseq import ops
from tinyseq.testing import check_grad

TABLES = [(ops, ROWS)]  # a module of functions, and its rows
every_row = pytest.mark.parametrize("row", [r for _, rows in TABLES for r in rows], ids=lambda r: r.name)


def tensors(arrays: list[Any]) -> list[Any]:
    """On the active backend; NumPy's keep their strides and stay read-only."""
    return [ts.asarray(x) if isinstance(x, np.ndarray) else x for x in arrays]


def same(got: Any, expected: Any, tolerance: float) -> None:
    """The same shape, dtype and values, floating-point ones within `tolerance` of the largest entry."""
    assert isinstance(got, ts.Tensor)
    expected = np.asarray(expected)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    found = got.detach().numpy()
    scale = np.abs(expected[np.isfinite(expected)], dtype=np.float64).max(initial=1.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale if expected.dtype.kind == "f" else 0)


@every_row
@given(data=st.data())
def test_values_are_numpys(row: Row, data: st.DataObject) -> None:
    choose = lambda options: data.draw(st.sampled_from(options))
    shapes, kwargs = row.make(choose)
    dtypes = [choose([k for k in row.kinds if k != "bool"] if s is NUMBER else row.kinds) for s in shapes]
    arrays = inputs(row, choose, shapes, dtypes, smooth=False)
    got, expected = row.fn(*tensors(arrays), **kwargs), row.twin(*arrays, **kwargs)
    if not isinstance(expected, tuple):
        got, expected = (got,), (expected,)
    assert len(got) == len(expected)
    for y, z in zip(got, expected, strict=True):
        same(y, z, 1e-5 if "float32" in (*dtypes, str(y.dtype)) else 1e-10)


differentiable = [r for _, rows in TABLES for r in rows if "float64" in r.kinds and r.smooth is not None]


@pytest.mark.parametrize("row", differentiable, ids=lambda r: r.name)
@given(data=st.data())
def test_gradients_are_central_differences(row: Row, data: st.DataObject) -> None:
    choose = lambda options: data.draw(st.sampled_from(options))
    shapes, kwargs = row.make(choose)
    arrays = inputs(row, choose, shapes, ["float64"] * len(shapes), smooth=True)
    arguments = tensors(arrays)
    if row.smooth:
        def fn(*xs: Any) -> Any:
            return row.fn(*xs, **kwargs)

        fn.__name__ = row.name
        check_grad(fn, *arguments, order=2)
        with ts.debug():  # in float32 nothing widens on the way back
            leaves = [ts.tensor(x, np.float32, requires_grad=True) if isinstance(x, np.ndarray) else x for x in arrays]
            if kwargs.get("dtype") != "float64":
                y = row.fn(*leaves, **kwargs)
                for part in y if isinstance(y, tuple) else [y]:
                    if part.requires_grad:
                        part.backward(ts.ones_like(part), retain_graph=True)
    elif row.smooth is False:
        for x in arguments:
            if isinstance(x, ts.Tensor):
                x.requires_grad = True
        y = row.fn(*arguments, **kwargs)
        assert not any(part.requires_grad for part in (y if isinstance(y, tuple) else [y]))


@pytest.mark.parametrize("row", [r for r in ROWS if r.wrong], ids=lambda r: r.name)
def test_wrong_arguments_are_named(row: Row) -> None:
    for given_ in row.wrong:
        *args, kwargs = given_ if isinstance(given_[-1], dict) else (*given_, {})
        args = [ts.tensor(x) if isinstance(x, np.ndarray) else x for x in args]
        with pytest.raises((TypeError, ValueError, IndexError)) as error:
            row.fn(*args, **kwargs)
        message = str(error.value)
        assert re.match(r"[a-z]\w+[(:]", message), message  # the op, or the one that it calls
        for x in args:
            if isinstance(x, ts.Tensor):
                shape = ", ".join(map(str, x.shape))
                assert f"[{shape}]" in message or f"({shape})" in message or f"({shape},)" in message, message


def test_every_public_function_has_a_row() -> None:
    for module, rows in TABLES:
        public = {name for name, f in vars(module).items() if inspect.isfunction(f) and not name.startswith("_")
                  and f.__module__ in ("tinyseq.ops", "tinyseq.contract")}
        internal = {"raw", "times", "times_over_rows", "check_ids"}  # for kernels, on arrays
        assert public - internal == {row.name for row in rows}


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_a_power_by_an_array_without_axes_has_the_wider_dtype(exponent: float) -> None:
    assert (ts.ones((2, 3)) ** ts.tensor(np.array(exponent), dtype=np.float64)).dtype == np.float64
