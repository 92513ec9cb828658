"""The room's functions are those of `ts`, and come when they are asked for."""

import subprocess
import sys

import tinyseq as ts
from tinyseq import glance


def test_the_functions_are_the_packages() -> None:

    assert ts.summary is glance.summary and ts.profile is glance.profile
    assert callable(ts.summary) and isinstance(ts.profile, type)
    assert dir(glance) == ["Row", "Summary", "profile", "summary"]


def test_nothing_of_it_is_imported_before() -> None:
    program = "import sys, tinyseq as ts; print('tinyseq.glance' in sys.modules, end=' '); ts.profile; print(" \
              "ts.summary.__name__, 'tinyseq.glance' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "summary", "True"], done.stderr
