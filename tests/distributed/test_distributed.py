"""The page on several machines: its program, as a reader would run it. Its figures: tests/test_pages.py."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from helpers.ranks import end, needs_mpi, start

import tinyseq as ts

PAGE = Path(__file__).parents[2] / "docs/distributed.md"
PROGRAM = next(block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
               if block.startswith("import"))


def learned(folder: Path, *ranks: int) -> tuple[list[str], dict[str, Any]]:
    """What the page's program prints, run after run on so many ranks each, and its file at the end."""
    folder.mkdir()
    program, said = folder / "train.py", []
    program.write_text(PROGRAM)
    for n in ranks:
        done = end(start(n, program, cwd=folder)) if n > 1 else subprocess.run(
            [sys.executable, program], cwd=folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and not done.stderr, done.stderr
        said += done.stdout.splitlines()
    return said, ts.checkpoint.load(folder / "run.safetensors")


@needs_mpi
def test_the_pages_program_learns_the_same_on_any_number_of_processes_also_when_it_is_resumed(tmp_path: Path) -> None:
    said, state = learned(tmp_path / "one", 1, 1, 1)
    assert len(said) == 15 and state["step"] == 15
    again, other = learned(tmp_path / "several", 2, 3, 1)
    numbers = lambda lines: [float(line.split()[-1]) for line in lines]
    assert np.allclose(numbers(said), numbers(again), rtol=1e-10)
    for name, weight in state["model"].items():
        assert np.allclose(weight, other["model"][name], rtol=1e-10, atol=1e-10), name
