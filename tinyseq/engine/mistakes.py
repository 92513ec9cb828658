"""What is said to those who write an op, where its body or its pull-back is not what an op's is."""

from __future__ import annotations

from types import ModuleType
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
                             "its Tensors, by operators and ts.namespace(x), without functions of ts and ts.nn: "
                             "ts.namespace(x).exp(x), not ts.exp(x)")
        if type(y) not in backends.arrays and not isinstance(y, np.generic):
            return TypeError(f"{name}: the body of an op must return an array or a tuple of arrays, got {describe(y)}: "
                             "ts.namespace(x).asarray makes an array of numbers")
    return error


def of_body(slots: list[Any], error: Exception) -> Exception:
    """The error of a body, or what explains it: that its arguments live on different backends, or that they are no
    Tensors."""
    if isinstance(error, AttributeError) and isinstance(error.obj, ModuleType):
        return TypeError(f"{error}: ts.namespace(x) has the functions of the Array API standard; write it with "
                         "these, as maximum(x, 0) for relu")
    if isinstance(error, AttributeError) and type(error.obj) in backends.arrays:
        return TypeError(f"{error}: a body works on the arrays in its Tensors, by operators and the functions of "
                         "ts.namespace(x)")
    places = sorted({backends.of(a).name for a in slots if type(a) in backends.arrays})
    if len(places) > 1 and (isinstance(error, TypeError) or "numpy.ndarray" in str(error)):
        return TypeError(f'its arguments live on different backends, {" and ".join(places)}: use .to("{places[0]}")')
    return error


def of_replay(node: Node, error: Exception) -> Exception:
    """The error of a body that was run once more, on Tensors."""
    return TypeError(f"the body of {name_of(node)} runs on Tensors for gradients of gradients: {error}; one that calls "
                     "a kernel or writes into arrays names the function that it equals, @ts.op(definition=...)")


def too_many(body: Any, pulls: tuple[Any, ...]) -> bool:
    """Whether an op has more pull-backs than its body takes arguments; those that were left out have theirs."""
    code = getattr(body, "__code__", None)
    return code is not None and not code.co_flags & 4 and len(pulls) > code.co_argcount  # 4: *args


def of_count(name: str, pulls: int, slots: int) -> Exception:
    """The error of an op with other pull-backs, in a tuple, than arguments."""
    if pulls > slots:
        return TypeError(f"{name}: {pulls} pull-backs for {slots} arguments: return one for each, or None")
    return TypeError(f"{name}: a Tensor has no pull-back of its own ({pulls} for {slots} slots): it is in a list where "
                     "one Tensor is expected (ts.stack them), or the op lacks a pull-back")


def of_shape(node: Node, given: tuple[int, ...], wanted: tuple[int, ...]) -> Exception:
    """The error of a gradient of another shape than its argument."""
    return RuntimeError(f"a pull-back of {name_of(node)} returned shape {given} for an argument of {wanted}: expected "
                        "its shape, or one that it was broadcast to" + callable(node.pulls) * (
                            "; a pull-back that stands alone, not in a tuple, returns a list with a gradient for each "
                            "argument"))


def of_pull(node: Node, error: Exception) -> Exception:
    """The error of a pull-back, which names the op that it belongs to."""
    kind, text, ours = type(error), str(error), error.__traceback__ and error.__traceback__.tb_next is None
    if isinstance(error, AttributeError):
        kind = TypeError
        if ours:
            text = f"expected an array of its argument's shape, got {describe(error.obj)}"
        elif text.startswith("'Tensor' object"):
            return of_replay(node, error)
    elif ours and text.endswith("has no len()"):
        text = f"expected a list with a gradient, or None, for each argument: {text}"
    elif ours and text.endswith("were given"):  # to the call itself
        text += ": one that stands alone takes (g, needs), one of g alone stands in a tuple, `return y, (pull,)`"
    return (kind if kind in (TypeError, IndexError) else ValueError)(f"a pull-back of {name_of(node)}: {text}")
