"""Attention in blocks: what a block holds, and the stretch of dropout's mask that belongs to it."""


import numpy as np
import pytest
from tinyseq.backends.attention import Attention

from tinyseq import backends


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
