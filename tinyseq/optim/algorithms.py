"""The optimizers: each a step of its paper, in place on lists of arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from tinyseq import backends, check
from tinyseq.engine.tensor import Array
from tinyseq.optim.groups import Parameters
from tinyseq.optim.optimizer import Optimizer

Values = Mapping[str, Any]
Arrays = list[Array]


class SGD(Optimizer):
    """p -= lr v, with v = momentum v + g (Polyak 1964), or Nesterov's variant; g includes weight_decay p. PyTorch's.

    >>> p = nn.Parameter([1.0, 2.0])
    >>> optimizer = ts.optim.SGD([p], lr=0.5)
    >>> ts.sum(p * p).backward()                              # the gradient is 2 p
    >>> optimizer.step()
    >>> p.tolist()
    [0.0, 0.0]

    Raises ValueError for `nesterov` without momentum: where it is made, stepped and loaded.
    """

    slots = ("momentum",)
    hyperparameters = ("lr", "momentum", "weight_decay", "nesterov")
    flags = ("nesterov",)

    @check.constructor
    def __init__(self, parameters: Parameters, lr: float = 0.001, momentum: float = 0.0, *,
                 weight_decay: float = 0.0, nesterov: bool = False) -> None:
        super().__init__(parameters, lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)

    def _used(self, values: Values) -> set[str]:
        if values["momentum"]:
            return {"momentum"}
        if values["nesterov"]:
            raise ValueError(f"SGD: nesterov needs momentum > 0, got {values['momentum']}")
        return set()

    def _update(self, values: Values, steps: int, data: Arrays, grads: Arrays, *slots: Arrays) -> None:
        backends.of(data[0]).sgd_step(data, grads, *slots or ([],), **values)


class RMSprop(Optimizer):
    """p -= lr g / (sqrt(v) + eps), v the running mean of g^2 (Tieleman & Hinton 2012, lecture 6e). PyTorch's.

    v = alpha v + (1 - alpha) g^2, and g includes weight_decay p. With `momentum` what is divided runs on,
    b = momentum b + g / (sqrt(v) + eps), and p -= lr b. `centered` takes v - m^2 for v, m the running mean of g (Graves
    2013), never less than 0.

    >>> p = nn.Parameter([1.0, 2.0])
    >>> optimizer = ts.optim.RMSprop([p], lr=0.01)
    >>> ts.sum(p * p).backward()
    >>> optimizer.step()                                      # v begins with 0: the first step is lr / sqrt(1 - alpha)
    >>> [round(v, 3) for v in p.tolist()]
    [0.9, 1.9]
    """

    slots = ("square", "mean", "momentum")
    hyperparameters = ("lr", "alpha", "eps", "weight_decay", "momentum", "centered")
    flags = ("centered",)
    ranges: ClassVar = {"alpha": {"least": 0, "below": 1}}

    @check.constructor
    def __init__(self, parameters: Parameters, lr: float = 0.01, alpha: float = 0.99, eps: float = 1e-8,
                 weight_decay: float = 0.0, momentum: float = 0.0, centered: bool = False) -> None:
        super().__init__(parameters, lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum,
                         centered=centered)

    def _used(self, values: Values) -> set[str]:
        return {"square"} | {slot for slot, of in (("mean", "centered"), ("momentum", "momentum")) if values[of]}

    def _update(self, values: Values, steps: int, data: Arrays, grads: Arrays, *slots: Arrays) -> None:
        square, *rest = slots
        mean = rest.pop(0) if values["centered"] else []
        momentum = rest.pop(0) if values["momentum"] else []
        options = {name: value for name, value in values.items() if name != "centered"}
        backends.of(data[0]).rmsprop_step(data, grads, square, mean, momentum, **options)


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
    def __init__(self, parameters: Parameters, lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def _update(self, values: Values, steps: int, data: Arrays, grads: Arrays, *slots: Arrays) -> None:
        backends.of(data[0]).adam_step(data, grads, *slots, steps, values["lr"], *values["betas"], values["eps"],
                                       values["weight_decay"], self.decoupled)


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
    def __init__(self, parameters: Parameters, lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0.01) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay)


class Adafactor(Optimizer):
    """Adam's step without its memory: of g^2 only the means of rows and columns are kept (Shazeer & Stern 2018,
    algorithms 4 and 5). PyTorch's.

        v = (1 - t^beta2_decay) v + t^beta2_decay g^2             of a matrix as rows · columns / mean(rows)
        u = g / max(sqrt(v), eps[0])
        p -= max(eps[1], rms(p)) min(lr, 1 / sqrt(t)) u / max(1, rms(u) / d)

    in step t, from 1. The last two axes are factored, whatever others there are. p shrinks first by lr weight_decay p.
    `lr` is the largest step relative to the size of p; `eps[0]` None is the rounding error of p's dtype, of float16 of
    float32. With the paper's eps, (1e-30, 1e-3), a first gradient of 0 in float32 changes nothing, where PyTorch's
    makes the parameter NaN.

    >>> p = nn.Parameter(ts.ones((300, 200)))
    >>> optimizer = ts.optim.Adafactor([p], lr=0.01)
    >>> ts.sum(p * p).backward()
    >>> optimizer.step()                                      # 1 % of p
    >>> round(p[0, 0].item(), 4), {slot: x.shape for slot, x in optimizer.state[0].items() if slot != "steps"}
    (0.99, {'rows': (300, 1), 'columns': (1, 200)})
    """

    slots = ("rows", "columns")
    hyperparameters = ("lr", "beta2_decay", "eps", "d", "weight_decay")
    ranges: ClassVar = {"beta2_decay": {"above": -math.inf, "most": 0}, "d": {"least": 1, "below": math.inf}}

    @check.constructor
    def __init__(self, parameters: Parameters, lr: float = 0.01, beta2_decay: float = -0.8,
                 eps: tuple[float | None, float] = (None, 0.001), d: float = 1.0, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, lr, beta2_decay=beta2_decay, eps=eps, d=d, weight_decay=weight_decay)

    @classmethod
    def checked(cls, name: str, value: Any) -> Any:
        if name != "eps":
            return super().checked(name, value)
        try:
            one, two = value
        except (TypeError, ValueError):
            raise TypeError(f"{cls.__name__}: expected eps to be two numbers, or None and one, got {value!r}") from None
        limits = {"least": 0, "below": math.inf}
        return (None if one is None else check.numbers(cls.__name__, **limits, **{"eps[0]": one}),
                check.numbers(cls.__name__, **limits, **{"eps[1]": two}))

    def _shape(self, slot: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) < 2:
            return shape if slot == "rows" else (0,)  # all of g^2, and nothing
        return (*shape[:-1], 1) if slot == "rows" else (*shape[:-2], 1, shape[-1])

    def _update(self, values: Values, steps: int, data: Arrays, grads: Arrays, *slots: Arrays) -> None:
        backends.of(data[0]).adafactor_step(data, grads, *slots, steps, **values)


class Lion(Optimizer):
    """p -= lr sign(c), c = beta1 m + (1 - beta1) g; then m = beta2 m + (1 - beta2) g (Chen et al. 2023, algorithm 2).

    `weight_decay` is decoupled, p -= lr weight_decay p besides. One array is kept where Adam keeps two. Every entry
    moves by lr, so that the learning rate is a third to a tenth of AdamW's and weight_decay as many times larger.

    >>> p = nn.Parameter([1.0, 2.0])
    >>> optimizer = ts.optim.Lion([p], lr=0.1, weight_decay=0.5)
    >>> ts.sum(p * p).backward()
    >>> optimizer.step()                                      # 0.1, and 0.1 · 0.5 of p
    >>> [round(v, 3) for v in p.tolist()]
    [0.85, 1.8]
    """

    slots = ("m",)
    hyperparameters = ("lr", "betas", "weight_decay")

    @check.constructor
    def __init__(self, parameters: Parameters, lr: float = 0.0001, betas: tuple[float, float] = (0.9, 0.99),
                 weight_decay: float = 0.0) -> None:
        super().__init__(parameters, lr, betas=betas, weight_decay=weight_decay)

    def _update(self, values: Values, steps: int, data: Arrays, grads: Arrays, *slots: Arrays) -> None:
        backends.of(data[0]).lion_step(data, grads, *slots, values["lr"], *values["betas"], values["weight_decay"])
