"""Where streams begin: files that need not fit into memory, and what is in memory."""

from __future__ import annotations

import codecs
import os
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

from tinyseq import check
from tinyseq.data import stages
from tinyseq.data.stages import END, Stage
from tinyseq.data.streams import Stream

T = TypeVar("T")
Path = str | os.PathLike[str]
Paths = Path | Sequence[Path]
_BLOCK = 4096           # bytes, of which 16 make a file's print


class File(NamedTuple):
    """A file as it was when the stream was made."""

    path: str
    size: int           # in bytes, packed or not
    print: str          # of its size and of 16 blocks of it
    packed: bool        # by gzip

    def open(self) -> BinaryIO:
        if not self.packed:
            return open(self.path, "rb")
        import gzip  # here, as it brings much along

        return cast(BinaryIO, gzip.open(self.path, "rb"))

    def line(self, offset: int) -> int:
        """The number of the line that begins there, for an error's text."""
        with self.open() as file:
            count, left = 1, offset
            while left and (block := file.read(min(left, 2**20))):
                count, left = count + block.count(b"\n"), left - len(block)
        return count


def _file(where: str, path: Path) -> File:
    from hashlib import sha256  # here, as it brings OpenSSL

    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            packed, size = file.read(2) == b"\x1f\x8b", file.seek(0, os.SEEK_END)
            starts = range(0, size, _BLOCK) if size <= 16 * _BLOCK else [i * (size - _BLOCK) // 15 for i in range(16)]
            digest = sha256(b"%d" % size)
            for start in starts:
                file.seek(start)
                digest.update(file.read(_BLOCK))
    except OSError as error:
        raise type(error)(error.errno, f"{where} to be files: {error.strerror}", name) from None
    except ValueError as error:     # of NUL in the name
        raise ValueError(f"{where} to be files, got {name!r}: {error}") from None
    return File(name, size, digest.hexdigest()[:16], packed)


class Files(Stage):
    """Reads files one after the other. It stands at a byte, unpacked, of one of them."""

    start = (0, 0)      # number of the file, byte in it

    def __init__(self, kind: str, name: str, paths: Paths, parse: Callable[[str], Any] | None = None,
                 size: int = 0) -> None:
        super().__init__()
        given = [paths] if isinstance(paths, (str, os.PathLike)) else paths
        if not isinstance(given, (list, tuple)) or not given or (
                not all(isinstance(path, (str, os.PathLike)) for path in given)):
            raise TypeError(f"{kind}: expected {name} to be a path or a list of paths, got {check.describe(paths)}")
        self.kind, self.parse, self.size = kind, parse, size    # size: of pieces in bytes, 0 for lines
        self.files = [_file(f"{kind}: expected {name}", path) for path in given]
        self.end, self.settings = (len(self.files), 0), f"{kind}({size or ''})"

    def next(self) -> Any:
        while self.at < self.end:
            number, offset = self.at
            file = self.files[number]
            try:
                if self.running is None:
                    self.running = file.open()
                    self.running.seek(offset)
                raw = self.piece(offset) if self.size else self.running.readline()
            except (EOFError, zlib.error, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:  # of the system, not of gzip
                    raise
                raise ValueError(f"{self.kind}: {file.path} is broken: {error}") from error
            if not raw:
                self.close()
                self.at = (number + 1, 0)
                continue
            self.at = (number, offset + len(raw))
            if self.kind != "json_lines" or raw.strip():
                return self.parsed(raw, file, offset)
        self.seek(None)
        return END

    def piece(self, offset: int) -> Any:
        """Some bytes, and so many more that no character is cut."""
        left = self.end[1] - offset if self.end[0] == self.at[0] else self.size
        return self.running.read(min(self.size, left)) + _begun(self.running)

    def parsed(self, raw: bytes, file: File, offset: int) -> Any:
        try:
            text = (raw.removeprefix(codecs.BOM_UTF8) if offset == 0 else raw).decode()
            if not self.size:
                text = text.removesuffix("\n").removesuffix("\r")
            return text if self.parse is None else self.parse(text)
        except ValueError as error:     # of JSON and of UTF-8 too
            raise ValueError(f"{self.kind}: {file.path}, line {file.line(offset)}: {error}") from error

    def rest(self) -> None:
        self.close()

    def part(self, number: int, parts: int) -> Stage:
        """The lines or characters that begin in some part of the bytes."""
        if packed := [file.path for file in self.files if file.packed]:
            raise ValueError(f"Stream.contiguous: {packed[0]} is packed, so that its parts cannot be found: unpack it")
        total = sum(file.size for file in self.files)
        start, end = (self.cut(total * i // parts) for i in (number, number + 1))
        return self.on(start=start, end=end)

    def cut(self, byte: int) -> tuple[int, int]:
        """The first place from a byte on, of all files, where a line or a character begins."""
        ends = list(accumulate(file.size for file in self.files))
        number = bisect_right(ends, byte)
        offset = byte - (ends[number - 1] if number else 0)
        if number == len(ends) or not offset:
            return number, 0
        with self.files[number].open() as file:
            file.seek(offset if self.size else offset - 1)
            return number, file.tell() + len(_begun(file) if self.size else file.readline())


def _begun(file: Any) -> bytes:
    """What is left of a character of UTF-8 that has begun before: up to 3 bytes."""
    left = b""
    while len(left) < 3 and b"\x80" <= file.peek(1)[:1] < b"\xc0":
        left += file.read(1)
    return left


class Pairs(Stage):
    """The lines of two lists of files, side by side."""

    settings = "pairs"

    def next(self) -> Any:
        a, b = (feed.next() for feed in self.feeds)
        if (a is END) != (b is END):
            short, long = (", ".join(file.path for file in feed.files) for feed in self.feeds[::1 if a is END else -1])
            raise ValueError(f"pairs: expected as many lines on both sides, but {short} ends before {long}")
        return END if a is END else (a, b)


def lines(paths: Paths) -> Stream[str]:
    """A stream of the lines of one or several text files, without their ends (`\\n` or `\\r\\n`).

    A file may be packed by gzip, whatever its name. No more than one line is in memory. The text is UTF-8.

    >>> from pathlib import Path
    >>> _ = Path("a.txt").write_text("one\\ntwo\\n")
    >>> _ = Path("b.txt").write_text("three")
    >>> list(ts.data.lines(["a.txt", "b.txt"]))
    ['one', 'two', 'three']

    Raises:
        OSError: a file that cannot be read, already here.
        ValueError: in the loop, bytes that are no UTF-8, or broken gzip: with file and line.
    """
    return Stream(Files("lines", "paths", paths))


def json_lines(paths: Paths) -> Stream[Any]:
    """A stream of what one or several files of JSON lines hold: a value a line; empty lines are left out.

    Files as of `lines`; what is no JSON is a ValueError with file and line.

    >>> from pathlib import Path
    >>> _ = Path("a.jsonl").write_text('{"text": "one"}\\n{"text": "two"}\\n')
    >>> [row["text"] for row in ts.data.json_lines("a.jsonl")]
    ['one', 'two']
    """
    from json import loads

    return Stream(Files("json_lines", "paths", paths, loads))


def pairs(source: Paths, target: Paths | None = None) -> Stream[tuple[str, str]]:
    """A stream of pairs of texts, such as a sentence and its translation: the lines of two files side by side, or
    those of one file, in which a tab stands between the two.

    Files as of `lines`. Two sides of unequally many lines, or a line without one tab, are a ValueError in the loop.

    >>> from pathlib import Path
    >>> _ = Path("train.tsv").write_text("one\\tun\\ntwo\\tdeux\\n")
    >>> list(ts.data.pairs("train.tsv"))
    [('one', 'un'), ('two', 'deux')]
    """
    if target is None:
        return Stream(Files("pairs", "source", source, _columns))
    return Stream(Pairs(Files("pairs", "source", source), Files("pairs", "target", target)))


def _columns(text: str) -> tuple[str, str]:
    columns = text.split("\t")
    if len(columns) != 2:
        raise ValueError(f"expected two texts with a tab between them, got {check.describe(columns)}")
    return columns[0], columns[1]


def text(paths: Paths, size: int = 65536) -> Stream[str]:
    """A stream of pieces of one or several files, which joined are their text, ends of lines included: for windows of a
    long text, or contiguous rows.

    Files as of `lines`.

    >>> from pathlib import Path
    >>> _ = Path("long.txt").write_text("a long text")
    >>> list(ts.data.text("long.txt", size=4))
    ['a lo', 'ng t', 'ext']

    Args:
        size: how many bytes of a file, of UTF-8, a piece has; up to 3 more where a character would be cut.
    """
    return Stream(Files("text", "paths", paths, size=check.integers("text", 1, size=size)))


def items(source: Sequence[T] | Callable[[], Iterable[T]]) -> Stream[T]:
    """A stream of what is in memory: a list, the rows of an array (`np.memmap` too). Or of what a function gives that
    begins again at each call: for formats of your own.

    A resume of a sequence begins at once; of a function it makes all items again that came before in the epoch. What
    the items are is not compared on a resume, but how many of them a sequence has.

    >>> list(ts.data.items([3, 1, 2]).map(str))
    ['3', '1', '2']
    >>> list(ts.data.items(lambda: (n * n for n in range(4))))
    [0, 1, 4, 9]
    """
    if isinstance(source, (Mapping, type)) or not (callable(source) or (
            hasattr(source, "__getitem__") and hasattr(source, "__len__"))):
        raise TypeError("items: expected source to be a sequence, or a function that gives an iterable from its start "
                        f"at each call (lambda: ...), got {check.describe(source)}")
    return Stream(stages.Items(source))
