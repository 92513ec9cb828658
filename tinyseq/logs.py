"""What a run tells while it learns: figures by step, to a terminal, a CSV file, TensorBoard; and how far it is.

    log = ts.logs.Log(ts.logs.Terminal(), ts.logs.CSV("runs/a/log.csv"), ts.logs.TensorBoard("runs/a"))
    for step in (bar := ts.logs.progress(range(1000))):
        ...
        if step % 10 == 0:
            log(step, loss=loss, lr=optimizer.lr)       # or log(step, {"dev/loss": ...})

A sink is anything that is called as `sink(step, figures)`, with an integer and a dictionary of floats: a function of
three lines is one. It writes at once what it is given, for whoever looks on, and for a run that is killed; one that
has something to close has a method `close` too. `ts.plot.runs` draws the CSV files of several runs.
"""

from __future__ import annotations

import csv
import io
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, TextIO

import numpy as np
from numpy.typing import NDArray

from tinyseq import check

__all__ = ["CSV", "Log", "TensorBoard", "Terminal", "progress", "read"]
check.public(__name__)

Sink = Callable[[int, dict[str, float]], object]


class Log:
    """Figures by step, told to sinks: `log(step, loss=loss, lr=optimizer.lr)`.

    Args:
        sinks: what is called with (step, figures); of none, on a rank that does not write say, nothing is done.

    >>> seen = []
    >>> with ts.logs.Log(ts.logs.Terminal(), lambda step, figures: seen.append(figures)) as log:
    ...     log(1200, loss=ts.tensor(2.345678), lr=1e-3)
    ...     log(1200, {"dev/loss": float("nan")})
    step 1,200     loss 2.346       lr 0.001
    step 1,200     dev/loss nan
    >>> [*seen[0], *seen[1]]
    ['loss', 'lr', 'dev/loss']
    """

    def __init__(self, *sinks: Sink) -> None:
        for i, sink in enumerate(sinks):
            check.function("Log", **{f"sinks[{i}]": sink})
        self.sinks = sinks

    def __call__(self, step: int, figures: Mapping[str, Any] | None = None, /, **named: Any) -> None:
        """Tell figures of a step: numbers, arrays or Tensors of one entry, each read from its device once.

        NaN and infinity are told as they are. Raises TypeError for what is no number, ValueError for a name that is no
        single line of text, or is "step"; then nothing is told. What a sink raises, as for a full disk, is raised when
        all others were told; who wants to go on learning catches it.
        """
        check.mapping("Log", figures={} if figures is None else figures)
        step, found = _told("Log", step, {**(figures or {}), **named} if self.sinks else {})
        self._each(lambda sink: sink(step, dict(found)))

    def close(self) -> None:
        """Close the sinks that have something to close. At the end of a `with log:` it is done."""
        self._each(lambda sink: getattr(sink, "close", lambda: None)())

    def _each(self, call: Callable[[Sink], object]) -> None:
        """Call with all sinks; the first error is raised after the last of them."""
        failed: list[Exception] = []
        for sink in self.sinks:
            try:
                call(sink)
            except Exception as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
                 ) -> None:
        self.close()


class Terminal:
    """A line for each call, with four digits of each figure, below which a bar of progress goes on.

    Args:
        file: where it is written; or None for standard output, whichever that is then.

    >>> ts.logs.Terminal()(7, {"loss": 0.123456, "tokens": 123456.0})
    step 7         loss 0.1235      tokens 123,456
    """

    @check.constructor
    def __init__(self, file: TextIO | None = None) -> None:
        if file is not None and not hasattr(file, "write"):
            raise TypeError(f"Terminal: expected file to be an open file, got {check.describe(file)}")
        self.file = file

    def __call__(self, step: int, figures: Mapping[str, float]) -> None:
        """Write the line."""
        step, figures = _told("Terminal", step, figures)
        shown = [f"{name} {_short(value):<10}" for name, value in figures.items()]
        line, file = "  ".join([f"step {step:<8,}", *shown]).rstrip(), self.file or sys.stdout
        if "tqdm" in sys.modules:
            sys.modules["tqdm"].tqdm.write(line, file)  # which takes its bars away, and puts them back below
        else:
            file.write(f"{line}\n")
        file.flush()


class CSV:
    """A CSV file: columns "step" and the figures, in the order in which they came; a row for each call.

    A figure that comes later is a new column, empty in the rows above, for which the file is written anew and takes
    the old one's place in one step (`tail -F`, not `-f`, follows it). So the file can be read at any time, by
    pandas.read_csv say, and numbers read back as the very floats that they were. A row is on its way to the disk when
    the call returns; a line that a kill tore is cut off by who writes next.

    A run that goes on says from which step, as that of its checkpoint: what was written of later steps before it was
    killed goes, so that the file becomes that of a run which nothing disturbed.

    Args:
        path: the file. Folders are made.
        start: the step at which the run goes on: with its first row, rows from this step on are dropped; all of an old
            file with 0. If None, a file that has rows is refused, so that a new run does not spoil that of another.

    >>> log = ts.logs.CSV("runs/a/log.csv")
    >>> log(10, {"loss": 2.5}); log(20, {"loss": 1.5}); log(20, {"dev_loss": 2.0}); log(30, {"loss": float("nan")})
    >>> resumed = ts.logs.CSV("runs/a/log.csv", start=25)           # killed, its last checkpoint at 25
    >>> resumed(30, {"loss": 0.75})
    >>> print(log.path.read_text())
    step,loss,dev_loss
    10,2.5,
    20,1.5,
    20,,2.0
    30,0.75,

    Raises ValueError for a file that is there and is no such log, or has rows and no `start` is given; OSError for one
    that cannot be written.
    """

    @check.constructor
    def __init__(self, path: str | os.PathLike[str], start: int | None = None) -> None:
        self.path = _path("CSV", path=path)
        self.start = start if start is None else check.integers("CSV", 0, start=start)
        _, rows = _table(self.path)  # so that what is wrong with it is told before anything is learnt
        if rows and start is None:
            raise ValueError(f"CSV: {self.path} has {len(rows)} rows, from step {rows[0][0]} to {rows[-1][0]}; "
                             "expected a new file, or start=STEP of a run that goes on (start=0 begins the file anew)")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._columns: list[str] | None = None  # of a file that is known to be whole

    def __call__(self, step: int, figures: Mapping[str, float]) -> None:
        """Write the row. Raises what `Log` raises, and then nothing is written; OSError if it cannot be."""
        step, figures = _told("CSV", step, figures)
        columns, self._columns = self._columns, None  # should this be interrupted, the next call looks at the file
        if columns is None:
            columns = self._mended(sys.maxsize if self.start is None else self.start)
            self.start = sys.maxsize  # what this run has written stays
        if new := [name for name in figures if name not in columns]:
            self._widen(columns := columns + new)
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            file.write(_line([str(step), *(repr(figures[c]) if c in figures else "" for c in columns[1:])]))
        self._columns = columns

    def _mended(self, start: int) -> list[str]:
        """The columns of the file, which from now on has neither a torn line nor rows from step `start` on."""
        columns, rows = _table(self.path)
        kept = [row for row in rows if int(row[0]) < start]
        used = [i for i in range(len(columns)) if i == 0 or any(row[i] for row in kept)]
        columns = [columns[i] for i in used]
        _replace(self.path, [columns, *([row[i] for i in used] for row in kept)])
        return columns

    def _widen(self, columns: list[str]) -> None:
        """Give the file more columns, empty in the rows that are there."""
        _, rows = _table(self.path)
        _replace(self.path, [columns, *([*row, *[""] * (len(columns) - len(row))] for row in rows)])


class TensorBoard:
    """A folder for TensorBoard, with tensorboardX: a scalar for each figure, by its name; "a/b" stands under "a" there.

    As with `CSV`, what is given is written when the call returns. A run that goes on says from which step on
    TensorBoard forgets what was written before: that of its first figures, or `start`. A new run in an old folder would
    be shown with what is left of the old one. TensorBoard keeps float32.

    Args:
        folder: the folder, which is made; one for each run.
        start: the step at which the run goes on, where that is not always that of its first figures.

    >>> board = ts.logs.TensorBoard("runs/a")
    >>> board(10, {"loss/train": 2.5})
    >>> board.close()

    Raises ImportError where the tensorboardX library is not installed.
    """

    @check.constructor
    def __init__(self, folder: str | os.PathLike[str], start: int | None = None) -> None:
        try:
            from tensorboardX import event_file_writer
            from tensorboardX.proto import event_pb2
        except ImportError as error:
            raise ImportError("TensorBoard needs tensorboardX; run: pip install 'tinyseq[tensorboard]'") from error
        self.folder = _path("TensorBoard", folder=folder)
        self.start = start if start is None else check.integers("TensorBoard", 0, start=start)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._proto: Any = event_pb2
        # not its SummaryWriter, whose thread may have figures yet when `flush` returns; in the order of names
        # TensorBoard reads files, also those of one second
        self._writer: Any = event_file_writer.EventsWriter(str(self.folder / "events"), f".{time.time_ns():020}")
        self._begun = False

    def __call__(self, step: int, figures: Mapping[str, float]) -> None:
        """Write the scalars."""
        step, figures = _told("TensorBoard", step, figures)
        if not self._begun:
            session = {"status": self._proto.SessionLog.START}
            self._write(step=step if self.start is None else self.start, session_log=session)
            self._begun = True
        self._write(step=step, summary={"value": [{"tag": k, "simple_value": v} for k, v in figures.items()]})
        self._writer.flush()

    def _write(self, **event: Any) -> None:
        self._writer.write_event(self._proto.Event(wall_time=time.time(), **event))

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


@check.explained
def read(path: str | os.PathLike[str]) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """The figures in the file of a `CSV`: by name two arrays (N,), the steps, int64, and the values, float64, without
    empty places.

    A file may be read while it is written: a line that is not whole does not count.

    >>> ts.logs.CSV("log.csv")(10, {"loss": 2.5})
    >>> ts.logs.read("log.csv")
    {'loss': (array([10]), array([2.5]))}

    Raises FileNotFoundError, and ValueError for a file that is no such log.
    """
    file = _path("read", path=path)
    if not file.exists():
        raise FileNotFoundError(f"read: path {str(file)!r} is not there; expected the file of a ts.logs.CSV")
    columns, rows = _table(file)
    found = {}
    for i, name in enumerate(columns[1:], start=1):
        cells = [(int(row[0]), float(row[i])) for row in rows if row[i]]
        found[name] = np.array([step for step, _ in cells]), np.array([value for _, value in cells])
    return found


class progress:
    """How far a loop is: a bar in a terminal; in a file, a pipe or a notebook a line every 5 seconds. By tqdm.

        for step in (bar := ts.logs.progress(range(steps))):    # or progress(total=seconds), bar.update and bar.stopped
            ...
            bar.set_postfix_str(f"loss {loss:.2f}", refresh=False)

    Ctrl-C ends learning, not the program, which goes on with what was learnt: all bars that are open end when the
    update that is under way is finished, and their `stopped` says so. A second Ctrl-C does what it did before there was
    a bar. Bars that begin later are new ones; that of the class, `progress.stopped`, stays True until a program sets it
    to False, and tells one of several models to go on to no other. In other threads than the main one Ctrl-C is left
    alone. A loop with `update` is best in a `with progress(total=...) as bar:`, which ends the bar on an error too.

    Args:
        iterable: what is gone through, or None where `update` says how far it is.
        total: how much there is, if `len(iterable)` does not say so. Where nobody knows, the bar counts, and tells how
            many there are in a second.
        desc: what stands in front.
        save: what to call at the first Ctrl-C, between two updates or within one.
        initial: how much is done before, of a run that goes on; with `range(step, steps)` it is `step`.
        disable: show nothing, as on all ranks but the first of several (`disable=world.rank > 0`). Ctrl-C is heard.

    >>> for step in (bar := ts.logs.progress(range(3))):
    ...     bar.set_postfix_str(f"loss {1 / (step + 1):.2f}")
    >>> bar.write("a line above the bar")
    a line above the bar
    >>> bar.n, bar.total, bar.stopped
    (3, 3, False)

    Raises ImportError where the tqdm library is not installed.
    """

    stopped = False
    _open: ClassVar[weakref.WeakSet[progress]] = weakref.WeakSet()  # those that listen; one that is dropped does not
    _before: ClassVar[Any] = None  # what Ctrl-C did before there was a bar

    @check.constructor
    def __init__(self, iterable: Iterable[Any] | None = None, total: float | None = None, desc: str = "",
                 save: Callable[[], None] | None = None, initial: float = 0, disable: bool = False) -> None:
        try:
            from tqdm import tqdm
        except ImportError as error:
            raise ImportError("progress needs tqdm; run: pip install 'tinyseq[progress]'") from error
        if iterable is not None and not isinstance(iterable, Iterable):
            raise TypeError(f"progress: expected iterable to be iterable, got {check.describe(iterable)}")
        check.instance("progress", str, desc=desc)
        if total is not None:
            check.numbers("progress", least=0, total=total)
        if save is not None:
            check.function("progress", save=save)
        check.numbers("progress", least=0, initial=initial)
        check.choice("progress", (True, False), disable=disable)
        if total is None and isinstance(iterable, Sized):
            total = initial + len(iterable)
        self.save, self.disable, self.stopped, self._closed = save, disable, False, False
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGINT) is not _stop:
                progress._before = signal.signal(signal.SIGINT, _stop)
            self._open.add(self)
        bar, options = " {bar:20} ", {}
        if disable or not sys.stderr.isatty():
            bar, options = ", ", {"file": _Lines(disable), "mininterval": 5, "miniters": 0, "position": 0}
        known = f"{{percentage:3.0f}}%{bar}{{remaining}} left"
        form = f"{{desc}}{'{n_fmt} in {elapsed}, {rate_noinv_fmt}' if total is None else known}{{postfix}}"
        front = f"{desc} " if desc[-1:].strip() else desc
        self._bar: Any = tqdm(iterable, front or None, total, initial=initial, bar_format=form, unit="", **options)

    @property
    def n(self) -> float:
        """How far it is."""
        n: float = self._bar.n
        return n

    @property
    def total(self) -> float | None:
        """How much there is."""
        total: float | None = self._bar.total
        return total

    def update(self, n: float = 1) -> None:
        """Go on by n."""
        self._bar.update(n)
        if self.stopped:
            self.close()  # says so, before what is found is printed

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Show a text behind the bar: now, or where not `refresh` when it is drawn next."""
        self._bar.set_postfix_str(text, refresh)

    def write(self, text: str) -> None:
        """Write a line to standard output, above the bar."""
        if not self.disable:
            self._bar.write(text)

    def __iter__(self) -> Iterator[Any]:
        values: Any = iter(self._bar)
        try:
            for value in values:
                yield value
                if self.stopped:
                    break
        finally:
            values.close()
            self.close()

    def close(self) -> None:
        """End the bar; it says so if Ctrl-C ended it. After the last of an iterable it is done."""
        if self._closed:
            return
        self._closed = True
        self._bar.close()
        if self in self._open:
            self._open.remove(self)
            if not self._open and signal.getsignal(signal.SIGINT) is _stop:
                signal.signal(signal.SIGINT, self._before)
        if self.stopped:
            kept = "saved, and used on" if self.save else "used on, and not saved"
            self.write(f"stopped; what was learnt is {kept}; Ctrl-C again ends the script")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
                 ) -> None:
        self.close()


def _stop(*_: object) -> None:
    """What Ctrl-C does while bars are open."""
    signal.signal(signal.SIGINT, progress._before)
    if not (heard := [*progress._open]):  # all were dropped
        signal.raise_signal(signal.SIGINT)
        return
    for bar in heard:
        progress.stopped = bar.stopped = True
    for bar in heard:
        if bar.save:
            bar.save()


class _Lines:
    """A file that makes a line of each state of a bar, where a terminal would write over the last one; or of none."""

    def __init__(self, disable: bool) -> None:
        self.disable = disable

    def write(self, text: str) -> None:
        if text.strip() and not self.disable:
            sys.stderr.write(f"{text.strip()}\n")

    def flush(self) -> None:
        sys.stderr.flush()


def _told(where: str, step: int, figures: Mapping[str, Any]) -> tuple[int, dict[str, float]]:
    """A step and its figures as Python's numbers, NaN and infinity too."""
    step, found = check.integers(where, 0, step=step), {}
    for name, value in figures.items():
        if not isinstance(name, str):
            raise TypeError(f"{where}: expected names of figures as text, got {name!r}")
        if name in ("", "step") or not name.isprintable():
            raise ValueError(f"{where}: expected a name of a figure as a line of text that is not 'step', got {name!r}")
        if not hasattr(value, "__float__") or getattr(value, "size", 1) != 1:
            raise TypeError(f"{where}: expected {name} to be a number, got {check.describe(value)}")
        found[name] = float(value.item() if hasattr(value, "item") else value)
    return step, found


def _short(value: float) -> str:
    """Four digits, or all of a large whole number."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def _path(where: str, **given: Any) -> Path:
    check.instance(where, str | os.PathLike, **given)
    return Path(*given.values())


def _line(cells: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _table(path: Path) -> tuple[list[str], list[list[str]]]:
    """The columns and the rows of a log, of whole lines alone; of no file those of an empty one."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    try:
        columns, *rows = [*csv.reader(data[: data.rfind(b"\n") + 1].decode().splitlines())] or [["step"]]
        if columns[0] != "step" or data[:4] != b"step"[: len(data)]:
            raise ValueError(f"it begins with {data[:20]!r}")
        for row in rows:
            if len(row) != len(columns):
                raise ValueError(f"it has {len(columns)} columns, but a line is {','.join(row)}")
            _ = int(row[0]), [float(cell) for cell in row[1:] if cell]
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path} is no log that ts.logs.CSV wrote: {error}; write to another file") from None
    return columns, rows


def _replace(path: Path, rows: list[list[str]]) -> None:
    """Write a file anew, in one step: who reads it finds the old one or the new one."""
    new = path.with_name(f"{path.name}.new")
    new.write_text("".join(map(_line, rows)), "utf-8", newline="")
    os.replace(new, path)
