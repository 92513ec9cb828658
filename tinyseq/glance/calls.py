"""Who is at work: which module calls which while somebody watches, by the names of the attributes they hang on."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

from tinyseq.engine import gradients
from tinyseq.engine.autograd import watching
from tinyseq.engine.debug import flat
from tinyseq.nn.module import Module


class Place:
    """A module where it is called: below the one that calls it. What is outside of all is a place without a module."""

    def __init__(self, path: str = "", module: Module | None = None, above: Self | None = None) -> None:
        self.path, self.module, self.above = path, module, above
        self.below: dict[tuple[int, str], Self] = {}
        self.calls = 0

    @property
    def label(self) -> str:
        """Its path from the module that calls it."""
        above = self.above.path if self.above else ""
        return self.path.removeprefix(f"{above}." if above else "")

    @property
    def kind(self) -> str:
        """The name of its class."""
        return type(self.module).__name__ if self.module is not None else ""

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Self]]:
        """It and all below it in the order of their first calls, each with its depth."""
        yield depth, self
        for place in self.below.values():
            yield from place.walk(depth + 1)


class Calls(watching):
    """A watcher that knows the module whose forward is running. The first that is called is named by its class."""

    Place: type[Any] = Place

    def __init__(self) -> None:
        self.outside: Any = self.Place()
        self._paths: dict[int, tuple[Module, list[str]]] = {}  # of all modules met so far, which it keeps alive

    def place(self, module: Module, here: Any) -> Any:
        """Where a module stands that is called `here`."""
        with _lock:
            if id(module) not in self._paths:
                self._name(module, here)
            paths = self._paths[id(module)][1]
            below = [path for path in paths if path.startswith(f"{here.path}.")]
            path = min(below, key=lambda path: path.count("."), default=paths[0])
            found = here.below.get((id(module), path))
            if found is None:
                found = here.below[id(module), path] = self.Place(path, module, here)
            return found

    def _name(self, module: Module, here: Any) -> None:
        """Name a module that hangs on none met so far, and all below it."""
        kind = type(module).__name__
        kind = kind if here is self.outside else f"{here.path}.({kind})"
        taken = {path for _, paths in self._paths.values() for path in paths}
        name = next(name for n in range(1, len(taken) + 2) if (name := kind if n == 1 else f"{kind}_{n}") not in taken)
        for path, part in [("", module), *module.named_modules()]:
            self._paths.setdefault(id(part), (part, []))[1].append(f"{name}.{path}" if path else name)

    def call(self, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A module's call, `plain(*args, **kwargs)`, where the module is the first of `args`."""
        return plain(*args, **kwargs)

    def back(self, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A walk back through a graph, `plain(*args, **kwargs)`."""
        return plain(*args, **kwargs)

    def __enter__(self) -> Self:
        _look(1)
        return super().__enter__()

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        _look(-1)


def _told(plain: Callable[..., Any], method: str) -> Callable[..., Any]:
    """A function that calls the method of who watches this thread's calls, if anybody does."""

    @functools.wraps(plain)
    def told(*args: Any, **kwargs: Any) -> Any:
        stack = watching.stack.get()
        watched = stack and isinstance(stack[-1], Calls)
        return getattr(stack[-1], method)(plain, args, kwargs) if watched else plain(*args, **kwargs)

    return told


_plain_call, _plain_back = Module.__call__, gradients.pull_back
_told_call, _told_back = _told(_plain_call, "call"), _told(_plain_back, "back")
_looking, _lock = 0, threading.Lock()


def _look(change: int) -> None:
    """Put what tells the watchers in the place of the calls that they ask about, as long as there are any: so a call
    costs nothing more while nobody looks."""
    global _looking
    with _lock:
        _looking += change
        told = _looking > 0
        setattr(Module, "__call__", _told_call if told else _plain_call)  # noqa: B010 - not in type checkers' sight
        setattr(gradients, "pull_back", _told_back if told else _plain_back)  # noqa: B010


def owner(array: Any) -> Any:
    """The array whose memory a view shows."""
    while isinstance(base := getattr(array, "base", None), type(array)):
        array = base
    return array


def made(out: Any, given: Any) -> int:
    """The bytes of the arrays in `out` that are new, and no views of those in `given`."""
    old = {id(owner(x)) for x in flat(given)}
    new = {id(x): x.nbytes for x in map(owner, flat(out)) if id(x) not in old}
    return sum(new.values())
