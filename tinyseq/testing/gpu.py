"""Checks and times the CuPy backend on the GPU at hand: `python -m tinyseq.testing.gpu` writes a report for an issue.

Each op that runs a kernel is held to NumPy's, a few training steps of each model run under `parity`, and then training
steps are timed, beside PyTorch where that is installed and sees the device. The exit code is 0 if all checks passed.
"""

from __future__ import annotations

import argparse
import itertools
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tinyseq import backends, functional, nn, optim
from tinyseq.backends import doctor, doctor_numpy
from tinyseq.engine import ops, random
from tinyseq.engine.debug import flat
from tinyseq.engine.tensor import Tensor
from tinyseq.testing.compare import difference, parity

MODELS = ("RNN", "GRU", "LSTM", "Transformer")
TIME = 32  # length of the sequences that are timed
SIZES = ((128, 32), (512, 32), (512, 128), (1024, 128))  # widths and batches
CLOCKS = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"

# How large the data is that kernels are checked on: rows, columns (at least as many), the shape of ids, the arrays that
# an optimizer steps at once, and the batch of recurrent layers, whose width is 40.
Extent = tuple[int, int, tuple[int, int], int, int]
SMALL = (33, 70, (6, 11), 3, 6)  # a warp a row
LARGE = (300, 1500, (30, 100), 70, 30)  # many warps a row, blocks, tiles of ids, and launches of an optimizer


class Survey(parity):
    """`parity` that goes on where backends part, and keeps what is wrong with each op by its name and dtype."""

    def __init__(self, dtype: str, problems: dict[str, str]) -> None:
        super().__init__()
        self.dtype, self.problems = dtype, problems

    def _hold(self, backend: str, given: str, found: Any, expected: Any, size: float) -> None:
        name = f"{given.partition('(')[0]} {self.dtype}"
        self.compared += 1
        self.problems[name] = self.problems.get(name) or difference(found, expected, size)


def exercise(dtype: str, extent: Extent) -> None:
    """Run every kernel of the active backend through the ops that call it, forward and backward."""
    rows, columns, shape, arrays, batch = extent
    rng = np.random.default_rng(0)

    def some(*shape: int) -> Tensor:
        return ops.tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True)

    def run(*results: Any) -> None:
        total: Any = sum(ops.sum(ops.square(y)) for y in flat(results))
        total.backward()

    x, weight, bias, a, b = some(rows, columns), some(columns), some(columns), some(3, 5, 7), some(3, 4, 7)
    mask, ids = ops.tensor(rng.random((rows, columns)) < 0.7), ops.tensor(rng.integers(0, rows, shape))
    targets = ops.tensor(np.where(np.arange(rows) % 5, np.arange(rows), -100))
    run(x @ weight, x @ some(rows, columns).mT, a @ b.mT, ops.erf(3 * x), ops.sigmoid(3 * x))
    run(ops.mean(x, 0), functional.gelu(3 * x), functional.gelu(3 * x, "tanh"), functional.dropout(x, 0.3))
    run(functional.layer_norm(x, columns, weight, bias), functional.layer_norm(x, columns))
    for axis in (0, 1):
        run(functional.softmax(x, axis, mask), functional.log_softmax(x, axis))
    run(functional.cross_entropy(x, targets, abs(weight).detach(), label_smoothing=0.1))
    query, key, value = (some(2, 3, n, 9) for n in (rows, columns, columns))
    run(functional.attention(query, key, value, mask, causal=True))
    run(functional.embedding(ids, x[:, :140], 2))  # a block takes 128 columns
    run(x[ids], x[ids, ids % 7], x[:, 3])  # pairs come again
    lengths, of = np.resize([9, 4, 0, 9, 1, 6], batch), dict[str, Any](bidirectional=True, dtype=np.dtype(dtype))
    for layer in (nn.RNN(24, 40, **of), nn.RNN(24, 40, 1, "relu", bias=False, **of), nn.GRU(24, 40, **of),
                  nn.GRU(24, 40, reset="before", **of), nn.LSTM(24, 40, **of), nn.MinGRU(24, 40, **of)):
        run(layer(some(batch, 9, 24)), layer(some(batch, 9, 24), lengths=lengths))
    frames = some(batch, 9, 24)
    run(functional.conv1d(frames, some(6, 12, 3), some(6), 2, 1, groups=2), functional.max_pool1d(frames, 3, 2),
        functional.avg_pool1d(frames, 3, 2))
    logs, crf = functional.log_softmax(some(batch, 9, 5)), nn.CRF(5, dtype)
    run(nn.CTCLoss(reduction="none")(logs, [[1, 1]] * batch, [9] * batch, [2] * batch))
    run(crf(some(batch, 9, 5), np.resize(np.arange(5), (batch, 9)), lengths))
    parameters = [some(*s) for s in [(rows, columns), *((3000,), (1,), (5, 7)) * arrays][:arrays]]
    for optimizer in (optim.SGD(parameters, 0.1, 0.9, weight_decay=0.01, nesterov=True),
                      optim.Adam(parameters, weight_decay=0.1), optim.AdamW(parameters), optim.Adafactor(parameters),
                      optim.RMSprop(parameters, 0.01, momentum=0.9, centered=True), optim.Lion(parameters, 0.01)):
        run(parameters)
        optim.clip_grad_norm_(parameters, 1.0)
        optim.clip_grad_value_(parameters, 1e-3)
        optimizer.step()
        optimizer.step()
    half = ops.tensor(rng.standard_normal(columns).astype(np.float16), requires_grad=True)
    half.grad = ops.ones_like(half.detach())
    halved = optim.SGD([half], 1.0)
    halved.step()
    half.data = -half.detach()  # which the master follows
    halved.step()


def check_kernels(extents: Sequence[Extent]) -> dict[str, str]:
    """What is wrong with each op of the CuPy backend and its gradient, by name and dtype; "" where nothing is."""
    found: dict[str, str] = {}
    backend = backends.load("cupy")
    random.manual_seed(0)
    for dtype, extent in itertools.product(("float32", "float64"), extents):
        with Survey(dtype, found):
            exercise(dtype, extent)
        found |= few_vectors(backend, dtype)
    raw = difference(backend.random_raw(7, 3, 1001), backends.load("numpy").random_raw(7, 3, 1001))
    return found | {"random_raw": raw, "matmul float16": half_product(backend),
                    "embedding of an id that is no row": beyond(backend)}


def few_vectors(backend: Any, dtype: str) -> dict[str, str]:
    """What is wrong with each kernel of a step, held to NumPy's."""
    rng = np.random.default_rng(0)
    x, weight, bias, q, k, v = (rng.standard_normal(shape).astype(dtype) for shape in (
        (40, 3), (70, 40), (70,), (3, 4, 40), (3, 2, 90, 40), (3, 2, 90, 40)))
    calls = {"linear_few": (x, weight, bias), "norm_few": (x, weight[0], bias[:40], 1e-5), "gelu_few": (x,),
             "attention_few": (q, k, v, rng.random((3, 90)) < 0.7, 2.0), "best_few": (x,)}
    found = {}
    for kernel, args in calls.items():
        given = [backend.asarray(a) if isinstance(a, np.ndarray) else a for a in args]
        got, expected = getattr(backend, kernel)(*given), getattr(backends.load("numpy"), kernel)(*args)
        pairs = zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]
        found[f"{kernel} {dtype}"] = next((wrong for a, b in pairs if (wrong := difference(a, b))), "")
    layer, past = nn.TransformerEncoderLayer(40, 4, 70, norm_first=True, dtype=np.dtype(dtype)), k[:, :, None, :10, :10]
    steps = []
    for parts in (layer._parts, lambda: None):  # all at once, and one by one
        layer._parts = parts  # type: ignore[method-assign]
        there = backend.asarray(np.repeat(past, 4, 2), copy=True)
        steps.append(backend.asnumpy(layer.step(backend.asarray(x), there, 5, None, None)))
    return found | {f"layer_few {dtype}": difference(*steps)}


def half_product(backend: Any) -> str:
    """What is wrong with products of float16, which are summed in float32 and rounded once."""
    a, b = np.random.default_rng(0).standard_normal((2, 48, 4096)).astype(np.float16)
    y = backend.asnumpy(backend.xp.matmul(backend.asarray(a), backend.asarray(b).T))
    exact = a.astype(np.float32) @ b.astype(np.float32).T
    return difference(y.astype(np.float32), exact, tolerance=2.0**13)  # a unit of float16 in the largest entry


def beyond(backend: Any) -> str:
    """What is wrong with ids on the device that are no row of a table, where NumPy raises: NaN is due."""
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    ids = backend.asarray(np.array([2, 3, 0, -1, 1 << 40]))
    expected = np.where([[True], [False], [True], [False], [False]], table[[2, 0, 0, 0, 0]], np.float32(math.nan))
    return difference(backend.embedding(backend.asarray(table), ids), expected)


def check_models() -> dict[str, str]:
    """What is wrong with each model in a few steps under `parity`; "" where nothing is."""
    found = dict.fromkeys(MODELS, "")
    for kind in MODELS:
        try:
            with parity():
                step = training(kind, random.normal((4, 6, 16)), nn, optim)
                for _ in range(3):
                    step()
        except AssertionError as problem:
            found[kind] = str(problem)
    return found


def training(kind: str, x: Any, nn: Any, optim: Any) -> Callable[[], Any]:
    """One training step of a model on x (B, T, width), which returns the loss, in this library or in PyTorch."""
    width = x.shape[-1]
    name, sizes = ("TransformerEncoderLayer", (width, 4, 4 * width)) if kind == MODELS[-1] else (kind, (width, width))
    model = getattr(nn, name)(*sizes, batch_first=True)
    optimizer = optim.Adam(model.parameters())

    def step() -> Any:
        y = model(x)
        loss = (y[0] if isinstance(y, tuple) else y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


def milliseconds(step: Callable[[], Any], wait: Callable[[], Any], repeats: int = 7) -> float:
    """The median time of a step, over blocks of as many as take a tenth of a second; three steps come before."""
    for _ in range(3):
        step()
    wait()
    times, count = [], 1
    for _ in range(1 + repeats):
        began = time.perf_counter()
        for _ in range(count):
            step()
        wait()
        times.append((time.perf_counter() - began) / count)
        count = math.ceil(0.1 / times[0])
    return 1e3 * statistics.median(times[1:])


def report(quick: bool) -> tuple[str, bool]:
    """The report as Markdown, and whether all checks passed."""
    cupy, backend = import_module("cupy"), backends.load("cupy")
    device = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    name = "CPU-emulated CuPy" if b"emulator" in device["name"] else device["name"].decode()
    torch: Any = import_module("torch") if find_spec("torch") else None
    about = [*doctor_numpy.about(), platform.platform(), f"PyTorch {torch.__version__ if torch else 'none'}",
             f"CuPy {cupy.__version__}, CUDA {cupy.cuda.runtime.runtimeGetVersion()}, compute capability "
             f"{device['major']}.{device['minor']}", f"{CLOCKS}: {doctor.smi(CLOCKS) or 'nvidia-smi is not there'}"]
    lines = [f"# tinyseq on {name}", "", *(f"- {line}" for line in about)]
    checks = {"Kernels against NumPy's": check_kernels([SMALL] if quick else [SMALL, LARGE]),
              "Training in step with NumPy": check_models()}
    for title, found in checks.items():
        right = [name for name, problem in found.items() if not problem]
        lines += ["", f"## {title}", "", *(f"- {name}: {problem}" for name, problem in found.items() if problem),
                  f"{len(right)} of {len(found)} agree: {', '.join(right)}"]
    lines += ["", "## Milliseconds a training step", ""]
    if name == "CPU-emulated CuPy":
        lines += [f"None: this is {name}, whose times mean nothing.", ""]
    else:
        lines += [*table(torch, backend.synchronize, [(64, 16)] if quick else SIZES), ""]
    return "\n".join(lines), not any(problem for found in checks.values() for problem in found.values())


def table(torch: Any, wait: Callable[[], Any], sizes: Sequence[tuple[int, int]]) -> list[str]:
    """Times of each model on the active backend, and in PyTorch where that is given and has a GPU."""
    beside = torch is not None and torch.cuda.is_available()
    lines = [f"float32, {TIME} steps in time, Adam; the median of blocks of training steps", "",
             "| model | width | batch | tinyseq | PyTorch | ratio |", "|---|---|---|---|---|---|"]
    for kind, (width, batch) in itertools.product(MODELS, sizes):
        ours, theirs = milliseconds(training(kind, random.normal((batch, TIME, width)), nn, optim), wait), math.nan
        if beside:
            with torch.device("cuda"):
                step = training(kind, torch.randn(batch, TIME, width), torch.nn, torch.optim)
            theirs = milliseconds(step, torch.cuda.synchronize)
        lines.append(f"| {kind} | {width} | {batch} | {ours:.2f} | {theirs:.2f} | {ours / theirs:.2f} |")
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tinyseq.testing.gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="check and time small sizes only")
    parser.add_argument("--out", default="tinyseq-gpu-report.md", metavar="FILE", help="where the report goes")
    options = parser.parse_args(arguments)
    if findings := doctor.diagnose(doctor.probe()):
        sys.exit("\n".join(map(str, findings)))
    with backends.use_backend("cupy"):
        text, right = report(options.quick)
    Path(options.out).write_text(text, encoding="utf-8")
    print(f"{text}\nwritten to {options.out}" + ("" if right else ": please attach it to an issue"))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
