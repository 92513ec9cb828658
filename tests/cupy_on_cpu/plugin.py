"""Runs any of the project's tests on CPU-emulated CuPy.

    PYTHONPATH=tests python -m pytest -p cupy_on_cpu.plugin

Loading it is the switch: CuPy is imported onto the emulated device before any test, and TINYSEQ_BACKEND is
cupy. Tests of what cannot hold on a device are skipped, with the reason.
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


# Why a test is not for a device -> its name, without or with its parameters.
NOT_ON_A_DEVICE = {
    "it starts a process, which has no emulator": "test_nothing_is_left_in_the_working_folder",
    "it needs more examples than are tried here": "test_faults_in_training_inside_or_now_and_then_are_named",
    "its operands are NumPy's": (
        "test_a_layer_takes_an_array_in_each_form[Activation] test_a_layer_takes_a_torch_tensor[Activation]"
        " test_numpy_meets_tensors test_assignment_rebinds test_conventions test_conventions_are_pytorchs"
        " test_float16_is_computed_in_float32_and_rounded_once[to_backend]"
        " test_tensors_in_lists_and_by_keyword test_debug_sees_float32_become_float64"
    ),
    "it looks at NumPy's memory, name or flags": (
        "test_gradients_are_owned test_recompute_keeps_nothing_inside test_memory_is_flat_over_2000_steps"
        " test_repr test_to_dtype_and_backend test_dlpack_to_and_from_pytorch"
    ),
    "nobody looks at indices and probabilities that are on a device": (
        "test_one_hot_and_ids_out_of_range test_wrong_arguments_are_named[one_hot]"
        " test_wrong_arguments_are_named[getitem] test_wrong_arguments_are_named[take]"
        " test_wrong_arguments_are_named[take_along_axis] test_wrong_arguments_are_named[index_add]"
        " test_wrong_arguments_are_named[binary_cross_entropy] test_crf_refuses_tags_out_of_range"
    ),
    "the emulator is for one thread, and leaves garbage of its own": (
        "test_trainings_in_threads_are_those_of_one test_steps_leave_nothing_for_the_garbage_collector"
        " test_threads_add_to_the_gradients_of_shared_weights test_trainings_in_threads_are_those_that_run_alone"
        " test_threads_build_and_run_their_own_graphs"
        " test_threads_add_up"
    ),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for reason, names in NOT_ON_A_DEVICE.items():
            if {item.name, item.name.partition("[")[0]} & set(names.split()):
                item.add_marker(pytest.mark.skip(reason=f"not on a device: {reason}"))


def pytest_report_header() -> str:
    return f"CPU-emulated CuPy {cupy_on_cpu.CUPY_VERSION}, kernels cached in {cupy_on_cpu.cache_folder()}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    seen = cupy_on_cpu.counters.events
    if seen["launch"]:  # with pytest-xdist this process launches nothing
        did = f"{seen['launch']} launches, {seen['compile']} kernels compiled"
        terminalreporter.write_line(f"CPU-emulated CuPy: {did}")
