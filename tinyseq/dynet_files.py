"""DyNet's text files: parameters by name, as `ParameterCollection.save` writes them.

Of each there is a line `#Parameter# /name {rows,columns} bytes ZERO_GRAD`, and so many bytes: a line of numbers, column
by column, and where it ends in FULL_GRAD one of their gradients, which are not read.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from tinyseq import archives

HEAD = re.compile(rb"#(Lookup)?Parameter# (\S+) \{(\d+(?:,\d+)*)\} (\d+) (?:ZERO|FULL)_GRAD\n")
START = rb"#(Lookup)?Parameter# /"


def read(file: archives.File, room: archives.Room) -> dict[str, Any]:
    """Name -> float32 array in the shape that DyNet gives it: of lookup parameters (words, width)."""
    room.left += 2 * file.size
    data, at, found = np.memmap(file, np.uint8, "r").data, 0, {}
    while at < len(data):
        line = bytes(data[at:at + 4096]).partition(b"\n")[0] + b"\n"
        head = HEAD.fullmatch(line)
        if not head:
            raise ValueError(f"expected a line '#Parameter# /name {{rows,columns}} bytes ZERO_GRAD' at byte {at}, got "
                             f"{line[:80]!r}")
        lookup, name, dims, size = head[1], head[2].decode(), [int(n) for n in head[3].split(b",")], int(head[4])
        at += len(line)
        if size > len(data) - at or name in found:
            raise ValueError(f"{name}: it is there twice, or the file ends within it")
        room.take(2 * size + 4 * math.prod(dims))
        array = np.fromstring(bytes(data[at:at + size]).partition(b"\n")[0], np.float32, sep=" ")
        if array.size != math.prod(dims):
            raise ValueError(f"{name}: expected {math.prod(dims)} numbers, got {array.size}")
        array = array.reshape(dims[::-1])   # columns are one behind the other; of words, each is a column
        found[name] = array if lookup else array.T
        found[name].flags.writeable = False
        at += size
    return found
