"""Steps of optimizers, each one pass over its arrays, compiled."""

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import starmap
from typing import Any

from tinyseq.backends.compiled import compiled
from tinyseq.backends.compiled.numbers import ZERO
from tinyseq.backends.optim import Arrays, OptimKernels
from tinyseq.backends.pool import share

Array = Any
PIECE = 1 << 17  # entries: threads that share less wait for Python's lock more than they work

# Arrays are flat, (n,), and None is not there: a function is compiled for each such case. Numbers become the arrays'.


@compiled
def sgd(lr: float, momentum: float, nesterov: bool, weight_decay: float, p: Array, g: Array, b: Array | None) -> None:
    number = p.dtype.type
    lr, momentum, decay, again = number(lr), number(momentum), number(weight_decay), number(nesterov)
    for i in range(p.size):
        d = g[i] + decay * p[i] if decay != ZERO else g[i]
        if b is not None:
            b[i] = momentum * b[i] + d
            d = d + momentum * b[i] if again != ZERO else b[i]
        p[i] -= lr * d


@compiled
def adam(rate: float, beta1: float, beta2: float, eps: float, shrink: float, weight_decay: float, p: Array, g: Array,
         m: Array, v: Array) -> None:
    """`rate` and `eps` have the corrections of both means in them; `shrink` is what decay leaves of p."""
    number = p.dtype.type
    new1, new2 = number(1 - beta1), number(1 - beta2)
    rate, beta1, beta2, eps, shrink, decay = (number(rate), number(beta1), number(beta2), number(eps), number(shrink),
                                              number(weight_decay))
    for i in range(p.size):
        d = g[i] + decay * p[i] if decay != ZERO else g[i]
        mean, square = beta1 * m[i] + new1 * d, beta2 * v[i] + new2 * d * d
        m[i], v[i] = mean, square
        p[i] = shrink * p[i] - rate * mean / (math.sqrt(square) + eps)


@compiled
def rmsprop(lr: float, alpha: float, eps: float, weight_decay: float, momentum: float, p: Array, g: Array, s: Array,
            m: Array | None, b: Array | None) -> None:
    number = p.dtype.type
    new = number(1 - alpha)
    lr, alpha, eps, decay, momentum = number(lr), number(alpha), number(eps), number(weight_decay), number(momentum)
    for i in range(p.size):
        d = g[i] + decay * p[i] if decay != ZERO else g[i]
        square = alpha * s[i] + new * d * d
        s[i] = square
        if m is not None:
            m[i] = alpha * m[i] + new * d
            square -= m[i] * m[i]
            square = ZERO if square < ZERO else square
        u = d / (math.sqrt(square) + eps)
        if b is not None:
            u += momentum * b[i]
            b[i] = u
        p[i] -= lr * u


@compiled
def lion(lr: float, beta1: float, beta2: float, shrink: float, p: Array, g: Array, m: Array) -> None:
    number = p.dtype.type
    new1, new2 = number(1 - beta1), number(1 - beta2)
    lr, beta1, beta2, shrink = number(lr), number(beta1), number(beta2), number(shrink)
    for i in range(p.size):
        c = beta1 * m[i] + new1 * g[i]
        p[i] = shrink * p[i] - (lr if c > ZERO else -lr if c < ZERO else c)  # 0, or NaN
        m[i] = beta2 * m[i] + new2 * g[i]


def flat(*lists: Arrays) -> list[list[Array]]:
    """Each list's arrays as flat views; nothing where one cannot be."""
    if not all([a.flags.c_contiguous for arrays in lists for a in arrays]):
        return []
    return [[a.ravel() for a in arrays] for arrays in lists]


def on_each(step: Callable[..., Any], *lists: Arrays) -> None:
    """step(*arrays) of those at each place of flat lists; large ones in pieces, which threads share. Of an empty list
    it gets None."""
    pieces: list[list[Array | None]] = []
    for arrays in zip(*[some or [None] * len(lists[0]) for some in lists], strict=True):
        if (n := arrays[0].size) <= PIECE:
            step(*arrays)
        else:
            pieces += [[a if a is None else a[i:i + PIECE] for a in arrays] for i in range(0, n, PIECE)]
    share(lambda start, stop: deque(starmap(step, pieces[start:stop]), 0), len(pieces), len(pieces) * PIECE)


class CompiledOptim(OptimKernels):
    """What replaces the portable kernels."""

    def sgd_step(self, params: Arrays, grads: Arrays, buffers: Arrays, lr: float, momentum: float = 0.0,
                 nesterov: bool = False, weight_decay: float = 0.0) -> None:
        if lists := flat(params, grads, buffers):
            on_each(partial(sgd, lr, momentum, nesterov, weight_decay), *lists)
        else:
            super().sgd_step(params, grads, buffers, lr, momentum, nesterov, weight_decay)

    def adam_step(self, params: Arrays, grads: Arrays, m: Arrays, v: Arrays, step: int, lr: float, beta1: float = 0.9,
                  beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0, decoupled: bool = False) -> None:
        if lists := flat(params, grads, m, v):
            root = math.sqrt(1 - beta2**step)
            rate, eps = lr * root / (1 - beta1**step), eps * root
            shrink, decay = (1 - lr * weight_decay, 0.0) if decoupled else (1.0, weight_decay)
            on_each(partial(adam, rate, beta1, beta2, eps, shrink, decay), *lists)
        else:
            super().adam_step(params, grads, m, v, step, lr, beta1, beta2, eps, weight_decay, decoupled)

    def rmsprop_step(self, params: Arrays, grads: Arrays, squares: Arrays, means: Arrays, buffers: Arrays, lr: float,
                     alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0, momentum: float = 0.0) -> None:
        if lists := flat(params, grads, squares, means, buffers):
            on_each(partial(rmsprop, lr, alpha, eps, weight_decay, momentum), *lists)
        else:
            super().rmsprop_step(params, grads, squares, means, buffers, lr, alpha, eps, weight_decay, momentum)

    def lion_step(self, params: Arrays, grads: Arrays, m: Arrays, lr: float, beta1: float = 0.9, beta2: float = 0.99,
                  weight_decay: float = 0.0) -> None:
        if lists := flat(params, grads, m):
            on_each(partial(lion, lr, beta1, beta2, 1 - lr * weight_decay), *lists)
        else:
            super().lion_step(params, grads, m, lr, beta1, beta2, weight_decay)
