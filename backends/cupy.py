"""The CuPy backend: NumPy's portable code on a CUDA device, with the kernels that matter in CUDA C.

Needs CuPy 14: pip install 'tinyseq[cuda13]', or 'tinyseq[cuda12]' for an older driver. CUDA compiles the kernels
of kernels.cu at their first use and CuPy keeps them on disk.
"""

import functools
import itertools
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from tinyseq.backends import captured, doctor
from tinyseq.backends.numpy import Array, NumpyBackend

DOCTOR = "python -m tinyseq.doctor says what to type"

try:
    import cupy as cp
    import cupyx
    from tinyseq.backends import graphs
except ImportError as error:
    if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
        raise ImportError("the cupy backend needs CuPy, which is not installed here "
                          f"({error}): pip install 'tinyseq[cuda13]', or 'tinyseq[cuda12]' for CUDA 12") from None
    raise ImportError(f"CuPy is installed but does not load ({doctor.line(error)}): {DOCTOR}") from error

Arrays = Sequence[Array]
BLOCK = 256  # threads of a block where any number will do
ROWS = 8  # of a batch in a block of a recurrent cell's kernel
MANY = 64  # arrays that one launch of an optimizer takes: their addresses are an argument, of at most 4 KiB
ADDRESSES = np.dtype([(name, np.uint64, MANY) for name in "pgmvb"] + [("n", np.int64, MANY)])
ACTS = {"relu": 1, "gelu_tanh": 2, "silu": 3}  # that a product of few vectors applies
SIZES = np.dtype([("height", np.int32, MANY), ("width", np.int32, MANY)])

ATTENDING = np.dtype([(name, np.int64) for name in ("t", "s", "d", "e", "d1", "d2", "causal", "threshold")] + [
    ("draw", graphs.DRAW)] + [(name, np.float64) for name in ("scale", "kept")] + [
    (name, np.int64, 4) for name in ("q", "k", "v", "y", "g", "dq", "dk", "dv")] + [("take", np.int64, 5)])

# numbers of cuBLAS: dtype -> (type of the arrays, type of the sums), and 1 and 0 in the type of alpha and beta
GEMM_TYPES: dict[str, tuple[int, int]] = {"e": (2, 68), "f": (0, 68), "d": (1, 70), "E": (14, 68)}  # E is bfloat16
TF32 = 77
HALVES = (2, 14)  # of which cuBLAS adds up partial sums as they are, unless its math mode is
SUMS_IN_FULL = 16  # CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION
SCALARS: dict[int, Any] = {68: np.array([0, 1], np.float32), 70: np.array([0, 1], np.float64)}


@functools.cache
def source(char: str) -> str:
    """CUDA C of all kernels for float32 ("f") or float64 ("d")."""
    kind, lowest = {"f": "float", "d": "double"}[char], np.finfo(char).min
    kernels = Path(__file__).with_name("kernels.cu").read_text(encoding="utf-8")
    numbers = f"#define MANY {MANY}\n#define ROWS {ROWS}\n#define WORDS {captured.WORDS}"
    return f"typedef {kind} T;\n#define LOWEST {lowest!s}\n{numbers}\n{kernels}"


@functools.cache
def module(char: str) -> Any:
    return cp.RawModule(code=source(char), options=("--std=c++17",))


@functools.cache
def sum_in_double() -> Any:
    """The sum of float32 times a number: in double, as each thread adds a stretch one after another."""
    return cp.ReductionKernel("float32 x, float64 factor", "float32 y", "x * factor", "a + b", "y = a", "0",
                              "tinyseq_sum", reduce_type="double")


@functools.cache
def kernel(name: str, dtype: Any) -> Callable[..., None]:
    """The kernel as a function of (grid, block, arguments). A number, whatever its type, is given as its parameter's:

    CuPy would hand on the bits that it has, an int's to a double.
    """
    if dtype.char not in "fd":
        raise TypeError(f"{name} takes float32 and float64 on the cupy backend, got {dtype.name}: cast it first")
    run = module(dtype.char).get_function(f"tinyseq_{name}")
    parameters = re.findall(rf"void tinyseq_{name}\(([^)]*)\)", source(dtype.char))[0].split(",")
    types = [{"I": int, "U": np.uint64, "double": float}.get(p.split()[0]) for p in parameters]
    numbers = [(i, kind) for i, kind in enumerate(types) if kind]

    def call(grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any]) -> None:
        args = list(args)
        for i, kind in numbers:
            args[i] = kind(args[i])
        run(grid, block, tuple(args))

    return call


def dense(x: Any, dtype: Any = None) -> Array:
    """x as a C-contiguous array, x itself if it is one, or None."""
    return None if x is None else graphs.there(x, dtype, "C")


def launch(name: str, dtype: Any, threads: int, *args: Any) -> None:
    """Run a kernel with at least `threads` threads in blocks of BLOCK."""
    if threads:
        kernel(name, dtype)(((threads + BLOCK - 1) // BLOCK,), (BLOCK,), args)


def launch_units(name: str, h: Array, whole: bool, *args: Any) -> None:
    """Run a kernel of a recurrent cell with a thread for each unit of h (B, H), `whole` rows of it in a block."""
    tiles = 1 if whole else (h.shape[1] + 31) // 32
    kernel(name, h.dtype)(((h.shape[0] + ROWS - 1) // ROWS, tiles), (32, ROWS), args)


def launch_rows(name: str, x: Array, *args: Any) -> None:
    """Run a kernel with a block for each row of x (..., n)."""
    if x.size:
        n = x.shape[-1]
        threads = min(1024, max(32, 1 << (n // 4).bit_length()))
        kernel(name, x.dtype)((x.size // n,), (threads,), args)


def in_float32(method: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel of float32 and float64 as one that takes float16 too, and computes in float32."""
    def convert(a: Any, old: str, new: str) -> Any:
        return a.astype(new) if isinstance(a, cp.ndarray) and a.dtype.char == old else a

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(a, cp.ndarray) and a.dtype.char == "e" for a in args):
            return method(self, *args, **kwargs)
        out = method(self, *(convert(a, "e", "f") for a in args), **kwargs)
        return tuple(convert(a, "f", "e") for a in out) if type(out) is tuple else convert(out, "f", "e")

    return call


def matrices(x: Array) -> tuple[Array, int, int, int]:
    """x (..., r, c), a copy where cuBLAS cannot read it as it lies: (x, transposed, leading dimension, stride).

    The stride is the elements from one matrix to the next.
    """
    size, (r, c) = x.itemsize, x.shape[-2:]
    down, right = (s // size for s in x.strides[-2:])
    lead = [(n, s // size) for n, s in zip(x.shape[:-2], x.strides[:-2], strict=True) if n != 1]
    stride = lead[-1][1] if lead else 0
    if stride >= 0 and all(s == n_next * s_next for (_, s), (n_next, s_next) in itertools.pairwise(lead)):
        if (right == 1 or c == 1) and (down >= c or r == 1):
            return x, 0, (c if r == 1 else down), stride
        if (down == 1 or r == 1) and (right >= r or c == 1):
            return x, 1, (r if c == 1 else right), stride
    return dense(x), 0, c, r * c


def in_rows(x: Array) -> Array:
    """x (..., n, m) with three leading axes, and numbers of a row beside each other."""
    x = x[(None,) * (5 - x.ndim)]
    return x if x.strides[-1] == x.itemsize else dense(x)


def rows_like(x: Array, shape: tuple[int, ...]) -> Array:
    """A new array of rows with the axes of x in their order, as far as that leaves a row's numbers together."""
    y = cp.empty_like(x, shape=shape)
    return y if y.strides[-1] == y.itemsize else cp.empty(shape, x.dtype)


def steps_of(x: Array) -> list[int]:
    """Strides in elements."""
    return [n // x.itemsize for n in x.strides]


class CupyBackend(NumpyBackend):
    """CuPy arrays on the current CUDA device, and kernels in CUDA C in place of the portable ones.

    Work is handed to the device and not waited for; `asnumpy` and `synchronize` wait. `tf32` lets products of
    float32 matrices round their operands to 10 bits, which is several times faster: off, unless TINYSEQ_TF32=1 is
    in the environment. Sums of float16 and bfloat16 are kept in float32 always.

    Kernels, each equal to NumpyBackend's method of that name: softmax, cross_entropy, layer_norm and gelu, each with
    its `_backward`; random_raw, dropout_mask; embedding, embedding_backward, unindex; sgd_step, adam_step,
    rmsprop_step, lion_step, global_norm, scale, copies; rnn_forward, rnn_backward; attention; linear_few, norm_few,
    attention_few, a launch each. And `matmul`, which copies no operand that cuBLAS can read where it is.
    """

    name = "cupy"
    unfolded = 1 << 25  # a launch of many windows is worth more than a cache
    array_types: tuple[type, ...] = (cp.ndarray,)

    def __init__(self) -> None:
        try:
            cp.cuda.device.get_cublas_handle()
            cp.cuda.nvrtc.getVersion()
        except (ImportError, RuntimeError) as error:
            found = doctor.diagnose(doctor.probe())
            why = f"{found[0].sentence} Run: {found[0].command}" if found else f"{doctor.line(error)}: {DOCTOR}"
            raise RuntimeError(f"the cupy backend cannot run here: {why}") from error
        self.tf32 = os.environ.get("TINYSEQ_TF32") == "1"
        self.xp = self.namespace(cp)

    def namespace(self, library: ModuleType) -> ModuleType:
        xp = super().namespace(library)
        ours = (self.asarray, self.sum, self.cumulative_sum, self.argsort, self.where, self.vecdot, self.matmul,
                graphs.concat, graphs.stack)
        vars(xp).update({f.__name__: f for f in ours})
        return xp

    def recording(self) -> captured.Recording:
        """What records a step as one launch."""
        return graphs.Graph(launch)

    # ---- arrays in and out

    def asarray(self, data: Any, dtype: Any = None, copy: bool | None = None) -> Array:
        if isinstance(data, cp.ndarray):
            return data.astype(data.dtype if dtype is None else dtype, copy=bool(copy))
        return graphs.there(np.asarray(data, dtype=dtype))

    def upload(self, array: np.ndarray[Any, Any]) -> Array:
        """Copied from pinned memory on a stream of its own, beside the kernels that run."""
        if not array.size:      # a batch without rows: no memory to pin
            return self.asarray(array)
        pinned = cupyx.empty_pinned(array.shape, array.dtype)
        pinned[...] = array
        y, copying = cp.empty(array.shape, array.dtype), cp.cuda.Stream(non_blocking=True)
        copying.wait_event(cp.cuda.get_current_stream().record())   # what `y` was before may be in use until then
        y.set(pinned, stream=copying)
        copying.synchronize()       # so that it can be used on any stream, and `pinned` again
        return y

    def asnumpy(self, array: Array) -> np.ndarray[Any, Any]:
        return cp.asnumpy(array)  # type: ignore[no-any-return]

    def synchronize(self) -> None:
        """Wait until the current stream's work is done."""
        cp.cuda.get_current_stream().synchronize()

    def used_bytes(self) -> int:
        """The device memory that arrays take."""
        return int(cp.get_default_memory_pool().used_bytes())

    def random_raw(self, seed: int, stream: int, n: int, skip: int = 0) -> Array:
        y = cp.empty(n, np.uint64)
        launch("philox", np.dtype("f"), (n + 3) // 4, graphs.draw(seed, stream), skip, y, n)
        return y

    # ---- functions that CuPy lacks, or has with other arguments

    def sum(self, x: Array, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Array:
        if x.dtype.char != "f":
            return cp.sum(x, axis=axis, keepdims=keepdims)
        return sum_in_double()(x, 1.0, axis=axis, keepdims=keepdims)

    def mean(self, x: Array, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Array:
        if x.dtype.char != "f" or not x.size:
            return cp.mean(x, axis=axis, keepdims=keepdims)
        axes = (axis,) if isinstance(axis, int) else range(x.ndim) if axis is None else axis
        n = math.prod(x.shape[i] for i in axes)
        return sum_in_double()(x, 1 / n, axis=axis, keepdims=keepdims)

    cumulative_sum = staticmethod(cp.cumulative_sum)

    def argsort(self, x: Array, /, *, axis: int = -1, stable: bool = True) -> Array:
        return cp.argsort(x, axis=axis, kind="stable")

    def where(self, condition: Any, a: Any, b: Any) -> Array:
        return cp.where(graphs.there(condition), a, b)

    def vecdot(self, a: Array, b: Array, /, *, axis: int = -1) -> Array:
        return cp.sum(a * b, axis=axis)

    @in_float32
    def erf(self, x: Array) -> Array:
        return self._each("erf", x)

    @in_float32
    def sigmoid(self, x: Array) -> Array:
        return self._each("sigmoid", x)

    def _each(self, name: str, x: Array, *more: Any) -> Array:
        """Run an elementwise kernel over x; integers become float64."""
        x = dense(x, dtype=x.dtype if x.dtype.kind == "f" else np.float64)
        y = cp.empty_like(x)
        launch(name, x.dtype, x.size, x, y, x.size, *more)
        return y

    # ---- products

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """a @ b by cuBLAS's strided batched product, with no copy of an operand that has strides it can read, nor of
        the result where it is to stand in contiguous memory."""
        legal = min(a.ndim, b.ndim) > 1 and a.dtype == b.dtype and a.shape[-1] == b.shape[-2]
        if not legal or a.dtype.char not in GEMM_TYPES:
            return cp.matmul(a, b, out=out)
        shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
        y = out if out is not None and out.flags.c_contiguous else cp.empty(shape, dtype=a.dtype)
        if not a.shape[-1]:
            y.fill(0)
        elif y.size:
            a, b = (cp.broadcast_to(x, (*shape[:-2], *x.shape[-2:])) for x in (a, b))
            self._product(a, b, y)()
        if out is None or out is y:
            return y
        out[...] = y
        return out

    def _product(self, a: Array, b: Array, y: Array, add: bool = False) -> Callable[..., None]:
        """A function that does y = a @ b, or y += a @ b with `add`: (..., m, k), (..., k, n), (..., m, n), none empty.

        It takes how many bytes further on a and y are to be found, which is what changes from step to step of a scan.
        Rows of y may be far apart where there is one matrix. cuBLAS counts by columns: it is given y^T = b^T a^T.
        """
        (a, *at), (b, *bt) = matrices(a), matrices(b)
        kind, sums = GEMM_TYPES[a.dtype.char]
        scalars = SCALARS[sums]
        one, zero_or_one = scalars[1:].ctypes.data, scalars[int(add):].ctypes.data
        handle, cublas = graphs.cublas()
        gemm = cublas.gemmStridedBatchedEx
        if kind == 0 and self.tf32:
            sums = TF32
        m, n = y.shape[-2:]
        k, ld, batch = a.shape[-1], y.strides[-2] // y.itemsize if m > 1 else n, y.size // (m * n)

        def run(a_bytes: int = 0, y_bytes: int = 0) -> None:
            if kind in HALVES:
                mode = cublas.getMathMode(handle)
                cublas.setMathMode(handle, SUMS_IN_FULL)
            gemm(handle, bt[0], at[0], n, m, k, one, b.data.ptr, kind, bt[1], bt[2], a.data.ptr + a_bytes, kind, at[1],
                 at[2], zero_or_one, y.data.ptr + y_bytes, kind, ld, m * n, batch, sums, -1)
            if kind in HALVES:
                cublas.setMathMode(handle, mode)

        return run

    # ---- indexing

    def embedding(self, table: Array, ids: Array) -> Array:
        """Rows of `table` (V, E) at integer ids (...): (..., E). An id that is no row gives a row of NaN."""
        height, width = table.shape
        ids = dense(ids, dtype=np.int64)
        if table.dtype.char not in "fd":  # the rows first, which are fewer
            rows = table[ids % height] if height else cp.zeros((*ids.shape, width), dtype=table.dtype)
            bad = (ids < 0) | (ids >= height)
            return cp.where(bad[..., None], np.nan, rows.astype(np.float32)).astype(table.dtype)
        table = dense(table)
        y = cp.empty((*ids.shape, width), dtype=table.dtype)
        launch("rows", y.dtype, y.size, table, ids, y, ids.size, height, width)
        return y

    def embedding_backward(self, g: Array, ids: Array, height: int, padding_idx: int | None = None) -> Array:
        ids = dense(ids, dtype=np.int64).reshape(-1)
        skipped = -1 if padding_idx is None else padding_idx
        y = self._sum_rows(g.reshape(ids.size, g.shape[-1]), ids, height, skipped)
        return y.astype(g.dtype, copy=False)

    def _sum_rows(self, g: Array, ids: Array, height: int, skipped: int = -1) -> Array:
        """Zeros (height, E), float32 at least, with g[i] (N, E) added to row ids[i] (N,), in their order.

        An id that is no row, or `skipped`, is added to none.
        """
        g = dense(g, dtype=np.float64 if g.dtype.char == "d" else np.float32)
        n, width = g.shape
        # looking through all ids for each row beats sorting them; its blocks reach across 8 million columns
        look = n * height <= 1 << 32 and 1 < width <= 1 << 22
        y = (cp.empty if look else cp.zeros)((height, width), dtype=g.dtype)
        if look and y.size:
            grid = (height + 7) // 8, (width + 127) // 128
            kernel("add_rows", g.dtype)(grid, (32, 8), (g, ids, y, n, height, width, skipped))
        elif not look:
            ids = cp.where((ids < 0) | (ids >= height) | (ids == skipped), height, ids)
            launch("add_sorted", g.dtype, g.size, g, cp.sort(ids * n + cp.arange(n)), y, n, height, width)
        return y

    def getitem(self, x: Array, index: Any, /) -> Array:
        """x[index], where indices that are on the host must be in range; those on the device wrap, as in CuPy."""
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(i, (list, np.ndarray)) for i in parts) and not any(isinstance(i, cp.ndarray) for i in parts):
            np.broadcast_to(np.True_, x.shape)[index]  # raises IndexError
        return x[index]

    def _add_at(self, g: Array, parts: tuple[Any, ...], shape: tuple[int, ...]) -> Array:
        if g.dtype.kind != "f":  # atomic sums of integers are right in any order
            y = cp.zeros(shape, dtype=g.dtype)
            cp.add.at(y, parts, g)
            return y
        height, width = (shape[0], math.prod(shape[1:])) if len(parts) == 1 else (math.prod(shape), 1)
        ids = (parts[0].astype(np.int64) % height) if len(parts) == 1 else cp.arange(height).reshape(shape)[parts]
        return self._sum_rows(g.reshape(ids.size, width), ids.reshape(-1), height).reshape(shape)

    # ---- paths

    def _last(self, alive: Array) -> Array:
        last, n = cp.where(alive, cp.arange(len(alive))[:, None], 0), 1
        while n < len(last):
            last[n:] = cp.maximum(last[n:], last[:-n])
            n *= 2
        return last

    def _sums_at(self, index: Array, values: Array, n: int) -> Array:
        return self._sum_rows(values.reshape(-1, 1), index.reshape(-1), n)[:, 0]

    # ---- softmax and cross-entropy

    def _over_rows(self, name: str, axis: int, *arrays: Array, more: Sequence[Any]) -> Array:
        """Run a kernel of rows along `axis` over arrays of one shape; the result has that shape."""
        rows = [dense(cp.moveaxis(a, axis, -1)) for a in arrays]
        y = cp.empty_like(rows[0])
        launch_rows(name, y, *rows, y, y.shape[-1], *more)
        return cp.moveaxis(y, -1, axis)

    @in_float32
    def softmax(self, x: Array, axis: int = -1, mask: Array | None = None, log: bool = False) -> Array:
        if mask is None:
            return self._over_rows("softmax", axis, x, more=(log, None, 1, 1, 0, 0, 0, 0))
        take = cp.moveaxis(cp.broadcast_to(mask, x.shape), axis, -1)
        if take.dtype != bool:
            raise TypeError(f"expected a boolean mask, got {take.dtype}")
        if take.ndim > 4:
            take = dense(take).reshape(math.prod(take.shape[:-1]), take.shape[-1])
        take = take[(None,) * (4 - take.ndim)]
        return self._over_rows("softmax", axis, x, more=(log, take, *take.shape[1:3], *take.strides))

    @in_float32
    def softmax_backward(self, g: Array, y: Array, axis: int = -1, log: bool = False) -> Array:
        return self._over_rows("softmax_backward", axis, g, y, more=(log,))

    @in_float32
    def cross_entropy(self, logits: Array, targets: Array, weight: Array | None = None, smoothing: float = 0.0,
                      ignore_index: int = -100) -> tuple[Array, Array, Any]:
        """NumpyBackend's, except that a target on the device that is no class gives NaN."""
        n, dtype = logits.shape[1], logits.dtype
        x, targets = dense(logits), dense(targets, dtype=np.int64)
        weight, losses, weights = dense(weight, dtype=dtype), *(cp.empty_like(targets, dtype=dtype) for _ in range(2))
        saved = cp.empty((x.shape[0], 3), dtype=dtype)
        launch_rows("cross_entropy", x, x, targets, weight, smoothing, ignore_index, n, losses, weights, saved)
        return losses, weights, (x, targets, weight, weights, saved, smoothing, ignore_index, n)

    @in_float32
    def cross_entropy_backward(self, g: Array, saved: Any) -> Array:
        dx = cp.empty_like(saved[0])
        launch_rows("cross_entropy_backward", dx, dense(g, dtype=dx.dtype), *saved, dx)
        return dx

    # ---- layer norm, GELU, dropout

    @in_float32
    def layer_norm(self, x: Array, weight: Array | None, bias: Array | None, ndim: int = 1, eps: float = 1e-5,
                   centred: bool = True) -> tuple[Array, Any]:
        shape = x.shape[x.ndim - ndim:]
        rows = dense(x).reshape(math.prod(x.shape[:x.ndim - ndim]), math.prod(shape))
        y, moments = cp.empty_like(rows), cp.empty((rows.shape[0], 2), dtype=x.dtype)
        launch_rows("layer_norm", rows, rows, dense(weight), dense(bias), eps, centred, rows.shape[1], y, moments)
        return y.reshape(x.shape), (rows, moments, shape, centred)

    @in_float32
    def layer_norm_backward(self, g: Array, saved: Any, weight: Array | None) -> tuple[Array, Array, Array]:
        x, moments, shape, centred = saved
        rows, n = x.shape
        flat, dx = dense(g).reshape(x.shape), cp.empty_like(x)
        launch_rows("layer_norm_backward", dx, flat, x, dense(weight), moments, centred, n, dx)
        stretch = max(128, (rows + 63) // 64)  # rows summed by one block: 64 of them at most
        stretches = max(1, (rows + stretch - 1) // stretch)
        sums = cp.empty((2, stretches, n), dtype=x.dtype)
        if n:
            grid = (n + 31) // 32, stretches
            kernel("layer_norm_columns", x.dtype)(grid, (32, 8), (flat, x, moments, rows, n, stretch, sums))
        sums = sums.sum(axis=1) if stretches > 1 else sums[:, 0]
        return dx.reshape(g.shape), sums[0].reshape(shape), sums[1].reshape(shape)

    @in_float32
    def gelu(self, x: Array, tanh: bool = False) -> Array:
        return self._each("gelu", x, tanh)

    @in_float32
    def gelu_backward(self, g: Array, x: Array, tanh: bool = False) -> Array:
        return self._each("gelu_backward", x, dense(g), tanh)

    def dropout_mask(self, shape: tuple[int, ...], p: float, seed: int, stream: int, start: int = 0) -> Array:
        keep = cp.empty(start % 8 + math.prod(shape), dtype=bool)
        threshold = round(p * 2**32)  # 2**32, where p is 1, is reached by no 32 bits
        launch("dropout_mask", np.dtype("f"), (keep.size + 7) // 8, graphs.draw(seed, stream), start // 8, threshold,
               keep, keep.size)
        return keep[start % 8:].reshape(shape)

    def dropout(self, x: Array, p: float, seed: int, stream: int) -> tuple[Array, Any]:
        """In place of a mask, what it is drawn from: backward draws it again."""
        if x.dtype.char not in "fd":
            return super().dropout(x, p, seed, stream)
        return self.dropout_backward(x, (seed, stream), p), (seed, stream)

    def dropout_backward(self, g: Array, keep: Any, p: float) -> Array:
        if not isinstance(keep, tuple):
            return super().dropout_backward(g, keep, p)
        g, y = dense(g), cp.empty(g.shape, dtype=g.dtype)
        draw = graphs.draw(*keep)
        launch("dropout", g.dtype, (g.size + 7) // 8, draw, round(p * 2**32), 1 / (1 - p), g, y, g.size)
        return y

    # ---- attention

    scores = 1 << 26  # where no kernel is: a block is large, so is memory, and each launch costs
    keys = 1 << 19  # all of them nearly always: of fewer, dropout's mask for so many queries would be T S

    def _by_columns(self, x: Array, query: Array) -> Array:
        return x

    def _attention_tame(self, e: Array) -> bool:
        return False  # to look would be to wait

    def attention(self, query: Array, key: Array, value: Array, mask: Array | None, causal: bool, scale: float,
                  dropout: tuple[float, int, int]) -> tuple[Array, Any]:
        """NumpyBackend's by one kernel, up to 128 features and three leading axes; backward by two."""
        lead, (t, d), (s, e), p = query.shape[:-2], query.shape[-2:], value.shape[-2:], dropout[0]
        if query.dtype.char not in "fd" or len(lead) > 3 or max(d, e) > 128:
            return super().attention(query, key, value, mask, causal, scale, dropout)
        q, k, v = (in_rows(cp.broadcast_to(x, (*lead, *x.shape[-2:]))) for x in (query, key, value))
        take = None if mask is None else cp.broadcast_to(mask, (*lead, t, s))[(None,) * (3 - len(lead))]
        a, own = np.zeros((), ATTENDING), (0,) * (3 - len(lead))
        y, sizes = rows_like(q, (*q.shape[:-1], e)), cp.empty(q.shape[:-1], dtype=q.dtype)
        for name, number in zip(ATTENDING.names or (), (
                t, s, d, e, *q.shape[1:3], causal, round(p * 2**32), graphs.draw(*dropout[1:]), scale, 1 - p),
                strict=False):
            a[name] = number
        for name, x in {"q": q, "k": k, "v": v, "y": y}.items():
            a[name] = steps_of(x)[:4]
        if take is not None:
            a["take"] = steps_of(take)
        if sizes.size:
            kernel("attention", q.dtype)((sizes.size // t, (t + 31) // 32), (32, 8), (q, k, v, take, a, y, sizes))
        return y[own], (q, k, v, take, a, y, sizes, own)

    def attention_backward(self, g: Array, saved: Any) -> tuple[Array, Array, Array]:
        if len(saved) == 3:
            return super().attention_backward(g, saved)
        q, k, v, take, a, y, sizes, own = saved
        g, along, heads, (t, s) = in_rows(g), cp.empty_like(sizes), math.prod(q.shape[:3]), (q.shape[3], k.shape[3])
        dq, dk, dv = (rows_like(q, x.shape) for x in (q, k, v))
        for name, x in {"g": g, "dq": dq, "dk": dk, "dv": dv}.items():
            a[name] = steps_of(x)[:4]
        if sizes.size:
            kernel("attention_of_query", q.dtype)((heads, (t + 31) // 32), (32, 8), (
                q, k, v, take, a, g, y, sizes, along, dq))
        if heads * s:
            kernel("attention_of_keys", q.dtype)((heads, (s + 31) // 32), (32, 8), (
                q, k, v, take, a, g, sizes, along, dk, dv))
        return dq[own], dk[own], dv[own]

    # ---- optimizer steps: MANY arrays a launch

    block = piece = 1 << 62  # nothing is gained by pieces

    def _launches(self, *lists: Sequence[Array], order: str = "F") -> Iterator[tuple[Any, tuple[int, int], Any]]:
        """(dtype, grid, argument) of launches that take up to MANY of each list's arrays, matched elementwise. A list
        of what a step does without may be empty.

        All is computed in float64 if one array is of it, else in float32. What is of another type, or has holes in its
        memory, takes part by a copy, which is copied back after the last launch, but in the second list: gradients.
        With `order` "C" so does what is not in that order.
        """
        dtype = np.dtype("d" if any(a.dtype.char == "d" for arrays in lists for a in arrays) else "f")
        orders = ["C" if a.flags.c_contiguous else order for a in lists[0]]
        ready = [[cp.asarray(a, dtype, o) for a, o in zip(arrays, orders if arrays else (), strict=True)]
                 for arrays in lists]
        for start in range(0, len(orders), MANY):
            some, addresses = slice(start, start + MANY), np.zeros((), ADDRESSES)
            sizes = [a.size for a in ready[0][some]]
            addresses["n"][:len(sizes)] = sizes
            for name, arrays in zip("pgmvb", ready, strict=False):
                addresses[name][:len(arrays[some])] = [a.data.ptr for a in arrays[some]]
            yield dtype, (min(256, max(1, (max(sizes) + BLOCK - 1) // BLOCK)), len(sizes)), addresses
        for given, used in zip(lists[:1] + lists[2:], ready[:1] + ready[2:], strict=True):
            for a, b in zip(given, used, strict=True):
                if a is not b:
                    a[...] = b

    def _on_many(self, name: str, lists: Sequence[Sequence[Array]], *args: Any) -> None:
        numbers = [graphs.numbers(args)] if args else []
        for dtype, grid, addresses in () if captured.repeating() else self._launches(*lists):
            kernel(name, dtype)(grid, (BLOCK,), (addresses, *numbers))

    def sgd_step(self, params: Arrays, grads: Arrays, buffers: Arrays, lr: float, momentum: float = 0.0,
                 nesterov: bool = False, weight_decay: float = 0.0) -> None:
        lists = [params, grads, *([buffers] if momentum else [])]
        self._on_many("sgd", lists, lr, momentum, nesterov, weight_decay)

    def adam_step(self, params: Arrays, grads: Arrays, m: Arrays, v: Arrays, step: int, lr: float, beta1: float = 0.9,
                  beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0, decoupled: bool = False) -> None:
        lr, beta1, beta2, eps, weight_decay = map(float, (lr, beta1, beta2, eps, weight_decay))  # computed with in full
        root = math.sqrt(1 - beta2**step)
        decay, shrink = (0.0, 1 - lr * weight_decay) if decoupled else (weight_decay, 1.0)
        self._on_many("adam", (params, grads, m, v), lr * root / (1 - beta1**step), beta1, beta2, eps * root, decay,
                      shrink)

    def rmsprop_step(self, params: Arrays, grads: Arrays, squares: Arrays, means: Arrays, buffers: Arrays, lr: float,
                     alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0, momentum: float = 0.0) -> None:
        self._on_many("rmsprop", (params, grads, squares, means, buffers), lr, alpha, eps, weight_decay, momentum,
                      bool(means), bool(buffers))

    def lion_step(self, params: Arrays, grads: Arrays, m: Arrays, lr: float, beta1: float = 0.9, beta2: float = 0.99,
                  weight_decay: float = 0.0) -> None:
        self._on_many("lion", (params, grads, m), lr, beta1, beta2, 1 - lr * weight_decay)

    def adafactor_step(self, params: Arrays, grads: Arrays, rows: Arrays, columns: Arrays, step: int, lr: float,
                       beta2_decay: float = -0.8, eps: tuple[float | None, float] = (None, 1e-3), d: float = 1.0,
                       weight_decay: float = 0.0) -> None:
        for char in sorted({p.dtype.char for p in params}):
            lists = [[a for a, p in zip(some, params, strict=True) if p.dtype.char == char]
                     for some in (params, grads, rows, columns)]
            numbers = graphs.numbers((step**beta2_decay, np.finfo(char).eps if eps[0] is None else eps[0], eps[1],
                                      min(lr, step**-0.5), d, 1 - lr * weight_decay))
            launches = () if captured.repeating() else self._launches(*lists, order="C")
            for start, (dtype, grid, addresses) in zip(itertools.count(0, MANY), launches, strict=False):
                sizes, sums = np.zeros((), SIZES), cp.empty((*grid, 2))
                for i, p in enumerate(lists[0][start:start + MANY]):
                    sizes["height"][i], sizes["width"][i] = p.shape[-2:] if p.ndim > 1 else (0, 0)
                kernel("adafactor_means", dtype)(((grid[0] + 3) // 4, grid[1]), (32, 32), (addresses, numbers, sizes))
                kernel("adafactor_sums", dtype)(grid, (BLOCK,), (addresses, numbers, sizes, sums))
                kernel("adafactor", dtype)(grid, (BLOCK,), (addresses, numbers, sizes, sums))

    def global_norm(self, grads: Sequence[Array]) -> Array:
        sums = []
        for dtype, grid, addresses in self._launches(grads):
            sums.append(cp.empty(math.prod(grid), dtype=np.float64))
            kernel("squares", dtype)(grid, (BLOCK,), (addresses, sums[-1]))
        everything, y = sums[0] if len(sums) == 1 else graphs.concat(sums), cp.empty((), dtype=dtype)
        kernel("root_of_sum", dtype)((1,), (1024,), (everything, everything.size, y))
        return y

    def copies(self, arrays: Arrays) -> list[Array]:
        if {a.dtype.char for a in arrays} not in ({"f"}, {"d"}):
            return super().copies(arrays)
        new = [cp.empty(a.shape, a.dtype) for a in arrays]
        self._on_many("copy", (new, arrays))
        return new

    def scale(self, arrays: Sequence[Array], factor: Array) -> None:
        for dtype, grid, addresses in self._launches(arrays):
            kernel("scale", dtype)(grid, (BLOCK,), (addresses, graphs.there(factor, dtype)))

    # ---- recurrent scans

    one_launch = 1 << 20  # bytes of recurrent weights that one multiprocessor reads in about the time of a launch
    one_kernel = 1 << 25  # products of a step that a kernel of ours makes in about that time

    def _in_kernel(self, cell: str, batch: int, steps: int, w_hh: Array) -> int:
        """How many steps a launch takes, their recurrent products included: all, one, or 0 where these are cuBLAS's."""
        if cell == "gru_before":  # of which a step is two products
            return 0
        return steps if w_hh.nbytes <= self.one_launch else int(batch * w_hh.size <= self.one_kernel)

    @in_float32
    def rnn_forward(self, cell: str, x: Array, h0: Array, c0: Array | None, w_ih: Array, w_hh: Array,
                    b_ih: Array | None, b_hh: Array | None, lengths: Any = None,
                    reverse: bool = False, h_mask: Array | None = None,
                    keep: bool = True) -> tuple[Array, Array, Array | None, Any]:
        """NumpyBackend's; `lengths` may lie on the device, where nobody looks at them.

        All rows of the batch take every step, and the kernel of the step leaves alone those that have ended: so
        nothing is sorted, packed or known to the host. Small cells take `_in_kernel` steps a launch. Of large ones a
        step is a product, added to the input's share z where it stands, and a kernel; both find step t of an array (B,
        S, ...) by its strides.
        """
        (batch, steps), size, dtype = x.shape[:2], h0.shape[1], x.dtype
        lengths, b_ih, b_hh, h_mask = dense(lengths, np.int64), *map(dense, (b_ih, b_hh, h_mask))
        z = self.matmul(x.reshape(batch * steps, x.shape[2]), w_ih.T).reshape(batch, steps, w_ih.shape[0])
        hs, y = (cp.empty((batch, steps, size), dtype=dtype) for _ in range(2))
        masked = hs if h_mask is None else cp.empty_like(hs)  # what enters the products
        h, c = (None if s is None else s.astype(dtype, order="C") for s in (h0, c0))
        shape = (batch, 3 * size) if cell == "gru" else hs.shape
        e1: Array = None if cell.startswith("rnn") else cp.empty(shape, dtype=dtype)
        extra = e1, cp.empty_like(hs) if cell == "gru" else c
        order = range(steps)[::-1] if reverse else range(steps)
        many = self._in_kernel(cell, batch, steps, w_hh)
        weight = dense(w_hh.T) if many else None
        if y.size:
            hs[:, order[0]] = h0
            if c0 is not None:
                extra[0][:, order[0]] = c0
            products = [(cell, hs, masked, w_hh, extra[0] if cell == "gru" else z[:, 0])]
            if cell == "gru_before":
                products = [("gru_before_reset", hs, masked, w_hh[:2 * size], z[:, 0, :2 * size]),
                            (cell, extra[0], extra[0], w_hh[2 * size:], z[:, 0, 2 * size:])]
            parts = [(name, state, used, None if many else self._product(used[:, 0], w.T, to, add=cell != "gru"))
                     for name, state, used, w, to in products]
        of_h, of_z = size * dtype.itemsize, 0 if cell == "gru" else z.shape[2] * dtype.itemsize  # bytes of a step
        for t in order[::many or 1] if y.size else ():
            args = (z, b_ih, b_hh, hs, *extra, y, h, lengths, weight, h_mask, batch, steps, size, t, order.step,
                    many or 1)
            for name, state, used, recur in parts:
                if recur and h_mask is not None:
                    cp.multiply(state[:, t], h_mask, out=used[:, t])
                if recur:
                    recur(t * of_h, t * of_z)
                launch_units(name, h, many > 1, *args)
        if many and h_mask is not None:
            cp.multiply(hs, h_mask[:, None], out=masked)
        return y, h, c, (x, lengths, order, z, hs, masked, extra, w_ih, w_hh, h_mask) if keep else None

    @in_float32
    def rnn_backward(self, cell: str, saved: Any, gy: Array | None, gh: Array | None, gc: Array | None,
                     needs: Sequence[bool]) -> tuple[Array | None, ...]:
        x, lengths, order, z, hs, masked, extra, w_ih, w_hh, h_mask = saved
        (batch, steps, size), dtype, gy = hs.shape, x.dtype, dense(gy)
        dh, dc = (cp.zeros((batch, size), dtype=dtype) if g is None else g.astype(dtype, order="C") for g in (gh, gc))
        d_in = cp.empty_like(z)
        d_rec = cp.empty_like(z) if cell == "gru" else d_in
        split = 2 * size if cell == "gru_before" else w_hh.shape[0]
        if hs.size:
            past = dh if h_mask is None else cp.empty_like(dh)
            recur = self._product(d_rec[:, 0, :split], w_hh[:split], past, add=h_mask is None)
            if cell == "gru_before":
                recur_reset = self._product(d_in[:, 0, split:], w_hh[split:], dc)
        of_step, many = z.shape[2] * dtype.itemsize, self._in_kernel(cell, batch, steps, w_hh)
        weight = dense(w_hh) if many else None

        def carry(t: int) -> None:
            recur(t * of_step)
            if h_mask is not None:
                cp.add(dh, past * h_mask, out=dh)

        for t in order[::-1][::many or 1] if hs.size else ():
            args = (z, hs, *extra, gy, dh, dc, d_in, d_rec, lengths, weight, h_mask, batch, steps, size, t, -order.step,
                    many or 1)
            launch_units(f"{cell}_backward", dh, many > 1, *args)
            if cell == "gru_before":
                recur_reset(t * of_step)
                if h_mask is not None:
                    dc *= h_mask
                launch_units("gru_before_unreset", dh, many > 1, *args)
            if not many:
                carry(t)
        if hs.size and many:  # what the first step's slopes bring to h0
            carry(order[0])
        slopes = [d.reshape(batch * steps, d.shape[2]).T for d in ([d_in] if d_rec is d_in else [d_in, d_rec])]
        dx = self.matmul(slopes[0].T, w_ih).reshape(x.shape) if needs[0] else None
        if needs[3] and lengths is not None:  # what stands in the padding may be NaN
            x = cp.where((cp.arange(steps) < lengths[:, None])[..., None], x, 0.0)
        entered = (x, masked, extra[0]) if cell == "gru_before" else (x, masked)
        rows = [a.reshape(batch * steps, a.shape[2]) for a in entered]
        of_w, of_u = self._of_weights(slopes[0], slopes[-1], needs, *rows)
        return dx, dh if needs[1] else None, dc if needs[2] else None, of_w[0], of_u[0], of_w[1], of_u[1]

    # ---- steps: few vectors, a launch each

    def linear_few(self, x: Array, weight: Array, bias: Array | None) -> Array:
        rows = 1 if x.ndim == 1 else x.shape[1]
        if rows > 32 or len(x) != weight.shape[1] or x.dtype != weight.dtype or x.dtype.char not in "fd":
            return super().linear_few(x, weight, bias)
        return self._rows_few(dense(x.T), weight, bias).T

    def _rows_few(self, x: Array, weight: Array, bias: Array | None, norm: Any = (0, 0.0, None, None), act: int = 0,
                  more: Array | None = None) -> Array:
        """act(x weight^T + bias) + more of few rows x (I,) or (B, I), normalised first by (kind, eps, gain, shift)."""
        y, rows = cp.empty((*x.shape[:-1], len(weight)), x.dtype), x.size // x.shape[-1] if x.size else 0
        if y.size:
            grid = (len(weight) + 7) // 8, max(1, (rows + 7) // 8)
            kernel("linear_few", x.dtype)(grid, (32, 8), (
                x, dense(weight), dense(bias), y, y.size // len(weight), x.shape[-1], len(weight), *norm, act, more))
        return y

    def layer_few(self, parts: Any, x: Array, past: Array, n: int, mask: Array | None, turn: Any) -> Array | None:
        """NumpyBackend's in six launches, in eight where norms come last."""
        if turn is not None or (found := parts()) is None or found[3] not in ACTS or n >= past.shape[3]:
            return None
        (*arrays, g1, s1, g2, s2), eps, heads, act, first, centred = found
        (batch, _, few, _, wide), width, inner, dtype = past.shape, len(x), arrays[6].shape[1], x.dtype
        shapes = ((heads + 2 * few) * wide, width), (width, heads * wide), (inner, width), (width, inner)
        wanted = [shape for out, fan in shapes for shape in ((out, fan), (out,))] + [(width,)] * 4
        if batch > 32 or dtype.char not in "fd" or past.dtype != dtype or any(a is not None and (
                a.shape, a.dtype) != (shape, dtype) for a, shape in zip(found[0], wanted, strict=True)):
            return None
        eps = [np.finfo(dtype).eps if e is None else e for e in eps]
        norms = [(1 + centred, e, dense(g), dense(s)) if first else (0, 0.0, None, None)
                 for e, g, s in zip(eps, (g1, g2), (s1, s2), strict=True)]
        rows = dense(x.T).reshape(batch, width)
        qkv = self._rows_few(rows, arrays[0], arrays[1], norms[0]).reshape(batch, heads + 2 * few, wide)
        past[:, :, :, n] = qkv[:, heads:].reshape(batch, 2, few, wide)
        y, _ = self.attention_few(qkv[:, :heads], past[:, 0, :, :n + 1], past[:, 1, :, :n + 1], mask)
        rows = self._rows_few(y.reshape(batch, heads * wide), arrays[2], arrays[3], more=rows)
        rows = rows if first else self.layer_norm(rows, g1, s1, 1, eps[0], centred)[0]
        y = self._rows_few(rows, arrays[4], arrays[5], norms[1], ACTS[act])
        rows = self._rows_few(y, arrays[6], arrays[7], more=rows)
        rows = rows if first else self.layer_norm(rows, g2, s2, 1, eps[1], centred)[0]
        return rows.reshape(x.T.shape).T

    def norm_few(self, x: Array, weight: Array | None, bias: Array | None, eps: float | None,
                 centred: bool = True) -> Array:
        eps = np.finfo(np.promote_types(x.dtype, "f")).eps if eps is None else eps
        return self.layer_norm(x.T, weight, bias, 1, eps, centred)[0].T

    def gelu_few(self, x: Array) -> Array:
        return self.gelu(x, True)

    @in_float32
    def attention_few(self, q: Array, k: Array, v: Array, mask: Array = None, cap: float = 0.0) -> tuple[Array, Array]:
        (batch, few, steps, wide), heads = k.shape, q.shape[1]
        k, v = (a if a.strides[2:] == (wide * a.itemsize, a.itemsize) else dense(a) for a in (k, v))
        strides = [s // a.itemsize for a in (k, v) for s in a.strides[:2]]
        weights, y = cp.empty((batch, heads, steps), q.dtype), cp.empty((batch, heads, wide), q.dtype)
        if y.size:
            threads = min(1024, max(32, 1 << (steps - 1).bit_length()))
            mask = None if mask is None else dense(mask)
            kernel("attend", q.dtype)((batch * heads,), (threads,), (
                dense(q), k, v, mask, wide**-0.5, cap, heads, heads // few, steps, wide, *strides, weights, y))
        return y.reshape(batch, few, heads // few, wide), weights.reshape(batch, few, heads // few, steps)

    def best_few(self, logits: Array) -> tuple[Array, Array]:
        logs = self.softmax(logits, log=True)
        return logs.max(axis=1, keepdims=True), logs.argmax(axis=1, keepdims=True)

    def linear_scan(self, a: Array, b: Array, h0: Array, reverse: bool) -> Array:
        h, lanes = cp.empty(b.shape, b.dtype), h0.size
        if h.size:
            kernel("linear_scan", b.dtype)(((lanes + 31) // 32,), (32, 16), (
                dense(a), dense(b), dense(h0), h, lanes, *b.shape[1:], reverse))
        return h
