"""The scripts and the shell: commands that they print may be pasted there, wherever Python and the files are, and
Ctrl-C ends them at once, while they import NumPy or score a model as well, with one line and code 130."""

import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress


def on_interrupt(saved: object = "nothing") -> None:
    """From now on Ctrl-C ends the script, and says what is saved. No exception: C code in an import would take it."""
    def end(*_: object) -> None:
        with suppress(Exception):                               # a pipe whose reader is gone, say
            sys.stdout.flush()
        os.write(2, f"\nended by Ctrl-C; {saved} is saved\n".encode())
        os._exit(130)

    signal.signal(signal.SIGINT, end)


if os.path.dirname(os.path.realpath(sys.argv[0])) == os.path.dirname(os.path.realpath(__file__)):   # a script of these
    on_interrupt()


def command(*parts: object) -> str:
    """A line for the shell, in quotes what has a space."""
    texts = [str(part) for part in parts]
    return subprocess.list2cmdline(texts) if os.name == "nt" else shlex.join(texts)


def pip_install(*packages: str) -> str:
    """The command that installs packages for the Python that runs this."""
    return command(sys.executable, "-m", "pip", "install", *packages)
