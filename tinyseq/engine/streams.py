"""Streams of random numbers, which are a function of (seed, stream) alone, the same on every backend.

Philox4x64-10, NumPy's own bits (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). Each draw takes
the next stream number of a `Generator`; `manual_seed` starts again at stream 0. Parameters and normals are drawn on the
host; a dropout mask is drawn where its tensor lives, from the same raw integers.

Whose stream? That of the generator passed to the draw; else of the innermost `with generator:` around it; else the
thread's own. The main thread's begins with seed 0. Another thread's begins, when it first draws or asks for it, with a
seed made of the main thread's and of the thread's name (and of how many of that name drew before it), so that no two
draw alike, and what `manual_seed` was told in the main thread decides what threads draw that are started later. In any
thread `manual_seed` makes what is drawn there from then on the same as anywhere else.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar, copy_context
from typing import Any, ClassVar

import numpy as np

from tinyseq import check
from tinyseq.scope import Scope

_lock = threading.Lock()  # held within one line only, where no tracer can raise


class Generator(Scope):
    """A source of random numbers of its own: for one draw as `generator=`, for all in a block as `with generator:`.

    Layers draw from the block's: `with generator: y = model(x)`. The seed is an integer of up to 64 bits. Threads may
    share a generator: no two draws of it are alike. `checkpoint.save` takes its state.

    >>> g = ts.random.Generator(7)
    >>> first = ts.random.normal(3, generator=g)
    >>> g
    Generator(seed=7, stream=1)
    >>> with ts.random.Generator(7):
    ...     again = ts.random.normal(3)
    >>> bool((first == again).all())
    True
    """

    __module__ = "tinyseq.random"  # where users find it
    stack: ClassVar[ContextVar[tuple[Generator, ...]]] = ContextVar("generators", default=())

    def __init__(self, seed: int) -> None:
        self._state = check.integers("Generator", 0, 2**64 - 1, seed=seed), 0

    def __repr__(self) -> str:
        return "Generator(seed={}, stream={})".format(*self._state)

    def get_state(self) -> tuple[int, int]:
        """(seed, next stream): what `set_state` needs to draw the same numbers again.

        >>> ts.random.Generator(7).get_state()
        (7, 0)
        """
        return self._state

    def set_state(self, state: Sequence[int]) -> None:
        """Go on from what `get_state` gave. Anything but (seed, stream), integers of up to 64 bits, is a ValueError or
        TypeError.

        >>> g = ts.random.Generator(7)
        >>> g.set_state((7, 2))
        >>> g
        Generator(seed=7, stream=2)
        """
        if isinstance(state, str) or not isinstance(state, Sequence) or len(state) != 2:
            raise ValueError(f"set_state: expected state to be (seed, stream), as get_state gives them, got {state!r}")
        parts = {"seed of state": state[0], "stream of state": state[1]}
        self._state = check.integers("set_state", 0, 2**64 - 1, **parts)

    def _next(self) -> tuple[int, int]:
        with _lock: drawn = self._state; self._state = drawn[0], drawn[1] + 1  # noqa: E701, E702
        return drawn


_main = Generator(0)
_namesakes: dict[str, Iterator[int]] = {}  # of the name of each thread that has begun to draw


class _Own(threading.local):
    """Each thread's own generator."""

    def __init__(self) -> None:
        self.generator, name = _main, threading.current_thread().name
        if threading.current_thread() is not threading.main_thread():
            words = f"{_main.get_state()[0]} {next(_namesakes.setdefault(name, itertools.count()))} {name}"
            self.generator = Generator(int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "little"))


_own = _Own()


def current() -> Generator:
    """Where this thread or asyncio task draws from: the innermost `with generator:`, or the thread's own.

    >>> with ts.random.Generator(7):
    ...     ts.random.current()
    Generator(seed=7, stream=0)
    """
    return next(reversed(Generator.stack.get()), _own.generator)


def manual_seed(seed: int) -> None:
    """Make everything drawn from here on, in this thread, a function of `seed` (an integer of up to 64 bits).

    Inside `with generator:` it is that generator which begins again.

    >>> ts.manual_seed(1)
    >>> first = ts.random.normal(2)
    >>> ts.manual_seed(1)
    >>> bool((ts.random.normal(2) == first).all())
    True
    """
    set_state((check.integers("manual_seed", 0, 2**64 - 1, seed=seed), 0))


def get_state() -> tuple[int, int]:
    """(seed, next stream) of the `current` generator: what `set_state` needs to draw the same numbers again.

    >>> ts.manual_seed(1)
    >>> _ = ts.random.normal(2)
    >>> ts.random.get_state()
    (1, 1)
    """
    return current().get_state()


def set_state(state: Sequence[int]) -> None:
    """Go on, in the `current` generator, from what `get_state` gave.

    >>> state = ts.random.get_state()
    >>> first = ts.random.normal(2)
    >>> ts.random.set_state(state)
    >>> bool((ts.random.normal(2) == first).all())
    True
    """
    current().set_state(state)
    if current() is _main:
        _namesakes.clear()  # threads started from here on begin as the first ones


_again: ContextVar[Iterator[tuple[int, int]] | None] = ContextVar("again", default=None)  # what is to be drawn again


def next_stream(generator: Generator | None = None) -> tuple[int, int]:
    """(seed, stream) for one draw, of the `current` generator unless one is given."""
    if generator is not None and not isinstance(generator, Generator):
        raise TypeError(f"expected generator to be a tinyseq.random.Generator, got {generator!r}: Generator(seed)")
    again = _again.get()
    drawn = (generator or current())._next() if again is None else next(again, None)
    if drawn is None:
        raise RuntimeError("recompute: the function draws more random numbers than the first time")
    for record in recording.stack.get():
        record.draws.append(drawn)
    return drawn


class recording(Scope):
    """The draws inside a `with` block."""

    stack: ClassVar[ContextVar[tuple[recording, ...]]] = ContextVar("records", default=())

    def __init__(self) -> None:
        self.draws: list[tuple[int, int]] = []


def replaying(draws: Sequence[tuple[int, int]], fn: Callable[..., Any], *args: Any) -> Any:
    """`fn(*args)`, drawing what was recorded; no generator moves.

    It runs in a context of its own, which ends with it whatever interrupts it where.
    """

    def run() -> Any:
        again = iter(draws)
        _again.set(again)
        out = fn(*args)
        if next(again, None) is not None:
            raise RuntimeError("recompute: the function draws fewer random numbers than the first time; was the model "
                               "switched to eval() in between?")
        return out

    return copy_context().run(run)


def host_generator(generator: Generator | None = None) -> np.random.Generator:
    """A NumPy generator on the next stream, of the `current` generator unless one is given."""
    seed, stream = next_stream(generator)
    return np.random.Generator(np.random.Philox(key=seed, counter=stream << 128))
