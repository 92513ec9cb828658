"""How far predicted sequences are from right ones, where each may have several right answers."""

from collections.abc import Hashable, Sequence

__all__ = ["sequence_error_rate", "span_f1", "token_error_rate"]

Tokens = Sequence[Hashable]


def token_error_rate(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """Edits per token of the reference: the phoneme error rate (PER), or a transcript's word error rate.

        rate = Σ_i d(h_i, r_i) / Σ_i |r_i|,    r_i = the reference of item i for which d(h_i, r) is smallest

    where d counts the insertions, deletions and substitutions of single tokens that turn one sequence into
    the other (Levenshtein, 1966). Where references are equally near, r_i is the first of them.

    Args:
        hypotheses: N sequences of tokens (strings, or integer ids).
        references: for each hypothesis a list of one or more right sequences.

    Returns:
        The rate as a fraction, 0 when all is right. It can exceed 1.

    Raises:
        ValueError: N differs, an item has no reference, or all r_i are empty.
        TypeError: one of hypothesis and reference is a string and the other is not.
        ImportError: the rapidfuzz library is not installed.
    """
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise ImportError("token_error_rate needs rapidfuzz; run: pip install 'tinyseq[examples]'") from error
    _check(hypotheses, references)
    edits = tokens = 0
    for hypothesis, right in zip(hypotheses, references, strict=True):
        distances = [Levenshtein.distance(hypothesis, reference) for reference in right]
        edits += min(distances)
        tokens += len(right[distances.index(min(distances))])
    if tokens == 0:
        raise ValueError("the references hold no token at all, so errors per token are not defined")
    return edits / tokens


def sequence_error_rate(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """The share of items that are not wholly right: the word error rate (WER) of pronunciations.

        rate = |{i : h_i equals none of its references}| / N

    Args:
        hypotheses: N sequences of tokens (strings, or integer ids).
        references: for each hypothesis a list of one or more right sequences.

    Returns:
        A fraction from 0 (all right) to 1.

    Raises:
        ValueError: N differs or is 0, or an item has no reference.
        TypeError: one of hypothesis and reference is a string and the other is not.
    """
    _check(hypotheses, references)
    if not hypotheses:
        raise ValueError("there is no hypothesis, so the share of wrong ones is not defined")
    wrong = sum(all(list(hypothesis) != list(reference) for reference in right)
                for hypothesis, right in zip(hypotheses, references, strict=True))
    return wrong / len(hypotheses)


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
    """
    sizes = [len(tags) for tags in hypotheses], [len(tags) for tags in references]
    if sizes[0] != sizes[1]:
        raise ValueError(f"span_f1: expected rows of tags of equal lengths; got {sizes[0]} and {sizes[1]}")
    said, true = _spans(hypotheses), _spans(references)
    if not said | true:
        raise ValueError("span_f1: no tag begins with 'B-', so there is no span and F1 is not defined")
    return 2 * len(said & true) / (len(said) + len(true))


def _spans(rows: Sequence[Sequence[str]]) -> set[tuple[int, int, int, str]]:
    """(row, begin, end, first tag) of each."""
    return {(row, i, next((j for j in range(i + 1, len(tags)) if tags[j] != "I" + tag[1:]), len(tags)), tag)
            for row, tags in enumerate(rows) for i, tag in enumerate(tags) if tag.startswith("B-")}


def _check(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> None:
    if len(hypotheses) != len(references):
        raise ValueError(f"expected a list of references for each hypothesis; "
                         f"got {len(hypotheses)} hypotheses and {len(references)} lists")
    for i, (hypothesis, right) in enumerate(zip(hypotheses, references, strict=True)):
        if not right:
            raise ValueError(f"item {i} has no reference; every hypothesis needs at least one right answer")
        if any(isinstance(reference, str) != isinstance(hypothesis, str) for reference in right):
            raise TypeError(f"item {i}: a hypothesis like {hypothesis!r} needs a list of sequences of "
                            f"the same kind as references; got {right!r}")
