"""Decoders and encoder-decoders: equal to equations written out in PyTorch, and held to laws by hypothesis."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.contexts import CONTEXTS, FIXED, E, H, M, V, sizes, width
from helpers.layers import close, holding, leaf, normal, seeds
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
import tinyseq.functional as F
from tinyseq import nn
from tinyseq.testing import check_grad

CELLS: dict[str, Any] = {"GRU": nn.GRU, "LSTM": nn.LSTM, "RNN": nn.RNN}
FEEDS = [None, "attentional", "context"]
names, cells, feeds = (st.sampled_from(list(x)) for x in (CONTEXTS, CELLS, FEEDS))


def decoder(name: str | None, cell: str = "GRU", feed: str | None = None, seed: int = 0) -> nn.AttentionDecoder:
    ts.manual_seed(seed)
    context = None if name is None else CONTEXTS[name]()
    size = M if name is None else width(name)
    return nn.AttentionDecoder(V, E, H, context, size, 0.0, CELLS[cell], feed).to(ts.float64)


class Case:
    """A decoder, and tokens (B, T), a memory (B, S, M) with junk where the mask (B, S) is False, and a first state."""

    def __init__(self, name: str, cell: str, feed: str | None, size: tuple[int, int, int], seed: int) -> None:
        batch, steps, positions = size
        rng = np.random.default_rng(seed)
        self.decoder = decoder(name, cell, feed, seed % 1000)
        self.tokens = rng.integers(0, V, (batch, steps))
        self.mask = rng.random((batch, positions)) < 0.7
        self.memory = normal(rng, batch, positions, width(name))
        self.hidden = normal(rng, 2, batch, H)
        self.pair = cell == "LSTM"

    def start(self, rows: Any = slice(None), memory: Any = None, mask: Any = None) -> nn.DecoderState:
        memory, mask = self.memory if memory is None else memory, self.mask if mask is None else mask
        h, c = (ts.asarray(part[rows]) for part in self.hidden)
        return self.decoder.start(ts.asarray(memory[rows]), (h, c) if self.pair else h, mask[rows])


cases = st.builds(Case, names, cells, feeds, sizes, seeds)


# --- decoders --------------------------------------------------------------------------------------------------------


@given(cases)
def test_forward_is_step_after_step(case: Case) -> None:
    """And so no step sees the future: what stands behind a target changes nothing before it."""
    logits = case.decoder(case.tokens, case.start())
    assert logits.shape == (*case.tokens.shape, V)
    state = case.start()
    for t in range(case.tokens.shape[1]):
        step, state = case.decoder.step(case.tokens[:, t], state)
        close(step, logits[:, t])
        weights = state.weights
        if weights is not None:
            close(weights.sum(-1), case.mask.any(1).astype(float))
        close(case.decoder(case.tokens[:, t + 1 :], state), logits[:, t + 1 :])


@given(cases)
def test_no_row_sees_another_nor_the_padding(case: Case) -> None:
    logits = case.decoder(case.tokens, case.start())
    junk = np.where(case.mask[..., None], case.memory, np.nan)
    wider = np.concatenate([junk, junk[:, ::-1]], 1)
    close(case.decoder(case.tokens, case.start(memory=wider, mask=np.concatenate([case.mask, case.mask & False], 1))),
          logits)
    order = np.random.default_rng(0).permutation(len(case.tokens))
    close(case.decoder(case.tokens[order], case.start(order)), logits[order])
    for i in range(len(case.tokens)):
        close(case.decoder(case.tokens[[i]], case.start([i])), logits[[i]])


@given(cases)
def test_gradients_are_exact_and_finite(case: Case) -> None:
    """For rows whose memory is wholly masked, or has no position, too."""
    d, steps = case.decoder, case.tokens.shape[1]

    def logits(memory: Any, h: Any, c: Any) -> Any:
        return d(case.tokens, d.start(memory, (h, c) if case.pair else h, case.mask))

    inputs = [leaf(case.memory), *map(leaf, case.hidden)]
    ts.sum(ts.square(logits(*inputs))).backward()
    found = [x.grad for x in (*inputs[:2], *d.parameters())]
    assert all(g is None or np.isfinite(g.numpy()).all() for g in found)
    assert not steps or all(p.grad is not None for p in d.parameters())
    if steps:
        check_grad(logits, *inputs)


def test_a_fixed_context_and_none_run_all_steps_at_once() -> None:
    for name, feed in itertools.product(CONTEXTS, FEEDS):
        assert decoder(name, feed=feed).fused == (feed is None or (feed == "context" and name in FIXED))
    assert decoder(None).fused


@given(cells, sizes, seeds)
def test_without_context_the_first_state_is_all_that_is_known(cell: str, size: Any, seed: int) -> None:
    (batch, steps, positions), rng = size, np.random.default_rng(seed)
    d, tokens, hidden = decoder(None, cell), rng.integers(0, V, (batch, steps)), ts.asarray(normal(rng, batch, H))
    assert {name.split(".")[0] for name, _ in d.named_parameters()} == {"embedding", "rnn", "out"}
    state = d.start(ts.asarray(normal(rng, batch, positions, M)), hidden)
    logits = d(tokens, state)
    close(logits, d(tokens, d.start(ts.zeros((batch, 1, M), ts.float64), hidden)))
    first = (hidden[None], ts.zeros((1, batch, H), ts.float64)) if cell == "LSTM" else hidden[None]
    close(logits, d.out(d.rnn(d.embedding(tokens), first)[0]))
    for t in range(steps):
        step, state = d.step(tokens[:, t], state)
        close(step, logits[:, t])


@pytest.mark.reference
@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize(("name", "cell"), [("general", "LSTM"), ("additive", "GRU"), ("dot", "RNN")])
def test_decoders_are_their_equations_in_pytorch(name: str, cell: str, feed: str | None) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    ours, batch, steps = decoder(name, cell, feed), 3, 4
    tokens, memory = rng.integers(0, V, (batch, steps)), normal(rng, batch, 5, width(name))
    mask, h0 = np.arange(5) < np.array([[5], [1], [3]]), normal(rng, batch, H)
    w = {k: torch.tensor(v.numpy(), requires_grad=True) for k, v in ours.state_dict().items()}
    rnn = getattr(torch.nn, cell)(ours.rnn.input_size, H, batch_first=True).double()
    m, s, a = torch.tensor(memory, requires_grad=True), torch.tensor(h0), torch.zeros((batch, H)).double()
    state = (s[None], torch.zeros_like(s[None])) if cell == "LSTM" else s[None]
    call = lambda x: torch.func.functional_call(rnn, {k[4:]: v for k, v in w.items() if k.startswith("rnn.")}, x)

    def look(s: Any) -> Any:
        if name == "additive":
            hidden = s @ w["attention.query.weight"].T
            scores = torch.tanh(hidden[:, None] + m @ w["attention.memory.weight"].T + w["attention.memory.bias"])
            scores = scores @ w["attention.v"]
        elif name == "general":
            scores = torch.einsum("bh,hm,bsm->bs", s, w["attention.projection.weight"], m)
        else:
            scores = torch.einsum("bh,bsh->bs", s, m) / H**0.5
        return torch.einsum("bs,bsm->bm", torch.softmax(scores.masked_fill(~torch.tensor(mask), -torch.inf), -1), m)

    expected = []
    for t in range(steps):
        x = [w["embedding.weight"][tokens[:, t]]]
        if feed == "context":
            c = look(s)
            x.append(c)
        x += [a] if feed == "attentional" else []
        y, state = call((torch.cat(x, -1)[:, None], state))
        s = y[:, 0]
        c = c if feed == "context" else look(s)
        a = torch.tanh(torch.cat([c, s], -1) @ w["combine.weight"].T + w["combine.bias"])
        expected.append(a @ w["out.weight"].T + w["out.bias"])
    logits = torch.stack(expected, 1)
    ours_m = leaf(memory)
    found = ours(tokens, ours.start(ours_m, ts.asarray(h0), mask))
    close(found, logits.detach().numpy())
    targets = rng.integers(0, V, (batch, steps))
    torch.nn.functional.cross_entropy(logits.mT, torch.tensor(targets)).backward()
    F.cross_entropy(found, targets).backward()
    close(ours_m.grad, m.grad.numpy())
    for key, parameter in ours.named_parameters():
        close(parameter.grad, w[key].grad.numpy())


def test_wrong_decoders_and_states_are_named() -> None:
    for *arguments, message in (("dot", "GRU", "input", "None, 'attentional', 'context', got 'input'"),
                                (None, "GRU", "context", "feed=None with attention=None, got feed='context'")):
        with pytest.raises(ValueError, match=message):
            decoder(*arguments)
    d, memory = decoder("general", "LSTM"), ts.zeros((2, 5, M), ts.float64)
    with pytest.raises(ValueError, match="expected memory_size"):
        nn.AttentionDecoder(V, E, H, nn.DotAttention(H, H))
    for hidden in (ts.zeros((2, H + 1)), (ts.zeros((2, H)), ts.zeros((1, H))), (ts.zeros((2, H)),) * 3):
        with pytest.raises(ValueError, match=r"first hidden state \(B, H\) = \(2, 6\), got"):
            d.start(memory, hidden)
    for mask in (np.ones((2, 5)), np.ones((5, 2), bool), -np.ones((2, 5), "float32") * np.inf):
        with pytest.raises(ValueError, match=r"AttentionDecoder: .*boolean mask.*\(2, 5\), True where"):
            d.start(memory, None, mask)
    with pytest.raises(ValueError, match=r"\(batch, positions, features\), got shape \(2, 3, 3, 4\).*reshape"):
        d.start(ts.zeros((2, 3, 3, 4)))
    for sampling in (-0.1, 1.5):
        with pytest.raises(ValueError, match="0 <= sampling <= 1"):
            d(np.zeros((2, 1), int), d.start(memory), sampling)


def test_names_and_shapes_of_saved_decoders_stay() -> None:
    d = nn.AttentionDecoder(9, 3, 6, nn.DotAttention(6, 4), 4, 0.1)
    assert {k: v.shape for k, v in d.state_dict().items()} == {
        "embedding.weight": (9, 3), "rnn.weight_ih_l0": (18, 3), "rnn.weight_hh_l0": (18, 6), "rnn.bias_ih_l0": (18,),
        "rnn.bias_hh_l0": (18,), "attention.projection.weight": (6, 4), "combine.weight": (6, 10),
        "combine.bias": (6,), "out.weight": (9, 6), "out.bias": (9,)}


@given(names, feeds, seeds)
def test_scheduled_sampling_feeds_own_tokens(name: str, feed: str | None, seed: int) -> None:
    """With probability 1 that is greedy decoding; with 0 teacher forcing; the coins depend on the seed alone."""
    case = Case(name, "GRU", feed, (3, 5, 4), seed)
    d = case.decoder
    tokens, state, own = case.tokens[:, 0], case.start(), []
    for _ in range(5):
        step, state = d.step(tokens, state)
        own.append(step.detach().numpy())
        tokens = own[-1].argmax(-1)
    close(d(case.tokens, case.start(), sampling=1.0), np.stack(own, 1))
    forced = d(case.tokens, case.start())
    close(d(case.tokens, case.start(), sampling=0.0), forced)

    def mixed() -> Any:
        ts.manual_seed(seed)
        return d(case.tokens, case.start(), sampling=0.5)

    logits = mixed()
    close(logits, mixed())
    close(logits[:, 0], forced[:, 0])
    ts.sum(ts.square(logits)).backward()
    assert all(p.grad is not None and np.isfinite(p.grad.numpy()).all() for p in d.parameters())


def test_scheduled_sampling_takes_the_share_asked_for() -> None:
    """Tokens given and own are told apart by an embedding that shows which it was."""
    d = decoder(None, "RNN")
    for p in d.parameters():
        p.data = 0 * p.detach()
    d.out.bias.data = ts.asarray(np.eye(V)[2])                                  # its own token is always 2,
    d.embedding.weight.data = ts.asarray(np.eye(V)[:, [2, 2, 2]])               # whose embedding alone is not 0
    d.rnn.weight_ih_l0.data = ts.asarray(np.eye(H, E))
    d.out.weight.data = ts.asarray(np.eye(V, H))
    logits = d(np.ones((40, 50), int), d.start(ts.zeros((40, 1, 1), ts.float64)), sampling=0.3)
    assert 0.25 < (logits.detach().numpy()[:, 1:, 0] > 0.5).mean() < 0.35


@pytest.mark.parametrize("feed", FEEDS)
def test_dropout_falls_on_what_the_logits_are_made_of_in_training_only(feed: str | None) -> None:
    ts.manual_seed(0)
    d = nn.AttentionDecoder(V, E, H, nn.DotAttention(H, H), H, 0.5, feed=feed)
    d.out.weight.data, d.out.bias.data = ts.asarray(np.eye(V, H, dtype="float32")), ts.zeros(V)     # logits are a_t
    tokens, state = np.ones((4, 5), int), d.start(ts.ones((4, 3, H)))
    dropped, a = (d.train(mode)(tokens, state).detach().numpy()[..., :H] for mode in (True, False))
    kept = dropped != 0
    np.testing.assert_allclose(dropped, np.where(kept, 2 * a, 0), rtol=1e-6)
    assert 0.3 < kept.mean() < 0.7


def small_decoder(rng: np.random.Generator) -> nn.AttentionDecoder:
    attention = [nn.DotAttention(3, 4), nn.AdditiveAttention(3, 4, 2)][rng.integers(2)]
    return nn.AttentionDecoder(6, 2, 3, attention, memory_size=4).to(ts.float64)


@given(sizes=st.tuples(*[st.integers(1, 4)] * 3), seed=seeds)
def test_teacher_forcing_is_step_after_step(sizes: Any, seed: int) -> None:
    """And so it never sees the future; nor the other rows, nor the memory's padding."""
    (batch, steps, length), rng = sizes, np.random.default_rng(seed)
    decoder, tokens = small_decoder(rng), rng.integers(0, 6, (batch, steps))
    memory, hidden, sizes = normal(rng, batch, length, 4), normal(rng, batch, 3), rng.integers(1, length + 1, batch)

    def start(rows: Any, filling: float) -> Any:
        m = ts.asarray(holding(memory, sizes, filling)[rows])
        return decoder.start(m, ts.asarray(hidden[rows]), nn.length_mask(sizes[rows], length))

    logits = decoder(tokens, start(slice(None), 0.0))
    state = start(slice(None), 9.0)
    for t in range(steps):
        step, state = decoder.step(tokens[:, t], state)
        close(step, logits[:, t])
    order = rng.permutation(batch)
    close(decoder(tokens[order], start(order, 0.0)), logits[order])
    for i in range(batch):
        close(decoder(tokens[i : i + 1], start([i], 1.0)), logits[i : i + 1])


def test_decoder_names_a_wrong_first_state() -> None:
    with pytest.raises(ValueError, match=r"\(B, H\) = \(2, 3\), got float32\[2, 4\]"):
        small_decoder(np.random.default_rng(0)).start(ts.zeros((2, 5, 4)), ts.zeros((2, 4)))


# --- encoders --------------------------------------------------------------------------------------------------------

ENCODERS: dict[str, Callable[[], Any]] = {
    "GRU both ways": lambda: nn.GRU(E, H // 2, bidirectional=True), "RNN": lambda: nn.RNN(E, H),
    "LSTM, two layers": lambda: nn.LSTM(E, H, num_layers=2)}


@given(st.sampled_from(list(ENCODERS)), cells, feeds, seeds)
def test_encoder_decoder_sees_no_padding(encoder: str, cell: str, feed: str | None, seed: int) -> None:
    """Sources without any letter included; and the loss is minus the mean log-likelihood of the real targets."""
    ts.manual_seed(seed)
    rng = np.random.default_rng(seed)
    context = [nn.DotAttention(H, H), nn.FixedContext(H, "both"), nn.FixedContext(H, "max")][seed % 3]
    target_decoder = nn.AttentionDecoder(V, E, H, context, H, cell=CELLS[cell], feed=feed)
    model = nn.EncoderDecoder(nn.Embedding(9, E), ENCODERS[encoder](), target_decoder).to(ts.float64)
    source, lengths = rng.integers(0, 9, (3, 4)), np.array([4, 0, rng.integers(1, 4)])
    target = rng.integers(1, V, (3, 4))
    target[1, 3] = target[2, 2:] = 0
    logits = model(source, lengths, target[:, :-1])
    padded = np.concatenate([np.where(np.arange(4) < lengths[:, None], source, 8), np.full((3, 2), 5)], 1)
    longer = np.concatenate([target, np.zeros((3, 2), int)], 1)
    close(model(padded, lengths, longer[:, :-1])[:, :3], logits)
    close(model(source[2:, : lengths[2]], None, target[2:, :-1]), logits[2:])
    assert model(source, lengths, target[:, :0]).shape == (3, 0, V)
    assert model(source[:, :0], [0, 0, 0], target).shape == (3, 4, V)

    loss = F.cross_entropy(logits, target[:, 1:], ignore_index=0)
    close(F.cross_entropy(model(padded, lengths, longer[:, :-1]), longer[:, 1:], ignore_index=0), loss)
    logs = F.log_softmax(logits).detach().numpy()
    real = np.argwhere(target[:, 1:] > 0)
    close(loss, -np.mean([logs[i, t, target[i, t + 1]] for i, t in real]))
    loss.backward()
    assert all(p.grad is None or np.isfinite(p.grad.numpy()).all() for p in model.parameters())


def test_an_lstm_hands_both_its_states_on() -> None:
    lstm, take = nn.LSTM(E, H, num_layers=2), nn.AttentionDecoder(V, E, H, None, H, cell=nn.LSTM)
    model, ids = nn.EncoderDecoder(nn.Embedding(9, E), lstm, take), np.array([[1, 2]])
    memory, (h, c) = model.encoder(model.embedding(ids))
    state = model.encode(ids)
    close(state.hidden[0], h[1])  # those of the last layer
    close(state.hidden[0], memory[:, -1])
    close(state.hidden[1], c[1])
    from_gru = nn.EncoderDecoder(nn.Embedding(9, E), nn.GRU(E, H), nn.AttentionDecoder(V, E, H, None, H, cell=nn.LSTM))
    assert not from_gru.encode(ids).hidden[1].numpy().any()


class Outputs(nn.Module):
    """A sequence layer without a final state."""

    def forward(self, x: Any, lengths: Any = None) -> Any:
        return ts.tanh(x)


def test_memories_of_frames_and_regions_are_as_good_as_text() -> None:
    """A decoder starts at zeros from features of an image, and from a layer that has outputs alone."""
    rng, d = np.random.default_rng(0), decoder("additive", feed="context")
    image = ts.asarray(normal(rng, 2, 3, 5, M))
    state = d.start(image.reshape((2, 15, M)))
    assert not state.hidden.numpy().any()
    _, state = d.step([1, 2], state)
    assert state.weights.reshape((2, 3, 5)).shape == (2, 3, 5)
    frames, lengths = normal(rng, 2, 6, M), [6, 2]
    model = nn.EncoderDecoder(nn.Sequential(), Outputs(), d)
    logits = model(ts.asarray(frames), lengths, [[1, 2], [3, 4]])
    close(logits[1:], model(ts.asarray(frames[1:, :2]), None, [[3, 4]]))


def test_wrong_calls_are_named() -> None:
    memory = ts.ones((2, 4, 8))
    decode = nn.AttentionDecoder(6, 3, 8, nn.DotAttention(8, 8), 8)
    state = decode.start(memory)
    whole = nn.EncoderDecoder(nn.Embedding(9, 4), nn.GRU(4, 8), decode)
    contexts = [nn.DotAttention(8, 8), nn.AdditiveAttention(8, 8, 4), nn.FixedContext(8), nn.MultiheadContext(8, 8, 2)]
    calls: list[tuple[str, Any]] = []
    for bad in (3, None, "a", [[1.0]], ts.ones((2, 8))):
        calls += [("AttentionDecoder: expected memory", lambda b=bad: decode.start(b))]
        calls += [(f"{type(c).__name__}: expected (query|memory)", lambda c=c, a=a: c(*a)) for c in contexts
                  for a in ((bad, memory), (memory, bad))]
    for bad in (ts.ones((2, 4, 7)), np.ones((2, 4, 8)), np.ones((2, 4, 8), int)):
        calls.append(("AttentionDecoder: expected memory", lambda b=bad: decode.start(b)))
    for mask in (3, "a", np.ones((2, 4)), np.ones((2, 5), bool), [[1] * 4] * 2):
        calls += [("AttentionDecoder: expected a boolean mask", lambda m=mask: decode.start(memory, mask=m)),
                  *((f"{type(c).__name__}: expected a boolean mask", lambda c=c, m=mask: c(memory, memory, m))
                    for c in contexts)]
    for hidden in (3, "a", [1], ts.ones((2, 7)), ts.ones((3, 8)), (ts.ones((2, 8)),) * 2, (None,), np.ones(8)):
        calls.append(("AttentionDecoder: expected at most 1 of a first", lambda h=hidden: decode.start(memory, h)))
    for tokens in (3, "a", None, [[1]], [1], [[[1]]]):
        calls += [(r"AttentionDecoder: expected tokens \(2,\)", lambda t=tokens: decode.step(t, state)),
                  (r"AttentionDecoder: expected tokens \(2, T\)", lambda t=tokens: decode(t, state)),
                  (r"decoder: AttentionDecoder: expected tokens \(2, T\)",
                   lambda t=tokens: whole([[1, 2]] * 2, None, t))]
    for wrong in (3, "a", (), None, tuple(state)):
        calls += [("AttentionDecoder: expected state to be DecoderState", lambda s=wrong: decode.step([1, 2], s)),
                  ("AttentionDecoder: expected state to be DecoderState", lambda s=wrong: decode([[1], [2]], s))]
    for share in (-0.1, 1.1, "a", None, np.nan, True):
        calls.append(("AttentionDecoder: expected a number 0 <= sampling <= 1",
                      lambda s=share: decode([[1], [2]], state, s)))
    for who, call in calls:
        with pytest.raises((TypeError, ValueError), match=rf"^{who}.*[\s\S]*got"):
            call()
            print(who, call.__defaults__)       # what was not refused


@pytest.mark.parametrize("encoder", [nn.GRU(2, 3, bidirectional=True), nn.LSTM(2, 6), nn.RNN(2, 6, num_layers=2)])
def test_encoder_decoder_does_not_look_at_padding(encoder: Any) -> None:
    decoder = nn.AttentionDecoder(5, 2, 6, nn.DotAttention(6, 6), memory_size=6)
    model = nn.EncoderDecoder(nn.Embedding(7, 2), encoder, decoder)
    source, target = np.array([[1, 2, 3], [4, 5, 6]]), np.array([[1, 2], [3, 4]])
    logits = model(source, [3, 1], target)
    assert logits.shape == (2, 2, 5)
    state = model.encode(source, [3, 1])
    h, memory = state.hidden.detach().numpy(), state.memory.detach().numpy()
    half = 3 if encoder.bidirectional else 6
    close(h[:, :half], memory[[0, 1], [2, 0], :half])  # forwards it ended at the last real letter,
    close(h[:, half:], memory[:, 0, half:])  # backwards at the first
    close(model(source[1:, :1], [1], target[1:]), logits[1:])
    close(model(source[:1], None, target[:1]), logits[:1])
    ts.sum(logits * logits).backward()
    assert all(p.grad is not None for p in model.parameters())
    touched = np.flatnonzero(np.abs(model.embedding.weight.grad.numpy()).sum(1))
    assert touched.tolist() == [1, 2, 3, 4]


def attending(memory: int = 8, hidden: int = 8, **options: Any) -> Any:
    return nn.AttentionDecoder(6, 3, hidden, nn.DotAttention(hidden, memory), memory, **options)


def test_parts_whose_widths_do_not_fit_are_refused_when_they_are_put_together() -> None:
    words, layer = nn.Embedding(9, 4), nn.TransformerEncoderLayer(4, 2, 8)
    both: Any = lambda size: nn.GRU(4, size, bidirectional=True)
    for make, message in (
        (lambda: nn.AttentionDecoder(6, 3, 8, nn.DotAttention(7, 8), 8), "query_size=8, .*hidden_size, got 7"),
        (lambda: nn.AttentionDecoder(6, 3, 8, nn.AdditiveAttention(8, 7, 2), 8), "memory_size=8, .* got 7"),
        (lambda: nn.AttentionDecoder(6, 3, 8, nn.MultiheadContext(6, 8, 2), 8), "query_size=8, .* got 6"),
        (lambda: nn.AttentionDecoder(6, 3, 8, nn.FixedContext(7), 8), "memory_size=8, .* got 7"),
        (lambda: nn.EncoderDecoder(words, nn.GRU(5, 8), attending()), "encoder to take the 4 .*GRU, .* takes 5"),
        (lambda: nn.EncoderDecoder(nn.Sequential(words, nn.Dropout()), nn.LSTM(5, 8), attending()), "encoder to take"),
        (lambda: nn.EncoderDecoder(words, nn.GRU(4, 7), attending()), "a decoder with memory_size=7, .*got 8"),
        (lambda: nn.EncoderDecoder(words, both(8), attending()), "a decoder with memory_size=16, .*got 8"),
        (lambda: nn.EncoderDecoder(words, both(4), attending(8, 7)), "a decoder with hidden_size=8, .*got 7"),
        (lambda: nn.EncoderDecoder(words, nn.GRU(4, 8), nn.ConditionalLanguageModel(6, 4, 2, 1, 8)),
         r"decoder.layers.0 to take the 8 .* takes 4"),
        (lambda: nn.EncoderDecoder(words, nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2), 1), attending()),
         "encoder to take the 4 .* takes 8"),
        (lambda: nn.TransformerEncoder(layer, 1, nn.LayerNorm(5)), "norm to take the 4 .* takes 5"),
        (lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2), 1, nn.RMSNorm(5)), "norm to take the 4"),
        (lambda: nn.Transformer(8, 2, 1, 1, custom_encoder=nn.TransformerEncoder(layer, 1)), "decoder to take the 4"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    whole = nn.EncoderDecoder(words, both(4), attending())
    nn.EncoderDecoder(words, lambda x, lengths: x, attending())                 # nobody knows
    nn.EncoderDecoder(nn.Sequential(words, Outputs()), nn.GRU(5, 8), attending())
    nn.EncoderDecoder(words, nn.TransformerEncoder(layer, 1), attending(4, 7))  # which begins at zeros
    nn.Transformer(custom_encoder=nn.TransformerEncoder(layer, 1), custom_decoder=nn.TransformerDecoder(
        nn.TransformerDecoderLayer(4, 2), 1))
    assert whole([[1, 2]], None, [[1]]).shape == (1, 1, 6)


def test_a_class_where_a_layer_is_meant_is_refused_and_a_layer_where_a_class_is() -> None:
    words, e = nn.Embedding(9, 4), nn.GRU(4, 8)
    for make, name in (
        (lambda: nn.EncoderDecoder(nn.Embedding, e, attending()), "EncoderDecoder: expected embedding"),
        (lambda: nn.EncoderDecoder(words, nn.GRU, attending()), "EncoderDecoder: expected encoder .*got GRU"),
        (lambda: nn.EncoderDecoder(words, e, nn.AttentionDecoder), "expected decoder .*got AttentionDecoder"),
        (lambda: nn.Transformer(8, 2, 1, 1, custom_encoder=nn.TransformerEncoder), "Transformer: .*custom_encoder"),
        (lambda: nn.Transformer(8, 2, 1, 1, custom_decoder=nn.TransformerDecoder), "Transformer: .*custom_decoder"),
        (lambda: attending(cell=nn.GRU(4, 8)), r"AttentionDecoder: expected cell to be a class.* got GRU\(4, 8\)"),
        (lambda: nn.Sequential(nn.Tanh(), nn.ReLU), "Sequential: of layers, layer 1"),
    ):
        with pytest.raises(TypeError, match=name):
            make()
    made = attending(cell=lambda i, h: nn.LSTM(i, h))  # type: ignore[arg-type]
    assert made.states == 2 and made.step([1], made.start(ts.ones((1, 3, 8))))[0].shape == (1, 6)


@pytest.mark.parametrize("cell", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize("feed", [None, "attentional", "context"])
@pytest.mark.parametrize("order", ["cs", "sc"])
def test_a_decoder_of_several_layers_steps_as_it_runs(cell: Any, feed: Any, order: str) -> None:
    decoder = nn.AttentionDecoder(7, 3, 4, nn.DotAttention(4, 4), 4, cell=cell, feed=feed, num_layers=2, order=order)
    model = nn.EncoderDecoder(nn.Embedding(9, 3), cell(3, 2, 2, bidirectional=True), decoder).to(ts.float64).eval()
    source, lengths, tokens = np.array([[3, 4, 5], [6, 7, 0]]), [3, 2], np.array([[1, 5, 4], [1, 2, 3]])
    state = model.encode(source, lengths)
    whole = decoder(tokens, state)
    _, final = model.encoder(model.embedding(source), lengths=lengths)
    first = state.hidden[0] if isinstance(state.hidden, tuple) else state.hidden
    h_n = final[0] if isinstance(final, tuple) else final
    assert first.shape == (2, 2, 4)  # (B, L, H): of each layer both directions side by side
    assert ts.all(first[:, 1] == ts.concat([h_n[2], h_n[3]], -1)) and ts.all(first[:, 0] == ts.concat(
        [h_n[0], h_n[1]], -1))
    for t in range(3):
        logits, state = decoder.step(tokens[:, t], state)
        np.testing.assert_allclose(logits.detach().numpy(), whole[:, t].detach().numpy(), atol=1e-12)
    by_hand = [decoder.rnn.weight_ih_l1.shape, decoder.rnn.weight_hh_l1.shape]
    assert by_hand[0] == by_hand[1]


def test_the_order_of_what_the_output_sees_is_that_of_the_columns() -> None:
    made = [nn.AttentionDecoder(7, 3, 4, nn.DotAttention(4, 6), 6, order=order) for order in ("cs", "sc")]
    made[1].load_state_dict(made[0].state_dict())
    assert made[0].combine is not None and made[1].combine is not None
    w = made[0].combine.weight.detach()
    made[1].combine.weight.data = ts.concat([w[:, 6:], w[:, :6]], -1)
    memory = ts.random.normal((2, 5, 6))
    a, b = (decoder([[1, 2]] * 2, decoder.start(memory)) for decoder in made)
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), atol=1e-6)


def test_states_of_other_layers_are_refused() -> None:
    decoder = nn.AttentionDecoder(7, 3, 4, nn.DotAttention(4, 4), 4, num_layers=2)
    with pytest.raises(ValueError, match=r"hidden state \(B, L, H\) = \(1, 2, 4\)"):
        decoder.start(ts.ones((1, 3, 4)), ts.ones((1, 4)))
    with pytest.raises(ValueError, match="order to be one of"):
        nn.AttentionDecoder(7, 3, 4, None, order="s")
    model = nn.EncoderDecoder(nn.Embedding(9, 3), nn.GRU(3, 4), decoder)
    with pytest.raises(ValueError, match="an encoder of the decoder's 2 layers, got final states"):
        model.encode([[1, 2]])
