"""Tokenizers that are learned from text, by the `tokenizers` library."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from tinyseq import check
from tinyseq.data import given
from tinyseq.data.padding import pad

_SPECIAL = ["<pad>", "<s>", "</s>"]     # ids 0, 1, 2, as of a Vocabulary


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError("data.Tokenizer needs tokenizers; run: pip install 'tinyseq[tokenizers]'") from error
    return tokenizers


class Tokenizer:
    """From texts to ids of pieces of words and back: BPE, WordPiece or unigram.

    `train` learns one, in which ids 0, 1 and 2 are `pad`, `start` and `end`, as of a `Vocabulary`; `load` reads a
    `tokenizer.json`, of a released model too. `start` and `end` are None where it has no `<s>` and `</s>`. Neither is
    added to a text, and no text makes one: "</s>" in a text is four letters. What else the library can do, its object
    does: `tokenizer.tokenizer`, which neither cuts nor fills up, whatever the one given does.

    >>> tokenizer = ts.data.Tokenizer.train("bpe", ["a new day", "a new year"], size=270)
    >>> ids = tokenizer.encode("a new idea")
    >>> tokenizer.decode([tokenizer.start, *ids, tokenizer.end])
    'a new idea'

    Args:
        tokenizer: a `tokenizers.Tokenizer`.

    Raises:
        ImportError: the tokenizers library is not installed.
    """

    def __init__(self, tokenizer: Any) -> None:
        check.instance("Tokenizer", _library().Tokenizer, tokenizer=tokenizer)
        self.tokenizer = tokenizer = _parsed("Tokenizer", tokenizer.to_str())   # the caller's stays as it is
        tokenizer.encode_special_tokens = True      # as text
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.pad, self.start, self.end = map(tokenizer.token_to_id, _SPECIAL)

    @classmethod
    def train(cls, kind: str, texts: Iterable[str], size: int) -> Tokenizer:
        """Learn a tokenizer from texts, such as a stream: `train("bpe", ts.data.lines("train.txt"), size=8000)`.

        The library gives the same BPE for the same texts. WordPiece and unigram have other ids in every process, and of
        little text WordPiece has other pieces too (tokenizers 0.22, 0.23): train once, and keep the file or the
        checkpoint.

        Args:
            kind: "bpe" of bytes, which knows every text and gives it back as it was; "wordpiece" of words and marks as
                BERT's, or "unigram" of words, as SentencePiece's: these have an id 3, `<unk>`, for what they do not
                know, and give one space back for white space of any kind and length, at the ends none.
            texts: strings.
            size: `len(tokenizer)` is at most this; of "bpe" at least 259, for the bytes. "wordpiece" has all characters
                of the texts, however many that are.

        Raises:
            ValueError: another kind, a size that is too small, no text to learn from (but "bpe", which has the bytes).
            TypeError: texts that are no strings.
        """
        check.choice("Tokenizer.train", ("bpe", "wordpiece", "unigram"), kind=kind)
        size = check.integers("Tokenizer.train", 259 if kind == "bpe" else 5, size=size)
        tokenizer, trainer = _untrained(kind, size)
        try:
            tokenizer.train_from_iterator(_strings("Tokenizer.train", texts), trainer)
        except (TypeError, OSError):
            raise
        except Exception as error:      # the library has no type of its own
            raise ValueError(f"Tokenizer.train: {error}") from error
        if len(tokenizer.get_vocab()) == len(trainer.special_tokens):
            raise ValueError("Tokenizer.train: the texts hold nothing to learn from")
        return cls(tokenizer)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """The tokenizer of a `tokenizer.json`.

        Raises:
            OSError: a file that cannot be read.
            ValueError: one that is none of a tokenizer.
        """
        with open(path, encoding="utf-8") as file:
            return cls(_parsed(f"Tokenizer.load: {os.fspath(path)}", file.read()))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a `tokenizer.json`, whole or not at all, which the library and what builds on it load too.

        >>> tokenizer = ts.data.Tokenizer.train("bpe", ["a new day"], size=265)
        >>> tokenizer.save("tokenizer.json")
        >>> len(ts.data.Tokenizer.load("tokenizer.json"))
        265
        """
        from tinyseq import checkpoint  # here, as few programs need it

        def write(file: BinaryIO) -> None:
            file.write(self.tokenizer.to_str().encode())
        checkpoint._replace(Path(os.path.realpath(path)), write)

    def state_dict(self) -> dict[str, Any]:
        """The text of the `tokenizer.json`: an entry of a checkpoint."""
        return {"kind": "tinyseq.data.Tokenizer", "tokenizer": self.tokenizer.to_str()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the tokenizer that `state_dict` described. The state of something else is a ValueError."""
        given.state("Tokenizer", state, tokenizer=str)
        vars(self).update(vars(Tokenizer(_parsed("Tokenizer.load_state_dict", state["tokenizer"]))))

    def __len__(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    def __repr__(self) -> str:
        return f"Tokenizer({type(self.tokenizer.model).__name__} of {len(self)} ids)"

    def encode(self, text: str) -> list[int]:
        """The ids of a text. `start` and `end` are not added: write `[t.start, *t.encode(text), t.end]`."""
        check.instance("Tokenizer.encode", str, text=text)
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def batch(self, texts: Sequence[str]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """The ids (B, T) of B texts and their lengths (B,), int64, as `data.pad` gives them, but filled up with the
        tokenizer's own `pad`; with 0 where it has none. The library encodes them on several threads.

        >>> tokenizer = ts.data.Tokenizer.train("bpe", ["a new day"], size=270)
        >>> ids, lengths = tokenizer.batch(["a new day", "day"])
        >>> ids.shape[0] == len(lengths) == 2
        True
        """
        rows = self.tokenizer.encode_batch(list(_strings("Tokenizer.batch", texts)), add_special_tokens=False)
        ids, lengths = pad([row.ids for row in rows])
        ids[np.arange(ids.shape[1]) >= lengths[:, None]] = self.pad or 0
        return ids, lengths

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """The text that ids stand for, up to the first `end`; `pad` and `start` stand for none.

        Raises:
            ValueError: an id that is negative or not below `len(self)`.
            TypeError: an id that is no integer.
        """
        found = given.written("Tokenizer.decode", ids, len(self), self.end)
        return str(self.tokenizer.decode([i for i in found if i not in (self.pad, self.start)],
                                         skip_special_tokens=False))


def _strings(where: str, texts: Any) -> Iterable[str]:
    if isinstance(texts, str) or not hasattr(texts, "__iter__"):
        raise TypeError(f"{where}: expected texts to be strings in a list or a stream, got {check.describe(texts)}")
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{where}: expected texts to be strings, got {check.describe(text)}")
        yield text


def _parsed(where: str, text: str) -> Any:
    library = _library()
    try:
        return library.Tokenizer.from_str(text)
    except Exception as error:          # the library has no type of its own
        raise ValueError(f"{where}: expected the JSON of a tokenizer: {error}") from error


def _untrained(kind: str, size: int) -> tuple[Any, Any]:
    """A tokenizer that knows nothing, and its trainer."""
    library = _library()
    models, pre, decoders, trainers = (library.models, library.pre_tokenizers, library.decoders, library.trainers)
    options: dict[str, Any] = {"vocab_size": size, "show_progress": False, "special_tokens": [*_SPECIAL, "<unk>"]}
    if kind == "bpe":
        tokenizer = library.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer, tokenizer.decoder = pre.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        options |= {"special_tokens": _SPECIAL, "initial_alphabet": pre.ByteLevel.alphabet()}
        return tokenizer, trainers.BpeTrainer(**options)
    if kind == "wordpiece":
        tokenizer = library.Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.pre_tokenizer, tokenizer.decoder = pre.BertPreTokenizer(), decoders.WordPiece()
        return tokenizer, trainers.WordPieceTrainer(**options)
    tokenizer, norms = library.Tokenizer(models.Unigram()), library.normalizers
    tokenizer.normalizer = norms.Sequence([norms.Replace(library.Regex(r"\s+"), " "), norms.Strip()])
    apart = pre.Split("<", "isolated")  # the special ones are pieces like others to this model, and "</s>" would be one
    tokenizer.pre_tokenizer, tokenizer.decoder = pre.Sequence([pre.Metaspace(), apart]), decoders.Metaspace()
    return tokenizer, trainers.UnigramTrainer(**options, unk_token="<unk>")
