"""Batches hold every row once, whole, and little padding."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq.data import Vocabulary, batches, pad

sequences = st.lists(st.lists(st.integers(0, 99), max_size=9), max_size=20)
sizes = st.integers(1, 9)
seeds = st.integers(0, 2**32)
lengths = st.lists(st.integers(0, 9), max_size=60)


@given(sequences)
def test_pad_keeps_every_sequence_and_adds_only_pad(rows: list[list[int]]) -> None:
    ids, lengths = pad(rows)
    assert ids.dtype == lengths.dtype == np.int64
    assert ids.shape == (len(rows), max(map(len, rows), default=0))
    for row, padded, length in zip(rows, ids, lengths, strict=True):
        assert padded[:length].tolist() == row
        assert (padded[length:] == Vocabulary.pad).all()


wide = st.integers(-(2**63) - 2, 2**64) | st.sampled_from([2**63 - 1, 2**63, 2**64 - 1, -(2**63), -(2**63) - 1])


@given(st.lists(st.lists(wide | st.integers(0, 9), max_size=3), max_size=3), st.sampled_from(["list", "array", "0-d"]))
def test_pad_keeps_an_integer_or_refuses_it(rows: list[list[int]], kind: str) -> None:
    """Whatever dtype it comes in, alone or beside others."""
    given: list[Any] = [[np.array(x) if abs(x) < 2**63 else x for x in row] if kind == "0-d" else
                        np.array(row or np.zeros(0, int)) if kind == "array" else row for row in rows]
    if any(isinstance(row, np.ndarray) and row.dtype.kind not in "iu" for row in given):
        with pytest.raises((TypeError, ValueError), match=r"^pad\(.*\): expected "):     # float64 or objects, for NumPy
            pad(given)
    elif all(-(2**63) <= x < 2**63 for row in rows for x in row):
        ids, lengths = pad(given)
        assert [row[:n] for row, n in zip(ids.tolist(), lengths, strict=True)] == rows
    else:
        with pytest.raises(ValueError, match=r"^pad\(.*\): expected integers that int64 has, got"):
            pad(given)


def test_pad_takes_arrays_of_integers_as_they_are() -> None:
    """No number of them alone becomes one of Python."""
    class Whole(np.ndarray[Any, Any]):
        def tolist(self) -> Any:
            raise AssertionError("number by number")

    for dtype in ("int8", "uint32", "int64", ">i4"):
        rows = [np.array(x, dtype).view(Whole) for x in ([1, 2], [], [100])]
        ids, lengths = pad(rows)
        assert ids.tolist() == [[1, 2], [0, 0], [100, 0]] and lengths.tolist() == [2, 0, 1] and ids.dtype == np.int64
        ids[0, 0] = 9
        assert rows[0][0] == 1


def test_pad_refuses_what_is_not_integer() -> None:
    for wrong, message in (([[1, 2], [0.5]], "got 0.5 in one"), (["ab", "c"], "got 'a' in one; encode symbols first"),
                           ([[True, 5]], "got True in one"), ([np.array([[1, 2]])], r"got int64\[1, 2\] in row 0"),
                           ([np.ones(2)], "got 1.0 in one"), ([[None]], "got None"), ([3], "got 3"), (3, "got 3"),
                           (None, "got None"), (np.array([1, 2]), "got 1"), ([ts.ones(2)], "got 1.0 in one")):
        with pytest.raises(TypeError, match=rf"^pad\(.*\): expected .*{message}"):
            pad(wrong)    # type: ignore[arg-type]
    ids, lengths = pad([ts.tensor([1, 2]), np.array([200], np.uint8), [ts.tensor(3)], np.zeros(0)])
    assert ids.tolist() == [[1, 2], [200, 0], [3, 0], [0, 0]] and lengths.tolist() == [2, 1, 1, 0]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.integers(0, 3), seeds,
       st.sampled_from(["array", "tensor", "list"]), st.sampled_from(["float16", "float32", "float64"]))
def test_pad_keeps_frames_and_their_dtype(counts: list[int], width: int, seed: int, kind: str, dtype: str) -> None:
    """An empty list has the width of the others."""
    rng = np.random.default_rng(seed)
    frames = [rng.standard_normal((n, width)).astype(dtype) for n in (*counts, 1)]
    given: list[Any] = [ts.tensor(x) if kind == "tensor" else x.tolist() if kind == "list" else x if len(x) else []
                        for x in frames]
    if kind == "list" and not width:
        return  # which says nothing of frames
    x, lengths = pad(given)
    assert x.dtype == ("float32" if kind == "list" else dtype) and lengths.tolist() == [*counts, 1]
    assert x.shape == (len(frames), max(*counts, 1), width)
    for row, frame, n in zip(x, frames, lengths, strict=True):
        assert np.array_equal(row[:n], frame.astype(x.dtype)) and not row[n:].any()


def test_pad_refuses_frames_that_are_no_floats_of_one_width() -> None:
    two = np.ones((2, 2), "float32")
    for wrong, kind, message in (
        ([two, two[:, :1]], ValueError, "of one width, got 2 numbers in row 0, 1 in row 1"),
        ([[], two, [[1.0, 2.0, 3.0]]], ValueError, "got 2 numbers in row 1, 3 in row 2"),
        ([two, [1, 2]], TypeError, r"or all of frames, floats \(T, F\), got int64\[2\] in row 1"),
        ([[1.5], two], TypeError, r"got float32\[1\] in row 0"),
        ([two[None]], TypeError, r"float32\[1, 2, 2\] in row 0"),
        ([two.astype(int)], TypeError, r"int64\[2, 2\] in row 0"), ([[[1.0, 2.0], [3.0]]], ValueError, "equal lengths"),
    ):
        with pytest.raises(kind, match=rf"^pad\(.*\): .*{message}"):
            pad(wrong)
    with pytest.raises(RuntimeError, match="gradient"):
        pad([ts.ones((2, 3), requires_grad=True)])
    assert pad(np.ones((2, 3, 4), "float16"))[0].dtype == "float16"


@given(lengths, sizes, seeds | st.none())
def test_batches_hold_every_row_once(rows: list[int], size: int, seed: int | None) -> None:
    groups = batches(rows, size, seed)
    assert sorted(i for group in groups for i in group.tolist()) == list(range(len(rows)))
    counts = sorted(len(group) for group in groups)
    assert all(count == size for count in counts[1:])
    assert len(groups) == -(-len(rows) // size)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=60), sizes, seeds)
def test_batches_are_runs_of_the_sorted_rows(rows: list[tuple[int, int]], size: int, seed: int) -> None:
    """No split into such batches pads less: in order of the batches' lengths, all rows are sorted."""
    groups = [sorted(rows[i] for i in group) for group in batches(rows, size, seed)]
    groups.sort(key=lambda group: (group[0], group[-1], -len(group)))
    assert [row for group in groups for row in group] == sorted(rows)
    unshuffled = [rows[i] for group in batches(rows, size) for i in group]
    assert unshuffled == sorted(rows)


def test_batches_depend_on_the_seed_alone() -> None:
    rows = np.random.default_rng(0).integers(1, 5, size=500)
    first, again, other = (batches(rows, 8, seed) for seed in ((1, 0), (1, 0), (1, 1)))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert {frozenset(group.tolist()) for group in first} != {frozenset(group.tolist()) for group in other}
    means = [rows[group].mean() for group in first]
    assert means != sorted(means)               # short and long batches are mixed


@given(lengths, sizes, st.sampled_from(["int8", "uint8", "uint64"]))
def test_batches_do_not_depend_on_the_width_of_lengths(rows: list[int], size: int, dtype: str) -> None:
    found = batches(np.array(rows, dtype), np.dtype(dtype).type(size), 3)
    assert list(map(list, found)) == list(map(list, batches(rows, size, 3)))


@pytest.mark.parametrize(("wrong", "size", "error", "message"), [
    (1, 2, TypeError, r"lengths \(N,\) or \(N, K\), got 1"), (np.ones((2, 2, 2), int), 2, ValueError, "of shape"),
    ([1], 0, ValueError, "1 <= size, got 0"), ([1], 1.5, TypeError, "size to be an integer, got 1.5"),
    ([1.0], 2, TypeError, "integers, got float64"), (["a"], 2, TypeError, "integers, got <U1"),
    ([True], 2, TypeError, "got bool"), ([-1], 2, ValueError, "from 0 on, got -1"), ([[]], 2, ValueError, "of shape"),
    ([[1], [1, 2]], 2, ValueError, "inhomogeneous shape"), (None, 2, TypeError, "got None")])
def test_batches_refuse_wrong_lengths_and_sizes(wrong: Any, size: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=rf"^batches\(.*\): .*{message}"):
        batches(wrong, size)
