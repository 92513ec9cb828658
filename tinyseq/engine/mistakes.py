"""What is said to those who write an op, where its body or its pull-back is not what an op's is."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyseq import backends
from tinyseq.check import describe
from tinyseq.engine.graph import Node, name_of
from tinyseq.engine.tensor import Tensor


def of_output(name: str, out: Any, error: Exception) -> Exception:
    """The error where a body returned something else than arrays, or the `error` itself."""
    for y in out if type(out) is tuple else (out,):
        if isinstance(y, Tensor):
            return TypeError(f"{name}: the body of an op must return arrays, got a Tensor: it works on the arrays in "
                             f"its Tensors, by operators and ts.namespace(x), as ts.namespace(x).tanh(x) for ts.tanh")
        if type(y) not in backends.arrays and not isinstance(y, np.generic):
            return TypeError(f"{name}: the body of an op must return an array or a tuple of arrays, got {describe(y)}: "
                             "ts.namespace(x).asarray makes an array of numbers")
    return error


def of_body(slots: list[Any], error: Exception) -> Exception:
    """The error of a body, or what explains it: that its arguments live on different backends, or that they are no
    Tensors."""
    if isinstance(error, AttributeError) and type(error.obj) in backends.arrays:
        return TypeError(f"{error}: a body works on the arrays in its Tensors, by operators and the functions of "
                         "ts.namespace(x)")
    places = sorted({backends.of(a).name for a in slots if type(a) in backends.arrays})
    if len(places) > 1 and (isinstance(error, TypeError) or "numpy.ndarray" in str(error)):
        return TypeError(f'its arguments live on different backends, {" and ".join(places)}: use .to("{places[0]}")')
    return error


def of_pull(node: Node, error: Exception) -> Exception:
    """The error of a pull-back, which names the op that it belongs to."""
    kind, text, ours = type(error), str(error), error.__traceback__ and error.__traceback__.tb_next is None
    if isinstance(error, AttributeError):
        kind = TypeError
        if ours:
            text = f"expected an array of its argument's shape, got {describe(error.obj)}"
    elif ours and text.endswith("were given"):  # to the call itself
        text += ": one that stands alone takes (g, needs), one of g alone stands in a tuple, `return y, (pull,)`"
    return (kind if kind in (TypeError, IndexError) else ValueError)(f"a pull-back of {name_of(node)}: {text}")
