"""What a process that saves and dies shares with the test that started it."""

import os
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
