"""Contexts: equal to equations written out, and not looking at what is masked."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.contexts import CONTEXTS, FIXED, H, M, sizes, width
from helpers.layers import close, leaf, normal, seeds
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import nn
from tinyseq.testing import check_grad

names = st.sampled_from(list(CONTEXTS))


@given(st.sampled_from(FIXED), sizes, seeds)
def test_a_fixed_context_is_its_equation(name: str, size: Any, seed: int) -> None:
    batch, queries, positions = size
    rng, module = np.random.default_rng(seed), CONTEXTS[name]().to(ts.float64)
    memory, mask = normal(rng, batch, positions, M), rng.random((batch, positions)) < 0.6
    h = np.zeros((batch, M))
    for i, real in enumerate(mask):
        if real.any():
            taken = memory[i, real]
            h[i] = {"last": taken[-1], "q(both)": [*taken[-1, : M // 2], *taken[0, M // 2 :]], "mean": taken.mean(0),
                    "q(max)": taken.max(0)}[name]
    if module.projection is not None:
        w, b = (p.detach().numpy() for p in module.projection.parameters())
        h = np.tanh(h @ w.T + b)
    assert h.shape[1] == (module.context_size or M)
    context, weights = module(ts.zeros((batch, queries, H), ts.float64), ts.asarray(memory), mask)
    assert weights is None
    close(context, np.broadcast_to(h[:, None], (batch, queries, h.shape[1])))
    full = np.ones_like(mask)
    close(module.keys(ts.asarray(memory)), module.keys(ts.asarray(memory), ts.asarray(full)))


@given(names, sizes, seeds)
def test_contexts_have_exact_gradients_and_do_not_see_what_is_masked(name: str, size: Any, seed: int) -> None:
    """Rows wholly masked, and memories of no position, included: their gradients are finite, their contexts zero."""
    batch, queries, positions = size
    rng, module = np.random.default_rng(seed), CONTEXTS[name]().to(ts.float64)
    query, memory = normal(rng, batch, queries, H), normal(rng, batch, positions, width(name))
    mask = rng.random((batch, positions)) < 0.6
    call = lambda q, m: module(q, m, mask)[0]
    context = call(ts.asarray(query), ts.asarray(memory))
    close(call(ts.asarray(query), ts.asarray(np.where(mask[..., None], memory, np.nan))), context)
    longer = np.concatenate([memory, np.full((batch, 2, width(name)), 7.0)], 1)
    padded = np.concatenate([mask, np.zeros((batch, 2), bool)], 1)
    close(module(ts.asarray(query), ts.asarray(longer), padded)[0], context)
    if not name.startswith("q"):
        assert not context.detach().numpy()[~mask.any(1)].any()
    q, m = leaf(query), leaf(memory)
    ts.sum(ts.square(call(q, m))).backward()
    gradients = [m.grad, *(p.grad for p in module.parameters())] + ([] if name in FIXED else [q.grad])
    assert all(np.isfinite(g.numpy()).all() for g in gradients if g is not None)
    assert not m.grad.numpy()[~mask].any()
    if queries and positions:
        check_grad(call, q, m, order=2)


@pytest.mark.reference
@pytest.mark.parametrize("heads", [1, 2, 3])
def test_multi_head_context_is_pytorchs_attention(heads: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(heads)
    ours = nn.MultiheadContext(H, M, heads).to(ts.float64)
    theirs = torch.nn.MultiheadAttention(H, heads, bias=False, kdim=M, vdim=M, batch_first=True).double()
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in ours.multihead.state_dict().items()})
    query, memory, mask = normal(rng, 2, 3, H), normal(rng, 2, 5, M), np.arange(5) < np.array([[5], [2]])
    q, m = torch.tensor(query), torch.tensor(memory)
    expected, weights = theirs(q, m, m, key_padding_mask=torch.tensor(~mask))
    context, found = ours(ts.asarray(query), ts.asarray(memory), mask)
    close(context, expected.detach().numpy())
    close(found, weights.detach().numpy())


def test_wrong_contexts_are_named() -> None:
    for size, pool, message in ((4, "first", "'last', 'both'.*got 'first'"), (5, "both", "even memory_size .*, got 5")):
        with pytest.raises(ValueError, match=message):
            nn.FixedContext(size, pool)
    with pytest.raises(ValueError, match="multiple of num_heads"):
        nn.MultiheadContext(6, 4, 4)
    for name in FIXED:
        module, memory = CONTEXTS[name](), ts.zeros((2, 5, 4))
        for mask in (np.ones((2, 5)), np.ones((2, 4), bool), np.ones((2, 5), int)):
            with pytest.raises(ValueError, match=rf"boolean mask.*\(2, 5\).*key_padding_mask is ~.*{mask.dtype}"):
                module(ts.zeros((2, 1, H)), memory, mask)


# --- attention -------------------------------------------------------------------------------------------------------

ATTENTIONS: dict[str, Callable[[], Any]] = {
    "dot": lambda: nn.DotAttention(4, 4), "scaled": lambda: nn.DotAttention(4, 4, scale=True),
    "general": lambda: nn.DotAttention(4, 3), "additive": lambda: nn.AdditiveAttention(4, 3, 5)}
every_attention = pytest.mark.parametrize("name", ATTENTIONS)


@every_attention
@given(sizes=st.tuples(*[st.integers(1, 4)] * 3), seed=seeds)
def test_attention_is_a_mean_of_what_takes_part(name: str, sizes: Any, seed: int) -> None:
    module, rng = ATTENTIONS[name]().to(ts.float64), np.random.default_rng(seed)
    (batch, queries, steps), width = sizes, 4 if name in ("dot", "scaled") else 3
    q, memory = leaf(normal(rng, batch, queries, 4)), leaf(normal(rng, batch, steps, width))
    mask = rng.random((batch, steps)) < 0.6
    context, weights = module(q, memory, mask)
    w = weights.detach().numpy()
    close(w.sum(-1), np.broadcast_to(mask.any(-1)[:, None], w.shape[:2]).astype(float))
    assert not (w * ~mask[:, None]).any()
    close(context, w @ memory.detach().numpy())
    padding = np.where(mask[..., None], memory.detach().numpy(), 1e3)
    close(module(q, ts.asarray(padding), mask)[0], context)
    extended = np.concatenate([memory.detach().numpy(), padding], 1)
    close(module(q, ts.asarray(extended), np.concatenate([mask, np.zeros_like(mask)], 1))[0], context)
    close(module(q, memory, mask, module.keys(memory))[0], context)
    for i in range(batch):
        close(module(q[i : i + 1], memory[i : i + 1], mask[i : i + 1])[0], context[i : i + 1])
    check_grad(lambda q, m: module(q, m, mask), q, memory, order=2)


def test_attention_scores_are_their_equations() -> None:
    rng = np.random.default_rng(0)
    q, m, wide = normal(rng, 1, 2, 4), normal(rng, 1, 3, 3), normal(rng, 1, 3, 4)
    score = lambda module, memory: module.scores(ts.asarray(q), module.keys(ts.asarray(memory)))[0]
    dot, scaled, general, additive = (make().to(ts.float64) for make in ATTENTIONS.values())
    close(score(dot, wide), q[0] @ wide[0].T)
    close(score(scaled, wide), q[0] @ wide[0].T / 2)
    close(score(general, m), q[0] @ general.projection.weight.detach().numpy() @ m[0].T)
    w, u, b, v = (p.detach().numpy() for p in (
        additive.query.weight, additive.memory.weight, additive.memory.bias, additive.v))
    close(score(additive, m), [[v @ np.tanh(w @ q_t + u @ m_s + b) for m_s in m[0]] for q_t in q[0]])


@every_attention
def test_wrong_attention_is_named(name: str) -> None:
    module, q, m = ATTENTIONS[name](), ts.zeros((2, 3, 4)), ts.zeros((2, 5, 4 if name in ("dot", "scaled") else 3))
    for mask in (np.ones((2, 5)), np.ones((2, 4), bool), np.ones((2, 3, 5), bool)):
        with pytest.raises(ValueError, match=rf"boolean mask .* \(2, 5\).*{mask.shape[1]}.*{mask.dtype}"):
            module(q, m, mask)
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) and \(3, 5, 4\)"):
        module(q, ts.zeros((3, 5, 4)))
    with pytest.raises(ValueError, match="projected=True"):
        nn.DotAttention(4, 3, projected=False)
    with pytest.raises(NotImplementedError, match="Attention has no scores"):
        nn.Attention()(q, m)
