"""Attention against PyTorch's: `python tests/benchmarks/attention.py [rounds] [threads]`.

Forward and backward of tinyseq's `attention` and PyTorch's `scaled_dot_product_attention` in float32, at shapes (batch,
heads, length, width of a head), and a decoding step: one query, forward alone. The heads lie in memory as a layer's
projection leaves them. Each figure is the median of processes that take turns, and the ratio the median of theirs. The
aim: no more than 1.2 times PyTorch's time.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

SHAPES = ((32, 4, 64, 64), (16, 4, 32, 16), (4, 8, 512, 64), (1, 4, 2048, 64), (1, 4, 8192, 64))
CASES = [(shape, causal) for shape in SHAPES for causal in (False, True)]
CACHE = (8, 8, 512, 64)  # of the decoding step


def arrays(batch: int, heads: int, length: int, width: int) -> Any:
    """Query, key, value and the gradient of the result, (4, B, H, T, D), in the memory of (4, B, T, H, D)."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((4, batch, length, heads, width), dtype=np.float32).transpose(0, 1, 3, 2, 4)


def tinyseq() -> Iterator[Callable[[], Any]]:
    import tinyseq as ts
    from tinyseq import functional

    for shape, causal in CASES:
        query, key, value, g = (ts.Tensor(x) for x in arrays(*shape))
        leaves = [ts.Tensor(x.data, True) for x in (query, key, value)]
        yield lambda: ts.grad(functional.attention(*leaves, causal=causal), leaves, g)  # noqa: B023
    query, key, value, _ = (ts.Tensor(x) for x in arrays(*CACHE))
    yield lambda: functional.attention(query[:, :, :1], key, value)


def pytorch() -> Iterator[Callable[[], Any]]:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    attention = torch.nn.functional.scaled_dot_product_attention
    for shape, causal in CASES:
        *leaves, g = (torch.from_numpy(x) for x in arrays(*shape))
        leaves = [x.requires_grad_() for x in leaves]
        yield lambda: torch.autograd.grad(attention(*leaves, is_causal=causal), leaves, g)  # noqa: B023
    query, key, value, _ = (torch.from_numpy(x) for x in arrays(*CACHE))
    yield lambda: attention(query[:, :, :1], key, value)


CONTENDERS = {"tinyseq": tinyseq, "pytorch": pytorch}


def measure(name: str) -> None:
    """Print the milliseconds of each case: the best of a few, after one to warm up."""
    for call in CONTENDERS[name]():
        times: list[float] = []
        call()
        while len(times) < 3 or sum(times) < 0.15:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        print(min(times) * 1e3)


def main(rounds: int = 5, threads: int = 1) -> None:
    some = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    found: dict[str, list[list[float]]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name in CONTENDERS:
            command = [sys.executable, __file__, "--measure", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=some)
            found[name].append([float(line) for line in done.stdout.split()])
    print(f"ms, {threads} thread(s)            tinyseq   PyTorch   ratio")
    cases = [*(f"{shape}{' causal' if causal else ''}" for shape, causal in CASES), f"step {CACHE}"]
    for case, ours, theirs in zip(cases, zip(*found["tinyseq"], strict=True), zip(*found["pytorch"], strict=True),
                                  strict=True):
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        print(f"{case:26} {statistics.median(ours):9.3f} {statistics.median(theirs):9.3f} {ratio:7.2f}")


if __name__ == "__main__":
    measure(sys.argv[2]) if sys.argv[1:2] == ["--measure"] else main(*map(int, sys.argv[1:]))
