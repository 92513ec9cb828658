"""Language models: a step with a cache equals the full pass, for prompts, states and positions of every kind."""

import copy
from typing import Any

import numpy as np
import pytest
from helpers.layers import close, normal, seeds
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import decode, models, nn

KINDS: list[dict[str, Any]] = [
    {"positions": "learned", "activation": "gelu_tanh", "max_length": 200},  # GPT-2
    {"positions": "rotary", "norm": "rms", "activation": "swiglu", "bias": False, "num_kv_heads": 2},  # Llama
    {"positions": "sinusoidal", "activation": "relu", "norm_first": False, "tied": False, "bias": False},
    {"positions": None, "activation": ts.tanh, "norm": "rms", "norm_first": False, "num_kv_heads": 1,
     "layer_norm_eps": None},
]


def model(kind: dict[str, Any], conditional: bool = False) -> Any:
    cls = nn.ConditionalLanguageModel if conditional else nn.LanguageModel
    lm = cls(11, 16, 4, 2, 24, dtype="float64", **kind)
    rng = np.random.default_rng(0)
    for tensor in lm.parameters():
        tensor.data = tensor.detach().numpy() + 0.3 * normal(rng, *tensor.shape)
    return lm.eval()


@given(kind=st.sampled_from(KINDS), batch=st.integers(0, 3), steps=st.integers(0, 4), seed=seeds)
def test_cached_steps_are_the_full_pass(kind: dict[str, Any], batch: int, steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lm, more = model(kind), 3
    tokens, lengths = rng.integers(0, 11, (batch, steps + more)), rng.integers(0, steps + 1, batch)
    full = lm(tokens).detach().numpy()
    state = lm.start(tokens[:, :steps], None if (lengths == steps).all() else lengths)
    rows, first = np.arange(batch), state
    for t in range(more):
        logits, state = lm.step(tokens[rows, lengths + t], state)
        close(logits, full[rows, lengths + t])
        order = rng.permutation(batch)  # as a beam does
        state, tokens, lengths, full = decode.take_rows(state, order), tokens[order], lengths[order], full[order]
    with ts.no_grad():  # teacher forcing from a state, which has stayed what it was
        tokens, lengths = rng.integers(0, 11, (batch, steps + more)), first.length - (
            0 if first.starts is None else first.starts.numpy())
    with ts.no_grad():
        again = lm(tokens[:, -more:], first)
        for t in range(more):
            logits, first = lm.step(tokens[:, steps + t], first)
            close(again[:, t], logits)


@given(kind=st.sampled_from(KINDS), seed=seeds)
def test_a_state_stepped_from_twice_stays_what_it_was(kind: dict[str, Any], seed: int) -> None:
    rng = np.random.default_rng(seed)
    lm = model(kind)
    tokens = rng.integers(0, 11, (2, 66))  # further than the first buffer reaches
    states = [lm.start(tokens[:, :1])]
    for t in range(1, 66):
        states.append(lm.step(tokens[:, t], states[-1])[1])
    assert len({id(state.cache.data) for state in states[1:]}) == 2  # buffers; a step of its own copies nothing
    for n in rng.choice(65, 2):
        branches = []
        for _ in range(3):  # three continuations of one state, step by step in turn
            branches.append([tokens[:, : n + 1], states[n]])
        for _ in range(2):
            for branch in branches:
                token = rng.integers(0, 11, 2)
                branch[0] = np.concatenate([branch[0], token[:, None]], 1)
                logits, branch[1] = lm.step(token, branch[1])
                close(logits, lm(branch[0])[:, -1])
    close(lm.step(tokens[:, 0], states[-1])[0], lm(np.concatenate([tokens, tokens[:, :1]], 1))[:, -1])
    kept, rest = decode.take_rows(states[-1], [1]), decode.take_rows(states[-1], slice(0, 1))
    for state, row in ((kept, 1), (rest, 0), (states[-1], slice(None)), (kept, 1)):
        token = rng.integers(0, 11, 2)[row : row + 1] if isinstance(row, int) else rng.integers(0, 11, 2)
        prefix = tokens[row : row + 1] if isinstance(row, int) else tokens
        close(lm.step(token, state)[0], lm(np.concatenate([prefix, token[:, None]], 1))[:, -1])


@given(kind=st.sampled_from(KINDS[:1] + KINDS[2:3]), batch=st.integers(0, 3), seen=st.integers(0, 4), seed=seeds)
def test_a_decoder_steps_as_it_is_taught(kind: dict[str, Any], batch: int, seen: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    decoder = model(kind, conditional=True)
    memory, mask = ts.asarray(normal(rng, batch, seen, 16)), np.arange(seen) < rng.integers(0, seen + 1, (batch, 1))
    tokens = rng.integers(0, 11, (batch, 4))
    state = decoder.start(memory, None, mask)
    full, (_, weights) = decoder(tokens, state), nn.attention_weights(decoder, tokens, state)
    for t in range(4):
        logits, state = decoder.step(tokens[:, t], state)
        close(logits, full[:, t])
        close(state.weights, weights["layers.1.multihead_attn"].detach().numpy().mean(1)[:, t])
        order = rng.permutation(batch)
        state, tokens, full = decode.take_rows(state, order), tokens[order], full[order]
        weights = {k: w[order] for k, w in weights.items()}


def test_gradients_of_a_decoder_reach_its_encoder() -> None:
    rng = np.random.default_rng(0)
    embedding = nn.Sequential(nn.Embedding(11, 16, dtype="float64"), nn.SinusoidalPositions(16))
    layer = nn.TransformerEncoderLayer(16, 2, 8, dtype="float64")
    whole = nn.EncoderDecoder(embedding, nn.TransformerEncoder(layer, 1), model(KINDS[0], conditional=True))
    logits = whole(rng.integers(0, 11, (2, 5)), [5, 3], rng.integers(0, 11, (2, 4)))
    ts.sum(logits * logits).backward()
    assert logits.shape == (2, 4, 11) and all(p.grad is not None for p in whole.parameters())
    whole = nn.EncoderDecoder(nn.Embedding(11, 16), nn.GRU(16, 16), nn.ConditionalLanguageModel(11, 16, 2, 1, 8))
    assert whole([[1, 2]], [2], [[1]]).shape == (1, 1, 11)  # of a recurrent encoder it takes the memory alone


def test_prompts_of_any_length_are_generated_from_at_once() -> None:
    lm = model(KINDS[1])
    prompts = [[1, 2, 3, 4], [5], [6, 7]]
    state, last = lm.prompt(prompts)
    together = decode.greedy(lm, state, last, -1, 6)
    for prompt, got in zip(prompts, together, strict=True):
        tokens = list(prompt)
        for _ in range(6):
            tokens.append(int(lm(np.array([tokens])).detach().numpy()[0, -1].argmax()))
        assert got.tokens == tokens[len(prompt) :]
    assert decode.greedy(lm, *lm.prompt([]), -1, 6) == []
    for wrong in ([[1], []], [[1], [1.0, 2.0]], [[1], [True]], [[1], 2], [[1], "a"], [[1], [[1, 2]]]):
        with pytest.raises(ValueError, match=r"prompt 1 is empty or no list of integers: .* one token or more"):
            lm.prompt(wrong)


@given(seed=seeds, batch=st.integers(1, 4), reach=st.integers(3, 7), max_length=st.integers(1, 6),
       wide=st.integers(0, 3))
def test_a_rows_own_learned_positions_decide(seed: int, batch: int, reach: int, max_length: int, wide: int) -> None:
    """Each way to use them, to the last position and past it: a batch is its rows one at a time, refused if one is."""
    rng = np.random.default_rng(seed)
    lm = model({"positions": "learned", "max_length": reach})
    prompts = [rng.integers(0, 11, rng.integers(1, reach + 1)).tolist() for _ in range(batch)]
    targets = [rng.integers(0, 11, rng.integers(0, reach + 2 - len(p) + (seed % 5 == 0))).tolist() for p in prompts]

    def padded(rows: Any) -> tuple[Any, Any]:
        sizes = [len(row) for row in rows]
        return np.array([[*row, *[3] * (max(sizes) + wide - len(row))] for row in rows], int), np.array(sizes)

    def read(rows: Any) -> Any:
        state = lm.start(*padded([p[:-1] for p in rows]))
        return state, [p[-1] for p in rows]

    ways: list[Any] = [lambda p, _, decode=way: decode(lm, *read(p), 2, max_length) for way in (
        decode.greedy, lambda *a: decode.sample(*a, seed=[7] * len(a[2])), decode.beam)]

    def said(found: Any) -> Any:
        return [h.tokens for h in (found if isinstance(found, list) else [found])]

    ways.append(lambda p, t: decode.score(lm, *read(p), *padded(t), align=True).total.tolist())
    ways.append(lambda p, _: decode.greedy(lm, *lm.prompt(p), 2, max_length))
    for way in ways:
        alone = []
        with ts.no_grad():
            for p, t in zip(prompts, targets, strict=True):
                try:
                    alone += way([p], [t])
                except ValueError as error:
                    alone.append(str(error))
            if any(isinstance(x, str) for x in alone):
                with pytest.raises(ValueError, match=f"learned positions reach max_length = {reach}, not"):
                    way(prompts, targets)
            elif isinstance(alone[0], float):
                close(np.array(way(prompts, targets)), np.array(alone))
            else:
                assert [said(x) for x in way(prompts, targets)] == [said(x) for x in alone]


@given(seed=seeds, batch=st.integers(1, 3), wide=st.integers(0, 4), kind=st.sampled_from(["decoder", "bert"]))
def test_padding_may_be_wider_than_an_encoders_positions(seed: int, batch: int, wide: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 5, batch)
    tokens = rng.integers(0, 11, (batch, 4 + wide))
    types = rng.integers(0, 2, tokens.shape)
    layer = nn.TransformerEncoderLayer(16, 2, 8, dtype="float64")
    embedding = nn.Sequential(nn.Embedding(11, 16, dtype="float64"), nn.LearnedPositions(4, 16, "float64"))
    whole = nn.EncoderDecoder(embedding, nn.TransformerEncoder(layer, 1), model(KINDS[0], conditional=True)).eval()
    bert = models.Bert(11, 16, 2, 1, 8, 4, dtype="float64").eval()

    def run(tokens: Any, types: Any, lengths: Any) -> Any:
        if kind == "bert":
            return bert(tokens, lengths, types)
        state = whole.encode(tokens, lengths)
        assert state.mask.shape == tokens.shape
        return [whole.decoder(np.array([[1, 2]] * len(tokens)), state)]

    together, listed = run(tokens, types, lengths), run(tokens.tolist() if kind == "bert" else tokens, types, lengths)
    for i, n in enumerate(lengths):
        for found, again, alone in zip(together, listed, run(tokens[i : i + 1, :n], types[i : i + 1, :n], [n]),
                                       strict=True):
            close(found[i : i + 1, : alone.shape[1]], alone)
            close(again, found)
    with pytest.raises((ValueError, IndexError), match=r"positions|out of range"):
        run(np.ones((1, 5), int), None, [5])


@given(conditional=st.booleans(), batch=st.integers(1, 3), shape=st.lists(st.integers(0, 3), max_size=3),
       tensor=st.booleans())
def test_tokens_of_another_shape_are_refused(conditional: bool, batch: int, shape: list[int], tensor: bool) -> None:
    lm = model(KINDS[0], conditional)
    state = lm.start(ts.ones((batch, 2, 16), "float64") if conditional else np.ones((batch, 2), int))
    tokens: Any = np.ones(shape, int)
    tokens = ts.asarray(tokens) if tensor else tokens
    if shape != [batch]:
        with pytest.raises(ValueError, match=rf"{type(lm).__name__}: expected tokens \({batch},\), got shape"):
            lm.step(tokens, state)
    if len(shape) != 2 or shape[0] != batch:
        with ts.no_grad(), pytest.raises(ValueError, match=rf"expected tokens \({batch}, T\), got shape"):
            lm(tokens, state)
    if len(shape) != 2 and not conditional:
        with pytest.raises(ValueError, match=r"expected tokens \(B, T\), got shape"):
            lm.start(tokens)
    for wrong, error in (([1.0] * batch, TypeError), ([True] * batch, TypeError), ([-1] * batch, IndexError),
                         ([11] * batch, IndexError)):
        with pytest.raises(error, match="expected"):
            lm.step(wrong, state)
    right = np.ones(batch, int)
    close(lm.step(right, state)[0], lm.step(right, state)[0])  # what was refused has changed nothing


def test_a_language_model_says_what_it_cannot_do() -> None:
    lm = nn.LanguageModel(11, 16, 4, 1, 24, max_length=3)
    state = lm.start(np.zeros((1, 2), int))
    with pytest.raises(RuntimeError, match="no gradient reaches what a state has read"):
        lm(np.zeros((1, 1), int), state)
    _, state = lm.step([1], state)
    with pytest.raises(ValueError, match="max_length = 3, not 4 tokens"):
        lm.step([1], state)
    for heads, layers, positions, message in (
        (4, 1, "relative", "positions .*, got 'relative'"), (4, 0, None, "1 <= num_layers"),
        (16, 1, "rotary", "even width d_model / nhead, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            nn.LanguageModel(11, 16, heads, layers, positions=positions)
    with pytest.raises(ValueError, match="1 <= nhead, got 0"):
        nn.LanguageModel(11, 16, 0, 1)
    with pytest.raises(ValueError, match=r"tokens \(B, T\)"):
        lm([1, 2])
    with pytest.raises(ValueError, match="in lists of equal lengths"):
        lm([[1], [1, 2]])
    for lengths in ([1], [1, 2, 2], [[1, 2]], [1.0, 2.0], [3, 1]):
        with pytest.raises(ValueError, match="expected lengths as 2 integers from 0 to the 2 steps"):
            lm.start(np.zeros((2, 2), int), lengths)
    decoder, memory = nn.ConditionalLanguageModel(11, 16, 4, 1, 24), ts.ones((2, 4, 16))
    for hidden in (ts.ones((2, 16)), np.ones((2, 4), bool)):  # a mask in its place would hide nothing
        with pytest.raises(ValueError, match="expected no hidden state"):
            decoder.start(memory, hidden)
    for owner, other in ((decoder, lm.start([[1]])), (decoder, None), (lm, decoder.start(memory[:1]))):
        with ts.no_grad(), pytest.raises(ValueError, match="a state that its own `start` made"):
            owner([[1]], other)
    deeper = nn.LanguageModel(11, 16, 4, 2, 24)
    for owner, other in ((lm, decoder.start(memory[:1])), (lm, None), (decoder, None), (deeper, lm.start([[1]]))):
        with pytest.raises(ValueError, match="a state that its own `start` made"):
            owner.step([1], other)


def test_ids_in_the_padding_of_a_prompt_are_nobodys() -> None:
    lm = model(KINDS[1])
    states = [lm.start([[pad, pad], [1, pad]], [0, 1]) for pad in (-1, 3)]
    close(*(lm.step([1, 2], state)[0] for state in states))


def test_tied_weights_count_once_and_copies_stay_tied() -> None:
    lm = copy.deepcopy(nn.LanguageModel(11, 16, 4, 1, 24))
    assert lm.out.weight is lm.embedding.weight
    assert len(lm.parameters()) == len(list(lm.state_dict())) - 1
