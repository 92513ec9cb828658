"""The checks that users can use find what is wrong."""

from typing import Any

import numpy as np
import pytest
from helpers.tensors import leaf

import tinyseq as ts
from tinyseq.engine.tensor import Tensor, namespace
from tinyseq.testing import check_grad, check_shapes


def test_check_grad_finds_what_is_wrong() -> None:
    @ts.op
    def wrong(a: Any, b: Any) -> Any:
        return a * b, (lambda g: g * b, lambda g: g * a * 1.0001)

    with pytest.raises(AssertionError, match=r"(?s)wrong: .*input 1, float64\[2\], alone: .*differs"):
        check_grad(wrong, leaf(1.0, 2.0), leaf(3.0, 4.0))

    @ts.op
    def first_order_only(x: Any) -> Any:
        raw = x.data if isinstance(x, Tensor) else x
        return namespace(x).exp(x), (lambda g: g * np.exp(raw),)

    check_grad(first_order_only, leaf(1.0, 2.0))
    with pytest.raises(AssertionError, match="gradient of first_order_only"):
        check_grad(first_order_only, leaf(1.0, 2.0), order=2)
    with pytest.raises(AssertionError, match="differs"):  # a gradient that is lost
        check_grad(lambda x: ts.exp(x.detach()), leaf(1.0))
    with pytest.raises(ValueError, match="floating-point"):
        check_grad(ts.exp, ts.tensor([1]))
    for fn in (Tensor.item, lambda x: [np.exp(x.detach().numpy())]):
        with pytest.raises(AssertionError, match="expected a Tensor or tuples of them"):
            check_grad(fn, leaf(1.0))


def test_check_shapes_finds_what_is_wrong() -> None:
    x = ts.ones((2, 3))
    check_shapes(ts.matmul, x, x.mT, shape=(2, 2), dtype=ts.float32, wrong=[(x, x)])
    check_shapes(ts.unstack, x, shape=[(3,), (3,)])
    for kwargs, message in (({"shape": (2, 2)}, r"shape \[\(2, 3\)\], expected \[\(2, 2\)\]"),
                            ({"shape": (2, 3), "dtype": ts.float64}, "dtype float32, expected float64"),
                            ({"shape": (2, 3), "wrong": [(x,)]}, "is illegal, and raised nothing")):
        with pytest.raises(AssertionError, match=message):
            check_shapes(ts.exp, x, **kwargs)
