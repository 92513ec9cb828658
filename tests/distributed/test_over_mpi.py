"""However one rank ends, the run ends for all, says why, and leaves whole files: under `mpiexec python train.py`."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.ranks import MARKS, end, run, start

import tinyseq as ts
from tinyseq.distributed import over_mpi
from tinyseq.distributed.world import Exchange

pytestmark = MARKS

# What a user's program does; in the second step one rank ends in some way while the others go on.
PROGRAM = """
import os, signal, sys, threading, time
import tinyseq as ts
from tinyseq import nn, optim

who, way, here = int(sys.argv[1]), sys.argv[2], sys.argv[3]
world = ts.distributed.mpi()
model = nn.Linear(3, 2)
parallel = ts.distributed.DataParallel(world, model)

def end():
    if way == "raises":
        raise ValueError("no such word: ghoti")
    if way == "raises in a thread":
        threading.Thread(target=lambda: [][1], daemon=True).start()
        time.sleep(60)
    if way == "Ctrl-C":
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    if way == "sys.exit":
        sys.exit(3)
    if way == "sys.exit with a text":
        sys.exit("had enough")
    if way == "SIGTERM":
        os.kill(os.getpid(), signal.SIGTERM)
    if way == "kill -9":
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "os._exit":
        os._exit(4)
    if way == "a bad loss":
        parallel.backward(model(ts.ones((1, 3))), 1)

for step in range(3):
    if step and world.rank == who:
        end()
    parallel.backward(ts.sum(model(ts.ones((1, 3)))), 1)
    if way == "fewer steps" and world.rank == who:
        break
    if here == "computes" and step and world.rank != who:
        while True:
            sum(range(1000))
    if here == "gathers" and step and world.rank != who:
        world.gather("a word")
print("came to the end")
"""
# way -> what is said of it by whom tinyseq can hear, and the exit codes that are right
WAYS = {
    "raises": ("ValueError: no such word: ghoti", {1}),
    "raises in a thread": ("IndexError: list index out of range", {1}),
    "Ctrl-C": ("KeyboardInterrupt", {130}),
    "sys.exit": ("has ended, while rank", {1, 3}),
    "sys.exit with a text": ("had enough", {1}),
    "fewer steps": ("give every rank as many steps", {1}),
    "a bad loss": ("expected loss to be a Tensor of one element", {1}),
    "SIGTERM": ("", None),
    "kill -9": ("", None),
    "os._exit": ("", None),
}


@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("way", WAYS)
def test_one_that_ends_ends_all(way: str, who: int, tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text(PROGRAM)
    done = end(start(2, program, who, way, "waits"))
    said, codes = WAYS[way]
    assert said in done.stderr, done.stderr
    assert done.returncode in codes if codes else done.returncode, (done.returncode, done.stderr)
    if way in ("raises", "raises in a thread", "Ctrl-C"):
        assert f"rank {who} of 2 ends the run for all:\nTraceback" in done.stderr, done.stderr


@pytest.mark.parametrize("here", ["computes", "gathers"])
def test_others_are_ended_in_whatever_they_do(here: str, tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text(PROGRAM)
    done = end(start(3, program, 1, "raises", here))
    assert "rank 1 of 3 ends the run for all:\nTraceback" in done.stderr and done.returncode == 1, done.stderr
    assert "came to the end" not in done.stdout


def test_a_rank_that_never_exchanges_again_may_end_early(tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text("import time, tinyseq as ts\nworld = ts.distributed.mpi()\nworld.barrier()\n"
                       "if world.rank == 0:\n    time.sleep(2)\nprint('came to the end')")
    done = end(start(3, program))
    assert (done.returncode, done.stdout.count("came to the end"), done.stderr) == (0, 3, "")


@pytest.mark.parametrize("code", [0, 3])
def test_ranks_that_exit_together_keep_their_code(code: int, tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text(f"import sys, tinyseq as ts\nts.distributed.mpi().barrier()\nsys.exit({code})")
    done = end(start(2, program))
    assert done.returncode == code and "ends the run" not in done.stderr


def test_what_is_caught_is_no_end(tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text("""
import sys, threading, tinyseq as ts
world = ts.distributed.mpi()
try:
    raise ValueError("caught")
except ValueError:
    pass
ended = threading.Thread(target=sys.exit)      # the end of that thread alone
ended.start()
ended.join()
print(world.sum(1))
""")
    done = end(start(2, program))
    assert (done.returncode, done.stdout.split()) == (0, ["2", "2"]), done.stderr


def test_the_file_that_is_being_saved_stays_whole(tmp_path: Path) -> None:
    """Rank 0 saves without end; the other raises at a moment that nobody chose."""
    program, file = tmp_path / "train.py", tmp_path / "run.safetensors"
    program.write_text("""
import os, sys, time
import numpy as np
import tinyseq as ts
world = ts.distributed.mpi()
if world.rank == 0:
    step = 0
    while True:
        step += 1
        ts.checkpoint.save(sys.argv[1], {"step": step, "w": np.full(500_000, step)})
while not os.path.exists(sys.argv[1]):
    time.sleep(0.001)
time.sleep(float(sys.argv[2]))
raise RuntimeError("rank 1 has no more rows")
""")
    for moment in np.random.default_rng(0).uniform(0, 0.05, 5):
        done = end(start(2, program, file, moment))
        assert "RuntimeError: rank 1 has no more rows" in done.stderr
        state = ts.checkpoint.load(file)
        assert (state["w"] == state["step"]).all()
        file.unlink()


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_a_launcher_that_is_told_to_end_ends_all(signal_: signal.Signals, tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text("import time, tinyseq as ts\nts.distributed.mpi().barrier()\nprint('began', flush=True)\n"
                       "time.sleep(100)")
    process = start(2, program)
    assert process.stdout is not None and process.stdout.readline().strip() == "began"
    time.sleep(0.5)
    process.send_signal(signal_)
    assert end(process, 30).returncode


def test_alone_nothing_is_changed() -> None:
    program = ("import sys, threading\nhooks = sys.excepthook, threading.excepthook\nimport tinyseq as ts\n"
               "ts.distributed.mpi()\nassert (sys.excepthook, threading.excepthook) == hooks\n"
               "assert 'mpi4py.MPI' not in sys.modules")
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def through_the_host(world: Any) -> None:
    assert not world.on_device
    assert ts.distributed.mpi(cuda_aware=True) is world and world.on_device
    assert ts.distributed.mpi().on_device       # what was said holds


def test_mpi_reads_a_gpu_only_if_the_user_says_so() -> None:
    run(2, __file__, "through_the_host")


def test_a_cuda_aware_mpi_gets_arrays_of_a_gpu_as_they_are_once_they_are_computed(monkeypatch: Any) -> None:
    calls: list[Any] = []
    world, device = object.__new__(over_mpi.MPIWorld), object()
    world.begun, world.mpi = 0, SimpleNamespace(IN_PLACE="in place")
    world.numbers = SimpleNamespace(Iallreduce=lambda *given: calls.append(given))
    own = SimpleNamespace(on_host=lambda array: False,
                          of=lambda array: SimpleNamespace(synchronize=lambda: calls.append("synchronized")))
    monkeypatch.setattr(over_mpi, "backends", own)
    assert world.start(device).array is device
    assert calls == ["synchronized", ("in place", device)]


def test_a_launched_process_without_mpi4py_is_told_what_to_install() -> None:
    """And is not alone: it would be one of several that all take themselves for rank 0."""
    program = ("import os, sys\nsys.modules['mpi4py'] = None\nos.environ['PMI_SIZE'] = '2'\nimport tinyseq as ts\n"
               "ts.distributed.mpi()")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "ImportError" in done.stderr and "pip install 'tinyseq[mpi]'" in done.stderr


# What is in the environment, and how many processes that says there are.
COUNTS = [({"OMPI_COMM_WORLD_SIZE": "2"}, 2), ({"PMI_SIZE": "3"}, 3),
          ({"SLURM_STEP_NUM_TASKS": "64", "SLURM_NTASKS": "64", "SLURM_PROCID": "5"}, 64),      # srun, without PMI
          ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, 2),                                      # a batch script
          ({"SLURM_NTASKS": "2"}, 0),                                                           # salloc
          ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, 1),         # srun -n 1
          ({"PMI_SIZE": "1", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, 1)]                     # mpiexec -n 1 in it


@pytest.mark.parametrize(("told", "count"), COUNTS)
def test_processes_that_do_not_find_each_other_are_told_so(told: dict[str, str], count: int) -> None:
    """They would each be rank 0 of 1, and write the same files: as where the launcher is another MPI's."""
    program = ("import os, sys\nfrom types import SimpleNamespace as N\nmpi = N(COMM_WORLD=N(size=1))\n"
               "sys.modules['mpi4py'] = N(MPI=mpi)\nimport tinyseq as ts\nprint(ts.distributed.mpi().size)")
    ours = {name: value for name, value in os.environ.items() if name.partition("_")[0] not in ("OMPI", "PMI", "SLURM")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=ours | told)
    if count > 1:
        assert done.returncode and f"{next(iter(told))} says {count} processes, this one finds 1: take" in done.stderr
    else:
        assert (done.stdout, done.stderr) == ("1\n", "")


@pytest.mark.parametrize(("seen", "local", "own"), [("0,1", 0, "0"), ("0,1", 3, "1"), ("GPU-aa,GPU-bb", 1, "GPU-bb"),
                                                    ("3", 1, "3"), ("", 1, "")])
def test_a_rank_sees_one_gpu_of_its_machine(monkeypatch: pytest.MonkeyPatch, seen: str, local: int, own: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    over_mpi._one_gpu(local)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == own


def one_gpu_each(world: Any) -> None:
    assert sorted(world.gather(os.environ["CUDA_VISIBLE_DEVICES"])) == ["4", "4", "7"]


def test_ranks_of_one_machine_take_its_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    run(3, __file__, "one_gpu_each")


def test_ranks_that_make_different_calls_are_told_which(tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text("""
import sys, tinyseq as ts
world = ts.distributed.mpi()
model = ts.nn.Linear(3, 2)
parallel = ts.distributed.DataParallel(world, model)
calls = {"sum": lambda: world.sum(1), "gather": lambda: world.gather("x" * 1000), "barrier": world.barrier,
         "broadcast": lambda: world.broadcast(3), "merge": lambda: world.merge(ts.metrics.Mean()),
         "backward": lambda: parallel.backward(ts.sum(model(ts.ones((1, 3)))), 1),
         "DataParallel": lambda: ts.distributed.DataParallel(world, model)}
calls[sys.argv[1 + world.rank]]()
""")
    for first, second in [("sum", "backward"), ("backward", "gather"), ("barrier", "broadcast"), ("sum", "merge"),
                          ("DataParallel", "gather")]:
        done = end(start(2, program, first, second))
        assert f"rank 1 calls {second} while rank 0 calls {first}" in done.stderr and done.returncode == 1, done.stderr


def of_two(**more: Any) -> over_mpi.MPIWorld:
    """Rank 0 of a world that has no MPI, but what is given."""
    world = object.__new__(over_mpi.MPIWorld)
    vars(world).update(rank=0, size=2, gone={}, hear=lambda: None, **more)
    return world


def test_what_a_rank_took_part_in_before_it_left_is_waited_for() -> None:
    world = of_two()
    world.gone[1] = 5
    turns = [False, False, True]
    world.wait(Exchange(None, SimpleNamespace(Test=lambda: turns.pop(0)), 5))
    assert not turns
    with pytest.raises(RuntimeError, match=r"rank 1 has ended, while rank 0 waits for it.*before the 6th"):
        world.wait(Exchange(None, SimpleNamespace(Test=lambda: False), 6))


def test_after_an_abort_nothing_more_runs() -> None:
    """MPICH's may return: then the end of the program would tell the others that this rank has left in good order."""
    program = """
import atexit
from types import SimpleNamespace
from tinyseq.distributed.over_mpi import MPIWorld
world = object.__new__(MPIWorld)
world.rank, world.size = 0, 2
world.mpi = SimpleNamespace(COMM_WORLD=SimpleNamespace(Abort=lambda code: None))
atexit.register(print, "left")
world.raised(KeyboardInterrupt, KeyboardInterrupt(), None)
print("went on")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (130, "") and "rank 0 of 2 ends the run for all" in done.stderr
