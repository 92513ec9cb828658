"""Optimizers step as PyTorch's do, skip what has no gradient, and go on from a saved state."""

import gc
import inspect
import math
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import checkpoint, nn, optim

SHAPES = [(3, 4), (5,), (), (0, 2)]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("SGD", {}), "momentum": ("SGD", {"momentum": 0.9}),
    "Nesterov": ("SGD", {"momentum": 0.8, "nesterov": True}),
    "SGD decay": ("SGD", {"momentum": 0.9, "weight_decay": 0.1}), "Adam": ("Adam", {}),
    "Adam decay": ("Adam", {"betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    "AdamW": ("AdamW", {}), "AdamW decay": ("AdamW", {"weight_decay": 0.3})}
OPTIMIZERS = [cls for cls in vars(optim).values()
              if isinstance(cls, type) and issubclass(cls, optim.Optimizer) and cls is not optim.Optimizer]
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


@every_case
def test_a_state_brings_all_hyperparameters(case: str, tmp_path: Any) -> None:
    """Also through a file, and what a schedule changed."""
    saved = make(case, leaves(np.random.default_rng(0), "float32"), 0.3)
    saved.weight_decay = 0.25
    set_grads(np.random.default_rng(1), saved.parameters)
    saved.step()
    checkpoint.save(tmp_path / "a.safetensors", saved.state_dict())
    other = getattr(optim, CASES[case][0])([ts.tensor(p.detach(), requires_grad=True) for p in saved.parameters])
    other.load_state_dict(checkpoint.load(tmp_path / "a.safetensors"))
    for name in saved.hyperparameters:
        assert getattr(other, name) == getattr(saved, name), name
    assert set(saved.hyperparameters) == set(vars(saved)) - {"parameters", "state"}
    for optimizer in (saved, other):
        set_grads(np.random.default_rng(2), optimizer.parameters)
        optimizer.step()
    assert all(map(np.array_equal, values(saved.parameters), values(other.parameters)))


def test_a_wrong_state_loads_nothing() -> None:
    rng = np.random.default_rng(0)
    adam, adamw, sgd = optim.Adam(leaves(rng), 0.5), optim.AdamW(leaves(rng)), optim.SGD(leaves(rng), 0.1, momentum=0.9)
    set_grads(rng, adam.parameters)
    adam.step()
    state = adam.state_dict()
    other = optim.Adam([ts.tensor(np.zeros((3, 4)), requires_grad=True), ts.zeros(4, requires_grad=True),
                        *leaves(rng)[2:]])
    same, fewer = optim.Adam(leaves(rng)), optim.Adam(leaves(rng)[:3])
    without = lambda *keys: {k: v for k, v in state.items() if k not in keys}
    for optimizer, wrong, kind, message in (
        (sgd, state, ValueError, r"SGD: .* another optimizer, Adam over 4 parameters; this is SGD over 4"),
        (adamw, state, ValueError, r"AdamW: .* another optimizer, Adam over 4"),
        (fewer, state, ValueError, r"Adam over 4 parameters; this is Adam over 3"),
        (adam, optim.Adam(leaves(rng)[:3]).state_dict(), ValueError, r"Adam over 3 parameters; this is Adam over 4"),
        (other, state, ValueError, r"Adam: wrong shapes: 1.m: \(5,\) given, \(4,\) here; 1.v"),
        (same, state | {"1.m": "x"}, ValueError, "expected arrays, got 1.m: str"),
        (same, state | {"1.m": np.ones(5, complex)}, ValueError, r"1.m: complex128\[5\] given, float64\[5\] here"),
        (same, without("lr", "betas"), KeyError, r"Adam: this state .*missing \['lr', 'betas'\], unexpected nothing"),
        (same, without("0.steps", "1.v"), KeyError, r"missing \['0.steps', '1.v'\]"),
        (same, without("optimizer"), KeyError, r"missing \['optimizer'\]"),
        (same, state | {"4.m": 1, "x": 2}, KeyError, r"unexpected \['4.m', 'x'\]"),
        (same, {}, KeyError, "missing"), (same, None, TypeError, "Adam.load_state_dict: .* got a NoneType"),
        (same, state | {"0.steps": 1.5}, TypeError, "0.steps, got 1.5"),
        (same, state | {"lr": -1.0}, ValueError, "lr < inf, got -1.0"),
        (same, state | {"betas": [0.9]}, TypeError, r"betas to be two numbers, got \[0.9\]"),
    ):
        before = optimizer.state_dict()
        with pytest.raises(kind, match=message):
            optimizer.load_state_dict(wrong)
        assert list(before) == list(optimizer.state_dict()) and before["lr"] == optimizer.lr
        assert optimizer is adam or not any(optimizer.state)


WRONG = [-1.0, math.nan, math.inf, "0.1", None, True, [0.1], np.ones(2)]
NUMBERS = {"lr": WRONG, "momentum": WRONG, "weight_decay": WRONG, "eps": WRONG, "nesterov": ["yes", 1, None],
           "betas": [(0.9,), 0.9, (0.9, 0.99, 0.999), (0.9, 1.0), (1.5, 0.9), (-0.1, 0.9), ("a", 0.9), (math.nan, 0.9),
                     None]}


@every_case
def test_wrong_hyperparameters_are_refused_when_given_and_when_changed(case: str) -> None:
    """Every one that an optimizer has, by name; what it had stands."""
    p = ts.zeros(2, requires_grad=True)
    optimizer = make(case, [p])
    assert set(optimizer.hyperparameters) == set(inspect.signature(type(optimizer)).parameters) - {"parameters"}
    for name in optimizer.hyperparameters:
        for wrong in NUMBERS[name]:
            before = getattr(optimizer, name)
            with pytest.raises((TypeError, ValueError), match=rf"^{CASES[case][0]}: .*{name}.*got "):
                setattr(optimizer, name, wrong)
            assert getattr(optimizer, name) == before
            with pytest.raises((TypeError, ValueError), match=rf"^{CASES[case][0]}: .*{name}.*got "):
                type(optimizer)([p], **{name: wrong})


def test_numbers_of_other_libraries_are_numbers() -> None:
    p = ts.zeros(2, requires_grad=True)
    for value in (np.float32(0.5), np.float16(0.5), np.array(0.5), ts.tensor(0.5)):
        optimizer = optim.Adam([p], value, betas=[value, value])  # type: ignore[arg-type]
        optimizer.lr = value
        assert optimizer.lr == 0.5 and type(optimizer.lr) is float and optimizer.betas == (0.5, 0.5)
        p.grad = ts.ones(2)
        assert optim.clip_grad_norm_([p], value).shape == ()
    assert optim.SGD([p], 1).lr == 1


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
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_defaults_are_torchs(name: str) -> None:
    """The order of the arguments: tests/test_positions.py."""
    torch = pytest.importorskip("torch")
    ours, judge = (inspect.signature(getattr(room, name)).parameters for room in (optim, torch.optim))
    assert all(ours[k].default == judge[k].default for k in ours if k not in ("parameters", "betas"))


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
        (lambda: optim.Adam(nn.Linear(2, 2)), TypeError, r"Adam: .* got a Linear: pass a module's .parameters\(\)"),
        (lambda: optim.Adam(nn.Linear(2, 2).named_parameters()), TypeError, r"0 is a tuple.*module's .parameters\(\)"),
        (lambda: optim.SGD([p], nesterov=True), ValueError, "nesterov needs momentum"),
        (lambda: optim.SGD(p), TypeError, "SGD: expected parameters, a list of leaf Tensors, got a Tensor"),
        (lambda: optim.SGD(None), TypeError, "got a NoneType"),
        (lambda: optim.Adam([{"params": [p]}]), TypeError, "parameter 0 is a dict"),
        (lambda: optim.clip_grad_norm_(p, 1.0), TypeError, "clip_grad_norm_: .* got a Tensor"),
        (lambda: optim.clip_grad_norm_(3, 1.0), TypeError, "clip_grad_norm_: .* got a int"),
        (lambda: optim.clip_grad_norm_(nn.Linear(2, 2), 1.0), TypeError, "got a Linear: pass a module's .param"),
        (lambda: optim.clip_grad_norm_([p, "w"], 1.0), TypeError, "clip_grad_norm_: parameter 1 is a str"),
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


@pytest.mark.parametrize("wrong", [-1.0, math.nan, "1", None, True, np.ones(2)])
def test_a_wrong_max_norm_changes_nothing(wrong: Any) -> None:
    p = ts.zeros(2, requires_grad=True)
    p.grad = ts.tensor([3.0, 4.0])
    with pytest.raises((TypeError, ValueError), match="clip_grad_norm_: expected a number 0 <= max_norm, got"):
        optim.clip_grad_norm_([p], wrong)
    assert p.grad.tolist() == [3, 4]


def test_a_foreign_gradient_is_not_clipped() -> None:
    ours = leaves(np.random.default_rng(0), "float32")
    set_grads(np.random.default_rng(0), ours)
    before = values(p.grad for p in ours[:3])
    ours[3].grad = np.zeros((0, 2), "float32")  # type: ignore[assignment]
    with pytest.raises(TypeError, match="clip_grad_norm_: the gradient of parameter 3 is a ndarray, expected a Tensor"):
        optim.clip_grad_norm_(ours, 1e-3)
    assert all(map(np.array_equal, values(p.grad for p in ours[:3]), before))


@pytest.mark.parametrize("gradients, after", [([math.inf, 1.0], [math.nan, 0]), ([math.nan, 1.0], [math.nan] * 2),
                                              ([math.nan, math.inf], [math.nan] * 2)])
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


@pytest.mark.parametrize("case", CASES)
def test_steps_leave_nothing_for_the_garbage_collector(case: str) -> None:
    ours = leaves(np.random.default_rng(0))
    optimizer = make(case, ours)
    set_grads(np.random.default_rng(0), ours)
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


@pytest.mark.parametrize("name", sorted(cls.__name__ for cls in OPTIMIZERS))
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@given(values=st.lists(st.just(0.0) | st.floats(0.1, 1.9), max_size=5), signs=st.integers(0, 31))
def test_default_settings_go_down_a_quadratic_in_every_dtype(name: str, dtype: str, values: list[float],
                                                             signs: int) -> None:
    """50 steps of sum(p^2) / 2, half of them after a save; float16's path is float32's but for its own rounding. A
    gradient may be 0."""
    begin = np.array([-v if signs >> i & 1 else v for i, v in enumerate([*values, 1.0])])

    def path(dtype: str) -> np.ndarray:
        p = ts.tensor(begin.astype(dtype), requires_grad=True)
        optimizer, seen = getattr(optim, name)([p]), [p.detach().numpy().astype("float64")]
        for step in range(50):
            if step == 25:
                state, optimizer = optimizer.state_dict(), getattr(optim, name)([p], 0.5)
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


def test_reprs_say_what_is_set() -> None:
    p = ts.zeros(2, requires_grad=True)
    assert repr(optim.Adam([p])) == (
        "Adam(1 parameter, lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0)")
    optimizer = optim.SGD(nn.Linear(2, 3).parameters(), 0.1, 0.9)
    optimizer.lr = 0.05
    assert str(optimizer) == "SGD(2 parameters, lr=0.05, momentum=0.9, weight_decay=0.0, nesterov=False)"


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


def test_an_unknown_option_is_told_with_what_to_write() -> None:
    parameters = [ts.ones(2, requires_grad=True)]
    for kind in (optim.SGD, optim.Adam, optim.AdamW):
        wrong: Any = kind
        with pytest.raises(TypeError, match=rf"^{kind.__name__}: no argument 'learning_rate'; write lr=; it takes"):
            wrong(parameters, learning_rate=0.1)
        with pytest.raises(TypeError, match=rf"^{kind.__name__}\(parameters, lr=0.001, .*: missing 1 .*'parameters'"):
            wrong()


def test_the_state_of_a_pytorch_optimizer_is_told_to_be_one() -> None:
    state: dict[str, Any] = {"state": {0: {"step": 1.0}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}
    with pytest.raises(ValueError, match=r"^SGD: this is the state of a PyTorch optimizer.*optimizer\.lr"):
        optim.SGD(nn.Linear(2, 3).parameters(), 0.1).load_state_dict(state)
