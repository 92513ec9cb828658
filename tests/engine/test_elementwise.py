"""Functions of one entry at a time, where the table of `test_ops.py` does not look: at the edge of the numbers."""

import math

import numpy as np
import pytest

import tinyseq as ts

INF = math.inf


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_a_power_by_an_array_without_axes_has_the_wider_dtype(exponent: float) -> None:
    assert (ts.ones((2, 3)) ** ts.tensor(np.array(exponent), dtype=np.float64)).dtype == np.float64


LIKE_TORCH = """sqrt exp expm1 log log1p log2 log10 sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf
    sigmoid abs floor ceil trunc round square negative reciprocal add subtract multiply divide pow maximum minimum"""

EDGES = np.array([0.0, -0.0, 1.0, -1.0, 0.5, 2.0, INF, -INF, 1e-42, 1e-30, 1e20, -1e20, 50.0, -50.0], np.float32)


@pytest.mark.reference
@pytest.mark.parametrize("name", LIKE_TORCH.split())
def test_edges_are_torchs(name: str) -> None:
    """Values and gradients at infinities, zeros and subnormals, for two operands at all pairs of them."""
    torch = pytest.importorskip("torch")
    theirs = getattr(torch, name)
    binary = name in "add subtract multiply divide pow maximum minimum".split()
    arrays = [a.reshape(-1) for a in np.meshgrid(EDGES, EDGES)] if binary else [EDGES]
    ours = [ts.tensor(a, requires_grad=True) for a in arrays]
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    y = theirs(*leaves)
    y.backward(torch.ones_like(y))
    with np.errstate(all="ignore"):
        z = getattr(ts, name)(*ours)
        z.backward(ts.ones_like(z))
    for got, expected in [(z, y.detach()), *[(x.grad, t.grad) for x, t in zip(ours, leaves, strict=True)]]:
        np.testing.assert_allclose(got.detach().numpy(), expected.numpy(), rtol=3e-6, atol=1e-37)
