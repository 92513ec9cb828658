"""Shared by all tests: one thread a process, hypothesis profiles, skipping of comparisons with PyTorch."""

import os

for _library in ("OMP", "OPENBLAS", "MKL"):     # before NumPy loads: several test processes share the cores
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

from importlib.util import find_spec  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from hypothesis import HealthCheck, register_random, settings  # noqa: E402

from tinyseq import random  # noqa: E402

# "quick" is for working, "ci" is quick without chance, "thorough" is for a night; "emulated" is for CuPy on a CPU,
# where each new combination of dtypes, dimensions and strides is a kernel to compile: a few fixed ones.
# A slow machine is no defect, so there is no deadline.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("quick", max_examples=30, **_COMMON)
settings.register_profile("ci", settings.get_profile("quick"), derandomize=True, print_blob=True)
settings.register_profile("emulated", settings.get_profile("ci"), max_examples=6)
settings.register_profile("thorough", max_examples=1000, **_COMMON)
settings.load_profile(os.environ.get("TINYSEQ_TEST_PROFILE") or ("ci" if os.environ.get("CI") else "quick"))


class _Streams:
    """tinyseq's random numbers, which hypothesis seeds before each example: parameters are a function of it."""

    seed, getstate, setstate = (staticmethod(f) for f in (random.manual_seed, random.get_state, random.set_state))


_STREAMS = _Streams()  # hypothesis holds no more than a weak reference
register_random(_STREAMS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_spec("torch") is None:
        skip = pytest.mark.skip(reason="PyTorch is not installed (pip install torch==2.13.0)")
        for item in items:
            if item.get_closest_marker("reference"):
                item.add_marker(skip)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("examples")
