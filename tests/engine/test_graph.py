"""The graph: what its nodes keep alive, and whether what is computed is recorded in it."""

import gc
import threading
import tracemalloc
import weakref

import numpy as np
import pytest
from helpers.tensors import leaf

import tinyseq as ts
from tinyseq.engine.tensor import Tensor


def test_a_graph_keeps_only_what_its_pull_backs_need() -> None:
    x = leaf(np.ones(10_000))
    gc.collect()
    tracemalloc.start()
    y = x
    for _ in range(20):
        y = y + x
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept < 2 * x.data.nbytes  # one array, the result

    z = x * 2.0
    array = weakref.ref(z.data)
    v = -z  # needs no value of z
    negated = weakref.ref(v.data)
    w = v + 1.0  # nor does an op with a constant need that of v
    del z, v
    assert array() is None and negated() is None
    w.sum().backward()


def test_a_graph_does_not_keep_its_leaves_tensors() -> None:
    x = leaf(1.0)
    alive = weakref.ref(x)
    y = x * 2
    del x
    assert alive() is None
    y.backward()  # nobody waits for it


def test_no_grad_and_enable_grad() -> None:
    x = leaf(1.0)

    @ts.no_grad()
    def quiet() -> tuple[Tensor, Tensor]:
        with ts.enable_grad():
            return x * 2, loud()

    @ts.enable_grad()
    def loud() -> Tensor:
        with ts.no_grad():
            return x * 2

    assert [y.requires_grad for y in quiet()] == [True, False]
    with pytest.raises(KeyError), ts.no_grad():
        raise KeyError
    assert (x * 2).requires_grad


def test_threads_have_their_own_modes() -> None:
    x, seen = leaf(1.0), {}

    def work(name: str, barrier: threading.Barrier) -> None:
        with ts.no_grad() if name == "off" else ts.enable_grad(), ts.use_backend("numpy"):
            barrier.wait()
            seen[name] = (x * 2).requires_grad
            barrier.wait()

    barrier = threading.Barrier(3)
    threads = [threading.Thread(target=work, args=(name, barrier)) for name in ("off", "on")]
    for thread in threads:
        thread.start()
    barrier.wait()
    seen["main"] = (x * 2).requires_grad
    barrier.wait()
    for thread in threads:
        thread.join()
    assert seen == {"off": False, "on": True, "main": True}
