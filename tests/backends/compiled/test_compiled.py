"""When kernels are compiled, what is said about it, and where it is kept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

PROGRAM = """
import threading
import numpy as np, tinyseq as ts
from tinyseq.nn import functional as F
x, found = np.linspace(-3, 3, 99, dtype="f"), []
threads = [threading.Thread(target=lambda: found.append(F.gelu(ts.tensor(x), "tanh").sum().item())) for _ in range(8)]
for t in threads: t.start()
for t in threads: t.join()
print(len(found), *set(found))
"""


def run(folder: Path) -> tuple[str, str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True,
                          env=os.environ | {"NUMBA_CACHE_DIR": str(folder), "TINYSEQ_BACKEND": "numba"})
    return done.stdout, done.stderr


def test_a_kernel_is_compiled_once_and_kept_on_disk(tmp_path: Path) -> None:
    out, said = run(tmp_path)
    assert out.startswith("8 ") and len(out.split()) == 2
    assert said.startswith("tinyseq: compiling gelu for the numba backend ... ") and said.count("\n") == 1
    assert run(tmp_path) == (out, "")
