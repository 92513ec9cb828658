"""Optimizers: SGD, Adam, AdamW, and the clipping of gradients.

Each step is one kernel over all parameters, in place. A learning rate is an attribute, so a schedule is a line of the
training loop: `optimizer.lr = 0.002 * (1 - step / steps)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tinyseq import backends
from tinyseq.tensor import Tensor, namespace, watcher


class Optimizer:
    """What all optimizers share: the parameters, their state, and who is skipped."""

    slots: tuple[str, ...]  # names of the arrays kept for each parameter

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        if hasattr(parameters, "parameters"):
            raise TypeError(f"{type(self).__name__}: expected parameters, got a {type(parameters).__name__}: pass its "
                            ".parameters()")
        self.parameters = list(parameters)
        self.lr = lr
        if not self.parameters:
            raise ValueError(f"{type(self).__name__}: no parameters were given")
        for i, p in enumerate(self.parameters):
            if not isinstance(p, Tensor) or not p.is_leaf:
                kind = "computed Tensor" if isinstance(p, Tensor) else type(p).__name__
                raise TypeError(f"{type(self).__name__}: parameter {i} is a {kind}, expected a leaf Tensor: pass a "
                                "module's .parameters()")
        if len({id(p) for p in self.parameters}) < len(self.parameters):
            raise ValueError(f"{type(self).__name__}: a parameter was given twice")
        self.state: list[dict[str, Any]] = [{} for _ in self.parameters]  # empty before a first step

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.parameters:
            p.grad = None

    def step(self) -> None:
        """Change every parameter that has a gradient, in place; the others stand still, their state too.

        A graph made before the step refuses to be differentiated after it. The engine sees no use of the array
        through `p.detach()`, or while p was frozen: such a graph goes on, with the new values.
        """
        for i, p in enumerate(self.parameters):
            self._check(i, p)
        groups: dict[tuple[str, int], list[int]] = {}
        for i, (p, state) in enumerate(zip(self.parameters, self.state, strict=True)):
            if p.grad is None or not p.requires_grad:
                continue
            if not state:
                state.update({s: namespace(p._data).zeros_like(p._data) for s in self.slots}, steps=0)
            state["steps"] += 1
            groups.setdefault((backends.of(p._data).name, state["steps"]), []).append(i)
        for (_, steps), members in groups.items():
            ps = [self.parameters[i] for i in members]
            arrays = [[self.state[i][s] for i in members] for s in self.slots]
            grads = [p.grad._data for p in ps if p.grad is not None]
            _in_place(f"{type(self).__name__}.step", self._update, steps, [p._data for p in ps], grads, *arrays)
            for p in ps:
                p.written()

    def _check(self, i: int, p: Tensor) -> None:
        """Refuse a gradient that somebody assigned and that is not like its parameter, before anything is changed."""
        g: Any = p.grad
        if g is None or (isinstance(g, Tensor) and (g.shape, g.dtype, g.backend) == (p.shape, p.dtype, p.backend)):
            return
        given = f"{g.dtype}{list(g.shape)} on {g.backend}" if isinstance(g, Tensor) else f"a {type(g).__name__}"
        raise TypeError(f"{type(self).__name__}.step: the gradient of parameter {i} is {given}, expected a Tensor "
                        f"{p.dtype}{list(p.shape)} on {p.backend}")

    def _update(self, steps: int, data: list[Any], grads: list[Any], *state: list[Any]) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Everything that `step` needs to go on: for `load_state_dict` of an optimizer over the same parameters."""
        arrays = {f"{i}.{k}": v if k == "steps" else Tensor(v)
                  for i, s in enumerate(self.state) for k, v in s.items()}
        return {"lr": self.lr} | arrays

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the optimizer that gave `state` stood."""
        known = {f"{i}.{s}" for i in range(len(self.parameters)) for s in ("steps", *self.slots)}
        if unknown := [k for k in state if k != "lr" and k not in known]:
            raise KeyError(f"{type(self).__name__}: this state was saved by another optimizer, unexpected {unknown}")
        loaded: list[dict[str, Any]] = [{} for _ in self.parameters]
        for i, p in enumerate(self.parameters):
            if f"{i}.steps" not in state:
                continue
            values = {s: state[f"{i}.{s}"] for s in self.slots}
            wrong = [f"{i}.{s}: {v.shape} given, {p.shape} here" for s, v in values.items()
                     if tuple(v.shape) != p.shape]
            if wrong:
                raise ValueError(f"{type(self).__name__}: wrong shapes: {'; '.join(wrong)}")
            backend = backends.of(p._data)
            loaded[i] = {"steps": int(state[f"{i}.steps"])} | {
                s: backend.asarray(v._host() if isinstance(v, Tensor) else v, dtype=p.dtype, copy=True)
                for s, v in values.items()}
        self.lr, self.state = state["lr"], loaded


class SGD(Optimizer):
    """p -= lr v, with v = momentum v + g (Polyak 1964), or Nesterov's variant; g includes weight_decay p. PyTorch's."""

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 0.001, momentum: float = 0.0, weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(parameters, lr)
        if nesterov and momentum <= 0:
            raise ValueError("SGD: nesterov needs momentum > 0")
        self.momentum, self.weight_decay, self.nesterov = momentum, weight_decay, nesterov
        self.slots = ("momentum",) if momentum else ()

    def _update(self, steps: int, data: list[Any], grads: list[Any], *state: list[Any]) -> None:
        momenta = state[0] if self.momentum else []
        backends.of(data[0]).sgd_step(data, grads, momenta, self.lr, self.momentum, nesterov=self.nesterov,
                                      weight_decay=self.weight_decay)


class Adam(Optimizer):
    """p -= lr m / (sqrt(v) + eps), m and v the bias-corrected running means of g and g^2 (Kingma & Ba 2015).

    `weight_decay` adds weight_decay p to g (L2), as PyTorch's Adam does; AdamW's is decoupled.
    """

    slots = ("m", "v")
    decoupled = False

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr)
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay

    def _update(self, steps: int, data: list[Any], grads: list[Any], *state: list[Any]) -> None:
        backends.of(data[0]).adam_step(data, grads, *state, steps, self.lr, *self.betas, self.eps, self.weight_decay,
                                       self.decoupled)


class AdamW(Adam):
    """Adam with decoupled weight decay: p -= lr weight_decay p besides (Loshchilov & Hutter 2019)."""

    decoupled = True

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay)


def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients by max_norm / norm where their common Euclidean norm is larger than `max_norm`.

    Returns the norm before, a 0-dimensional Tensor that stays on the device (Pascanu et al. 2013), of float16 gradients
    in float32. The factor is max_norm / (norm + 1e-6), at most 1, as PyTorch's. A gradient of NaN or inf makes all of
    them NaN, or 0 and NaN; on a GPU the squares of float64 come to inf above 1e308. Look at it.
    """
    grads = [p.grad._data for p in parameters if p.grad is not None]
    if not grads:
        raise ValueError("clip_grad_norm_: no parameter has a gradient")
    return Tensor(_in_place("clip_grad_norm_", _clip, grads, max_norm))


def _clip(grads: list[Any], max_norm: float) -> Any:
    backend = backends.of(grads[0])
    norm = backend.xp.asarray(backend.global_norm(grads))
    backend.scale(grads, backend.xp.minimum(max_norm / (norm + 1e-6), 1.0))
    return norm


def _in_place(name: str, body: Callable[..., Any], *args: Any) -> Any:
    """`body(*args)`, which writes to arrays in lists. A watcher sees an op, from what they were to what they become."""

    def copy(x: Any) -> Any:
        if isinstance(x, (list, tuple)):
            return list(map(copy, x))
        return backends.of(x).asarray(x, copy=True) if hasattr(x, "dtype") else x

    seen = watcher()
    before = copy(args) if seen else []
    out = body(*args)
    if seen:
        seen.forward(name, lambda *args: ((body(*args), args), None), before, {}, (out, args), None)
    return out
