"""The ranks of a run over MPI, whose gradients go from GPU to GPU by NCCL."""

from __future__ import annotations

import platform

from tinyseq import backends, check
from tinyseq.distributed.world import Exchange, World
from tinyseq.engine.tensor import Array


def nccl(world: World) -> World:
    """`world` with gradients of CuPy summed by NCCL, from GPU to GPU; all else goes where it went.

    Each rank sums on the GPU that it uses: `mpi()` has given it one, if it was called before anything was on a GPU. The
    processes find each other through `world`, that of `mpi()`; alone there is nothing to sum, and it comes back as it
    is. Raises ImportError where CuPy finds no NCCL, and RuntimeError where two ranks use the same GPU, which NCCL
    refuses.

    >>> ts.distributed.nccl(ts.distributed.mpi()).size
    1
    """
    if not isinstance(world, World):
        raise TypeError(f"nccl: expected the world of ts.distributed.mpi(), got {check.describe(world)}")
    if world.size == 1:
        return world
    return NCCLWorld(world)


class NCCLWorld(World):
    """The ranks of another world, which sum arrays of CuPy on a stream of their own."""

    def __init__(self, world: World) -> None:
        backends.load("cupy")  # or it says why not
        from tinyseq.backends.nccl import Communicator, gpu, unique_id

        self.world, self.rank, self.size = world, world.rank, world.size
        gpus = world.gather(f"{gpu()} of {platform.node()}")
        if shared := [rank for rank, own in enumerate(gpus) if gpus.count(own) > 1]:
            raise RuntimeError(f"distributed.nccl: ranks {shared} share GPUs ({gpus[shared[0]]}): start fewer "
                               "processes, or call distributed.mpi() before anything is on a GPU")
        self.communicator = Communicator(self.size, world.broadcast(unique_id() if world.rank == 0 else None),
                                         self.rank)

    def start(self, array: Array, broadcast: bool = False) -> Exchange:
        """`World.start`; on a GPU only sums."""
        if backends.on_host(array):
            return self.world.start(array, broadcast)
        return Exchange(array, self.communicator.sum(array), -1)

    def test(self, exchange: Exchange) -> bool:
        """`World.test`; what a GPU does needs no help."""
        return exchange.number < 0 or self.world.test(exchange)

    def wait(self, exchange: Exchange) -> None:
        """`World.wait`; of a GPU it is its later work that waits, not this process."""
        if exchange.number < 0:
            self.communicator.wait(exchange.request)
        else:
            self.world.wait(exchange)
