"""Weights of other libraries give in our layers what they give there."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import nn
from tinyseq.nn import convert

B, T, I, H = 2, 4, 3, 2


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def normal(rng: np.random.Generator, *shape: int) -> Any:
    return rng.standard_normal(shape)


def run(layer: Any, state: Any, x: Any) -> Any:
    layer.load_state_dict(state)
    return layer(ts.asarray(x))[0].detach().numpy()


# --- Keras: the equations of keras.layers' cells, as documented, one step after the other -----------------------------


def keras_step(cell: str, after: bool, relu: bool, x: Any, h: Any, c: Any, w: Any, u: Any, b: Any) -> tuple[Any, Any]:
    """h and c after a step; b has a row for the kernel and one for the recurrent kernel."""
    x, inner = x @ w + b[0], h @ u + b[1]
    if cell == "RNN":
        return (np.maximum if relu else lambda _, z: np.tanh(z))(0, x + inner), c
    if cell == "LSTM":
        i, f, g, o = np.split(x + inner, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    (xz, xr, xh), (hz, hr, hh) = np.split(x, 3, -1), np.split(inner, 3, -1)
    z, r = sigmoid(xz + hz), sigmoid(xr + hr)
    new = np.tanh(xh + r * hh) if after else np.tanh(xh + (r * h) @ u[:, 2 * H :])
    return z * h + (1 - z) * new, c


def keras(cell: str, after: bool, relu: bool, x: Any, weights: Any) -> Any:
    w, u, *bias = weights
    b = np.zeros((2, w.shape[1])) if not bias else bias[0] if bias[0].ndim == 2 else np.stack([bias[0], 0 * bias[0]])
    h, c, ys = np.zeros((len(x), H)), np.zeros((len(x), H)), []
    for t in range(x.shape[1]):
        h, c = keras_step(cell, after, relu, x[:, t], h, c, w, u, b)
        ys.append(h)
    return np.stack(ys, 1)


def keras_weights(rng: np.random.Generator, cell: str, after: bool, bias: bool, width: int = I) -> list[Any]:
    columns = {"RNN": 1, "GRU": 3, "LSTM": 4}[cell] * H
    shape = (2, columns) if cell == "GRU" and after else (columns,)
    return [normal(rng, width, columns), normal(rng, H, columns), *([normal(rng, *shape)] if bias else [])]


def ours(cell: str, after: bool, relu: bool, **options: Any) -> Any:
    more = {"RNN": {"nonlinearity": "relu" if relu else "tanh"}, "GRU": {"reset": "after" if after else "before"}}
    return getattr(nn, cell)(I, H, **more.get(cell, {}), **options, dtype="float64")


cells, flags, seeds = st.sampled_from(["RNN", "GRU", "LSTM"]), st.booleans(), st.integers(0, 99)


@given(cells, flags, flags, flags, flags, seeds)
def test_keras_weights(cell: str, after: bool, relu: bool, bias: bool, two: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, weights = normal(rng, B, T, I), keras_weights(rng, cell, after, bias)
    config: dict[str, Any] = {"activation": "relu" if cell == "RNN" and relu else "tanh", "reset_after": after,
                              "use_bias": bias}
    expected = keras(cell, after, relu, x, weights)
    if two:
        back = keras_weights(rng, cell, after, bias)
        config = {"layer": {"config": config}, "merge_mode": "concat"}
        expected = np.concatenate([expected, keras(cell, after, relu, x[:, ::-1], back)[:, ::-1]], -1)
        weights += back
    layer = ours(cell, after, relu, bidirectional=two)
    np.testing.assert_allclose(run(layer, convert.from_keras(layer, weights, config), x), expected, atol=1e-12)


def test_stacked_layers_are_joined() -> None:
    rng = np.random.default_rng(0)
    x, lower, upper = normal(rng, B, T, I), *(keras_weights(rng, "GRU", True, True, n) for n in (I, H))
    layer = ours("GRU", True, False, num_layers=2)
    state = convert.from_keras(layer, lower, {}) | convert.from_keras(layer, upper, {}, index=1)
    expected = keras("GRU", True, False, keras("GRU", True, False, x, lower), upper)
    np.testing.assert_allclose(run(layer, state, x), expected, atol=1e-12)


# --- ONNX: its own reference evaluator, forward in time ---------------------------------------------------------------


@given(cells, flags, flags, flags, seeds)
def test_onnx_weights(cell: str, after: bool, bias: bool, two: bool, seed: int) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    helper, evaluator = onnx.helper, pytest.importorskip("onnx.reference").ReferenceEvaluator
    rng, directions, rows = np.random.default_rng(seed), 1 + two, {"RNN": 1, "GRU": 3, "LSTM": 4}[cell] * H
    tensors = [normal(rng, directions, *shape) for shape in ((rows, I), (rows, H), (2 * rows,))[: 2 + bias]]
    attributes: dict[str, Any] = {"direction": "bidirectional" if two else "forward"}
    if cell == "GRU":
        attributes["linear_before_reset"] = int(after)
    node = helper.make_node(cell, ["X", "W", "R", "B"][: 3 + bias], ["Y"], hidden_size=H, **attributes)
    float64 = onnx.TensorProto.DOUBLE
    given = [helper.make_tensor_value_info(name, float64, None) for name in node.input]
    graph = helper.make_graph([node], "one", given, [helper.make_tensor_value_info("Y", float64, None)])
    x = normal(rng, B, T, I)
    feeds = dict(zip(node.input, [x.swapaxes(0, 1), *tensors], strict=True))
    (y,) = evaluator(helper.make_model(graph)).run(None, feeds)  # (T, directions, B, H)
    layer = ours(cell, after, False, bidirectional=two)
    read = {a.name: helper.get_attribute_value(a) for a in node.attribute}  # strings are bytes there
    state = convert.from_onnx(layer, *tensors, **read)
    np.testing.assert_allclose(run(layer, state, x), np.concatenate(y.transpose(1, 2, 0, 3), -1), atol=1e-12)


# --- PyTorch ----------------------------------------------------------------------------------------------------------


@pytest.mark.reference
@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
def test_torch_weights(cell: str) -> None:
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn, cell)(I, H, 2, bidirectional=True, batch_first=True).double()
    layer, x = ours(cell, True, False, num_layers=2, bidirectional=True), normal(np.random.default_rng(0), B, T, I)
    expected = theirs(torch.tensor(x))[0].detach().numpy()
    np.testing.assert_allclose(run(layer, convert.from_torch(layer, theirs.state_dict()), x), expected, atol=1e-12)


# --- what cannot be ------------------------------------------------------------------------------------------


def test_what_cannot_be_converted_is_refused_with_the_equations() -> None:
    rng = np.random.default_rng(0)
    rnn, gru, before, lstm = (ours(*kind) for kind in (("RNN", 1, 0), ("GRU", 1, 0), ("GRU", 0, 0), ("LSTM", 1, 0)))
    after_w, before_w = (keras_weights(rng, "GRU", after, True) for after in (True, False))
    lstm_w, onnx_w = keras_weights(rng, "LSTM", True, True), [np.ones((1, 4 * H, n)) for n in (I, H)]
    gru_w = [np.ones((1, 3 * H, n)) for n in (I, H)]
    two, saved = {"layer": {"config": {}}, "merge_mode": "concat"}, {"class_name": "LSTM", "config": {}}
    both = r"U \(r \* h\).*; the GRU here computes n = tanh\(W x \+ b \+ r \* \(U h"
    refused = [
        (convert.from_torch, (before, gru.state_dict()), {}, r"r \* \(U h \+ d\).*here computes.* U \(r \* h\)"),
        (convert.from_torch, (lstm, {"weight_hr_l0": 0}), {}, r"W_hr"),
        (convert.from_keras, (gru, before_w, {"reset_after": False}), {}, both),
        (convert.from_keras, (before, after_w, {}), {}, r"r \* \(U h \+ d\)"),
        (convert.from_keras, (gru, before_w, {}), {}, r"bias of shape \(6,\)"),
        (convert.from_keras, (gru, after_w, {"recurrent_activation": "hard_sigmoid"}), {}, "hard_sigmoid"),
        (convert.from_keras, (rnn, keras_weights(rng, "RNN", True, True), {"activation": "relu"}), {}, "relu.*tanh"),
        (convert.from_keras, (lstm, lstm_w, {"go_backwards": True}), {}, "go_backwards"),
        (convert.from_keras, (lstm, lstm_w * 2, {"layer": {"config": {}}, "merge_mode": "sum"}), {}, "merge_mode"),
        (convert.from_keras, (lstm, lstm_w * 2, {"layer": {"config": {}}, "merge_mode": "concat"}), {}, "1 direction"),
        (convert.from_keras, (lstm, lstm_w, {}), {"index": 1}, "weight_ih_l1"),
        (convert.from_keras, (lstm, lstm_w * 2, {}), {}, "3 arrays: .* and 6 arrays"),
        (convert.from_keras, (lstm, lstm_w, two), {}, "6 arrays: .* and 3 arrays"),
        (convert.from_keras, (lstm, lstm_w, {"use_bias": False}), {}, "2 arrays: .* and 3 arrays"),
        (convert.from_keras, (lstm, lstm_w[:2], {}), {}, "3 arrays: .* and 2 arrays"),
        (convert.from_keras, (lstm, lstm_w, saved), {}, r"get_config\(\).*\['class_name', 'config'\]"),
        (convert.from_onnx, (gru, *gru_w), {}, both),
        (convert.from_onnx, (before, *gru_w), {"linear_before_reset": 1}, r"r \* \(U h \+ d\)"),
        (convert.from_onnx, (lstm, *onnx_w, None, np.ones((1, 3 * H))), {}, "peepholes"),
        (convert.from_onnx, (lstm, *onnx_w), {"activations": ["HardSigmoid", "Tanh", "Tanh"]}, "HardSigmoid"),
        (convert.from_onnx, (rnn, *[w[:, :H] for w in onnx_w]), {"activations": [b"Relu"]}, "relu.*tanh"),
        (convert.from_onnx, (rnn, *[w[:, :H] for w in onnx_w]), {"activations": ["Affine"]}, "Affine"),
        (convert.from_onnx, (lstm, *onnx_w), {"clip": 3.0}, "clip=3.0"),
        (convert.from_onnx, (lstm, *onnx_w), {"input_forget": 1}, "input_forget=1"),
        (convert.from_onnx, (lstm, *onnx_w), {"hidden_size": 3}, "hidden_size=3 in place of 2"),
        (convert.from_onnx, (lstm, *onnx_w), {"linear_after_reset": 1}, r"before_reset'\], got \['linear_after"),
        (convert.from_onnx, (lstm, *onnx_w), {"direction": "reverse"}, "direction='reverse'"),
        (convert.from_onnx, (lstm, *gru_w), {}, r"weight_ih_l0: \(6, 3\) given, \(8, 3\) here"),
    ]
    for function, arguments, options, words in refused:
        with pytest.raises(ValueError, match=words):
            function(*arguments, **options)


@pytest.mark.parametrize("layer", [nn.Linear(I, H), nn.Scan(nn.GRUCell, I, H), nn.GRUCell(I, H), {}], ids=repr)
def test_weights_are_for_recurrent_layers_alone(layer: Any) -> None:
    for function, arguments in ((convert.from_torch, ({},)), (convert.from_keras, ([], {})),
                                (convert.from_onnx, ([], []))):
        with pytest.raises(TypeError, match=f"expected the nn.RNN, GRU or LSTM .*got a {type(layer).__name__}"):
            function(layer, *arguments)
