"""Changes that an interrupt does not tear.

Python calls the handlers of signals in the main thread, between two of its steps, and Ctrl-C's raises KeyboardInterrupt
there: after any line of an update. (A handler that C code has put behind Python's back is not known here, and a
debugger's tracer that raises is no signal: neither waits.) Two ways to be whole all the same:

    with uninterrupted():                                            # what takes many steps: the handlers wait
        ...
    together((tensor, "_data", new), (tensor, "node", node))         # a few attributes, in one step
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` wraps these to return enums: 10 us an update, not 1
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import starmap
from typing import Any

# those by which programs are ended, timed or told to save
SIGNALS = [getattr(_signal, f"SIG{name}") for name in ("INT", "BREAK", "TERM", "HUP", "QUIT", "ALRM", "VTALRM", "PROF",
                                                       "USR1", "USR2", "XCPU") if hasattr(_signal, f"SIG{name}")]


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let the Python handlers of signals that come during the block run at its end; then they may raise.

    In other threads than the main one no handler runs, and there is nothing to hold back.
    """
    before: dict[int, Callable[..., Any]] = {}
    waiting: list[Callable[[], Any]] = []
    holding = True

    def hold(number: int, frame: Any) -> None:
        call = partial(before[number], number, frame)
        waiting.append(call) if holding else call()

    try:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = _signal.getsignal(number)
                if callable(handler):  # not the system's default
                    before[number] = handler  # first, for what is put back is what is there, or was
                    _signal.signal(number, hold)
        yield
    finally:
        try:
            deque(map(_signal.signal, before, before.values()), 0)
        finally:
            holding = False  # should a handler that is back have raised already, the others pass on what comes
            _call(waiting)


def _call(waiting: list[Callable[[], Any]]) -> None:
    """Call all; of several that raise the last is seen, the others as its context."""
    if waiting:
        try:
            waiting.pop(0)()
        finally:
            _call(waiting)


def together(*changes: tuple[Any, str, Any]) -> None:
    """Set attributes, (object, name, value) each, all or none: a map over `setattr` is one step of Python's."""
    deque(starmap(setattr, changes), 0)
