"""Interrupts, at every line and at any moment: what they find is whole, and training goes on."""

import itertools
import os
import random
import signal
import threading
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.interrupts import stopped

import tinyseq as ts
from tinyseq import interrupts, nn, optim
from tinyseq.interrupts import together, uninterrupted

THOROUGH = os.environ.get("TINYSEQ_TEST_PROFILE") == "thorough"
STRIDE = 17 if os.environ.get("TINYSEQ_TEST_PROFILE") == "emulated" else 1     # a line costs a training there
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "SGD": lambda p: optim.SGD(p, 0.1), "Nesterov": lambda p: optim.SGD(p, 0.1, 0.9, nesterov=True),
    "AdamW": lambda p: optim.AdamW(p, 0.1)}


@pytest.fixture(autouse=True)
def handlers_stay() -> Any:
    """Ctrl-C raises KeyboardInterrupt, before each test and after it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def at_every_line(make: Callable[[], tuple[Callable[[], Any], Callable[[bool], Any]]], opcodes: bool = THOROUGH) -> int:
    """`make()` gives an action and a check, which hears whether Ctrl-C came at all; how many lines there were."""
    for at in itertools.count(1, STRIDE):
        action, check = make()
        came = stopped(action, at, lambda: signal.raise_signal(signal.SIGINT), opcodes)
        check(came)
        if not came:
            return at - 1
    raise AssertionError


def model_and_optimizer(name: str, steps: int) -> Any:
    ts.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    optimizer = OPTIMIZERS[name](model.parameters())
    for _ in range(steps):
        backward(model)
        optimizer.step()
    backward(model)
    return model, optimizer


def backward(model: Any) -> None:
    model.zero_grad()
    ts.sum(model(ts.ones((4, 2))) ** 2).backward()


def everything(model: Any, optimizer: Any) -> dict[str, Any]:
    """Weights, gradients, and what the optimizer keeps."""
    grads = {f"grad {i}": None if p.grad is None else p.grad for i, p in enumerate(model.parameters())}
    found = model.state_dict() | grads | optimizer.state_dict()
    return {k: np.array(v.numpy()) if isinstance(v, ts.Tensor) else v for k, v in found.items()}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        np.array_equal(a[k], b[k]) if isinstance(a[k], np.ndarray) else a[k] == b[k] for k in a)


def acts(optimizer: Any) -> dict[str, Callable[[], Any]]:
    return {"step": optimizer.step, "clip": lambda: optim.clip_grad_norm_(optimizer.parameters, 0.01)}


def trains_on(model: Any, optimizer: Any) -> None:
    backward(model)
    optim.clip_grad_norm_(model.parameters(), 1.0)
    before = everything(model, optimizer)
    optimizer.step()
    after = everything(model, optimizer)
    assert all(not np.array_equal(before[k], after[k]) for k in model.state_dict())


@pytest.mark.parametrize("act, name, steps", [("step", "SGD", 1), ("step", "Nesterov", 0), ("step", "AdamW", 2),
                                              ("clip", "AdamW", 0)])
def test_an_update_is_all_or_nothing_whatever_line_ctrl_c_comes_at(act: str, name: str, steps: int) -> None:
    model, optimizer = model_and_optimizer(name, steps)
    old = everything(model, optimizer)
    acts(optimizer)[act]()
    new = everything(model, optimizer)
    seen = []

    def make() -> Any:
        model, optimizer = model_and_optimizer(name, steps)

        def check(came: bool) -> None:
            found = everything(model, optimizer)
            seen.append(same(found, new))
            assert same(found, new) or (came and same(found, old))
            trains_on(model, optimizer)

        return acts(optimizer)[act], check

    assert at_every_line(make) > 30
    assert seen == sorted(seen) and not seen[0]     # first the old state stands, then the interrupt has waited


@pytest.mark.parametrize("act", ["step", "clip"])
def test_an_error_at_any_line_of_an_update_leaves_a_model_that_trains_on(act: str) -> None:
    """What no signal brings, such as a debugger that is quit, does not wait."""
    def stop() -> None:
        raise KeyboardInterrupt

    for at in itertools.count(1, STRIDE):
        model, optimizer = model_and_optimizer("AdamW", 1)
        came = stopped(acts(optimizer)[act], at, stop, THOROUGH, but="tinyseq.interrupts")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        trains_on(model, optimizer)
        if not came:
            break


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGALRM])
def test_an_update_is_all_or_nothing_whenever_a_signal_comes(number: int) -> None:
    """At random moments of steps over arrays of several pieces, of which all entries are to stay alike."""
    w = [ts.tensor(np.ones(n, "float32"), requires_grad=True) for n in (5, 200_000, 7)]
    for p in w:
        p.grad = ts.ones(p.shape)
    optimizer, rng = optim.AdamW(w, 0.01), random.Random(0)
    before = signal.signal(number, signal.default_int_handler)
    try:
        optimizer.step()
        for _ in range(3000 if THOROUGH else 50):
            timer = threading.Timer(rng.uniform(0, 0.006), os.kill, (os.getpid(), number))
            with pytest.raises(KeyboardInterrupt):
                timer.start()
                while True:
                    optimizer.step()
            timer.join()
            for arrays in ([p.data for p in w], *([s[k] for s in optimizer.state] for k in ("m", "v", "steps"))):
                assert len(np.unique(np.concatenate([np.ravel(a) for a in arrays]))) == 1
    finally:
        signal.signal(number, before)


# --- writing to tensors
@ts.enable_grad()
def written(write: Callable[[Any], Any]) -> Any:
    """A leaf that is written to: graphs are right before and after, of first and second order."""
    w = ts.tensor([2.0, 3.0, 5.0], requires_grad=True)
    graph = ts.sum(w**3)

    @ts.enable_grad()
    def check(came: bool) -> None:
        changed = w.detach().tolist() != [2.0, 3.0, 5.0]
        assert changed or came
        if changed:
            with pytest.raises(RuntimeError, match="written"):
                ts.grad(graph, w)
        slope = ts.grad(ts.sum(w**3), w, create_graph=True)
        np.testing.assert_allclose(slope.detach().numpy(), 3 * w.detach().numpy() ** 2)
        np.testing.assert_allclose(ts.grad(ts.sum(slope), w).numpy(), 6 * w.detach().numpy())

    return lambda: write(w), check


def put(x: Any) -> None:
    x[1] = 7.0


def add(x: Any) -> None:
    x += 7.0


def replace(x: Any) -> None:
    x.data = np.array([1, 2, 3], x.dtype)


@pytest.mark.parametrize("write", [put, add, replace])
def test_a_leaf_holds_what_its_node_says_whatever_line_ctrl_c_comes_at(write: Callable[[Any], Any]) -> None:
    with ts.no_grad():
        assert at_every_line(lambda: written(write), opcodes=True) > 30


def test_a_leaf_that_is_told_of_a_write_is_never_void_itself() -> None:
    def make() -> Any:
        w = ts.tensor([2.0], requires_grad=True)
        graph = w * 2

        def check(came: bool) -> None:
            ts.grad(w * 2, w)
            if not came:
                with pytest.raises(RuntimeError, match="written"):
                    ts.grad(graph, w)

        return w.written, check

    assert at_every_line(make, opcodes=True) > 10


def test_an_assignment_to_a_computed_tensor_has_its_gradient_or_did_not_happen() -> None:
    def make() -> Any:
        w = ts.tensor([2.0, 3.0], requires_grad=True)
        x = w * 2

        def check(came: bool) -> None:
            assert came or x.detach().tolist() == [4.0, 7.0]
            expected = {(4.0, 6.0): [2, 2], (4.0, 7.0): [2, 0]}[tuple(x.detach().tolist())]
            assert ts.grad(ts.sum(x), w).tolist() == expected

        return lambda: put(x), check

    assert at_every_line(make, opcodes=True) > 30


@pytest.mark.parametrize("target", ["float64", "float16"])
def test_a_module_is_converted_whole_or_not_at_all(target: str) -> None:
    def make() -> Any:
        model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        backward(model)

        def check(came: bool) -> None:
            kinds = {(str(p.dtype), p.grad is None) for p in model.parameters()}
            assert kinds == {(target, True)} or (came and kinds == {("float32", False)})

        return lambda: model.to(target), check

    assert at_every_line(make) > 30


def test_loaded_weights_are_each_old_or_new() -> None:
    new = nn.Linear(2, 3).state_dict()

    def make() -> Any:
        model = nn.Linear(2, 3)
        old, graph = {k: np.array(v.numpy()) for k, v in model.state_dict().items()}, model(ts.ones((1, 2)))

        def check(came: bool) -> None:
            found = {k: v.numpy() for k, v in model.state_dict().items()}
            assert all(np.array_equal(x, new[k].numpy()) or (came and np.array_equal(x, old[k]))
                       for k, x in found.items())
            if not same(found, old):
                with pytest.raises(RuntimeError, match="written"):
                    ts.sum(graph).backward()
            backward(model)

        return lambda: model.load_state_dict(new), check

    assert at_every_line(make) > 20


def test_an_optimizers_state_is_loaded_whole_or_not_at_all() -> None:
    state = model_and_optimizer("AdamW", 3)[1].state_dict() | {"lr": 0.7, "betas": [0.5, 0.6]}

    def make() -> Any:
        model, optimizer = model_and_optimizer("AdamW", 1)
        old = everything(model, optimizer)

        def check(came: bool) -> None:
            found = everything(model, optimizer)
            assert (came and same(found, old)) or (found["lr"] == 0.7 and found["betas"] == (0.5, 0.6) and all(
                np.array_equal(found[k], np.array(v.numpy()) if isinstance(v, ts.Tensor) else v)
                for k, v in state.items() if k[0].isdigit()))

        return lambda: optimizer.load_state_dict(state), check

    assert at_every_line(make) > 50


# --- the ways to be whole
def test_handlers_wait_for_the_end_and_then_run_as_they_would() -> None:
    calls: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: calls.append(number))
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGUSR1)
            with uninterrupted():
                signal.raise_signal(signal.SIGUSR1)
            assert not calls
        assert calls == [signal.SIGUSR1] * 2
        signal.raise_signal(signal.SIGUSR1)
        assert len(calls) == 3
        with pytest.raises(KeyboardInterrupt), uninterrupted():
            signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGINT)
            calls.append(-1)
        assert len(calls) == 5 and calls[-2] == -1
        with pytest.raises(ZeroDivisionError), uninterrupted():
            raise ZeroDivisionError
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_of_several_that_raise_none_is_lost() -> None:
    def end(number: int, frame: Any) -> None:
        raise SystemExit(3)

    before = signal.signal(signal.SIGTERM, end)
    try:
        for first, second, seen, context in ((signal.SIGTERM, signal.SIGINT, KeyboardInterrupt, SystemExit),
                                             (signal.SIGINT, signal.SIGTERM, SystemExit, KeyboardInterrupt)):
            with pytest.raises(seen) as error, uninterrupted():
                signal.raise_signal(first)
                signal.raise_signal(second)
            assert type(error.value.__context__) is context
            assert signal.getsignal(signal.SIGTERM) is end
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_handler_that_is_back_and_raises_before_the_others_are_leaves_none_deaf(monkeypatch: Any) -> None:
    calls: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: calls.append(number))

    def replace(number: int, handler: Any) -> Any:
        calls.append(number)
        if calls == [signal.SIGINT, signal.SIGUSR1, signal.SIGINT, signal.SIGUSR1]:
            raise KeyboardInterrupt
        return signal.signal(number, handler)

    try:
        monkeypatch.setattr(interrupts, "_signal", SimpleNamespace(signal=replace, getsignal=signal.getsignal))
        with pytest.raises(KeyboardInterrupt), uninterrupted():
            pass
        assert len(calls) == 4
        signal.raise_signal(signal.SIGUSR1)
        assert len(calls) == 5
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_threads_have_nothing_to_hold_back() -> None:
    def body() -> None:
        with uninterrupted():
            entered.set()
            leave.wait(10)

    entered, leave = threading.Event(), threading.Event()
    thread = threading.Thread(target=body)
    thread.start()
    assert entered.wait(10)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    leave.set()
    thread.join()


@pytest.mark.parametrize("handled", [[signal.SIGINT], [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]])
def test_a_signal_at_any_step_of_the_holding_back_itself_is_heard_and_leaves_what_was(handled: list[int]) -> None:
    heard: list[bool] = []

    def handler(number: int, frame: Any) -> None:
        heard.append(True)
        raise KeyboardInterrupt

    before = [signal.signal(n, handler) for n in handled]
    try:
        for number in handled:
            for at in itertools.count(1):
                heard.clear()
                came = stopped(hold, at, partial(signal.raise_signal, number), opcodes=True)
                assert heard == [True] * came
                assert [signal.getsignal(n) for n in handled] == [handler] * len(handled)
                if not came:
                    break
    finally:
        for n, old in zip(handled, before, strict=True):
            signal.signal(n, old)


def hold() -> None:
    with uninterrupted():
        pass


def test_together_is_all_or_nothing() -> None:
    class Pair:
        a = b = 0

    def make() -> Any:
        pair = Pair()

        def check(came: bool) -> None:
            assert (pair.a, pair.b) in [(1, 2), (0, 0)][: 1 + came]

        return lambda: together((pair, "a", 1), (pair, "b", 2)), check

    assert at_every_line(make, opcodes=True) > 3
