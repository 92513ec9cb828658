"""What holds inside a block or a decorated function: for its thread, task or generator, and nobody else."""

import asyncio
import contextvars
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tinyseq.backends.numpy import NumpyBackend

import tinyseq as ts
from tinyseq import backends, random
from tinyseq.engine.autograd import watching
from tinyseq.engine.graph import grad_enabled

# Each holds inside a block, for who entered it: how to make one, and whether it holds here.
SCOPES: dict[str, tuple[Callable[[], Any], Callable[[Any], bool]]] = {
    "no_grad": (ts.no_grad, lambda scope: not grad_enabled()),
    "debug": (ts.debug, lambda scope: scope in watching.stack.get()[-1:]),
    "use_backend": (lambda: ts.use_backend("another"), lambda scope: backends.active().name == "another"),
    "generator": (lambda: random.Generator(3), lambda scope: random.current() is scope),
}


@pytest.fixture(params=SCOPES)
def scope(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What makes one of the scopes, and the question whether it holds; each test in a context of its own."""
    another = NumpyBackend()
    another.name = "another"
    monkeypatch.setitem(backends._loaded, "another", another)
    return SCOPES[request.param]


def alone(fn: Callable[[], None]) -> None:
    contextvars.copy_context().run(fn)


def test_a_scope_may_be_entered_twice_and_again(scope: Any) -> None:
    make, holds = scope

    def run() -> None:
        with make() as _:
            pass
        mode = contextvars.copy_context().run(make)
        for _ in range(2):
            with mode:
                assert holds(mode)
                with mode:
                    assert holds(mode)
                assert holds(mode)
            assert not holds(mode)

    alone(run)


def test_a_scope_is_its_asyncio_tasks_own(scope: Any) -> None:
    make, holds = scope
    mode = contextvars.copy_context().run(make)

    async def task(late: bool) -> None:
        await asyncio.sleep(0)
        with mode:
            for _ in range(2 + late):  # the one that enters first leaves last, or the other way round
                assert holds(mode)
                await asyncio.sleep(0)
        assert not holds(mode)
        await asyncio.sleep(0)
        assert not holds(mode)

    async def run() -> None:
        await asyncio.gather(task(True), task(False), task(True))
        assert not holds(mode)

    alone(lambda: asyncio.run(run()))


def test_a_generator_that_is_closed_late_leaves_no_scope_behind(scope: Any) -> None:
    make, holds = scope
    first, second = (contextvars.copy_context().run(make) for _ in range(2))

    def steps() -> Iterator[None]:
        with first:
            yield

    def run() -> None:
        generator = steps()
        next(generator)
        with second:
            generator.close()
            assert holds(second)
        assert not holds(first) and not holds(second)

    alone(run)


def test_use_backend_holds_from_here_on_or_to_the_end_of_the_block(scope: Any) -> None:
    def run() -> None:
        ts.use_backend("another")
        assert backends.active().name == "another"
        for _ in range(5):
            ts.use_backend("numpy")
            ts.use_backend("another")
        assert len(backends._chosen.get()) < 4
        with ts.use_backend("numpy") as numpy:
            assert backends.active() is numpy
            ts.use_backend("another")
            assert backends.active().name == "another"
        assert backends.active().name == "another"
        again = ts.use_backend("numpy")
        assert backends.active().name == "numpy"
        ts.use_backend("another")
        with again:
            assert backends.active().name == "numpy"
        assert backends.active().name == "another"

    alone(run)


# --- decorated functions ---------------------------------------------------------------------------------------------

ERRORS = {"throw": KeyError, "stop": OSError}
SENT = st.lists(st.sampled_from(["next", "send", "close", *ERRORS]), max_size=8)


def talking(seen: list[bool]) -> Any:
    """A generator that answers what it is sent, survives KeyErrors, and notes in which mode it runs."""
    got: Any = None
    try:
        with ts.enable_grad():
            seen.append(not grad_enabled())
            got = yield "recording"
        for i in range(5):
            seen.append(grad_enabled())
            try:
                got = yield i, got
            except KeyError as error:
                got = repr(error)
        return got
    finally:
        seen.append(grad_enabled())


def said(generator: Any, what: str) -> Any:
    try:
        if what == "next":
            return next(generator)
        if what == "close":
            return generator.close()
        return generator.send("word") if what == "send" else generator.throw(ERRORS[what]("x"))
    except BaseException as error:
        return repr(error), getattr(error, "value", None)


@given(SENT, st.booleans())
def test_no_grad_on_a_generator_holds_inside_it_only(sent: list[str], outside: bool) -> None:
    seen: list[bool] = []
    usual, elsewhere, quiet = talking([]), contextvars.copy_context(), ts.no_grad()(talking)(seen)
    with ts.enable_grad() if outside else ts.no_grad():
        for what in sent:
            assert said(quiet, what) == elsewhere.run(said, usual, what)
            assert grad_enabled() is outside
        quiet.close()
        assert grad_enabled() is outside
    assert grad_enabled() and not any(seen)
    assert inspect.isgeneratorfunction(ts.no_grad()(talking))


async def answers(seen: list[bool]) -> Any:
    """`talking`, as an asynchronous generator."""
    generator = talking(seen)
    step: Any = lambda: next(generator)
    try:
        while True:
            await asyncio.sleep(0)
            try:
                out = step()
            except StopIteration:
                return
            try:
                got = yield out
                step = lambda got=got: generator.send(got)
            except Exception as error:
                step = lambda error=error: generator.throw(error)
    finally:
        await asyncio.sleep(0)
        generator.close()


async def awaited(generator: Any, what: str) -> Any:
    try:
        if what in ("next", "send"):
            return await generator.asend(None if what == "next" else "word")
        return await (generator.aclose() if what == "close" else generator.athrow(ERRORS[what]("x")))
    except BaseException as error:
        return repr(error)


@given(SENT)
def test_no_grad_on_asynchronous_functions_holds_inside_them_only(sent: list[str]) -> None:
    @ts.no_grad()
    async def quiet(n: int) -> int:
        for _ in range(n):
            assert not grad_enabled()
            await asyncio.sleep(0)
        return n

    async def run() -> None:
        seen: list[bool] = []
        usual, generator = answers([]), ts.no_grad()(answers)(seen)
        for what in sent:
            assert await awaited(generator, what) == await awaited(usual, what)
            assert grad_enabled()
            assert await quiet(2) == 2
            assert grad_enabled()
        await generator.aclose()
        assert not any(seen)

    asyncio.run(run())
    assert inspect.iscoroutinefunction(quiet) and inspect.isasyncgenfunction(ts.no_grad()(answers))
    first, second = quiet(2), quiet(2)  # by hand, in one context, where no task keeps them apart
    for coroutine in (first, second, first, second):
        coroutine.send(None)
        assert grad_enabled()
    for coroutine in (first, second):
        with pytest.raises(StopIteration):
            coroutine.send(None)
