"""How far predicted sequences are from right ones, where each may have several right answers.

Tokens are alike if `==` says so: strings, numbers of any type (NumPy's and Tensors of no axis too), or anything else.
Sequences are lists, tuples, strings, arrays or Tensors.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from tinyseq import check

__all__ = ["sequence_error_rate", "span_f1", "token_error_rate"]
check.public(__name__)

Tokens = Any  # a sequence of what has ==


@check.explained
def token_error_rate(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """Edits per token of the reference: the phoneme error rate (PER), or a transcript's word error rate.

        rate = Σ_i d(h_i, r_i) / Σ_i |r_i|,    r_i = the reference of item i for which d(h_i, r) is smallest

    where d counts the insertions, deletions and substitutions of single tokens that turn one sequence into
    the other (Levenshtein, 1966). Where references are equally near, r_i is the first of them.

    Args:
        hypotheses: N sequences of tokens.
        references: for each hypothesis one or more right sequences, in a list or as the rows of an array.

    Returns:
        The rate as a fraction, 0 when all is right. It can exceed 1.

    Raises:
        ValueError: N differs, an item has no reference, or all r_i are empty.
        TypeError: no sequences, or one of hypothesis and reference is a string and the other is not.
        ImportError: the rapidfuzz library is not installed.

    >>> ts.metrics.token_error_rate(["kat", "dog"], [["cat"], ["dog", "dawg"]])     # 1 edit, 6 tokens
    0.1666...
    """
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise ImportError("token_error_rate needs rapidfuzz; run: pip install 'tinyseq[metrics]'") from error
    edits = tokens = 0
    for hypothesis, right in _numbered(hypotheses, references):
        distances = [Levenshtein.distance(hypothesis, reference) for reference in right]
        edits += min(distances)
        tokens += len(right[distances.index(min(distances))])
    if tokens == 0:
        raise ValueError("the references hold no token at all, so errors per token are not defined")
    return edits / tokens


@check.explained
def sequence_error_rate(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """The share of items that are not wholly right: the word error rate (WER) of pronunciations.

        rate = |{i : h_i equals none of its references}| / N

    Args:
        hypotheses: N sequences of tokens.
        references: for each hypothesis one or more right sequences, in a list or as the rows of an array.

    Returns:
        A fraction from 0 (all right) to 1.

    Raises:
        ValueError: N differs or is 0, or an item has no reference.
        TypeError: no sequences, or one of hypothesis and reference is a string and the other is not.

    >>> ts.metrics.sequence_error_rate(["kat", "dog"], [["cat"], ["dog", "dawg"]])
    0.5
    """
    wrong = [hypothesis not in right for hypothesis, right in _numbered(hypotheses, references)]
    if not wrong:
        raise ValueError("there is no hypothesis, so the share of wrong ones is not defined")
    return sum(wrong) / len(wrong)


@check.explained
def span_f1(hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> float:
    """F1 of spans in tagged sequences: `B-X` begins a span of kind X, each `I-X` right after it goes on.

        F1 = 2 |said ∩ true| / (|said| + |true|)

    A span is right if its sequence, both ends and kind are. Any other tag is outside, and so is an `I-X` that goes on
    nothing (Ramshaw & Marcus 1995, IOB2).

    Args:
        hypotheses: N sequences of tags.
        references: the right tags of each, as many as the hypothesis has.

    Returns:
        A fraction from 0 to 1 (all right).

    Raises:
        ValueError: lengths differ, or there is no span on either side.
        TypeError: tags that are no text.

    >>> said = [["B-PER", "I-PER", "O", "B-LOC"]]
    >>> true = [["B-PER", "I-PER", "O", "B-ORG"]]
    >>> ts.metrics.span_f1(said, true)                          # one span of two is right
    0.5
    """
    hypotheses, references = ([_listed("a list of tags", tags) for tags in _listed("a list of lists of tags", rows)]
                              for rows in (hypotheses, references))
    if other := [tag for rows in (hypotheses, references) for tags in rows for tag in tags if not isinstance(tag, str)]:
        raise TypeError(f"expected tags as text, like 'B-X', got {other[0]!r}")
    sizes = [len(tags) for tags in hypotheses], [len(tags) for tags in references]
    if sizes[0] != sizes[1]:
        raise ValueError(f"expected rows of tags of equal lengths; got {sizes[0]} and {sizes[1]}")
    said, true = _spans(hypotheses), _spans(references)
    if not said | true:
        raise ValueError("no tag begins with 'B-', so there is no span and F1 is not defined")
    return 2 * len(said & true) / (len(said) + len(true))


def _spans(rows: Sequence[Sequence[str]]) -> set[tuple[int, int, int, str]]:
    """(row, begin, end, first tag) of each."""
    return {(row, i, next((j for j in range(i + 1, len(tags)) if tags[j] != "I" + tag[1:]), len(tags)), tag)
            for row, tags in enumerate(rows) for i, tag in enumerate(tags) if tag.startswith("B-")}


def _listed(expected: str, values: Any, text: bool = False) -> Any:
    """The list of what is in a sequence or an array, or the string, if it may be `text`."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if not hasattr(values, "__iter__") or (isinstance(values, str) and not text):
        raise TypeError(f"expected {expected}, got {values!r}")
    return values if isinstance(values, str) else [x.tolist() if hasattr(x, "tolist") else x for x in values]


def _numbered(hypotheses: Any, references: Any) -> Iterator[tuple[list[int], list[list[int]]]]:
    """Each hypothesis and its references with numbers as tokens: one number for those that are ==."""
    hypotheses = _listed("a list of hypotheses", hypotheses)
    references = _listed("a list of references for each hypothesis", references)
    if len(hypotheses) != len(references):
        raise ValueError("expected a list of references for each hypothesis; "
                         f"got {len(hypotheses)} hypotheses and {len(references)} lists")
    for i, (hypothesis, right) in enumerate(zip(hypotheses, references, strict=True)):
        right = _listed(f"item {i} as a list of references", right)
        rows = [_listed(f"item {i} as a sequence of tokens", row, text=True) for row in (hypothesis, *right)]
        if not right:
            raise ValueError(f"item {i} has no reference; every hypothesis needs at least one right answer")
        if len({isinstance(row, str) for row in rows}) > 1:
            raise TypeError(f"item {i}: a hypothesis like {hypothesis!r} needs a list of its kind, got {right!r}")
        seen: Any = {} if all(type(token) in (str, int, bool) for row in rows for token in row) else _Equals()
        first, *others = ([seen.setdefault(token, len(seen)) for token in row] for row in rows)
        yield first, others


class _Equals(list[Any]):
    """The `setdefault` of a dictionary for keys that have == and perhaps no hash that goes with it."""

    def setdefault(self, key: Any, value: int) -> int:
        self.append(key)  # its number is that of the first that is ==; of NaN, which is not, its own
        return next((n for n, other in enumerate(self[:value]) if other == key), value)
