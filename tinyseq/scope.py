"""What holds inside a `with` block or a decorated function, for the thread or the asyncio task that entered it."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Generator
from contextvars import ContextVar
from typing import Any, ClassVar, ParamSpec, Self, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")


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
        for i in range(len(stack) - 1, -1, -1):
            if stack[i] is self:
                self.stack.set(stack[:i] + stack[i + 1 :])
                break

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        """As a decorator: the body runs inside, what it yields or awaits in between does not."""
        body = cast(Any, fn)

        def plain(*args: Any, **kwargs: Any) -> Any:
            with self:
                return body(*args, **kwargs)

        def generator(*args: Any, **kwargs: Any) -> Any:
            return (yield from _steps(body(*args, **kwargs), self.stack, [(self,)]))

        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            return await _steps(body(*args, **kwargs), self.stack, [(self,)])

        async def async_generator(*args: Any, **kwargs: Any) -> Any:
            inner, own = body(*args, **kwargs), [(self,)]
            step = inner.asend(None)
            while True:
                try:
                    out = await _steps(step, self.stack, own)
                except StopAsyncIteration:
                    return
                try:
                    step = inner.asend((yield out))
                except BaseException as error:
                    step = inner.athrow(error)

        kinds = {inspect.isgeneratorfunction: generator, inspect.iscoroutinefunction: coroutine,
                 inspect.isasyncgenfunction: async_generator}
        wrapped = next((kind for is_kind, kind in kinds.items() if is_kind(body)), plain)
        return cast(Callable[P, R], functools.wraps(fn)(wrapped))


@types.coroutine
def _steps(inner: Any, stack: ContextVar[tuple[Any, ...]], own: list[tuple[Any, ...]]) -> Generator[Any, Any, Any]:
    """Run a generator or a coroutine step by step on a stack of its own, the one entry of `own`."""
    resume, sent = inner.send, None
    while True:
        callers = stack.get()
        stack.set(own[0])
        try:
            out = resume(sent)
        except StopIteration as stop:
            return stop.value
        finally:
            own[0], sent = stack.get(), None  # an error kept here would hold this frame, which holds it
            stack.set(callers)
        try:
            resume, sent = inner.send, (yield out)
        except BaseException as error:  # GeneratorExit too
            resume, sent = inner.throw, error
