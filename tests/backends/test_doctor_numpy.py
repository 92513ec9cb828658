"""What the doctor says of NumPy: whether products are right, on how many threads, and who said so."""

import os
import re
from typing import Any

import numpy as np
import pytest
from tinyseq.backends import doctor_numpy, load, threads

import tinyseq as ts


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A library of 8 threads in the place of NumPy's, in a process in which nobody has said a number."""
    state = {"n": 1}
    monkeypatch.setattr(threads, "library",
                        lambda: threads.Library("OpenBLAS", lambda n: state.update(n=n), lambda: state["n"]))
    monkeypatch.setattr(threads, "large", threads.LARGE)
    monkeypatch.setattr(threads, "many", 8)
    for name in list(os.environ):
        if name.endswith("_NUM_THREADS") or name.startswith("TINYSEQ_"):
            monkeypatch.delenv(name)
    return state


def test_a_product_is_right_here() -> None:
    assert doctor_numpy.fault() == ""


@pytest.mark.parametrize("bad", [1, 8])
def test_a_wrong_product_is_told_with_its_threads(state: dict[str, int], bad: int,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    right = load("numpy").xp.matmul
    monkeypatch.setattr(load("numpy").xp, "matmul", lambda a, b: right(a, b) + (state["n"] == bad) * np.eye(480, 500))
    assert doctor_numpy.fault() == f"480 of 240,000 entries of a product on {bad} threads are wrong"
    assert state["n"] == 1


def test_it_leaves_the_threads_as_they_were(state: dict[str, int]) -> None:
    doctor_numpy.fault(), doctor_numpy.about()
    assert state["n"] == 1 and threads.get_num_threads() == 8


def test_it_says_how_many_threads_and_what_a_small_product_takes(state: dict[str, int],
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    versions, blas, product = doctor_numpy.about()
    assert f" in {ts.__path__[0]}, NumPy" in versions and "no variable set" in versions
    assert blas.endswith("large products take 8 threads, others 1")
    assert re.search(r"takes [\d,]+ µs on 1 thread, [\d,]+ µs on 8 threads$", product)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.setattr(threads, "large", float("inf"))
    state["n"] = 4
    versions, blas, product = doctor_numpy.about()
    assert "OMP_NUM_THREADS=4" in versions and blas.endswith("all products take 4 threads")
    assert "on 1 thread, " in product and product.endswith("µs on 4 threads") and state["n"] == 4


def test_a_library_that_sets_no_threads_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "large", float("inf"))
    monkeypatch.setattr(threads, "library", lambda: None)
    said: Any = doctor_numpy.about()
    assert len(said) == 2 and said[1].endswith("the library chooses its threads") and doctor_numpy.fault() == ""
