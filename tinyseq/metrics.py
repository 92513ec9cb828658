"""How far predicted sequences are from right ones, where each may have several right answers."""

from collections.abc import Hashable, Sequence

__all__ = ["sequence_error_rate", "token_error_rate"]

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
