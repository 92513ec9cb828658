"""Vocabularies give back what they were given, and count what is there."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import checkpoint
from tinyseq.data import Vocabulary

symbols = st.lists(st.text(max_size=3), unique=True, max_size=20)
texts = st.lists(st.text("abcdé", max_size=9), max_size=9)


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
    with pytest.raises(ValueError, match=r"occur more often: 'a' 'b'$"):
        Vocabulary("bcabab")
    for call, message in ((lambda: Vocabulary([1, 2]), "Vocabulary: expected symbols that are strings, got 1"),
                          (lambda: Vocabulary(5), "Vocabulary: expected symbols, got 5"),
                          (lambda: vocabulary.encode(5), "Vocabulary.encode: expected a sequence of symbols, got 5"),
                          *((lambda ids=ids: vocabulary.decode(ids), "Vocabulary.decode: expected an integer id, got")
                            for ids in ([2.7], np.array([3.0]), "3", [None], [True], [np.True_])),
                          (lambda: vocabulary.decode(3), "Vocabulary.decode: expected a sequence of ids, got 3")):
        with pytest.raises(TypeError, match=message):
            call()
    for symbol in (["a"], 1, None):
        with pytest.raises(ValueError, match=r"Vocabulary.encode: unknown symbol .* at position 1"):
            vocabulary.encode(["a", symbol])    # type: ignore[list-item]
    assert vocabulary.decode(ts.tensor([3, 4])) == vocabulary.decode(np.array([3, 4], np.uint8)) == ["a", "b"]
    assert vocabulary.encode(np.array(["c", "a"])) == [5, 3]


@given(symbols)
def test_a_vocabulary_has_its_symbols_in_order(known: list[str]) -> None:
    vocabulary = Vocabulary(known)
    assert list(vocabulary) == known == [symbol for symbol in vocabulary if symbol in vocabulary]
    assert [vocabulary.encode([symbol]) for symbol in vocabulary] == [[i] for i in range(3, len(vocabulary))]
    assert "a word that is not there" not in vocabulary and 3 not in vocabulary and ["a"] not in vocabulary


@given(symbols, st.text(max_size=3), st.lists(st.text(max_size=3), max_size=9))
def test_an_unknown_symbol_stands_for_all_that_are_not_there(known: list[str], unknown: str, text: list[str]) -> None:
    vocabulary = Vocabulary(known, unknown=unknown)
    assert vocabulary.symbols == (known if unknown in known else [unknown, *known])
    assert vocabulary.unknown == vocabulary.encode([unknown])[0]
    assert vocabulary.decode(vocabulary.encode(text)) == [s if s in vocabulary else unknown for s in text]
    with pytest.raises(ValueError, match="unknown symbol 5 at position 0"):
        vocabulary.encode([5])  # type: ignore[list-item]
    assert Vocabulary(known).unknown is None


@given(texts, st.integers(1, 5), st.none() | st.integers(4, 9), st.none() | st.sampled_from(["<unk>", "a"]))
def test_a_vocabulary_of_counts(lines: list[str], minimum: int, size: int | None, unknown: str | None) -> None:
    """The most frequent first, those of one count by code points: whatever the order of the lines."""
    counts = Counter("".join(lines))
    found = Vocabulary.count(lines, minimum=minimum, size=size, unknown=unknown)
    kept = [symbol for symbol in found if symbol != unknown]
    assert kept == sorted(kept, key=lambda s: (-counts[s], s)) and all(counts[s] >= minimum for s in kept)
    left = [n for s, n in counts.items() if s not in kept and s != unknown and n >= minimum]
    assert len(found) <= (size or 99)
    assert not left or (len(found) == size and max(left) <= min([counts[s] for s in kept], default=99))
    assert found.unknown == (3 if unknown else None)
    assert Vocabulary.count(lines[::-1], minimum=minimum, size=size, unknown=unknown).symbols == found.symbols


@given(symbols, st.none() | st.text(max_size=3))
def test_a_vocabulary_comes_back_from_a_file_and_from_a_checkpoint(folder: Path, known: list[str],
                                                                   unknown: str | None) -> None:
    vocabulary, other = Vocabulary(known, unknown=unknown), Vocabulary("xyz", unknown="x")
    vocabulary.save(folder / "vocabulary.safetensors")
    checkpoint.save(folder / "run.safetensors", {"vocabulary": vocabulary.state_dict()})
    other.load_state_dict(checkpoint.load(folder / "run.safetensors")["vocabulary"])
    for again in (other, Vocabulary.load(folder / "vocabulary.safetensors")):
        assert (again.symbols, again.unknown) == (vocabulary.symbols, vocabulary.unknown)
        assert again.encode(known) == vocabulary.encode(known)


def test_a_vocabulary_refuses_what_is_none(tmp_path: Path) -> None:
    vocabulary = Vocabulary("ab")
    states: list[dict[str, Any]] = [{}, {"symbols": ["a"]}, ts.data.items("ab").state_dict(),
                                    vocabulary.state_dict() | {"symbols": None},
                                    vocabulary.state_dict() | {"symbols": ["a", "a"]}]
    for state in states:
        with pytest.raises(ValueError, match="Vocabulary"):
            vocabulary.load_state_dict(state)
        assert vocabulary.symbols == ["a", "b"]
    checkpoint.save(tmp_path / "other.safetensors", {"weight": np.ones(2)})
    with pytest.raises(ValueError, match=r"Vocabulary.load_state_dict: expected what .* a dictionary of 'weight'"):
        Vocabulary.load(tmp_path / "other.safetensors")
    for call in (lambda: Vocabulary.count([[1]]), lambda: Vocabulary.count([1]), lambda: Vocabulary.count(1),
                 lambda: vocabulary.load_state_dict(3), lambda: Vocabulary("a", unknown=3)):
        with pytest.raises(TypeError, match=r"^Vocabulary"):
            call()  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match=r"expected an integer 4 <= size, got 3"):
        Vocabulary.count(["a"], size=3, unknown="?")


def test_a_symbol_that_occurs_twice_is_told_without_counting_each_anew() -> None:
    class Counted(list[str]):
        def count(self, value: object) -> int:
            raise AssertionError("a look through all symbols for each of them")

    symbols = [*map(str, range(1000)), "7"]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError, match=r"occur more often: '7'$"):
        patch.setattr("tinyseq.data.vocabulary.as_list", lambda _, values: Counted(values))
        Vocabulary(symbols)
