"""The threads that share pieces of a kernel: each stretch once, errors raised, several callers, forks."""

import itertools
import os
import signal
import threading
import time

import numpy as np
import pytest
from helpers.interrupts import stopped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tinyseq.backends import pool


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three threads, which take the smallest work."""
    monkeypatch.setattr(pool, "get_num_threads", lambda: 3)
    monkeypatch.setattr(pool, "LEAST", 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(0, 40), cost=st.integers(0, 40))
def test_every_stretch_is_worked_on_once(three: None, n: int, cost: int) -> None:
    done = np.zeros(n, int)

    def work(start: int, stop: int) -> None:
        done[start:stop] += 1

    pool.share(work, n, cost)
    assert done.tolist() == [1] * n


def test_small_work_is_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "get_num_threads", lambda: 3)
    stretches = []
    pool.share(lambda *stretch: stretches.append((stretch, threading.get_ident())), 100, 2 * pool.LEAST - 1)
    assert stretches == [((0, 100), threading.get_ident())]


def test_an_error_is_raised_when_all_that_began_have_ended(three: None) -> None:
    began, ended = [], []

    def work(start: int, stop: int) -> None:
        began.append(start)
        if start == 0:
            raise ArithmeticError("of a piece")
        time.sleep(0.01)
        ended.append(start)

    with pytest.raises(ArithmeticError, match="of a piece"):
        pool.share(work, 12, 100)
    assert sorted(began) == sorted([0, *ended])


def test_no_thread_works_on_when_an_interrupt_is_raised_whatever_line_it_comes_at(three: None) -> None:
    """Ctrl-C, which the main thread alone hears."""
    pool.share(lambda start, stop: None, 12, 100)  # there are threads
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for at in itertools.count(1):
            began, ended = [], []

            def work(start: int, stop: int, began: list[int] = began, ended: list[int] = ended) -> None:
                began.append(start)
                time.sleep(0.002)
                if threading.current_thread() is not threading.main_thread():
                    ended.append(start)

            came = stopped(lambda work=work: pool.share(work, 12, 100), at,  # type: ignore[misc]
                           lambda: signal.raise_signal(signal.SIGINT))
            own = len(began) - len(ended)
            time.sleep(0.005)
            assert len(began) - len(ended) == own
            if not came:
                break
    finally:
        signal.signal(signal.SIGINT, before)
    assert at > 30 and len(began) == 12


def test_a_thread_has_the_callers_errstate(three: None) -> None:
    def work(start: int, stop: int) -> None:
        np.float32(1) / np.zeros(8, np.float32)

    with np.errstate(divide="ignore"):
        pool.share(work, 12, 100)
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        pool.share(work, 12, 100)


def test_calls_of_eight_threads_and_of_pieces_themselves(three: None) -> None:
    totals = np.zeros((8, 50, 5), int)

    def inner(k: int, i: int) -> None:
        pool.share(lambda start, stop: np.add(totals[k, i, start:stop], 1, out=totals[k, i, start:stop]), 5, 100)

    def outer(k: int) -> None:
        pool.share(lambda start, stop: [inner(k, i) for i in range(start, stop)], 50, 100)

    threads = [threading.Thread(target=outer, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (totals == 1).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own(three: None) -> None:
    pool.share(lambda start, stop: None, 12, 100)
    child = os.fork()
    if child == 0:
        done = np.zeros(12, int)
        pool.share(lambda start, stop: done.__setitem__(slice(start, stop), 1), 12, 100)
        os._exit(0 if done.all() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
