"""Weights of other frameworks' cells compute here what the real libraries computed with them (data/frameworks)."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import checkpoint, nn
from tinyseq.nn import gates
from tinyseq.nn.convert import from_gates

FILES = Path(__file__).parents[1] / "data" / "frameworks"
I, H = 3, 4
BEFORE, RELU, TWO = {"reset": "before"}, {"nonlinearity": "relu"}, {"bidirectional": True}


@cache
def saved(framework: str) -> dict[str, Any]:
    return checkpoint.load(FILES / f"{framework}{'.txt' if framework == 'dynet' else '.npz'}")


def run(layer: Any, state: Any, x: Any) -> Any:
    layer.load_state_dict(state)
    return layer(ts.asarray(x))[0].detach().numpy()


# A framework, the name of what it computed, the layer here, and where its arrays are in the file.
CASES: list[tuple[str, str, str, dict[str, Any], Any]] = [
    ("chainer", "nstep_lstm", "LSTM", {"num_layers": 2}, "nstep_lstm/"),
    ("chainer", "nstep_bilstm", "LSTM", {"num_layers": 2, **TWO}, "nstep_bilstm/"),
    ("chainer", "nstep_gru", "GRU", {}, "nstep_gru/"), ("chainer", "nstep_bigru", "GRU", TWO, "nstep_bigru/"),
    ("chainer", "nstep_tanh", "RNN", {}, "nstep_tanh/"), ("chainer", "nstep_relu", "RNN", RELU, "nstep_relu/"),
    ("chainer", "lstm", "LSTM", {}, "lstm/"), ("chainer", "stateless_lstm", "LSTM", {}, "stateless_lstm/"),
    ("chainer", "gru", "GRU", BEFORE, "gru/"), ("chainer", "stateless_gru", "GRU", BEFORE, "stateless_gru/"),
    ("dynet", "lstm", "LSTM", {"num_layers": 2}, "/vanilla-lstm-builder/"),
    ("dynet", "compact", "LSTM", {}, "/compact-vanilla-lstm-builder/"),
    ("dynet", "gru", "GRU", BEFORE, "/gru-builder/"), ("dynet", "rnn", "RNN", {}, "/simple-rnn-builder/"),
    ("dynet", "birnn", "GRU", {**BEFORE, **TWO}, ["/birnn/gru-builder/", "/birnn/gru-builder_1/"]),
    ("fastai", "rnns.0", "LSTM", {}, "rnns.0."),
    *[("flax", f"{kind}_{cell}", layer, {}, f"{kind}_{cell}/") for kind in ("linen", "nnx") for cell, layer in (
        ("LSTMCell", "LSTM"), ("OptimizedLSTMCell", "LSTM"), ("GRUCell", "GRU"), ("SimpleCell", "RNN"))],
    ("haiku", "lstm", "LSTM", {}, "lstm/"), ("haiku", "gru", "GRU", BEFORE, "gru/"),
    ("haiku", "vanillarnn", "RNN", RELU, "vanillarnn/"),
    ("mlx", "lstm", "LSTM", {}, "lstm."), ("mlx", "gru", "GRU", {}, "gru."), ("mlx", "rnn", "RNN", {}, "rnn."),
    *[("paddle", f"{cell}{end}", kind, {} if end else TWO, f"{cell}{end}.") for end in ("", "Cell")
      for cell, kind in (("SimpleRNN", "RNN"), ("GRU", "GRU"), ("LSTM", "LSTM"))],
    ("tf1", "basic_lstm", "LSTM", {}, "basic_lstm/basic_lstm_cell/"), ("tf1", "lstm", "LSTM", {}, "lstm/lstm_cell/"),
    ("tf1", "gru", "GRU", BEFORE, "gru/gru_cell/"), ("tf1", "rnn", "RNN", {}, "rnn/basic_rnn_cell/"),
]


def test_every_preset_is_held_to_its_library() -> None:
    named = {(framework, kind) for framework, _, kind, *_ in CASES}
    assert named == {(p, kind) for p, kinds in gates.PRESETS.items() for kind in kinds if p != "keras"}


@pytest.mark.parametrize(("framework", "name", "kind", "options", "prefix"), CASES,
                         ids=[f"{case[0]}-{case[1]}" for case in CASES])
def test_a_cell_computes_what_it_did_there(framework: str, name: str, kind: str, options: Any, prefix: Any) -> None:
    expected = np.load(FILES / f"{framework}_y.npz")
    layer = getattr(nn, kind)(I, H, **options)
    state = from_gates(layer, saved(framework), framework, prefix=prefix)
    np.testing.assert_allclose(run(layer, state, expected["x"]), expected[name], atol=2e-6)


def test_what_is_said_overrules_a_preset() -> None:
    expected, layer = np.load(FILES / "tf1_y.npz"), nn.LSTM(I, H)
    state = from_gates(layer, saved("tf1"), "tf1", prefix="lstm_0/lstm_cell/", forget_bias=0.0)
    np.testing.assert_allclose(run(layer, state, expected["x"]), expected["lstm_0"], atol=2e-6)


def test_files_of_mlx_are_alike_and_its_bfloat16_is_told() -> None:
    for name, array in checkpoint.load(FILES / "mlx.safetensors").items():
        np.testing.assert_array_equal(array, saved("mlx")[name])
    with pytest.raises(ValueError, match=r"it may be bfloat16 .*MLX"):
        checkpoint.load(FILES / "mlx_bfloat16.npz")


def test_a_stale_copy_of_fastai_1_does_not_count_and_narrow_layers_convert() -> None:
    expected, arrays = np.load(FILES / "fastai_y.npz"), dict(saved("fastai"))
    arrays["rnns.1.module.weight_hh_l0"] = np.full((4 * I, I), 9.0)
    layer = nn.LSTM(H, I)
    state = from_gates(layer, arrays, "fastai", prefix="rnns.1.")
    np.testing.assert_allclose(run(layer, state, expected["rnns.0"]), expected["rnns.1"], atol=2e-6)


def test_dictionaries_in_dictionaries_are_read() -> None:
    flat, nested = saved("flax"), {}
    for key, array in flat.items():
        cell, gate, name = key.split("/")
        nested.setdefault(cell, {}).setdefault(gate, {})[name] = array
    layer = nn.GRU(I, H)
    same = from_gates(layer, flat, "flax", prefix="linen_GRUCell/")
    for key, array in from_gates(layer, nested["linen_GRUCell"], "flax").items():
        np.testing.assert_array_equal(array, same[key])


@given(st.sampled_from(["RNN", "GRU", "LSTM"]), st.data())
def test_any_layout_that_is_said_is_undone(kind: str, data: st.DataObject) -> None:
    """A layer's own weights, laid out in some way and read back."""
    reset = {"reset": data.draw(st.sampled_from(["before", "after"]))} if kind == "GRU" else {}
    two, ours = data.draw(st.booleans()), gates.OURS[kind]
    layer = getattr(nn, kind)(I, H, bidirectional=two, dtype=np.float64, **reset)
    order = "".join(data.draw(st.permutations(ours)))
    transposed, interleaved, split, joined = (data.draw(st.booleans()) for _ in range(4))
    forget = data.draw(st.sampled_from([0.0, 1.0, 0.5])) if kind == "LSTM" else 0.0
    update = data.draw(st.sampled_from(["keeps", "replaces"])) if kind == "GRU" else "keeps"

    def there(value: Any, bias: bool) -> Any:
        parts = dict(zip(ours, np.split(value.detach().numpy(), len(ours)), strict=True))
        if update == "replaces":
            parts["z"] = -parts["z"]
        if bias and kind == "LSTM":
            parts["f"] = parts["f"] - forget
        stack = np.stack([parts[gate] for gate in order])
        if split and not interleaved:
            return [a.T if transposed else a for a in stack]
        a = np.concatenate(stack.swapaxes(0, 1) if interleaved else stack)
        return a.T if transposed else a

    arrays = []
    for end in ("", "_reverse")[: layer.directions]:
        W, U, b, d = (vars(layer)[f"{key}_l0{end}"] for key in nn.recurrent.KEYS)
        W, U = (there(ts.concat([W, U], axis=1), False), None) if joined else (there(W, False), there(U, False))
        arrays.append((W, U, there(b, True), there(d, False)))
    options: dict[str, Any] = {"forget_bias": forget} if kind == "LSTM" else {}
    options |= reset | ({"update": update} if kind == "GRU" else {})
    state = from_gates(layer, arrays if two else arrays[0], order=order, transposed=transposed,
                       interleaved=interleaved, **options)
    for key, value in layer.state_dict().items():
        # a gate's d changes its sign with the rest, and its b has what is added
        np.testing.assert_allclose(state[key], value.numpy(), atol=1e-12)


LSTM, GRU = [np.ones((4 * H, n)) for n in (I, H)], [np.ones((3 * H, n)) for n in (I, H)]


@pytest.mark.parametrize(("layer", "arrays", "options", "words"), [
    (nn.LSTM(I, H), LSTM, {"order": "ifo"}, "order to have each of i, f, g, o once, for a LSTM, got 'ifo'"),
    (nn.LSTM(I, H), LSTM, {"order": "ijfo"}, "each of i, f, g, o once"),
    (nn.LSTM(I, H), LSTM, {"reset": "after"}, "reset is of a GRU, got 'after' for a LSTM"),
    (nn.GRU(I, H), GRU, {"forget_bias": 1.0}, "forget_bias is of a LSTM"),
    (nn.RNN(I, H), GRU, {"update": "keeps"}, "update is of a GRU"),
    (nn.GRU(I, H), GRU, {"reset": "before"}, r"U \(r \* h\).*the GRU here computes"),
    (nn.GRU(I, H), GRU, {"update": "old"}, "update to be one of 'keeps', 'replaces', got 'old'"),
    (nn.LSTM(I, H), LSTM, {"transposed": 1}, "transposed to be one of True, False, got 1"),
    (nn.LSTM(I, H), LSTM, {"transposed": True}, r"W to have 4 gates of 4 columns, got shapes \[\(16, 3\)\]"),
    (nn.LSTM(I, H), GRU, {}, r"4 gates of 4 rows, got shapes \[\(12, 3\)\]"),
    (nn.LSTM(I, 3 * H), LSTM, {}, "4 gates of 12 rows"),
    (nn.LSTM(I, H, proj_size=2), [LSTM[0], LSTM[1][:, 2:]], {}, "from_gates: .*proj_size=2.*weight_hr"),
    (nn.LSTM(I, H, proj_size=H - 1), [LSTM[0], LSTM[1][:, 1:]], {}, "from_gates: .*proj_size=3.*weight_hr"),
    (nn.LSTM(I + 1, H), LSTM, {}, r"weight_ih_l0: \(16, 3\) given, \(16, 4\) here"),
    (nn.LSTM(I, H, bias=False), LSTM, {"forget_bias": 1.0}, r"bias_ih_l0: \(16,\) given, None here"),
    (nn.LSTM(I, H), LSTM, {"preset": "keras3"}, "preset to be one of 'chainer', .*got 'keras3'"),
    (nn.LSTM(I, H), {}, {"preset": "mlx"}, r"from mlx arrays named Wx Wh for each .*got \[\]: say prefix"),
    (nn.GRU(I, H), {}, {"preset": "fastai"}, "from fastai arrays named otherwise, it has no such layer,"),
    (nn.LSTM(I, H, 2), "mlx", {"prefix": "lstm."}, "names of mlx do not count layers.*a list of 2, got 'lstm.'"),
    (nn.LSTM(I, H, 2), {}, {"preset": "mlx", "prefix": ["a"]}, r"a list of 2, .*got \['a'\]"),
    (nn.RNN(I, H), "haiku", {"prefix": "vanillarnn/"}, "relu.*the RNN here computes h' = tanh"),
    (nn.GRU(I, H), "haiku", {"prefix": "gru/"}, r"U \(r \* h\).*here computes"),
    (nn.LSTM(I, H), "chainer", {"prefix": "peephole/"}, "'peephole/peep_f/W', .*would not be read"),
    (nn.LSTM(I, H), "chainer", {"prefix": "nstep_lstm/"}, "'nstep_lstm/1/b0', .*1 layer.* has no place for them"),
    (nn.LSTM(I, H, 3), "chainer", {"prefix": "nstep_lstm/"}, "nstep_lstm/0/w0 .* for each layer"),
    (nn.LSTM(I, H), "tf1", {"prefix": "peephole/lstm_cell/"}, "w_f_diag.* would not be read"),
    (nn.GRU(I, H), "flax", {"prefix": "linen_MGUCell/"}, "expected from flax arrays named"),
    (nn.GRU(I, H), {"kernel": np.ones((I, 12)), "recurrent_kernel": np.ones((H, 12))}, {"preset": "keras"},
     "without a bias nothing tells .*say reset="),
    (nn.GRU(I, H), {"0": np.ones((I, 12)), "1": np.ones((H, 12)), "2": np.ones(12)}, {"preset": "keras"},
     r"U \(r \* h\).*here computes")])
def test_what_cannot_be_is_refused(layer: Any, arrays: Any, options: Any, words: str) -> None:
    if isinstance(arrays, str):
        options, arrays = {"preset": arrays, **options}, saved(arrays)
    with pytest.raises(ValueError, match=words):
        from_gates(layer, arrays, **options)


@pytest.mark.parametrize(("layer", "arrays", "preset", "words"), [
    (nn.Linear(2, 3), LSTM, None, "expected layer as the nn.RNN, GRU or LSTM"),
    (nn.LSTM(I, H), {"Wx": 1}, None, r"arrays as \(W, U, b, d\), or a dictionary and its preset"),
    (nn.LSTM(I, H), LSTM[:1], None, r"arrays as \(W, U, b, d\)"),
    (nn.LSTM(I, H, 2), LSTM, None, r"arrays as \(W, U, b, d\), 2 of them in a list"),
    (nn.LSTM(I, H), LSTM, "mlx", "arrays as a dictionary of names, got a list"),
    (nn.LSTM(I, H), [[[1.0], [1.0, 2.0]], LSTM[1]], None, "0/W as an array that NumPy reads")])
def test_wrong_calls_name_the_argument(layer: Any, arrays: Any, preset: Any, words: str) -> None:
    with pytest.raises(TypeError, match=f"^from_gates: expected .*{words}|^from_gates: {words}"):
        from_gates(layer, arrays, preset)
