"""Rows of an embedding, and which entries dropout keeps."""

import math

import numpy as np
from tinyseq.backends.convolution import ConvolutionKernels
from tinyseq.backends.sums import Array, SumKernels


class LayerKernels(ConvolutionKernels, SumKernels):
    """The part of a backend that picks, and goes along time with windows; a backend adds `xp`."""

    def embedding(self, table: Array, ids: Array) -> Array:
        """Rows of `table` (V, E) at integer ids (...): (..., E)."""
        return table[ids]

    def embedding_backward(self, g: Array, ids: Array, height: int, padding_idx: int | None = None) -> Array:
        """The gradient (V, E) of a table of `height` rows, zero in row `padding_idx`."""
        y = self.unindex(g, ids, (height, g.shape[-1]))
        if padding_idx is not None:
            y[padding_idx] = 0
        return y

    def random_raw(self, seed: int, stream: int, n: int, skip: int = 0) -> Array:
        """`n` random uint64 (n,), the same on every backend: NumPy's Philox4x64-10, key `seed`, counter
        `stream`, without the first 4 `skip` of them.

        Streams are 2**128 counters apart, so no two draws overlap.
        """
        return np.random.Philox(key=seed, counter=(stream << 128) + skip).random_raw(n)

    def dropout_mask(self, shape: tuple[int, ...], p: float, seed: int, stream: int, start: int = 0) -> Array:
        """Boolean array of `shape`, True (keep) with probability 1 - p: where 32 random bits are >= p
        2**32. It is the stretch from entry `start` of a longer one."""
        skip, n = start % 8, math.prod(shape)
        bits = self.random_raw(seed, stream, (skip + n + 1) // 2, start // 8).view(self.xp.uint32)[skip:skip + n]
        return (bits >= round(p * 2**32)).reshape(shape)  # 2**32, where p is 1, is reached by no 32 bits

    def dropout(self, x: Array, p: float, seed: int, stream: int) -> tuple[Array, Array]:
        """x, each entry by 1 / (1 - p) where `dropout_mask` keeps it and by 0 elsewhere, and that mask."""
        keep = self.dropout_mask(x.shape, p, seed, stream)
        return self.dropout_backward(x, keep, p), keep

    def dropout_backward(self, g: Array, keep: Array, p: float) -> Array:
        """The same of a gradient."""
        return g * keep * (1 / (1 - p))
