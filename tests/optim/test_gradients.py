"""Gradients clipped as PyTorch clips; those of several batches are those of one, whatever each of them counts."""

import math
from typing import Any

import numpy as np
import pytest
from helpers.optimizers import close as all_close
from helpers.optimizers import leaves, set_grads, values
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import functional as F
from tinyseq import nn, optim

ragged = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3), min_size=1, max_size=4)


def tagger(dtype: str) -> nn.Module:
    ts.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 5, dtype=dtype), nn.LayerNorm(5, dtype=dtype), nn.Linear(5, 3, dtype=dtype))


def batch(lengths: list[int], number: int) -> tuple[Any, Any]:
    """Ids (B, 4) and targets, -100 from each row's length on."""
    rng = np.random.default_rng(number)
    ids, targets = rng.integers(0, 7, (len(lengths), 4)), rng.integers(0, 3, (len(lengths), 4))
    return ids, np.where(np.arange(4) < np.array(lengths)[:, None], targets, -100)


def gradients(model: nn.Module) -> list[Any]:
    return [p.grad.numpy() for p in model.parameters()]


def close(got: list[Any], expected: list[Any], tolerance: float) -> None:
    scale = max(np.abs(x).max() for x in expected)
    for x, y in zip(got, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * max(scale, 1e-30))


@given(lengths=ragged, clip=st.booleans(), scaled=st.booleans())
def test_several_batches_have_the_gradient_of_one(lengths: list[list[int]], clip: bool, scaled: bool) -> None:
    """With ragged counts, batches without a token too, clipped and by a loss scale."""
    model, parts = tagger("float64"), [batch(rows, i) for i, rows in enumerate(lengths)]
    F.cross_entropy(model(np.concatenate([x for x, _ in parts])), np.concatenate([y for _, y in parts])).backward()
    if clip:
        optim.clip_grad_norm_(model.parameters(), 0.1)
    joined, scaler = gradients(model), optim.LossScaler()
    model.zero_grad()
    for x, y in parts:
        loss = F.cross_entropy(model(x), y, reduction="sum")
        scaler.backward(loss) if scaled else loss.backward()
    tokens = sum(map(sum, lengths))
    if scaled:
        assert scaler.unscale_(model.parameters(), tokens)
    else:
        optim.divide_grad_(model.parameters(), tokens)
    if clip:
        optim.clip_grad_norm_(model.parameters(), 0.1)
    close(gradients(model), joined, 1e-12)


def test_the_mean_of_means_is_another_gradient() -> None:
    model, parts = tagger("float64"), [batch([4, 4], 0), batch([1], 1)]
    for x, y in parts:
        F.cross_entropy(model(x), y, reduction="sum").backward()
    optim.divide_grad_(model.parameters(), 9)
    right = gradients(model)
    model.zero_grad()
    for x, y in parts:
        (F.cross_entropy(model(x), y) / 2).backward()
    with pytest.raises(AssertionError):
        close(gradients(model), right, 1e-2)


@pytest.mark.parametrize("count", [3, 0.5, np.int64(3), ts.tensor(3)])
def test_all_gradients_are_divided(count: Any) -> None:
    a, b, frozen = ts.tensor([3.0, 6.0], requires_grad=True), ts.tensor(1.0, requires_grad=True), ts.zeros(2)
    a.grad = ts.tensor([3.0, 6.0])
    optim.divide_grad_([a, b, frozen], count)
    assert a.grad.tolist() == [3 / float(count), 6 / float(count)] and b.grad is None is frozen.grad


def test_quotients_of_float16_are_float32_and_train() -> None:
    """1e-4 / 4096 is 0 in float16."""
    p = ts.ones(2, "float16", requires_grad=True)
    p.grad = ts.full(2, 1e-4, "float16")
    optim.divide_grad_([p], 4096)
    assert p.grad.dtype == "float32" and p.grad.tolist() == [float(np.float16(1e-4)) / 4096] * 2
    norm = optim.clip_grad_norm_([p], 1.0)
    assert math.isclose(float(norm), 2**0.5 * 1e-4 / 4096, rel_tol=1e-2)
    for name in optim.__all__:
        cls = getattr(optim, name)
        if isinstance(cls, type) and issubclass(cls, optim.Optimizer) and cls is not optim.Optimizer:
            q = ts.ones(2, "float16", requires_grad=True)
            q.grad = ts.full(2, 0.25, "float32")
            cls([q], lr=0.5).step()
            assert q.dtype == "float16" and (q.detach().numpy() < 1).all()


def test_wrong_divisions_change_nothing() -> None:
    p = ts.ones(2, requires_grad=True)
    p.grad = ts.ones(2)
    for count, error in ((-1, ValueError), (math.inf, ValueError), (math.nan, ValueError), ("3", TypeError),
                         (True, TypeError)):
        with pytest.raises(error, match="divide_grad_: expected a number 0 <= count < inf, got"):
            optim.divide_grad_([p], count)
    q = ts.ones(2, requires_grad=True)
    q.grad = ts.ones(3)
    with pytest.raises(TypeError, match=r"divide_grad_: the gradient of parameter 1 is float32\[3\]"):
        optim.divide_grad_([p, q], 2)
    with pytest.raises(TypeError, match=r"divide_grad_: expected parameters.*got a Linear"):
        optim.divide_grad_(nn.Linear(2, 2), 2)  # type: ignore[arg-type]
    assert p.grad.tolist() == [1, 1]


@pytest.mark.reference
@given(max_norm=st.sampled_from([0.1, 1.0, 100.0]), seed=st.integers(0, 999))
def test_clipping_is_torchs(max_norm: float, seed: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    ours = leaves(rng)
    set_grads(rng, ours[1:])
    theirs = [torch.tensor(v, requires_grad=True) for v in values(ours)]
    for p, t in zip(ours[1:], theirs[1:], strict=True):
        t.grad = torch.tensor(p.grad.numpy().copy())
    norm = optim.clip_grad_norm_((p for p in ours), max_norm)
    assert isinstance(norm, ts.Tensor) and norm.shape == ()
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    all_close([norm.numpy(), *values(p.grad for p in ours[1:])],
              [expected.numpy(), *(t.grad.numpy() for t in theirs[1:])])


def test_clipping_scales_to_the_norm() -> None:
    p, q = ts.zeros(2, requires_grad=True), ts.zeros((), requires_grad=True)
    assert optim.clip_grad_norm_([p, q], 1.0).item() == 0 and p.grad is None
    for empty in ([], iter([])):
        with pytest.raises(ValueError, match="clip_grad_norm_: no parameters were given"):
            optim.clip_grad_norm_(empty, 1.0)
    p.grad, q.grad = ts.tensor([3.0, 4.0]), ts.tensor(12.0)
    assert optim.clip_grad_norm_([p, q], 20.0).item() == 13 and p.grad.tolist() == [3, 4]
    assert optim.clip_grad_norm_([p, q], 6.5).item() == 13
    np.testing.assert_allclose([*p.grad.tolist(), q.grad.item()], [1.5, 2, 6], rtol=1e-6)


@pytest.mark.parametrize("wrong", [-1.0, math.nan, "1", None, True, np.ones(2)])
def test_a_wrong_max_norm_changes_nothing(wrong: Any) -> None:
    p = ts.zeros(2, requires_grad=True)
    p.grad = ts.tensor([3.0, 4.0])
    with pytest.raises((TypeError, ValueError), match="clip_grad_norm_: expected a number 0 <= max_norm, got"):
        optim.clip_grad_norm_([p], wrong)
    assert p.grad.tolist() == [3, 4]


def test_a_foreign_gradient_is_not_clipped() -> None:
    ours = leaves(np.random.default_rng(0), "float32")
    set_grads(np.random.default_rng(0), ours)
    before = values(p.grad for p in ours[:3])
    ours[3].grad = np.zeros((0, 2), "float32")  # type: ignore[assignment]
    with pytest.raises(TypeError, match="clip_grad_norm_: the gradient of parameter 3 is a ndarray, expected a Tensor"):
        optim.clip_grad_norm_(ours, 1e-3)
    assert all(map(np.array_equal, values(p.grad for p in ours[:3]), before))


@pytest.mark.parametrize("gradients, after", [([math.inf, 1.0], [math.nan, 0]), ([math.nan, 1.0], [math.nan] * 2),
                                              ([math.nan, math.inf], [math.nan] * 2)])
def test_clipping_by_a_norm_that_is_not_finite(gradients: list[float], after: list[float]) -> None:
    p = ts.zeros(2, requires_grad=True)
    p.grad = ts.tensor(gradients)
    with np.errstate(all="ignore"):
        assert not math.isfinite(optim.clip_grad_norm_([p], 1.0).item())
    np.testing.assert_array_equal(p.grad.numpy(), after)


@given(dtype=st.sampled_from(["float16", "float32", "float64"]), part=st.floats(0, 1), seed=st.integers(0, 999))
def test_gradients_of_any_size_are_clipped(dtype: str, part: float, seed: int) -> None:
    """Their squares, and float16's sums, may be more than the dtype holds."""
    largest = float(np.finfo(dtype).max) / 100  # so that the norm itself is a number
    if dtype == "float64" and ts.zeros(1).backend != "numpy":
        largest = 1e150  # a device has no wider type
    ours, rng = leaves(np.random.default_rng(0), dtype), np.random.default_rng(seed)
    for p in ours:
        p.grad = ts.tensor(np.asarray(rng.uniform(-1, 1, p.shape) * largest**part, dtype))
    before = np.concatenate([np.ravel(g).astype("longdouble") for g in values(p.grad for p in ours)])
    expected = np.sqrt((before * before).sum())
    norm = optim.clip_grad_norm_(ours, 0.5)
    assert norm.dtype == ("float32" if dtype == "float16" else dtype)
    tolerance = {"float16": 2e-3, "float32": 1e-5, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(float(norm.item()), float(expected), rtol=min(tolerance, 1e-5))
    after = np.concatenate([np.ravel(g).astype("longdouble") for g in values(p.grad for p in ours)])
    factor = min(1, 0.5 / (expected + 1e-6))
    np.testing.assert_allclose(after, before * factor, rtol=tolerance, atol=float(np.finfo(dtype).smallest_subnormal))


@pytest.mark.reference
@given(most=st.sampled_from([0.0, 0.1, 1.0, 100.0]), dtype=st.sampled_from(["float16", "float32", "float64"]),
       odd=st.sampled_from([1.0, math.inf, -math.inf, math.nan]), seed=st.integers(0, 999))
def test_clipping_by_value_is_torchs(most: float, dtype: str, odd: float, seed: int) -> None:
    """Of NaN and infinities too."""
    torch = pytest.importorskip("torch")
    ours = leaves(np.random.default_rng(seed), dtype)
    set_grads(np.random.default_rng(seed), ours[1:])
    ours[1].grad = ts.tensor(np.array([odd, *np.random.default_rng(seed).standard_normal(4)], dtype))
    theirs = [torch.tensor(v, requires_grad=True) for v in values(ours)]
    for p, t in zip(ours[1:], theirs[1:], strict=True):
        t.grad = torch.tensor(p.grad.numpy().copy())
    optim.clip_grad_value_(ours, most)
    torch.nn.utils.clip_grad_value_(theirs, most)
    for p, t in zip(ours[1:], theirs[1:], strict=True):
        np.testing.assert_array_equal(p.grad.numpy(), t.grad.numpy())


def test_clipping_by_more_than_float16_holds_changes_nothing() -> None:
    p = ts.zeros(4, ts.float16, requires_grad=True)
    p.grad = ts.tensor([6e4, -6e4, math.inf, math.nan], ts.float16)
    before = values([p.grad])
    optim.clip_grad_value_([p], 1e6)
    np.testing.assert_array_equal(values([p.grad]), before)
    optim.clip_grad_value_([p], 5e4)
    np.testing.assert_allclose(p.grad.numpy(), [5e4, -5e4, 5e4, math.nan], rtol=1e-3)


def test_wrong_clipping_by_value_changes_nothing() -> None:
    ours = leaves(np.random.default_rng(0), "float32")
    optim.clip_grad_value_(ours, 1.0)  # without gradients
    set_grads(np.random.default_rng(0), ours)
    before = values(p.grad for p in ours[:3])
    for wrong in (-1.0, math.nan, "1", None, True):
        with pytest.raises((TypeError, ValueError), match="clip_grad_value_: expected a number 0 <= clip_value, got"):
            optim.clip_grad_value_(ours, wrong)  # type: ignore[arg-type]
    ours[3].grad = ts.zeros((0, 3))
    with pytest.raises(TypeError, match="clip_grad_value_: the gradient of parameter 3 is"):
        optim.clip_grad_value_(ours, 0.01)
    assert all(map(np.array_equal, values(p.grad for p in ours[:3]), before))


def test_what_an_optimizer_takes_is_clipped() -> None:
    """Groups, an optimizer's own too, pairs with names, a generator."""
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    groups = optim.decay_groups(model, 0.1)
    for some in (groups, optim.SGD(groups).param_groups, model.named_parameters(), iter(model.parameters()),
                 tuple(model.parameters()), [{"params": model[0].parameters()}, {"params": model[1].parameters()}]):
        for p in model.parameters():
            p.grad = ts.ones(p.shape)
        some = list(some)
        assert optim.clip_grad_norm_(some, 1.0).item() == pytest.approx(math.sqrt(24))
        optim.clip_grad_value_(some, 0.125)
        assert all(set(p.grad.numpy().ravel()) == {0.125} for p in model.parameters())
    with pytest.raises(TypeError, match='clip_grad_norm_: expected parameters, in group 1: a dictionary with "params"'):
        optim.clip_grad_norm_([groups[0], model[0].weight], 1.0)


@pytest.mark.parametrize("dtype, wide", [("float16", "float32"), ("float32", "float32"), ("float64", "float64")])
def test_the_norm_of_no_gradient_is_like_that_of_one(dtype: str, wide: str) -> None:
    p = ts.ones(2, dtype, requires_grad=True)
    without = optim.clip_grad_norm_([p], 1.0)
    p.grad = ts.zeros(2, dtype)
    norm = optim.clip_grad_norm_([p], 1.0)
    assert (without.dtype, without.shape, without.backend) == (norm.dtype, norm.shape, norm.backend)
    assert norm.dtype == wide and without.item() == norm.item() == 0


def test_arguments_of_other_libraries_are_told() -> None:
    p = ts.ones(2, requires_grad=True)
    calls: Any = optim
    for call, message in (
            (lambda: calls.clip_grad_norm_([p], 1.0, norm_type=2), "clip_grad_norm_: no argument 'norm_type'; it tak"),
            (lambda: calls.clip_grad_norm_([p], 1.0, 2.0), r"clip_grad_norm_\(parameters, max_norm\): too many arg"),
            (lambda: calls.clip_grad_norm_([p]), r"clip_grad_norm_\(parameters, max_norm\): missing 1 .*'max_norm'"),
            (lambda: calls.clip_grad_value_([p], 1.0, foreach=True), "clip_grad_value_: no argument 'foreach'; .*it"),
            (lambda: calls.divide_grad_([p], by=2), "divide_grad_: no argument 'by'; it takes parameters, count")):
        with pytest.raises(TypeError, match=f"^{message}"):
            call()
