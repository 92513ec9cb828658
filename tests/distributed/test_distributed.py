"""The page on several machines: its program, as a reader would run it. Its figures: tests/test_pages.py."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.ranks import end, needs_mpi, run, start

import tinyseq as ts
from tinyseq import nn

PAGE = Path(__file__).parents[2] / "docs/distributed.md"
PROGRAM = next(block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
               if block.startswith("import"))


def learned(folder: Path, ranks: int, ends: str = "") -> tuple[int, dict[int, float]]:
    """The exit code of the page's program and what it prints, by step; `ends` is run after each step."""
    folder.mkdir(exist_ok=True)
    program = folder / "train.py"
    program.write_text(PROGRAM.replace("optimizer.step()\n", f"optimizer.step(); {ends}\n"))
    done = end(start(ranks, program, cwd=folder)) if ranks > 1 else subprocess.run(
        [sys.executable, program], cwd=folder, capture_output=True, text=True, timeout=60)
    assert ends or (done.returncode == 0 and not done.stderr), done.stderr
    return done.returncode, {int(step): float(mean) for step, mean in re.findall(r"step (\d+): (\S+)", done.stdout)}


@needs_mpi
def test_the_pages_program_learns_the_same_on_any_number_of_processes_however_often_it_is_ended(tmp_path: Path) -> None:
    one, several = tmp_path / "one", tmp_path / "several"
    _, said = learned(one, 1)
    assert [*said] == [*range(15)]
    kill = "import os; world.rank == {} and step == {} and os.kill(os.getpid(), {})"
    code, again = learned(several, 2, kill.format(1, 7, 9))
    assert code and ts.checkpoint.load(several / "run/latest.safetensors")["step"] == 5
    code, more = learned(several, 3, kill.format(2, 12, 15))        # SIGTERM, to one that does not write
    assert code == 0 and [*more] == [*range(5, 13)]
    assert ts.checkpoint.load(several / "run/latest.safetensors")["step"] == 13
    code, last = learned(several, 1)
    assert [*last] == [13, 14]
    for step, mean in [*again.items(), *more.items(), *last.items()]:
        assert np.isclose(mean, said[step], rtol=1e-10), step
    state, other = (ts.checkpoint.load(folder / "run/latest.safetensors") for folder in (one, several))
    for name, weight in state["model"].items():
        assert np.allclose(weight, other["model"][name], rtol=1e-10, atol=1e-10), name


def resumed(world: Any, folder: str) -> None:
    """Of one folder, and of folders that only one rank sees."""
    def run(name: str, world: Any = world, **parts: Any) -> tuple[Any, Any]:
        model = nn.Linear(3, 2)
        return model, ts.runs.Run(f"{folder}/{name}", world=world, model=model, **parts)

    ts.manual_seed(world.rank)
    model, shared = run("shared")
    assert shared.resume() == 0 and shared.writes is (world.rank == 0)
    shared.save(4)
    world.barrier()
    assert all(path.name.startswith((".", "latest", "step")) for path in shared.folder.iterdir())
    wanted = world.broadcast(model.weight.tolist())
    assert model.weight.tolist() != wanted or world.rank == 0
    model, shared = run("shared")
    assert shared.resume() == 4 and model.weight.tolist() == wanted
    for steps, text in [((5, 0), "rank 1 finds step 0 there, rank 0 another file, of step 5"),
                        ((0, 5), "rank 1 finds step 5 there, rank 0 another file, of step 0"),
                        ((6, 6), "rank 1 finds step 6 there, rank 0 another file, of step 6")]:
        own = f"{steps}/{world.rank}"
        ts.manual_seed(world.rank)          # what was resumed is the same random state
        if step := steps[world.rank]:
            run(own, None)[1].save(step)        # of other weights on each
        model, other = run(own)
        before = model.weight.tolist()
        with pytest.raises(ts.checkpoint.CheckpointError, match=text):
            other.resume()
        assert model.weight.tolist() == before


@needs_mpi
def test_ranks_that_find_other_files_than_rank_0_are_told_so(tmp_path: Path) -> None:
    run(2, __file__, "resumed", tmp_path)
