"""Backends: where arrays live, and which kernels run on them.

A backend is one object. Its `xp` is an array namespace (Array API names) that ops call, its methods are kernels that
array code alone would make slow. An op runs where its arrays are: the type of an array decides, not a global switch.
The switch, `TINYSEQ_BACKEND` or `use_backend`, decides only where *new* tensors are born.
"""

from __future__ import annotations

import importlib
import os
import threading
from types import ModuleType
from typing import Any, Protocol

Array = Any  # an array of some backend: numpy.ndarray, cupy.ndarray, ...

BUILT_IN = {"numpy": "NumpyBackend", "cupy": "CupyBackend"}  # module -> class


class Backend(Protocol):
    """What the engine asks of a backend; `tinyseq.backends.numpy.NumpyBackend` has the whole list of kernels."""

    name: str
    xp: ModuleType
    array_types: tuple[type, ...]

    def asarray(self, data: Any, dtype: Any = None, copy: bool | None = None) -> Array: ...
    def asnumpy(self, array: Array) -> Any: ...
    def synchronize(self) -> None: ...
    def __getattr__(self, kernel: str) -> Any: ...


_loaded: dict[str, Backend] = {}
arrays: set[type] = set()  # the array types themselves, without a library's scalar types
_owners: dict[type, Backend] = {}  # type of an array -> the backend that loaded it


class _Namespaces(dict[type, Any]):
    """Type of an operand -> its array namespace. A subclass is looked up once, then remembered."""

    def __missing__(self, kind: type) -> Any:
        if kind.__module__.partition(".")[0] in BUILT_IN:  # an array that the user made: numpy.ndarray, cupy.ndarray
            load(kind.__module__.partition(".")[0])
        for base in kind.__mro__:
            if base in self.keys():
                self[kind] = self[base]
                return self[base]
        raise TypeError(f"expected a Tensor or an array, got {kind.__name__}")


namespaces = _Namespaces()


def load(name: str) -> Backend:
    """The backend called `name`, loaded once.

    Raises ValueError for an unknown name and ImportError or RuntimeError, in one sentence, where it cannot run here.
    """
    if not isinstance(name, str) or name not in _loaded:
        backend = _find(name)()
        for kind in backend.array_types:
            _owners.setdefault(kind, backend)
            namespaces.setdefault(kind, backend.xp)
        arrays.add(backend.array_types[0])
        _loaded[name] = backend
    return _loaded[name]


def _find(name: str) -> Any:
    """The class of a backend: ours by name, others through the entry-point group `tinyseq.backends`."""
    if isinstance(name, str) and name in BUILT_IN:
        return getattr(importlib.import_module(f"{__name__}.{name}"), BUILT_IN[name])
    from importlib.metadata import entry_points  # costs tens of milliseconds, so only for names that are not ours

    for entry in entry_points(group="tinyseq.backends"):
        if entry.name == name:
            return entry.load()
    raise ValueError(f"load, use_backend: unknown backend {name!r}: expected name to be one of {', '.join(BUILT_IN)}, "
                     "or an installed plug-in's")


class _Active(threading.local):
    backend: Backend | None = None


_active = _Active()


def active() -> Backend:
    """The backend on which this thread's new tensors are born: `TINYSEQ_BACKEND`, or NumPy."""
    if _active.backend is None:
        _active.backend = load(os.environ.get("TINYSEQ_BACKEND") or "numpy")
    return _active.backend


class use_backend:
    """Choose where this thread's new tensors are born: at once, and until the end of a `with` block if there is one.

    >>> use_backend("numpy")                 # from here on
    >>> with use_backend("cupy"): ...        # only inside
    """

    def __init__(self, name: str) -> None:
        self._before = _active.backend
        _active.backend = load(name)

    def __enter__(self) -> Backend:
        return active()

    def __exit__(self, *exc: object) -> None:
        _active.backend = self._before


def of(array: Array) -> Backend:
    """The backend whose kernels run on `array`: the active one if it takes arrays of this type, else their owner."""
    backend = _active.backend
    if backend is not None and isinstance(array, backend.array_types):
        return backend
    namespaces[type(array)]  # loads the owner, or says what is wrong
    return next(owner for kind, owner in _owners.items() if isinstance(array, kind))
