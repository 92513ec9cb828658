"""How far predicted sequences are from right ones, where each may have several right answers.

Tokens are alike if `==` says so: strings, numbers of any type (NumPy's and Tensors of no axis too), or anything else.
Sequences are lists, tuples, strings, arrays or Tensors.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from tinyseq import check
from tinyseq.metrics.metric import Metric, explained, ratio

Tokens = Any  # a sequence of what has ==


class TokenErrorRate(Metric):
    """Edits per token of the reference over many batches, as `token_error_rate` counts them: PER, CER or WER.

    Texts are sequences of characters. For the word error rate they are split, as jiwer does it by itself:

    >>> cer = ts.metrics.TokenErrorRate()
    >>> cer.update(["so it went"], [["so it goes"]])
    >>> cer
    TokenErrorRate 0.4 = edits 4 / tokens 10
    >>> wer = ts.metrics.TokenErrorRate()
    >>> wer.update(["so it goes".split()], [["so it goes".split(), "and so it goes".split()]])
    >>> wer.update(["poo tee weet".split()], [["poo-tee-weet?".split()]])
    >>> wer
    TokenErrorRate 0.75 = edits 3 / tokens 4

    Raises ImportError, in `update`, where the rapidfuzz library is not installed.
    """

    names = ("edits", "tokens")

    @explained
    def update(self, hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> None:
        """Add a batch: N sequences of tokens, and for each one or more right sequences, as `token_error_rate` takes
        them. Raises what that raises, but for no token at all."""
        edits, tokens = _edits(hypotheses, references)
        self.add(edits=edits, tokens=tokens)

    def compute(self) -> float:
        """Edits per token, 0 when all is right. It can exceed 1."""
        return ratio(self, "edits", "tokens")

    def _counted(self) -> str:
        return " = edits {edits:,} / tokens {tokens:,}".format(**self.sums())


class SequenceErrorRate(Metric):
    """The share of items that are not wholly right, over many batches, as `sequence_error_rate` counts them.

    >>> wer = ts.metrics.SequenceErrorRate()
    >>> wer.update(["kat", "dog"], [["cat"], ["dog", "dawg"]])
    >>> wer
    SequenceErrorRate 0.5 = wrong 1 / items 2
    """

    names = ("wrong", "items")

    @explained
    def update(self, hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> None:
        """Add a batch: N sequences of tokens, and for each one or more right sequences, as `sequence_error_rate` takes
        them. Raises what that raises, but for N = 0."""
        wrong = [hypothesis not in right for hypothesis, right in _numbered(hypotheses, references)]
        self.add(wrong=sum(wrong), items=len(wrong))

    def compute(self) -> float:
        """The share, from 0 (all right) to 1."""
        return ratio(self, "wrong", "items")

    def _counted(self) -> str:
        return " = wrong {wrong:,} / items {items:,}".format(**self.sums())


@check.explained
def token_error_rate(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """Edits per token of the reference: the phoneme error rate (PER), or a transcript's word error rate.

        rate = Σ_i d(h_i, r_i) / Σ_i |r_i|,    r_i = the reference of item i for which d(h_i, r) is smallest

    where d counts the insertions, deletions and substitutions of single tokens that turn one sequence into
    the other (Levenshtein, 1966). Where references are equally near, r_i is the first of them.

    Args:
        hypotheses: N sequences of tokens. A text is one of characters; of words it is `text.split()`, on both sides.
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
    edits, tokens = _edits(hypotheses, references)
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


def _edits(hypotheses: Any, references: Any) -> tuple[int, int]:
    """Edits, and tokens of the references that are nearest."""
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise ImportError("token_error_rate needs rapidfuzz; run: pip install 'tinyseq[metrics]'") from error
    edits = tokens = 0
    for hypothesis, right in _numbered(hypotheses, references):
        distances = [Levenshtein.distance(hypothesis, reference) for reference in right]
        edits += min(distances)
        tokens += len(right[distances.index(min(distances))])
    return edits, tokens


def listed(expected: str, values: Any, text: bool = False) -> Any:
    """The list of what is in a sequence or an array, or the string, if it may be `text`."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if not hasattr(values, "__iter__") or (isinstance(values, str) and not text):
        raise TypeError(f"expected {expected}, got {values!r}")
    return values if isinstance(values, str) else [x.tolist() if hasattr(x, "tolist") else x for x in values]


def _numbered(hypotheses: Any, references: Any) -> Iterator[tuple[list[int], list[list[int]]]]:
    """Each hypothesis and its references with numbers as tokens: one number for those that are ==."""
    hypotheses = listed("a list of hypotheses", hypotheses)
    references = listed("a list of references for each hypothesis", references)
    if len(hypotheses) != len(references):
        raise ValueError("expected a list of references for each hypothesis; "
                         f"got {len(hypotheses)} hypotheses and {len(references)} lists")
    for i, (hypothesis, right) in enumerate(zip(hypotheses, references, strict=True)):
        right = listed(f"item {i} as a list of references", right)
        rows = [listed(f"item {i} as a sequence of tokens", row, text=True) for row in (hypothesis, *right)]
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
