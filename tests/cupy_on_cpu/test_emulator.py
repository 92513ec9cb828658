"""The emulator itself: CuPy against NumPy, kernels of our own, planted faults, counters, both compilers."""

import ctypes
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cupy_on_cpu as emulator
from cupy_on_cpu import compile as compiler

if not getattr(sys.modules.get("cupy"), "_on_cpu", False):
    pytest.skip(
        "tests of the CuPy emulator run with: PYTHONPATH=tests python -m pytest -p cupy_on_cpu.plugin",
        allow_module_level=True,
    )

import cupy as cp

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(4, 6)).astype("f4")
Y = GENERATOR.normal(size=(6, 5)).astype("f4")
B = GENERATOR.normal(size=(3, 4, 6)).astype("f4")
C = GENERATOR.normal(size=(3, 6, 2)).astype("f4")
ROWS = np.array([2, 0, 2, 1])

FORWARDS, REVERSED = {"reverse": False}, {"reverse": True}


def _changed(write):
    """A function of (xp, a, ...) that copies a, lets `write` change the copy, and returns it."""

    def run(xp, a, *rest):
        a = a.copy()
        write(xp, a, *rest)
        return a

    return run


OPERATIONS = {
    "tanh of sum": (lambda xp, a: xp.tanh(a * 2 + 1), X),
    "power": (lambda xp, a: a**2 + xp.abs(a) ** 0.5, X),
    "where": (lambda xp, a: xp.where(a > 0, a, 0), X),
    "clip": (lambda xp, a: xp.clip(a, -1, 1), X),
    "out=": (_changed(lambda xp, a: xp.add(a, 1, out=a)), X),
    "isfinite all": (lambda xp, a: xp.isfinite(a).all(), X),
    "complex": (lambda xp, a: xp.abs(a * 1j + a), X),
    "float64": (lambda xp, a: xp.exp(a).sum(1), X.astype("f8")),
    "float16": (lambda xp, a: (a * 2 + a).sum(1), X.astype("f2")),
    "sum of rows": (lambda xp, a: a.sum(axis=1), X),
    "sum of columns": (lambda xp, a: a.sum(axis=0), X),
    "long sum": (lambda xp, a: a.sum(axis=1), GENERATOR.normal(size=(2, 3000)).astype("f4")),
    "max": (lambda xp, a: a.max(axis=-1, keepdims=True), X),
    "mean": (lambda xp, a: a.mean(axis=(0, 1)), B),
    "var": (lambda xp, a: a.var(axis=-1), B),
    "argmax": (lambda xp, a: a.argmax(axis=1), X),
    "cumsum": (lambda xp, a: xp.cumsum(a, axis=1), X),
    "norm": (lambda xp, a: xp.linalg.norm(a), X),
    "matmul": (lambda xp, a, b: a @ b, X, Y),
    "matmul transposed": (lambda xp, a, b: b.T @ a.T, X, Y),
    "matmul float16": (lambda xp, a, b: a @ b, X.astype("f2"), Y.astype("f2")),
    "matmul float64": (lambda xp, a, b: a @ b, X.astype("f8"), Y.astype("f8")),
    "matmul complex": (lambda xp, a, b: a @ b.conj(), X.astype("c8"), Y.astype("c8") * 1j),
    "matmul batch": (lambda xp, a, b: a @ b, B, C),
    "matmul batch float64": (lambda xp, a, b: a @ b, B.astype("f8"), C.astype("f8")),
    "matmul broadcast": (lambda xp, a, b: a @ b, B, Y),
    "matmul 4-D transposed": (lambda xp, a: a[None] @ a[:, None].swapaxes(-1, -2), B),
    "matmul no rows": (lambda xp, a, b: a[:0] @ b, X, Y),
    "matmul no terms": (lambda xp, a, b: a[:, :0] @ b[:0], X, Y),
    "vectors": (lambda xp, a: a[0] @ a[1], X),
    "einsum batch": (lambda xp, a, b: xp.einsum("bij,bjk->bik", a, b), B, C),
    "einsum order": (lambda xp, a, b: xp.einsum("bij,jk->bki", a, b), B, Y),
    "tensordot": (lambda xp, a, b: xp.tensordot(a, b, axes=([2], [0])), B, Y),
    "rows by index": (lambda xp, a, i: a[i], X, ROWS),
    "pairs by index": (lambda xp, a, i: a[xp.arange(4), i], X, ROWS),
    "take": (lambda xp, a, i: xp.take(a, i, axis=1), X, ROWS),
    "take along": (lambda xp, a, i: xp.take_along_axis(a, i[:, None], 1), X, ROWS),
    "add.at": (_changed(lambda xp, a, i, g: xp.add.at(a, i, g)), X, ROWS, X + 1),
    "add.at float16": (_changed(lambda xp, a, i: xp.add.at(a, i, a * 2)), X.astype("f2"), ROWS),
    "write a slice": (_changed(lambda xp, a: a.__setitem__((slice(None), slice(0, 2)), 0)), X),
    "write strided": (_changed(lambda xp, a: a[::2, ::-2].__iadd__(a[1::2, ::2])), X),
    "write masked": (_changed(lambda xp, a: a.__setitem__(a > 0, 0)), X),
    "read masked": (lambda xp, a: a[a > 0], X),
    "nonzero": (lambda xp, a: xp.stack(xp.nonzero(a > 0)), X),
    "concatenate": (lambda xp, a: xp.concatenate([a, a * 2], axis=1), X),
    "stack": (lambda xp, a: xp.stack([a, a * 2], axis=1), X),
    "split": (lambda xp, a: xp.split(a, 3, axis=1)[1], X),
    "copy transposed": (lambda xp, a: xp.ascontiguousarray(a.transpose(2, 0, 1)), B),
    "sliding windows": (lambda xp, a: xp.lib.stride_tricks.sliding_window_view(a, 3, axis=1).sum(-1), X),
    "copy of a transposed matrix": (lambda xp, a: xp.ascontiguousarray(a.T), X),
    "tril": (lambda xp, a: xp.tril(a), X),
    "sort": (lambda xp, a: xp.sort(a, axis=0), X),
    "argsort": (lambda xp, a: xp.argsort(a, axis=1), X),
}


@pytest.fixture(autouse=True)
def plain_settings():
    """What these tests plant and look for must not depend on the settings of the run."""
    with emulator.using(reverse=False, races=False, nvrtc=()):
        yield


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_equals_numpy(name):
    operation, *arrays = OPERATIONS[name]
    expected = np.asarray(operation(np, *arrays))
    tolerance = 64 * np.finfo(expected.dtype).eps if expected.dtype.kind in "fc" else 0
    for order in (FORWARDS, REVERSED):
        with emulator.using(**order):
            got = cp.asnumpy(operation(cp, *map(cp.asarray, arrays)))
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


# Kernels of the kinds that a backend writes


def test_elementwise_reduction_and_fused_kernels():
    bigger = cp.ElementwiseKernel("T x, T y", "T z", "z = x > y ? x : y * (T)2", "test_bigger")
    length = cp.ReductionKernel("T x", "T y", "x * x", "a + b", "y = sqrt(a)", "0", "test_length")
    fused = cp.fuse(kernel_name="test_fused")(lambda x: cp.tanh(x) * x + 1)
    x = cp.asarray(X)
    np.testing.assert_array_equal(bigger(x, np.float32(0.5)).get(), np.where(X > 0.5, X, 1).astype("f4"))
    np.testing.assert_allclose(length(x, axis=1).get(), np.linalg.norm(X, axis=1), rtol=1e-6)
    with emulator.counting() as seen:
        result = fused(x)
    assert seen["launch"] == 1
    np.testing.assert_allclose(result.get(), np.tanh(X) * X + 1, rtol=1e-5)


SOFTMAX = r"""
#define NEGATIVE_INFINITY __int_as_float(0xff800000)
template <typename T> __device__ T warp_max(T v) {
  for (int o = 16; o > 0; o >>= 1) { T u = __shfl_xor_sync(0xffffffffu, v, o); v = u > v ? u : v; }
  return v;
}
template <typename T> __device__ T warp_sum(T v) {
  for (int o = 16; o > 0; o >>= 1) v += __shfl_down_sync(0xffffffffu, v, o);
  return __shfl_sync(0xffffffffu, v, 0);
}
extern "C" __global__ void __launch_bounds__(256) softmax(const float* x, float* y, int n, int stride) {
  extern __shared__ __align__(16) float row[];
  __shared__ float part[32];
  const int t = threadIdx.x, warps = blockDim.x / 32;
  float m = NEGATIVE_INFINITY, s = 0;
  for (int i = t; i < n; i += blockDim.x) { row[i] = x[blockIdx.x * stride + i]; m = fmaxf(m, row[i]); }
  m = warp_max(m);
  if ((t & 31) == 0) part[t >> 5] = m;
  __syncthreads();
  m = warp_max(t % 32 < warps ? part[t % 32] : NEGATIVE_INFINITY);
  BETWEEN
  for (int i = t; i < n; i += blockDim.x) { row[i] = expf(row[i] - m); s += row[i]; }
  s = warp_sum(s);
  if ((t & 31) == 0) part[t >> 5] = s;
  __syncthreads();
  s = warp_sum(t % 32 < warps ? part[t % 32] : 0.0f);
  for (int i = t; i < n; i += blockDim.x) y[blockIdx.x * n + i] = row[i] / s;
}
"""


def _softmax(between="__syncthreads();", n=500, threads=256, stride=None):
    """Largest error of the kernel above on 3 rows of n."""
    kernel = cp.RawKernel(SOFTMAX.replace("BETWEEN", between), "softmax")
    x = np.random.default_rng(n).normal(size=(3, n)).astype("f4")
    y = cp.empty_like(cp.asarray(x))
    kernel((3,), (threads,), (cp.asarray(x), y, np.int32(n), np.int32(stride or n)), shared_mem=4 * n)
    e = np.exp(x - x.max(1, keepdims=True))
    return abs(y.get() - e / e.sum(1, keepdims=True)).max()


@pytest.mark.parametrize("order", [FORWARDS, REVERSED], ids=["forwards", "reversed"])
@pytest.mark.parametrize("races", [False, True])
@pytest.mark.parametrize("n", [5, 500])
def test_a_kernel_with_barriers_and_shuffles(order, races, n):
    with emulator.using(**order, races=races):
        assert _softmax(n=n) < 1e-6


def _on_one_block(body, threads=64, dtype="f4", **checks):
    """What `body` writes to y[64 zeros], by one block."""
    ctype = {"f4": "float", "i4": "int", "u8": "unsigned long long", "f2": "__half"}[dtype]
    source = (
        '#include <cuda_fp16.h>\nextern "C" __global__ void body(TYPE* y) { const int t = threadIdx.x; BODY }'
    )
    source = source.replace("TYPE", ctype).replace("BODY", body)
    y = cp.zeros(64, dtype)
    with emulator.using(**checks):
        cp.RawKernel(source, "body")((1,), (threads,), (y,))
    return y.get()


LANES = np.arange(64) % 32


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("__shfl_sync(0xffffffffu, t, 3)", np.arange(64) // 32 * 32 + 3),
        ("__shfl_sync(0xffffffffu, t, 3, 8)", np.arange(64) // 8 * 8 + 3),
        ("__shfl_up_sync(0xffffffffu, t, 2)", np.where(LANES >= 2, np.arange(64) - 2, np.arange(64))),
        ("__shfl_down_sync(0xffffffffu, t, 2)", np.where(LANES < 30, np.arange(64) + 2, np.arange(64))),
        ("__shfl_xor_sync(0xffffffffu, t, 5)", np.arange(64) ^ 5),
        ("__popc(__ballot_sync(0xffffffffu, t % 3 == 0))", np.repeat([11, 11], 32)),
        ("__any_sync(0xffffffffu, t == 40)", np.repeat([0, 1], 32)),
        ("__all_sync(0xffffffffu, t < 40)", np.repeat([1, 0], 32)),
        (
            "t % 32 < 8 ? __shfl_xor_sync(0xffu, t, 1) : t",
            np.where(LANES < 8, np.arange(64) ^ 1, np.arange(64)),
        ),
    ],
)
def test_warp_functions(expression, expected):
    for order in (FORWARDS, REVERSED):
        np.testing.assert_array_equal(_on_one_block(f"y[t] = {expression};", dtype="i4", **order), expected)


def test_integer_products_for_counter_based_random_numbers():
    body = "y[t] = __umul64hi(0xD2E7470EE14C6C93ull * (t + 1), 0xCA5A826395121157ull);"
    expected = [(0xD2E7470EE14C6C93 * (t + 1)) % 2**64 * 0xCA5A826395121157 >> 64 for t in range(64)]
    assert _on_one_block(body, dtype="u8").tolist() == expected


def test_atomics():
    assert _on_one_block("atomicAdd(&y[t % 2], (float)t);", races=True)[:2].tolist() == [992, 1024]
    assert _on_one_block("atomicAdd(&y[0], __float2half(1.0f));", dtype="f2")[0] == 64
    assert _on_one_block("atomicMax(&y[0], t);", dtype="i4")[0] == 63
    assert _on_one_block("atomicCAS(&y[t % 2], 0, 7);", dtype="i4", races=True)[:3].tolist() == [7, 7, 0]


def test_templates_by_name_expression_and_definitions():
    source = "template <typename T> __global__ void twice(T* y) { y[threadIdx.x] *= FACTOR; }"
    names = ["twice<float>", "twice<long long>"]
    module = cp.RawModule(code=source, options=("--std=c++17", "-DFACTOR=2"), name_expressions=names)
    for name, dtype in zip(names, ("f4", "i8"), strict=True):
        y = cp.ones(4, dtype)
        module.get_function(name)((1,), (4,), (y,))
        assert y.get().tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("f4", 1e-5), ("f8", 1e-12), ("f2", 2e-2), ("bfloat16", 2e-1)]
)
def test_strided_batched_gemm(dtype, tolerance):
    from cupy_backends.cuda.libs import cublas

    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    dtype = np.dtype(dtype)
    a, b = B.astype(dtype), C.astype(dtype)
    da, db, dc = cp.asarray(a), cp.asarray(b), cp.ones((3, 4, 2), dtype)
    code = {"f": 0, "d": 1, "e": 2}.get(dtype.char, 14)
    alpha, beta = np.array(2, "f8" if code == 1 else "f4"), np.array(3, "f8" if code == 1 else "f4")
    compute = cublas.CUBLAS_COMPUTE_64F if code == 1 else cublas.CUBLAS_COMPUTE_32F
    with emulator.counting() as seen:  # row-major C = A B is column-major C' = B' A'
        cublas.gemmStridedBatchedEx(
            0, 0, 0, 2, 4, 6, alpha.ctypes.data, db.data.ptr, code, 2, 12, da.data.ptr, code, 6, 24,
            beta.ctypes.data, dc.data.ptr, code, 2, 8, 3, compute, -1,
        )  # fmt: skip
    assert (seen["launch"], seen["gemm"]) == (1, 1)
    expected = 2 * (a.astype("f8") @ b.astype("f8")) + 3
    np.testing.assert_allclose(dc.get().astype("f8"), expected, atol=tolerance * abs(expected).max())


# Planted faults


def test_a_missing_barrier_shows_in_one_of_two_orders():
    errors = []
    for order in (FORWARDS, REVERSED):
        with emulator.using(**order):
            errors.append(_softmax(between=""))
    assert max(errors) > 1e-3 or math.isnan(max(errors))


@pytest.mark.parametrize("barrier", ["", "__syncwarp();"], ids=["loop", "fibers"])
def test_the_two_orders_are_each_others_reverse(barrier):
    reads_below = f"__shared__ float s[64]; s[t] = 1; {barrier} y[t] = s[t % 32];"
    reads_above = f"__shared__ float s[64]; s[t] = 1; {barrier} y[t] = s[t % 32 + 32];"
    for body, right, wrong in ((reads_below, FORWARDS, REVERSED), (reads_above, REVERSED, FORWARDS)):
        assert (_on_one_block(body, **right) == 1).all()
        assert np.isnan(_on_one_block(body, **wrong)).any()


@pytest.mark.parametrize("order", [FORWARDS, REVERSED], ids=["forwards", "reversed"])
def test_a_missing_barrier_is_a_race_in_both_orders(order):
    with (
        emulator.using(**order, races=True),
        pytest.raises(emulator.EmulatorError, match="softmax: race in shared"),
    ):
        _softmax(between="")


RACES = {
    "two threads add to one number": ("y[0] += 1;", "race in global memory"),
    "two threads write one number": ("y[t / 2] = t;", "race in global memory"),
    "a neighbour is read": ("y[t] = 1; y[t] = y[(t + 1) % 64];", "race in global memory"),
    "an atomic and a plain access": (
        "atomicAdd(&y[0], 1.0f); y[1 + t % 63] = y[0];",
        "race in global memory",
    ),
    "lanes without __syncwarp": (
        "__shared__ float s[64]; s[t] = t; y[t] = s[t ^ 1];",
        "race in shared memory",
    ),
    "warps with only __syncwarp": (
        "__shared__ float s[64]; s[t] = t; __syncwarp(); y[t] = s[63 - t];",
        "race in shared memory",
    ),
}


@pytest.mark.parametrize("name", RACES)
@pytest.mark.parametrize("order", [FORWARDS, REVERSED], ids=["forwards", "reversed"])
def test_a_race_is_reported(name, order):
    body, words = RACES[name]
    with pytest.raises(emulator.EmulatorError, match=f"body: {words}: thread"):
        _on_one_block(body, races=True, **order)


def test_what_is_ordered_is_no_race():
    lanes = "__shared__ float s[64]; s[t] = t; __syncwarp(); y[t] = s[t ^ 1];"
    assert _on_one_block(lanes, races=True).tolist() == [t ^ 1 for t in range(64)]
    block = "__shared__ float s[64]; s[t] = t; __syncthreads(); y[t] = s[63 - t]; __syncthreads(); s[t] = 0;"
    assert _on_one_block(block, races=True).tolist() == list(range(63, -1, -1))
    private = "float a[4]; for (int i = 0; i < 4; i++) a[(i + t) % 4] = i; y[t] = a[t % 4];"
    assert _on_one_block(private, races=True).tolist() == [0] * 64


def test_blocks_that_write_one_number_race_and_blocks_of_shared_memory_do_not():
    source = """extern "C" __global__ void blocks(int* y) {
      __shared__ int s; if (threadIdx.x == 0) s = blockIdx.x; __syncthreads(); y[INDEX] = s; }"""
    with emulator.using(races=True):
        y = cp.zeros(8, "i4")
        cp.RawKernel(source.replace("INDEX", "blockIdx.x * 4 + threadIdx.x"), "blocks")((2,), (4,), (y,))
        assert y.get().tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
        with pytest.raises(emulator.EmulatorError, match="of block 1 writes what thread"):
            cp.RawKernel(source.replace("INDEX", "threadIdx.x"), "blocks")((2,), (4,), (y,))


def test_the_last_block_may_read_what_others_published_behind_a_fence():
    source = """extern "C" __global__ void last(float* part, unsigned* count, float* y) {
      part[blockIdx.x] = blockIdx.x; FENCE
      if (atomicAdd(count, 1u) == gridDim.x - 1) for (int i = 0; i < gridDim.x; i++) y[0] += part[i]; }"""

    def run(fence):
        y = cp.zeros(1, "f4")
        kernel = cp.RawKernel(source.replace("FENCE", fence), "last")
        kernel((5,), (1,), (cp.empty(5, "f4"), cp.zeros(1, "u4"), y))
        return float(y[0])

    for order in (FORWARDS, REVERSED):
        with emulator.using(**order, races=True):
            assert run("__threadfence();") == 10
            with pytest.raises(emulator.EmulatorError, match="race"):
                run("")


def test_a_divergent_barrier_is_reported():
    with pytest.raises(emulator.EmulatorError, match="divergent __syncthreads: some threads at line"):
        _on_one_block("if (t < 32) { y[0] = 1;\n __syncthreads(); } else {\n __syncthreads(); }")


def test_a_shuffle_that_waits_for_ever_is_reported():
    with pytest.raises(emulator.EmulatorError, match="deadlock: warp 0"):
        _on_one_block("if (t < 8) y[t] = __shfl_sync(0xffffffffu, y[t], 0); __syncthreads();")


def test_uninitialised_memory_is_not_a_number():
    assert np.isnan(
        _on_one_block("__shared__ float s[64]; if (t) s[t] = t; __syncthreads(); y[t] = s[t];")[0]
    )
    fresh = cp.cuda.memory.MemoryPointer(cp.cuda.memory.Memory(16), 0)
    assert np.isnan(cp.ndarray(4, "f4", memptr=fresh).get()).all()


def test_a_wrong_stride_gives_wrong_numbers():
    assert _softmax(stride=500) < 1e-6
    assert not _softmax(stride=499) < 1e-3


@pytest.mark.parametrize(
    ("grid", "block", "shared", "words"),
    [
        ((1,), (1025,), 0, "no GPU takes a grid"),
        ((1, 65536), (1,), 0, "no GPU takes a grid"),
        ((1,), (1,), 60_000, "max_dynamic_shared_size_bytes"),
    ],
)
def test_a_launch_that_no_gpu_takes_is_refused(grid, block, shared, words):
    kernel = cp.RawKernel('extern "C" __global__ void nothing() {}', "nothing")
    with pytest.raises(emulator.EmulatorError, match=words):
        kernel(grid, block, (), shared_mem=shared)
    kernel.max_dynamic_shared_size_bytes = 60_000
    kernel((1,), (1,), (), shared_mem=60_000)


def test_a_mistake_in_a_kernel_names_the_line():
    with pytest.raises(emulator.CompileError, match=r"kernel\.cu:3:.*nowhere"):
        cp.RawKernel(
            'extern "C" __global__ void wrong(int* y) {\n y[0] = 1;\n y[0] = nowhere; }', "wrong"
        ).compile()


BOUNDS = """
import cupy_on_cpu
cp = cupy_on_cpu.install()
import numpy as np
x, y = cp.ones(100, "f4"), cp.empty(100, "f4")
source = 'extern "C" __global__ void copy(const float* x, float* y, int n) {{\\n' \\
         '  __shared__ float s[128]; int i = threadIdx.x;\\n' \\
         '  if (i {less} n) s[i {shift}] = x[i]; __syncthreads();\\n' \\
         '  if (i {less} n) y[i] = s[i]; }}'
cp.RawKernel(source, "copy")((1,), (128,), (x, y, np.int32(100)))
print("no fault", y.sum())
"""


@pytest.mark.parametrize(
    ("less", "shift", "words"),
    [
        ("<", "", "no fault 100.0"),
        ("<=", "", "heap-buffer-overflow"),
        ("<", "+ 64", "global-buffer-overflow"),
    ],
)
def test_address_sanitizer_sees_what_is_out_of_bounds(less, shift, words):
    run = subprocess.run(
        [sys.executable, "-c", BOUNDS.format(less=less, shift=shift)],
        capture_output=True, text=True, cwd=Path(emulator.__file__).parents[1],
        env=os.environ | emulator.address_environment(),
    )  # fmt: skip
    assert words in run.stdout + run.stderr
    if words != "no fault 100.0":
        assert "kernel.cu:3" in run.stderr


# Counters


def test_counters():
    host = np.ones((8, 8), "f4")
    with emulator.counting() as seen:
        x = cp.asarray(host)
    assert (seen["h2d"], seen["launch"], seen["sync"]) == (1, 0, 0)
    with emulator.counting() as seen:
        y = x @ x + x
        z = y.sum()
    assert (seen["launch"], seen["gemm"], seen["sync"], seen["h2d"], seen["d2h"]) == (3, 1, 0, 0, 0)
    assert seen.kernels["gemm<float32>"] == 1
    with emulator.counting() as seen:
        assert float(z) == 8 * 64 + 64
    assert (seen["d2h"], seen["sync"], seen["launch"]) == (1, 1, 0)
    with emulator.counting() as seen:
        x.copy()
        cp.cuda.Device().synchronize()
    assert (seen["d2d"] + seen["launch"], seen["sync"]) == (1, 1)


def test_fresh_memory_is_counted_and_the_pool_keeps_it():
    pool = cp.get_default_memory_pool()
    pool.free_all_blocks()
    used = pool.used_bytes()
    with emulator.counting() as seen:
        x = cp.empty(1 << 20, "f4")
    assert seen["malloc"] == 1 and pool.used_bytes() == used + (4 << 20)
    del x
    with emulator.counting() as seen:
        cp.empty(1 << 20, "f4")
    assert seen["malloc"] == 0
    free, total = cp.cuda.Device().mem_info
    assert free <= total - (4 << 20)


def test_a_full_device_is_cupys_error():
    with pytest.raises(cp.cuda.memory.OutOfMemoryError):
        cp.empty(1 << 34, "f4")


def test_streams_and_events():
    start, end = cp.cuda.Event(), cp.cuda.Event()
    with cp.cuda.Stream(non_blocking=True) as stream:
        start.record()
        x = cp.arange(10) * 2
        end.record()
        with emulator.counting() as seen:
            end.synchronize()
            stream.synchronize()
    assert seen["sync"] == 2 and cp.cuda.get_elapsed_time(start, end) > 0
    assert x.get().tolist() == list(range(0, 20, 2))


def test_what_is_not_emulated_is_refused_by_name():
    with pytest.raises(emulator.EmulatorError, match="launchHostFunc"):
        cp.cuda.Stream(non_blocking=True).launch_host_func(print, "never")


# The cache and both compilers


def test_a_kernel_is_compiled_once(monkeypatch, tmp_path):
    monkeypatch.setenv("CUPY_ON_CPU_CACHE", str(tmp_path))
    compiler._precompiled_header.cache_clear()
    source = 'extern "C" __global__ void once(float* y) { y[0] = 1; }'
    options = (f"-I{Path(cp.__file__).parent}/_core/include",)
    with emulator.counting() as seen:
        compiler.program(source, options).library()
    assert seen["compile"] == 1
    with emulator.counting() as seen:
        compiler.program(source, options).library()
    assert seen["compile"] == 0
    with emulator.counting() as seen:
        compiler.program(source, (*options, "-DOTHER")).library()
    assert seen["compile"] == 1
    compiler._precompiled_header.cache_clear()


@pytest.fixture
def nvrtc():
    reason = emulator.nvrtc_missing()
    if reason:
        pytest.skip(reason)


def test_nvrtc_compiles_for_every_architecture(nvrtc):
    emulator.check_nvrtc(SOFTMAX.replace("BETWEEN", "__syncthreads();"))


def test_what_only_gxx_accepts_is_refused_by_nvrtc(nvrtc):
    source = 'extern "C" __global__ void endless(float* y) { y[0] = INFINITY; }'
    cp.RawKernel(source, "endless").compile()
    with pytest.raises(emulator.CompileError, match="sm_75"):
        emulator.check_nvrtc(source)
    with emulator.using(nvrtc=("120",)), pytest.raises(emulator.CompileError, match="sm_120"):
        cp.RawKernel(source + "\n", "endless").compile()


def test_kernels_that_cupy_generates_from_ours_compile_with_nvrtc(nvrtc):
    with emulator.using(nvrtc=emulator.NVRTC_ARCHITECTURES):
        kernel = cp.ElementwiseKernel("T x", "T y", "y = tanh(x)", "test_nvrtc")
        np.testing.assert_allclose(kernel(cp.asarray(X)).get(), np.tanh(X), rtol=1e-6)


# What is missing


SCALE = cp.RawKernel(
    """struct Pair { double by; int more; };
    extern "C" __global__ void scale(float* x, Pair p, unsigned long long n) {
      if (threadIdx.x < n) x[threadIdx.x] = x[threadIdx.x] * p.by + p.more;
    }""", "scale", ("--std=c++17",))  # fmt: skip


def test_a_stream_that_captures_keeps_its_work_for_the_graph():
    x, y = cp.arange(4, dtype="f4"), cp.ones(4, "f4")
    stream = cp.cuda.Stream(non_blocking=True)
    pair = np.array([(2.0, 1)], [("by", "f8"), ("more", "i4", 2)])[0]
    with stream, emulator.counting() as seen:
        stream.begin_capture()
        SCALE((1,), (32,), (x, pair, 3))
        pair["by"] = 100  # as it was when it was given
        y[:2] = x[:2]
        y += x
        z = cp.zeros(3)
        assert x.get(stream=cp.cuda.Stream.null).tolist() == [0, 1, 2, 3]
        graph = stream.end_capture()
    assert (seen["launch"], seen["memset"], seen["graph"]) == (0, 0, 0)
    assert seen["recorded"] == 4
    for wanted_x, wanted_y in (([1, 3, 5, 3], [2, 6, 6, 4]), ([3, 7, 11, 3], [6, 14, 17, 7])):
        with emulator.counting() as seen:
            graph.launch()
        assert dict(seen.events) == {"graph": 1}
        assert (x.get().tolist(), y.get().tolist(), z.get().tolist()) == (wanted_x, wanted_y, [0, 0, 0])


def test_what_no_stream_may_do_while_it_captures_is_refused():
    x, stream = cp.ones((2, 2), "f4"), cp.cuda.Stream(non_blocking=True)
    runtime = cp.cuda.runtime.CUDARuntimeError
    with stream:
        stream.begin_capture()
        for call, error, words in [
            (x.get, RuntimeError, "D2H"),
            (lambda: cp.asarray([1.0]), RuntimeError, "H2D"),
            (lambda: x.set(np.ones((2, 2), "f4")), RuntimeError, "H2D"),
            (stream.synchronize, runtime, "not permitted when stream is capturing"),
            (cp.cuda.Device().synchronize, runtime, "not permitted when stream is capturing"),
            (lambda: x @ x, NotImplementedError, "gemm"),
            (lambda: cp.sort(x), NotImplementedError, "sort"),
        ]:
            with pytest.raises(error, match=words):
                call()
        assert stream.is_capturing()
        stream.end_capture().launch()
    stream.synchronize()
    assert (x @ x).get().tolist() == [[2, 2], [2, 2]]


def test_a_program_may_bring_its_own_cublas():
    library = ctypes.CDLL("libcublas.so.13")
    pointer, whole, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
    array = pointer, whole, whole, long
    gemm = library.cublasGemmStridedBatchedEx
    gemm.argtypes = [pointer, *[whole] * 5, pointer, *array, *array, pointer, *array, whole, whole, whole]
    handle = pointer()
    assert library.cublasCreate_v2(ctypes.byref(handle)) == 0
    one, zero, stream = (ctypes.c_float * 1)(1), (ctypes.c_float * 1)(0), cp.cuda.Stream(non_blocking=True)
    a, b, c = (cp.asarray(v, dtype="f4") for v in ([[1, 2], [3, 4]], [[5, 6], [7, 8]], [[0, 0], [0, 0]]))

    def multiply(m=2):  # by columns: c^T = b^T a^T
        return gemm(handle, 0, 0, m, 2, 2, one, b.data.ptr, 0, 2, 0, a.data.ptr, 0, 2, 0, zero, c.data.ptr, 0, 2, 0, 1,
                    68, -1)

    assert multiply() == 0
    assert c.get().tolist() == [[19, 22], [43, 50]]
    assert multiply(3) == 7  # a leading dimension that is too small
    memory = cp.empty(1024, np.uint8)
    assert library.cublasSetStream_v2(handle, pointer(stream.ptr)) == 0
    stream.begin_capture()
    assert multiply() == 13  # no memory of its own
    assert library.cublasSetWorkspace_v2(handle, pointer(memory.data.ptr), ctypes.c_size_t(1024)) == 0
    assert multiply() == 0
    graph = stream.end_capture()
    a *= 2
    assert c.get().tolist() == [[19, 22], [43, 50]]
    graph.launch()
    assert c.get().tolist() == [[38, 44], [86, 100]]
    assert library.cublasDestroy_v2(handle) == 0


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [(os.environ["PATH"], 0, "1 passed"), ("", 4, "The CuPy emulator needs g++")],
    ids=["complete", "without g++"],
)
def test_the_plugin_selects_the_backend_or_says_what_is_missing(tmp_path, path, code, words):
    test = tmp_path / "test_it.py"
    test.write_text("""def test_it():
        import os, cupy
        assert os.environ["TINYSEQ_BACKEND"] == "cupy" and cupy.arange(3).get().tolist() == [0, 1, 2]""")
    environment = {key: value for key, value in os.environ.items() if key != "TINYSEQ_BACKEND"}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "cupy_on_cpu.plugin", "-p", "no:cacheprovider", str(test)],
        capture_output=True, text=True, cwd=tmp_path,
        env=environment | {"PATH": path, "PYTHONPATH": str(Path(emulator.__file__).parents[1])},
    )  # fmt: skip
    assert (run.returncode, words in run.stdout + run.stderr) == (code, True)


def test_a_script_runs_on_it(tmp_path):
    script = tmp_path / "script.py"
    program = "import cupy, os, sys; print(cupy.arange(3), sys.argv[1], os.environ['TINYSEQ_BACKEND'])"
    script.write_text(program)
    run = subprocess.run(
        [sys.executable, "-m", "cupy_on_cpu", str(script), "word"], capture_output=True, text=True,
        cwd=Path(emulator.__file__).parents[1], check=True,
    )  # fmt: skip
    assert run.stdout == "[0 1 2] word cupy\n"


def test_what_is_missing_is_one_sentence(monkeypatch, tmp_path):
    assert emulator.missing() is None
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    assert "needs g++" in emulator.missing()
    monkeypatch.undo()
    monkeypatch.setattr(compiler, "cuda_include", lambda: None)
    assert "pip install nvidia-cuda-runtime" in emulator.missing()
    monkeypatch.setattr(emulator, "version", lambda name: "13.0.0")
    assert f"found 13.0.0: pip install cupy-cuda13x=={emulator.CUPY_VERSION}" in emulator.missing()
