"""Scans whose lengths are integers of any width."""

import numpy as np
import pytest
from helpers.functions import scan

import tinyseq as ts
import tinyseq.functional as F
from tinyseq import backends, nn


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint64"])
@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_may_be_of_any_integer_type_or_a_list(dtype: str, reverse: bool) -> None:
    _, x, h, _, *more = scan("gru")(lambda options: options[0])[0]
    x = np.random.default_rng(0).standard_normal((3, 5, x.shape[2]))
    arguments = ["gru", *(ts.tensor(v) for v in (x, np.ones((3, h.shape[1])))), None,
                 *(None if v is None else ts.tensor(v) for v in more[:4])]
    expected = F.scan(*arguments, np.array([2, 0, 4]), reverse)
    for lengths in (np.array([2, 0, 4], dtype), ts.tensor(np.array([2, 0, 4], dtype)), [2, 0, 4]):
        for y, z in zip(F.scan(*arguments, lengths, reverse), expected, strict=True):
            assert np.array_equal(y.numpy(), z.numpy())


def test_the_kernel_hears_whether_anything_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    kernel = type(backends.active()).rnn_forward
    monkeypatch.setattr(type(backends.active()), "rnn_forward", lambda *a: asked.append(a[-1]) or kernel(*a))
    layer, x = nn.RNN(2, 3), ts.ones((1, 4, 2))
    y, _ = layer(x)
    with ts.no_grad():
        layer(x)
    assert asked == [True, False] and y.requires_grad
