"""Threads that share the pieces of a large kernel: those of NumPy and Numba let go of the interpreter's lock.

`share(work, n, cost)` calls work(start, stop) over stretches of 0 to n, on as many threads as get_num_threads says.
The caller works too and waits for pieces that others have begun, not for threads that have not: on a busy machine it
does all itself. Calls from several threads at once, and from within a piece, are safe; a forked process begins without
any.
"""

import contextvars
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from tinyseq.backends.threads import get_num_threads

LEAST = 1 << 17  # a thread's least share, in elements that a simple kernel passes over: more time than to wake it
EACH = 4  # pieces a thread: who comes late takes fewer

Work = Callable[[int, int], Any]


class _Job:
    """Work on stretches (start, stop), which whoever has time takes one by one."""

    def __init__(self, work: Work, n: int, pieces: int) -> None:
        bounds = [n * i // pieces for i in range(pieces + 1)]
        self.work, self.left = work, deque(itertools.pairwise(bounds))
        self.helpers: list[threading.Event] = []  # each set when that thread has ended
        self.error: BaseException | None = None

    def take(self) -> None:
        """Work until no piece is left."""
        while self.left:
            try:
                piece = self.left.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                self.work(*piece)
            except BaseException as error:
                self.error = error
                self.left.clear()

    def help(self) -> None:
        """The same in a thread that the caller waits for: known before it takes a piece."""
        ended = threading.Event()
        self.helpers.append(ended)
        self.take()
        ended.set()

    def end(self) -> None:
        """Nobody begins a piece from here on, and those that were begun end."""
        self.left.clear()
        for ended in self.helpers:
            ended.wait()


_jobs: SimpleQueue[tuple[contextvars.Context, _Job]] = SimpleQueue()
_threads: list[threading.Thread] = []
_growing = threading.Lock()


def _begin_anew() -> None:
    """In a forked process, which has none of its parent's threads."""
    global _jobs, _growing
    _jobs, _growing = SimpleQueue(), threading.Lock()
    _threads.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def _serve(jobs: SimpleQueue[tuple[contextvars.Context, _Job]]) -> None:
    while True:
        context, job = jobs.get()
        context.run(job.help)
        del context, job  # and the arrays that they hold


def _grow(n: int) -> None:
    with _growing:
        while len(_threads) < n:
            thread = threading.Thread(target=_serve, args=(_jobs,), name=f"tinyseq-{len(_threads)}", daemon=True)
            thread.start()
            _threads.append(thread)


def share(work: Work, n: int, cost: int) -> None:
    """work(start, stop) for stretches that make up range(n), in any order and on several threads where `cost`, in
    elements of a simple kernel, is worth it. An error of one, or an interrupt (Ctrl-C), is raised when those that were
    begun have ended, and the others are not: no thread writes to an array any more."""
    threads = min(get_num_threads(), cost // LEAST, n) if cost >= 2 * LEAST else 1
    if threads < 2:
        if n:
            work(0, n)
        return
    job = _Job(work, n, min(n, EACH * threads))
    if len(_threads) < threads - 1:
        _grow(threads - 1)
    try:
        try:
            for _ in range(threads - 1):
                _jobs.put((contextvars.copy_context(), job))  # a context each, for NumPy's errstate: no two enter one
            job.take()
        finally:
            job.end()
    finally:
        job.end()  # once more, should an interrupt have come in the midst of the other one
    if job.error is not None:
        raise job.error
