"""The engine: what `backward` and its relatives promise, whatever the ops."""

import asyncio
import contextlib
import contextvars
import copy
import functools
import gc
import inspect
import math
import os
import pickle
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import numpy as np
import pytest
from helpers.interrupts import Interrupt, in_threads
from helpers.rows import INDICES, ROWS, Row, inputs
from hypothesis import given
from hypothesis import strategies as st
from tinyseq.backends.numpy import NumpyBackend

import tinyseq as ts
from tinyseq import backends, random
from tinyseq.engine import ops
from tinyseq.engine.autograd import watcher
from tinyseq.engine.debug import flat
from tinyseq.engine.graph import grad_enabled
from tinyseq.engine.tensor import Tensor, namespace
from tinyseq.testing import check_grad, check_shapes

reference = pytest.mark.reference
THOROUGH = os.environ.get("TINYSEQ_TEST_PROFILE") == "thorough"


def leaf(*values: Any, dtype: Any = np.float64) -> Tensor:
    return ts.tensor(np.array(values[0] if len(values) == 1 else values, dtype=dtype), requires_grad=True)


def equal(t: Tensor | None, values: Any) -> None:
    assert t is not None
    np.testing.assert_allclose(t.detach().numpy(), values, rtol=1e-12, atol=1e-12)


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


def test_only_leaves_can_be_written_to() -> None:
    y = leaf(1.0) * 2
    with pytest.raises(RuntimeError, match=r"only leaves can be written to.*multiply"):
        y.data = np.array(3.0)
    equal(y, 2.0)
    with pytest.raises(ValueError, match=r"shape \(\) .* shape \(1,\)"):
        leaf(1.0).data = np.ones(1)
    with pytest.raises(RuntimeError, match="assignment to a leaf"):
        leaf(1.0, 2.0)[0] = 1.0


def test_a_gradient_through_a_view() -> None:
    x = leaf(np.arange(6.0))
    view = x.reshape(2, 3).T[::-1]
    y = view * 2
    y[0] = 0.0  # another array: what the view shows stays
    y.sum().backward()
    equal(x.grad, [2, 2, 0, 2, 2, 0])
    equal(x, np.arange(6.0))


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


def test_integers_and_comparisons_carry_no_gradient() -> None:
    x = leaf(1.0, 2.0)
    for y in (x > 1, x.argmax(), x.astype(np.int64), ts.isnan(x), x.argsort(), x == x):
        assert not y.requires_grad
    with pytest.raises(TypeError, match=r"floating-point.*int64"):
        ts.tensor([1, 2], requires_grad=True)
    with pytest.raises(RuntimeError, match="leaves only"):
        (x * 2).requires_grad = False


# --- ops -------------------------------------------------------------------------------------------------------------


@ts.op
def joint(a: Any, b: Any, scale: float = 1.0) -> Any:
    """One joint pull-back: scale * a * b."""
    return scale * a * b, lambda g, needs: [scale * g * b if needs[0] else None, scale * g * a if needs[1] else None]


@ts.op
def both(x: Any) -> Any:
    """Several outputs."""
    xp = namespace(x)
    s, c = xp.sin(x), xp.cos(x)
    return (s, c), (lambda g: g[0] * xp.cos(x) - g[1] * xp.sin(x),)


def composed(x: Any, y: Any) -> Any:
    return ts.tanh(x) * y, ts.exp(x)


@ts.op(definition=composed)
def kernel(x: Any, y: Any) -> Any:
    t, e = np.tanh(x), np.exp(x)  # a kernel that knows arrays only
    return (t * y, e), lambda g, needs: [g[0] * y * (1 - t * t) + g[1] * e, g[0] * t]


def test_users_ops() -> None:
    x, y = leaf(0.5, 1.0), leaf(-1.0, 2.0)
    check_grad(lambda x, y: joint(x, y, scale=3.0), x, y, order=2)
    check_grad(lambda x, y: joint(b=x, a=y), x, y, order=2)
    check_grad(both, x, order=2)
    check_grad(lambda x: both(x)[1], x, order=2)
    check_grad(kernel, x, y, order=2)
    check_grad(lambda x: kernel(x * x, y.detach())[0], x, order=2)
    assert joint.__doc__ == "One joint pull-back: scale * a * b."
    s, c = both(x)
    equal(ts.grad([s.sum(), c.sum()], x), np.cos(x.detach().numpy()) - np.sin(x.detach().numpy()))


def test_a_definition_differentiates_to_order_3() -> None:
    x, y = leaf(0.5), leaf(2.0)
    slopes = []
    for f in (kernel, composed):
        z = f(x, y)[0] + f(x * x, y)[1]
        for _ in range(3):
            z = ts.grad(z, x, create_graph=True)
        slopes.append(z.item())
    assert math.isclose(*slopes, rel_tol=1e-12)


def test_an_op_that_lacks_a_pull_back_says_so() -> None:
    @ts.op
    def half(a: Any, b: Any) -> Any:
        return a * b, (lambda g: g * b,)

    equal(half(ts.tensor(2.0), ts.tensor(3.0)), 6.0)
    with pytest.raises(TypeError, match="half: a Tensor has no pull-back of its own"):
        half(leaf(2.0), leaf(3.0))

    @ts.op
    def wrong(a: Any) -> Any:
        return a * 2, (lambda g: g[:1],)

    with pytest.raises(RuntimeError, match=r"pull-back of wrong returned shape \(1,\) for an argument of \(3,\)"):
        wrong(leaf(1.0, 2.0, 3.0)).sum().backward()


def test_tensors_in_lists_and_by_keyword() -> None:
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    ts.concat(tensors=[x, np.zeros(1), y * 2], axis=0).backward(np.arange(5.0))
    equal(x.grad, [0, 1])
    equal(y.grad, [6, 8])
    equal(ts.grad(ts.multiply(b=x, a=3.0).sum(), x), [3, 3])
    equal(ts.grad(ts.clip(x, max=y, min=None).sum(), x), [1, 1])
    with pytest.raises(TypeError, match="no argument 'dim': the names are NumPy's, axis="):
        ts.sum(x, dim=0)
    with pytest.raises(TypeError, match="missing its argument 'a'"):
        ts.add(b=x)
    with pytest.raises(TypeError, match=r"list.*stack"):
        x * [y, y]


def test_create_graph_to_order_3() -> None:
    x = leaf(1.3)
    y = ts.sin(x) * ts.exp(x)
    sin, cos, exp = math.sin(1.3), math.cos(1.3), math.exp(1.3)
    for expected in (exp * (sin + cos), 2 * exp * cos, 2 * exp * (cos - sin)):
        y = ts.grad(y, x, create_graph=True)
        equal(y, expected)


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


def test_assignment_never_cuts_a_history() -> None:
    x = leaf(1.0, 2.0)
    y = x * 2
    with ts.no_grad(), pytest.raises(RuntimeError, match="computed by multiply"):
        y[0] = 0.0
    (y + x).sum().backward()
    equal(x.grad, [3.0, 3.0])


def test_a_step_by_hand() -> None:
    w = same = leaf(1.0, 2.0)
    loss = (w * w).sum()
    loss.backward(retain_graph=True)
    with ts.no_grad():
        w -= 0.5 * w.grad
        w += 1
        w *= 2
        w /= 4
    assert w is same and w.requires_grad
    equal(w, [0.5, 0.5])
    with pytest.raises(RuntimeError, match="written"):
        loss.backward()
    v = w
    v += 1  # recorded: a new tensor
    assert v is not w and not v.is_leaf


def test_an_op_says_what_its_body_lacks() -> None:
    with pytest.raises(TypeError, match=r"forgetful: the body of an op must return \(output, pull-backs\)"):
        ts.op(named("forgetful", lambda x: x * 2))(ts.ones((2, 2)))
    with pytest.raises(TypeError, match="'w' by keyword only"):
        ts.op(keyword_only)(ts.ones(2), w=leaf(1.0))


def named(name: str, fn: Any) -> Any:
    fn.__name__ = name
    return fn


def keyword_only(x: Any, *, w: Any) -> Any:
    return x * w, (lambda g: g * w,)


def test_numbers_never_widen() -> None:
    x = ts.ones(2)
    for y in (ts.stack([x[0], 1.0]), ts.full(2, np.float64(1)), ts.tensor(np.float64(1)) * x, ts.zeros(2, dtype=None),
              ts.arange(0, 2, np.float32(0.5))):
        assert y.dtype == np.float32
    with pytest.raises(TypeError, match=r"zeros.*complex"):
        ts.zeros(2, dtype=complex)


def test_definitions_get_tensors_for_constants() -> None:
    scaled = ts.op(definition=lambda x, w: x * w.sigmoid())(
        lambda x, w: (x / (1 + np.exp(-w)), (lambda g: g / (1 + np.exp(-w)), None)))
    x, w = leaf(1.0, 2.0), ts.tensor(np.array([0.3, 0.4]))
    (g,) = ts.grad((scaled(x, w) ** 2).sum(), [x], create_graph=True)
    equal(ts.grad(g.sum(), x), 2 * w.sigmoid().numpy() ** 2)


def test_create_graph_under_no_grad() -> None:
    x = leaf(2.0)
    y = (x**3).sum()
    with ts.no_grad():
        g = ts.grad(y, x, create_graph=True)
    equal(ts.grad(g.sum(), x), [12.0])


def test_small_things_users_type() -> None:
    assert f"{ts.tensor(1.23456):.2f}" == "1.23"
    with pytest.raises(TypeError, match=r"ts\.stack"):
        ts.tensor([ts.ones(2), ts.ones(2)])
    assert ts.__version__.count(".") == 2
    z = ts.zeros(2, requires_grad=True)
    ts.vector_norm(z, ord=3).backward()
    equal(z.grad, [0.0, 0.0])


def test_recompute_says_when_the_function_changed() -> None:
    model = ts.nn.Dropout(0.5)
    y = ts.recompute(model, leaf(1.0, 2.0)).sum()
    model.eval()
    with pytest.raises(RuntimeError, match="fewer random numbers"):
        y.backward()


def test_recompute_beside_a_thread_that_draws() -> None:
    stop = threading.Event()

    def draw() -> None:
        while not stop.is_set():
            random.next_stream()

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        for _ in range(50):
            x = ts.ones(64, requires_grad=True)
            y = ts.recompute(lambda x: ts.functional.dropout(x), x)
            y.sum().backward()
            equal(x.grad, y.detach().numpy())
    finally:
        stop.set()
        thread.join()


# --- recompute -------------------------------------------------------------------------------------------------------


def noisy(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return ts.tanh(x * w) * random.normal(2, dtype=np.float64) + b * b


@pytest.mark.parametrize("create_graph", [False, True])
def test_recompute_gives_the_same_gradients(create_graph: bool) -> None:
    found = []
    for run in (lambda fn, *args: fn(*args), ts.recompute):
        x, w = leaf(0.5, 1.0), leaf(2.0, 3.0)
        b = w * 2  # closed over: an intermediate
        ts.manual_seed(5)
        y = run(lambda x, k, w=w, b=b: (noisy(x, w, b), k * x), x, 2.0)
        random.uniform(1)  # somebody draws in between: what is replayed is not where the generator stands
        after = random.get_state()
        gs = ts.grad([y[0].sum(), y[1].sum()], [x, w, b], create_graph=create_graph)
        assert random.get_state() == after
        found += [[y[0], *gs], ts.grad(gs[0].sum(), [x, w]) if create_graph else []]
    for a, b in zip(found[0] + found[1], found[2] + found[3], strict=True):
        equal(a, b.detach().numpy())


def test_recompute_nests_and_differentiates() -> None:
    w = leaf(0.5, 1.0)
    check_grad(lambda x: ts.recompute(lambda y: ts.sin(ts.recompute(ts.exp, y) * w), x), leaf(0.1, 0.2), order=2)
    check_grad(lambda x, w: ts.recompute(lambda y: ts.sin(ts.recompute(ts.exp, y) * w), x), leaf(0.1, 0.2), w, order=2)
    assert not ts.recompute(ts.exp, ts.ones(2)).requires_grad
    y = ts.recompute(lambda x: (w, x * 1), ts.ones(2))[0]  # what it closes over, handed out
    y.sum().backward()
    equal(w.grad, [1.0, 1.0])


def test_recompute_keeps_nothing_inside() -> None:
    def deep(x: Tensor) -> Tensor:
        for _ in range(20):
            x = ts.tanh(x * x)
        return x

    kept = []
    for run in (lambda fn, x: fn(x), ts.recompute):
        x = leaf(np.ones(10_000))
        tracemalloc.start()
        y = run(deep, x)
        gc.collect()
        kept.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        y.sum().backward()
    assert kept[1] < 0.1 * kept[0]


def test_recompute_sees_a_leaf_that_another_thread_made_meanwhile() -> None:
    w, begun = leaf(2.0), []

    def fn(x: Tensor) -> Tensor:
        if not begun:
            begun.append(True)
            w.data = np.array(3.0)  # an optimizer's step, say
        return x * w

    ts.recompute(fn, leaf(5.0)).backward()
    equal(w.grad, 5.0)


def test_recompute_refuses_a_parameter_written_since() -> None:
    w = leaf(1.0, 2.0)
    y = ts.recompute(lambda x: x * w, leaf(3.0, 4.0)).sum()
    w.data = np.zeros(2)
    with pytest.raises(RuntimeError, match=r"leaf of shape \(2,\) was written to"):
        y.backward()


# --- modes, threads --------------------------------------------------------------------------------------------------


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


# Each holds inside a block, for who entered it: how to make one, and whether it holds here.
SCOPES: dict[str, tuple[Callable[[], Any], Callable[[Any], bool]]] = {
    "no_grad": (ts.no_grad, lambda scope: not grad_enabled()),
    "debug": (ts.debug, lambda scope: watcher() is scope),
    "use_backend": (lambda: ts.use_backend("another"), lambda scope: backends.active().name == "another"),
    "generator": (lambda: random.Generator(3), lambda scope: random.current() is scope),
}


@pytest.fixture(params=SCOPES)
def scope(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What makes one of the scopes, and the question whether it holds; each test in a context of its own."""
    another = NumpyBackend()
    another.name = "another"
    monkeypatch.setitem(backends._loaded, "another", another)
    return SCOPES[request.param]


def alone(fn: Callable[[], None]) -> None:
    contextvars.copy_context().run(fn)


def test_a_scope_may_be_entered_twice_and_again(scope: Any) -> None:
    make, holds = scope

    def run() -> None:
        with make() as _:
            pass
        mode = contextvars.copy_context().run(make)
        for _ in range(2):
            with mode:
                assert holds(mode)
                with mode:
                    assert holds(mode)
                assert holds(mode)
            assert not holds(mode)

    alone(run)


def test_a_scope_is_its_asyncio_tasks_own(scope: Any) -> None:
    make, holds = scope
    mode = contextvars.copy_context().run(make)

    async def task(late: bool) -> None:
        await asyncio.sleep(0)
        with mode:
            for _ in range(2 + late):  # the one that enters first leaves last, or the other way round
                assert holds(mode)
                await asyncio.sleep(0)
        assert not holds(mode)
        await asyncio.sleep(0)
        assert not holds(mode)

    async def run() -> None:
        await asyncio.gather(task(True), task(False), task(True))
        assert not holds(mode)

    alone(lambda: asyncio.run(run()))


def test_a_generator_that_is_closed_late_leaves_no_scope_behind(scope: Any) -> None:
    make, holds = scope
    first, second = (contextvars.copy_context().run(make) for _ in range(2))

    def steps() -> Iterator[None]:
        with first:
            yield

    def run() -> None:
        generator = steps()
        next(generator)
        with second:
            generator.close()
            assert holds(second)
        assert not holds(first) and not holds(second)

    alone(run)


def test_use_backend_holds_from_here_on_or_to_the_end_of_the_block(scope: Any) -> None:
    def run() -> None:
        ts.use_backend("another")
        assert backends.active().name == "another"
        for _ in range(5):
            ts.use_backend("numpy")
            ts.use_backend("another")
        assert len(backends._chosen.get()) < 4
        with ts.use_backend("numpy") as numpy:
            assert backends.active() is numpy
            ts.use_backend("another")
            assert backends.active().name == "another"
        assert backends.active().name == "another"
        again = ts.use_backend("numpy")
        assert backends.active().name == "numpy"
        ts.use_backend("another")
        with again:
            assert backends.active().name == "numpy"
        assert backends.active().name == "another"

    alone(run)


def test_the_default_backend_is_that_of_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_default", lambda: another)
    another, found = NumpyBackend(), []
    thread = threading.Thread(target=lambda: found.append(backends.of(np.ones(1))))  # it has made no tensor
    thread.start()
    thread.join()
    assert found == [another]


ERRORS = {"throw": KeyError, "stop": OSError}
SENT = st.lists(st.sampled_from(["next", "send", "close", *ERRORS]), max_size=8)


def talking(seen: list[bool]) -> Any:
    """A generator that answers what it is sent, survives KeyErrors, and notes in which mode it runs."""
    got: Any = None
    try:
        with ts.enable_grad():
            seen.append(not grad_enabled())
            got = yield "recording"
        for i in range(5):
            seen.append(grad_enabled())
            try:
                got = yield i, got
            except KeyError as error:
                got = repr(error)
        return got
    finally:
        seen.append(grad_enabled())


def said(generator: Any, what: str) -> Any:
    try:
        if what == "next":
            return next(generator)
        if what == "close":
            return generator.close()
        return generator.send("word") if what == "send" else generator.throw(ERRORS[what]("x"))
    except BaseException as error:
        return repr(error), getattr(error, "value", None)


@given(SENT, st.booleans())
def test_no_grad_on_a_generator_holds_inside_it_only(sent: list[str], outside: bool) -> None:
    seen: list[bool] = []
    usual, elsewhere, quiet = talking([]), contextvars.copy_context(), ts.no_grad()(talking)(seen)
    with ts.enable_grad() if outside else ts.no_grad():
        for what in sent:
            assert said(quiet, what) == elsewhere.run(said, usual, what)
            assert grad_enabled() is outside
        quiet.close()
        assert grad_enabled() is outside
    assert grad_enabled() and not any(seen)
    assert inspect.isgeneratorfunction(ts.no_grad()(talking))


async def answers(seen: list[bool]) -> Any:
    """`talking`, as an asynchronous generator."""
    generator = talking(seen)
    step: Any = lambda: next(generator)
    try:
        while True:
            await asyncio.sleep(0)
            try:
                out = step()
            except StopIteration:
                return
            try:
                got = yield out
                step = lambda got=got: generator.send(got)
            except Exception as error:
                step = lambda error=error: generator.throw(error)
    finally:
        await asyncio.sleep(0)
        generator.close()


async def awaited(generator: Any, what: str) -> Any:
    try:
        if what in ("next", "send"):
            return await generator.asend(None if what == "next" else "word")
        return await (generator.aclose() if what == "close" else generator.athrow(ERRORS[what]("x")))
    except BaseException as error:
        return repr(error)


@given(SENT)
def test_no_grad_on_asynchronous_functions_holds_inside_them_only(sent: list[str]) -> None:
    @ts.no_grad()
    async def quiet(n: int) -> int:
        for _ in range(n):
            assert not grad_enabled()
            await asyncio.sleep(0)
        return n

    async def run() -> None:
        seen: list[bool] = []
        usual, generator = answers([]), ts.no_grad()(answers)(seen)
        for what in sent:
            assert await awaited(generator, what) == await awaited(usual, what)
            assert grad_enabled()
            assert await quiet(2) == 2
            assert grad_enabled()
        await generator.aclose()
        assert not any(seen)

    asyncio.run(run())
    assert inspect.iscoroutinefunction(quiet) and inspect.isasyncgenfunction(ts.no_grad()(answers))
    first, second = quiet(2), quiet(2)  # by hand, in one context, where no task keeps them apart
    for coroutine in (first, second, first, second):
        coroutine.send(None)
        assert grad_enabled()
    for coroutine in (first, second):
        with pytest.raises(StopIteration):
            coroutine.send(None)


# --- interrupts ------------------------------------------------------------------------------------------------------


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


# --- debug -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_debug_names_the_first_op_forwards() -> None:
    x = ts.tensor([0.0, 1.0], requires_grad=True)
    with ts.debug(), pytest.raises(FloatingPointError, match=r"in log\(float32\[2\]\), called at .*test_autograd"):
        ts.exp(ts.log(x) * 2)
    assert not np.isfinite(ts.log(x).data).all()  # outside nobody looks


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_debug_names_the_first_op_backwards() -> None:
    x = ts.tensor([0.0, 1.0], requires_grad=True)
    with ts.debug():
        y = ts.sqrt(x * 2).sum()  # its gradient at 0 is infinite
        line = test_debug_names_the_first_op_backwards.__code__.co_firstlineno + 4
        with pytest.raises(FloatingPointError, match=rf"gradient of sqrt\(float32\[2\]\), .*test_autograd.py:{line}"):
            y.backward()


def test_debug_sees_float32_become_float64() -> None:
    x = ts.tensor([1.0, 2.0])
    with ts.debug():
        x * 2.0 + np.float64(3) + math.pi
        x.astype(np.float64)
        with pytest.raises(TypeError, match=r"became float64 in multiply\(float32\[2\], float64\[2\]\), called at"):
            x * np.array([1.0, 2.0])
        with pytest.raises(TypeError, match=r"multiply\(float32\[2\], int64\[2\]\)"):
            x * ts.tensor([1, 2])
    with ts.debug():
        ts.where(x > 1, x, -math.inf)  # an infinity that was given, not made


# --- memory ----------------------------------------------------------------------------------------------------------


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


class Held:
    """Something that a function holds."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("backward", [False, True])
def test_recompute_lets_go_of_what_its_function_holds(no_collector: None, backward: bool) -> None:
    def run() -> tuple[weakref.ref[Held], Tensor]:
        held, w = Held(), leaf(2.0)
        y = ts.recompute(lambda x: x * w + 0 * id(held), leaf(1.0))
        if backward:
            y.backward()
        return weakref.ref(held), y

    held, y = run()
    assert (held() is None) == backward  # a freed graph holds its functions no longer
    del y
    assert held() is None


# Each runs once; what it holds, an attribute of x, must go with the last reference, not with the collector.
PARTS: dict[str, Callable[[Tensor], Any]] = {
    "backward": lambda x: (x * x).sum().backward(),
    "create_graph": lambda x: ts.grad((x**3).sum(), x, create_graph=True),
    "backward to be differentiated": lambda x: (x**3).sum().backward(create_graph=True),
    "grad of grad": lambda x: ts.grad(ts.grad((x**3).sum(), x, create_graph=True).sum(), x),
    "value_and_grad": lambda x: ts.value_and_grad(lambda y: (y * x).sum())(x),
    "value_and_grad of it": lambda x: ts.value_and_grad(
        lambda y: ts.value_and_grad(lambda z: (z**3 * x).sum())(y)[1].sum())(x),
    "recompute": lambda x: ts.recompute(lambda y: y * x, x).sum().backward(),
    "recompute to be differentiated": lambda x: ts.grad(ts.recompute(lambda y: y * x, x).sum(), x, create_graph=True),
    "recompute in vain": lambda x: ts.recompute(lambda y: y * x, x),
    "several outputs": lambda x: ts.unstack(x * 2)[0].backward(),
    "a definition": lambda x: ts.grad(kernel(x, x)[0].sum(), x, create_graph=True),
    "an op": lambda x: ts.op(named("own", lambda y: (y * x.data, (lambda g: g * x.data,))))(x).sum().backward(),
    "no_grad": lambda x: ts.no_grad()(lambda: x * 2)(),
    "no_grad on a generator": lambda x: [*ts.no_grad()(lambda: (yield x * 2))()],
    "no_grad on a generator that fails": lambda x: thrown(ts.no_grad()(lambda: (yield x * 2))()),
    "assignment": lambda x: (x * 2).__setitem__(0, x[1]),
    "debug": lambda x: debugged(x),
    "an error": lambda x: failing(lambda: x @ ts.ones((3, 3))),
    "an error in backward": lambda x: failing(lambda: twice(x)),
    "an error in recompute": lambda x: failing(lambda: ts.recompute(lambda y: y[9], x)),
}


def failing(fn: Callable[[], Any]) -> None:
    with pytest.raises((ValueError, RuntimeError, IndexError)):
        fn()


def debugged(x: Tensor) -> None:
    with ts.debug():
        (x * x).sum().backward()


def thrown(generator: Iterator[Tensor]) -> None:
    next(generator)
    with contextlib.suppress(KeyError):
        generator.throw(KeyError)  # type: ignore[attr-defined]


def twice(x: Tensor) -> None:
    y = ts.exp(x).sum()
    y.backward()
    y.backward()


@pytest.mark.parametrize("part", PARTS)
def test_nothing_waits_for_the_collector(no_collector: None, part: str) -> None:
    def run() -> list[weakref.ref[Any]]:
        x = leaf(1.0, 2.0)
        PARTS[part](x)
        return [weakref.ref(x), weakref.ref(x.data)]

    assert [ref() for ref in run()] == [None, None]


# --- arrays of the caller's ------------------------------------------------------------------------------------------


def refill(x: Any) -> None:
    """Other values, as legal, in the arrays and lists of numbers in nested lists, tuples and dictionaries."""
    if isinstance(x, np.ndarray):
        x[...] = 77.0 if x.dtype.kind == "f" else x.flat[-1] if x.size else 0
    elif isinstance(x, list) and x and all(isinstance(y, int) for y in x):
        x[:] = x[-1:] * len(x)
    elif isinstance(x, (list, tuple, dict)):
        for y in x.values() if isinstance(x, dict) else x:
            refill(y)


def slopes_after(fn: Callable[..., Any], args: list[Any], order: int, then: Callable[[Any], None], held: Any) -> Any:
    """The gradients of a function's Tensors, its results weighted at random; `then(held)` runs before backward."""
    xs = [x for x in args if isinstance(x, Tensor) and x.requires_grad]
    ys = [y for y in flat(fn(*args)) if y.requires_grad]
    rng = np.random.default_rng(0)
    weights = [rng.uniform(1, 2, y.shape) for y in ys]
    then(held)
    found = ts.grad(ys, xs, weights, create_graph=order == 2, allow_unused=True) if ys else []
    return [None if g is None else g.detach().numpy() for g in found]


def taken_at_the_call(make: Callable[[], tuple[Any, list[Any], Any]], order: int, name: str = "") -> None:
    """What is `held` of the arguments may be refilled once the function has been called."""
    usual, found = (slopes_after(fn, args, order, then, held) for then in (lambda held: None, refill)
                    for fn, args, held in [make()])
    for a, b in zip(usual, found, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("seed", range(100 if THOROUGH else 4))
def test_an_op_takes_arrays_as_they_are_when_it_is_called(order: int, seed: int) -> None:
    choose = Random(seed).choice
    for r in ROWS:
        if not r.smooth:
            continue
        shapes, kwargs = r.make(choose)
        operands = inputs(r, choose, shapes, ["float64"] * len(shapes), True)
        if any(isinstance(x, np.ndarray) and not x.ndim for x in operands):
            continue                            # without axes they are numbers, which nobody refills
        for which in range(len(operands)):

            def make(r: Row = r, operands: Any = operands, kwargs: Any = kwargs, which: int = which) -> Any:
                args = [leaf(x) if i == which else np.array(x) if isinstance(x, np.ndarray) else x
                        for i, x in enumerate(operands)]
                more = copy.deepcopy(kwargs)
                return functools.partial(r.fn, **more), args, [args, more]

            taken_at_the_call(make, order, r.name)


F, nn, WIDE = ts.functional, ts.nn, {"dtype": np.float64}
IDS, LENGTHS, PLACES = np.array([[1, 0, 3], [2, 2, 1]]), np.array([3, 1]), np.array([2, 2])
CHANCES, SIX = np.linspace(0.2, 0.8, 24).reshape(2, 3, 4), np.cos(np.arange(24.0)).reshape(6, 4)
REAL, WAVES = CHANCES[..., 0] > 0.4, np.sin(np.arange(24.0)).reshape(2, 3, 4)
HELD = ts.tensor(WAVES)


def module(make: Callable[[], Any], *given: Any, **more: Any) -> Any:
    """A layer as a function of the arrays that it is called with, those, and the layer's parameters."""
    ts.manual_seed(0)
    layer, n = make(), len(given)
    run = lambda *arrays: layer(*arrays[:n], **dict(zip(more, arrays[n:], strict=True)))
    return run, [*given, *more.values()], list(layer.parameters())


def function(fn: Callable[..., Any], values: Any, *given: Any) -> Any:
    """The same for a function whose first argument is a Tensor with those values."""
    x = leaf(values)
    return functools.partial(fn, x), given, [x]


CALLS: dict[str, Callable[[], Any]] = {
    "embedding": lambda: module(lambda: nn.Embedding(4, 3, **WIDE), IDS),
    "embedding with padding": lambda: module(lambda: nn.Embedding(4, 3, 1, **WIDE), IDS),
    "linear": lambda: module(lambda: nn.Linear(4, 2, **WIDE), WAVES),
    "layer_norm": lambda: module(lambda: nn.LayerNorm(4, **WIDE), WAVES),
    "rms_norm": lambda: module(lambda: nn.RMSNorm(4, **WIDE), WAVES),
    **{layer.__name__: lambda layer=layer: module(lambda: layer(4, 3, 2, bidirectional=True, **WIDE), WAVES,
                                                  lengths=LENGTHS) for layer in (nn.GRU, nn.LSTM, nn.RNN)},
    "GRU from a state": lambda: module(lambda: nn.GRU(4, 3, **WIDE), WAVES, WAVES[:1, :2, :3]),
    "Scan": lambda: module(lambda: nn.Scan(nn.GRUCell, 4, 3).to(ts.float64), WAVES, lengths=LENGTHS),
    "cell": lambda: module(lambda: nn.LSTMCell(4, 3, **WIDE), SIX[:2]),
    "MultiheadAttention": lambda: module(lambda: nn.MultiheadAttention(4, 2, **WIDE), HELD, HELD, HELD,
                                         mask=REAL),
    "encoder": lambda: module(lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, 0.0, **WIDE), 2), HELD,
                              lengths=LENGTHS),
    "decoder": lambda: module(lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 8, 0.0, **WIDE), 2), WAVES,
                              CHANCES, memory_mask=REAL),
    "language model": lambda: module(lambda: nn.LanguageModel(4, 4, 2, 2, 8, 0.0, **WIDE), IDS),
    "additive": lambda: module(lambda: nn.AdditiveAttention(4, 4, 3).to(ts.float64), HELD, HELD, REAL),
    "dot": lambda: module(lambda: nn.DotAttention(4, 4, True).to(ts.float64), HELD, HELD, REAL),
    "CRF": lambda: module(lambda: nn.CRF(4, **WIDE), HELD, IDS, lengths=LENGTHS),
    "CTC": lambda: function(lambda x, *given: nn.CTCLoss()(F.log_softmax(x), *given), WAVES, IDS[:, :1] + 1, PLACES + 1,
                            PLACES - 1),
    "cross_entropy": lambda: function(F.cross_entropy, WAVES, IDS, CHANCES[0, 0]),
    "nll_loss": lambda: function(F.nll_loss, WAVES, IDS, CHANCES[0, 0]),
    **{name: lambda name=name: function(getattr(F, name), np.sqrt(CHANCES), CHANCES) for name in (
        "mse_loss", "l1_loss", "huber_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div")},
    "mse_loss the other way round": lambda: function(lambda t, x: F.mse_loss(x, t), WAVES, CHANCES),
    "softmax": lambda: function(lambda x, mask: F.softmax(x, -1, mask), WAVES, CHANCES > 0.4),
    "attention": lambda: function(F.attention, WAVES, CHANCES, CHANCES, REAL[:, None]),
    "attention to a query": lambda: function(lambda k, q, v: F.attention(q, k, v), WAVES, WAVES, CHANCES),
    "scan": lambda: function(
        lambda w, x, lengths, mask: F.scan("rnn_tanh", x, ts.zeros((2, 4), np.float64), None, w, w, None, None, lengths,
                                           False, mask), SIX[:4], ts.tensor(WAVES), LENGTHS, CHANCES[:, 0]),
    "recompute": lambda: function(functools.partial(ts.recompute, ops.multiply), CHANCES, WAVES),
    "stack": lambda: function(lambda x, y: ts.prod(ts.stack([x, y]), 0), CHANCES, WAVES),
    "by keyword only": lambda: function(lambda x, w: ts.op(keyword_only)(x, w=w), CHANCES, WAVES),
}


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("call", CALLS)
def test_a_layer_takes_arrays_as_they_are_when_it_is_called(order: int, call: str) -> None:
    def make() -> Any:
        fn, given, leaves = CALLS[call]()
        held = [np.array(x) if isinstance(x, np.ndarray) else x for x in given]
        return (lambda *leaves: fn(*held)), leaves, held

    taken_at_the_call(make, order)


# --- copies and others -----------------------------------------------------------------------------------------------


def test_copies() -> None:
    x = leaf(1.0, 2.0)
    (x * x).sum().backward()
    deep, loaded = copy.deepcopy(x), pickle.loads(pickle.dumps(x))
    for twin in (deep, loaded):
        assert twin.requires_grad and twin.is_leaf and not np.shares_memory(twin.data, x.data)
        equal(twin, [1.0, 2.0])
    equal(deep.grad, [2.0, 4.0])
    pair = copy.deepcopy([x, x])
    assert pair[0] is pair[1]
    for make in (copy.deepcopy, pickle.dumps):
        with pytest.raises(RuntimeError, match=r"only leaves can be .*multiply.*detach"):
            make(x * 2)


def test_numpy_meets_tensors() -> None:
    x = leaf(1.0, 2.0, dtype=np.float32)
    array = np.array([3.0, 4.0], np.float32)
    for y in (array * x, x * array, array @ x, array - x, array < x, array**x):
        assert isinstance(y, Tensor)
    assert (array * x).requires_grad
    for scalar in (2, 2.0, True, np.float64(2), np.int64(2)):
        for y in (scalar * x, x + scalar, x**scalar, scalar - x, ts.maximum(x, scalar), ts.where(x > 1, x, scalar)):
            assert isinstance(y, Tensor) and y.dtype == np.float32
    for take in (np.asarray, Tensor.numpy, lambda t: np.from_dlpack(t)):
        with pytest.raises(RuntimeError, match=r"silently drop the gradient.*\.detach\(\)"):
            take(x)
    assert np.asarray(x.detach()) is x.data or np.shares_memory(np.asarray(x.detach()), x.data)
    assert np.asarray(x.detach(), dtype=np.float64).dtype == np.float64
    assert np.shares_memory(np.from_dlpack(x.detach()), x.data)


@reference
def test_dlpack_to_and_from_pytorch() -> None:
    torch = pytest.importorskip("torch")
    t = ts.tensor([[1.0, 2.0], [3.0, 4.0]])
    there = torch.from_dlpack(t)
    there[0, 0] = 7.0  # the same memory
    equal(t, [[7.0, 2.0], [3.0, 4.0]])
    back = ts.from_dlpack(torch.arange(3, dtype=torch.float64))
    assert back.dtype == np.float64
    equal(back, [0.0, 1.0, 2.0])


def test_repr() -> None:
    assert repr(ts.tensor([[1.0, 2.5], [3.0, 4.0]])) == "tensor([[1. , 2.5],\n        [3. , 4. ]])"
    assert repr(leaf(1.0)) == "tensor(1., dtype=float64, requires_grad=True)"
    assert repr(ts.tensor([1, 2])) == "tensor([1, 2])"
    assert repr(ts.tensor(True)) == "tensor(True)"
    assert repr(ts.zeros((0, 3))) == "tensor([], shape=(0, 3))"
    assert repr(ts.tensor(2.0, requires_grad=True) * 2) == "tensor(4., op=multiply)"


def test_len_iteration_bool_item() -> None:
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    assert len(x) == 2 and [row.shape for row in x] == [(2,), (2,)]
    first, _ = x
    first.sum().backward()
    equal(x.grad, [[1, 1], [0, 0]])
    assert ts.tensor([[3.0]]) and not ts.tensor(0) and ts.tensor([2.5]).item() == 2.5
    assert (int(ts.tensor(3)), float(ts.tensor(3)), [10, 20, 30][ts.tensor(1)]) == (3, 3.0, 20)
    assert x.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    for wrong, message in ((lambda: bool(x), "ambiguous"), (x.item, r"\(2, 2\)"), (lambda: len(leaf(1.0)), "0-dim"),
                           (lambda: iter(leaf(1.0)), "0-dim"), (lambda: [1][ts.tensor(0.0)], "float32"),  # type: ignore
                           (lambda: x[0].T, r"\.mT")):
        with pytest.raises((TypeError, ValueError), match=message):
            wrong()
    assert x.T.shape == (2, 2) and hash(x) != hash(first) and x in {x: 1}


def test_to_dtype_and_backend() -> None:
    x = leaf(1.0, 2.0)
    assert x.to("float32").dtype == x.to(ts.float32).dtype == np.float32 and x.to("numpy") is x
    check_grad(lambda x: x.to(ts.float64) * 2, x)
    with pytest.raises(ValueError, match="unknown backend 'nowhere'"):
        x.to("nowhere")


# --- indexing --------------------------------------------------------------------------------------------------------


@given(st.sampled_from(INDICES), st.randoms(use_true_random=False))
def test_tensors_index_as_arrays_do(index: Any, rng: Any) -> None:
    def tensors(i: Any) -> Any:
        if isinstance(i, tuple):
            return tuple(map(tensors, i))
        return ts.tensor(i) if isinstance(i, np.ndarray) and rng.random() < 0.5 else i

    array = np.arange(24.0).reshape(3, 2, 4)
    x = leaf(array)
    picked, expected = x[tensors(index)], array[index]
    equal(picked, expected)
    picked.backward(np.ones(expected.shape))
    count = np.zeros(array.shape)
    np.add.at(count, index, 1.0)
    equal(x.grad, count)


@given(st.sampled_from(INDICES))
def test_tensors_are_assigned_to_as_arrays_are(index: Any) -> None:
    array = np.arange(24.0).reshape(3, 2, 4)
    x, v = leaf(array), leaf(-1.0)
    y = x * 1.0
    before = y * y  # computed from the old values
    y[index] = v
    expected = array.copy()
    expected[index] = -1.0
    equal(y, expected)
    (before.sum() + (y * 3.0).sum()).backward()
    kept = np.ones(array.shape)
    kept[index] = 0.0
    equal(x.grad, 2 * array + 3 * kept)


def test_assignment_rebinds() -> None:
    x = ts.tensor([1.0, 2.0, 3.0])
    alias, view = x.detach(), x[:2]
    x[0] = leaf(5.0, dtype=np.float32)
    assert x.requires_grad and not x.is_leaf
    equal(alias, [1, 2, 3])
    equal(view, [1, 2])
    x[1:] = np.array([7.0, 8.0])
    assert x.dtype == np.float32
    equal(x, [5, 7, 8])
    with pytest.raises(ValueError, match=r"setitem\(x=float32\[3\], index=slice\(0, 2, None\), value=float32\[3\]\)"):
        x[0:2] = ts.ones(3)


def test_errors_name_the_op_and_the_shapes() -> None:
    x = ts.ones((2, 3))
    with pytest.raises(ValueError, match=r"^add\(a=float32\[2, 3\], b=float32\[4\]\): .*broadcast"):
        x + ts.ones(4)
    with pytest.raises(ValueError, match=r"^matmul\(a=float32\[2, 3\], b=float32\[2, 3\]\): expected .*same k"):
        x @ x
    with pytest.raises(IndexError, match=r"^getitem\(x=float32\[2, 3\], index=5\)"):
        x[5]
    with pytest.raises(TypeError, match=r"^matmul\(a=float32\[2, 3\], b=2.0\)"):
        x @ 2.0
    with pytest.raises(ValueError, match=r"^concat\(tensors=\[float32\[2, 3\], float32\[4\]\]\)"):
        ts.concat([x, ts.ones(4)])


def test_one_hot_and_ids_out_of_range() -> None:
    with pytest.raises(IndexError, match="id 3 is out of range, expected 0 <= id < 3"):
        ts.one_hot(ts.tensor([0, 3]), 3)


# --- conventions and extremes ----------------------------------------------------------------------------------------


def slopes_at(fn: Callable[..., Any], *values: Any) -> list[Any]:
    xs = [leaf(v) for v in values]
    y = fn(*xs)
    return [g.numpy() for g in ts.grad(y.sum(), xs)]


CONVENTIONS: list[tuple[str, Callable[..., Any], Callable[..., Any], tuple[Any, ...]]] = [
    ("max", lambda x: ts.max(x, 1), lambda t, x: t.amax(x, 1), ([[1.0, 3, 3], [2, 2, 2]],)),
    ("min", lambda x: ts.min(x), lambda t, x: t.amin(x), ([[1.0, 3, 1], [1, 2, 2]],)),
    ("abs", ts.abs, lambda t, x: t.abs(x), ([-1.0, 0, 2],)),
    ("sign", ts.sign, lambda t, x: t.sign(x), ([-1.0, 0, 2],)),
    ("clip", lambda x: ts.clip(x, -1.0, 1.0), lambda t, x: t.clamp(x, -1.0, 1.0), ([-1.0, 1, 2, -3, 0],)),
    ("clip", ts.clip, lambda t, *a: t.clamp(*a), ([-1.0, 1, 2, -3, 0], [-1.0] * 5, [1.0] * 5)),
    ("clip", ts.clip, lambda t, *a: t.clamp(*a), ([-1.0, 3, 9, 7, 0], [5.0] * 5, [1.0] * 5)),
    ("maximum", ts.maximum, lambda t, a, b: t.maximum(a, b), ([1.0, 2, 3], [1.0, 3, 2])),
    ("minimum", ts.minimum, lambda t, a, b: t.minimum(a, b), ([1.0, 2, 3], [1.0, 3, 2])),
    ("std", lambda x: ts.std(x, 1), lambda t, x: t.std(x, 1, correction=0), ([[2.0, 2, 2], [1, 2, 4]],)),
    ("vector_norm", ts.vector_norm, lambda t, x: t.linalg.vector_norm(x), ([0.0, 0],)),
    ("prod", lambda x: ts.prod(x, 1), lambda t, x: t.prod(x, 1), ([[0.0, 2, 3], [0, 0, 3], [0, 0, 0], [1, 2, 3]],)),
    ("pow", ts.pow, lambda t, a, b: t.pow(a, b), ([0.0, 0, 2, 0], [0.0, 2, 0, 1])),
    ("pow", lambda x: x**0, lambda t, x: x**0, ([0.0, 2],)),
    ("floor", ts.floor, lambda t, x: t.floor(x), ([1.0, 2.5],)),
    ("sort", lambda x: ts.sort(x) * np.arange(4),
     lambda t, x: t.sort(x, stable=True)[0] * t.arange(4), ([2.0, 1, 2, 1],)),
    ("sort", lambda x: ts.sort(x, descending=True) * np.arange(4),
     lambda t, x: t.sort(x, stable=True, descending=True)[0] * t.arange(4), ([2.0, 1, 2, 1],)),
    ("logsumexp", ts.logsumexp, lambda t, x: t.logsumexp(x, 0), ([-math.inf, 1.0, 1e4],)),
    ("logsumexp", ts.logsumexp, lambda t, x: t.logsumexp(x, 0), ([-1e4, -1e4],)),
    ("sigmoid", ts.sigmoid, lambda t, x: t.sigmoid(x), ([-math.inf, -1e4, -700.0, 0, 1e4],)),
    ("logaddexp", ts.logaddexp, lambda t, a, b: t.logaddexp(a, b), ([-math.inf, 1e4, 0], [0.0, -1e4, 0])),
    ("where", lambda a, b: ts.where(a > 0, a, b), lambda t, a, b: t.where(a > 0, a, b), ([-1.0, 0, 1], [4.0, 5, 6])),
]


@reference
@pytest.mark.parametrize("case", CONVENTIONS, ids=lambda c: c[0])
def test_conventions_are_pytorchs(case: Any) -> None:
    torch = pytest.importorskip("torch")
    _, ours, theirs, values = case
    xs = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
    y = theirs(torch, *xs)
    np.testing.assert_allclose(ours(*map(leaf, values)).detach().numpy(), y.detach().numpy(), rtol=1e-14)
    for got, expected in zip(slopes_at(ours, *values), torch.autograd.grad(y.sum(), xs), strict=True):
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-12)  # of logsumexp at -1e4 PyTorch's has 2e-13


@pytest.mark.parametrize("name", "max min abs sign clip maximum minimum std prod pow sort floor logsumexp".split())
def test_conventions_are_in_the_docstrings(name: str) -> None:
    text = getattr(ops, name).__doc__
    assert "gradient" in text


def test_conventions() -> None:
    """The same without PyTorch."""
    for fn, values, expected in (
        (lambda x: ts.max(x), [1.0, 3.0, 3.0], [0, 0.5, 0.5]), (ts.abs, [-2.0, 0.0, 2.0], [-1, 0, 1]),
        (lambda x: ts.clip(x, -1.0, 1.0), [-1.0, 1.0, 2.0], [1, 1, 0]), (ts.vector_norm, [0.0, 0.0], [0, 0]),
        (ts.std, [2.0, 2.0], [0, 0]), (ts.prod, [0.0, 2.0, 3.0], [6, 0, 0]), (ts.prod, [0.0, 0.0, 3.0], [0, 0, 0]),
        (lambda x: ts.maximum(x, 1.0), [0.0, 1.0, 2.0], [0, 0.5, 1]), (ts.logsumexp, [-math.inf, -math.inf], [0, 0]),
        (lambda x: ts.sort(x) * np.arange(3), [2.0, 1.0, 2.0], [1, 0, 2]), (lambda x: x**0, [0.0, 1.0], [0, 0]),
    ):
        np.testing.assert_allclose(slopes_at(fn, values)[0], expected, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extremes(dtype: Any) -> None:
    x = leaf([-math.inf, -1e4, 0.0, 1e4], dtype=dtype)
    equal(ts.sigmoid(x), [0, 0, 0.5, 1])
    equal(ts.grad(ts.sigmoid(x).sum(), x), [0, 0, 0.25, 0])
    equal(ts.logsumexp(x), 1e4)
    equal(ts.grad(ts.logsumexp(x), x), [0, 0, 0, 1])
    nothing = leaf([[-math.inf, -math.inf], [0.0, -math.inf]], dtype=dtype)
    equal(ts.logsumexp(nothing, 1), [-math.inf, 0])
    equal(ts.grad(ts.logsumexp(nothing, 1)[1], nothing), [[0, 0], [1, 0]])
    assert not np.isnan(ts.grad(ts.logsumexp(nothing, 1).sum(), nothing).data).any()
    equal(ts.erf(x), [-1, -1, 0, 1])


# --- checks that users can use ---------------------------------------------------------------------------------------


def test_check_grad_finds_what_is_wrong() -> None:
    @ts.op
    def wrong(a: Any, b: Any) -> Any:
        return a * b, (lambda g: g * b, lambda g: g * a * 1.0001)

    with pytest.raises(AssertionError, match=r"(?s)wrong: .*input 1, float64\[2\], alone: .*differs"):
        check_grad(wrong, leaf(1.0, 2.0), leaf(3.0, 4.0))

    @ts.op
    def first_order_only(x: Any) -> Any:
        raw = x.data if isinstance(x, Tensor) else x
        return namespace(x).exp(x), (lambda g: g * np.exp(raw),)

    check_grad(first_order_only, leaf(1.0, 2.0))
    with pytest.raises(AssertionError, match="gradient of first_order_only"):
        check_grad(first_order_only, leaf(1.0, 2.0), order=2)
    with pytest.raises(AssertionError, match="differs"):  # a gradient that is lost
        check_grad(lambda x: ts.exp(x.detach()), leaf(1.0))
    with pytest.raises(ValueError, match="floating-point"):
        check_grad(ts.exp, ts.tensor([1]))
    for fn in (Tensor.item, lambda x: [np.exp(x.detach().numpy())]):
        with pytest.raises(AssertionError, match="expected a Tensor or tuples of them"):
            check_grad(fn, leaf(1.0))


def test_check_shapes_finds_what_is_wrong() -> None:
    x = ts.ones((2, 3))
    check_shapes(ts.matmul, x, x.mT, shape=(2, 2), dtype=ts.float32, wrong=[(x, x)])
    check_shapes(ts.unstack, x, shape=[(3,), (3,)])
    for kwargs, message in (({"shape": (2, 2)}, r"shape \[\(2, 3\)\], expected \[\(2, 2\)\]"),
                            ({"shape": (2, 3), "dtype": ts.float64}, "dtype float32, expected float64"),
                            ({"shape": (2, 3), "wrong": [(x,)]}, "is illegal, and raised nothing")):
        with pytest.raises(AssertionError, match=message):
            check_shapes(ts.exp, x, **kwargs)
