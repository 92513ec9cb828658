"""Large arrays a few rows at a time, so that a chain of small steps stays in the processor's cache."""

from collections.abc import Callable, Iterator
from typing import Any

from tinyseq.backends.attention import blocks
from tinyseq.backends.sums import SumKernels

Array = Any


class PieceKernels(SumKernels):
    """What kernels by rows are built on; a backend adds `xp` and `_row_max`."""

    _row_max: Callable[..., Array]
    block = 1 << 15  # elements a piece: a few float32 arrays of 128 KiB stay in the second-level cache

    def _pieces(self, axis: int | None, *arrays: Array) -> Iterator[list[Array]]:
        """Views of the same few rows of each array, a row running along `axis`, which comes last.

        Arrays with fewer axes than the first are cut along those that they have. For `axis` None rows are cut too.
        """
        moved = [self.xp.moveaxis(a, axis, -1) for a in arrays] if axis not in (None, -1) else arrays
        if moved[0].size:
            for i in blocks(moved[0].shape, self.block, whole=axis is not None):
                yield [a[i] for a in moved]
