"""From symbols to batches: vocabularies, padding, and batches of sequences of about the same length.

Everything here is plain Python and NumPy on the host; a batch becomes a tensor where the model takes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import index
from typing import Any, ClassVar, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinyseq import backends, check
from tinyseq.engine import random
from tinyseq.engine.creation import asarray

__all__ = ["Vocabulary", "batches", "pad"]


class Vocabulary:
    """The symbols that sequences are made of, and an integer id for each.

    Ids 0, 1 and 2 are taken by `pad` (fills up a batch), `start` and `end` (of a sequence that a decoder
    writes); the symbols follow from 3 on, in the order given. A model tells `len(vocabulary)` ids apart. `"c" in
    vocabulary` asks for a symbol, and a loop over the vocabulary has the symbols in the order of their ids.

    >>> letters = ts.data.Vocabulary("abc")
    >>> letters.encode("cab")
    [5, 3, 4]
    >>> letters.decode([letters.start, 5, 3, 4, letters.end, 3])
    ['c', 'a', 'b']

    Args:
        symbols: strings (a string gives its characters), each once. `vocabulary.symbols` gives them back.

    Raises:
        ValueError: a symbol occurs twice.
        TypeError: a symbol that is no string.
    """

    pad: ClassVar[int] = 0
    start: ClassVar[int] = 1
    end: ClassVar[int] = 2

    def __init__(self, symbols: Iterable[str]) -> None:
        self.symbols = _items("Vocabulary: expected symbols", symbols)
        if other := [symbol for symbol in self.symbols if not isinstance(symbol, str)]:
            raise TypeError(f"Vocabulary: expected symbols that are strings, got {other[0]!r}")
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols, start=3)}
        if len(self._ids) != len(self.symbols):
            twice = sorted({symbol for symbol in self.symbols if self.symbols.count(symbol) > 1})
            raise ValueError(f"Vocabulary: expected symbols that occur once each, got {check.describe(symbols)}, where "
                             f"these occur more often: {_some(twice)}")

    def __len__(self) -> int:
        return 3 + len(self.symbols)

    def __iter__(self) -> Iterator[str]:
        return iter(self.symbols)

    def __contains__(self, symbol: object) -> bool:
        return isinstance(symbol, str) and symbol in self._ids

    def __repr__(self) -> str:
        return f"Vocabulary of {len(self.symbols)} symbols: {_some(self.symbols)}"

    def encode(self, sequence: Iterable[str]) -> list[int]:
        """The id of each symbol. `start` and `end` are not added: write `[v.start, *v.encode(s), v.end]`.

        Raises:
            ValueError: a symbol that the vocabulary does not have.

        >>> letters = ts.data.Vocabulary("abc")
        >>> letters.encode("cab")
        [5, 3, 4]
        >>> letters.encode("cat")
        Traceback (most recent call last):
        ValueError: Vocabulary.encode: unknown symbol 't' at position 2; known are 'a' 'b' 'c'
        """
        symbols = _items("Vocabulary.encode: expected a sequence of symbols", sequence)
        try:
            return [self._ids[symbol] for symbol in symbols]
        except (KeyError, TypeError):
            at, symbol = next((i, symbol) for i, symbol in enumerate(symbols) if symbol not in self.symbols)
            raise ValueError(f"Vocabulary.encode: unknown symbol {symbol!r} at position {at}; known are "
                             f"{_some(self.symbols)}") from None

    def decode(self, ids: Iterable[SupportsIndex]) -> list[str]:
        """The symbols that ids stand for, up to the first `end`; `pad` and `start` stand for none.

        Raises:
            ValueError: an id that is negative or not below `len(self)`.
            TypeError: an id that is no integer.

        >>> letters = ts.data.Vocabulary("abc")
        >>> letters.decode([letters.start, 5, 3, 4, letters.end, 3])
        ['c', 'a', 'b']
        """
        symbols = []
        for given in _items("Vocabulary.decode: expected a sequence of ids", ids):
            i = given if type(given) is int else check.integers("Vocabulary.decode", id=given)
            if i == self.end:
                break
            if not 0 <= i < len(self):
                raise ValueError(f"Vocabulary.decode: unknown id {i}; the ids are 0 to {len(self) - 1}")
            if i > self.end:
                symbols.append(self.symbols[i - 3])
        return symbols


check.public(__name__, Vocabulary)


def _some(symbols: Sequence[str]) -> str:
    return " ".join(map(repr, symbols[:40])) + (" …" if len(symbols) > 40 else "")


@check.explained
def pad(sequences: Sequence[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """One array of sequences of different lengths, filled up with `Vocabulary.pad`, 0, at the end.

    Args:
        sequences: B sequences (lists, arrays or Tensors), of integers (T,), or of frames, floats (T, F). One without
            anything in it, `[]`, has length 0.

    Returns:
        ids (B, T), int64, or frames (B, T, F) of their own dtype (float32 where they are lists); and lengths
            (B,), int64. T is the length of the longest sequence.

    Raises:
        TypeError: something other than integers or frames of floats in a sequence, or no sequences.
        ValueError: an integer that int64 does not have, frames of another width than the others.

    >>> ids, lengths = ts.data.pad([[5, 3, 4], [4]])
    >>> ids
    array([[5, 3, 4],
           [4, 0, 0]])
    >>> lengths
    array([3, 1])
    >>> frames, lengths = ts.data.pad([np.ones((4, 80), "f"), np.ones((2, 80), "f")])
    >>> frames.shape
    (2, 4, 80)
    """
    given = list(sequences) if getattr(sequences, "ndim", 0) > 1 else _items("expected sequences", sequences)
    rows = [row if hasattr(row, "ndim") else _items("expected sequences of integers", row) for row in given]
    arrays = _frames(rows) if any(map(_deep, rows)) else [_ids(_items("expected integers", row)) for row in rows]
    lengths = np.array([len(x) for x in arrays], dtype=np.int64)
    kind = np.result_type(*arrays) if arrays else np.int64
    padded = np.full((len(arrays), lengths.max(initial=0), *(arrays[0].shape[1:] if arrays else ())),
                     Vocabulary.pad, kind)
    if arrays:
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(arrays)
    return padded, lengths


def _deep(row: Any) -> bool:
    """Whether a sequence is one of sequences."""
    return row.ndim > 1 if hasattr(row, "ndim") else any(isinstance(x, (list, tuple)) or getattr(x, "ndim", 0)
                                                         for x in row[:1])


def _frames(rows: list[Any]) -> list[NDArray[Any]]:
    """Sequences of floats (T, F) on the host, of one width; that of an empty list too."""
    with backends.use_backend("numpy"):
        arrays: list[NDArray[Any]] = [asarray(row).numpy() for row in rows]
    first = next(i for i, row in enumerate(rows) if _deep(row))
    empty = arrays[first][:0]
    for i, x in enumerate(arrays):
        if x.shape == (0,):
            arrays[i] = empty
        elif x.ndim != 2 or x.dtype.kind != "f":
            raise TypeError("expected sequences of integers (T,), or all of frames, floats (T, F), got "
                            f"{check.describe(x)} in row {i}")
        elif x.shape[1] != empty.shape[1]:
            raise ValueError(f"expected frames of one width, got {empty.shape[1]} numbers in row {first}, "
                             f"{x.shape[1]} in row {i}")
    return arrays


def _ids(row: list[Any]) -> NDArray[np.int64]:
    if other := [x for x in row if isinstance(x, bool) or not hasattr(x, "__index__")]:
        raise TypeError(f"expected sequences of integers, got {other[0]!r} in one; encode symbols first, and "
                        "give floats as frames, (T, 1)")
    try:
        return np.array(list(map(index, row)), np.int64)
    except OverflowError:
        raise ValueError(f"expected integers that int64 has, got {max(map(index, row), key=abs)}") from None


def _items(expected: str, values: Any) -> list[Any]:
    """What is in an iterable, or in an array of any library."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if not hasattr(values, "__iter__"):
        raise TypeError(f"{expected}, got {values!r}")
    return list(values)


@check.explained
def batches(lengths: ArrayLike, size: int, seed: int | Sequence[int] | None = None, *,
            generator: random.Generator | None = None) -> list[NDArray[np.int64]]:
    """Split N sequences into batches of like length, so that little padding is computed.

    With a seed, sequences of one length are mixed and the batches come in random order; pass `(seed, epoch)`
    for another order in every epoch. Without, batches run from short to long: for evaluation.

    Args:
        lengths: (N,) integers, or (N, K) for sequences in K parts, say source and target: by the first part,
            those that tie by the second, and so on.
        size: sequences in a batch; the batch of the longest may have fewer.
        seed: non-negative integers. The same seed gives the same batches, on every machine.
        generator: in place of a seed, a `tinyseq.random.Generator`, which gives another order at every call.

    Returns:
        int64 arrays of row numbers; every number from 0 to N-1 occurs once.

    Raises:
        ValueError: lengths of another shape or below 0, or a size below 1.
        TypeError: lengths or a size that are no integers.

    >>> ts.data.batches([9, 2, 8, 1, 2], size=2)                # no seed: from short to long
    [array([3, 1]), array([4, 2]), array([0])]
    """
    size = check.integers("batches", 1, size=size)
    rows = lengths if isinstance(lengths, np.ndarray) else _items("expected lengths (N,) or (N, K)", lengths)
    keys = np.asarray(rows)
    if keys.ndim not in (1, 2) or 0 in keys.shape[1:]:
        raise ValueError(f"expected lengths of shape (N,) or (N, K), got {keys.shape}")
    if keys.size and keys.dtype.kind not in "iu":
        raise TypeError(f"expected lengths as integers, got {keys.dtype}")
    if keys.min(initial=0) < 0:
        raise ValueError(f"expected lengths from 0 on, got {keys.min()}")
    columns = np.atleast_2d(keys.T)                     # (K, N)
    if seed is not None and generator is not None:
        raise ValueError(f"expected seed or generator, not both: got {seed!r} and a generator")
    rng = np.random.default_rng(seed) if generator is None else random.host_generator(generator)
    mixed = seed is not None or generator is not None
    order = rng.permutation(len(keys)) if mixed else np.arange(len(keys))
    order = order[np.lexsort(columns[::-1, order])]     # a stable sort whose last key counts most
    groups = [order[i : i + size] for i in range(0, len(order), size)]
    return [groups[i] for i in rng.permutation(len(groups))] if mixed else groups
