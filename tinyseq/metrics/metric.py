"""What all metrics share: sums by name, that batches and processes add to."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, ClassVar, Concatenate, ParamSpec, Self

import numpy as np

from tinyseq import backends, check

P = ParamSpec("P")
_KINDS = {"counts": int, "sums": float}  # of a state's arrays


class Metric:
    """A figure over many batches: `update` adds a batch, `compute` gives the figure of all that was added.

    It keeps sums alone: whole numbers, exact in any order, and for losses float64. So two metrics that counted parts
    merge into that of the whole, and a state is a few numbers that `checkpoint.save` takes and processes send:

    >>> one, other, whole = (ts.metrics.Accuracy() for _ in range(3))
    >>> one.update([1, 2, 3], [1, 2, 0])
    >>> other.update([5], [5])
    >>> whole.load_state_dict(one.state_dict())
    >>> whole.merge(other).compute()
    0.75
    >>> whole, ts.metrics.Accuracy()
    (Accuracy 0.75 = right 3 / total 4, Accuracy: nothing is counted)

    A class of one's own says in `names` what it sums, adds in `update` with `self.add`, and divides in `compute`.
    `options` are the attributes in which two must agree to be merged.
    """

    names: tuple[str, ...] = ()
    options: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all that was counted.

        >>> accuracy = ts.metrics.Accuracy()
        >>> accuracy.update([1], [1])
        >>> accuracy.reset()
        >>> accuracy
        Accuracy: nothing is counted
        """
        self._sums: dict[str, Any] = dict.fromkeys(self.names, 0)

    def add(self, **found: Any) -> None:
        """Add numbers, or arrays of no axis, to the sums of these names: to all or, if interrupted, to none.

        Those on a device stay there: nobody waits for them before `sums` asks.
        """
        self._sums = self._sums | {name: self._sums.get(name, 0) + value for name, value in found.items()}

    def sums(self) -> dict[str, int | float]:
        """What was counted, by name, as Python's numbers."""
        for name, value in self._sums.items():
            if not isinstance(value, (int, float)):
                self._sums[name] = backends.of(value).asnumpy(value).item()
        return dict(self._sums)

    def merge(self, other: Self) -> Self:
        """Add what another of the same class and options counted; and return this one.

        Raises TypeError for what is no such metric, ValueError for one of other options.
        """
        check.instance(f"{type(self).__name__}.merge", type(self), other=other)
        if other.settings() != self.settings():
            raise ValueError(f"{type(self).__name__}.merge: expected other to be a {self.settings()}, got a "
                             f"{other.settings()}: the two count different things")
        self.add(**other._sums)
        return self

    def compute(self) -> float:
        """The figure of all that was counted. Raises ValueError where it is not defined, as of nothing."""
        raise NotImplementedError

    def settings(self) -> str:
        """The class with its options, as they are written to make it.

        >>> ts.metrics.Accuracy(ignore_index=0).settings()
        'Accuracy(ignore_index=0)'
        """
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.options)})"

    def state_dict(self) -> dict[str, Any]:
        """What was counted, for `load_state_dict`: the names of the sums, and two arrays as long, of the whole numbers
        among them and of the others, each with 0 where the other has the sum.

        Where the names are the same in all processes (they are, of all but `SpanF1`), the arrays add up.
        """
        sums = self.sums()
        return {"metric": self.settings(), "names": tuple(sums),
                **{key: np.array([x if isinstance(x, kind) else 0 for x in sums.values()], kind)
                   for key, kind in _KINDS.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what another of the same class and options had counted.

        That of another, or a broken one, is a ValueError; then nothing is loaded.
        """
        where = f"{type(self).__name__}.load_state_dict"
        check.mapping(where, state=state)
        if lack := {"metric", "names", *_KINDS} - state.keys():
            raise ValueError(f"{where}: expected what state_dict() gave, got {sorted(state)}, without {sorted(lack)}")
        if state["metric"] != self.settings():
            raise ValueError(f"{where}: this is the state of {state['metric']}, expected that of {self.settings()}")
        names, found = tuple(state["names"]), [np.asarray(state[key]) for key in _KINDS]
        for array, (key, kind) in zip(found, _KINDS.items(), strict=True):
            if array.shape != (len(names),) or array.dtype != kind or (self.names and names != self.names):
                raise ValueError(f"{where}: expected {key} ({kind.__name__}) of {', '.join(self.names) or 'each name'},"
                                 f" got {check.describe(array)} of {', '.join(map(str, names)) or 'no name'}")
        counts, sums = (array.tolist() for array in found)
        self._sums = {name: n + x if x else n for name, n, x in zip(names, counts, sums, strict=True)}

    def __repr__(self) -> str:
        try:
            figure = f"{type(self).__name__} {self.compute():.4g}"
        except ValueError:
            return f"{type(self).__name__}: nothing is counted"
        return f"{figure}{self._counted()}"

    def _counted(self) -> str:
        """Of what the figure is made, for those who read it."""
        return ""


def ratio(metric: Metric, above: str, below: str) -> float:
    """One sum over another; without any of that, an error."""
    sums = metric.sums()
    if not sums[below]:
        raise ValueError(f"{type(metric).__name__}.compute: nothing is counted ({below} = 0), so there is no figure; "
                         "update(...) comes first")
    return sums[above] / sums[below]


def explained(update: Callable[Concatenate[Any, P], None]) -> Callable[Concatenate[Any, P], None]:
    """An `update` whose errors name the class, and what was given."""

    @functools.wraps(update)
    def call(self: Any, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            update(self, *args, **kwargs)
        except (TypeError, ValueError) as error:
            told = check.explain(error, MethodType(update, self), args, kwargs)
            raise type(told)(f"{type(self).__name__}.{told}") from error

    return call  # type: ignore[return-value]  # as `self` has that name
