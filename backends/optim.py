"""Steps of optimizers, in place on lists of arrays; gradients clipped by their common norm or by value.

A step's arrays are float32 or float64. What is float16 is stepped as its float32 master, with gradients as wide.
"""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tinyseq.backends.rows import blocks
from tinyseq.backends.sums import Array, SumKernels

Arrays = Sequence[Array]
_list = [np.empty(1)]
ONE = sys.getrefcount(_list[0])  # as Python counts, with the call itself, what a list alone refers to


def alone(arrays: list[Array], i: int) -> bool:
    """Whether nothing but the list refers to its array i, of NumPy, nor to an array all of which that is a view of."""
    if type(arrays[i]) is not np.ndarray or sys.getrefcount(arrays[i]) != ONE or not arrays[i].flags.writeable:
        return False
    whole = sys.getrefcount(arrays[i].base)  # before it has a name here, which counts
    if arrays[i].base is None:
        return bool(arrays[i].flags.owndata)
    return (type(base := arrays[i].base) is np.ndarray and base.flags.owndata and base.nbytes == arrays[i].nbytes
            and whole == ONE and arrays[i].flags.forc)  # of contiguous numbers no two are one


class OptimKernels(SumKernels):
    """The part of a backend that trains; a backend adds `xp`."""

    def _on_each(self, step: Callable[..., Any], *lists: Arrays) -> None:
        """step(*arrays) of those at each place of the lists, large ones in stretches. Of an empty list it gets None."""
        for arrays in zip(*[arrays or [None] * len(lists[0]) for arrays in lists], strict=True):
            if arrays[0].size <= self.block:
                step(*arrays)
            else:
                for i in blocks(arrays[0].shape, self.block):
                    step(*[a if a is None else a[i] for a in arrays])

    def sgd_step(self, params: Arrays, grads: Arrays, buffers: Arrays, lr: float,
                 momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> None:
        """One step of torch.optim.SGD: d = g + weight_decay p; b = momentum b + d, with b zero at first;
        p -= lr b, or lr (d + momentum b) with `nesterov`. `buffers` may be empty without momentum."""
        def step(p: Array, d: Array, b: Array) -> None:
            if weight_decay:
                d = d + weight_decay * p
            if momentum:
                b *= momentum
                b += d
                d = d + momentum * b if nesterov else b
            p -= lr * d

        self._on_each(step, params, grads, buffers)

    def adam_step(self, params: Arrays, grads: Arrays, m: Arrays,
                  v: Arrays, step: int, lr: float, beta1: float = 0.9, beta2: float = 0.999,
                  eps: float = 1e-8, weight_decay: float = 0.0, decoupled: bool = False) -> None:
        """Step number `step` (from 1) of Adam (Kingma and Ba 2015), or AdamW (Loshchilov and Hutter 2019) if
        `decoupled`; `m` and `v` are the running means of the gradient and its square.

        m += (1 - beta1) (g - m);  v += (1 - beta2) (g^2 - v);  p -= lr m^ / (sqrt(v^) + eps), with
        m^ = m / (1 - beta1^step) and v^ = v / (1 - beta2^step).
        """
        root = math.sqrt(1 - beta2**step)
        rate = lr * root / (1 - beta1**step)

        def update(p: Array, d: Array, mean: Array, square: Array) -> None:
            if weight_decay and decoupled:
                p *= 1 - lr * weight_decay
            elif weight_decay:
                d = d + weight_decay * p
            mean *= beta1
            mean += d * (1 - beta1)
            square *= beta2
            square += d * d * (1 - beta2)
            t = mean / (self.xp.sqrt(square) + eps * root)
            t *= rate
            p -= t

        self._on_each(update, params, grads, m, v)

    def rmsprop_step(self, params: Arrays, grads: Arrays, squares: Arrays,
                     means: Arrays, buffers: Arrays, lr: float, alpha: float = 0.99,
                     eps: float = 1e-8, weight_decay: float = 0.0, momentum: float = 0.0) -> None:
        """One step of torch.optim.RMSprop: d = g + weight_decay p; s = alpha s + (1 - alpha) d^2;
        u = d / (sqrt(s) + eps); b = momentum b + u; p -= lr b. With `means` it is centered: they are running means m of
        d, and s - m^2, at least 0, is in the place of s. Without `buffers` there is no momentum."""
        def step(p: Array, d: Array, square: Array, mean: Array | None, b: Array | None) -> None:
            if weight_decay:
                d = d + weight_decay * p
            square *= alpha
            square += d * d * (1 - alpha)
            if mean is not None:
                mean *= alpha
                mean += d * (1 - alpha)
            t = self.xp.sqrt(square if mean is None else self.xp.maximum(square - mean * mean, 0.0))
            t = d / (t + eps)
            if b is not None:
                b *= momentum
                b += t
            p -= lr * (t if b is None else b)

        self._on_each(step, params, grads, squares, means, buffers)

    def lion_step(self, params: Arrays, grads: Arrays, m: Arrays, lr: float,
                  beta1: float = 0.9, beta2: float = 0.99, weight_decay: float = 0.0) -> None:
        """One step of Lion (Chen et al. 2023, algorithm 2): c = beta1 m + (1 - beta1) g;
        p -= lr (sign(c) + weight_decay p); m = beta2 m + (1 - beta2) g."""
        def step(p: Array, g: Array, mean: Array) -> None:
            if weight_decay:
                p *= 1 - lr * weight_decay
            p -= lr * self.xp.sign(mean * beta1 + g * (1 - beta1))
            mean *= beta2
            mean += g * (1 - beta2)

        self._on_each(step, params, grads, m)

    def adafactor_step(self, params: Arrays, grads: Arrays, rows: Arrays,
                       columns: Arrays, step: int, lr: float, beta2_decay: float = -0.8,
                       eps: tuple[float | None, float] = (None, 1e-3), d: float = 1.0,
                       weight_decay: float = 0.0) -> None:
        """Step number `step` (from 1) of torch.optim.Adafactor (Shazeer and Stern 2018, algorithms 4 and 5).

        `rows` (..., n, 1) and `columns` (..., 1, m) are running means of g^2 over the last axis and the one before,
        whose product stands for that of g^2 (..., n, m); of fewer than two axes `rows` is that of g^2 itself.
        """
        xp, new = self.xp, step**beta2_decay
        for p, g, row, column in zip(params, grads, rows, columns, strict=True):
            if p.size:
                least = xp.finfo(p.dtype).eps if eps[0] is None else eps[0]
                rate = xp.maximum(self._rms(p), eps[1]) * min(lr, step**-0.5)
                if weight_decay:
                    p *= 1 - lr * weight_decay
                if p.ndim > 1:
                    square = g * g
                    row += (xp.mean(square, axis=-1, keepdims=True) - row) * new
                    column += (xp.mean(square, axis=-2, keepdims=True) - column) * new
                    square = row / xp.maximum(xp.mean(row, axis=-2, keepdims=True), least) * column
                else:
                    row += (g * g - row) * new
                    square = row
                u = g / xp.maximum(xp.sqrt(square), least)
                p -= u * (rate / xp.maximum(self._rms(u) / d, 1.0))

    def _rms(self, x: Array) -> Array:
        """The root of the mean square of x, of any shape."""
        return self.xp.sqrt(self._squares(x.reshape(-1)) / x.size)

    def copies(self, arrays: Arrays) -> list[Array]:
        """A new array for each, with its numbers."""
        return [self.xp.asarray(a, copy=True) for a in arrays]

    def own(self, arrays: list[Array]) -> list[Array]:
        """The list, of which whoever gave it away may write to each array: a copy where others could see that."""
        shared = [i for i in range(len(arrays)) if not alone(arrays, i)]
        for i, copy in zip(shared, self.copies([arrays[i] for i in shared]), strict=True):
            arrays[i] = copy
        return arrays

    def follow(self, masters: Arrays, halves: Arrays) -> None:
        """Masters, float32, of which the float16 arrays are not what they were rounded to become what those are."""
        for master, half in zip(masters, halves, strict=True):
            self.xp.copyto(master, half, where=master.astype(half.dtype) != half)

    def round_to(self, halves: Arrays, masters: Arrays) -> None:
        """The float16 arrays become their rounded masters."""
        for half, master in zip(halves, masters, strict=True):
            half[...] = master

    def global_norm(self, grads: Arrays) -> Array:
        """The Euclidean norm of all gradients (at least one) together, a scalar that stays on the device, of float16
        in float32. Where squares overflow, multiples of the largest entry are squared."""
        flat = [self._wide(g.reshape(-1)) for g in grads]
        squares = sum(map(self._squares, flat))
        if squares == math.inf:
            top = max(abs(g).max() for g in flat if g.size)
            if top < math.inf:
                return top * self.xp.sqrt(sum(self._squares(g / top) for g in flat))
        return self.xp.sqrt(squares)

    def _squares(self, x: Array) -> Array:
        """The sum of the squares of x (N,), in stretches, so that many small ones are not lost."""
        xp, total = self.xp, 0
        if x.size > self.few:
            rows = x[:x.size - x.size % self.long].reshape(-1, self.long)
            total, x = xp.sum(xp.vecdot(rows, rows)), x[rows.size:]
        return total + xp.vdot(x, x)

    def scale(self, arrays: Arrays, factor: Array) -> None:
        """Multiply each array by `factor` (a scalar on the device), in place; float16 by it in float32."""
        for a in arrays if factor != 1 else ():
            if a.dtype == np.float16:  # the factor may be too small for it
                a[...] = self._wide(a) * factor
            else:
                a *= self.xp.asarray(factor, dtype=a.dtype)

    def clip_entries(self, arrays: Arrays, most: float) -> None:
        """Entries above `most` become it, those below -`most` that, in place; of a float16 array as far as it goes."""
        for a in arrays:
            if most <= float(np.finfo(a.dtype).max):  # inf is above it, and has no other number to become
                self.xp.clip(a, -most, most, out=a)
