"""What NumPy does on this machine, for `python -m tinyseq.doctor`: whether it multiplies right, on how many threads."""

import os
import platform
import re
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from tinyseq.backends import load, threads

TOKEN = (1, 384), (384, 1536)  # a token through a layer of a small Transformer: a product that threads are tried on


def counts() -> list[int]:
    """One thread, and as many as a large product takes."""
    return sorted({1, threads.get_num_threads()}) if threads.library() else []


def fault() -> str:
    """Why NumPy's backend cannot be used; empty where a product of integers is right, on one thread and on many."""
    xp = load("numpy").xp
    a, b = np.arange(480 * 350).reshape(480, 350) % 7, np.arange(350 * 500).reshape(350, 500) % 5
    exact = (a @ b).astype(np.float32)  # integers do not go through BLAS
    blas = threads.library()
    before = blas.get() if blas else 0
    try:
        for n in counts() or [0]:
            if blas:
                blas.set(n)
            found = xp.matmul(a.astype(np.float32), b.astype(np.float32))
            if wrong := int((found != exact).sum()):
                return f"{wrong:,} of {exact.size:,} entries of a product on {n or 'its'} threads are wrong"
    finally:
        if blas:
            blas.set(before)
    return ""


def microseconds(n: int, seconds: float = 0.1) -> float:
    """What a small product takes on n threads, the mean of a tenth of a second: now and then one waits."""
    blas: Any = threads.library()
    before, (a, b) = blas.get(), (np.ones(shape, np.float32) for shape in TOKEN)
    blas.set(n)
    try:
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            a.dot(b)
            done += 1
        return (time.perf_counter() - began) / done * 1e6
    finally:
        blas.set(before)


def about() -> list[str]:
    """Sentences: versions; which BLAS multiplies on how many threads, and what said so; what a small product takes."""
    config: Any = np.show_config(mode="dicts")
    built = config["Build Dependencies"].get("blas", {})
    blas, large = threads.library(), threads.get_num_threads()
    names = "|".join(("TINYSEQ_", *threads.VARIABLES, "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"))
    said = [f"{name}={value}" for name, value in sorted(os.environ.items()) if re.match(names, name)]
    taken = "the library chooses its threads" if blas is None else f"all products take {_threads(large)}"
    if blas and blas.get() != large:
        taken = f"large products take {_threads(large)}, others {blas.get()}"
    try:
        ours = version("tinyseq")
    except PackageNotFoundError:
        ours = "(a checkout, not installed)"
    found = [f"Python {platform.python_version()}, tinyseq {ours} in {sys.modules['tinyseq'].__path__[0]}, "
             f"NumPy {np.__version__}, {', '.join(said) or 'no variable set'}",
             f"BLAS {built.get('name', 'unknown')} {built.get('version', '')}, {os.cpu_count()} processors: {taken}"]
    if blas:
        times = [f"{microseconds(n):,.0f} µs on {_threads(n)}" for n in counts()]
        found.append(f"A small product, {TOKEN[0]} @ {TOKEN[1]}, takes {', '.join(times)}")
    return found


def _threads(n: int) -> str:
    return f"{n} thread{'s' * (n > 1)}"
