"""ONNX files: their initialisers as arrays and their nodes, without the onnx package.

An ONNX file is a ModelProto of Protocol Buffers: fields of a number and a value, of which a few are looked at here
(onnx/onnx.proto). A file is not trusted: nothing in it is run, and what is made of it asks `archives.Room` first. What
is wrong is a ValueError, which `checkpoint` names the file in.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from tinyseq import archives

Array = np.ndarray[Any, Any]

# data_type of a tensor: its dtype, and the field that has its numbers where raw_data has not.
FLOATS, INTS, LONGS, DOUBLES, UNSIGNED = 4, 5, 7, 10, 11
TYPES = {1: ("float32", FLOATS), 2: ("uint8", INTS), 3: ("int8", INTS), 4: ("uint16", INTS), 5: ("int16", INTS),
         6: ("int32", INTS), 7: ("int64", LONGS), 9: ("bool", INTS), 10: ("float16", INTS), 11: ("float64", DOUBLES),
         12: ("uint32", UNSIGNED), 13: ("uint64", UNSIGNED), 16: ("bfloat16", INTS)}
OTHERS = {8: "STRING", 14: "COMPLEX64", 15: "COMPLEX128", 17: "FLOAT8E4M3FN", 18: "FLOAT8E4M3FNUZ", 19: "FLOAT8E5M2",
          20: "FLOAT8E5M2FNUZ", 21: "UINT4", 22: "INT4", 23: "FLOAT4E2M1", 24: "FLOAT8E8M0", 25: "UINT2", 26: "INT2"}
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # how a field's value is written


class Node(NamedTuple):
    """An operator of the graph; attributes are numbers, strings, arrays and lists of these."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


class Graph(NamedTuple):
    """What a file holds: initialisers by name, and nodes in the order of computation."""

    arrays: dict[str, Array]
    nodes: list[Node]


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where what follows it begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at == len(data):
            raise ValueError("expected a whole ONNX file, and it ends within a number: fetch it again")
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number has more than ten bytes: this is no ONNX")


def fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """(number, value) of a message's fields: an integer, or the bytes of anything else."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        number, kind = key >> 3, key & 7
        if kind not in (VARINT, FIXED64, BYTES, FIXED32):
            raise ValueError(f"a field is written as {kind}, which Protocol Buffers do not know: this is no ONNX")
        if kind == VARINT:
            value, at = varint(data, at)
            yield number, value
            continue
        size, at = varint(data, at) if kind == BYTES else ({FIXED32: 4, FIXED64: 8}[kind], at)
        if size > len(data) - at:
            raise ValueError(f"expected a whole ONNX file, got {len(data) - at} of a field's {size} bytes: fetch it")
        yield number, data[at:at + size]
        at += size


def text(value: memoryview) -> str:
    return bytes(value).decode()


class _Reader:
    """Reads one file; `folder` has those that large tensors are in."""

    def __init__(self, folder: Path, room: archives.Room) -> None:
        self.folder, self.room = folder, room

    def integers(self, values: list[Any]) -> list[int]:
        """Those of a repeated field, one a value or packed into one."""
        found: list[int] = []
        for value in values:
            if isinstance(value, int):
                found.append(value)
                continue
            self.room.take(40 * len(value))
            at = 0
            while at < len(value):
                number, at = varint(value, at)
                found.append(number)
        return [n - 2**64 if n >= 2**63 else n for n in found]

    def message(self, data: memoryview) -> dict[int, list[Any]]:
        """All values of a small message by their fields' numbers."""
        found: dict[int, list[Any]] = {}
        for number, value in fields(data):
            self.room.take(256)
            found.setdefault(number, []).append(value)
        return found

    def tensor(self, data: memoryview) -> tuple[str, Array]:
        """The name and the array of a TensorProto."""
        found = self.message(data)
        name = text(found.get(8, [memoryview(b"")])[-1])
        shape, [code] = self.integers(found.get(1, [])), found.get(2, [0])
        if code not in TYPES:
            raise ValueError(f"{name}: expected numbers that NumPy has, got {OTHERS.get(code, f'data_type {code}')}")
        dtype, field = TYPES[code]
        if 13 in found:
            array = self.external(name, dict(map(self.pair, found[13])), dtype)
        elif 9 in found:
            array = self.copied(found[9][-1], dtype)
        else:
            array = self.typed(found.get(field, []), dtype)
        if min(shape, default=0) < 0 or array.size != math.prod(shape):
            raise ValueError(f"{name}: expected as many numbers as shape {tuple(shape)} has, got {array.size}")
        array.flags.writeable = False
        return name, array.reshape(shape)

    def pair(self, data: memoryview) -> tuple[str, str]:
        """Key and value of a StringStringEntryProto."""
        found = self.message(data)
        return text(found[1][0]), text(found[2][0])

    def copied(self, raw: Any, dtype: str) -> Array:
        """Bytes as numbers that lie aligned, which those of the file do not."""
        self.room.take(len(raw) * (2 if dtype == "bfloat16" else 1))
        return archives.view(np.frombuffer(raw, np.uint8).copy(), dtype)

    def typed(self, values: list[Any], dtype: str) -> Array:
        """Numbers in the field of their type, floats of 16 bits by these."""
        if dtype in ("float32", "float64"):
            return self.copied(b"".join(values), dtype)
        numbers = self.integers(values)
        if dtype in ("float16", "bfloat16"):
            return self.copied(np.array(numbers, np.uint16).tobytes(), dtype)
        return np.array([n % 2**64 for n in numbers] if dtype == "uint64" else numbers, dtype)

    def external(self, name: str, entries: dict[str, str], dtype: str) -> Array:
        """Numbers in another file, in the same folder or one within it."""
        place = PurePosixPath(entries["location"])
        if place.is_absolute() or ".." in place.parts or "\\" in str(place):
            raise ValueError(f"{name}: refused: its numbers would be in {str(place)!r}, outside of the folder")
        if not (self.folder / place).exists():
            raise ValueError(f"{name}: its numbers are in {place}, which is not beside this file")
        with archives.File(self.folder / place) as file:
            start = int(entries.get("offset", 0))
            size = int(entries.get("length", file.size - start))
            if min(start, size) < 0 or start + size > file.size:
                raise ValueError(f"{name}: {place} has {file.size} bytes, and its numbers are at {start}, {size} bytes")
            self.room.left += 2 * size
            return self.copied(np.memmap(file, np.uint8, "r", start, size).data if size else b"", dtype)

    def attribute(self, data: memoryview) -> tuple[str, Any]:
        """The name and the value of an AttributeProto, as its `type` says."""
        found = self.message(data)
        kind = found.get(20, [0])[-1]
        read: dict[int, Any] = {
            1: lambda: struct.unpack("<f", found[2][-1])[0], 2: lambda: self.integers(found[3])[-1],
            3: lambda: text(found[4][-1]), 4: lambda: self.tensor(found[5][-1])[1],
            6: lambda: np.frombuffer(b"".join(found.get(7, [])), "<f4").tolist(),
            7: lambda: self.integers(found.get(8, [])), 8: lambda: [text(value) for value in found.get(9, [])]}
        return text(found[1][-1]), read[kind]() if kind in read else None

    def node(self, data: memoryview) -> Node:
        found = self.message(data)
        inputs, outputs = ([text(value) for value in found.get(number, [])] for number in (1, 2))
        attributes = dict(map(self.attribute, found.get(5, [])))
        return Node(text(found[4][-1]), text(found.get(3, [memoryview(b"")])[-1]), inputs, outputs, attributes)

    def graph(self, data: memoryview) -> Graph:
        graph = Graph({}, [])
        for number, value in fields(data):
            self.room.take(1024)
            if number == 1:
                graph.nodes.append(self.node(value))
            elif number == 5:
                name, array = self.tensor(value)
                if name in graph.arrays:
                    raise ValueError(f"it holds the name {name!r} twice")
                graph.arrays[name] = array
            elif number == 15:
                raise ValueError("it holds sparse initialisers, which are not read")
        return graph


def read(file: archives.File, room: archives.Room) -> Graph:
    """The graph of an open ONNX file."""
    room.left += 2 * file.size
    data = np.memmap(file, np.uint8, "r").data
    found = [value for number, value in fields(data) if number == 7]
    if len(found) != 1:
        raise ValueError(f"expected the one graph of an ONNX model, got {len(found)}")
    return _Reader(Path(os.fspath(file.name)).parent, room).graph(found[0])
