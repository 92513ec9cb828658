"""CPU-emulated CuPy: the real CuPy on a machine without a GPU; see README.md beside this file.

cp = install()                                          # before anything imports cupy
with counting() as seen: step()
assert seen["sync"] == 0 and seen.kernels["gate"] == 4
with using(reverse=True, races=True): kernel(...)       # raises EmulatorError on a race
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import Any

from . import compile, libraries, settings
from .compile import NVRTC_ARCHITECTURES, CompileError, address_environment, nvrtc_missing
from .runtime import Device, replace_table
from .settings import Counts, EmulatorError, Unavailable, cache_folder, counters, counting, using

__all__ = [
    "CUPY_VERSION", "NVRTC_ARCHITECTURES", "CompileError", "Counts", "EmulatorError", "Unavailable",
    "address_environment", "cache_folder", "check_nvrtc", "counters", "counting", "install", "missing",
    "nvrtc_missing", "using",
]  # fmt: skip

CUPY_VERSION = "14.2.0"
_device = Device()


def missing() -> str | None:
    """Why the emulator cannot run here, in one sentence, or None."""
    try:
        found = version("cupy-cuda13x")
    except PackageNotFoundError:
        found = None
    if found != CUPY_VERSION:
        return (
            f"The CuPy emulator leans on private details of CuPy {CUPY_VERSION} and found"
            f" {found or 'no CuPy'}: pip install cupy-cuda13x=={CUPY_VERSION}."
        )
    return compile.missing()


def install() -> Any:
    """Import CuPy onto the emulated device and return it; a second call returns the same module.

    Raises Unavailable when something is missing or when CuPy was imported without the emulator before.
    """
    if getattr(sys.modules.get("cupy"), "_on_cpu", False):
        return sys.modules["cupy"]
    reason = missing()
    if reason:
        raise Unavailable(reason)
    if "cupy" in sys.modules:
        raise Unavailable("CuPy was imported before the emulator was installed: install it first.")
    os.environ["CUPY_ACCELERATORS"] = ""  # CUB's reductions are compiled device code
    os.environ["CUPY_CACHE_IN_MEMORY"] = "1"  # CuPy's own kernel cache stays out of it

    from cupy_backends.cuda.api import driver, runtime

    replace_table([runtime, driver], _device)
    from cupy_backends.cuda import libs

    libs.cublas = sys.modules["cupy_backends.cuda.libs.cublas"] = libraries.cublas()
    libraries.libcublas(_device)
    import cupy

    cupy.cuda.cublas = libs.cublas
    sorts = libraries.thrust()
    for name in ("cupy.cuda", "cupy._core._routines_sorting", "cupy._sorting.sort"):
        sys.modules[name].thrust = sorts  # type: ignore[attr-defined]
    _hook_compiler()
    if settings.settings.address:
        cupy.cuda.set_allocator(None)  # without the pool each array ends where its memory ends
    cupy._on_cpu = True
    return cupy


def _hook_compiler() -> None:
    """Where CuPy would hand a kernel's source to NVRTC, keep it for g++; "machine code" is a name for it."""
    from cupy.cuda import compiler

    def compile_kernel(
        source: str, options: Sequence[str] = (), arch: Any = None, filename: str = "",
        name_expressions: Any = None, *_: Any,
    ) -> tuple[bytes, dict[str, str] | None]:  # fmt: skip
        program = compile.program(source, options, name_expressions or ())
        program.library()  # errors belong here, not to the first launch
        if not (program.of_cupy or settings.settings.address):  # NVRTC does not load beside AddressSanitizer
            for architecture in settings.settings.nvrtc:
                compile.check_nvrtc(source, options, name_expressions or (), architecture)
        code = f"program {len(_device.loaded)}".encode()
        _device.loaded[code] = program
        return code, {name: program.entries[name] for name in name_expressions or ()} or None

    compiler._compile_using_nvrtc_no_warning = compile_kernel
    compiler._preprocess = lambda *_: ""
    compiler._get_nvrtc_version = lambda: (13, 0)
    sys.modules["cupy.cuda"].nvrtc = SimpleNamespace(getVersion=lambda: (13, 0))  # type: ignore[attr-defined]


def check_nvrtc(source: str, *name_expressions: str, options: Sequence[str] = ("--std=c++17",)) -> None:
    """Compile a RawKernel's source with NVRTC for each of NVRTC_ARCHITECTURES; raises CompileError."""
    for architecture in NVRTC_ARCHITECTURES:
        compile.check_nvrtc(source, options, name_expressions, architecture)
