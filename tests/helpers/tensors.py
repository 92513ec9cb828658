"""What tests of tensors share: leaves in float64, equality to rounding."""

from typing import Any

import numpy as np

import tinyseq as ts


def leaf(*values: Any, dtype: Any = np.float64) -> ts.Tensor:
    return ts.tensor(np.array(values[0] if len(values) == 1 else values, dtype=dtype), requires_grad=True)


def equal(t: ts.Tensor | None, values: Any) -> None:
    assert t is not None
    np.testing.assert_allclose(t.detach().numpy(), values, rtol=1e-12, atol=1e-12)


def keyword_only(x: Any, *, w: Any) -> Any:
    """The body of an op whose w is given by keyword only."""
    return x * w, (lambda g: g * w,)
