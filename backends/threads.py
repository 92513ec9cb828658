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
WORTH = 1 << 24  # those worth two of our threads, where a number was said
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


_large: float = math.inf  # products of so many multiplications take ...
_many = 1  # ... so many threads, and others what the library is set to
_ours = False  # whether these are our threads, and the library's is one


_settling = threading.RLock()


def settle() -> None:
    """Choose for the process, once, when NumPy's backend is loaded or the first one asks."""
    with _settling:
        _settle()


@functools.cache
def _settle() -> None:
    """Where nobody has said a number."""
    global _large, _many
    blas = library()
    if blas and blas.name == "OpenBLAS" and not any(os.environ.get(name) for name in VARIABLES):
        _many = blas.get()
        if _many > 1:
            blas.set(1)
            _large = LARGE


def share_products() -> None:
    """Large products are for our threads from here on, in the whole process, and OpenBLAS keeps to one."""
    global _large, _many, _ours
    settle()
    blas, _ours = library(), True
    if blas and blas.name == "OpenBLAS" and _large == math.inf:  # a number holds
        _large, _many = WORTH, blas.get()
        blas.set(1)


def pieces(work: int) -> int:
    """How many of our threads a product of so many multiplications is for."""
    return min(_many, work // (WORTH // 2)) if _ours and work >= _large else 1


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
    global _large
    if (blas := library()) is None:
        raise RuntimeError("set_num_threads: NumPy's BLAS has no call here that sets threads; before Python starts: "
                           f"export VECLIB_MAXIMUM_THREADS={number} (Apple's), or OMP_NUM_THREADS={number}")
    settle()  # which is not to come later
    _large = math.inf
    blas.set(min(number, MOST))
    if _ours:
        share_products()


def get_num_threads() -> int:
    """How many threads a large product of NumPy's arrays takes; the processors, where the library does not say.

    >>> ts.get_num_threads() >= 1
    True
    """
    settle()
    blas = library()
    return (os.cpu_count() or 1) if blas is None else _many if _large < math.inf else blas.get()


class ProductKernels:
    """NumPy's product, with the threads that it is worth."""

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        if a.size * b.size < _large or not _is_large(a.shape, b.shape):  # the first says it of most, and soon
            return _matmul(a, b) if out is None else _matmul(a, b, out)
        blas = library()
        assert blas is not None  # or nothing would be large
        blas.set(_many)
        try:
            return _matmul(a, b, out)
        finally:
            if _large < math.inf:  # or another thread of Python has said a number meanwhile
                blas.set(1)


def _is_large(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether (..., n, k) @ (..., k, m) is of large products: NumPy multiplies one matrix after the other."""
    return len(a) > 1 and len(b) > 1 and a[-2] * a[-1] * b[-1] >= _large


_matmul = np.matmul  # sooner found here than there
