"""Where a training step spends its time: by op and by module, forward and backward, and in Python around them."""

from __future__ import annotations

import json
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter_ns as clock
from typing import Any, NamedTuple, NoReturn, Self

from tinyseq import backends, check
from tinyseq.engine.autograd import watching
from tinyseq.engine.debug import flat
from tinyseq.glance.calls import Calls, Place, made
from tinyseq.glance.table import amount, share, table, time

KERNELS = ("op", "pull", "update")  # what counts as inside of the kernels
KINDS = {"op": "kernels of ops", "pull": "kernels of pull-backs", "update": "kernels of updates",
         "module": "Python in modules' calls", "backward": "Python in the walk back"}


class Event(NamedTuple):
    """One call: from `start` to `end` on the clock, in nanoseconds. Of that `net` is without what the profile itself
    took meanwhile, and `own` is net of what else ran inside."""

    kind: str  # module, op, pull (a pull-back of an op), backward (the walk back), update (of an optimizer)
    name: str
    place: Any  # the module whose forward it belongs to
    backward: bool  # whether it ran on the way back
    start: int
    end: int
    net: int
    own: int
    made: int  # bytes
    thread: int
    held: int  # bytes in use after it, 0 if nobody asked


class _Thread:
    """What is open in a thread."""

    def __init__(self, here: Place) -> None:
        self.here = here
        self.inside = 0  # net nanoseconds of what has ended inside of what is open
        self.spent = 0  # by the profile itself
        self.backward = 0  # how many walks back are open
        self.entered = self.wall = 0  # when the block was; nanoseconds in it


class profile(Calls):
    """Time and memory by op and by module, of what this thread does in the block: `with ts.profile() as profile:`.

    `print(profile)` gives three tables: where the time went as a whole, by op, by module; `profile.trace(path)` writes
    a file for chrome://tracing or ui.perfetto.dev. The first step makes what later ones find made: run one before. The
    object may be entered again, in other threads too, and adds up; inside itself or another profile it is refused. An
    error ends the block as usual, and what was measured up to there is kept.

    An op's time is that of its body: the call of the kernel, without what the engine does around it; its `backward`
    time that of its pull-backs, which count to the module whose forward called the op, wherever in the block they run.
    What `ts.recompute` computes again counts as backward. **Python** is what is left of the wall time:
    the engine's recording and its walk back, the code of modules, and everything else in the block. The profile's own
    time is measured call by call and taken off all of it, but for the calls of its hooks, 2 to 3 microseconds for each
    op and pull-back, which count as Python: 3 % of a step whose kernels take milliseconds, half as much again of one
    that is made of tiny ops (`tests/benchmarks/profile.py`). On a device each op is waited for, so that its time is its
    own: what would run at the same time as Python runs after it, and a step takes longer than without the profile.

    "made" are the bytes of new arrays that ops and pull-backs return, views aside. With `memory=True` the memory in use
    is asked for after each op, as Python's tracemalloc counts it (arrays and all else; on a device the pool's), in the
    trace too, and `peak` is the most of it; tracemalloc makes Python slower, so measure time without.

    A watcher inside, such as `ts.debug`, sees the ops in the place of the profile.

    >>> model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh()), ts.ones((2, 3))
    >>> with ts.profile() as profile:
    ...     model(x).sum().backward()
    >>> print(profile)
    wall ... ms: ...
    >>> [(op["name"], op["calls"]) for op in profile.ops() if op["name"] == "linear"]
    [('linear', 1)]

    >>> profile.wall >= profile.kernels + profile.spent > 0, 0 < profile.python < 1
    (True, True)
    >>> [(row["path"], row["calls"]) for row in profile.modules()][1:]
    [('Sequential', 1), ('Sequential.0', 1), ('Sequential.1', 1)]
    """

    def __init__(self, memory: bool = False) -> None:
        super().__init__()
        check.choice("profile", (True, False), memory=memory)
        self.memory, self.peak = memory, 0
        self.events: list[Event] = []
        self._threads: dict[int, _Thread] = {}

    def __enter__(self) -> Self:
        if any(isinstance(watcher, Calls) for watcher in watching.stack.get()):
            raise RuntimeError("profile: this block is inside of another profile: leave one of them out")
        if self.memory:
            _trace_memory(1)
        super().__enter__()
        self._thread().entered = clock()
        return self

    def __exit__(self, *exc: object) -> None:
        thread = self._thread()
        thread.wall += clock() - thread.entered
        super().__exit__(*exc)
        if self.memory:
            _trace_memory(-1)

    def __call__(self, fn: Any) -> NoReturn:
        """Refused: a profile is a `with` block."""
        raise TypeError("profile: expected `with ts.profile() as profile:`, not a decorator, which leaves no object to "
                        "print")

    # --- while it runs
    def _thread(self) -> _Thread:
        ident = threading.get_ident()
        if ident not in self._threads:
            self._threads[ident] = _Thread(self.outside)
        return self._threads[ident]

    def _timed(self, asked: int, thread: _Thread, kind: str, name: str, place: Any, fn: Callable[..., Any],
               args: Sequence[Any], kwargs: dict[str, Any], given: Any = None) -> Any:
        """`fn(*args, **kwargs)`, as an event, for which the profile was `asked`. The bytes of its output are counted
        that is not `given`, if that is."""
        outer, thread.inside, out = thread.inside, 0, None
        start = clock()
        thread.spent += start - asked
        spent = thread.spent
        try:
            out = fn(*args, **kwargs)
            if kind in KERNELS:
                _wait(_arrays(kind, out))
            return out
        finally:
            end = clock()
            net = end - start - (thread.spent - spent)
            new = made(_arrays(kind, out), given) if given is not None else 0
            self.events.append(Event(kind, name, place, thread.backward > 0, start, end, net, net - thread.inside, new,
                                     threading.get_ident(), self._held(_arrays(kind, out)) if kind in KERNELS else 0))
            thread.inside = outer + net
            thread.spent += clock() - end

    def _held(self, out: Any) -> int:
        if not self.memory:
            return 0
        array = next(flat(out), None)
        if array is None or backends.on_host(array):
            now, most = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
        else:
            now = most = backends.of(array).used_bytes()
        self.peak = max(self.peak, most)
        return int(now)

    def run(self, body: Any, raw: list[Any], kwargs: dict[str, Any]) -> Any:
        asked, thread = clock(), self._thread()
        return self._timed(asked, thread, "op", body.__name__.lstrip("_"), thread.here, body, raw, kwargs, raw)

    def forward(self, name: str, body: Any, raw: list[Any], kwargs: dict[str, Any], out: Any, pulls: Any) -> Any:
        asked, thread = clock(), self._thread()
        name = name.lstrip("_")
        told = tuple([pull and self._pull(name, thread.here, pull) for pull in pulls]) if type(pulls) is tuple else (
            pulls and self._pull(name, thread.here, pulls))
        thread.spent += clock() - asked
        return told

    def _pull(self, name: str, place: Any, pull: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any) -> Any:
            asked = clock()
            if self not in watching.stack.get():
                return pull(*given)
            return self._timed(asked, self._thread(), "pull", name, place, pull, given, {}, given)

        return timed

    def call(self, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        asked, thread = clock(), self._thread()
        above, thread.here = thread.here, self.place(args[0], thread.here)
        thread.here.calls += not thread.backward
        try:
            return self._timed(asked, thread, "module", thread.here.path, thread.here, plain, args, kwargs)
        finally:
            thread.here = above

    def back(self, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        asked, thread = clock(), self._thread()
        thread.backward += 1
        try:
            return self._timed(asked, thread, "backward", "backward", self.outside, plain, args, kwargs)
        finally:
            thread.backward -= 1

    def in_place(self, name: str, body: Callable[..., Any], args: Sequence[Any]) -> Any:
        return self._timed(clock(), self._thread(), "update", name, self.outside, body, args, {})

    # --- what was found
    @property
    def wall(self) -> int:
        """Nanoseconds in the block: the sum over all times that it was entered."""
        return sum(thread.wall for thread in self._threads.values())

    @property
    def spent(self) -> int:
        """Nanoseconds of the wall time that the profile itself took, which no other figure has in it."""
        return sum(thread.spent for thread in self._threads.values())

    @property
    def kernels(self) -> int:
        """Nanoseconds inside the bodies of ops, pull-backs and updates."""
        return sum(event.own for event in self.events if event.kind in KERNELS)

    @property
    def python(self) -> float:
        """The share of Python: of the wall time, without what the profile took, the part outside the kernels."""
        whole = self.wall - self.spent
        return 1 - self.kernels / whole if whole > 0 else 0.0

    def ops(self) -> list[dict[str, Any]]:
        """A dictionary for each op, the longest first: `name`, `calls`, `forward` and `backward` (nanoseconds),
        `pulls` (calls of its pull-backs), `made` (bytes)."""
        found: dict[str, dict[str, Any]] = {}
        for event in self.events:
            if event.kind in KERNELS:
                empty = dict(name=event.name, calls=0, forward=0, pulls=0, backward=0, made=0)
                row = found.setdefault(event.name, empty)
                row["pulls" if event.kind == "pull" else "calls"] += 1
                row["backward" if event.backward or event.kind == "pull" else "forward"] += event.own
                row["made"] += event.made
        return sorted(found.values(), key=lambda row: -row["forward"] - row["backward"])

    def modules(self) -> list[dict[str, Any]]:
        """A dictionary for each module, in the order of the calls, with what runs below it: `path`, `kind` (its class),
        `depth`, `calls`, `forward` (nanoseconds), `python` (the part of it outside the kernels), `backward`, `made`.

        The first row, of depth 0, is what runs outside of all modules: functions of a loss, updates.
        """
        own: dict[Any, dict[str, int]] = {}
        for event in self.events:
            if event.kind != "backward":
                row = own.setdefault(event.place, dict(forward=0, python=0, backward=0, made=0))
                back = event.backward or event.kind == "pull"
                row["backward" if back else "forward"] += event.own
                row["python"] += event.own if event.kind == "module" and not back else 0
                row["made"] += event.made
        rows = []
        for depth, place in self.outside.walk():
            below = [own[p] for _, p in place.walk() if p in own] if depth else [own[p] for p in [place] if p in own]
            rows.append(dict(path=place.path, kind=place.kind, depth=depth, calls=place.calls) | {
                name: sum(row[name] for row in below) for name in ("forward", "python", "backward", "made")})
        return rows

    def __repr__(self) -> str:
        whole = self.wall - self.spent
        lines = [f"wall {time(self.wall)} ms: {time(whole)} ms, and {time(self.spent)} ms of this profile itself, "
                 "taken off below", ""]
        parts = {label: sum(event.own for event in self.events if event.kind == kind) for kind, label in KINDS.items()}
        parts["Python elsewhere"] = whole - sum(parts.values())
        lines += [table(("where", "ms", "share"), [(k, time(part), share(part, whole)) for k, part in parts.items()])]
        lines += [f"Python in all: {100 * self.python:.1f} %"]
        lines += [f"most memory in use: {amount(self.peak, 'B')}"] * self.memory
        ops = [(op["name"], f"{op['calls'] or '-'}", time(op["forward"]), f"{op['pulls'] or '-'}", time(op["backward"]),
                share(op["forward"] + op["backward"], whole), amount(op["made"], "B")) for op in self.ops()]
        lines += ["", table(("op", "calls", "forward ms", "pulls", "backward ms", "share", "made"), ops), ""]
        head = ("module", "class", "calls", "forward ms", "Python ms", "backward ms", "share", "made")
        return "\n".join([*lines, table(head, list(self._lines(whole)), left=2)])

    def _lines(self, whole: int) -> Iterator[tuple[str, ...]]:
        for row, (depth, place) in zip(self.modules(), self.outside.walk(), strict=True):
            label = "  " * (depth - 1) + place.label if depth else "(outside modules)"
            yield (label, row["kind"], f"{row['calls'] or '-'}", time(row["forward"]), time(row["python"]),
                   time(row["backward"]), share(row["forward"] + row["backward"], whole), amount(row["made"], "B"))

    def trace(self, path: str | os.PathLike[str]) -> None:
        """Write the events as a file of JSON that chrome://tracing and ui.perfetto.dev show: modules, and in them ops,
        nested, a row for each thread, in microseconds from the first. The times are those of the clock, with what the
        profile took in between."""
        first = min((event.start for event in self.events), default=0)
        process = os.getpid()
        found: list[dict[str, Any]] = [
            {"ph": "M", "name": "thread_name", "pid": process, "tid": thread, "args": {"name": f"thread {n}"}}
            for n, thread in enumerate(self._threads)]
        for event in sorted(self.events, key=lambda event: (event.start, -event.end)):
            name = f"{event.name}.pull" if event.kind == "pull" else event.name
            found.append({"ph": "X", "name": name, "cat": event.kind, "pid": process, "tid": event.thread,
                          "ts": (event.start - first) / 1000, "dur": (event.end - event.start) / 1000,
                          "args": {"module": event.place.path, "made": event.made}})
            if event.held:
                found.append({"ph": "C", "name": "memory", "pid": process, "ts": (event.end - first) / 1000,
                              "args": {"bytes": event.held}})
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"traceEvents": found, "displayTimeUnit": "ms"}, file)


def _arrays(kind: str, out: Any) -> Any:
    """What a body returned, without its pull-backs."""
    return out[0] if kind == "op" and type(out) is tuple and out else out


def _wait(out: Any) -> None:
    """Until a device has computed what came out."""
    for array in flat(out):
        if not backends.on_host(array):
            backends.of(array).synchronize()
            break


_tracing, _lock = [0, False], threading.Lock()  # how many blocks ask for the memory; whether it was they who began


def _trace_memory(change: int) -> None:
    with _lock:
        _tracing[0] += change
        if change > 0 and not tracemalloc.is_tracing():
            tracemalloc.start()
            _tracing[1] = True
        elif not _tracing[0] and _tracing[1]:
            tracemalloc.stop()
            _tracing[1] = False
