"""The room's names: those that PyTorch has too are of the same kind, and all are listed."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinyseq as ts
from tinyseq import functional as F
from tinyseq import nn
from tinyseq.engine.debug import flat


def test_all_names_are_listed_once() -> None:
    public = {name for name, made in vars(nn).items() if not name.startswith("_") and not inspect.ismodule(made)}
    assert sorted(nn.__all__) == sorted({*public, "convert", "functional", "init"})


@pytest.mark.reference
def test_what_pytorch_has_too_is_of_its_kind() -> None:
    """A class of layers where PyTorch has one. Arguments by place: tests/test_positions.py."""
    torch = pytest.importorskip("torch")
    shared = [name for name in nn.__all__ if hasattr(torch.nn, name)]
    assert len(shared) > 25
    for name in shared:
        assert inspect.isclass(getattr(nn, name)) == inspect.isclass(getattr(torch.nn, name)), name


IDS, LENGTHS = np.random.default_rng(0).integers(0, 9, (3, 40)), np.array([40, 17, 1])
MEMORY = np.random.default_rng(1).standard_normal((3, 5, 16)).astype("float16")
SMOOTH: Any = {"dropout": 0.0, "activation": "gelu"}     # a rounding may switch a ReLU
HALF: dict[str, tuple[Callable[[], Any], Callable[[Any, Any], Any]]] = {     # of width 16, and called on (3, 40, 16)
    **{name: (lambda name=name: getattr(nn, name)(16, 8), lambda m, x: m(x, lengths=LENGTHS))
       for name in ("RNN", "GRU", "LSTM", "MinGRU", "MinLSTM", "LRU")},
    **{name: (lambda name=name: getattr(nn, name)(16, 8), lambda m, x: m(x[:, 0]))
       for name in ("RNNCell", "GRUCell", "LSTMCell")},
    **{name: (lambda name=name: getattr(nn, name)(16), lambda m, x: m(x)) for name in ("LayerNorm", "RMSNorm")},
    "long LRU": (lambda: nn.LRU(16, 8, r_min=0.99, r_max=0.9999), lambda m, x: m(x, lengths=LENGTHS)),
    "Scan": (lambda: nn.Scan(nn.GRUCell, 16, 8), lambda m, x: m(x, lengths=LENGTHS)),
    "Linear": (lambda: nn.Linear(16, 8), lambda m, x: m(x)),
    "Embedding": (lambda: nn.Embedding(9, 8), lambda m, _: m(IDS)),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(16, 4), lambda m, x: m(x, lengths=LENGTHS)),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(16, 4, 32, **SMOOTH),
                                lambda m, x: m(x, lengths=LENGTHS)),
    "TransformerDecoderLayer": (lambda: nn.TransformerDecoderLayer(16, 4, 32, **SMOOTH),
                                lambda m, x: m(x, ts.tensor(MEMORY.astype(x.dtype)), memory_lengths=[5, 2, 3])),
    "LanguageModel": (lambda: nn.LanguageModel(9, 16, 4, 2, 32, **SMOOTH), lambda m, _: m(IDS)),
    "rotary": (lambda: nn.LanguageModel(9, 16, 4, 2, 32, **SMOOTH, positions="rotary"), lambda m, _: m(IDS)),
    "learned": (lambda: nn.LanguageModel(9, 16, 4, 2, 32, **SMOOTH, positions="learned", max_length=40),
                lambda m, _: m(IDS)),
    "AdditiveAttention": (lambda: nn.AdditiveAttention(16, 16, 8),
                          lambda m, x: m(x, ts.tensor(MEMORY.astype(x.dtype)))),
    "CRF": (lambda: nn.CRF(16), lambda m, x: m(x, IDS, LENGTHS)),
    "CTCLoss": (lambda: nn.CTCLoss(), lambda m, x: m(F.log_softmax(x), [[1, 2]] * 3, [40, 17, 3], [2, 1, 1]))}


@pytest.mark.parametrize("name", HALF)
def test_a_layer_in_float16_is_that_in_float64_but_for_a_few_roundings(name: str) -> None:
    """Of the same weights and inputs: outputs to 8, gradients to 16 units of float16 in the largest entry."""
    make, call = HALF[name]
    ts.manual_seed(0)
    half = make().to(ts.float16)
    found = {}
    for dtype in ("float16", "float64"):
        model = half.to(dtype)
        x = ts.tensor(np.random.default_rng(2).standard_normal((3, 40, 16)).astype("float16").astype(dtype),
                      requires_grad=True)
        ys = [y for y in flat(call(model, x)) if isinstance(y, ts.Tensor) and y.requires_grad]
        seeds = [np.random.default_rng(i).standard_normal(y.shape).astype("float16") for i, y in enumerate(ys)]
        leaves = [x, *model.parameters()]
        slopes = ts.grad(ys, leaves, [ts.tensor(s.astype(y.dtype)) for s, y in zip(seeds, ys, strict=True)],
                         allow_unused=True)
        found[dtype] = [(8, y.detach()) for y in ys] + [(16, g) for g in slopes if g is not None]
    for (units, y), (_, z) in zip(*found.values(), strict=True):
        assert y.dtype == ("float32" if name in ("CRF", "CTCLoss") and units == 8 else "float16")
        exact = z.numpy()
        np.testing.assert_allclose(y.numpy(), exact, rtol=0, atol=units * 2.0**-11 * abs(exact).max(initial=2.0**-14))
