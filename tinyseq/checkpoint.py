"""Checkpoint files as dictionaries of NumPy arrays: safetensors, also in shards, `.npz`, PyTorch's `.pt`, ONNX, Keras.

    state = checkpoint.load("pytorch_model.bin")                            # needs no PyTorch, and runs no code
    state = checkpoint.rename(state, {"h.{}.mlp.c_fc.{}.T": "layers.{}.linear1.{}"})
    model.load_state_dict(state)

A whole training is a nested dictionary, and goes on bit for bit:

    checkpoint.save("run.safetensors", {"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                                        "random": ts.random.get_state(), "step": step})

Files are not trusted: a file that is broken, or made to do harm, is a `CheckpointError` and nothing else. What is read
takes at most twice the memory of the file, or 32 times where it is compressed, and 256 MiB. Only of HDF5, which its own
library reads, faults of that library are not held off.
"""

from __future__ import annotations

import errno
import glob
import io
import json
import os
import re
import reprlib
import secrets
import stat
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tinyseq import archives, check, dynet_files, keras_files, onnx_files
from tinyseq.engine.tensor import Tensor

__all__ = ["CheckpointError", "CheckpointNotFoundError", "CheckpointOSError", "load", "rename", "save"]
check.public(__name__)

Array = np.ndarray[Any, Any]
Name = str | os.PathLike[str]

_SAFETENSORS = {"BOOL": "bool", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64", "I8": "int8",
                "I16": "int16", "I32": "int32", "I64": "int64", "F16": "float16", "BF16": "bfloat16",
                "F32": "float32", "F64": "float64"}
_CODES = {np.dtype(name): code for code, name in _SAFETENSORS.items() if name != "bfloat16"}
_ONNX = rb"\x08.[\x12\x1a\x22\x28\x32\x3a\x42]"    # a model's version, and a field that may follow it
_DEPTH = 100            # of dictionaries and lists in each other
_TAGS = ("__tuple__", "__numpy__")  # what JSON has not, in a file's metadata

# What else a file may be, by its first bytes.
_OTHERS = {
    rb"\x93NUMPY": "one array (.npy): np.load(path) reads it",
    rb"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19": "PyTorch's old format: torch.save(torch.load(path), path) in PyTorch "
                                                  "writes the new one",
    rb"\x80[\x02-\x05]": "a pickle, which may run code: if you trust it, pickle.load it and np.savez its arrays",
    rb"GGUF": "GGUF: gguf.GGUFReader(path) reads it",
    rb"[\x81-\x8f\xde\xdf]": "msgpack (of Flax): flax.serialization.msgpack_restore reads its bytes",
    rb".{4}TFL3": "TensorFlow Lite, whose weights may be rounded and joined: load the model that it was made from",
    rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd": "a compressed file: unpack it (gunzip, bunzip2, unxz, unzstd)",
    rb".{257}ustar": "a tar archive: unpack it",
    rb"version https://git-lfs": "Git LFS's pointer to the file: 'git lfs pull' fetches it",
    rb"\s*<": "a page of HTML or XML: the download went wrong"}

# And by the end of its name.
_BY_NAME = {
    ".index": "half of TensorFlow's checkpoint, with .data-...: in TensorFlow r = tf.train.load_checkpoint('model'), "
              "np.savez('x.npz', **{k: r.get_tensor(k) for k in r.get_variable_to_shape_map() if k[0] != '_'})",
    ".pdparams": "PaddlePaddle's, a pickle, which may run code: if you trust it, in Paddle np.savez('model.npz', "
                 "**{k: v.numpy() for k, v in paddle.load(path).items()})",
    ".pb": "a graph of TensorFlow (saved_model.pb), whose weights lie in variables/: in TensorFlow "
           "np.savez('model.npz', **{v.name: v.numpy() for v in tf.saved_model.load(folder).variables})"}

# What members of .npz may be whose dtypes are no numbers of NumPy's.
_FLOAT32 = ", which .npz does not know: save array.astype(float32), or safetensors"
_NO_NUMBERS = {
    "|O": ": Python objects, such as None (Chainer's for what is not there), in a pickle, which may run code: if you "
          "trust the file, np.load(path, allow_pickle=True) and np.savez it without them",
    "|V2": f": it may be bfloat16 (of JAX, or of MLX's save_weights){_FLOAT32}",
    "|V1": f": it may be float8{_FLOAT32}"}


class CheckpointError(ValueError):
    """A file that is no checkpoint, a broken one, or one that holds what cannot be read or written.

    >>> np.save("array.npy", np.ones(2))
    >>> ts.checkpoint.load("array.npy")
    Traceback (most recent call last):
    tinyseq.checkpoint.CheckpointError: ...this seems to be one array (.npy): np.load(path) reads it
    """


class CheckpointOSError(OSError, CheckpointError):
    """A file that the system does not read or write, such as on a full disk: with its `errno`.

    >>> try:
    ...     ts.checkpoint.save("n" * 1000 + ".safetensors", {})
    ... except ts.checkpoint.CheckpointOSError as error:
    ...     print(error.strerror)
    checkpoint.save: path nnn...nnn.safetensors: File name too long
    """


class CheckpointNotFoundError(CheckpointOSError, FileNotFoundError):
    """A file that is not there, or a folder.

    >>> ts.checkpoint.load("nothing.safetensors")
    Traceback (most recent call last):
    tinyseq.checkpoint.CheckpointNotFoundError: ...checkpoint.load: path nothing.safetensors: No such file or directory
    """


@contextmanager
def _blame(where: str) -> Iterator[None]:
    """Whatever is wrong with the bytes of a file or an entry, and whoever says so: a CheckpointError that names it."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError):
            both = CheckpointNotFoundError if isinstance(error, FileNotFoundError) else CheckpointOSError
            raise both(error.errno, f"{where}: {error.strerror or error}") from error
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise CheckpointError(f"{where}: {kind}{str(error)[:1000]}") from error


def _as_path(where: str, path: Name) -> Path:
    """A path that is one, or a TypeError."""
    if not isinstance(path, (str, os.PathLike)) or "\0" in str(path):
        raise TypeError(f"{where}: expected path to be a string or a Path without NUL, got {path!r}")
    return Path(path)


def load(path: Name) -> dict[str, Any]:
    """name -> array of a file, told by its content, or of a folder: of `*.safetensors.index.json`, else
    `*.safetensors`, else another `*.index.json`, else `pytorch_model.bin`.

    Nested dictionaries come back nested, numbers and strings as they are. The arrays are read-only. Those of
    safetensors lie in the mapped file: what is not used is not read, and the file must not be written to meanwhile
    (`save` does not). NumPy has no bfloat16, so bfloat16 becomes float32 in memory, exactly.

    Of an ONNX file it gives the initialisers, those in other files of its folder too; `nn.convert.from_onnx_nodes`
    makes its recurrent layers. Of Keras' `.keras`, `.weights.h5` and `.h5`, and of other HDF5, it gives all arrays by
    path, with h5py (`pip install 'tinyseq[h5]'`); `nn.convert.from_keras_layers` makes the recurrent layers. Of DyNet's
    text, the parameters. Of PyTorch's files only tensors, dicts, lists, tuples, numbers and strings are read;
    anything else that a pickle asks for, such as a class or a function, is refused by name. While `save` replaces the
    file, what is read is the old one or the new one, whole. Raises CheckpointError, or OSError for no such file.

    >>> np.savez("weights.npz", weight=np.ones((2, 3)), bias=np.zeros(2))
    >>> {name: array.shape for name, array in ts.checkpoint.load("weights.npz").items()}
    {'weight': (2, 3), 'bias': (2,)}
    """
    path = _as_path("checkpoint.load", path)
    with _blame(f"checkpoint.load: path {path}"):
        path = _only(path) if path.is_dir() else path
        return _sharded(path) if path.suffix == ".json" else _file(path, archives.Room())


def _only(folder: Path) -> Path:
    kinds = ("*.safetensors.index.json", "*.safetensors", "*.index.json", "pytorch_model.bin")
    found = next((files for kind in kinds if (files := sorted(folder.glob(kind)))), [])
    if len(found) != 1:
        raise ValueError("expected one *.index.json, *.safetensors or pytorch_model.bin in this folder, got "
                         f"{[file.name for file in found] or 'none'}: name the file")
    return found[0]


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a small file of JSON, which says nothing twice."""
    with archives.File(path) as file:
        return archives.Room().json(file.read(), _unique)


def _sharded(index: Path) -> dict[str, Any]:
    places = _read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ValueError("expected a weight_map: of each tensor's name, that of its file")
    shards, state, room = {}, {}, archives.Room()  # one for all
    for key, name in places.items():
        if name not in shards:
            with _blame(name):
                shards[name] = _file(index.with_name(name), room)     # refuses a name with a folder
        if key not in shards[name]:
            raise ValueError(f"{name}: it lacks {key!r}, which the index looks for there")
        state[key] = shards[name][key]
    return state


def _file(path: Path, room: archives.Room) -> dict[str, Any]:
    with archives.File(path) as file:
        head = file.read(512)
        file.seek(0)
        if head[8:9] == b"{":
            return _safetensors(file, room)
        if head[:8] == b"\x89HDF\r\n\x1a\n":
            return keras_files.read(file, room).arrays
        if re.match(dynet_files.START, head):
            return dynet_files.read(file, room)
        if seems := _BY_NAME.get(re.sub(r"\.data-\d+-of-\d+", ".index", path.suffix)):
            raise ValueError(f"this seems to be {seems}")
        if path.suffix == ".onnx" or re.match(_ONNX, head, re.DOTALL):
            return onnx_files.read(file, room).arrays
        if head[:2] != b"PK":
            others = (f"seems to be {text}" for start, text in _OTHERS.items() if re.match(start, head, re.DOTALL))
            raise ValueError("expected safetensors, .npz, PyTorch's zip format, ONNX, HDF5 or DyNet's text, and this "
                             f"{next(others, f'begins with {head[:8]!r}')}")
        if path.suffix == ".keras":
            return keras_files.read(file, room).arrays
        with archives.Archive(file, room) as archive:
            roots = [name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
            return archives.torch(archive, roots[0]) if roots else _npz(archive)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary of JSON, in which no name hides another."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"it holds the name {Counter(name for name, _ in pairs).most_common(1)[0][0]!r} twice")
    return found


def _safetensors(file: archives.File, room: archives.Room) -> dict[str, Any]:
    from safetensors import safe_open

    start = 8 + int.from_bytes(file.read(8), "little")
    room.left += 2 * file.size
    text = file.read(start - 8)
    opened = f"/dev/fd/{file.fileno()}"     # by its name it may be another file by now
    with safe_open(opened if os.path.exists(opened) else file.name, framework="numpy"):
        header = room.json(text, _unique)   # the library vets header, shapes and offsets
    raw, state = np.asarray(np.memmap(file, np.uint8, "r")), {}
    extra = (header.pop("__metadata__", None) or {}).get("tinyseq")
    for key, entry in header.items():
        if entry["dtype"] not in _SAFETENSORS:
            raise ValueError(f"{key}: NumPy has no {entry['dtype']}: save it as float32")
        first, last = entry["data_offsets"]
        array = archives.view(raw[start + first:start + last], _SAFETENSORS[entry["dtype"]])
        state[key] = array.reshape(entry["shape"])
    if extra is None:
        return state
    return _nested([*room.json(extra.encode(), _decoded).items(), *state.items()], room)


def _npz(archive: archives.Archive) -> dict[str, Any]:
    names = archive.namelist()
    if names and not any(name.endswith(".npy") for name in names):
        raise ValueError("expected .npz, PyTorch's zip format or Keras' .keras, and this is a zip file of "
                         f"{names[:4]}: unpack it")
    state: dict[str, Any] = {}
    for name in names:
        with _blame(name):
            raw, key = archive.member(name), name.removesuffix(".npy")
            head = io.BytesIO(raw[:2**14].tobytes())
            old = np.lib.format.read_magic(head) == (1, 0)
            read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
            shape, columns_first, dtype = read(head)
            if dtype.kind not in "biuf" or min(shape, default=0) < 0:
                raise ValueError(f"expected an array of numbers, got dtype {dtype}, shape {shape}" +
                                 _NO_NUMBERS.get(dtype.str, ""))
            if key in state:
                raise ValueError("another array has this name")
            data = archives.view(raw[head.tell():], dtype.str)
            state[key] = data.reshape(shape, order="F" if columns_first else "C")
    return state


def save(path: Name, state: Mapping[str, Any]) -> None:
    """Write a dictionary as a safetensors file, whole or not at all: an interrupted save leaves the old file.

    Values are Tensors and arrays of numbers, Python's and NumPy's numbers, strings, None, tuples and lists of these,
    and dictionaries. They come back as they are, but Tensors as arrays; what would not is refused with its key. Keys
    are strings without "/", and not "__metadata__". All but the arrays goes into the file's metadata, at most 16 MiB.
    Raises CheckpointError, which is an OSError too where the system does not write, such as on a full disk.

    Several may save to one name: the last one stays. A symbolic link is followed, and the old file's mode is kept. On
    Linux nothing is left by a save that is killed; where the file system can write no file without a name, it leaves
    NAME.RANDOM.tmp beside the old file, and the next save to that name removes it.

    >>> ts.checkpoint.save("run.safetensors", {"model": nn.Linear(2, 3).state_dict(), "step": 7})
    >>> run = ts.checkpoint.load("run.safetensors")
    >>> run["model"]["weight"].shape, run["step"]
    ((3, 2), 7)
    """
    target = _as_path("checkpoint.save", path)
    check.mapping("checkpoint.save", state=state)
    with _blame(f"checkpoint.save: path {target}"):
        if target.suffix in (".npz", ".pt", ".pth", ".bin", ".json"):
            raise ValueError("this writes safetensors: let the name end in .safetensors")
        arrays: dict[str, Any] = {}
        rest = json.dumps(_encoded(dict(state), "", arrays))
        header: dict[str, Any] = {"__metadata__": {"tinyseq": rest}}
        arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize))    # aligned in the file
        end = 0
        for key, value in arrays.items():
            start, end = end, end + value.size * value.dtype.itemsize
            header[key] = {"dtype": _CODES[value.dtype.newbyteorder("=")], "shape": value.shape,
                           "data_offsets": (start, end)}
        text = json.dumps(header).encode()
        if len(text) > archives.TEXT_BYTES - 8:
            raise ValueError(f"its names and all that is no array take {len(text)} bytes, expected at most "
                             f"{archives.TEXT_BYTES - 8}: make long lists arrays")
        text += b" " * (-len(text) % 8)
        room = archives.Room()
        room.take_json(text + rest.encode())
        room.take(256 * sum(name.count("/") for name in arrays))    # as `load` will count

        def write(file: BinaryIO) -> None:
            file.write(len(text).to_bytes(8, "little") + text)
            for value in arrays.values():   # one at a time: a device's are copied here
                array = np.asarray(value._host() if isinstance(value, Tensor) else value, order="C")
                file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).data)
        _replace(Path(os.path.realpath(target)), write)


def _is_text(value: str) -> bool:
    return value.isascii() or not re.search("[\ud800-\udfff]", value)     # halves of characters, which JSON would join


def _encoded(value: Any, where: str, arrays: dict[str, Any] | None, depth: int = 0) -> Any:
    """What JSON gives back as it is; NumPy's numbers and tuples, which it does not know, under a mark.

    The arrays of dictionaries in each other go to `arrays`, their keys joined by "/".
    """
    kind = type(value)
    if value is None or kind in (bool, float) or (kind is int and value.bit_length() <= 2048) or (
            kind is str and _is_text(value)):
        return value
    if isinstance(value, np.generic) and value.dtype in _CODES:
        return {"__numpy__": [value.dtype.name, value.item()]}
    if kind in (list, tuple) and depth < _DEPTH:
        inside = [_encoded(v, f"{where}[{i}]", None, depth + 1) for i, v in enumerate(value)]
        return inside if kind is list else {"__tuple__": inside}
    if kind not in (dict, OrderedDict) or depth >= _DEPTH:
        if isinstance(value, (Tensor, np.ndarray)) and arrays is None:
            raise ValueError(f"{where}: a {kind.__name__} would not come back from a list: give each a key, such as "
                             "its number, {str(i): x for i, x in enumerate(...)}")
        raise ValueError(f"{where}: a {kind.__name__} would not come back as it is (a file holds plain arrays by "
                         "their keys, None, bool, int of 2048 bits, float, str in Unicode, NumPy's numbers, and list, "
                         f"tuple and dict, to a depth of {_DEPTH})")
    inner = {}
    for key, v in value.items():
        name = f"{where}/{key}" if depth else key
        if type(key) is not str or key in _TAGS or not _is_text(key) or (
                arrays is not None and ("/" in key or name == "__metadata__")):    # safetensors has its own of that
            raise ValueError(f"{name!r}: keys must be strings of Unicode without \"/\", and not \"__metadata__\" or "
                             f"{' or '.join(_TAGS)}")
        if arrays is not None and (isinstance(v, Tensor) or type(v) in (np.ndarray, np.memmap)):
            if v.dtype.newbyteorder("=") not in _CODES:
                raise ValueError(f"{name}: expected an array of {', '.join(map(str, _CODES))}, got {v.dtype}")
            arrays[name] = v
        else:
            inner[key] = _encoded(v, name, arrays, depth + 1)
    return inner


def _decoded(pairs: list[tuple[str, Any]]) -> Any:
    """The inverse of `_encoded`, for each dictionary of JSON."""
    found = _unique(pairs)
    if found.keys() == {"__tuple__"}:
        return tuple(found["__tuple__"])
    if found.keys() == {"__numpy__"}:
        name, value = found["__numpy__"]
        if np.dtype(name) not in _CODES or type(value) not in (bool, int, float):
            raise ValueError(f"expected a number of NumPy's, got {name!r}")
        return np.dtype(name).type(value)
    return found


def _nested(flat: Iterable[tuple[str, Any]], room: archives.Room) -> dict[str, Any]:
    """Dictionaries in each other, from names joined by "/", and such dictionaries where other names lead into them."""
    state: dict[str, Any] = {}
    for name, value in flat:
        *above, key = name.split("/")
        inner: Any = state
        for part in above:
            room.take(256)
            inner = inner.setdefault(part, {})
        if type(inner) is not dict or key in inner:
            raise ValueError(f"{name[:100]!r} hides another entry, or is hidden by one")
        inner[key] = value
    return state


def _locked(file: BinaryIO | archives.File, wait: bool = False) -> bool:
    """Mark an open file as one that a living process writes, for as long as it is open; False where another did."""
    with suppress(ImportError, OSError):    # Windows; locked by another, or a file system without locks
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    return False


def _replace(target: Path, write: Callable[[BinaryIO], None]) -> None:
    """Put what `write` writes in the place of a file, whole or not at all. Of several that do so the last one wins."""
    old = target.stat() if target.exists() else None
    if old and not stat.S_ISREG(old.st_mode):
        raise ValueError("expected the name of a regular file")
    stem = os.fsencode(target.name)[:255 - 21].decode(errors="ignore")  # with what follows no longer than a name may be
    for dead in target.parent.glob(f"{glob.escape(stem)}.{'[0-9a-f]' * 16}.tmp"):
        with suppress(OSError, ValueError), archives.File(dead) as leftover:
            if _locked(leftover):
                dead.unlink()
    # Random, because processes in different containers may have the same number.
    temporary = target.with_name(f"{stem}.{secrets.token_hex(8)}.tmp")
    try:
        for opener in (_nameless, *[None] * 100):
            with open(temporary, "xb", opener=opener) as file:
                _locked(file, wait=True)    # another save that found it unlocked may be about to remove it
                if opener is None and not os.fstat(file.fileno()).st_nlink:
                    continue
                if old and os.chmod in os.supports_fd:
                    os.chmod(file.fileno(), stat.S_IMODE(old.st_mode))
                write(file)
                file.flush()
                os.fsync(file.fileno())
                if os.name == "nt":
                    file.close()    # no open file is renamed there
                if file.closed or _named(file, temporary):
                    os.replace(temporary, target)
                    break
        else:
            raise FileNotFoundError(errno.ENOENT, "another process removes what is written", str(temporary))
    finally:
        temporary.unlink(missing_ok=True)
    with suppress(OSError):     # a folder that cannot be opened or synced
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _nameless(path: str, flags: int) -> int:
    """Open a file that has no name yet, so that whatever ends its process leaves nothing; else one of that name."""
    try:
        return os.open(os.path.dirname(path), getattr(os, "O_TMPFILE", 0) | os.O_WRONLY, 0o666)
    except OSError:     # not of Linux, or of a file system of another machine
        return os.open(path, flags, 0o666)


def _named(file: BinaryIO, path: Path) -> bool:
    """Give an open file its name where it has none; False where that cannot be, or another save removed it."""
    with suppress(OSError):
        if not os.fstat(file.fileno()).st_nlink:    # with a folder given, Python follows the link to what is open
            os.link(f"/proc/self/fd/{file.fileno()}", path, dst_dir_fd=file.fileno(), follow_symlinks=True)
        return True
    return False


def rename(state: Mapping[str, Any], rules: Mapping[str | tuple[str, ...], str | None],
           strict: bool = True) -> dict[str, Any]:
    """The same arrays under other names: `rules` maps old names to new ones, and is data.

    `{}` stands for one part of a name, without dots, and is carried over. A tuple of old names is concatenated along
    axis 0; `.T` at the end of an old name transposes it; the new name None leaves it out. An old name that is empty or
    ends in a dot stands for all that begin with it, and the rest of each is carried over. The first rule that fits a
    name has it; what no rule names stays. A rule that fits nothing is a CheckpointError, unless `strict` is False.

    >>> GPT2 = {"h.{}.attn.c_attn.{}.T": "layers.{}.self_attn.in_proj_{}", "h.{}.attn.bias": None}
    >>> BERT = {("layer.{}.query.{}", "layer.{}.key.{}", "layer.{}.value.{}"): "layers.{}.self_attn.in_proj_{}"}
    >>> state = {"h.0.attn.c_attn.weight": np.ones((2, 6)), "h.0.attn.bias": np.ones(1), "norm": np.ones(2)}
    >>> {name: array.shape for name, array in ts.checkpoint.rename(state, GPT2).items()}
    {'norm': (2,), 'layers.0.self_attn.in_proj_weight': (6, 2)}
    >>> list(ts.checkpoint.rename({"model.out.weight": np.ones(2)}, {"model.": ""}))    # {"": "model."} puts it back
    ['out.weight']
    """
    check.mapping("checkpoint.rename", state=state, rules=rules)
    left = dict(state)
    renamed: list[tuple[str, Array]] = []
    for old, new in rules.items():
        with _blame(f"rename: {old!r} to {new!r}"):
            names = (old,) if isinstance(old, str) else old
            pattern = re.escape(names[0].removesuffix(".T")).replace(r"\{\}", r"([^.]+)")
            if not names[0] or names[0].endswith("."):
                names, new = tuple(f"{name}{{}}" for name in names), new if new is None else f"{new}{{}}"
                pattern += "(.+)"
            matches = [found for key in left if (found := re.fullmatch(pattern, key))]
            if strict and not matches:
                raise ValueError(f"no name fits it, of {len(left)} that no rule before it has: {reprlib.repr([*left])}")
            for match in matches:
                arrays = []
                for name in names:
                    if (key := name.removesuffix(".T").format(*match.groups())) not in left:
                        raise ValueError(f"{match.string} is there without {key}")
                    arrays.append(left.pop(key).T if name.endswith(".T") else left.pop(key))
                if new is not None:
                    renamed.append((new.format(*match.groups()), np.concatenate(arrays) if arrays[1:] else arrays[0]))
    count = Counter([*left, *(name for name, _ in renamed)])
    if count.total() > len(count):
        raise CheckpointError(f"rename: two tensors come to the name {count.most_common(1)[0][0]}")
    return left | dict(renamed)
