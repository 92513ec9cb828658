"""Runs a script on CPU-emulated CuPy: `PYTHONPATH=tests python -m cupy_on_cpu script.py [arguments]`."""

import os
import runpy
import sys

from . import Unavailable, install

if len(sys.argv) < 2:
    sys.exit(__doc__)
try:
    install()
except Unavailable as reason:
    sys.exit(str(reason))
os.environ.setdefault("TINYSEQ_BACKEND", "cupy")
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))  # as Python itself does for a script
runpy.run_path(sys.argv[0], run_name="__main__")
