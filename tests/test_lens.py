"""Gradients through time are PyTorch's, and gates are counted as they stand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyseq as ts
from tinyseq import lens, nn


@pytest.mark.reference
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_gradients_are_those_of_torchs_cell_step_by_step(kind: str) -> None:
    torch = pytest.importorskip("torch")
    layer, cell = getattr(nn, kind)(2, 3, dtype="float64"), getattr(torch.nn, kind + "Cell")(2, 3).double()
    cell.load_state_dict({k.removesuffix("_l0"): torch.tensor(v.numpy()) for k, v in layer.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((4, 5, 2))
    state, kept = None, []
    for t in range(5):
        state = cell(torch.tensor(x[:, t]), state)
        kept.append(state[0] if kind == "LSTM" else state)
        kept[-1].retain_grad()
    (kept[2] ** 2).sum().add((kept[4] ** 3).sum()).backward()
    expected = np.stack([h.grad.norm(dim=-1).numpy() for h in kept], 1)
    found = lens.gradients_through_time(layer, x, lambda y: ts.sum(y[:, 2] ** 2) + ts.sum(y[:, 4] ** 3))
    np.testing.assert_allclose(found[0], expected, atol=1e-12)
    assert [g.shape for g in found] == [(4, 5)] * (1 + (kind == "LSTM"))


def test_a_padded_row_is_as_alone() -> None:
    x, loss = 9 * np.random.default_rng(0).standard_normal((2, 5, 2)), lambda y: ts.sum(ts.sin(y + 1))
    scan = nn.Scan(lambda i, h: nn.GRUCell(i, h, dtype="float64"), 2, 3)
    (both,), (alone,) = (lens.gradients_through_time(scan, *a) for a in ((x, loss, [5, 3]), (x[1:, :3], loss)))
    np.testing.assert_allclose(both[1], [*alone[0], 0, 0], atol=1e-12)
    gru = nn.GRU(2, 3, dtype="float64")
    padded, only = lens.gate_saturation(gru, x, [0, 3]), lens.gate_saturation(gru, x[1:, :3])
    for gate in "rz":
        assert only[gate].any()
        np.testing.assert_allclose(padded[gate], [*only[gate], [0, 0], [0, 0]])


def test_gates_are_counted() -> None:
    lstm = nn.LSTM(1, 2)
    for parameter in lstm.parameters():
        parameter.data = 0.0 * parameter.data
    bias = np.zeros(8, np.float32)
    bias[:8] = [-9, 9, 9, 9, 0, 0, 0, -9]                       # i, f, g, o of two units each
    lstm.bias_ih_l0.data = bias
    found = lens.gate_saturation(lstm, np.zeros((3, 4, 1), np.float32))
    assert {gate: fractions[0].tolist() for gate, fractions in found.items()} == {
        "i": [0.5, 0.5], "f": [0.0, 1.0], "o": [0.5, 0.0]}
    lstm.bias_ih_l0.data = np.array([9, 9, 0, 0, 9, 9, 9, 9], np.float32)
    weights = np.zeros((8, 2), np.float32)
    weights[2:4] = 50                                           # f opens by what stood in h one step before
    lstm.weight_hh_l0.data = weights
    assert lens.gate_saturation(lstm, np.zeros((3, 4, 1), np.float32))["f"].tolist() == [[0, 0], [0, 1], [0, 1], [0, 1]]
    assert lens.gate_saturation(nn.RNN(1, 2), np.zeros((3, 4, 1), np.float32)) == {}


def test_what_it_cannot_measure_is_refused() -> None:
    x = np.zeros((2, 4, 1), np.float32)
    with pytest.raises(ValueError, match=r"gradients_through_time: expected one layer.*got 2 layers"):
        lens.gradients_through_time(nn.RNN(1, 2, 2), x, ts.sum)
    with pytest.raises(ValueError, match=r"gate_saturation: expected one layer.*got 2 layers"):
        lens.gate_saturation(nn.GRU(1, 2, 2), x)
    gru, right = nn.GRU(1, 2), ts.sum
    for bad, message in ((3, "expected layer"), (None, "expected layer"), (nn.Linear(1, 2), "expected layer")):
        with pytest.raises(TypeError, match=f"^gradients_through_time: {message}"):
            lens.gradients_through_time(bad, x, right)
        with pytest.raises(TypeError, match=f"^gate_saturation: {message}"):
            lens.gate_saturation(bad, x)
    for wrong in (3, "a", None, np.zeros((2, 4), np.float32), np.zeros((2, 4, 3), np.float32)):
        with pytest.raises((TypeError, ValueError), match=r"^gradients_through_time: expected x \(B, T, 1\), got"):
            lens.gradients_through_time(gru, wrong, right)
        with pytest.raises((TypeError, ValueError), match=r"^gate_saturation: expected x \(B, T, 1\), got"):
            lens.gate_saturation(gru, wrong)
    for loss in (3, lambda y: y, lambda y: 1.0, lambda y: None):
        with pytest.raises(TypeError, match=r"^gradients_through_time: expected T > 0 and, as loss, a function"):
            lens.gradients_through_time(gru, x, loss)    # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got T = 0"):
        lens.gradients_through_time(gru, x[:, :0], right)
    for lengths in ([1, 5], [-1, 2], [1.5, 2.0], [1], [[1, 2]]):
        for run in (lambda n: lens.gradients_through_time(nn.RNN(1, 2), x, ts.sum, n),
                    lambda n: lens.gate_saturation(nn.GRU(1, 2), x, n)):
            with pytest.raises(ValueError, match="integers"):
                run(lengths)


def test_gates_are_open_above_nine_tenths_and_shut_below_one() -> None:
    gru = nn.GRU(1, 8)
    for parameter in gru.parameters():
        parameter.data = 0.0 * parameter.data
    bias = np.zeros(24, np.float32)
    p = np.array([0.01, 0.08, 0.12, 0.5, 0.85, 0.88, 0.92, 0.99])
    bias[:8] = np.log(p / (1 - p))
    gru.bias_ih_l0.data, gru.bias_hh_l0.data = 3 * bias, -2 * bias
    assert lens.gate_saturation(gru, np.zeros((1, 1, 1), np.float32))["r"].tolist() == [[0.25, 0.25]]


def test_the_picture_names_models_and_gates(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from tinyseq import plot
    models: dict[str, Any] = {"RNN": (np.ones((2, 4)), {}), "GRU": (np.ones((2, 4)), {"z": np.full((4, 2), 0.3)})}
    plot.through_time(models, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert all(f"<!-- {word} -->" in text for word in ("RNN", "GRU", "step t", "GRU: fraction of gates"))


@pytest.mark.parametrize("kind", ["MinGRU", "MinLSTM", "LRU"])
@pytest.mark.parametrize("lengths", [None, [6, 2, 0]])
def test_a_linear_recurrence_hears_what_its_multipliers_retain(kind: str, lengths: Any) -> None:
    layer, x = getattr(nn, kind)(2, 1, dtype="float64"), np.random.default_rng(0).standard_normal((3, 6, 2))
    ends = [n - 1 for n in lengths or [6, 6, 6]]
    last = lambda y: sum(ts.sum(y[row, end]) for row, end in enumerate(ends) if end >= 0)
    [heard] = lens.gradients_through_time(layer, x, last, lengths)
    found = lens.retained(layer, x, lengths)
    for row, end in enumerate(ends):
        np.testing.assert_allclose(found[row, : end + 1], heard[row, : end + 1] / heard[row, end], atol=1e-12)
        assert not found[row, end + 1 :].any() and (end < 0 or found[row, end] == 1)
    assert (np.diff(found[0]) > 0).all()


def test_gates_retain_the_product_of_all_later_ones_on_the_mean() -> None:
    x = np.zeros((2, 4, 1), np.float32)
    gru, lstm, min_gru, min_lstm = nn.GRU(1, 2), nn.LSTM(1, 2), nn.MinGRU(1, 2), nn.MinLSTM(1, 2)
    for layer, key, rows in ((gru, "bias_ih_l0", 6), (lstm, "bias_ih_l0", 8), (min_gru, "bias_ih_l0", 4),
                             (min_lstm, "bias_ih_l0", 6)):
        for parameter in layer.parameters():
            parameter.data = 0.0 * parameter.data
        bias = np.zeros(rows, np.float32)
        bias[{gru: slice(2, 4), lstm: slice(2, 4), min_gru: slice(0, 2), min_lstm: slice(0, 2)}[layer]] = (
            [-np.log(4), 30] if layer is min_gru else [np.log(4), -30])
        getattr(layer, key).data = bias
    for layer, first in ((gru, 0.8), (lstm, 0.8), (min_gru, 0.8), (min_lstm, 0.8 / 1.3)):
        expected = [(first**k + 0.0**k) / 2 for k in (3, 2, 1, 0)]
        np.testing.assert_allclose(lens.retained(layer, x), [expected] * 2, atol=1e-6)
    assert lens.gate_saturation(min_gru, x)["z"].tolist() == [[0, 0.5]] * 4
    assert lens.gate_saturation(min_lstm, x)["f"].tolist() == [[0.5, 0]] * 4
    assert lens.gate_saturation(nn.LRU(1, 2), x) == lens.gate_saturation(nn.Scan(nn.GRUCell, 1, 2), x) == {}
    for layer in nn.RNN(1, 2), nn.Scan(nn.GRUCell, 1, 2):
        with pytest.raises(ValueError, match=r"^retained: expected a MinGRU, MinLSTM, LRU, GRU .*got (RNN|Scan)"):
            lens.retained(layer, x)
    for layer, message in ((nn.GRU(1, 2, 2), "one layer"), (nn.Linear(1, 2), "expected layer")):
        with pytest.raises((TypeError, ValueError), match=f"^retained: .*{message}"):
            lens.retained(layer, x)
