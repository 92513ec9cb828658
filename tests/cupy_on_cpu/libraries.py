# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
# (the functions of cuBLAS take up to 23 numbers; their names say more than 23 times `int`)
"""NumPy in place of the parts that CuPy takes from compiled CUDA libraries: cuBLAS and Thrust's sorts."""

from __future__ import annotations

import ctypes
from types import ModuleType
from typing import Any

import numpy as np

from . import settings as S
from .compile import _digest, _run_gxx
from .runtime import Device

_F2, _F4, _F8, _C8, _C16 = map(np.dtype, ("f2", "f4", "f8", "c8", "c16"))
_BF16 = np.dtype("u2")  # the upper half of a float32; NumPy has no such type
_TYPES = {0: _F4, 1: _F8, 2: _F2, 4: _C8, 5: _C16, 14: _BF16}  # cudaDataType_t
_TYPE_NAMES = {0: "float32", 1: "float64", 2: "float16", 4: "complex64", 5: "complex128", 14: "bfloat16"}

_CONSTANTS = dict(
    CUBLAS_OP_N=0, CUBLAS_OP_T=1, CUBLAS_OP_C=2, CUBLAS_SIDE_LEFT=0, CUBLAS_SIDE_RIGHT=1,
    CUBLAS_FILL_MODE_LOWER=0, CUBLAS_FILL_MODE_UPPER=1, CUBLAS_DIAG_NON_UNIT=0, CUBLAS_DIAG_UNIT=1,
    CUBLAS_POINTER_MODE_HOST=0, CUBLAS_POINTER_MODE_DEVICE=1, CUBLAS_DEFAULT_MATH=0,
    CUBLAS_TENSOR_OP_MATH=1, CUBLAS_PEDANTIC_MATH=2,
    CUBLAS_TF32_TENSOR_OP_MATH=3, CUBLAS_GEMM_DEFAULT=-1, CUBLAS_GEMM_DEFAULT_TENSOR_OP=99,
    CUBLAS_COMPUTE_16F=64,
    CUBLAS_COMPUTE_32F=68, CUBLAS_COMPUTE_32F_PEDANTIC=69, CUBLAS_COMPUTE_32F_FAST_16F=74,
    CUBLAS_COMPUTE_32F_FAST_16BF=75, CUBLAS_COMPUTE_32F_FAST_TF32=77, CUBLAS_COMPUTE_64F=70,
    CUBLAS_COMPUTE_64F_PEDANTIC=71,
)  # fmt: skip


def _memory(address: int, dtype: np.dtype[Any], count: int) -> np.ndarray[Any, Any]:
    """`count` elements of device memory as an array."""
    buffer: Any = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    return np.frombuffer(buffer, dtype, count)


def _matrices(
    address: int, code: int, shape: tuple[int, int], ld: int, stride: int, batch: int
) -> np.ndarray[Any, Any]:
    """(batch, rows, columns): column-major matrices `stride` elements apart, columns `ld` apart."""
    dtype = _TYPES[code]
    flat = _memory(address, dtype, (batch - 1) * stride + (shape[1] - 1) * ld + shape[0])
    steps = tuple(dtype.itemsize * n for n in (stride, 1, ld))
    return np.lib.stride_tricks.as_strided(flat, (batch, *shape), steps)


def _wide(a: np.ndarray[Any, Any], code: int) -> np.ndarray[Any, Any]:
    """In the type that sums are kept in: float16 and bfloat16 become float32."""
    if code == 14:
        return (a.astype("u4") << 16).view("f4")
    return a.astype("f4") if code == 2 else a


def _store(target: np.ndarray[Any, Any], value: np.ndarray[Any, Any], code: int) -> None:
    if code == 14:
        b = np.ascontiguousarray(value, "f4").view("u4")
        rounded = (b + 0x7FFF + ((b >> 16) & 1)) >> 16  # to nearest, ties to even
        value = np.where(np.isnan(value), 0x7FC0, rounded)
    target[...] = value


def _multiply(
    op_a: int, op_b: int, m: int, n: int, k: int, alpha: complex,
    a: int, type_a: int, lda: int, stride_a: int, b: int, type_b: int, ldb: int, stride_b: int,
    beta: complex, c: int, type_c: int, ldc: int, stride_c: int, batch: int,
) -> None:  # fmt: skip
    """C = alpha op(A) op(B) + beta C for a batch of column-major matrices."""
    if min(m, n, batch) == 0:
        return
    for label, ld, rows in (("A", lda, k if op_a else m), ("B", ldb, n if op_b else k), ("C", ldc, m)):
        if ld < rows:
            raise S.EmulatorError(
                f"cuBLAS: leading dimension {ld} of {label} is less than its number of rows"
            )
    target = _matrices(c, type_c, (m, n), ldc, stride_c, batch)
    result = _wide(target, type_c) * target.dtype.type(beta) if beta else 0
    if k:
        left = _wide(_matrices(a, type_a, (m, k) if op_a == 0 else (k, m), lda, stride_a, batch), type_a)
        right = _wide(_matrices(b, type_b, (k, n) if op_b == 0 else (n, k), ldb, stride_b, batch), type_b)
        with np.errstate(all="ignore"):
            product = _operand(left, op_a) @ _operand(right, op_b)
        result = product * product.dtype.type(alpha) + result
    _store(target, np.broadcast_to(result, target.shape), type_c)


def _operand(a: np.ndarray[Any, Any], op: int) -> np.ndarray[Any, Any]:
    """N, T or C: as it is, transposed, or transposed and conjugated."""
    return a if op == 0 else a.mT if op == 1 else a.mT.conj()


def _count(name: str, code: int) -> None:
    S.counters.events["gemm"] += 1
    _launch(f"{name}<{_TYPE_NAMES[code]}>")


def _launch(name: str) -> None:
    """Count what is done at once, which CuPy refuses in a stream that captures."""
    import cupy

    if cupy.cuda.get_current_stream().is_capturing():
        raise NotImplementedError(f"calling cuBLAS or Thrust ({name}) during stream capture is not supported")
    S.counters.launch(name)


def _scalar(address: int, dtype: np.dtype[Any]) -> Any:
    return _memory(address, dtype, 1)[0].item()


def _scale_type(compute: int, code: int) -> np.dtype[Any]:
    """The type of alpha and beta."""
    if _TYPES[code].kind == "c":
        return _TYPES[code]
    return {64: _F2, 70: _F8, 71: _F8, 1: _F8}.get(compute, _F4)  # 1: CuPy may name the type of the arrays


def _compute_name(compute: int) -> str:
    return "TF32" if compute == _CONSTANTS["CUBLAS_COMPUTE_32F_FAST_TF32"] else ""


def _sgemm_ex(handle, op_a, op_b, m, n, k, alpha, a, ta, lda, b, tb, ldb, beta, c, tc, ldc):
    al, be = _scalar(alpha, _F4), _scalar(beta, _F4)
    _count("gemm", ta)
    _multiply(op_a, op_b, m, n, k, al, a, ta, lda, 0, b, tb, ldb, 0, be, c, tc, ldc, 0, 1)


def _gemm_ex(handle, op_a, op_b, m, n, k, alpha, a, ta, lda, b, tb, ldb, beta, c, tc, ldc, compute, algo):
    scale = _scale_type(compute, tc)
    al, be = _scalar(alpha, scale), _scalar(beta, scale)
    _count("gemm" + _compute_name(compute), ta)
    _multiply(op_a, op_b, m, n, k, al, a, ta, lda, 0, b, tb, ldb, 0, be, c, tc, ldc, 0, 1)


def _gemm_strided_batched_ex(
    handle,
    op_a,
    op_b,
    m,
    n,
    k,
    alpha,
    a,
    ta,
    lda,
    sa,
    b,
    tb,
    ldb,
    sb,
    beta,
    c,
    tc,
    ldc,
    sc,
    batch,
    compute,
    algo,
):
    scale = _scale_type(compute, tc)
    al, be = _scalar(alpha, scale), _scalar(beta, scale)
    _count("gemmStridedBatched" + _compute_name(compute), ta)
    _multiply(op_a, op_b, m, n, k, al, a, ta, lda, sa, b, tb, ldb, sb, be, c, tc, ldc, sc, batch)


def _typed(code: int) -> dict[str, Any]:
    """The functions that carry their type in their name: sgemm, dgemmBatched, ..."""
    dtype = _TYPES[code]

    def gemm(handle, op_a, op_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
        al, be = _scalar(alpha, dtype), _scalar(beta, dtype)
        _count("gemm", code)
        _multiply(op_a, op_b, m, n, k, al, a, code, lda, 0, b, code, ldb, 0, be, c, code, ldc, 0, 1)

    def gemm_batched(handle, op_a, op_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, batch):
        al, be = _scalar(alpha, dtype), _scalar(beta, dtype)
        _count("gemmBatched", code)
        for pa, pb, pc in zip(*(_memory(p, np.dtype("i8"), batch).tolist() for p in (a, b, c)), strict=True):
            _multiply(op_a, op_b, m, n, k, al, pa, code, lda, 0, pb, code, ldb, 0, be, pc, code, ldc, 0, 1)

    def geam(handle, op_a, op_b, m, n, alpha, a, lda, beta, b, ldb, c, ldc):
        """C = alpha op(A) + beta op(B): how CuPy transposes."""
        al, be = _scalar(alpha, dtype), _scalar(beta, dtype)
        _launch("geam")
        parts = ((al, op_a, a, lda), (be, op_b, b, ldb))
        shapes = [(m, n) if op == 0 else (n, m) for _, op, _, _ in parts]
        sums = [scale * _operand(_matrices(address, code, shape, ld, 0, 1), op)
                for (scale, op, address, ld), shape in zip(parts, shapes, strict=True) if scale]
        _matrices(c, code, (m, n), ldc, 0, 1)[...] = sum(sums)

    def dot(handle, n, x, x_step, y, y_step, result):
        _launch("dot")
        left = _memory(x, dtype, (n - 1) * x_step + 1)[::x_step]
        right = _memory(y, dtype, (n - 1) * y_step + 1)[::y_step]
        _memory(result, dtype, 1)[0] = left @ right

    named = {"gemm": gemm, "geam": geam, "gemmBatched": gemm_batched, "dotu" if dtype.kind == "c" else "dot": dot}
    return {"sdcz"[(0, 1, 4, 5).index(code)] + name: function for name, function in named.items()}


def cublas() -> Any:
    """A module with the part of `cupy_backends.cuda.libs.cublas` that products of arrays use."""
    module = ModuleType("cupy_backends.cuda.libs.cublas")
    pointer_mode = [0]
    module.__dict__.update(
        _CONSTANTS,
        CUBLASError=type("CUBLASError", (RuntimeError,), {}),
        create=lambda: 1,
        destroy=lambda handle: None,
        getVersion=lambda handle: 130000,
        setStream=lambda handle, stream: None,
        getStream=lambda handle: 0,
        setMathMode=lambda handle, mode: None,
        getMathMode=lambda handle: 0,
        setWorkspace=lambda *_: None,
        setPointerMode=lambda handle, mode: pointer_mode.__setitem__(0, mode),
        getPointerMode=lambda handle: pointer_mode[0],
        sgemmEx=_sgemm_ex,
        gemmEx=_gemm_ex,
        gemmStridedBatchedEx=_gemm_strided_batched_ex,
    )
    for code in (0, 1, 4, 5):
        module.__dict__.update(_typed(code))
    return module


_LIBRARY = """
typedef const void* P;
typedef long long L;
extern "C" {
int (*create)(P*); int (*destroy)(P); int (*set_stream)(P, P); int (*set_workspace)(P, P, unsigned long);
int (*set_math_mode)(P, int); int (*gemm)(P, int, int, int, int, int, P, P, int, int, L, P, int, int, L, P, P, int, int,
                                          L, int, int, int);
int cublasCreate_v2(P* handle) { return create(handle); }
int cublasDestroy_v2(P handle) { return destroy(handle); }
int cublasSetStream_v2(P handle, P stream) { return set_stream(handle, stream); }
int cublasSetWorkspace_v2(P handle, P memory, unsigned long size) { return set_workspace(handle, memory, size); }
int cublasSetMathMode(P handle, int mode) { return set_math_mode(handle, mode); }
int cublasGemmStridedBatchedEx(P handle, int op_a, int op_b, int m, int n, int k, P alpha, P a, int ta, int lda, L sa,
                               P b, int tb, int ldb, L sb, P beta, P c, int tc, int ldc, L sc, int batch, int compute,
                               int algo) {
  return gemm(handle, op_a, op_b, m, n, k, alpha, a, ta, lda, sa, b, tb, ldb, sb, beta, c, tc, ldc, sc, batch, compute,
              algo);
}
}
"""
_CALLBACKS: list[Any] = []  # which C code may call as long as the process lives


def libcublas(device: Device) -> None:
    """Load a library that answers to the name of CUDA 13's cuBLAS: for programs that bring a handle of their own."""
    path = S.cache_folder() / f"libcublas_{_digest(_LIBRARY)}.so"
    if not path.exists():
        source = path.with_suffix(".cpp")
        source.write_text(_LIBRARY)
        _run_gxx(["-fPIC", "-shared", "-w", str(source), "-Wl,-soname,libcublas.so.13"], path, "cuBLAS's stand-in")
    library, streams = ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL), dict[int, int]()
    working = set[int]()  # handles with memory to work in
    pointer, whole, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong

    def callback(name: str, *types: Any) -> Any:
        """Decorator: what the library's function calls. An error is a status other than 0."""
        def put(function: Any) -> None:
            def call(*args: Any) -> int:
                try:
                    return int(function(*[a or 0 for a in args]) or 0)
                except S.EmulatorError:
                    return 7  # CUBLAS_STATUS_INVALID_VALUE
            made = ctypes.CFUNCTYPE(whole, *types)(call)
            _CALLBACKS.append(made)
            pointer.in_dll(library, name).value = ctypes.cast(made, pointer).value
        return put

    @callback("create", ctypes.POINTER(pointer))
    def create(handle):
        streams[len(streams) + 1] = 0
        handle[0] = len(streams)

    @callback("destroy", pointer)
    def destroy(handle):
        streams[handle] = -1  # no stream: a use after this is an error

    @callback("set_stream", pointer, pointer)
    def set_stream(handle, stream):
        streams[handle] = stream
        working.discard(handle)  # as the documents say

    @callback("set_workspace", pointer, pointer, ctypes.c_ulong)
    def set_workspace(handle, memory, size):
        working.add(handle)
        return 7 if memory % 256 or not size else 0

    callback("set_math_mode", pointer, whole)(lambda handle, mode: 0)
    scalar = pointer, whole, whole, long

    @callback("gemm", pointer, *[whole] * 5, pointer, *scalar, *scalar, pointer, *scalar, whole, whole, whole)
    def gemm(handle, op_a, op_b, m, n, k, alpha, a, ta, lda, sa, b, tb, ldb, sb, beta, c, tc, ldc, sc, batch, compute,
             algo):
        if device.streamIsCapturing(streams[handle]) and handle not in working:
            return 13  # CUBLAS_STATUS_EXECUTION_FAILED, as what it allocates may be
        scale = _scale_type(compute, tc)
        al, be = _scalar(alpha, scale), _scalar(beta, scale)
        S.counters.kernels["cublasGemmStridedBatchedEx"] += 1
        device.do(streams[handle], "launch", lambda: _multiply(
            op_a, op_b, m, n, k, al, a, ta, lda, sa, b, tb, ldb, sb, be, c, tc, ldc, sc, batch))


def thrust() -> Any:
    """A module with the sorts of `cupy.cuda.thrust`; NaNs come last, as there."""
    module: Any = ModuleType("cupy.cuda.thrust")

    def view(address: int, dtype: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return _memory(address, np.dtype(dtype), int(np.prod(shape))).reshape(shape)

    def sort(dtype: Any, data: int, keys: int, shape: tuple[int, ...]) -> None:
        _launch("sort")
        view(data, dtype, shape).sort(axis=-1, kind="stable")

    def argsort(dtype: Any, index: int, data: int, keys: int, shape: tuple[int, ...]) -> None:
        _launch("argsort")
        view(index, np.intp, shape)[...] = np.argsort(view(data, dtype, shape), axis=-1, kind="stable")

    def lexsort(dtype: Any, index: int, keys: int, rows: int, n: int) -> None:
        _launch("lexsort")
        view(index, np.intp, (n,))[...] = np.lexsort(view(keys, dtype, (rows, n)))

    module.available, module.get_build_version = True, lambda: 300000
    module.sort, module.argsort, module.lexsort = sort, argsort, lexsort
    return module
