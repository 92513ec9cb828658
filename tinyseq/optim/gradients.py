"""What is done with gradients between `backward` and `step`: clipping, dividing by what was counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

from tinyseq import backends, check
from tinyseq.check import describe
from tinyseq.engine.autograd import watching
from tinyseq.engine.tensor import Array, Tensor, namespace
from tinyseq.interrupts import together, uninterrupted
from tinyseq.optim.groups import Parameters

P = ParamSpec("P")
R = TypeVar("R")


def told(function: Callable[P, R]) -> Callable[P, R]:
    """A public function: arguments that it does not have, or that are missing, are an error with all that it takes."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next:  # from within
                raise
            raise TypeError(check.misfit(error, function.__name__, function, kwargs)) from None

    return call


@told
def clip_grad_norm_(parameters: Parameters, max_norm: float) -> Tensor:
    """Scale all gradients by max_norm / norm where their common Euclidean norm is larger than `max_norm`, >= 0.

    Returns the norm before, a 0-dimensional Tensor that stays on the device (Pascanu et al. 2013), of float16 gradients
    in float32. The factor is max_norm / (norm + 1e-6), at most 1, as PyTorch's. A gradient of NaN or inf makes all of
    them NaN, or 0 and NaN; on a GPU the squares of float64 come to inf above 1e308. Look at it. An interrupt (Ctrl-C)
    waits for the end. Without a gradient the norm is 0. Raises ValueError for a max_norm below 0 and for no parameters,
    TypeError for gradients that are no Tensors or live on several backends.

    >>> p = nn.Parameter([1.5, 2.0])
    >>> ts.sum(p * p).backward()                              # the gradient is (3, 4)
    >>> norm = ts.optim.clip_grad_norm_([p], max_norm=1.0)    # between backward() and step()
    >>> float(norm), [round(v, 4) for v in p.grad.tolist()]
    (5.0, [0.6, 0.8])
    """
    max_norm = check.numbers("clip_grad_norm_", least=0, max_norm=max_norm)
    parameters = leaves("clip_grad_norm_", parameters)
    given = [p.grad for p in parameters if p.grad is not None]
    grads = [g._data for g in given if isinstance(g, Tensor)]
    if not parameters:
        raise ValueError("clip_grad_norm_: no parameters were given; a generator is empty the second time")
    if not given:
        return Tensor(namespace(parameters[0]._data).zeros((), wide(parameters[0])))
    if len(grads) < len(given) or len(set(map(type, grads))) > 1:
        for i, p in enumerate(parameters):
            gradient("clip_grad_norm_", i, p)  # says which is no Tensor, or not where its parameter is
        raise TypeError("clip_grad_norm_: the gradients live on several backends, expected one: .to() moves a module")
    with uninterrupted():
        return Tensor(in_place("clip_grad_norm_", _clip, grads, max_norm))


@told
def clip_grad_value_(parameters: Parameters, clip_value: float) -> None:
    """Clip each entry of all gradients to the range from -clip_value to clip_value, >= 0, in place.

    NaN stays what it is, and so does inf in a float16 gradient where clip_value is more than float16 holds. Without a
    gradient nothing happens. An interrupt (Ctrl-C) waits for the end. Raises ValueError for a clip_value below 0,
    TypeError for gradients that are not like their parameters.

    >>> p = nn.Parameter([1.5, -0.1])
    >>> ts.sum(p * p).backward()                              # the gradient is (3, -0.2)
    >>> ts.optim.clip_grad_value_([p], clip_value=1.0)        # between backward() and step()
    >>> p.grad
    tensor([ 1. , -0.2])
    """
    clip_value = check.numbers("clip_grad_value_", least=0, clip_value=clip_value)
    parameters = leaves("clip_grad_value_", parameters)
    grads = [gradient("clip_grad_value_", i, p) for i, p in enumerate(parameters)]
    with uninterrupted():
        for g in grads:
            if g is not None:
                in_place("clip_grad_value_", partial(_kernel, "clip_entries"), [g], clip_value)


@told
def divide_grad_(parameters: Parameters, count: float) -> None:
    """Divide all gradients by `count`, > 0: of a sum over several batches by how many were counted in all of them.

    So several small batches give the gradient of one large batch, whatever each of them counts: a loss that is summed,
    `reduction="sum"`, and one division. The mean of the batches' means is another number, wherever one of them counts
    more tokens than another. A count of 0, where no batch had a token, divides by nothing: the gradients are 0.

    Gradients of float16 parameters become float32, as their quotients have no room in float16: 4 bytes a number until
    `zero_grad`. `clip_grad_norm_` and all optimizers take them. With a `LossScaler` its `unscale_` divides. Between
    processes, whose gradients are summed, `count` is the sum of theirs. An interrupt (Ctrl-C) waits for the end.

    >>> model, optimizer = (m := nn.Linear(3, 2)), ts.optim.SGD(m.parameters(), lr=0.1)
    >>> batches = [(ts.ones((2, 3)), [0, 1]), (ts.zeros((3, 3)), [1, -100, -100])]      # -100 does not count
    >>> optimizer.zero_grad()
    >>> tokens = 0
    >>> for x, y in batches:
    ...     F.cross_entropy(model(x), y, reduction="sum").backward()
    ...     tokens += np.sum(np.array(y) != -100)
    >>> ts.optim.divide_grad_(model.parameters(), tokens)     # as of one batch of 5 rows, of which 3 count
    >>> optimizer.step()

    Raises ValueError for a count below 0 or infinite, TypeError for what is no parameter and for gradients that are not
    like their parameters; then nothing is divided.
    """
    count = check.numbers("divide_grad_", least=0, below=math.inf, count=count)
    divide("divide_grad_", leaves("divide_grad_", parameters), count or 1.0)


def divide(where: str, parameters: list[Tensor], count: float) -> dict[Any, list[Array]]:
    """Gradients by `count`, in float32 at least; and those arrays, by backend."""
    given = [(p, g) for i, p in enumerate(parameters) if (g := gradient(where, i, p)) is not None]
    found: dict[Any, list[Array]] = {}
    grads = [backends.of(g).asarray(g, wide(p)) for p, g in given]  # the same array, but of float16
    for g in grads:
        found.setdefault(backends.of(g), []).append(g)
    with uninterrupted():
        for arrays in found.values():
            in_place(where, partial(_kernel, "scale"), arrays, 1 / count)
        together(*((p, "grad", Tensor(g)) for (p, old), g in zip(given, grads, strict=True) if g is not old))
    return found


def _kernel(name: str, arrays: list[Any], *args: Any) -> None:
    """A kernel of the arrays' backend: a watcher asks NumPy's for the same."""
    getattr(backends.of(arrays[0]), name)(arrays, *args)


def _clip(grads: list[Any], max_norm: float) -> Any:
    backend = backends.of(grads[0])
    norm = backend.xp.asarray(backend.global_norm(grads))
    backend.scale(grads, backend.xp.minimum(max_norm / (norm + 1e-6), 1.0))
    return norm


def leaves(where: str, parameters: Any) -> list[Tensor]:
    """The parameters of what an optimizer takes, as a list."""
    if isinstance(parameters, Iterator):
        parameters = list(parameters)
    if type(parameters) is list and parameters and all(isinstance(p, Tensor) and p.is_leaf for p in parameters):
        return parameters
    return [p for label, group in groups(where, parameters) for _, p in named(label, group["params"])]


def groups(where: str, parameters: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """Groups of parameters, each with what an error calls it; plain parameters are one group."""
    listed = [] if isinstance(parameters, (Tensor, set)) or hasattr(parameters, "parameters") or (
        not hasattr(parameters, "__iter__")) else list(parameters)
    if not listed or not isinstance(listed[0], Mapping):
        return [(where, {"params": listed or parameters})]
    for k, group in enumerate(listed):
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(f"{where}: expected parameters, in group {k}: a dictionary with \"params\", got "
                            f"{describe(group)}")
        if isinstance(group["params"], Tensor):
            listed[k] = {**group, "params": [group["params"]]}
    return [(where if len(listed) == 1 else f"{where}: group {k}", group) for k, group in enumerate(listed)]


def named(where: str, parameters: Any) -> list[tuple[str, Tensor]]:
    """(name, parameter) of Tensors or such pairs, "" for no name; anything but leaf Tensors is refused."""
    advice = ": pass a module's .parameters()"
    if isinstance(parameters, (Tensor, set)) or hasattr(parameters, "parameters") or (
            not hasattr(parameters, "__iter__")):
        raise TypeError(f"{where}: expected parameters, a list of leaf Tensors, got a {type(parameters).__name__}"
                        f"{advice}")
    pairs = [p if isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], str) else ("", p) for p in parameters]
    for i, (name, p) in enumerate(pairs):
        if not isinstance(p, Tensor) or not p.is_leaf:
            kind = "computed Tensor" if isinstance(p, Tensor) else type(p).__name__
            raise TypeError(f"{where}: parameter {i}{f' ({name})' * bool(name)} is a {kind}, expected a leaf Tensor"
                            f"{advice}")
    return pairs


def wide(p: Tensor) -> Any:
    """The dtype of what is kept for a parameter: float16 has no room for the squares of small gradients."""
    return np.promote_types(p.dtype, np.float32)


def gradient(where: str, i: int, p: Tensor) -> Array | None:
    """The array of a parameter's gradient, which may be float32 of float16. Another that is not like it is refused."""
    g: Any = p.grad
    if g is None:
        return None
    if isinstance(g, Tensor):
        x, y = g._data, p._data
        if x.shape == y.shape and type(x) is type(y) and (x.dtype == y.dtype or x.dtype == wide(p)):
            return x
    given = f"{describe(g)} on {g.backend}" if isinstance(g, Tensor) else f"a {type(g).__name__}"
    raise TypeError(f"{where}: the gradient of parameter {i} is {given}, expected a Tensor {describe(p)} on "
                    f"{p.backend}")


def in_place(name: str, body: Callable[..., Any], *args: Any) -> Any:
    """`body(*args)`, which writes to arrays in lists. A watcher sees an op, from what they were to what they become."""
    watchers = watching.stack.get()
    return watchers[-1].in_place(name, body, args) if watchers else body(*args)
