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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, reduce
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
_PICKLE_BYTES = 2**24   # a state_dict takes less than 200 bytes a tensor


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
    """name -> array of a file, told by its content, or of a folder: of `*.safetensors.index.json`, else
    `*.safetensors`, else another `*.index.json`, else `pytorch_model.bin`.

    Nested dictionaries come back nested, numbers and strings as they are. The arrays are read-only. Those of
    safetensors lie in the mapped file: what is not used is not read, and the file must not be written to meanwhile
    (`save` does not). NumPy has no bfloat16, so bfloat16 becomes float32 in memory, exactly.

    Of PyTorch's files only tensors, dicts, lists, tuples, numbers and strings are read; anything else that a pickle
    asks for, such as a class or a function, is refused by name. Raises CheckpointError, or OSError for no such file.
    """
    path = Path(path)
    if path.is_dir():
        kinds = ("*.safetensors.index.json", "*.safetensors", "*.index.json", "pytorch_model.bin")
        found = next((files for kind in kinds if (files := sorted(path.glob(kind)))), [])
        if len(found) != 1:
            raise CheckpointError(f"{path}: expected one *.index.json, *.safetensors or pytorch_model.bin in this "
                                  f"folder, got {[file.name for file in found] or 'none'}: name the file")
        path = found[0]
    with _blame(str(path)):
        return _sharded(path) if path.suffix == ".json" else _file(path)


def _sharded(index: Path) -> dict[str, Any]:
    places: dict[str, str] = json.loads(index.read_bytes())["weight_map"]
    shards = {}
    for name in set(places.values()):
        with _blame(name):
            shards[name] = _file(index.with_name(name))     # refuses a name with a folder
    return {key: shards[name][key] for key, name in places.items()}


def _file(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{" or path.suffix == ".safetensors":
        return _safetensors(path)
    if head[:2] != b"PK":
        raise ValueError("expected safetensors, .npz or PyTorch's zip format; if it is of PyTorch's old format, "
                         "torch.save(torch.load(path), path) in PyTorch writes the new one")
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(info.file_size for info in archive.infolist())
        if unpacked > 2**28 + 32 * path.stat().st_size:
            raise ValueError(f"its members unpack to {unpacked} bytes: this looks like a zip bomb")
        roots = [name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
        return _torch(archive, roots[0]) if roots else _npz(archive)


def _view(raw: Array, dtype: str) -> Array:
    """Bytes as an array, one-dimensional; bfloat16, the upper half of a float32, is widened."""
    if dtype == "bfloat16":
        return np.left_shift(raw.view(np.uint16), 16, dtype=np.uint32).view(np.float32)
    array = raw.view(dtype)
    if array.dtype.kind == "b" and raw.max(initial=0) > 1:
        raise ValueError("a bool is neither 0 nor 1")
    return array


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy"):    # the library vets header, shapes and offsets
        file, state = np.asarray(np.memmap(path, np.uint8, "r")), {}
    start = 8 + int.from_bytes(file[:8].tobytes(), "little")
    header = json.loads(file[8:start].tobytes())
    extra = (header.pop("__metadata__", None) or {}).get("tinyseq")
    for key, entry in header.items():
        with _blame(key):
            if entry["dtype"] not in _SAFETENSORS:
                raise ValueError(f"NumPy has no {entry['dtype']}")
            first, last = entry["data_offsets"]
            state[key] = _view(file[start + first:start + last], _SAFETENSORS[entry["dtype"]]).reshape(entry["shape"])
    return state if extra is None else _nested(state | json.loads(extra))


def _member(archive: zipfile.ZipFile, name: str) -> Array:
    """The bytes of one member, read-only; its checksum is looked at."""
    info = archive.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):    # others unpack to more than they say
        raise ValueError(f"{name}: expected it stored or deflated")
    with archive.open(info) as stream:
        return np.frombuffer(stream.read(info.file_size), np.uint8)


def _npz(archive: zipfile.ZipFile) -> dict[str, Any]:
    state = {}
    for name in archive.namelist():
        with _blame(name):
            raw = _member(archive, name)
            head = io.BytesIO(raw[:2**14].tobytes())
            old = np.lib.format.read_magic(head) == (1, 0)
            read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
            shape, columns_first, dtype = read(head)
            if dtype.kind not in "biuf" or min(shape, default=0) < 0:
                raise ValueError(f"expected an array of numbers, got dtype {dtype}, shape {shape}")
            data = _view(raw[head.tell():], dtype.str)
            state[name.removesuffix(".npy")] = data.reshape(shape, order="F" if columns_first else "C")
    return state


def _torch(archive: zipfile.ZipFile, root: str) -> dict[str, Any]:
    """The object in a file of `torch.save`: a pickle, whose storages are the other members."""
    order = archive.read(f"{root}byteorder") if f"{root}byteorder" in archive.namelist() else b"little"
    if order != b"little":
        raise ValueError(f"expected little-endian numbers, got byteorder {order!r}: save it again in PyTorch")
    if archive.getinfo(f"{root}data.pkl").file_size > _PICKLE_BYTES:
        raise ValueError(f"data.pkl: expected at most {_PICKLE_BYTES} bytes")
    state = _Unpickler(archive, root).load()
    return state if type(state) is dict else {"": state}


def _tensor(storage: Array, offset: int, shape: Sequence[int], strides: Sequence[int], *flags: Any) -> Array:
    if len(shape) > 64 or any(type(n) is not int or n < 0 for n in (offset, *shape, *strides)):
        raise ValueError("a tensor's offset, shape or strides are not what they should be")
    if any(flags[2:]):  # a view of numbers that PyTorch negates when it reads them
        raise ValueError("a tensor is marked 'neg' or 'conj': save tensor.resolve_neg() in PyTorch")
    (step,), entries = storage.strides, math.prod(shape)    # a storage has one dimension
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    # Expanded tensors repeat entries, but not to any size.
    if (entries and last >= storage.size) or entries > storage.size + 2**16:
        raise ValueError(f"tensor of shape {shape}, strides {strides}, offset {offset} in a storage of {storage.size}")
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, [step * n for n in strides])


# All that a pickle may call.
_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda: {}, "torch.Size": tuple, "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *flags: data}


class _Unpickler(pickle._Unpickler):
    """Python's unpickler in Python, with the few instructions that data needs.

    Its stack holds data alone: what a pickle asks for lies there as a name. The unpickler in C would allocate, hash and
    set attributes as a file likes, before anybody can look. No message shows a value: its text may have no end.
    """

    stack: list[Any]

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(_member(archive, f"{root}data.pkl").tobytes()))
        self.storage = cache(lambda kind, key: _view(_member(archive, f"{root}data/{key}"), _TORCH[kind]))

    def find_class(self, module: str, name: str) -> str:
        asked = f"{module}.{name}"
        if asked not in _CALLS and asked not in _TORCH:
            raise ValueError(f"refused: it asks for {asked}; only tensors, dicts, lists, tuples, numbers and strings "
                             "are read: save the model's state_dict()")
        return asked

    def persistent_load(self, pid: Any) -> Array:
        _, kind, key, *_ = pid
        if type(kind) is not str or type(key) is not str:
            raise ValueError("expected the type and the key of a storage")
        return self.storage(kind, key)

    def call(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if type(name) is not str or name not in _CALLS:
            raise ValueError("refused: it calls what is no function")
        self.stack.append(_CALLS[name](*arguments))

    def set_items(self, items: list[Any]) -> None:
        if any(type(key) not in (str, int) for key in items[::2]):
            raise ValueError("refused: a key of a dict is neither a string nor an integer")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def refuse(self) -> None:
        raise ValueError("refused: the pickle has an instruction that data does not need")

    dispatch: ClassVar[dict[int, Any]] = dict.fromkeys(range(256), refuse) | {
        code: pickle._Unpickler.dispatch[code]
        for code in b"\x80\x95.(NGJKMX\x88\x89\x8a\x8c})]t\x85\x86\x87aeqrhjc\x93\x94Q"} | {
        ord("R"): call,
        ord("s"): lambda self: self.set_items([self.stack.pop(-2), self.stack.pop()]),
        ord("u"): lambda self: self.set_items(self.pop_mark()),
        ord("b"): lambda self: self.stack.pop()}    # the versions of modules, set on PyTorch's state_dict


def save(path: Name, state: Mapping[str, Any]) -> None:
    """Write a dictionary as a safetensors file, whole or not at all: an interrupted save leaves the old file.

    Values are Tensors, arrays, what JSON has (numbers, strings, None, lists; a tuple comes back as a list), and
    dictionaries of these; keys are strings without "/", and not "__metadata__". All but the arrays goes into the file's
    metadata. A save that is killed may leave the half of a new file beside the old one, as NAME.PROCESS.tmp: delete it.
    """
    from safetensors.numpy import save_file

    target = Path(path)
    if target.suffix in (".npz", ".pt", ".pth", ".bin"):
        raise CheckpointError(f"{target}: this writes safetensors: let the name end in .safetensors")
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        with _blame(str(target)):
            flat = dict(_flat(state))
            arrays = {k: np.asarray(v._host() if isinstance(v, Tensor) else v, order="C")
                      for k, v in flat.items() if isinstance(v, (Tensor, np.ndarray))}
            rest = {k: v.item() if isinstance(v, np.generic) else v for k, v in flat.items() if k not in arrays}
            save_file(arrays, temporary, {"tinyseq": json.dumps(rest)})
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _flat(state: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in state.items():
        if not isinstance(key, str) or "/" in key or above + key == "__metadata__":  # safetensors has its own of that
            raise ValueError(f'keys must be strings without "/", and not "__metadata__", got {above}{key!r}')
        nested = isinstance(value, Mapping) and value
        yield from _flat(value, f"{above}{key}/") if nested else [(above + key, value)]


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for name, value in flat.items():
        *above, key = name.split("/")
        reduce(lambda inner, part: inner.setdefault(part, {}), above, state)[key] = value
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
