"""Recomputation: the same gradients, nothing kept inside, nothing changed meanwhile unseen."""

import gc
import threading
import tracemalloc
import weakref

import numpy as np
import pytest
from helpers.tensors import equal, leaf
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import nn, random
from tinyseq.engine.tensor import Tensor
from tinyseq.testing import check_grad


def noisy(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return ts.tanh(x * w) * random.normal(2, dtype=np.float64) + b * b


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


class Held:
    """Something that a function holds."""


@given(st.lists(st.sampled_from(["argument", "closure", "array"]), min_size=3, max_size=3), st.booleans())
def test_gradients_of_any_order_reach_arguments_and_closures_alike(kinds: list[str], computed: bool) -> None:
    """Each of three operands comes as an argument, from the closure, or as an array without a gradient."""
    leaves = [ts.tensor([0.5 + i, -1.0], requires_grad=True) for i in range(3)]
    operands = [leaf * 1.5 if computed else leaf for leaf in leaves]
    operands = [x.detach() if kind == "array" else x for x, kind in zip(operands, kinds, strict=True)]
    places = [i for i, kind in enumerate(kinds) if kind != "closure"]
    wanted = [leaf for leaf, kind in zip(leaves, kinds, strict=True) if kind != "array"]

    def product(*args: ts.Tensor | np.ndarray) -> ts.Tensor:
        a, b, c = (args[places.index(i)] if i in places else x for i, x in enumerate(operands))
        return ts.tanh(ts.asarray(a) * b + ts.square(c)) * ts.asarray(b)

    def orders(y: ts.Tensor) -> list[ts.Tensor]:
        first = ts.grad(ts.sum(y), wanted, create_graph=True, retain_graph=True)
        second = ts.grad(sum((ts.sum(ts.sin(g)) for g in first), ts.zeros(())), wanted, retain_graph=True)
        return [y, *first, *second]

    args = [operands[i].data if kinds[i] == "array" else operands[i] for i in places]
    if wanted:
        for x, expected in zip(orders(ts.recompute(product, *args)), orders(product(*args)), strict=True):
            np.testing.assert_allclose(x.detach().numpy(), expected.detach().numpy(), rtol=1e-5)


def test_results_nest_arguments_have_names_and_what_is_no_tensor_is_refused() -> None:
    lstm, x = nn.LSTM(3, 4, 2), ts.random.normal((2, 5, 3))
    x.requires_grad = True
    y, (_, c) = ts.recompute(lstm, x, lengths=[5, 2])
    expected, (_, d) = lstm(x, lengths=[5, 2])
    leaves = [x, *lstm.parameters()]
    for ours, theirs in zip(ts.grad((y * y).sum() + c.sum(), leaves, create_graph=True),
                            ts.grad((expected * expected).sum() + d.sum(), leaves, create_graph=True), strict=True):
        assert np.allclose(ours.detach().numpy(), theirs.detach().numpy(), atol=1e-6)
    state = ts.tensor(2.0, requires_grad=True)
    found = ts.recompute(lambda x, *, by: [x * by, None, (x,)], x, by=state)
    assert type(found) is list and found[1] is None and type(found[2]) is tuple
    assert abs(ts.grad(found[0].sum(), state) - x.sum()).item() < 1e-5
    for wrong, said in (({"y": 1}, r"\{'y': 1\}"), (None, "None"), (3.0, "3.0"), ((x, "text"), "'text'")):
        with pytest.raises(TypeError, match=f"recompute: expected fn to return a Tensor.*, got {said}"):
            ts.recompute(lambda x, wrong=wrong: wrong, x)
