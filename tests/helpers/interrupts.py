"""What a test needs to interrupt a function at every line, as Ctrl-C may, or to change threads at every step."""

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def in_threads(*works: Callable[[], None], switch_in: str = "") -> None:
    """Run them at once, changing threads often, and at every instruction of tinyseq's function `switch_in`.

    The first error of any is raised here.
    """
    barrier, usual = threading.Barrier(len(works)), sys.getswitchinterval()

    def switch(frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code.co_name != switch_in or not frame.f_globals.get("__name__", "").startswith("tinyseq"):
            return None
        frame.f_trace_opcodes = True
        time.sleep(1e-6)
        return switch

    def run(work: Callable[[], None]) -> None:
        barrier.wait()
        sys.settrace(switch if switch_in else None)
        try:
            work()
        finally:
            sys.settrace(None)

    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(len(works)) as pool:
            for done in [pool.submit(run, work) for work in works]:
                done.result()
    finally:
        sys.setswitchinterval(usual)


class Interrupt:
    """Raises KeyboardInterrupt at the n-th line that runs inside tinyseq, or some of its modules; `lines` are those
    that ran."""

    def __init__(self, n: int | None, *modules: str) -> None:
        self.n, self.lines, self.modules = n, 0, modules or ("tinyseq",)

    def __call__(self, frame: Any, event: str, arg: Any) -> Any:
        if not frame.f_globals.get("__name__", "").startswith(self.modules):
            return None
        if event == "line":
            self.lines += 1
            if self.lines - 1 == self.n:
                raise KeyboardInterrupt
        return self

    def run(self, fn: Callable[[], None]) -> bool:
        """Whether it ran to its end."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            fn()
        except KeyboardInterrupt:
            return False
        finally:
            sys.settrace(before)
        return True


def stopped(action: Callable[[], Any], at: int, stop: Callable[[], Any], opcodes: bool = False, but: str = "-") -> bool:
    """Did `action` come to line (or opcode) `at` inside tinyseq, `but` one module? There `stop()` is called."""
    count = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal count
        module = frame.f_globals.get("__name__", "")
        if not module.startswith("tinyseq") or module == but:
            return None
        frame.f_trace_opcodes = opcodes
        count += event == ("opcode" if opcodes else "line")
        if count == at and event != "call":
            count += 1
            stop()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return count >= at
