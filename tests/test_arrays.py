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
from helpers.tensors import compare, keyword_only, leaf

import tinyseq as ts
from tinyseq import lens, models
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
        "mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss",
        "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div")},
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


# --- what is an array ------------------------------------------------------------------------------------------------
# A Tensor, a NumPy array, a nested list of numbers and a PyTorch tensor of the same numbers are the same argument.

SHORT = WAVES.astype(np.float32)
MEMORY, ROW = CHANCES.astype(np.float32), SHORT[:, 0]
STATE = np.cos(np.arange(6.0, dtype=np.float32)).reshape(1, 2, 3)
SMALL = dict(dim_feedforward=3, dropout=0.0)


def decoder(attention: Any = None, **more: Any) -> Any:
    return nn.AttentionDecoder(5, 2, 3, attention, 4 if attention else 0, **more)


LAYERS: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {  # what is called, and its arrays by name
    "Activation": lambda: (nn.GELU(), {"x": SHORT}),
    "Linear": lambda: (nn.Linear(4, 2), {"x": SHORT}),
    "Embedding": lambda: (nn.Embedding(4, 3), {"ids": IDS}),
    "LayerNorm": lambda: (nn.LayerNorm(4), {"x": SHORT}),
    "RMSNorm": lambda: (nn.RMSNorm(4), {"x": SHORT}),
    "Dropout": lambda: (nn.Dropout(0.5), {"x": SHORT}),
    "Dropout in evaluation": lambda: (nn.Dropout(0.5).eval(), {"x": SHORT}),
    "Sequential": lambda: (nn.Sequential(nn.Linear(4, 2), nn.Tanh()), {"x": SHORT}),
    **{layer.__name__: lambda layer=layer: (layer(4, 3), {"x": SHORT, "h0": STATE, "lengths": LENGTHS})
       for layer in (nn.RNN, nn.GRU, nn.MinGRU, nn.MinLSTM)},
    "LRU": lambda: (nn.LRU(4, 3), {"x": SHORT, "state": (STATE, -STATE), "lengths": LENGTHS}),
    "LSTM": lambda: (nn.LSTM(4, 3), {"x": SHORT, "state": (STATE, -STATE), "lengths": LENGTHS}),
    "RNNCell": lambda: (nn.RNNCell(4, 3), {"x": ROW, "h": STATE[0]}),
    "GRUCell": lambda: (nn.GRUCell(4, 3), {"x": ROW, "h": STATE[0]}),
    "LSTMCell": lambda: (nn.LSTMCell(4, 3), {"x": ROW, "state": (STATE[0], -STATE[0])}),
    "Scan": lambda: (nn.Scan(nn.GRUCell, 4, 3), {"x": SHORT, "state": (STATE,), "lengths": LENGTHS}),
    "Scan from a state": lambda: (nn.Scan(nn.RNNCell, 4, 3), {"x": SHORT, "state": STATE}),
    "MultiheadAttention": lambda: (nn.MultiheadAttention(4, 2), {"query": SHORT, "key": MEMORY, "value": SHORT,
                                                                 "mask": REAL}),
    "MultiheadAttention to itself": lambda: (nn.MultiheadAttention(4, 2), {"query": SHORT, "lengths": LENGTHS}),
    "MultiheadAttention.remember": lambda: (nn.MultiheadAttention(4, 2).remember, {"key": SHORT, "value": MEMORY}),
    **{name: lambda make=make: (make(), {"query": SHORT, "memory": MEMORY, "mask": REAL}) for name, make in {
        "AdditiveAttention": lambda: nn.AdditiveAttention(4, 4, 3), "DotAttention": lambda: nn.DotAttention(4, 4, True),
        "FixedContext": lambda: nn.FixedContext(4, "mean", 3), "MultiheadContext": lambda: nn.MultiheadContext(4, 4, 2),
    }.items()},
    "TransformerEncoderLayer": lambda: (nn.TransformerEncoderLayer(4, 2, **SMALL), {"src": SHORT, "lengths": LENGTHS}),
    "TransformerDecoderLayer": lambda: (nn.TransformerDecoderLayer(4, 2, **SMALL), {
        "tgt": SHORT, "memory": MEMORY, "memory_mask": REAL, "lengths": LENGTHS, "memory_lengths": LENGTHS}),
    "TransformerEncoder": lambda: (nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, **SMALL), 2), {
        "src": SHORT, "mask": REAL}),
    "TransformerEncoder.start": lambda: (nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, **SMALL), 2).start, {
        "src": SHORT, "lengths": LENGTHS}),
    "TransformerDecoder": lambda: (nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, **SMALL), 2), {
        "tgt": SHORT, "memory": MEMORY, "memory_mask": REAL}),
    "TransformerDecoder.start": lambda: (nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, **SMALL), 2).start, {
        "memory": MEMORY, "lengths": LENGTHS, "mask": REAL}),
    **{f"TransformerEncoder.{name}": lambda name=name, x=x: (
        lambda x: getattr(m := nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, **SMALL), 2).eval(), name)(
            x, m.start(np.zeros((2, 0, 4), np.float32))), {"x": x}) for name, x in (("read", SHORT), ("step", ROW))},
    "Transformer": lambda: (nn.Transformer(4, 2, 1, 1, **SMALL), {
        "src": SHORT, "tgt": MEMORY, "mask": REAL, "lengths": LENGTHS, "tgt_lengths": LENGTHS}),
    "SinusoidalPositions": lambda: (nn.SinusoidalPositions(4), {"x": SHORT, "ids": np.array([2, 0, 1])}),
    "LearnedPositions": lambda: (nn.LearnedPositions(5, 4), {"x": SHORT, "ids": IDS}),
    "LanguageModel": lambda: (nn.LanguageModel(5, 4, 2, 1, **SMALL), {"tokens": IDS, "lengths": LENGTHS}),
    "LanguageModel.start": lambda: (nn.LanguageModel(5, 4, 2, 1, **SMALL).start, {"tokens": IDS, "lengths": LENGTHS}),
    "LanguageModel.step": lambda: (lambda tokens: (m := nn.LanguageModel(5, 4, 2, 1, **SMALL).eval()).step(
        tokens, m.start(IDS)), {"tokens": IDS[:, 0]}),
    "ConditionalLanguageModel": lambda: (lambda memory, mask, tokens: (
        m := nn.ConditionalLanguageModel(5, 4, 2, 1, **SMALL))(tokens, m.start(memory, None, mask)), {
            "memory": MEMORY, "mask": REAL, "tokens": IDS}),
    "AttentionDecoder.start": lambda: (decoder(nn.DotAttention(3, 4)).start, {
        "memory": MEMORY, "hidden": STATE[0], "mask": REAL}),
    "AttentionDecoder.start of an LSTM": lambda: (decoder(cell=nn.LSTM).start, {
        "memory": MEMORY, "hidden": (STATE[0], -STATE[0])}),
    "AttentionDecoder": lambda: (lambda tokens: (m := decoder(nn.DotAttention(3, 4)))(tokens, m.start(MEMORY)), {
        "tokens": IDS}),
    "AttentionDecoder.step": lambda: (lambda tokens: (m := decoder()).step(tokens, m.start(MEMORY)), {
        "tokens": IDS[:, 0]}),
    "EncoderDecoder": lambda: (nn.EncoderDecoder(nn.Embedding(5, 2), nn.GRU(2, 3), nn.AttentionDecoder(
        5, 2, 3, nn.DotAttention(3, 3), 3)), {"source": IDS, "lengths": LENGTHS, "target": IDS}),
    "CTCLoss": lambda: (nn.CTCLoss(), {"log_probs": np.log(MEMORY), "targets": IDS[:, :1] + 1,
                                       "input_lengths": PLACES + 1, "target_lengths": PLACES - 1}),
    "CRF": lambda: (nn.CRF(4), {"x": SHORT, "tags": IDS, "lengths": LENGTHS}),
    "CRF.decode": lambda: (nn.CRF(4).decode, {"x": SHORT, "lengths": LENGTHS}),
    **{type(layer).__name__: lambda layer=layer: (copy.deepcopy(layer), {"x": SHORT, "lengths": LENGTHS}) for layer in (
        nn.Conv1d(4, 3, 2, causal=True), nn.MaxPool1d(2), nn.AvgPool1d(2), nn.BatchNorm1d(4), nn.GroupNorm(2, 4))},
    "Conv1d.step": lambda: (lambda x, lengths, state: nn.Conv1d(4, 3, 2, causal=True).step(x, state, lengths), {
        "x": SHORT, "lengths": LENGTHS, "state": SHORT[:1, :2]}),
    **{type(layer).__name__: lambda layer=layer: (copy.deepcopy(layer), {"x": SHORT}) for layer in (
        nn.PReLU(4), nn.Softmax(), nn.LogSoftmax(), nn.GLU())},
    "Identity": lambda: (lambda x: nn.Identity()(ts.asarray(x)), {"x": SHORT}),
    "EmbeddingBag": lambda: (nn.EmbeddingBag(4, 3), {"ids": IDS, "lengths": LENGTHS}),
    "EmbeddingBag of weighted ids": lambda: (nn.EmbeddingBag(4, 3, mode="sum"), {
        "ids": IDS[0], "offsets": np.array([0, 2]), "per_sample_weights": np.array([0.5, 2.0, 1.0], np.float32)}),
    "CrossEntropyLoss": lambda: (nn.CrossEntropyLoss(), {"logits": SHORT, "targets": IDS}),
    "NLLLoss": lambda: (nn.NLLLoss(), {"log_probs": SHORT, "targets": IDS}),
    **{name: lambda name=name: (getattr(nn, name)(), {"x": SHORT, "target": SHORT[::-1] ** 2})
       for name in ("MSELoss", "L1Loss", "HuberLoss", "SmoothL1Loss", "BCEWithLogitsLoss")},
    "BCELoss": lambda: (nn.BCELoss(), {"probs": SHORT**2 / 9, "target": SHORT[::-1] ** 2 / 9}),
    "KLDivLoss": lambda: (nn.KLDivLoss(), {"log_probs": SHORT, "target": SHORT[::-1] ** 2}),
    "Bert": lambda: (models.Bert(5, 4, 2, 1, 3, max_length=6, dropout=0.0), {"tokens": IDS, "lengths": LENGTHS}),
    "lens.gradients_through_time": lambda: (lambda x, lengths: lens.gradients_through_time(
        nn.GRU(4, 3), x, ts.sum, lengths), {"x": SHORT, "lengths": LENGTHS}),
    "lens.gate_saturation": lambda: (lambda x, lengths: lens.gate_saturation(nn.GRU(4, 3), x, lengths), {
        "x": SHORT, "lengths": LENGTHS}),
}


def check_forms(layer: str, torch: bool) -> None:
    found = []
    for name in LAYERS[layer]()[1]:

        def run(x: Any, name: str = name) -> Any:
            ts.manual_seed(0)
            fn, given = LAYERS[layer]()
            return fn(**{k: ts.tensor(v) if isinstance(v, np.ndarray) else v for k, v in given.items()} | {name: x})

        found += compare(run, LAYERS[layer]()[1][name], f"{layer}: {name}", torch)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_takes_an_array_in_each_form(layer: str) -> None:
    check_forms(layer, False)


@pytest.mark.reference
@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_takes_a_torch_tensor(layer: str) -> None:
    pytest.importorskip("torch")
    check_forms(layer, True)


def test_every_layer_is_among_them() -> None:
    named = {name.partition(".")[0].partition(" ")[0] for name in LAYERS}
    layers = {n for n in nn.__all__ if isinstance(c := getattr(nn, n), type) and issubclass(c, nn.Module)}
    activations = {n for n in layers if issubclass(getattr(nn, n), nn.Activation)} - {"Activation"}
    assert layers - activations - {"Module", "Attention"} <= named
