"""What is given to an optimizer is checked when it is given, and what it holds is said."""

import inspect
import math
from typing import Any

import numpy as np
import pytest
from helpers.optimizers import CASES, OPTIMIZERS, every_case, make

import tinyseq as ts
from tinyseq import nn, optim

WRONG = [-1.0, math.nan, math.inf, "0.1", None, True, [0.1], np.ones(2)]
PAIRS = [(0.9,), 0.9, (0.9, 0.99, 0.999), ("a", 0.9), (math.nan, 0.9), None]
NUMBERS = {"lr": WRONG, "momentum": WRONG, "weight_decay": WRONG, "eps": WRONG, "alpha": [*WRONG, 1.0],
           "beta2_decay": [0.1, -math.inf, *WRONG[1:]], "d": [0.5, *WRONG], "nesterov": ["yes", 1, None],
           "centered": ["yes", 1, None], "betas": [*PAIRS, (0.9, 1.0), (1.5, 0.9), (-0.1, 0.9)]}
SPECIAL = {"Adafactor": {"eps": [*PAIRS, (0.1, None), (-1.0, 0.1), (None, -1.0), (None, math.inf)]}}


@every_case
def test_wrong_hyperparameters_are_refused_when_given_and_when_changed(case: str) -> None:
    """Every one that an optimizer has, by name; what it had stands."""
    p = ts.zeros(2, requires_grad=True)
    optimizer = make(case, [p])
    assert set(optimizer.hyperparameters) == set(inspect.signature(type(optimizer)).parameters) - {"parameters"}
    numbers = NUMBERS | SPECIAL.get(CASES[case][0], {})
    for name in optimizer.hyperparameters:
        for wrong in numbers[name]:
            before, group = getattr(optimizer, name), optimizer.param_groups[0]
            with pytest.raises((TypeError, ValueError), match=rf"^{CASES[case][0]}: .*{name}.*got "):
                setattr(optimizer, name, wrong)
            with pytest.raises((TypeError, ValueError), match=rf"^{CASES[case][0]}: .*{name}.*got "):
                group[name] = wrong
            assert getattr(optimizer, name) == group[name] == before and not group.own
            with pytest.raises((TypeError, ValueError), match=rf"^{CASES[case][0]}: .*{name}.*got "):
                type(optimizer)([p], **{name: wrong})
            with pytest.raises((TypeError, ValueError), match=rf"^{CASES[case][0]}: .*{name}.*got "):
                type(optimizer)([{"params": p, name: wrong}])


def test_numbers_of_other_libraries_are_numbers() -> None:
    p = ts.zeros(2, requires_grad=True)
    for value in (np.float32(0.5), np.float16(0.5), np.array(0.5), ts.tensor(0.5)):
        optimizer = optim.Adam([p], value, betas=[value, value])  # type: ignore[arg-type]
        optimizer.lr = value
        assert optimizer.lr == 0.5 and type(optimizer.lr) is float and optimizer.betas == (0.5, 0.5)
        p.grad = ts.ones(2)
        assert optim.clip_grad_norm_([p], value).shape == ()
    assert optim.SGD([p], 1).lr == 1


def test_wrong_optimizers_are_named() -> None:
    p = ts.zeros(2, requires_grad=True)
    for call, kind, message in (
        (lambda: optim.SGD([]), ValueError, "SGD: no parameters"), (lambda: optim.Adam([p, p]), ValueError, "twice"),
        (lambda: optim.Adam([p, p * 2]), TypeError, "parameter 1"),
        (lambda: optim.AdamW(["w"]), TypeError, "AdamW: parameter 0 is a str"),
        (lambda: optim.Adam(nn.Linear(2, 2)), TypeError, r"Adam: .* got a Linear: pass a module's .parameters\(\)"),
        (lambda: optim.Adam([("w", p), ("b", p * 2)]), TypeError, r"Adam: parameter 1 \(b\) is a computed Tensor"),
        (lambda: optim.Adam([("w", p, 1)]), TypeError, r"0 is a tuple.*module's .parameters\(\)"),
        (lambda: optim.Adam({p}), TypeError, r"got a set"),
        (lambda: optim.Adam([p, {"params": p}]), TypeError, "Adam: parameter 1 is a dict"),
        (lambda: optim.SGD([p], nesterov=True), ValueError, "nesterov needs momentum"),
        (lambda: optim.SGD(p), TypeError, "SGD: expected parameters, a list of leaf Tensors, got a Tensor"),
        (lambda: optim.SGD(None), TypeError, "got a NoneType"),
        (lambda: optim.Adam([{"parameters": [p]}]), TypeError, r'in group 0: a dictionary with "params", got {'),
        (lambda: optim.clip_grad_norm_(p, 1.0), TypeError, "clip_grad_norm_: .* got a Tensor"),
        (lambda: optim.clip_grad_norm_(3, 1.0), TypeError, "clip_grad_norm_: .* got a int"),
        (lambda: optim.clip_grad_norm_(nn.Linear(2, 2), 1.0), TypeError, "got a Linear: pass a module's .param"),
        (lambda: optim.clip_grad_norm_([p, "w"], 1.0), TypeError, "clip_grad_norm_: parameter 1 is a str"),
    ):
        with pytest.raises(kind, match=message):
            call()


def test_reprs_say_what_is_set() -> None:
    p = ts.zeros(2, requires_grad=True)
    assert repr(optim.Adam([p])) == (
        "Adam(1 parameter, lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0)")
    optimizer = optim.SGD(nn.Linear(2, 3).parameters(), 0.1, 0.9)
    optimizer.lr = 0.05
    assert str(optimizer) == "SGD(2 parameters, lr=0.05, momentum=0.9, weight_decay=0.0, nesterov=False)"


def test_an_unknown_option_is_told_with_what_to_write() -> None:
    parameters = [ts.ones(2, requires_grad=True)]
    for kind in OPTIMIZERS.values():
        wrong: Any = kind
        with pytest.raises(TypeError, match=rf"^{kind.__name__}: no argument 'learning_rate'; write lr=; it takes"):
            wrong(parameters, learning_rate=0.1)
        with pytest.raises(TypeError, match=rf"^{kind.__name__}\(parameters, lr=0[.0]*1, .*: missing 1 .*'parameters'"):
            wrong()


@every_case
def test_a_closure_is_told_with_what_to_write(case: str) -> None:
    p = ts.ones(2, requires_grad=True)
    p.grad = ts.ones(2)
    optimizer: Any = make(case, [p])
    for call in (lambda: optimizer.step(lambda: 1.0), lambda: optimizer.step(closure=lambda: 1.0)):
        with pytest.raises(TypeError, match=rf"^{CASES[case][0]}\.step: no closure is called: .*backward\(\) c"):
            call()
    assert p.tolist() == [1, 1]


@pytest.mark.parametrize("change", [
    lambda o: setattr(o, "momentum", 0), lambda o: o.param_groups[0].update(momentum=0),
    lambda o: (setattr(o, "nesterov", False), setattr(o, "momentum", 0), setattr(o, "nesterov", True)),
    lambda o: (setattr(o, "momentum", 0), o.param_groups[0].update(nesterov=True))])
def test_nesterov_without_momentum_is_refused_in_any_way(change: Any) -> None:
    """In a step, before anything changes; between two changes it may be."""
    p = ts.ones(2, requires_grad=True)
    p.grad = ts.ones(2)
    optimizer = optim.SGD([p], 0.1, 0.9, nesterov=True)
    change(optimizer)
    with pytest.raises(ValueError, match=r"^SGD: nesterov needs momentum > 0, got 0"):
        optimizer.step()
    assert p.tolist() == [1, 1] and not optimizer.state[0]
    optimizer.param_groups[0]["momentum"] = 0.5
    optimizer.step()


def test_a_state_of_nesterov_without_momentum_loads_nothing() -> None:
    p = ts.ones(2, requires_grad=True)
    for wrong in ({"nesterov": True}, {"groups": {"0": {"parameters": 1, "nesterov": True}}}):
        optimizer = optim.SGD([p], 0.1)
        with pytest.raises(ValueError, match=r"^SGD: nesterov needs momentum > 0, got 0"):
            optimizer.load_state_dict(optimizer.state_dict() | wrong)
        assert not optimizer.nesterov and not optimizer.param_groups[0]["nesterov"]
