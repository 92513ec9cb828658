"""A thread that makes the next items while the loop computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from threading import Condition, Thread, current_thread
from typing import Any

import numpy as np

from tinyseq import backends
from tinyseq.data.stages import END, Mark, Stage, Through
from tinyseq.engine import graph
from tinyseq.engine.tensor import Tensor


class Prefetch(Through):
    """It stands where the item is that was given last: what the thread has made since is made again after a resume."""

    place: Mark

    def __init__(self, feed: Stage, count: int, put: Callable[[Any], Any] | None) -> None:
        super().__init__(feed)
        self.count, self.put = count, put

    def next(self) -> Any:
        if self.running is None:
            feed, put, name, modes = self.feeds[0], self.put, backends.active().name, graph.modes.get()

            def make() -> tuple[Any, Mark]:
                graph.modes.set(modes)
                with backends.use_backend(name):    # a thread has its own of both
                    item = feed.next()
                    return item if put is None else uploaded(item, put), feed.mark()

            self.running = Worker(make, self.count)
        item, self.place = self.running.take()
        if item is END:
            self.close()        # so as not to begin an epoch that nobody asked for
        return item

    def mark(self) -> Mark:
        return self.place

    def seek(self, mark: Mark) -> None:
        self.close()
        super().seek(mark)
        self.place = super().mark()

    def rest(self) -> None:
        if self.running is not None:
            self.seek(self.place)
        super().rest()


class Worker:
    """Calls a function in a thread, at most `count` results ahead, until it gives END or raises."""

    def __init__(self, make: Callable[[], tuple[Any, Mark]], count: int) -> None:
        self.make, self.count = make, count
        self.made: deque[tuple[Any, Mark, BaseException | None]] = deque()
        self.changed, self.stopped = Condition(), False
        self.thread = Thread(target=self.work, name="tinyseq-prefetch", daemon=True)
        self.thread.start()

    def work(self) -> None:
        more = True
        while more:
            try:
                made: tuple[Any, Mark, BaseException | None] = (*self.make(), None)
            except BaseException as error:  # the loop is told, whatever it is
                made = (END, None, error)
            more = made[0] is not END
            with self.changed:
                self.changed.wait_for(lambda: len(self.made) < self.count or self.stopped)
                self.made.append(made)
                self.changed.notify_all()
                more = more and not self.stopped

    def take(self) -> tuple[Any, Mark]:
        """The next result, or the error of the thread."""
        with self.changed:
            self.changed.wait_for(lambda: self.made)
            item, mark, error = self.made.popleft()
            self.changed.notify_all()
        if error is not None:
            raise error
        return item, mark

    def close(self) -> None:
        """Return when the thread has ended."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()
        if self.thread is not current_thread():     # where the garbage collector runs in it
            self.thread.join()


def uploaded(item: Any, put: Callable[[Any], Any]) -> Any:
    """An item whose arrays are Tensors, but integers of one dimension: lengths, which layers read on the host."""
    if isinstance(item, np.ndarray):
        stays = item.dtype.kind not in "biuf" or (item.ndim < 2 and item.dtype.kind in "iu")
        return item if stays else Tensor(put(item))
    if isinstance(item, Mapping):
        return {key: uploaded(value, put) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        inside = [uploaded(value, put) for value in item]
        return type(item)(*inside) if hasattr(item, "_fields") else type(item)(inside)
    return item
