"""Arrays of the caller's are taken as they are at the call, whatever happens to them later."""

import copy
import functools
import os
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
from helpers.rows import ROWS, Row, inputs
from helpers.tensors import keyword_only, leaf

import tinyseq as ts
from tinyseq.engine import ops
from tinyseq.engine.debug import flat
from tinyseq.engine.tensor import Tensor

THOROUGH = os.environ.get("TINYSEQ_TEST_PROFILE") == "thorough"


def refill(x: Any) -> None:
    """Other values, as legal, in the arrays and lists of numbers in nested lists, tuples and dictionaries."""
    if isinstance(x, np.ndarray):
        x[...] = 77.0 if x.dtype.kind == "f" else x.flat[-1] if x.size else 0
    elif isinstance(x, list) and x and all(isinstance(y, int) for y in x):
        x[:] = x[-1:] * len(x)
    elif isinstance(x, (list, tuple, dict)):
        for y in x.values() if isinstance(x, dict) else x:
            refill(y)


def slopes_after(fn: Callable[..., Any], args: list[Any], order: int, then: Callable[[Any], None], held: Any) -> Any:
    """The gradients of a function's Tensors, its results weighted at random; `then(held)` runs before backward."""
    xs = [x for x in args if isinstance(x, Tensor) and x.requires_grad]
    ys = [y for y in flat(fn(*args)) if y.requires_grad]
    rng = np.random.default_rng(0)
    weights = [rng.uniform(1, 2, y.shape) for y in ys]
    then(held)
    found = ts.grad(ys, xs, weights, create_graph=order == 2, allow_unused=True) if ys else []
    return [None if g is None else g.detach().numpy() for g in found]


def taken_at_the_call(make: Callable[[], tuple[Any, list[Any], Any]], order: int, name: str = "") -> None:
    """What is `held` of the arguments may be refilled once the function has been called."""
    usual, found = (slopes_after(fn, args, order, then, held) for then in (lambda held: None, refill)
                    for fn, args, held in [make()])
    for a, b in zip(usual, found, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("seed", range(100 if THOROUGH else 4))
def test_an_op_takes_arrays_as_they_are_when_it_is_called(order: int, seed: int) -> None:
    choose = Random(seed).choice
    for r in ROWS:
        if not r.smooth:
            continue
        shapes, kwargs = r.make(choose)
        operands = inputs(r, choose, shapes, ["float64"] * len(shapes), True)
        if any(isinstance(x, np.ndarray) and not x.ndim for x in operands):
            continue                            # without axes they are numbers, which nobody refills
        for which in range(len(operands)):

            def make(r: Row = r, operands: Any = operands, kwargs: Any = kwargs, which: int = which) -> Any:
                args = [leaf(x) if i == which else np.array(x) if isinstance(x, np.ndarray) else x
                        for i, x in enumerate(operands)]
                more = copy.deepcopy(kwargs)
                return functools.partial(r.fn, **more), args, [args, more]

            taken_at_the_call(make, order, r.name)


F, nn, WIDE = ts.functional, ts.nn, {"dtype": np.float64}
IDS, LENGTHS, PLACES = np.array([[1, 0, 3], [2, 2, 1]]), np.array([3, 1]), np.array([2, 2])
CHANCES, SIX = np.linspace(0.2, 0.8, 24).reshape(2, 3, 4), np.cos(np.arange(24.0)).reshape(6, 4)
REAL, WAVES = CHANCES[..., 0] > 0.4, np.sin(np.arange(24.0)).reshape(2, 3, 4)
HELD = ts.tensor(WAVES)


def module(make: Callable[[], Any], *given: Any, **more: Any) -> Any:
    """A layer as a function of the arrays that it is called with, those, and the layer's parameters."""
    ts.manual_seed(0)
    layer, n = make(), len(given)
    run = lambda *arrays: layer(*arrays[:n], **dict(zip(more, arrays[n:], strict=True)))
    return run, [*given, *more.values()], list(layer.parameters())


def function(fn: Callable[..., Any], values: Any, *given: Any) -> Any:
    """The same for a function whose first argument is a Tensor with those values."""
    x = leaf(values)
    return functools.partial(fn, x), given, [x]


CALLS: dict[str, Callable[[], Any]] = {
    "embedding": lambda: module(lambda: nn.Embedding(4, 3, **WIDE), IDS),
    "embedding with padding": lambda: module(lambda: nn.Embedding(4, 3, 1, **WIDE), IDS),
    "linear": lambda: module(lambda: nn.Linear(4, 2, **WIDE), WAVES),
    "layer_norm": lambda: module(lambda: nn.LayerNorm(4, **WIDE), WAVES),
    "rms_norm": lambda: module(lambda: nn.RMSNorm(4, **WIDE), WAVES),
    **{layer.__name__: lambda layer=layer: module(lambda: layer(4, 3, 2, bidirectional=True, **WIDE), WAVES,
                                                  lengths=LENGTHS) for layer in (nn.GRU, nn.LSTM, nn.RNN)},
    "GRU from a state": lambda: module(lambda: nn.GRU(4, 3, **WIDE), WAVES, WAVES[:1, :2, :3]),
    "Scan": lambda: module(lambda: nn.Scan(nn.GRUCell, 4, 3).to(ts.float64), WAVES, lengths=LENGTHS),
    "cell": lambda: module(lambda: nn.LSTMCell(4, 3, **WIDE), SIX[:2]),
    "MultiheadAttention": lambda: module(lambda: nn.MultiheadAttention(4, 2, **WIDE), HELD, HELD, HELD,
                                         mask=REAL),
    "encoder": lambda: module(lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, 0.0, **WIDE), 2), HELD,
                              lengths=LENGTHS),
    "decoder": lambda: module(lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 8, 0.0, **WIDE), 2), WAVES,
                              CHANCES, memory_mask=REAL),
    "language model": lambda: module(lambda: nn.LanguageModel(4, 4, 2, 2, 8, 0.0, **WIDE), IDS),
    "additive": lambda: module(lambda: nn.AdditiveAttention(4, 4, 3).to(ts.float64), HELD, HELD, REAL),
    "dot": lambda: module(lambda: nn.DotAttention(4, 4, True).to(ts.float64), HELD, HELD, REAL),
    "CRF": lambda: module(lambda: nn.CRF(4, **WIDE), HELD, IDS, lengths=LENGTHS),
    "CTC": lambda: function(lambda x, *given: nn.CTCLoss()(F.log_softmax(x), *given), WAVES, IDS[:, :1] + 1, PLACES + 1,
                            PLACES - 1),
    "cross_entropy": lambda: function(F.cross_entropy, WAVES, IDS, CHANCES[0, 0]),
    "nll_loss": lambda: function(F.nll_loss, WAVES, IDS, CHANCES[0, 0]),
    **{name: lambda name=name: function(getattr(F, name), np.sqrt(CHANCES), CHANCES) for name in (
        "mse_loss", "l1_loss", "huber_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div")},
    "mse_loss the other way round": lambda: function(lambda t, x: F.mse_loss(x, t), WAVES, CHANCES),
    "softmax": lambda: function(lambda x, mask: F.softmax(x, -1, mask), WAVES, CHANCES > 0.4),
    "attention": lambda: function(F.attention, WAVES, CHANCES, CHANCES, REAL[:, None]),
    "attention to a query": lambda: function(lambda k, q, v: F.attention(q, k, v), WAVES, WAVES, CHANCES),
    "scan": lambda: function(
        lambda w, x, lengths, mask: F.scan("rnn_tanh", x, ts.zeros((2, 4), np.float64), None, w, w, None, None, lengths,
                                           False, mask), SIX[:4], ts.tensor(WAVES), LENGTHS, CHANCES[:, 0]),
    "recompute": lambda: function(functools.partial(ts.recompute, ops.multiply), CHANCES, WAVES),
    "stack": lambda: function(lambda x, y: ts.prod(ts.stack([x, y]), 0), CHANCES, WAVES),
    "by keyword only": lambda: function(lambda x, w: ts.op(keyword_only)(x, w=w), CHANCES, WAVES),
}


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("call", CALLS)
def test_a_layer_takes_arrays_as_they_are_when_it_is_called(order: int, call: str) -> None:
    def make() -> Any:
        fn, given, leaves = CALLS[call]()
        held = [np.array(x) if isinstance(x, np.ndarray) else x for x in given]
        return (lambda *leaves: fn(*held)), leaves, held

    taken_at_the_call(make, order)
