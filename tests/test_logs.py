"""Logs: what sinks are given, files that a kill or a resumed run leaves as if nothing had been, bars and lines."""

import csv
import io
import math
import os
import re
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import logs
from tinyseq.logs import CSV, Log, TensorBoard, Terminal, read

values = st.floats(allow_nan=True, width=64)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5).filter(lambda s: s.isprintable() and s != "step")
figures = st.dictionaries(st.sampled_from(["loss", "dev/loss", 'a "b", c', "准确"]) | names, values, max_size=3)
Row = tuple[int, dict[str, float]]


@st.composite
def histories(draw: st.DrawFn) -> list[Row]:
    """What a run logs: steps that do not go back, several calls of one step too."""
    steps = sorted(draw(st.lists(st.integers(0, 30), max_size=10)))
    return [(step, draw(figures)) for step in steps]


def write(path: Path, rows: list[Row], start: int | None = None) -> None:
    log = CSV(path, start=start)
    for step, found in rows:
        log(step, found)


# --- CSV ---------------------------------------------------------------------------------------------------------
@given(histories())
def test_nothing_is_lost_and_numbers_are_the_very_same(tmp_path_factory: Any, rows: list[Row]) -> None:
    """Columns that come later, names with commas and quotes, NaN and infinity: after every row, by Python's csv."""
    path = tmp_path_factory.mktemp("csv") / "log.csv"
    log = CSV(path)
    for i, (step, found) in enumerate(rows):
        log(step, found)
        with open(path, encoding="utf-8", newline="") as file:
            there = list(csv.DictReader(file))
        assert len(there) == i + 1
        for (s, f), row in zip(rows, there, strict=False):
            assert int(row.pop("step")) == s
            assert {k: repr(float(v)) for k, v in row.items() if v} == {k: repr(float(v)) for k, v in f.items()}
    assert not [*path.parent.glob("*.new")]
    if rows:
        table = read(path)
        assert [*table] == list(dict.fromkeys(k for _, f in rows for k in f))
        for name, (steps, found) in table.items():
            assert steps.dtype == np.int64 and found.dtype == np.float64
            assert [*zip(steps.tolist(), map(repr, found.tolist()), strict=True)] == [
                (s, repr(float(f[name]))) for s, f in rows if name in f]


@given(histories(), st.data())
def test_a_run_that_was_killed_and_resumed_has_the_file_of_one_that_was_not(tmp_path_factory: Any, rows: list[Row],
                                                                            data: st.DataObject) -> None:
    """Killed at any byte of any row, resumed at any step before, again and again."""
    folder = tmp_path_factory.mktemp("csv")
    path, resumed = folder / "log.csv", 0
    for _ in range(data.draw(st.integers(1, 3))):
        done = data.draw(st.integers(0, len(rows)))
        written = [row for row in rows[:done] if row[0] >= resumed]
        write(path, written, resumed)
        if written:
            whole = path.read_bytes()
            path.write_bytes(whole[:data.draw(st.integers(whole[:-1].rfind(b"\n") + 1, len(whole)))])
        resumed = data.draw(st.integers(0, max(resumed, rows[done - 1][0] if done else 0)))    # the last checkpoint
    write(path, [row for row in rows if row[0] >= resumed] + [(31, {"end": 1.0})], resumed)
    write(folder / "undisturbed.csv", [*rows, (31, {"end": 1.0})])
    assert path.read_bytes() == (folder / "undisturbed.csv").read_bytes()


def test_rows_of_an_older_run_are_neither_mixed_nor_dropped_unasked(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "log.csv"
    rows: list[Row] = [(10, {"loss": 3.0}), (20, {"loss": 2.0}), (20, {"dev": 1.5}), (30, {"loss": 1.0, "late": 1.0})]
    write(path, rows)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"^CSV: .*log.csv has 4 rows, from step 10 to 30; expected a new .*start=ST"):
        CSV(path)
    CSV(path, start=0)                                                              # nothing before its first row
    assert path.read_bytes() == before
    write(path, rows[1:3], start=20)
    assert path.read_text() == "step,loss,dev\n10,3.0,\n20,2.0,\n20,,1.5\n"       # "late" is gone with its rows
    write(path, [(25, {"loss": 9.0}), (5, {"loss": 8.0})], start=22)                # in one run steps may go back
    assert path.read_text() == "step,loss,dev\n10,3.0,\n20,2.0,\n20,,1.5\n25,9.0,\n5,8.0,\n"
    write(path, [(50, {"loss": 4.0}), *rows[3:]], start=0)                          # anew, wherever its first row is
    assert path.read_text() == "step,loss,late\n50,4.0,\n30,1.0,1.0\n"
    write(path, [(40, {"loss": 0.5})], start=31)
    assert path.read_text() == "step,loss,late\n30,1.0,1.0\n40,0.5,\n"
    write(tmp_path / "rows.csv", [])
    (tmp_path / "rows.csv").write_text("step,loss\n10,")                            # nothing but a torn line
    write(tmp_path / "rows.csv", [(7, {"dev": 1.0})])
    assert (tmp_path / "rows.csv").read_text() == "step,dev\n7,1.0\n"


def test_a_killed_process_leaves_all_rows_that_it_wrote(tmp_path: Path) -> None:
    program = """
import sys
from tinyseq import logs
log = logs.CSV("log.csv", start=0)
for step in range(10**9):
    log(step, {"loss": 1 / (step + 1), f"late {step // 50}": 1.0} if step < 500 else {"loss": 1.0})
    print(step, flush=True)
"""
    for seen in (0, 3, 120):
        process = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        while int(process.stdout.readline()) < seen:
            pass
        process.kill()
        said = process.communicate()[0].split()
        steps, losses = read(tmp_path / "log.csv")["loss"]
        assert steps.tolist() == [*range(len(steps))] and len(steps) >= int(said[-1] if said else seen) + 1
        assert losses[0] == 1
        write(tmp_path / "log.csv", [(2, {"loss": 7.0})], start=2)
        assert read(tmp_path / "log.csv")["loss"][0].tolist() == [*range(min(2, len(steps))), 2]


def test_an_interrupted_or_failed_row_is_cut_off_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.csv"
    write(path, [(0, {"loss": 5.0}), (1, {"loss": 4.0})])
    log = CSV(path, start=1)
    log(1, {"loss": 1.0})

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            with path.open("a") as file:
                file.write(text[:3])
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", lambda *_, **__: Full())
        with pytest.raises(OSError, match="No space"):
            log(2, {"loss": 2.0})
    assert not path.read_text().endswith("\n")
    log(3, {"loss": 3.0})
    assert path.read_text() == "step,loss\n0,5.0\n1,1.0\n3,3.0\n"     # what this run has written stays

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match="No space"):
            log(4, {"late": 2.0})
    assert path.read_text() == "step,loss\n0,5.0\n1,1.0\n3,3.0\n"
    log(4, {"late": 2.0})
    assert path.read_text() == "step,loss,late\n0,5.0,\n1,1.0,\n3,3.0,\n4,,2.0\n"


def test_other_files_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    for text in ("name,age\na,3\n", "steps\n", "x", "step,loss\n1,2,3\n", "step,loss\n1,high\n", "step,loss\n1.5,2\n",
                 "\n", "step,loss\n\n", "stop,\n"):
        path.write_text(text)
        for call in (CSV, read):
            with pytest.raises(ValueError, match=r"other.csv is no log that ts.logs.CSV wrote"):
                call(path)
        assert path.read_text() == text
    path.write_bytes(b"step,\xff\n")
    with pytest.raises(ValueError, match=r"is no log"):
        CSV(path)
    with pytest.raises(FileNotFoundError, match="not there"):
        read(tmp_path / "nothing.csv")
    with pytest.raises(OSError):
        CSV(tmp_path)


@pytest.mark.parametrize("make", [CSV, Terminal, TensorBoard])
def test_a_sink_that_is_called_by_itself_takes_what_a_log_takes(make: Any, tmp_path: Path) -> None:
    """Above all a CSV file stays one: what `repr` makes of other libraries' numbers is nothing that reads back."""
    if make is TensorBoard:
        pytest.importorskip("tensorboardX", reason="tensorboardX is not installed (pip install 'tinyseq[tensorboard]')")
    path = tmp_path / "log"
    sink = Terminal(file := io.StringIO()) if make is Terminal else make(path)
    sink(np.int64(1), {"loss": np.float64(2.5), "dev": ts.tensor(0.25), "n": True, "half": np.array([0.5], "float16")})
    for step, found, error in ((-1, {}, ValueError), (1.5, {}, TypeError), (2, {"loss": "low"}, TypeError),
                               (2, {"loss": ts.ones(2)}, TypeError), (2, {"a\nb": 1.0}, ValueError),
                               (2, {"step": 1.0}, ValueError), (2, {3: 1.0}, TypeError)):
        with pytest.raises(error, match=rf"^{make.__name__}: expected"):
            sink(step, found)
    if make is CSV:
        assert path.read_text() == "step,loss,dev,n,half\n1,2.5,0.25,1.0,0.5\n"
        assert {name: found.tolist() for name, (_, found) in read(path).items()} == {
            "loss": [2.5], "dev": [0.25], "n": [1.0], "half": [0.5]}
    elif make is Terminal:
        assert file.getvalue().split() == "step 1 loss 2.5 dev 0.25 n 1 half 0.5".split()
    else:
        sink.close()
        assert shown(path) == {"loss": [(1, 2.5)], "dev": [(1, 0.25)], "n": [(1, 1.0)], "half": [(1, 0.5)]}


# --- Log and Terminal --------------------------------------------------------------------------------------------
def test_a_sink_is_whatever_is_called_with_a_step_and_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    reads: list[Any] = []
    item = ts.Tensor.item
    monkeypatch.setattr(ts.Tensor, "item", lambda self: reads.append(1) or item(self))

    class Own:
        closed = False

        def __call__(self, step: int, figures: dict[str, float]) -> None:
            seen.append(figures)

        def close(self) -> None:
            self.closed = True

    own = Own()
    with Log(lambda step, figures: figures.clear(), own, lambda step, figures: seen.append(step)) as log:
        log(np.int64(3), {"dev/loss": np.float16(0.5)}, loss=ts.tensor([2.0], requires_grad=True) * 2.0, n=True, m=7,
            nan=np.array(math.nan))
    assert own.closed and repr(seen) == "[{'dev/loss': 0.5, 'loss': 4.0, 'n': 1.0, 'm': 7.0, 'nan': nan}, 3]"
    assert {type(value) for value in seen[0].values()} == {float} and type(seen[1]) is int
    assert len(reads) == 1                                  # once for three sinks
    Log()(1, loss=ts.tensor(1.0))
    assert len(reads) == 1                                  # and never for none


def test_what_a_sink_raises_keeps_no_other_from_its_figures() -> None:
    seen: list[Any] = []

    class Broken:
        def __call__(self, step: int, figures: dict[str, float]) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            raise OSError(5, "not closed")

    class Whole:
        def __call__(self, step: int, figures: dict[str, float]) -> None:
            seen.append(step)

        def close(self) -> None:
            seen.append("closed")

    log = Log(Broken(), Whole(), Broken(), Whole())
    with pytest.raises(OSError, match="No space"):
        log(3, loss=1.0)
    with pytest.raises(OSError, match="not closed"):
        log.close()
    assert seen == [3, 3, "closed", "closed"]


def test_what_is_no_figure_is_told_and_no_sink_is_called() -> None:
    seen: list[Any] = []
    log: Any = Log(lambda *given: seen.append(given))
    for call, error, message in (
            (lambda: log(1, loss="low"), TypeError, "loss to be a number, got 'low'"),
            (lambda: log(1, loss=ts.ones(3)), TypeError, r"loss to be a number, got float32\[3\]"),
            (lambda: log(1, ok=1, loss=None), TypeError, "loss to be a number, got None"),
            (lambda: log(-1), ValueError, "0 <= step, got -1"), (lambda: log(1.5), TypeError, "step, got 1.5"),
            (lambda: log(1, [("a", 1)]), TypeError, "figures to be a dictionary"),
            (lambda: log(1, {3: 1}), TypeError, "names of figures as text, got 3"),
            (lambda: log(1, {"a\nb": 1}), ValueError, r"got 'a\\nb'"), (lambda: log(1, {"": 1}), ValueError, "got ''"),
            (lambda: log(1, step=1), ValueError, "'step'"), (lambda: Log("log.csv"), TypeError, "sinks.0.*'log.csv'")):
        with pytest.raises(error, match=rf"^Log: expected .*{message}"):
            call()
    assert not seen


@given(st.integers(0, 10**9), st.dictionaries(names, values, max_size=4))
@example(0, {".": 0.0, "1,5": 2.5, "ste": sys.float_info.max, " ": math.nan})
def test_a_line_of_the_terminal_is_one_line_with_four_digits_of_all(step: int, found: dict[str, float]) -> None:
    file = io.StringIO()
    Terminal(file)(step, found)
    line = file.getvalue()
    begin = f"step {step:<8,}" if found else f"step {step:,}"
    assert line.endswith("\n") and len(line.splitlines()) == 1 and line.startswith(begin)
    rest = line[len(begin):-1]
    for name, value in found.items():                       # one after the other, as a name may look like a figure
        assert rest.startswith(f"  {name} "), (line, name)
        rest = rest[len(name) + 3:]
        told = re.match(r"-?\d[\d.,]*(?:e[+-]\d+)?|-?inf|nan", rest)
        assert told, (line, name)
        shown, most = float(told[0].replace(",", "")), abs(value) > 1.797e308     # whose four digits may be infinity
        assert math.isclose(shown, value, rel_tol=6e-4) or math.isnan(value) or most, (line, name)
        rest = rest[max(10, len(told[0])):]
    assert not rest


# --- TensorBoard -------------------------------------------------------------------------------------------------
def events(folder: Path) -> list[Any]:
    """By the format: length, checksum, event, checksum."""
    pb = pytest.importorskip("tensorboardX.proto.event_pb2",
                             reason="tensorboardX is not installed (pip install 'tinyseq[tensorboard]')")
    found = []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            size, = struct.unpack("<Q", data[:8])
            found.append(pb.Event.FromString(data[12:12 + size]))
            data = data[16 + size:]
    return found


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of them: where a session starts, it forgets what is of its step and later ones."""
    pb: Any = sys.modules.get("tensorboardX.proto.event_pb2")
    tables: dict[str, list[tuple[int, float]]] = {}
    for event in events(folder):
        if event.HasField("session_log") and event.session_log.status == pb.SessionLog.START:
            tables = {k: [p for p in table if p[0] < event.step] for k, table in tables.items()}
        for value in event.summary.value:
            tables.setdefault(value.tag, []).append((event.step, value.simple_value))
    return {k: table for k, table in tables.items() if table}


def test_tensorboard_has_what_was_logged_at_once_and_forgets_what_a_resumed_run_writes_anew(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed (pip install 'tinyseq[tensorboard]')")
    first = TensorBoard(tmp_path / "a")
    for step in (10, 20, 30):
        first(step, {"loss/train": 1 / step, "准确": step})
        assert [p[0] for p in shown(tmp_path / "a")["准确"]][-1] == step        # before it is closed
    second = TensorBoard(tmp_path / "a")                    # in the same second too
    second(20, {"loss/train": 0.5})
    second(30, {"loss/train": math.nan, "big": 1e300, "late": -math.inf})
    second.close()
    assert repr(shown(tmp_path / "a")) == repr({
        "loss/train": [(10, float(np.float32(0.1))), (20, 0.5), (30, math.nan)], "准确": [(10, 10.0)],
        "big": [(30, math.inf)], "late": [(30, -math.inf)]})
    third = TensorBoard(tmp_path / "a", start=15)
    third(40, {"loss/train": 2.0})
    third.close()
    assert shown(tmp_path / "a") == {"loss/train": [(10, float(np.float32(0.1))), (40, 2.0)], "准确": [(10, 10.0)]}
    first.close()


def test_what_is_not_installed_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tinyseq import metrics
    for library, make, extra in (("tqdm", lambda: logs.progress(), "progress"),
                                 ("tensorboardX", lambda: TensorBoard(tmp_path), "tensorboard"),
                                 ("sacrebleu", lambda: metrics.BLEU(), "bleu"),
                                 ("sacrebleu", lambda: metrics.CHRF(), "bleu")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, library, None)
            with pytest.raises(ImportError, match=rf"needs {library}; run: pip install 'tinyseq\[{extra}\]'"):
                make()


# --- progress ----------------------------------------------------------------------------------------------------
def in_a_terminal(program: str) -> str:
    """What a terminal of 80 columns is sent by a program."""
    termios = pytest.importorskip("termios", reason="no terminals on this system")
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    subprocess.run([sys.executable, "-c", program], stdout=theirs, stderr=theirs, check=True)
    said = os.read(ours, 10_000).decode()
    os.close(ours)
    os.close(theirs)
    return said


def test_progress_is_a_bar_in_a_terminal_and_lines_elsewhere() -> None:
    pytest.importorskip("tqdm", reason="tqdm is not installed (pip install 'tinyseq[progress]')")
    program = ("from tinyseq.logs import progress\n"
               "for n in (bar := progress(range(3))): bar.set_postfix_str(f'loss {n}', refresh=False)")
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stderr.splitlines() == ["0%, ? left", "100%, 00:00 left, loss 2"] and not said.stdout
    shown = in_a_terminal(program)
    assert re.search(r"\r *0% +\? left.*\r100% \S{20} 00:00 left, loss 2", shown, re.DOTALL), shown


def test_lines_count_what_has_no_length_and_nest_without_escapes() -> None:
    pytest.importorskip("tqdm", reason="tqdm is not installed (pip install 'tinyseq[progress]')")
    program = ("from tinyseq.logs import progress\n"
               "for n in progress(iter('abc'), desc='words'): pass\n"
               "bar = progress(); bar.update(2000); bar.set_postfix_str('loss 1'); bar.close()\n"
               "for n in progress(range(2), desc='epoch'):\n"
               "    for n in progress(range(2), desc='batch '): pass")
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr
    lines = re.sub(r"[\d.]+/s", "9/s", said).splitlines()
    assert lines[:5] == ["words 0 in 00:00, ?/s", "words 3 in 00:00, 9/s", "0 in 00:00, ?/s",
                         "2000 in 00:00, 9/s, loss 1", "2000 in 00:00, 9/s, loss 1"]
    assert lines[5:] == ["epoch   0%, ? left", *["batch   0%, ? left", "batch 100%, 00:00 left"] * 2,
                         "epoch 100%, 00:00 left"]
    shown = in_a_terminal(program)
    assert re.search(r"\rwords 3 in 00:00, +[\d.]+/s.*\repoch   0% .*batch 100%", shown, re.DOTALL), shown


def test_lines_of_a_log_stand_above_the_bar() -> None:
    pytest.importorskip("tqdm", reason="tqdm is not installed (pip install 'tinyseq[progress]')")
    program = ("from tinyseq.logs import Log, Terminal, progress\n"
               "log = Log(Terminal())\n"
               "for n in progress(range(3)): log(n, loss=n)")
    last = [line.rpartition("\r")[2] for line in in_a_terminal(program).replace("\r\n", "\n").split("\n")]
    assert [line.rstrip() for line in last[:3]] == ["step 0         loss 0", "step 1         loss 1",
                                                     "step 2         loss 2"]
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == ["step 0         loss 0", "step 1         loss 1", "step 2         loss 2"]


def test_a_bar_says_how_far_it_is_and_gives_ctrl_c_back() -> None:
    pytest.importorskip("tqdm", reason="tqdm is not installed (pip install 'tinyseq[progress]')")
    before = signal.getsignal(signal.SIGINT)
    bar = logs.progress(total=4.5, desc="learning ")
    assert signal.getsignal(signal.SIGINT) != before
    bar.update(2.5)
    assert (bar.n, bar.total, bar.stopped) == (2.5, 4.5, False)
    bar.close()
    bar.close()
    assert signal.getsignal(signal.SIGINT) is before
    for n in (bar := logs.progress("abcd")):
        if n == "c":
            break
    del n
    assert bar.total == 4 and signal.getsignal(signal.SIGINT) is before
    with pytest.raises(ZeroDivisionError):
        for _ in (bar := logs.progress(range(3))):
            raise ZeroDivisionError
    bar.close()
    assert signal.getsignal(signal.SIGINT) is before
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(logs.progress(range(3))))
    thread.start()
    thread.join()
    assert found == [0, 1, 2]
    for wrong, error in (({"iterable": 3}, TypeError), ({"total": "all"}, TypeError), ({"total": -1}, ValueError),
                         ({"desc": 3}, TypeError), ({"save": 3}, TypeError), ({"initial": -1}, ValueError),
                         ({"disable": "no"}, ValueError)):
        with pytest.raises(error, match=rf"^progress: expected .*{next(iter(wrong))}"):
            logs.progress(**wrong)
        assert signal.getsignal(signal.SIGINT) is before


def test_a_bar_goes_on_from_where_a_run_was() -> None:
    pytest.importorskip("tqdm", reason="tqdm is not installed (pip install 'tinyseq[progress]')")
    for step in (bar := logs.progress(range(7, 10), initial=7)):
        assert (step, bar.total) == (step, 10)
    assert (bar.n, bar.total) == (10, 10)
    bar = logs.progress(total=1, initial=0.5)
    bar.update(0.25)
    assert bar.n == 0.75
    bar.close()


def test_a_disabled_bar_shows_nothing_and_hears_ctrl_c() -> None:
    pytest.importorskip("tqdm", reason="tqdm is not installed (pip install 'tinyseq[progress]')")
    program = ("import signal; from tinyseq.logs import progress\n"
               "for n in (bar := progress(range(9), disable=True)):\n"
               "    bar.write('a line'); bar.set_postfix_str('loss 1')\n"
               "    if n == 3: signal.raise_signal(signal.SIGINT)\n"
               "print(n, bar.n, bar.stopped)")
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (said.stdout, said.stderr) == ("3 3 True\n", "")


@pytest.fixture
def ctrl_c() -> Iterator[Any]:
    """A function that presses it, where it raises KeyboardInterrupt without bars; and after it nothing was pressed."""
    pytest.importorskip("tqdm", reason="tqdm is not installed (pip install 'tinyseq[progress]')")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGINT)
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler
    logs.progress.stopped = False


def test_a_bar_that_begins_after_ctrl_c_is_a_new_one(ctrl_c: Any) -> None:
    for _ in range(2):                                      # as cells of a notebook are run one after the other
        seen = []
        for n in (bar := logs.progress(range(5))):
            seen.append(n)
            if n == 1:
                ctrl_c()
        assert seen == [0, 1] and bar.stopped and logs.progress.stopped
        assert [*(bar := logs.progress(range(5)))] == [*range(5)] and not bar.stopped and logs.progress.stopped
    with pytest.raises(KeyboardInterrupt):                  # held, with its bar, by the error
        for _ in logs.progress(range(5)):
            ctrl_c()
            ctrl_c()
    assert [*logs.progress(range(5))] == [*range(5)]


def test_one_ctrl_c_ends_all_bars_that_are_open(ctrl_c: Any) -> None:
    seen, saves = [], []
    for epoch in logs.progress(range(3), save=lambda: saves.append("outer")):
        for n in logs.progress(range(4), save=lambda: saves.append("inner")):
            seen.append((epoch, n))
            if seen[-1] == (1, 2):
                ctrl_c()
    assert seen == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2)] and sorted(saves) == ["inner", "outer"]
    with logs.progress(total=3) as one:
        with logs.progress(total=3) as other:
            ctrl_c()
            with pytest.raises(KeyboardInterrupt):
                ctrl_c()
        assert one.stopped and other.stopped


def test_a_bar_that_an_error_left_takes_no_ctrl_c(ctrl_c: Any) -> None:
    with pytest.raises(ZeroDivisionError), logs.progress(total=3) as bar:
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    bar = logs.progress(total=3)
    del bar
    with pytest.raises(KeyboardInterrupt):
        ctrl_c()
    bar = logs.progress(total=3)
    del bar
    with logs.progress(total=3) as bar:                     # after one that was dropped
        ctrl_c()
        assert bar.stopped


def test_who_sets_another_handler_meanwhile_keeps_it(ctrl_c: Any) -> None:
    for save in (None, lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)):
        with logs.progress(total=3, save=save):
            if save:
                ctrl_c()
            else:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert signal.signal(signal.SIGINT, signal.default_int_handler) is signal.SIG_IGN


def test_ctrl_c_saves_and_ends_and_is_told() -> None:
    pytest.importorskip("tqdm", reason="tqdm is not installed (pip install 'tinyseq[progress]')")
    program = ("import signal; from tinyseq.logs import progress\n"
               "bar = progress(total=9, save=lambda: print('saving'))\n"
               "while not bar.stopped:\n"
               "    signal.raise_signal(signal.SIGINT); print('whole'); bar.update()\n"
               "print(bar.n, progress.stopped)\n"
               "try: signal.raise_signal(signal.SIGINT)\n"
               "except KeyboardInterrupt: print('as before')")
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == ["saving", "whole", "stopped; what was learnt is saved, and used on; Ctrl-C "
                                        "again ends the script", "1 True", "as before"]
