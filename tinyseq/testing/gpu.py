"""Checks and times the CuPy backend on the GPU at hand: `python -m tinyseq.testing.gpu` writes a report for an issue.

Each kernel is held to NumPy's portable one, a few training steps of each model run under `parity`, and then training
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
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tinyseq import backends, doctor, functional, nn, ops, optim, random
from tinyseq.testing.compare import difference, parity

MODELS = ("RNN", "GRU", "LSTM", "encoder-decoder")
WORDS, TIME = 1000, 32  # vocabulary and length of the sequences that are timed
SIZES = ((128, 32), (512, 32), (512, 128), (1024, 128))  # widths and batches
CLOCKS = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"

# How large the data is that kernels are checked on: rows, columns (at least as many), the shape of ids, the arrays that
# an optimizer steps at once, and the batch of recurrent layers, whose width is 40.
Extent = tuple[int, int, tuple[int, int], int, int]
SMALL = (33, 70, (6, 11), 3, 6)  # a warp a row
LARGE = (300, 1500, (30, 100), 70, 30)  # many warps a row, blocks, tiles of ids, and launches of an optimizer


def kernels(backend: Any, dtype: Any, extent: Extent) -> Iterator[tuple[str, Any]]:
    """(name, results) of every kernel of a backend, on data that is the same for all backends."""
    rows, columns, shape, arrays, batch = extent
    rng = np.random.default_rng(0)

    def some(*shape: int) -> Any:
        return backend.asarray(rng.standard_normal(shape), dtype=dtype)

    x, g, weight, bias = some(rows, columns), some(rows, columns), some(columns), some(columns)
    mask = backend.asarray(rng.random((rows, columns)) < 0.7)
    ids = backend.asarray(rng.integers(0, rows, shape))
    yield "random_raw", backend.random_raw(7, 3, rows * columns + 1).view(np.int64)
    yield "dropout_mask", backend.dropout_mask((rows, columns), 0.3, 7, 5)
    products = [backend.xp.matmul(a, b.swapaxes(-2, -1)) for a, b in ((x, g), (some(3, 5, 7), some(3, 4, 7)))]
    yield "matmul", [x @ weight, *products]
    yield "erf", backend.erf(3 * x)
    yield "sigmoid", backend.sigmoid(3 * x)
    yield "gelu", [backend.gelu(3 * x, tanh) for tanh in (False, True)]
    yield "gelu_backward", [backend.gelu_backward(g, 3 * x, tanh) for tanh in (False, True)]
    for axis in (0, 1):
        yield "softmax", (y := backend.softmax(x, axis, mask))
        yield "softmax_backward", backend.softmax_backward(g, y, axis)
        yield "log_softmax", (y := backend.log_softmax(x, axis))
        yield "log_softmax_backward", backend.log_softmax_backward(g, y, axis)
    targets = backend.asarray(np.where(np.arange(rows) % 5, np.arange(rows), -100))
    losses, weights, saved = backend.cross_entropy(x, targets, abs(weight), 0.1)
    yield "cross_entropy", (losses, weights)
    yield "cross_entropy_backward", backend.cross_entropy_backward(g[:, 0], saved)
    y, saved = backend.layer_norm(x, weight, bias)
    yield "layer_norm", y
    yield "layer_norm_backward", backend.layer_norm_backward(g, saved, weight)
    query, key, value, upstream = (some(2, 3, n, 9) for n in (rows, columns, columns, rows))
    y, saved = backend.attention(query, key, value, mask, True, 0.3, (0.0, 0, 0))
    yield "attention", y
    yield "attention_backward", backend.attention_backward(upstream, saved)
    table, pairs = x[:, :140], (ids, ids % 7)  # a block takes 128 columns; pairs come again
    upstream = some(*shape, table.shape[1])
    yield "embedding", backend.embedding(table, ids)
    yield "embedding_backward", backend.embedding_backward(upstream, ids, rows, 2)
    yield "getitem", [backend.getitem(x, index) for index in (ids, pairs, (slice(None), 3))]
    yield "unindex", [backend.unindex(upstream, ids, table.shape), backend.unindex(some(*shape), pairs, x.shape)]
    for cell, gates in (("rnn_tanh", 1), ("rnn_relu", 1), ("gru", 3), ("gru_before", 3), ("lstm", 4)):
        for lengths, reverse in ((None, False), (np.resize([9, 4, 0, 9, 1, 6], batch), True)):
            w_ih, w_hh, lstm = some(gates * 40, 24) / 5, some(gates * 40, 40) / 7, cell == "lstm"
            h, c = some(batch, 40), some(batch, 40) if lstm else None
            data = [some(batch, 9, 24), h, c, w_ih, w_hh, some(gates * 40), None]
            *out, saved = backend.rnn_forward(cell, *data, lengths, reverse)
            gradients = some(batch, 9, 40), some(batch, 40), some(batch, 40) if lstm else None
            needs = [x is not None for x in data]
            yield "rnn_forward", out
            yield "rnn_backward", backend.rnn_backward(cell, saved, *gradients, needs)
    shapes = [(rows, columns), *((3000,), (1,), (5, 7)) * arrays][:arrays]
    grads, params, m, v = ([some(*shape) for shape in shapes] for _ in range(4))
    yield "global_norm", backend.global_norm(grads)
    backend.sgd_step(params, grads, m, 0.1, 0.9, nesterov=True, weight_decay=0.01)
    yield "sgd_step", [params, m]
    for decoupled in (False, True):
        backend.adam_step(params, grads, m, (v := [a * a for a in v]), 3, 0.01, weight_decay=0.1, decoupled=decoupled)
        yield "adam_step", [params, m, v]
    backend.scale(grads, backend.asarray(0.5, dtype=dtype))
    yield "scale", grads


def check_kernels(extents: Sequence[Extent]) -> list[tuple[str, str]]:
    """(kernel and dtype, what is wrong or "") for each kernel of the CuPy backend."""
    found: dict[str, str] = {}
    backend, numpy = backends.load("cupy"), backends.load("numpy")
    for dtype, extent in itertools.product((np.float32, np.float64), extents):
        pairs = zip(kernels(backend, dtype, extent), kernels(numpy, dtype, extent), strict=True)
        for (name, ours), (_, theirs) in pairs:
            problem = difference(ours, theirs, size=10.0) or ""  # what goes in is about that large
            found[f"{name} {np.dtype(dtype)}"] = found.get(f"{name} {np.dtype(dtype)}") or problem
    found["matmul float16"] = half_product(backend)
    found["embedding of an id that is no row"] = beyond(backend)
    return list(found.items())


def half_product(backend: Any) -> str:
    """What is wrong with products of float16, which are summed in float32 and rounded once; or ""."""
    a, b = np.random.default_rng(0).standard_normal((2, 48, 4096)).astype(np.float16)
    y = backend.asnumpy(backend.xp.matmul(backend.asarray(a), backend.asarray(b).T))
    exact = a.astype(np.float32) @ b.astype(np.float32).T
    return difference(y.astype(np.float32), exact, tolerance=2.0**13) or ""  # a unit of float16 in the largest entry


def beyond(backend: Any) -> str:
    """What is wrong with ids on the device that are no row of a table, where NumPy raises: NaN is due; or ""."""
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    ids = backend.asarray(np.array([2, 3, 0, -1, 1 << 40]))
    expected = np.array([[4, 5], [math.nan] * 2, [0, 1], [math.nan] * 2, [math.nan] * 2], dtype=np.float32)
    return difference(backend.asnumpy(backend.embedding(backend.asarray(table), ids)), expected) or ""


def training(kind: str, width: int, batch: int, steps: int = TIME) -> Callable[[], Any]:
    """One training step of a model, on the active backend."""
    random.manual_seed(0)
    ids, x = random.integers((batch, steps + 1), 0, WORDS), random.normal((batch, steps, width))
    if kind in MODELS[:3]:
        model = getattr(nn, kind)(width, width)
        return _step(lambda: ops.mean(ops.square(model(x)[0])), optim.Adam(model.parameters()))
    decoder = nn.AttentionDecoder(WORDS, width, width, nn.DotAttention(width, width), width)
    model = nn.EncoderDecoder(nn.Embedding(WORDS, width), nn.GRU(width, width // 2, bidirectional=True), decoder)
    loss = lambda: functional.cross_entropy(model(ids, None, ids[:, :-1]), ids[:, 1:])
    return _step(loss, optim.Adam(model.parameters()))


def torch_training(torch: Any, device: str, kind: str, width: int, batch: int) -> Callable[[], Any]:
    """The same in PyTorch."""
    t, layers = torch.nn, torch.nn.ModuleDict()
    ids = torch.randint(0, WORDS, (batch, TIME + 1), device=device)
    x = torch.randn(batch, TIME, width, device=device)
    if kind in MODELS[:3]:
        layers["rnn"] = getattr(t, kind)(width, width, batch_first=True).to(device)
        return _step(lambda: layers["rnn"](x)[0].square().mean(), torch.optim.Adam(layers.parameters()))
    layers["source"], layers["target"] = t.Embedding(WORDS, width), t.Embedding(WORDS, width)
    layers["encoder"] = t.GRU(width, width // 2, batch_first=True, bidirectional=True)
    layers["decoder"] = t.GRU(width, width, batch_first=True)
    layers["combine"], layers["out"] = t.Linear(2 * width, width), t.Linear(width, WORDS)

    def loss() -> Any:
        memory, final = layers["encoder"](layers["source"](ids))
        s, _ = layers["decoder"](layers["target"](ids[:, :-1]), torch.cat([final[0], final[1]], -1)[None])
        context = (s @ memory.mT).softmax(-1) @ memory
        logits = layers["out"](layers["combine"](torch.cat([context, s], -1)).tanh())
        return t.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    return _step(loss, torch.optim.Adam(layers.to(device).parameters()))


def _step(loss: Callable[[], Any], optimizer: Any) -> Callable[[], Any]:
    """A training step, which returns the loss; the two libraries' names are the same."""

    def step() -> Any:
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return value

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


def check_models() -> list[tuple[str, str]]:
    """(model, what is wrong or "") for a few steps of each model under `parity`."""
    found = []
    for kind in MODELS:
        try:
            with parity():
                step = training(kind, 16, 4, 6)
                for _ in range(3):
                    step()
            found.append((kind, ""))
        except AssertionError as problem:
            found.append((kind, str(problem)))
    return found


def report(quick: bool) -> tuple[str, bool]:
    """The report as Markdown, and whether all checks passed."""
    cupy, backend = import_module("cupy"), backends.load("cupy")
    device = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    name, emulated = device["name"].decode(), b"emulator" in device["name"]
    torch: Any = import_module("torch") if find_spec("torch") else None
    about = [*doctor.about_numpy(), platform.platform(), f"PyTorch {torch.__version__ if torch else 'none'}",
             f"CuPy {cupy.__version__}, CUDA {cupy.cuda.runtime.runtimeGetVersion()}, compute capability "
             f"{device['major']}.{device['minor']}", f"{CLOCKS}: {doctor.smi(CLOCKS) or 'nvidia-smi is not there'}"]
    lines = [f"# tinyseq on {'CPU-emulated CuPy' if emulated else name}", "", *(f"- {line}" for line in about)]
    checks = {"Kernels against NumPy's": check_kernels([SMALL] if quick else [SMALL, LARGE]),
              "Training in step with NumPy": check_models()}
    for title, found in checks.items():
        right = [name for name, problem in found if not problem]
        lines += ["", f"## {title}", "", *(f"- {name}: {problem}" for name, problem in found if problem),
                  f"{len(right)} of {len(found)} agree: {', '.join(right)}"]
    none = ["None: this is CPU-emulated CuPy, whose times mean nothing."]
    times = none if emulated else table(torch, backend.synchronize, [(64, 16)] if quick else SIZES)
    lines += ["", "## Milliseconds a training step", "", *times]
    return "\n".join([*lines, ""]), not any(problem for found in checks.values() for _, problem in found)


def table(torch: Any, wait: Callable[[], Any], sizes: Sequence[tuple[int, int]]) -> list[str]:
    """Times of each model on the active backend, and in PyTorch where that is given and has a GPU."""
    beside = torch is not None and torch.cuda.is_available()
    lines = [f"float32, {TIME} steps in time, Adam; the median of blocks of training steps", "",
             "| model | width | batch | tinyseq | PyTorch | ratio |", "|---|---|---|---|---|---|"]
    for kind in MODELS:
        for width, batch in sizes:
            ours, theirs = milliseconds(training(kind, width, batch), wait), math.nan
            if beside:
                theirs = milliseconds(torch_training(torch, "cuda", kind, width, batch), torch.cuda.synchronize)
            lines.append(f"| {kind} | {width} | {batch} | {ours:.2f} | {theirs:.2f} | {ours / theirs:.2f} |")
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tinyseq.testing.gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="check and time small sizes only")
    parser.add_argument("--out", default="tinyseq-gpu-report.md", metavar="FILE", help="where the report goes")
    options = parser.parse_args(arguments)
    findings = doctor.diagnose(doctor.probe())
    if findings:
        sys.exit("\n".join(f"{finding.sentence}\n    {finding.command}" for finding in findings))
    with backends.use_backend("cupy"):
        text, right = report(options.quick)
    Path(options.out).write_text(text, encoding="utf-8")
    print(f"{text}\nwritten to {options.out}" + ("" if right else ": please attach it to an issue"))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
