"""Laws of all optimizers, those that are not yet written too."""

import gc
import threading
from typing import Any

import numpy as np
import pytest
from helpers.optimizers import OPTIMIZERS, every_case, every_optimizer, leaves, make, set_grads, values
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import nn, optim


@every_case
def test_what_has_no_gradient_stands_still(case: str) -> None:
    rng = np.random.default_rng(0)
    ours = leaves(rng)
    optimizer, before = make(case, ours), values(ours)
    set_grads(rng, ours)
    ours[0].grad, ours[1].requires_grad = None, False
    optimizer.step()
    assert [np.array_equal(x, y) for x, y in zip(values(ours), before, strict=True)] == [True, True, False, True, False]
    optimizer.zero_grad()
    assert all(p.grad is None for p in ours)
    before = values(ours)
    optimizer.step()
    assert all(map(np.array_equal, values(ours), before))


def test_a_step_voids_older_graphs() -> None:
    layer = nn.Linear(2, 2)
    optimizer = optim.SGD(layer.parameters(), 0.1)
    old, loss = ts.sum(layer(ts.ones((1, 2))) ** 2), ts.sum(layer(ts.ones((1, 2))) ** 2)
    loss.backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"leaf of shape \(.*\) was written to after its use: run the forward pass"):
        old.backward()
    ts.sum(layer(ts.ones((1, 2)))).backward()


@every_case
def test_a_gradient_that_is_not_its_parameters_is_refused(case: str) -> None:
    ours = leaves(np.random.default_rng(0), "float32")
    optimizer = make(case, ours)
    for wrong, message in ((ts.zeros((1, 5)), r"parameter 1 is float32\[1, 5\] on .*, expected .* float32\[5\]"),
                           (ts.zeros(5, "float64"), r"float64\[5\]"), (np.zeros(5, "float32"), "is a ndarray")):
        set_grads(np.random.default_rng(0), ours)
        before, ours[1].grad = values(ours), wrong  # type: ignore[assignment]
        with pytest.raises(TypeError, match=message):
            optimizer.step()
        assert all(map(np.array_equal, values(ours), before)) and not any(optimizer.state)


@every_case
def test_what_used_an_array_behind_the_engines_back_sees_the_new_values(case: str) -> None:
    """As documented: a graph through the detached parameter is differentiated with what `step` wrote."""
    p, x = ts.tensor([2.0], requires_grad=True), ts.tensor([1.0], requires_grad=True)
    y = x * p.detach()
    p.grad = ts.ones(1)
    make(case, [p]).step()
    y.backward()
    assert x.grad is not None and x.grad.item() == p.item() != 2


@every_case
def test_steps_leave_nothing_for_the_garbage_collector(case: str) -> None:
    ours = leaves(np.random.default_rng(0))
    optimizer = make(case, ours)
    set_grads(np.random.default_rng(0), ours)
    optimizer.step()  # which compiles where a backend does
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            optim.clip_grad_norm_(ours, 1.0)
            optimizer.step()
            optimizer.load_state_dict(optimizer.state_dict())
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_trainings_in_threads_are_those_of_one() -> None:
    """Each its own model; and two over the same weights that take turns lose no step."""
    def train(seed: int) -> list[Any]:
        ours = leaves(np.random.default_rng(seed))
        optimizer = optim.AdamW(ours, 0.1)
        for step in range(20):
            set_grads(np.random.default_rng(step), ours)
            optim.clip_grad_norm_(ours, 1.0)
            optimizer.step()
        return values(ours)

    def in_threads(body: Any) -> None:
        threads = [threading.Thread(target=body, args=(i,)) for i in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()

    found: dict[int, Any] = {}
    in_threads(lambda i: found.update({i: train(i)}))
    for i in range(4):
        assert all(map(np.array_equal, found[i], train(i)))

    w, turn, failed = ts.zeros(100_000, requires_grad=True), threading.Lock(), []

    def shared(i: int) -> None:
        optimizer = optim.SGD([w], 1.0)
        for _ in range(10):
            with turn:
                w.grad = None
                (-w).sum().backward()
                optimizer.step()
        failed.append(len(failed))

    in_threads(shared)
    assert len(failed) == 4 and set(w.detach().tolist()) == {40.0}


@pytest.mark.parametrize("size", [1.0, 1e-4, 1e3])
@every_case
def test_float16_steps_are_float32s_rounded(case: str, size: float) -> None:
    """Of small and large gradients, and of 0."""
    ours = leaves(np.random.default_rng(0), "float16")
    judge = [ts.tensor(p.detach().astype(ts.float32), requires_grad=True) for p in ours]
    optimizers = make(case, ours, 0.01), make(case, judge, 0.01)
    for step in range(3):
        rng = np.random.default_rng(step)
        for p, q in zip(ours, judge, strict=True):
            q.data = p.detach().astype(ts.float32)      # each step from what float16 holds
            g = np.asarray(size * rng.standard_normal(p.shape) * (rng.random(p.shape) < 0.7), "float16")
            p.grad, q.grad = ts.tensor(g), ts.tensor(g.astype("float32"))
        for o in optimizers:
            o.step()
        for x, y in zip(values(ours), values(judge), strict=True):
            np.testing.assert_allclose(x, y, rtol=2e-3, atol=1e-3)


@every_optimizer
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@given(values=st.lists(st.just(0.0) | st.floats(0.1, 1.9), max_size=5), signs=st.integers(0, 31))
def test_default_settings_go_down_a_quadratic_in_every_dtype(name: str, dtype: str, values: list[float],
                                                             signs: int) -> None:
    """50 steps of sum(p^2) / 2, half of them after a save; float16's path is float32's but for its own rounding. A
    gradient may be 0."""
    begin = np.array([-v if signs >> i & 1 else v for i, v in enumerate([*values, 1.0])])

    def path(dtype: str) -> np.ndarray:
        p = ts.tensor(begin.astype(dtype), requires_grad=True)
        optimizer, seen = OPTIMIZERS[name]([p]), [p.detach().numpy().astype("float64")]
        for step in range(50):
            if step == 25:
                state, optimizer = optimizer.state_dict(), OPTIMIZERS[name]([p], 0.5)
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            (p * p / 2).sum().backward()
            optimizer.step()
            seen.append(p.detach().numpy().astype("float64"))
        assert p.dtype == dtype
        return np.array(seen)

    found = path(dtype)
    assert np.isfinite(found).all()
    losses = (found**2).sum(1)
    assert (np.diff(losses) <= 0).all() and losses[-1] < losses[0]
    half = np.finfo(dtype).eps / 2 * np.abs(begin)  # of a step's result, for each of the steps taken
    assert (abs(found - path("float32")) <= (np.arange(51)[:, None] + 1) * (half + 1e-7)).all()


def test_a_small_model_learns() -> None:
    ts.manual_seed(0)
    x = ts.random.normal((64, 3))
    target = ts.tanh(x @ ts.tensor([1.0, -2.0, 0.5]))
    model = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = optim.AdamW(model.parameters(), 0.02)
    losses = []
    for _ in range(100):
        loss = ts.mean((model(x)[:, 0] - target) ** 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.02 * losses[0]


def master(optimizer: Any) -> Any:
    return optimizer.state_dict()["0.master"].numpy().copy()


@every_optimizer
def test_steps_too_small_for_float16_add_up(name: str) -> None:
    """A thousand of them; the state that is saved in between has what float16 does not show."""
    start = np.array([1.0, -2.0, 5.0], "float16")
    half, wide = (ts.tensor(start.astype(dtype), requires_grad=True) for dtype in ("float16", "float32"))
    make: Any = OPTIMIZERS[name]
    ours, judge = make([half], 1e-5), make([wide], 1e-5)
    for step in range(1000):
        if step % 100 == 50:
            state, ours = ours.state_dict(), make([half], 0.5)
            ours.load_state_dict(state)
        for p in (half, wide):
            p.grad = ts.full(p.shape, 1.0, p.dtype)
        before = half.detach().numpy().copy()
        ours.step()
        judge.step()
        assert step or np.array_equal(before, half.detach().numpy())
    found = half.detach().numpy()
    assert found.dtype == "float16" and not np.array_equal(found, start)
    np.testing.assert_array_equal(found, wide.detach().numpy().astype("float16"))
    np.testing.assert_array_equal(master(ours), wide.detach().numpy())


@every_optimizer
def test_what_others_write_to_a_float16_parameter_counts(name: str) -> None:
    """A state that was loaded, an average that was put in: the master does not bring the old weights back."""
    p = ts.tensor(np.array([1.0, 2.0, 3.0], "float16"), requires_grad=True)
    make: Any = OPTIMIZERS[name]
    optimizer = make([p], 1e-5)
    for _ in range(2):
        p.grad = ts.ones(3, ts.float16)
        optimizer.step()
    kept = master(optimizer)
    p.data = np.array([1.0, -7.0, 3.0], "float16")
    optimizer.step()
    now = master(optimizer)
    assert now[1] == pytest.approx(-7, abs=1e-3) and abs(now - kept)[[0, 2]].max() < 1e-3
    assert (now[[0, 2]] < kept[[0, 2]]).all() and p.tolist() == [1.0, -7.0, 3.0]


@every_optimizer
def test_a_float32_gradient_of_a_float16_parameter_is_taken_as_it_is(name: str) -> None:
    """One that a loss scale was divided out of may be too small for float16."""
    half, wide = (ts.ones(3, dtype, requires_grad=True) for dtype in (ts.float16, ts.float32))
    make: Any = OPTIMIZERS[name]
    ours, judge = make([half], 1e-3), make([wide], 1e-3)
    for p in (half, wide):
        p.grad = ts.tensor(np.array([1e-9, -1e-12, 3.0], "float32"))
    ours.step()
    judge.step()
    np.testing.assert_array_equal(master(ours), wide.detach().numpy())
