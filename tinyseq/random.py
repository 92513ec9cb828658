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
    if not 0 <= seed < 2**64:
        raise ValueError(f"manual_seed: expected 0 <= seed < 2**64, got {seed}")
    set_state((seed, 0))


def get_state() -> tuple[int, int]:
    """(seed, next stream): what `set_state` needs to draw the same numbers again."""
    with _lock:
        return _state[0], _state[1]


def set_state(state: Sequence[int]) -> None:
    with _lock:
        _state[:] = state


def next_stream() -> tuple[int, int]:
    """(seed, stream) for one draw."""
    with _lock:
        _state[1] += 1
        return _state[0], _state[1] - 1


@contextmanager
def replay(state: Sequence[int]) -> Iterator[None]:
    """Draw inside the block what was drawn from `state` on; continue afterwards as if nothing had been drawn."""
    before = get_state()
    set_state(state)
    try:
        yield
    finally:
        set_state(before)


def host_generator() -> np.random.Generator:
    """A NumPy generator on the next stream."""
    seed, stream = next_stream()
    return np.random.Generator(np.random.Philox(key=seed, counter=stream << 128))


def normal(shape: int | Sequence[int], mean: float = 0.0, std: float = 1.0, dtype: Any = np.float32) -> Tensor:
    """Draws from the normal distribution of that mean and standard deviation."""
    return tensor(mean + std * host_generator().standard_normal(shape), dtype=dtype)


def uniform(shape: int | Sequence[int], low: float = 0.0, high: float = 1.0, dtype: Any = np.float32) -> Tensor:
    """Draws from the uniform distribution on [low, high)."""
    return tensor(host_generator().uniform(low, high, shape), dtype=dtype)


def integers(shape: int | Sequence[int], low: int, high: int) -> Tensor:
    """int64 draws from low, ..., high - 1, each as likely."""
    return tensor(host_generator().integers(low, high, shape))


def permutation(n: int) -> Tensor:
    """0, ..., n - 1 in random order, int64."""
    return tensor(host_generator().permutation(n))
