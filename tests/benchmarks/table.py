"""The table: tinyseq beside PyTorch and others, row by row: `python tests/benchmarks/table.py`.

A training step (forward, and the gradients of the input and all parameters) in float32 unless the row says otherwise,
of the same weights and data. Each contender is a process of its own in each round, and they take turns row by row; a
cell is the median over rounds of the ratio of its time to that of the contender it is against, so below 1 is faster.
All contenders must come to the same outputs and gradients. With --memory, what a step needs beyond its data instead of
time: the high-water mark of a fresh process, libraries and data aside.
"""

import argparse
import gc
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from contenders import ROWS, Row

UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
LONGEST = 0.15                                                  # seconds of repetitions, where one call takes less


class Contender(NamedTuple):
    """The module in contenders/, the package that it needs, its backend, and in how many rounds it takes part."""

    module: str
    needs: str = "numpy"
    backend: str = "numpy"
    rounds: int = 1000


CONTENDERS = {
    "NumPy": Contender("ours"), "Numba": Contender("ours", "numba", "numba"), "PyTorch": Contender("eager", "torch"),
    "by hand": Contender("by_hand"), "onnxruntime": Contender("runtime", "onnxruntime"),
    "JAX": Contender("jit", "jax", rounds=3), "autograd": Contender("hips", "autograd", rounds=3),
    "products": Contender("products", rounds=3)}
JUDGES = ("PyTorch", "by hand", "onnxruntime")


class Process:
    """One contender at work."""

    def __init__(self, name: str, threads: int) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in UNSET}
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        environment["TINYSEQ_BACKEND"] = CONTENDERS[name].backend
        self.name = name
        self.child = subprocess.Popen([sys.executable, __file__, "--work", CONTENDERS[name].module], env=environment,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, row: Row, memory: bool = False) -> Any:
        """(milliseconds or megabytes, means of what came out), or None where it has no such row."""
        assert self.child.stdin and self.child.stdout
        print(json.dumps([ROWS.index(row), memory]), file=self.child.stdin, flush=True)
        if not (line := self.child.stdout.readline()):
            sys.exit(f"{self.name} failed at {row.title}")
        return json.loads(line)

    def end(self) -> None:
        self.child.communicate()


def work(module: str) -> None:
    """What a contender's process does: a row for each line that it is sent."""
    sys.path.append(sys.path.pop(0))                            # profile.py here is not Python's, which PyTorch imports
    contender, out = importlib.import_module(f"contenders.{module}"), os.dup(1)
    os.dup2(2, 1)                                               # what a library prints is no answer
    for line in sys.stdin:
        number, memory = json.loads(line)
        make = getattr(contender, ROWS[number].work, None)
        answer = make and (megabytes if memory else milliseconds)(make, *ROWS[number].arguments)
        os.write(out, (json.dumps(answer) + "\n").encode())


def milliseconds(make: Callable[..., Any], *arguments: Any) -> tuple[float, list[float]]:
    """The median of a few calls, after one that compiles and one that warms up."""
    call = make(*arguments)
    means = sizes(call())
    began, times = time.perf_counter(), list[float]()
    call()
    while not times or time.perf_counter() - began < LONGEST:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3, means


def megabytes(make: Callable[..., Any], *arguments: Any) -> tuple[float, list[float]]:
    """The peak of three calls beyond what was there before them; a small one has loaded and compiled what is needed."""
    small = make(*(min(a, 8) if isinstance(a, int) else a for a in arguments))
    small(), small()
    call = make(*arguments)
    del small
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")               # the mark is where the process is
    before = status("VmRSS")
    means = sizes(call())
    call(), call()
    return status("VmHWM") - before, means


def sizes(outputs: Any) -> list[float]:
    """The mean size of each output's numbers, by which contenders are compared."""
    return [float(np.abs(a.numpy() if hasattr(a, "numpy") else a).mean()) for a in outputs]


def status(field: str) -> float:
    """A line of /proc/self/status in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def measure(rows: list[Row], names: list[str], threads: int, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Milliseconds by row and contender, one a round."""
    found: dict[tuple[str, str], list[float]] = {}
    for turn in range(rounds):
        processes = [Process(name, threads) for name in names if turn < CONTENDERS[name].rounds]
        for row in rows:
            answers = {process.name: process.ask(row) for process in processes[:: 1 if turn % 2 else -1]}
            answers = {name: answer for name, answer in answers.items() if answer}
            agree(row, {name: means for name, (_, means) in answers.items()})
            for name, (ms, _) in answers.items():
                found.setdefault((row.title, name), []).append(ms)
            progress(f"{threads} threads, round {turn + 1} of {rounds}: {row.title}")
        for process in processes:
            process.end()
    progress("")
    return found


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:79}\r", end="", file=sys.stderr, flush=True)


def agree(row: Row, means: dict[str, list[float]]) -> None:
    """All came to the same: the mean size of each output, to a hundredth."""
    known = {name: values for name, values in means.items() if values}
    for name, values in known.items():
        first = next(iter(known.values()))
        if len(values) != len(first) or not np.allclose(values, first, rtol=0.01):
            sys.exit(f"{row.title}: contenders came to other results: {known}")


def ratios(found: dict[tuple[str, str], list[float]], row: Row, name: str) -> float | None:
    """The median of the rounds' ratios, or None."""
    ours, theirs = (found.get((row.title, who)) for who in (name, row.against))
    if not ours or not theirs or name == row.against:
        return None
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", help="those whose title has this in it")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="one round on one thread")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.work)
    names = [name for name in options.contenders if find_spec(CONTENDERS[name].needs)
             and (Path(__file__).parent / "contenders" / f"{CONTENDERS[name].module}.py").exists()]
    rows = [row for row in ROWS if options.rows in row.title]
    if options.quick:
        options.threads, options.rounds = [1], 1
    for threads in options.threads:
        found = measure(rows, names, threads, options.rounds)
        show(rows, names, threads, found)


def show(rows: list[Row], names: list[str], threads: int, found: dict[tuple[str, str], list[float]]) -> None:
    print(f"{threads} threads{'against':>49} {'ms':>9}" + "".join(f"{name:>10}" for name in names if name not in JUDGES))
    for row in rows:
        ms = found.get((row.title, row.against))
        cells = [ratios(found, row, name) for name in names if name not in JUDGES]
        print(f"{row.title:45} {row.against:>12} {statistics.median(ms) if ms else float('nan'):9.3f}"
              + "".join(f"{x:10.2f}" if x else f"{'':10}" for x in cells))


if __name__ == "__main__":
    main()
