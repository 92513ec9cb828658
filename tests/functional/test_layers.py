"""Dropout: its rate, scale and seed, and that recomputation replays it."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
import tinyseq.functional as F


@given(st.floats(0.05, 0.95), st.integers(0, 2**64 - 1))
def test_dropout_rate_scale_and_seed(p: float, number: int) -> None:
    x = ts.ones((4000,), ts.float64)
    ts.manual_seed(number)
    y, other = F.dropout(x, p).numpy(), F.dropout(x, p).numpy()
    ts.manual_seed(number)
    assert (F.dropout(x, p).numpy() == y).all() and (other != y).any()
    kept = y != 0
    assert abs(kept.mean() - (1 - p)) < 6 * math.sqrt(p * (1 - p) / 4000)
    np.testing.assert_allclose(y[kept], 1 / (1 - p))
    state = ts.random.get_state()
    assert F.dropout(x, p, training=False) is x and F.dropout(x, 0.0) is x and ts.random.get_state() == state


def test_recompute_replays_dropout() -> None:
    x = ts.ones((50,), requires_grad=True)
    ts.manual_seed(1)
    plain = F.dropout(x, 0.5)
    ts.manual_seed(1)
    again = ts.recompute(lambda x: F.dropout(x, 0.5), x)
    following = F.dropout(ts.ones((50,)), 0.5).numpy()
    again.backward(ts.ones((50,)))
    assert (plain.detach().numpy() == again.detach().numpy()).all()
    assert x.grad is not None and (x.grad.numpy() == plain.detach().numpy()).all()
    assert (following != plain.detach().numpy()).any()
