"""Weights of other libraries give in our layers what they give there."""

import json
from pathlib import Path
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
    config: dict[str, Any] = {"activation": "relu" if cell == "RNN" and relu else "tanh", "use_bias": bias,
                              **({"reset_after": after} if cell == "GRU" else {})}
    expected = keras(cell, after, relu, x, weights)
    if two:
        back = keras_weights(rng, cell, after, bias)
        config = {"layer": {"config": config}}
        expected = np.concatenate([expected, keras(cell, after, relu, x[:, ::-1], back)[:, ::-1]], -1)
        weights += back
    layer = ours(cell, after, relu, bidirectional=two)
    np.testing.assert_allclose(run(layer, convert.from_keras(layer, weights, config), x), expected, atol=1e-12)


KERAS = Path(__file__).parents[1] / "data" / "keras"
CONFIGS = json.loads((KERAS / "configs.json").read_text("utf-8"))["configs"]


@pytest.mark.parametrize("name", list(CONFIGS))
def test_keras_own_layers_give_here_what_they_give_there(name: str) -> None:
    """Or are refused with the equations (data/keras/README.md: where they are from)."""
    layer = ours(name.split()[0], "before" not in name, "relu" in name, bidirectional="two" in name or "own" in name)
    if "refused" in name:
        with pytest.raises(ValueError, match=r"these weights are for .* here computes "):
            convert.from_keras(layer, [], CONFIGS[name])
        return
    expected = np.load(KERAS / "expected.npz")
    weights = [expected[key] for key in expected if key.startswith(f"{name}.") and not key.endswith("y")]
    found = run(layer, convert.from_keras(layer, weights, CONFIGS[name]), expected["x"].astype(np.float64))
    np.testing.assert_allclose(found, expected[f"{name}.y"], atol=1e-5)


@given(st.sampled_from(["RNN", "GRU", "GRU before", "LSTM"]), st.data())
def test_every_setting_of_keras_is_read_or_changes_nothing_or_is_refused(name: str, data: st.DataObject) -> None:
    layer, config = ours(name.split()[0], name != "GRU before", False), CONFIGS[name]
    expected = np.load(KERAS / "expected.npz")
    key = data.draw(st.sampled_from([*config, "time_major", "another"]))
    value = data.draw(st.sampled_from([None, True, False, 0, 2, 0.5, "tanh", "sigmoid", "gelu", "hard_sigmoid", {}]))
    weights = [expected[f"{name}.{i}"] for i in range(3)]
    state = convert.from_keras(layer, weights, config)
    try:
        changed = convert.from_keras(layer, weights, config | {key: value})
    except ValueError as error:
        assert key not in convert.KERAS_PLAIN
        assert any(text in str(error) for text in (key, str(value), convert.EQUATIONS["gru"]))
    else:
        assert key in convert.KERAS_PLAIN or value == config.get(key, False)
        assert all((changed[k] == v).all() for k, v in state.items())


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


@given(cells, flags, flags, st.sampled_from([str.lower, str.upper, str.title, str.encode]))
def test_onnx_names_of_activations_are_read_in_any_case(cell: str, relu: bool, two: bool, spell: Any) -> None:
    names = {"RNN": ["Relu" if relu else "Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}[cell]
    rng, rows = np.random.default_rng(0), {"RNN": 1, "GRU": 3, "LSTM": 4}[cell] * H
    tensors = [normal(rng, 1 + two, *shape) for shape in ((rows, I), (rows, H), (2 * rows,))]
    layer = ours(cell, False, relu, bidirectional=two)
    expected = convert.from_onnx(layer, *tensors, **({"activations": names * (1 + two)} if relu else {}))
    found = convert.from_onnx(layer, *tensors, activations=[spell(name) for name in names * (1 + two)], layout=1,
                              activation_alpha=[0.5])
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value)
    for at in range(len(names)):  # any other is refused, in each place
        other = [*names * (1 + two)]
        other[at] = "HardSigmoid"
        with pytest.raises(ValueError, match=r"these weights are for activations=.*HardSigmoid"):
            convert.from_onnx(layer, *tensors, activations=other)


# --- PyTorch ----------------------------------------------------------------------------------------------------------


@pytest.mark.reference
@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
def test_torch_weights(cell: str) -> None:
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn, cell)(I, H, 2, bidirectional=True, batch_first=True).double()
    layer, x = ours(cell, True, False, num_layers=2, bidirectional=True), normal(np.random.default_rng(0), B, T, I)
    expected = theirs(torch.tensor(x))[0].detach().numpy()
    np.testing.assert_allclose(run(layer, convert.from_torch(layer, theirs.state_dict()), x), expected, atol=1e-12)


@pytest.mark.reference
@pytest.mark.parametrize("two", [False, True])
def test_torch_projections(two: bool) -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.nn.LSTM(I, 3, 2, bidirectional=two, batch_first=True, proj_size=2).double()
    layer = nn.LSTM(I, 3, 2, bidirectional=two, proj_size=2, dtype="float64")
    x = normal(np.random.default_rng(0), B, T, I)
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
        (convert.from_torch, (lstm, {"weight_hr_l0": 0}), {}, "=0, in which weight_hr is not"),
        (convert.from_torch, (nn.LSTM(I, H, proj_size=1), lstm.state_dict()), {}, "=1, in which weight_hr is there"),
        (convert.from_keras, (gru, before_w, {"reset_after": False}), {}, both),
        (convert.from_keras, (before, after_w, {}), {}, r"r \* \(U h \+ d\)"),
        (convert.from_keras, (gru, before_w, {}), {}, r"bias of shape \(6,\)"),
        (convert.from_keras, (gru, after_w, {"recurrent_activation": "hard_sigmoid"}), {}, "hard_sigmoid"),
        (convert.from_keras, (rnn, keras_weights(rng, "RNN", True, True), {"activation": "relu"}), {}, "relu.*tanh"),
        (convert.from_keras, (lstm, lstm_w, {"go_backwards": True}), {}, "go_backwards"),
        (convert.from_keras, (lstm, lstm_w * 2, {"layer": {"config": {}}, "merge_mode": "sum"}), {}, "merge_mode"),
        (convert.from_keras, (lstm, lstm_w * 2, {"layer": {"config": {}}, "merge_mode": "concat"}), {}, "1 direction"),
        (convert.from_keras, (lstm, lstm_w, {}), {"index": 1}, "from_keras: .* 0 <= index <= 0, got 1"),
        (convert.from_keras, (lstm, lstm_w * 2, {}), {}, "3 arrays: .*got 6"),
        (convert.from_keras, (lstm, lstm_w, two), {}, "6 arrays: .*got 3"),
        (convert.from_keras, (lstm, lstm_w, {"use_bias": False}), {}, "2 arrays: .*got 3"),
        (convert.from_keras, (lstm, lstm_w[:2], {}), {}, "3 arrays: .*got 2"),
        (convert.from_keras, (lstm, 3, {}), {}, "3 arrays: .*got int"),
        (convert.from_keras, (lstm, [*lstm_w[:2], lstm_w[2][None]], {}), {}, r"bias of shape \(1, 8\)"),
        (convert.from_keras, (lstm, [lstm_w[0][0], *lstm_w[1:]], {}), {}, "kernel as numbers of 2 axes, got .*shape"),
        (convert.from_keras, (lstm, [lstm_w[0], "U", lstm_w[2]], {}), {}, "recurrent_kernel as numbers .* got a str"),
        (convert.from_keras, (lstm, lstm_w, {"activations": "tanh"}), {}, r"from_keras: .*\['activations'\] are not"),
        (convert.from_keras, (lstm, lstm_w, {"layer": {"config": {}}, "merge": "sum"}), {}, r"settings \['merge'\] is"),
        (convert.from_keras, (rnn, [], {"reset_after": True}), {}, "SimpleRNN returns"),
        (convert.from_keras, (lstm, lstm_w, {"use_bias": 1}), {}, "use_bias to be one of True, False, got 1"),
        (convert.from_keras, (lstm, lstm_w, saved), {}, r"get_config\(\).*\['class_name', 'config'\]"),
        (convert.from_onnx, (gru, *gru_w), {}, both),
        (convert.from_onnx, (before, *gru_w), {"linear_before_reset": 1}, r"r \* \(U h \+ d\)"),
        (convert.from_onnx, (lstm, *onnx_w, None), {"P": np.ones((1, 3 * H))}, "peepholes"),
        (convert.from_onnx, (lstm, *onnx_w), {"activations": ["HardSigmoid", "Tanh", "Tanh"]}, "HardSigmoid"),
        (convert.from_onnx, (rnn, *[w[:, :H] for w in onnx_w]), {"activations": [b"Relu"]}, "relu.*tanh"),
        (convert.from_onnx, (rnn, *[w[:, :H] for w in onnx_w]), {"activations": ["Affine"]}, "Affine"),
        (convert.from_onnx, (lstm, *onnx_w), {"clip": 3.0}, "clip=3.0"),
        (convert.from_onnx, (lstm, *onnx_w), {"input_forget": 1}, "input_forget=1"),
        (convert.from_onnx, (lstm, *onnx_w), {"hidden_size": 3}, "hidden_size=3 in place of 2"),
        (convert.from_onnx, (gru, *gru_w), {"linear_after_reset": 1}, r"before_reset'\], got \['linear_after"),
        (convert.from_onnx, (lstm, *onnx_w), {"linear_before_reset": 1}, r"expected attributes of .*input_forget"),
        (convert.from_onnx, (gru, *gru_w), {"linear_before_reset": 2}, "0 <= linear_before_reset <= 1, got 2"),
        (convert.from_onnx, (lstm, *onnx_w), {"layout": -1}, "0 <= layout <= 1, got -1"),
        (convert.from_onnx, (lstm, *onnx_w), {"activations": ["Sigmoid", "Tanh"]}, r"\['Sigmoid', 'Tanh'\]"),
        (convert.from_onnx, (lstm, onnx_w[0], onnx_w[1][0]), {}, "R as numbers of 3 axes"),
        (convert.from_onnx, (lstm, *onnx_w, np.ones((1, 4))), {}, r"B \(D, 2 G H\), got .* and \(1, 4\)"),
        (convert.from_onnx, (lstm, onnx_w[0], np.ones((2, 8, 2))), {}, r"got \(1, 8, 3\), \(2, 8, 2\)"),
        (convert.from_onnx, (lstm, *onnx_w), {"index": -1}, "from_onnx: expected an integer 0 <= index <= 0, got -1"),
        (convert.from_torch, (lstm, {"weight_ih_l0": "W"}), {}, "from_torch: expected weight_ih_l0 as numbers"),
        (convert.from_onnx, (lstm, *onnx_w), {"direction": "reverse"}, "direction='reverse'"),
        (convert.from_onnx, (lstm, *gru_w), {}, r"weight_ih_l0: \(6, 3\) given, \(8, 3\) here"),
        (convert.from_onnx, (nn.LSTM(I, H, proj_size=1), *onnx_w), {}, "from_onnx: .*proj_size=1"),
        (convert.from_keras, (nn.LSTM(I, H, proj_size=1), lstm_w, {}), {}, "from_keras: .*proj_size=1"),
    ]
    for function, arguments, options, words in refused:
        with pytest.raises(ValueError, match=words):
            function(*arguments, **options)


@pytest.mark.parametrize("layer", [nn.Linear(I, H), nn.Scan(nn.GRUCell, I, H), nn.GRUCell(I, H), {}], ids=repr)
def test_weights_are_for_recurrent_layers_alone(layer: Any) -> None:
    for function, arguments in ((convert.from_torch, ({},)), (convert.from_keras, ([], {})),
                                (convert.from_onnx, ([], []))):
        with pytest.raises(TypeError, match=f"^{function.__name__}: expected layer as the nn.RNN, GRU or LSTM .*got a "
                                            f"{type(layer).__name__}$"):
            function(layer, *arguments)


@pytest.mark.parametrize(("function", "arguments", "options", "words"), [
    (convert.from_torch, (None,), {}, "state as a dictionary of names, got a NoneType"),
    (convert.from_torch, ({1: 2},), {}, "state as a dictionary of names, got a dict"),
    (convert.from_keras, ([], None), {}, "config as a dictionary of names, got a NoneType"),
    (convert.from_keras, ([], {"layer": 3}), {}, "layer as a dictionary of names, got a int"),
    (convert.from_keras, ([], {"layer": {"class_name": "LSTM"}}), {}, "config as a dictionary of names, got a None"),
    (convert.from_keras, ([], {"cell": ["LSTMCell"]}), {}, "cell as a dictionary of names, got a list"),
    (convert.from_keras, ([], {}), {"index": True}, "an integer 0 <= index <= 0, got True"),
    (convert.from_onnx, ([[[1.0]]], [[[1.0]]]), {"activations": "Tanh"}, "activations as a list of names, got 'Tanh'"),
    (convert.from_onnx, ([[[1.0]]], [[[1.0]]], None, [3]), {},
     "at most W, R and B by place, got 4: .*sequence_lens.* P="),
    (convert.from_onnx, ([[[1.0]]], [[[1.0]]], None, None, None, None, [[0.0]]), {}, "at most W, R and B by.*got 7"),
    (convert.from_onnx, ([[[1.0]]], [[[1.0]]]), {"index": 0.0}, "an integer 0 <= index <= 0, got 0.0"),
    (convert.from_onnx, ([[[1.0], [1.0, 2.0]]], [[[1.0]]]), {}, "W as an array that NumPy reads, got a list")])
def test_wrong_calls_name_the_function_and_the_argument(
        function: Any, arguments: tuple[Any, ...], options: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=f"^{function.__name__}: expected {words}"):
        function(nn.LSTM(I, H), *arguments, **options)
