"""Losses: far out, at the ends of the numbers, their width, and what counts nothing."""

import math
from typing import Any

import numpy as np
import pytest
from helpers.functions import a, close, composed, dtypes, results, seed, softmax
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
import tinyseq.functional as F

INF = math.inf


@dtypes
@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_far_out(smoothing: float, kernel: bool, dtype: str) -> None:
    low = -1e4 if smoothing else -INF
    logits = ts.tensor([[1e4, -1e4, low], [-1e4, 1e4, low], [INF, math.nan, 0]], dtype, requires_grad=True)
    with pytest.MonkeyPatch.context() if kernel else composed():
        losses, dx = results(F.cross_entropy, [logits, np.array([0, 0, -100])], {
            "reduction": "none", "label_smoothing": smoothing})
    spread = smoothing / 3
    np.testing.assert_allclose(losses, [4e4 * spread, 2e4 * (1 - spread), 0], rtol=1e-6)
    assert np.isfinite(dx).all() and not dx[2].any()


@dtypes
def test_cross_entropy_with_all_targets_ignored_is_zero(dtype: str) -> None:
    for loss in (F.cross_entropy, F.nll_loss):
        for reduction in ("mean", "sum"):
            y, dx = results(loss, [ts.tensor(a, dtype, requires_grad=True), np.array([7, 7])], {
                "ignore_index": 7, "reduction": reduction})
            assert y == 0 and not dx.any()


@dtypes
def test_binary_cross_entropies_far_out(dtype: str) -> None:
    target = ts.tensor([0, 1, 0, 1])  # integers widen nothing
    x = ts.tensor([-1e4, -1e4, 1e4, 1e4], dtype, requires_grad=True)
    y, dx = results(F.binary_cross_entropy_with_logits, [x, target], {"reduction": "none"})
    close(y, np.array([0, 1e4, 1e4, 0]), dtype)
    close(dx / seed(0, (4,)).astype(dtype), np.array([0, -1, 1, 0]), dtype)
    y = F.binary_cross_entropy(ts.sigmoid(x), target, reduction="none").detach().numpy()
    close(y, np.array([0, 100, 100, 0]), dtype)


@dtypes
def test_binary_cross_entropy_keeps_nan(dtype: str) -> None:
    y, dx = results(F.binary_cross_entropy, [ts.tensor([math.nan, 0.5], dtype, requires_grad=True), [1, 1]],
                    {"reduction": "none"})
    assert np.isnan([y[0], dx[0]]).all() and np.isfinite([y[1], dx[1]]).all()


@pytest.mark.reference
@dtypes
def test_binary_cross_entropy_is_torchs_at_the_ends(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    p, t = (x.ravel() for x in np.meshgrid(np.array([0, 1e-40, 1e-20, 1e-7, 1 - 1e-7, 1], dtype), [0, 0.3, 1]))
    ours, theirs = ts.tensor(p, requires_grad=True), torch.tensor(p, requires_grad=True)
    y = F.binary_cross_entropy(ours, t, reduction="none")
    z = torch.nn.functional.binary_cross_entropy(theirs, torch.tensor(t.astype(dtype)), reduction="none")
    ts.sum(y).backward()
    z.sum().backward()
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-6)
    assert ours.grad is not None
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-6)


def test_losses_take_arrays() -> None:
    rows = np.array([[0.1, 0.9], [0.8, 0.2]])
    for loss in (F.cross_entropy, F.nll_loss):
        assert loss(rows, [0, 1]).item() == loss(ts.tensor(rows), [0, 1]).item()  # type: ignore[arg-type]
    for loss in (F.mse_loss, F.binary_cross_entropy, F.kl_div):
        assert loss(rows, rows / 2).item() == loss(ts.tensor(rows), rows / 2).item()  # type: ignore[arg-type]


# --- their width, and the ends of the numbers ------------------------------------------------------------------------

NAMES = ["cross_entropy", "cross_entropy of probabilities", "nll_loss", "mse_loss", "l1_loss", "huber_loss",
         "smooth_l1_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div"]


def lossy(name: str, rng: Any, size: float = 1.0) -> tuple[Any, Any, Any]:
    """A loss and arguments for it, in float64."""
    x = size * rng.standard_normal((6, 5))
    targets = rng.integers(0, 5, 6) if name in ("cross_entropy", "nll_loss") else softmax(rng.standard_normal((6, 5)))
    x = 0.5 + 0.5 * np.tanh(x) if name == "binary_cross_entropy" else x - np.logaddexp.reduce(x, -1, keepdims=True) if (
        name in ("nll_loss", "kl_div")) else x
    return getattr(F, name.partition(" ")[0]), x, targets


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@given(st.sampled_from(["float16", "float32", "float64"]), st.sampled_from([1.0, 300.0]), st.integers(0, 99))
def test_a_loss_is_as_wide_as_its_input_and_at_least_float32(
    name: str, reduction: str, dtype: str, size: float, number: int,
) -> None:
    loss, x, targets = lossy(name, np.random.default_rng(number), size)
    x = x.astype(dtype)
    given_ = targets if targets.dtype.kind == "i" else targets.astype([dtype, "float64"][number % 2])
    with np.errstate(over="ignore", invalid="ignore"):
        y, dx = results(loss, [ts.tensor(x, requires_grad=True), given_], {"reduction": reduction})
        kind = np.promote_types(dtype, "float32")
        assert y.dtype == kind and dx.dtype == dtype
        wide, _ = results(loss, [ts.tensor(x.astype("float64"), requires_grad=True), given_], {"reduction": reduction})
        one = 40 * np.spacing(abs(wide).astype(kind).max()).astype("float64")
    if np.isfinite(one):
        np.testing.assert_allclose(y.astype("float64"), wide, rtol=0, atol=one)


def test_every_loss_has_a_name_here() -> None:
    losses = {name for name in vars(F) if name.endswith("_loss") or "entropy" in name or name.endswith("_div")}
    assert {name for name in losses if name[0] != "_"} == {name.partition(" ")[0] for name in NAMES}


EDGES = np.array([-INF, -1e4, -1e-3, 0.0, 1e-3, 1e4, INF])


@dtypes
@pytest.mark.reference
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss",
                                  "binary_cross_entropy_with_logits", "kl_div"])
def test_losses_are_torchs_at_the_ends_of_the_numbers(name: str, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    x, t = (a.ravel().astype(dtype) for a in np.meshgrid(EDGES, EDGES if name[0] in "mlhs" else [0, 0.3, 1]))
    x = np.minimum(x, 0) if name == "kl_div" else x
    theirs = torch.tensor(x, requires_grad=True)
    z = getattr(torch.nn.functional, name)(theirs, torch.tensor(t), reduction="none")
    z.sum().backward()
    y, dx = results(lambda x: getattr(F, name)(x, t, reduction="none"), [ts.tensor(x, requires_grad=True)], {})
    y_, dx_ = z.detach().numpy(), theirs.grad.numpy() * seed(0, x.shape).astype(dtype)
    ours = np.isnan(y_) & ~np.isnan(y)                  # theirs have 0 inf and inf - inf on the way
    assert name in ("binary_cross_entropy_with_logits", "kl_div") or not ours.any()
    np.testing.assert_allclose(y[~ours], y_[~ours], rtol=1e-5)
    real = ~np.isnan(y_)
    np.testing.assert_allclose(dx[real], dx_[real], rtol=1e-5, atol=1e-8)
    right = (x > 0) == t if name[0] == "b" else ours
    np.testing.assert_array_equal(y[ours], np.where(right[ours], 0, INF))
    np.testing.assert_allclose(dx[ours], seed(0, x.shape)[ours] * ((x > 0) - t)[ours], rtol=1e-6)


@dtypes
def test_the_right_answer_at_infinity_costs_nothing(dtype: str) -> None:
    x = ts.tensor(np.array([INF, -INF, INF, -INF], dtype), requires_grad=True)
    y, dx = results(F.binary_cross_entropy_with_logits, [x, [1.0, 0.0, 0.0, 1.0]], {"reduction": "none"})
    assert y.tolist() == [0, 0, INF, INF]
    np.testing.assert_array_equal(dx, seed(0, (4,)).astype(dtype) * [0, 0, 1, -1])
    logits = ts.tensor(np.array([[1.0, -INF, 1.0], [0.0, -INF, -INF]], dtype), requires_grad=True)
    y, dx = results(F.cross_entropy, [logits, [[0.5, 0.0, 0.5], [1.0, 0.0, 0.0]]], {"reduction": "none"})
    np.testing.assert_allclose(y, [math.log(2), 0], rtol=1e-6)
    np.testing.assert_allclose(dx, np.zeros((2, 3)), atol=1e-7)
    assert F.cross_entropy(logits, [[0.5, 0.5, 0.0]] * 2, reduction="sum").item() == INF
    assert F.kl_div(ts.tensor(math.log(0.5)), 1.0, reduction="batchmean").item() == pytest.approx(math.log(2))


def test_kl_div_counts_no_impossible_class() -> None:
    logs = ts.tensor([-1e4, -1.0], requires_grad=True)
    y, dx = results(F.kl_div, [logs, [0, 1]], {"reduction": "none"})
    assert y.tolist() == [0, 1] and dx[0] == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_times_minus_infinity_is_nothing(dtype: Any) -> None:
    x = ts.tensor(np.array([-math.inf, 0.0, 1e4], dtype), requires_grad=True)
    assert F.silu(x).tolist() == [0, 0, 1e4] and ts.grad(F.silu(x).sum(), x).tolist() == [0, 0.5, 1]
    logs = np.array([-math.inf, 0.0], dtype)
    for target, log_target in ((logs, True), (np.exp(logs), False)):
        given = [ts.tensor(a, requires_grad=True) for a in (logs, target)]
        losses = F.kl_div(*given, reduction="none", log_target=log_target)
        assert losses.tolist() == [0, 0]
        assert [g.tolist() for g in ts.grad(losses.sum(), given)] == [[0, -1], [0, 1]]
