"""What the emulator counts, and how it runs kernels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


class EmulatorError(RuntimeError):
    """A kernel did what no GPU may be asked to do, or CuPy asked for what is not emulated."""


class Unavailable(RuntimeError):
    """The emulator cannot run here; the message says in one sentence what is missing."""


@dataclass(frozen=True)
class Settings:
    """How kernels run. Change them with `using`, or for a whole run with the variables named below.

    reverse: threads, warps and blocks run in falling order (CUPY_ON_CPU_REVERSE=1).
    races: look for unordered accesses to the same byte in kernels not of CuPy itself (CUPY_ON_CPU_RACES=1).
    address: build kernels with AddressSanitizer; needs its library loaded, see `address_environment`
        (CUPY_ON_CPU_ADDRESS=1).
    nvrtc: architectures, as ("75", "120"), for which kernels not of CuPy itself must also compile with
        NVRTC (CUPY_ON_CPU_NVRTC=75,120).
    """

    reverse: bool = False
    races: bool = False
    address: bool = False
    nvrtc: tuple[str, ...] = ()


def _from_environment() -> Settings:
    def on(name: str) -> bool:
        return os.environ.get(f"CUPY_ON_CPU_{name}") == "1"

    nvrtc = tuple(filter(None, os.environ.get("CUPY_ON_CPU_NVRTC", "").split(",")))
    return Settings(on("REVERSE"), on("RACES"), on("ADDRESS"), nvrtc)


settings = _from_environment()


@contextmanager
def using(**changes: Any) -> Iterator[None]:
    """Run kernels with other settings inside the block: `with using(reverse=True, races=True): ...`."""
    global settings
    before, settings = settings, replace(settings, **changes)
    try:
        yield
    finally:
        settings = before


def cache_folder() -> Path:
    """Where compiled kernels are kept: CUPY_ON_CPU_CACHE, else cupy_on_cpu in the user's cache directory."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("CUPY_ON_CPU_CACHE") or user / "cupy_on_cpu")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass
class Counts:
    """What CuPy asked of the device.

    events: launch (kernels, GEMMs and sorts), gemm, sync (the host waits), h2d, d2h, d2d (copies), memset,
        malloc (fresh device memory; what CuPy's pool hands out again is not counted), compile (runs of g++),
        recorded (work that a capturing stream was given), graph (launches of that, whose work is not counted again).
    kernels: launches by name of the kernel.
    """

    events: Counter[str] = field(default_factory=Counter)
    kernels: Counter[str] = field(default_factory=Counter)

    def launch(self, kernel: str) -> None:
        """Count one launch."""
        self.events["launch"] += 1
        self.kernels[kernel] += 1

    def __getitem__(self, event: str) -> int:
        return self.events[event]


counters = Counts()


@contextmanager
def counting() -> Iterator[Counts]:
    """Count inside the block only: `with counting() as seen: step()`, then `seen["sync"] == 0`."""
    before = Counts(counters.events.copy(), counters.kernels.copy())
    seen = Counts()
    try:
        yield seen
    finally:
        seen.events.update(counters.events - before.events)
        seen.kernels.update(counters.kernels - before.kernels)
