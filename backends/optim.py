"""Steps of optimizers, in place on lists of arrays, and the norm of all gradients together."""

import math
from collections.abc import Sequence

import numpy as np
from tinyseq.backends.sums import Array, SumKernels


class OptimKernels(SumKernels):
    """The part of a backend that trains; a backend adds `xp`."""

    def sgd_step(self, params: Sequence[Array], grads: Sequence[Array], buffers: Sequence[Array], lr: float,
                 momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> None:
        """One step of torch.optim.SGD: d = g + weight_decay p; b = momentum b + d, with b zero at first;
        p -= lr b, or lr (d + momentum b) with `nesterov`. `buffers` may be empty without momentum."""
        if any(p.dtype.char == "e" for p in params):
            return self._in_float32(self.sgd_step, (params, grads, buffers), lr, momentum, nesterov, weight_decay)
        for arrays in zip(params, grads, buffers if momentum else grads, strict=True):
            for p, d, b in self._pieces(None, *arrays):
                if weight_decay:
                    d = d + weight_decay * p
                if momentum:
                    b *= momentum
                    b += d
                    d = d + momentum * b if nesterov else b
                p -= lr * d

    def adam_step(self, params: Sequence[Array], grads: Sequence[Array], m: Sequence[Array],
                  v: Sequence[Array], step: int, lr: float, beta1: float = 0.9, beta2: float = 0.999,
                  eps: float = 1e-8, weight_decay: float = 0.0, decoupled: bool = False) -> None:
        """Step number `step` (from 1) of Adam (Kingma and Ba 2015), or AdamW (Loshchilov and Hutter 2019) if
        `decoupled`; `m` and `v` are the running means of the gradient and its square.

        m += (1 - beta1) (g - m);  v += (1 - beta2) (g^2 - v);  p -= lr m^ / (sqrt(v^) + eps), with
        m^ = m / (1 - beta1^step) and v^ = v / (1 - beta2^step).
        """
        if any(p.dtype.char == "e" for p in params):
            return self._in_float32(self.adam_step, (params, grads, m, v), step, lr, beta1, beta2, eps, weight_decay,
                                    decoupled)
        root = math.sqrt(1 - beta2**step)
        rate = lr * root / (1 - beta1**step)
        for arrays in zip(params, grads, m, v, strict=True):
            for p, d, mean, square in self._pieces(None, *arrays):
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

    def global_norm(self, grads: Sequence[Array]) -> Array:
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

    def scale(self, arrays: Sequence[Array], factor: Array) -> None:
        """Multiply each array by `factor` (a scalar on the device), in place; float16 by it in float32."""
        for a in arrays if factor != 1 else ():
            if a.dtype == np.float16:  # the factor may be too small for it
                a[...] = self._wide(a) * factor
            else:
                a *= self.xp.asarray(factor, dtype=a.dtype)
