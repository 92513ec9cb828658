"""The Numba backend as it is chosen, and what it is without Numba."""

import subprocess
import sys

import numpy as np
import pytest

import tinyseq as ts
from tinyseq import backends


def test_it_takes_numpys_arrays() -> None:
    pytest.importorskip("numba")
    x = ts.tensor(np.ones(3, np.float32))
    with ts.use_backend("numba") as backend:
        assert ts.zeros(2).backend == x.backend == "numba" and type(x.data) is np.ndarray
        assert backends.of(x.data) is backend
    with ts.use_backend("numpy"):
        assert x.backend == "numpy"
    assert (x + x.to("numba")).shape == (3,)


def test_without_numba_one_sentence_says_what_to_do() -> None:
    program = "import sys; sys.modules['numba'] = None; import tinyseq as ts; ts.use_backend('numba')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: the numba backend needs Numba, which does not load here (import of numba halted; None in "
        "sys.modules): pip install 'tinyseq[fast]'")


def test_numba_is_not_imported_unless_it_is_chosen() -> None:
    program = "import sys, tinyseq as ts; ts.use_backend('numpy'); ts.ones(2).sum(); print('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"
