"""Vocabularies: the symbols of sequences and their ids."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, SupportsIndex

from tinyseq import check
from tinyseq.data import given
from tinyseq.data.given import as_list, some


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
        unknown: the symbol for all that are not there, such as "<unk>": one of `symbols`, or else put before them, as
            id 3. `vocabulary.unknown` is its id, or None.

    Raises:
        ValueError: a symbol occurs twice.
        TypeError: a symbol that is no string.
    """

    pad: ClassVar[int] = 0
    start: ClassVar[int] = 1
    end: ClassVar[int] = 2

    def __init__(self, symbols: Iterable[str], *, unknown: str | None = None) -> None:
        self.symbols = as_list("Vocabulary: expected symbols", symbols)
        if unknown is not None:
            check.instance("Vocabulary", str, unknown=unknown)
        if unknown is not None and unknown not in self.symbols:
            self.symbols.insert(0, unknown)
        if other := [symbol for symbol in self.symbols if not isinstance(symbol, str)]:
            raise TypeError(f"Vocabulary: expected symbols that are strings, got {other[0]!r}")
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols, start=3)}
        self.unknown: int | None = None if unknown is None else self._ids[unknown]
        if len(self._ids) != len(self.symbols):
            twice = sorted(symbol for symbol, n in Counter(self.symbols).items() if n > 1)
            raise ValueError(f"Vocabulary: expected symbols that occur once each, got {check.describe(symbols)}, where "
                             f"these occur more often: {some(twice)}")

    @classmethod
    def count(cls, sequences: Iterable[Iterable[str]], *, minimum: int = 1, size: int | None = None,
              unknown: str | None = None) -> Vocabulary:
        """The vocabulary of the symbols that occur in sequences: the most frequent first, and of those that are equally
        frequent the one that is first by code points. So it does not depend on the order of the sequences.

        >>> words = ts.data.Vocabulary.count((line.split() for line in ["a b a", "c b a"]), minimum=2, unknown="<unk>")
        >>> words.symbols
        ['<unk>', 'a', 'b']
        >>> words.encode("a new b".split())
        [4, 3, 5]

        Args:
            sequences: any number of sequences of strings, such as a stream; no more than one is in memory at a time.
            minimum: a symbol that occurs less often is left out.
            size: `len(vocabulary)` is at most this: the ids of pad, start, end and `unknown` count too.
            unknown: the symbol that stands for those left out, as of the class.
        """
        minimum = check.integers("Vocabulary.count", 1, minimum=minimum)
        taken = 3 + (unknown is not None)
        size = None if size is None else check.integers("Vocabulary.count", taken, size=size)
        if not hasattr(sequences, "__iter__"):
            raise TypeError(f"Vocabulary.count: expected sequences of symbols, got {check.describe(sequences)}")
        counts: Counter[str] = Counter()
        for sequence in sequences:
            counts.update(as_list("Vocabulary.count: expected sequences of symbols", sequence))
        counts.pop(unknown, None)  # type: ignore[arg-type]
        if other := [symbol for symbol in counts if not isinstance(symbol, str)]:
            raise TypeError(f"Vocabulary.count: expected symbols that are strings, got {other[0]!r}")
        frequent = [symbol for symbol, n in counts.items() if n >= minimum]
        frequent.sort(key=lambda symbol: (-counts[symbol], symbol))
        return cls(frequent if size is None else frequent[:size - taken], unknown=unknown)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """The vocabulary that `save` wrote. Another file is a `checkpoint.CheckpointError` or a ValueError."""
        from tinyseq import checkpoint  # here, as few programs need it

        vocabulary = cls([])
        vocabulary.load_state_dict(checkpoint.load(path))
        return vocabulary

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the vocabulary to a file of its own, by `checkpoint.save`: NAME.safetensors.

        >>> ts.data.Vocabulary("abc", unknown="?").save("letters.safetensors")
        >>> ts.data.Vocabulary.load("letters.safetensors").encode("cat")
        [6, 4, 3]
        """
        from tinyseq import checkpoint

        checkpoint.save(path, self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """The symbols in their order, and which is `unknown`: an entry of a checkpoint."""
        unknown = None if self.unknown is None else self.symbols[self.unknown - 3]
        return {"kind": "tinyseq.data.Vocabulary", "symbols": list(self.symbols), "unknown": unknown}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the vocabulary that `state_dict` described.

        Raises:
            ValueError: the state of something else.
        """
        given.state("Vocabulary", state, symbols=list, unknown=object)
        vars(self).update(vars(Vocabulary(state["symbols"], unknown=state["unknown"])))

    def __len__(self) -> int:
        return 3 + len(self.symbols)

    def __iter__(self) -> Iterator[str]:
        return iter(self.symbols)

    def __contains__(self, symbol: object) -> bool:
        return isinstance(symbol, str) and symbol in self._ids

    def __repr__(self) -> str:
        return f"Vocabulary of {len(self.symbols)} symbols: {some(self.symbols)}"

    def encode(self, sequence: Iterable[str]) -> list[int]:
        """The id of each symbol. `start` and `end` are not added: write `[v.start, *v.encode(s), v.end]`.

        A symbol that the vocabulary does not have has the id `unknown`.

        Raises:
            ValueError: such a symbol, where there is no `unknown`; what is no string.

        >>> letters = ts.data.Vocabulary("abc")
        >>> letters.encode("cab")
        [5, 3, 4]
        >>> letters.encode("cat")
        Traceback (most recent call last):
        ValueError: Vocabulary.encode: unknown symbol 't' at position 2; known are 'a' 'b' 'c'
        """
        symbols = as_list("Vocabulary.encode: expected a sequence of symbols", sequence)
        try:
            return [self._ids[symbol] for symbol in symbols]
        except (KeyError, TypeError):
            if self.unknown is not None and all(isinstance(symbol, str) for symbol in symbols):
                return [self._ids.get(symbol, self.unknown) for symbol in symbols]
            at, symbol = next((i, symbol) for i, symbol in enumerate(symbols) if symbol not in self.symbols)
            raise ValueError(f"Vocabulary.encode: unknown symbol {symbol!r} at position {at}; known are "
                             f"{some(self.symbols)}") from None

    def decode(self, ids: Iterable[SupportsIndex]) -> list[str]:
        """The symbols that ids stand for, up to the first `end`; `pad` and `start` stand for none.

        Raises:
            ValueError: an id that is negative or not below `len(self)`.
            TypeError: an id that is no integer.

        >>> letters = ts.data.Vocabulary("abc")
        >>> letters.decode([letters.start, 5, 3, 4, letters.end, 3])
        ['c', 'a', 'b']
        """
        return [self.symbols[i - 3] for i in given.written("Vocabulary.decode", ids, len(self), self.end) if i > 2]
