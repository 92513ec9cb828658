"""Which backend a name or an array means: loaded once, found while others load, one default for all threads."""

import threading
import time
from typing import Any

import numpy as np
import pytest
from helpers.interrupts import in_threads
from tinyseq.backends.numpy import NumpyBackend

from tinyseq import backends


class Counting(NumpyBackend):
    """A backend that takes its time to load."""

    made: list[Any] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        time.sleep(0.01)
        self.made.append(self)


def test_threads_load_a_backend_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counting, "made", [])
    monkeypatch.setattr(backends, "_loaded", dict(backends._loaded))
    monkeypatch.setattr(backends, "_find", lambda name: Counting)
    in_threads(*[lambda: backends.load("counting")] * 4)
    assert Counting.made == [backends.load("counting")]


def test_backends_are_found_while_others_load(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loading(type):
        def __instancecheck__(cls, x: Any) -> bool:  # while one looks at the types another adds its own
            backends._owners[type("New", (), {})] = numpy
            return False

    numpy, mine = backends.load("numpy"), type("Mine", (), {})
    monkeypatch.setattr(backends, "_owners", {Loading("Other", (), {}): numpy, mine: numpy})
    monkeypatch.setitem(backends.namespaces, mine, np)
    assert backends.of(mine()) is numpy


def test_the_default_backend_is_that_of_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_default", lambda: another)
    another, found = NumpyBackend(), []
    thread = threading.Thread(target=lambda: found.append(backends.of(np.ones(1))))  # it has made no tensor
    thread.start()
    thread.join()
    assert found == [another]
