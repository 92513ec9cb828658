"""The checks that users can use find what is wrong."""

from typing import Any

import numpy as np
import pytest
from helpers.tensors import leaf

import tinyseq as ts
from tinyseq import nn
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


def test_a_definition_that_is_another_function_is_found() -> None:
    for definition, said in ((lambda x: x**3, "definition gives something else"),
                             (lambda x: x * x + 1, "definition gives something else")):
        square = ts.op(definition=definition)(lambda x: (x * x, (lambda g: 2 * g * x,)))
        check_grad(square, leaf(3.0))
        with pytest.raises(AssertionError, match=said):
            check_grad(square, leaf(3.0), order=2)
        with pytest.raises(AssertionError, match="with create_graph, of an op by its definition, is another: at 0 got"):
            check_grad(lambda x, square=square: ts.exp(square(x)), leaf(3.0), order=2)


def test_check_grad_checks_something() -> None:
    x = ts.random.normal((2, 3))

    @ts.op
    def scaled(x: Any, w: Any) -> Any:
        return x * w, (lambda g: g * w, lambda g: 3 * g * x)

    class Scale(nn.Module):
        def __init__(self) -> None:
            self.parts = [nn.Parameter(ts.ones(3))]

        def forward(self, x: Any) -> Any:
            return scaled(x, self.parts[0])

    layer = Scale()
    with pytest.raises(AssertionError, match=r"Scale: wrong (?s:.*)input 0.*\n  parts.0, float64\[3\].*<- differs"):
        check_grad(layer, x)
    for fn in (lambda *_: layer(x), lambda *_: ts.ones(3)):
        with pytest.raises(AssertionError, match="no output depends on input 0: there is nothing to check"):
            check_grad(fn, x)
    for right in (nn.LSTM(3, 4, 2), nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.LayerNorm(4))):
        held = [(p.data, p.node, p.dtype) for p in right.parameters()]
        check_grad(right, x if right.__class__ is nn.Sequential else x[None], order=2)
        assert all(now is then for p, was in zip(right.parameters(), held, strict=True)
                   for now, then in zip((p.data, p.node, p.dtype), was, strict=True))


def test_check_grad_says_what_is_left_to_chance() -> None:
    for fn in (nn.Dropout(0.5), lambda x: x * ts.random.normal(())):
        with pytest.raises(AssertionError, match=r"two calls differ, by what is left to chance \(dropout: call eval"):
            check_grad(fn, ts.random.normal((9,)))


def test_check_shapes_finds_what_is_wrong() -> None:
    x = ts.ones((2, 3))
    check_shapes(ts.matmul, x, x.mT, shape=(2, 2), dtype=ts.float32, wrong=[(x, x)])
    check_shapes(ts.unstack, x, shape=[(3,), (3,)])
    for kwargs, message in (({"shape": (2, 2)}, r"shape \[\(2, 3\)\], expected \[\(2, 2\)\]"),
                            ({"shape": (2, 3), "dtype": ts.float64}, "dtype float32, expected float64"),
                            ({"shape": (2, 3), "wrong": [(x,)]}, "is illegal, and raised nothing")):
        with pytest.raises(AssertionError, match=message):
            check_shapes(ts.exp, x, **kwargs)
