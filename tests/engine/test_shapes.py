"""The same entries in another shape, where the table of `test_ops.py` does not look: integers of every width."""

import numpy as np
import pytest

import tinyseq as ts


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint32", "int64", "uint64"])
def test_numpys_integers_are_taken_as_pythons(kind: str) -> None:
    """Not in their width: -100 is no int8 twice over, and no unsigned integer."""
    n, x = np.dtype(kind).type, ts.tensor(np.arange(300.0), requires_grad=True)
    weights = np.random.default_rng(0).normal(size=300)
    for narrow, plain in (((n(100),), (100,)), (n(100), 100), (np.array([100], kind), (100,))):
        axis = 0 if isinstance(narrow, np.generic) else (0,)
        found, expected = (ts.grad(ts.sum(ts.roll(x, shift, axis) * weights), x) for shift in (narrow, plain))
        np.testing.assert_array_equal(found.numpy(), expected.numpy())
    assert ts.pad(x, [(n(100), n(0))]).shape == (400,)
    assert ts.tile(x, (n(100),)).shape == (30_000,)
    assert ts.repeat(x, np.full(300, 2, kind), axis=0).shape == (600,)
    assert ts.topk(x, n(3), n(0))[0].tolist() == [299, 298, 297]
    assert ts.functional.layer_norm(ts.ones((2, 4)), n(4)).shape == (2, 4)
