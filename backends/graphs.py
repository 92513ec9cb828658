"""CUDA graphs: the launches of a step recorded once, then launched as one, for the CuPy backend.

Written by CUDA's and CuPy's documents and sources, and tested on CPU-emulated CuPy; not tried on a GPU. What a stream
may not do while it records (CUDA Programming Guide, "Stream Capture"): wait, copy to or from the host, and, as far as
CuPy goes, multiply matrices, since cuBLAS may allocate memory of its own. So a recording has a handle of cuBLAS's that
is given its memory; and a pool of memory that nobody else gets, since what the graph writes to must stay its own.
"""

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import cupy as cp
import numpy as np
from tinyseq.backends import captured

FULL_SUMS = 16  # CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION
WORKSPACE = 1 << 25  # bytes that cuBLAS works in: what NVIDIA advises from Hopper on
NUMBERS = np.dtype([("given", np.float64, 8), ("there", np.uint64)])  # of an optimizer
DRAW = np.dtype([("seed", np.uint64), ("stream", np.uint64), ("there", np.uint64)])
PUT = np.dtype([("w", np.uint64, captured.WORDS)])


def numbers(args: Any) -> Any:
    """Up to 8 numbers as a kernel takes them: in the argument, or where a recorded step has them."""
    given = [float(a) for a in args]
    return np.array((given + [0.0] * (8 - len(given)), captured.place(given)), NUMBERS)


def draw(seed: int, stream: int) -> Any:
    """Seed and stream of a random draw as a kernel takes them."""
    return np.array((seed, stream, captured.drawn(seed, stream)), DRAW)


def there(x: Any, *options: Any) -> Any:
    """`cp.asarray(x, *options)`: x on the device, x itself where it can be."""
    recording = captured.current()
    if recording is None or isinstance(x, cp.ndarray):
        return cp.asarray(x, *options)
    return recording.constant(np.asarray(x, *options), cp.asarray)


def concat(arrays: Sequence[Any], /, *, axis: int | None = 0) -> Any:
    """CuPy's, which copies addresses to the device where there are more than 8: recorded it is by 8."""
    while captured.current() is not None and len(arrays) > 8:
        arrays = [cp.concatenate(arrays[i:i + 8], axis) for i in range(0, len(arrays), 8)]
    return cp.concatenate(arrays, axis)


def stack(arrays: Sequence[Any], /, *, axis: int = 0) -> Any:
    return concat([cp.expand_dims(a, axis) for a in arrays], axis=axis % (arrays[0].ndim + 1))


def cublas() -> tuple[Any, Any]:
    """(handle, library) for products: CuPy's, unless they are recorded."""
    recording = captured.current()
    return (recording and recording.products) or (cp.cuda.device.get_cublas_handle(), cp.cuda.cublas)


class Products:
    """The part of `cupy.cuda.cublas` that products here use, on a handle of our own. Sums of halves are in full."""

    def __init__(self) -> None:
        major = cp.cuda.runtime.runtimeGetVersion() // 1000
        self._library = ctypes.CDLL(f"cublas64_{major}.dll" if os.name == "nt" else f"libcublas.so.{major}")
        pointer, whole, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
        array = pointer, whole, whole, long  # address, type, leading dimension, stride
        self._library.cublasSetStream_v2.argtypes = [pointer, pointer]
        self._library.cublasSetWorkspace_v2.argtypes = [pointer, pointer, ctypes.c_size_t]
        self._library.cublasSetMathMode.argtypes = [pointer, whole]
        self._library.cublasGemmStridedBatchedEx.argtypes = [
            pointer, *[whole] * 5, pointer, *array, *array, pointer, *array, whole, whole, whole]
        handle = pointer()
        self._call("Create_v2", ctypes.byref(handle))
        self.handle = handle.value
        self._call("SetMathMode", self.handle, FULL_SUMS)

    def _call(self, name: str, *args: Any) -> None:
        status = getattr(self._library, f"cublas{name}")(*args)
        if status:
            raise RuntimeError(f"cublas{name} failed with status {status}")

    def begin(self, stream: int, workspace: Any) -> tuple[Any, Any]:
        """(handle, this), on a stream and in memory to work in, which a stream without its own would take anew."""
        self._call("SetStream_v2", self.handle, stream)
        self._call("SetWorkspace_v2", self.handle, workspace.data.ptr, workspace.nbytes)
        return self.handle, self

    def gemmStridedBatchedEx(self, *args: Any) -> None:
        self._call("GemmStridedBatchedEx", *args)

    def getMathMode(self, *_: Any) -> int:
        return FULL_SUMS  # no other is asked for

    setMathMode = getMathMode


@functools.cache
def products(device: int, thread: int) -> Products:
    """One handle, never destroyed: that would wait for the device, and a graph may use what belongs to it."""
    return Products()


def _fresh(size: int) -> Any:
    """Memory of no pool. To CuPy's own error its pool would answer by giving back what is free in it: the graph's."""
    try:
        return cp.cuda.MemoryPointer(cp.cuda.Memory(size), 0)
    except cp.cuda.runtime.CUDARuntimeError as error:
        raise MemoryError(f"no room for {size:,} bytes more on the device: a recorded step keeps all the memory that "
                          "it takes") from error


class Graph(captured.Recording):
    """A step as one launch, with all the memory that it takes. `launch` makes others.

    What is written before the graph is launched, the words and the inputs, lies outside of its pool: what is free there
    while the step is recorded other launches of it have written to, and will each time.
    """

    def __init__(self, launch: Callable[..., None]) -> None:
        super().__init__()
        self._launch, self._pool = launch, cp.cuda.MemoryPool(_fresh)
        self._pool.set_limit(0)  # none: at one it would give back what is free
        self._workspace = cp.ndarray(WORKSPACE, np.uint8, _fresh(WORKSPACE))
        self._places: list[Any] = []  # of the words on the device
        self._kept: dict[int, Any] = {}

    def address(self, place: int) -> int:
        if place // captured.WORDS == len(self._places):
            self._places.append(cp.ndarray(captured.WORDS, np.uint64, _fresh(8 * captured.WORDS)))
        return int(self._places[place // captured.WORDS].data.ptr) + place % captured.WORDS * 8

    def keep(self, arrays: Any) -> None:
        """Hold what a recorded step reads, but has not made itself."""
        if self.phase == "recorded":
            self._kept.update({id(x): x for x in arrays if isinstance(x, cp.ndarray) and not self.made(x)})

    def made(self, array: Any) -> bool:
        """Whether the recorded step made an array."""
        return isinstance(array, cp.ndarray) and getattr(array.data.mem, "pool", None) == self._mine

    def run(self, phase: str, step: Callable[[], Any]) -> Any:
        device, stream = cp.cuda.runtime.getDevice(), cp.cuda.get_current_stream()
        self.products = products(device, threading.get_ident()).begin(stream.ptr, self._workspace)
        return super().run(phase, step)

    def record(self, step: Callable[[], Any]) -> Any:
        """What `step()` returns, whose numbers are there once it is launched."""
        cp.get_default_memory_pool().free_all_blocks()  # what the runs before took, as this takes as much
        stream = cp.cuda.Stream(non_blocking=True)  # on the usual one nothing can be recorded
        with cp.cuda.using_allocator(self._pool.malloc), stream:
            self._mine = cp.empty(1).data.mem.pool  # a weak reference
            stream.begin_capture()
            try:
                out = self.run("recorded", step)
            except BaseException:
                with contextlib.suppress(RuntimeError):  # it may be void already
                    stream.end_capture()
                raise
            self._graph = stream.end_capture()
        return out

    def launch(self) -> None:
        """All that was recorded, on the current stream, with the numbers that its works said last."""
        for words, there in zip(self.words, self._places, strict=True):
            self._launch("put", np.dtype("f"), captured.WORDS, words.view(PUT).reshape(()), there)
        self._graph.launch()
