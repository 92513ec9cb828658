"""DyNet's text files: what it wrote (data/frameworks), and broken ones."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyseq import checkpoint
from tinyseq.checkpoint import CheckpointError

FILES = Path(__file__).parent / "data" / "frameworks"


def test_lookup_parameters_have_the_shape_that_dynet_gives_them() -> None:
    state = checkpoint.load(FILES / "dynet.txt")
    np.testing.assert_allclose(state["/words"], np.load(FILES / "dynet_y.npz")["words"], atol=1e-6)
    assert state["/vanilla-lstm-builder/_0"].shape == (16, 3) and state["/vanilla-lstm-builder/_2"].shape == (16,)
    assert not any(array.flags.writeable for array in state.values())


def test_matrices_lie_column_by_column_and_gradients_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.anything"
    path.write_text("#Parameter# /a {2,3} 24 FULL_GRAD\n1 2 3 4 5 6\n7 7 7 7 7 7\n#Parameter# /b {1} 2 ZERO_GRAD\n8\n")
    state = checkpoint.load(path)
    np.testing.assert_array_equal(state["/a"], [[1, 3, 5], [2, 4, 6]])
    np.testing.assert_array_equal(state["/b"], [8])


@pytest.mark.parametrize(("text", "says"), [
    ("#Parameter# /a {2} 4 ZERO_GRAD\n1 x\n", "could not be read"),
    ("#Parameter# /a {2} 2 ZERO_GRAD\n1\n", "2 numbers"),
    ("#Parameter# /a {2} 9 ZERO_GRAD\n1 2\n", "/a: it is there twice, or the file ends"),
    ("#Parameter# /a {1} 2 ZERO_GRAD\n1\n" * 2, "/a: it is there twice"),
    ("#Parameter# /a {2X4} 2 ZERO_GRAD\n1\n", "at byte 0, got b'#Parameter# /a {2X4}"),
    ("#Parameter# /a {1} 2 ZERO_GRAD\n1\nmore", "at byte 33, got b'more"),
    ("#Parameter# /a {99999999,999} 2 ZERO_GRAD\n1\n", "zip bomb")])
def test_broken_files_are_refused(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=says):
        checkpoint.load(path)


@given(data=st.data())
def test_a_file_that_was_changed_or_cut_is_read_or_refused(data: st.DataObject, folder: Path) -> None:
    raw = bytearray((FILES / "dynet.txt").read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(0, len(raw))) or len(raw):]
    (folder / "a.txt").write_bytes(raw)
    with suppress(CheckpointError):
        checkpoint.load(folder / "a.txt")
