"""Optimizers: SGD, Adam, AdamW, and the clipping of gradients.

Each step is one kernel over all parameters, in place. A learning rate is an attribute, so a schedule is a line of the
training loop: `optimizer.lr = 0.002 * (1 - step / steps)`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from tinyseq import backends, check
from tinyseq.check import describe
from tinyseq.engine.autograd import watching
from tinyseq.engine.tensor import Array, Tensor, namespace
from tinyseq.interrupts import uninterrupted

__all__ = ["Adam", "AdamW", "Optimizer", "SGD", "clip_grad_norm_"]


class Optimizer:
    """What all optimizers share: the parameters, their state, and who is skipped.

    Hyperparameters are attributes that may be changed at any time; each is checked when it is given. All numbers are at
    least 0 and finite, betas below 1. Threads that step over the same parameters take turns by a lock of their own.

    >>> model = nn.Linear(3, 1)
    >>> optimizer = ts.optim.AdamW(model.parameters(), lr=0.01)
    >>> for step in range(10):
    ...     optimizer.lr = 0.01 * min(1, (step + 1) / 5)      # a schedule: a warm-up of five steps
    ...     loss = ts.mean(model(ts.ones((2, 3))) ** 2)
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    >>> saved = optimizer.state_dict()                        # `checkpoint.save` writes it
    >>> again = ts.optim.AdamW(model.parameters())
    >>> again.load_state_dict(saved)
    >>> again.lr, again.state[0]["steps"]
    (0.01, 10)

    Raises TypeError for what is no leaf Tensor, ValueError for no parameters, and for one that is given twice.
    """

    slots: tuple[str, ...] = ()  # names of the arrays kept for each parameter
    hyperparameters: tuple[str, ...] = ("lr",)

    @check.constructor
    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        name = type(self).__name__
        self.parameters, self.lr = _leaves(name, parameters), lr
        if not self.parameters:
            raise ValueError(f"{name}: no parameters were given")
        if len({id(p) for p in self.parameters}) < len(self.parameters):
            raise ValueError(f"{name}: a parameter was given twice")
        self.state: list[dict[str, Any]] = [{} for _ in self.parameters]  # empty before a first step

    def __setattr__(self, name: str, value: Any) -> None:
        where = type(self).__name__
        if name == "nesterov":
            check.choice(where, (True, False), nesterov=value)
        elif name == "betas":
            try:
                one, two = value
            except (TypeError, ValueError):
                raise TypeError(f"{where}: expected betas to be two numbers, got {value!r}") from None
            value = check.numbers(where, least=0, below=1, **{"betas[0]": one, "betas[1]": two})
        elif name in self.hyperparameters:
            value = check.numbers(where, least=0, below=math.inf, **{name: value})
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.hyperparameters)
        return f"{type(self).__name__}({len(self.parameters)} parameter{'s' * (len(self.parameters) > 1)}, {options})"

    @check.explained
    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.parameters:
            p.grad = None

    def step(self) -> None:
        """Change every parameter that has a gradient, in place; the others stand still, their state too.

        An interrupt (Ctrl-C) waits for the end of the update. Gradients that somebody assigned and that are not like
        their parameters are a TypeError, before anything is changed.

        A graph made before the step refuses to be differentiated after it. The engine sees no use of the array
        through `p.detach()`, or while p was frozen: such a graph goes on, with the new values.
        """
        where, used = f"{type(self).__name__}.step", self._used()
        groups: dict[tuple[Any, int], list[tuple[int, Tensor, Array, dict[str, Any]]]] = {}
        for i, (p, state) in enumerate(zip(self.parameters, self.state, strict=True)):
            g = _gradient(where, i, p)
            if g is not None and p.requires_grad:
                whole = state if len(state) > len(used) else self._whole(p, state)
                groups.setdefault((backends.of(g), whole["steps"] + 1), []).append((i, p, g, whole))
        with uninterrupted():
            for (_, steps), members in groups.items():
                places, ps, grads, states = zip(*members, strict=True)
                for p in ps:
                    p.written()
                arrays = [[state[s] for state in states] for s in used]
                _in_place(where, self._update, steps, [p._data for p in ps], list(grads), *arrays)
                for i, state in zip(places, states, strict=True):
                    self.state[i] = state
                    state["steps"] = steps

    def _used(self) -> tuple[str, ...]:
        """The slots that a step with these hyperparameters needs."""
        return self.slots

    def _whole(self, p: Tensor, state: dict[str, Any]) -> dict[str, Any]:
        """A parameter's state with zeros for what it lacks."""
        zeros = namespace(p._data).zeros_like
        return {"steps": 0} | {s: zeros(p._data, dtype=_wide(p)) for s in self._used() if s not in state} | state

    def _update(self, steps: int, data: list[Any], grads: list[Any], *state: list[Any]) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Everything that `step` needs to go on: for `load_state_dict` of an optimizer over the same parameters.

        Its name, its hyperparameters, the number of its parameters, and for number i that has been stepped "i.steps"
        and the arrays "i.SLOT". `checkpoint.save` takes it as it is.
        """
        arrays = {f"{i}.{k}": v if k == "steps" else Tensor(v)
                  for i, (p, s) in enumerate(zip(self.parameters, self.state, strict=True)) if s
                  for k, v in self._whole(p, s).items()}
        own = {"optimizer": type(self).__name__, "parameters": len(self.parameters)}
        return own | {k: getattr(self, k) for k in self.hyperparameters} | arrays

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the optimizer that gave `state` stood, with its hyperparameters.

        That of another class or over another number of parameters is a ValueError, as are arrays of other shapes;
        entries that miss or that nobody knows are a KeyError. Then nothing is loaded.
        """
        name = type(self).__name__
        if not isinstance(state, Mapping):
            raise TypeError(f"{name}.load_state_dict: expected what state_dict() gave, got a {type(state).__name__}")
        if "param_groups" in state:
            raise ValueError(f"{name}: this is the state of a PyTorch optimizer, whose moments are not taken: begin "
                             "with new ones, and set the learning rate, optimizer.lr = ...")
        given = state.get("optimizer", name), state.get("parameters", len(self.parameters))
        if given != (name, len(self.parameters)):
            raise ValueError(f"{name}: this state was saved by another optimizer, {given[0]} over {given[1]} "
                             f"parameters; this is {name} over {len(self.parameters)}")
        loaded = copy.copy(self)
        for k in self.hyperparameters:
            if k in state:
                setattr(loaded, k, state[k])
        loaded.state = [{s: state[k] for s in ("steps", *self.slots) if (k := f"{i}.{s}") in state}
                        for i in range(len(self.parameters))]
        stepped = [(i, p, own) for i, (p, own) in enumerate(zip(self.parameters, loaded.state, strict=True)) if own]
        needed = dict.fromkeys(["optimizer", "parameters", *self.hyperparameters])
        needed |= {f"{i}.{s}": p for i, p, own in stepped for s in loaded._whole(p, own)}
        missing, unexpected = [k for k in needed if k not in state], [k for k in state if k not in needed]
        if missing or unexpected:
            raise KeyError(f"{name}: this state was saved by another optimizer, or in part: missing "
                           f"{missing or 'nothing'}, unexpected {unexpected or 'nothing'}; of one that lacks settings, "
                           "optimizer.state_dict() | state has them")
        arrays = check.arrays(name, {f"{i}.{s}": p for i, p, own in stepped for s in own if s != "steps"}, state)
        for i, p, own in stepped:
            found = {s: arrays[f"{i}.{s}"] for s in own if s != "steps"}
            own["steps"] = check.integers(f"{name}.load_state_dict", 0, **{f"{i}.steps": own["steps"]})
            own |= {s: backends.of(p._data).asarray(x, _wide(p), copy=True) for s, x in found.items()}
        self.__dict__.update(loaded.__dict__)  # at once, whatever interrupts


class SGD(Optimizer):
    """p -= lr v, with v = momentum v + g (Polyak 1964), or Nesterov's variant; g includes weight_decay p. PyTorch's.

    >>> p = nn.Parameter([1.0, 2.0])
    >>> optimizer = ts.optim.SGD([p], lr=0.5)
    >>> ts.sum(p * p).backward()                              # the gradient is 2 p
    >>> optimizer.step()
    >>> p.tolist()
    [0.0, 0.0]

    Raises ValueError for `nesterov` without momentum.
    """

    slots = ("momentum",)
    hyperparameters = ("lr", "momentum", "weight_decay", "nesterov")

    @check.constructor
    def __init__(self, parameters: Iterable[Tensor], lr: float = 0.001, momentum: float = 0.0, *,
                 weight_decay: float = 0.0, nesterov: bool = False) -> None:
        super().__init__(parameters, lr)
        self.momentum, self.weight_decay, self.nesterov = momentum, weight_decay, nesterov
        if nesterov and not self.momentum:
            raise ValueError(f"SGD: nesterov needs momentum > 0, got {momentum}")

    def _used(self) -> tuple[str, ...]:
        return self.slots if self.momentum else ()

    def _update(self, steps: int, data: list[Any], grads: list[Any], *state: list[Any]) -> None:
        backends.of(data[0]).sgd_step(data, grads, *state or ([],), self.lr, self.momentum, nesterov=self.nesterov,
                                      weight_decay=self.weight_decay)


class Adam(Optimizer):
    """p -= lr m / (sqrt(v) + eps), m and v the bias-corrected running means of g and g^2 (Kingma & Ba 2015, algorithm
    1).

    `weight_decay` adds weight_decay p to g (L2), as PyTorch's Adam does; AdamW's is decoupled.

    >>> p = nn.Parameter([1.0, 2.0])
    >>> optimizer = ts.optim.Adam([p], lr=0.1)
    >>> ts.sum(p * p).backward()
    >>> optimizer.step()                                      # the first step is lr, whatever the gradient's size
    >>> [round(v, 3) for v in p.tolist()]
    [0.9, 1.9]
    """

    slots = ("m", "v")
    hyperparameters = ("lr", "betas", "eps", "weight_decay")
    decoupled = False

    @check.constructor
    def __init__(self, parameters: Iterable[Tensor], lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, lr)
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay

    def _update(self, steps: int, data: list[Any], grads: list[Any], *state: list[Any]) -> None:
        backends.of(data[0]).adam_step(data, grads, *state, steps, self.lr, *self.betas, self.eps, self.weight_decay,
                                       self.decoupled)


class AdamW(Adam):
    """Adam with decoupled weight decay: p -= lr weight_decay p besides (Loshchilov & Hutter 2019, algorithm 2).

    >>> p = nn.Parameter([1.0, 2.0])
    >>> optimizer = ts.optim.AdamW([p], lr=0.1, weight_decay=0.5)
    >>> ts.sum(p * p).backward()
    >>> optimizer.step()                                      # 0.1 as of Adam, and 0.1 · 0.5 of p
    >>> [round(v, 3) for v in p.tolist()]
    [0.85, 1.8]
    """

    decoupled = True

    @check.constructor
    def __init__(self, parameters: Iterable[Tensor], lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0.01) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay)


def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients by max_norm / norm where their common Euclidean norm is larger than `max_norm`, >= 0.

    Returns the norm before, a 0-dimensional Tensor that stays on the device (Pascanu et al. 2013), of float16 gradients
    in float32. The factor is max_norm / (norm + 1e-6), at most 1, as PyTorch's. A gradient of NaN or inf makes all of
    them NaN, or 0 and NaN; on a GPU the squares of float64 come to inf above 1e308. Look at it. An interrupt (Ctrl-C)
    waits for the end. Raises ValueError for a max_norm below 0 and where there is no gradient, TypeError for gradients
    that are no Tensors or live on several backends.

    >>> p = nn.Parameter([1.5, 2.0])
    >>> ts.sum(p * p).backward()                              # the gradient is (3, 4)
    >>> norm = ts.optim.clip_grad_norm_([p], max_norm=1.0)    # between backward() and step()
    >>> float(norm), [round(v, 4) for v in p.grad.tolist()]
    (5.0, [0.6, 0.8])
    """
    max_norm = check.numbers("clip_grad_norm_", least=0, max_norm=max_norm)
    parameters = _leaves("clip_grad_norm_", parameters)
    given = [p.grad for p in parameters if p.grad is not None]
    grads = [g._data for g in given if isinstance(g, Tensor)]
    if not given:
        raise ValueError("clip_grad_norm_: no parameter has a gradient")
    if len(grads) < len(given) or len(set(map(type, grads))) > 1:
        for i, p in enumerate(parameters):
            _gradient("clip_grad_norm_", i, p)  # says which is no Tensor, or not where its parameter is
        raise TypeError("clip_grad_norm_: the gradients live on several backends, expected one: .to() moves a module")
    with uninterrupted():
        return Tensor(_in_place("clip_grad_norm_", _clip, grads, max_norm))


def _clip(grads: list[Any], max_norm: float) -> Any:
    backend = backends.of(grads[0])
    norm = backend.xp.asarray(backend.global_norm(grads))
    backend.scale(grads, backend.xp.minimum(max_norm / (norm + 1e-6), 1.0))
    return norm


def _leaves(where: str, parameters: Any) -> list[Tensor]:
    """The parameters as a list; anything but leaf Tensors is refused."""
    advice = ": pass a module's .parameters()"
    if isinstance(parameters, Tensor) or hasattr(parameters, "parameters") or not hasattr(parameters, "__iter__"):
        raise TypeError(f"{where}: expected parameters, a list of leaf Tensors, got a {type(parameters).__name__}"
                        f"{advice}")
    listed = list(parameters)
    for i, p in enumerate(listed):
        if not isinstance(p, Tensor) or not p.is_leaf:
            kind = "computed Tensor" if isinstance(p, Tensor) else type(p).__name__
            raise TypeError(f"{where}: parameter {i} is a {kind}, expected a leaf Tensor{advice}")
    return listed


def _wide(p: Tensor) -> Any:
    """The dtype of what is kept for a parameter: float16 has no room for the squares of small gradients."""
    return np.promote_types(p.dtype, np.float32)


def _gradient(where: str, i: int, p: Tensor) -> Array | None:
    """The array of a parameter's gradient. One that somebody assigned and that is not like its parameter is refused."""
    g: Any = p.grad
    if g is None:
        return None
    if isinstance(g, Tensor):
        x, y = g._data, p._data
        if x.shape == y.shape and x.dtype == y.dtype and type(x) is type(y):
            return x
    given = f"{describe(g)} on {g.backend}" if isinstance(g, Tensor) else f"a {type(g).__name__}"
    raise TypeError(f"{where}: the gradient of parameter {i} is {given}, expected a Tensor {describe(p)} on "
                    f"{p.backend}")


def _in_place(name: str, body: Callable[..., Any], *args: Any) -> Any:
    """`body(*args)`, which writes to arrays in lists, where who watches sees it."""
    watchers = watching.stack.get()
    return watchers[-1].in_place(name, body, args) if watchers else body(*args)
