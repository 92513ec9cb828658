"""Runs any of the project's tests on CPU-emulated CuPy.

    PYTHONPATH=tests python -m pytest -p cupy_on_cpu.plugin

Loading it is the switch: CuPy is imported onto the emulated device before any test, and TINYSEQ_BACKEND is
cupy.
"""

from __future__ import annotations

import os
import sys

import pytest

for _library in ("OMP", "OPENBLAS", "MKL"):  # as conftest.py does, too late once NumPy is loaded
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

import cupy_on_cpu  # noqa: E402


def _use() -> None:
    if os.environ.get("CUPY_ON_CPU_ADDRESS") == "1" and "libasan" not in os.environ.get("LD_PRELOAD", ""):
        # AddressSanitizer must be loaded before Python itself: start anew with it
        environment = os.environ | cupy_on_cpu.address_environment()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    try:
        cupy_on_cpu.install()
    except cupy_on_cpu.Unavailable as reason:
        raise pytest.UsageError(str(reason)) from None
    os.environ["TINYSEQ_BACKEND"] = "cupy"


_use()


def pytest_report_header() -> str:
    return f"CPU-emulated CuPy {cupy_on_cpu.CUPY_VERSION}, kernels cached in {cupy_on_cpu.cache_folder()}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    seen = cupy_on_cpu.counters.events
    if seen["launch"]:  # with pytest-xdist this process launches nothing
        did = f"{seen['launch']} launches, {seen['compile']} kernels compiled"
        terminalreporter.write_line(f"CPU-emulated CuPy: {did}")
