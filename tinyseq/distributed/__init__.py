"""Training by several processes at once, each on rows of its own: over MPI, or NCCL between GPUs.

    world = ts.distributed.mpi()                    # mpiexec -n 2 python train.py; alone where nobody launched it
    parallel = ts.distributed.DataParallel(world, model)    # all begin with the parameters of rank 0
    for rows in batches:
        logits = model(data[world.share(rows)])     # every rank its part of the batch
        loss = F.cross_entropy(logits, ..., reduction="sum")
        optimizer.zero_grad()
        mean = parallel.backward(loss, count)       # gradients of sum(losses) / sum(counts), over all ranks
        optimizer.step()                            # the same on every rank
        if world.rank == 0:
            ...                                     # only one writes

A rank that raises ends the run for all, and so does one that ends while others wait for it: docs/distributed.md.
"""

from __future__ import annotations

from tinyseq import check
from tinyseq.distributed.over_mpi import mpi
from tinyseq.distributed.over_nccl import nccl
from tinyseq.distributed.parallel import DataParallel
from tinyseq.distributed.world import World

__all__ = ["DataParallel", "World", "mpi", "nccl"]
check.public(__name__)
