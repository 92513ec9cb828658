"""Error rates against a plain dynamic programme, and the laws of a distance."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq.metrics import SequenceErrorRate, TokenErrorRate, sequence_error_rate, token_error_rate

pytest.importorskip("rapidfuzz", reason="rapidfuzz is not installed (pip install 'tinyseq[examples]')")

tokens = st.sampled_from(["K", "AE", "T", "S", "AH"]) | st.integers(0, 3)
sequence = st.lists(tokens, max_size=6)
item = st.tuples(sequence, st.lists(sequence, min_size=1, max_size=3))
items = st.lists(item, min_size=1, max_size=6)
Item = tuple[list[str | int], list[list[str | int]]]


def distance(a: Sequence[object], b: Sequence[object]) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0]))


@given(st.lists(st.tuples(*[st.text("ab c", min_size=1).filter(str.strip)] * 2), min_size=1, max_size=4))
def test_of_texts_it_is_that_of_characters_and_of_split_ones_that_of_words(pairs: list[tuple[str, str]]) -> None:
    jiwer = pytest.importorskip("jiwer", reason="jiwer is not installed (pip install 'tinyseq[test]')")
    pairs = [(" ".join(said.split()), " ".join(right.split())) for said, right in pairs]
    texts, right = zip(*pairs, strict=True)
    assert token_error_rate(texts, [[text] for text in right]) == jiwer.cer([*right], [*texts])
    words, right_words = [text.split() for text in texts], [[text.split()] for text in right]
    assert token_error_rate(words, right_words) == jiwer.wer([*right], [*texts])


@given(items)
def test_token_error_rate_is_its_formula(pairs: list[Item]) -> None:
    hypotheses, references = [h for h, _ in pairs], [r for _, r in pairs]
    best = [min(right, key=lambda r, h=h: distance(h, r)) for h, right in pairs]     # min gives the first
    if sum(map(len, best)) == 0:
        with pytest.raises(ValueError, match="no token at all"):
            token_error_rate(hypotheses, references)
    else:
        edits = sum(distance(h, r) for h, r in zip(hypotheses, best, strict=True))
        assert token_error_rate(hypotheses, references) == edits / sum(map(len, best))


@given(items)
def test_sequence_error_rate_is_its_formula(pairs: list[Item]) -> None:
    hypotheses, references = [h for h, _ in pairs], [r for _, r in pairs]
    wrong = sum(h not in right for h, right in pairs)
    assert sequence_error_rate(hypotheses, references) == wrong / len(pairs)


class Odd:
    """Equal where their numbers are, as its hash is not."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return self.number == other

    __hash__ = object.__hash__


KINDS: dict[str, Callable[[int], Any]] = {  # the same numbers as tokens of many kinds, which are ==
    "int": int, "float": float, "bool or int": lambda n: bool(n) if n < 2 else n, "Decimal": Decimal, "int8": np.int8,
    "float16": np.float16, "an array": np.array, "Tensor": ts.tensor, "another hash": Odd}


@given(items, st.data())
def test_tokens_are_what_they_equal(pairs: list[Item], data: st.DataObject) -> None:
    """Not what they hash to: 97 is no "a"; nor where they stand."""
    def number(token: Any) -> int:
        return ["K", "AE", "T", "S", "AH"].index(token) + 90 if isinstance(token, str) else token

    def kind(sequence: Any, numbers: bool = True) -> Any:
        values = [number(t) for t in sequence]
        whole = data.draw(st.sampled_from(["array", "Tensor", "uint8", "tokens"]))
        if whole == "tokens":
            return [KINDS[data.draw(st.sampled_from(sorted(KINDS)))](n) for n in values]
        return ts.tensor(values) if whole == "Tensor" else np.array(values, "uint8" if whole == "uint8" else "int64")

    plain = [[number(t) for t in h] for h, _ in pairs], [[[number(t) for t in r] for r in right] for _, right in pairs]
    other = [kind(h) for h, _ in pairs], [[kind(r) for r in right] for _, right in pairs]
    assert sequence_error_rate(*other) == sequence_error_rate(*plain)
    if any(any(right) for right in plain[1]):
        try:
            expected = token_error_rate(*plain)
        except ValueError:
            return
        assert token_error_rate(*other) == expected


@pytest.mark.parametrize("rate", [token_error_rate, sequence_error_rate])
def test_neither_hashes_nor_containers_are_tokens(rate: Callable[..., float]) -> None:
    for hypotheses, references in (([[97]], [[["a"]]]), ([["1"]], [[[1]]]), ([[-1]], [[[-2]]]), ([[b"a"]], [[["a"]]]),
                                   ([[float("nan")]], [[[float("nan")]]]), ([[[1]]], [[[1]]])):
        assert rate(hypotheses, references) == 1, (hypotheses, references)
    rows = np.array([[1, 2, 3], [4, 5, 6]])
    for hypotheses, references in (([ts.tensor([1, 2, 3])], [[[1, 2, 3]]]), (rows, rows[:, None]), (
            ts.tensor(rows), [rows[:1], rows[1:]]), (rows, ts.tensor(rows[:, None])), ([[[1], {2}]], [[[[1], {2}]]]),
            (["ab"], [np.array(["ab"])]), ([np.array(["a", "b"])], [[["a", "b"]]]), ([[2**70]], [[[2.0**70]]])):
        assert rate(hypotheses, references) == 0, (hypotheses, references)


@given(items)
def test_a_right_answer_costs_nothing_and_order_does_not_matter(pairs: list[Item]) -> None:
    references = [[*right, ["K"]] for _, right in pairs]
    assert token_error_rate([right[-1] for right in references], references) == 0
    assert sequence_error_rate([right[-1] for right in references], references) == 0
    hypotheses = [h for h, _ in pairs]
    rate = sequence_error_rate(hypotheses, references)
    assert sequence_error_rate(hypotheses[::-1], references[::-1]) == rate


def test_an_example_by_hand() -> None:
    cat, cuts = ["K", "AE", "T"], ["K", "AH", "T", "S"]
    tomato, tomahto = ["T", "AH", "M", "EY", "T", "OW"], ["T", "AH", "M", "AA", "T", "OW"]
    assert token_error_rate([tomato, cat], [[tomahto, tomato], [cuts]]) == 2 / (6 + 4)
    assert sequence_error_rate([tomato, cat], [[tomahto, tomato], [cuts]]) == 1 / 2
    assert token_error_rate(["kitten"], [["sitting"]]) == 3 / 7


@pytest.mark.parametrize("rate", [token_error_rate, sequence_error_rate])
def test_errors_name_what_is_wrong(rate: object) -> None:
    assert callable(rate)
    with pytest.raises(ValueError, match="2 hypotheses and 1 lists"):
        rate([["K"], ["T"]], [[["K"]]])
    with pytest.raises(ValueError, match="item 1 has no reference"):
        rate([["K"], ["T"]], [[["K"]], []])
    with pytest.raises(TypeError, match="item 0: a hypothesis like"):
        rate([["K", "AE"]], [["K", "AE"]])      # the list of references forgotten
    for wrong, message in (((["ab"], ["ab"]), "expected item 0 as a list of references, got 'ab'"),
                           (([[1, 2]], [[1, 2]]), "expected item 0 as a sequence of tokens, got 1"),
                           (([[1, 2]], [np.array([1, 2])]), "expected item 0 as a sequence of tokens, got 1"),
                           ((None, []), "expected a list of hypotheses, got None"), (("ab", ["a", "b"]), "got 'ab'"),
                           (([1], [[[1]]]), "as a sequence of tokens, got 1"),
                           (([[1]], 3), "expected a list of references for each hypothesis, got 3")):
        with pytest.raises(TypeError, match=rf"^{rate.__name__}\(.*\): .*{message}"):
            rate(*wrong)
    with pytest.raises(ValueError, match=rf"^{rate.__name__}\(.*\): .*not defined"):
        rate([], [])


@given(st.lists(st.tuples(st.lists(st.sampled_from(["so", "it", "goes", "."]), max_size=6),
                          st.lists(st.sampled_from(["so", "it", "goes", "."]), min_size=1, max_size=6)), min_size=1))
def test_word_errors_are_jiwers(pairs: list[tuple[list[str], list[str]]]) -> None:
    jiwer = pytest.importorskip("jiwer", reason="jiwer is not installed (pip install 'tinyseq[test]')")
    said, true = [h for h, _ in pairs], [r for _, r in pairs]
    metric = TokenErrorRate()
    for h, r in pairs:
        metric.update([h], [[r]])
    expected = jiwer.wer([" ".join(r) for r in true], [" ".join(h) for h in said])
    assert metric.compute() == pytest.approx(expected, rel=1e-14)
    letters = jiwer.cer(["".join(r) for r in true], ["".join(h) for h in said])
    assert token_error_rate(["".join(h) for h in said], [["".join(r)] for r in true]) == pytest.approx(letters)


@given(items)
def test_what_batches_count_is_what_the_functions_say(pairs: list[Item]) -> None:
    for metric, function in ((TokenErrorRate(), token_error_rate), (SequenceErrorRate(), sequence_error_rate)):
        for h, right in pairs:
            metric.update([h], [right])
        try:
            expected = function([h for h, _ in pairs], [r for _, r in pairs])
        except ValueError:
            continue
        assert metric.compute() == expected
