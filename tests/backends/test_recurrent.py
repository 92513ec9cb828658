"""The recurrent scan, held to one step of one sequence at a time, to finite differences and to PyTorch."""

import math
from typing import Any

import numpy as np
import pytest
from helpers.kernels import BACKENDS, backends, close, dtypes, seeds, slope
from helpers.rows import layout
from hypothesis import given
from hypothesis import strategies as st
from tinyseq.backends.numpy import NumpyBackend
from tinyseq.backends.recurrent import CELLS
from tinyseq.backends.threads import get_num_threads, set_num_threads

sizes = st.integers(1, 300)
cells = pytest.mark.parametrize("cell", sorted(CELLS))


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def plain_cell(cell: str, x: Any, h: Any, c: Any, w: Any, u: Any, b: Any, d: Any) -> tuple[Any, Any]:
    """One step of one sequence: x (I,), h and c (H,) to the next h and c, by the equations of rnn_forward."""
    if cell.startswith("rnn"):
        a = w @ x + b + u @ h + d
        return (np.tanh(a) if cell == "rnn_tanh" else np.maximum(a, 0)), c
    if cell == "lstm":
        i, f, g, o = np.split(w @ x + b + u @ h + d, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    size = len(h)
    r, z = np.split(sigmoid((w @ x + b + u @ h + d)[:2 * size]), 2)
    u_n, w_n, b_n, d_n = u[2 * size:], w[2 * size:], b[2 * size:], d[2 * size:]
    inner = r * (u_n @ h + d_n) if cell == "gru" else u_n @ (r * h) + d_n
    n = np.tanh(w_n @ x + b_n + inner)
    return (1 - z) * n + z * h, c


def plain_scan(cell: str, x: Any, h0: Any, c0: Any, *weights: Any, lengths: Any, reverse: bool) -> Any:
    """One sequence and one step at a time, in float64: y (B, T, H), h_n and c_n (B, H)."""
    arrays = [np.asarray(a, np.float64) for a in (x, h0, c0, *weights)]
    x, h0, c0, *weights = arrays
    y, h_n, c_n = np.zeros((*x.shape[:2], h0.shape[1])), h0.copy(), c0.copy()
    for row in range(x.shape[0]):
        length = x.shape[1] if lengths is None else lengths[row]
        for t in reversed(range(length)) if reverse else range(length):
            h_n[row], c_n[row] = plain_cell(cell, x[row, t], h_n[row], c_n[row], *weights)
            y[row, t] = h_n[row]
    return y, h_n, c_n


@st.composite
def scans(draw: Any, cell: str) -> Any:
    batch, steps, inputs, hidden = (draw(st.integers(low, 5)) for low in (0, 0, 1, 1))
    rng = np.random.default_rng(draw(seeds))
    dtype = draw(dtypes)
    gates = len(CELLS[cell].order)
    shapes = [(batch, steps, inputs), (batch, hidden), (batch, hidden), (gates * hidden, inputs),
              (gates * hidden, hidden), (gates * hidden,), (gates * hidden,)]
    kind = draw(st.integers(0, 3))
    arrays = [layout(rng.standard_normal(s).astype(dtype), kind) for s in shapes]
    lengths = rng.integers(0, steps + 1, batch) if draw(st.booleans()) else None
    return arrays, lengths, draw(st.booleans()), rng


def forward(backend: NumpyBackend, cell: str, arrays: Any, lengths: Any, reverse: bool, keep: bool = True) -> Any:
    x, h0, c0, *weights = arrays
    return backend.rnn_forward(cell, x, h0, c0 if cell == "lstm" else None, *weights, lengths, reverse, None, keep)


@backends
@cells
@given(data=st.data())
def test_scan_equals_its_definition(backend: NumpyBackend, cell: str, data: Any) -> None:
    arrays, lengths, reverse, rng = data.draw(scans(cell))
    y, h_n, c_n, saved = forward(backend, cell, arrays, lengths, reverse)
    expected = plain_scan(cell, *arrays, lengths=lengths, reverse=reverse)
    dtype = arrays[0].dtype
    close(y, expected[0], dtype)
    close(h_n, expected[1], dtype)
    if cell == "lstm":
        close(c_n, expected[2], dtype)
    else:
        assert c_n is None
    gradients = [layout(rng.standard_normal(a.shape).astype(dtype), 2) for a in expected]
    if cell != "lstm":
        gradients[2] = None
    needs = [True, True, cell == "lstm", True, True, True, True]
    pulled = backend.rnn_backward(cell, saved, *gradients, needs)
    for array, g, need in zip(arrays, pulled, needs, strict=True):
        assert (g.shape, g.dtype) == (array.shape, dtype) if need else g is None
    if dtype == np.float64 and cell != "rnn_relu":     # relu: a corner may lie between the two points
        def f(*a: Any) -> Any:
            outputs = plain_scan(cell, *a, lengths=lengths, reverse=reverse)
            return sum((o * g).sum() for o, g in zip(outputs, gradients, strict=True) if g is not None)
        used = [k for k, need in enumerate(needs) if need]

        def of_used(*a: Any) -> Any:
            return f(*[a[used.index(k)] if k in used else arrays[k] for k in range(7)])
        slope(of_used, [arrays[k] for k in used], [pulled[k] for k in used], rng)


@backends
@cells
@given(steps=st.integers(1, 3), dtype=dtypes, seed=seeds)
def test_a_scan_of_few_rows_is_that_of_many(backend: NumpyBackend, cell: str, steps: int, dtype: Any,
                                            seed: int) -> None:
    rng, rows = np.random.default_rng(seed), len(CELLS[cell].order) * 24
    shapes = (9, steps, 2), (9, 24), (9, 24), (rows, 2), (rows, 24), (rows,), (rows,)
    x, h0, c0, *weights = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    many = forward(backend, cell, [x, h0, c0, *weights], None, False)
    few = forward(backend, cell, [x[:1], h0[:1], c0[:1], *weights], None, False)
    for one, nine in zip(few[:3], many[:3], strict=True):
        assert one is nine is None or close(one, nine[:1]) is None


@backends
@cells
@given(data=st.data())
def test_a_scan_that_keeps_nothing_gives_the_same(backend: NumpyBackend, cell: str, data: Any) -> None:
    arrays, lengths, reverse, _ = data.draw(scans(cell))
    expected = forward(backend, cell, arrays, lengths, reverse)[:3]
    *got, saved = forward(backend, cell, arrays, lengths, reverse, keep=False)
    assert saved is None
    for a, b in zip(got, expected, strict=True):
        assert a is b is None or close(a, b) is None


@backends
@cells
@given(data=st.data(), needs=st.lists(st.booleans(), min_size=7, max_size=7))
def test_scan_gives_what_is_needed_and_takes_none_for_zero(backend: NumpyBackend, cell: str, data: Any,
                                                             needs: list[bool]) -> None:
    arrays, lengths, reverse, rng = data.draw(scans(cell))
    y, h_n, _, saved = forward(backend, cell, arrays, lengths, reverse)
    gy = rng.standard_normal(y.shape).astype(y.dtype)
    everything = backend.rnn_backward(cell, saved, gy, np.zeros_like(h_n), np.zeros_like(h_n), [True] * 7)
    some = backend.rnn_backward(cell, saved, gy, None, None, needs)
    for wanted, one, two in zip(needs, some, everything, strict=True):
        assert wanted or one is None
        if wanted and two is not None:
            assert np.array_equal(one, two)
    only_end = backend.rnn_backward(cell, saved, None, np.ones_like(h_n), None, [True] * 7)
    same = backend.rnn_backward(cell, saved, np.zeros_like(y), np.ones_like(h_n), None, [True] * 7)
    for one, two in zip(only_end, same, strict=True):
        assert (one is None and two is None) or np.array_equal(one, two)


@backends
@cells
@given(data=st.data())
def test_scan_never_sees_the_padding(backend: NumpyBackend, cell: str, data: Any) -> None:
    arrays, lengths, reverse, _ = data.draw(scans(cell))
    if lengths is None:
        return
    x = arrays[0].copy()
    x[np.arange(x.shape[1]) >= lengths[:, None]] = math.nan
    longer = np.concatenate((x, np.full((x.shape[0], 2, x.shape[2]), math.nan, x.dtype)), axis=1)
    y, h_n, c_n, saved = forward(backend, cell, arrays, lengths, reverse)
    y2, h2, c2, saved2 = forward(backend, cell, [longer, *arrays[1:]], lengths, reverse)
    close(y2[:, :x.shape[1]], y)
    close(h2, h_n)
    assert not y2[:, x.shape[1]:].any() and (c_n is None or np.array_equal(c2, c_n))
    needs = [True, True, cell == "lstm", True, True, True, True]
    g = np.ones_like(y)
    g2 = np.ones_like(y2)
    g2[np.arange(y2.shape[1]) >= lengths[:, None]] = math.nan
    for k, (one, two) in enumerate(zip(backend.rnn_backward(cell, saved, g, h_n, c_n, needs),
                                       backend.rnn_backward(cell, saved2, g2, h_n, c_n, needs), strict=True)):
        if k == 0:
            assert not two[:, x.shape[1]:].any()
            two = two[:, :x.shape[1]]
        if needs[k]:
            close(two, one)


CALLS = {"rnn_tanh": (3, 3), "rnn_relu": (3, 3), "gru": (12, 5), "gru_before": (12, 5), "lstm": (9, 7)}


@cells
def test_calls_on_arrays_a_step(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of few rows costs its calls, and none of them converts or strides."""
    backend, calls, rng = NumpyBackend(), [], np.random.default_rng(0)
    for name in ("add", "subtract", "multiply", "tanh", "maximum", "dot", "matmul", "take", "empty", "zeros"):
        kernel = getattr(np, name)
        monkeypatch.setattr(backend.xp, name, lambda *a, f=kernel, **b: calls.append(f.__name__) or f(*a, **b))
    rows, counts = len(CELLS[cell].order) * 8, []
    for steps in 3, 13:
        shapes = (2, steps, 4), (2, 8), (2, 8), (rows, 4), (rows, 8), (rows,), (rows,)
        calls.clear()
        *_, saved = forward(backend, cell, [rng.standard_normal(shape) for shape in shapes], None, False)
        there = len(calls)
        backend.rnn_backward(cell, saved, np.ones((2, steps, 8)), None, None, [True] * 7)
        counts.append((there, len(calls) - there))
    assert CALLS[cell] == tuple((b - a) / 10 for a, b in zip(*counts, strict=True))


@backends
@pytest.mark.reference
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("lengths", [None, [4, 7, 1, 7, 2]])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "gru", "lstm"])
def test_scan_is_torchs(backend: NumpyBackend, cell: str, bias: bool, lengths: Any, dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, h0, c0 = (rng.standard_normal(s).astype(dtype) for s in ((5, 7, 3), (2, 5, 6), (2, 5, 6)))
    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}.get(cell, torch.nn.RNN)
    options = {"nonlinearity": "relu"} if cell == "rnn_relu" else {}
    torch.manual_seed(0)
    net = kind(3, 6, bias=bias, batch_first=True, bidirectional=True, dtype=torch.tensor(x).dtype, **options)
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, h0, c0)]
    given = leaves[0]
    if lengths is not None:
        given = torch.nn.utils.rnn.pack_padded_sequence(given, torch.tensor(lengths), batch_first=True,
                                                        enforce_sorted=False)
    out, ends = net(given, (leaves[1], leaves[2]) if cell == "lstm" else leaves[1])
    if lengths is not None:
        out, _ = torch.nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=7)
    outputs = [out, *(ends if cell == "lstm" else [ends])]
    gradients = [rng.standard_normal(o.shape).astype(dtype) for o in outputs]
    sum((o * torch.tensor(g)).sum() for o, g in zip(outputs, gradients, strict=True)).backward()
    dx = 0
    for k, suffix in enumerate(("", "_reverse")):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[:4 if bias else 2]
        weights = [getattr(net, f"{n}_l0{suffix}") for n in names]
        arrays = [w.detach().numpy() for w in weights] + [None] * (0 if bias else 2)
        y, h_n, c_n, saved = backend.rnn_forward(
            cell, x, h0[k], c0[k] if cell == "lstm" else None, *arrays,
            None if lengths is None else np.array(lengths), reverse=k == 1)
        close(y, out[..., 6 * k:6 * k + 6].detach().numpy(), dtype)
        close(h_n, outputs[1][k].detach().numpy(), dtype)
        g_end = [g[k] for g in gradients[1:]]
        if cell == "lstm":
            close(c_n, outputs[2][k].detach().numpy(), dtype)
        pulled = backend.rnn_backward(cell, saved, gradients[0][..., 6 * k:6 * k + 6], g_end[0],
                                          g_end[1] if cell == "lstm" else None, [True] * 5 + [bias] * 2)
        dx = dx + pulled[0]
        close(pulled[1], leaves[1].grad[k].numpy(), dtype)
        if cell == "lstm":
            close(pulled[2], leaves[2].grad[k].numpy(), dtype)
        for g, w in zip(pulled[3:], weights, strict=False):
            close(g, w.grad.numpy(), dtype)
    close(dx, leaves[0].grad.numpy(), dtype)


@given(sizes, sizes, sizes, dtypes, seeds, st.booleans())
def test_pieces_make_up_a_compiled_product(n: int, inner: int, outer: int, dtype: Any, seed: int, add: bool) -> None:
    recurrent = pytest.importorskip("tinyseq.backends.compiled.recurrent")
    blas, rng = recurrent.products.gemm(), np.random.default_rng(seed)
    a, w, c = (rng.standard_normal(shape).astype(dtype) for shape in ((n, inner), (inner, outer), (n, outer)))
    expected = a @ w + c if add else a @ w
    for source, turned in (w, False), (np.ascontiguousarray(w.T), True):
        pieces, found = np.empty_like(w), c.copy()
        recurrent.cut(source, turned, pieces)
        recurrent.product(blas, a, pieces, recurrent.WIDTH, found, add)
        close(found, expected, dtype)
    found = np.empty((inner, outer), dtype)
    recurrent.turned_product(blas, a, c, found)
    close(found, a.T @ c, dtype)


@pytest.mark.parametrize("threads", [1, 2])
@cells
@pytest.mark.parametrize(("batch", "steps", "width", "hidden"), [(40, 9, 70, 130), (3, 4, 70, 130), (1, 100, 7, 65)])
def test_wide_compiled_scans_are_the_portable_ones(batch: int, steps: int, width: int, hidden: int, cell: str,
                                                   threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    recurrent = pytest.importorskip("tinyseq.backends.compiled.recurrent")
    for module in recurrent, recurrent.share.__globals__:
        monkeypatch.setitem(module if isinstance(module, dict) else vars(module), "LEAST", 1)
    rng, rows, before = np.random.default_rng(0), len(CELLS[cell].order) * hidden, get_num_threads()
    shapes = ((batch, steps, width), (batch, hidden), (batch, hidden), (rows, width), (rows, hidden), (rows,), (rows,))
    x, h0, c0, *weights = (0.1 * rng.standard_normal(shape) for shape in shapes)
    gradients = [rng.standard_normal(shape) for shape in ((batch, steps, hidden), h0.shape, h0.shape)]
    c0, gradients[2] = (c0, gradients[2]) if cell == "lstm" else (None, None)
    mask, lengths = rng.integers(0, 2, h0.shape) * 2.0, rng.integers(0, steps + 1, batch)
    lengths[0] = steps
    set_num_threads(threads)
    try:
        for options in (None, False, None), (lengths, True, mask):
            found, expected = [], []
            for backend, results in (BACKENDS[-1], found), (BACKENDS[0], expected):
                *outputs, saved = backend.rnn_forward(cell, x, h0, c0, *weights, *options)
                for _ in range(2):  # what is saved stays as it is
                    pulled = backend.rnn_backward(cell, saved, *gradients, [True, True, cell == "lstm", *[True] * 4])
                    results += [*outputs, *pulled]
            for one, two in zip(found, expected, strict=True):
                assert one is two is None or close(one, two, np.float64) is None
    finally:
        set_num_threads(before)


@backends
@cells
def test_what_is_not_a_number_stays_so(backend: NumpyBackend, cell: str) -> None:
    rows, c0 = len(CELLS[cell].order) * 5, np.ones((2, 5), "f") if cell == "lstm" else None
    x, w_ih, w_hh = np.ones((2, 4, 3), "f"), np.ones((rows, 3), "f"), np.ones((rows, 5), "f")
    x[0, 2], x[1, 1] = np.nan, -1e30
    y = backend.rnn_forward(cell, x, np.ones((2, 5), "f"), c0, w_ih, w_hh, None, None)[0]
    assert np.isnan(y[0, 2:]).all() and np.isfinite(y[0, :2]).all() and np.isfinite(y[1]).all()
