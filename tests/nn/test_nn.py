"""Layers: PyTorch's weights, outputs, gradients; the laws of sequence layers; what a module holds, saves and says."""

import copy
import inspect
import math
import pickle
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.layers import close, holding, judge, leaf, normal, same
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
import tinyseq.functional as F
from tinyseq import nn, optim
from tinyseq.nn import init
from tinyseq.testing import check_grad, check_shapes

dtypes = st.sampled_from(["float32", "float64"])
seeds = st.integers(0, 2**32 - 1)
KINDS: dict[str, Callable[..., Any]] = {
    "RNN": nn.RNN, "RNN relu": lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k), "GRU": nn.GRU, "LSTM": nn.LSTM,
    "GRU before": lambda *a, **k: nn.GRU(*a, reset="before", **k)}
every_kind = pytest.mark.parametrize("kind", KINDS)


# --- PyTorch -------------------------------------------------------------------------------------------------------


@pytest.mark.reference
@given(dtype=dtypes, bias=st.booleans(), sizes=st.tuples(*[st.integers(1, 5)] * 4), seed=seeds)
def test_linear_embedding_and_layer_norm_are_torchs(dtype: str, bias: bool, sizes: Any, seed: int) -> None:
    torch = pytest.importorskip("torch")
    batch, steps, width, out = sizes
    kind, rng = getattr(torch, dtype), np.random.default_rng(seed)
    ids, one = rng.integers(0, out, (batch, steps)), lambda m, *a: [m(*a)]
    x = normal(rng, batch, steps, width, dtype=dtype)
    judge(nn.Linear(width, out, bias, dtype=dtype), torch.nn.Linear(width, out, bias, dtype=kind), one, one, [x], dtype)
    for shape in (width, (steps, width)):
        options: dict[str, Any] = {"eps": 0.1, "bias": bias}  # a small eps makes much of two numbers' rounding
        judge(nn.LayerNorm(shape, **options, dtype=dtype), torch.nn.LayerNorm(shape, **options, dtype=kind), one, one,
              [x], dtype)
    for padding in (None, -1):
        judge(nn.Embedding(out, width, padding, dtype=dtype), torch.nn.Embedding(out, width, padding, dtype=kind),
              lambda m: [m(ids)], lambda m: [m(torch.tensor(ids))], [], dtype)


@pytest.mark.reference
@pytest.mark.parametrize("kind", ["RNN", "RNN relu", "GRU", "LSTM"])
@given(dtype=dtypes, bias=st.booleans(), two=st.booleans(), layers=st.integers(1, 3), start=st.booleans(),
       ragged=st.booleans(), sizes=st.tuples(*[st.integers(1, 5)] * 4), seed=seeds)
def test_recurrent_layers_are_torchs(kind: str, dtype: str, bias: bool, two: bool, layers: int, start: bool,
                                     ragged: bool, sizes: Any, seed: int) -> None:
    torch = pytest.importorskip("torch")
    batch, steps, width, hidden = sizes
    name, _, relu = kind.partition(" ")
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, steps + 1, batch) if ragged else None
    x = normal(rng, batch, steps, width, dtype=dtype)
    states = [normal(rng, layers * (1 + two), batch, hidden, dtype=dtype) for _ in range(1 + (name == "LSTM"))]

    def run(module: Any, x: Any, *state: Any) -> list[Any]:
        y, h = module(x, state if len(state) == 2 else state[0] if state else None, lengths)
        return [y, *(h if isinstance(h, tuple) else (h,))]

    def torch_run(module: Any, x: Any, *state: Any) -> list[Any]:
        if lengths is not None:
            x = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), True, enforce_sorted=False)
        y, h = module(x, state if len(state) == 2 else state[0] if state else None)
        if lengths is not None:
            y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=steps)
        return [y, *(h if isinstance(h, tuple) else (h,))]

    options: dict[str, Any] = {"num_layers": layers, "bias": bias, "bidirectional": two}
    theirs = getattr(torch.nn, name)(width, hidden, **options, **({"nonlinearity": relu} if relu else {}),
                                     batch_first=True, dtype=getattr(torch, dtype))
    judge(KINDS[kind](width, hidden, **options, dtype=dtype), theirs, run, torch_run, [x, *states[:3 * start]], dtype)


@pytest.mark.reference
def test_torchs_safetensors_load_here_and_ours_there(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    theirs, ours = torch.nn.GRU(3, 4, 2, bidirectional=True), nn.GRU(3, 4, 2, bidirectional=True)
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    ours.load(tmp_path / "theirs.safetensors")
    for k, v in theirs.state_dict().items():
        close(ours.state_dict()[k], v)
    ours.save(tmp_path / "ours.safetensors")
    theirs.load_state_dict(load_file(tmp_path / "ours.safetensors"))


def test_gru_with_reset_before_the_product_is_its_equation() -> None:
    rng = np.random.default_rng(0)
    gru = nn.GRU(3, 2, reset="before", dtype="float64")
    x = normal(rng, 1, 5, 3)
    (w, u, b, d) = (p.detach().numpy() for p in gru.parameters())
    sigmoid = lambda a: 1 / (1 + np.exp(-a))
    h, states = np.zeros(2), []
    for t in range(5):
        r, z = (sigmoid(w[k] @ x[0, t] + b[k] + u[k] @ h + d[k]) for k in (slice(0, 2), slice(2, 4)))
        n = np.tanh(w[4:] @ x[0, t] + b[4:] + u[4:] @ (r * h) + d[4:])
        h = (1 - z) * n + z * h
        states.append(h)
    y, h_n = gru(ts.asarray(x))
    close(y[0], np.stack(states))
    close(h_n[0, 0], h)


# --- laws of sequence layers ---------------------------------------------------------------------------------------


class Scan:
    """A recurrent layer, or the decoder over a fixed memory, as one function: (x, lengths) -> [y, *states]."""

    def __init__(self, kind: str, two: bool, layers: int, rng: np.random.Generator, batch: int, steps: int) -> None:
        self.layer = KINDS[kind](2, 3, num_layers=layers, bidirectional=two, dtype="float64")
        shape = layers * (1 + two), batch, 3
        self.start = [ts.asarray(normal(rng, *shape)) for _ in range(1 + (kind == "LSTM"))]

    def __call__(self, x: Any, lengths: Any, rows: Any = None) -> list[ts.Tensor]:
        start = self.start if rows is None else [s[:, rows] for s in self.start]
        y, h = self.layer(ts.asarray(x), tuple(start) if len(start) == 2 else start[0], lengths)
        return [y, *(h if isinstance(h, tuple) else (h,))]


@st.composite
def scans(draw: Any, directions: tuple[bool, ...] = (False, True)) -> Any:
    """A layer, x (B, T, 2) and lengths (B,): from 0 to T, in any order."""
    rng = np.random.default_rng(draw(seeds))
    batch, steps = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    kind, two, layers = draw(st.sampled_from(list(KINDS))), draw(st.sampled_from(directions)), draw(st.integers(1, 2))
    scan = Scan(kind, two, layers, rng, batch, steps)
    return scan, normal(rng, batch, steps, 2), rng.integers(0, steps + 1, batch), rng


@given(scans())
def test_padding_and_more_of_it_change_nothing(case: Any) -> None:
    scan, x, lengths, _ = case
    y, *states = scan(x, lengths)
    longer = np.concatenate([x, np.ones((len(x), 3, 2))], axis=1)
    for other in (holding(x, lengths, 1e4), holding(x, lengths, math.nan), holding(longer, lengths, -7.0)):
        y_other, *states_other = scan(other, lengths)
        close(y_other[:, : x.shape[1]], y)
        assert not y_other.detach().numpy()[np.arange(other.shape[1]) >= lengths[:, None]].any()
        for s, t in zip(states_other, states, strict=True):
            close(s, t)


@given(scans())
def test_gradients_stop_at_padding(case: Any) -> None:
    scan, x, lengths, _ = case
    x = leaf(holding(x, lengths, math.inf))
    y, *states = scan(x, lengths)
    (ts.sum(y * y) + sum(ts.sum(s) for s in states)).backward()
    assert x.grad is None or not x.grad.numpy()[np.arange(x.shape[1]) >= lengths[:, None]].any()
    assert all(p.grad is None or np.isfinite(p.grad.numpy()).all() for p in scan.layer.parameters())


@given(scans())
def test_a_batch_is_its_rows_in_any_order(case: Any) -> None:
    scan, x, lengths, rng = case
    y, *states = scan(x, lengths)
    order = rng.permutation(len(x))
    for rows in (order, *[[i] for i in range(len(x))]):
        y_rows, *states_rows = scan(x[rows], lengths[rows], rows)
        close(y_rows, y[rows])
        for s, t in zip(states_rows, states, strict=True):
            close(s, t[:, rows])


@given(scans())
def test_an_empty_row_keeps_its_first_state(case: Any) -> None:
    scan, x, lengths, _ = case
    lengths = np.where(np.arange(len(x)) == 0, 0, lengths)
    y, *states = scan(x, lengths)
    assert not y.detach().numpy()[0].any()
    for s, t in zip(states, scan.start, strict=True):
        close(s[:, 0], t[:, 0])


@given(scans(directions=(False,)))
def test_a_forward_layer_never_sees_the_future_and_goes_on_where_it_stood(case: Any) -> None:
    scan, x, _, rng = case
    y, *states = scan(x, None)
    cut = rng.integers(0, x.shape[1] + 1)
    before, *scan.start = scan(x[:, :cut], None)
    after, *ends = scan(x[:, cut:], None)
    close(ts.concat([before, after], 1), y)
    for s, t in zip(ends, states, strict=True):
        close(s, t)


@given(scans(directions=(True,)))
def test_the_reverse_direction_is_a_forward_layer_on_reversed_rows(case: Any) -> None:
    scan, x, lengths, _ = case
    y = scan(x, lengths)[0].detach().numpy()
    if scan.layer.num_layers > 1:
        return
    forward = Scan.__new__(Scan)
    forward.start = [s[1:] for s in scan.start]
    forward.layer = copy.deepcopy(scan.layer)
    forward.layer.bidirectional = False
    for k, v in scan.layer.state_dict().items():
        if k.endswith("_reverse"):
            setattr(forward.layer, k.removesuffix("_reverse"), nn.Parameter(v))
    for i, n in enumerate(lengths):
        turned = forward(x[i : i + 1, :n][:, ::-1], None, [i])[0].detach().numpy()
        close(y[i, :n, 3:], turned[0, ::-1])


@every_kind
def test_a_recurrent_layers_gradients_and_shapes(kind: str) -> None:
    rng = np.random.default_rng(3)
    layer = KINDS[kind](2, 3, num_layers=2, bidirectional=True, dtype="float64")
    x, h = leaf(normal(rng, 2, 4, 2)), leaf(normal(rng, 4, 2, 3))
    state = (h, h) if kind == "LSTM" else h
    names = list(layer.state_dict())

    def run(x: Any, h: Any, *parameters: Any) -> Any:
        for name, p in zip(names, parameters, strict=True):
            setattr(layer, name, p)
        return layer(x, (h, h) if kind == "LSTM" else h, [4, 2])

    if "relu" not in kind:  # which has kinks
        check_grad(run, x, h, *layer.parameters(), order=2)
    bad = ts.zeros((4, 1, 3), "float64")
    check_shapes(lambda *a: layer(*a), x, state, shape=[(2, 4, 6)] + [(4, 2, 3)] * (2 if kind == "LSTM" else 1),
                 dtype="float64", wrong=[(x[0],), (x[:, :, :1],), (x, (bad, bad) if kind == "LSTM" else bad)])


@pytest.mark.parametrize("bad, message", [
    ({"lengths": [1]}, r"2 integers.*\(1,\)"), ({"lengths": [1.0, 2.0]}, "float64"),
    ({"lengths": [0, 5]}, r"from 0 to the 4 steps.*\[0, 5\]"), ({"lengths": [-1, 2]}, r"\[-1, 2\]"),
    ({"h0": ts.zeros((2, 2, 3))}, r"= \[\(1, 2, 3\)\], got .*\[\(2, 2, 3\)\]"),
    ({"h0": [1, 2, 3]}, r"GRU: expected .* initial state of 1 tensors .*got x \(2, 4, 2\) and \[\(3,\)\]")])
def test_wrong_lengths_and_states_are_named(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nn.GRU(2, 3)(ts.zeros((2, 4, 2)), **bad)


def test_wrong_recurrent_layers_are_named() -> None:
    for kind, sizes, options, message in (
        (nn.GRU, (2, 3), {"batch_first": False}, "permute_dims"), (nn.RNN, (2, 0), {}, "1 <= hidden_size, got 0"),
        (nn.GRU, (0, 3), {}, "1 <= input_size, got 0"),
        (nn.RNN, (2, 3), {"nonlinearity": "gelu"}, "'gelu'"), (nn.GRU, (2, 3), {"reset": "never"}, "'never'"),
        (nn.GRU, (2, 3), {"dropout": 1.0}, "GRU: expected a number 0 <= dropout < 1, got 1.0"),
        (nn.Scan, (nn.GRUCell, 2, 3), {"dropout": -0.1}, "Scan: expected a number 0 <= dropout < 1, got -0.1"),
        (nn.LSTM, (2, 3), {"recurrent_dropout": 1}, "LSTM: expected a number 0 <= recurrent_dropout < 1, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            kind(*sizes, **options)
    with pytest.raises(TypeError, match="pair"):
        nn.LSTM(2, 3)(ts.zeros((1, 1, 2)), ts.zeros((1, 1, 3)))
    with pytest.raises(ValueError, match=r"2 tensors .*got x \(1, 1, 2\) and \[\(1, 1, 3\)\]"):
        nn.LSTM(2, 3)(ts.zeros((1, 1, 2)), (ts.zeros((1, 1, 3)),))


def test_arguments_stand_in_torchs_order_and_no_rows_need_no_lengths() -> None:
    for layer in (nn.LSTM(2, 3, 2, False, True, 0.5, True), nn.GRU(2, 3, 2, False, True, 0.5, True),
                  nn.RNN(2, 3, 2, "relu", False, True, 0.5, True)):
        assert (layer.dropout, layer.bidirectional, len(layer.parameters())) == (0.5, True, 8)
        assert layer(np.zeros((0, 4, 2), np.float32), lengths=[])[0].shape == (0, 4, 6)
    with pytest.raises(ValueError, match="permute_dims"):
        nn.GRU(2, 3, 1, True, False)
    assert nn.GRUCell(2, 3, False).reset == "after" and nn.RNNCell(2, 3, False, "relu").nonlinearity == "relu"


def test_dropout_stands_between_layers_and_in_training_only() -> None:
    x = ts.asarray(normal(np.random.default_rng(0), 2, 5, 3, dtype="float32"))
    stacked, single = nn.GRU(3, 8, num_layers=2, dropout=0.5), nn.GRU(3, 8, dropout=0.5)
    assert (stacked(x)[0].detach().numpy() != stacked(x)[0].detach().numpy()).any()
    same(single(x)[0], single(x)[0])
    stacked.eval()
    same(stacked(x)[0], stacked(x)[0])


# --- attention -----------------------------------------------------------------------------------------------------

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


# --- encoder and decoder -------------------------------------------------------------------------------------------


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


# --- modules -------------------------------------------------------------------------------------------------------


class Nested(nn.Module):
    """Parameters in lists, tuples and dicts; a tied weight, a buffer, private names."""

    def __init__(self) -> None:
        self.layers = [nn.Linear(2, 2), {"in": (nn.Linear(2, 2, bias=False), nn.Dropout())}]
        self.scale = nn.Parameter(ts.tensor(2.0))
        self.tied = self.layers[0].weight
        self.count = nn.Buffer([3])
        self._cache = nn.Parameter(ts.ones(3))
        self.name = "nested"

    def forward(self, x: Any) -> Any:
        return self.layers[1]["in"][1](self.layers[0](x)) * self.scale


def test_parameters_are_found_wherever_they_hang() -> None:
    model = Nested()
    names = ["layers.0.weight", "layers.0.bias", "layers.1.in.0.weight", "scale"]
    assert [name for name, _ in model.named_parameters()] == names
    assert [id(p) for p in model.parameters()] == [id(p) for _, p in model.named_parameters()]
    assert list(model.state_dict()) == [*names, "tied", "count"]
    assert [name for name, _ in model.children()] == ["layers.0", "layers.1.in.0", "layers.1.in.1"]
    assert len(list(model.modules())) == 4


def test_modes_reach_everything() -> None:
    model = Nested()
    assert all(m.training for m in model.train().modules()) and not any(m.training for m in model.eval().modules())
    x = ts.ones((50, 2))
    same(model(x), model(x))
    model.train()
    assert (model(x).detach().numpy() != model(x).detach().numpy()).any()
    model.requires_grad_(False)
    assert not any(p.requires_grad for p in model.parameters()) and not model(x).requires_grad
    assert len(model.parameters()) == 4
    model.requires_grad_()
    ts.sum(model(x)).backward()
    assert model.scale.grad is not None
    model.zero_grad()
    assert model.scale.grad is None


def test_to_converts_numbers_and_voids_older_graphs() -> None:
    model = Nested()
    y = ts.sum(model.eval()(ts.ones((1, 2))))
    assert model.to(ts.float64) is model
    assert [t.dtype for t in model.state_dict().values()] == ["float64"] * 5 + ["int64"]
    assert model.tied is model.layers[0].weight and all(p.requires_grad for p in model.parameters())
    assert model(ts.ones((1, 2), "float64")).dtype == "float64"
    with pytest.raises(RuntimeError, match="written"):
        y.backward()
    assert model.to("numpy").scale.backend == "numpy"
    assert [t.dtype for t in model.to("float32").state_dict().values()] == ["float32"] * 5 + ["int64"]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_modules_copy_and_pickle(duplicate: Any) -> None:
    model = Nested().eval()
    model.scale.requires_grad = False
    twin, x = duplicate(model), ts.ones((1, 2))
    same(twin(x), model(x))
    assert not twin.training and twin.tied is twin.layers[0].weight and not twin.scale.requires_grad
    before = model(x)
    init.zeros_(twin.scale)
    same(model(x), before)
    stack = nn.Sequential(nn.Linear(2, 2), nn.GELU(approximate="tanh"))
    for layer in (nn.LSTM(2, 3, 2), stack, ATTENTIONS["additive"]()):
        assert repr(duplicate(layer)) == repr(layer)


def test_state_dicts_are_copied_in_and_errors_load_nothing() -> None:
    ts.manual_seed(0)
    model, other = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    state = model.state_dict()
    before = {k: v.numpy().copy() for k, v in state.items()}
    model.load_state_dict({k: v.numpy().astype("float64") * 2 for k, v in state.items()})
    assert all(v.dtype == "float32" and (v.numpy() == 2 * before[k]).all() for k, v in model.state_dict().items())
    with pytest.raises(KeyError, match=r"Sequential: missing \['2.weight', '2.bias'\], unexpected nothing"):
        model.load_state_dict(other.state_dict())
    with pytest.raises(KeyError, match=r"missing nothing, unexpected \['2.weight', '2.bias'\]"):
        other.load_state_dict(model.state_dict())
    wrong = {k: np.zeros((4, *v.shape)) if k.endswith("bias") else np.zeros(v.shape) for k, v in state.items()}
    with pytest.raises(ValueError, match=r"0.bias: \(4, 3\) given, \(3,\) here; 2.bias: \(4, 1\) given"):
        model.load_state_dict(wrong)
    assert all((v.numpy() == 2 * before[k]).all() for k, v in model.state_dict().items())
    model.load_state_dict(other.state_dict(), strict=False)
    same(model.state_dict()["0.bias"], other.state_dict()["0.bias"])
    same(model.state_dict()["2.bias"], ts.asarray(2 * before["2.bias"]))
    y = ts.sum(model(ts.ones((1, 2))))
    model.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match="written"):
        y.backward()


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, twin, path = Nested(), Nested(), tmp_path / "model.safetensors"
    model.save(path)
    twin.load(path)
    for k, v in model.state_dict().items():
        assert twin.state_dict()[k].dtype == v.dtype
        same(twin.state_dict()[k], v)
    before = path.read_bytes()
    init.zeros_(model.scale)
    for broken in ("os.fsync", "os.replace"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="disk"):
            patch.setattr(broken, lambda *args: (_ for _ in ()).throw(OSError("the disk is full")))
            model.save(path)
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    model.save(path)
    assert path.read_bytes() != before and list(tmp_path.iterdir()) == [path]


def test_what_modules_say() -> None:
    assert repr(Nested()) == (
        "Nested(\n  (layers.0): Linear(2, 2, bias=True)\n  (layers.1.in.0): Linear(2, 2, bias=False)\n"
        "  (layers.1.in.1): Dropout(p=0.5)\n)")
    model = nn.Sequential(nn.Embedding(9, 2, padding_idx=-9), nn.Sequential(nn.LayerNorm(2), nn.LeakyReLU(
        negative_slope=0.1)), nn.LSTM(2, 3, 2, dropout=0.1, bidirectional=True))
    assert repr(model) == (
        "Sequential(\n  (0): Embedding(9, 2, padding_idx=0)\n  (1): Sequential(\n    (0): LayerNorm((2,), eps=1e-05)\n"
        "    (1): LeakyReLU(negative_slope=0.1)\n  )\n"
        "  (2): LSTM(2, 3, num_layers=2, dropout=0.1, bidirectional=True)\n)")
    with pytest.raises(NotImplementedError, match="Module has no forward"):
        nn.Module()(1)


def test_sequential_and_activations() -> None:
    x = ts.asarray(normal(np.random.default_rng(0), 4, 4, dtype="float32"))
    layers = [nn.Linear(4, 4), nn.ReLU(), nn.LeakyReLU(negative_slope=0.2), nn.ELU(alpha=0.5), nn.GELU(), nn.SiLU(),
              nn.Tanh(), nn.Sigmoid(), nn.Softplus()]
    functions = [layers[0], F.relu, lambda x: F.leaky_relu(x, 0.2), lambda x: F.elu(x, 0.5), F.gelu, F.silu, ts.tanh,
                 ts.sigmoid, F.softplus]
    model, y = nn.Sequential(*layers), x
    for f in functions:
        y = f(y)
    same(model(x), y)
    assert len(model) == 9 and model[1] is layers[1] and list(model) == layers and model[-1] is layers[-1]
    with pytest.raises(TypeError, match="layer 1 is a function, expected a Module"):
        nn.Sequential(nn.ReLU(), F.relu)  # type: ignore[arg-type]


def test_parameters_are_copies_and_take_numbers() -> None:
    x, frozen = np.ones(3, "float32"), np.ones(3, "float32")
    frozen.flags.writeable = False
    for data in (x, frozen, ts.asarray(x)):
        p = nn.Parameter(data)
        assert p.requires_grad and p.dtype == "float32"
        p.grad = ts.ones(3)
        optim.SGD([p], 1.0).step()
        assert p.tolist() == [0, 0, 0] and x.tolist() == [1, 1, 1] and frozen.tolist() == [1, 1, 1]
    assert nn.Parameter([1.0, 2.0]).shape == (2,) and not nn.Parameter(x, requires_grad=False).requires_grad


def test_only_parameters_are_trained_and_what_was_computed_is_not_kept() -> None:
    model = Nested()
    names, state = [name for name, _ in model.named_parameters()], list(model.state_dict())
    model.seen = model(ts.ones((1, 2)))  # type: ignore[attr-defined]
    assert [name for name, _ in model.named_parameters()] == names and list(model.state_dict()) == state
    assert all(isinstance(p, nn.Parameter) for p in model.parameters())
    model.layers.append({"w": ts.ones(2, requires_grad=True)})
    for ask in (model.parameters, model.state_dict):
        with pytest.raises(TypeError, match=r"Nested: layers.2.w is a plain Tensor that requires .* nn.Parameter"):
            ask()


class Averaging(nn.Module):
    """A running mean, and the last input kept to be looked at."""

    def __init__(self) -> None:
        self.mean, self.out = nn.Buffer(ts.zeros(2)), nn.Linear(2, 2)

    def forward(self, x: Any) -> Any:
        self.last, self.all = x * 1.0, {"x": [x * 1.0]}
        self.mean = 0.5 * self.mean + 0.5 * ts.mean(self.out(x), 0)
        return self.out(x - self.mean)


@pytest.mark.parametrize("recorded", [True, False])
def test_what_a_forward_computes_never_becomes_a_buffer(recorded: bool) -> None:
    model = Averaging()
    before = {k: v.numpy().copy() for k, v in model.state_dict().items()}
    assert list(before) == ["mean", "out.weight", "out.bias"]
    with ts.enable_grad() if recorded else ts.no_grad():
        model(ts.ones((3, 2)))
    after = model.state_dict()
    assert list(after) == list(before) and (after["mean"].numpy() != before["mean"]).all()
    assert type(model.mean) is nn.Buffer and not model.mean.requires_grad and len(model.parameters()) == 2
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model))).to(ts.float64)
    assert twin.mean.dtype == "float64" and type(twin.mean) is nn.Buffer and twin.last.dtype == "float32"
    twin.load_state_dict(before)
    assert twin.mean.tolist() == [0, 0]


def test_a_module_may_know_its_parent() -> None:
    parent = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    names = list(parent.state_dict())
    parent[1].parent = [parent]  # type: ignore[attr-defined]
    assert list(parent.state_dict()) == names and len(parent.parameters()) == 4
    assert len(list(parent.eval().modules())) == 4 and not parent[0].training
    assert "(parent.0): (see above)" in repr(parent)
    assert list(copy.deepcopy(parent).state_dict()) == names


def test_embedding_pads_with_zeros_and_names_wrong_ids() -> None:
    embedding = nn.Embedding(4, 3, padding_idx=-1)
    assert not embedding(np.array([3])).detach().numpy().any() and embedding([[1, 2]]).shape == (1, 2, 3)
    ts.sum(embedding([3, 1, 1])).backward()
    assert embedding.weight.grad.numpy()[:, 0].tolist() == [0, 2, 0, 0]
    with pytest.raises(IndexError, match="id 4"):
        embedding([4])
    with pytest.raises(ValueError, match=r"Embedding: .* padding_idx <= 3, got 4"):
        nn.Embedding(4, 3, padding_idx=4)
    with pytest.raises(ValueError, match=r"0 <= p < 1, got 1"):
        nn.Dropout(1)


@pytest.mark.reference
def test_constructors_and_inits_take_arguments_in_torchs_order() -> None:
    """What can be given by place stands where PyTorch has it; what PyTorch has not there goes by name alone."""
    torch = pytest.importorskip("torch")
    ours = {"low": "a", "high": "b", "value": "val"}  # other names for the same
    walked = set()
    for here, there in ((nn, torch.nn), (init, torch.nn.init)):
        for name, made in vars(here).items():
            theirs = getattr(there, name, None)
            if not getattr(made, "__module__", "").startswith("tinyseq.nn") or not callable(theirs) or name == "Module":
                continue
            known = theirs.__init__ if inspect.isclass(theirs) else theirs
            written = typing.get_overloads(known) if inspect.isfunction(known) else []
            order = [p for p in inspect.signature(written[0] if written else theirs).parameters if p != "self"]
            places = [ours.get(p.name, p.name) for p in inspect.signature(made).parameters.values()
                      if p.kind is p.POSITIONAL_OR_KEYWORD]
            assert places == order[: len(places)], name
            walked.add(name)
    assert walked >= {"Linear", "RNN", "GRUCell", "LeakyReLU", "RMSNorm", "MultiheadAttention", "Transformer",
                      "kaiming_uniform_", "uniform_"} and len(walked) > 35


def test_activations_take_their_options_by_place_and_no_others() -> None:
    x = ts.tensor([-1.0, 2.0])
    same(nn.LeakyReLU(0.2)(x), F.leaky_relu(x, 0.2))
    same(nn.ELU(0.5)(x), F.elu(x, 0.5))
    same(nn.GELU("tanh")(x), F.gelu(x, "tanh"))
    for wrong, message in ((lambda: nn.ReLU(inplace=True), r"ReLU: expected options of \[\], got inplace=True"),
                           (lambda: nn.Softplus(2.0), r"Softplus: expected options of \[\], got 2.0")):
        with pytest.raises(TypeError, match=message):
            wrong()


# --- how parameters begin ------------------------------------------------------------------------------------------


def test_layers_begin_in_torchs_bounds() -> None:
    ts.manual_seed(0)
    for p in [*nn.Linear(16, 100).parameters(), *nn.GRU(5, 16).parameters(), *nn.LSTM(5, 16).parameters()]:
        values = p.detach().numpy()
        assert abs(values).max() <= 0.25 and abs(values).max() > 0.22 and abs(values.mean()) < 0.06
    weight = nn.Embedding(300, 20).weight.detach().numpy()
    assert abs(weight.std() - 1) < 0.05 and abs(weight.mean()) < 0.05
    norm = nn.LayerNorm(3)
    assert norm.weight.tolist() == [1, 1, 1] and norm.bias.tolist() == [0, 0, 0]


@pytest.mark.parametrize("name, bound, std", [
    ("uniform_", None, 1 / math.sqrt(12)), ("normal_", None, 1.0), ("xavier_uniform_", math.sqrt(6 / 300), None),
    ("xavier_normal_", None, math.sqrt(2 / 300)), ("kaiming_uniform_", math.sqrt(6 / 200), None),
    ("kaiming_normal_", None, math.sqrt(2 / 200))])
def test_initial_distributions(name: str, bound: float | None, std: float | None) -> None:
    ts.manual_seed(5)
    weight = nn.Parameter(ts.zeros((100, 200)))
    assert getattr(init, name)(weight) is weight
    x = weight.detach().numpy()
    assert x.dtype == "float32" and abs(x.std() / (std or bound / math.sqrt(3)) - 1) < 0.03
    assert name == "uniform_" or abs(x.mean()) < 0.05 * x.std()
    assert bound is None or 0.99 * bound < abs(x).max() <= bound
    again = ts.zeros((100, 200))
    ts.manual_seed(5)
    same(getattr(init, name)(again), weight)
    if name not in ("uniform_", "normal_"):
        with pytest.raises(ValueError, match=r"\(3,\)"):
            getattr(init, name)(ts.zeros(3))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("low, high", [(0.0, 1.0), (-3.0, -1.0), (0.1, 0.3)])
def test_uniform_draws_are_below_high_in_any_dtype(low: float, high: float, dtype: str,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    class Highest:
        def uniform(self, low: float, high: float, shape: Any) -> Any:
            return np.full(shape, np.nextafter(high, low))

    monkeypatch.setattr(ts.random, "host_generator", lambda generator: Highest())
    draws = ts.random.uniform((2,), low, high, dtype)
    assert draws.dtype == dtype and (draws.numpy() < np.dtype(dtype).type(high)).all()


@given(st.integers(1, 6), st.integers(1, 6), seeds)
def test_orthogonal_constant_zeros_ones(rows: int, columns: int, seed: int) -> None:
    ts.manual_seed(seed)
    x = init.orthogonal_(ts.zeros((rows, columns), "float64"), gain=2).numpy()
    gram = x @ x.T if rows <= columns else x.T @ x
    close(gram, 4 * np.eye(min(rows, columns)))
    w = ts.tensor(x)
    assert [(f(w).numpy() == v).all() for f, v in ((init.zeros_, 0), (init.ones_, 1))] == [True, True]
    assert (init.constant_(w, 3.5).numpy() == 3.5).all()


def test_every_orthogonal_matrix_is_as_likely() -> None:
    ts.manual_seed(0)
    corners = [init.orthogonal_(ts.zeros((3, 3)))[0, 0].item() > 0 for _ in range(200)]
    assert 60 < sum(corners) < 140  # as LAPACK leaves them all are negative
