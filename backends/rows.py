"""Large arrays a few rows at a time, so that a chain of small steps stays in the processor's cache; sums of rows."""

import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from tinyseq.backends.pool import share

Array = Any
Index = tuple[Any, ...]


def blocks(shape: tuple[int, ...], size: int, whole: int = 0) -> Iterator[Index]:
    """Index tuples that cut an array of `shape` into views of about `size` elements or fewer.

    The last `whole` axes are never cut, and an axis of which one entry is taken stays. Cutting by index works on any
    strides, and on a mask broadcast to `shape`.
    """
    if len(shape) <= whole or math.prod(shape) <= size:
        yield (...,)
    else:
        step = max(1, size // math.prod(shape[1:]))
        for start in range(0, shape[0], step):
            for rest in blocks(shape[1:], size, whole):
                yield (slice(start, start + step), *rest)


class RowKernels:
    """What all kernels are built on. A backend adds `xp`, the parts of it that inherit from this one add kernels."""

    xp: ModuleType
    block = 1 << 15  # elements of a few steps at a time: float32 arrays of 128 KiB stay in the second-level cache
    piece = 1 << 18  # elements a piece: of smaller ones threads wait for the interpreter more than they work
    long = 1 << 9  # numbers that a matrix product sums at a time, in several sums side by side

    def _row_max(self, x: Array) -> Array:
        """The largest entry of each row, (..., 1); a finite number for rows of -inf, so that x - max stays -inf."""
        return self.xp.maximum(self.xp.max(x, axis=-1, keepdims=True), self.xp.finfo(x.dtype).min)

    def _row_sum(self, x: Array) -> Array:
        """The sum of each row, (..., 1): a product with ones is much faster than a reduction of short
        rows. It is summed by `long` at a time, so that no error grows with a row."""
        n = x.shape[-1]
        if n <= self.long:
            return self.xp.matmul(x, self.xp.ones((n, 1), dtype=x.dtype))
        stop = n - n % self.long
        parts = self._row_sum(x[..., :stop].reshape(*x.shape[:-1], n // self.long, self.long))
        return self._row_sum(parts[..., 0]) + self._row_sum(x[..., stop:])

    def _row_dot(self, a: Array, b: Array) -> Array:
        """The sum of each row of a * b, (..., 1)."""
        n = a.shape[-1]
        if n < 64:  # there a call for each costs more than an array of products
            return self._row_sum(a * b)
        if n <= self.long:
            return self.xp.vecdot(a, b)[..., None]
        stop = n - n % self.long
        of_a, of_b = (x[..., :stop].reshape(*x.shape[:-1], n // self.long, self.long) for x in (a, b))
        return self._row_sum(self.xp.vecdot(of_a, of_b)) + self._row_dot(a[..., stop:], b[..., stop:])

    def _pieces(self, axis: int | None, *arrays: Array) -> Iterator[list[Array]]:
        """Views of the same few rows of each array, a row running along `axis`, which comes last.

        Arrays with fewer axes than the first are cut along those that they have. For `axis` None rows are cut too.
        """
        moved = [self.xp.moveaxis(a, axis, -1) for a in arrays] if axis not in (None, -1) else arrays
        if moved[0].size:
            for i in blocks(moved[0].shape, self.piece, whole=axis is not None):
                yield [a[i] for a in moved]

    def _by_pieces(self, work: Callable[..., Any], axis: int | None, *arrays: Array) -> list[Any]:
        """work(*piece) of each of `_pieces`, shared out to threads: what it returns, in the order of the pieces."""
        pieces = list(self._pieces(axis, *arrays))
        done = [None] * len(pieces)

        def some(start: int, stop: int) -> None:
            done[start:stop] = [work(*piece) for piece in pieces[start:stop]]

        share(some, len(pieces), 16 * arrays[0].size)
        return done
