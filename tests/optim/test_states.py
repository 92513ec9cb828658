"""A saved optimizer goes on bit for bit, and nothing is loaded that was saved over something else."""

from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from helpers.optimizers import CASES, OPTIMIZERS, every_case, leaves, make, set_grads, values
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import checkpoint, nn, optim


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
    assert again.lr == 0.1 and [s["steps"] for s in again.state] == [3, 3, 1, 3, 3]
    run(range(3, 5), again, second)
    assert all(map(np.array_equal, values(second), values(whole)))


@every_case
def test_a_state_brings_all_hyperparameters(case: str, tmp_path: Any) -> None:
    """Also through a file, and what a schedule changed."""
    saved = make(case, leaves(np.random.default_rng(0), "float32"), 0.3)
    saved.weight_decay = 0.25
    saved.param_groups[0]["weight_decay"] = 0.125
    set_grads(np.random.default_rng(1), saved.parameters)
    saved.step()
    checkpoint.save(tmp_path / "a.safetensors", saved.state_dict())
    other = OPTIMIZERS[CASES[case][0]]([ts.tensor(p.detach(), requires_grad=True) for p in saved.parameters])
    other.load_state_dict(checkpoint.load(tmp_path / "a.safetensors"))
    for name in saved.hyperparameters:
        assert getattr(other, name) == getattr(saved, name), name
        assert other.param_groups[0][name] == saved.param_groups[0][name] == (
            0.125 if name == "weight_decay" else getattr(saved, name))
    assert set(saved.hyperparameters) == set(vars(saved)) - {"parameters", "state", "names", "param_groups"}
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
        (sgd, state, ValueError, r"SGD: .* another optimizer, Adam over 5 parameters; this is SGD over 5"),
        (adamw, state, ValueError, r"AdamW: .* another optimizer, Adam over 5"),
        (fewer, state, ValueError, r"Adam over 5 parameters; this is Adam over 3"),
        (adam, optim.Adam(leaves(rng)[:3]).state_dict(), ValueError, r"Adam over 3 parameters; this is Adam over 5"),
        (other, state, ValueError, r"Adam: .* over other parameters.*: parameter 1: \(5,\) given, \(4,\) here$"),
        (same, state | {"1.m": np.ones(4)}, ValueError, r"Adam: wrong shapes: 1.m: \(4,\) given, \(5,\) here$"),
        (same, without("groups"), KeyError, r"missing \['groups'\]"),
        (same, without("shapes", "names"), KeyError, r"missing \['(shapes|names)', '(shapes|names)'\]"),
        (same, state | {"groups": 3}, ValueError, r"not what state_dict\(\) gave"),
        (same, state | {"groups": {"1": {"parameters": 5}}}, ValueError, r"not what state_dict\(\) gave"),
        (same, state | {"shapes": [(1,)]}, ValueError, r"not what state_dict\(\) gave"),
        (same, state | {"groups": {"0": {"parameters": 5, "momentum": 1}}}, KeyError, "no entry 'momentum' of a group"),
        (same, state | {"groups": {"0": {"parameters": 5, "lr": "x"}}}, TypeError, "lr < inf, got 'x'"),
        (same, state | {"groups": {"0": {"parameters": 5, "lr": 1, "ratio": (1, "x")}}}, TypeError, r"ratio\[1\]"),
        (same, state | {"groups": {"0": {"parameters": 5, "lr": 1, "ratio": 3}}}, TypeError, "expected ratio to be"),
        (same, state | {"groups": {"0": {"parameters": 5, "lr": 1, "ratio": (1, 2, 3)}}}, ValueError, "two numbers"),
        (same, state | {"1.m": "x"}, ValueError, "expected arrays, got 1.m: str"),
        (same, state | {"1.m": np.ones(5, complex)}, ValueError, r"1.m: complex128\[5\] given, float64\[5\] here"),
        (same, without("lr", "betas"), KeyError, r"Adam: this state .*missing \['lr', 'betas'\], unexpected nothing"),
        (same, without("0.steps", "1.v"), KeyError, r"missing \['0.steps', '1.v'\]"),
        (same, without("optimizer"), KeyError, r"missing \['optimizer'\]"),
        (same, state | {"5.m": 1, "x": 2}, KeyError, r"unexpected \['5.m', 'x'\]"),
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


def test_the_state_of_a_pytorch_optimizer_is_told_to_be_one() -> None:
    state: dict[str, Any] = {"state": {0: {"step": 1.0}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}
    with pytest.raises(ValueError, match=r"^SGD: this is the state of a PyTorch optimizer.*optimizer\.lr"):
        optim.SGD(nn.Linear(2, 3).parameters(), 0.1).load_state_dict(state)


def paired(names: str, dtype: str = "float32") -> list[tuple[str, ts.Tensor]]:
    """Named parameters of one shape."""
    return [(name, ts.tensor(np.ones(3, dtype), requires_grad=True)) for name in names.split()]


def test_names_tell_an_order_that_shapes_do_not() -> None:
    """Where both sides know them; a wrong shape is told with its name."""
    saved = optim.SGD(paired("a.weight b.weight")).state_dict()
    for changed, message in (("b.weight a.weight", r"parameter 0: a.weight \(3,\) given, b.weight \(3,\) here; "),
                             ("a.weight c.weight", r"parameter 1: b.weight \(3,\) given, c.weight \(3,\) here$")):
        with pytest.raises(ValueError, match=message):
            optim.SGD(paired(changed)).load_state_dict(saved)
    optim.SGD(paired("a.weight b.weight")).load_state_dict(saved)
    optim.SGD([p for _, p in paired("a b")]).load_state_dict(saved)
    optim.SGD(paired("a b")).load_state_dict(optim.SGD([p for _, p in paired("c d")]).state_dict())


def test_groups_of_other_sizes_are_refused() -> None:
    a, b, c = (p for _, p in paired("a b c"))
    saved = optim.SGD([{"params": [a, b]}, {"params": [c]}]).state_dict()
    for others in ([{"params": [a]}, {"params": [b, c]}], [a, b, c]):
        with pytest.raises(ValueError, match=r"groups of \[2, 1\] parameters; here are groups of \[(1, 2|3)\]"):
            optim.SGD(others).load_state_dict(saved)


@given(own=st.lists(st.sets(st.sampled_from(["lr", "momentum", "weight_decay"])), min_size=1, max_size=12),
       seed=st.integers(0, 999))
def test_groups_go_on_with_their_own_values(own: list[set[str]], seed: int) -> None:
    """More than ten groups too; after a schedule was at 0; what was not own follows the optimizer as before."""
    rng = np.random.default_rng(seed)

    def build() -> Any:
        return optim.SGD([{"params": [p]} for _, p in paired("a " * len(own))], 0.1)

    saved, other = build(), build()
    for group, names in zip(saved.param_groups, own, strict=True):
        group.update({name: rng.random() for name in names})
    saved.lr, other.lr, other.param_groups[0]["momentum"] = 0.0, 0.7, 0.3
    with TemporaryDirectory() as folder:
        checkpoint.save(f"{folder}/a.safetensors", saved.state_dict())
        other.load_state_dict(checkpoint.load(f"{folder}/a.safetensors"))
    for optimizer in (saved, other):
        optimizer.lr, optimizer.momentum, optimizer.weight_decay = 0.05, 0.5, 0.25
    for one, two, names in zip(saved.param_groups, other.param_groups, own, strict=True):
        assert {k: v for k, v in one.items() if k != "params"} == {k: v for k, v in two.items() if k != "params"}
        names = names - {"lr"} if len(own) == 1 else names        # the only one's is the optimizer's
        assert one.own == two.own == names and ("momentum" in names or two["momentum"] == 0.5)


EARLY = {  # of the version before groups, after gradients of 0.5 and 1.5: state, weights, and those after one of 1
    "SGD": ({"optimizer": "SGD", "parameters": 2, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "nesterov": False,
             "0.steps": 2, "0.momentum": np.array([1.95, 1.95], "f"), "1.steps": 2,
             "1.momentum": np.array([[1.95]], "f")},
            ([0.755, -2.245], [[0.2548828125]]), ([0.4795, -2.5205], [[-0.0206146240234375]])),
    "AdamW": ({"optimizer": "AdamW", "parameters": 2, "lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-08,
               "weight_decay": 0.01, "0.steps": 2, "0.m": np.array([0.195, 0.195], "f"),
               "0.v": np.array([0.00249975, 0.00249975], "f"), "1.steps": 2, "1.m": np.array([[0.195]], "f"),
               "1.v": np.array([[0.00249975]], "f")},
              ([0.80632293, -2.18768001], [[0.30712890625]]), ([0.7114073, -2.2796016], [[0.2127685546875]]))}


@pytest.mark.parametrize("name", EARLY)
def test_a_state_of_the_version_before_groups_and_masters_loads(name: str) -> None:
    state, before, after = EARLY[name]
    ours = [ts.tensor(np.array(x, dtype), requires_grad=True) for x, dtype in zip(before, "fe", strict=True)]
    optimizer = OPTIMIZERS[name](ours, 0.5)  # type: ignore[call-arg]
    with pytest.warns(UserWarning, match=f"{name}.load_state_dict: .* float32 masters, which begin as the parameters"):
        optimizer.load_state_dict(state)
    for p in ours:
        p.grad = ts.ones(p.shape, p.dtype)
    optimizer.step()
    np.testing.assert_allclose(ours[0].detach().numpy(), after[0], rtol=1e-5)
    np.testing.assert_allclose(ours[1].detach().numpy(), after[1], rtol=2e-3)
    with pytest.raises(ValueError, match=r"groups of \[2\] parameters; here are groups of \[1, 1\]"):
        OPTIMIZERS[name]([{"params": p} for p in ours]).load_state_dict(state)  # type: ignore[call-arg]


@every_case
def test_a_state_without_the_masters_is_refused(case: str) -> None:
    ours = leaves(np.random.default_rng(0), "float16")
    optimizer = make(case, ours, 0.01)
    set_grads(np.random.default_rng(1), ours)
    optimizer.step()
    state = optimizer.state_dict()
    assert all(state[f"{i}.master"].dtype == "float32" for i in range(len(ours)))
    with pytest.raises(KeyError, match=r"missing \['0.master'\]"):
        make(case, ours).load_state_dict({k: v for k, v in state.items() if k != "0.master"})
    wide = make(case, [ts.tensor(p.detach().astype(ts.float32), requires_grad=True) for p in ours])
    with pytest.raises(KeyError, match=r"unexpected \['0.master'"):
        wide.load_state_dict(state)
