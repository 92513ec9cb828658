"""The recurrent family: fused layers and PyTorch's, cells, a scan over any cell, one dropout mask over time, pieces."""

import copy
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.layers import close, dtypes, holding, judge, leaf, normal, same, seeds
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
import tinyseq.functional as F
from tinyseq import nn
from tinyseq.nn import init
from tinyseq.testing import check_grad, check_sequence_layer, check_shapes

PAGE: dict[str, Any] = {}  # what docs/your-own-cell.md defines, once its code has run
_text = (Path(__file__).parents[2] / "docs/your-own-cell.md").read_text()
for _block in re.findall(r"```python\n(.*?)```", _text, re.S):
    exec(_block, PAGE)

# the layers that have kernels, the scans of their cells, and those of the page's cells
FUSED: dict[str, Callable[..., Any]] = {
    "RNN": nn.RNN, "RNN relu": lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k), "GRU": nn.GRU, "LSTM": nn.LSTM,
    "GRU before": lambda *a, **k: nn.GRU(*a, reset="before", **k)}
OURS: dict[str, Callable[..., Any]] = {
    "RNN": nn.RNNCell, "RNN relu": lambda *a: nn.RNNCell(*a, nonlinearity="relu"), "GRU": nn.GRUCell,
    "LSTM": nn.LSTMCell, "GRU before": lambda *a: nn.GRUCell(*a, reset="before")}


class One(nn.Module):
    """A GRUCell whose state is a tuple of one."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        self.state_size, self.cell = (hidden_size,), nn.GRUCell(input_size, hidden_size)

    def forward(self, x: ts.Tensor, state: Any) -> Any:
        assert type(state) is tuple and len(state) == 1 and state[0].shape[:1] == x.shape[:1]
        return (self.cell(x, state[0]),)


CELLS: dict[str, Callable[..., Any]] = {
    "a tuple of one": One,
    "LayerNormGRU": PAGE["LayerNormGRU"], "PeepholeLSTM": PAGE["PeepholeLSTM"],
    "zoneout": lambda i, h: PAGE["Zoneout"](nn.GRUCell(i, h), 0.2), **OURS}


def tensors(y: ts.Tensor, state: Any) -> list[ts.Tensor]:
    return [y, *([state] if isinstance(state, ts.Tensor) else state)]


# --- fused layers ----------------------------------------------------------------------------------------------------

every_kind = pytest.mark.parametrize("kind", FUSED)


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
    judge(FUSED[kind](width, hidden, **options, dtype=dtype), theirs, run, torch_run, [x, *states[:3 * start]], dtype)


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


class Scan:
    """A recurrent layer, or the decoder over a fixed memory, as one function: (x, lengths) -> [y, *states]."""

    def __init__(self, kind: str, two: bool, layers: int, rng: np.random.Generator, batch: int, steps: int) -> None:
        self.layer = FUSED[kind](2, 3, num_layers=layers, bidirectional=two, dtype="float64")
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
    kind, two, layers = draw(st.sampled_from(list(FUSED))), draw(st.sampled_from(directions)), draw(st.integers(1, 2))
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
    layer = FUSED[kind](2, 3, num_layers=2, bidirectional=True, dtype="float64")
    x, h = leaf(normal(rng, 2, 4, 2)), leaf(normal(rng, 4, 2, 3))
    state = (h, h) if kind == "LSTM" else h
    names = list(layer.state_dict())

    def run(x: Any, h: Any, *parameters: Any) -> Any:
        for name, p in zip(names, parameters, strict=True):
            vars(layer)[name] = p  # by assignment it would have to stay a Parameter
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
    for layer in (nn.LSTM(2, 3), nn.Scan(nn.LSTMCell, 2, 3), nn.Scan(One, 2, 3)):
        with pytest.raises(TypeError, match=r": expected the initial state as a tuple of [12] Tensors, got one tensor"):
            layer(ts.zeros((1, 1, 2)), ts.zeros((1, 1, 3)))
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
    stacked = nn.GRU(3, 8, num_layers=2, dropout=0.5)
    with pytest.warns(UserWarning, match="dropout=0.5 acts between layers, and with num_layers=1"):
        single = nn.GRU(3, 8, dropout=0.5)
    assert (stacked(x)[0].detach().numpy() != stacked(x)[0].detach().numpy()).any()
    same(single(x)[0], single(x)[0])
    stacked.eval()
    same(stacked(x)[0], stacked(x)[0])


@pytest.mark.parametrize("make", [
    nn.RNN, nn.GRU, nn.LSTM, lambda *a, **o: nn.Scan(nn.GRUCell, *a, **o)], ids=["RNN", "GRU", "LSTM", "Scan"])
def test_dropout_of_one_layer_is_told_where_it_is_made(make: Callable[..., Any], recwarn: Any) -> None:
    make(2, 3, 2, dropout=0.5), make(2, 3)
    assert not recwarn
    make(2, 3, dropout=0.5)
    assert [w.filename for w in recwarn] == [__file__]
    assert ("recurrent_dropout" in str(recwarn[0].message)) == (make in (nn.RNN, nn.GRU, nn.LSTM))


# --- cells -----------------------------------------------------------------------------------------------------------


@pytest.mark.reference
@pytest.mark.parametrize("kind", ["RNN", "RNN relu", "GRU", "LSTM"])
@given(dtype=st.sampled_from(["float32", "float64"]), bias=st.booleans(), start=st.booleans(),
       sizes=st.tuples(*[st.integers(1, 4)] * 3), seed=seeds)
def test_cells_are_torchs(kind: str, dtype: str, bias: bool, start: bool, sizes: Any, seed: int) -> None:
    torch = pytest.importorskip("torch")
    (batch, width, hidden), rng = sizes, np.random.default_rng(seed)
    name, _, relu = kind.partition(" ")
    options: dict[str, Any] = {"bias": bias, **({"nonlinearity": relu} if relu else {})}
    theirs = getattr(torch.nn, f"{name}Cell")(width, hidden, **options, dtype=getattr(torch, dtype))
    state = [normal(rng, batch, hidden, dtype=dtype) for _ in range(start * (1 + (name == "LSTM")))]

    def run(cell: Any, x: Any, *state: Any) -> list[Any]:
        out = cell(x, (state if name == "LSTM" else state[0]) if state else None)
        return list(out) if isinstance(out, tuple) else [out]

    ours = getattr(nn, f"{name}Cell")(width, hidden, **options, dtype=dtype)
    judge(ours, theirs, run, run, [normal(rng, batch, width, dtype=dtype), *state], dtype)


def test_wrong_cells_and_inputs_of_cells_are_named() -> None:
    x, h = ts.zeros((4, 2)), ts.zeros((4, 3))
    for run, message in (
        (lambda: nn.GRUCell(2, 3, reset="never"), "GRUCell: expected reset .* 'after', 'before', got 'never'"),
        (lambda: nn.RNNCell(2, 3, nonlinearity="gelu"), "RNNCell: expected nonlinearity .* got 'gelu'"),
        (lambda: nn.GRUCell(2, 3)(x, h[:1]), r"GRUCell: expected x \(batch, 2\).*\[\(4, 3\)\], got x .*\[\(1, 3\)\]"),
        (lambda: nn.GRUCell(2, 3)(x, [1, 2, 3]), r"GRUCell: expected .*1 tensors .*got x \(4, 2\) and \[\(3,\)\]"),
        (lambda: nn.GRUCell(2, 3)(x[0]), r"expected x \(batch, 2\).*got x \(2,\)"),
        (lambda: nn.LSTMCell(2, 3)(x, h), r"LSTMCell: .* tuple of 2 Tensors, got one tensor, float32\[4, 3\]"),
        (lambda: nn.LSTMCell(2, 3)(x, (h,)), r"\[\(4, 3\), \(4, 3\)\], got x \(4, 2\) and \[\(4, 3\)\]"),
        (lambda: nn.GRUCell(2, 3)(x[:, :1], h), r"expected x \(batch, 2\).*got x \(4, 1\)"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            run()
    assert repr(nn.LSTMCell(2, 3)) == "LSTMCell(2, 3)"


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_cells_take_arrays_as_layers_do(kind: str) -> None:
    cell, rng = getattr(nn, kind + "Cell")(2, 3), np.random.default_rng(0)
    x, h, c = (normal(rng, 4, n, dtype="float32") for n in (2, 3, 3))
    state: Any = (h, c) if kind == "LSTM" else h
    held: Any = (ts.asarray(h), ts.asarray(c)) if kind == "LSTM" else ts.asarray(h)
    for given_, expected in ((cell(x, state), cell(ts.asarray(x), held)), (cell(x), cell(ts.asarray(x)))):
        same(ts.stack(tensors(*given_)) if kind == "LSTM" else given_,
             ts.stack(tensors(*expected)) if kind == "LSTM" else expected)


# --- scans of cells --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OURS)
@given(two=st.booleans(), layers=st.integers(1, 2), start=st.booleans(), ragged=st.booleans(),
       sizes=st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(1, 3)), seed=seeds)
def test_a_scan_of_our_cells_is_the_fused_layer(kind: str, two: bool, layers: int, start: bool, ragged: bool,
                                                sizes: Any, seed: int) -> None:
    (batch, steps, hidden), rng = sizes, np.random.default_rng(seed)
    fused = FUSED[kind](2, hidden, num_layers=layers, bidirectional=two, dtype="float64")
    scan = nn.Scan(OURS[kind], 2, hidden, num_layers=layers, bidirectional=two).to("float64")
    for mine, theirs in zip(scan.parameters(), fused.parameters(), strict=True):
        mine.data = theirs.data
    x, lengths = normal(rng, batch, steps, 2), rng.integers(0, steps + 1, batch) if ragged else None
    given_ = [normal(rng, layers * (1 + two), batch, hidden) for _ in range(1 + (kind == "LSTM"))]
    results = []
    for layer in (scan, fused):
        leaves = [leaf(v) for v in (x, *given_)]
        state = None if not start else leaves[1] if len(leaves) == 2 else (leaves[1], leaves[2])
        outputs = tensors(*layer(leaves[0], state, lengths=lengths))
        sum(((y * y).sum() + (y * 0.3).sum() for y in outputs), leaves[0].sum() * 0).backward()
        gradients = [p.grad for p in (*leaves, *layer.parameters())]
        results.append([*outputs, *gradients])
    for mine, theirs in zip(*results, strict=True):
        if mine is None or theirs is None:  # no step was made
            assert all(a is None or not a.numpy().any() for a in (mine, theirs))
        else:
            close(mine, theirs)


class Case:
    """A scan, x (B, T, 2), lengths (B,) from 0 to T and an initial state."""

    def __init__(self, kind: str, two: bool, layers: int, sizes: tuple[int, int], seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        batch, steps = sizes
        self.layer = nn.Scan(CELLS[kind], 2, 3, layers, 0.5 * (layers > 1), two).to("float64").eval()
        self.x, self.lengths = normal(self.rng, batch, steps, 2), self.rng.integers(0, steps + 1, batch)
        self.start = [ts.asarray(normal(self.rng, layers * (1 + two), batch, 3)) for _ in self.layer.sizes]

    def __call__(self, x: Any, lengths: Any, rows: Any = slice(None)) -> list[ts.Tensor]:
        start = [s[:, rows] for s in self.start]
        return tensors(*self.layer(ts.asarray(x), start[0] if self.layer.bare else tuple(start), lengths))


def cases(*directions: bool) -> Any:
    return st.builds(Case, st.sampled_from(list(CELLS)), st.sampled_from(directions), st.integers(1, 2),
                     st.tuples(st.integers(1, 3), st.integers(1, 4)), seeds)


@given(cases(False, True))
def test_padding_and_more_of_it_change_nothing_and_get_no_gradient(case: Case) -> None:
    expected, x = case(case.x, case.lengths), leaf(holding(case.x, case.lengths, math.inf))
    longer = np.concatenate([case.x, np.full((len(case.x), 2, 2), math.nan)], axis=1)
    got = case(x, case.lengths)
    for others in (got, case(longer, case.lengths)):
        others[0], past = others[0][:, : x.shape[1]], others[0][:, x.shape[1] :]
        assert not past.detach().numpy().any()
        for a, b in zip(others, expected, strict=True):
            close(a, b)
    padding = np.arange(x.shape[1]) >= case.lengths[:, None]
    assert not got[0].detach().numpy()[padding].any()
    sum((a.sum() for a in got), ts.tensor(0.0, "float64")).backward()
    assert x.grad is None or not x.grad.numpy()[padding].any()
    assert all(p.grad is None or np.isfinite(p.grad.numpy()).all() for p in case.layer.parameters())


@given(cases(False, True))
def test_a_batch_is_its_rows_and_an_empty_row_keeps_its_state(case: Case) -> None:
    case.lengths[0] = 0
    y, *states = case(case.x, case.lengths)
    for i in range(len(case.x)):
        one = case(case.x[i : i + 1, : case.lengths[i]], None, slice(i, i + 1))
        close(y[i : i + 1, : case.lengths[i]], one[0])
        for s, t in zip(states, one[1:], strict=True):
            close(s[:, i : i + 1], t)
    for s, t in zip(states, case.start, strict=True):
        same(s[:, 0], t[:, 0])


@given(cases(False))
def test_pieces_give_what_the_whole_gives(case: Case) -> None:
    expected, cut = case(case.x, case.lengths), case.rng.integers(0, case.x.shape[1] + 1)
    before, *case.start = case(case.x[:, :cut], np.minimum(case.lengths, cut))
    after, *states = case(case.x[:, cut:], np.maximum(case.lengths - cut, 0))
    for a, b in zip([ts.concat([before, after], 1), *states], expected, strict=True):
        close(a, b)


@pytest.mark.parametrize("kind", ["PeepholeLSTM", "LayerNormGRU", "zoneout"])
def test_gradients_of_a_scan(kind: str) -> None:
    case = Case(kind, True, 2, (2, 3), 0)
    places = [(module, name, value) for module in case.layer.modules() for name, value in vars(module).items()
              if isinstance(value, nn.Parameter)]

    def run(x: Any, *inputs: Any) -> Any:
        *case.start, = inputs[: len(case.start)]
        for (module, name, _), value in zip(places, inputs[len(case.start) :], strict=True):
            vars(module)[name] = value
        return case(x, [3, 2])

    check_grad(run, leaf(case.x), *map(leaf, case.start), *(p for _, _, p in places), order=2)


@pytest.mark.reference
def test_states_may_differ_in_width_as_in_a_projected_lstm() -> None:
    torch = pytest.importorskip("torch")

    class Projected(nn.Module):
        def __init__(self, input_size: int, hidden_size: int) -> None:
            self.state_size = (2, hidden_size)  # h and c
            self.inner, self.out = nn.Linear(input_size + 2, 4 * hidden_size), nn.Linear(hidden_size, 2, bias=False)

        def forward(self, x: ts.Tensor, state: Any) -> Any:
            i, f, g, o = ts.split(self.inner(ts.concat([x, state[0]], -1)), 4, -1)
            c = ts.sigmoid(f) * state[1] + ts.sigmoid(i) * ts.tanh(g)
            return self.out(ts.sigmoid(o) * ts.tanh(c)), c

    theirs = torch.nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2, batch_first=True, dtype=torch.float64)
    ours = nn.Scan(Projected, 3, 4, 2, bidirectional=True).to("float64")
    state = {k: v.numpy() for k, v in theirs.state_dict().items()}
    for k, suffix in enumerate(["_l0", "_l0_reverse", "_l1", "_l1_reverse"]):
        ours.cells[k].load_state_dict({
            "inner.weight": np.concatenate([state[f"weight_ih{suffix}"], state[f"weight_hh{suffix}"]], 1),
            "inner.bias": state[f"bias_ih{suffix}"] + state[f"bias_hh{suffix}"],
            "out.weight": state[f"weight_hr{suffix}"]})
    x = normal(np.random.default_rng(0), 2, 5, 3)
    y, (h, c) = theirs(torch.tensor(x))
    for mine, torchs in zip(tensors(*ours(ts.asarray(x))), (y, h, c), strict=True):
        close(mine, torchs)


def test_zoneout_and_dropout_between_layers_know_training() -> None:
    case = Case("zoneout", False, 1, (3, 1), 0)
    h, (new, _) = case.start[0][0].numpy(), case(case.x, None)
    new = (new[:, 0].detach().numpy() - 0.2 * h) / 0.8  # in evaluation the mean of old and new
    case.layer.train()
    ts.random.manual_seed(0)
    seen = np.stack([case(case.x, None)[0][:, 0].detach().numpy() for _ in range(400)])
    kept = np.isclose(seen, h)
    assert (kept | np.isclose(seen, new)).all() and abs(kept.mean() - 0.2) < 0.03
    for layers, differ in ((1, False), (2, True)):
        case = Case("GRU", False, layers, (2, 3), 0)
        case.layer.train()
        assert (case(case.x, None)[0].detach().numpy() != case(case.x, None)[0].detach().numpy()).any() == differ


def test_a_scan_is_saved_and_shown_and_encodes(tmp_path: Path) -> None:
    model = nn.Scan(nn.GRUCell, 2, 3, 2, bidirectional=True)
    assert list(model.state_dict())[:5] == [
        "cells.0.weight_ih", "cells.0.weight_hh", "cells.0.bias_ih", "cells.0.bias_hh", "cells.1.weight_ih"]
    assert repr(model).startswith("Scan(2, 3, num_layers=2, bidirectional=True\n  (cells.0): GRUCell(2, 3)")
    other, x = pickle.loads(pickle.dumps(nn.Scan(nn.GRUCell, 2, 3, 2, bidirectional=True))), ts.ones((2, 3, 2))
    model.save(tmp_path / "scan.safetensors")
    other.load(tmp_path / "scan.safetensors")
    same(other(x)[0], model(x)[0])


def test_wrong_cells_of_a_scan_are_named() -> None:
    class Wrong(nn.Module):
        result: Any = None

        def __init__(self, input_size: int, hidden_size: int) -> None:
            pass

        def forward(self, x: ts.Tensor, h: ts.Tensor) -> Any:
            return type(self).result(h)

    for result, message in (
        (lambda h: (h, h), r"Wrong at t = 0 was given a state \['float32 \(2, 3\)'\] and returned "
                           r"\['\[float32\[2, 3\], float32\[2, 3\]\]'\]: expected .* its state_size"),
        (lambda h: None, r"and returned \['None'\]: expected the next state"),
        (lambda h: h[:1], r"returned \['float32 \(1, 3\)'\]"),
        (lambda h: h.astype("float64"), r"\['float64 \(2, 3\)'\]"),
    ):
        Wrong.result = staticmethod(result)
        with pytest.raises(ValueError, match=message):
            nn.Scan(Wrong, 1, 3)(ts.zeros((2, 4, 1)))
    scan = nn.Scan(nn.LSTMCell, 2, 3)
    for bad, message in (
        ({"state": (ts.zeros((1, 2, 3)), ts.zeros((1, 1, 3)))}, r"= \[\(1, 2, 3\), .*got .* \(1, 1, 3\)\]"),
        ({"lengths": [1, 5]}, "from 0 to the 4 steps"),
    ):
        with pytest.raises(ValueError, match=message):
            scan(ts.zeros((2, 4, 2)), **bad)
    with pytest.raises(ValueError, match=r"Scan: expected x \(batch, time, 2\).*, got x \(2, 4, 3\)"):
        scan(ts.zeros((2, 4, 3)))
    with pytest.raises(TypeError, match=r"Scan: expected cell to be a class or .*got a module: GRUCell\(2, 3\)"):
        nn.Scan(nn.GRUCell(2, 3), 2, 3)
    with pytest.raises(TypeError, match=r"Scan: expected cell to be called as cell\(I, H\), .*: too many pos"):
        nn.Scan(lambda h: nn.GRUCell(2, h), 2, 3)
    for layer in (nn.GRU(2, 3), scan, nn.Scan(nn.GRUCell, 2, 3), nn.LSTM(2, 3)):
        for lengths in ([4, 2], np.array([4, 2])):
            with pytest.raises((TypeError, ValueError), match=r"initial state .*; lengths are given by name, lengths="):
                layer(ts.zeros((2, 4, 2)), lengths)
    with pytest.raises(ValueError, match=r"expected lengths as 1 integer from 0 to the 4 steps"):
        scan(ts.zeros((1, 4, 2)), lengths=[4, 2])
    inner = nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"Scan: expected what cell\(2, 2\) makes to be Module, got function"):
        nn.Scan(lambda i, h: lambda x, s: inner(x) + s, 2, 2)  # whose parameters nobody would train
    with pytest.raises(ValueError, match=r"Scan: expected cells.1 to take the 3 features .*, which takes 2"):
        nn.Scan(lambda i, h: nn.GRUCell(2, 3), 2, 3, 2)


def test_a_state_that_is_a_tuple_of_one_stays_one() -> None:
    """Forward, given and final states, both directions, and in an encoder: nowhere is it its one Tensor."""
    class Bare(One):
        def forward(self, x: ts.Tensor, state: Any) -> Any:
            return super().forward(x, state)[0]

    x, scan, bare = ts.ones((2, 4, 3)), *(nn.Scan(cell, 3, 5, 2, bidirectional=True) for cell in (One, nn.GRUCell))
    for cell, its in zip(scan.cells, bare.cells, strict=True):
        cell.cell.load_state_dict(its.state_dict())
    (y, state), (expected, h) = scan(x, lengths=[4, 0]), bare(x, lengths=[4, 0])
    assert type(state) is tuple and len(state) == 1
    same(y, expected)
    same(state[0], h)
    same(scan(x, state)[0], bare(x, h)[0])
    same(scan(x, [h])[1][0], bare(x, h)[1])
    with pytest.raises(ValueError, match=r"was given a state \['float32 \(2, 5\)'\] and returned float32\[2, 5\]"):
        nn.Scan(Bare, 3, 5)(x)
    decoder = nn.AttentionDecoder(7, 2, 10, nn.DotAttention(10, 10), 10)
    model = nn.EncoderDecoder(nn.Embedding(5, 3), scan, decoder)
    assert model([[1, 2]] * 2, [2, 1], [[1]] * 2).shape == (2, 1, 7)


# --- one mask over time, pieces --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FUSED)
@given(two=st.booleans(), sizes=st.tuples(st.integers(1, 4), st.integers(1, 4)), seed=seeds)
def test_recurrent_dropout_is_one_mask_over_time_whatever_the_lengths(kind: str, two: bool, sizes: Any,
                                                                     seed: int) -> None:
    (batch, steps), rng = sizes, np.random.default_rng(seed)
    layer = FUSED[kind](2, 3, bidirectional=two, recurrent_dropout=0.4, dtype="float64")
    x, lengths = normal(rng, batch, steps, 2), rng.integers(0, steps + 1, batch)
    state = [ts.asarray(normal(rng, 1 + two, batch, 3)) for _ in range(1 + (kind == "LSTM"))]
    run = lambda x, lengths: tensors(*layer(ts.asarray(x), state[0] if len(state) == 1 else tuple(state), lengths))
    ts.random.manual_seed(seed)
    y, *ends = run(x, lengths)
    ts.random.manual_seed(seed)
    whole = run(x, None)
    ts.random.manual_seed(seed)
    masks = [F.dropout(ts.ones((batch, 3), "float64"), 0.4).numpy() for _ in range(1 + two)]
    assert ts.random.get_state() == (seed, 1 + two)
    cell = OURS[kind](2, 3).to("float64")
    for k, mask in enumerate(masks):
        cell.load_state_dict({key: p for (_, p), key in zip(
            list(layer.state_dict().items())[4 * k :], cell.state_dict(), strict=False)})
        for i, n in enumerate(lengths):
            now = [s[k, i : i + 1] for s in state]
            for t in range(n) if k == 0 else reversed(range(n)):
                x_t, dropped = ts.asarray(x[i : i + 1, t]), now[0] * ts.asarray(mask[i : i + 1])
                w = cell.parameters()
                if kind == "LSTM":
                    now = list(F.lstm_cell(x_t, dropped, now[1], *w))
                elif kind.startswith("RNN"):
                    now = [F.rnn_cell(x_t, dropped, *w, nonlinearity="relu" if "relu" in kind else "tanh")]
                else:
                    reset = "before" if "before" in kind else "after"
                    now = [F.gru_cell(x_t, now[0], *w, reset=reset, dropped=dropped)]
                close(y[i, t, 3 * k : 3 * k + 3], now[0][0])
            for end, last in zip(ends, now, strict=True):
                close(end[k, i], last[0])
            if n == steps:
                close(y[i, :, 3 * k : 3 * k + 3], whole[0][i, :, 3 * k : 3 * k + 3])
    layer.eval()
    y, layer.recurrent_dropout = run(x, lengths)[0], 0.0
    same(y, run(x, lengths)[0])


def test_recurrent_dropout_spares_what_a_gru_carries() -> None:
    gru = nn.GRU(1, 400, recurrent_dropout=0.5)
    for p in gru.parameters():
        init.zeros_(p)
    y, _ = gru(ts.zeros((1, 3, 1)), ts.ones((1, 1, 400)))  # z = 1/2, n = 0: the state halves, whatever is dropped
    same(y, ts.asarray(np.repeat(np.float32([[0.5], [0.25], [0.125]]), 400, 1)[None]))
    gru.recurrent_dropout = 1.0
    with pytest.raises(ValueError, match=r"0 <= p < 1, got 1\.0"):
        gru(ts.zeros((1, 3, 1)))


@pytest.mark.parametrize("kind", FUSED)
@given(steps=st.integers(1, 5), seed=seeds)
def test_fused_layers_go_on_in_pieces_and_a_detached_state_cuts_the_gradient(kind: str, steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    layer = FUSED[kind](2, 3, num_layers=2, dtype="float64")
    x, lengths, cut = normal(rng, 3, steps, 2), rng.integers(0, steps + 1, 3), rng.integers(0, steps + 1)
    expected, first, second = tensors(*layer(leaf(x), lengths=lengths)), leaf(x[:, :cut]), leaf(x[:, cut:])
    before, state = layer(first, lengths=np.clip(lengths, 0, cut))
    state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
    after, end = layer(second, state, np.clip(lengths - cut, 0, steps - cut))
    for a, b in zip([ts.concat([before, after], 1), *tensors(after, end)[1:]], expected, strict=True):
        close(a, b)
    sum((a.sum() for a in tensors(after, end)), ts.tensor(0.0, "float64")).backward()
    assert first.grad is None


def test_the_page_on_cells_runs() -> None:
    y, h_n = PAGE["gru"](ts.random.normal((3, 5, 8)), lengths=[5, 0, 2])
    assert y.shape == (3, 5, 32) and h_n.shape == (4, 3, 16)
    assert PAGE["h"].shape == (1, 3, 16) and not PAGE["h"].requires_grad
    assert PAGE["leaky"](ts.random.normal((3, 5, 8)), lengths=[5, 0, 2]).shape == (3, 5, 16)
    state = np.ones((3, 2, 1))
    for t, states in enumerate(PAGE["states"].numpy().swapaxes(0, 1)):
        np.testing.assert_allclose(states, state := PAGE["steps"].numpy()[:, t] @ state, rtol=1e-4, atol=1e-5)


def test_a_wrong_state_or_input_names_the_layer() -> None:
    x, h = ts.ones((2, 5, 4)), ts.ones((1, 2, 3))
    for call, said in (
        (lambda: nn.GRU(4, 3)(x, (h,)), "GRU: expected the initial state as Tensors"),
        (lambda: nn.GRU(4, 3)("a"), r"GRU: expected x as a Tensor, got 'a'"),
        (lambda: nn.LSTM(4, 3)(x, 3), "LSTM: expected the initial state as a tuple of 2 Tensors, got 3"),
        (lambda: nn.LSTM(4, 3)(x, h), r"LSTM: expected the initial state as a tuple of 2 Tensors, got one tensor, f"),
        (lambda: nn.LSTMCell(4, 3)(x[0], (h[0], "a")), "LSTMCell: expected the initial state as Tensors, got 'a'"),
    ):
        with pytest.raises(TypeError, match=f"^{said}"):
            call()


def test_a_repr_shows_what_is_not_usual() -> None:
    assert repr(nn.GRU(4, 3, reset="before")) == "GRU(4, 3, reset='before')"
    assert repr(nn.RNN(4, 3, 2, "relu", recurrent_dropout=0.2)) == (
        "RNN(4, 3, num_layers=2, nonlinearity='relu', recurrent_dropout=0.2)")
    assert repr(nn.LSTM(4, 3)) == "LSTM(4, 3)"


def test_the_pages_language_model_decodes_rows_as_they_come_alone() -> None:
    """The prompts' rows, of two lengths and two layers, whichever ends first."""
    model, prompts, state, last = (PAGE[name] for name in ("model", "prompts", "state", "last"))
    found = ts.decode.greedy(model, state, last, 0, 30)
    for i, n in enumerate(PAGE["lengths"]):
        _, alone = model.read(prompts[i : i + 1, : n - 1])
        ((one,),) = ts.decode.beam(model, alone, int(last[i]), 0, 30, 1)
        assert one.tokens == found[i].tokens
        scores = ts.decode.score(model, alone, int(last[i]), [one.tokens + [0] * (len(one.tokens) < 30)]).total
        assert abs(scores.item() - one.score) < 1e-4 * max(1, abs(one.score))
    assert len(PAGE["fresh"]) == 3 and len(PAGE["best"]) == 2 and PAGE["total"].shape == (2,)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_a_packed_sequence_is_told_what_to_give(kind: Any) -> None:
    packed = type("PackedSequence", (), {"batch_sizes": [2, 1]})()
    with pytest.raises(TypeError, match=r"got a PackedSequence: .*\(batch, time, features\), and its lengths=$"):
        kind(3, 4)(packed)


@pytest.mark.reference
@pytest.mark.parametrize("layers, both, bias", [(1, False, True), (2, True, False), (2, False, True)])
def test_a_projected_lstm_is_pytorchs_and_keeps_the_laws(layers: int, both: bool, bias: bool) -> None:
    torch = pytest.importorskip("torch")
    ours = nn.LSTM(3, 4, layers, bias, bidirectional=both, proj_size=2, dtype=np.float64)
    theirs = torch.nn.LSTM(3, 4, layers, bias, True, bidirectional=both, proj_size=2, dtype=torch.float64)
    x = normal(np.random.default_rng(0), 2, 5, 3)
    flat: Any = lambda m, x: [(found := m(x))[0], *found[1]]
    judge(ours, theirs, flat, flat, [x], "float64")
    check_sequence_layer(ours)


def test_a_projected_lstm_begins_its_gates_alike_and_drops_what_comes_back() -> None:
    lstm = nn.init.recurrent_(nn.LSTM(3, 4, proj_size=2, recurrent_dropout=0.5))
    assert lstm.bias_ih_l0.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8
    x = ts.ones((1, 6, 3))
    assert not ts.all(lstm(x)[0] == lstm.eval()(x)[0])
    assert repr(lstm).startswith("LSTM(3, 4, proj_size=2")
    with pytest.raises(ValueError, match="proj_size <= 3, got 4"):
        nn.LSTM(3, 4, proj_size=4)
    with pytest.raises(TypeError, match="no argument 'proj_size'"):
        nn.GRU(3, 4, proj_size=2)  # type: ignore[call-arg]
