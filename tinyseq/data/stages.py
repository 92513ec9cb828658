"""The stages of a stream, each of which reads the one before it: what makes a position exact.

A stage has `next()` (an item, or END once at the end of an epoch, after which the next epoch begins), `mark()` (where
it stands: plain numbers in tuples) and `seek(mark)`. A stage that holds items back is never asked to save them: its
mark is that of the stage before it where they began, and how many were given since, so that `seek` reads them again.
A stage is read after a `seek` alone: a stream does that when it takes a copy (`fresh`) of its stages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice
from operator import index
from typing import Any

import numpy as np

from tinyseq import check

Mark = Any              # None is the start
Function = Callable[..., Any]
END: Any = type("END", (), {})()


class Stage:
    """What stages share."""

    settings = ""                   # what must be the same where a position is loaded; "" if it changes nothing
    files: Sequence[Any] = ()       # that it reads itself
    start: tuple[int, ...] = ()     # `at`, where an epoch begins
    at: tuple[int, ...]             # where it stands: what its mark has before those of its feeds
    running: Any = None             # what is open: a file, an iterator or a thread; copies have their own

    def __init__(self, *feeds: Stage) -> None:
        self.feeds = feeds

    def next(self) -> Any:
        raise NotImplementedError

    def mark(self) -> Mark:
        return (*self.at, *[feed.mark() for feed in self.feeds]) if self.feeds else self.at

    def seek(self, mark: Mark) -> None:
        self.close()
        own, mark = len(self.start), (*self.start, *[None] * len(self.feeds)) if mark is None else mark
        self.at = tuple([check.integers("position", 0, number=n) for n, _ in zip(mark[:own], self.start, strict=True)])
        for feed, start in zip(self.feeds, mark[own:], strict=True):
            feed.seek(start)

    def close(self) -> None:
        if hasattr(self.running, "close"):
            self.running.close()
        self.running = None

    def rest(self) -> None:
        """Nobody reads on for now: files are closed, threads end."""
        for feed in self.feeds:
            feed.rest()

    def fresh(self) -> Stage:
        """This stage at its start, with nothing that this one holds."""
        return self.on(*(feed.fresh() for feed in self.feeds))

    def on(self, *feeds: Stage, **changed: Any) -> Stage:
        """A copy at its start, with other feeds and attributes."""
        stage = object.__new__(type(self))
        for name, value in {**vars(self), **changed, "feeds": feeds, "running": None}.items():
            setattr(stage, name, value)     # whose attributes are found faster than those of copy.copy
        stage.seek(None)
        return stage

    def part(self, number: int, parts: int) -> Stage:
        """One of several parts of each epoch, which follow one another."""
        raise ValueError(f"Stream.contiguous: an epoch of {self.settings or type(self).__name__.lower()} cannot be cut "
                         "into parts: call it on text, lines, json_lines or items, after map and filter alone")


def along(stage: Stage) -> list[Stage]:
    """All stages from the source on; of rows, which are alike, those of the first."""
    feeds = stage.feeds[:1] if isinstance(stage, Rows) else stage.feeds
    return [*(before for feed in feeds for before in along(feed)), stage]


def length(item: Any) -> int:
    """Of a sequence; of a tuple of them, the longest's. Rows of JSON, whose `len` says something else, have none."""
    first = item[0] if isinstance(item, list) and item else None
    if isinstance(item, Mapping) or isinstance(first, (list, tuple, Mapping)) or getattr(first, "ndim", 0) > 0:
        raise TypeError("a dictionary, or a list of sequences")
    return max(map(length, item), default=0) if isinstance(item, tuple) else len(item)


def measured(function: Function, item: Any) -> int:
    try:
        return index(function(item))
    except TypeError as error:
        raise TypeError("expected items with a length, sequences of symbols or tuples of such, got "
                        f"{check.describe(item)}: give length=, a function of an item") from error


class Items(Stage):
    """What is in memory, or comes from a function that begins again. It stands at the number of an item."""

    start = (0,)

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.source = source
        self.end: int | None = None if callable(source) else len(source)
        self.settings = "items(a function)" if self.end is None else f"items({self.end} of them)"

    def next(self) -> Any:
        if self.running is None:
            [first] = self.at
            self.running = islice(self.source(), first, None) if self.end is None else (
                map(self.source.__getitem__, range(first, self.end)))
        if (item := next(self.running, END)) is END:
            self.seek(None)
        else:
            self.at = (self.at[0] + 1,)
        return item

    def part(self, number: int, parts: int) -> Stage:
        if self.end is None:
            return super().part(number, parts)
        return self.on(start=(self.end * number // parts,), end=self.end * (number + 1) // parts)


class Through(Stage):
    """Stands where the stage before it does."""

    def mark(self) -> Mark:
        return self.feeds[0].mark()

    def seek(self, mark: Mark) -> None:
        self.feeds[0].seek(mark)


class Map(Through):
    settings = "map"

    def __init__(self, feed: Stage, function: Function) -> None:
        super().__init__(feed)
        self.function = function

    def next(self) -> Any:
        item = self.feeds[0].next()
        return item if item is END else self.function(item)

    def part(self, number: int, parts: int) -> Stage:
        return self.on(self.feeds[0].part(number, parts))


class Filter(Map):
    """A map that leaves out items."""

    settings = "filter"

    def next(self) -> Any:
        while (item := self.feeds[0].next()) is not END and not self.function(item):
            pass
        return item


class Shard(Through):
    """Rows of every batch: the position is that of the whole batches."""

    def __init__(self, feed: Stage, rank: int, size: int) -> None:
        super().__init__(feed)
        self.rows = slice(rank, None, size)

    def next(self) -> Any:
        batch = self.feeds[0].next()
        if batch is not END and not isinstance(batch, list):
            raise TypeError(f"Stream.shard: expected batches, lists of items, got {check.describe(batch)}: call it "
                            "right after batch or contiguous, and map(data.pad) after it")
        return batch if batch is END else batch[self.rows]


class RandomMap(Stage):
    """Each item's generator is a function of the seed, the epoch and the item's number."""

    start = (0, 0)      # epoch, number of the item

    def __init__(self, feed: Stage, function: Function, seed: tuple[int, ...]) -> None:
        super().__init__(feed)
        self.function, self.seed, self.settings = function, seed, f"map(seed={seed})"

    def next(self) -> Any:
        item, (epoch, number) = self.feeds[0].next(), self.at
        self.at = (epoch + 1, 0) if item is END else (epoch, number + 1)
        return item if item is END else self.function(item, np.random.default_rng((epoch, number, *self.seed)))


class Repeat(Stage):
    start = (0,)        # epochs done

    def __init__(self, feed: Stage, times: int | None) -> None:
        super().__init__(feed)
        self.times, self.settings = times, f"repeat({times})"

    def next(self) -> Any:
        ends = 0
        while (item := self.feeds[0].next()) is END:
            ends, [done] = ends + 1, self.at
            if done + 1 == self.times:
                self.at = self.start
                return END
            if ends > 1 and self.times is None:
                raise ValueError("Stream.repeat: the stream has no items, so there is nothing to repeat")
            self.at = (done + 1,)
        return item


class Blocks(Stage):
    """Gives the items of each block in another order. With each it reads one of the next block, so that none waits for
    a whole one."""

    start = (0, 0, 0)           # epoch, block, how many of it have been given
    left: list[Any] | None      # of this block, the next one last; None before it is read
    more: list[Any]             # of the next block
    before: Mark                # of the feed, where this block begins
    after: Mark                 # and where it ends
    ended: bool                 # whether the end of the epoch has been read

    def __init__(self, feed: Stage, buffer: int) -> None:
        super().__init__(feed)
        self.buffer = buffer

    def order(self, items: list[Any]) -> Sequence[int]:
        raise NotImplementedError

    def next(self) -> Any:
        epoch, block, given = self.at
        if self.left is None:
            self.read(self.buffer)
            items, self.more, self.after = self.more, [], self.feeds[0].mark()
            self.left = [items[i] for i in reversed(self.order(items)[given:])]
        if self.left:
            self.at = (epoch, block, given + 1)
            self.read(len(self.more) + 1)
            return self.left.pop()
        if self.ended and not self.more:
            self.seek((epoch + 1, 0, 0, self.feeds[0].mark()))
            return END
        self.at, self.before, self.left = (epoch, block + 1, 0), self.after, None
        return self.next()

    def read(self, count: int) -> None:
        while not self.ended and len(self.more) < count:
            if (item := self.feeds[0].next()) is END:
                self.ended = True
            else:
                self.more.append(item)

    def mark(self) -> Mark:
        return (*self.at, self.before)

    def seek(self, mark: Mark) -> None:
        super().seek(mark)
        self.before, self.left, self.more, self.ended = self.feeds[0].mark(), None, [], False


class Shuffle(Blocks):
    def __init__(self, feed: Stage, buffer: int, seed: tuple[int, ...]) -> None:
        super().__init__(feed, buffer)
        self.seed, self.settings = seed, f"shuffle(buffer={buffer}, seed={seed})"

    def order(self, items: list[Any]) -> Sequence[int]:
        epoch, block, _ = self.at
        order: list[int] = np.random.default_rng((epoch, block, *self.seed)).permutation(len(items)).tolist()
        return order


class Bucket(Blocks):
    """From short to long, and in every second block back, so that neighbours of two blocks are of like length too."""

    def __init__(self, feed: Stage, buffer: int, length: Function) -> None:
        super().__init__(feed, buffer)
        self.length, self.settings = length, f"bucket(buffer={buffer})"

    def order(self, items: list[Any]) -> Sequence[int]:
        lengths = [measured(self.length, item) for item in items]
        return sorted(range(len(items)), key=lengths.__getitem__, reverse=self.at[1] % 2 == 1)


class Ahead(Stage):
    """Reads more than it gives, and stands before the first item that it holds."""

    held: deque[tuple[Mark, Any]]   # items or END, each after the mark before it

    def read(self) -> tuple[Mark, Any]:
        [feed] = self.feeds
        return feed.mark(), feed.next()

    def mark(self) -> Mark:
        return (*self.at, self.held[0][0] if self.held else self.feeds[0].mark())

    def seek(self, mark: Mark) -> None:
        super().seek(mark)
        self.held = deque()


class Batch(Ahead):
    def __init__(self, feed: Stage, size: int | None, tokens: int | None, length: Function) -> None:
        super().__init__(feed)
        self.size, self.tokens, self.length = size, tokens, length
        self.settings = f"batch(size={size}, tokens={tokens})"

    def next(self) -> Any:
        rows: list[Any] = []
        longest = 0
        while len(rows) != self.size:
            mark, item = self.held.popleft() if self.held else self.read()
            if item is not END and self.tokens is not None:
                tokens = measured(self.length, item)
                if tokens > self.tokens:
                    raise ValueError(f"Stream.batch: an item of length {tokens} is longer than a batch, tokens="
                                     f"{self.tokens}: filter it out, cut it, or allow for more tokens")
                longest = max(longest, tokens)
            if item is END or (self.tokens is not None and longest * (len(rows) + 1) > self.tokens):
                self.held.extend([(mark, item)] if rows else [])
                return rows or END
            rows.append(item)
        return rows


class Windows(Ahead):
    start = (0, 0)      # where in the first item held the next window begins, how much of it was in the one before
    have: int           # how much lies from there on in the items held

    def __init__(self, feed: Stage, size: int, step: int) -> None:
        super().__init__(feed)
        self.size, self.step, self.settings = size, step, f"windows(size={size}, step={step})"

    def next(self) -> Any:
        while self.have < self.size and not (self.held and self.held[-1][1] is END):
            self.held.append(self.read())
            if (item := self.held[-1][1]) is not END:
                self.have += len(item)
        offset, seen = self.at
        if self.have <= seen:
            self.at, self.have = self.start, 0
            self.held.clear()
            return END
        window = self.cut(offset)
        offset, self.have = offset + self.step, self.have - self.step
        while self.held and (item := self.held[0][1]) is not END and offset >= len(item):
            offset -= len(item)
            self.held.popleft()
        self.at = (offset, self.size - self.step)
        return window

    def cut(self, offset: int) -> Any:
        """The window that begins there in the first item."""
        pieces, left = [], self.size
        for _, item in self.held:
            if item is not END and len(item):
                pieces.append(item[offset:offset + left])
                offset, left = 0, left - len(pieces[-1])
        if all(isinstance(piece, str) for piece in pieces):
            return "".join(pieces)
        if all(hasattr(piece, "dtype") for piece in pieces):
            return np.concatenate(pieces)
        return list(chain(*pieces))

    def seek(self, mark: Mark) -> None:
        super().seek(mark)
        self.have = -self.at[0]


class Rows(Stage):
    """One row from each of several stages, which end at different times. It knows of each whether it has ended."""

    def __init__(self, *feeds: Stage) -> None:
        super().__init__(*feeds)
        self.start, self.settings = (0,) * len(feeds), f"contiguous(rows={len(feeds)})"

    def next(self) -> Any:
        rows = [END if ended else feed.next() for feed, ended in zip(self.feeds, self.at, strict=True)]
        self.at = tuple([int(row is END) for row in rows])
        if all(self.at):
            self.at = self.start
            return END
        empty = next(row for row in rows if row is not END)[:0]
        return [empty if row is END else row for row in rows]
