"""Mistakes in an op of one's own: each is told with the op's name and what to write."""

from typing import Any

import numpy as np
import pytest
from helpers.tensors import named

import tinyseq as ts

MISTAKES = {  # the body of an op called "mine", of x (2, 3): what its error says
    "a gradient of another shape": (lambda x: (x * 2, (lambda g: g[:, :2],)),
                                    r"returned shape \(2, 2\) for .* \(2, 3\)"),
    "no gradient": (lambda x: (x * 2, (lambda g: None,)), "expected an array of its argument's shape, got None"),
    "a number as a gradient": (lambda x: (x * 2, (lambda g: 2.0,)), "expected an array of .*, got 2.0"),
    "a list as a gradient": (lambda x: (x * 2, (lambda g: [[1.0]],)), r"expected an array of .*, got \[\[1.0\]\]"),
    "too few gradients": (lambda x: (x * 2, lambda g, needs: []), "each of 1 arguments, got 0"),
    "one gradient, not in a list": (lambda x: (x * 2, lambda g, needs: g), "returns a list with a gradient for each"),
    "a pull-back, not in a tuple": (lambda x: (x * 2, lambda g: g), r"stands in a tuple, `return y, \(pull,\)`"),
    "no pull-backs": (lambda x: x * 2, r"must return \(output, pull-backs\), got float32\[2, 3\]: end it with"),
    "nothing": (lambda x: None, "got None: end it with"),
    "a list": (lambda x: ([x, x], (lambda g: g,)), "an array or a tuple of arrays, got .float32"),
    "a number": (lambda x: (3.0, (lambda g: g,)), "an array or a tuple of arrays, got 3.0"),
    "a number among outputs": (lambda x: ((x, 3.0), (lambda g: g[0],)), "an array or a tuple of arrays, got 3.0"),
    "a Tensor": (lambda x: (ts.tanh(x), (lambda g: g,)), r"must return arrays, got a Tensor.*ts.namespace\(x\).exp"),
    "a Tensor, unrecorded": (lambda x: (ts.tanh(x) * x, None), r"must return arrays, got a Tensor"),
    "no list of gradients": (lambda x: (x * 2, lambda g, needs: None),
                             "expected a list with a gradient, or None, for each argument: .*NoneType"),
    "three pull-backs": (lambda x: (x * 2, (lambda g: g,) * 3), "3 pull-backs for 1 arguments: return one for each"),
    "a layer's function": (lambda x: (ts.namespace(x).relu(x), None), "no attribute 'relu': .*has the functions of"),
    "a method of Tensors": (lambda x: (x.tanh(), None), r"has no attribute 'tanh': a body works on the arrays"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_ones_own_op_is_told(mistake: str) -> None:
    body, told = MISTAKES[mistake]
    with pytest.raises((TypeError, RuntimeError), match=rf"\bmine\b.*{told}"):
        ts.op(named("mine", body))(ts.ones((2, 3), requires_grad=True)).sum().backward()


def test_numpy_in_a_body_is_told_where_it_is_wrong() -> None:
    x = ts.ones(2, requires_grad=True)
    y = ts.op(named("mine", lambda x: (np.tanh(x), (lambda g: g * (1 - np.tanh(x) ** 2),))))(x).sum()
    assert ts.grad(y, x, retain_graph=True).shape == (2,)
    with pytest.raises(TypeError, match=r"body of mine runs on Tensors.*np.tanh was called.*ts.namespace\(x\).tanh"):
        ts.grad(y, x, create_graph=True)


def test_a_kernel_without_definition_is_told_to_name_one() -> None:
    def copies(x: Any) -> Any:
        y = x.copy()
        y[1:] += x[:-1]
        return y, lambda g, needs: [g]

    pulls = lambda x: (x * 2, (lambda g: 2 * g.copy(),))
    x = ts.ones(2, requires_grad=True)
    for body in (copies, pulls):
        y = ts.op(named("mine", body))(x).sum()
        with pytest.raises(TypeError, match=r"body of mine runs on Tensors.*names the .* @ts.op\(definition=...\)"):
            ts.grad(y, x, create_graph=True)


def test_only_a_joint_pull_back_is_told_to_return_a_list() -> None:
    for pulls, joint in ((lambda g: g[:, :2],), False), (lambda g, needs: [g[:, :2]], True):
        y = ts.op(named("mine", lambda x, pulls=pulls: (x * 2, pulls)))(ts.ones((2, 3), requires_grad=True)).sum()
        with pytest.raises(RuntimeError, match="returned shape") as caught:
            y.backward()
        assert ("a list with a gradient" in str(caught.value)) is joint
