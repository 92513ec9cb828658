"""Vocabularies give back what they were given; batches hold every row once, whole, and little padding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyseq.data import Vocabulary, batches, pad

symbols = st.lists(st.text(max_size=3), unique=True, max_size=20)
sequences = st.lists(st.lists(st.integers(0, 99), max_size=9), max_size=20)
sizes = st.integers(1, 9)
seeds = st.integers(0, 2**32)
lengths = st.lists(st.integers(0, 9), max_size=60)


@given(symbols, st.data())
def test_decode_undoes_encode(known: list[str], data: st.DataObject) -> None:
    vocabulary = Vocabulary(known)
    sequence = data.draw(st.lists(st.sampled_from(known), max_size=9)) if known else []
    ids = vocabulary.encode(sequence)
    assert vocabulary.decode(ids) == sequence
    assert vocabulary.decode(np.array(ids, dtype=np.int64)) == sequence
    assert vocabulary.decode([vocabulary.start, *ids, vocabulary.end, *ids, len(vocabulary)]) == sequence
    assert vocabulary.decode([vocabulary.pad, *ids, vocabulary.pad]) == sequence


@given(symbols)
def test_ids_are_distinct_and_fill_the_range(known: list[str]) -> None:
    vocabulary = Vocabulary(known)
    ids = [vocabulary.pad, vocabulary.start, vocabulary.end, *vocabulary.encode(known)]
    assert sorted(ids) == list(range(len(vocabulary)))
    assert vocabulary.pad == 0                  # pad() fills up with it, losses ignore it
    assert Vocabulary(vocabulary.symbols).encode(known) == vocabulary.encode(known)


def test_vocabulary_errors_name_what_is_wrong() -> None:
    vocabulary = Vocabulary("abc")
    with pytest.raises(ValueError, match="unknown symbol 'é' at position 2; known are 'a' 'b' 'c'"):
        vocabulary.encode("abé")
    with pytest.raises(ValueError, match=r"unknown id 6; .* 0 to 5"):
        vocabulary.decode([3, 6])
    with pytest.raises(ValueError, match="unknown id -1"):
        vocabulary.decode([-1])
    with pytest.raises(ValueError, match=r"occur more often: 'a'$"):
        Vocabulary("aba")


@given(sequences)
def test_pad_keeps_every_sequence_and_adds_only_pad(rows: list[list[int]]) -> None:
    ids, lengths = pad(rows)
    assert ids.dtype == lengths.dtype == np.int64
    assert ids.shape == (len(rows), max(map(len, rows), default=0))
    for row, padded, length in zip(rows, ids, lengths, strict=True):
        assert padded[:length].tolist() == row
        assert (padded[length:] == Vocabulary.pad).all()


def test_pad_refuses_what_is_not_integer() -> None:
    with pytest.raises(TypeError, match="float64"):
        pad([[1, 2], [0.5]])                    # type: ignore[list-item]
    with pytest.raises(TypeError, match="encode symbols first"):
        pad(["ab", "c"])                        # type: ignore[list-item]


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


@pytest.mark.parametrize(("shape", "size"), [((), 2), ((2, 2, 2), 2), ((3,), 0)])
def test_batches_refuse_wrong_shapes(shape: tuple[int, ...], size: int) -> None:
    with pytest.raises(ValueError, match=f"got shape .* and size {size}"):
        batches(np.ones(shape, dtype=np.int64), size)
