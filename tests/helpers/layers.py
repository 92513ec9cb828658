"""What tests of layers share: comparing with PyTorch, in both directions."""

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

import tinyseq as ts

seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from(["float32", "float64"])
SIZES = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4))


def close(got: Any, expected: Any, dtype: Any = None, scale: float = 1.0) -> None:
    """Equal within 1e-10 or (float32) 1e-5 of the largest entry, or of 1 where all are small, as sums cancel."""
    got, expected = (x.detach().numpy() if hasattr(x, "detach") else np.asarray(x) for x in (got, expected))
    assert got.shape == expected.shape and got.dtype == (dtype or got.dtype)
    scale *= np.abs(expected).max(initial=1)
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


def judge_real(ours: Any, theirs: Any, inputs: list[Any], mine: dict[str, Any], torchs: dict[str, Any],
               real: Any = None) -> None:
    """With the same weights, outputs (at the real positions) and all gradients are equal."""
    torch = pytest.importorskip("torch")
    assert list(ours.state_dict()) == list(theirs.state_dict())
    rng = np.random.default_rng(0)
    for tensor in ours.parameters():  # biases and norms that are not 0 and 1 show more
        tensor.data = normal(rng, *tensor.shape, dtype=tensor.dtype) * 0.3 + (tensor.detach().numpy() == 1)
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in ours.state_dict().items()})
    xs, zs = [leaf(x) for x in inputs], [torch.tensor(x, requires_grad=True) for x in inputs]
    y, z = ours(*xs, **mine), theirs(*zs, **torchs)
    y, z = (y[0], z[0]) if isinstance(y, tuple) else (y, z)
    real = np.ones(y.shape[:2], bool) if real is None else real
    close(ts.where(ts.asarray(real[..., None]), y, 0.0), torch.where(torch.tensor(real[..., None]), z, 0))
    weight = normal(rng, *y.shape, dtype=y.dtype) * real[..., None]
    ts.sum(y * ts.asarray(weight)).backward()
    (z * torch.tensor(weight)).sum().backward()
    for a, b in zip([*xs, *ours.parameters()], [*zs, *theirs.parameters()], strict=True):
        close(a.grad, b.grad, scale=10)


def torch_mask(lengths: Any, steps: int) -> Any:
    """What PyTorch calls a key padding mask: True is left out."""
    torch = pytest.importorskip("torch")
    return torch.tensor(np.arange(steps) >= lengths[:, None])


def holding(x: Any, lengths: Any, filling: float) -> Any:
    """x with other padding."""
    return np.where((np.arange(x.shape[1]) < lengths[:, None])[..., None], x, filling)
