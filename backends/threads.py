"""How many threads NumPy's products take: `set_num_threads`, `get_num_threads`, and what is right where nobody says.

A product on several threads ends when the slowest of them does. Where the processors have other work that is when the
system lets the last one run again, some milliseconds later: products of microseconds, which sequence models are made
of, then take a hundred times as long (`tests/benchmarks/threads.py`). So where nobody says a number, products below
LARGE take one thread, and larger ones as many as OpenBLAS would. A number, by a variable that OpenBLAS reads or by
`set_num_threads`, holds for all.

The number is the library's: one for the whole process, for products outside tinyseq too. While threads of Python change
it at once a product may be slow, never wrong; a forked process has the number of its parent.
"""

import ctypes
import functools
import math
import operator
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Array = Any

LARGE = 1 << 29  # multiplications of a product: some 10 ms, longer than a thread waits for its turn
MOST = 1 << 10  # more threads than any of the libraries takes: theirs are C's int
VARIABLES = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")  # that OpenBLAS reads


class Library(NamedTuple):
    """What multiplies for NumPy, and its calls."""

    name: str
    set: Callable[[int], Any]
    get: Callable[[], int]
    opened: Any = None  # the library itself


# As NumPy's wheels name them, then as systems, MKL and BLIS do. Apple's Accelerate has none.
CALLS = (
    ("OpenBLAS", "scipy_openblas_set_num_threads64_", "scipy_openblas_get_num_threads64_"),
    ("OpenBLAS", "scipy_openblas_set_num_threads", "scipy_openblas_get_num_threads"),
    ("OpenBLAS", "openblas_set_num_threads64_", "openblas_get_num_threads64_"),
    ("OpenBLAS", "openblas_set_num_threads", "openblas_get_num_threads"),
    ("MKL", "MKL_Set_Num_Threads", "MKL_Get_Max_Threads"),
    ("BLIS", "bli_thread_set_num_threads", "bli_thread_get_num_threads"),
)


@functools.cache
def library() -> Library | None:
    """The library that NumPy has loaded; None where it has no call for its threads."""
    core: Any = sys.modules["numpy._core._multiarray_umath"]  # opened again it is the same, and looks in what it needs
    files = [Path(core.__file__)]
    if sys.platform == "win32":  # but there
        files += sorted(Path(np.__file__).parents[1].glob("numpy.libs/*openblas*.dll"))
    for file in files:
        opened = ctypes.CDLL(str(file))
        for name, set_, get in CALLS:
            if hasattr(opened, set_) and hasattr(opened, get):
                return Library(name, getattr(opened, set_), getattr(opened, get), opened)
    return None


large: float = math.inf  # products of so many multiplications take ...
many = 1  # ... so many threads, and others what the library is set to
renewed: Callable[[], object] | None = None  # called when a number has been said


_settling = threading.RLock()


def settle() -> None:
    """Choose for the process, once, when NumPy's backend is loaded or the first one asks."""
    with _settling:
        _settle()


@functools.cache
def _settle() -> None:
    """Where nobody has said a number."""
    if not any(os.environ.get(name) for name in VARIABLES):
        reserve(LARGE)


def reserve(least: float) -> None:
    """OpenBLAS's threads are for products of `least` multiplications alone."""
    global large, many
    if (blas := library()) and blas.name == "OpenBLAS" and (n := blas.get()) > 1:
        large, many = least, n
        blas.set(1)


def set_num_threads(n: int) -> None:
    """Let each product of NumPy's arrays take n >= 1 threads, large or small, in the whole process from here on.

    Without this call, products of half a billion multiplications take all processors and smaller ones one thread; with
    OMP_NUM_THREADS or OPENBLAS_NUM_THREADS in the environment, all take that number. A number for all pays on a machine
    that has nothing else to do. More threads than the library was built for are as many as it has. CuPy's arrays do not
    care. As `torch.set_num_threads`.

    A number below 1 is a ValueError, what is no integer a TypeError, and a library that takes no number (Apple's
    Accelerate) a RuntimeError.

    >>> ts.set_num_threads(1)
    >>> ts.get_num_threads()
    1
    """
    try:
        number = operator.index("" if isinstance(n, (bool, np.bool)) else n)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"set_num_threads: expected an integer of 1 or more, got n={n!r}") from None
    if number < 1:
        raise ValueError(f"set_num_threads: expected an integer of 1 or more, got n={n!r}")
    global large
    if (blas := library()) is None:
        raise RuntimeError("set_num_threads: NumPy's BLAS has no call here that sets threads; before Python starts: "
                           f"export VECLIB_MAXIMUM_THREADS={number} (Apple's), or OMP_NUM_THREADS={number}")
    settle()  # which is not to come later
    with _settling:
        large = math.inf
        blas.set(min(number, MOST))
        if renewed:
            renewed()


def get_num_threads() -> int:
    """How many threads a large product of NumPy's arrays takes; the processors, where the library does not say.

    >>> ts.get_num_threads() >= 1
    True
    """
    settle()
    blas = library()
    return (os.cpu_count() or 1) if blas is None else many if large < math.inf else blas.get()


class ProductKernels:
    """NumPy's product, with the threads that it is worth."""

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        # The first says it of most, and soon. NumPy multiplies one matrix after the other.
        if a.size * b.size < large or min(a.ndim, b.ndim) < 2 or a.shape[-2] * a.shape[-1] * b.shape[-1] < large:
            return _matmul(a, b) if out is None else _matmul(a, b, out)
        blas = library()
        assert blas is not None  # or nothing would be large
        blas.set(many)
        try:
            return _matmul(a, b, out)
        finally:
            if large < math.inf:  # or another thread of Python has said a number meanwhile
                blas.set(1)


_matmul = np.matmul  # sooner found here than there
