"""What tests of layers share: comparing with PyTorch, in both directions."""

import copy
from typing import Any

import numpy as np
import pytest

import tinyseq as ts


def close(got: Any, expected: Any, dtype: Any = None) -> None:
    """Equal within 1e-10 or (float32) 1e-5 of the largest entry, or of 0.5 where all are small, as sums cancel."""
    got, expected = (x.detach().numpy() if hasattr(x, "detach") else np.asarray(x) for x in (got, expected))
    assert got.shape == expected.shape and got.dtype == (dtype or got.dtype)
    scale = np.abs(expected).max(initial=0.5)
    np.testing.assert_allclose(got, expected, rtol=0, atol=scale * (1e-10 if got.dtype == "float64" else 1e-5))


def same(got: Any, expected: Any) -> None:
    assert np.array_equal(got.detach().numpy(), expected.detach().numpy())


def normal(rng: np.random.Generator, *shape: int, dtype: Any = "float64") -> Any:
    """Numbers that nobody may write to."""
    x = rng.standard_normal(shape).astype(dtype)
    x.flags.writeable = False
    return x


def leaf(x: Any) -> ts.Tensor:
    return ts.Tensor(ts.asarray(x).data, requires_grad=True)


def judge(ours: Any, theirs: Any, call_ours: Any, call_theirs: Any, inputs: list[Any], dtype: str) -> None:
    """Weights pass in both directions; outputs and all gradients are equal."""
    torch = pytest.importorskip("torch")
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in ours.state_dict().items()})  # ours there,
    back = copy.deepcopy(ours)
    back.load_state_dict(theirs.state_dict())  # and theirs here
    for k, v in ours.state_dict().items():
        same(back.state_dict()[k], v)
    mine, torchs = [leaf(x) for x in inputs], [torch.tensor(x, requires_grad=True) for x in inputs]
    rng, ys, zs = np.random.default_rng(0), call_ours(ours, *mine), call_theirs(theirs, *torchs)
    assert len(ys) == len(zs)
    total, torch_total = ts.tensor(0.0, dtype), torch.tensor(0.0, dtype=getattr(torch, dtype))
    for y, z in zip(ys, zs, strict=True):
        close(y, z, dtype)
        weight = normal(rng, *y.shape, dtype=dtype)
        total, torch_total = total + ts.sum(y * ts.asarray(weight)), torch_total + (z * torch.tensor(weight)).sum()
    total.backward()
    torch_total.backward()
    for x, z in zip([*mine, *ours.parameters()], [*torchs, *theirs.parameters()], strict=True):
        close(x.grad, z.grad, dtype)


def holding(x: Any, lengths: Any, filling: float) -> Any:
    """x with other padding."""
    return np.where((np.arange(x.shape[1]) < lengths[:, None])[..., None], x, filling)
