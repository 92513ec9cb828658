"""Optimizers step as PyTorch's do, skip what has no gradient, and go on from a saved state."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import nn, optim

SHAPES = [(3, 4), (5,), (), (0, 2)]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("SGD", {}), "momentum": ("SGD", {"momentum": 0.9}),
    "Nesterov": ("SGD", {"momentum": 0.8, "nesterov": True}),
    "SGD decay": ("SGD", {"momentum": 0.9, "weight_decay": 0.1}), "Adam": ("Adam", {}),
    "Adam decay": ("Adam", {"betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    "AdamW": ("AdamW", {}), "AdamW decay": ("AdamW", {"weight_decay": 0.3})}
every_case = pytest.mark.parametrize("case", CASES)


def make(case: str, parameters: Any, lr: float = 0.1) -> Any:
    name, options = CASES[case]
    return getattr(optim, name)(parameters, lr, **options)


def leaves(rng: np.random.Generator, dtype: str = "float64") -> list[ts.Tensor]:
    return [ts.tensor(rng.standard_normal(s).astype(dtype), requires_grad=True) for s in SHAPES]


def set_grads(rng: np.random.Generator, parameters: Any) -> None:
    for p in parameters:
        p.grad = ts.tensor(rng.standard_normal(p.shape).astype(p.dtype))


def values(parameters: Any) -> list[Any]:
    return [p.detach().numpy().copy() for p in parameters]


def close(got: Any, expected: Any) -> None:
    for x, y in zip(got, expected, strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype
        scale = np.abs(y).max(initial=0.1)
        np.testing.assert_allclose(x, y, rtol=0, atol=scale * (1e-10 if y.dtype == "float64" else 1e-5))


@pytest.mark.reference
@every_case
@given(dtype=st.sampled_from(["float32", "float64"]), steps=st.integers(1, 5), seed=st.integers(0, 999))
def test_steps_are_torchs(case: str, dtype: str, steps: int, seed: int) -> None:
    """With a learning rate that changes, and a parameter that has no gradient at every other step."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    ours = leaves(rng, dtype)
    theirs = [torch.tensor(v, requires_grad=True) for v in values(ours)]
    optimizer, judge = make(case, ours), getattr(torch.optim, CASES[case][0])(theirs, 0.1, **CASES[case][1])
    for step in range(steps):
        set_grads(rng, ours)
        ours[0].grad = None if step % 2 else ours[0].grad
        for p, t in zip(ours, theirs, strict=True):
            t.grad = None if p.grad is None else torch.tensor(p.grad.numpy())
        optimizer.lr = judge.param_groups[0]["lr"] = 0.1 / (1 + step)
        optimizer.step()
        judge.step()
    close(values(ours), [t.detach().numpy() for t in theirs])


@every_case
def test_first_step_is_the_equation(case: str) -> None:
    rng = np.random.default_rng(0)
    ours = leaves(rng)
    before, (name, o) = values(ours), CASES[case]
    set_grads(rng, ours)
    expected = []
    for p, x in zip(ours, before, strict=True):
        g, decay = p.grad.numpy(), o.get("weight_decay", 0.01 if name == "AdamW" else 0)
        if name == "AdamW":
            x = x * (1 - 0.1 * decay)
        else:
            g = g + decay * x
        if name == "SGD":
            expected.append(x - 0.1 * g * (1 + (o["momentum"] if o.get("nesterov") else 0)))
        else:  # bias corrected, the means are g and g^2
            expected.append(x - 0.1 * g / (abs(g) + o.get("eps", 1e-8)))
    make(case, ours).step()
    close(values(ours), [np.asarray(e) for e in expected])


@every_case
def test_what_has_no_gradient_stands_still(case: str) -> None:
    rng = np.random.default_rng(0)
    ours = leaves(rng)
    optimizer, before = make(case, ours), values(ours)
    set_grads(rng, ours)
    ours[0].grad, ours[1].requires_grad = None, False
    optimizer.step()
    assert [np.array_equal(x, y) for x, y in zip(values(ours), before, strict=True)] == [True, True, False, True]
    optimizer.zero_grad()
    assert all(p.grad is None for p in ours)
    before = values(ours)
    optimizer.step()
    assert all(map(np.array_equal, values(ours), before))


@every_case
def test_a_saved_state_goes_on_identically(case: str) -> None:
    def run(steps: range, optimizer: Any, parameters: Any) -> None:
        for step in steps:
            set_grads(np.random.default_rng(step), parameters)
            parameters[2].grad = None if step < 2 else parameters[2].grad
            optimizer.step()

    whole, first = leaves(np.random.default_rng(9), "float32"), leaves(np.random.default_rng(9), "float32")
    run(range(5), make(case, whole), whole)
    optimizer = make(case, first)
    run(range(3), optimizer, first)
    state = {k: v.numpy().copy() if isinstance(v, ts.Tensor) else v for k, v in optimizer.state_dict().items()}
    second = [ts.tensor(p.detach(), requires_grad=True) for p in first]
    again = make(case, second, lr=99.0)
    again.load_state_dict(state)
    assert again.lr == 0.1 and [s["steps"] for s in again.state] == [3, 3, 1, 3]
    run(range(3, 5), again, second)
    assert all(map(np.array_equal, values(second), values(whole)))


def test_a_wrong_state_loads_nothing() -> None:
    rng = np.random.default_rng(0)
    ours, adam = leaves(rng), optim.Adam(leaves(rng), 0.5)
    set_grads(rng, adam.parameters)
    adam.step()
    sgd = optim.SGD(ours, 0.1, momentum=0.9)
    with pytest.raises(KeyError, match=r"SGD: .* another optimizer, unexpected \['0.m', '0.v'"):
        sgd.load_state_dict(adam.state_dict())
    other = optim.Adam([ts.tensor(np.zeros((3, 4)), requires_grad=True), ts.zeros(4, requires_grad=True), *ours[2:]])
    with pytest.raises(ValueError, match=r"Adam: wrong shapes: 1.m: \(5,\) given, \(4,\) here; 1.v"):
        other.load_state_dict(adam.state_dict())
    assert sgd.lr == 0.1 and other.lr == 0.001 and not any(other.state)


def test_a_step_voids_older_graphs() -> None:
    layer = nn.Linear(2, 2)
    optimizer = optim.SGD(layer.parameters(), 0.1)
    old, loss = ts.sum(layer(ts.ones((1, 2))) ** 2), ts.sum(layer(ts.ones((1, 2))) ** 2)
    loss.backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"leaf of shape \(.*\) was written to after its use: run the forward pass"):
        old.backward()
    ts.sum(layer(ts.ones((1, 2)))).backward()


def test_wrong_optimizers_are_named() -> None:
    p = ts.zeros(2, requires_grad=True)
    for make, kind, message in (
        (lambda: optim.SGD([]), ValueError, "SGD: no parameters"), (lambda: optim.Adam([p, p]), ValueError, "twice"),
        (lambda: optim.Adam([p, p * 2]), TypeError, "parameter 1"),
        (lambda: optim.AdamW(["w"]), TypeError, "AdamW: parameter 0 is a str"),
        (lambda: optim.Adam(nn.Linear(2, 2)), TypeError, r"Adam: .* got a Linear: pass its .parameters\(\)"),
        (lambda: optim.Adam(nn.Linear(2, 2).named_parameters()), TypeError, r"0 is a tuple.*module's .parameters\(\)"),
        (lambda: optim.SGD([p], nesterov=True), ValueError, "nesterov needs momentum"),
    ):
        with pytest.raises(kind, match=message):
            make()


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


@pytest.mark.reference
@given(max_norm=st.sampled_from([0.1, 1.0, 100.0]), seed=st.integers(0, 999))
def test_clipping_is_torchs(max_norm: float, seed: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    ours = leaves(rng)
    set_grads(rng, ours[1:])
    theirs = [torch.tensor(v, requires_grad=True) for v in values(ours)]
    for p, t in zip(ours[1:], theirs[1:], strict=True):
        t.grad = torch.tensor(p.grad.numpy().copy())
    norm = optim.clip_grad_norm_((p for p in ours), max_norm)
    assert isinstance(norm, ts.Tensor) and norm.shape == ()
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    close([norm.numpy(), *values(p.grad for p in ours[1:])], [expected.numpy(), *(t.grad.numpy() for t in theirs[1:])])


def test_clipping_scales_to_the_norm() -> None:
    p, q = ts.zeros(2, requires_grad=True), ts.zeros((), requires_grad=True)
    with pytest.raises(ValueError, match="no parameter has a gradient"):
        optim.clip_grad_norm_([p, q], 1.0)
    p.grad, q.grad = ts.tensor([3.0, 4.0]), ts.tensor(12.0)
    assert optim.clip_grad_norm_([p, q], 20.0).item() == 13 and p.grad.tolist() == [3, 4]
    assert optim.clip_grad_norm_([p, q], 6.5).item() == 13
    np.testing.assert_allclose([*p.grad.tolist(), q.grad.item()], [1.5, 2, 6], rtol=1e-6)


@pytest.mark.parametrize("gradients, after", [([math.inf, 1.0], [math.nan, 0]), ([math.nan, 1.0], [math.nan] * 2)])
def test_clipping_by_a_norm_that_is_not_finite(gradients: list[float], after: list[float]) -> None:
    p = ts.zeros(2, requires_grad=True)
    p.grad = ts.tensor(gradients)
    with np.errstate(all="ignore"):
        assert not math.isfinite(optim.clip_grad_norm_([p], 1.0).item())
    np.testing.assert_array_equal(p.grad.numpy(), after)


@given(dtype=st.sampled_from(["float16", "float32", "float64"]), part=st.floats(0, 1), seed=st.integers(0, 999))
def test_gradients_of_any_size_are_clipped(dtype: str, part: float, seed: int) -> None:
    """Their squares, and float16's sums, may be more than the dtype holds."""
    largest = float(np.finfo(dtype).max) / 100  # so that the norm itself is a number
    if dtype == "float64" and ts.zeros(1).backend != "numpy":
        largest = 1e150  # a device has no wider type
    ours, rng = leaves(np.random.default_rng(0), dtype), np.random.default_rng(seed)
    for p in ours:
        p.grad = ts.tensor(np.asarray(rng.uniform(-1, 1, p.shape) * largest**part, dtype))
    before = np.concatenate([np.ravel(g).astype("longdouble") for g in values(p.grad for p in ours)])
    expected = np.sqrt((before * before).sum())
    norm = optim.clip_grad_norm_(ours, 0.5)
    assert norm.dtype == ("float32" if dtype == "float16" else dtype)
    tolerance = {"float16": 2e-3, "float32": 1e-5, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(float(norm.item()), float(expected), rtol=min(tolerance, 1e-5))
    after = np.concatenate([np.ravel(g).astype("longdouble") for g in values(p.grad for p in ours)])
    factor = min(1, 0.5 / (expected + 1e-6))
    np.testing.assert_allclose(after, before * factor, rtol=tolerance, atol=float(np.finfo(dtype).smallest_subnormal))


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
