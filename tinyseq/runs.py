"""A training that is never lost: everything it goes on from in one file, written whole or not at all.

    run = ts.runs.Run("runs/a", model=model, optimizer=optimizer, data=stream, keep=3, best="min")
    for step, batch in enumerate(stream, run.resume()):
        ...
        if (step + 1) % 100 == 0:
            run.save(step + 1, dev_loss)

The folder holds, each a file that `checkpoint.load` and `model.load(path, key="model")` read:

    latest.safetensors              what was saved last
    step-00000900.safetensors       the last `keep` ones (more names of the same files, which take no more room)
    best.safetensors                that of the best score, the earliest of equal ones

Another process may open any of them at any time; one that has a file open keeps what it opened, whatever is saved or
removed meanwhile. A run that is killed at any moment, in a save too, and started again comes to the same bits on the
same machine, backend and number of threads.
"""

from __future__ import annotations

import copy
import os
import random as python_random
import shutil
import signal
import socket
import threading
import warnings
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self
from weakref import WeakValueDictionary

import numpy as np

from tinyseq import check, checkpoint
from tinyseq.checkpoint import CheckpointError
from tinyseq.engine import random
from tinyseq.engine.tensor import Tensor
from tinyseq.interrupts import uninterrupted

__all__ = ["Run"]
check.public(__name__)

_OWN = ("random", "run", "score", "step")       # entries of a file that are no part and no extra value
# Ctrl-C, and those by which schedulers and terminals say that they will end a process
_SIGNALS = [getattr(signal, f"SIG{name}") for name in ("INT", "TERM", "HUP", "USR1", "USR2", "BREAK")
            if hasattr(signal, f"SIG{name}")]


class _Random:
    """The random numbers that no object holds: tinyseq's, Python's `random` and NumPy's `np.random`."""

    def state_dict(self) -> dict[str, Any]:
        return {"tinyseq": random.get_state(), "python": python_random.getstate(),
                "numpy": np.random.get_state(legacy=False)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        random.set_state(state["tinyseq"])
        python_random.setstate(state["python"])
        np.random.set_state(state["numpy"])


class _Generator:
    """A generator of random numbers, of NumPy, of tinyseq or of Python, as the other parts are."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator

    def state_dict(self) -> dict[str, Any]:
        if isinstance(self.generator, np.random.Generator):
            return {"state": self.generator.bit_generator.state}
        get = getattr(self.generator, "getstate", None) or self.generator.get_state
        return {"state": get()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if isinstance(self.generator, np.random.Generator):
            self.generator.bit_generator.state = state["state"]
        else:
            (getattr(self.generator, "setstate", None) or self.generator.set_state)(state["state"])


class _Lock:
    """A file that is locked as long as this lives, which no process is longer than it lives."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "a+b")  # noqa: SIM115
        try:
            import fcntl

            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.seek(0)
            holder = self.file.read(200).decode(errors="replace")
            raise ValueError(f"{holder or 'another process'} writes to it: end that, or take another folder; "
                             "Run(..., writes=False) only reads") from None
        except (ImportError, OSError):      # Windows, or a file system without locks: `save` sees others' steps
            pass
        self.file.truncate(0)
        self.file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        self.file.flush()

    def __del__(self) -> None:
        if hasattr(self, "file"):
            self.file.close()


class Run:
    """One training in one folder: `resume()` goes on from what the last `save(step)` wrote.

    The parts are what changes while it learns, by names of your own: models, optimizers, streams of data, averages,
    loss scales, schedules and metrics with a state, all that has `state_dict()` and `load_state_dict(state)`, and
    generators of random numbers (NumPy's, `ts.random.Generator`, `random.Random`). In the file besides: the random
    state of tinyseq (of `ts.random.current()`), of Python's `random` and of NumPy's `np.random`. A schedule that is a
    function of the step needs no saving.

    Kept are the last `keep` saves and, where `best` is "min" or "max", that of the smallest or largest score. With
    `writes=False` it resumes and saves nothing. Given the `world` of `ts.distributed.mpi()` only rank 0 writes; all
    resume, from a folder that all see, and what is not the same on all of them is an error; and all of them hear, at
    the same step, that one was interrupted.

    In `with run:` Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 or 2 (of Slurm: `#SBATCH --signal=USR1@120`, and `srun python
    train.py`), where nobody else handles them, do not end the process: they set `run.interrupted`, for the loop to save
    and leave; a second Ctrl-C ends it. With the block ends the right to write, which is else the Run's as long as it
    lives. Signals come to the main thread alone.

    The whole recipe. Started again, it goes on where it was:

    >>> ts.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1))
    >>> optimizer, rng = ts.optim.Adam(model.parameters()), np.random.default_rng(0)
    >>> with ts.runs.Run("runs/a", model=model, optimizer=optimizer, rng=rng, keep=3, best="min") as run:
    ...     for step in range(run.resume(), 100):
    ...         optimizer.lr = 0.01 * min(1, (step + 1) / 10)
    ...         x = rng.standard_normal((4, 8), np.float32)
    ...         loss = ts.mean((model(x) - x[:, :1]) ** 2)
    ...         optimizer.zero_grad()
    ...         loss.backward()
    ...         optimizer.step()
    ...         if (step + 1) % 20 == 0 or run.interrupted:
    ...             run.save(step + 1, loss)
    ...             if run.interrupted:
    ...                 break
    >>> sorted(path.name for path in run.folder.glob("*.safetensors"))
    ['best.safetensors', 'latest.safetensors', 'step-00000060.safetensors', 'step-00000080.safetensors',
     'step-00000100.safetensors']
    >>> ts.runs.Run("runs/a", model=model, optimizer=optimizer, rng=rng, best="min").resume()
    100

    Raises TypeError for a part without a state, CheckpointError for a folder that another process writes to, and that
    is an OSError too for one that cannot be written.
    """

    @check.constructor
    def __init__(self, /, folder: str | os.PathLike[str], *, keep: int = 3, best: str | None = None,
                 writes: bool = True, world: Any = None, **parts: Any) -> None:
        check.instance("Run", str | os.PathLike, folder=folder)
        if not (world is None or hasattr(world, "gather")):    # whose room stands above
            raise TypeError(f"Run: expected world to be that of ts.distributed.mpi(), got {check.describe(world)}")
        self.folder, self.world = Path(folder), world
        self.writes = writes and (world is None or world.rank == 0)
        self.keep: int = check.integers("Run", 1, keep=keep)
        check.choice("Run", (None, "min", "max"), best=best)
        if not parts or (taken := sorted(parts.keys() & {*_OWN})):
            raise ValueError(f"Run: expected parts by names of your own, but not {', '.join(_OWN)}, got "
                             f"{', '.join(taken) if parts else 'none'}: Run({str(folder)!r}, model=model, "
                             "optimizer=optimizer)")
        self.best = best
        self.extra: dict[str, Any] = {}                     # of the file that was resumed
        self._signal: signal.Signals | None = None
        self._parts = {name: _part(name, part) for name, part in parts.items()} | {"random": _Random()}
        self._step = -1                                     # saved or resumed last
        self._score: float | None = None                    # of the best file
        self._before: dict[int, Any] = {}
        self._lock: _Lock | None = None
        if self.writes:
            self._take()

    def __repr__(self) -> str:
        names = ", ".join(name for name in self._parts if name != "random")
        return f"Run({str(self.folder)!r}, step {max(self._step, 0)} of {names})"

    @property
    def interrupted(self) -> signal.Signals | None:
        """The signal that has come; with a `world` to any rank, and all ask for it at the same places."""
        signals = [self._signal] if self.world is None else self.world.gather(self._signal)
        return next((number for number in signals if number), None)

    # --- saving
    def save(self, step: int, score: float | None = None, **extra: Any) -> None:
        """Write all parts after `step` steps, with the `score` where the best is kept, and `extra` values (an epoch, a
        configuration, a vocabulary's text), which `checkpoint.load` finds beside the parts, and `resume` in `.extra`.

        Steps do not go back. A score of NaN is never the best. Where a save fails, as on a full disk, the files from
        before are whole, the error is a CheckpointError and an OSError, and training can go on to the next one: catch
        it if it shall. A disk needs room for keep + 2 files. With `writes=False` this does nothing.
        """
        if not self.writes:
            return
        step, score = check.integers("Run.save", 0, step=step), _number(score)
        if score is not None and self.best is None:
            raise ValueError(f"Run.save: expected no score without best=, got {score}: Run(..., best='min') or 'max'")
        if taken := sorted(extra.keys() & {*_OWN, *self._parts}):
            raise ValueError(f"Run.save: expected extra values by names of their own, got {', '.join(taken)}")
        if step < self._step:
            raise ValueError(f"Run.save: expected step to be at least {self._step}, which was saved or resumed before, "
                             f"got {step}")
        self._take()
        self._refuse_others()
        unread = [name for name, part in self._parts.items() if getattr(part, "_unread", False)]
        if unread and step > max(self._step, 0):
            warnings.warn(f"Run.save: nothing of {', '.join(unread)} is read: is the loop over a stream made of it? "
                          "Name that one: stream = stream.prefetch(), then Run(..., data=stream)", RuntimeWarning, 2)
        state = {"step": step, "score": score, **extra, **self._states(), "run": {
            "parts": [name for name in self._parts if name != "random"], "best": self.best}}
        state["run"]["checksum"] = _checksum(state)
        latest, self._step = self.folder / "latest.safetensors", step
        with checkpoint._blame(f"Run.save: folder {self.folder}"):
            for name in ("latest", "best", "step-*"):       # dead: who writes here holds the lock
                for dead in self.folder.glob(f"{name}.safetensors*.tmp"):
                    dead.unlink(missing_ok=True)
            checkpoint.save(latest, state)
            self._name(latest, step, score)

    def _refuse_others(self) -> None:
        """An error where the folder holds what this Run would replace and does not know."""
        others = [path for number, path in self._steps().items() if number > self._step]
        if self._step < 0:
            others += [path for name in ("latest", "best") if (path := self.folder / f"{name}.safetensors").exists()]
        if others:
            raise CheckpointError(f"Run.save: {others[-1]} is there, which this Run has neither saved nor resumed: "
                                  "call resume() before the first step, or take another folder")

    def _states(self) -> dict[str, Any]:
        states = {}
        for name, part in self._parts.items():
            with checkpoint._blame(f"Run: {name}.state_dict()"):
                states[name] = _host(part.state_dict())
        return states

    def _name(self, latest: Path, step: int, score: float | None) -> None:
        """Give the last save its other names, and take away the names of old ones."""
        _link(latest, self._steps().get(step, self.folder / f"step-{step:08}.safetensors"))
        if score is not None and score == score and (
                self._score is None or (score < self._score if self.best == "min" else score > self._score)):
            _link(latest, self.folder / "best.safetensors")
            self._score = score
        for _, old in sorted(self._steps().items())[:-self.keep]:
            with suppress(PermissionError):     # of Windows, while it is read: the next save tries again
                old.unlink(missing_ok=True)

    def _steps(self) -> dict[int, Path]:
        """The files of single steps in the folder."""
        files = {path.name[5:-12]: path for path in self.folder.glob("step-*.safetensors")}
        return {int(number): path for number, path in files.items() if number.isdecimal()}

    # --- going on
    def resume(self) -> int:
        """Load the newest whole file into all parts, and give its step; 0, and nothing changed, in a new folder.

        A file that is torn, or has changed since it was written, is told in a warning and set aside as NAME.broken, and
        the one before is taken; where none is whole that is a CheckpointError. So is what a part refuses, with its
        name, and a file of other parts: then all parts are as they were. To go back to an earlier step, remove
        latest.safetensors and the steps after it. `extra` then holds what `save` was given.
        """
        if self.writes:
            self._take()
        path, state, broken = self._newest()
        found = [] if self.world is None else self.world.gather((state.get("step", 0), _checksum(state)))
        if other := next((rank for rank, what in enumerate(found) if what != found[0]), 0):    # and would learn another
            raise CheckpointError(f"Run.resume: folder {self.folder}: rank {other} finds step {found[other][0]} there, "
                                  f"rank 0 another file, of step {found[0][0]}: give a folder that all ranks see, with "
                                  "the same files")
        if path is None:
            return 0
        score = self._best_score(state, broken)
        if broken:
            warnings.warn(f"Run.resume: going on from {path}, step {state['step']}; not whole are {_told(broken)}",
                          RuntimeWarning, stacklevel=2)
        self._load(path, state)
        self._score = score
        self.extra = copy.deepcopy({k: v for k, v in state.items() if k not in {*_OWN, *self._parts}})
        self._step = state["step"]
        if self.writes:     # what a kill between two names has left undone
            with checkpoint._blame(f"Run.resume: folder {self.folder}"):
                for bad in broken:
                    os.replace(bad, f"{bad}.broken")
                latest = self.folder / "latest.safetensors"
                if path != latest:
                    _link(path, latest)
                self._name(latest, self._step, state["score"])
        return self._step

    def _newest(self) -> tuple[Path | None, dict[str, Any], dict[Path, CheckpointError]]:
        """The newest whole file and what it holds, and the newer ones that are not, with what is wrong."""
        steps = [path for _, path in sorted(self._steps().items(), reverse=True)]
        broken: dict[Path, CheckpointError] = {}
        for path in (self.folder / "latest.safetensors", *steps, self.folder / "best.safetensors"):
            if state := _whole(path, broken):
                return path, state, broken
        if broken:
            raise CheckpointError(f"Run.resume: folder {self.folder}: no file is whole: {_told(broken)}; to begin "
                                  "anew, remove them or take another folder")
        return None, {}, broken

    def _best_score(self, state: Mapping[str, Any], broken: dict[Path, CheckpointError]) -> float | None:
        """That of the best file, if there is a whole one; scores that were kept otherwise are refused."""
        if self.best is None:
            return None
        best = _whole(self.folder / "best.safetensors", broken) or {}
        for kept in (state, best):
            if kept.get("score") is not None and kept["run"]["best"] != self.best:
                raise CheckpointError(f"Run.resume: folder {self.folder}: its scores were kept with "
                                      f"best={kept['run']['best']!r}, got best={self.best!r}")
        return best.get("score")

    def _load(self, path: Path, state: Mapping[str, Any]) -> None:
        """Give all parts what is theirs, or none."""
        here, there = [name for name in self._parts if name != "random"], state["run"]["parts"]
        if {*here} != {*there}:
            raise CheckpointError(f"Run.resume: {path}: expected the parts {', '.join(here)}, got {', '.join(there)}: "
                                  "is this another run's folder? With new parts go on in another: step = Run(this one, "
                                  "its parts, writes=False).resume(), then save(step) of a Run of all parts there")
        before = copy.deepcopy(self._states())
        with uninterrupted():
            try:
                for name, part in self._parts.items():
                    with checkpoint._blame(f"Run.resume: {path}: {name}"):
                        part.load_state_dict(state[name])
            except BaseException:
                for name, part in self._parts.items():
                    part.load_state_dict(before[name])
                raise

    # --- the right to write, and signals
    def _take(self) -> None:
        """Make the folder this Run's own, unless it is: another process's is an error; one of this process loses it."""
        if self._lock is not None:
            return
        with checkpoint._blame(f"Run: folder {self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            key = os.path.realpath(self.folder)
            other = _writers.get(key)
            if other is not None and other._lock is not None:   # such as a notebook's cell that is run again
                self._lock, other._lock = other._lock, None
            else:
                self._lock = _Lock(self.folder / ".lock")
            _writers[key] = self

    def __enter__(self) -> Self:
        self._signal = None
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if handler in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = handler
                    signal.signal(number, self._stop)
        return self

    def _stop(self, number: int, _: object) -> None:
        self._signal = signal.Signals(number)
        if number == signal.SIGINT:     # who presses Ctrl-C again means it; schedulers send SIGTERM more than once
            signal.signal(number, self._before[number])

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        while self._before:
            number, handler = self._before.popitem()
            if signal.getsignal(number) == self._stop:      # and nobody else's by now
                signal.signal(number, handler)
        self._lock = None


_writers: WeakValueDictionary[str, Run] = WeakValueDictionary()     # by folder, in this process


def _forked() -> None:
    """A child process has no right to write, and does not hold on to its parent's."""
    for run in list(_writers.values()):
        run._lock = None
    _writers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _part(name: str, part: Any) -> Any:
    if isinstance(part, (np.random.Generator, random.Generator, python_random.Random)):
        return _Generator(part)
    if isinstance(part, type) or not all(callable(getattr(part, f, None)) for f in ("state_dict", "load_state_dict")):
        got = f"the class {part.__name__}" if isinstance(part, type) else check.describe(part)
        raise TypeError(f"Run: expected {name} to have state_dict() and load_state_dict(), or to be a generator of "
                        f"random numbers, got {got}: plain values go to save(step, {name}=...)")
    return part


def _number(score: Any) -> float | None:
    """A score as a float, which NaN may be."""
    kinds = (float, np.floating, np.ndarray, Tensor)
    if isinstance(score, kinds) and getattr(score, "size", 1) == 1 and score != score:
        return float("nan")
    return None if score is None else float(check.numbers("Run.save", score=score))


def _host(value: Any) -> Any:
    """The same with arrays of NumPy: what is on a device is copied once, for the checksum and the file."""
    if isinstance(value, dict):
        return {key: _host(inner) for key, inner in value.items()}
    return np.asarray(value._host()) if isinstance(value, Tensor) else value


def _checksum(value: Any, total: int = 0) -> int:
    """Of all that a file holds, in whatever order."""
    if isinstance(value, dict):
        for key in sorted(value, key=repr):
            total = _checksum(value[key], zlib.crc32(repr(key).encode(), total))
        return total
    value = _host(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":    # others are refused by `checkpoint.save`
        value = np.asarray(value, value.dtype.newbyteorder("<"), order="C")
        total = zlib.crc32(repr((value.dtype.str, value.shape)).encode(), total)
        return zlib.crc32(value.reshape(-1).view(np.uint8), total)
    return zlib.crc32(repr(value).encode(errors="replace"), total)


def _read(path: Path) -> dict[str, Any]:
    """What `Run.save` wrote, as it wrote it."""
    state = checkpoint.load(path)
    run = state.get("run")
    if not isinstance(run, dict) or "checksum" not in run:
        raise CheckpointError(f"{path}: expected a file of Run.save, got the entries {', '.join(state)}")
    if run.pop("checksum") != _checksum(state):
        raise CheckpointError(f"{path}: its content has changed since it was written")
    return state


def _whole(path: Path, broken: dict[Path, CheckpointError]) -> dict[str, Any] | None:
    """What a file holds; None of one that is not there, or not whole, which `broken` then says."""
    try:
        return _read(path)
    except checkpoint.CheckpointNotFoundError:
        return None
    except checkpoint.CheckpointOSError:    # one that cannot be read now may be whole
        raise
    except CheckpointError as error:
        broken[path] = error
        return None


def _link(file: Path, name: Path) -> None:
    """Give a file another name, at once in the place of what has it; where the file system has no such links, a copy.

    A link that has a file of its own, not a symbolic one: it is whole without any other name.
    """
    temporary = name.with_name(f"{name.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(file, temporary)
    except OSError:
        def write(target: BinaryIO) -> None:
            with open(file, "rb") as source:
                shutil.copyfileobj(source, target)
        checkpoint._replace(name, write)
    else:
        os.replace(temporary, name)
        temporary.unlink(missing_ok=True)       # where both were the same file, it is still there


def _told(broken: Mapping[Path, CheckpointError]) -> str:
    return "; ".join(str(error) for error in broken.values())
