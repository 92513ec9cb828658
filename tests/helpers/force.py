"""What a process that saves and dies shares with the test that started it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tinyseq import checkpoint


def named(path: str, flags: int) -> int:
    """Open as where no file can be without a name."""
    return os.open(path, flags, 0o666)


def state(i: int, size: int = 1000) -> dict[str, Any]:
    return {"i": i, "x": np.full(size + i % 3, i, np.int32)}


def whole(path: Path, size: int = 1000) -> int:
    """The number of the save whose file this is; no mixture of two."""
    read = checkpoint.load(path)
    assert read["x"].shape == (size + read["i"] % 3,) and (read["x"] == read["i"]).all()
    return int(read["i"])


def force(program: str, folder: Path, *arguments: object) -> dict[str, int]:
    """What a program tells, a dictionary of JSON, which is given the folder of the tests, another and arguments."""
    command = [sys.executable, "-c", program, str(Path(__file__).parents[1]), str(folder), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TINYSEQ_BACKEND": "numpy"})
    assert done.returncode == 0, done.stderr
    print(arguments, done.stdout.strip(), done.stderr)
    return dict(json.loads(done.stdout))
