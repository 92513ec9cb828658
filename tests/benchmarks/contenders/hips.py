"""HIPS autograd: NumPy's functions with gradients."""

from collections.abc import Callable
from typing import Any

import autograd
import autograd.numpy as anp

from contenders import plain


def gradients(loss: Callable[..., Any], x: Any, w: Any) -> Callable[[], Any]:
    of = autograd.grad(lambda both: loss(*both))

    def call() -> Any:
        of_x, of_w = of((x, w))
        return [of_x, *(of_w[name] for name in w)]

    return call


def scan(step: Callable[..., Any], state: Any, xs: Any) -> Any:
    states = []
    for x in xs:
        state = step(state, x)
        states.append(state[0])
    return anp.array(states)


def _softmax(x: Any) -> Any:
    e = anp.exp(x - anp.max(x, axis=-1, keepdims=True))
    return e / anp.sum(e, axis=-1, keepdims=True)


def recurrent(*arguments: Any) -> Callable[[], Any]:
    return gradients(*plain.recurrent(anp, scan, *arguments))


def transformer(*arguments: Any) -> Callable[[], Any]:
    return gradients(*plain.transformer(anp, _softmax, *arguments))
