"""Backends: where arrays live, and which kernels run on them.

A backend is one object. Its `xp` is an array namespace (Array API names) that ops call, its methods are kernels that
array code alone would make slow. An op runs where its arrays are: the type of an array decides, not a global switch.
The switch, `TINYSEQ_BACKEND` or `use_backend`, decides where *new* tensors are born; and of several backends that take
one type of array, whose kernels run on it (`of`).
"""

from __future__ import annotations

import functools
import importlib
import os
import threading
from contextvars import ContextVar
from types import ModuleType
from typing import Any, NamedTuple, Protocol

Array = Any  # an array of some backend: numpy.ndarray, cupy.ndarray, ...

BUILT_IN = {"numpy": "NumpyBackend", "cupy": "CupyBackend", "numba": "NumbaBackend"}  # module -> class


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
                return self.setdefault(kind, self[base])
        library = "" if kind.__module__ == "builtins" else kind.__module__.partition(".")[0] + "."
        advice = ": ts.tensor makes one" * (kind in (list, tuple, int, float))
        raise TypeError(f"expected a Tensor or an array, got {library}{kind.__name__}{advice}")


namespaces = _Namespaces()


_loading = threading.RLock()


def load(name: str) -> Backend:
    """The backend called `name`, loaded once.

    Raises ValueError for an unknown name and ImportError or RuntimeError, in one sentence, where it cannot run here.
    """
    if not isinstance(name, str):
        _find(name)  # raises: no name
    if name not in _loaded:
        with _loading: return _loaded.get(name) or _register(name)  # noqa: E701 (no tracer can raise in between)
    return _loaded[name]


def _register(name: str) -> Backend:
    backend: Backend = _find(name)()
    for kind in backend.array_types:
        _owners.setdefault(kind, backend)
        namespaces.setdefault(kind, backend.xp)
    arrays.add(backend.array_types[0])
    _loaded[name] = backend  # last: who finds it here finds its arrays too
    return backend


def _find(name: str) -> Any:
    """The class of a backend: ours by name, others through the entry-point group `tinyseq.backends`."""
    if isinstance(name, str) and name in BUILT_IN:
        return getattr(importlib.import_module(f"{__name__}.{name}"), BUILT_IN[name])
    from importlib.metadata import entry_points  # costs tens of milliseconds, so only for names that are not ours

    for entry in entry_points(group="tinyseq.backends"):
        if entry.name == name:
            return entry.load()
    raise ValueError(f"load, use_backend: unknown backend {name!r}: expected name to be one of {', '.join(BUILT_IN)}, "
                     "or an installed plug-in's; PyTorch's cuda is cupy here, its cpu numpy, and there is no bfloat16: "
                     "float16 trains with optim.LossScaler")


class _Choice(NamedTuple):
    backend: Backend
    by: use_backend
    entered: bool  # by `with`, and so until its end


# What each thread and each asyncio task chose; the last one counts.
_chosen: ContextVar[tuple[_Choice, ...]] = ContextVar("chosen", default=())


@functools.cache
def _default() -> Backend:
    return load(os.environ.get("TINYSEQ_BACKEND") or "numpy")


def active() -> Backend:
    """The backend on which this thread's new tensors are born: the one chosen, else `TINYSEQ_BACKEND`, or NumPy."""
    chosen = _chosen.get()
    return chosen[-1].backend if chosen else _default()


class use_backend:
    """Choose where this thread's (or asyncio task's) new tensors are born: at once, and until the end of a `with` block
    if there is one. `ts.use_backend("cupy")` alone counts from there on.

    An unknown name is a ValueError, a backend that cannot run here an ImportError or a RuntimeError that says why.

    >>> with ts.use_backend("numpy"):
    ...     ts.zeros(2).backend
    'numpy'
    >>> ts.use_backend("gpu")
    Traceback (most recent call last):
    ValueError: load, use_backend: unknown backend 'gpu': expected name to be one of numpy, cupy, numba, or...

    """

    def __init__(self, name: str) -> None:
        self.backend, chosen = load(name), _chosen.get()
        # A plain choice replaces the plain one before the last. The last stays: should this one be made for a `with`
        # block, it comes back when the block ends.
        if not any(c.entered for c in chosen[-2:]):
            chosen = (*chosen[:-2], *chosen[-1:])
        _chosen.set((*chosen, _Choice(self.backend, self, False)))

    def __enter__(self) -> Backend:
        chosen = _chosen.get()
        if chosen and chosen[-1].by is self and not chosen[-1].entered:  # made for this block
            chosen = chosen[:-1]
        _chosen.set((*chosen, _Choice(self.backend, self, True)))
        return self.backend

    def __exit__(self, *exc: object) -> None:
        chosen = _chosen.get()
        at = max((i for i, c in enumerate(chosen) if c.by is self and c.entered), default=len(chosen))
        _chosen.set((*chosen[:at], *(c for c in chosen[at + 1 :] if c.entered)))


def on_host(*arrays: Array) -> bool:
    """Whether their values can be looked at without waiting: on a device nobody looks."""
    return all(isinstance(array, load("numpy").array_types) for array in arrays)


def of(array: Array) -> Backend:
    """The backend whose kernels run on `array`: the active one if it takes arrays of this type, else their owner."""
    backend = active()
    if isinstance(array, backend.array_types):
        return backend
    namespaces[type(array)]  # loads the owner, or says what is wrong
    return next(_owners[kind] for kind in type(array).__mro__ if kind in _owners)
