"""Attention in blocks: what a block holds, and the stretch of dropout's mask that belongs to it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tinyseq.backends.attention import Attention, blocks

from tinyseq import backends


@given(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0), st.integers(1, 40), st.integers(0, 2))
def test_blocks_cover_each_element_once(shape: tuple[int, ...], size: int, whole: int) -> None:
    seen = np.zeros(shape, dtype=int)
    unit = math.prod(shape[len(shape) - whole:]) if whole else 1
    for i in blocks(shape, size, whole):
        assert seen[i].size <= max(size, unit)
        seen[i] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("steps", [1 << 12, 1 << 14, 1 << 17])
def test_no_block_is_the_matrix_of_all_weights(steps: int) -> None:
    backend = backends.active()
    x = backend.xp.broadcast_to(backend.xp.zeros(1), (1, steps, 1))
    i, parts = next(backend._attention_blocks(Attention(x, x, x, None, False, 1.0, (0.1, 0, 0))))
    rows = x[i].shape[-2]
    assert all(rows * (place.stop - place.start) <= backend.scores for _, place in parts)
    assert rows * steps <= max(256 * steps, backend.scores)  # of all keys: dropout's mask


def test_a_mask_is_a_stretch_of_a_longer_one() -> None:
    backend = backends.active()
    whole = backend.asnumpy(backend.dropout_mask((50,), 0.5, 7, 2))
    for start in (0, 1, 7, 8, 9, 33):
        found = backend.asnumpy(backend.dropout_mask((3, 5), 0.5, 7, 2, start))
        assert np.array_equal(found, whole[start:start + 15].reshape(3, 5))
