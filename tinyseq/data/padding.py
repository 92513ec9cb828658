"""Padding, and batches of sequences of about the same length: for data that is in memory."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinyseq import backends, check
from tinyseq.data.given import as_list
from tinyseq.data.vocabulary import Vocabulary
from tinyseq.engine import random
from tinyseq.engine.creation import asarray


@check.explained
def pad(sequences: Sequence[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """One array of sequences of different lengths, filled up with `Vocabulary.pad`, 0, at the end.

    Args:
        sequences: B sequences (lists, arrays or Tensors), of integers (T,), or of frames, floats (T, F). One without
            anything in it, `[]`, has length 0.

    Returns:
        ids (B, T), int64, or frames (B, T, F) of their own dtype (float32 where they are lists); and lengths
            (B,), int64. T is the length of the longest sequence.

    Raises:
        TypeError: something other than integers or frames of floats in a sequence, or no sequences.
        ValueError: an integer that int64 does not have, frames of another width than the others.

    >>> ids, lengths = ts.data.pad([[5, 3, 4], [4]])
    >>> ids
    array([[5, 3, 4],
           [4, 0, 0]])
    >>> lengths
    array([3, 1])
    >>> frames, lengths = ts.data.pad([np.ones((4, 80), "f"), np.ones((2, 80), "f")])
    >>> frames.shape
    (2, 4, 80)
    """
    given = list(sequences) if getattr(sequences, "ndim", 0) > 1 else as_list("expected sequences", sequences)
    rows = [row if hasattr(row, "ndim") else as_list("expected sequences of integers", row) for row in given]
    arrays = _frames(rows) if any(map(_deep, rows)) else list(map(_ids, rows))
    lengths = np.array([len(x) for x in arrays], dtype=np.int64)
    kind = np.result_type(*arrays) if arrays else np.int64
    padded = np.full((len(arrays), lengths.max(initial=0), *(arrays[0].shape[1:] if arrays else ())),
                     Vocabulary.pad, kind)
    if arrays:
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(arrays)
    return padded, lengths


def _deep(row: Any) -> bool:
    """Whether a sequence is one of sequences."""
    return row.ndim > 1 if hasattr(row, "ndim") else any(isinstance(x, (list, tuple)) or getattr(x, "ndim", 0)
                                                         for x in row[:1])


def _frames(rows: list[Any]) -> list[NDArray[Any]]:
    """Sequences of floats (T, F) on the host, of one width; that of an empty list too."""
    with backends.use_backend("numpy"):
        arrays: list[NDArray[Any]] = [asarray(row).numpy() for row in rows]
    first = next(i for i, row in enumerate(rows) if _deep(row))
    empty = arrays[first][:0]
    for i, x in enumerate(arrays):
        if x.shape == (0,):
            arrays[i] = empty
        elif x.ndim != 2 or x.dtype.kind != "f":
            raise TypeError("expected sequences of integers (T,), or all of frames, floats (T, F), got "
                            f"{check.describe(x)} in row {i}")
        elif x.shape[1] != empty.shape[1]:
            raise ValueError(f"expected frames of one width, got {empty.shape[1]} numbers in row {first}, "
                             f"{x.shape[1]} in row {i}")
    return arrays


def _ids(row: Any) -> NDArray[np.int64]:
    if isinstance(row, np.ndarray) and row.ndim and row.dtype.kind in "iu" and row.dtype != np.uint64:
        return row.astype(np.int64)
    row = as_list("expected integers", row)
    if other := [x for x in row if isinstance(x, bool) or not hasattr(x, "__index__")]:
        raise TypeError(f"expected sequences of integers, got {other[0]!r} in one; encode symbols first, and "
                        "give floats as frames, (T, 1)")
    try:
        return np.array(list(map(index, row)), np.int64)
    except OverflowError:
        raise ValueError(f"expected integers that int64 has, got {max(map(index, row), key=abs)}") from None


@check.explained
def batches(lengths: ArrayLike, size: int, seed: int | Sequence[int] | None = None, *,
            generator: random.Generator | None = None) -> list[NDArray[np.int64]]:
    """Split N sequences into batches of like length, so that little padding is computed.

    With a seed, sequences of one length are mixed and the batches come in random order; pass `(seed, epoch)`
    for another order in every epoch. Without, batches run from short to long: for evaluation.

    Args:
        lengths: (N,) integers, or (N, K) for sequences in K parts, say source and target: by the first part,
            those that tie by the second, and so on.
        size: sequences in a batch; the batch of the longest may have fewer.
        seed: non-negative integers. The same seed gives the same batches, on every machine.
        generator: in place of a seed, a `tinyseq.random.Generator`, which gives another order at every call.

    Returns:
        int64 arrays of row numbers; every number from 0 to N-1 occurs once.

    Raises:
        ValueError: lengths of another shape or below 0, or a size below 1.
        TypeError: lengths or a size that are no integers.

    >>> ts.data.batches([9, 2, 8, 1, 2], size=2)                # no seed: from short to long
    [array([3, 1]), array([4, 2]), array([0])]
    """
    size = check.integers("batches", 1, size=size)
    rows = lengths if isinstance(lengths, np.ndarray) else as_list("expected lengths (N,) or (N, K)", lengths)
    keys = np.asarray(rows)
    if keys.ndim not in (1, 2) or 0 in keys.shape[1:]:
        raise ValueError(f"expected lengths of shape (N,) or (N, K), got {keys.shape}")
    if keys.size and keys.dtype.kind not in "iu":
        raise TypeError(f"expected lengths as integers, got {keys.dtype}")
    if keys.min(initial=0) < 0:
        raise ValueError(f"expected lengths from 0 on, got {keys.min()}")
    if seed is not None and generator is not None:
        raise ValueError(f"expected seed or generator, not both: got {seed!r} and a generator")
    rng = np.random.default_rng(seed) if generator is None else random.host_generator(generator)
    mixed = seed is not None or generator is not None
    order = rng.permutation(len(keys)) if mixed else np.arange(len(keys))
    order = order[np.lexsort(np.atleast_2d(keys.T)[::-1, order])]   # (K, N): a stable sort, whose last key counts most
    groups = [order[i : i + size] for i in range(0, len(order), size)]
    return [groups[i] for i in rng.permutation(len(groups))] if mixed else groups
