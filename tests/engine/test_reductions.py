"""Many entries to one, where the table of `test_ops.py` does not look: what is larger or smaller than its dtype."""

import numpy as np
import pytest

import tinyseq as ts


def test_float16_has_room_for_what_fits() -> None:
    ties = ts.ones(70_000, np.float16, requires_grad=True)
    ts.max(ties).backward(ts.tensor(np.float16(60_000), np.float16))
    assert ties.grad is not None and abs(ties.grad.numpy()[0] - 6 / 7) < 1e-3  # of the sum, which does not fit
    assert ts.mean(ties).item() == 1
    x = ts.full((3, 4), 300.0, np.float16) * ts.tensor([1.0, -1.0, 1.0, -1.0], np.float16)
    assert ts.std(x).item() == 300 and ts.vector_norm(x, axis=1).tolist() == [600] * 3
    assert ts.erf(x).dtype == np.float16 and ts.divide(x, ts.ones((3, 4))).dtype == np.float32


@pytest.mark.parametrize("ord", [0.5, 1.5, 3, 8, 16])
@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_powers_of_a_norm_may_be_larger_than_it(kind: str, ord: float) -> None:
    x = ts.tensor(np.array([3e4, 3e4, 1.0, 0.0], kind) if ord >= 1.5 else np.array([6.0, 6, 1, 0], kind), None, True)
    wide = ts.tensor(x.detach().numpy().astype(np.longdouble).astype("float64") / 3e4, None, True)
    y, z = ts.vector_norm(x, ord=ord), ts.vector_norm(wide, ord=ord)
    close = {"float16": 2e-3, "float32": 1e-6, "float64": 1e-12}[kind]
    np.testing.assert_allclose(y.item(), z.item() * 3e4, rtol=close)
    np.testing.assert_allclose(ts.grad(y, x).numpy(), ts.grad(z, wide).numpy(), atol=close)
