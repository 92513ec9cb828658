"""Recordings without a device: places of numbers, constants from the host, what is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tinyseq.backends import captured
from tinyseq.backends.captured import WORDS, Recording


class Somewhere(Recording):
    """A recording whose words lie at 1000, 8 bytes each."""

    def address(self, place: int) -> int:
        return 1000 + 8 * place

    def at(self, address: int, n: int) -> list[float]:
        return list(np.concatenate(self.words).view(np.float64)[(address - 1000) // 8:][:n])


@given(st.lists(st.lists(st.floats(-9, 9), min_size=1, max_size=WORDS), max_size=9))
@example([[1.0] * 300, [2.0] * 300, [3.0] * 148, [4.0]])
def test_numbers_find_their_places_again_and_no_two_share_one(some: list[list[float]]) -> None:
    recording, found = Somewhere(), list[int]()

    def step() -> None:
        found[:] = [captured.place(numbers) for numbers in some]

    recording.run("recorded", step)
    first = list(found)
    ends = [address + 8 * len(numbers) for address, numbers in zip(first, some, strict=True)]
    assert all(end <= start for end, start in zip(ends, first[1:], strict=False))
    for begin, numbers in zip(first, some, strict=True):
        assert (begin - 1000) // 8 // WORDS == (begin - 1000 + 8 * len(numbers) - 8) // 8 // WORDS  # one launch has all
    some[:] = [[-x for x in numbers] for numbers in some]
    recording.run("repeated", step)
    assert found == first
    for begin, numbers in zip(first, some, strict=True):
        assert recording.at(begin, len(numbers)) == numbers


def test_outside_of_a_recording_numbers_are_where_they_are_given() -> None:
    assert captured.current() is None
    assert not captured.repeating()
    assert captured.place([1.0]) == captured.drawn(3, 4) == 0
    assert Somewhere().run("rehearsed", lambda: captured.place([1.0])) == 0
    captured.outside("anything")
    done: list[int] = []
    captured.again(lambda: done.append(1), lambda: pytest.fail("nothing is to be undone"))
    assert done == [1]


def test_work_is_done_now_and_before_each_repetition() -> None:
    recording, done = Somewhere(), list[str]()

    def work() -> None:
        done.append(f"{captured.current().phase} {captured.repeating()}")  # type: ignore[union-attr]
        captured.place([0.0])

    def step() -> None:
        captured.again(work, lambda: (recording, "phase", "none"))

    for phase in ("rehearsed", "recorded"):
        recording.run(phase, step)
    assert recording.before == [(recording, "phase", "none")]
    recording.run("repeated", lambda: [again() for again in recording.works])
    assert done == ["rehearsed False", "recorded False", "repeated True"]
    with pytest.raises(RuntimeError, match="numbers are not known to the kernel"):
        recording.run("recorded", lambda: captured.again(lambda: None, lambda: (recording, "phase", "")))


@pytest.mark.parametrize("other", [np.ones(3), np.zeros(4), np.zeros(3, np.float32), np.array([0, 0, -0.0])])
def test_constants_from_the_host_are_what_they_were(other: Any) -> None:
    recording, uploads = Somewhere(), list[Any]()

    def upload(array: Any) -> Any:
        uploads.append(array)
        return array.copy()

    def step(*arrays: Any) -> list[Any]:
        return [recording.constant(a, upload) for a in arrays]

    given = np.array([np.nan, 0, 1])
    for _ in range(2):
        first = recording.run("rehearsed", lambda: step(np.zeros(3), given))
        first[0][:] = 7  # who was handed it may write to it
    assert recording.run("recorded", lambda: step(np.zeros(3), given))[0].tolist() == [0, 0, 0]
    assert len(uploads) == 4
    for wrong in ([other, given], [np.zeros(3), given, given], [given]):
        with pytest.raises(RuntimeError, match=r"comes from the host and is not what it was before"):
            recording.run("recorded", lambda wrong=wrong: step(*wrong))


def test_what_no_device_can_do_is_refused_in_all_phases_or_in_some() -> None:
    recording = Somewhere()
    for phase in ("rehearsed", "recorded"):
        with pytest.raises(RuntimeError, match=r"x\.y is no part of a step that is repeated.*ts.capture"):
            recording.run(phase, lambda: captured.outside("x.y"))
    recording.run("rehearsed", lambda: captured.outside("x.y", "recorded"))
    recording.run("repeated", lambda: captured.outside("x.y"))
    with pytest.raises(RuntimeError, match=r"x\.y"):
        recording.run("recorded", lambda: captured.outside("x.y", "recorded"))
    assert captured.current() is None
