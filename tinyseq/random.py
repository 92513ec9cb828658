"""Random numbers that are a function of (seed, stream), the same on every backend.

Philox4x64-10, NumPy's own bits (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). Each draw takes
the next stream number; `manual_seed` starts again at stream 0. Parameters and normals are drawn on the host; a dropout
mask is drawn where its tensor lives, from the same raw integers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinyseq.ops import tensor
from tinyseq.tensor import Tensor

_lock = threading.Lock()
_state = [0, 0]  # seed, next stream


def manual_seed(seed: int) -> None:
    """Make everything drawn from here on a function of `seed` (an integer of up to 64 bits)."""
    if not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise ValueError(f"manual_seed: expected an integer from 0 to 2**64 - 1, got {seed!r}")
    set_state((seed, 0))


def get_state() -> tuple[int, int]:
    """(seed, next stream): what `set_state` needs to draw the same numbers again."""
    with _lock:
        return _state[0], _state[1]


def set_state(state: Sequence[int]) -> None:
    with _lock:
        _state[:] = state


class _Draws(threading.local):
    """What this thread records of its draws, and what it is to draw again."""

    records: tuple[list[tuple[int, int]], ...] = ()
    again: Iterator[tuple[int, int]] | None = None


_draws = _Draws()


def next_stream() -> tuple[int, int]:
    """(seed, stream) for one draw."""
    if _draws.again is not None:
        drawn = next(_draws.again, None)
        if drawn is None:
            raise RuntimeError("recompute: the function draws more random numbers than the first time")
    else:
        with _lock:
            drawn = _state[0], _state[1]
            _state[1] += 1
    for record in _draws.records:
        record.append(drawn)
    return drawn


@contextmanager
def recording() -> Iterator[list[tuple[int, int]]]:
    """The list of this thread's draws inside the block."""
    before, drawn = _draws.records, []  # type: ignore[var-annotated]
    _draws.records = (*before, drawn)
    try:
        yield drawn
    finally:
        _draws.records = before


@contextmanager
def replaying(drawn: Sequence[tuple[int, int]]) -> Iterator[None]:
    """Draw inside the block, in this thread, what was recorded; nobody else's draws change."""
    before, _draws.again = _draws.again, iter(drawn)
    try:
        yield
        if next(_draws.again, None) is not None:
            raise RuntimeError("recompute: the function draws fewer random numbers than the first time; was the model "
                               "switched to eval() in between?")
    finally:
        _draws.again = before


def host_generator() -> np.random.Generator:
    """A NumPy generator on the next stream."""
    seed, stream = next_stream()
    return np.random.Generator(np.random.Philox(key=seed, counter=stream << 128))


def normal(shape: int | Sequence[int], mean: float = 0.0, std: float = 1.0, dtype: Any = np.float32) -> Tensor:
    """Draws from the normal distribution of that mean and standard deviation."""
    return tensor(mean + std * host_generator().standard_normal(shape), dtype=dtype)


def uniform(shape: int | Sequence[int], low: float = 0.0, high: float = 1.0, dtype: Any = np.float32) -> Tensor:
    """Draws from the uniform distribution on [low, high)."""
    draws = np.asarray(host_generator().uniform(low, high, shape), dtype=dtype)
    below = np.nextafter(draws.dtype.type(high), draws.dtype.type(low))
    return tensor(np.minimum(draws, below))  # in a narrow type a draw just below `high` rounds up to it


def integers(shape: int | Sequence[int], low: int, high: int) -> Tensor:
    """int64 draws from low, ..., high - 1, each as likely."""
    return tensor(host_generator().integers(low, high, shape))


def permutation(n: int) -> Tensor:
    """0, ..., n - 1 in random order, int64."""
    return tensor(host_generator().permutation(n))
