"""Checkpoints: what was written comes back; files of others; who reads meanwhile; trainings that go on.

Hostile files are in test_archives.py; kills, interrupts and several savers in test_checkpoint_force.py.
"""

import enum
import errno
import json
import os
import pickle
import re
import socket
import tracemalloc
import zipfile
from collections import Counter, OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from helpers.files import archive, bfloat16, entry, npy, same, write
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import load_file, save_file

import tinyseq as ts
from tinyseq import archives, checkpoint, nn, optim
from tinyseq.checkpoint import CheckpointError

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


# --- what was written comes back -------------------------------------------------------------------------------------


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


# --- files of others -------------------------------------------------------------------------------------------------


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
    (b"GGUF\3\0\0\0", "gguf.GGUFReader"),
    (b"\x81\xa6params", "msgpack"),
    (b"\x1c\0\0\0TFL3", "TensorFlow Lite.*load the model that it was made from"),
    (b"\x1f\x8b\x08", "gunzip"), (b"\x28\xb5\x2f\xfd\0", "unzstd"), (b"x" * 257 + b"ustar", "tar archive"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256", "git lfs pull"), (b"\n<!DOCTYPE html>", "HTML"),
    (b"any thing", "begins with b'any thin'"), (b"", "begins with b''")])
def test_other_files_are_told_and_how_they_are_read(head: bytes, says: str, tmp_path: Path) -> None:
    for name in ("a.bin", "a.safetensors"):
        (tmp_path / name).write_bytes(head)
        with pytest.raises(CheckpointError, match=f"{name}: expected safetensors, .npz, .*{says}"):
            checkpoint.load(tmp_path / name)


def test_zip_files_of_others_are_told(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a.txt", b"")
    with pytest.raises(CheckpointError, match=r"\['a.txt'\]: unpack it"):
        checkpoint.load(tmp_path / "a.zip")


@pytest.mark.parametrize("name, head, says", [
    ("a.pdparams", pickle.dumps({}), r"PaddlePaddle's, a pickle.*in Paddle np.savez\(.*paddle.load"),
    ("model.ckpt.index", bytes(9), r"half of TensorFlow's.*tf.train.load_checkpoint.*np.savez\("),
    ("model.ckpt-7.data-00000-of-00001", bytes(9), r"half of TensorFlow's.*tf.train.load_checkpoint"),
    ("saved_model.pb", b"\x08\x01\x12\x9a", r"a graph of TensorFlow.*np.savez\(.*tf.saved_model.load")])
def test_files_that_their_names_tell_are_told(name: str, head: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(head)
    with pytest.raises(CheckpointError, match=f"{name}: this seems to be {says}"):
        checkpoint.load(tmp_path / name)


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


# --- a save and who reads meanwhile ----------------------------------------------------------------------------------


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


# --- training goes on ------------------------------------------------------------------------------------------------


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
        same(*(x.numpy() if isinstance(x, ts.Tensor) else x for x in (other.state_dict()[k], v)))


# --- into modules ----------------------------------------------------------------------------------------------------


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


# --- names -----------------------------------------------------------------------------------------------------------


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


NAMES = st.lists(st.text("ab{}.", min_size=1, max_size=6), unique=True, max_size=6)


@given(names=NAMES, prefix=st.sampled_from(["model.", "module.model.", "a."]))
def test_one_rule_puts_a_prefix_before_all_names_and_takes_it_off(names: list[str], prefix: str) -> None:
    state = {name: np.array(i) for i, name in enumerate(names)}
    longer = checkpoint.rename(state, {"": prefix}, strict=bool(names))
    assert longer == {f"{prefix}{name}": i for name, i in state.items()}
    assert checkpoint.rename(longer, {prefix: ""}, strict=bool(names)) == state
    assert checkpoint.rename(longer | {"other": np.ones(1)}, {prefix: None}, strict=bool(names)) == {"other": 1}


def test_prefixes_beside_other_rules() -> None:
    state = {"model.h.0.q": np.array([1]), "model.h.0.k": np.array([2]), "model.h.1.v.T": np.array([3])}
    got = checkpoint.rename(state, {("model.h.0.q", "model.h.0.k"): "in", "model.h.": "layers."})
    same(got, {"in": np.array([1, 2]), "layers.1.v.T": np.array([3])})
    same(checkpoint.rename({"q.w": np.array([1]), "k.w": np.array([2])}, {("q.", "k."): "qk."}),
         {"qk.w": np.array([1, 2])})


def test_a_rule_that_fits_nothing_is_told() -> None:
    state = {"model.a": np.ones(1), "b": np.ones(2)}
    for rules in ({"modle.": ""}, {"model.{}": "{}", "model.": ""}, {"model.b": None}, {"{}.a": "a", "{}.c": "c"}):
        old, new = [*rules.items()][-1]
        with pytest.raises(CheckpointError, match=re.escape(f"rename: {old!r} to {new!r}: no name fits it, of ")):
            checkpoint.rename(state, rules)
        assert "b" in checkpoint.rename(state, rules, strict=False)


# --- against PyTorch -------------------------------------------------------------------------------------------------


@pytest.mark.reference
def test_torchs_bfloat16_safetensors_are_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as torch_save

    x = torch.randn(3, 5)
    torch_save({"x": x.bfloat16(), "h": x.half()}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    read = checkpoint.load(tmp_path / "a.safetensors")
    same(read, {"x": x.bfloat16().float().numpy(), "h": x.half().numpy()})


def test_arrays_in_a_list_are_refused_with_what_to_write(tmp_path: Path) -> None:
    states = [{"m": ts.ones(2)}, {"m": np.zeros(3)}]
    with pytest.raises(CheckpointError, match=r"opts\[0\]/m: a Tensor .*from a list: give each a key.*enumerate"):
        checkpoint.save(tmp_path / "a.safetensors", {"opts": states})
    with pytest.raises(CheckpointError, match=r"opts\[0\]: a ndarray .*from a list"):
        checkpoint.save(tmp_path / "a.safetensors", {"opts": (np.ones(2),)})
    checkpoint.save(tmp_path / "a.safetensors", {"opts": {str(i): x for i, x in enumerate(states)}})
    assert checkpoint.load(tmp_path / "a.safetensors")["opts"]["1"]["m"].shape == (3,)
