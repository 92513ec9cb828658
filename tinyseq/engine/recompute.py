"""Memory for time: forget what a function computed, and compute it again when its gradient is asked for."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from tinyseq.check import describe
from tinyseq.engine import streams
from tinyseq.engine.autograd import attach, frozen
from tinyseq.engine.gradients import gradients_through
from tinyseq.engine.graph import Leaf, enable_grad, grad_enabled, serials
from tinyseq.engine.tensor import Tensor


def recompute(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`fn(*args, **kwargs)`, keeping nothing between its input and its output for the backward pass.

    `fn` returns a Tensor, or tuples and lists of Tensors and None, nested or not; on the way back it is run again,
    with the same random numbers. Gradients reach the arguments and every tensor that `fn` closes over, parameters
    included. It must compute the same both times. (Chen et al. 2016, "Training deep nets with
    sublinear memory cost"; elsewhere called checkpointing.)

    >>> layer, x = nn.Linear(3, 2), ts.ones((4, 3))
    >>> ts.recompute(lambda x: ts.tanh(layer(x)), x).sum().backward()
    >>> layer.weight.grad.shape
    (2, 3)
    """
    if not grad_enabled():
        return fn(*args, **kwargs)
    call = functools.partial(fn, **{name: frozen(a) for name, a in kwargs.items()})  # which closes over these
    start = next(serials)
    given = [isinstance(a, Tensor) for a in args]
    raw = [a._data if isinstance(a, Tensor) else frozen(a) for a in args]
    parents = [a.node if isinstance(a, Tensor) else None for a in args]

    def leaves() -> list[Any]:
        return [Tensor(x, p is not None) if t else x for x, t, p in zip(raw, given, parents, strict=False)]

    def again(*arguments: Any) -> Any:
        whole = [Tensor(x) if t and not isinstance(x, Tensor) else x for x, t in zip(arguments, given, strict=True)]
        found = streams.replaying(record.draws, call, *whole)
        return found if isinstance(found, Tensor) else _parts(found)

    def pull(g: Any, needs: tuple[bool, ...]) -> list[Any]:
        for node in closed_over:
            if isinstance(node, Leaf) and node.written > start:
                raise RuntimeError(f"recompute: a leaf of shape {node.shape} was written to since the forward pass")
        begun = leaves()
        with enable_grad():
            out = again(*begun)
        return gradients_through(out, g, [*(getattr(a, "node", None) for a in begun), *closed_over], needs)

    arguments = leaves()
    with enable_grad(), streams.recording() as record:
        out = call(*arguments)
    outs = _parts(out)
    seen = dict.fromkeys(y.node for y in outs if y.node is not None)
    for node in (pending := list(seen)):  # grows as it goes, up to the nodes that were there before
        new = [p for p in node.parents if p is not None and p not in seen] if node.serial > start else []
        seen.update(dict.fromkeys(new))
        pending += new
    own = {a.node for a in arguments if isinstance(a, Tensor)}  # another thread may have made leaves since the start
    closed_over = [node for node in seen if node.serial < start or (isinstance(node, Leaf) and node not in own)]
    if not closed_over and not any(parents):
        return out
    # Only the pull-back holds what `fn` holds, and it goes when the graph is freed.
    op = SimpleNamespace(__name__=getattr(fn, "__name__", "recompute"), definition=weakref.proxy(again))
    constants = [x if p is None else None for x, p in zip(raw, parents, strict=True)]
    arrays = out._data if isinstance(out, Tensor) else tuple(y._data for y in outs)
    made = attach(op, [*parents, *closed_over], constants, {}, arrays, pull)
    return _filled(out, iter([made] if isinstance(out, Tensor) else made))


def _parts(out: Any) -> tuple[Tensor, ...]:
    """The Tensors in what a function returned."""
    if isinstance(out, (tuple, list)):
        return tuple(y for part in out if part is not None for y in _parts(part))
    if not isinstance(out, Tensor):
        raise TypeError(f"recompute: expected fn to return a Tensor, or tuples and lists of them, got {describe(out)}")
    return (out,)


def _filled(out: Any, parts: Iterator[Tensor]) -> Any:
    """What a function returned, with other Tensors in it."""
    if isinstance(out, (tuple, list)):
        return getattr(out, "_make", type(out))(_filled(part, parts) for part in out)
    return out if out is None else next(parts)
