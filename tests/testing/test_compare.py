"""`tinyseq.testing.parity`: backends agree for a whole training, and a wrong kernel is named where it first shows."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tinyseq as ts
from tinyseq import backends, nn, optim
from tinyseq.testing import parity
from tinyseq.testing.compare import difference

RNG = np.random.default_rng(0)
LENGTHS = np.array([5, 2, 7, 0, 7, 1])
IDS = RNG.integers(1, 11, (6, 7)) * (np.arange(7) < LENGTHS[:, None])


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A backend like the active one under another name, and so open to wrong kernels: new tensors are born on it."""
    kind = type(backends.active())
    backend = type("Other", (kind,), {"name": "other"})()
    monkeypatch.setitem(backends._loaded, "other", backend)
    with ts.use_backend("other"):
        yield backend


class Classifier(nn.Module):
    def __init__(self) -> None:
        self.embedding, self.norm = nn.Embedding(11, 6, padding_idx=0), nn.LayerNorm(6)
        self.rnn, self.out = nn.LSTM(6, 5, 2, bidirectional=True, dropout=0.2, recurrent_dropout=0.2), nn.Linear(20, 3)

    def forward(self, ids: Any, lengths: Any) -> Any:
        _, (h, _) = self.rnn(self.norm(self.embedding(ids)), lengths=lengths)
        return self.out(ts.concat([h[0], h[1], h[2], h[3]], -1))


def classify(steps: int) -> list[float]:
    """The losses of a small LSTM classifier; the labels are each row's first id modulo 3."""
    ts.manual_seed(0)
    model = Classifier()
    return learn(model, optim.AdamW(model.parameters(), 0.01), lambda: model(IDS, LENGTHS), IDS[:, 0] % 3, steps)


def translate(steps: int) -> list[float]:
    """The losses of a small encoder-decoder with attention that learns to copy."""
    ts.manual_seed(0)
    decoder = nn.AttentionDecoder(11, 6, 10, nn.DotAttention(10, 10, projected=True), 10)
    model = nn.EncoderDecoder(nn.Embedding(11, 6), nn.GRU(6, 5, bidirectional=True), decoder)
    sgd = optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return learn(model, sgd, lambda: model(IDS, LENGTHS, IDS[:, :-1]), IDS[:, 1:], steps)


def learn(model: nn.Module, optimizer: optim.Optimizer, forward: Any, targets: Any, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        loss = ts.functional.cross_entropy(forward(), targets)
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("train", [classify, translate])
def test_backends_agree_for_200_steps(train: Callable[[int], list[float]], other: Any) -> None:
    with parity() as seen:
        losses = train(200)
    assert seen.compared > 200 * 30
    assert losses[-1] < losses[0] / 2
    with ts.use_backend("numpy"):  # and so do two whole runs, as far as rounding that adds up lets them
        np.testing.assert_allclose(losses[:20], train(20), rtol=1e-3)


def off(result: Any) -> Any:
    """`result` with the last row of its first array wrong by a thousandth."""
    first, *rest = result if isinstance(result, tuple) else (result,)
    wrong = ~first if first.dtype == bool else first * 1.001 + 1e-3
    if first.ndim:
        wrong[:-1] = first[:-1]
    return (wrong, *rest) if isinstance(result, tuple) else wrong


KERNELS = [
    (classify, "rnn_forward", r"scan\('lstm', float32\[6, 7, 6\], float32\[6, 5\].*: .*float32\[6, 7, 5\], largest"),
    (classify, "rnn_backward", r"the gradient of scan\('lstm', float32\[6, 7, 10\].* input 1, from \[.*: .*largest"),
    (classify, "layer_norm", r"layer_norm\(float32\[6, 7, 6\]"),
    (classify, "layer_norm_backward", r"the gradient of layer_norm\(float32\[6, 7, 6\].* for input 0"),
    (classify, "dropout", r"dropout\(float32\[6, 5\], 0.2, 0, "),
    (classify, "cross_entropy", r"cross_entropy\(float32\[6, 3\], int64\[6\]"),
    (classify, "cross_entropy_backward", r"the gradient of cross_entropy\(float32\[6, 3\]"),
    (classify, "global_norm", r"clip_grad_norm_\(\[float32\[11, 6\]"),
    (translate, "softmax", r"softmax\(float32\[6, 6, 7\], -1, bool\[6, 1, 7\]\), called at .*compare.py:\d+: float32"),
    (translate, "softmax_backward", r"the gradient of softmax\(float32\[6, 6, 7\].*from float32\[6, 6, 7\]: "),
]


@pytest.mark.parametrize(("train", "kernel", "named"), KERNELS, ids=[row[1] for row in KERNELS])
def test_a_wrong_kernel_is_named(train: Any, kernel: str, named: str, other: Any, monkeypatch: Any) -> None:
    right = getattr(other, kernel)
    monkeypatch.setattr(other, kernel, lambda *args, **kwargs: off(right(*args, **kwargs)), raising=False)
    with pytest.raises(AssertionError, match=rf"^([\w.]+: )?other and numpy part in {named}"), parity():
        train(1)


@pytest.mark.parametrize(("train", "kernel", "named"), [
    (classify, "adam_step", r"AdamW.step\(1, \[float32\[11, 6\].*: array 0, float32\[11, 6\], largest difference 0.0"),
    (translate, "sgd_step", r"SGD.step\("),
    (classify, "scale", r"clip_grad_norm_\("),
])
def test_a_wrong_update_is_named(train: Any, kernel: str, named: str, other: Any, monkeypatch: Any) -> None:
    right = getattr(other, kernel)

    def wrong(arrays: list[Any], *args: Any, **kwargs: Any) -> None:
        right(arrays, *args, **kwargs)
        arrays[0][0] += 0.01

    monkeypatch.setattr(other, kernel, wrong, raising=False)
    with pytest.raises(AssertionError, match=rf"^([\w.]+: )?other and numpy part in {named}"), parity():
        train(1)


def test_shapes_dtypes_and_nan_count(other: Any) -> None:
    x = np.ones((2, 3), np.float32)
    assert difference(x, x.copy()) == ""
    assert difference([x, (x,)], [x, (x,)]) == ""
    assert difference(x * np.nan, x * np.nan) == ""
    assert difference(x, x + np.float32(1e-6)) == ""
    assert "float32[3, 2], expected float32[2, 3]" in difference(x.T, x)
    assert "float64[2, 3], expected float32[2, 3]" in difference(x.astype(float), x)
    assert "1 arrays, 2 expected" in difference([x], [x, x])
    y = x.copy()
    y[1, 2] = np.nan
    assert "largest difference inf at (1, 2): nan, expected 1.0" in difference(y, x)
    y[1, 2] = 1.5
    assert "largest difference 0.5 at (1, 2): 1.5, expected 1.0" in difference(y, x)
    assert "largest difference 1 at (0,)" in difference(np.array([2, 3]), np.array([1, 3]))


def test_nothing_compared_is_an_error() -> None:
    with ts.use_backend("numpy"), pytest.raises(ValueError, match="compared nothing"), parity():
        ts.ones(3).exp()


def test_gradients_of_gradients_and_recomputation(other: Any) -> None:
    x = ts.tensor([0.3, -1.2], requires_grad=True)
    with parity():
        slope = ts.grad(ts.functional.softmax(ts.recompute(ts.tanh, x) * x)[0], x, create_graph=True)
        (slope * slope).sum().backward()
    assert np.isfinite(ts.Tensor(x.grad.data).numpy()).all()


def test_backends_agree_in_float16_past_2048_rows(other: Any) -> None:
    layer, norm = nn.Linear(3, 8, dtype="float16"), nn.LayerNorm(8, dtype="float16")
    norm.weight.data = np.linspace(0.5, 1.5, 8).astype(np.float16)  # of equal ones the gradient of x is 0
    x = ts.tensor(RNG.standard_normal((8192, 3)), np.float16)
    with parity():
        y = norm(layer(x))
        y.backward(ts.ones_like(y))
    assert norm.bias.grad is not None and norm.bias.grad.tolist() == [8192] * 8
