"""Files are read as they are, packed or not, and what is wrong in one is told with its place."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyseq import data

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\t"), max_size=9), max_size=9)
endings = st.sampled_from(["\n", "\r\n"])


def write(path: Path, text: str, packed: bool = False) -> Path:
    raw = text.encode()
    path.write_bytes(gzip.compress(raw) if packed else raw)
    return path


@given(texts, texts, endings, st.booleans(), st.booleans())
def test_lines_are_those_of_the_files(folder: Path, first: list[str], second: list[str], end: str, packed: bool,
                                      last: bool) -> None:
    paths = [write(folder / "a", "".join(x + end for x in first), packed), write(folder / "b", end.join(second))]
    expected = [*first, *(second if second[-1:] != [""] else second[:-1])]
    if expected and expected[0].startswith("\ufeff"):
        expected[0] = expected[0][1:]
    if second and second[0].startswith("\ufeff"):
        return
    stream = data.lines(paths)
    assert list(stream) == expected == list(stream)
    assert list(data.lines(paths[:1])) == list(data.lines(str(paths[0])))


@given(st.lists(st.none() | st.integers() | st.text() | st.dictionaries(st.text(), st.integers()), max_size=9),
       st.booleans())
def test_json_lines_are_their_values(folder: Path, rows: list[Any], packed: bool) -> None:
    path = write(folder / "a", "".join(json.dumps(row) + "\n\n" for row in rows), packed)
    assert list(data.json_lines(path)) == rows


@given(st.lists(st.tuples(*[st.text("abé ", max_size=5)] * 2), max_size=9))
def test_pairs_lie_side_by_side_or_with_a_tab_between(folder: Path, rows: list[tuple[str, str]]) -> None:
    a, b, both = (write(folder / name, "".join(x + "\n" for x in side)) for name, side in
                  (("a", [x for x, _ in rows]), ("b", [y for _, y in rows]), ("c", ["\t".join(row) for row in rows])))
    assert list(data.pairs(a, b)) == list(data.pairs(both)) == rows


@given(st.text(max_size=40), st.integers(1, 9), st.booleans())
def test_pieces_of_a_text_are_the_text(folder: Path, text: str, size: int, packed: bool) -> None:
    pieces = list(data.text(write(folder / "a", text, packed), size))
    assert "".join(pieces) == text.removeprefix("\ufeff")
    assert all(size <= len(piece.encode()) < size + 4 for piece in pieces[1:-1])


@pytest.mark.parametrize("size", [1000, 4095, 8191, 8192, 8193])
def test_characters_across_the_ends_of_buffers_stay_whole(tmp_path: Path, size: int) -> None:
    text = "a" + "\U0001f600" * 9000
    for packed in (False, True):
        assert "".join(data.text(write(tmp_path / "a", text, packed), size)) == text
    for cut in range(4):
        rows = data.text(write(tmp_path / "a", text[:9000 - cut]), size).contiguous(2, 10**5)
        assert "".join(next(iter(rows))) == text[:9000 - cut]


def test_what_is_wrong_in_a_file_is_told_with_its_line(tmp_path: Path) -> None:
    path, other = tmp_path / "a.txt", tmp_path / "b.txt"
    cases: list[tuple[bytes, Any, str]] = [
        (b"a\nb\n\xff\n", lambda: data.lines(path), "lines: .*a.txt, line 3: 'utf-8' codec can't decode"),
        (b"1\n\n{\n", lambda: data.json_lines(path), "json_lines: .*a.txt, line 3: Expecting"),
        (b"a\tb\na\n", lambda: data.pairs(path), "pairs: .*a.txt, line 2: expected two texts with a tab .*'a'"),
        (b"a\tb\tc\n", lambda: data.pairs(path), "line 1: expected two texts with a tab"),
        (b"a\nb\n", lambda: data.pairs(path, other), "as many lines on both sides, but .*b.txt ends before .*a.txt"),
        (b"a\nb\n", lambda: data.pairs(other, path), "as many lines on both sides, but .*b.txt ends before .*a.txt"),
        (gzip.compress(b"a\n" * 99)[:-9], lambda: data.lines(path), "lines: .*a.txt is broken: "),
        (b"\x1f\x8bx", lambda: data.lines(path), "lines: .*a.txt is broken: "),
        (b"aa\xff", lambda: data.text(path), "text: .*a.txt, line 1: "),
    ]
    other.write_text("a\n")
    for raw, make, told in cases:
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=told):
            list(make())
    path.write_bytes(gzip.compress(b"a\nb\n"))
    with pytest.raises(ValueError, match=r"Stream.contiguous: .*a.txt is packed.* unpack it"):
        data.text(path).contiguous(2, 3)


def test_a_file_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected paths to be files: No such .*nothing.txt"):
        data.lines([tmp_path / "nothing.txt"])
    with pytest.raises(IsADirectoryError):
        data.text(tmp_path)
    for wrong in (3, [], None, [3], {"a": 1}):
        with pytest.raises(TypeError, match=r"^lines: expected paths to be .*path"):
            data.lines(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^lines: expected paths to be files, got 'a.x00b'"):
        data.lines("a\0b")
    for source in (3, None, {1: 2}, {1}, iter([1]), list):
        with pytest.raises(TypeError, match=r"^items: expected source to be a sequence, or a function"):
            data.items(source)  # type: ignore[arg-type]


def test_items_are_what_is_in_memory() -> None:
    array = np.arange(6).reshape(3, 2)
    assert [row.tolist() for row in data.items(array)] == array.tolist()
    calls: list[int] = []

    def source() -> list[int]:
        calls.append(1)
        return [1, 2, 3]

    stream = data.items(source)
    assert list(stream) == list(stream) == [1, 2, 3] and len(calls) == 2


def test_prints_of_large_files_see_their_ends_and_blocks_in_between(tmp_path: Path) -> None:
    path, raw = tmp_path / "large", np.zeros(10**6, np.uint8)
    state = lambda: data.lines(path).state_dict()["files"]
    path.write_bytes(raw.tobytes())
    first = state()
    for changed in (0, 10**6 - 1, 10**6 // 15 * 7):
        raw[changed] = 1
        path.write_bytes(raw.tobytes())
        assert state() != first
        raw[changed] = 0
    path.write_bytes(raw.tobytes())
    assert state() == first
