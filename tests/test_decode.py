"""Decoding gives what enumerating, teacher forcing and the model's probabilities say, whatever stands beside a row."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import nn
from tinyseq.decode import Hypothesis, beam, greedy, sample, score, stream, take_rows
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
def test_alignments_are_shares_of_what_is_real(size: Any, seed: int) -> None:
    batch, steps, max_length = size
    model, source, lengths = model_and_sources(seed, batch, steps)
    for found, length in zip(decode(model, source, lengths, max_length), lengths, strict=True):
        if not max_length:                      # nothing was asked
            assert found.alignment is None
            continue
        assert found.alignment is not None and found.alignment.shape == (len(found.tokens), steps)
        np.testing.assert_allclose(found.alignment.sum(1), 1)
        assert (found.alignment >= 0).all() and not found.alignment[:, length:].any()


# --- laws of every way to decode, on decoders small enough to enumerate -------------------------------------------


class ToyState(NamedTuple):
    """Nested, with nothing and a number in it, as a state may be."""

    layers: tuple[tuple[ts.Tensor, None], ts.Tensor]
    position: int


class Toy(nn.Module):
    """h_t = tanh(W h_{t-1} + E y_{t-1} + source + position / 4), logits = O h_t, all in float64; no attention."""

    def __init__(self, seed: int, tokens: int, width: int = 3) -> None:
        ts.manual_seed(seed)
        self.embedding, self.w = nn.Embedding(tokens, width), nn.Linear(width, width)
        self.out = nn.Linear(width, tokens)
        self.to(ts.float64)
        self.out.weight.data = 5 * self.out.weight.detach()

    def start(self, sources: Any) -> ToyState:
        x = ts.tensor(sources, dtype=ts.float64)
        return ToyState(((x, None), ts.zeros_like(x)), 0)

    def step(self, tokens: Any, state: ToyState) -> tuple[ts.Tensor, ToyState]:
        (source, _), h = state.layers
        h = ts.tanh(self.w(h) + self.embedding(tokens) + source + state.position / 4)
        return self.out(h), ToyState(((source, None), h), state.position + 1)

    def forward(self, tokens: Any, state: ToyState) -> ts.Tensor:
        logits = []
        for t in range(tokens.shape[1]):
            now, state = self.step(tokens[:, t], state)
            logits.append(now)
        return ts.stack(logits, 1)


def toy(seed: int, tokens: int, batch: int) -> tuple[Toy, ToyState]:
    decoder = Toy(seed, tokens)
    return decoder, decoder.start(np.random.default_rng(seed).normal(0, 1, (batch, 3)))


def rank(hypothesis: tuple[list[int], float], max_length: int, penalty: float) -> float:
    """Wu et al. 2016, equation 14: a sequence that was cut has no end."""
    tokens, total = hypothesis
    return total / ((5 + min(len(tokens) + 1, max_length)) / 6) ** penalty


@ts.no_grad()
def sequences(decoder: Any, state: Any, max_length: int, min_length: int = 0, width: int | None = None) -> Any:
    """(tokens, score) of every sequence for a state of one row; with a width of those that a beam comes across, which
    goes on to the end whatever it has found."""
    found: list[tuple[list[int], float]] = []
    live: list[tuple[list[int], float, Any, int]] = [([], 0.0, state, START)]
    for t in range(1, max_length + 1):
        wider = []
        for tokens, total, before, last in live:
            logits, after = decoder.step(np.array([last]), before)
            for token, log in enumerate(ts.functional.log_softmax(logits).numpy()[0]):
                if token != END or t > min_length:
                    wider.append(([*tokens, token], total + log, after, token))
        wider = sorted(wider, key=lambda x: -x[1])[:width]
        found += [(tokens[: -1 if token == END else None], total) for tokens, total, _, token in wider
                  if token == END or t == max_length]
        live = [x for x in wider if x[3] != END]
    return found


beams = st.tuples(st.integers(2, 4), st.integers(1, 4), st.sampled_from([0.0, 0.6, 1.0, 3.0, -0.5]), st.integers(0, 4))


def check_beam(seed: int, choice: Any, batch: int, n_best: int, width: int, searched: int | None) -> None:
    tokens, max_length, penalty, min_length = choice
    min_length = min(min_length, max_length)
    decoder, state = toy(seed, tokens, batch)
    found = beam(decoder, state, START, END, max_length, width, n_best=n_best, length_penalty=penalty,
                 min_length=min_length)
    assert len(found) == batch
    for i, row in enumerate(found):
        expected = sequences(decoder, take_rows(state, np.array([i])), max_length, min_length, searched)
        expected.sort(key=lambda x: -rank(x, max_length, penalty))
        assert [h.tokens for h in row] == [tokens for tokens, _ in expected[:n_best]]
        np.testing.assert_allclose([h.score for h in row], [total for _, total in expected[:n_best]], atol=1e-12)
        assert all(h.alignment is None and len(h.tokens) >= min_length for h in row)


@given(seeds, beams, st.integers(1, 3), st.integers(1, 6))
def test_a_wide_beam_is_exhaustive_search(seed: int, choice: Any, batch: int, n_best: int) -> None:
    check_beam(seed, choice, batch, n_best, 300, None)


@given(seeds, beams, st.integers(1, 3), st.integers(1, 4), st.integers(0, 3))
def test_stopping_early_changes_nothing(seed: int, choice: Any, batch: int, width: int, fewer: int) -> None:
    check_beam(seed, choice, batch, max(1, width - fewer), width, width)


@given(seeds, beams, st.integers(1, 3), st.sampled_from([None, 0.0, 0.7]))
def test_scores_may_be_divided_by_lengths(seed: int, choice: Any, batch: int, power: float | None) -> None:
    tokens, max_length, _, min_length = choice
    decoder, state = toy(seed, tokens, batch)
    found = beam(decoder, state, START, END, max_length, 300, length_penalty=power, normalize="length",
                 min_length=min(min_length, max_length))
    for i, (best,) in enumerate(found):
        every = sequences(decoder, take_rows(state, np.array([i])), max_length, min(min_length, max_length))
        share = lambda x: x[1] / min(len(x[0]) + 1, max_length) ** (1.0 if power is None else power)
        assert best.tokens == max(every, key=share)[0]


@ts.no_grad()
def kept_beam(decoder: Any, state: Any, max_length: int, min_length: int, width: int, power: float) -> Any:
    """(tokens, score), best first, of a state of one row: a beam in which what has ended keeps its place."""
    held: list[tuple[list[int], float, Any]] = [([], 0.0, state)]  # a state of None: ended
    share = lambda x: x[1] / max(len(x[0]), 1) ** power
    for t in range(1, max_length + 1):
        wider: list[tuple[list[int], float, Any]] = [x for x in held if x[2] is None]
        for tokens, total, before in held:
            if before is None:
                continue
            logits, after = decoder.step(np.array([[START, *tokens][-1]]), before)
            for token, log in enumerate(ts.functional.log_softmax(logits).numpy()[0]):
                if token != END or t > min_length:
                    wider.append(([*tokens, token], total + log, None if token == END else after))
        held = sorted(wider, key=lambda x: -share(x))[:width]
    return [([token for token in tokens if token != END], total) for tokens, total, _ in held]


@given(seeds, beams, st.integers(1, 3), st.integers(1, 5), st.sampled_from([0.0, 1.0, 0.5]))
def test_what_has_ended_may_keep_its_place(seed: int, choice: Any, batch: int, width: int, power: float) -> None:
    tokens, max_length, _, min_length = choice
    min_length = min(min_length, max_length)
    decoder, state = toy(seed, tokens, batch)
    found = beam(decoder, state, START, END, max_length, width, n_best=width, length_penalty=power, normalize="length",
                 min_length=min_length, keep_ended=True)
    for i, row in enumerate(found):
        expected = kept_beam(decoder, take_rows(state, np.array([i])), max_length, min_length, width, power)
        assert [h.tokens for h in row] == [tokens for tokens, _ in expected or [([], 0.0)]]
        if expected and max_length:
            np.testing.assert_allclose([h.score for h in row], [total for _, total in expected], atol=1e-12)


@given(sizes, seeds)
def test_what_keeps_its_place_keeps_its_alignment(size: Any, seed: int) -> None:
    batch, steps, max_length = size
    model, source, lengths = model_and_sources(seed, batch, steps)
    found = beam(model.decoder, model.encode(source, lengths), START, END, max_length, 3, keep_ended=True)
    for i, (best,) in enumerate(found):
        if max_length:
            told = score(model.decoder, model.encode(source[i : i + 1], lengths[i : i + 1]), START,
                         np.array([[*best.tokens, *[END] * (len(best.tokens) < max_length)]]), align=True)
            assert told.alignment is not None and best.alignment is not None
            np.testing.assert_allclose(best.score, told.total.detach().numpy()[0], atol=1e-9)
            np.testing.assert_allclose(best.alignment[:, : lengths[i]],
                                       told.alignment.detach().numpy()[0, : len(best.tokens), : lengths[i]], atol=1e-9)


@given(seeds, beams)
def test_a_beam_of_width_1_is_greedy(seed: int, choice: Any) -> None:
    tokens, max_length, penalty, _ = choice
    decoder, state = toy(seed, tokens, 4)
    narrow = beam(decoder, state, START, END, max_length, 1, length_penalty=penalty)
    for (a,), b in zip(narrow, greedy(decoder, state, START, END, max_length), strict=True):
        assert a.tokens == b.tokens
        np.testing.assert_allclose(a.score, b.score, atol=1e-12)


@pytest.mark.parametrize(("ends", "penalty", "tokens"), [
    (0.55, 0, []), (0.55, 1, [0] * 6), (0.61, 1, []), (0.61, 2, [0] * 6)])
def test_a_longer_hypothesis_may_win_late(ends: float, penalty: float, tokens: list[int]) -> None:
    """It ends at once, or else goes on to six tokens: -log(0.45) / (11 / 6) < -log(0.55), but at 0.61 not so."""

    class Late:
        def step(self, last: Any, state: Any) -> Any:
            p = [1.0, 1e-9] if state[0] else [1 - ends, ends]
            return ts.tensor(np.log([p] * len(last)), dtype=ts.float64), (state[0] + 1,)

    ((found,),) = beam(Late(), (0,), [0], END, 6, 2, length_penalty=penalty)
    assert found.tokens == tokens
    np.testing.assert_allclose(found.score, np.log(1 - ends if tokens else ends), atol=1e-7)


def every_way(model: Any, state: Any, max_length: int, rows: Any) -> list[Hypothesis]:
    """What each way to decode finds, row after row; `rows` are the rows' names."""
    found = beam(model.decoder, state, START, END, max_length, 3, n_best=2, length_penalty=0.7)
    found.append(greedy(model.decoder, state, START, END, max_length))
    found.append(sample(model.decoder, state, START, END, max_length, 0.9, top_p=0.95, seed=[int(r) for r in rows]))
    return [h for n in range(len(rows)) for h in (*found[n], found[-2][n], found[-1][n])]


@given(sizes, seeds)
def test_neighbours_batch_size_and_padding_do_not_matter(size: Any, seed: int) -> None:
    batch, steps, max_length = size
    model, source, lengths = model_and_sources(seed, batch, steps)
    rows = np.arange(batch)
    found = every_way(model, model.encode(source, lengths), max_length, rows)
    each = len(found) // batch
    order = np.random.default_rng(seed).permutation(batch)
    got = every_way(model, model.encode(source[order], lengths[order]), max_length, order)
    same(got, [found[each * i + j] for i in order for j in range(each)], steps)
    padded = np.concatenate([np.where(np.arange(steps) < lengths[:, None], source, 7), np.full((batch, 2), 8)], 1)
    same(every_way(model, model.encode(padded, lengths), max_length, rows), found, steps)
    for i in range(batch):
        alone = every_way(model, model.encode(source[i : i + 1], lengths[i : i + 1]), max_length, [i])
        same(alone, found[each * i : each * (i + 1)], steps)


@given(sizes, seeds)
def test_a_hypothesis_has_the_score_and_the_alignment_of_its_tokens(size: Any, seed: int) -> None:
    batch, steps, max_length = size
    model, source, lengths = model_and_sources(seed, batch, steps)
    state = model.encode(source, lengths)
    found = every_way(model, state, max_length, np.arange(batch))
    each = len(found) // batch
    pieces = [h.tokens + [END] * (len(h.tokens) < max_length) for h in found]
    target = np.full((len(found), max_length + 2), -1)    # what stands in the padding is nobody's business
    for row, piece in zip(target, pieces, strict=True):
        row[: len(piece)] = piece
    sizes = np.array([len(piece) for piece in pieces])
    state = take_rows(state, np.repeat(np.arange(batch), each))
    given = score(model.decoder, state, START, target, sizes, align=True)
    np.testing.assert_allclose(given.total.detach().numpy(), [h.score for h in found], atol=1e-10)
    logs = given.tokens.detach().numpy()
    np.testing.assert_allclose(logs.sum(1), given.total.detach().numpy(), atol=1e-12)
    assert not logs[np.arange(max_length + 2) >= sizes[:, None]].any()
    assert given.alignment is not None
    for h, weights in zip(found, given.alignment.detach().numpy(), strict=True):
        if h.tokens:
            assert h.alignment is not None
            np.testing.assert_allclose(weights[: len(h.tokens)], h.alignment, atol=1e-10)


def test_scores_are_differentiable_and_need_no_alignment() -> None:
    decoder, state = toy(3, 4, 2)
    target, lengths = np.array([[2, 3, END], [2, 0, 0]]), np.array([3, 1])
    found = score(decoder, state, START, target, lengths)
    logits = decoder(np.array([[START, 2, 3], [START, 2, 0]]), state)
    expected = ts.functional.cross_entropy(logits, np.where(np.arange(3) < lengths[:, None], target, -100),
                                           reduction="sum")
    np.testing.assert_allclose(found.total.sum().item(), -expected.item())
    assert found.alignment is None and score(decoder, state, START, target, align=True).alignment is None
    found.total.sum().backward()
    assert decoder.w.weight.grad is not None and np.abs(decoder.w.weight.grad.numpy()).max() > 0
    assert score(decoder, state, START, target, [0, 0]).total.detach().numpy().tolist() == [0, 0]


# --- sampling -----------------------------------------------------------------------------------------------------


class Table(NamedTuple):
    logits: ts.Tensor


class Draws:
    """The next token does not depend on those before it: logits stand in the state."""

    def step(self, tokens: Any, state: Table) -> Any:
        return state.logits, state


def kept(p: Any, top_k: int | None = None, top_p: float = 1.0, min_p: float = 0.0) -> Any:
    """What may be drawn, defined once more: one token after the other, from the most probable down."""
    order, chosen = sorted(range(len(p)), key=lambda i: -p[i])[:top_k], []
    for i in order:
        if p[chosen].sum() < top_p * p[order].sum():
            chosen.append(i)
    cut = np.array([p[i] if i in chosen and p[i] >= min_p * p.max() else 0.0 for i in range(len(p))])
    return cut / cut.sum()


def chi_square(counts: Any, p: Any) -> None:
    """Counts agree with probabilities: what has none does not occur, the rest within what one in 10,000 exceeds."""
    expected, freedom = counts.sum() * p[p > 0], (p > 0).sum() - 1
    assert not counts[p == 0].any()
    statistic = ((counts[p > 0] - expected) ** 2 / expected).sum()
    spread = 2 / 9 / max(freedom, 1)
    bound = freedom * (1 - spread + 3.72 * spread**0.5) ** 3    # Wilson & Hilferty 1931
    assert statistic <= bound, (statistic, bound)


CHOICES: list[dict[str, Any]] = [
    {}, {"temperature": 0.5}, {"temperature": 2.0}, {"top_k": 3}, {"top_k": 1}, {"top_p": 0.7}, {"top_p": 0.01},
    {"min_p": 0.3}, {"min_p": 1.0}, {"top_k": 5, "top_p": 0.8}, {"temperature": 1.5, "top_k": 6, "top_p": 0.9,
    "min_p": 0.2}, {"top_k": 99, "top_p": 0.999}, {"top_k": 3, "top_p": 0.7}]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_frequencies_agree_with_the_model(choice: dict[str, Any]) -> None:
    logits, n = np.array([0.3, -9.0, 1.2, 0.7, 2.1, -0.4, 1.6]), 5000
    found = sample(Draws(), Table(ts.tensor(np.tile(logits, (n, 1)))), START, -1, 2, **choice, seed=11)
    p = np.exp(logits / choice.get("temperature", 1.0))
    p = kept(p / p.sum(), **{name: value for name, value in choice.items() if name != "temperature"})
    first, second = np.array([h.tokens for h in found]).T
    chi_square(np.bincount(first, minlength=7), p)
    chi_square(np.bincount(second, minlength=7), p)
    chi_square(np.bincount(7 * first + second, minlength=49), np.outer(p, p).ravel())
    logs = logits - np.log(np.exp(logits).sum())    # of the model as it is, whatever was cut off
    np.testing.assert_allclose([h.score for h in found], logs[first] + logs[second])


def test_what_is_drawn_depends_on_the_seed_alone() -> None:
    def draws(rows: int, **options: Any) -> list[list[int]]:
        state = Table(ts.tensor(np.zeros((rows, 50))))
        return [h.tokens for h in sample(Draws(), state, START, -1, 6, **options)]

    assert draws(5, seed=7) == draws(5, seed=7) != draws(5, seed=8)
    assert draws(9, seed=7)[:5] == draws(5, seed=7)
    assert len({tuple(tokens) for tokens in draws(100, seed=7)}) == 100
    assert draws(3, seed=[4, 2**64 - 1, 4])[1:] == draws(2, seed=[2**64 - 1, 4])
    assert draws(3, seed=[4, 5, 4])[0] == draws(3, seed=[4, 5, 4])[2]
    ts.manual_seed(3)
    first, second = draws(2), draws(2)
    ts.manual_seed(3)
    assert [draws(2), draws(2)] == [first, second] and first != second


@given(sizes, seeds, st.sampled_from([0.0, 1.0]))
def test_a_stream_gives_what_is_collected(size: Any, seed: int, temperature: float) -> None:
    batch, steps, max_length = size
    model, source, lengths = model_and_sources(seed, batch, steps)
    state = model.encode(source, lengths)
    tokens: list[list[int]] = [[] for _ in range(batch)]
    for step in stream(model.decoder, state, START, END, max_length, temperature, seed=seed):
        assert not any(END in tokens[row] for row in step.rows) and step.weights.shape == (len(step.rows), steps)
        for row, token in zip(step.rows, step.tokens, strict=True):
            tokens[row].append(int(token))
    expected = sample(model.decoder, state, START, END, max_length, temperature, seed=seed)
    assert [[t for t in row if t != END] for row in tokens] == [h.tokens for h in expected]


# --- states, starts, ends, and what is refused ----------------------------------------------------------------------


class Count(NamedTuple):
    count: ts.Tensor
    nothing: None = None


class Counter:
    """Row by row the next number; the first of 6 tokens comes second. No attention."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def step(self, tokens: Any, state: Any) -> Any:
        self.rows.append(len(tokens))
        return 30 * ts.one_hot(state.count + 1, 6) + 10 * ts.one_hot(ts.zeros_like(state.count), 6), Count(
            state.count + 1)


def test_rows_that_ended_cost_nothing_more() -> None:
    state = Count(ts.tensor([3, 0, 4]))
    for decode, seen in ((greedy, [3, 2, 1, 1, 1]), (sample, [3, 2, 1, 1, 1]), (beam, [3, 4, 2, 2, 2])):
        counter = Counter()
        found = decode(counter, state, 0, 5, 9, **({"width": 2} if decode is beam else {}))    # type: ignore[operator]
        hypotheses = [row[0] for row in found] if decode is beam else found
        assert [h.tokens for h in hypotheses] == [[4], [1, 2, 3, 4], []]
        assert counter.rows == seen
    for limit in (0, 2):
        found = greedy(Counter(), state, 0, 5, limit)
        assert [h.tokens for h in found] == [[4][:limit], [1, 2][:limit], []]
        assert all(h.alignment is None for h in found)
        assert [row[0].tokens for row in beam(Counter(), state, 0, 5, limit)] == [h.tokens for h in found]
    for decode in (greedy, beam, sample):
        assert decode(Counter(), take_rows(state, np.array([], int)), 0, 5, 2) == []    # type: ignore[operator]


def test_no_graph_is_kept_and_none_is_switched_off_between_the_steps() -> None:
    leaf = ts.ones(1, requires_grad=True)

    class Watched(Counter):
        def step(self, tokens: Any, state: Any) -> Any:
            assert not (leaf * 2).requires_grad
            return super().step(tokens, state)

    state = Count(ts.tensor([0, 1]))
    greedy(Watched(), state, 0, 5, 3)
    beam(Watched(), state, 0, 5, 3)
    for _ in stream(Watched(), state, 0, 5, 3):
        assert (leaf * 2).requires_grad


def test_each_row_may_start_from_its_own_token_and_nothing_need_end() -> None:
    decoder, state = toy(5, 6, 3)
    for start in (np.array([2, 0, 3]), [2, 0, 3], ts.tensor([2, 0, 3])):
        found = greedy(decoder, state, start, END, 5)
        for i, first in enumerate([2, 0, 3]):
            assert found[i].tokens == greedy(decoder, take_rows(state, [i]), first, END, 5)[0].tokens
        assert [row[0].tokens for row in beam(decoder, state, start, END, 5, 1)] == [h.tokens for h in found]
        assert score(decoder, state, start, [[2], [2], [2]]).total.shape == (3,)
    for decode in (greedy, sample):
        assert {len(h.tokens) for h in decode(decoder, state, START, -1, 7)} == {7}    # type: ignore[operator]
    assert {len(h.tokens) for row in beam(decoder, state, START, -1, 7, n_best=2, min_length=3) for h in row} == {7}


def test_a_step_gets_plain_numbers_and_a_state_without_tensors_as_they_are() -> None:
    class Pairs:
        def step(self, tokens: Any, state: Any) -> Any:
            return ts.one_hot(ts.tensor((tokens + state[1]) % 6), 6) * 9, (None, state[1] + 1)

    found = greedy(Pairs(), (None, 1), [0, 1], 5, 9)
    assert [h.tokens for h in found] == [[1, 3, 0, 4, 3, 3, 4, 0, 3], [2, 4, 1]]


def test_what_is_impossible_leaves_the_beam_and_is_never_claimed() -> None:
    asked: list[int] = []

    class Fixed:
        """The end alone has a probability in rows of state 0, token 0 alone in those of state 1."""

        def step(self, tokens: Any, state: Any) -> Any:
            asked.append(len(tokens))
            return ts.tensor(np.where(state[0].numpy()[:, None] == [1.0, 0.0, 2.0], 0.0, -np.inf)), state

    rows = (ts.tensor([0.0, 1.0]),)
    (none,), (found,) = beam(Fixed(), rows, 2, 1, 4, 3, min_length=2)
    assert none == Hypothesis([], None, -np.inf) and found == Hypothesis([0, 0, 0, 0], None, 0.0)
    assert asked == [2, 1, 1, 1]                                 # one row is gone at once, and beams without a chance
    assert beam(Fixed(), rows, 2, 1, 0) == [[Hypothesis([], None, 0.0)]] * 2


def test_rows_of_a_state_come_in_the_order_asked_for() -> None:
    state = nn.DecoderState(*(ts.tensor(np.arange(6.0).reshape(3, 2) + i) for i in range(3)), None)
    taken = take_rows(state, np.array([2, 0, 2]))
    assert taken.mask is None and taken.weights is None and isinstance(taken, nn.DecoderState)
    assert taken.keys.numpy()[:, 0].tolist() == [6, 2, 6]
    pair, number = take_rows(((state.hidden, None), 7), np.array([1]))
    assert type(pair) is tuple and pair[0].numpy().tolist() == [[2, 3]] and pair[1] is None and number == 7


@dataclasses.dataclass(frozen=True)
class Frozen:
    inner: Any
    text: str = "as it is"
    made: Any = dataclasses.field(init=False, default=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "made", self.made if self.made is not None else self.inner)


CONTAINERS: dict[str, Any] = {
    "tuple": (lambda x, h, n: (x, (None, h), n), lambda s: (s[0], s[1][1], s[2])),
    "list": (lambda x, h, n: [x, [None, h, []], n, [None]], lambda s: (s[0], s[1][1], s[2])),
    "dictionary": (lambda x, h, n: {"x": x, "more": {"h": [h]}, "n": n},
                   lambda s: (s["x"], s["more"]["h"][0], s["n"])),
    "dataclass": (lambda x, h, n: Frozen(Frozen((x, h, n))), lambda s: s.made.inner),
    "arrays": (lambda x, h, n: (x.numpy(), [h.numpy()], np.array(n)), lambda s: (s[0], s[1][0], int(s[2]))),
}


@given(seeds, st.integers(1, 4), st.sampled_from(sorted(CONTAINERS)))
def test_a_state_may_be_kept_in_anything_that_has_rows(seed: int, batch: int, kind: str) -> None:
    plain, state = toy(seed, 5, batch)
    (source, _), h = state.layers
    put, get = CONTAINERS[kind]

    class Kept:
        def step(self, tokens: Any, state: Any) -> Any:
            source, h, position = get(state)
            logits, after = plain.step(tokens, ToyState(((ts.asarray(source), None), ts.asarray(h)), position))
            return logits, put(ts.asarray(source), after.layers[1], after.position)

        def __call__(self, tokens: Any, state: Any) -> Any:
            source, h, position = get(state)
            return plain(tokens, ToyState(((ts.asarray(source), None), ts.asarray(h)), position))

    class Wrapped(NamedTuple):
        decoder: Any

    with ts.no_grad():
        for ways in (lambda d, s: every_way(Wrapped(d), s, 5, range(batch)),
                     lambda d, s: score(d, s, START, np.full((batch, 3), 2)).tokens.tolist()):
            assert str(ways(Kept(), put(source, h, 0))) == str(ways(plain, state))


@pytest.mark.parametrize(("bad", "message"), [
    ({1, 2}, r"got \{1, 2\}"), (lambda: 0, "got <function"), ([1, 2, 3], r"\[1, 2, 3\].* an array, or not, a tuple"),
    (["a"], r"got \['a'\]"), ((None, {"deep": [object()]}), "got <object object"), (Frozen, "got <class")],
    ids=["set", "function", "numbers", "text", "deep", "class"])
def test_a_state_of_anything_else_is_refused_by_name(bad: Any, message: str) -> None:
    state = (ts.zeros((3, 2)), bad)
    for call, name in ((lambda: greedy(Draws(), state, 0, 1, 5), "greedy"), (lambda: beam(Draws(), state, 0, 1, 5),
                       "beam"), (lambda: sample(Draws(), state, 0, 1, 5), "sample"), (lambda: stream(
                       Draws(), state, 0, 1, 5), "stream"), (lambda: score(toy(0, 3, 1)[0], state, 0, [[1]] * 3),
                       "score"), (lambda: take_rows(state, [0]), "take_rows")):
        with pytest.raises(TypeError, match=f"^{name}: .*{message}"):
            call()


def test_arrays_of_the_host_are_rows_whatever_backend_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyseq.backends.arrays", set())       # with CuPy from the start, NumPy's is never loaded
    assert str(take_rows((np.array(3), np.arange(3)), [2, 0])) == str((np.array(3), np.array([2, 0])))


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint64", "tensor"])
def test_integers_of_every_width_count_alike(kind: str) -> None:
    decoder, state = toy(5, 250, 3)
    cast = (lambda x: ts.tensor(x)) if kind == "tensor" else lambda x: np.array(x, kind)
    number = (lambda x: ts.tensor(x)) if kind == "tensor" else np.dtype(kind).type
    high = 127 if kind == "int8" else 249
    found = [call(number, cast) for number, cast in ((number, cast), (int, np.array)) for call in (
        lambda n, c: greedy(decoder, state, c([2, 0, high]), n(high), n(9)),
        lambda n, c: sample(decoder, state, n(high), n(high), n(9), top_k=n(9), seed=n(3)),
        lambda n, c: sample(decoder, state, n(high), n(high), n(9), seed=c([3, 4, 5])),
        lambda n, c: beam(decoder, state, n(high), n(high), n(9), n(4), n_best=n(2), min_length=n(1)),
        lambda n, c: score(decoder, state, n(high), c([[high, 1]] * 3), c([0, 1, 2])).tokens.tolist())]
    assert [str(x) for x in found[:5]] == [str(x) for x in found[5:]]


def test_all_costs_what_is_said_and_not_what_may_be() -> None:
    state = Count(ts.tensor([3, 0, 4]))         # 10**12 numbers, or penalties, are more than there is memory for
    for found in (greedy(Counter(), state, 0, 5, 10**12), sample(Counter(), state, 0, 5, 10**12),
                  [row[0] for row in beam(Counter(), state, 0, 5, 10**12, length_penalty=0.7)]):
        assert [h.tokens for h in found] == [[4], [1, 2, 3, 4], []]
    assert len(next(stream(Counter(), state, 0, 5, 10**12, 1.0)).tokens) == 3


def test_a_row_draws_the_numbers_of_its_key() -> None:
    p = np.array([[0.1, 0.2, 0.3, 0.4]] * 3)
    found = sample(Draws(), Table(ts.tensor(np.log(p))), 0, -1, 50, seed=9)
    for row, h in enumerate(found):
        numbers = np.random.Generator(np.random.Philox(key=np.array([9, row], np.uint64))).random(50)
        assert h.tokens == np.searchsorted(p[row].cumsum(), numbers, "right").tolist()


@given(st.lists(st.sampled_from([-np.inf, -700.0, 0.0, 0.5, 1.0, 1e4]), min_size=1, max_size=5), seeds)
def test_temperatures_at_their_ends_are_limits(logits: list[float], seed: int) -> None:
    if max(logits) == -np.inf:
        logits[0] = 0.0
    state = Table(ts.tensor(np.array([logits] * 60)))
    for temperature in (5e-324, 1e-309, 1e-30, np.inf, 1.7e308):
        right = [i for i, x in enumerate(logits) if (x == max(logits) if temperature < 1 else x > -np.inf)]
        found = {t for h in sample(Draws(), state, 0, -1, 3, temperature, seed=seed) for t in h.tokens}
        assert found <= set(right) and (len(found) == 1 or len(right) > 1), (temperature, found, right)
    found = {t for h in sample(Draws(), state, 0, -1, 3, np.inf, top_k=1, top_p=5e-324, min_p=5e-324, seed=seed)
             for t in h.tokens}
    assert all(logits[t] > -np.inf for t in found)
    assert {t for h in sample(Draws(), state, 0, -1, 3, 1.0, top_p=5e-324, top_k=3, seed=seed) for t in h.tokens} <= {
        i for i, x in enumerate(logits) if x == max(logits)}


def test_a_hypothesis_is_shown_in_a_line() -> None:
    """However large its alignment is."""
    assert repr(Hypothesis([3, 4], np.ones((2, 40)), -1.23456)) == (
        "Hypothesis(tokens=[3, 4], alignment=float64[2, 40], score=-1.235)")
    assert repr(Hypothesis([], None, -np.inf)) == "Hypothesis(tokens=[], alignment=None, score=-inf)"


def test_an_empty_hypothesis_has_an_empty_alignment() -> None:
    model, source, lengths = model_and_sources(0, 2, 3)
    state = model.encode(source, lengths)
    for row in beam(model.decoder, state, START, END, 4, 5, n_best=5, min_length=0):
        assert all(h.alignment is not None and h.alignment.shape == (len(h.tokens), 3) for h in row)
    model.decoder.out.bias.data = np.where(np.arange(TOKENS) == END, 99.0, 0.0)
    for h in (*greedy(model.decoder, state, START, END, 4), *sample(model.decoder, state, START, END, 4)):
        assert h.tokens == [] and h.alignment is not None and h.alignment.shape == (0, 3)
    model.decoder.out.bias.data = np.where(np.arange(TOKENS) == END, 0.0, -np.inf)
    ((none,), _) = beam(model.decoder, state, START, END, 4, min_length=1)      # nothing is possible
    assert none.score == -np.inf and none.alignment is not None and none.alignment.shape == (0, 3)
    found = score(model.decoder, state, START, [[END, 0], [2, END]], [0, 2], align=True).alignment
    assert found is not None and found.shape == (2, 2, 3) and not found.detach().numpy()[0].any()
    nothing = score(model.decoder, state, START, [[2, 2], [2, 2]], [0, 0], align=True).alignment
    assert nothing is not None and nothing.shape == (2, 2, 3) and not nothing.detach().numpy().any()


@pytest.mark.parametrize("logits", [[np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]], ids=str)
def test_logits_without_a_softmax_are_refused(logits: list[float]) -> None:
    state = Table(ts.tensor(np.array([[0.0, 1.0], logits])))
    for temperature in (0.0, 5e-324, 1.0, np.inf):
        with pytest.raises(ValueError, match=r"^sample: the decoder's logits have no softmax"):
            sample(Draws(), state, 0, -1, 3, temperature)
    for width in (1, 2):
        with pytest.raises(ValueError, match=r"^beam: the decoder's logits have no softmax"):
            beam(Draws(), state, 0, -1, 3, width)


WRONG: list[tuple[str, Any, type[Exception], str]] = [
    *((name, lambda f, d, s, end=end: f(d, s, START, end, 5), error, f"-1 <= end, got {end!r}")
      for name in ("greedy", "sample", "stream", "beam")
      for end, error in ((-2, ValueError), (1.5, TypeError), ("a", TypeError), (None, TypeError), (True, TypeError))),
    *((name, lambda f, d, s, n=n: f(d, s, START, END, n), error, f"0 <= max_length, got {n!r}")
      for name in ("greedy", "sample", "stream", "beam")
      for n, error in ((-1, ValueError), (2.0, TypeError), ("9", TypeError))),
    *((name, lambda f, d, s, x=x: f(d, s, START, END, 5, x), error, f"0 <= temperature, got {x!r}")
      for name in ("sample", "stream")
      for x, error in ((-1.0, ValueError), (np.nan, ValueError), ("x", TypeError), (None, TypeError))),
    *((name, lambda f, d, s, more=more: f(d, s, START, END, 5, 1.0, **more), error, message)
      for name in ("sample", "stream") for more, error, message in (
        ({"top_k": 0}, ValueError, "1 <= top_k, got 0"), ({"top_k": 2.0}, TypeError, "1 <= top_k, got 2.0"),
        ({"top_p": 0.0}, ValueError, "0 < top_p <= 1, got 0.0"), ({"top_p": 1.5}, ValueError, "got 1.5"),
        ({"top_p": "1"}, TypeError, "0 < top_p <= 1, got '1'"), ({"min_p": 1.5}, ValueError, "min_p <= 1, got 1.5"),
        ({"min_p": np.nan}, ValueError, "min_p <= 1, got nan"), ({"seed": -1}, ValueError, "0 <= seed"),
        ({"seed": 1.5}, TypeError, "0 <= seed"), ({"seed": "a"}, TypeError, "0 <= seed"),
        ({"seed": 2**64}, ValueError, "0 <= seed"), ({"seed": [1]}, ValueError, "one for each of 3 rows"))),
    *(("beam", lambda f, d, s, more=more: f(d, s, START, END, 5, **more), error, message) for more, error, message in (
        ({"width": 0}, ValueError, "1 <= width, got 0"), ({"width": 2.0}, TypeError, "1 <= width, got 2.0"),
        ({"width": 2, "n_best": 3}, ValueError, "1 <= n_best <= 2, got 3"),
        ({"n_best": 0}, ValueError, "1 <= n_best <= 4, got 0"),
        ({"min_length": 6}, ValueError, "0 <= min_length <= 5, got 6"),
        ({"length_penalty": np.nan}, ValueError, "length_penalty.*got nan"),
        ({"length_penalty": np.inf}, ValueError, "length_penalty.*got inf"),
        ({"length_penalty": -1e6}, ValueError, "length_penalty.*got -1000000.0"),
        ({"length_penalty": "a"}, TypeError, "length_penalty.*got 'a'"))),
    *((name, lambda f, d, s, x=x: f(d, s, x, END, 5), ValueError, "expected start as an integer, or")
      for name in ("greedy", "sample", "stream", "beam", "score")
      for x in (0.5, [0, 1], "a", None, [[0, 1, 2]], [[0], [1, 2]], True, np.array([2**64 - 1] * 3))),
    *((name, lambda f, d, s: f(3, s, START, END, 5), TypeError, "expected a decoder with step")
      for name in ("greedy", "sample", "stream", "beam")),
    *((name, lambda f, d, s: f(d, (*s, ts.zeros((4, 2))), START, [[1]] * 3 if f is score else END, 5),
       ValueError, "one batch as their first axis, got first axes of 3, 4")
      for name in ("greedy", "sample", "stream", "beam", "score")),
    ("score", lambda f, d, s: f(3, s, START, [[1]] * 3), TypeError, "expected a decoder with __call__"),
    *(("score", lambda f, d, s, x=x: f(d, s, START, x), ValueError, r"expected integers \(3, T\) as target, got")
      for x in ([[1, 2]], np.zeros((3, 2)), 1, "abc", None, [[1], [1, 2], [1]], np.zeros((3, 1), bool))),
    *(("score", lambda f, d, s, x=x: f(d, s, START, [[1, 2]] * 3, x), ValueError, "expected lengths as 3 integers")
      for x in ([1, 2], [1, 2, 3], [1.0, 2.0, 2.0], "abc", 3, [-1, 1, 1])),
]


@pytest.mark.parametrize(("name", "call", "error", "message"), WRONG, ids=lambda x: x if isinstance(x, str) else "")
def test_wrong_calls_name_function_argument_and_what_was_given(name: str, call: Any, error: Any, message: str) -> None:
    decoder, state = toy(5, 6, 3)
    with pytest.raises(error, match=f"^{name}: .*{message}"):
        call({"greedy": greedy, "sample": sample, "stream": stream, "beam": beam, "score": score}[name], decoder, state)


def test_what_a_step_returns_is_checked() -> None:
    for wrong, message in ((ts.zeros((3, 4)), r"got float32\[3, 4\] alone"), ((ts.zeros((2, 4)), ()), r"\[2, 4\]"),
                           ((ts.zeros(3), ()), r"got float32\[3\]"), ((np.zeros((3, 4)), ()), r"got float64\[3, 4\]"),
                           ((ts.zeros((3, 4), ts.int64), ()), r"got int64\[3, 4\]"), (None, "got None alone")):
        class Wrong:
            def step(self, tokens: Any, state: Any, wrong: Any = wrong) -> Any:
                return wrong

        for decode in (greedy, sample, beam):
            with pytest.raises(ValueError, match=rf"^{decode.__name__}: expected \(logits, state\) from .*{message}"):
                decode(Wrong(), None, [0, 1, 2], 1, 5)    # type: ignore[operator]


class LayersFirst(nn.Module):
    """A language model whose state is what its layers return: (layers, B, H)."""

    def __init__(self, layers: int) -> None:
        self.embedding, self.out = nn.Embedding(4, 3), nn.Linear(3, 4)
        self.rnn = nn.LSTM(3, 3, layers) if layers > 1 else nn.GRU(3, 3)

    def step(self, tokens: Any, state: Any) -> Any:
        y, state = self.rnn(self.embedding(ts.asarray(tokens))[:, None], state)
        return self.out(y[:, 0]), state


@pytest.mark.parametrize(("layers", "rows"), [(1, 2), (2, 1), (2, 3)])
@pytest.mark.parametrize("end", [-1, 0])
def test_a_state_of_layers_is_refused_at_the_first_step_whatever_is_drawn(layers: int, rows: int, end: int) -> None:
    model, said = LayersFirst(layers), rf"first axes of {layers} for {rows} tokens: the batch comes first.*moveaxis"
    for decode in (greedy, sample, beam):
        with pytest.raises(ValueError, match=rf"^{decode.__name__}: .*{said}"):
            decode(model, None, [1] * rows, end, 9)    # type: ignore[operator]
    state = model.rnn(ts.zeros((rows, 1, 3)))[1]
    with pytest.raises(ValueError, match=rf"start as an integer, or \({layers},\), one a row of the state .*moveaxis"):
        greedy(model, state, [1] * rows, end, 9)
    with pytest.raises(ValueError, match=r"expected x .* and an initial state") as caught:  # one token, so many rows
        beam(model, model.rnn(ts.zeros((rows, 1, 3)))[1], 1, end, 9)
    assert "moveaxis" in caught.value.__notes__[0]


def test_an_end_or_a_target_that_no_logits_reach_is_refused() -> None:
    decoder, state = toy(5, 6, 3)
    for decode in (greedy, sample, beam):
        with pytest.raises(ValueError, match=r"floats \(3, V\), V > end = 6, as logits, got float64\[3, 6\]"):
            decode(decoder, state, START, 6, 5)    # type: ignore[operator]
    with pytest.raises(IndexError, match="score: id 6 is out of range"):
        score(decoder, state, START, [[6], [0], [0]])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_narrow_logits_are_decoded_too(dtype: str) -> None:
    logits = np.array([[1.0, 0.5, 3.0], [2.0, 0.0, 1.0]])
    state = Table(ts.tensor(logits, dtype=dtype))
    assert [h.tokens for h in greedy(Draws(), state, 0, 1, 3)] == [[2] * 3, [0] * 3]
    assert [row[0].tokens for row in beam(Draws(), state, 0, 1, 3)] == [[2] * 3, [0] * 3]
    assert {t for h in sample(Draws(), state, 0, 1, 9, top_k=1, seed=0) for t in h.tokens} == {0, 2}


@pytest.mark.parametrize("steps", [1, 40])
def test_states_and_what_is_decoded_show_shapes_and_no_thousands_of_numbers(steps: int) -> None:
    attending = nn.AttentionDecoder(500, 8, 30, nn.DotAttention(30, 30), 30, cell=nn.LSTM, feed="attentional").eval()
    language, memory = nn.ConditionalLanguageModel(500, 30, 2, 2, 8, dropout=0.0).eval(), ts.ones((2, 50, 30))
    found = greedy(attending, attending.start(memory), 1, -1, steps)
    shown = [repr(x) for x in (
        attending.start(memory), language.start(memory), attending.step([1, 2], attending.start(memory))[1], found[0],
        next(stream(attending, attending.start(memory), 1, -1, steps)),
        score(attending, attending.start(memory), 1, [[3] * steps] * 2))]
    assert all(len(text) < 400 and "\n" not in text for text in shown)
    assert shown[0] == ("DecoderState(hidden=[float32[2, 30], float32[2, 30]], memory=float32[2, 50, 30], keys="
                        "float32[2, 50, 30], mask=None, weights=None, fed=float32[2, 30])")
    pair = "[float32[2, 2, 50, 15], float32[2, 2, 50, 15]]"
    assert shown[1] == ("LanguageState(cache=float32[2, 2, 2, 2, 0, 15], length=0, filled=int64[], starts=None, memory="
                        f"[{pair}, {pair}], mask=None, weights=None)")
    tokens = ", ".join([*map(str, found[0].tokens[:32]), *["..."] * (steps > 32)])
    assert shown[3] == f"Hypothesis(tokens=[{tokens}], alignment=float32[{steps}, 50], score={found[0].score:.4g})"
    assert shown[4] == "Step(rows=int64[2], tokens=int64[2], scores=float64[2], weights=float32[2, 50])"
    assert shown[5] == f"Scores(tokens=float32[2, {steps}], total=float32[2], alignment=None)"
