"""Activations far out."""

import math

import numpy as np
import pytest
from helpers.functions import dtypes, results

import tinyseq as ts
import tinyseq.functional as F


@dtypes
@pytest.mark.parametrize("name, expected, slope", [
    ("relu", [0, 0, 1e4], [0, 0, 1]), ("leaky_relu", [-1e2, 0, 1e4], [0.01, 0.01, 1]), ("elu", [-1, 0, 1e4], [0, 1, 1]),
    ("gelu", [0, 0, 1e4], [0, 0.5, 1]), ("silu", [0, 0, 1e4], [0, 0.5, 1]),
    ("softplus", [0, math.log(2), 1e4], [0, 0.5, 1]), ("log_sigmoid", [-1e4, -math.log(2), 0], [1, 0.5, 0]),
])
def test_activations_far_out(name: str, expected: list[float], slope: list[float], dtype: str) -> None:
    x = ts.tensor([-1e4, 0, 1e4], dtype, requires_grad=True)
    y, dx = results(getattr(F, name), [x], {})[0], ts.grad(getattr(F, name)(x).sum(), x).numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    np.testing.assert_allclose(dx, slope, rtol=1e-6)
