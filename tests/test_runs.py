"""Runs: what is kept, what is resumed, what wrong folders and parts are told. By force: test_runs_force.py."""

import copy
import errno
import itertools
import math
import os
import random
import re
import resource
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.files import same
from helpers.interrupts import Interrupt
from helpers.training import EVERY, Values, learn, parts, step, train
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import checkpoint, nn, optim, runs
from tinyseq.checkpoint import CheckpointError

THOROUGH = os.environ.get("TINYSEQ_TEST_PROFILE") == "thorough"
Run = runs.Run


def number(**options: Any) -> Any:
    """A run of one part."""
    return lambda folder, value=0: Run(folder, x=Values(value=value), **options)


def names(folder: Path) -> list[str]:
    return sorted(name.removesuffix(".safetensors") for name in os.listdir(folder) if name != ".lock")


def states(own: Any) -> Any:
    return copy.deepcopy({name: runs._host(runs._part(name, part).state_dict()) for name, part in own.items()})


# --- what is resumed


@pytest.mark.parametrize("at", [1, 6, 10])
def test_a_training_goes_on_bit_by_bit(at: int, tmp_path: Path) -> None:
    once = parts()
    learn(once, 12)
    first = parts()
    run = Run(tmp_path, **first)
    for i, batch in enumerate(first["data"], 1):
        step(batch, **first)
        if i == at:                         # in the loop, where the stream has read ahead
            run.save(at)
        if i == at + 3:                     # lost
            break
    second = parts(seed=5)
    assert Run(tmp_path, **second).resume() == at
    learn(second, 12 - at)
    same(states(second), states(once))
    assert once["scaler"].skipped and once["scaler"].steps == 12 and once["schedule"].value < 0.01
    for p, q in zip(second["model"].parameters(), once["model"].parameters(), strict=True):
        assert p.backend == q.backend and p.requires_grad


@pytest.mark.parametrize("draw", [
    lambda: ts.random.normal(3).tolist(), random.random, lambda: float(np.random.rand()), lambda: random.gauss(0, 1),
    lambda: float(np.random.standard_normal())], ids=["tinyseq", "python", "numpy", "python gauss", "numpy gauss"])
def test_what_is_drawn_goes_on(draw: Any, tmp_path: Path) -> None:
    draw()
    number()(tmp_path).save(1)
    drawn = [draw() for _ in range(3)]
    assert number()(tmp_path).resume() == 1
    assert [draw() for _ in range(3)] == drawn


@pytest.mark.parametrize("make, draw", [
    (np.random.default_rng, lambda g: g.random()), (ts.random.Generator, lambda g: ts.random.normal(1, generator=g)[0]),
    (random.Random, lambda g: g.random()), (lambda s: np.random.Generator(np.random.MT19937(s)), lambda g: g.random()),
    (lambda s: np.random.Generator(np.random.Philox(s)), lambda g: g.random())])
def test_generators_are_parts(make: Any, draw: Any, tmp_path: Path) -> None:
    first, second = make(1), make(2)
    draw(first)
    Run(tmp_path, g=first).save(1)
    drawn = [float(draw(first)) for _ in range(3)]
    assert Run(tmp_path, g=second).resume() == 1
    assert [float(draw(second)) for _ in range(3)] == drawn


def test_extra_values_come_back_and_anybody_reads_the_file(tmp_path: Path) -> None:
    model = nn.Linear(2, 3)
    run = Run(tmp_path, model=model)
    run.save(4, letters="abc", epoch=2, config={"sizes": (2, 3), "table": np.arange(3)}, folder="a", keep=1)
    again = Run(tmp_path, model=nn.Linear(2, 3))
    assert again.extra == {} and again.resume() == 4
    table = again.extra["config"].pop("table")
    assert again.extra == {"letters": "abc", "epoch": 2, "config": {"sizes": (2, 3)}, "folder": "a", "keep": 1}
    assert table.tolist() == [0, 1, 2] and table.flags.writeable
    read, fresh = checkpoint.load(tmp_path / "latest.safetensors"), nn.Linear(2, 3)
    assert read["step"] == 4 and read["letters"] == "abc"
    fresh.load(tmp_path / "latest.safetensors", key="model")
    same(states({"m": fresh}), states({"m": model}))


def test_a_new_folder_begins_at_0_and_leaves_the_parts(tmp_path: Path) -> None:
    own = parts()
    before, drawn = states(own), ts.random.get_state()
    assert Run(tmp_path / "a/b", **own).resume() == 0
    assert states(own).keys() == before.keys() and ts.random.get_state() == drawn
    same(states(own), before)


# --- what is kept


finite = st.floats(allow_nan=True, width=16)


@given(st.lists(st.none() | finite, min_size=1, max_size=8), st.integers(1, 4), st.sampled_from(["min", "max"]),
       st.integers(0, 8))
def test_the_last_ones_and_the_best_are_kept(
    tmp_path_factory: pytest.TempPathFactory, scores: list[float | None], keep: int, best: str, again: int,
) -> None:
    folder = tmp_path_factory.mktemp("run")
    for i, score in enumerate(scores, 1):
        if i in (1, again):                 # a process ends, and another goes on
            run = number(keep=keep, best=best)(folder)
            assert run.resume() == i - 1
        run._parts["x"].value = i
        run.save(i, score)
        real = [(s if best == "min" else -s, at) for at, s in enumerate(scores[:i], 1) if s is not None and s == s]
        steps = [f"step-{at:08}" for at in range(max(1, i - keep + 1), i + 1)]
        assert names(folder) == [*["best"] * bool(real), "latest", *steps]
        assert checkpoint.load(folder / "latest.safetensors")["step"] == i
        if real:                            # of equal ones the earliest
            kept = checkpoint.load(folder / "best.safetensors")
            assert kept["step"] == kept["x"]["value"] == min(real)[1]


@pytest.mark.parametrize("score", [1, 0.5, np.float32(0.5), np.int64(2), lambda: ts.tensor(0.5), np.array(0.5)])
def test_a_score_is_any_number(score: Any, tmp_path: Path) -> None:
    number(best="min")(tmp_path).save(1, score() if callable(score) else score)
    assert type(checkpoint.load(tmp_path / "best.safetensors")["score"]) is float


@pytest.mark.parametrize("score", [math.nan, np.float16("nan"), lambda: ts.tensor(math.nan), np.array(math.nan)])
def test_nan_is_never_the_best(score: Any, tmp_path: Path) -> None:
    run = number(best="max")(tmp_path)
    run.save(1, score() if callable(score) else score)
    run.save(2, -math.inf)
    run.save(3, score() if callable(score) else score)
    assert checkpoint.load(tmp_path / "best.safetensors")["step"] == 2
    again = number(best="max")(tmp_path)
    assert again.resume() == 3
    again.save(4, -math.inf)
    assert checkpoint.load(tmp_path / "best.safetensors")["step"] == 2


def test_a_step_may_be_saved_again(tmp_path: Path) -> None:
    run = number(keep=2)(tmp_path)
    for value, at in enumerate([3, 3, 10, 10]):
        run._parts["x"].value = value
        run.save(at)
    assert names(tmp_path) == ["latest", "step-00000003", "step-00000010"]
    assert [checkpoint.load(tmp_path / f"step-{i:08}.safetensors")["x"]["value"] for i in (3, 10)] == [1, 3]
    assert os.path.samefile(tmp_path / "latest.safetensors", tmp_path / "step-00000010.safetensors")


def test_leftovers_are_cleaned_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    dead = ["latest.safetensors.0123456789abcdef.tmp", "best.safetensors.tmp", "step-00000001.safetensors.tmp",
            "step-00000007.safetensors.0123456789abcdef.tmp"]
    stay = ["notes.txt", "log.csv.tmp", "model.safetensors", "step-one.safetensors", "model.safetensors.tmp"]
    for name in (*dead, *stay):
        (tmp_path / name).write_bytes(b"half")
    run = number(keep=1)(tmp_path)
    assert run.resume() == 0
    for i in (1, 2, 3):
        run.save(i)
    assert names(tmp_path) == sorted(["latest", "step-00000003", *(n.removesuffix(".safetensors") for n in stay)])


def test_where_files_have_one_name_each_there_are_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "no links here")
    monkeypatch.setattr(os, "link", refuses)
    train(tmp_path, until=7 * EVERY)
    assert names(tmp_path) == ["best", "latest", "step-00000018", "step-00000021"]
    same(checkpoint.load(tmp_path / "latest.safetensors"), checkpoint.load(tmp_path / "step-00000021.safetensors"))
    (tmp_path / "latest.safetensors").unlink()
    train(tmp_path, until=8 * EVERY)
    assert checkpoint.load(tmp_path / "latest.safetensors")["step"] == 24


# --- files that are not whole


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zeroed(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:-40] + bytes(40))


def foreign(path: Path) -> None:
    path.unlink()
    checkpoint.save(path, {"weights": np.ones(3)})


def other_step(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw.replace(rb'\"step\": 3', rb'\"step\": 4'))


@pytest.mark.parametrize("breaks", [torn, empty, zeroed, other_step])
def test_a_newest_file_that_is_broken_is_told_and_the_one_before_taken(breaks: Any, tmp_path: Path) -> None:
    run = number(keep=3, best="min")(tmp_path)
    for i in (1, 2, 3):
        run._parts["x"].value = [float(i)] * 20
        run.save(i, -i, table=np.full(99, i))
    breaks(tmp_path / "latest.safetensors")         # which is step 3, and the best one, too
    again = number(keep=2, best="min")(tmp_path)
    with pytest.warns(RuntimeWarning, match=r"going on from \S*step-00000002.safetensors, step 2; not whole are "
                                            r".*latest.safetensors: .*step-00000003.safetensors: .*best.safetensors"):
        assert again.resume() == 2
    assert again._parts["x"].value == [2.0] * 20 and again.extra["table"].tolist() == [2] * 99
    assert names(tmp_path) == ["best", "best.safetensors.broken", "latest", "latest.safetensors.broken",
                               "step-00000001", "step-00000002", "step-00000003.safetensors.broken"]
    again.save(3, 0.0)
    assert checkpoint.load(tmp_path / "latest.safetensors")["step"] == 3
    assert checkpoint.load(tmp_path / "best.safetensors")["step"] == 2
    assert number(best="min")(tmp_path).resume() == 3


def test_a_warning_that_is_an_error_changes_nothing(tmp_path: Path) -> None:
    number()(tmp_path, 1).save(1)
    run = number()(tmp_path, 2)
    foreign(tmp_path / "latest.safetensors")
    with pytest.raises(RuntimeWarning, match=r"expected a file of Run.save, got the entries weights"):
        run.resume()
    assert run._parts["x"].value == 2 and names(tmp_path) == ["latest", "step-00000001"]


def test_where_no_file_is_whole_nothing_begins_anew(tmp_path: Path) -> None:
    number(best="min")(tmp_path).save(1, 0.0)
    for name in names(tmp_path):
        empty(tmp_path / f"{name}.safetensors")
    run = number(best="min")(tmp_path)
    with pytest.raises(CheckpointError, match=r"no file is whole: .*latest.*step-00000001.*best.*; to begin anew, rem"):
        run.resume()
    with pytest.raises(CheckpointError, match="which this Run has neither saved nor resumed"):
        run.save(1)
    assert names(tmp_path) == ["best", "latest", "step-00000001"]


@pytest.mark.parametrize("there", ["latest", "best", "step-00000002"])
def test_any_one_file_is_enough(there: str, tmp_path: Path) -> None:
    run = number(best="max", keep=1)(tmp_path, 5)
    for i in (1, 2):
        run.save(i, 0.1 * i)
    for name in names(tmp_path):
        if name != there:
            (tmp_path / f"{name}.safetensors").unlink()
    run = number(best="max")(tmp_path)
    with pytest.raises(CheckpointError, match=rf"{there}.safetensors is there, .*: call resume\(\) before"):
        run.save(3, 0.0)
    assert run.resume() == 2 and run._parts["x"].value == 5
    assert names(tmp_path) == ["best", "latest", "step-00000002"]


def test_a_file_that_cannot_be_read_now_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = number(best="min")(tmp_path)
    run.save(1, 0.0)
    run.save(2, 1.0)
    load = checkpoint.load
    for hidden in ("latest", "best"):
        def refuses(path: Path) -> Any:
            if path.stem == hidden:         # noqa: B023
                raise checkpoint.CheckpointOSError(errno.EACCES, f"{path}: Permission denied")
            return load(path)
        monkeypatch.setattr(checkpoint, "load", refuses)
        with pytest.raises(CheckpointError, match=f"{hidden}.safetensors: Permission denied"):
            number(best="min")(tmp_path).resume()
    assert names(tmp_path) == ["best", "latest", "step-00000001", "step-00000002"]


# --- what does not fit


@pytest.mark.parametrize("name, other, says", [
    ("model", lambda own: nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 9)),
     r"model: .*wrong shapes: 3.weight: \(8, 16\) given, \(9, 16\) here"),
    ("optimizer", lambda own: optim.SGD(own["model"].parameters()), "optimizer: .*saved by another optimizer, Adam"),
    ("metrics", lambda own: Values(losses=[]), r"metrics: KeyError: .Values: expected \['losses'\]"),
    ("noise", lambda own: np.random.Generator(np.random.Philox(1)), "noise: state must be for a Philox"),
    ("data", lambda own: random.Random(0), "data: KeyError: 'state'")])
def test_a_part_that_refuses_leaves_all_as_they_were(name: str, other: Any, says: str, tmp_path: Path) -> None:
    train(tmp_path, until=6)
    own = parts(seed=3)
    learn(own, 2)
    own[name] = other(own)
    before, drawn = states(own), states({"r": runs._Random()})
    with pytest.raises(CheckpointError, match=rf"Run.resume: \S*latest.safetensors: {says}"):
        Run(tmp_path, **own).resume()
    same(states(own), before)
    same(states({"r": runs._Random()}), drawn)


def test_parts_that_load_in_place_are_put_back_too(tmp_path: Path) -> None:
    class InPlace(Values):
        def state_dict(self) -> dict[str, Any]:
            return {"array": self.array}

        def load_state_dict(self, state: Any) -> None:
            self.array[...] = state["array"]
    Run(tmp_path, a=InPlace(array=np.zeros(3)), b=Values(value=0)).save(1)
    own = {"a": InPlace(array=np.ones(3)), "b": Values(another=0)}
    with pytest.raises(CheckpointError, match="b: KeyError"):
        Run(tmp_path, **own).resume()
    assert own["a"].array.tolist() == [1, 1, 1]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_after_an_interrupt_at_any_line_of_a_save_the_next_one_mends_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    run, saved = number(keep=1, best="max")(tmp_path), 1
    run.save(saved, saved)
    for at in itertools.count(1, 1 if THOROUGH else 29):
        done = Interrupt(at - 1, "tinyseq.runs", "tinyseq.checkpoint").run(lambda: run.save(saved + 1, saved + 1))  # noqa: B023
        for name in ("latest", "best"):
            assert runs._read(tmp_path / f"{name}.safetensors")["step"] in (saved, saved + 1)
        if done:
            break
        saved += 2
        run.save(saved, saved)
        assert names(tmp_path) == ["best", "latest", f"step-{saved:08}"]
        assert runs._read(tmp_path / "best.safetensors")["step"] == saved
    assert at > 100


def test_an_interrupt_while_parts_are_loaded_waits(tmp_path: Path) -> None:
    class Late(Values):
        def load_state_dict(self, state: Any) -> None:
            signal.raise_signal(signal.SIGINT)
            super().load_state_dict(state)

    def pair(value: int) -> dict[str, Any]:
        return {"a": Late(value=value), "b": Values(value=value)}
    Run(tmp_path, **pair(1)).save(1)
    own = pair(2)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            Run(tmp_path, **own).resume()
    finally:
        signal.signal(signal.SIGINT, before)
    assert [part.value for part in own.values()] == [1, 1]


def test_a_folder_of_another_run_is_told(tmp_path: Path) -> None:
    number()(tmp_path).save(1)
    for other in ({"y": Values()}, {"x": Values(value=0), "y": Values()}):
        with pytest.raises(CheckpointError, match=rf"latest.safetensors: expected the parts {', '.join(other)}, got x: "
                                                  "is this another run's folder"):
            Run(tmp_path, **other).resume()


def test_a_part_that_is_new_begins_in_another_folder_as_the_error_says(tmp_path: Path) -> None:
    number()(tmp_path / "a", 3).save(7)
    x, scaler = Values(value=0), optim.LossScaler()
    run = Run(tmp_path / "b", x=x, scaler=scaler)
    with pytest.raises(CheckpointError, match=r"step = Run\(this one, .*, writes=False\).resume\(\), then save\("):
        Run(tmp_path / "a", x=x, scaler=scaler).resume()
    run.save(Run(tmp_path / "a", x=x, writes=False).resume())
    again = Values(value=0)
    assert Run(tmp_path / "b", x=again, scaler=scaler).resume() == 7 and again.value == 3


def test_a_stream_that_nobody_reads_is_told_when_it_is_saved(tmp_path: Path) -> None:
    """As where the loop is over one that a method made of it: a resume would begin it anew."""
    stream = ts.data.items(range(9))
    run = Run(tmp_path, data=stream)
    run.save(0)
    with pytest.warns(RuntimeWarning, match=r"Run.save: nothing of data is read: .*stream = stream.prefetch\(\)"):
        for step, _ in enumerate(stream.prefetch(), 1):
            run.save(step)
            break
    again = Run(tmp_path, data=stream)
    assert again.resume() == 1
    again.save(1)                               # where no step was made
    with pytest.warns(RuntimeWarning, match="nothing of data is read"):
        again.save(2)
    for step, _ in enumerate(stream, again.resume()):
        again.save(step + 1)
    assert again.resume() == 2 + 9


def test_scores_that_were_kept_otherwise_are_told(tmp_path: Path) -> None:
    number(best="min")(tmp_path).save(1, 0.5)
    with pytest.raises(CheckpointError, match="its scores were kept with best='min', got best='max'"):
        number(best="max")(tmp_path).resume()
    assert number()(tmp_path).resume() == 1


def test_wrong_calls_are_told(tmp_path: Path) -> None:
    for wrong, says in [
        (lambda: Run(tmp_path), "expected parts by names of your own, .*got none"),
        (lambda: Run(tmp_path, step=Values()), "not random, run, score, step, got step"),
        (lambda: Run(tmp_path, x=3), r"expected x to have state_dict\(\).* got 3: plain values go to save\(step, x="),
        (lambda: Run(tmp_path, model=nn.Linear), "expected model to have .*got the class Linear"),
        (lambda: Run(tmp_path, x=Values(), keep=0), "expected an integer 1 <= keep, got 0"),
        (lambda: Run(tmp_path, x=Values(), best="low"), "expected best to be one of None, 'min', 'max', got 'low'"),
        (lambda: Run(3, x=Values()), r"Run: expected folder to be str \| os.PathLike, got 3"),
        (lambda: number()(tmp_path).save(1, 0.5), r"expected no score without best=, got 0.5: Run\(..., best='min'\)"),
        (lambda: number()(tmp_path).save(-1), "expected an integer 0 <= step, got -1"),
        (lambda: number(best="min")(tmp_path).save(1, "x"), "Run.save: expected a number score, got 'x'"),
        (lambda: number()(tmp_path).save(1, x=2), "expected extra values by names of their own, got x"),
        (lambda: number()(tmp_path).save(1, random=2), "expected extra values by names of their own, got random"),
        (lambda: number()(tmp_path).save(1, y={1}), "y: a set would not come back"),
        (lambda: number()(tmp_path, {1: 2}).save(1), "x/value/1.*: keys must be strings"),
    ]:
        with pytest.raises((TypeError, ValueError), match=says):
            wrong()
    assert names(tmp_path) == []


def test_steps_do_not_go_back(tmp_path: Path) -> None:
    run = number()(tmp_path)
    run.save(5)
    with pytest.raises(ValueError, match="expected step to be at least 5, which was saved or resumed before, got 4"):
        run.save(4)
    run = number()(tmp_path)
    assert run.resume() == 5 and repr(run) == f"Run({str(tmp_path)!r}, step 5 of x)"


def test_a_part_that_breaks_while_it_is_saved_is_named(tmp_path: Path) -> None:
    class Broken(Values):
        def state_dict(self) -> dict[str, Any]:
            raise ZeroDivisionError("of mine")
    with pytest.raises(CheckpointError, match=r"Run: y.state_dict\(\): ZeroDivisionError: of mine"):
        Run(tmp_path, x=Values(), y=Broken()).save(1)
    assert names(tmp_path) == []


# --- disks, folders, several at once


def test_a_full_disk_leaves_the_files_whole_and_training_goes_on(tmp_path: Path) -> None:
    run = number(keep=2, best="min")(tmp_path)
    run.save(1, 0.5)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, limits[1]))
    try:
        with pytest.raises(OSError, match=r"Run.save: .*latest.safetensors: File too large") as error:
            run.save(2, 0.4, table=np.zeros(10**6))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert isinstance(error.value, CheckpointError) and error.value.errno == errno.EFBIG
    assert names(tmp_path) == ["best", "latest", "step-00000001"]
    for name in names(tmp_path):
        assert runs._read(tmp_path / f"{name}.safetensors")["step"] == 1
    run.save(3, 0.3, table=np.zeros(10**6))
    assert names(tmp_path) == ["best", "latest", "step-00000001", "step-00000003"]
    assert number(best="min")(tmp_path).resume() == 3


@pytest.mark.parametrize("call", ["link", "replace", "unlink", "fsync"])
@pytest.mark.parametrize("at", range(5))
def test_whatever_call_fails_the_folder_is_whole_and_the_next_save_mends_it(
    call: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = number(keep=1, best="max")(tmp_path)
    run.save(1, 1)
    real, count = getattr(os, call), 0

    def fails(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == at + 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*arguments, **options)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        try:
            run.save(2, 2)
        except OSError as error:
            assert "Run.save" in str(error)
    for path in tmp_path.glob("*.safetensors"):
        assert runs._read(path)["step"] in (1, 2)
    assert (tmp_path / "latest.safetensors").exists() and (tmp_path / "best.safetensors").exists()
    run.save(3, 3)
    assert names(tmp_path) == ["best", "latest", "step-00000003"]
    assert checkpoint.load(tmp_path / "best.safetensors")["step"] == 3


def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(checkpoint.CheckpointOSError, match=r"Run: folder \S*file/a: Not a directory"):
        number()(tmp_path / "file/a")

    def refuses(*_: Any) -> None:           # root may write anywhere
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    monkeypatch.setattr(runs, "open", refuses, raising=False)
    with pytest.raises(checkpoint.CheckpointOSError, match=r"Run: folder .*: Read-only file system"):
        number()(tmp_path)
    assert number(writes=False)(tmp_path).resume() == 0


def test_who_does_not_write_resumes_and_leaves_no_trace(tmp_path: Path) -> None:
    run = number(writes=False)(tmp_path / "a")
    assert run.resume() == 0
    run.save(1)
    assert os.listdir(tmp_path) == []
    number()(tmp_path / "a", 3).save(2)
    before = {path: path.stat() for path in (tmp_path / "a").iterdir()}
    run = number(writes=False)(tmp_path / "a")
    assert run.resume() == 2 and run._parts["x"].value == 3
    run.save(3)
    torn(tmp_path / "a/step-00000002.safetensors")
    with pytest.raises(CheckpointError, match="no file is whole"):
        run.resume()
    assert {*(tmp_path / "a").iterdir()} == {*before}


def test_of_two_runs_in_one_process_the_later_has_the_folder(tmp_path: Path) -> None:
    """As where a notebook's cell is run again."""
    first = number()(tmp_path, 1)
    first.save(1)
    second = number()(tmp_path, 2)
    assert second.resume() == 1
    second.save(2)
    with pytest.raises(CheckpointError, match=r"step-00000002.safetensors is there, which this Run has neither"):
        first.save(3)
    assert first.resume() == 2
    first.save(3)


def test_a_lock_of_another_is_told_and_one_that_is_left_is_not(tmp_path: Path) -> None:
    lock = runs._Lock(tmp_path / ".lock")           # flock does not ask whose process it is
    with pytest.raises(CheckpointError, match=rf"Run: folder {re.escape(str(tmp_path))}: process {os.getpid()} on \S+ "
                                              r"writes to it: end that, or take another folder; Run\(..., writes=F"):
        number()(tmp_path)
    del lock
    with number()(tmp_path), pytest.raises(ValueError, match="writes to it"):
        runs._Lock(tmp_path / ".lock")
    runs._Lock(tmp_path / ".lock")


def test_where_there_are_no_locks_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuses(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks here")
    monkeypatch.setattr(fcntl, "flock", refuses)
    number()(tmp_path).save(1)
    assert names(tmp_path) == ["latest", "step-00000001"]


# --- signals


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_signals_are_heard_in_the_block_and_handlers_come_back(name: str, tmp_path: Path) -> None:
    which = getattr(signal, name)
    default = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    before = signal.signal(which, default)
    try:
        with number()(tmp_path) as run:
            assert run.interrupted is None
            signal.raise_signal(which)
            assert run.interrupted is which and run.interrupted
            if name == "SIGINT":
                with pytest.raises(KeyboardInterrupt):
                    signal.raise_signal(which)
            else:
                signal.raise_signal(which)          # mpiexec and srun send it twice
        assert signal.getsignal(which) is default
        with run:
            assert run.interrupted is None
    finally:
        signal.signal(which, before)


def test_signals_that_others_handle_are_theirs(tmp_path: Path) -> None:
    heard: list[int] = []
    mine = [signal.signal(signal.SIGUSR1, lambda n, _: heard.append(n)), signal.signal(signal.SIGHUP, signal.SIG_IGN)]
    try:
        with number()(tmp_path) as run:
            signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGHUP)      # of nohup
            late = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        assert heard == [signal.SIGUSR1] and run.interrupted is None
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN
        assert late == run._stop
    finally:
        signal.signal(signal.SIGUSR1, mine[0])
        signal.signal(signal.SIGHUP, mine[1])
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)


def test_in_a_thread_no_signal_is_heard(tmp_path: Path) -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with number()(tmp_path) as run:
            seen.append(signal.getsignal(signal.SIGTERM))
            run.save(1)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before] and names(tmp_path) == ["latest", "step-00000001"]


def test_the_recipe_has_15_lines() -> None:
    recipe = re.findall(r"^ *(?:>>>|\.\.\.) (.*)$", str(Run.__doc__), re.MULTILINE)
    loop = recipe[:next(i for i, line in enumerate(recipe) if line.startswith("sorted"))]
    assert len(loop) <= 15 and "run.resume()" in "".join(loop) and "run.save(" in "".join(loop)
