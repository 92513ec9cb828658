"""What holds inside a `with` block, for the thread or the asyncio task that entered it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, ClassVar, Self


class Scope:
    """A context manager whose entries stand on a stack that each thread and each asyncio task has of its own.

    An object holds nothing of its entries, so it may be entered twice, or in several places at once. Leaving takes away
    its own last entry, whoever entered what since: a generator that is closed late leaves no mode behind.
    """

    stack: ClassVar[ContextVar[tuple[Any, ...]]]

    def __enter__(self) -> Self:
        self.stack.set((*self.stack.get(), self))
        return self

    def __exit__(self, *exc: object) -> None:
        stack = self.stack.get()
        for i in reversed(range(len(stack))):
            if stack[i] is self:
                self.stack.set(stack[:i] + stack[i + 1 :])
                break
