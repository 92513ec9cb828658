"""Optimizer steps against PyTorch's: `python tests/benchmarks/optim.py [rounds]`.

A step in milliseconds over a small model, 60 parameters of 8,256 numbers together, and over 10 million numbers in 20
parameters, float32, one thread: each optimizer here, and PyTorch's as it is by default, with foreach=True and with
fused=True, where it has them. Each figure is the median of processes that take turns. The aim: Adam's and AdamW's steps
take less than PyTorch's default. Plain SGD does not (a call for each parameter, two passes over each number), and
PyTorch's fused step, which reads each number once, is two to three times faster still.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}), ("SGD", {"momentum": 0.9}), ("Adam", {}), ("AdamW", {}), ("RMSprop", {}), ("Adafactor", {}),
    ("Lion", {})]
SHAPES = [[(16, 16), (16,), (1, 3)] * 20, [(1000, 500)] * 20]     # of the parameters of each model
WAYS: list[dict[str, Any]] = [{}, {"foreach": True}, {"fused": True}]


def models() -> Iterator[tuple[list[Any], list[Any]]]:
    """The parameters and gradients of each, as arrays."""
    rng = np.random.default_rng(0)
    for shapes in SHAPES:
        yield tuple([rng.standard_normal(s, dtype=np.float32) for s in shapes] for _ in range(2))  # type: ignore[misc]


def tinyseq() -> Iterator[Callable[[], Any] | None]:
    import tinyseq as ts
    from tinyseq import optim

    for arrays, gradients in models():
        for name, options in CASES:
            if name in optim.__all__:
                parameters = [ts.tensor(a, requires_grad=True) for a in arrays]
                for p, g in zip(parameters, gradients, strict=True):
                    p.grad = ts.tensor(g)
                yield getattr(optim, name)(parameters, 1e-6, **options).step


def pytorch() -> Iterator[Callable[[], Any] | None]:
    import torch

    torch.set_num_threads(1)
    for arrays, gradients in models():
        for name, options in CASES:
            for way in WAYS:
                parameters = [torch.tensor(a, requires_grad=True) for a in arrays]
                for p, g in zip(parameters, gradients, strict=True):
                    p.grad = torch.tensor(g)
                try:
                    yield getattr(torch.optim, name)(parameters, 1e-6, **options, **way).step
                except (AttributeError, TypeError):  # it has no such optimizer, or not this way
                    yield None


CONTENDERS = {"tinyseq": tinyseq, "pytorch": pytorch}


def measure(name: str) -> None:
    """Print the milliseconds of each case: the best of a few, after two to warm up."""
    for call in CONTENDERS[name]():
        best, spent = float("inf"), 0.0
        if call is not None:
            call()
            call()
            while spent < 0.3:
                start = time.perf_counter()
                call()
                took = time.perf_counter() - start
                best, spent = min(best, took), spent + took
        print(1000 * best)


def main(rounds: int) -> None:
    times: dict[str, list[list[float]]] = {name: [] for name in CONTENDERS}
    env = os.environ | {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    for _ in range(rounds):
        for name, found in times.items():
            command = [sys.executable, __file__, "--measure", name]
            done = subprocess.run(command, env=env, capture_output=True, text=True)
            if done.returncode and name == "tinyseq":
                sys.exit(done.stderr)
            found.append([float(x) for x in done.stdout.split()])
    ours, theirs = ([statistics.median(x) for x in zip(*found, strict=True)] for found in times.values())
    print(f"{'ms a step':24}{'tinyseq':>10}" + "".join(f"{way:>10}" for way in ("PyTorch", "foreach", "fused")))
    for i in range(2 * len(CASES)):
        name, options = CASES[i % len(CASES)]
        label = f"{name}{' momentum' * bool(options)}, {'60 small' if i < len(CASES) else '10 million'}"
        row = [ours[i], *theirs[len(WAYS) * i:len(WAYS) * (i + 1)]]
        print(f"{label:24}" + "".join(f"{x:10.3f}" if x < float("inf") else f"{'-':>10}" for x in row))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
