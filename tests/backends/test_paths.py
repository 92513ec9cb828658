"""Sums over all paths of a sequence: the kernels give what their definitions give."""

import numpy as np
from helpers.layers import leaf, normal, seeds
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq.nn import structured


@given(seeds, st.integers(1, 3), st.integers(1, 6), st.integers(1, 4))
def test_kernels_of_paths_are_their_definitions(seed: int, batch: int, steps: int, tags: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.choice([None, 1]) and rng.integers(0, steps + 1, batch)
    a, x, moves = (leaf(normal(rng, *shape)) for shape in ((batch, tags), (batch, steps, tags), (tags, tags)))
    skips = rng.random((batch, tags)) < 0.5
    for op, leaves, more in ((structured._chain, [a, x, moves], (lengths,)),
                             (structured._alignments, [x], (skips, lengths))):
        found, expected = op(*leaves, *more), op.definition(*leaves, *more)
        np.testing.assert_allclose(found.detach().numpy(), expected.detach().numpy(), rtol=1e-12)
        g = np.where(found.detach().numpy() > structured.NEVER / 2, rng.standard_normal(found.shape), 0.0)
        for one, two in zip(*(ts.grad(y, leaves, ts.asarray(g)) for y in (found, expected)), strict=True):
            np.testing.assert_allclose(one.numpy(), two.numpy(), rtol=1e-9, atol=1e-12)
