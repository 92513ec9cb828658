"""BLEU and chrF of translations, by sacrebleu, with its signature beside the score."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from tinyseq import check
from tinyseq.metrics.edits import listed
from tinyseq.metrics.metric import Metric, explained

Texts = Sequence[str]


class _Translation(Metric):
    """What sacrebleu counts in each segment, summed; a score is made of the sums alone."""

    def __init__(self, scorer: str, **options: Any) -> None:
        """The class of sacrebleu by name, and what it takes."""
        try:
            import sacrebleu
        except ImportError as error:
            raise ImportError(f"{type(self).__name__} needs sacrebleu; run: pip install 'tinyseq[bleu]'") from error
        try:
            self._scorer: Any = getattr(sacrebleu, scorer)(**options)
        except KeyError as error:
            raise ValueError(f"{type(self).__name__}: expected tokenize to be one that sacrebleu has, got {error}; "
                             f"its are {', '.join(sacrebleu.BLEU.TOKENIZERS)}") from None
        super().__init__()

    @explained
    def update(self, hypotheses: Texts, references: Sequence[Texts]) -> None:
        """Add a batch.

        Args:
            hypotheses: N texts, not cut into tokens: sacrebleu does that.
            references: for each of them one or more right texts, in a list. (sacrebleu's own lists are the other way
                round: a list of all first references, one of all second ones.)

        Raises ValueError where N differs or a text has no reference, TypeError for what is no text.
        """
        said, right = listed("a list of hypotheses", hypotheses), listed("a list of lists of references", references)
        if len(said) != len(right):
            raise ValueError("expected a list of references for each hypothesis; "
                             f"got {len(said)} hypotheses and {len(right)} lists of references")
        right = [listed(f"references of item {i} as a list of texts", texts) for i, texts in enumerate(right)]
        for i, (hypothesis, texts) in enumerate(zip(said, right, strict=True)):
            if wrong := [text for text in (hypothesis, *texts) if not isinstance(text, str)]:
                raise TypeError(f"expected hypotheses and references as texts, got {wrong[0]!r} in item {i}")
            if not texts:
                raise ValueError(f"item {i} has no reference; every hypothesis needs at least one right text")
        segments = self._scorer._extract_corpus_statistics(said, [*zip_longest(*right)]) if said else []
        counts = [len(texts) for texts in right]
        own = {"segments": len(said), "references": sum(counts), "squares": sum(n * n for n in counts)}
        self.add(**own, **{f"count {i}": sum(column) for i, column in enumerate(zip(*segments, strict=True))})

    def compute(self) -> float:
        """The score of the corpus, from 0 to 100."""
        sums = self.sums()
        if not sums.get("segments"):
            raise ValueError(f"{type(self).__name__}.compute: nothing is counted, so there is no score")
        return float(self._scorer._compute_score_from_stats([sums[name] for name in self.names[3:]]).score)

    def signature(self) -> str:
        """How the score was made, for others to make it so: sacrebleu's signature. It belongs beside every score."""
        segments, references, squares = (self.sums()[name] for name in self.names[:3])
        if not segments:
            raise ValueError(f"{type(self).__name__}.signature: nothing is counted, so the number of references is not "
                             "known")
        alike = references * references == segments * squares  # Cauchy-Schwarz: only if all segments have as many
        self._scorer.num_refs = references // segments if alike else -1
        return str(self._scorer.get_signature())

    def _counted(self) -> str:
        return f" {self.signature()}"


class BLEU(_Translation):
    """BLEU of a corpus (Papineni et al. 2002), as sacrebleu has it (Post 2018): equal to its command line's score.

    Args:
        tokenize: how sacrebleu cuts texts: "13a", "intl", "char", "zh", "flores200", ...
        lowercase: whether case counts for nothing.
        smooth_method: what is done where no n-gram of an order is right: "exp", "floor", "add-k" or "none".
        max_ngram_order: the longest n-grams that are counted.

    >>> bleu = ts.metrics.BLEU()
    >>> bleu.update(["The cat sat on the mat."], [["The cat sat on a mat.", "The cat lay on the mat."]])
    >>> bleu
    BLEU 79.53 nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:...
    >>> bleu.signature()
    'nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:...'

    Raises ImportError where the sacrebleu library is not installed.
    """

    options = ("tokenize", "lowercase", "smooth_method", "max_ngram_order")

    @check.constructor
    def __init__(self, tokenize: str = "13a", lowercase: bool = False, smooth_method: str = "exp",
                 max_ngram_order: int = 4) -> None:
        check.instance("BLEU", str, tokenize=tokenize)
        check.choice("BLEU", (True, False), lowercase=lowercase)
        check.choice("BLEU", ("exp", "floor", "add-k", "none"), smooth_method=smooth_method)
        self.tokenize, self.lowercase, self.smooth_method = tokenize, lowercase, smooth_method
        self.max_ngram_order = check.integers("BLEU", 1, max_ngram_order=max_ngram_order)
        self.names = _names(2 + 2 * self.max_ngram_order)  # lengths of both sides; by order, right and all n-grams
        super().__init__("BLEU", **{name: getattr(self, name) for name in self.options})


class CHRF(_Translation):
    """chrF of a corpus (Popović 2015), the F of n-grams of characters; with word_order=2 chrF++. By sacrebleu.

    Args:
        char_order: the longest n-grams of characters.
        word_order: the longest n-grams of words; 0 for none.
        beta: how many times as much recall counts as precision.
        lowercase: whether case counts for nothing.

    >>> chrf = ts.metrics.CHRF()
    >>> chrf.update(["The cat sat on the mat."], [["The cat sat on a mat."]])
    >>> chrf
    CHRF 71.42 nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:...

    Raises ImportError where the sacrebleu library is not installed.
    """

    options = ("char_order", "word_order", "beta", "lowercase")

    @check.constructor
    def __init__(self, char_order: int = 6, word_order: int = 0, beta: int = 2, lowercase: bool = False) -> None:
        check.choice("CHRF", (True, False), lowercase=lowercase)
        self.char_order, self.beta = check.integers("CHRF", 1, char_order=char_order, beta=beta)
        self.word_order, self.lowercase = check.integers("CHRF", 0, word_order=word_order), lowercase
        self.names = _names(3 * (self.char_order + self.word_order))  # of each order n-grams said, true, right
        super().__init__("CHRF", **{name: getattr(self, name) for name in self.options})


def _names(counts: int) -> tuple[str, ...]:
    """Of what is summed: how many references there are first, then what sacrebleu counts."""
    return ("segments", "references", "squares", *(f"count {i}" for i in range(counts)))
