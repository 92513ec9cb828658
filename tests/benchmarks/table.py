"""The table: tinyseq beside PyTorch and others, row by row. `python tests/benchmarks/table.py`, or `make bench`.

A row is a training step unless its name says otherwise: forward, and the gradients of the input and of all parameters,
in float32. All contenders begin with the same weights and data (contenders/__init__.py has the rows), and one that
comes to other outputs or gradients ends the run. In each round each contender is a process of its own, and they take
turns row by row; a cell is the median over the rounds of its time as a ratio to the time of the contender that the row
is against, on each number of threads: below 1 is faster. JAX, autograd and the bare matrix products take part in three
rounds. Contenders that are not installed are named and left out.

--memory: what a step needs beyond libraries and data, by the high-water mark of a fresh process (Linux alone).
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
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from contenders import ROWS, STEPS, Row
from shown import Found, draw, markdown, text

UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")               # of OpenBLAS as it is
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
SECONDS = 0.15                                                  # of repetitions, where one call takes less


class Contender(NamedTuple):
    """The module in contenders/, what has to be installed, tinyseq's backend, and in how many rounds it takes part."""

    module: str
    needs: tuple[str, ...] = ()
    backend: str = "numpy"
    rounds: int = 1000


CONTENDERS = {
    "NumPy": Contender("ours"), "Numba": Contender("ours", ("numba",), "numba"),
    "PyTorch": Contender("eager", ("torch",)), "by hand": Contender("by_hand"),
    "onnxruntime": Contender("runtime", ("onnxruntime", "onnx")), "JAX": Contender("jit", ("jax",), rounds=3),
    "autograd": Contender("hips", ("autograd",), rounds=3), "products": Contender("products", rounds=3)}


class Process:
    """A contender at work, which is sent rows and answers."""

    def __init__(self, name: str, threads: int) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in UNSET} | dict.fromkeys(THREADS, str(threads))
        environment["TINYSEQ_BACKEND"], self.name = CONTENDERS[name].backend, name
        self.child = subprocess.Popen([sys.executable, __file__, "--work", CONTENDERS[name].module], env=environment,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, row: Row, memory: bool = False) -> Any:
        """[milliseconds or megabytes, sizes of what came out], or None where it has no such row."""
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
        answer = make and (megabytes if memory else milliseconds)(make, ROWS[number].arguments)
        os.write(out, (json.dumps(answer) + "\n").encode())


def milliseconds(make: Callable[..., Any], arguments: Iterable[Any]) -> tuple[float, list[float]]:
    """The median of some calls, after one that compiles and warms up."""
    call = make(*arguments)
    out = sizes(call())
    began, times = time.perf_counter(), list[float]()
    while not times or time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3, out


def megabytes(make: Callable[..., Any], arguments: Iterable[Any]) -> tuple[float, list[float]]:
    """The peak of three calls beyond what was there before; a small one has loaded and compiled what they need."""
    small = make(*(min(a, 12) if isinstance(a, int) else a for a in arguments))
    small(), small()
    del small
    call = make(*arguments)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")               # the mark is where the process is
    before = memory("VmRSS")
    out = [sizes(call()), call(), call()][0]
    return memory("VmHWM") - before, out


def memory(field: str) -> float:
    """A line of /proc/self/status in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def sizes(outputs: Any) -> list[float]:
    """The mean size of each output's numbers, by which contenders are compared."""
    return [float(np.abs(a.numpy() if hasattr(a, "numpy") else a).mean()) for a in outputs]


def agree(row: Row, answers: dict[str, Any]) -> None:
    """All came to the same, to 0.3% of each output's size; the bare products come to nothing."""
    known = {name: out for name, (_, out) in answers.items() if out}
    for out in known.values():
        first = next(iter(known.values()))
        if len(out) != len(first) or not np.allclose(out, first, rtol=3e-3):
            sys.exit(f"{row.title}: contenders came to other results: {known}")


def take_turns(rows: list[Row], names: list[str], threads: int, rounds: int, found: Found) -> None:
    """Put the milliseconds of all rounds into found."""
    for turn in range(rounds):
        processes = [Process(name, threads) for name in names if turn < CONTENDERS[name].rounds]
        for row in rows:
            progress(f"{threads} threads, round {turn + 1} of {rounds}: {row.title}")
            answers = {process.name: process.ask(row) for process in processes[:: 1 if turn % 2 else -1]}
            keep(row, threads, answers, found)
        for process in processes:
            process.end()


def weigh(rows: list[Row], names: list[str], threads: int, found: Found) -> None:
    """Put the megabytes of each row into found, each from a process of its own."""
    for row in rows:
        progress(f"{threads} threads: {row.title}")
        answers = {}
        for name in names:
            process = Process(name, threads)
            answers[name] = process.ask(row, memory=True)
            process.end()
        keep(row, threads, answers, found)


def keep(row: Row, threads: int, answers: dict[str, Any], found: Found) -> None:
    answers = {name: answer for name, answer in answers.items() if answer}
    agree(row, answers)
    for name, (value, _) in answers.items():
        found.setdefault((row, name, threads), []).append(value)


def progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{line:79}\r", end="", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=[""], metavar="WORD", help="rows with one of these in their names")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="one round on one thread")
    parser.add_argument("--memory", action="store_true", help="megabytes of a training step, instead of time")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there, too")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw it there")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.work)
    if options.quick:
        options.threads, options.rounds = [1], 1
    names = list[str]()
    for name in options.contenders:
        lacking = [package for package in CONTENDERS[name].needs if not find_spec(package)]
        print(f"{name} is left out: pip install {' '.join(lacking)}") if lacking else names.append(name)
    rows = [row for row in (STEPS if options.memory else ROWS) if any(word in row.title for word in options.rows)]
    found: Found = {}
    for threads in options.threads:
        if options.memory:
            weigh(rows, [name for name in ("NumPy", "Numba", "PyTorch") if name in names], threads, found)
        else:
            take_turns(rows, names, threads, options.rounds, found)
    progress("")
    unit = "MB" if options.memory else "ms"
    print(text(found, unit))
    for file, write in (options.markdown, markdown), (options.picture, draw):
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            write(found, unit, file)


if __name__ == "__main__":
    main()
