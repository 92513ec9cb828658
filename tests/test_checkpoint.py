"""Checkpoints: what was written comes back; files of others; broken and hostile ones.

Kills, interrupts, several savers and thousands of mutated files are in test_checkpoint_force.py.
"""

import enum
import errno
import io
import json
import math
import os
import pickle
import re
import socket
import struct
import tracemalloc
import zipfile
from collections import Counter, OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import load_file, save_file

import tinyseq as ts
from tinyseq import archives, checkpoint, nn, optim
from tinyseq.checkpoint import CheckpointError

DATA = Path(__file__).parent / "data/checkpoints"
DTYPES = "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 float32 float64".split()
any_array = st.sampled_from(DTYPES).flatmap(lambda d: arrays(d, array_shapes(min_dims=0, max_dims=3, min_side=0)))
names = st.text("ab.é_", max_size=4)
numbers = st.sampled_from(DTYPES).flatmap(lambda d: arrays(d, ()).map(lambda x: x[()]))
plain = st.one_of(st.integers(), st.floats(), st.text(max_size=3), st.none(), st.booleans(), numbers)
listed = st.recursive(plain, lambda x: st.one_of(
    st.lists(x, max_size=3), st.lists(x, max_size=3).map(tuple), st.dictionaries(st.text(max_size=3), x, max_size=2)),
    max_leaves=4)
leaves = st.one_of(any_array, plain, st.lists(listed, max_size=3), st.lists(listed, max_size=3).map(tuple))
trees = st.dictionaries(names, st.recursive(leaves, lambda x: st.dictionaries(names, x, max_size=3), max_leaves=6))


def same(a: Any, b: Any) -> None:
    """Equal in type, dtype, shape and bytes, all the way down."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    elif isinstance(a, (float, np.floating)):
        assert (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    else:
        assert a == b


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("checkpoints")


# --- what was written comes back
@given(trees)
def test_what_was_saved_comes_back(folder: Path, state: dict[str, Any]) -> None:
    checkpoint.save(folder / "a.safetensors", state)
    same(checkpoint.load(folder / "a.safetensors"), state)
    assert not list(folder.glob("*.tmp"))


Pair = namedtuple("Pair", "a b")
Colour = enum.IntEnum("Colour", "RED")
odd = st.sampled_from([
    b"x", {1}, frozenset(), 1j, np.complex64(1), np.str_("x"), Pair(1, 2), Colour.RED, type("Text", (str,), {})("x"),
    2**2049, "\ud83d\ude00", "\ud800", Counter("a"), defaultdict(int, a=1), object(), range(3), np.longdouble(1),
    np.datetime64("2020"), np.ma.masked_array([1, 2], [True, False]), np.array([None]), np.array(["x"]),
    np.zeros(1, complex), np.zeros(1, np.longdouble), np.recarray(1, "i4"), np.zeros(2, [("a", "i4")])])
keys = st.one_of(names, st.integers(0, 1), st.sampled_from([
    "__tuple__", "__numpy__", "__metadata__", "a/b", "\ud800", None, True, b"a", 1.0, np.str_("a"), ()]))


@given(st.dictionaries(keys, st.recursive(
    st.one_of(leaves, leaves, odd), lambda x: st.one_of(
        st.lists(x, max_size=2), st.lists(x, max_size=2).map(tuple), st.dictionaries(keys, x, max_size=2),
        st.dictionaries(names, x, max_size=2)), max_leaves=5), max_size=2))
def test_anything_comes_back_as_it_was_or_is_refused_with_its_key(folder: Path, state: dict[Any, Any]) -> None:
    try:
        checkpoint.save(folder / "any.safetensors", state)
    except CheckpointError as error:
        assert any(str(key) in str(error) or repr(key) in str(error) for key in state), (state, error)
    else:
        same(checkpoint.load(folder / "any.safetensors"), state)


@pytest.mark.parametrize("state, says", [
    ({"h": [{1: "x", "1": "y"}]}, r"h\[0\]/1"), ({"h": (1, [b"x"])}, r"h\[1\]\[0\]: a bytes"),
    ({"a": {"b": {2}}}, "a/b: a set"), ({"a": [np.ones(2)]}, r"a\[0\]: a ndarray"), ({"a": 2**2048}, "a: a int"),
    ({"a": [ts.tensor([1])]}, r"a\[0\]: a Tensor"), ({"a": {"b": np.ones(2, np.complex64)}}, "a/b: .*got complex64"),
    ({"a": Pair(1, 2)}, "a: a Pair"), ({"a": np.ma.masked_array([1])}, "a: .*MaskedArray"), ({"a": "\ud800"}, "a: a s"),
    ({"a": Counter("x")}, "a: a Counter"), ({"a": [{"__tuple__": [1]}]}, "__tuple__"), ({"__numpy__": 1}, "__numpy__")])
def test_what_json_would_change_is_refused_with_its_key(state: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=says):
        checkpoint.save(tmp_path / "x.safetensors", state)


def test_other_entries_than_arrays_are_read_under_joined_names_too(tmp_path: Path) -> None:
    """As they were written at first; arrays go into either."""
    rest = json.dumps({"a/c": 3, "a/d/e": {"f": 1}, "g": {"h": {}}})
    header = {"a/b": entry(0, 4, [1]), "g/h/i": entry(4, 8, [1]), "__metadata__": {"tinyseq": rest}}
    zero = np.zeros(1, "f4")
    same(checkpoint.load(write(tmp_path / "a.safetensors", header, bytes(8))), {
        "a": {"b": zero, "c": 3, "d": {"e": {"f": 1}}}, "g": {"h": {"i": zero}}})


def test_what_has_no_end_is_refused(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    circle: dict[str, Any] = {}
    circle["a"] = circle
    for state in ({"a": loop}, circle, {"b": circle}):
        with pytest.raises(CheckpointError, match=r"a\[0\]\[0\]|a/a/a/a"):
            checkpoint.save(tmp_path / "x.safetensors", state)


def test_what_load_would_not_read_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="make long lists arrays"):
        checkpoint.save(tmp_path / "x.safetensors", {"a": "x" * 2**24})
    monkeypatch.setattr(archives, "ROOM", 2**16)
    with pytest.raises(CheckpointError, match="unpacks to more"):
        checkpoint.save(tmp_path / "x.safetensors", {"a": [[]] * 1000})
    with pytest.raises(CheckpointError, match=r"let the name end in \.safetensors"):
        checkpoint.save(tmp_path / "x.json", {})
    assert not list(tmp_path.iterdir())


def test_an_ordered_dictionary_and_a_mapped_array_are_saved(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, OrderedDict(a=OrderedDict(b=np.arange(3)), c=[OrderedDict(d=1)]))
    same(checkpoint.load(path), {"a": {"b": np.arange(3)}, "c": [{"d": 1}]})
    np.save(tmp_path / "a.npy", np.arange(3))
    checkpoint.save(path, {"a": np.load(tmp_path / "a.npy", mmap_mode="r")})
    same(checkpoint.load(path), {"a": np.arange(3)})


@given(st.dictionaries(names, any_array, max_size=4))
def test_the_library_reads_what_was_saved(folder: Path, state: dict[str, Any]) -> None:
    checkpoint.save(folder / "lib.safetensors", state)
    same(load_file(folder / "lib.safetensors"), state)
    raw = (folder / "lib.safetensors").read_bytes()
    assert int.from_bytes(raw[:8], "little") % 8 == 0   # the numbers lie where processors like them


@pytest.mark.parametrize("call, says", [
    (lambda: checkpoint.save("x.safetensors", [1]), "checkpoint.save: expected state to be a dictionary, got \\[1\\]"),
    (lambda: checkpoint.save("x.safetensors", None), "checkpoint.save: expected state to be a dictionary, got None"),
    (lambda: checkpoint.save(None, {}), "checkpoint.save: expected path .* got None"),
    (lambda: checkpoint.load(3), "checkpoint.load: expected path .* got 3"),
    (lambda: checkpoint.load("a\0b"), "checkpoint.load: expected path .* NUL"),
    (lambda: checkpoint.rename([], {}), "checkpoint.rename: expected state to be a dictionary, got \\[\\]"),
    (lambda: checkpoint.rename({}, None), "checkpoint.rename: expected rules to be a dictionary, got None"),
    (lambda: nn.Linear(1, 1).load_state_dict(None), "load_state_dict into Linear: expected state .* got None"),
    (lambda: nn.Linear(1, 1).load_state_dict([1]), "load_state_dict into Linear: expected state .* got \\[1\\]"),
    (lambda: nn.Linear(1, 1).load(None), "checkpoint.load: expected path"),
    (lambda: nn.Linear(1, 1).save(1.5), "checkpoint.save: expected path")])
def test_wrong_calls_are_named(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        call()


def test_arrays_of_any_order_are_saved_as_they_read(tmp_path: Path) -> None:
    x = np.arange(6.0).reshape(2, 3)
    state = {"columns": np.asfortranarray(x), "strided": x[:, ::2], "big": x.astype(">f8"), "tensor": ts.asarray(x).mT}
    checkpoint.save(tmp_path / "a.safetensors", state)
    same(checkpoint.load(tmp_path / "a.safetensors"), {"columns": x, "strided": x[:, ::2], "big": x, "tensor": x.T})


@given(st.dictionaries(names, any_array, min_size=1), st.booleans())
def test_npz_is_read(folder: Path, state: dict[str, Any], compressed: bool) -> None:
    with (folder / "a.npz").open("wb") as file:
        (np.savez_compressed if compressed else np.savez)(file, **state)
    same(checkpoint.load(folder / "a.npz"), state)


def test_npz_keeps_the_order_of_axes_and_bytes(folder: Path) -> None:
    x = np.arange(6.0).reshape(2, 3)
    np.savez(folder / "order.npz", columns=np.asfortranarray(x), big=x.astype(">f8"), strided=x[:, ::2])
    read = checkpoint.load(folder / "order.npz")
    assert all((read[k] == v).all() for k, v in {"columns": x, "big": x, "strided": x[:, ::2]}.items())


@pytest.mark.parametrize("state", [{"a/b": np.ones(1)}, {"a": {"b/c": 1}}, {"a": {1: 2}}, {"a": object()},
                                   {"a": np.array(["text"])}, {"__metadata__": np.ones(1)},
                                   {"a": np.ones(2, complex), "b": 1}, {"a": [np.ones(2)]}])
def test_what_cannot_be_saved_is_refused(tmp_path: Path, state: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"x.safetensors: "):
        checkpoint.save(tmp_path / "x.safetensors", state)
    assert not list(tmp_path.iterdir())


def test_saving_under_the_name_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model.pt: .* let the name end in .safetensors"):
        nn.Linear(1, 1).save(tmp_path / "model.pt")


def bfloat16(values: np.ndarray) -> bytes:
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def write(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """A safetensors file by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(first: int, last: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


def test_every_bfloat16_becomes_the_same_float32(tmp_path: Path) -> None:
    every = np.arange(2**16, dtype=np.uint32) << 16
    path = write(tmp_path / "a.safetensors", {"a": entry(0, 2**17, [2, 2**15], "BF16")}, bfloat16(every))
    assert (checkpoint.load(path)["a"].view(np.uint32).ravel() == every).all()
    assert checkpoint.load(path)["a"].shape == (2, 2**15)


@pytest.mark.parametrize("where", ["model.safetensors.index.json", "."])
def test_shards_are_one_dictionary(tmp_path: Path, where: str) -> None:
    model, twin = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    places = {k: f"model-{k[0]}.safetensors" for k in state}
    for place in set(places.values()):
        save_file({k: v for k, v in state.items() if places[k] == place}, tmp_path / place)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    same(checkpoint.load(tmp_path / where), state)
    twin.load(tmp_path / where)
    same({k: v.numpy() for k, v in twin.state_dict().items()}, state)
    for wrong, says in [({"0.bias": "../model-0.safetensors"}, "Invalid name"), ({"0.bias": ".."}, "regular file"),
                        ({"x": "model-0.safetensors"}, "model-0.safetensors: it lacks 'x'"),
                        ({"x": index.name}, "expected safetensors"), ([], "index.json: expected a weight_map"),
                        ({"x": 3}, "expected a weight_map"), (None, "expected a weight_map")]:
        index.write_text(json.dumps({"weight_map": wrong} if wrong is not None else {}))
        with pytest.raises(CheckpointError, match=says):
            checkpoint.load(index)
    index.write_text(json.dumps({"weight_map": {"x": "lost.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"index.json: lost.safetensors: No such file") as lost:
        checkpoint.load(index)
    assert isinstance(lost.value, FileNotFoundError) and lost.value.errno == errno.ENOENT
    index.unlink()
    with pytest.raises(CheckpointError, match=r"got \['model-0.safetensors', 'model-1.safetensors'\]: name the file"):
        checkpoint.load(tmp_path)


# --- PyTorch's files, without PyTorch
def test_tensors_of_torch_save() -> None:
    w = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = {
        "transposed": w.T, "row": w[1], "columns": w[:, 1:3], "scalar": np.float32(2.5),
        "empty": np.zeros((0, 3), "f4"),
        "expanded": np.full(5, 7, "f4"), "parameter": w, "bfloat16": np.array([1, -2.5, np.inf, 3.140625], "f4"),
        "float16": np.array([0.5, 65504], "f2"),
        "float64": np.array([np.float32(0.1)], "f8"), "int64": np.array([-1, 2**62]),
        "int32": np.array([3], "i4"), "int16": np.array([-4], "i2"), "int8": np.array([-5], "i1"),
        "uint8": np.array([250], "u1"), "bool": np.array([True, False])}
    same(checkpoint.load(DATA / "tensors.pt"), {k: np.asarray(v) for k, v in expected.items()})
    read = checkpoint.load(DATA / "tensors.pt")
    assert np.shares_memory(read["row"], read["parameter"]) and not read["row"].flags.writeable


def test_a_training_of_torch_comes_back_nested_and_a_model_takes_its_part() -> None:
    state, lstm = checkpoint.load(DATA / "training.pt"), nn.LSTM(2, 2)
    assert (state["epoch"], state["name"], state["shape"]) == (3, "tiny", (2, 3))
    assert state["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    assert state["optimizer"]["state"][0]["exp_avg"].shape == (8, 2)
    lstm.load(DATA / "training.pt", key="model")
    same({k: v.numpy() for k, v in lstm.state_dict().items()}, state["model"])
    for key in (None, "epoch", "modle"):
        with pytest.raises(CheckpointError, match=rf"training.pt: key={key!r}.*\['model', 'optimizer'\]"):
            lstm.load(DATA / "training.pt", key=key)
    nn.Linear(2, 1).load(DATA / "protocol4.pt")
    for layer, error, says in [(nn.Linear(2, 1, bias=False), KeyError, r"unexpected \['bias'\]"),
                               (nn.Linear(3, 1), ValueError, "wrong shapes: weight")]:
        with pytest.raises(error, match=rf"protocol4.pt: load_state_dict into Linear: .*{says}"):
            layer.load(DATA / "protocol4.pt")


def test_unsigned_tensors_without_checksums_and_a_scheduler_are_read() -> None:
    """uint16, uint32 and uint64 lie in storages without a type, and MultiStepLR keeps a Counter."""
    state = checkpoint.load(DATA / "unsigned.pt")
    same({k: np.ascontiguousarray(state[k]) for k in ("u2", "u4", "u8")}, {
        "u2": np.array([[0, 2], [1, 2**16 - 1]], "u2"), "u4": np.array([2**32 - 1], "u4"),
        "u8": np.array([2**64 - 1], "u8")})
    assert state["scheduler"]["milestones"] == {3: 1, 5: 2} and type(state["scheduler"]["milestones"]) is dict


def test_what_is_no_data_is_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match=r"module.pt: refused: it asks for torch.nn.modules.linear.Linear"):
        checkpoint.load(DATA / "module.pt")
    with pytest.raises(CheckpointError, match=r"old.pt: .*torch.save\(torch.load\(path\), path\)"):
        checkpoint.load(DATA / "old.pt")
    with pytest.raises(CheckpointError, match=r"float8.pt: .* torch.float8_e4m3fn, numbers .* tensor.float\(\)"):
        checkpoint.load(DATA / "float8.pt")
    with pytest.raises(FileNotFoundError):
        checkpoint.load(DATA / "nothing.pt")


def archive(path: Path, program: bytes, members: dict[str, bytes] | None = None, **options: Any) -> Path:
    """A file of `torch.save` by hand: its pickle, and one storage of 4 float32."""
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, data in {"data.pkl": program, "data/0": bytes(16), **(members or {})}.items():
            file.writestr(f"x/{name}", data)
    return path


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def tensor(offset: Any = 0, shape: Any = (4,), strides: Any = (1,), kind: str = "FloatStorage", key: Any = "0",
           size: Any = 4, more: bytes = b"") -> bytes:
    """The pickle of one tensor, whatever its numbers."""
    put = lambda x: pickle.dumps(x, 2)[2:-1]
    storage = b"(" + put("storage") + b"ctorch\n" + kind.encode() + b"\n" + put(key) + put("cpu") + put(size) + b"tQ"
    return (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + put(offset) + put(shape) + put(strides) +
            b"\x89ccollections\nOrderedDict\n)R" + more + b"tR.")


def test_the_tensor_by_hand_is_one(tmp_path: Path) -> None:
    same(checkpoint.load(archive(tmp_path / "a.pt", tensor(1, (3,)))), {"": np.zeros(3, "f4")})


def test_a_tensor_whose_numbers_stand_with_the_other_sign_is_refused(tmp_path: Path) -> None:
    """As torch.save writes x.conj().imag: a view, with a mark that its storage is to be negated."""
    marked = tensor(more=b"}" + pickle.dumps("neg", 2)[2:-1] + b"\x88s")
    with pytest.raises(CheckpointError, match=r"'neg'.*resolve_neg"):
        checkpoint.load(archive(tmp_path / "a.pt", marked))
    same(checkpoint.load(archive(tmp_path / "a.pt", tensor(more=b"}"))), {"": np.zeros(4, "f4")})


LAUGHS = b"\x80\x02]q\x00" + b"".join(b"](" + b"h%c" % i * 50 + b"eq%c" % (i + 1) for i in range(40))
HOSTILE = {
    "system": (pickle.dumps({"a": Call(os.system, "touch hacked")}, 2), "asks for posix.system"),
    "eval": (pickle.dumps(Call(eval, "open('hacked', 'w')"), 4), "asks for builtins.eval"),
    "getattr": (b"\x80\x04cbuiltins\ngetattr\n.", "asks for builtins.getattr"),
    "dotted": (b"\x80\x04\x8c\x0ctorch._utils\x8c\x1e_rebuild_tensor_v2.__globals__\x93.",
               "asks for torch._utils._rebuild"),
    "own helper": (b"\x80\x02ctinyseq.checkpoint\nos.system\n.", "asks for tinyseq.checkpoint.os.system"),
    "inst": (b"(S'touch hacked'\nios\nsystem\n.", "instruction"),
    "obj": (b"\x80\x02(cos\nsystem\nX\x01\x00\x00\x00ao.", "asks for os.system"),
    "newobj": (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "instruction"),
    "extension": (b"\x80\x02\x82\x01.", "instruction"),
    "call of a list": (b"\x80\x02])R.", "no function"),
    "call of a deep tuple": (b"\x80\x02)" + b"\x85" * 300_000 + b")R.", "no function"),
    "call of a storage": (b"\x80\x02ctorch\nFloatStorage\n)R.", "no function"),
    "a bare function": (b"\x80\x02ccollections\nOrderedDict\n.", None),
    "a bare storage": (tensor().replace(b"ctorch._utils\n_rebuild_tensor_v2\n(", b"").split(b"Q")[0] + b"Q.", None),
    "array state": (tensor()[:-1] + b"K\x01b.", None),
    "tuple as key": (b"\x80\x02}" + b")" + b"\x85" * 300_000 + b"K\x01s.", "key of a dict"),
    "deep list": (b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".", None),
    "deep tuple": (b"\x80\x02)" + b"\x85" * 300_000 + b".", None),
    "laughs": (LAUGHS + b".", None),
    "laughs as a shape": (LAUGHS + tensor()[2:].replace(pickle.dumps((4,), 2)[2:-1], b"h\x28", 1), "not what they"),
    "laughs as a key": (LAUGHS + tensor()[2:].replace(b"X\x01\x00\x00\x000", b"h\x28"), "key of a storage"),
    "laughs as arguments": (LAUGHS + b"ccollections\nOrderedDict\nh\x28R.", "no function"),
    "laughs as a size": (LAUGHS + b"ctorch\nSize\nh\x28\x85R.", None),
    "a Counter of a list": (b"\x80\x02ccollections\nCounter\n]\x85R.", None),
    "a dtype that is none": (tensor()[:-3].replace(b"tensor_v2", b"tensor_v3") + b"ctorch\nSize\ntR.", "the dtype of"),
    "long product": (tensor(0, (2**2000,) * 40_000, (0,) * 40_000), "not what they"),
    "itself": (b"\x80\x02]q\x00h\x00a.", None),
    "a far memo": (b"\x80\x02Nr\xff\xff\xff\xff.", None),
    "long string": (b"\x80\x02X\xff\xff\xff\x7fabc.", "truncated|EOF"),
    "bytearray": (b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x00.", "instruction"),
    "frame": (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.", None),
    "no end": (b"\x80\x02N", "EOF"),
    "nothing": (b"", "EOF"),
    "underflow": (b"\x80\x02a.", "IndexError"),
    "too much": (b"\x80\x02" + b"N0" * 2**23 + b".", "expected at most"),
    "long shape": (tensor(0, (5,)), "storage of 4"),
    "far offset": (tensor(2**62, (1,)), "storage of 4"),
    "negative offset": (tensor(-1, (1,)), "not what they"),
    "negative stride": (tensor(3, (4,), (-1,)), "not what they"),
    "wide stride": (tensor(0, (2, 2), (1, 3)), "storage of 4"),
    "huge stride": (tensor(0, (2,), (2**70,)), "storage of 4"),
    "huge shape": (tensor(0, (2**40,), (0,)), "storage of 4"),
    "huge product": (tensor(0, (2**40, 2**40), (0, 0)), "storage of 4"),
    "huge and empty": (tensor(0, (0, 2**62, 2**62), (1, 1, 1)), "a.pt: "),
    "many axes": (tensor(0, (1,) * 100, (1,) * 100), "a.pt: "),
    "float shape": (tensor(0, (1.5,)), "not what they"),
    "text shape": (tensor(0, "4", "1"), "not what they"),
    "axes": (tensor(0, (1, 1), (1,)), "shorter"),
    "lost storage": (tensor(key="1"), "data/1"),
    "tuple key": (tensor(key=("0",)), "key of a storage"),
    "outside": (tensor(key="../../x"), "KeyError"),
    "wrong dtype": (tensor(kind="DoubleStorage"), "storage of 2"),
    "no dtype": (tensor(kind="QInt8Storage"), "asks for torch.QInt8Storage"),
    "tensor as storage": (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + tensor(0, (100,), (0,))[2:-1] +
                          pickle.dumps((0, (100,), (1,)), 2)[2:-1] + b"R.", "a.pt: "),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_errors_and_nothing_else(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    program, says = HOSTILE[name]
    path = archive(tmp_path / "a.pt", program)
    tracemalloc.start()
    try:
        if says is None:
            checkpoint.load(path)
        else:
            with pytest.raises(CheckpointError, match=says) as error:
                checkpoint.load(path)
            assert str(error.value).startswith(f"checkpoint.load: path {path}: ") and len(str(error.value)) < 1500
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("says, program, members, compression", [
    ("little-endian", tensor(), {"byteorder": b"big"}, zipfile.ZIP_STORED),
    ("stored or deflated", tensor(), {}, zipfile.ZIP_LZMA),
    ("neither 0 nor 1", tensor(kind="BoolStorage", size=2), {"data/0": b"\1\2"}, zipfile.ZIP_STORED)])
def test_hostile_archives_are_errors(says: str, program: bytes, members: Any, compression: int, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=says):
        checkpoint.load(archive(tmp_path / "a.pt", program, members, compression=compression))


def test_a_zip_bomb_is_named_before_it_is_unpacked(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pt", tensor(), {"data/0": bytes(2**20)}, compression=zipfile.ZIP_DEFLATED)
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", 2**20), struct.pack("<I", 2**29)))
    with pytest.raises(CheckpointError, match="zip bomb"):
        checkpoint.load(path)


def npy(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def deflated(folder: Path, program: bytes, members: dict[str, bytes] | None = None) -> Path:
    return archive(folder / "a.pt", program, members, compression=zipfile.ZIP_DEFLATED)


def header(folder: Path, header: Any) -> Path:
    return write(folder / "a.safetensors", header)


# Small files that ask for much.
GREEDY: dict[str, Callable[[Path, int], Path]] = {
    "marks": lambda p, n: deflated(p, b"\x80\x02" + b"(" * n + b"."),
    "dicts": lambda p, n: deflated(p, b"\x80\x02(" + b"}" * n + b"t."),
    "lists": lambda p, n: deflated(p, b"\x80\x02(" + b"]" * n + b"t."),
    "memo": lambda p, n: deflated(p, b"\x80\x04N" + b"\x94" * n + b"."),
    "entries": lambda p, n: deflated(p, b"\x80\x02(" + b"}K\1Ns" * n + b"t."),
    "tuples": lambda p, n: deflated(p, b"\x80\x02)" + b"\x85" * n + b"."),
    "calls": lambda p, n: deflated(p, b"\x80\x02(ccollections\nOrderedDict\nq\1" + b"h\1)R" * n + b"t."),
    "tensors": lambda p, n: deflated(p, b"\x80\x02(" + tensor()[2:-2].replace(b"v2\n", b"v2\nq\1") + b"q\2R" +
                                    b"h\1h\2R" * n + b"t."),
    "types": lambda p, n: deflated(p, b"\x80\x02(" + b"".join(
        tensor(kind=f"{k}Storage")[2:-1] for k in ("Byte", "Char", "Short", "Int", "Float", "BFloat16")) + b"t.",
        {"data/0": bytes(8 * n)}),
    "bfloat16": lambda p, n: deflated(p, tensor(kind="BFloat16Storage"), {"data/0": bytes(20 * n)}),
    "byteorder": lambda p, n: deflated(p, tensor(), {"byteorder": bytes(40 * n)}),
    "parts": lambda p, n: header(p, {"__metadata__": {"tinyseq": json.dumps({"a/" * n: 1})}}),
    "parts of a tensor": lambda p, n: header(p, {"__metadata__": {"tinyseq": "{}"},
                                                                  "a/" * n: entry(0, 0, [0])}),
    "lists of JSON": lambda p, n: header(p, {"__metadata__": {"tinyseq": '{"a":[' + "[]," * n + "1]}"}}),
    "escaped": lambda p, n: header(p, b'{"__metadata__":{"tinyseq":"{\\"a\\":[' + b"\\u005b]," * n +
                                  b'1]}"}}'),
    "tensors of JSON": lambda p, n: header(p, {str(i): entry(0, 0, [0]) for i in range(n // 8)}),
    "an index": lambda p, n: write(p / "a.safetensors.index.json", b"", b'{"weight_map":[' + b"[]," * n + b"1]}")}


@pytest.mark.parametrize("kind", GREEDY)
def test_small_files_take_no_more_memory_than_is_stated(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    room = 2**22
    monkeypatch.setattr(archives, "ROOM", room)
    path = GREEDY[kind](tmp_path, 2**17)
    if kind == "an index":
        path.write_bytes(path.read_bytes()[8:])
    checkpoint.load(DATA / "tensors.pt")     # what is imported only once
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"unpacks? to"):
            checkpoint.load(path)
        assert tracemalloc.get_traced_memory()[1] < room + 4 * path.stat().st_size + 2**20
    finally:
        tracemalloc.stop()


def test_a_long_list_of_members_or_tensors_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "TEXT_BYTES", 2**12)
    for path in (archive(tmp_path / "a.pt", tensor(), dict.fromkeys(map(str, range(100)), b"")),
                 header(tmp_path, {str(i): entry(0, 0, [0]) for i in range(100)})):
        with pytest.raises(CheckpointError, match=r"expected at most 4096 bytes of a header"):
            checkpoint.load(path)


@pytest.mark.parametrize("kind", ["FloatStorage", "BFloat16Storage"])
def test_a_file_takes_twice_its_size_at_most(kind: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pt", tensor(kind=kind), {"data/0": bytes(2**24)})
    tracemalloc.start()
    try:
        checkpoint.load(path)
        assert tracemalloc.get_traced_memory()[1] < (2.2 if kind == "BFloat16Storage" else 1.2) * 2**24
    finally:
        tracemalloc.stop()


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for name in ("fifo", "socket", "/dev/zero"):
            with pytest.raises(CheckpointError, match=f"{name}: expected a regular file"):
                checkpoint.load(name)
            with pytest.raises(CheckpointError, match=f"{name}: expected the name of a regular file"):
                checkpoint.save(name, {})
    Path("x.safetensors.index.json").write_text('{"weight_map": {"a": "fifo"}}')
    with pytest.raises(CheckpointError, match="fifo: expected a regular file"):
        checkpoint.load(".")
    assert sorted(os.listdir()) == ["fifo", "socket", "x.safetensors.index.json"]


@pytest.mark.parametrize("head, says", [
    (npy("{'descr': '<f4', 'fortran_order': False, 'shape': ()}", bytes(4)), r"np.load\(path\)"),
    (pickle.dumps({"a": 1}), "a pickle, .* if you trust it"), (pickle.dumps(np.ones(2), 2), "a pickle, .*pickle.load"),
    (b"\x89HDF\r\n\x1a\n", "h5py.File"), (b"GGUF\3\0\0\0", "gguf.GGUFReader"),
    (b"\x08\x0a\x12\x07pytorch", "onnx.load"), (b"\x08\x0b:\x80\1", "onnx.load"), (b"\x81\xa6params", "msgpack"),
    (b"\x1f\x8b\x08", "gunzip"), (b"\x28\xb5\x2f\xfd\0", "unzstd"), (b"x" * 257 + b"ustar", "tar archive"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256", "git lfs pull"), (b"\n<!DOCTYPE html>", "HTML"),
    (b"any thing", "begins with b'any thin'"), (b"", "begins with b''")])
def test_other_files_are_told_and_how_they_are_read(head: bytes, says: str, tmp_path: Path) -> None:
    for name in ("a.bin", "a.safetensors"):
        (tmp_path / name).write_bytes(head)
        with pytest.raises(CheckpointError, match=f"{name}: expected safetensors, .npz or .*{says}"):
            checkpoint.load(tmp_path / name)


def test_zip_files_of_others_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.keras"
    for names, says in [(["metadata.json", "config.json", "model.weights.h5"], r"model.weights.h5.*where it is Keras'"),
                        (["a.txt"], r"\['a.txt'\]: unpack it")]:
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                file.writestr(name, b"")
        with pytest.raises(CheckpointError, match=says):
            checkpoint.load(path)


def test_arrays_that_numpy_has_no_numbers_for_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for value, says in [(np.zeros(2, "V2"), r"a.npy: .*dtype \|V2.*it may be bfloat16 .*astype\(float32\)"),
                        (np.zeros(2, "V1"), "it may be float8"),
                        (np.array(None), r"a.npy: .*Python objects, such as None .*allow_pickle=True"),
                        (np.array(["x"]), "expected an array of numbers, got dtype <U1"),
                        (np.zeros(2, "V8"), r"dtype \|V8, shape \(2,\)$"), (np.ones(1, complex), "complex128")]:
        np.savez(path, b=np.ones(1), a=value)
        with pytest.raises(CheckpointError, match=says):
            checkpoint.load(path)


@pytest.mark.parametrize("hidden", [
    lambda p: write(p, {"a": entry(0, 4, [1]), "__metadata__": {"tinyseq": '{"a": 3}'}}, bytes(4)),
    lambda p: write(p, {"a/b": entry(0, 4, [1]), "__metadata__": {"tinyseq": '{"a": 3}'}}, bytes(4)),
    lambda p: write(p, {"a": entry(0, 4, [1]), "__metadata__": {"tinyseq": '{"a/b": 3}'}}, bytes(4)),
    lambda p: write(p, {"__metadata__": {"tinyseq": '{"a": 3, "a": 4}'}}),
    lambda p: write(p, b'{"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},'
                       b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x")])
def test_metadata_that_hides_a_tensor_is_refused(hidden: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"hide|hidden|twice|not fully covered|more than once|[Dd]uplicate"):
        checkpoint.load(hidden(tmp_path / "a.safetensors"))


def test_members_that_hide_each_other_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        for name in ("a.npy", "a"):
            file.writestr(name, npy("{'descr': '<f4', 'fortran_order': False, 'shape': ()}", bytes(4)))
    with pytest.raises(CheckpointError, match="another array has this name"):
        checkpoint.load(tmp_path / "a.npz")


def test_a_changed_byte_of_an_archive_is_found(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pt", tensor(), {"data/0": b"0123456789abcdef"})
    path.write_bytes(path.read_bytes().replace(b"789", b"780"))
    with pytest.raises(CheckpointError, match=r"Bad CRC-32 for file 'x/data/0'"):
        checkpoint.load(path)


def test_a_lying_member_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", bytes(2**25))
    raw = path.read_bytes().replace(struct.pack("<I", 2**25), struct.pack("<I", 100))
    path.write_bytes(raw)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"a.npz: a.npy: "):
            checkpoint.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [0, 1, 8])
@pytest.mark.parametrize("kind", ["ByteStorage", "BFloat16Storage"])
def test_a_member_that_ends_early_is_an_error(size: int, kind: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pt", tensor(kind=kind), {"data/0": bytes(size)}, compression=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path) as file:
        info = file.getinfo("x/data/0")
    sizes = struct.pack("<LLL", info.CRC, info.compress_size, size)
    path.write_bytes(path.read_bytes().replace(sizes, struct.pack("<LLL", info.CRC, info.compress_size, 100)))
    with pytest.raises(CheckpointError, match=r"x/data/0: expected 100 bytes, and the file ends before"):
        checkpoint.load(path)


@pytest.mark.parametrize("member", [
    npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}"),
    npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", bytes(8)),
    npy("{'descr': '|O', 'fortran_order': False, 'shape': ()}", pickle.dumps(Call(os.system, "touch hacked"))),
    npy("{'descr': '<f4', 'fortran_order': False, 'shape': __import__('os').system('touch hacked')}"),
    npy("{'descr': '<U2', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
    npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", bytes(4)),
    npy("{'descr': '|b1', 'fortran_order': False, 'shape': (1,)}", b"\x07"),
    npy("{" * 5000), npy("(" * 5000), b"\x93NUMPY\x01\x00\xff\xff", b"\x93NUMPY\x09\x00\x00\x00", b"", b"PK"])
def test_hostile_npz_files_are_errors(member: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("a.npz", "w") as file:
        file.writestr("a.npy", member)
    with pytest.raises(CheckpointError, match=r"a.npz: a.npy: "):
        checkpoint.load("a.npz")
    assert os.listdir() == ["a.npz"]


@pytest.mark.parametrize("header, data, length", [
    (b"", b"", None), (b"{}", b"", 2**63), (b"{}", b"", 3), (b"{}", b"", 10**8), (b"{]", b"", None), (b"[]", b"", None),
    (b'{"a":' * 10**4, b"", None), ({"a": entry(0, 8, [1])}, bytes(8), None), ({"a": entry(0, 8, [2])}, bytes(4), None),
    ({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12), None), ({"a": entry(4, 8, [1])}, bytes(8), None),
    ({"a": entry(0, 8, [2])}, bytes(12), None), ({"a": entry(0, 4, [1], "F33")}, bytes(4), None),
    ({"a": entry(0, 0, [0, 2**40, 2**40])}, b"", None), ({"a": entry(0, 4, [1] * 100)}, bytes(4), None),
    ({"a": entry(0, 4, [2**62, 2**62])}, bytes(4), None), ({"a": entry(0, 4, [-1])}, bytes(4), None),
    ({"a": entry(0, 1, [1], "F8_E4M3")}, b"1", None), ({"a": entry(0, 1, [1], "BOOL")}, b"\x02", None),
    ({"__metadata__": {"tinyseq": "[" * 10**5}}, b"", None), ({"__metadata__": {"tinyseq": "5"}}, b"", None),
    ({"__metadata__": {"tinyseq": '{"a/b": 1, "a": 2, "a/c": 3}'}}, b"", None)])
def test_hostile_safetensors_are_errors(header: Any, data: bytes, length: int | None, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"x.safetensors: "):
        checkpoint.load(write(tmp_path / "x.safetensors", header, data, length))


def real_files(folder: Path) -> list[tuple[str, bytes]]:
    state = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": {"c": np.ones(3, np.int8), "d": "text"}, "n": 3}
    names = ("tensors.pt", "training.pt", "protocol4.pt", "unsigned.pt")
    files = [(name, (DATA / name).read_bytes()) for name in names]
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, a=state["a"], b=np.ones((2, 2), bool))
        files.append(("a.npz", file.getvalue()))
    path = folder / "a.safetensors"
    checkpoint.save(path, state)
    files.append((path.name, path.read_bytes()))
    path.unlink()
    return files


@given(st.data())
def test_mutated_files_load_or_are_errors(folder: Path, data: st.DataObject) -> None:
    FILES[:] = FILES or real_files(folder)
    name, raw = data.draw(st.sampled_from(FILES))
    changed = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed)))
        new = data.draw(st.one_of(st.binary(max_size=1), st.sampled_from([b"\xff" * 4, b"\xff" * 8, bytes(8)])))
        changed[at:at + data.draw(st.sampled_from([len(new), len(new), 0, 40]))] = new
    del changed[data.draw(st.one_of(st.just(len(changed)), st.integers(0, len(changed)))):]
    path = folder / f"mutated-{name}"
    path.write_bytes(changed)
    tracemalloc.start()
    try:
        touch(checkpoint.load(path))
    except CheckpointError as error:
        assert str(path) in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2**23


FILES: list[tuple[str, bytes]] = []


def mutated_pickle(raw: bytes, data: st.DataObject) -> bytes:
    changed = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(b"RQ.astub}](\x85\x86h0")))
    return bytes(changed)


@given(st.data())
def test_mutated_pickles_load_or_are_errors(folder: Path, data: st.DataObject) -> None:
    with zipfile.ZipFile(DATA / data.draw(st.sampled_from(["tensors.pt", "training.pt", "protocol4.pt"]))) as file:
        members = {name.split("/", 1)[1]: file.read(name) for name in file.namelist()}
    program = mutated_pickle(members.pop("data.pkl"), data)
    with suppress(CheckpointError):
        touch(checkpoint.load(archive(folder / "p.pt", program, members)))


def touch(value: Any) -> None:
    """Read every entry: a view beyond its memory would crash."""
    if isinstance(value, np.ndarray):
        with np.errstate(all="ignore"):
            value.sum(dtype="float64" if value.dtype.kind != "b" else None)
    elif isinstance(value, dict) and len(repr(value)) < 10**6:
        for x in value.values():
            touch(x)


# --- a save and who reads meanwhile
def test_a_file_may_be_saved_over_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"x": np.arange(10**5)})
    old = checkpoint.load(path)["x"]
    checkpoint.save(path, {"x": np.zeros(3)})
    assert (old == np.arange(10**5)).all() and checkpoint.load(path)["x"].shape == (3,)


def test_what_is_read_is_the_file_that_was_vetted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, vet = tmp_path / "a.safetensors", safetensors.safe_open
    checkpoint.save(path, {"x": np.arange(10)})

    def swapped(*args: Any, **kwargs: Any) -> Any:
        opened = vet(*args, **kwargs)
        os.replace(write(tmp_path / "b", {"x": entry(0, 4, [2**60], "U8")}, bytes(4)), path)
        return opened
    monkeypatch.setattr(safetensors, "safe_open", swapped)
    same(checkpoint.load(path), {"x": np.arange(10)})


# --- training goes on
def train(model: Any, optimizer: Any, steps: int) -> None:
    x = ts.asarray(np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 4, 2))
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x + 0.1 * ts.random.normal(x.shape)) ** 2).mean().backward()
        optimizer.step()


@pytest.mark.parametrize("make", [lambda p: optim.AdamW(p, lr=0.1), lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
                                  lambda p: optim.SGD(p)])
def test_a_resumed_training_equals_the_uninterrupted_one(make: Callable[[Any], Any], tmp_path: Path) -> None:
    def start(seed: int) -> Any:
        ts.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 5), nn.Dropout(0.5), nn.Linear(5, 1))
        return model, make(model.parameters())

    model, optimizer = start(2**64 - 1)
    train(model, optimizer, 3)
    path = tmp_path / "run.safetensors"
    checkpoint.save(path, {"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                           "random": ts.random.get_state(), "step": 3})
    train(model, optimizer, 3)

    twin, other = start(7)
    state = checkpoint.load(path)
    twin.load_state_dict(state["model"])
    other.load_state_dict(state["optimizer"])
    ts.random.set_state(state["random"])
    assert state["step"] == 3
    train(twin, other, 3)
    for k, v in model.state_dict().items():
        same(twin.state_dict()[k].numpy(), v.numpy())
    for k, v in optimizer.state_dict().items():
        same(*(x.numpy() if isinstance(x, ts.Tensor) else np.asarray(x) for x in (other.state_dict()[k], v)))


# --- into modules
def test_loading_holds_one_tensor_more_than_the_model(tmp_path: Path) -> None:
    model, path = nn.Sequential(*(nn.Linear(500, 500) for _ in range(20))), tmp_path / "a.safetensors"
    model.save(path)
    tracemalloc.start()
    try:
        model.load(path)
        assert tracemalloc.get_traced_memory()[1] < 20 * 500 * 500 * 4 * 1.15   # the new arrays
        tracemalloc.clear_traces()
        model.save(path)
        here = model[0].weight.backend == "numpy"   # a device's go to the host, one at a time
        assert tracemalloc.get_traced_memory()[1] < (10**6 if here else 2 * 500 * 500 * 4)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("strict", [True, False])
@given(data=st.data())
def test_a_module_takes_a_file_whole_or_not_at_all(folder: Path, strict: bool, data: st.DataObject) -> None:
    model, other = (nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)) for _ in range(2))
    for i, module in enumerate((model, other)):
        module[1].count = nn.Buffer([i])
    before, state = ({k: v.numpy() for k, v in m.state_dict().items()} for m in (model, other))
    path = folder / "part.safetensors"
    lost = data.draw(st.lists(st.sampled_from(list(state)), max_size=1))
    value = st.one_of(any_array, st.just(np.full(1, 2.5)))  # of any shape, or of 1.bias's and count's
    more = data.draw(st.dictionaries(st.sampled_from(["1.scale", *state]), value, max_size=1))
    checkpoint.save(path, {k: v for k, v in state.items() if k not in lost} | more)
    raw = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=2)):
        raw[at] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        keys = model.load(path, strict)
    except (CheckpointError, KeyError, ValueError) as error:
        assert str(path) in str(error)
        expected = before
    else:
        read = checkpoint.load(path)
        assert keys == ([k for k in before if k not in read], [k for k in read if k not in before])
        assert keys.missing_keys is keys[0] and keys.unexpected_keys is keys[1] and not (strict and any(keys))
        expected = before | {k: read[k].astype(before[k].dtype) for k in before if k in read}
    same({k: v.numpy() for k, v in model.state_dict().items()}, expected)


def test_numbers_are_converted_but_integers_are_not_rounded(tmp_path: Path) -> None:
    layer = nn.Linear(2, 1)
    for dtype in ("float16", "float64", "int8"):
        layer.load_state_dict({"weight": np.ones((1, 2), dtype), "bias": np.zeros(1, dtype)})
        assert layer.weight.dtype == "float32" and (layer.weight.detach().numpy() == 1).all()
    layer.count = nn.Buffer([1])
    with pytest.raises(ValueError, match=r"wrong dtypes: count: float64.* given, int64.* here"):
        layer.load_state_dict({"weight": np.ones((1, 2)), "bias": np.zeros(1), "count": np.array([1.5])})
    layer.load_state_dict({"weight": np.asfortranarray(np.ones((2, 1))).T, "bias": np.zeros(1), "count": np.array([2])})
    assert layer.weight.data.flags.c_contiguous


def test_nested_lists_of_a_file_are_not_unfolded(tmp_path: Path) -> None:
    double = b"".join(b"q%ch%c\x86" % (i, i) for i in range(60))   # a pair of twice what was there: 2^60 in all
    path = archive(tmp_path / "a.pt", b"\x80\x02}X\x06\0\0\0weightK\x01\x85" + double + b"s.")
    with pytest.raises(ValueError, match="expected arrays, got weight: tuple"):
        nn.Linear(2, 1, bias=False).load(path)


# --- names
def test_rename_is_data() -> None:
    x = np.arange(6).reshape(2, 3)
    state = {f"h.{i}.{k}.weight": x + i for i in range(2) for k in "qkv"} | {
        "h.0.c.weight": x, "h.0.c.bias": x[0], "h.0.mask": x, "wte": x}
    got = checkpoint.rename(state, {
        ("h.{}.q.{}", "h.{}.k.{}", "h.{}.v.{}"): "layers.{}.in_proj_{}", "h.{}.c.{}.T": "layers.{}.out.{}",
        "h.{}.mask": None})
    same(got, {"wte": x, "layers.0.in_proj_weight": np.concatenate([x, x, x]), "layers.0.out.weight": x.T,
               "layers.1.in_proj_weight": np.concatenate([x, x, x]) + 1, "layers.0.out.bias": x[0]})
    swapped = checkpoint.rename({"a": x, "b": x + 1}, {"a": "b", "b": "a"})
    same(swapped, {"b": x, "a": x + 1})
    for wrong, says in [({("wte", "wpe"): "e"}, "wte is there without wpe"), ({"wte": "h.0.mask"}, "two .* h.0.mask")]:
        with pytest.raises(CheckpointError, match=says):
            checkpoint.rename(state, wrong)
    for rules in ({"wte": "{}"}, {("wte", "h.0.q.weight"): "x"}, {"wte": 3}, {3: "x"}, {"h.{}.q.weight": "{a}"}):
        with pytest.raises(CheckpointError, match=f"rename: {re.escape(repr(next(iter(rules))))} to "):
            checkpoint.rename(state | {"h.0.q.weight": np.ones((5, 5))}, rules)
    with pytest.raises(CheckpointError, match="two tensors come to the name q"):
        checkpoint.rename(state, {"h.{}.q.weight": "q"})


# --- against PyTorch
@pytest.mark.reference
@given(st.data())
def test_whatever_torch_saves_is_read(folder: Path, data: st.DataObject) -> None:
    torch = pytest.importorskip("torch")
    kinds = "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 bfloat16 float32 float64".split()
    bases = [torch.arange(24).to(getattr(torch, data.draw(st.sampled_from(kinds)))) for _ in range(3)]
    state: dict[str, Any] = {}
    for i in range(data.draw(st.integers(0, 5))):
        x = data.draw(st.sampled_from(bases)).reshape(data.draw(st.sampled_from([(24,), (4, 6), (2, 3, 4)])))
        how = data.draw(st.sampled_from(["whole", "part", "turned", "steps", "wide", "trained"]))
        x = {"whole": x, "part": x[1:], "turned": x.transpose(0, -1), "steps": x[..., 1::2],
             "wide": x[None].expand(3, *x.shape), "trained": torch.nn.Parameter(x, requires_grad=False)}[how]
        state[f"{how}.{i}"] = x
    protocol = data.draw(st.sampled_from([2, 3, 4]))
    torch.save({"model": state, "step": 3, "rest": [None, (1, -2.5), "é", {7: True}]}, folder / "t.pth",
               pickle_protocol=protocol)
    read = checkpoint.load(folder / "t.pth")
    assert read["step"] == 3 and read["rest"] == [None, (1, -2.5), "é", {7: True}]
    assert list(read["model"]) == list(state)
    for k, v in state.items():
        same(np.ascontiguousarray(read["model"][k]).reshape(v.shape), (
            v.float() if v.dtype == torch.bfloat16 else v).detach().contiguous().numpy())


@pytest.mark.reference
def test_torchs_bfloat16_safetensors_are_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as torch_save

    x = torch.randn(3, 5)
    torch_save({"x": x.bfloat16(), "h": x.half()}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    read = checkpoint.load(tmp_path / "a.safetensors")
    same(read, {"x": x.bfloat16().float().numpy(), "h": x.half().numpy()})


@pytest.mark.reference
@pytest.mark.parametrize("checksums", [True, False])
def test_torchs_optimizers_and_schedulers_are_read(checksums: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    kinds, layer = torch.optim.lr_scheduler, torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    schedulers = [kinds.MultiStepLR(optimizer, [1, 2, 2]), kinds.OneCycleLR(optimizer, 0.1, 10, cycle_momentum=False),
                  kinds.ReduceLROnPlateau(optimizer), kinds.LambdaLR(optimizer, lambda step: 1.0),
                  kinds.SequentialLR(optimizer, [kinds.ConstantLR(optimizer), kinds.MultiStepLR(optimizer, [2])], [2])]
    states = [scheduler.state_dict() for scheduler in schedulers]
    torch.serialization.set_crc32_options(checksums)
    try:
        torch.save({"optimizer": optimizer.state_dict(), "schedulers": states}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    read = checkpoint.load(tmp_path / "a.pt")
    assert read["schedulers"] == states
    for i, slots in optimizer.state_dict()["state"].items():
        for name, value in slots.items():
            same(np.ascontiguousarray(read["optimizer"]["state"][i][name]).reshape(value.shape), value.numpy())


@pytest.mark.reference
@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "complex64", "bits8", "float4_e2m1fn_x2"])
def test_torchs_other_dtypes_are_refused_by_name(dtype: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if not hasattr(torch, dtype):
        pytest.skip(f"this PyTorch has no {dtype}")
    torch.save({"x": torch.zeros(2, dtype=getattr(torch, dtype))}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a.pt: refused: it asks for torch\._?\w"):
        checkpoint.load(tmp_path / "a.pt")
