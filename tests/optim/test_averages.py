"""Averages of weights: torch's numbers, applied for a while or for good, saved and gone on with."""

import os
import signal
from typing import Any

import numpy as np
import pytest
from helpers.interrupts import Interrupt, stopped
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import checkpoint, nn, optim

KINDS = {"EMA": lambda model: optim.EMA(model, 0.75), "warm": lambda model: optim.EMA(model, 0.75, warmup=True),
         "SWA": optim.SWA}
every_kind = pytest.mark.parametrize("kind", KINDS)
STRIDE = 5 if os.environ.get("TINYSEQ_TEST_PROFILE") == "emulated" else 1


class Model(nn.Module):
    """Two layers, one frozen, a shared weight, and a buffer that moves."""

    def __init__(self, dtype: Any = np.float32) -> None:
        ts.manual_seed(0)
        self.first, self.last = nn.Linear(2, 3, dtype=dtype), nn.Linear(2, 3, dtype=dtype).requires_grad_(False)
        self.again, self.mean, self.scale = self.first, nn.Buffer(ts.zeros(2)), nn.Parameter(ts.ones((), dtype))


def train(model: Model, step: int) -> None:
    rng = np.random.default_rng(step)
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.detach() + ts.tensor(rng.standard_normal(p.shape).astype(p.dtype) / 8)
    model.mean = model.mean + 1


def weights(model: nn.Module) -> dict[str, Any]:
    return {k: v.numpy().copy() for k, v in model.state_dict().items()}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k]) for k in a)


def averaged(average: Any) -> dict[str, Any]:
    return {k: v.numpy() for k, v in average.values.items()}


@pytest.mark.reference
@pytest.mark.parametrize("kind", ["EMA", "SWA"])
@given(dtype=st.sampled_from(["float32", "float64"]), steps=st.integers(0, 6), decay=st.sampled_from([0.0, 0.4, 0.99]))
def test_averages_are_torchs(kind: str, dtype: str, steps: int, decay: float) -> None:
    torch = pytest.importorskip("torch")
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    model = nn.Linear(3, 2, dtype=dtype)
    other = torch.nn.Linear(3, 2, dtype=getattr(torch, dtype))
    average = optim.EMA(model, decay) if kind == "EMA" else optim.SWA(model)

    def follow() -> None: other.load_state_dict({k: torch.tensor(v) for k, v in weights(model).items()})

    follow()
    judge = AveragedModel(other, multi_avg_fn=get_ema_multi_avg_fn(decay) if kind == "EMA" else None)
    for step in range(steps):
        for p in model.parameters():
            p.data = np.random.default_rng(step).standard_normal(p.shape)
        follow()
        average.update()
        judge.update_parameters(other)
    for name, p in judge.module.named_parameters():
        got = average.values[name].numpy()
        assert got.dtype == dtype
        np.testing.assert_allclose(got, p.detach().numpy(), rtol=0, atol=1e-12 if dtype == "float64" else 1e-6)


@every_kind
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_an_average_is_its_formula_in_float32_at_least(kind: str, dtype: str) -> None:
    model = Model(dtype)
    average = KINDS[kind](model)
    expected: Any = None
    for n in range(8):
        train(model, n)
        average.update()
        now = weights(model)["first.weight"].astype("float64")
        keep = {"EMA": 0.75, "warm": min(0.75, (1 + n) / (10 + n)), "SWA": n / (n + 1)}[kind]
        expected = now if expected is None else keep * expected + (1 - keep) * now
    wide = "float64" if dtype == "float64" else "float32"
    assert all(v.dtype == wide for v in average.values.values()) and average.updates == 8
    np.testing.assert_allclose(average.values["first.weight"].numpy(), expected, rtol=0, atol=1e-6)
    assert not same(weights(model), averaged(average)) and "mean" not in average.values


def test_an_average_of_float16_sees_what_is_less_than_its_digits() -> None:
    p = nn.Linear(1, 1, bias=False, dtype="float16")
    average = optim.EMA(p, 0.999)
    for weight in (1.0, 1.001):
        p.weight.data = [[weight]]
        average.update()
    assert 1 < average.values["weight"].item() < 1.00001     # float16's next is 1.00098


@every_kind
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_inside_is_the_average_and_after_are_the_own_weights(kind: str, dtype: str) -> None:
    model = Model(dtype)
    average = KINDS[kind](model)
    for n in range(3):
        train(model, n)
        average.update()
    train(model, 9)
    own, wanted = weights(model), {k: v.astype(dtype) for k, v in averaged(average).items()}
    model.scale.grad = ts.ones((), dtype)

    def check() -> None:
        inside = weights(model)
        assert all(np.array_equal(inside[k], v) for k, v in wanted.items()) and inside["mean"].tolist() == [4, 4]
        assert model.first.weight.dtype == dtype

    with average.applied():
        check()
        with average.applied():
            check()
        check()
        model.first.weight.data[...] = 0                    # writes into a copy
    assert same(weights(model), own) and model.scale.grad is not None
    with pytest.raises(ZeroDivisionError), average.applied():
        check()
        raise ZeroDivisionError
    assert same(weights(model), own)
    optimizer = optim.SGD([model.scale], lr=1.0)            # made before or after, it steps the model's own
    optimizer.step()
    assert model.scale.item() == np.asarray(own["scale"] - 1).item()
    average.apply()
    check()
    before = averaged(average)["scale"].copy()
    model.scale.grad = ts.ones((), dtype)
    optimizer.step()
    assert averaged(average)["scale"] == before             # the model has copies


def test_a_graph_from_before_is_void() -> None:
    model, average = (m := nn.Linear(2, 1)), optim.SWA(m)
    loss = ts.sum(model(ts.ones((1, 2), requires_grad=True)))
    with average.applied():
        pass
    with pytest.raises(RuntimeError, match="written to after its use"):
        loss.backward()


@pytest.mark.parametrize("kind", ["EMA", "SWA"])
def test_an_interrupt_at_any_line_leaves_the_models_own_weights(kind: str) -> None:
    """And after an update or a use for good, all of the one or of the other."""
    at = 0
    while True:
        model = Model()
        average = KINDS[kind](model)
        train(model, 0)
        average.update()
        train(model, 1)
        own = weights(model)

        def evaluate(average: Any = average) -> None:
            with average.applied():
                pass

        done = Interrupt(at).run(evaluate)
        assert same(weights(model), own)
        if done:
            break
        at += STRIDE
    assert at > 10


@pytest.mark.parametrize("act", ["update", "apply", "load"])
def test_a_signal_at_any_line_is_before_or_after(act: str) -> None:
    def made() -> tuple[Model, Any, Any]:
        model = Model()
        average = optim.EMA(model, 0.5)
        for n in range(2):
            train(model, n)
            average.update()
        train(model, 2)
        state = optim.EMA(Model(), 0.25).state_dict()
        acts = {"update": average.update, "apply": average.apply, "load": lambda: average.load_state_dict(state)}
        return model, average, acts[act]

    def everything(model: Model, average: Any) -> dict[str, Any]:
        numbers = {"updates": np.array(average.updates), "decay": np.array(average.decay)}
        return weights(model) | {f"average {k}": v.copy() for k, v in averaged(average).items()} | numbers

    model, average, action = made()
    before = everything(model, average)
    action()
    after = everything(model, average)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for at in range(1, 10**6, STRIDE):
            model, average, action = made()
            came = stopped(action, at, lambda: signal.raise_signal(signal.SIGINT))
            assert same(now := everything(model, average), before) or same(now, after)
            if not came:
                break
    finally:
        signal.signal(signal.SIGINT, handler)


@every_kind
def test_a_saved_average_goes_on_identically(kind: str, tmp_path: Any) -> None:
    def run(steps: range, model: Model, average: Any) -> None:
        for n in steps:
            train(model, n)
            average.update()

    whole, part = Model("float16"), Model("float16")
    one, two = KINDS[kind](whole), KINDS[kind](part)
    run(range(5), whole, one)
    run(range(2), part, two)
    checkpoint.save(tmp_path / "a.safetensors", {"model": part.state_dict(), "average": two.state_dict()})
    state, again = checkpoint.load(tmp_path / "a.safetensors"), Model("float16")
    again.load_state_dict(state["model"])
    other = optim.EMA(again) if kind != "SWA" else optim.SWA(again)
    other.load_state_dict(state["average"])
    run(range(2, 5), again, other)
    assert same(weights(again), weights(whole)) and same(averaged(other), averaged(one))
    assert repr(other) == repr(one)
    assert not any(np.shares_memory(v.numpy(), state["average"]["values"][k]) for k, v in other.values.items())


def test_a_wrong_state_loads_nothing() -> None:
    ema, swa, small = optim.EMA(Model(), 0.5), optim.SWA(Model()), optim.EMA(nn.Linear(2, 3))
    before, state = averaged(ema), ema.state_dict()
    values = state["values"]
    wrong: list[tuple[Any, Any, str]] = [
        (swa.state_dict(), ValueError, "this is the state of SWA, expected one of EMA"),
        (optim.LossScaler().state_dict(), ValueError, "the state of no average"),
        (small.state_dict(), KeyError, "missing .*first.weight.*unexpected .*'weight'"),
        ({k: v for k, v in state.items() if k != "decay"}, KeyError, "missing .*decay"),
        (state | {"more": 1}, KeyError, "unexpected .*more"),
        (state | {"updates": -1}, ValueError, "updates"), (state | {"decay": 2.0}, ValueError, "decay"),
        (state | {"warmup": 3}, ValueError, "warmup"), (state | {"values": 3}, TypeError, "values"),
        (state | {"values": values | {"scale": np.ones(2)}}, ValueError, "wrong shapes: scale"),
        ([], TypeError, "state")]
    for given_, error, says in wrong:
        with pytest.raises(error, match=f"EMA.*{says}"):
            ema.load_state_dict(given_)
    assert same(averaged(ema), before) and ema.decay == 0.5


def test_wrong_calls_are_named() -> None:
    for decay, error in ((1.5, ValueError), (-0.1, ValueError), ("0.9", TypeError), (True, TypeError)):
        with pytest.raises(error, match="EMA: expected a number 0 <= decay <= 1"):
            optim.EMA(nn.Linear(2, 2), decay)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="EMA: expected warmup to be one of True, False, got 5"):
        optim.EMA(nn.Linear(2, 2), warmup=5)  # type: ignore[arg-type]
    for cls in (optim.EMA, optim.SWA):
        with pytest.raises(TypeError, match=f"{cls.__name__}: expected model to be a Module, got "):
            cls(nn.Linear(2, 2).parameters())


@pytest.mark.reference
def test_buffers_are_the_models_as_in_torch() -> None:
    torch = pytest.importorskip("torch")
    from torch.optim.swa_utils import AveragedModel

    theirs = torch.nn.BatchNorm1d(2)
    judge = AveragedModel(theirs)
    for value in (1.0, 3.0):
        theirs.running_mean.fill_(value)
        judge.update_parameters(theirs)
    assert judge.module.running_mean.tolist() == [3.0, 3.0]
    model = Model()
    average = optim.SWA(model)
    for value in (1.0, 3.0):
        model.mean = ts.full(2, value)
        average.update()
    with average.applied():
        assert model.mean.tolist() == [3.0, 3.0]
