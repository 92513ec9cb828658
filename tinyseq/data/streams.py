"""Streams: data that comes bit by bit, with a position that can be saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar, overload

import numpy as np

from tinyseq import backends, check
from tinyseq.data import given, stages
from tinyseq.data.prefetch import Prefetch
from tinyseq.data.stages import END, Stage

T = TypeVar("T", covariant=True)
U = TypeVar("U")


class Stream(Generic[T]):
    """Items that a loop takes, from where the stream stands to the end of the epoch: `lines`, `json_lines`, `pairs`,
    `text` and `items` make one, its methods make others of it.

    A stream has a position, as a file does. A loop that is left goes on in the next loop over the stream; one that came
    to the end began the next epoch, in which `shuffle` gives another order. `state_dict` is the position, and a stream
    of the same stages that loads it, in another process too, goes on with exactly the items that would have come. A
    step of a training, and so a checkpoint, may come after any of them:

    >>> numbers = ts.data.items(range(6)).shuffle(6, seed=0).batch(2)
    >>> for batch in numbers:
    ...     state = numbers.state_dict()        # after the first batch
    ...     break
    >>> rest = list(numbers)
    >>> again = ts.data.items(range(6)).shuffle(6, seed=0).batch(2)
    >>> again.load_state_dict(state)
    >>> list(again) == rest, again.epoch
    (True, 1)

    So a training of ten epochs is, whether it begins or goes on:

    >>> for epoch in range(numbers.epoch, 10):
    ...     for batch in numbers:
    ...         pass
    >>> numbers.epoch
    10

    And one of so many steps, `run` a `runs.Run`; there is no `next`, as the thread of `prefetch` and the block that
    `shuffle` has read end with the loop, and would begin again with every step:

    >>> stream = ts.data.items(range(6)).shuffle(6, seed=0).repeat().batch(4)
    >>> run = ts.runs.Run("runs/steps", data=stream)
    >>> for step, batch in enumerate(stream, run.resume()):
    ...     if step == 10:
    ...         break
    ...     run.save(step + 1)

    A method makes a new stream, at its start, that shares nothing with the one it is called on. Functions given to
    `map`, `filter` and `length=` are called with one item after the other, in a thread where `prefetch` follows; an
    exact resume needs those that depend on their item alone. An error in one of them ends the loop, and the stream then
    stands before the item that could not be made. A stream is read by one loop at a time.

    Several processes read the same stream, each with all its batches, and take their rows by `shard`: the position is
    that of the whole batches, so that any number of processes can go on from it.
    """

    def __init__(self, stage: Stage) -> None:
        check.instance("Stream: lines, json_lines, pairs, text or items make one", Stage, stage=stage)
        self._stage, self._epoch = stage.fresh(), 0
        self._unread = True             # since it was made or loaded: Run.save asks

    @property
    def epoch(self) -> int:
        """How many epochs have been read to their end."""
        return self._epoch

    def __iter__(self) -> Iterator[T]:
        try:
            while (item := self._next()) is not END:
                self._unread = False
                yield item
            self._epoch += 1
        finally:
            self._stage.rest()

    def _next(self) -> Any:
        before = self._stage.mark()
        try:
            return self._stage.next()
        except BaseException:           # Ctrl-C too: stages in the middle of their work stand nowhere
            self._stage.seek(before)
            raise

    def __repr__(self) -> str:
        return " -> ".join(self._settings())

    def _settings(self) -> list[str]:
        return [stage.settings for stage in stages.along(self._stage) if stage.settings]

    def _files(self) -> list[Any]:
        return [file for stage in stages.along(self._stage) for file in stage.files]

    # --- the position ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The position: small, an entry of a checkpoint. What a loop was given last is the last item before it;
        prefetched ones are not lost.

        It also tells the stages with their settings, and each file's size and print (of 64 KiB spread over it).
        """
        return {"kind": "tinyseq.data.Stream", "stages": self._settings(), "epoch": self._epoch,
                "files": [[file.size, file.print] for file in self._files()], "position": self._stage.mark()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the position that `state_dict` gave. A loop that runs goes on from there too.

        Raises:
            ValueError: the state of something else, of other stages or settings, or of files with another size or print
                (where they lie may differ). Functions are not compared; `prefetch` and `shard` may differ.
        """
        given.state("Stream", state, stages=list, epoch=object, files=list, position=object)
        where, here, files = "Stream.load_state_dict", self._settings(), self._files()
        if state["stages"] != here:
            raise ValueError(f"{where}: expected the state of this stream, {here}, got that of another: "
                             f"{state['stages']}. Make the stream as it was when the state was saved")
        if len(state["files"]) != len(files):
            raise ValueError(f"{where}: expected the state of a stream over {len(files)} files, got one over "
                             f"{len(state['files'])}")
        for file, saved in zip(files, state["files"], strict=True):
            if saved != [file.size, file.print]:
                same = isinstance(saved, list) and saved[:1] == [file.size]
                raise ValueError(f"{where}: {file.path} is not the file that it was when the state was saved: "
                                 f"{'the content differs' if same else f'{file.size} bytes now, {saved} then'}")
        try:
            epoch = check.integers(where, 0, epoch=state["epoch"])
            if state["position"] is None:
                raise ValueError("it is None")
            self._stage.fresh().seek(state["position"])     # which checks it
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: the position is broken: {error}") from error
        self._stage.seek(state["position"])
        self._epoch, self._unread = epoch, True

    # --- other streams made of this one ------------------------------------------------------------------------------

    @overload
    def map(self, function: Callable[[T], U]) -> Stream[U]: ...

    @overload
    def map(self, function: Callable[[T, np.random.Generator], U], *, seed: int | list[int] | tuple[int, ...]
            ) -> Stream[U]: ...

    def map(self, function: Callable[..., Any], *, seed: Any = None) -> Stream[Any]:
        """What a function makes of each item. With a seed it is called as `function(item, rng)`, with a
        `numpy.random.Generator` that is the same for the same item of the same epoch: for noise and random cuts.

        >>> list(ts.data.items(["ab", "c"]).map(len))
        [2, 1]
        >>> noisy = ts.data.items([0, 0]).map(lambda x, rng: x + rng.integers(100), seed=0)
        >>> list(noisy) == list(noisy)          # two epochs
        False
        """
        check.function("Stream.map", function=function)
        if seed is None:
            return Stream(stages.Map(self._stage, function))
        return Stream(stages.RandomMap(self._stage, function, _seeds("Stream.map", seed)))

    def filter(self, function: Callable[[T], Any]) -> Stream[T]:
        """The items for which a function gives true.

        >>> list(ts.data.items(["ab", "", "c"]).filter(len))
        ['ab', 'c']
        """
        check.function("Stream.filter", function=function)
        return Stream(stages.Filter(self._stage, function))

    def shuffle(self, buffer: int, seed: int | list[int] | tuple[int, ...]) -> Stream[T]:
        """The items of each block of `buffer`, in an order that is a function of the seed, the epoch and the block. No
        item leaves its block: let the buffer be large, or the file mixed once before. A buffer that holds the whole
        epoch mixes it wholly.

        A resume reads the block again.

        >>> shuffled = ts.data.items(range(5)).shuffle(5, seed=0)
        >>> first, second = list(shuffled), list(shuffled)
        >>> sorted(first) == sorted(second) == [0, 1, 2, 3, 4], first == second
        (True, False)
        """
        buffer = check.integers("Stream.shuffle", 1, buffer=buffer)
        return Stream(stages.Shuffle(self._stage, buffer, _seeds("Stream.shuffle", seed)))

    def repeat(self, times: int | None = None) -> Stream[T]:
        """`times` epochs as one, or epochs without end, of which `epoch` counts none. Call it last, or before `shuffle`
        and `batch` to let them mix the end of an epoch with the start of the next.

        >>> list(ts.data.items("ab").repeat(2))
        ['a', 'b', 'a', 'b']
        """
        times = None if times is None else check.integers("Stream.repeat", 1, times=times)
        return Stream(stages.Repeat(self._stage, times))

    def bucket(self, buffer: int, *, length: Callable[[T], int] = stages.length) -> Stream[T]:
        """The items of each block of `buffer` by their length: from short to long, in the next block from long to
        short, and so on. Batches made of them need little padding; mix the batches afterwards:

        >>> words = ts.data.items(["four", "to", "a", "three"])
        >>> list(words.bucket(4).batch(2))
        [['a', 'to'], ['four', 'three']]
        >>> mixed = words.bucket(4).batch(2).shuffle(100, seed=0)

        Args:
            length: of an item; else it is `len(item)`, of a tuple (source and target) the longest's. Dictionaries and
                lists of sequences, as rows of JSON are, need one: `length=lambda row: len(row["ids"])`.
        """
        check.function("Stream.bucket", length=length)
        return Stream(stages.Bucket(self._stage, check.integers("Stream.bucket", 1, buffer=buffer), length))

    def batch(self, size: int | None = None, *, tokens: int | None = None,
              length: Callable[[T], int] = stages.length) -> Stream[list[T]]:
        """Lists of `size` items, or of as many as fit into a budget of tokens, padding included: rows times the length
        of the longest. The last of an epoch may have fewer. `map` makes arrays of them:

        >>> ids = ts.data.items([[3, 4, 5], [6], [7, 8]])
        >>> for batch, lengths in ids.batch(tokens=6).map(ts.data.pad):
        ...     print(batch.tolist(), lengths)
        [[3, 4, 5], [6, 0, 0]] [3 1]
        [[7, 8]] [2]

        Pairs are padded side by side: `.map(lambda rows: [ts.data.pad(side) for side in zip(*rows)])`.

        Args:
            size: items in a batch, at most where there is a budget too.
            tokens: the budget. An item that is longer is a ValueError.
            length: of an item, as of `bucket`.
        """
        if size is None and tokens is None:
            raise TypeError("Stream.batch: expected size, how many items, or tokens, how many with padding: got none")
        size = None if size is None else check.integers("Stream.batch", 1, size=size)
        tokens = None if tokens is None else check.integers("Stream.batch", 1, tokens=tokens)
        check.function("Stream.batch", length=length)
        return Stream(stages.Batch(self._stage, size, tokens, length))

    def windows(self, size: int, step: int | None = None) -> Stream[Any]:
        """Windows of `size` of all items joined (texts, lists or arrays of ids), each `step` after the one before; else
        `size`. The last of an epoch may be shorter. With `step=size - 1` each begins with the last symbol of the one
        before, so that every symbol but the first is once to be predicted.

        Lines are joined as they come, without their newlines, "one" and "two" to "onetwo": for running text begin with
        `text`, or end each line yourself, `.map(lambda ids: [*ids, end])`.

        >>> list(ts.data.items(["a long", " text"]).windows(5, step=4))
        ['a lon', 'ng te', 'ext']
        """
        return Stream(stages.Windows(self._stage, *_steps("Stream.windows", size, step)))

    def contiguous(self, rows: int, size: int, step: int | None = None) -> Stream[list[Any]]:
        """Batches of windows that go on where those of the batch before ended, row by row, so that a recurrent state
        can be carried on: row r reads the r-th part of the source (of the bytes of its files, cut at the next line or
        character), joined and in windows as of `windows`. Rows that have ended are empty, and padded have length 0.
        Begin with a new state in each epoch; save it with the position where training goes on within one.

        >>> for rows in ts.data.items(["a long", " text"]).contiguous(rows=2, size=4):
        ...     print(rows)
        ['a lo', ' tex']
        ['ng', 't']

        The source is `text`, `lines`, `json_lines` or `items` (a sequence), with `map` and `filter` alone in between.
        """
        rows = check.integers("Stream.contiguous", 1, rows=rows)
        size, step = _steps("Stream.contiguous", size, step)
        parts = (self._stage.part(number, rows) for number in range(rows))
        return Stream(stages.Rows(*(stages.Windows(part, size, step) for part in parts)))

    def shard(self, rank: int, size: int) -> Stream[T]:
        """Of each batch the rows of one of `size` processes, every size-th from `rank` on: an empty list where there
        are fewer rows. The position stays that of the whole batches: any process's state is that of all, and may be
        loaded by another number of them.

        >>> list(ts.data.items("abcde").batch(3).shard(1, 2))
        [['b'], ['e']]
        """
        size = check.integers("Stream.shard", 1, size=size)
        rank = check.integers("Stream.shard", 0, size - 1, rank=rank)
        return Stream(stages.Shard(self._stage, rank, size))

    def prefetch(self, count: int = 2, *, to: str | None = None) -> Stream[T]:
        """The same items, made by a thread that is up to `count` ahead of the loop. It ends with the loop, however that
        is left; an error in it comes up in the loop. The position is that of the loop.

        >>> list(ts.data.items("abc").prefetch())
        ['a', 'b', 'c']

        Args:
            to: a backend, such as "cupy": arrays in the items, in lists, tuples and dictionaries too, come as Tensors
                there; on a GPU they are copied from pinned memory, beside what it computes. Arrays of integers of one
                dimension stay as they are: layers read lengths on the host.
        """
        count = check.integers("Stream.prefetch", 1, count=count)
        return Stream(Prefetch(self._stage, count, None if to is None else backends.load(to).upload))


def _steps(where: str, size: int, step: int | None) -> tuple[int, int]:
    """Size and step of windows that leave nothing out."""
    size = check.integers(where, 1, size=size)
    return size, check.integers(where, 1, size, step=size if step is None else step)


def _seeds(where: str, seed: Any) -> tuple[int, ...]:
    """The integers of a seed, one or a sequence."""
    return tuple(check.integers(where, 0, seed=n) for n in (seed if isinstance(seed, (list, tuple)) else [seed]))
