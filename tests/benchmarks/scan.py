"""The linear recurrence h_t = a_t h_(t-1) + b_t: `python tests/benchmarks/scan.py [rounds] [threads]`.

Forward, and forward and backward (gradients of a and b), in float32, at shapes (batch, time, width), with a in
[0.98, 1), where all ways are stable:

    linear_scan   functional.linear_scan
    numpy loop    the two of them a step with NumPy alone, written into one array, and its gradients by hand
    loop          a multiplication and an addition a step, with tinyseq's ops
    torch loop    torch.addcmul a step
    torch cumsum  exp(s) cumsum(b exp(-s)), s = cumsum(log a): stable only where the a's product stays far from 0
    torch scan    torch._higher_order_ops.associative_scan(combine_mode="generic"), a prototype, eager
    jax           jax.lax.associative_scan, jitted (if installed)

Each figure is the median of processes that take turns. The aim: at most half of PyTorch's better way, forward and
backward, at the last two shapes, and at most a tenth of the loop of ops at the first.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

SHAPES = ((1, 1000, 64), (16, 1024, 64), (4, 8192, 256))
NEEDS = {"linear_scan": "tinyseq", "numpy loop": "numpy", "loop": "tinyseq", "torch loop": "torch",
         "torch cumsum": "torch", "torch scan": "torch", "jax": "jax"}


def arrays(shape: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.uniform(0.98, 1, shape).astype("f"), *(rng.standard_normal(shape).astype("f") for _ in range(2))]


def tinyseq(fn: Callable[..., Any], shape: tuple[int, ...]) -> Iterator[Callable[[], Any]]:
    import tinyseq as ts

    a, b, g = map(ts.tensor, arrays(shape))
    yield lambda: fn(a, b)
    leaves = [ts.tensor(x, requires_grad=True) for x in (a, b)]
    yield lambda: ts.grad(fn(*leaves), leaves, g)


def linear_scan(shape: tuple[int, ...]) -> Iterator[Callable[[], Any]]:
    from tinyseq import functional as F

    return tinyseq(F.linear_scan, shape)


def numpy_loop(shape: tuple[int, ...]) -> Iterator[Callable[[], Any]]:
    a, b, g = arrays(shape)

    def forward() -> Any:
        h, state = np.empty_like(b), np.zeros_like(b[:, 0])
        for t in range(b.shape[1]):
            h[:, t] = state = a[:, t] * state + b[:, t]
        return h

    def backward() -> Any:
        h, da, db, slope = forward(), np.zeros_like(a), np.empty_like(b), np.zeros_like(b[:, 0])
        for t in reversed(range(b.shape[1])):
            db[:, t] = slope = slope + g[:, t]
            da[:, t] = slope * h[:, t - 1] if t else 0
            slope = slope * a[:, t]
        return da, db

    yield forward
    yield backward


def loop(shape: tuple[int, ...]) -> Iterator[Callable[[], Any]]:
    import tinyseq as ts

    def by_steps(a: Any, b: Any) -> Any:
        h, states = ts.zeros_like(b[:, 0]), []
        for x, y in zip(ts.unstack(a, axis=1), ts.unstack(b, axis=1), strict=True):
            h = x * h + y
            states.append(h)
        return ts.stack(states, axis=1)

    return tinyseq(by_steps, shape)


def torch_with(fn: Callable[..., Any], shape: tuple[int, ...]) -> Iterator[Callable[[], Any]]:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    a, b, g = map(torch.from_numpy, arrays(shape))
    yield torch.no_grad()(lambda: fn(torch, a, b))
    leaves = [a.clone().requires_grad_(), b.clone().requires_grad_()]
    yield lambda: torch.autograd.grad(fn(torch, *leaves), leaves, g)


def torch_loop(shape: tuple[int, ...]) -> Iterator[Callable[[], Any]]:
    def by_steps(torch: Any, a: Any, b: Any) -> Any:
        h, states = torch.zeros_like(b[:, 0]), []
        for x, y in zip(a.unbind(1), b.unbind(1), strict=True):
            h = torch.addcmul(y, x, h)
            states.append(h)
        return torch.stack(states, 1)

    return torch_with(by_steps, shape)


def torch_cumsum(shape: tuple[int, ...]) -> Iterator[Callable[[], Any]]:
    def trick(torch: Any, a: Any, b: Any) -> Any:
        s = torch.cumsum(torch.log(a), 1)
        return torch.exp(s) * torch.cumsum(b * torch.exp(-s), 1)

    return torch_with(trick, shape)


def torch_scan(shape: tuple[int, ...]) -> Iterator[Callable[[], Any]]:
    from torch._higher_order_ops import associative_scan

    def scanned(torch: Any, a: Any, b: Any) -> Any:
        combine = lambda x, y: (x[0] * y[0], y[0] * x[1] + y[1])
        return associative_scan(combine, (a, b), 1, combine_mode="generic")[1]

    return torch_with(scanned, shape)


def jax(shape: tuple[int, ...]) -> Iterator[Callable[[], Any]]:
    import jax

    a, b, g = map(jax.numpy.asarray, arrays(shape))
    combine = lambda x, y: (x[0] * y[0], y[0] * x[1] + y[1])
    fn = jax.jit(lambda a, b: jax.lax.associative_scan(combine, (a, b), axis=1)[1])
    back = jax.jit(jax.grad(lambda a, b: (fn(a, b) * g).sum(), (0, 1)))
    yield lambda: fn(a, b).block_until_ready()
    yield lambda: jax.block_until_ready(back(a, b))


def measure(name: str) -> None:
    """Print the milliseconds of each shape, forward and with backward: the median of a few, after two to warm up."""
    for shape in SHAPES:
        for call in globals()[name.replace(" ", "_")](shape):
            times: list[float] = []
            call(), call()
            while len(times) < 3 or sum(times) < 0.3:
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
            print(statistics.median(times) * 1e3)


def main(rounds: int = 5, threads: int = 1) -> None:
    some = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)) | {
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()} intra_op_parallelism_threads={threads}"}
    found: dict[str, list[list[float]]] = {name: [] for name, package in NEEDS.items() if find_spec(package)}
    for _ in range(rounds):
        for name, runs in found.items():
            command = [sys.executable, __file__, "--measure", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=some)
            runs.append([float(line) for line in done.stdout.split()])
    print(f"ms, forward / forward and backward, {threads} thread(s)")
    print(f"{'':14}" + "".join(f"{shape!s:>20}" for shape in SHAPES))
    for name, runs in found.items():
        middle = [statistics.median(column) for column in zip(*runs, strict=True)]
        cells = [f"{middle[i]:.2f} / {middle[i + 1]:.2f}" for i in range(0, len(middle), 2)]
        print(f"{name:14}" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2])
    else:
        main(*map(int, sys.argv[1:]))
