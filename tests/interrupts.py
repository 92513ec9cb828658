"""What a test needs to interrupt a function at every line, as Ctrl-C may."""

import sys
from collections.abc import Callable
from typing import Any


class Interrupt:
    """Raises KeyboardInterrupt at the n-th line that runs inside tinyseq; `lines` are those that ran."""

    def __init__(self, n: int | None) -> None:
        self.n, self.lines = n, 0

    def __call__(self, frame: Any, event: str, arg: Any) -> Any:
        if not frame.f_globals.get("__name__", "").startswith("tinyseq"):
            return None
        if event == "line":
            self.lines += 1
            if self.lines - 1 == self.n:
                raise KeyboardInterrupt
        return self

    def run(self, fn: Callable[[], None]) -> bool:
        """Whether it ran to its end."""
        sys.settrace(self)
        try:
            fn()
        except KeyboardInterrupt:
            return False
        finally:
            sys.settrace(None)
        return True
