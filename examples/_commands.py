"""Commands that the scripts print: they may be pasted into a shell, wherever Python and the files are."""

import os
import shlex
import subprocess
import sys


def command(*parts: object) -> str:
    """A line for the shell, in quotes what has a space."""
    texts = [str(part) for part in parts]
    return subprocess.list2cmdline(texts) if os.name == "nt" else shlex.join(texts)


def pip_install(*packages: str) -> str:
    """The command that installs packages for the Python that runs this."""
    return command(sys.executable, "-m", "pip", "install", *packages)
