"""The stages of a stream, each of which reads the one before it: what makes a position exact.

A stage has `next()` (an item, or END once at the end of an epoch, after which the next epoch begins), `mark()` (where
it stands: plain numbers in tuples) and `seek(mark)`. A stage that holds items back is never asked to save them: its
mark is that of the stage before it where they began, and how many were given since, so that `seek` reads them again.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from operator import index
from typing import Any

import numpy as np

from tinyseq import check

Mark = Any              # None is the start
Function = Callable[..., Any]
END: Any = type("END", (), {})()


class Stage:
    """What stages share. Of a Map or a Filter as it is: it stands where the stage before it does."""

    cuts = False        # whether each part of an epoch can be made of a part of the stage before

    def __init__(self, *feeds: Stage) -> None:
        self.feeds = feeds

    def next(self) -> Any:
        raise NotImplementedError

    def mark(self) -> Mark:
        return self.feeds[0].mark()

    def seek(self, mark: Mark) -> None:
        self.feeds[0].seek(mark)

    def settings(self) -> str:
        """What must be the same where a position is loaded; "" of a stage that does not change what comes."""
        return ""

    def fresh(self) -> Stage:
        """This stage at its start, with nothing that this one holds."""
        return self.on(*(feed.fresh() for feed in self.feeds))

    def on(self, *feeds: Stage) -> Stage:
        stage = copy.copy(self)
        stage.feeds = feeds
        stage.seek(None)
        return stage

    def part(self, number: int, parts: int) -> Stage:
        """One of several parts of each epoch, which follow one another."""
        if not self.cuts:
            raise ValueError(f"Stream.contiguous: an epoch of {self.settings()} cannot be cut into parts: call it on "
                             "text, lines, json_lines or items, after map and filter alone")
        return self.on(self.feeds[0].part(number, parts))

    def rest(self) -> None:
        """Nobody reads on for now: files are closed, threads end."""
        for feed in self.feeds:
            feed.rest()


def numbers(*given: Any) -> Any:
    """Integers of a mark."""
    return [check.integers("position", 0, number=number) for number in given]


def length(item: Any) -> int:
    """Of a sequence; of a tuple of them, the longest's."""
    return max(map(length, item), default=0) if isinstance(item, tuple) else len(item)


def measured(function: Function, item: Any) -> int:
    try:
        return index(function(item))
    except TypeError as error:
        raise TypeError(f"expected items with a length, sequences or tuples of them, got {check.describe(item)}: give "
                        "length=, a function of an item") from error


class Map(Stage):
    cuts = True

    def __init__(self, feed: Stage, function: Function) -> None:
        super().__init__(feed)
        self.function = function

    def next(self) -> Any:
        item = self.feeds[0].next()
        return item if item is END else self.function(item)

    def settings(self) -> str:
        return "map"


class RandomMap(Stage):
    """Each item's generator is a function of the seed, the epoch and the item's number."""

    epoch: int
    number: int

    def __init__(self, feed: Stage, function: Function, seed: tuple[int, ...]) -> None:
        super().__init__(feed)
        self.function, self.seed = function, seed
        self.seek(None)

    def next(self) -> Any:
        item, place = self.feeds[0].next(), (self.epoch, self.number)
        self.epoch, self.number = (self.epoch + 1, 0) if item is END else (self.epoch, self.number + 1)
        return item if item is END else self.function(item, np.random.default_rng((*place, *self.seed)))

    def mark(self) -> Mark:
        return self.epoch, self.number, self.feeds[0].mark()

    def seek(self, mark: Mark) -> None:
        epoch, number, start = (0, 0, None) if mark is None else mark
        self.epoch, self.number = numbers(epoch, number)
        self.feeds[0].seek(start)

    def settings(self) -> str:
        return f"map(seed={self.seed})"


class Filter(Stage):
    cuts = True

    def __init__(self, feed: Stage, function: Function) -> None:
        super().__init__(feed)
        self.function = function

    def next(self) -> Any:
        while (item := self.feeds[0].next()) is not END and not self.function(item):
            pass
        return item

    def settings(self) -> str:
        return "filter"


class Shard(Stage):
    """Rows of every batch: the position is that of the whole batches."""

    def __init__(self, feed: Stage, rank: int, size: int) -> None:
        super().__init__(feed)
        self.rank, self.size = rank, size

    def next(self) -> Any:
        batch = self.feeds[0].next()
        if batch is not END and not isinstance(batch, list):
            raise TypeError(f"Stream.shard: expected batches, lists of items, got {check.describe(batch)}: call it "
                            "right after batch or contiguous, and map(data.pad) after it")
        return batch if batch is END else batch[self.rank::self.size]


class Repeat(Stage):
    done: int       # epochs
    ends: int       # of epochs, in a row

    def __init__(self, feed: Stage, times: int | None) -> None:
        super().__init__(feed)
        self.times = times
        self.seek(None)

    def next(self) -> Any:
        while (item := self.feeds[0].next()) is END:
            self.ends, self.done = self.ends + 1, self.done + 1
            if self.done == self.times:
                self.done = 0
                return END
            if self.ends > 1 and self.times is None:
                raise ValueError("Stream.repeat: the stream has no items, so there is nothing to repeat")
        self.ends = 0
        return item

    def mark(self) -> Mark:
        return self.done, self.feeds[0].mark()

    def seek(self, mark: Mark) -> None:
        done, start = (0, None) if mark is None else mark
        [self.done], self.ends = numbers(done), 0
        self.feeds[0].seek(start)

    def settings(self) -> str:
        return f"repeat({self.times})"


class Blocks(Stage):
    """Gives the items of each block in another order. With each it reads one of the next block, so that none waits for
    a whole one."""

    epoch: int
    block: int
    given: int                  # of this block
    left: list[Any] | None      # of it, the next one last; None before it is read
    more: list[Any]             # of the next
    start: Mark                 # before this block
    after: Mark                 # behind it
    last: bool                  # whether this is the last of the epoch
    ended: bool                 # whether that has been read

    def __init__(self, feed: Stage, buffer: int) -> None:
        super().__init__(feed)
        self.buffer = buffer
        self.seek(None)

    def order(self, items: list[Any]) -> Sequence[int]:
        raise NotImplementedError

    def next(self) -> Any:
        while True:
            left = self.begin() if self.left is None else self.left
            if left:
                self.given += 1
                self.read(len(self.more) + 1)
                return left.pop()
            self.given, self.left, self.start = 0, None, self.after
            if self.last:
                self.epoch, self.block, self.ended = self.epoch + 1, 0, False
                return END
            self.block += 1

    def begin(self) -> list[Any]:
        self.read(self.buffer)
        items, self.more, self.last, self.after = self.more, [], self.ended, self.feeds[0].mark()
        self.left = [items[i] for i in reversed(self.order(items)[self.given:])]
        return self.left

    def read(self, count: int) -> None:
        while not self.ended and len(self.more) < count:
            if (item := self.feeds[0].next()) is END:
                self.ended = True
            else:
                self.more.append(item)

    def mark(self) -> Mark:
        return self.epoch, self.block, self.given, self.start

    def seek(self, mark: Mark) -> None:
        epoch, block, given, start = (0, 0, 0, None) if mark is None else mark
        self.epoch, self.block, self.given = numbers(epoch, block, given)
        self.feeds[0].seek(start)
        self.start, self.left, self.more, self.ended = self.feeds[0].mark(), None, [], False


class Shuffle(Blocks):
    def __init__(self, feed: Stage, buffer: int, seed: tuple[int, ...]) -> None:
        self.seed = seed
        super().__init__(feed, buffer)

    def order(self, items: list[Any]) -> Sequence[int]:
        rng = np.random.default_rng((self.epoch, self.block, *self.seed))
        order: list[int] = rng.permutation(len(items)).tolist()
        return order

    def settings(self) -> str:
        return f"shuffle(buffer={self.buffer}, seed={self.seed})"


class Bucket(Blocks):
    """From short to long, and in every second block back, so that neighbours of two blocks are of like length too."""

    def __init__(self, feed: Stage, buffer: int, length: Function) -> None:
        self.length = length
        super().__init__(feed, buffer)

    def order(self, items: list[Any]) -> Sequence[int]:
        lengths = [measured(self.length, item) for item in items]
        return sorted(range(len(items)), key=lengths.__getitem__, reverse=self.block % 2 == 1)

    def settings(self) -> str:
        return f"bucket(buffer={self.buffer})"


class Batch(Stage):
    held: tuple[Mark, Any] | None   # what did not fit into a batch, an item or END, after the mark before it

    def __init__(self, feed: Stage, size: int | None, tokens: int | None, length: Function) -> None:
        super().__init__(feed)
        self.size, self.tokens, self.length = size, tokens, length
        self.seek(None)

    def next(self) -> Any:
        rows: list[Any] = []
        longest = 0
        while len(rows) != self.size:
            held = self.held or (self.feeds[0].mark(), self.feeds[0].next())
            self.held, item = None, held[1]
            if item is not END and self.tokens is not None:
                longest = max(longest, self.fitting(item))
            if item is END or (self.tokens is not None and longest * (len(rows) + 1) > self.tokens):
                self.held = held if rows else None
                return rows or END
            rows.append(item)
        return rows

    def fitting(self, item: Any) -> int:
        tokens = measured(self.length, item)
        if tokens > self.tokens:  # type: ignore[operator]
            raise ValueError(f"Stream.batch: an item of length {tokens} is longer than a batch, tokens={self.tokens}: "
                             "filter it out, cut it, or allow for more tokens")
        return tokens

    def mark(self) -> Mark:
        return self.held[0] if self.held else self.feeds[0].mark()

    def seek(self, mark: Mark) -> None:
        self.feeds[0].seek(mark)
        self.held = None

    def settings(self) -> str:
        return f"batch(size={self.size}, tokens={self.tokens})"


class Windows(Stage):
    parts: deque[tuple[Mark, Any]]  # the items from which the next windows come, each after the mark before it
    end: tuple[Mark] | None         # the mark before the epoch's END, once that is read
    offset: int                     # where in the first item the next window begins
    have: int                       # how much lies from there on
    seen: int                       # how much of that was in the window before

    def __init__(self, feed: Stage, size: int, step: int) -> None:
        super().__init__(feed)
        self.size, self.step = size, step
        self.seek(None)

    def next(self) -> Any:
        while self.have < self.size and self.end is None:
            start, item = self.feeds[0].mark(), self.feeds[0].next()
            if item is END:
                self.end = (start,)
            elif len(item):
                self.parts.append((start, item))
                self.have += len(item)
        if self.have <= self.seen:
            self.offset, self.seen, self.have, self.end = 0, 0, 0, None
            self.parts.clear()
            return END
        window = self.front()
        self.offset, self.have, self.seen = self.offset + self.step, self.have - self.step, self.size - self.step
        while self.parts and self.offset >= len(self.parts[0][1]):
            self.offset -= len(self.parts.popleft()[1])
        return window

    def front(self) -> Any:
        pieces, begin, left = [], self.offset, self.size
        for _, item in self.parts:
            pieces.append(item[begin:begin + left])
            begin, left = 0, left - len(pieces[-1])
            if not left:
                break
        if all(isinstance(piece, str) for piece in pieces):
            return "".join(pieces)
        if all(hasattr(piece, "dtype") for piece in pieces):
            return np.concatenate(pieces)
        return list(chain(*pieces))

    def mark(self) -> Mark:
        start = self.parts[0][0] if self.parts else self.end[0] if self.end else self.feeds[0].mark()
        return self.offset, self.seen, start

    def seek(self, mark: Mark) -> None:
        offset, seen, start = (0, 0, None) if mark is None else mark
        self.offset, self.seen = numbers(offset, seen)
        self.feeds[0].seek(start)
        self.parts, self.have, self.end = deque(), -self.offset, None

    def settings(self) -> str:
        return f"windows(size={self.size}, step={self.step})"


class Rows(Stage):
    """One row from each of several stages, which end at different times."""

    ended: list[bool]

    def __init__(self, whole: Stage, feeds: Sequence[Stage]) -> None:
        super().__init__(*feeds)
        self.whole = whole      # what they are parts of, never read
        self.seek(None)

    def next(self) -> Any:
        rows = [END if ended else feed.next() for feed, ended in zip(self.feeds, self.ended, strict=True)]
        self.ended = [row is END for row in rows]
        for row in rows:
            if row is not END:
                return [row[:0] if other is END else other for other in rows]
        self.ended = [False] * len(rows)
        return END

    def mark(self) -> Mark:
        return tuple(self.ended), tuple(feed.mark() for feed in self.feeds)

    def seek(self, mark: Mark) -> None:
        ended, starts = ([False] * len(self.feeds), [None] * len(self.feeds)) if mark is None else mark
        self.ended = list(map(bool, ended))
        for feed, start, _ in zip(self.feeds, starts, self.ended, strict=True):
            feed.seek(start)

    def settings(self) -> str:
        return f"contiguous(rows={len(self.feeds)})"


class Items(Stage):
    """What is in memory, or comes from a function that begins again."""

    given: int
    running: Iterator[Any] | None   # what the function gave

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.source, self.first = source, 0
        self.last: int | None = None if callable(source) else len(source)
        self.seek(None)

    def next(self) -> Any:
        if self.last is None:
            item = self.following()
        else:
            item = self.source[self.given] if self.given < self.last else END
        self.given = self.first if item is END else self.given + 1
        return item

    def following(self) -> Any:
        if self.running is None:
            self.running = iter(self.source())
            for _ in range(self.given):
                next(self.running, END)
        item = next(self.running, END)
        self.running = None if item is END else self.running
        return item

    def mark(self) -> Mark:
        return self.given

    def seek(self, mark: Mark) -> None:
        [self.given], self.running = numbers(self.first if mark is None else mark), None

    def part(self, number: int, parts: int) -> Stage:
        if self.last is None:
            return super().part(number, parts)
        stage = copy.copy(self)
        stage.first, stage.last = self.last * number // parts, self.last * (number + 1) // parts
        stage.seek(None)
        return stage

    def settings(self) -> str:
        return "items(a function)" if self.last is None else f"items({self.last} of them)"


def sources(stage: Stage) -> list[Stage]:
    """The stages that read nothing but a file or memory."""
    feeds = (stage.whole,) if isinstance(stage, Rows) else stage.feeds
    return [stage] if not feeds else [source for feed in feeds for source in sources(feed)]


def described(stage: Stage) -> list[str]:
    """The settings of all stages, from the source on."""
    feeds = (stage.whole,) if isinstance(stage, Rows) else stage.feeds
    return [text for feed in feeds for text in described(feed)] + [stage.settings()] * bool(stage.settings())


def seeds(where: str, seed: Any) -> tuple[int, ...]:
    """The integers of a seed, one or a sequence."""
    return tuple(check.integers(where, 0, seed=n) for n in (seed if isinstance(seed, (list, tuple)) else [seed]))
