"""A kernel's CUDA source to a shared library (g++) and, on request, to machine code for GPUs (NVRTC)."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import cast

from . import settings as S

HERE = Path(__file__).parent
NVRTC_ARCHITECTURES = ("75", "80", "90", "120")

# -fpermissive: kernels redeclare what the C library declares. -ffp-contract=off: the same bits on every CPU.
_FLAGS = (
    "-std=c++17 -O1 -w -fPIC -fpermissive -ffp-contract=off -fno-threadsafe-statics -fno-gnu-unique"
    " -fvisibility=hidden -D__CUDACC_VER_MAJOR__=13 -D__CUDACC_VER_MINOR__=0"
).split()
_CHECK_FLAGS = {
    "plain": [],
    "races": ["-fsanitize=thread"],
    "address": ["-g", "-fsanitize=address", "-fsanitize-sections=emu_shared"],
}
# -nostdlib keeps g++'s thread sanitizer out, whose place cudacpu.h takes; the rest is as without it.
_LINK_FLAGS = {"plain": [], "races": ["-nostdlib", "-lstdc++", "-lm", "-lc"], "address": []}
_CUPY_HEADERS = (
    "complex.cuh",
    "carray.cuh",
    "atomics.cuh",
    "math_constants.h",
    "float16.cuh",
    "bfloat16.cuh",
)

_KERNEL = re.compile(
    r"(?P<template>template\s*<[^;{}]*?>\s*)?(?:extern\s+\"C\"\s+)?__global__\s+void\s+"
    r"(?:__launch_bounds__\s*\([^)]*\)\s*)?(?P<name>\w+)\s*\("
)
_DYNAMIC_SHARED = re.compile(
    r"extern\s+__shared__\s+(?:__align__\(\d+\)\s*)?([\w\s]+?)\s+(\w+)\s*\[\s*\]\s*;"
)
_BARRIER = re.compile(r"__syncthreads|__syncwarp|__shfl|__ballot|__any_sync|__all_sync")
_LAUNCHER = """
extern "C" __attribute__((visibility("default"))) const char* emu_launch_{symbol}(
    const unsigned* dims, size_t shared, void** args, int reversed) {{
  return emu::launch(&{kernel}, dims, shared, args, {barriers}, reversed);
}}
"""
# How many bytes each argument takes, 0 after the last: for launches that are recorded, in a library of its own.
_SIZES = """
template <class... A> static void emu_sizes(void (*)(A...), size_t* sizes) {
  for (size_t size : {sizeof(std::remove_reference_t<A>)..., (size_t)0}) *sizes++ = size;
}
"""
_SIZES_OF = """
extern "C" __attribute__((visibility("default"))) void emu_sizes_{symbol}(size_t* sizes) {{
  emu_sizes(&{kernel}, sizes);
}}
"""


def cuda_include() -> Path | None:
    """The folder of CUDA's headers (CUDA_INC, else the toolkit's, else the wheels' from PyPI) or None."""
    candidates = [Path(os.environ.get("CUDA_INC") or "/usr/local/cuda/include")]
    try:
        import nvidia  # a namespace package that NVIDIA's wheels share

        candidates += [include for p in nvidia.__path__ for include in Path(p).glob("cu*/include")]
    except ImportError:
        pass
    needed = ("cuda_bf16.h", "vector_types.h", "crt/host_defines.h")  # the last is in a wheel of its own
    found = next((c for c in candidates if all((c / name).exists() for name in needed)), None)
    return found.resolve() if found else None  # so that another toolkit has another name


def missing() -> str | None:
    """What the compiler side lacks, in one sentence, or None."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return f"The CuPy emulator runs on Linux on x86-64, not on {sys.platform} on {platform.machine()}."
    if shutil.which("g++") is None:
        return "The CuPy emulator needs g++ (Debian: apt-get install g++)."
    if cuda_include() is None:
        return (
            "The CuPy emulator needs CUDA's headers: pip install nvidia-cuda-runtime nvidia-cuda-crt,"
            " or set CUDA_INC to their folder."
        )
    return None


class CompileError(S.EmulatorError):
    """g++ or NVRTC refused a kernel; the message holds the compiler's errors."""


def _me() -> str:
    """For names of files that no other process and no other thread writes."""
    return f"{os.getpid()}_{threading.get_ident()}"


def _run_gxx(arguments: Sequence[str], output: Path, what: str) -> None:
    """Run g++ so that `output` appears complete or not at all, also when several processes write it."""
    partial = output.with_name(f"{output.name}.{_me()}")
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    command = ["g++", *arguments, "-o", str(partial)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    if run.returncode:
        errors = [line for line in run.stderr.splitlines() if "error" in line]
        raise CompileError(f"g++ cannot compile {what}:\n" + "\n".join(errors or [run.stderr])[:2000])
    os.replace(partial, output)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@functools.cache
def _precompiled_header(flags: tuple[str, ...]) -> Path:
    """cudacpu.h and CuPy's own headers, precompiled: what takes most of the time is done once."""
    shim = (HERE / "cudacpu.h").read_text()
    gxx = subprocess.run(["g++", "--version"], capture_output=True, text=True).stdout
    folder = S.cache_folder() / f"header_{_digest(flags, shim, gxx, version('cupy-cuda13x'))}"
    folder.mkdir(exist_ok=True)
    header = folder / "cudacpu_pch.h"
    compiled = folder / "cudacpu_pch.h.gch"
    if not compiled.exists():
        text = f'#include "{HERE}/cudacpu.h"\n'
        text += "".join(f"#include <cupy/{name}>\n" for name in _CUPY_HEADERS)
        partial = header.with_name(f"{header.name}.{_me()}")
        partial.write_text(text)
        os.replace(partial, header)
        _run_gxx([*flags, "-x", "c++-header", str(header)], compiled, "the emulator's header")
    return header


@dataclass(frozen=True)
class Program:
    """One source that CuPy asked to compile; `entries` maps names that may be launched to symbols."""

    body: str
    entries: dict[str, str]
    flags: tuple[str, ...]
    sizes: str  # what is added to the body for `parameters`

    @property
    def of_cupy(self) -> bool:
        """Whether all its kernels are CuPy's own, which CuPy's own tests look after."""
        return all(name.startswith("cupy_") for name in self.entries)

    @functools.cached_property
    def _libraries(self) -> dict[str, ctypes.CDLL]:
        return {}

    def library(self) -> ctypes.CDLL:
        """The shared library for the settings of the moment, built if no one has."""
        races = S.settings.races and not self.of_cupy
        check = "address" if S.settings.address else "races" if races else "plain"
        if check not in self._libraries:
            self._libraries[check] = ctypes.CDLL(str(self._build(check)))
        return self._libraries[check]

    def _build(self, check: str, more: str = "") -> Path:
        flags = (*_FLAGS, *_CHECK_FLAGS[check], *self.flags)
        header, body = _precompiled_header(flags), self.body + more
        stem = S.cache_folder() / _digest(body, header)
        library = stem.with_suffix(".so")
        if not library.exists():
            source = stem.with_suffix(f".{_me()}.cpp")
            source.write_text(body)
            try:
                arguments = [*flags, "-include", str(header), "-shared", str(source), *_LINK_FLAGS[check]]
                _run_gxx(arguments, library, "/".join(self.entries))
            finally:
                source.unlink()
            S.counters.events["compile"] += 1
        return library

    def launcher(self, name: str) -> Callable[..., bytes]:
        """The C function that launches kernel `name`: (dims, shared bytes, arguments, reversed) -> fault."""
        launch = getattr(self.library(), "emu_launch_" + self.entries[name])
        launch.restype = ctypes.c_char_p
        launch.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int]
        return cast("Callable[..., bytes]", launch)

    def parameters(self, name: str) -> list[int]:
        """The bytes of each parameter of kernel `name`."""
        if "sizes" not in self._libraries:
            self._libraries["sizes"] = ctypes.CDLL(str(self._build("plain", self.sizes)))
        sizes = (ctypes.c_size_t * 256)()
        getattr(self._libraries["sizes"], "emu_sizes_" + self.entries[name])(sizes)
        return sizes[:sizes[:].index(0)]


def program(source: str, options: Sequence[str] = (), name_expressions: Sequence[str] = ()) -> Program:
    """Translate CUDA source into what g++ can compile, with one C launcher for each kernel."""
    entries = {m["name"]: m["name"] for m in _KERNEL.finditer(source) if not m["template"]}
    expressions = {name: name for name in entries}
    for i, expression in enumerate(name_expressions):
        if expression not in entries:
            entries[expression], expressions[expression] = f"instance_{i}", expression
    barriers = "true" if _BARRIER.search(source) else "false"
    body = '#line 1 "kernel.cu"\n' + _DYNAMIC_SHARED.sub(r"\1* \2 = (\1*)emu_dynamic_shared;", source)
    sizes = _SIZES
    for name, symbol in entries.items():
        body += _LAUNCHER.format(symbol=symbol, kernel=expressions[name], barriers=barriers)
        sizes += _SIZES_OF.format(symbol=symbol, kernel=expressions[name])
    # CUDA's C++ library (_cccl) comes last: stubs/ holds what g++ cannot compile of it
    wanted = [o for o in options if o[:2] in ("-I", "-D", "-U") and "_cccl" not in o]
    last = [o.replace("-I", "-idirafter", 1) for o in options if o[:2] == "-I" and "_cccl" in o]
    return Program(body, entries, (f"-I{HERE / 'stubs'}", f"-I{cuda_include()}", *wanted, *last), sizes)


def check_nvrtc(
    source: str, options: Sequence[str], name_expressions: Sequence[str], architecture: str
) -> None:
    """Compile with NVRTC to machine code for `architecture` ("75"...); raises CompileError. Needs no GPU."""
    from cupy.cuda.compiler import CompileException, _NVRTCProgram
    from cupy_backends.cuda.libs import nvrtc

    key = _digest(source, tuple(options), tuple(name_expressions), nvrtc.getVersion())
    done = S.cache_folder() / f"{key}.sm_{architecture}"
    if done.exists():
        return
    unit = _NVRTCProgram(source, "kernel.cu", name_expressions=list(name_expressions), method="cubin")
    options = (*options, f"-I{cuda_include()}", f"-arch=sm_{architecture}")
    try:
        unit.compile((*options, "--device-as-default-execution-space"))
    except CompileException as error:
        raise CompileError(f"NVRTC cannot compile this kernel for sm_{architecture}:\n{error}") from None
    done.touch()


def nvrtc_missing() -> str | None:
    """Why NVRTC cannot be used, in one sentence, or None."""
    try:
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()
    except (ImportError, RuntimeError):
        return "NVRTC is not installed: pip install nvidia-cuda-nvrtc."
    return None


def address_environment() -> dict[str, str]:
    """Environment variables for a process whose kernels run under AddressSanitizer.

    It looks for C++'s `throw` once, when it is loaded: libstdc++ must be there by then, and Python does not bring it.
    Else the first exception of an extension module (matplotlib's, on import) ends the process.
    """
    libraries = [subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
                 .stdout.strip() for name in ("libasan.so", "libstdc++.so.6")]
    return {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0", "CUPY_ON_CPU_ADDRESS": "1"}
