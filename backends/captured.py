"""What is known of a step that is being recorded, or repeated: whoever hands something to a device may ask here.

A device that repeats the launches of a step runs no Python in between. So what changes from step to step, the numbers
of an optimizer and the streams of random draws, lies in device memory, where its kernels read it; and what Python has
to do all the same, count a step or take a stream, is put down as `works`, to be done before each repetition. These say
the new numbers, in the order of the first time. Of what comes from the host only constants are recorded: what was the
same in the run before.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
WORDS = 448  # numbers that one launch puts in their places: an argument of at most 4 KiB


class Recording:
    """A step on its way: `rehearsed`, a run as any other; `recorded`, when nothing is computed; `repeated`.

    A backend adds where `words` lie on the device and how what was recorded is launched.
    """

    def __init__(self) -> None:
        self.phase = ""
        self.words: list[np.ndarray[Any, Any]] = []  # (WORDS,) each, float64 or uint64 bit by bit
        self.used = 0
        self.works: list[Callable[[], Any]] = []
        self.draws: dict[tuple[int, int], int] = {}  # (seed, stream) of a draw -> where it lies on the device
        self.constants: list[tuple[Any, Any]] = []  # from the host, and the same on the device
        self.seen = 0  # of them, when recorded
        self.before: list[tuple[Any, str, Any]] = []  # (object, name, value) of what Python changed: for `together`
        self.products: Any = None  # (handle, library), where products must not take the usual ones

    def run(self, phase: str, step: Callable[[], T]) -> T:
        """What `step()` returns, in that phase."""
        self.phase, self.used, self.seen, self.before = phase, 0, 0, []
        if phase == "rehearsed":
            self.constants = []
        before = _current.set(self)
        try:
            return step()
        finally:
            _current.reset(before)

    def address(self, place: int) -> int:
        """Where on the device the word `place` lies."""
        raise NotImplementedError

    def again(self, work: Callable[[], Any]) -> None:
        """Do `work` now, and before each repetition, when it only says its numbers."""
        if self.phase == "recorded":
            self.works.append(work)
        used = self.used
        work()
        if self.phase == "recorded" and self.used == used:
            raise RuntimeError("this optimizer's numbers are not known to the kernel that takes them")

    def put(self, numbers: Any) -> int:
        """The address of up to WORDS float64 or uint64 that may be others each time."""
        if self.phase == "rehearsed":
            return 0
        new = np.asarray(numbers).view(np.uint64)
        room = -self.used % WORDS
        place = self.used if not room or len(new) <= room else self.used + room
        self.used = place + len(new)
        if place // WORDS == len(self.words):
            self.words.append(np.zeros(WORDS, np.uint64))
        self.words[place // WORDS][place % WORDS:place % WORDS + len(new)] = new
        return self.address(place)

    def constant(self, array: np.ndarray[Any, Any], upload: Callable[[Any], Any]) -> Any:
        """A copy on the device of what comes from the host, of `upload(array)`."""
        if self.phase == "rehearsed":
            self.constants.append((array.copy(), upload(array)))
        known, there = (*self.constants, (None, None))[min(self.seen, len(self.constants))]
        self.seen += 1
        if there is None or (known.dtype, known.shape) != (array.dtype, array.shape) or (
                known.tobytes() != array.tobytes()):
            raise RuntimeError(f"{array.dtype}{list(array.shape)} comes from the host and is not what it was before: "
                               "give what changes as an argument, or draw it on the device, as dropout does")
        return there.copy()


_current: ContextVar[Recording | None] = ContextVar("recorded", default=None)
current = _current.get


def repeating() -> bool:
    """Whether launches are repeated, so that none is to be made."""
    recording = current()
    return recording is not None and recording.phase == "repeated"


def again(work: Callable[[], Any], before: Callable[[], tuple[Any, str, Any]]) -> None:
    """Do `work`, which changes what no device knows; of a recorded step before each repetition too. `before`: what has
    to be set, should the recording fail, for it not to have been."""
    recording = current()
    if recording is None:
        work()
    else:
        recording.before.append(before())
        recording.again(work)


def place(numbers: list[float]) -> int:
    """Where a kernel finds `numbers`, or 0: in what it is given."""
    recording = current()
    return 0 if recording is None else recording.put(np.array(numbers, np.float64))


def drawn(seed: int, stream: int) -> int:
    """Where a kernel finds a seed and a stream that were drawn in this step, or 0: in what it is given."""
    recording = current()
    return 0 if recording is None else recording.draws.get((seed, stream), 0)


def outside(what: str, *phases: str) -> None:
    """Refuse what a device cannot repeat, in these phases or in all."""
    recording = current()
    if recording is not None and recording.phase in (phases or ("rehearsed", "recorded")):
        raise RuntimeError(f"{what} is no part of a step that is repeated, which runs no Python: move it out of the "
                           "function that ts.capture is given")
