"""The thread of a stream ends with its loop, and makes what the loop would have made."""

import gc
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import backends, data
from tinyseq.engine.graph import grad_enabled


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "tinyseq-prefetch"]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not threads()


@given(st.lists(st.integers(), max_size=20), st.integers(1, 5))
def test_the_items_are_the_same(items: list[int], count: int) -> None:
    stream = data.items(items).prefetch(count)
    assert list(stream) == items == list(stream)


def test_the_thread_ends_however_the_loop_is_left() -> None:
    stream = data.items(range(10**6)).prefetch(3).map(str).prefetch(2)
    for item in stream:
        assert len(threads()) == 2 and item == "0"
        break
    assert not threads()
    with pytest.raises(ZeroDivisionError):
        for _ in stream:
            1 / 0  # noqa: B018
    assert not threads()
    it = iter(stream)
    assert next(it) == "2" and threads()
    del it
    assert not threads()
    it = iter(stream)
    next(it)
    del it, stream
    gc.collect()
    assert not threads()


def test_the_thread_is_no_more_than_so_many_ahead() -> None:
    made: list[int] = []
    stream = data.items(range(100)).map(made.append).prefetch(3)
    it = iter(stream)
    next(it)
    for _ in range(1000):
        if len(made) >= 5:
            break
        time.sleep(0.001)
    time.sleep(0.01)
    assert len(made) == 5       # one given, three that wait, one in hand
    it.close()  # type: ignore[attr-defined]
    assert next(iter(stream)) is None and made[5] == 1      # what was not given is made again


def test_an_error_in_the_thread_comes_up_in_the_loop() -> None:
    def fails(x: int) -> int:
        if x == 3:
            raise KeyError("mine")
        return x

    stream, got = data.items(range(9)).map(fails).prefetch(5), []
    with pytest.raises(KeyError, match="mine") as raised:
        for x in stream:
            got.append(x)
    assert got == [0, 1, 2] and raised.traceback[-1].name == "fails" and not threads()
    with pytest.raises(KeyError, match="mine"):
        next(iter(stream))


def test_an_epoch_ends_in_the_thread_too() -> None:
    made: list[int] = []
    stream = data.items(range(3)).map(lambda x: made.append(x) or x).prefetch(9)  # type: ignore[func-returns-value]
    assert list(stream) == [0, 1, 2] == made and stream.epoch == 1


def test_positions_are_loaded_while_a_loop_runs() -> None:
    stream = data.items(range(9)).prefetch(4)
    it = iter(stream)
    state = [stream.state_dict(), next(it), next(it)][0]
    stream.load_state_dict(state)  # type: ignore[arg-type]
    assert next(it) == 0
    it.close()  # type: ignore[attr-defined]


class Pair(NamedTuple):
    x: Any
    y: Any


def test_arrays_become_tensors_of_a_backend_but_lengths() -> None:
    x, n, ids = np.ones((2, 3), "float32"), np.array([3, 2]), np.array([[1, 2]])
    batch = {"a": (x, n), "b": Pair(ids, "text"), "c": [np.ones(2), None, 3], "none": np.ones((0, 3)), "turned": x.T}
    name = backends.active().name
    [got] = data.items([batch]).prefetch(to=name)
    for tensor, array in ((got["a"][0], x), (got["b"].x, ids), (got["c"][0], np.ones(2)),
                          (got["none"], np.ones((0, 3))), (got["turned"], x.T)):
        assert isinstance(tensor, ts.Tensor) and tensor.backend == name and tensor.dtype == array.dtype
        assert np.array_equal(tensor.numpy(), array)
    assert got["a"][1] is n and got["b"].y == "text" and got["c"][1:] == [None, 3]
    with pytest.raises(ValueError, match="unknown backend 'gpu'"):
        data.items([1]).prefetch(to="gpu")


def test_the_thread_makes_what_the_loop_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """On its backend, with gradients where it has them; random numbers are the thread's own."""
    class Other(type(backends.load("numpy"))):  # type: ignore[misc]
        name = "other"

    monkeypatch.setitem(backends._loaded, "other", Other())
    stream = data.items([0]).map(lambda _: (backends.active().name, grad_enabled())).prefetch()
    for name in ("other", "numpy"):
        with ts.use_backend(name):
            assert list(stream) == [(name, True)]
            with ts.no_grad():
                assert list(stream) == [(name, False)]
                with ts.enable_grad():
                    assert list(stream) == [(name, True)]
    own = ts.random.Generator(3)
    with own:
        assert list(data.items([0]).map(lambda _: ts.random.current() is own).prefetch()) == [False]
