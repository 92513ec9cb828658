"""Files as tests of checkpoints write them by hand, and what they must come back as."""

import io
import json
import math
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tinyseq import checkpoint

DATA = Path(__file__).parents[1] / "data/checkpoints"


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


def bfloat16(values: np.ndarray) -> bytes:
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def write(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """A safetensors file by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(first: int, last: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


def archive(path: Path, program: bytes, members: dict[str, bytes] | None = None, **options: Any) -> Path:
    """A file of `torch.save` by hand: its pickle, and one storage of 4 float32."""
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, data in {"data.pkl": program, "data/0": bytes(16), **(members or {})}.items():
            file.writestr(f"x/{name}", data)
    return path


def tensor(offset: Any = 0, shape: Any = (4,), strides: Any = (1,), kind: str = "FloatStorage", key: Any = "0",
           size: Any = 4, more: bytes = b"") -> bytes:
    """The pickle of one tensor, whatever its numbers."""
    put = lambda x: pickle.dumps(x, 2)[2:-1]
    storage = b"(" + put("storage") + b"ctorch\n" + kind.encode() + b"\n" + put(key) + put("cpu") + put(size) + b"tQ"
    return (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + put(offset) + put(shape) + put(strides) +
            b"\x89ccollections\nOrderedDict\n)R" + more + b"tR.")


def npy(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


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


def touch(value: Any) -> None:
    """Read every entry: a view beyond its memory would crash."""
    if isinstance(value, np.ndarray):
        with np.errstate(all="ignore"):
            value.sum(dtype="float64" if value.dtype.kind != "b" else None)
    elif isinstance(value, dict) and len(repr(value)) < 10**6:
        for x in value.values():
            touch(x)
