"""Optimizers step as their papers say, and as PyTorch's do."""

import inspect
from typing import Any

import numpy as np
import pytest
from helpers.optimizers import CASES, close, every_case, leaves, make, set_grads, values
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import optim

TORCHS = ["SGD", "RMSprop", "Adam", "AdamW", "Adafactor"]
below_one = st.floats(0.5, 0.99)
decay, eps = st.sampled_from([0.0, 0.01, 0.3]), st.sampled_from([1e-8, 1e-3])
OPTIONS: dict[str, Any] = {
    "SGD": st.fixed_dictionaries({"momentum": st.just(0.0) | below_one, "weight_decay": decay, "nesterov": st.just(
        False)}) | st.fixed_dictionaries({"momentum": below_one, "weight_decay": decay, "nesterov": st.just(True)}),
    "RMSprop": st.fixed_dictionaries({"alpha": below_one, "eps": eps, "weight_decay": decay, "centered": st.booleans(),
                                      "momentum": st.just(0.0) | below_one}),
    "Adam": st.fixed_dictionaries({"betas": st.tuples(below_one, below_one), "eps": eps, "weight_decay": decay}),
    "Adafactor": st.fixed_dictionaries({
        "beta2_decay": st.floats(-1, -0.3), "eps": st.tuples(st.sampled_from([None, 1e-6]), st.floats(1e-4, 1e-2)),
        "d": st.floats(1, 3), "weight_decay": decay})}
OPTIONS["AdamW"] = OPTIONS["Adam"]


@pytest.mark.reference
@pytest.mark.parametrize("name", TORCHS)
@given(dtype=st.sampled_from(["float32", "float64"]), lr=st.floats(1e-3, 0.1), seed=st.integers(0, 999), data=st.data())
def test_fifty_steps_are_torchs(name: str, dtype: str, lr: float, seed: int, data: Any) -> None:
    """With any options, those of a second group too, a learning rate that a schedule changes, and a parameter that has
    no gradient at every other step."""
    torch = pytest.importorskip("torch")
    lr = 10 * lr if name == "Adafactor" else lr  # so that its bound, 1 / sqrt(step), is reached
    rng, options, own = np.random.default_rng(seed), data.draw(OPTIONS[name]), data.draw(OPTIONS[name])
    own |= data.draw(st.sampled_from([{}, {"lr": 0.02}]))
    ours = [p for p in leaves(rng, dtype) if p.size or name != "Adafactor"]  # PyTorch's divides by no size
    theirs = [torch.tensor(v, requires_grad=True) for v in values(ours)]
    optimizer, judge = (room([{"params": ps[:2]}, {"params": ps[2:], **own}], lr=lr, **options) for room, ps in (
        (getattr(optim, name), ours), (getattr(torch.optim, name), theirs)))
    schedule = torch.optim.lr_scheduler.LambdaLR(judge, lambda step: 1 / (1 + step / 10))
    for step in range(50):
        set_grads(rng, ours)
        ours[0].grad = None if step % 2 else ours[0].grad
        for p, t in zip(ours, theirs, strict=True):
            t.grad = None if p.grad is None else torch.tensor(p.grad.numpy())
        optimizer.lr = lr / (1 + step / 10)
        optimizer.step()
        judge.step()
        schedule.step()
    close(values(ours), [t.detach().numpy() for t in theirs])


@given(betas=st.tuples(below_one, below_one), weight_decay=decay, lr=st.floats(1e-4, 0.1), seed=st.integers(0, 999))
def test_lion_is_algorithm_2(betas: tuple[float, float], weight_decay: float, lr: float, seed: int) -> None:
    """Chen et al. 2023, in its own letters; 50 steps."""
    rng = np.random.default_rng(seed)
    ours = leaves(rng)
    thetas, ms = values(ours), [np.zeros(p.shape) for p in ours]
    optimizer = optim.Lion(ours, lr, betas, weight_decay)
    for _ in range(50):
        set_grads(rng, ours)
        for i, p in enumerate(ours):
            assert p.grad is not None
            g = p.grad.numpy()
            c = betas[0] * ms[i] + (1 - betas[0]) * g
            thetas[i] = thetas[i] - lr * (np.sign(c) + weight_decay * thetas[i])
            ms[i] = betas[1] * ms[i] + (1 - betas[1]) * g
        optimizer.step()
    close(values(ours), [np.asarray(theta) for theta in thetas])


@every_case
def test_first_step_is_the_equation(case: str) -> None:
    rng = np.random.default_rng(0)
    ours = leaves(rng)
    before, (name, o) = values(ours), CASES[case]
    set_grads(rng, ours)
    expected = []
    for p, x in zip(ours, before, strict=True):
        g, decay, eps = p.grad.numpy(), o.get("weight_decay", 0.01 if name == "AdamW" else 0), o.get("eps", 1e-8)
        size = np.sqrt(np.mean(x * x)) if x.size else 0
        if name in ("AdamW", "Adafactor", "Lion"):
            x = x * (1 - 0.1 * decay)
        else:
            g = g + decay * x
        if name == "SGD":
            expected.append(x - 0.1 * g * (1 + (o["momentum"] if o.get("nesterov") else 0)))
        elif name == "Lion":
            expected.append(x - 0.1 * np.sign(g))
        elif name == "RMSprop":  # v is a part of g^2, centered without the square of the part of g
            a = 1 - o.get("alpha", 0.99)
            expected.append(x - 0.1 * g / (np.sqrt((a - a * a * o.get("centered", False)) * g * g) + eps))
        elif name == "Adafactor":
            s = g * g
            if x.ndim > 1 and x.size:
                s = s.mean(-1, keepdims=True) * s.mean(-2, keepdims=True) / s.mean((-1, -2), keepdims=True)
            u = g / np.sqrt(s)
            rms = np.sqrt(np.mean(u * u)) if x.size else 1
            expected.append(x - max(o.get("eps", (0, 1e-3))[1], size) * 0.1 * u / max(1, rms / o.get("d", 1)))
        else:  # bias corrected, the means are g and g^2
            expected.append(x - 0.1 * g / (abs(g) + eps))
    make(case, ours).step()
    close(values(ours), [np.asarray(e) for e in expected])


@pytest.mark.parametrize("gradient", [0.0, 1e-30, 1e15])
def test_adafactor_takes_gradients_of_any_size(gradient: float) -> None:
    """Where PyTorch's, with an eps that float32 does not square, has NaN."""
    for shape in ((3, 4), (5,)):
        p = ts.ones(shape, requires_grad=True)
        optimizer = optim.Adafactor([p], eps=(1e-30, 1e-3))
        for _ in range(3):
            p.grad = ts.full(shape, gradient)
            optimizer.step()
        assert np.isfinite(p.detach().numpy()).all() and (p.detach().numpy() < 1).all() == (gradient > 0)


def test_adafactor_keeps_rows_and_columns() -> None:
    p = ts.ones((2, 30, 40), requires_grad=True)
    optimizer = optim.Adafactor([p])
    p.grad = ts.ones(p.shape)
    optimizer.step()
    assert sum(x.size for slot, x in optimizer.state[0].items() if slot != "steps") == 2 * (30 + 40)


def test_what_is_centered_is_never_below_zero() -> None:
    """Of equal gradients the mean of squares is the square of the mean, to rounding: the root has no NaN."""
    p = ts.ones(50, requires_grad=True)
    optimizer = optim.RMSprop([p], alpha=0.9, eps=1.0, centered=True)
    for _ in range(300):
        p.grad = ts.tensor(np.random.default_rng(0).standard_normal(50).astype("float32"))
        optimizer.step()
    assert np.isfinite(p.detach().numpy()).all()


def test_momentum_may_begin_and_end_later() -> None:
    """With the same steps as PyTorch: a buffer begins with the first gradient."""
    p = ts.zeros(1, requires_grad=True)
    optimizer, seen = optim.SGD([p], 1.0), []
    for momentum in (0.0, 0.5, 0.5, 0.0):
        optimizer.momentum, p.grad = momentum, ts.ones(1)
        optimizer.step()
        seen.append(p.item())
        twin = optim.SGD([ts.zeros(1, requires_grad=True)], 0.1)
        twin.load_state_dict(optimizer.state_dict())
        assert twin.momentum == momentum
    assert seen == [-1.0, -2.0, -3.5, -4.5]
    optimizer.momentum = 0.5
    twin.load_state_dict(optimizer.state_dict())


@pytest.mark.reference
@pytest.mark.parametrize("name", TORCHS)
def test_defaults_are_torchs(name: str) -> None:
    """The order of the arguments: tests/test_positions.py."""
    torch = pytest.importorskip("torch")
    ours, judge = (inspect.signature(getattr(room, name)).parameters for room in (optim, torch.optim))
    assert all(ours[k].default == judge[k].default for k in ours if k not in ("parameters", "betas"))


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_adafactor_stands_still_at_a_first_gradient_of_0(shape: tuple[int, ...]) -> None:
    """With the paper's eps too, whose square is 0 in float32."""
    p = ts.ones(shape, requires_grad=True)
    optimizer = optim.Adafactor([p], eps=(1e-30, 1e-3))
    p.grad = ts.zeros(shape)
    optimizer.step()
    assert set(p.detach().numpy().ravel()) == {1}
    p.grad = ts.ones(shape)
    optimizer.step()
    assert all(x < 1 for x in p.detach().numpy().ravel())


@pytest.mark.reference
def test_torchs_adafactor_makes_nan_of_it() -> None:
    torch = pytest.importorskip("torch")
    p = torch.ones(2, 3, requires_grad=True)
    p.grad = torch.zeros(2, 3)
    torch.optim.Adafactor([p], eps=(1e-30, 1e-3)).step()
    assert p.isnan().all()
