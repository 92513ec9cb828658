"""A step as one launch: recorded once on a GPU, and repeated from then on."""

from __future__ import annotations

import functools
import gc
import linecache
import traceback
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np

from tinyseq import backends, check
from tinyseq.backends import captured
from tinyseq.engine import streams
from tinyseq.engine.autograd import in_slots, watching
from tinyseq.engine.tensor import Array, Tensor
from tinyseq.interrupts import together, uninterrupted
from tinyseq.nn.module import Module

P = ParamSpec("P")
R = TypeVar("R")
REHEARSALS = 2  # in the first kernels are compiled, states begin and memory is taken; the second shows what is constant


def capture(step: Callable[P, R]) -> Callable[P, R]:
    """The same step, which a GPU does in one launch from its third call on, a CUDA graph; elsewhere the step itself.

    A step of a small model is a hundred launches of a few microseconds, most of which Python takes. The first two
    calls run as ever; in the third every launch is recorded and none is made; from then on the device repeats them and
    Python runs nothing of the step. So arguments are Tensors, arrays, or what never changes, in tuples, lists and
    dictionaries, of the shapes and dtypes of the first call; what is returned are Tensors, or None, in the same.

    >>> model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.1), nn.Linear(8, 2))
    >>> optimizer = ts.optim.AdamW(model.parameters())
    >>> schedule = ts.optim.schedules.cosine(0.01, steps=10)
    >>> @ts.capture
    ... def step(x, y):
    ...     loss = F.cross_entropy(model(x), y)
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     norm = ts.optim.clip_grad_norm_(model.parameters(), 1.0)
    ...     optimizer.step()
    ...     return loss, norm
    >>> for i in range(10):
    ...     optimizer.lr = schedule(i)                        # outside: inside it would be set once
    ...     loss, norm = step(ts.ones((4, 3)), ts.tensor([0, 1, 1, 0]))
    >>> optimizer.state[0]["steps"]
    10

    What is another one each time, though no Python runs: the arguments, hyperparameters of optimizers and the number of
    their step, the random numbers that are drawn on the device (dropout), and what a layer keeps (`nn.BatchNorm1d`).
    All else is what it was: numbers, branches, constants from the host. What a step returns are copies, without a
    graph; `grad` of a parameter is written to by the next call. The memory that a step takes stays taken while it is
    there. A step is for one thread.

    No part of a step, and a RuntimeError that names the line: to look at a number (`item`, `float`, an `if` on a
    Tensor, `LossScaler`); random numbers of the host (`ts.random`), or others from it than in the call before; to set
    a hyperparameter, `update` of EMA and SWA; to use gradients from before the step, or to keep a tensor beside what
    is returned; sorts, and products of vectors. An argument of another shape, or another constant, is a ValueError
    that shows both: each gets a `ts.capture(step)` of its own. So does the step once a parameter was given another
    array (`load_state_dict`, `to`, an average that is applied), the model was switched by `train` or `eval`, or a state
    was loaded into the optimizer: until then it is a RuntimeError.
    """
    check.function("capture", step=step)
    owner = _Captured(step)

    @functools.wraps(step, updated=())
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return owner(*args, **kwargs)  # type: ignore[no-any-return]

    return call


class _Captured:
    """A step, and what repeats it: nothing at first."""

    def __init__(self, step: Callable[..., Any]) -> None:
        self.step, self.runs = step, 0
        self.recording: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves, given = dict[str, Any](), [args, kwargs]
        _each(given, leaves.__setitem__)
        arrays = {place: a for place, x in leaves.items() if (a := _array(place, x)) is not None}
        looks = {place: check.describe(arrays[place]) if place in arrays else x for place, x in leaves.items()}
        if self.recording is None:
            there = next((x for x in arrays.values() if not isinstance(x, np.ndarray)), None)
            self.backend = backends.active() if there is None else backends.of(there)
            if captured.current() is not None or not hasattr(self.backend, "recording"):  # part of another; no device
                return self.step(*args, **kwargs)
            self.recording, self.looks = self.backend.recording(), looks
            self.inputs = {place: Tensor(self.backend.asarray(x, copy=True)) for place, x in arrays.items()}
        _same(self.looks, looks)
        for place, x in arrays.items():
            self.inputs[place]._data[...] = self.backend.asarray(x)
        args, kwargs = _each(given, lambda place, x: self.inputs.get(place, x))
        run = functools.partial(self.step, *args, **kwargs)
        if self.runs < REHEARSALS:
            with _Reading(self.recording) as reading:
                self._returned(self.recording.run("rehearsed", run))
            self.held, self.runs = reading.tensors(), self.runs + 1
        else:
            with uninterrupted():
                if self.runs == REHEARSALS:
                    self._record(run)
                else:
                    self._again()
                self.recording.launch()
                together(*[(t, "grad", g) for t, g in self.grads])
        copies = iter(self.backend.copies([x._data for x in self.results]))
        return _each(self.out, lambda _, x: x if x is None else Tensor(next(copies)))

    def _returned(self, out: Any) -> None:
        """What the step returned: Tensors and None."""
        self.results = list[Tensor]()

        def leaf(place: str, x: Any) -> Tensor | None:
            if isinstance(x, Tensor):
                self.results.append(x.detach())
            elif x is not None:
                raise RuntimeError(f"it returns {check.describe(x)}, which would be the same ever after, expected "
                                   "Tensors and None, in tuples, lists and dictionaries")
            return x if x is None else self.results[-1]

        self.out = _each(out, leaf, "returned")

    def _record(self, run: Callable[[], Any]) -> None:
        """The step once more, of which nothing is computed before it is launched."""
        before = [(t, t._data, t.grad) for t in self.held]
        together(*[(t, "grad", _Earlier(g)) for t, _, g in before if g is not None])
        try:
            with _Reading(self.recording), streams.recording() as drawn:
                drawn.draws = _Streams(self.recording)
                self.recording.record(lambda: self._settle(run(), before))
                self._refuse_what_is_kept()
        except BaseException as error:
            moved = [change for t, a, _ in before if t._data is not a for change in t._holds(a)]
            together(*[(t, "grad", g) for t, _, g in before], *moved, *reversed(self.recording.before))
            self.recording, self.runs = None, 0
            if not isinstance(error, RuntimeError):
                raise
            raise RuntimeError(f"capture: this step cannot be recorded: {_line(error)}{error}. What ts.capture says is "
                               "no part of a step goes before or after the call") from error
        self.arrays, tensors = [(t, a) for t, a, _ in before], {id(t) for t in self.held}
        self.modes = [(m, m.training) for m in _alive(Module) if not tensors.isdisjoint(map(id, vars(m).values()))]
        self.runs += 1

    def _settle(self, out: Any, before: list[tuple[Tensor, Array, Tensor | None]]) -> None:
        """As the last of the step: what it put in new arrays is copied to where the next one looks for it."""
        self._returned(out)
        for t, a, g in before:
            if t._data is not a:
                a[...] = t._data
                together(*t._holds(a))
            t.grad = g if type(t.grad) is _Earlier else t.grad  # which the step has nothing to do with
        self.grads = [(t, t.grad) for t, _, g in before if t.grad is not g]

    def _refuse_what_is_kept(self) -> None:
        """A tensor of the step that somebody has besides would stay that of this one, or is looked for in the next."""
        gc.collect()
        own = {*map(id, self.results), *[id(g) for _, g in self.grads]}
        for t in _alive(Tensor):
            if id(t) not in own and self.recording.made(getattr(t, "_data", None)):
                raise RuntimeError(f"a tensor {check.describe(t)} that it computes is kept beside what it returns: "
                                   "return it, pass it to the next call, or write it to one that is, t.data = ...")

    def _again(self) -> None:
        """What Python does for a step that is repeated."""
        for t, a in self.arrays:
            if t._data is not a:
                raise RuntimeError(f"capture: a tensor {check.describe(t)} that it uses has another array since then "
                                   "(load_state_dict, to, .data = .., averages that are applied): record it anew, "
                                   "ts.capture(step)")
        for module, mode in self.modes:
            if module.training != mode:
                raise RuntimeError(f"capture: {type(module).__name__} was switched by train() or eval() since the step "
                                   "was recorded: each mode gets a ts.capture(step) of its own")
        self.recording.run("repeated", lambda: [work() for work in self.recording.works])


class _Earlier(Tensor):
    """In the place of a gradient from before the step, which that may forget and not use."""

    def __init__(self, grad: Tensor) -> None:
        self.node, self.grad = None, None

    @property
    def _data(self) -> Array:
        raise RuntimeError("a gradient from before the step is used or added to: zero_grad() comes before backward(), "
                           "and several backward() of one update are one step")


class _Streams(list[tuple[int, int]]):
    """The streams that are drawn while a step is recorded: the next ones from there are drawn each time."""

    def __init__(self, recording: captured.Recording) -> None:
        self.recording = recording

    def append(self, drawn: tuple[int, int]) -> None:
        recording, source = self.recording, streams.current()
        if drawn in recording.draws:  # recomputed
            return
        if source.get_state() != (drawn[0], drawn[1] + 1):
            raise RuntimeError("a draw with generator=...: draw in a block, `with generator:`")
        recording.before.append((source, "_state", drawn))
        recording.draws[drawn] = recording.put(np.array(drawn, np.uint64))
        recording.works.append(lambda: recording.put(np.array(source._next(), np.uint64)))


class _Reading(watching):
    """Which tensors that were there before are read by the ops in a block."""

    def __init__(self, recording: Any) -> None:
        self.recording, self.read = recording, set[int]()
        self.before = [(t, t._data) for t in _alive(Tensor) if type(t) is not _Earlier and hasattr(t, "_data")]

    def forward(self, name: str, body: Any, raw: list[Any], kwargs: dict[str, Any], out: Any, pulls: Any) -> Any:
        found = [*in_slots(raw), *kwargs.values()]
        self.read.update(map(id, found))
        self.recording.keep(found)
        return pulls

    def in_place(self, name: str, body: Callable[..., Any], args: Any) -> Any:
        self.read.update(id(x) for a in args if isinstance(a, list) for x in a)
        return body(*args)

    def tensors(self) -> list[Tensor]:
        return [t for t, a in self.before if id(a) in self.read]


def _alive(kind: Any) -> list[Any]:
    return [x for x in gc.get_objects() if issubclass(type(x), kind)]


def _each(tree: Any, leaf: Callable[[str, Any], Any], place: str = "") -> Any:
    """`tree`, of tuples, lists and dictionaries, with leaf(place, x) for each other x in it."""
    if isinstance(tree, dict):
        return {key: _each(x, leaf, f"{place}[{key!r}]") for key, x in tree.items()}
    if not isinstance(tree, (list, tuple)):
        return leaf(place, tree)
    parts = [_each(x, leaf, f"{place}[{i}]" if place else ("args", "kwargs")[i]) for i, x in enumerate(tree)]
    return tree._make(parts) if hasattr(tree, "_make") else type(tree)(parts)


def _array(place: str, x: Any) -> Array | None:
    """The array of an argument, None of what is constant."""
    if isinstance(x, Tensor) and x.requires_grad:
        raise TypeError(f"capture: {place} requires a gradient, which no call brings back: pass x.detach(); of a "
                        "parameter the step may have the gradient without it among the arguments")
    if isinstance(x, (np.ndarray, np.generic)):
        return np.asarray(x)
    return x._data if isinstance(x, Tensor) else x if type(x) in backends.arrays else None


def _same(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuse arguments that do not look as when the step was recorded."""
    def told(x: Any) -> str: return x if isinstance(x, str) else check.describe(x)
    def differ(a: Any, b: Any) -> bool:
        return a is not b and not (type(a) is type(b) and isinstance(a, (str, int, float)) and a == b)

    if wrong := [f"{place} was {told(old.get(place, 'not there'))}, and is {told(new.get(place, 'not there'))}"
                 for place in {**old, **new} if differ(old.get(place, old), new.get(place, new))]:
        raise ValueError(f"capture: {'; '.join(wrong)}. A recorded step takes arrays of one shape and dtype, and "
                         "constants: each other gets a ts.capture(step) of its own, or calls the step as it is")


def _line(error: BaseException) -> str:
    """`file:line: code: ` of the user's line that called what raised an error."""
    frames = [(frame.f_globals.get("__name__", "").partition(".")[0], (frame.f_code.co_filename, line))
              for frame, line in traceback.walk_tb(error.__traceback__)]
    last = max(i for i, frame in enumerate(frames) if frame[0] == "tinyseq")
    users = [place for name, place in [*frames[last:], *frames[:last]] if name not in ("tinyseq", "contextlib")]
    return "{}:{}: {}: ".format(*users[-1], linecache.getline(*users[-1]).strip()) if users else ""
