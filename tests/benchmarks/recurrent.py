"""Recurrent layers against PyTorch's: `python tests/benchmarks/recurrent.py [rounds] [--quick]`.

Forward and backward of RNN, GRU and LSTM in float32 at shapes (batch, time, features, hidden), the gradients of the
input and of all parameters, and one decoding step, forward alone: batch 1 and 32, width 256. One thread. Each figure is
the median of processes that take turns, and the ratio the median of theirs; `--quick` takes one turn. The aim: no more
than PyTorch's time.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

CELLS = ("RNN", "GRU", "LSTM")
SHAPES = ((8, 50, 32, 32), (16, 32, 64, 64), (32, 64, 256, 256), (256, 10, 128, 256))
STEPS = ((1, 1, 256, 256), (32, 1, 256, 256))
CASES = [(cell, shape) for shape in (*SHAPES, *STEPS) for cell in CELLS]


def arrays(batch: int, steps: int, width: int, hidden: int) -> Iterator[Any]:
    """The input, the gradient of the output, and a first state."""
    rng = np.random.default_rng(0)
    for shape in (batch, steps, width), (batch, steps, hidden), (1, batch, hidden):
        yield rng.standard_normal(shape, dtype=np.float32)


def tinyseq() -> Iterator[Callable[[], Any]]:
    import tinyseq as ts
    from tinyseq import nn

    for cell, shape in CASES:
        layer, (x, g, h) = getattr(nn, cell)(*shape[2:]), map(ts.Tensor, arrays(*shape))
        if shape in STEPS:
            yield ts.no_grad()(lambda: layer(x, (h, h) if cell == "LSTM" else h))  # noqa: B023
        else:
            leaves = [ts.Tensor(x.data, True), *layer.parameters()]
            yield lambda: ts.grad(layer(leaves[0])[0], leaves, g)  # noqa: B023


def pytorch() -> Iterator[Callable[[], Any]]:
    import torch

    torch.set_num_threads(1)
    for cell, shape in CASES:
        layer = getattr(torch.nn, cell)(*shape[2:], batch_first=True)
        x, g, h = map(torch.from_numpy, arrays(*shape))
        if shape in STEPS:
            yield torch.no_grad()(lambda: layer(x, (h, h) if cell == "LSTM" else h))  # noqa: B023
        else:
            leaves = [x.requires_grad_(), *layer.parameters()]
            yield lambda: torch.autograd.grad(layer(leaves[0])[0], leaves, g)  # noqa: B023


CONTENDERS = {"tinyseq": tinyseq, "pytorch": pytorch}


def measure(name: str) -> None:
    """Print the milliseconds of each case: the median of a few, after two to warm up."""
    for call in CONTENDERS[name]():
        times: list[float] = []
        call(), call()
        while len(times) < 3 or sum(times) < 0.15:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        print(statistics.median(times) * 1e3)


def main(rounds: int = 5) -> None:
    some = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    found: dict[str, list[list[float]]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name in CONTENDERS:
            command = [sys.executable, __file__, "--measure", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=some)
            found[name].append([float(line) for line in done.stdout.split()])
    print("ms, 1 thread                   tinyseq   PyTorch   ratio")
    for (cell, shape), ours, theirs in zip(CASES, zip(*found["tinyseq"], strict=True),
                                           zip(*found["pytorch"], strict=True), strict=True):
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        case = f"{cell:4} {f'step, batch {shape[0]}' if shape in STEPS else shape}"
        print(f"{case:28} {statistics.median(ours):9.3f} {statistics.median(theirs):9.3f} {ratio:7.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2])
    else:
        main(*([1] if "--quick" in sys.argv else map(int, sys.argv[1:])))
