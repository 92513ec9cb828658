"""The replaced function table: the CUDA runtime and driver as CuPy sees them.

CuPy's compiled modules reach CUDA through two Cython modules, `cupy_backends.cuda.api.runtime` and `driver`,
whose functions they look up once, at import, in the modules' tables of capsules (`__pyx_capi__`).
`replace_table` puts other C functions there before anything else of CuPy is imported. Each is a few generated
lines that call a method of `Device` below and pass exceptions on; "device memory" is memory of this process.
"""

from __future__ import annotations

import ctypes
import itertools
import re
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from . import settings as S
from .compile import Program, _digest, _run_gxx

_MEMORY = 8 << 30
_MAX_DYNAMIC_SHARED, _DEFAULT_DYNAMIC_SHARED = 101376, 49152
# cudaDeviceAttr -> value: an imaginary device of compute capability 8.0
_ATTRIBUTES = {
    1: 1024, 2: 1024, 3: 1024, 4: 64, 5: 2**31 - 1, 6: 65535, 7: 65535,  # largest block and grid
    8: _DEFAULT_DYNAMIC_SHARED, 10: 32, 12: 65536, 13: 1500000, 16: 8, 39: 2048, 41: 1,
    75: 8, 76: 0, 81: 102400, 82: 65536, 83: 1, 97: _MAX_DYNAMIC_SHARED, 106: 16,
}  # fmt: skip
_COPIES = {0: "h2h", 1: "h2d", 2: "d2h", 3: "d2d", 4: "default"}

_libc = ctypes.CDLL(None)
_libc.posix_memalign.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
_libc.free.argtypes = [ctypes.c_void_p]


class Device:
    """One imaginary GPU. Methods carry the names and arguments of CuPy's runtime and driver modules."""

    def __init__(self) -> None:
        self._handles = itertools.count(0x1000)
        self._sizes: dict[int, int] = {}  # device and pinned memory: address -> bytes
        self._programs: dict[int, Program] = {}
        self._kernels: dict[int, tuple[str, Program]] = {}
        self._dynamic_shared: dict[int, int] = {}  # kernel -> the limit that the program asked for
        self._recorded: dict[int, float] = {}  # event -> seconds
        self._capturing: dict[int, list[Callable[[], None]]] = {}  # stream -> the work that it is not to do now
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self.loaded: dict[bytes, Program] = {}  # what `compile` hands CuPy in place of machine code

    # Device and memory

    def getDeviceCount(self) -> int:
        return 1

    def deviceGetAttribute(self, attribute: int, device: int) -> int:
        return _ATTRIBUTES.get(attribute, 0)

    def getDeviceProperties(self, device: int) -> dict[str, Any]:
        return dict(
            name=b"CPU emulator", major=8, minor=0, multiProcessorCount=8, warpSize=32,
            totalGlobalMem=_MEMORY, maxThreadsPerBlock=1024, maxThreadsDim=(1024, 1024, 64),
            maxGridSize=(2**31 - 1, 65535, 65535), sharedMemPerBlock=_DEFAULT_DYNAMIC_SHARED,
            sharedMemPerMultiprocessor=102400, regsPerBlock=65536, maxThreadsPerMultiProcessor=2048,
        )  # fmt: skip

    def deviceGetPCIBusId(self, device: int) -> str:
        return "0000:00:00.0"

    def driverGetVersion(self) -> int:
        return 13000

    def memGetInfo(self) -> tuple[int, int]:
        return _MEMORY - sum(self._sizes.values()), _MEMORY

    def malloc(self, size: int) -> int:
        S.counters.events["malloc"] += 1
        return self.hostAlloc(size, 0)

    def mallocAsync(self, size: int, stream: int) -> int:
        return self.malloc(size)

    def hostAlloc(self, size: int, flags: int) -> int:
        address = ctypes.c_void_p()
        full = size > self.memGetInfo()[0]
        if full or _libc.posix_memalign(ctypes.byref(address), 512, max(size, 1)) or address.value is None:
            from cupy_backends.cuda.api import runtime

            raise runtime.CUDARuntimeError(2)  # CuPy frees what its pool keeps, and tries again
        ctypes.memset(address, 0xFF, size)  # fresh memory is garbage: NaN, -1
        self._sizes[address.value] = size
        return address.value

    # _free: at interpreter exit, when CuPy frees what is left, the module's own names are gone
    def free(self, address: int, *, _free: Any = _libc.free) -> None:
        if self._sizes.pop(address, None) is not None:
            _free(address)

    def freeAsync(self, address: int, stream: int) -> None:
        self.free(address)

    freeHost = free

    def memcpy(self, target: int, source: int, size: int, kind: int) -> None:
        S.counters.events["sync"] += 1
        self.memcpyAsync(target, source, size, kind, 0)

    def memcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> None:
        self.do(stream, _COPIES[kind], lambda: ctypes.memmove(target, source, size))

    def memset(self, address: int, value: int, size: int) -> None:
        self.memsetAsync(address, value, size, 0)

    def memsetAsync(self, address: int, value: int, size: int, stream: int) -> None:
        self.do(stream, "memset", lambda: ctypes.memset(address, value, size))

    def pointerGetMemoryType(self, address: int) -> int:
        return 2

    def pointerGetAttributes(self, address: int) -> Any:
        from cupy_backends.cuda.api import runtime

        return runtime.PointerAttributes(0, address, address, 2)

    # Streams and events: all work is done by the time a call returns

    def deviceSynchronize(self, *_: int) -> None:
        if self._capturing:
            self._refuse()
        S.counters.events["sync"] += 1

    eventSynchronize = deviceSynchronize

    def streamSynchronize(self, stream: int) -> None:
        if stream in self._capturing:
            self._refuse()
        S.counters.events["sync"] += 1

    def _refuse(self) -> None:
        from cupy_backends.cuda.api import runtime

        raise runtime.CUDARuntimeError(900)  # operation not permitted when stream is capturing

    def streamCreate(self, *_: int) -> int:
        return next(self._handles)

    streamCreateWithFlags = streamCreateWithPriority = ctxGetCurrent = streamCreate
    eventCreate = eventCreateWithFlags = streamCreate

    def eventRecord(self, event: int, stream: int) -> None:
        self._recorded[event] = time.perf_counter()

    def eventElapsedTime(self, start: int, end: int) -> float:
        return 1000 * (self._recorded[end] - self._recorded[start])

    # Graphs: what a stream is asked to do while it captures is done when the graph is launched, as often as that is

    def do(self, stream: int, event: str, work: Callable[[], Any]) -> None:
        """Work that a stream is given, counted as `event`, or as recorded where the stream captures."""
        recording = self._capturing.get(stream)
        S.counters.events[event if recording is None else "recorded"] += 1
        work() if recording is None else recording.append(work)

    def streamBeginCapture(self, stream: int) -> None:
        self._capturing[stream] = []

    def streamIsCapturing(self, stream: int) -> int:
        return int(stream in self._capturing)

    def streamEndCapture(self, stream: int) -> int:
        graph = next(self._handles)
        self._graphs[graph] = self._capturing.pop(stream)
        return graph

    def graphInstantiate(self, graph: int) -> int:
        executable = next(self._handles)
        self._graphs[executable] = self._graphs[graph]
        return executable

    def graphLaunch(self, graph: int, stream: int) -> None:
        S.counters.events["graph"] += 1
        for work in self._graphs[graph]:
            work()

    def graphDestroy(self, graph: int) -> None:
        self._graphs.pop(graph, None)

    graphExecDestroy = graphDestroy

    # Modules and launches

    def moduleLoadData(self, code: bytes) -> int:
        handle = next(self._handles)
        self._programs[handle] = self.loaded[code]
        return handle

    def moduleGetFunction(self, module: int, name: str) -> int:
        found = self._programs[module]
        if name not in found.entries and name not in found.entries.values():
            raise S.EmulatorError(f"no kernel {name!r} in this module; it has {', '.join(found.entries)}")
        handle = next(self._handles)
        self._kernels[handle] = next(n for n, symbol in found.entries.items() if name in (n, symbol)), found
        return handle

    def funcGetAttribute(self, attribute: int, kernel: int) -> int:
        return {0: 1024, 8: self._dynamic_shared.get(kernel, _DEFAULT_DYNAMIC_SHARED)}.get(attribute, 0)

    def funcSetAttribute(self, kernel: int, attribute: int, value: int) -> None:
        if attribute == 8:
            if value > _MAX_DYNAMIC_SHARED:
                raise S.EmulatorError(
                    f"{value} bytes of shared memory; a block may have {_MAX_DYNAMIC_SHARED}"
                )
            self._dynamic_shared[kernel] = value

    def occupancyMaxPotentialBlockSize(self, kernel: int, shared: int, limit: int) -> tuple[int, int]:
        return 8, 256

    def occupancyMaxActiveBlocksPerMultiprocessor(self, kernel: int, block: int, shared: int) -> int:
        return 2

    def launchKernel(
        self, kernel: int, gx: int, gy: int, gz: int, bx: int, by: int, bz: int,
        shared: int, stream: int, arguments: int, extra: int,
    ) -> None:  # fmt: skip
        name, found = self._kernels[kernel]
        if not (0 < bx * by * bz <= 1024 and bz <= 64 and min(gx, gy, gz) > 0 and max(gy, gz) <= 65535):
            grid = f"a grid of {(gx, gy, gz)} blocks of {(bx, by, bz)} threads"
            raise S.EmulatorError(f"{name}: no GPU takes {grid}")
        if shared > self.funcGetAttribute(8, kernel):
            raise S.EmulatorError(
                f"{name}: for {shared} bytes of shared memory set max_dynamic_shared_size_bytes first"
            )
        dims = (ctypes.c_uint * 6)(gx, gy, gz, bx, by, bz)

        def work(arguments: Any = arguments) -> None:
            fault = found.launcher(name)(dims, shared, arguments, S.settings.reverse)
            if fault:
                raise S.EmulatorError(f"{name}: {fault.decode()}")

        if stream not in self._capturing:
            S.counters.kernels[name] += 1
            self.do(stream, "launch", work)
            return
        sizes = found.parameters(name)  # as the arguments are: CuPy's own are gone when it has launched
        given = (ctypes.c_void_p * len(sizes)).from_address(arguments) if sizes else ()
        copies = [ctypes.create_string_buffer(ctypes.string_at(a, n), n) for a, n in zip(given, sizes, strict=True)]
        kept = (ctypes.c_void_p * len(sizes))(*map(ctypes.addressof, copies)), copies
        self.do(stream, "launch", lambda: work(kept[0]))

    def launchCooperativeKernel(self, *arguments: int) -> None:
        raise S.EmulatorError("cooperative launches are not emulated: blocks run one after the other")


# Functions that may do nothing.
_NOTHING = frozenset(
    "setDevice getDevice _ensure_context streamDestroy streamQuery streamWaitEvent streamGetFlags"
    " streamGetPriority graphUpload eventDestroy eventQuery profilerStart profilerStop"
    " deviceCanAccessPeer moduleUnload ctxGetDevice ctxSetCurrent".split()
)
# Functions of CuPy that work without CUDA and stay as they are.
_KEPT = frozenset("check_status _getCUDAMajorVersion get_build_version runtimeGetVersion".split())

_INTEGERS = {
    "int": "i", "CUdevice": "i", "cudaMemcpyKind": "i", "unsigned int": "I", "intptr_t": "n", "size_t": "n",
    "uintmax_t": "K",
}  # fmt: skip
_SHIM_HEAD = """
#include <cstddef>
#include <cstdint>
typedef int CUdevice; typedef int cudaMemcpyKind;
extern "C" {
struct PyObject;
PyObject* PyObject_CallFunction(PyObject*, const char*, ...);
long long PyLong_AsLongLong(PyObject*);
double PyFloat_AsDouble(PyObject*);
PyObject* PyErr_Occurred();
void Py_DecRef(PyObject*);
extern PyObject _Py_NoneStruct_as_declared asm("_Py_NoneStruct");
}
static long long integer(PyObject* r, long long error) {
  if (!r) return error;
  long long v = r == &_Py_NoneStruct_as_declared ? 0 : PyLong_AsLongLong(r);
  Py_DecRef(r);
  return PyErr_Occurred() ? error : v;
}
static float real(PyObject* r) { if (!r) return -1; float v = PyFloat_AsDouble(r); Py_DecRef(r); return v; }
"""


def _shim_function(index: int, signature: str) -> str | None:
    """C++ for one entry: calls Python object `index` of the table. None for signatures that pass structs."""
    returned, arguments = re.fullmatch(r"(.*?)\s*\((.*)\)", signature).groups()  # type: ignore[union-attr]
    returned = returned.strip()
    declared, codes, passed = [], "", []
    for i, argument in enumerate([] if arguments in ("", "void") else arguments.split(",")):
        argument = argument.strip()
        if "__pyx_skip_dispatch" in argument:
            declared.append("int")
        elif argument.startswith("struct"):  # Cython's optional arguments, left at their defaults
            declared.append("void*")
        elif argument == "PyObject *" or argument in _INTEGERS:
            declared.append(f"{argument} a{i}")
            codes += "O" if argument == "PyObject *" else _INTEGERS[argument]
            passed.append(f", a{i}")
        else:
            return None
    call = f'PyObject_CallFunction(table[{index}], "({codes})"{"".join(passed)})'
    if returned in _INTEGERS:  # the values that Cython takes for "look whether an exception is set"
        call = f"integer({call}, {0 if returned == 'intptr_t' else -1})"
    elif returned == "float":
        call = f"real({call})"
    elif returned.startswith("struct") or returned == "PyObject *":
        returned = "PyObject*"
    else:
        return None
    return f'extern "C" {returned} shim_{index}({", ".join(declared)}) {{ return {call}; }}'


def _stand_in(device: Device, name: str) -> Any:
    if hasattr(device, name):
        return getattr(device, name)
    if name in _NOTHING:
        return lambda *_: 0

    def refuse(*_: Any) -> None:
        raise S.EmulatorError(f"CuPy called {name}, which the emulator does not have")

    return refuse


def replace_table(modules: list[ModuleType], device: Device) -> None:
    """Put functions that call `device` into the capsule tables of CuPy's runtime and driver modules."""
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = ctypes.c_void_p, [ctypes.py_object]
    api.PyCapsule_New.restype, api.PyCapsule_New.argtypes = ctypes.py_object, [ctypes.c_void_p] * 3
    shims: list[str] = []
    entries: list[tuple[ModuleType, str, int]] = []  # module, function, address of its signature
    for module in modules:
        for name, capsule in module.__pyx_capi__.items():
            address = api.PyCapsule_GetName(capsule)
            signature = ctypes.string_at(address).decode()
            if "(" not in signature or name in _KEPT:  # a variable, or a function that stays
                continue
            shim = _shim_function(len(entries), signature)
            if shim:
                shims.append(shim)
                entries.append((module, name, address))
    text = f'{_SHIM_HEAD}extern "C" PyObject* table[{len(entries)}] = {{}};\n' + "\n".join(shims)
    folder = S.cache_folder()
    library, source = folder / f"table_{_digest(text)}.so", folder / f"table_{_digest(text)}.cpp"
    if not library.exists():
        source.write_text(text)
        _run_gxx(["-O1", "-w", "-fPIC", "-shared", str(source)], library, "the function table")
    shim_library = ctypes.PyDLL(str(library))
    table = (ctypes.c_void_p * len(entries)).in_dll(shim_library, "table")
    for i, (module, name, address) in enumerate(entries):
        function = _stand_in(device, name)
        api.Py_IncRef(ctypes.py_object(function))  # CuPy still frees memory while the interpreter shuts down
        table[i] = id(function)
        pointer = ctypes.cast(getattr(shim_library, f"shim_{i}"), ctypes.c_void_p)
        module.__pyx_capi__[name] = api.PyCapsule_New(pointer, address, None)
        if hasattr(module, name):
            setattr(module, name, function)
