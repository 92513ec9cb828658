"""Schedules: functions of the step, from 0, that give a learning rate, or whatever else changes over a training.

    schedule = schedules.warmup(100, schedules.cosine(1e-3, 900))
    for step in range(1000):
        optimizer.lr = schedule(step)

They keep nothing: a run that is resumed goes on with its step. A schedule may be any function, such as a lambda.
`Plateau` alone has a state, which is saved with the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from tinyseq import check

__all__ = ["Plateau", "cosine", "inverse_sqrt", "linear", "one_cycle", "warmup"]

Schedule = Callable[[int], float]


def linear(start: float, steps: int, end: float = 0.0) -> Schedule:
    """Along a straight line from `start` in step 0 to `end` in step `steps`, and `end` ever after.

    PyTorch's LinearLR and PolynomialLR of power 1.

    >>> schedule = ts.optim.schedules.linear(1.0, steps=4)
    >>> [schedule(step) for step in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """
    start, end, steps = *_finite("linear", start=start, end=end), check.integers("linear", 1, steps=steps)
    return lambda step: start + (end - start) * _part("linear", step, steps)


def cosine(start: float, steps: int, end: float = 0.0) -> Schedule:
    """Along half a cosine from `start` in step 0 to `end` in step `steps`, and `end` ever after.

    Loshchilov & Hutter 2017, equation 5, without restarts; PyTorch's CosineAnnealingLR, which rises again after it.

    >>> schedule = ts.optim.schedules.cosine(1.0, steps=4)
    >>> [round(schedule(step), 3) for step in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """
    start, end, steps = *_finite("cosine", start=start, end=end), check.integers("cosine", 1, steps=steps)
    return lambda step: _wave(start, end, _part("cosine", step, steps))


def inverse_sqrt(start: float, steps: int) -> Schedule:
    """As the root of the step falls: start sqrt(steps / (steps + step)), `start` in step 0, half of it in step 3 steps.

    After as many steps of `warmup` it is Vaswani et al. 2017, section 5.3: of d_model numbers with a warm-up of n steps
    `start` is 1 / sqrt(d_model n). It falls without end.

    >>> schedule = ts.optim.schedules.warmup(4000, ts.optim.schedules.inverse_sqrt((512 * 4000) ** -0.5, 4000))
    >>> [round(schedule(step), 6) for step in (0, 2000, 4000, 16000)]
    [0.0, 0.000349, 0.000699, 0.000349]
    """
    (start,), steps = _finite("inverse_sqrt", start=start), check.integers("inverse_sqrt", 1, steps=steps)
    return lambda step: start * math.sqrt(steps / (steps + check.integers("inverse_sqrt", 0, step=step)))


def one_cycle(peak: float, steps: int, rise: float = 0.3, start: float | None = None,
              end: float | None = None) -> Schedule:
    """Along half a cosine from `start` to `peak`, and along another to `end` in step `steps` - 1 (Smith & Topin 2018).

    The peak is in step `rise` (0 to 1) times `steps`, less 1; `end` holds ever after. None is as in PyTorch's
    OneCycleLR, which this is, without its momentum: a start of peak / 25, and an end of start / 10,000.

    >>> schedule = ts.optim.schedules.one_cycle(1.0, steps=11, rise=0.5)
    >>> [round(schedule(step), 2) for step in (0, 3, 4, 5, 10, 11)]
    [0.04, 0.76, 0.97, 0.98, 0.0, 0.0]
    """
    steps = check.integers("one_cycle", 2, steps=steps)
    rise = check.numbers("one_cycle", least=0, most=1, rise=rise)
    (peak,) = _finite("one_cycle", peak=peak)
    (start,) = _finite("one_cycle", start=peak / 25 if start is None else start)
    (end,) = _finite("one_cycle", end=start / 1e4 if end is None else end)
    top, last = rise * steps - 1, steps - 1

    def schedule(step: int) -> float:
        step = check.integers("one_cycle", 0, step=step)
        if step <= top:
            return _wave(start, peak, step / top if top else 1.0)
        return end if step >= last else _wave(peak, end, (step - top) / (last - top))

    return schedule


def warmup(steps: int, then: Schedule, start: float | None = None) -> Schedule:
    """Along a straight line to what `then` begins with, which is reached in step `steps`; from there on `then`.

    `start` is the value in step 0; None is one (steps + 1)-th of the way up, so that no step is of 0. `then` counts
    its own steps: in step `steps` of all it is in its step 0. PyTorch's SequentialLR of LinearLR and another.

    >>> schedule = ts.optim.schedules.warmup(3, ts.optim.schedules.linear(1.0, steps=4))
    >>> [schedule(step) for step in range(8)]
    [0.25, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    steps = check.integers("warmup", 0, steps=steps)
    check.function("warmup", then=then)
    given = None if start is None else _finite("warmup", start=start)[0]

    def schedule(step: int) -> float:
        step = check.integers("warmup", 0, step=step)
        if step >= steps:
            return float(then(step - steps))
        peak = then(0)
        first = peak / (steps + 1) if given is None else given
        return first + (peak - first) * step / steps

    return schedule


class Plateau:
    """A value that is multiplied by `factor` whenever a figure has not become better for more than `patience` times.

    `update` takes the figure, such as the loss on held-out data, as often as it is known. Better is lower ("min") or
    higher ("max") than the best by more than the part `threshold` of it. After a cut `cooldown` figures do not count
    as bad. The value never falls below `floor`; NaN is no better. By default PyTorch's ReduceLROnPlateau, but of
    figures below 0, of which that takes slightly worse ones for better.

    It is a schedule too, whose value is the same in every step, so that `warmup` takes it.

    >>> schedule = ts.optim.schedules.Plateau(0.1, factor=0.5, patience=1)
    >>> [schedule.update(loss) for loss in (3.0, 2.0, 2.5, 2.5, 1.0)]
    [0.1, 0.1, 0.1, 0.05, 0.05]
    >>> saved = schedule.state_dict()                         # `checkpoint.save` writes it
    >>> again = ts.optim.schedules.Plateau(1.0)
    >>> again.load_state_dict(saved)
    >>> again.value, again.best, again.factor
    (0.05, 1.0, 0.5)
    """

    settings = ("factor", "patience", "threshold", "mode", "cooldown", "floor")
    counts = ("bad", "cooling")

    @check.constructor
    def __init__(self, value: float, factor: float = 0.1, patience: int = 10, threshold: float = 1e-4,
                 mode: str = "min", cooldown: int = 0, floor: float = 0.0) -> None:
        self.value, self.threshold = _finite("Plateau", value=value, threshold=threshold)
        (self.floor,) = _finite("Plateau", floor=floor)
        self.factor = check.numbers("Plateau", least=0, below=1, factor=factor)
        self.patience, self.cooldown = check.integers("Plateau", 0, patience=patience, cooldown=cooldown)
        check.choice("Plateau", ("min", "max"), mode=mode)
        self.mode, self.best = mode, math.inf if mode == "min" else -math.inf
        self.bad = self.cooling = 0

    def __call__(self, step: int) -> float:
        check.integers("Plateau", 0, step=step)
        return self.value

    def __repr__(self) -> str:
        return f"Plateau({self.value}, best={self.best}, bad={self.bad} of {self.patience})"

    def update(self, figure: float) -> float:
        """The value that holds after one more figure."""
        if not hasattr(figure, "__float__"):
            raise TypeError(f"Plateau.update: expected figure to be a number, got {check.describe(figure)}")
        found = float(figure)
        up, limit = 1 if self.mode == "max" else -1, self.best
        if math.isfinite(limit):
            limit *= 1 + up * math.copysign(self.threshold, limit)
        better = found * up > limit * up
        best, bad, cooling, value = self.best, self.bad + 1, self.cooling, self.value
        if better:
            best, bad = found, 0
        if cooling:
            bad, cooling = 0, cooling - 1
        if bad > self.patience:
            bad, cooling, value = 0, self.cooldown, max(value * self.factor, self.floor)
        self.__dict__.update(best=best, bad=bad, cooling=cooling, value=value)  # at once, whatever interrupts
        return value

    def state_dict(self) -> dict[str, Any]:
        """Settings, value and counts, for `load_state_dict`; `checkpoint.save` takes it as it is."""
        names = ("value", "best", *self.settings, *self.counts)
        return {"schedule": "Plateau"} | {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the schedule that gave `state` stood, with its settings. What is no such state is a KeyError,
        numbers that cannot be are a TypeError or ValueError; then nothing is loaded."""
        check.mapping("Plateau.load_state_dict", state=state)
        own = self.state_dict()
        missing, unexpected = [k for k in own if k not in state], [k for k in state if k not in own]
        if missing or unexpected or state["schedule"] != "Plateau":
            raise KeyError(f"Plateau: this is no state of a Plateau: missing {missing or 'nothing'}, unexpected "
                           f"{unexpected or 'nothing'}")
        loaded = Plateau(state["value"], **{name: state[name] for name in self.settings})
        loaded.best = check.numbers("Plateau.load_state_dict", best=state["best"])
        for name in self.counts:
            setattr(loaded, name, check.integers("Plateau.load_state_dict", 0, **{name: state[name]}))
        self.__dict__.update(loaded.__dict__)  # at once, whatever interrupts


def _finite(where: str, **given: float) -> tuple[float, ...]:
    """Values of a schedule as numbers, each at least 0."""
    return tuple([check.numbers(where, least=0, below=math.inf, **{name: value}) for name, value in given.items()])


def _part(where: str, step: int, steps: int) -> float:
    """How much of the steps is over, 1 after the last."""
    return float(min(1.0, check.integers(where, 0, step=step) / steps))


def _wave(start: float, end: float, part: float) -> float:
    """Half a cosine from start to end."""
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2
