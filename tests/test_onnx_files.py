"""ONNX files without the onnx package: against files that PyTorch wrote, the package itself, and broken ones."""

import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import checkpoint, nn
from tinyseq.checkpoint import CheckpointError

FILES = Path(__file__).parent / "data" / "onnx"


def entry(number: int, value: int | bytes) -> bytes:
    """A field of Protocol Buffers, whose numbers are all below 128 here."""
    return bytes([number << 3, value]) if isinstance(value, int) else bytes([number << 3 | 2, len(value)]) + value


def model(*tensors: bytes, graph: bytes = b"") -> bytes:
    return b"\x08\x0a" + entry(7, b"".join(entry(5, tensor) for tensor in tensors) + graph)


def tensor(*more: bytes, dims: bytes = b"\2", code: int = 1) -> bytes:
    return b"".join([entry(1, dims), entry(2, code), entry(8, b"a"), *more])


FLOATS = np.array([1.5, -2], "<f4").tobytes()


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_recurrent_layers_of_pytorch_are_ready(kind: str) -> None:
    expected, path = np.load(FILES / "outputs.npz"), FILES / f"{kind.lower()}.onnx"
    [layer] = nn.convert.from_onnx_nodes(path).values()
    assert repr(layer) == f"{kind}(3, 4, num_layers=2, bidirectional=True)"
    y, h = layer(expected[f"{kind}.x"])
    h = h[0] if kind == "LSTM" else h
    np.testing.assert_allclose(y.detach().numpy(), expected[f"{kind}.y"], atol=1e-6)
    np.testing.assert_allclose(h.detach().numpy(), expected[f"{kind}.h"], atol=1e-6)
    assert {a.shape[0] for a in checkpoint.load(path).values() if a.ndim == 3} == {2}


@given(data=st.data())
def test_a_file_that_was_changed_or_cut_is_read_or_refused(data: st.DataObject, folder: Path) -> None:
    raw = bytearray((FILES / "gru.onnx").read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(0, len(raw))) or len(raw):]
    (folder / "a.onnx").write_bytes(raw)
    for read in checkpoint.load, nn.convert.from_onnx_nodes:
        with suppress(ValueError):  # CheckpointError, and what the layers say
            read(folder / "a.onnx")


@pytest.mark.parametrize("raw, says", [
    (model(tensor(code=8)), "a: expected numbers that NumPy has, got STRING"),
    (model(tensor(code=22)), "INT4"), (model(tensor(code=99)), "data_type 99"),
    (model(tensor(entry(9, FLOATS[:4]))), r"a: expected as many numbers as shape \(2,\) has, got 1"),
    (model(tensor(entry(9, FLOATS), dims=b"\2\x02")), r"shape \(2, 2\) has, got 2"),
    (model(tensor(entry(9, FLOATS)), tensor(entry(9, FLOATS))), "the name 'a' twice"),
    (model(graph=entry(15, b"")), "sparse"), (b"\x08\x0a", "the one graph of an ONNX model, got 0"),
    (model()[:-1] + b"\5", r"a.onnx: expected a whole ONNX file, got 0 of a field's 5 bytes: fetch it"),
    (b"\x08\x0a\x3b", "written as 3"),
    (b"\x08" + b"\xff" * 12, "ten bytes"),
    (b"\x08", "a.onnx: expected a whole ONNX file, and it ends within a number"),
    (model(tensor(entry(14, 1), entry(13, entry(1, b"location") + entry(2, b"../b.bin")))), "outside of the folder"),
    (model(tensor(entry(14, 1), entry(13, entry(1, b"location") + entry(2, b"/b.bin")))), "outside of the folder"),
    (model(tensor(entry(14, 1), entry(13, entry(1, b"location") + entry(2, b"b.bin")))),
     "a: its numbers are in b.bin, which is not")])
def test_what_is_wrong_is_told(raw: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(raw)
    with pytest.raises(CheckpointError, match=says):
        checkpoint.load(tmp_path / "a.onnx")


def test_numbers_in_another_file_of_the_folder(tmp_path: Path) -> None:
    places = [entry(13, entry(1, key) + entry(2, value)) for key, value in (
        (b"location", b"b.bin"), (b"offset", b"4"), (b"length", b"8"))]
    (tmp_path / "a.onnx").write_bytes(model(tensor(*places)))
    (tmp_path / "b.bin").write_bytes(b"abcd" + FLOATS)
    assert checkpoint.load(tmp_path / "a.onnx")["a"].tolist() == [1.5, -2]
    (tmp_path / "b.bin").write_bytes(b"abcd" + FLOATS[:4])
    with pytest.raises(CheckpointError, match=r"b\.bin has 8 bytes, and its numbers are at 4, 8 bytes"):
        checkpoint.load(tmp_path / "a.onnx")


def test_a_file_without_recurrent_nodes_says_what_it_has(tmp_path: Path) -> None:
    node = entry(1, entry(1, b"x") + entry(2, b"y") + entry(4, b"Relu"))
    (tmp_path / "a.onnx").write_bytes(model(graph=node))
    with pytest.raises(ValueError, match=r"no node RNN, GRU or LSTM among \['Relu'\].*dynamo=False"):
        nn.convert.from_onnx_nodes(tmp_path / "a.onnx")


# --- the onnx package -------------------------------------------------------------------------------------------------

TYPES = ["FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "INT8", "UINT8", "INT16", "UINT16", "INT32", "INT64", "UINT32",
         "UINT64", "BOOL"]


@pytest.mark.reference
@given(kind=st.sampled_from(TYPES), shape=st.lists(st.integers(0, 3), max_size=3), raw=st.booleans(), data=st.data())
def test_every_initialiser_is_that_of_the_package(kind: str, shape: list[int], raw: bool, data: st.DataObject,
                                                 folder: Path) -> None:
    onnx = pytest.importorskip("onnx")
    least, most = {"I": (-100, 100), "U": (0, 100), "B": (0, 1)}.get(kind[0], (-4, 4))
    least, most = (-4, 4) if kind == "BFLOAT16" else (least, most)
    n = int(np.prod(shape))
    values = data.draw(st.lists(st.integers(least, most), min_size=n, max_size=n))
    tensor = onnx.helper.make_tensor("a", getattr(onnx.TensorProto, kind), shape, values)
    expected = onnx.numpy_helper.to_array(tensor)
    if raw:
        tensor = onnx.numpy_helper.from_array(expected, "a")
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [tensor])), folder / "a.onnx")
    found = checkpoint.load(folder / "a.onnx")["a"]
    assert found.dtype == ("float32" if kind == "BFLOAT16" else expected.dtype) and found.flags.aligned
    assert np.array_equal(found, expected.astype(found.dtype)) and found.shape == expected.shape


@pytest.mark.reference
@pytest.mark.parametrize("kind, attributes, says", [
    ("LSTM", {"clip": 3.0}, "node 'one': these weights are for clip=3.0"),
    ("GRU", {"activations": ["HardSigmoid", "Tanh"]}, "node 'one': .*HardSigmoid"),
    ("RNN", {"direction": "reverse"}, "node 'one': .*direction='reverse'"), ("GRU", {}, None),
    ("GRU", {"linear_before_reset": 1}, None), ("RNN", {"activations": ["Relu"]}, None), ("LSTM", {}, None)])
def test_nodes_are_judged_by_onnxruntime(kind: str, attributes: dict[str, Any], says: str | None,
                                         tmp_path: Path) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    rng, gates = np.random.default_rng(0), {"RNN": 1, "GRU": 3, "LSTM": 4}[kind]
    shapes = {"W": (1, 4 * gates, 3), "R": (1, 4 * gates, 4), "B": (1, 8 * gates)}
    weights = {name: rng.standard_normal(shape).astype("f") for name, shape in shapes.items()}
    helper, real, whole = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
    node = helper.make_node(kind, ["X", "W", "R", "B", "lengths"], ["Y", "Y_h"], name="one", hidden_size=4,
                            **attributes)
    inputs = [helper.make_tensor_value_info("X", real, [5, 2, 3]), helper.make_tensor_value_info("lengths", whole, [2])]
    outputs = [helper.make_tensor_value_info(name, real, None) for name in node.output]
    graph = helper.make_graph([node], "g", inputs, outputs,
                              [onnx.numpy_helper.from_array(a, name) for name, a in weights.items()])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=10)
    onnx.save(made, tmp_path / "a.onnx")
    if says:
        with pytest.raises(ValueError, match=says):
            nn.convert.from_onnx_nodes(tmp_path / "a.onnx")
        return
    x, lengths = rng.standard_normal((5, 2, 3)).astype("f"), np.array([5, 2], np.int32)
    expected, _ = runtime.InferenceSession(str(tmp_path / "a.onnx")).run(None, {"X": x, "lengths": lengths})
    y, *_ = nn.convert.from_onnx_nodes(tmp_path / "a.onnx")["one"](ts.tensor(x.swapaxes(0, 1)), lengths=lengths)
    np.testing.assert_allclose(y.detach().numpy(), expected[:, 0].swapaxes(0, 1), atol=1e-5)


SHAPES = {"side": [0, 0, -1], "rows": [0, 2, 8], "stored": [5, 2, 8], "turned": [2, 5, 8], "one": [1]}
STACKS: dict[str, tuple[int, list[tuple[str, list[str], dict[str, Any]]], bool]] = {
    "Y without its axis": (1, [("Squeeze", ["Y", "one"], {})], True),
    "Y_h": (1, [("Identity", ["Y_h"], {})], False),
    "batch as time": (1, [("Squeeze", ["Y", "one"], {}), ("Transpose", ["0"], {"perm": [1, 0, 2]})], False),
    "turned twice": (1, [("Squeeze", ["Y", "one"], {}), *[("Transpose", [n], {"perm": [1, 0, 2]}) for n in "01"]],
                     True),
    "side by side": (2, [("Transpose", ["Y"], {"perm": [0, 2, 1, 3]}), ("Reshape", ["0", "side"], {})], True),
    "shape of the rows": (2, [("Transpose", ["Y"], {"perm": [0, 2, 1, 3]}), ("Reshape", ["0", "rows"], {})], True),
    "shape of the example": (2, [("Transpose", ["Y"], {"perm": [0, 2, 1, 3]}), ("Reshape", ["0", "stored"], {})], True),
    "shape with time for rows": (2, [("Transpose", ["Y"], {"perm": [0, 2, 1, 3]}), ("Reshape", ["0", "turned"], {})],
                                 False),
    "directions not side by side": (2, [("Reshape", ["Y", "side"], {}), ("Reshape", ["0", "stored"], {})], False),
    "units before directions": (2, [("Transpose", ["Y"], {"perm": [0, 2, 3, 1]}), ("Reshape", ["0", "side"], {})],
                                False),
    "something else": (1, [("Squeeze", ["Y", "one"], {}), ("Tanh", ["0"], {})], False),
    "the mask of a dropout": (1, [("Squeeze", ["Y", "one"], {}), ("Dropout", ["0"], {})], False)}


@pytest.mark.reference
@pytest.mark.parametrize("case", STACKS)
@pytest.mark.parametrize("lengths", [("", ""), ("lengths", "lengths"), ("lengths", ""), ("", "lengths")])
def test_nodes_are_a_stack_where_each_step_is_read_where_it_was(case: str, lengths: Any, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, real, whole = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
    ways, between, stack = STACKS[case]
    rng = np.random.default_rng(0)
    shapes = {"W": (ways, 16, 3), "V": (ways, 16, 4 * ways), "R": (ways, 16, 4)}
    stored = {name: rng.standard_normal(shape).astype("f") for name, shape in shapes.items()}
    stored |= {"h0": np.zeros((ways, 2, 4), "f"), **{name: np.array(shape) for name, shape in SHAPES.items()}}
    direction = "bidirectional" if ways == 2 else "forward"
    lower, upper = (helper.make_node("LSTM", [x, w, "R", "", ends, "h0", "h0"], out, name=out[0], hidden_size=4,
                                     direction=direction)
                    for x, w, ends, out in (("X", "W", lengths[0], ["Y", "Y_h"]), ("x", "V", lengths[1], ["Z"])))
    steps = [helper.make_node(kind, inputs, [str(n)] if kind != "Dropout" else ["", "mask"], **attributes)
             for n, (kind, inputs, attributes) in enumerate(between)]
    last = "mask" if steps[-1].output[0] == "" else steps[-1].output[0]
    inputs = [helper.make_tensor_value_info("X", real, [5, 2, 3]), helper.make_tensor_value_info("lengths", whole, [2])]
    graph = helper.make_graph([lower, *steps, helper.make_node("Identity", [last], ["x"]), upper], "g", inputs,
                              [helper.make_tensor_value_info("Z", real, None)],
                              [onnx.numpy_helper.from_array(a, name) for name, a in stored.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "a.onnx")
    found = nn.convert.from_onnx_nodes(tmp_path / "a.onnx")
    assert [*found] == (["Y"] if stack and lengths[0] == lengths[1] else ["Y", "Z"])


@pytest.mark.reference
@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("options", [{"dynamo": False}, {"dynamo": True}, {"dynamo": True, "dynamic_shapes": [{0: "b"}]}
                                     ],
                         ids=str)
def test_stacks_of_every_exporter_of_pytorch_are_one_layer(two: bool, options: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    theirs = torch.nn.LSTM(3, 4, 3, bidirectional=two, batch_first=True).eval()
    x = torch.randn(2, 5, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(theirs, (x,), str(tmp_path / "a.onnx"), verbose=False, **options)
    [layer] = nn.convert.from_onnx_nodes(tmp_path / "a.onnx").values()
    y, _ = layer(x.numpy())
    np.testing.assert_allclose(y.detach().numpy(), theirs(x)[0].detach().numpy(), atol=1e-5)
