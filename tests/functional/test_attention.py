"""Attention in blocks equals its definition, and PyTorch's, in values and all gradients, and hides what it must."""

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from helpers.functions import composed, draw
from helpers.layers import close, normal
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import backends, nn
from tinyseq import functional as F
from tinyseq.testing import check_grad

ROOM = importlib.import_module("tinyseq.functional.attention")  # whose name the function has too
dtypes = pytest.mark.parametrize("dtype", ["float64", "float32"])
sizes = st.sampled_from([1, 2, 3, 5, 8, 0])


@contextmanager
def in_blocks(scores: int, keys: int) -> Iterator[pytest.MonkeyPatch]:
    """Attention in blocks of so many scores, of no fewer than so many keys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(backends.active()), "scores", scores)
        patch.setattr(type(backends.active()), "keys", keys)
        yield patch


class Case:
    """Random arguments, some with scores that are too large for exp as it is."""

    def __init__(self, choose: Any, dtype: str) -> None:
        batch, heads, t, s, d, e = (choose(x) for x in (
            st.sampled_from([1, 2, 0]), st.sampled_from([1, 2, 4]), sizes, sizes, sizes, sizes))
        query_lead, lead = choose(st.sampled_from([
            ((batch, heads), (batch, heads)), ((batch, heads), (batch, 1)), ((batch, 4), (batch, 2)), ((), ()),
            ((heads,), (heads,))]))
        self.rng, self.dtype = np.random.default_rng(choose(st.integers(0, 99))), dtype
        factor = choose(st.sampled_from([1, 1, 30 if dtype == "float64" else 6]))
        self.digits = {"float64": 1e-10, "float32": 1e-5 if factor == 1 else 2e-4}[dtype]  # keys are multiplied too
        self.arrays = [self.rng.standard_normal((*front, n, m)).astype(dtype) * x for front, n, m, x in (
            (query_lead, t, d, factor), (lead, s, d, factor), (lead, s, e, 1))]
        self.weights = self.rng.standard_normal((*query_lead, t, e)).astype(dtype)
        shape = tuple(n if choose(st.booleans()) else 1 for n in (*query_lead, t, s))
        shape = shape[choose(st.integers(0, len(shape))):]
        mask = choose(st.sampled_from([None, self.rng.random(shape) > 0.4]))
        self.options: dict[str, Any] = {"mask": mask, "causal": choose(st.booleans())}

    def __call__(self, attention: Any = F.attention, **more: Any) -> list[np.ndarray[Any, Any]]:
        """The result, and the gradients of its weighted sum."""
        arrays = [x.copy() for x in self.arrays]
        tensors = [ts.tensor(x, requires_grad=True) for x in arrays]
        y = attention(*tensors, **self.options | more)
        gradients = ts.grad(y, tensors, ts.asarray(self.weights))
        assert all(x.dtype == self.dtype for x in (y, *gradients))
        return [y.detach().numpy(), *(g.numpy() for g in gradients)]


def assert_close(got: Any, expected: Any, digits: float) -> None:
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=digits * np.abs(b).max(initial=1))


@dtypes
@given(st.data())
def test_blocks_equal_the_definition(dtype: str, data: Any) -> None:
    case, p = Case(data.draw, dtype), data.draw(st.sampled_from([0.0, 0.3]))
    ts.manual_seed(5)
    with in_blocks(*data.draw(st.sampled_from([(1, 1), (7, 1), (20, 2), (1 << 20, 1)]))) as patch:
        got = case(dropout=p)
        patch.setattr(ROOM, "_attention", ROOM._attention.definition)
        ts.manual_seed(5)
        assert_close(got, case(dropout=p), case.digits)


@given(st.data())
def test_it_is_the_mean_of_the_values_under_the_weights(data: Any) -> None:
    case = Case(data.draw, "float64")
    query, key, value = (ts.tensor(x) for x in case.arrays)
    weights = F.attention_weights(query, key, **case.options)
    value = ts.repeat(value, query.shape[-3] // value.shape[-3], axis=-3) if query.ndim > 2 else value
    assert_close([F.attention(query, key, ts.tensor(case.arrays[2]), **case.options).numpy()],
                 [(weights @ value).numpy()], 1e-10)
    sums = weights.sum(axis=-1).numpy()
    assert np.all((abs(sums - 1) < 1e-10) | (sums == 0))


@given(st.data())
def test_causal_is_a_mask_aligned_to_the_end(data: Any) -> None:
    case = Case(data.draw, "float64")
    t, s = case.arrays[0].shape[-2], case.arrays[1].shape[-2]
    mask = case.options.pop("mask")
    past = np.tril(np.ones((t, s), bool), s - t)
    case.options["causal"] = False
    with in_blocks(4, 1):
        assert_close(case(mask=mask, causal=True), case(mask=past if mask is None else mask & past), 1e-10)
        assert_close(case(mask=np.ones((t, s), bool)), case(), 1e-10)


@pytest.mark.parametrize("wild", [1, 1e4])
@pytest.mark.parametrize("scores", [1, 1 << 20])
def test_a_query_that_sees_no_key_gets_zeros_and_gives_no_gradient(scores: int, wild: float) -> None:
    rng = np.random.default_rng(0)
    query, key, value = (ts.tensor(rng.standard_normal((2, 3, 4)) * wild, requires_grad=True) for _ in range(3))
    mask = np.array([[[True, False, True], [False] * 3, [True] * 3]])
    with in_blocks(scores, 1):
        y = F.attention(query, key, value, mask)
        found = [g.numpy() for g in ts.grad(y, [query, key, value], ts.ones(y.shape, dtype=y.dtype))]
    assert all(np.isfinite(x).all() for x in (y.detach().numpy(), *found))
    assert not y.detach().numpy()[:, 1].any() and not found[0][:, 1].any()
    assert y.detach().numpy()[:, 0].any() and found[2].any()


@given(hidden=st.integers(0, 8), seed=st.integers(0, 99))
def test_hidden_blocks_of_keys_leave_no_trace(hidden: int, seed: int) -> None:
    """In float16, whose smallest number is not far below a score: an overflow is an error here."""
    rng = np.random.default_rng(seed)
    query, key, value = (rng.standard_normal((9, 3)).astype("float16") * 16 for _ in range(3))
    value[:hidden] = 1000
    with in_blocks(9, 2):
        y = F.attention(ts.tensor(query), ts.tensor(key), ts.tensor(value), np.arange(9) >= hidden).numpy()
    seen = value[hidden:]
    assert np.all((seen.min(0) - 0.5 < y) & (y < seen.max(0) + 0.5))


@dtypes
@given(levels=st.lists(st.sampled_from([-1000.0, 0.0, 1.0, 1000.0]), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_scores_may_differ_by_any_amount_from_block_to_block(dtype: str, levels: list[float], seed: int) -> None:
    value = np.random.default_rng(seed).standard_normal((len(levels), 3)).astype(dtype)
    with in_blocks(4, 2):
        y = F.attention(ts.ones((3, 1), dtype), ts.tensor(np.array(levels, dtype)[:, None]), ts.tensor(value)).numpy()
    weights = np.exp(np.array(levels) - max(levels))
    np.testing.assert_allclose(y, np.tile(weights @ value / weights.sum(), (3, 1)), rtol=0, atol=1e-5)


def test_causal_with_fewer_keys_than_queries() -> None:
    query, key = ts.ones((5, 2), requires_grad=True), ts.ones((2, 2), requires_grad=True)
    value = ts.tensor([[1.0], [3.0]], requires_grad=True)
    with in_blocks(1, 1):
        y = F.attention(query, key, value, causal=True)
        y.backward(ts.ones((5, 1)))
    np.testing.assert_allclose(y.detach().numpy().ravel(), [0, 0, 0, 1, 2], rtol=1e-6)
    assert value.grad is not None
    np.testing.assert_allclose(value.grad.numpy().ravel(), [1.5, 0.5], rtol=1e-6)


@given(st.data())
def test_a_step_with_cached_keys_equals_the_last_row(data: Any) -> None:
    case = Case(data.draw, "float64")
    case.options = {"causal": True}
    whole = case()[0]
    query, key, value = case.arrays
    last = F.attention(ts.tensor(query[..., -1:, :]), ts.tensor(key), ts.tensor(value), causal=True)
    assert_close([last.numpy()], [whole[..., -1:, :]], 1e-10)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_gradients_of_both_orders(causal: bool, p: float) -> None:
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(shape) for shape in ((1, 4, 3, 2), (1, 2, 4, 2), (1, 2, 4, 3))]
    mask = ts.tensor(rng.random((3, 4)) > 0.3)

    def attention(*tensors: Any) -> Any:
        ts.manual_seed(2)
        return F.attention(*tensors, mask=mask, causal=causal, dropout=p)

    with in_blocks(8, 1):
        check_grad(attention, *(ts.tensor(x) for x in arrays), order=2)


def test_dropout_drops_weights_and_keeps_the_mean() -> None:
    ts.manual_seed(3)
    query = key = ts.zeros((1, 2, 40, 3))
    value = ts.tensor(np.broadcast_to(np.eye(40, dtype="float32"), (1, 2, 40, 40)))
    with in_blocks(300, 1):
        weights = F.attention(query, key, value, dropout=0.25).numpy()
    assert np.all((weights == 0) | (abs(weights * 40 - 1 / 0.75) < 1e-5))
    assert abs((weights == 0).mean() - 0.25) < 0.04
    ts.manual_seed(3)
    assert np.array_equal(weights == 0, F.dropout(ts.ones((1, 2, 40, 40)), 0.25).numpy() == 0)
    with pytest.raises(ValueError, match=r"0 <= dropout < 1, got 1\.0"):
        F.attention(query, key, value, dropout=1.0)


def test_a_nan_is_not_hidden() -> None:
    query = ts.tensor([[1.0, math.nan], [1.0, 2.0]])
    y = F.attention(query, ts.ones((3, 2)), ts.ones((3, 1))).numpy()
    assert np.isnan(y[0]).all() and y[1] == 1


def test_heads_may_stand_anywhere_in_memory() -> None:
    """The result has the axes of the query in their order, so that joining the heads copies nothing."""
    x = ts.tensor(np.random.default_rng(0).standard_normal((2, 5, 3, 4)))
    y = F.attention(*[ts.permute_dims(x, (0, 2, 1, 3))] * 3)
    assert ts.permute_dims(y, (0, 2, 1, 3)).data.flags.c_contiguous
    whole = F.attention(*[ts.tensor(ts.permute_dims(x, (0, 2, 1, 3)).numpy().copy())] * 3)
    assert_close([y.numpy()], [whole.numpy()], 1e-12)


@pytest.mark.reference
@dtypes
@given(st.data())
def test_pytorch_agrees(dtype: str, data: Any) -> None:
    torch = pytest.importorskip("torch")
    case = Case(data.draw, dtype)
    query, key, value = case.arrays
    t, s = query.shape[-2], key.shape[-2]
    mask, causal = case.options["mask"], case.options["causal"]
    mask = np.ones((t, s), bool) if mask is None else mask
    mask = mask & np.tril(np.ones((t, s), bool), s - t) if causal else mask
    if not (query.size and key.size and value.size):
        return
    mask = np.broadcast_to(mask, (*query.shape[:-1], s)) | ~mask.any(-1, keepdims=True)  # there PyTorch has NaN
    case.options = {"mask": mask}
    leaves = [torch.tensor(x, requires_grad=True) for x in case.arrays]
    repeated = [x if x.ndim < 4 else x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in leaves]
    y = torch.nn.functional.scaled_dot_product_attention(*repeated, attn_mask=torch.tensor(mask))
    y.backward(torch.tensor(case.weights))
    with in_blocks(10, 1):
        assert_close(case(), [x.detach().numpy() for x in (y, *(x.grad for x in leaves))], case.digits)


@pytest.mark.parametrize("kernel", [True, False])
def test_a_fully_masked_row_gives_zeros_and_no_nan(kernel: bool) -> None:
    q, k, v = (ts.tensor(x, requires_grad=True) for x in draw(lambda _: 1, (1, 2, 3), (1, 4, 3), (1, 4, 3)))
    mask = ts.tensor([[[True, False, True, True], [False] * 4]])
    with pytest.MonkeyPatch.context() if kernel else composed():
        for order in (1, 2):
            y, w = F.attention(q, k, v, mask), F.attention_weights(q, k, mask)
            found = ts.grad(ts.sum(y * y) + ts.sum(w**3), [q, k, v], create_graph=True)
            if order == 2:
                found = ts.grad(sum(ts.sum(g * g) for g in found), [q, k, v])
            assert all(np.isfinite(g.detach().numpy()).all() for g in found)
            assert not y.detach().numpy()[0, 1].any() and not found[0].detach().numpy()[0, 1].any()
            assert found[0].detach().numpy()[0, 0].any()


# --- rotary positions ------------------------------------------------------------------------------------------------


def test_rotary_scores_depend_on_distance_alone() -> None:
    rng = np.random.default_rng(0)
    q, k = normal(rng, 6), normal(rng, 6)
    score = lambda i, j: np.dot(*[F.rotate(ts.asarray(a), ts.cos(t), ts.sin(t)).numpy() for a, t in (
        (q, ts.asarray(i * np.array([1, 0.3, 0.1]))), (k, ts.asarray(j * np.array([1, 0.3, 0.1]))))])
    close(score(7, 4), score(3, 0))
    close(score(0, 0), q @ k)
    assert abs(score(7, 3) - score(7, 4)) > 1e-3


def test_gradients_of_new_functions_are_central_differences() -> None:
    rng = np.random.default_rng(0)
    x, w, angle = (ts.asarray(normal(rng, *shape)) for shape in ((2, 3, 4), (4,), (3, 2)))
    check_grad(F.swiglu, x, order=2)
    check_grad(lambda x, w: F.rms_norm(x, 4, w, 0.1), x, w, order=2)
    check_grad(lambda x: F.rotate(x, ts.cos(angle), ts.sin(angle)), x, order=2)


@pytest.mark.reference
@given(st.data())
def test_a_bias_is_added_to_the_scores(data: st.DataObject) -> None:
    """As PyTorch's floating-point masks, of heads that share keys and values too, and with a mask of ours."""
    torch = pytest.importorskip("torch")
    draw = lambda *options: data.draw(st.sampled_from(options))
    heads, shape, rng = draw(1, 2, 4), draw((3, 5), (4, 1, 1), (4, 3, 5), (2, 1, 3, 5)), np.random.default_rng(0)
    q, k, v, bias = (rng.normal(size=s) for s in ((2, 4, 3, 6), (2, heads, 5, 6), (2, heads, 5, 7), shape))
    mask = draw(None, rng.random((3, 5)) > 0.3, rng.random((2, 4, 3, 5)) > 0.3)
    mine = [ts.tensor(x, requires_grad=True) for x in (q, k, v, bias)]
    torchs = [torch.tensor(x, requires_grad=True) for x in (q, k, v, bias)]
    shared = [x.repeat_interleave(4 // heads, 1) for x in torchs[1:3]]
    added = torchs[3] if mask is None else torchs[3].masked_fill(~torch.tensor(mask), -np.inf)
    y = F.attention(*mine[:3], mask, bias=mine[3])
    z = torch.nn.functional.scaled_dot_product_attention(torchs[0], *shared, added).nan_to_num()
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), atol=1e-12)
    if mask is None:
        (y * y).sum().backward()
        (z * z).sum().backward()
        for a, b in zip(mine, torchs, strict=True):
            np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), atol=1e-10)  # type: ignore[union-attr]
    weights = F.attention_weights(*mine[:2], mask, bias=mine[3])
    apart = [ts.repeat(mine[2], 4 // heads, axis=1)]
    np.testing.assert_allclose((weights @ apart[0]).detach().numpy(), y.detach().numpy(), atol=1e-12)


def test_a_bias_is_no_mask_and_a_mask_no_bias() -> None:
    q = ts.ones((1, 2, 3, 4))
    for call in (F.attention, F.attention_weights):
        given_ = (q, q, q)[: 3 if call is F.attention else 2]
        with pytest.raises(TypeError, match=r"numbers as bias.*got bool: booleans that say who takes part are mask="):
            call(*given_, bias=np.ones((3, 3), bool))
        with pytest.raises(TypeError, match="a boolean mask"):
            call(*given_, mask=np.ones((3, 3)))
        with pytest.raises(ValueError, match=r"a bias that broadcasts to .* \(1, 2, 3, 3\), got \(2, 3\)"):
            call(*given_, bias=ts.ones((2, 3)))
        with pytest.raises(TypeError, match="bias float64"):
            call(*given_, bias=np.ones((3, 3)))


@given(cap=st.sampled_from([0.5, 2.0, 50.0]), causal=st.booleans(), seed=st.integers(0, 99))
def test_a_softcap_bounds_the_scores_before_the_bias(cap: float, causal: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    q, k, v, bias = (rng.normal(size=s) for s in ((2, 4, 3, 6), (2, 2, 5, 6), (2, 2, 5, 7), (4, 3, 5)))
    scores = cap * np.tanh(q @ np.repeat(k, 2, 1).mT / 6**0.5 / cap) + bias
    e = np.exp(scores) * (np.tri(3, 5, 2) if causal else 1)
    expected = e / e.sum(-1, keepdims=True)
    given_ = [ts.asarray(x) for x in (q, k, v)]
    options: dict[str, Any] = {"causal": causal, "bias": bias, "softcap": cap}
    np.testing.assert_allclose(F.attention_weights(*given_[:2], **options).numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(F.attention(*given_, **options).numpy(), expected @ np.repeat(v, 2, 1), atol=1e-12)


@pytest.mark.parametrize("cap", [0, -1.0, np.nan, np.inf])
def test_a_softcap_that_bounds_nothing_is_refused(cap: float) -> None:
    q = ts.ones((1, 2, 3, 4))
    with pytest.raises(ValueError, match=r"a number 0 < softcap < inf, got"):
        F.attention(q, q, q, softcap=cap)
    with pytest.raises(ValueError, match=r"a number 0 < softcap < inf, got"):
        nn.MultiheadAttention(4, 2, softcap=cap)
