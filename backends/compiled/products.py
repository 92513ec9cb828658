"""Matrix products: large ones on our threads; inside compiled kernels, by the library that multiplies for NumPy, called
without Python."""

import ctypes
import math
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from tinyseq.backends import threads
from tinyseq.backends.compiled import inline, intrinsic
from tinyseq.backends.pool import LEAST, share

Array = Any

NAMES = ("scipy_cblas_{}gemm64_", "scipy_cblas_{}gemm", "cblas_{}gemm64_", "cblas_{}gemm")
WORTH = 1 << 24  # multiplications that are worth two of our threads, where a number was said
ROWS, PLAIN, TURNED = 101, 111, 112  # of CBLAS: matrices by rows, an operand as it is, transposed


@cache
def gemm() -> tuple[int, int] | None:
    """The addresses of float32's and float64's product, kernels' argument `blas`; None where the library has none."""
    if (library := threads.library()) is not None:
        for name in NAMES:
            if hasattr(library.opened, name.format("s")):
                found = (getattr(library.opened, name.format(kind)) for kind in "sd")
                single, double = (ctypes.cast(f, ctypes.c_void_p).value or 0 for f in found)
                return single, double
    return None


@intrinsic
def _call(context: Any, address: Any, turn_a: Any, turn_b: Any, m: Any, n: Any, k: Any, alpha: Any, a: Any, lda: Any,
          b: Any, ldb: Any, beta: Any, c: Any, ldc: Any) -> Any:
    """cblas_?gemm. Integers are given in 64 bits, of which a library of 32 takes the lower half."""
    i = types.intp

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, given = args[0], [ir.Constant(args[0].type, ROWS), *args[1:]]
        kind = ir.FunctionType(ir.VoidType(), [a.type for a in given]).as_pointer()
        builder.call(builder.inttoptr(address, kind), given)
        return context.get_dummy_value()

    return types.void(i, i, i, i, i, i, alpha, i, i, i, i, alpha, i, i), build


@inline
def _gemm(blas: Any, turn_a: Any, turn_b: Any, k: Any, a: Any, b: Any, c: Any, add: Any) -> None:
    one = c.dtype.type(1)
    lead_a = max(a.strides[0] // a.itemsize, a.shape[1], 1)  # strides of a single row say nothing
    lead_b = max(b.strides[0] // b.itemsize, b.shape[1], 1)
    lead_c = max(c.strides[0] // c.itemsize, c.shape[1], 1)
    address = blas[0] if c.itemsize == 4 else blas[1]
    _call(address, turn_a, turn_b, c.shape[0], c.shape[1], k, one, a.ctypes.data, lead_a, b.ctypes.data, lead_b,
          one if add else one - one, c.ctypes.data, lead_c)


# Of matrices whose rows are contiguous, of one dtype; with `add`, c grows by the product.


@inline
def multiply(blas: Any, a: Any, b: Any, c: Any, add: Any = False) -> None:
    """c = a @ b."""
    _gemm(blas, PLAIN, PLAIN, a.shape[1], a, b, c, add)


@inline
def multiply_turned(blas: Any, a: Any, b: Any, c: Any, add: Any = False) -> None:
    """c = a @ b.T."""
    _gemm(blas, PLAIN, TURNED, a.shape[1], a, b, c, add)


@inline
def turned_multiply(blas: Any, a: Any, b: Any, c: Any, add: Any = False) -> None:
    """c = a.T @ b."""
    _gemm(blas, TURNED, PLAIN, a.shape[0], a, b, c, add)


def share_products() -> None:
    """Large products are for our threads from here on, in the whole process, and OpenBLAS keeps to one."""
    threads.settle()
    threads.renewed = share_products
    if threads.large == math.inf:  # a number holds
        threads.reserve(WORTH)


class CompiledProducts(threads.ProductKernels):
    """NumPy's product, of which each thread makes some matrices, rows or columns."""

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        work = a.size * b.shape[-1] if a.ndim == b.ndim > 1 and a.dtype == b.dtype else 0
        n = min(threads.many, work // (WORTH // 2))
        shape = (*a.shape[:-1], *b.shape[-1:])
        if n < 2 or work < threads.large or (*a.shape[:-2], a.shape[-1]) != b.shape[:-1] or (out is not None and (
                out.shape != shape or np.may_share_memory(out, a) or np.may_share_memory(out, b))):
            return super().matmul(a, b, out)
        y = np.empty(shape, a.dtype) if out is None else out
        turned = a.ndim == 2 and y.shape[0] < y.shape[1]  # then y.T = b.T @ a.T
        left, right, whole = (b.T, a.T, y.T) if turned else (a, b, y)
        rows = left.ndim - 2
        axis = next((i for i in range(rows) if left.shape[i] >= n), rows)
        each = -(-left.shape[axis] // n)

        def some(start: int, stop: int) -> None:
            part = (*[slice(None)] * axis, slice(start * each, stop * each))
            np.matmul(left[part], right if axis == rows else right[part], whole[part])

        share(some, n, n * LEAST)
        return y
