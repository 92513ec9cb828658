"""F1 of spans in tagged sequences: names of people, places."""

from collections import Counter
from collections.abc import Sequence

from tinyseq import check
from tinyseq.metrics.edits import listed
from tinyseq.metrics.metric import Metric, explained

Tags = Sequence[Sequence[str]]
Span = tuple[int, int, int, str]  # row, begin, end, first tag


class SpanF1(Metric):
    """F1 of spans over many batches, as `span_f1` finds them, of all and by kind.

    It is seqeval's micro average in the mode "strict" with the scheme IOB2; without that mode seqeval begins a span at
    an `I-X` that goes on nothing too.

    >>> f1 = ts.metrics.SpanF1()
    >>> f1.update([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "O", "B-ORG"]])
    >>> f1
    SpanF1 0.5 = 2 · right 1 / (said 2 + true 2)
    >>> f1.precision(), f1.recall()
    (0.5, 0.5)
    >>> f1.by_kind()
    {'LOC': 0.0, 'ORG': 0.0, 'PER': 1.0}
    """

    @explained
    def update(self, hypotheses: Tags, references: Tags) -> None:
        """Add a batch: N sequences of tags and the right ones of each, as `span_f1` takes them. Raises what that
        raises, but for no span at all."""
        said, true = _both(hypotheses, references)
        found = {"said": said, "true": true, "right": said & true}
        self.add(**Counter(f"{name} {span[-1][2:]}" for name, spans in found.items() for span in spans))

    def compute(self) -> float:
        """F1 of the spans of all kinds together, from 0 to 1."""
        return self._f1(None)

    def precision(self) -> float:
        """The share of the spans that were said that are right; of none it is a ValueError."""
        return self._share("said")

    def recall(self) -> float:
        """The share of the true spans that were said; of none it is a ValueError."""
        return self._share("true")

    def by_kind(self) -> dict[str, float]:
        """F1 of the spans of each kind that was said or is true, in alphabetical order."""
        return {kind: self._f1(kind) for kind in sorted({name.partition(" ")[2] for name in self.sums()})}

    def _f1(self, kind: str | None) -> float:
        said, true, right = (self._count(name, kind) for name in ("said", "true", "right"))
        if not said + true:
            raise ValueError("SpanF1.compute: nothing is counted: no tag begins with 'B-', so F1 is not defined")
        return 2 * right / (said + true)

    def _share(self, of: str) -> float:
        if not self._count(of):
            raise ValueError(f"SpanF1: no span is {of}, so the share of right ones is not defined")
        return self._count("right") / self._count(of)

    def _count(self, name: str, kind: str | None = None) -> int | float:
        return sum(n for key, n in self.sums().items()
                   if key.partition(" ")[0] == name and kind in (None, key.partition(" ")[2]))

    def _counted(self) -> str:
        return " = 2 · right {:,} / (said {:,} + true {:,})".format(*map(self._count, ("right", "said", "true")))


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
    said, true = _both(hypotheses, references)
    if not said | true:
        raise ValueError("no tag begins with 'B-', so there is no span and F1 is not defined")
    return 2 * len(said & true) / (len(said) + len(true))


def _both(hypotheses: Tags, references: Tags) -> tuple[set[Span], set[Span]]:
    """The spans of tags that are as many on both sides."""
    hypotheses, references = ([listed("a list of tags", tags) for tags in listed("a list of lists of tags", rows)]
                              for rows in (hypotheses, references))
    if other := [tag for rows in (hypotheses, references) for tags in rows for tag in tags if not isinstance(tag, str)]:
        raise TypeError(f"expected tags as text, like 'B-X', got {other[0]!r}")
    sizes = [len(tags) for tags in hypotheses], [len(tags) for tags in references]
    if sizes[0] != sizes[1]:
        raise ValueError(f"expected rows of tags of equal lengths; got {sizes[0]} and {sizes[1]}")
    return _spans(hypotheses), _spans(references)


def _spans(rows: Sequence[Sequence[str]]) -> set[Span]:
    """(row, begin, end, first tag) of each."""
    return {(row, i, next((j for j in range(i + 1, len(tags)) if tags[j] != "I" + tag[1:]), len(tags)), tag)
            for row, tags in enumerate(rows) for i, tag in enumerate(tags) if tag.startswith("B-")}
