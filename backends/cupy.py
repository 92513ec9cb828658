"""The CuPy backend: NumPy's portable code on a CUDA device, with the kernels that matter in CUDA C.

Needs CuPy 14: pip install 'tinyseq[cuda13]', or 'tinyseq[cuda12]' for an older driver.
"""

import os
from types import ModuleType
from typing import Any

import numpy as np

from tinyseq.backends.numpy import Array, NumpyBackend

try:
    import cupy as cp
except ImportError as error:
    raise ImportError("the cupy backend needs CuPy, which is not installed here "
                      f"({error}): pip install 'tinyseq[cuda13]', or 'tinyseq[cuda12]' for CUDA 12") from None


def unusable() -> str | None:
    """Why CuPy, which is installed, cannot run here, in one sentence; None if it can."""
    runtime = cp.cuda.runtime
    try:
        devices, why = runtime.getDeviceCount(), "none is listed"
    except runtime.CUDARuntimeError as error:
        devices, why = 0, str(error)
    if not devices:
        driver = runtime.driverGetVersion() or "not loaded"
        return (f"CuPy {cp.__version__} is installed, but no CUDA device is found ({why}; driver {driver}, "
                f"CuPy built for CUDA {runtime.runtimeGetVersion()}): see whether nvidia-smi lists one")
    try:
        from cupy_backends.cuda.libs import cublas, nvrtc

        cublas.getVersion, nvrtc.getVersion()
    except (ImportError, RuntimeError) as error:
        version = runtime.runtimeGetVersion() // 1000
        return (f"a CUDA device is present, but CUDA's libraries are missing ({str(error).splitlines()[0]}): "
                f"pip install 'cupy-cuda{version}x[ctk]'")
    return None


class CupyBackend(NumpyBackend):
    """CuPy arrays on the current CUDA device."""

    name = "cupy"
    array_types: tuple[type, ...] = (cp.ndarray,)

    def __init__(self) -> None:
        reason = unusable()
        if reason:
            raise RuntimeError(f"the cupy backend cannot run here: {reason}")
        self.tf32 = os.environ.get("TINYSEQ_TF32") == "1"
        self.xp = self.namespace(cp)

    def namespace(self, library: ModuleType) -> ModuleType:
        xp = super().namespace(library)
        ours = (self.asarray, self.argsort, self.where, self.vecdot)
        vars(xp).update({f.__name__: f for f in ours})
        return xp

    # ---- arrays in and out

    def asarray(self, data: Any, dtype: Any = None, copy: bool | None = None) -> Array:
        if isinstance(data, cp.ndarray):
            return data.astype(data.dtype if dtype is None else dtype, copy=bool(copy))
        return cp.asarray(np.asarray(data, dtype=dtype))

    def asnumpy(self, array: Array) -> np.ndarray[Any, Any]:
        return cp.asnumpy(array)

    def synchronize(self) -> None:
        """Wait until the current stream's work is done."""
        cp.cuda.get_current_stream().synchronize()

    # ---- functions that CuPy lacks, or has with other arguments

    def argsort(self, x: Array, /, *, axis: int = -1, stable: bool = True) -> Array:
        return cp.argsort(x, axis=axis, kind="stable")

    def where(self, condition: Any, a: Any, b: Any) -> Array:
        return cp.where(condition if isinstance(condition, cp.ndarray) else cp.asarray(condition), a, b)

    def vecdot(self, a: Array, b: Array, /, *, axis: int = -1) -> Array:
        return cp.sum(a * b, axis=axis)
