"""Greedy decoding is the argmax of teacher forcing, row by row, whatever stands beside or behind a row."""

from typing import Any, NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import nn
from tinyseq.decode import Hypothesis, greedy, take_rows
from tinyseq.nn import init

START, END, TOKENS = 0, 1, 6
sizes = st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from([7, 0, 1, 3]))
seeds = st.integers(0, 9999)


def model_and_sources(seed: int, batch: int, steps: int) -> tuple[nn.EncoderDecoder, Any, Any]:
    """A model whose probabilities are far from even and depend on the source, padded sources (B, S), lengths (B,)."""
    ts.manual_seed(seed)
    rng = np.random.default_rng(seed)
    attention = [nn.DotAttention(6, 6), nn.AdditiveAttention(6, 6, 3)][seed % 2]
    decoder = nn.AttentionDecoder(TOKENS, 3, 6, attention, memory_size=6, dropout=0.5)
    model = nn.EncoderDecoder(nn.Embedding(9, 3), nn.GRU(3, 3, bidirectional=True), decoder).to(ts.float64).eval()
    for p in model.parameters():
        p.data = 4 * p.detach()
    init.zeros_(decoder.out.bias)
    return model, rng.integers(0, 9, (batch, steps)), rng.integers(1, steps + 1, batch)


def decode(model: Any, source: Any, lengths: Any, max_length: int) -> list[Hypothesis]:
    return greedy(model.decoder, model.encode(source, lengths), START, END, max_length)


def same(got: Any, expected: Any, width: int) -> None:
    assert [h.tokens for h in got] == [h.tokens for h in expected]
    for a, b in zip(got, expected, strict=True):
        if a.tokens:
            np.testing.assert_allclose(a.alignment[:, :width], b.alignment[:, :width], atol=1e-10)


@given(sizes, seeds)
def test_greedy_is_the_argmax_of_teacher_forcing_and_stops_at_the_end(size: Any, seed: int) -> None:
    batch, steps, max_length = size
    model, source, lengths = model_and_sources(seed, batch, steps)
    for i, found in enumerate(decode(model, source, lengths, max_length)):
        tokens: list[int] = []
        while len(tokens) < max_length:
            logits = model(source[i : i + 1], lengths[i : i + 1], np.array([[START, *tokens]]))
            tokens.append(int(logits.detach().numpy()[0, -1].argmax()))
            if tokens[-1] == END:
                break
        assert found.tokens == [t for t in tokens if t != END]


@given(sizes, seeds)
def test_neighbours_order_and_padding_do_not_matter(size: Any, seed: int) -> None:
    batch, steps, max_length = size
    model, source, lengths = model_and_sources(seed, batch, steps)
    found = decode(model, source, lengths, max_length)
    order = np.random.default_rng(seed).permutation(batch)
    same(decode(model, source[order], lengths[order], max_length), [found[i] for i in order], steps)
    padded = np.concatenate([np.where(np.arange(steps) < lengths[:, None], source, 7), np.full((batch, 2), 8)], 1)
    same(decode(model, padded, lengths, max_length), found, steps)
    for i in range(batch):
        same(decode(model, source[i : i + 1], lengths[i : i + 1], max_length), [found[i]], steps)


@given(sizes, seeds)
def test_alignments_are_shares_of_what_is_real(size: Any, seed: int) -> None:
    batch, steps, max_length = size
    model, source, lengths = model_and_sources(seed, batch, steps)
    for found, length in zip(decode(model, source, lengths, max_length), lengths, strict=True):
        if not found.tokens:
            assert found.alignment is None
            continue
        assert found.alignment is not None and found.alignment.shape == (len(found.tokens), steps)
        np.testing.assert_allclose(found.alignment.sum(1), 1)
        assert (found.alignment >= 0).all() and not found.alignment[:, length:].any()


class Count(NamedTuple):
    count: ts.Tensor
    nothing: None = None


def test_rows_that_ended_cost_nothing_more_and_no_graph_is_kept() -> None:
    leaf, sizes = ts.ones(1, requires_grad=True), []

    class Counter:
        """Row by row the next number, up to the end symbol 5; no attention."""

        def step(self, tokens: Any, state: Any) -> Any:
            sizes.append(len(tokens))
            assert not (leaf * 2).requires_grad
            return ts.one_hot(state.count + 1, 6), Count(state.count + 1)

    state = Count(ts.tensor([3, 0, 4]))
    assert [h.tokens for h in greedy(Counter(), state, start=0, end=5, max_length=9)] == [[4], [1, 2, 3, 4], []]
    assert sizes == [3, 2, 1, 1, 1]
    found = greedy(Counter(), state, start=0, end=5, max_length=2)
    assert [h.tokens for h in found] == [[4], [1, 2], []] and all(h.alignment is None for h in found)
    assert greedy(Counter(), take_rows(state, np.array([], int)), 0, 5, 2) == []


def test_rows_of_a_state_come_in_the_order_asked_for() -> None:
    state = nn.DecoderState(*(ts.tensor(np.arange(6.0).reshape(3, 2) + i) for i in range(3)), None)
    taken = take_rows(state, np.array([2, 0, 2]))
    assert taken.mask is None and taken.weights is None and isinstance(taken, nn.DecoderState)
    assert taken.keys.numpy()[:, 0].tolist() == [6, 2, 6]
