"""What one small op costs, forward and backward: `python tests/benchmarks/overhead.py [rounds]`.

A chain of 8x8 multiplications, two gradients each, with 100, 1,000 and 50,000 live nodes: tinyseq, PyTorch eager (if
installed) and the bare NumPy products. Each figure is the median of processes that take turns, one thread each. The
aim: at most 5 us over the bare products at 100, and below PyTorch at all three.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

LENGTHS = (100, 1_000, 50_000)
OPS = 100_000  # a measurement runs about so many


def multiplied(x: Any, w: Any, seed: Any) -> Callable[[int], None]:
    """What tinyseq and PyTorch are both asked to do: n multiplications by w, and the gradients of x and w."""
    def chain(n: int) -> None:
        y = x
        for _ in range(n):
            y = y * w
        y.backward(seed)
        x.grad = w.grad = None

    return chain


def tinyseq() -> Callable[[int], None]:
    import tinyseq as ts

    x, w = ts.ones((8, 8), requires_grad=True), ts.ones((8, 8), requires_grad=True)
    return multiplied(x, w, ts.ones((8, 8)))


def pytorch() -> Callable[[int], None]:
    import torch

    torch.set_num_threads(1)
    x, w = torch.ones(8, 8, requires_grad=True), torch.ones(8, 8, requires_grad=True)
    return multiplied(x, w, torch.ones(8, 8))


def numpy() -> Callable[[int], None]:
    import numpy as np

    x, w = np.ones((8, 8), np.float32), np.ones((8, 8), np.float32)

    def chain(n: int) -> None:
        kept, y = [], x
        for _ in range(n):
            kept.append(y)
            y = y * w
        g, total = np.ones((8, 8), np.float32), np.zeros((8, 8), np.float32)
        for y in reversed(kept):
            total += g * y
            g = g * w

    return chain


CONTENDERS = {"tinyseq": tinyseq, "pytorch": pytorch, "numpy": numpy}


def measure(name: str) -> None:
    """Print the microseconds an op takes at each length: the best of five."""
    chain = CONTENDERS[name]()
    for n in LENGTHS:
        repeats = max(1, OPS // n // 5)
        times = []
        for _ in range(6):  # the first one warms up
            start = time.perf_counter()
            for _ in range(repeats):
                chain(n)
            times.append((time.perf_counter() - start) / (repeats * n))
        print(min(times[1:]) * 1e6)


def main(rounds: int = 5) -> None:
    names = [name for name in CONTENDERS if name != "pytorch" or find_spec("torch")]
    found: dict[str, list[list[float]]] = {name: [] for name in names}
    one_thread = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    for _ in range(rounds):
        for name in names:
            command = [sys.executable, __file__, "--measure", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=one_thread)
            found[name].append([float(line) for line in done.stdout.split()])
    print("us an op" + "".join(f"{n:>10,}" for n in LENGTHS) + "   live nodes")
    for name, runs in found.items():
        print(f"{name:8}" + "".join(f"{statistics.median(column):10.2f}" for column in zip(*runs, strict=True)))


if __name__ == "__main__":
    measure(sys.argv[2]) if sys.argv[1:2] == ["--measure"] else main(*map(int, sys.argv[1:]))
