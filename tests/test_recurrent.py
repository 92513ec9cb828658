"""The recurrent family: initialisation by name, cells, a scan over any cell, one dropout mask over time, chunks."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
import tinyseq.functional as F
from tinyseq import nn
from tinyseq.nn import init


# --- initialisation ------------------------------------------------------------------------------------------------


@given(kind=st.sampled_from(["RNN", "GRU", "LSTM"]), bias=st.booleans(), inputs=st.integers(1, 6),
       hidden=st.integers(1, 6))
def test_recurrent_init_is_orthogonal_and_xavier_by_gate(kind: str, bias: bool, inputs: int, hidden: int) -> None:
    ts.random.manual_seed(0)
    layer = getattr(nn, kind)(inputs, hidden, 2, bias=bias, bidirectional=True, dtype="float64")
    model = nn.Sequential(nn.Linear(2, 3), layer)
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


def test_recurrent_init_names_a_module_without_recurrent_weights() -> None:
    with pytest.raises(ValueError, match=r"Linear holds no.*only weight, bias"):
        init.recurrent_(nn.Linear(2, 3))
