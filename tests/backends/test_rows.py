"""Blocks that large arrays are cut into."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tinyseq.backends.rows import blocks


@given(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0), st.integers(1, 40), st.integers(0, 2))
def test_blocks_cover_each_element_once(shape: tuple[int, ...], size: int, whole: int) -> None:
    seen = np.zeros(shape, dtype=int)
    unit = math.prod(shape[len(shape) - whole:]) if whole else 1
    for i in blocks(shape, size, whole):
        assert seen[i].size <= max(size, unit)
        seen[i] += 1
    assert (seen == 1).all()
