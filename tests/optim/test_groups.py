"""Groups have hyperparameters of their own, and follow the optimizer in the others."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from helpers.optimizers import OPTIMIZERS, every_optimizer, leaves, set_grads, values
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import nn, optim


@every_optimizer
@given(seed=st.integers(0, 999), rate=st.sampled_from([0.01, 0.1, 1.0]), decay=st.sampled_from([0.0, 0.2]))
def test_groups_step_as_an_optimizer_each(name: str, seed: int, rate: float, decay: float) -> None:
    """With a schedule over both, from 0 up."""
    together, apart = leaves(np.random.default_rng(seed)), leaves(np.random.default_rng(seed))
    cls: Any = OPTIMIZERS[name]
    one = cls([{"params": together[:2]}, {"params": together[2:], "lr": rate / 10, "weight_decay": decay}], rate)
    first, second = cls(apart[:2], rate), cls(apart[2:], rate / 10, weight_decay=decay)
    for step in range(4):
        for some in (together, apart):
            set_grads(np.random.default_rng(step), some)
        one.lr = first.lr = rate * step
        second.lr = rate / 10 * step
        for optimizer in (one, first, second):
            optimizer.step()
    for x, y in zip(values(together), values(apart), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)


def test_an_own_value_stays_and_an_own_learning_rate_keeps_its_ratio() -> None:
    a, b, c = leaves(np.random.default_rng(0))[:3]
    optimizer = optim.AdamW([{"params": [a]}, {"params": b, "lr": 0.01, "weight_decay": 0.0}, {"params": [c]}], lr=0.1)
    groups = optimizer.param_groups
    assert [g["lr"] for g in groups] == [0.1, 0.01, 0.1] and [g["weight_decay"] for g in groups] == [0.01, 0.0, 0.01]
    optimizer.lr, optimizer.weight_decay = 0.05, 0.5
    assert [g["lr"] for g in groups] == [0.05, 0.005, 0.05] and [g["weight_decay"] for g in groups] == [0.5, 0.0, 0.5]
    optimizer.lr = 0.0
    assert [g["lr"] for g in groups] == [0.0] * 3
    groups[2]["lr"] = 0.3                       # while the optimizer's is 0: no ratio
    optimizer.lr = 0.1
    assert [g["lr"] for g in groups] == [0.1, 0.01, 0.3]
    groups[0]["lr"] = 0.2
    groups[1] |= {"betas": [0.5, 0.6]}
    groups[2].update(eps=1e-3)
    optimizer.lr, optimizer.betas, optimizer.eps = 0.01, (0.1, 0.2), 1e-4
    assert [g["lr"] for g in groups] == [0.02, 0.001, 0.3]
    assert [g["betas"] for g in groups] == [(0.1, 0.2), (0.5, 0.6), (0.1, 0.2)]
    assert [g["eps"] for g in groups] == [1e-4, 1e-4, 1e-3]
    assert repr(optimizer).splitlines()[1:] == ["  1 of them, lr=0.02", "  1 of them, lr=0.001, betas=(0.5, 0.6), "
                                                "weight_decay=0.0", "  1 of them, lr=0.3, eps=0.001)"]


def test_a_group_is_a_dictionary_whose_entries_stay() -> None:
    p = ts.zeros(2, requires_grad=True)
    group = optim.SGD([p], 0.1).param_groups[0]
    assert isinstance(group, dict) and list(group) == ["params", "lr", "momentum", "weight_decay", "nesterov"]
    assert group["params"] == (p,)
    for change in (lambda: group.pop("lr"), lambda: group.clear(), lambda: group.popitem(),
                   lambda: group.setdefault("a", 1), lambda: group.__delitem__("lr")):
        with pytest.raises(TypeError, match=r"SGD: entries of a group are changed, group\[name\] = value, and nev"):
            change()
    with pytest.raises(TypeError, match=r"SGD: a group keeps its params; optimizer\.add_param_group adds others"):
        group["params"] = []
    with pytest.raises(KeyError, match="SGD: no entry 'learning_rate' of a group; write lr=; it takes params, lr, mom"):
        group["learning_rate"] = 0.1
    with pytest.raises(KeyError, match="SGD: no entry 'dampening' of a group"):
        optim.SGD([{"params": [p], "dampening": 0.5}])
    with pytest.raises(ValueError, match="SGD: nesterov needs momentum"):
        optim.SGD([{"params": [p], "nesterov": True}])


def test_groups_are_copied_and_pickled() -> None:
    p, q = (ts.zeros(2, requires_grad=True) for _ in range(2))
    optimizer = optim.SGD([{"params": [p], "lr": 0.2}, {"params": [q]}], 0.1)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        other.lr, other.momentum = 0.2, 0.5
        assert [g["lr"] for g in other.param_groups] == [0.4, 0.2] and other.param_groups[0]["momentum"] == 0.5
    assert [g["lr"] for g in optimizer.param_groups] == [0.2, 0.1]


def test_more_parameters_are_added() -> None:
    ours = leaves(np.random.default_rng(0))
    optimizer = optim.Adam(ours[:2], 0.1)
    set_grads(np.random.default_rng(0), ours)
    optimizer.step()
    optimizer.add_param_group({"params": [("c", ours[2])], "lr": 0.05})
    before = values(ours)
    optimizer.step()
    assert [s["steps"] for s in optimizer.state] == [2, 2, 1] and optimizer.names == ["", "", "c"]
    stood = [np.array_equal(x, y) for x, y in zip(values(ours), before, strict=True)]
    assert stood == [False, False, False, True, True]
    for wrong, kind, message in (
            ({"params": [ours[0]]}, ValueError, "add_param_group: parameter 3 was given twice: it is parameter 0 too"),
            ({}, TypeError, 'a dictionary with "params"'), (3, TypeError, "dictionary"),
            ({"params": [("d", ours[2])]}, ValueError, r"parameter 3 \(d\) was given twice"),
            ({"params": [ours[3]], "lr": -1}, ValueError, "lr < inf, got -1")):
        with pytest.raises(kind, match=message):
            optimizer.add_param_group(wrong)  # type: ignore[arg-type]
        assert len(optimizer.param_groups) == 2 and len(optimizer.parameters) == len(optimizer.state) == 3


def test_one_in_two_groups_is_told_by_name() -> None:
    model = nn.Linear(2, 3)
    decayed, other = optim.decay_groups(model, 0.1)
    with pytest.raises(ValueError, match=r"^AdamW: group 1: parameter 2 \(weight\) was given twice: it is parameter 0"):
        optim.AdamW([decayed, {"params": [*other["params"], *decayed["params"]]}])
    with pytest.raises(TypeError, match=r"^AdamW: group 1: parameter 0 \(x\) is a str"):
        optim.AdamW([decayed, {"params": [("x", "y")]}])


class Tied(nn.Module):
    def __init__(self) -> None:
        self.embedding, self.head, self.norm = nn.Embedding(5, 4), nn.Linear(4, 5), nn.LayerNorm(4)
        self.head.weight = self.embedding.weight


def test_a_shared_parameter_comes_once_and_all_come() -> None:
    model = Tied()
    decayed, other = optim.decay_groups(model, 0.1)
    assert [name for name, _ in decayed["params"]] == ["embedding.weight"] and decayed["weight_decay"] == 0.1
    assert [name for name, _ in other["params"]] == ["head.bias", "norm.weight", "norm.bias"]
    optimizer = optim.AdamW([decayed, other])
    assert {id(p) for p in optimizer.parameters} == {id(p) for p in model.parameters()}
    assert optimizer.names == [name for name, _ in model.named_parameters()]
    bare = optim.AdamW(optim.decay_groups(nn.Linear(2, 3, bias=False), 0.1))
    assert [len(group["params"]) for group in bare.param_groups] == [1, 0]
    for wrong in (nn.Linear, [model], None, model.parameters()):
        with pytest.raises(TypeError, match="decay_groups: expected model to be a module, got"):
            optim.decay_groups(wrong, 0.1)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("before", [0.0, 0.1])
def test_a_learning_rate_that_all_groups_are_given_is_the_optimizers(count: int, rate: float, before: float) -> None:
    """The loop over param_groups that other libraries have; the optimizer's own goes on from there, through a state
    and a copy too, and for groups that come."""
    parameters = [ts.zeros(2, requires_grad=True) for _ in range(count + 1)]

    def made(lr: float) -> optim.SGD:
        return optim.SGD([{"params": [p]} for p in parameters[:count]], lr)

    def rates(optimizer: optim.SGD) -> list[float]:
        return [group["lr"] for group in optimizer.param_groups]

    given = made(before)
    for group in given.param_groups:
        group["lr"] = rate
    loaded = made(0.7)
    loaded.load_state_dict(given.state_dict())
    for optimizer in (copy.deepcopy(given), pickle.loads(pickle.dumps(given)), loaded, given):
        assert optimizer.lr == rate == rates(optimizer)[0] and f"lr={rate}, " in repr(optimizer).splitlines()[0]
        optimizer.lr = 0.2
        assert rates(optimizer) == [0.2] * count and optimizer.lr == 0.2
        for group in optimizer.param_groups:
            group["lr"] *= 0.5
        assert optimizer.lr == 0.1
    given.add_param_group({"params": parameters[count:]})
    assert given.lr == 0.1 and rates(given) == [0.1] * (count + 1)
    given.param_groups[0]["lr"] = 0.4
    assert given.lr == 0.1
    given.lr = 0.2
    assert rates(given) == [0.8, *[0.2] * count]


def test_a_warmup_from_0_keeps_ratios_and_one_group_shows_its_own_values() -> None:
    p, q = (ts.zeros(2, requires_grad=True) for _ in range(2))
    optimizer = optim.SGD([{"params": [p], "lr": 0.1}, {"params": [q], "lr": 0.01}], 0.1)
    optimizer.lr = 0.0
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]
    optimizer.lr = 0.2
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.02]
    one = optim.SGD([{"params": [p], "weight_decay": 0.5}], 0.1)
    assert repr(one).splitlines()[1:] == ["  1 of them, weight_decay=0.5)"]


class Odd(nn.Module):
    """Norms over two axes, of one's own too, and what is called a bias."""

    def __init__(self) -> None:
        class Scaled(nn.RMSNorm):
            pass

        class BatchNorm(nn.Module):
            def __init__(self) -> None:
                self.gains = [nn.Parameter(ts.ones((2, 3)))]

        self.norms = [nn.LayerNorm((3, 4)), Scaled((3, 4)), BatchNorm()]
        self.position_bias, self.bias_table = nn.Parameter(ts.ones((3, 4))), nn.Embedding(3, 4)
        self.normal, self.weights = nn.Linear(3, 4), [nn.Parameter(ts.ones((3, 4)))]
        self.block = PreNorm()


class PreNorm(nn.Module):
    def __init__(self) -> None:
        self.norm, self.inner = nn.LayerNorm((2, 2)), nn.Linear(2, 2)


def test_norms_and_biases_of_any_shape_do_not_decay() -> None:
    for norm in (nn.LayerNorm((3, 4)), nn.RMSNorm((3, 4))):
        assert optim.decay_groups(norm, 0.1)[0]["params"] == []
    decayed, other = optim.decay_groups(Odd(), 0.1)
    assert {name for name, _ in decayed["params"]} == {"bias_table.weight", "normal.weight", "weights.0",
                                                       "block.inner.weight"}
    assert {name for name, _ in other["params"]} >= {
        "norms.0.weight", "norms.0.bias", "norms.1.weight", "norms.2.gains.0", "position_bias", "normal.bias",
        "block.norm.weight"}
