"""Files of Keras 2 and 3, which are HDF5: arrays by name, and the recurrent layers with their settings.

`.weights.h5` has layers/lstm_1/cell/vars/0: layers by class and number, of which a shared layer's second place leaves a
gap in Keras 3; `.keras` is a zip file of it and of config.json. `.h5` has groups under the users' names, and the
settings as an attribute. Files are not trusted: what is read is arrays of numbers that lie in the file itself, behind
no link and no filter that would load code. HDF5's own library reads them, whose own faults nothing here holds off.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tinyseq import archives

FILTERS = {1, 2, 3}     # deflate, shuffle, fletcher32: HDF5's own
LAYERS = ("SimpleRNN", "GRU", "LSTM", "RNN", "Bidirectional")
KEYS = ("kernel", "recurrent_kernel", "bias")
DEPTH = 50              # of groups in each other


class Saved(NamedTuple):
    """What a file holds: arrays and groups by path, and the settings."""

    arrays: dict[str, Any]
    groups: list[str]
    config: Any


class _Reader:
    """Walks one file, and counts what it takes."""

    def __init__(self, h5py: Any, room: archives.Room) -> None:
        self.h5py, self.room = h5py, room
        self.arrays: dict[str, Any] = {}
        self.groups: list[str] = []

    def group(self, group: Any, path: str = "") -> None:
        """All that lies in a group."""
        if path.count("/") > DEPTH:
            raise ValueError(f"{path[:100]}: expected at most {DEPTH} groups in each other")
        for key in group:
            name = f"{path}{key}"
            self.room.take(1024 + len(name))
            if not isinstance(group.get(key, getlink=True), self.h5py.HardLink):
                raise ValueError(f"{name}: refused: a link to what may lie elsewhere")
            entry = group[key]
            if isinstance(entry, self.h5py.Dataset):
                self.arrays[name] = self.array(name, entry)
            elif isinstance(entry, self.h5py.Group):
                self.groups.append(name)
                self.group(entry, f"{name}/")

    def text(self, entry: Any, key: str) -> str:
        """An attribute that is one string, or ""."""
        if key not in entry.attrs:
            return ""
        kind = entry.attrs.get_id(key)
        if kind.shape != () or not self.h5py.check_string_dtype(kind.dtype):
            return ""
        value = entry.attrs[key]
        text = value.decode() if isinstance(value, bytes) else str(value)
        self.room.take(4 * len(text))
        return text

    def array(self, name: str, data: Any) -> Any:
        """An array whose numbers lie in the file."""
        plan = data.id.get_create_plist()
        filters = {plan.get_filter(i)[0] for i in range(plan.get_nfilters())}
        if data.is_virtual or data.external or not filters <= FILTERS:
            raise ValueError(f"{name}: refused: its numbers lie in other files or under filters {sorted(filters)}, of "
                             f"which {sorted(FILTERS)} are read")
        wide = data.dtype.str == "|V2" and self.text(data, "dtype") == "bfloat16"
        if (data.dtype.kind not in "biuf" and not wide) or data.shape is None:
            raise ValueError(f"{name}: expected an array of numbers, got dtype {data.dtype}")
        size = data.dtype.itemsize
        self.room.take(size * (math.prod(data.shape) * (3 if wide else 1) + math.prod(data.chunks or (0,))))
        array = np.asarray(data[()])
        if wide:
            array = archives.view(array.reshape(-1).view(np.uint8), "bfloat16").reshape(data.shape)
        array.flags.writeable = False
        return array


def read(file: archives.File, room: archives.Room) -> Saved:
    """What an open HDF5 file holds, or the zip file .keras."""
    if file.read(2) == b"PK":
        file.seek(0)
        with archives.Archive(file, room) as archive:
            saved = _hdf5(io.BytesIO(archive.member("model.weights.h5").tobytes()), room)
            return saved._replace(config=room.json(archive.member("config.json").tobytes(), dict))
    room.left += 2 * file.size
    opened = f"/dev/fd/{file.fileno()}"     # by its name it may be another file by now
    return _hdf5(opened if os.path.exists(opened) else file.name, room)


def _hdf5(source: Any, room: archives.Room) -> Saved:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("Keras' files and others in HDF5 need h5py; run: pip install 'tinyseq[h5]'") from error
    reader = _Reader(h5py, room)
    try:
        with h5py.File(source, "r") as h5:
            reader.group(h5)
            text = reader.text(h5, "model_config").encode()
    except OSError as error:    # so says HDF5 that a file is broken
        raise ValueError(f"HDF5 does not read it: {error}") from error
    return Saved(reader.arrays, reader.groups, room.json(text, dict) if text else None)


def recurrent(saved: Saved, config: Any = None) -> Iterator[tuple[str, Any, list[Any]]]:
    """Name, settings {"class_name", "config"} and weights as of get_weights(), of each layer among LAYERS, of models in
    the model too."""
    config = saved.config if config is None else json.loads(config) if isinstance(config, str) else config
    if config is None:
        raise ValueError("it has weights without settings: give config=, what model.to_json() says of the same model")
    yield from _layers(saved, config, "", "", "", set())


def _layers(saved: Saved, model: Any, place: str, label: str, top: str, done: set[str],
            ) -> Iterator[tuple[str, Any, list[Any]]]:
    """Those of a model, whose layers Keras 3 has under a place, and Keras 2 under the name of the topmost layer.

    Where the file has fewer layers of a class than the model, those that were `done` under their name are left out, as
    layers of two models; numbers rise in the order of the settings, with gaps or without.
    """
    entries = model.get("config") if isinstance(model, Mapping) else None
    entries = entries.get("layers") if isinstance(entries, Mapping) else entries
    if not isinstance(entries, list):
        raise ValueError("expected settings with a list of layers, as model.to_json() has them")
    total = Counter(map(_snake, entries))
    found = {kind: sorted(int(match[1] or 0) for group in saved.groups
                          if (match := re.fullmatch(rf"{re.escape(place)}layers/{kind}(?:_(\d+))?", group)))
             for kind in total}
    left = {kind: iter(numbers) for kind, numbers in found.items()}
    for entry in entries:
        kind, settings = _snake(entry), entry["config"]
        name = settings.get("name", entry.get("name"))
        if "layers" in saved.groups and len(found[kind]) < total[kind] and name in done:
            continue
        done.add(name)
        number = next(left[kind], None)
        here = f"{place}layers/{kind}" + f"_{number}" * (number != 0)
        if "layers" in settings:
            yield from _layers(saved, entry, f"{here}/", f"{label}{name}/", top or name, done)
        elif entry["class_name"] in LAYERS:
            two = entry["class_name"] == "Bidirectional"
            yield f"{label}{name}", entry, _weights(saved, f"{here}/", top, name, two)


def _snake(entry: Mapping[str, Any]) -> str:
    """The class of a layer as files spell it: SimpleRNN is simple_rnn."""
    words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", entry["class_name"]))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()


def _weights(saved: Saved, place: str, top: str, name: str, two: bool) -> list[Any]:
    """The weights of a layer, forward before backward, as its get_weights() gives them."""
    found = {}
    for key, array in saved.arrays.items():
        if match := re.fullmatch(r"(?:(forward|backward)_layer/)?cell/vars/([012])", key.removeprefix(place)):
            found[match[1] == "backward", int(match[2])] = array
        group, _, rest = key.removeprefix("model_weights/").partition("/")
        last = rest.rpartition("/")[2].removesuffix(":0")
        if last in KEYS and group == (top or name) and (not top or f"/{name}/" in f"/{rest}"):
            found[two and "/forward_" not in f"/{rest}", KEYS.index(last)] = array  # the other may have any name
    if not found:
        raise ValueError(f"layer {name!r}: its weights are not at {place} nor under {top or name}: is config that of "
                         "the same model?")
    return [found[at] for at in sorted(found)]
