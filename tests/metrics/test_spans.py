"""F1 of spans, against a reading from the left."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyseq.metrics import SpanF1, span_f1

tags = st.sampled_from(["O", "NOUN", "B-X", "I-X", "B-Y", "I-Y"])


def spans(row: list[str]) -> list[tuple[str, int, int]]:
    """By reading from the left, one tag at a time."""
    found: list[tuple[str, int, int]] = []
    for i, tag in enumerate(row):
        if tag.startswith("B-"):
            found.append((tag[2:], i, i + 1))
        elif tag.startswith("I-") and found and found[-1][0] == tag[2:] and found[-1][2] == i:
            found[-1] = (tag[2:], found[-1][1], i + 1)
    return found


@given(st.lists(st.lists(st.tuples(tags, tags), max_size=6), max_size=4))
def test_span_f1_is_its_formula(rows: list[list[tuple[str, str]]]) -> None:
    said, true = ([[pair[side] for pair in row] for row in rows] for side in (0, 1))
    right = sum(len(set(spans(a)) & set(spans(b))) for a, b in zip(said, true, strict=True))
    total = sum(len(spans(row)) for row in said + true)
    if not total:
        with pytest.raises(ValueError, match="no span"):
            span_f1(said, true)
        return
    assert span_f1(said, true) == span_f1(true, said) == 2 * right / total
    assert span_f1(said + said, true + true) == span_f1(said, true)


def test_span_f1_by_hand() -> None:
    true = [["B-X", "I-X", "O", "B-Y"], ["B-X"]]
    assert span_f1(true, true) == 1
    assert span_f1([["B-X", "I-X", "O", "B-X"], ["O"]], true) == 2 * 1 / (2 + 3)    # a wrong kind, one not seen
    assert span_f1([["B-X", "B-X", "O", "B-Y"], ["I-X"]], true) == 2 * 1 / (3 + 3)  # wrong ends, an I- that begins
    assert span_f1([["B-X", "I-X", "I-X", "I-Y"], ["B-X"]], true) == 2 * 1 / (2 + 3)
    assert span_f1(np.array(true[:1]), np.array(true[:1], object)) == 1
    with pytest.raises(ValueError, match=r"got \[2\] and \[1\]"):
        span_f1([["O", "O"]], [["O"]])
    for wrong in ([[1, 2]], [[b"B-X"]], [3], ["B-X"], None, "B-X", [None]):
        with pytest.raises(TypeError, match=r"^span_f1\(.*\): expected (tags as text|a list of).*, got"):
            span_f1(wrong, [["B-X", "O"]])    # type: ignore[arg-type]


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")                       # of shares of nothing
@given(st.lists(st.lists(st.tuples(*[st.sampled_from(["O", "B-X", "I-X", "B-Y", "I-Y"])] * 2), min_size=1, max_size=6),
                min_size=1, max_size=4))
def test_all_is_seqevals_micro_average_of_the_strict_mode(rows: list[list[tuple[str, str]]]) -> None:
    seqeval = pytest.importorskip("seqeval.metrics", reason="seqeval is not installed ('tinyseq[reference]')")
    from seqeval.scheme import IOB2
    said, true = ([[pair[side] for pair in row] for row in rows] for side in (0, 1))
    metric = SpanF1()
    metric.update(said, true)
    expected = seqeval.f1_score(true, said, mode="strict", scheme=IOB2, zero_division=0)
    if any(tag.startswith("B-") for row in said + true for tag in row):
        assert metric.compute() == pytest.approx(expected, rel=1e-12)


@given(st.lists(st.lists(st.tuples(tags, tags), min_size=1, max_size=6), max_size=4))
def test_by_kind_precision_and_recall_are_those_of_the_spans(rows: list[list[tuple[str, str]]]) -> None:
    said, true = ([[pair[side] for pair in row] for row in rows] for side in (0, 1))
    metric = SpanF1()
    for a, b in zip(said, true, strict=True):
        metric.update([a], [b])
    ours, theirs = ([{(i, *span) for span in spans(row)} for i, row in enumerate(side)] for side in (said, true))
    found, right = set().union(*ours), set().union(*theirs)
    kinds = sorted({kind for _, kind, *_ in found | right})
    assert [*metric.by_kind()] == kinds
    for kind in kinds:
        a, b = ({span for span in side if span[1] == kind} for side in (found, right))
        assert metric.by_kind()[kind] == 2 * len(a & b) / (len(a) + len(b))
    for share, of in ((metric.precision, found), (metric.recall, right)):
        if of:
            assert share() == len(found & right) / len(of)
        else:
            with pytest.raises(ValueError, match="no span is"):
                share()
