"""The processes of a run, and what they tell each other: here one, which has nobody to tell."""

from __future__ import annotations

import functools
import operator
import pickle
from copy import deepcopy
from typing import Any, NamedTuple, TypeVar

import numpy as np

from tinyseq.engine.tensor import Array

T = TypeVar("T")
_CALLS = ("gather", "broadcast", "sum", "merge", "barrier", "DataParallel", "backward")


class Exchange(NamedTuple):
    """What has been begun: its array is held here, for MPI does not keep it alive, until `World.wait`."""

    array: Array
    request: Any
    number: int


class World:
    """All processes that train together: each has its `rank`, from 0 to `size` - 1. This one is of one process.

    `ts.distributed.mpi()` gives that of all which a launcher started, with the same methods. Those that exchange
    anything (all but `share`) are called by all ranks, in the same order.

    >>> world = ts.distributed.World()
    >>> world.rank, world.size
    (0, 1)
    >>> world.sum(3), world.gather("tensor"), world.share(["a", "b", "c"])
    (3, ['tensor'], ['a', 'b', 'c'])
    """

    rank: int = 0
    size: int = 1
    on_device = True  # exchanges arrays of a GPU where they are

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rank={self.rank}, size={self.size})"

    # --- what users call
    def share(self, rows: T) -> T:
        """This rank's rows of a batch that all ranks hold: `rows[rank::size]`, of anything that is sliced so.

        The last ranks may get a row less, or none: their gradients then are zeros that count nothing.
        """
        return rows[self.rank :: self.size]  # type: ignore[index,no-any-return]

    def gather(self, value: T) -> list[T]:
        """Every rank's `value`, in the order of ranks, on all of them: anything that pickle takes."""
        return self.collect("gather", value)

    def broadcast(self, value: T) -> T:
        """Rank 0's `value`, on all ranks: of a clock, a decision, what only rank 0 has read.

        >>> ts.distributed.World().broadcast("from rank 0")
        'from rank 0'
        """
        return self.collect("broadcast", value if self.rank == 0 else None)[0]  # type: ignore[return-value]

    def sum(self, value: T) -> T:
        """The sum of all ranks' values, on all of them, added in the order of ranks: numbers, arrays or Tensors.

        "Has any rank overflowed?" is `world.sum(int(overflowed)) > 0`. A maximum would lose a NaN, or not.
        """
        return functools.reduce(operator.add, self.collect("sum", value))

    def merge(self, metric: T) -> T:
        """A new metric that has counted what those of all ranks have: by its state_dict, load_state_dict and merge."""
        merged, *others = [deepcopy(metric) for _ in range(self.size)]
        states = self.collect("merge", metric.state_dict())  # type: ignore[attr-defined]
        for part, state in zip([merged, *others], states, strict=True):
            part.load_state_dict(state)  # type: ignore[attr-defined]
        for other in others:
            merged.merge(other)  # type: ignore[attr-defined]
        return merged

    def barrier(self) -> None:
        """Go on when all ranks have come here: as after rank 0 wrote what others read.

        >>> ts.distributed.World().barrier()
        """
        self.alike(self.begin("barrier"))

    # --- what they are made of: of one process there is nothing to wait for
    def collect(self, call: str, value: T) -> list[T]:
        """`gather`, for the call of this name.

        >>> ts.distributed.World().collect("gather", {"a": 1})
        [{'a': 1}]
        """
        own = np.frombuffer(pickle.dumps(value), np.uint8)
        sizes = self.alike(self.begin(call, own.size))
        text = np.zeros(sizes.sum(), np.uint8)
        parts = np.split(text, np.cumsum(sizes)[:-1])
        parts[self.rank][:] = own
        self.wait(self.start(text))
        return [pickle.loads(part.data) for part in parts]

    def begin(self, call: str, size: int = 0) -> Exchange:
        """Tell all ranks which call this one makes, and a size. It comes first in each: other calls would mix it up.

        >>> world = ts.distributed.World()
        >>> world.alike(world.begin("sum", 24))
        array([24])
        >>> exchange = world.start(np.ones(3))                # of what all ranks have alike
        >>> while not world.test(exchange):
        ...     pass
        >>> world.wait(exchange)
        >>> exchange.array
        array([1., 1., 1.])
        """
        said = np.zeros((2, self.size), np.int64)
        said[:, self.rank] = _CALLS.index(call), size
        return self.start(said)

    def alike(self, begun: Exchange) -> Array:
        """The sizes that the ranks told, int64 (ranks,). A RuntimeError on all where they do not make one call."""
        self.wait(begun)
        calls, sizes = begun.array
        if other := int(np.argmax(calls != calls[0])):
            raise RuntimeError(f"rank {other} calls {_CALLS[calls[other]]} while rank 0 calls {_CALLS[calls[0]]}: each "
                               "makes the same calls in the same order, so none stands under `if world.rank == 0:`")
        return sizes
    def start(self, array: Array, broadcast: bool = False) -> Exchange:
        """Begin to put the sum over all ranks, or with `broadcast` rank 0's numbers, into a C-contiguous array."""
        return Exchange(array, None, 0)

    def test(self, exchange: Exchange) -> bool:
        """Let what was begun go on for a moment: nothing moves by itself between calls. True when it is done."""
        return True

    def wait(self, exchange: Exchange) -> None:
        """Until what was begun is done. A RuntimeError if it never will be, as a rank has ended before it came here."""
