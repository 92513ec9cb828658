"""Means, and what is made of them: perplexity, bits per character, accuracy."""

from __future__ import annotations

import math
from typing import Any

from tinyseq import check
from tinyseq.engine.creation import asarray, on_host
from tinyseq.engine.tensor import Array, Like, namespace
from tinyseq.metrics.metric import Metric, explained, ratio
from tinyseq.nn.masks import length_mask


class Mean(Metric):
    """Σ total / Σ count: the mean over all batches, however many each has.

    >>> loss = ts.metrics.Mean()
    >>> loss.update(total=6.0, count=3)             # a loss with reduction="sum", and what it is a sum of
    >>> loss.update(total=[1.0, 0.5, 0.0], count=[True, True, False])       # arrays are summed
    >>> loss
    Mean 1.5 = total 7.5 / count 5
    """

    names = ("total", "count")

    @explained
    def update(self, total: Like, count: Like) -> None:
        """Add a batch.

        Args:
            total: the sum of what is averaged, or an array of any shape that is summed here, in float64.
            count: how many those are: an integer, or an array of integers (lengths) or booleans (a mask), summed here.

        Raises TypeError for what is no such number, ValueError for a negative count.
        """
        self.add(total=_sum("total", total, "biuf"), count=_sum("count", count, "biu"))

    def compute(self) -> float:
        """The mean. NaN and infinity are told as they are: a loss that is not finite has no finite mean."""
        return ratio(self, *self.names)

    def _counted(self) -> str:
        above, below = self.names
        sums = self.sums()
        return f" = {above} {sums[above]:,.6g} / {below} {sums[below]:,}"


class Perplexity(Mean):
    """exp(Σ nll / Σ tokens): of how many tokens, equally likely, a language model chooses one on average.

    >>> logits, targets = ts.zeros((2, 3, 8)), ts.tensor([[1, 2, 3], [4, 0, 0]])        # 0 is padding
    >>> perplexity = ts.metrics.Perplexity()
    >>> nll = F.cross_entropy(logits, targets, ignore_index=0, reduction="sum")
    >>> perplexity.update(nll, targets != 0)
    >>> print(f"{perplexity.compute():.4f}")
    8.0000

    Perplexities compare only over the same tokens: of two vocabularies compare `BitsPerCharacter`.
    """

    names = ("nll", "tokens")

    @explained
    def update(self, nll: Like, tokens: Like) -> None:
        """Add a batch.

        Args:
            nll: the summed negative log likelihood in nats (`reduction="sum"`, not the mean), or an array of it, by
                token and of any shape, that is summed here, in float64.
            tokens: how many were predicted: an integer, or an array of integers (lengths) or booleans (a mask).

        Raises TypeError for what is no such number.
        """
        self.add(nll=_sum("nll", nll, "biuf"), tokens=_sum("tokens", tokens, "biu"))

    def compute(self) -> float:
        """The perplexity, at least 1 of probabilities; infinity where it is past float64."""
        try:
            return math.exp(super().compute())
        except OverflowError:
            return math.inf


class BitsPerCharacter(Mean):
    """Σ nll / (Σ characters · ln 2): what a character costs to be told; of bytes, bits per byte.

    It does not depend on how a text is cut into tokens: nll is summed over tokens, characters are counted in the text.

    >>> bits = ts.metrics.BitsPerCharacter()
    >>> bits.update(nll=8 * np.log(2), characters=len("word"))      # one of 256 tokens, say
    >>> bits
    BitsPerCharacter 2 = nll 5.54518 / characters 4
    """

    names = ("nll", "characters")

    @explained
    def update(self, nll: Like, characters: Like) -> None:
        """Add a batch: its summed negative log likelihood in nats, and how many characters (bytes) its text has.

        Both may be arrays, of any shape, which are summed. Raises TypeError for what is no such number.
        """
        self.add(nll=_sum("nll", nll, "biuf"), characters=_sum("characters", characters, "biu"))

    def compute(self) -> float:
        """Bits per character."""
        return super().compute() / math.log(2)


class Accuracy(Metric):
    """The share of targets that were predicted.

    Args:
        ignore_index: the target that does not count, padding say; or None.

    >>> accuracy = ts.metrics.Accuracy(ignore_index=0)
    >>> logits = ts.one_hot([[1, 2, 3], [4, 3, 0]], 5)
    >>> accuracy.update(logits.argmax(axis=-1), [[1, 2, 1], [4, 0, 0]])
    >>> accuracy
    Accuracy 0.75 = right 3 / total 4
    >>> accuracy.update([[1, 2, 3]], [[1, 1, 1]], lengths=[2])      # its third is not looked at
    >>> accuracy.sums()
    {'right': 4, 'total': 6}
    """

    names = ("right", "total")
    options = ("ignore_index",)

    @check.constructor
    def __init__(self, ignore_index: int | None = None) -> None:
        self.ignore_index = None if ignore_index is None else check.integers("Accuracy", ignore_index=ignore_index)
        super().__init__()

    @explained
    def update(self, predictions: Like, targets: Like, lengths: Like = None) -> None:
        """Add a batch.

        Args:
            predictions: ids (integers or booleans) of any shape; of logits, `logits.argmax(axis=-1)`.
            targets: the right ids, of the same shape.
            lengths: of ids (B, T), how many are real in each row, (B,); or None for all.

        Raises ValueError for other shapes, TypeError for what is no ids.
        """
        said = _kind("predictions", asarray(predictions).data, "biu", "; of logits write logits.argmax(axis=-1)")
        true = _kind("targets", asarray(targets).data, "biu")
        if said.shape != true.shape:
            raise ValueError(f"expected predictions of the shape of targets, {true.shape}, got {said.shape}")
        xp = namespace(true)
        counted = xp.ones(true.shape, dtype=bool) if self.ignore_index is None else true != self.ignore_index
        if lengths is not None:
            if true.ndim != 2:
                raise ValueError(f"expected targets (B, T) where lengths are given, got shape {true.shape}")
            counted = counted & length_mask(lengths, true.shape[1], true.shape[0], "update").data
        self.add(right=xp.sum((said == true) & counted), total=xp.sum(counted))

    def compute(self) -> float:
        """The share, from 0 to 1."""
        return ratio(self, "right", "total")

    def _counted(self) -> str:
        return " = right {right:,} / total {total:,}".format(**self.sums())


def _kind(name: str, data: Array, kinds: str, hint: str = "") -> Array:
    """Refuse an array of other kinds of numbers."""
    if data.size and data.dtype.kind not in kinds:
        wanted = "numbers" if "f" in kinds else "integers or booleans"
        raise TypeError(f"expected {name} as {wanted}, got {check.describe(data)}{hint}")
    return data


def _sum(name: str, values: Any, kinds: str) -> Any:
    """The sum of numbers, where they are; of one alone that number."""
    if isinstance(values, (int, float)):
        return float(values) if "f" in kinds else check.integers("update", 0, **{name: values})
    data = _kind(name, on_host(values), kinds)
    xp = namespace(data)
    return xp.sum(xp.astype(data, "float64" if "f" in kinds else "int64"))
