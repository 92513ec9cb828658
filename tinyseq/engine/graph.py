"""The graph that gradients walk back through: its nodes, and whether what is computed is recorded in it."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from tinyseq.scope import Scope


class Node:
    """One application of an op in the graph: how a gradient passes back through it."""

    __slots__ = ("op", "serial", "parents", "args", "kwargs", "pulls", "shape", "dtype", "index")

    op: Any  # its name, body and definition; None for a leaf and for one output of several
    serial: int  # a node is younger than its parents
    # One entry a slot, None where no gradient goes. A slot is a Tensor or other argument, or an entry of a list of
    # Tensors: see `@op` in autograd.py.
    parents: Sequence[Node | None]
    args: Sequence[Any] | None  # the raw arguments with None in place of each parent's value; None if all have parents
    kwargs: dict[str, Any]
    pulls: Any  # a tuple of pull-backs or one joint pull-back; None once the graph is freed
    shape: Any  # of the output; of an op with several outputs, a list
    dtype: Any  # likewise
    index: int | None  # which output of its only parent this node is, if that op has several


class Leaf(Node):
    """Where a gradient ends up: a Tensor that was made with `requires_grad`."""

    __slots__ = ("tensor", "data", "written")

    def __init__(self, tensor: Any, data: Any) -> None:
        self.op, self.serial, self.parents, self.index = None, next(serials), (), None
        self.shape, self.dtype = data.shape, data.dtype
        self.tensor, self.data, self.written = weakref.ref(tensor), data, 0  # the serial of the last write


serials = itertools.count()


def name_of(node: Node | None) -> str:
    """What to call the op that made a node, one output of several included."""
    if node is None or isinstance(node, Leaf):
        return ""
    op = node.op if node.index is None else node.parents[0].op  # type: ignore[union-attr]
    return op.__name__.lstrip("_")  # type: ignore[no-any-return]


# What each thread and each asyncio task decides for itself: the last one counts.
modes: ContextVar[tuple[no_grad, ...]] = ContextVar("modes", default=())


def grad_enabled() -> bool:
    """True where this thread or asyncio task records gradients."""
    stack = modes.get()
    return not stack or stack[-1].enabled


class no_grad(Scope):
    """Record nothing in this thread or asyncio task: as `with ts.no_grad():` or as a decorator, `@ts.no_grad()`.

    What a decorated generator or asynchronous function hands out or waits for runs in the mode that its caller has.

    >>> x = ts.tensor(2.0, requires_grad=True)
    >>> with ts.no_grad():
    ...     x * x
    tensor(4.)
    >>> (x * x).requires_grad
    True
    """

    stack, enabled = modes, False


class enable_grad(no_grad):
    """Record again, inside `no_grad`: as a `with` block or a decorator.

    >>> x = ts.tensor(2.0, requires_grad=True)
    >>> with ts.no_grad(), ts.enable_grad():
    ...     (x * x).requires_grad
    True
    """

    enabled = True
