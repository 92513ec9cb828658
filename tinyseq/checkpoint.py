"""Checkpoint files as dictionaries of NumPy arrays: safetensors, also in shards, `.npz`, and PyTorch's `.pt`.

    state = checkpoint.load("pytorch_model.bin")                            # needs no PyTorch, and runs no code
    state = checkpoint.rename(state, {"h.{}.mlp.c_fc.{}.T": "layers.{}.linear1.{}"})
    model.load_state_dict(state)

A whole training is a nested dictionary, and goes on bit for bit:

    checkpoint.save("run.safetensors", {"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                                        "random": ts.random.get_state(), "step": step})

Files are not trusted: a file that is broken, or made to do harm, is a `CheckpointError` and nothing else.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tinyseq.tensor import Tensor

Array = np.ndarray[Any, Any]
Name = str | os.PathLike[str]

_SAFETENSORS = {"BOOL": "bool", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64", "I8": "int8",
                "I16": "int16", "I32": "int32", "I64": "int64", "F16": "float16", "BF16": "bfloat16",
                "F32": "float32", "F64": "float64"}
_TORCH = {f"torch.{name}Storage": dtype for name, dtype in {
    "Bool": "bool", "Byte": "uint8", "Char": "int8", "Short": "int16", "Int": "int32", "Long": "int64",
    "Half": "float16", "BFloat16": "bfloat16", "Float": "float32", "Double": "float64"}.items()}
_PICKLE_BYTES, _DEPTH = 2**24, 64   # a state_dict takes less than 200 bytes a tensor, and is 2 deep
_ARRAYS = (Tensor, np.ndarray)
_DATA = (dict, list, tuple, str, int, float, bool, type(None), np.ndarray)


class CheckpointError(ValueError):
    """A file that is no checkpoint, a broken one, or one that holds what cannot be read or written."""


@contextmanager
def _blame(where: str) -> Iterator[None]:
    """Whatever is wrong with the bytes of a file or an entry, and whoever says so: a CheckpointError that names it."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.filename:   # no such file, or not ours to read
            raise
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise CheckpointError(f"{where}: {kind}{str(error)[:1000]}") from error


def load(path: Name) -> dict[str, Any]:
    """name -> array of a file, told by its content, or of a folder that holds `*.index.json` or `*.safetensors`.

    Nested dictionaries come back nested, numbers and strings as they are. The arrays are read-only and lie in the
    mapped file: what is not used is not read. NumPy has no bfloat16, so bfloat16 becomes float32 in memory, exactly;
    compressed `.npz` files are unpacked too. The file must not be overwritten in place while the arrays are in use.

    Of PyTorch's files only tensors, dicts, lists, tuples, numbers and strings are read; anything else that a pickle
    asks for, such as a class or a function, is refused by name. Raises CheckpointError, or OSError for no such file.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob("*.index.json")) or sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise CheckpointError(f"{path}: expected one *.index.json or one *.safetensors in this folder, got "
                                  f"{[file.name for file in found] or 'none'}: name the file")
        path = found[0]
    with _blame(str(path)):
        return _sharded(path) if path.suffix == ".json" else _file(path)


def _sharded(index: Path) -> dict[str, Any]:
    places: dict[str, str] = json.loads(index.read_bytes())["weight_map"]
    state: dict[str, Any] = {}
    for name in sorted(set(places.values())):
        with _blame(name):
            if Path(name).name != name:
                raise ValueError("a shard must lie beside its index")
            shard = _file(index.with_name(name))
            state |= {key: shard[key] for key, place in places.items() if place == name}
    return state


def _file(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{" or path.suffix == ".safetensors":
        return _safetensors(path)
    if head[:2] != b"PK":
        raise ValueError("expected safetensors, .npz or PyTorch's zip format; if it is of PyTorch's old format, "
                         "torch.save(torch.load(path), path) in PyTorch writes the new one")
    members = _zip(path)
    roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
    return _torch(members, roots[0]) if roots else _npz(members)


def _view(raw: Array, dtype: str) -> Array:
    """Bytes as an array, one-dimensional; bfloat16, the upper half of a float32, is widened."""
    if dtype == "bfloat16":
        return np.left_shift(raw.view(np.uint16), 16, dtype=np.uint32).view(np.float32)
    if dtype == "bool" and raw.size and raw.max() > 1:
        raise ValueError("a bool is neither 0 nor 1")
    return raw.view(dtype)


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as checked:     # the library vets header, shapes and offsets
        extra = (checked.metadata() or {}).get("tinyseq")
    file, state = np.asarray(np.memmap(path, np.uint8, "r")), {}
    start = 8 + int.from_bytes(file[:8].tobytes(), "little")
    for key, entry in json.loads(file[8:start].tobytes()).items():
        if key != "__metadata__":
            with _blame(key):
                if entry["dtype"] not in _SAFETENSORS:
                    raise ValueError(f"NumPy has no {entry['dtype']}")
                first, last = (start + offset for offset in entry["data_offsets"])
                state[key] = _view(file[first:last], _SAFETENSORS[entry["dtype"]]).reshape(entry["shape"])
    return state if extra is None else _plain(_nested(state | json.loads(extra)))


def _zip(path: Path) -> dict[str, Array]:
    """name -> bytes of each member: stored ones lie in the mapped file, compressed ones are unpacked."""
    file, members = np.asarray(np.memmap(path, np.uint8, "r")), {}
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(info.file_size for info in archive.infolist())
        if unpacked > 2**28 + 32 * file.size:
            raise ValueError(f"{file.size} bytes that unpack to {unpacked}: this looks like a zip bomb")
        for info in archive.infolist():
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{info.filename}: expected it stored or deflated")
            with _blame(info.filename), archive.open(info) as stream:
                if info.compress_type == zipfile.ZIP_DEFLATED:
                    data = np.frombuffer(stream.read(info.file_size), np.uint8)
                else:       # behind a header of 30 bytes, the name, and an extra field
                    start = info.header_offset + 30 + int(file[info.header_offset + 26:][:4].view("<u2").sum())
                    data = file[start:start + info.file_size]
                if data.size != info.file_size or zlib.crc32(data.data) != info.CRC:
                    raise ValueError("truncated or damaged, its checksum is wrong")
            members[info.filename] = data
    return members


def _npz(members: dict[str, Array]) -> dict[str, Any]:
    state = {}
    for name, raw in members.items():
        with _blame(name):
            head = io.BytesIO(raw[:2**14].tobytes())
            old = np.lib.format.read_magic(head) == (1, 0)
            read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
            shape, columns_first, dtype = read(head)
            if dtype.kind not in "biuf" or min(shape, default=0) < 0:
                raise ValueError(f"expected an array of numbers, got dtype {dtype}, shape {shape}")
            data = _view(raw[head.tell():], "bool" if dtype.kind == "b" else dtype.str)
            state[name.removesuffix(".npy")] = data.reshape(shape, order="F" if columns_first else "C")
    return state


@dataclass
class _Storage:
    """What PyTorch's tensors lie in: one dimension, contiguous."""

    array: Array


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *flags: Any) -> Array:
    if type(storage) is not _Storage or len(shape) != len(strides) or any(
            type(n) is not int or n < 0 for n in (offset, *shape, *strides)):
        raise ValueError(f"expected a tensor, got offset {offset!r}, shape {shape!r}, strides {strides!r}")
    array, entries = storage.array, math.prod(shape)
    end = offset + (1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) if entries else 0)
    if end > array.size or entries > array.size + 2**16:    # expanded tensors repeat entries, but not to any size
        raise ValueError(f"a tensor of shape {shape}, strides {strides}, offset {offset} in a storage of {array.size}")
    return np.lib.stride_tricks.as_strided(array[offset:], shape, [array.itemsize * n for n in strides])


# All that a pickle may ask for, and what it gets.
_GLOBALS: dict[str, Any] = _TORCH | {
    "collections.OrderedDict": lambda: {}, "torch.Size": lambda sizes: sizes,
    "torch._utils._rebuild_tensor_v2": _tensor, "torch._utils._rebuild_parameter": lambda data, *flags: data}


class _Unpickler(pickle._Unpickler):
    """Python's unpickler in Python, with the few instructions that data needs. No other object is ever made.

    The one in C would allocate, hash and set attributes as a file likes, before anybody can look.
    """

    stack: list[Any]

    def __init__(self, program: Array, members: dict[str, Array], root: str) -> None:
        super().__init__(io.BytesIO(program.tobytes()))
        self.members, self.root = members, root
        self.storages: dict[tuple[str, str], _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _GLOBALS:
            raise ValueError(f"refused: it asks for {module}.{name}; only tensors, dicts, lists, tuples, numbers and "
                             "strings are read: save the model's state_dict()")
        return _GLOBALS[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, _, size = pid
        if type(dtype) is not str or type(key) is not str or dtype not in _TORCH.values():
            raise ValueError(f"expected a storage, got {pid!r}")
        if (dtype, key) not in self.storages:
            self.storages[dtype, key] = _Storage(_view(self.members[f"{self.root}data/{key}"], dtype))
        storage = self.storages[dtype, key]
        if storage.array.size != size:
            raise ValueError(f"data/{key} has {storage.array.size} entries, expected {size!r}")
        return storage

    def set_items(self, items: list[Any]) -> None:
        if any(type(key) not in (str, int) for key in items[::2]):
            raise ValueError("refused: a key of a dict is neither a string nor an integer")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def refuse(self, *args: Any) -> None:
        raise ValueError("refused: the pickle has an instruction that data does not need")

    dispatch: ClassVar[dict[int, Any]] = dict.fromkeys(range(256), refuse) | {
        code: pickle._Unpickler.dispatch[code]
        for code in b"\x80\x95.(NGJKMX\x88\x89\x8a\x8c})]t\x85\x86\x87aeqrhjc\x93\x94RQ"} | {
        ord("s"): lambda self: self.set_items([self.stack.pop(-2), self.stack.pop()]),
        ord("u"): lambda self: self.set_items(self.pop_mark()),
        ord("b"): lambda self: self.stack.pop()}    # the versions of modules, set on PyTorch's state_dict


def _torch(members: dict[str, Array], root: str) -> dict[str, Any]:
    """The object in a file of `torch.save`: a pickle, whose storages are the other members."""
    order, program = members.get(f"{root}byteorder"), members[f"{root}data.pkl"]
    if order is not None and order.tobytes() != b"little":
        raise ValueError(f"expected little-endian numbers, got byteorder {order.tobytes()!r}: save it again in PyTorch")
    if program.size > _PICKLE_BYTES:
        raise ValueError(f"data.pkl has {program.size} bytes, expected at most {_PICKLE_BYTES}")
    state = _plain(_Unpickler(program, members, root).load())
    return state if type(state) is dict else {"": state}


def _plain(value: Any) -> Any:
    """`value`, if it is data all through, and not too deep."""
    level, seen = {id(value): value}, set[int]()
    for _ in range(_DEPTH):
        wrong = [type(x).__name__ for x in level.values() if type(x) not in _DATA]
        if wrong:
            raise ValueError(f"refused: it holds {wrong[0]}")
        seen |= level.keys()
        level = {id(y): y for x in level.values() if type(x) in (dict, list, tuple)
                 for y in (x.values() if type(x) is dict else x) if id(y) not in seen}
    if level:
        raise ValueError(f"refused: nested more than {_DEPTH} deep")
    return value


def save(path: Name, state: Mapping[str, Any]) -> None:
    """Write a dictionary as a safetensors file, whole or not at all: an interrupted save leaves the old file.

    Values are Tensors, arrays, what JSON has (numbers, strings, None, lists; a tuple comes back as a list), and
    dictionaries of these, whose keys are strings without "/". All but the arrays goes into the file's metadata.
    """
    from safetensors.numpy import save_file

    target = os.fspath(path)
    if Path(target).suffix in (".npz", ".pt", ".pth", ".bin"):
        raise CheckpointError(f"{target}: this writes safetensors: let the name end in .safetensors")
    with _blame(target):
        flat = state if all(isinstance(value, _ARRAYS) for value in state.values()) else dict(_flat(state))
        arrays = {k: np.asarray(v._host() if isinstance(v, Tensor) else v, order="C")
                  for k, v in flat.items() if isinstance(v, _ARRAYS)}
        rest = {k: v.item() if isinstance(v, np.generic) else v for k, v in flat.items() if k not in arrays}
        metadata = None if flat is state else {"tinyseq": json.dumps(rest)}
    temporary = f"{target}.{os.getpid()}.tmp"
    try:
        with _blame(target):
            save_file(arrays, temporary, metadata)
        _flush(temporary)
        os.replace(temporary, target)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
    if os.name == "posix":      # the new name too shall outlive a loss of power
        _flush(os.path.dirname(target) or ".")


def _flush(path: str) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _flat(state: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in state.items():
        if not isinstance(key, str) or "/" in key:
            raise ValueError(f'the keys of nested dictionaries must be strings without "/", got {above}{key!r}')
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{key}/")
        else:
            yield above + key, value


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for name, value in flat.items():
        *above, key = name.split("/")
        inner = state
        for part in above:
            inner = inner.setdefault(part, {})
        inner[key] = value
    return state


def rename(state: Mapping[str, Any], rules: Mapping[str | tuple[str, ...], str | None]) -> dict[str, Any]:
    """The same arrays under other names: `rules` maps old names to new ones, and is data.

    `{}` stands for one part of a name, without dots, and is carried over. A tuple of old names is concatenated along
    axis 0; `.T` at the end of an old name transposes it; the new name None leaves it out. What no rule names stays.

    >>> GPT2 = {"h.{}.attn.c_attn.{}.T": "layers.{}.self_attn.in_proj_{}", "h.{}.attn.bias": None}
    >>> BERT = {("layer.{}.query.{}", "layer.{}.key.{}", "layer.{}.value.{}"): "layers.{}.self_attn.in_proj_{}"}
    """
    left = dict(state)
    renamed: list[tuple[str, Array]] = []
    for old, new in rules.items():
        names = (old,) if isinstance(old, str) else old
        pattern = re.compile(re.escape(names[0].removesuffix(".T")).replace(r"\{\}", r"([^.]+)"))
        for match in [found for key in left if (found := pattern.fullmatch(key))]:
            arrays = []
            for name in (name.format(*match.groups()) for name in names):
                if (key := name.removesuffix(".T")) not in left:
                    raise CheckpointError(f"rename: {match.string} is there without {key}")
                arrays.append(left.pop(key).T if key != name else left.pop(key))
            if new is not None:
                renamed.append((new.format(*match.groups()), np.concatenate(arrays) if arrays[1:] else arrays[0]))
    count = Counter([*left, *(name for name, _ in renamed)])
    if count.total() > len(count):
        raise CheckpointError(f"rename: two tensors come to the name {count.most_common(1)[0][0]}")
    return left | dict(renamed)
