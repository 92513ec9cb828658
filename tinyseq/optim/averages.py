"""Averages of the weights of a training: evaluated and released in the place of the last ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tinyseq import backends, check
from tinyseq.backends import captured
from tinyseq.engine.tensor import Tensor
from tinyseq.interrupts import together, uninterrupted
from tinyseq.optim.gradients import wide


class Average:
    """What both averages share: float32 copies of a model's parameters (of float64 ones float64).

    They take 4 bytes a parameter, and as many as the parameters themselves while they are `applied`. Buffers are not
    averaged: those of the model stay, as with `torch.optim.swa_utils.AveragedModel`. Frozen parameters are.
    """

    settings: tuple[str, ...] = ()

    @check.constructor
    def __init__(self, model: Any) -> None:
        if not hasattr(model, "named_parameters"):
            raise TypeError(f"{type(self).__name__}: expected model to be a Module, got {check.describe(model)}")
        self.parameters: dict[str, Tensor] = dict(model.named_parameters())
        self.values = {name: Tensor(backends.of(p._data).asarray(p._data, wide(p), copy=True))
                       for name, p in self.parameters.items()}
        self.updates = 0

    def __repr__(self) -> str:
        options = "".join(f", {name}={getattr(self, name)!r}" for name in self.settings)
        return f"{type(self).__name__}({len(self.values)} parameters, updates={self.updates}{options})"

    def _share(self) -> float:
        """How much of the average the weights of this update become."""
        raise NotImplementedError

    def update(self) -> None:
        """Take the model's weights as they are now into the average: after `optimizer.step()`. The first ones are it.

        An interrupt (Ctrl-C) waits for the end. A model that was moved to another backend is a TypeError.
        """
        captured.outside(f"{type(self).__name__}.update")
        for name, p in self.parameters.items():
            if p.backend != self.values[name].backend:
                raise TypeError(f"{type(self).__name__}: {name} is on {p.backend}, its average on "
                                f"{self.values[name].backend}: move a model, .to(), before its average is made")
        share = 1.0 if not self.updates else self._share()
        with uninterrupted():
            for name, p in self.parameters.items():
                average = self.values[name]._data
                if share == 1:
                    average[...] = p._data
                else:
                    step = p._data - average  # as wide as the average
                    step *= share
                    average += step
            self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """`with average.applied(): ...`: inside, the model has the averaged weights; after, its own ones, bit for bit,
        whatever error or interrupt ends it. What writes to the weights inside is lost."""
        own = [(p, p._data) for p in self.parameters.values()]

        def back() -> None: together(*(change for p, data in own for change in p._holds(data)))

        averaged = self._converted()
        try:
            try:
                together(*averaged)
                yield
            finally:
                back()
        finally:
            back()  # should an interrupt have come to the first

    def apply(self) -> None:
        """Give the model the averaged weights for good, in its own dtype."""
        together(*self._converted())

    def _converted(self) -> list[tuple[Any, str, Any]]:
        """What has to be set for the model to have the averages, as copies."""
        return [change for name, p in self.parameters.items() for change in p._holds(
            backends.of(p._data).asarray(self.values[name]._data, p.dtype, copy=True))]

    def state_dict(self) -> dict[str, Any]:
        """Which average it is, its settings, how often it was updated, and the "values" by the parameters' names, for
        `load_state_dict`; `checkpoint.save` takes it as it is."""
        own = {"average": type(self).__name__, "updates": self.updates}
        return own | {k: getattr(self, k) for k in self.settings} | {"values": dict(self.values)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the average that gave `state` stood, with its settings.

        The state of another class, or of another model, is a ValueError or a KeyError that names it; then nothing is
        loaded.
        """
        where = f"{type(self).__name__}.load_state_dict"
        check.mapping(where, state=state)
        if state.get("average", "no average") != type(self).__name__:
            raise ValueError(f"{where}: this is the state of {state.get('average', 'no average')}, expected one of "
                             f"{type(self).__name__}")
        self._same(where, self.state_dict(), state)
        check.mapping(where, values=state["values"])
        self._same(where, self.values, state["values"])
        found = check.arrays(where, self.values, state["values"])
        settings = self._checked(**{k: state[k] for k in self.settings})
        updates = check.integers(where, 0, updates=state["updates"])
        values = {name: Tensor(backends.of(v._data).asarray(found[name], v.dtype, copy=True))
                  for name, v in self.values.items()}
        self.__dict__.update(settings | {"updates": updates, "values": values})  # at once, whatever interrupts

    def _checked(self, **settings: Any) -> dict[str, Any]:
        """The settings, if they may be so."""
        return settings

    @staticmethod
    def _same(where: str, own: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        missing, unexpected = [k for k in own if k not in state], [k for k in state if k not in own]
        if missing or unexpected:
            raise KeyError(f"{where}: missing {missing or 'nothing'}, unexpected {unexpected or 'nothing'}")


class EMA(Average):
    """The exponential moving average of a model's weights: average = decay average + (1 - decay) weights, at each
    `update` (Polyak & Juditsky 1992; Tarvainen & Valpola 2017).

    With `warmup` the decay of update n is at most (1 + n) / (10 + n), so that a short training's average is not of its
    first weights. Averages are float32 (of float64 weights float64), for float16 models too: 4 bytes a parameter, and
    while `applied` as many more as the parameters take. Buffers stay the model's.

    >>> model = nn.Linear(2, 1)
    >>> optimizer, average = ts.optim.SGD(model.parameters(), lr=0.1), ts.optim.EMA(model, decay=0.9)
    >>> for step in range(5):
    ...     loss = ts.mean(model(ts.ones((4, 2))) ** 2)
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    ...     average.update()
    >>> own = model.weight.tolist()
    >>> with average.applied():                               # evaluate the model here
    ...     model.weight.tolist() == average.values["weight"].tolist()
    True
    >>> model.weight.tolist() == own                          # and train on
    True
    >>> average.apply()                                       # for good, before model.save(...)
    >>> average
    EMA(2 parameters, updates=5, decay=0.9, warmup=False)

    Raises ValueError for a decay that is not from 0 to 1, TypeError for what is no Module.
    """

    settings = ("decay", "warmup")
    decay: float
    warmup: bool

    @check.constructor
    def __init__(self, model: Any, decay: float = 0.999, *, warmup: bool = False) -> None:
        super().__init__(model)
        self.__dict__.update(self._checked(decay=decay, warmup=warmup))

    def _checked(self, **settings: Any) -> dict[str, Any]:
        check.choice("EMA", (True, False), warmup=settings["warmup"])
        return settings | {"decay": check.numbers("EMA", least=0, most=1, decay=settings["decay"])}

    def _share(self) -> float:
        return 1 - (min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay)


class SWA(Average):
    """The mean of the weights at all `update`s, each counting alike: stochastic weight averaging (Izmailov et al.
    2018).

    Updated once an epoch of a late part of training, whose learning rate is constant or goes in cycles. Averages are
    float32 (of float64 weights float64), for float16 models too: 4 bytes a parameter, and while `applied` as many more
    as the parameters take. Buffers stay the model's.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> average = ts.optim.SWA(model)
    >>> for weight in (1.0, 2.0, 6.0):
    ...     model.weight.data = [[weight]]                    # a training
    ...     average.update()
    >>> with average.applied():
    ...     model.weight.tolist()
    [[3.0]]

    Raises TypeError for what is no Module.
    """

    def _share(self) -> float:
        return 1 / (self.updates + 1)
