"""Keras' files: what Keras 3.15.1, 3.0.5 and 2.15 wrote (data/frameworks), and files made to do harm."""

import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyseq as ts
from tinyseq import checkpoint, nn
from tinyseq.checkpoint import CheckpointError
from tinyseq.nn.convert import from_gates, from_keras_layers

h5py = pytest.importorskip("h5py", reason="h5py is not installed")
FILES = Path(__file__).parent / "data" / "frameworks"
SAVED = [(version, ending) for version in ("keras", "keras_305", "keras_2") for ending in ("keras", "weights.h5", "h5")
         if (version, ending) != ("keras_305", "h5")]


def unpacked(version: str, ending: str, folder: Path) -> tuple[Path, Any]:
    """A file, and the settings of its model."""
    with zipfile.ZipFile(FILES / f"{version}.zip") as archive:
        return Path(archive.extract(f"model.{ending}", folder)), json.loads(archive.read("model.json"))


@pytest.mark.parametrize(("version", "ending"), SAVED)
def test_recurrent_layers_are_ready_by_the_users_names(version: str, ending: str, tmp_path: Path) -> None:
    path, settings = unpacked(version, ending, tmp_path)
    layers = from_keras_layers(path, settings if ending == "weights.h5" else None)
    expected = np.load(FILES / f"{version}_y.npz")
    assert {*layers} | {"shared"} == {*expected} - {"x"}    # the second place of "inner/shared", and in .h5 once more
    for name, layer in layers.items():
        y = layer(ts.asarray(expected["x"]))[0].detach().numpy()
        np.testing.assert_allclose(y, expected[name], atol=2e-6, err_msg=name)
    assert repr(layers["inner/deep"]) == "GRU(3, 4, reset='before')"
    if ending == "weights.h5":  # with the settings as text too
        assert from_keras_layers(path, json.dumps(settings)).keys() == layers.keys()
        with pytest.raises(CheckpointError, match=r"give config=, what model.to_json\(\) says"):
            from_keras_layers(path)


def test_arrays_are_there_by_their_path_and_the_preset_reads_them(tmp_path: Path) -> None:
    expected = np.load(FILES / "keras_y.npz")["gru"]
    for version, ending, prefix in [("keras", "keras", "layers/gru/cell/vars/"),
                                    ("keras", "h5", "model_weights/gru/gru/gru_cell/"),
                                    ("keras_2", "h5", "model_weights/gru/gru/gru_cell/")]:
        state, gru = checkpoint.load(unpacked(version, ending, tmp_path)[0]), nn.GRU(3, 4)
        gru.load_state_dict(from_gates(gru, state, "keras", prefix=prefix))
        y = gru(ts.asarray(np.load(FILES / f"{version}_y.npz")["x"]))[0].detach().numpy()
        np.testing.assert_allclose(y, np.load(FILES / f"{version}_y.npz")["gru"], atol=2e-6)
    assert expected.shape == (2, 5, 4)


def test_a_layer_that_is_not_computed_here_is_refused_by_name(tmp_path: Path) -> None:
    path, settings = unpacked("keras", "weights.h5", tmp_path)
    def broken(name: str, **changes: Any) -> Any:
        copy = json.loads(json.dumps(settings))
        [layer] = [layer for layer in copy["config"]["layers"] if layer["config"]["name"] == name]
        layer["config"] |= changes
        return copy
    for config, says in [(broken("first", recurrent_activation="hard_sigmoid"), "layer 'first': .*hard_sigmoid"),
                         (broken("cells", cell=[]), "layer 'cells'"),
                         (broken("both", merge_mode="sum"), "layer 'both': .*merge_mode='sum'"),
                         (broken("last", go_backwards=True), "layer 'last': .*go_backwards"),
                         (broken("last", inner_activation="tanh"), r"layer 'last': .*\['inner_activation'\]")]:
        with pytest.raises(ValueError, match=says):
            from_keras_layers(path, config)
    for config, says in [({}, "a list of layers"), ([], "a list of layers"), ("{", "Expecting property name"),
                         ({"config": {"layers": [{"class_name": "GRU", "config": {"name": "other"}},
                                                 *[{"class_name": "GRU", "config": {"name": "b"}}] * 2]}},
                          "layer 'b': its weights are not at layers/gru_None/"),
                         ({"config": {"layers": [3]}}, "TypeError")]:
        with pytest.raises(CheckpointError, match=says):
            from_keras_layers(path, config)
    with pytest.raises(ValueError, match="has none of the layers SimpleRNN, GRU"):
        from_keras_layers(path, {"config": {"layers": []}})


def virtual(h5: Any) -> None:
    layout = h5py.VirtualLayout((2,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "a", (2,))
    h5.create_virtual_dataset("a", layout)


def deep(h5: Any) -> None:
    h5.create_group("/".join("a" * 60))


@pytest.mark.parametrize(("make", "says"), [
    (lambda h5: h5.__setitem__("a", h5py.ExternalLink("secret.h5", "/a")), "a: refused: a link"),
    (lambda h5: h5.__setitem__("a", h5py.SoftLink("/b")), "a: refused: a link"),
    (lambda h5: h5.__setitem__("a", h5["/"]), "a: .*expected at most 50 groups|groups in each other"), (deep, "groups"),
    (lambda h5: h5.create_dataset("a", (2,), "f4", external=[("secret", 0, 8)]), "a: refused: its numbers lie in"),
    (virtual, "a: refused: its numbers lie in other"),
    (lambda h5: h5.create_dataset("a", (9,), "f4", compression="lzf"), r"a: refused: .*filters \[32000\]"),
    (lambda h5: h5.create_dataset("a", (10**9, 10**3), "f4", chunks=(10, 10)), "zip bomb"),
    (lambda h5: h5.create_dataset("a", (1,), "f4", maxshape=(None,), chunks=(2**28,)), "zip bomb"),
    (lambda h5: h5.__setitem__("a", "text"), "a: expected an array of numbers, got dtype object"),
    (lambda h5: h5.__setitem__("a", np.ones(2, complex)), "a: expected an array of numbers, got dtype complex128"),
    (lambda h5: h5.__setitem__("a", np.ones(2, "V2")), r"a: expected an array of numbers, got dtype \|V2"),
    (lambda h5: h5.__setitem__("a", h5py.Empty("f4")), "a: expected an array of numbers")])
def test_what_could_do_harm_is_refused(make: Any, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secret").write_bytes(bytes(8))
    with h5py.File("secret.h5", "w") as h5:
        h5["a"] = np.ones(2)
    with h5py.File("a.h5", "w") as h5:
        make(h5)
    with pytest.raises(CheckpointError, match=f"path a.h5: {says}|path a.h5: .*{says}"):
        checkpoint.load("a.h5")


def test_numbers_of_all_kinds_are_read(tmp_path: Path) -> None:
    values = {"float16": np.ones(2, "f2"), "big": np.arange(3, dtype=">f4"), "bool": np.array([True, False]),
              "one": np.float32(3), "none": np.zeros((0, 2)), "packed": np.arange(999)}
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        for name, value in values.items():
            packed = {"compression": "gzip", "shuffle": True, "fletcher32": True} if name == "packed" else {}
            h5.create_dataset(name, data=value, **packed)
        narrow = (np.array([1.5, -2], "f4").view("u4") >> 16).astype("u2")
        h5.create_dataset("wide", data=narrow.view("V2")).attrs["dtype"] = "bfloat16"   # as Keras 3 does
    state = checkpoint.load(tmp_path / "a.h5")
    np.testing.assert_array_equal(state.pop("wide"), np.array([1.5, -2], "f4"))
    for name, value in values.items():
        np.testing.assert_array_equal(state[name], value)
        assert not state[name].flags.writeable


def test_a_file_that_is_cut_or_no_model_of_keras_is_an_error(tmp_path: Path) -> None:
    path, _ = unpacked("keras", "h5", tmp_path)
    raw = path.read_bytes()
    for size in (8, 100, 2000, len(raw) - 1):
        path.write_bytes(raw[:size])
        with pytest.raises(CheckpointError, match=r"model.h5: HDF5 does not read it"):
            checkpoint.load(path)
    path = tmp_path / "a.keras"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", b"{}")
    with pytest.raises(CheckpointError, match=r"model.weights.h5"):
        checkpoint.load(path)


@pytest.mark.parametrize("value", [np.arange(3), np.array(["{}", "{}"], dtype=object), 1.5])
def test_a_configuration_that_is_no_single_text_is_not_read(value: Any, tmp_path: Path) -> None:
    path, _ = unpacked("keras", "h5", tmp_path)
    with h5py.File(path, "a") as h5:
        h5.attrs["model_config"] = value
    assert "model_weights/gru/gru/gru_cell/kernel" in checkpoint.load(path)
    with pytest.raises(CheckpointError, match="give config="):
        from_keras_layers(path)


def test_without_h5py_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    for ending in ("keras", "h5"):
        path, _ = unpacked("keras", ending, tmp_path)
        with pytest.raises(CheckpointError, match=r"need h5py; run: pip install 'tinyseq\[h5\]'"):
            checkpoint.load(path)
    assert os.listdir(tmp_path)
