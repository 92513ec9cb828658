"""What the files of `tinyseq.checkpoint` are read with: how much may be read, zip files, and the pickles of PyTorch.

Whatever is wrong is a ValueError, or an error of the libraries', which `checkpoint` names the file in.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import re
import stat
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

Array = np.ndarray[Any, Any]

_TORCH = {f"torch.{name}Storage": dtype for name, dtype in {
    "Bool": "bool", "Byte": "uint8", "Char": "int8", "Short": "int16", "Int": "int32", "Long": "int64",
    "Half": "float16", "BFloat16": "bfloat16", "Float": "float32", "Double": "float64"}.items()} | {
    "torch.storage.UntypedStorage": "uint8"}
_TORCH_DTYPES = {f"torch.{name}": name for name in ("uint16", "uint32", "uint64")}  # in storages without a type
ROOM = 2**28           # bytes of memory that any file may take
TEXT_BYTES = 2**24     # of a pickle, a header, the list in a zip file: a state_dict takes less than 200 bytes a tensor


class Room:
    """The memory that what is read may take: all that grows with a file's content asks here before it is made."""

    def __init__(self) -> None:
        self.left = ROOM    # and what the size of each file that is read adds

    def take(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise ValueError("refused, as a zip bomb: it unpacks to more than 256 MiB and twice the size of the file "
                             "(32 times where it is compressed)")

    def take_json(self, text: bytes) -> None:
        self.take(4 * len(text) + 160 * sum(text.count(mark) for mark in b",:[{"))

    def json(self, text: bytes, hook: Callable[[list[tuple[str, Any]]], Any]) -> dict[str, Any]:
        """The object in a JSON text, if there is room for its values."""
        self.take_json(text)
        found = json.loads(text.decode(), object_pairs_hook=hook)
        if not isinstance(found, dict):
            raise ValueError(f"expected an object of JSON, got a {type(found).__name__}")
        return found


class File(io.FileIO):
    """A file to read: a regular one, because others may have no end or wait, and never much of it at once."""

    def __init__(self, path: Path) -> None:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("expected a regular file")
        super().__init__(str(path))
        self.size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        size = self.size - self.tell() if size is None or size < 0 else size
        if size > TEXT_BYTES:
            raise ValueError(f"expected at most {TEXT_BYTES} bytes of a header, a list of members or JSON, got {size}")
        return super().read(size) or b""


def view(raw: Array, dtype: str) -> Array:
    """Bytes as an array, one-dimensional; bfloat16, which NumPy lacks, as the float32 whose upper half it is."""
    if dtype == "bfloat16":
        return np.left_shift(raw.view(np.uint16), 16, dtype=np.uint32).view(np.float32)
    array = raw.view(dtype)
    if array.dtype.kind == "b" and raw.max(initial=0) > 1:
        raise ValueError("a bool is neither 0 nor 1")
    return array


class Archive(zipfile.ZipFile):
    """A zip file, whose members are read here and nowhere else."""

    def __init__(self, file: File, room: Room) -> None:
        super().__init__(file)
        infos = self.infolist()
        packed = any(info.compress_type != zipfile.ZIP_STORED for info in infos)
        self.room = room
        room.left += (32 if packed else 2) * file.size
        self.room.take(1024 * len(infos))
        if not any(info.CRC for info in infos):     # PyTorch leaves checksums out if told to
            for info in infos:
                del info.CRC

    def member(self, name: str, dtype: str = "uint8") -> Array:
        """The numbers of one member, one-dimensional; its checksum is looked at, and bfloat16 widened."""
        info, times = self.getinfo(name), 2 if dtype == "bfloat16" else 1
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):    # others may lie
            raise ValueError(f"{name}: expected it stored or deflated")
        self.room.take(info.file_size * times)
        raw = np.empty(info.file_size * times, np.uint8)
        with self.open(info) as stream:
            for start in range(0, raw.size, 2**18 * times):
                part, place = np.frombuffer(stream.read(2**18), np.uint8), raw[start:start + 2**18 * times]
                if part.size * times != place.size:
                    raise ValueError(f"{name}: expected {info.file_size} bytes, and the file ends before")
                place[...] = view(part, dtype).view(np.uint8)
        raw.flags.writeable = False
        return raw.view("float32" if times == 2 else dtype)


def torch(archive: Archive, root: str) -> dict[str, Any]:
    """The object in a file of `torch.save`: a pickle, whose storages are the other members."""
    order = archive.member(f"{root}byteorder")[:20].tobytes() if f"{root}byteorder" in archive.NameToInfo else b"little"
    if order != b"little":
        raise ValueError(f"expected little-endian numbers, got byteorder {order!r}: save it again in PyTorch")
    if archive.getinfo(f"{root}data.pkl").file_size > TEXT_BYTES:
        raise ValueError(f"data.pkl: expected at most {TEXT_BYTES} bytes")
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


def _typed(storage: Array, offset: int, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, *more: Any) -> Any:
    """A tensor whose storage has no type of its own."""
    if type(dtype) is not str or dtype not in _TORCH_DTYPES:
        raise ValueError("expected the dtype of a tensor")
    return _tensor(storage.view(_TORCH_DTYPES[dtype]), offset, shape, strides, grad, hooks, *more)


# All that a pickle may call.
_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda: {}, "collections.Counter": lambda counts: counts,
    "torch.Size": lambda size: size, "torch._utils._rebuild_parameter": lambda data, *flags: data,
    "torch._utils._rebuild_tensor_v2": _tensor, "torch._utils._rebuild_tensor_v3": _typed}


def _counted(instruction: Callable[[Any], None]) -> Callable[[Any], None]:
    def step(self: _Unpickler) -> None:
        self.room.left -= 128   # a mark, an empty container, an entry of the memo
        if self.room.left < 0:
            self.room.take(0)
        instruction(self)
    return step


class _Unpickler(pickle._Unpickler):
    """Python's unpickler in Python, with the few instructions that data needs.

    Its stack holds data alone: what a pickle asks for lies there as a name. The unpickler in C would allocate, hash and
    set attributes as a file likes, before anybody can look. No message shows a value: its text may have no end.
    """

    stack: list[Any]

    def __init__(self, archive: Archive, root: str) -> None:
        super().__init__(io.BytesIO(archive.member(f"{root}data.pkl").tobytes()))
        self.room = archive.room
        self.storage = cache(lambda kind, key: archive.member(f"{root}data/{key}", _TORCH[kind]))

    def find_class(self, module: str, name: str) -> str:
        asked = f"{module}.{name}"
        if re.fullmatch(r"torch\.(float[48]\w+|complex\d+|u?int[1-7]|q\w+|bits\w+|(Complex|Q)\w+Storage)", asked):
            raise ValueError(f"refused: it asks for {asked}, numbers that are not read: save others, such as "
                             "tensor.float() or torch.view_as_real(tensor)")
        if asked not in _CALLS and asked not in _TORCH and asked not in _TORCH_DTYPES:
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
        if type(name) is not str or name not in _CALLS or type(arguments) is not tuple:
            raise ValueError("refused: it calls what is no function")
        self.room.take(1024)
        self.stack.append(_CALLS[name](*arguments))

    def set_items(self, items: list[Any]) -> None:
        for key in items[::2]:  # many integers of more bits can have one hash
            if type(key) is not str and (type(key) is not int or abs(key) >> 60):
                raise ValueError("refused: a key of a dict is neither a string nor an integer of at most 60 bits")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def refuse(self) -> None:
        raise ValueError("refused: the pickle has an instruction that data does not need")

    dispatch: ClassVar[dict[int, Any]] = dict.fromkeys(range(256), refuse) | {
        code: _counted(pickle._Unpickler.dispatch[code])
        for code in b"\x80\x95.(NGJKMX\x88\x89\x8a\x8c})]t\x85\x86\x87aeqrhjc\x93\x94Q"} | {
        ord("R"): call,
        ord("s"): lambda self: self.set_items([self.stack.pop(-2), self.stack.pop()]),
        ord("u"): lambda self: self.set_items(self.pop_mark()),
        ord("b"): lambda self: self.stack.pop()}    # the versions of modules, set on PyTorch's state_dict
