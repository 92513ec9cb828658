"""From the outputs back to the leaves: graphs of any form, what lands in .grad, higher orders, threads, interrupts."""

import contextvars
import gc
import math
import os
import threading
import tracemalloc
import weakref
from typing import Any

import numpy as np
import pytest
from helpers.interrupts import Interrupt, in_threads
from helpers.tensors import equal, leaf

import tinyseq as ts
from tinyseq import random
from tinyseq.engine.graph import grad_enabled
from tinyseq.engine.tensor import Tensor

THOROUGH = os.environ.get("TINYSEQ_TEST_PROFILE") == "thorough"


# --- graphs ----------------------------------------------------------------------------------------------------------


def test_a_deep_graph_runs_back_and_is_freed_without_recursion() -> None:
    x = leaf(1.0)
    y = z = x
    for _ in range(50_000):
        y, z = y + 1.0, ts.stack([z, z])[0]  # z: several slots a node, and views
    y.backward()
    equal(x.grad, 1.0)
    z.backward()
    equal(x.grad, 2.0)
    w = x
    for _ in range(50_000):
        w = ts.unstack(ts.expand_dims(w * 1.0))[0]  # several outputs a node
    del w  # never run back


def test_a_graph_used_twice_adds_up() -> None:
    x = leaf(2.0, 3.0)
    y = x * x
    (y * y + y).sum().backward()
    equal(x.grad, 4 * np.array([8.0, 27.0]) + 2 * np.array([2.0, 3.0]))


def test_a_freed_graph_says_so() -> None:
    x = leaf(2.0)
    y = ts.exp(x * x)
    y.backward()
    for again in (y.backward, lambda: ts.grad(y, x), lambda: ts.grad(y, x, create_graph=True)):
        with pytest.raises(RuntimeError, match=r"graph of exp was freed.*retain_graph=True"):
            again()


def test_a_freed_graph_lets_go_of_its_arrays() -> None:
    x = leaf(np.ones(10))
    inner = ts.exp(x)
    array = weakref.ref(inner.data)
    y = ts.sum(ts.exp(inner))
    del inner
    assert array() is not None
    y.backward()
    assert array() is None and y.node is not None


def test_retain_graph_and_accumulation() -> None:
    x = leaf(3.0)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    equal(x.grad, 12.0)


@pytest.mark.parametrize("write", ["assign", "data", "written"])
def test_a_leaf_changed_after_its_use_is_an_error(write: str) -> None:
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    y = (x * w).sum()
    if write == "assign":
        with ts.no_grad():
            w[0] = 5.0
    elif write == "data":
        w.data = np.array([5.0, 4.0])
    else:
        w.data[0] = 5.0
        w.written()
    for run in (y.backward, lambda: ts.grad(y, x), lambda: ts.grad(y, x, create_graph=True)):
        with pytest.raises(RuntimeError, match=r"leaf of shape \(2,\) was written to after its use"):
            run()
    (x * w).sum().backward()
    equal(x.grad, [5.0, 4.0])
    equal(w.grad, [1.0, 2.0])


# --- what lands in .grad ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_are_owned(create_graph: bool) -> None:
    a, b, c = leaf(1.0, 2.0), leaf(3.0, 4.0), leaf(5.0, 6.0)
    seed = ts.tensor(np.ones(2))
    (a + b + ts.broadcast_to(c.sum(), (2,))).backward(seed, create_graph=create_graph)
    found = [t.grad for t in (a, b, c)] + ts.grad(a + b, [a, b], seed, create_graph=create_graph)
    for g in found:
        assert g is not None and g.data.flags.writeable
        assert not any(np.shares_memory(g.data, h.data) for h in [*found, seed, a, b, c] if h is not g)
    before = a.grad
    (a * 2).sum().backward()  # adds into a new array: what the user holds stays
    equal(before, [1.0, 1.0])
    equal(a.grad, [3.0, 3.0])


def test_a_gradient_has_its_leafs_shape_and_dtype() -> None:
    x, y = leaf(np.ones((3, 1)), dtype=np.float32), leaf(np.ones(4))
    (x * y).sum().backward()
    assert x.grad is not None and (x.grad.shape, x.grad.dtype) == ((3, 1), np.float32)
    assert y.grad is not None and (y.grad.shape, y.grad.dtype) == ((4,), np.float64)


def test_the_seed() -> None:
    x = leaf(1.0, 2.0)
    y = x * 3
    with pytest.raises(ValueError, match=r"shape \(2,\) needs its gradient given"):
        y.backward()
    with pytest.raises(ValueError, match=r"shape \(2,\) must have that shape, got \(3,\)"):
        y.backward(np.ones(3))
    y.backward(np.array([1.0, 10.0]))
    equal(x.grad, [3.0, 30.0])
    with pytest.raises(ValueError, match=r"shape \(2,\) was not computed from one that requires a gradient"):
        y.detach().backward(y)


# --- higher orders ---------------------------------------------------------------------------------------------------


def test_create_graph_to_order_3() -> None:
    x = leaf(1.3)
    y = ts.sin(x) * ts.exp(x)
    sin, cos, exp = math.sin(1.3), math.cos(1.3), math.exp(1.3)
    for expected in (exp * (sin + cos), 2 * exp * cos, 2 * exp * (cos - sin)):
        y = ts.grad(y, x, create_graph=True)
        equal(y, expected)


def test_create_graph_under_no_grad() -> None:
    x = leaf(2.0)
    y = (x**3).sum()
    with ts.no_grad():
        g = ts.grad(y, x, create_graph=True)
    equal(ts.grad(g.sum(), x), [12.0])


def test_backward_with_create_graph_leaves_gradients_that_can_be_differentiated() -> None:
    x = leaf(2.0)
    (x * x * x).backward(create_graph=True)
    g = x.grad
    assert g is not None
    x.grad = None
    g.backward()
    equal(x.grad, 12.0)


def test_derivative_with_respect_to_an_intermediate_tensor() -> None:
    x = leaf(2.0)
    y = x * x
    z = y * y * x
    dz_dy, dz_dx = ts.grad(z, [y, x], create_graph=True)
    equal(dz_dy, 2 * 4 * 2)
    equal(dz_dx, 5 * 2**4)
    equal(ts.grad(dz_dy, y), 2 * 2)
    assert x.grad is None
    with pytest.raises(ValueError, match=r"do not depend on input 0, of shape \(\)"):
        ts.grad(x * 2, leaf(1.0))
    assert ts.grad(x * 2, [leaf(1.0), x], allow_unused=True)[0] is None
    with pytest.raises(ValueError, match=r"input 0, of shape .* does not require a gradient"):
        ts.grad(x * 2, y.detach())


def test_value_and_grad() -> None:
    cube = lambda x, k: ((k * x**3).sum(), "aux")
    (value, aux), g = ts.value_and_grad(cube)(ts.tensor(np.array([1.0, 2.0])), 2.0)
    equal(value, 18.0)
    equal(g, [6.0, 24.0])
    assert aux == "aux"
    both_slopes = ts.value_and_grad(lambda a, b: (a * b).sum(), argnums=(1, 0))(leaf(2.0), leaf(3.0))[1]
    assert [float(g) for g in both_slopes] == [2.0, 3.0]
    slope = lambda f: lambda x: ts.value_and_grad(f)(x)[1]
    equal(slope(slope(slope(lambda x: x**4)))(ts.tensor(np.array(2.0))), 48.0)
    with ts.no_grad():
        equal(slope(lambda x: x * x)(leaf(3.0)), 6.0)


def test_value_and_grad_sees_what_the_function_closes_over() -> None:
    w, x = leaf(2.0, 3.0), ts.tensor(np.array([1.0, 2.0]))
    value, g = ts.value_and_grad(lambda x: (w * x * x).sum())(x)
    ((g * g).sum() + value).backward()  # g = 2 w x: d/dw is 8 w x^2 + x^2
    equal(w.grad, [17.0, 100.0])
    assert ts.value_and_grad(lambda x: x * x)(3.0)[1].item() == 6.0


# --- threads, interrupts, memory -------------------------------------------------------------------------------------


def test_threads_build_and_run_their_own_graphs() -> None:
    grads: list[Any] = [None] * 4

    def work(i: int) -> None:
        x = leaf(float(i))
        y = x
        for _ in range(300):
            y = y * 1.0 + x
        y.backward()
        grads[i] = x.grad

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [g.item() for g in grads] == [301.0] * 4


def test_threads_add_to_the_gradients_of_shared_weights() -> None:
    w, model, x = leaf(1.0), ts.nn.Linear(2, 1, dtype=np.float64), ts.tensor(np.ones((3, 2)))

    def work() -> None:
        for _ in range(200):
            (w * 1.0).sum().backward()
            model(x).sum().backward()

    in_threads(*[work] * 4)
    equal(w.grad, 800.0)
    equal(model.weight.grad, np.full((1, 2), 2400.0))
    equal(model.bias.grad, [2400.0])
    in_threads(*[lambda: (w * 1.0).sum().backward()] * 4, switch_in="backward")
    equal(w.grad, 804.0)


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_model_trains_on_after_an_interrupt_at_any_line_of_backward(create_graph: bool) -> None:
    w, b = leaf([[1.0, 2.0], [3.0, 4.0]]), leaf(0.5, -0.5)
    ts.manual_seed(3)

    def loss() -> Tensor:
        random.set_state((3, 7))
        h = ts.tanh(ts.tensor(np.ones((3, 2))) @ w + b)
        h = ts.recompute(lambda h: ts.functional.dropout(h @ w), h)
        first, second = ts.unstack(h, 1)
        return (first * second + second * b[1]).sum()

    loss().backward()
    right = [t.grad.detach().numpy().copy() for t in (w, b)]

    def interrupted(n: int) -> bool:
        for t, g in zip((w, b), right, strict=True):
            t.grad = ts.tensor(g)
        held, y = [t.grad for t in (w, b)], loss()
        ended = Interrupt(n).run(lambda: y.backward(create_graph=create_graph))
        for t, g, old in zip((w, b), right, held, strict=True):
            np.testing.assert_array_equal(old.numpy(), g)  # what the user holds is never added to
            assert t.grad is old or np.allclose(t.grad.detach().numpy(), 2 * g, rtol=1e-14)
            t.grad = None
        with ts.no_grad():
            assert not grad_enabled()
        assert grad_enabled()
        loss().backward()  # nothing is locked, and nothing is left behind
        for t, g in zip((w, b), right, strict=True):
            np.testing.assert_array_equal(t.grad.numpy(), g)
        return ended

    lines = range(0, 100_000, 1 if THOROUGH or not create_graph else 9)
    n = next(n for n in lines if contextvars.copy_context().run(interrupted, n))
    assert n > 100


def test_memory_is_flat_over_2000_steps() -> None:
    w = leaf(np.ones(100))

    def step() -> None:
        model: dict[str, Any] = {"w": w}
        model["self"] = model  # a reference cycle, with a graph in it
        model["y"] = ts.tanh(w * 2).sum()
        model["y"].backward()
        model["unused"] = ts.exp(w * 3)
        w.grad = None

    for _ in range(50):
        step()
    gc.collect()
    tracemalloc.start()
    for _ in range(2000):
        step()
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 20_000


def test_grad_outputs_are_as_many_as_the_outputs() -> None:
    x = leaf(1.0, 2.0)
    for outputs, seeds in ([x * 2], [x, x]), ([x, x], [x]), ([x], []):
        with pytest.raises(ValueError, match=rf"grad\(.*: expected {len(outputs)} grad_outputs, got {len(seeds)}"):
            ts.grad(outputs, x, seeds)


def test_a_gradient_says_what_it_is_and_how_it_is_differentiated_again() -> None:
    x = ts.tensor(2.0, requires_grad=True)
    with pytest.raises(ValueError, match=r"not computed from .*; of a gradient, if .* without create_graph=True"):
        ts.grad(ts.grad(x**3, x), x)
    slope = ts.grad(x**3, x, create_graph=True)
    assert "op=gradient" in repr(slope) and ts.grad(slope, x).item() == 12
    with pytest.raises(RuntimeError, match="the graph of gradient was freed"):
        ts.grad(slope, x)
