"""Data of the host goes where the model is."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinyseq as ts
import tinyseq.functional as F
from tinyseq import nn


class Elsewhere:
    """An active backend that is not the model's, and that nothing may be put on."""

    name, array_types, xp = "elsewhere", (), np

    def asarray(self, data: Any, dtype: Any = None, copy: bool | None = None) -> Any:
        raise AssertionError("host data went to the active backend, not to the one where x lives")


@pytest.mark.parametrize("order", [1, 2])
def test_host_data_goes_where_the_model_is(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, p = ts.tensor(np.ones((2, 3)), requires_grad=True), ts.tensor(np.full((2, 3), 0.5), requires_grad=True)
    sequence, layer = ts.tensor(np.ones((2, 4, 3), "float32"), requires_grad=True), nn.GRU(3, 3)
    memory, attention, table = ts.tensor(np.ones((2, 4, 3), "float32")), nn.DotAttention(3, 3), nn.Embedding(4, 3, 0)
    monkeypatch.setattr(ts.backends, "active", Elsewhere)
    cases: list[tuple[ts.Tensor, Callable[[], ts.Tensor]]] = [
        (x, lambda: F.softmax(x, -1, [[True, False, True]])),
        (x, lambda: F.cross_entropy(x, [0, 1], [0.5, 1.0, 2.0], label_smoothing=0.1)),
        (x, lambda: F.cross_entropy(x, np.array([0, 1]), np.ones(3))),
        (x, lambda: F.nll_loss(x * x, [0, 1], [0.5, 1.0, 2.0])),
        (x, lambda: F.nll_loss(x * x, [0, 1])),
        *((x, lambda loss=loss: loss(x, [[0.0] * 3] * 2)) for loss in (F.mse_loss, F.l1_loss, F.huber_loss)),
        (p, lambda: F.binary_cross_entropy(p, [[0.0] * 3] * 2)),
        (x, lambda: F.binary_cross_entropy_with_logits(x, np.zeros((2, 3)), pos_weight=[1.0, 2.0, 3.0])),
        (x, lambda: F.kl_div(x, [[0.2] * 3] * 2)),
        (sequence, lambda: layer(sequence, lengths=[4, 2])[0]),
        (sequence, lambda: attention(sequence, memory, np.ones((2, 4), bool))[0]),
        (table.weight, lambda: table([[0, 2]])),
    ]
    for leaf, f in cases:
        y = ts.sum(f())
        assert y.dtype == leaf.dtype
        slope = ts.grad(y * y, leaf, create_graph=order == 2)
        if order == 2:
            ts.grad(ts.sum(slope * slope), leaf, allow_unused=True)
