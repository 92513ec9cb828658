"""What files are read with: PyTorch's pickles, archives, and how much may be read; broken and hostile ones."""

import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.files import DATA, archive, entry, npy, real_files, same, tensor, touch, write
from hypothesis import given
from hypothesis import strategies as st

from tinyseq import archives, checkpoint, nn
from tinyseq.checkpoint import CheckpointError

# --- PyTorch's files, without PyTorch --------------------------------------------------------------------------------


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


def test_the_tensor_by_hand_is_one(tmp_path: Path) -> None:
    same(checkpoint.load(archive(tmp_path / "a.pt", tensor(1, (3,)))), {"": np.zeros(3, "f4")})


def test_a_tensor_whose_numbers_stand_with_the_other_sign_is_refused(tmp_path: Path) -> None:
    """As torch.save writes x.conj().imag: a view, with a mark that its storage is to be negated."""
    marked = tensor(more=b"}" + pickle.dumps("neg", 2)[2:-1] + b"\x88s")
    with pytest.raises(CheckpointError, match=r"'neg'.*resolve_neg"):
        checkpoint.load(archive(tmp_path / "a.pt", marked))
    same(checkpoint.load(archive(tmp_path / "a.pt", tensor(more=b"}"))), {"": np.zeros(4, "f4")})


# --- hostile files ---------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


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


# --- mutated files ---------------------------------------------------------------------------------------------------

FILES: list[tuple[str, bytes]] = []


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


# --- against PyTorch -------------------------------------------------------------------------------------------------


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
