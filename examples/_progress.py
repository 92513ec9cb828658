"""How the scripts tell how far they are: a bar in a terminal; in a file, a pipe or a notebook a line every 5 seconds.

    for step in (bar := progress(range(steps))):        # or progress(total=seconds), bar.update and bar.stopped
        ...
        bar.set_postfix_str(f"loss {loss:.2f}", refresh=False)

Ctrl-C ends learning, not the script, which goes on with what was learnt: the update that is under way is finished, and
bars that begin later end after one; `progress.stopped` tells a script of several models to go on to no other. A second
Ctrl-C ends the script too: what `save` writes is written at the first, between two updates or within one.
"""

import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any
from _commands import pip_install

try:
    from tqdm import tqdm
except ImportError:
    sys.exit(f"the bar of progress needs a library: {pip_install('tqdm')}")


class Lines:
    """A file that makes a line of each state of a bar, where a terminal would write over the last one."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(f"{text.strip()}\n")

    def flush(self) -> None:
        sys.stderr.flush()


class progress(tqdm):
    stopped = False

    def __init__(self, iterable: Any = None, save: Callable[[], None] | None = None, **options: Any) -> None:
        self.save = save
        self.before = signal.signal(signal.SIGINT, self.stop)
        if sys.stderr.isatty():
            options["bar_format"] = "{desc}{percentage:3.0f}% {bar:20} {remaining} left{postfix}"
        else:
            options |= {"bar_format": "{desc}{percentage:3.0f}%, {remaining} left{postfix}",
                        "file": Lines(), "mininterval": 5, "miniters": 0}
        super().__init__(iterable, **options)

    def stop(self, *_: object) -> None:
        progress.stopped = self.stopped_here = True
        signal.signal(signal.SIGINT, self.before)
        if self.save:
            self.save()
            self.before = signal.getsignal(signal.SIGINT)       # which says what is saved

    def update(self, n: float = 1) -> bool | None:
        shown: bool | None = super().update(n)
        if self.stopped:
            self.close()                                        # says so, before what is found is printed
        return shown

    def __iter__(self) -> Iterator[Any]:
        for value in super().__iter__():
            yield value
            if self.stopped:
                break

    def close(self) -> None:
        if not self.disable:                                    # it is called more than once
            super().close()
            signal.signal(signal.SIGINT, self.before)
            if hasattr(self, "stopped_here"):
                kept = "saved, and used on" if self.save else "used on, and not saved"
                self.write(f"stopped; what was learnt is {kept}; Ctrl-C again ends the script")
