"""What ranks tell each other is the same on all of them; a world of one needs no library."""

from typing import Any

import numpy as np
import pytest
from helpers.ranks import needs_mpi, run

import tinyseq as ts


class Counts:
    """A metric, as those of tinyseq.metrics: what it counted is arrays of numbers."""

    def __init__(self) -> None:
        self.right, self.seen = np.zeros(2, np.int64), 0

    def update(self, rows: list[int]) -> None:
        self.right, self.seen = self.right + np.array([sum(rows), len(rows)]), self.seen + len(rows)

    def state_dict(self) -> dict[str, Any]:
        return {"right": self.right, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.right, self.seen = np.array(state["right"]), state["seen"]

    def merge(self, other: "Counts") -> None:
        self.right, self.seen = self.right + other.right, self.seen + other.seen


def exchanges(world: Any) -> None:
    """Of any world of up to 3 ranks: against what each rank would have said."""
    ranks = range(world.size)
    assert world.gather(("word", world.rank)) == [("word", rank) for rank in ranks]
    assert world.gather("x" * world.rank) == ["x" * rank for rank in ranks]
    assert world.gather(None) == [None] * world.size
    big = world.gather(np.full(300_000, world.rank))
    assert [array.sum() for array in big] == [300_000 * rank for rank in ranks]
    assert world.broadcast({"step": 3 + world.rank}) == {"step": 3}
    assert world.sum(2**60 + world.rank) == sum(2**60 + rank for rank in ranks)
    assert np.array_equal(world.sum(np.array([1, world.rank])), [world.size, sum(ranks)])
    assert world.sum(ts.tensor([1.0, world.rank])).tolist() == [world.size, sum(ranks)]
    assert np.isnan(world.sum(np.nan if world.rank == world.size - 1 else 1.0))
    metric = Counts()
    metric.update(world.share([5, 7, 11, 13]))
    merged = world.merge(metric)
    assert merged.right.tolist() == [36, 4] and merged.seen == 4 and merged is not metric
    assert metric.seen == len(world.share([5, 7, 11, 13]))
    world.barrier()
    rows = ts.tensor([[1.0], [2.0], [3.0]])
    assert world.gather(world.share(rows).tolist()) == [rows[rank::world.size].tolist() for rank in ranks]
    assert f"rank={world.rank}, size={world.size}" in repr(world)
    assert ts.distributed.mpi() is world if world.size > 1 else True


def test_alone() -> None:
    exchanges(ts.distributed.World())


@needs_mpi
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_over_mpi(ranks: int) -> None:
    run(ranks, __file__, "exchanges")
