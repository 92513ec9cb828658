"""How parameters begin: bounds, distributions, by name and by gate."""

import math

import numpy as np
import pytest
from helpers.layers import close, same, seeds
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import nn
from tinyseq.nn import init


def test_layers_begin_in_torchs_bounds() -> None:
    ts.manual_seed(0)
    for p in [*nn.Linear(16, 100).parameters(), *nn.GRU(5, 16).parameters(), *nn.LSTM(5, 16).parameters()]:
        values = p.detach().numpy()
        assert abs(values).max() <= 0.25 and abs(values).max() > 0.22 and abs(values.mean()) < 0.06
    weight = nn.Embedding(300, 20).weight.detach().numpy()
    assert abs(weight.std() - 1) < 0.05 and abs(weight.mean()) < 0.05
    norm = nn.LayerNorm(3)
    assert norm.weight.tolist() == [1, 1, 1] and norm.bias.tolist() == [0, 0, 0]


@pytest.mark.parametrize("name, bound, std", [
    ("uniform_", None, 1 / math.sqrt(12)), ("normal_", None, 1.0), ("xavier_uniform_", math.sqrt(6 / 300), None),
    ("xavier_normal_", None, math.sqrt(2 / 300)), ("kaiming_uniform_", math.sqrt(6 / 200), None),
    ("kaiming_normal_", None, math.sqrt(2 / 200))])
def test_initial_distributions(name: str, bound: float | None, std: float | None) -> None:
    ts.manual_seed(5)
    weight = nn.Parameter(ts.zeros((100, 200)))
    assert getattr(init, name)(weight) is weight
    x = weight.detach().numpy()
    assert x.dtype == "float32" and abs(x.std() / (std or bound / math.sqrt(3)) - 1) < 0.03
    assert name == "uniform_" or abs(x.mean()) < 0.05 * x.std()
    assert bound is None or 0.99 * bound < abs(x).max() <= bound
    again = ts.zeros((100, 200))
    ts.manual_seed(5)
    same(getattr(init, name)(again), weight)
    if name not in ("uniform_", "normal_"):
        with pytest.raises(ValueError, match=r"\(3,\)"):
            getattr(init, name)(ts.zeros(3))


@given(st.integers(1, 6), st.integers(1, 6), seeds)
def test_orthogonal_constant_zeros_ones(rows: int, columns: int, seed: int) -> None:
    ts.manual_seed(seed)
    x = init.orthogonal_(ts.zeros((rows, columns), "float64"), gain=2).numpy()
    gram = x @ x.T if rows <= columns else x.T @ x
    close(gram, 4 * np.eye(min(rows, columns)))
    w = ts.tensor(x)
    assert [(f(w).numpy() == v).all() for f, v in ((init.zeros_, 0), (init.ones_, 1))] == [True, True]
    assert (init.constant_(w, 3.5).numpy() == 3.5).all()


def test_every_orthogonal_matrix_is_as_likely() -> None:
    ts.manual_seed(0)
    corners = [init.orthogonal_(ts.zeros((3, 3)))[0, 0].item() > 0 for _ in range(200)]
    assert 60 < sum(corners) < 140  # as LAPACK leaves them all are negative


@given(kind=st.sampled_from(["RNN", "GRU", "LSTM"]), bias=st.booleans(), inputs=st.integers(1, 6),
       hidden=st.integers(1, 6))
def test_recurrent_init_is_orthogonal_and_xavier_by_gate(kind: str, bias: bool, inputs: int, hidden: int) -> None:
    ts.random.manual_seed(0)
    layer = getattr(nn, kind)(inputs, hidden, 2, bias=bias, bidirectional=True, dtype="float64")
    model = nn.Sequential(nn.Linear(2, inputs), layer)
    linear = model.state_dict()["0.weight"].numpy().copy()
    assert init.recurrent_(model) is model
    assert (model.state_dict()["0.weight"].numpy() == linear).all()
    for name, parameter in layer.named_parameters():
        gates = parameter.detach().numpy().reshape(-1, hidden, *parameter.shape[1:])
        if name.startswith("weight_hh"):
            np.testing.assert_allclose(gates @ gates.swapaxes(1, 2), [np.eye(hidden)] * len(gates), atol=1e-12)
            assert len(gates) == 1 or hidden == 1 or (gates[0] != gates[1]).any()
        elif name.startswith("weight_ih"):
            bound = np.sqrt(6 / (hidden + gates.shape[2]))
            assert np.abs(gates).max() <= bound and (hidden * inputs < 9 or np.abs(gates).max() > bound / 2)
        else:
            forget = kind == "LSTM" and name.startswith("bias_ih")
            assert (gates == (np.arange(len(gates)) == 1)[:, None] * forget).all()


def test_recurrent_init_of_a_cell_and_of_what_has_none() -> None:
    cell = init.recurrent_(nn.LSTMCell(2, 3))
    assert cell.bias_ih.detach().numpy().tolist() == [0] * 3 + [1] * 3 + [0] * 6
    with pytest.raises(ValueError, match=r"Linear holds no.*only \['weight', 'bias'\]"):
        init.recurrent_(nn.Linear(2, 3))
