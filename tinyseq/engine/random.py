"""Random numbers: draws of distributions, the same on every backend, each from the next stream of a `Generator`.

`streams` says what a stream is, and whose is drawn from. What is drawn is drawn on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyseq import check
from tinyseq.check import explained
from tinyseq.engine.creation import like, on_host, tensor
from tinyseq.engine.streams import Generator, current, get_state, manual_seed, set_state
from tinyseq.engine.streams import host_generator as host_generator
from tinyseq.engine.streams import next_stream as next_stream
from tinyseq.engine.tensor import Like, Shape, Tensor

__all__ = ["Generator", "bernoulli", "categorical", "current", "get_state", "integers", "manual_seed", "normal",
           "permutation", "set_state", "uniform"]


@explained
def normal(shape: int | Sequence[int], *, mean: float = 0.0, std: float = 1.0, dtype: Any = np.float32,
           generator: Generator | None = None) -> Tensor:
    """Draws of `shape` from the normal distribution of that mean and standard deviation, float32 unless said otherwise.

    A `std` below 0 is a ValueError. Takes the next stream, of `generator` if given.

    >>> ts.random.normal((2, 3), mean=5.0, std=0.1).shape
    (2, 3)
    >>> ts.random.normal(2, std=0.0)
    tensor([0., 0.])
    """
    mean, std = check.numbers("normal", mean=mean), check.numbers("normal", least=0, std=std)
    return tensor(mean + std * host_generator(generator).standard_normal(check.operand(shape)), dtype=dtype)


@explained
def uniform(shape: int | Sequence[int], low: float = 0.0, high: float = 1.0, dtype: Any = np.float32, *,
            generator: Generator | None = None) -> Tensor:
    """Draws of `shape` from the uniform distribution on [low, high), float32 unless said otherwise.

    Takes the next stream, of `generator` if given.

    >>> x = ts.random.uniform(1000, -1.0, 1.0)
    >>> bool((x >= -1).all() and (x < 1).all())
    True
    """
    low, high = check.numbers("uniform", low=low, high=high)
    draws = np.asarray(host_generator(generator).uniform(low, high, check.operand(shape)), dtype=check.dtype(dtype))
    below = np.nextafter(draws.dtype.type(high), draws.dtype.type(low))
    return tensor(np.minimum(draws, below))  # in a narrow type a draw just below `high` rounds up to it


@explained
def integers(shape: int | Sequence[int], low: int, high: int, *, generator: Generator | None = None) -> Tensor:
    """int64 draws of `shape` from low, ..., high - 1, each as likely; none there is a ValueError.

    Takes the next stream, of `generator` if given.

    >>> x = ts.random.integers(1000, 0, 6)
    >>> x.min(), x.max()
    (tensor(0), tensor(5))
    """
    low, high = check.integers("integers", low=low, high=high)
    return tensor(host_generator(generator).integers(low, high, check.operand(shape)))


@explained
def permutation(n: int, *, generator: Generator | None = None) -> Tensor:
    """0, ..., n - 1 in random order, int64, (n,).

    Takes the next stream, of `generator` if given.

    >>> ts.sort(ts.random.permutation(4))
    tensor([0, 1, 2, 3])
    """
    return tensor(host_generator(generator).permutation(check.integers("permutation", 0, n=n)), np.int64)


def _probabilities(name: str, values: Like) -> Any:
    """The probabilities as float64 on the host."""
    p = values.detach().numpy() if isinstance(values, Tensor) else on_host(values)
    if p.dtype.kind not in "biuf" or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"expected {name} to be probabilities from 0 to 1, got {check.describe(values)}: of logits "
                         "ts.sigmoid(logits), of those of classes functional.softmax(logits)")
    return p.astype(np.float64)


@explained
def bernoulli(p: Like, shape: Shape | None = None, *, generator: Generator | None = None) -> Tensor:
    """Booleans of p's shape, or of a `shape` to which it broadcasts, each True with its probability p.

    What is no probability is a ValueError. Takes the next stream, of `generator` if given.

    >>> ts.random.bernoulli([0.0, 1.0])
    tensor([False,  True])
    >>> ts.random.bernoulli(0.5, (2, 3)).shape
    (2, 3)
    """
    known = _probabilities("p", p)
    known = known if shape is None else np.broadcast_to(known, shape)
    drawn = np.asarray(host_generator(generator).random(known.shape) < known)
    return like(p, drawn) if isinstance(p, Tensor) else tensor(drawn)


@explained
def categorical(probs: Like, *, generator: Generator | None = None) -> Tensor:
    """A class for each row of probabilities: probs (..., C) -> int64 (...), each as often as its row says.

    A row that does not add up to 1, within 1e-3, is a ValueError: of logits it is `functional.softmax(logits)`. Takes
    the next stream, of `generator` if given. Many draws of one row: `probs.broadcast_to((n, C))`.

    >>> ts.random.categorical([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    tensor([1, 0])
    """
    known = _probabilities("probs", probs)
    if not known.ndim or not (abs(known.sum(-1) - 1) <= 1e-3).all():
        raise ValueError(f"expected probs (..., C) whose rows add up to 1, got {check.describe(probs)}")
    up_to = np.cumsum(known, axis=-1)
    at = host_generator(generator).random(known.shape[:-1]) * up_to[..., -1]
    drawn = np.asarray((up_to <= at[..., None]).sum(-1, dtype=np.int64))
    return like(probs, drawn) if isinstance(probs, Tensor) else tensor(drawn)
