"""Losses and outputs as modules: PyTorch's of their names, with its numbers."""

import inspect
from typing import Any

import numpy as np
import pytest
from helpers.layers import close, leaf, normal

import tinyseq as ts
from tinyseq import functional as F
from tinyseq import nn
from tinyseq.nn import losses

RNG = np.random.default_rng(0)
X, Y, T, W = normal(RNG, 4, 5), normal(RNG, 4, 5), np.array([3, 0, 4, -100]), abs(normal(RNG, 5))
P, Q = 1 / (1 + np.exp(-X)), 1 / (1 + np.exp(-Y))
CASES: list[tuple[str, dict[str, Any], Any, Any]] = [
    ("CrossEntropyLoss", {}, X, T), ("CrossEntropyLoss", {"weight": W, "label_smoothing": 0.1}, X, T),
    ("CrossEntropyLoss", {"ignore_index": 3}, X, np.abs(T) % 5), ("NLLLoss", {"weight": W, "reduction": "sum"}, X, T),
    ("MSELoss", {}, X, Y), ("MSELoss", {"reduction": "none"}, X, Y), ("L1Loss", {"reduction": "sum"}, X, Y),
    ("HuberLoss", {"delta": 0.5}, X, Y), ("SmoothL1Loss", {"beta": 0.3}, X, Y), ("SmoothL1Loss", {"beta": 0.0}, X, Y),
    ("BCELoss", {}, P, Q), ("BCEWithLogitsLoss", {"pos_weight": W}, X, Q), ("BCELoss", {"weight": W}, P, Q),
    ("BCEWithLogitsLoss", {"pos_weight": W, "weight": W[::-1].copy(), "reduction": "sum"}, X, Q),
    ("KLDivLoss", {"reduction": "batchmean"}, X, Q), ("KLDivLoss", {"log_target": True, "reduction": "sum"}, X, Y),
]


@pytest.mark.reference
@pytest.mark.parametrize("name, options, x, target", CASES, ids=lambda part: part if isinstance(part, str) else "")
def test_losses_are_pytorchs(name: str, options: dict[str, Any], x: Any, target: Any) -> None:
    torch = pytest.importorskip("torch")
    ours = getattr(nn, name)(**options)
    theirs = getattr(torch.nn, name)(**{k: torch.tensor(v) if isinstance(v, np.ndarray) else v
                                        for k, v in options.items()})
    assert list(ours.state_dict()) == list(theirs.state_dict())
    mine, torchs = leaf(x), torch.tensor(x, requires_grad=True)
    y, z = ours(mine, target), theirs(torchs, torch.tensor(target))
    close(y, z, "float64")
    y.sum().backward()
    z.sum().backward()
    close(mine.grad, torchs.grad)


@pytest.mark.reference
@pytest.mark.parametrize("name, given", [("Softmax", (1,)), ("LogSoftmax", (0,)), ("GLU", (0,)), ("LogSigmoid", ()),
                                         ("Identity", ())])
def test_outputs_are_pytorchs(name: str, given: Any) -> None:
    torch = pytest.importorskip("torch")
    close(getattr(nn, name)(*given)(ts.tensor(X)), getattr(torch.nn, name)(*given)(torch.tensor(X)))


def test_each_is_the_function_and_says_its_options() -> None:
    for name, kind in vars(losses).items():
        if inspect.isclass(kind) and kind.__module__ == losses.__name__ and name[0] != "_":
            assert name in nn.__all__
    assert nn.Softmax()(ts.tensor(X)).tolist() == F.softmax(ts.tensor(X)).tolist()
    assert repr(nn.CrossEntropyLoss(ignore_index=0)) == "CrossEntropyLoss(ignore_index=0)"
    assert repr(nn.Sequential(nn.Linear(2, 3), nn.LogSoftmax(1))[1]) == "LogSoftmax(axis=1)"


@pytest.mark.parametrize("make", [list, ts.tensor, np.asarray])
def test_weights_may_be_lists_arrays_and_tensors(make: Any) -> None:
    for kind, target in ((nn.CrossEntropyLoss, T), (nn.NLLLoss, T)):
        assert kind(make(W))(ts.tensor(X), target).item() == pytest.approx(kind(W)(ts.tensor(X), target).item())


def test_weights_move_with_the_loss() -> None:
    assert nn.CrossEntropyLoss(W).to(ts.float32).weight.dtype == np.float32


@pytest.mark.parametrize("make, message", [
    (lambda: nn.MSELoss("sum"), "MSELoss.*by place"), (lambda: nn.MSELoss(reduction="avg"), "reduction to be one of"),
    (lambda: nn.CrossEntropyLoss(weight="a"), "weight as numbers, got 'a'"),
    (lambda: nn.MSELoss(size_average=True), "write reduction="), (lambda: nn.Softmax(dim=1), "write axis="),
    (lambda: nn.MSELoss()(ts.zeros((3, 1)), ts.zeros(3)), "must have one shape"),
    (lambda: nn.Identity(3), "Identity.*by place"), (lambda: nn.ReLU(inplace=True), "inplace"),
    (lambda: nn.LeakyReLU(0.2, True), "by place"), (lambda: nn.LeakyReLU("steep"), "negative_slope"),
])
def test_what_does_not_fit_is_refused_when_it_is_made(make: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()
