"""How parameters begin. Each function fills a tensor in place, drawing from the next random stream, and returns it.

The stream is that of `generator` if given, else that of `tinyseq.random`'s current one.
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from typing import Any, ClassVar, TypeVar

import numpy as np

from tinyseq import check
from tinyseq.check import describe, explained
from tinyseq.engine import random
from tinyseq.engine.random import Generator
from tinyseq.engine.tensor import Tensor
from tinyseq.nn.module import Module
from tinyseq.scope import Scope

__all__ = ["constant_", "kaiming_normal_", "kaiming_uniform_", "normal_", "ones_", "orthogonal_", "recurrent_", "skip",
           "uniform_", "xavier_normal_", "xavier_uniform_", "zeros_"]

M = TypeVar("M", bound=Module)


class skip(Scope):
    """Inside, nothing here draws or fills, and new parameters stay 0: for a model whose weights are loaded next.

    >>> with nn.init.skip():
    ...     linear = nn.Linear(3, 4)
    >>> ts.all(linear.weight == 0)
    tensor(True)
    """

    stack: ClassVar = ContextVar("skipped", default=())


def _fill(tensor: Tensor, values: Any, generator: Generator | None = None) -> Tensor:
    """Give a tensor numbers, or what a function of NumPy's generator of the next stream makes of that."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"expected tensor to be a Tensor, got {describe(tensor)}")
    if callable(values) and tensor.dtype.kind != "f":
        raise TypeError(f"expected tensor to be of a floating-point dtype, got {describe(tensor)}")
    if not skip.stack.get():
        values = values(random.host_generator(generator)) if callable(values) else values
        tensor.data = np.array(np.broadcast_to(values, tensor.shape), tensor.dtype)
    return tensor


def _fans(tensor: Tensor) -> tuple[int, int]:
    """(inputs, outputs) of a weight (O, I, ...)."""
    if tensor.ndim < 2:
        raise ValueError(f"expected tensor to be a weight (O, I, ...), got shape {tensor.shape}")
    receptive = math.prod(tensor.shape[2:])
    return max(1, tensor.shape[1] * receptive), max(1, tensor.shape[0] * receptive)


@explained
def zeros_(tensor: Tensor) -> Tensor:
    """All entries of a tensor of any shape 0, in place; returns it.

    >>> nn.init.zeros_(nn.Linear(3, 2).bias).tolist()
    [0.0, 0.0]
    """
    return _fill(tensor, 0.0)


@explained
def ones_(tensor: Tensor) -> Tensor:
    """All entries of a tensor of any shape 1, in place; returns it.

    >>> nn.init.ones_(ts.zeros((2, 3))).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    return _fill(tensor, 1.0)


@explained
def constant_(tensor: Tensor, value: float) -> Tensor:
    """All entries of a tensor of any shape `value`, in place; returns it.

    >>> gru = nn.GRU(3, 4)
    >>> nn.init.constant_(gru.bias_hh_l0, 0.5).tolist()[:2]
    [0.5, 0.5]
    """
    return _fill(tensor, check.numbers("constant_", value=value))


@explained
def uniform_(tensor: Tensor, low: float = 0.0, high: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Uniformly distributed from `low` to `high`, on any shape of a floating-point dtype, in place; returns the tensor.

    >>> linear = nn.Linear(3, 4)
    >>> weight = nn.init.uniform_(linear.weight, -0.1, 0.1)
    >>> weight is linear.weight, ts.all(abs(weight) <= 0.1)
    (True, tensor(True))
    """
    low, high = check.numbers("uniform_", low=low, high=high)
    return _fill(tensor, lambda rng: rng.uniform(low, high, tensor.shape), generator)


@explained
def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Normally distributed, of that mean and standard deviation, on any shape of a floating-point dtype, in place;
    returns the tensor.

    >>> weight = nn.init.normal_(ts.zeros((100, 100)), std=0.02)
    >>> bool(abs(ts.std(weight) - 0.02) < 0.001)
    True
    """
    mean, std = check.numbers("normal_", mean=mean), check.numbers("normal_", least=0, std=std)
    return _fill(tensor, lambda rng: mean + std * rng.standard_normal(tensor.shape), generator)


@explained
def xavier_uniform_(tensor: Tensor, gain: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Uniform on ±gain sqrt(6 / (inputs + outputs)) (Glorot & Bengio 2010, equation 16), of a weight (outputs, inputs),
    in place; returns it. Further axes (outputs, inputs, ...) count for both. Raises ValueError for fewer than two axes.

    >>> weight = nn.init.xavier_uniform_(ts.zeros((2, 4)))    # within ±1
    >>> ts.all(abs(weight) <= 1), ts.any(weight != 0)
    (tensor(True), tensor(True))
    """
    bound = check.numbers("xavier_uniform_", gain=gain) * math.sqrt(6 / sum(_fans(tensor)))
    return uniform_(tensor, -bound, bound, generator=generator)


@explained
def xavier_normal_(tensor: Tensor, gain: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Normal with standard deviation gain sqrt(2 / (inputs + outputs)) (Glorot & Bengio 2010), of a weight (outputs,
    inputs), in place; returns it. Further axes (outputs, inputs, ...) count for both. Raises ValueError for fewer than
    two axes.

    >>> weight = nn.init.xavier_normal_(ts.zeros((100, 100)))
    >>> bool(abs(ts.std(weight) - 0.1) < 0.005)
    True
    """
    std = abs(check.numbers("xavier_normal_", gain=gain)) * math.sqrt(2 / sum(_fans(tensor)))
    return normal_(tensor, 0.0, std, generator=generator)


@explained
def kaiming_uniform_(tensor: Tensor, *, gain: float = math.sqrt(2), generator: Generator | None = None) -> Tensor:
    """Uniform on ±gain sqrt(3 / inputs), of a weight (outputs, inputs), in place; returns it. The default gain is that
    for ReLU (He et al. 2015, equation 10). Further axes (outputs, inputs, ...) count as inputs. Raises ValueError for
    fewer than two axes.

    >>> weight = nn.init.kaiming_uniform_(ts.zeros((4, 6)))   # within ±sqrt(2) sqrt(3 / 6) = ±1
    >>> ts.all(abs(weight) <= 1), ts.any(weight != 0)
    (tensor(True), tensor(True))
    """
    bound = check.numbers("kaiming_uniform_", gain=gain) * math.sqrt(3 / _fans(tensor)[0])
    return uniform_(tensor, -bound, bound, generator=generator)


@explained
def kaiming_normal_(tensor: Tensor, *, gain: float = math.sqrt(2), generator: Generator | None = None) -> Tensor:
    """Normal with standard deviation gain / sqrt(inputs), of a weight (outputs, inputs), in place; returns it. The
    default gain is that for ReLU (He et al. 2015, equation 10). Further axes (outputs, inputs, ...) count as inputs.
    Raises ValueError for fewer than two axes.

    >>> weight = nn.init.kaiming_normal_(ts.zeros((100, 200)))
    >>> bool(abs(ts.std(weight) - 0.1) < 0.005)
    True
    """
    std = abs(check.numbers("kaiming_normal_", gain=gain)) / math.sqrt(_fans(tensor)[0])
    return normal_(tensor, 0.0, std, generator=generator)


@explained
def orthogonal_(tensor: Tensor, gain: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """A matrix with orthonormal rows or columns, whichever are fewer, times gain (Saxe et al. 2014): a weight (rows,
    columns), in place; returns it. Further axes count as columns. ValueError for fewer than two axes.

    >>> weight = nn.init.orthogonal_(ts.zeros((3, 5)))
    >>> ts.all(abs(weight @ weight.mT - ts.eye(3)) < 1e-6)
    tensor(True)
    """
    _fans(tensor)
    gain = check.numbers("orthogonal_", gain=gain)
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])

    def draw(rng: np.random.Generator) -> Any:
        q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
        q = q * np.sign(np.diag(r))  # so that every orthogonal matrix is as likely
        return gain * (q if rows >= columns else q.T).reshape(tensor.shape)

    return _fill(tensor, draw, generator)


def recurrent_(module: M, *, generator: Generator | None = None) -> M:
    """Recurrent layers and cells, `module` itself or those anywhere in it, as Keras begins them; returns the module.

    Of each gate, the recurrent weights are orthogonal and the input weights Xavier uniform, a matrix of their own;
    biases are 0, those of an LSTM's forget gate 1 in sum (Jozefowicz et al. 2015).

    >>> lstm = nn.init.recurrent_(nn.LSTM(3, 4))
    >>> lstm.bias_ih_l0.reshape((4, 4)).tolist()              # a row a gate: i, f, g, o
    [[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]

    Raises ValueError where nothing is named as PyTorch's recurrent weights: weight_ih..., weight_hh....
    """
    check.instance("recurrent_", Module, module=module)
    own = dict(module.named_parameters())
    names = [name.rsplit("weight_hh", 1) for name in own if name.rpartition(".")[2].startswith("weight_hh")]
    if not names:
        raise ValueError(f"init.recurrent_: {type(module).__name__} holds no weight_hh..., only {list(own)}")
    for prefix, suffix in names:
        projected = f"{prefix}weight_hr{suffix}" in own  # of an LSTM, whose output is then no state
        hidden = own[f"{prefix}weight_{'hr' if projected else 'hh'}{suffix}"].shape[1]
        for key, draw in (("weight_ih", xavier_uniform_), ("weight_hh", orthogonal_)):
            weight = own[f"{prefix}{key}{suffix}"]
            gates = [Tensor(np.empty((hidden, weight.shape[1]))) for _ in range(weight.shape[0] // hidden)]
            _fill(weight, np.concatenate([draw(gate, generator=generator)._data for gate in gates]))
        if f"{prefix}bias_ih{suffix}" in own:
            _fill(own[f"{prefix}bias_ih{suffix}"], (np.arange(weight.shape[0]) // hidden == 1) & (len(gates) == 4))
            zeros_(own[f"{prefix}bias_hh{suffix}"])
    return module
