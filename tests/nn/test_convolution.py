"""Convolution and pooling along time: the laws of sequence layers, PyTorch's numbers, pieces."""

from typing import Any

import numpy as np
import pytest
from helpers.layers import close, judge, normal
from hypothesis import assume, given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import nn
from tinyseq.testing import check_grad, check_sequence_layer

MODES = ["zeros", "reflect", "replicate", "circular"]


def turned(*xs: Any) -> Any:
    """(B, T, C) as (B, C, T), and back."""
    found = [x.permute_dims(0, 2, 1) if isinstance(x, ts.Tensor) else x.permute(0, 2, 1) for x in xs]
    return found[0] if len(found) == 1 else found


@pytest.mark.parametrize("options", [{}, {"dilation": 2}, {"groups": 2, "bias": False}], ids=str)
def test_a_causal_convolution_keeps_the_laws_of_recurrent_layers(options: Any) -> None:
    conv = nn.Conv1d(2, 4, 3, causal=True, dtype=np.float64, **options)
    check_sequence_layer(conv, 2, causal=True)
    check_sequence_layer(conv, 2, call=lambda x, lengths, state=None: conv.step(x, state, lengths), causal=True)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_one_that_keeps_the_length_keeps_the_laws(size: int) -> None:
    check_sequence_layer(nn.Conv1d(2, 3, size, padding="same", dtype=np.float64), 2)


@pytest.mark.parametrize("layer", [nn.MaxPool1d(3, 1, 1), nn.AvgPool1d(3, 1, 1),
                                   nn.AvgPool1d(3, 1, 1, count_include_pad=False)], ids=str)
def test_pooling_that_keeps_the_length_keeps_the_laws(layer: nn.Module) -> None:
    check_sequence_layer(layer, 2)


@given(st.data())
def test_a_row_in_a_batch_is_as_alone(data: st.DataObject) -> None:
    """Also where the length changes, and what stands around a row is its own."""
    draw = lambda *options: data.draw(st.sampled_from(options))
    size, stride, dilation, padding, mode = draw(1, 2, 3), draw(1, 2, 3), draw(1, 2), draw(0, 1, 2), draw(*MODES)
    layer = draw(
        lambda: nn.Conv1d(2, 4, size, stride, padding, dilation, draw(1, 2), draw(True, False), mode, dtype=np.float64),
        lambda: nn.MaxPool1d(size, stride, min(padding, size // 2), dilation),
        lambda: nn.AvgPool1d(size, stride, min(padding, size // 2), count_include_pad=draw(True, False)))()
    steps = max(layer.span, 3) + 2
    lengths = [steps, *(draw(0, *range(3, steps + 1)) for _ in range(2))]
    x = normal(np.random.default_rng(0), 3, steps, 2)
    y = layer(ts.tensor(np.where(np.arange(steps)[:, None] < np.reshape(lengths, (-1, 1, 1)), x, np.nan)), lengths)
    counts = layer.out_lengths(lengths)
    for row, length, n in zip(range(3), lengths, counts.tolist(), strict=True):
        assert ts.all(y[row, n:] == 0)
        if n:
            close(y[row, :n], layer(ts.tensor(x[row : row + 1, :length]))[0])


@pytest.mark.filterwarnings("ignore:Using padding='same'")     # PyTorch's, of even kernels, once a process
@pytest.mark.reference
@given(st.data())
def test_equal_to_pytorch(data: st.DataObject) -> None:
    torch = pytest.importorskip("torch")
    draw = lambda *options: data.draw(st.sampled_from(options))
    size, stride, padding = draw(1, 2, 3, 4), draw(1, 2), draw(0, 1, 3, "same", "valid")
    dtype = draw("float32", "float64")
    assume(padding != "same" or stride == 1)
    groups = draw(1, 2, 4)
    given_ = (4, draw(4, 8), size, stride, padding, draw(1, 2), groups, draw(True, False), draw(*MODES))
    steps = draw(7, 10)
    ours, theirs = nn.Conv1d(*given_, dtype=dtype), torch.nn.Conv1d(*given_, dtype=getattr(torch, dtype))
    x = normal(np.random.default_rng(0), 2, steps, 4, dtype=dtype)
    judge(ours, theirs, lambda m, x: [m(x)], lambda m, x: [turned(m(turned(x)))], [x], dtype)


@pytest.mark.reference
@given(st.data())
def test_pooling_is_pytorchs(data: st.DataObject) -> None:
    torch = pytest.importorskip("torch")
    draw = lambda *options: data.draw(st.sampled_from(options))
    size, stride = draw(1, 2, 3), draw(None, 1, 2, 4)
    padding = draw(0, size // 2)
    x = normal(np.random.default_rng(0), 2, draw(5, 8), 3).round(1)  # with entries that are equal
    if draw(True, False):
        given_: Any = (size, stride, padding, draw(1, 2))
        ours: Any = nn.MaxPool1d(*given_)
        theirs: Any = torch.nn.MaxPool1d(*given_)
    else:
        count = draw(True, False)
        ours = nn.AvgPool1d(size, stride, padding, count_include_pad=count)
        theirs = torch.nn.AvgPool1d(size, stride, padding, count_include_pad=count)
    judge(ours, theirs, lambda m, x: [m(x)], lambda m, x: [turned(m(turned(x)))], [x], "float64")


@given(st.data())
def test_pieces_of_any_length_give_what_the_whole_gives(data: st.DataObject) -> None:
    draw = lambda *options: data.draw(st.sampled_from(options))
    conv = nn.Conv1d(2, 3, draw(2, 3, 4), draw(1, 2), dilation=draw(1, 2), causal=True, dtype=np.float64)
    x = ts.tensor(normal(np.random.default_rng(0), 2, 9, 2))
    cuts, state, found = sorted(data.draw(st.lists(st.integers(0, 9), max_size=4))), None, []
    for start, stop in zip([0, *cuts], [*cuts, 9], strict=True):
        y, state = conv.step(x[:, start:stop], state)
        found.append(y)
    close(ts.concat(found, axis=1), conv(x))


def test_gradients_are_right_and_so_are_theirs() -> None:
    rng = np.random.default_rng(0)
    for conv in (nn.Conv1d(2, 4, 3, 2, 1, 2, 2, dtype=np.float64), nn.Conv1d(2, 2, 3, padding=2, padding_mode="reflect",
                                                                            groups=2, dtype=np.float64)):
        x = ts.tensor(normal(rng, 2, 6, 2))
        check_grad(lambda x, *_, conv=conv: conv(x, lengths=[6, 3]), x, *conv.parameters(), order=2)


@pytest.mark.parametrize("make, message", [
    (lambda: nn.Conv1d(2, 3, 3, padding="some"), "padding to be one of 'valid', 'same'"),
    (lambda: nn.Conv1d(2, 3, 3, 2, padding="same"), "stride=1 with padding='same'"),
    (lambda: nn.Conv1d(2, 3, 3, groups=2), "multiples of groups, got 2, 3 and 2"),
    (lambda: nn.Conv1d(2, 3, 3, padding=1, causal=True), "no padding .* with causal=True"),
    (lambda: nn.Conv1d(2, 3, 3, device="cpu"), "device= is PyTorch's"),
    (lambda: nn.Conv1d(2, 3, 3, padding_mode="mirror"), "padding_mode to be one of"),
    (lambda: nn.MaxPool1d(2, padding=2), "padding <= 1, got 2"),
    (lambda: nn.MaxPool1d(2, return_indices=True), "no argument 'return_indices'"),
    (lambda: nn.Conv1d(2, 3, 3)(ts.ones((2, 2, 3))), r"x \(B, T, 2\), got shape \(2, 2, 3\)"),
    (lambda: nn.Conv1d(2, 3, 3)(ts.ones((2, 2, 2))), "at least the 3 steps of a window, got 2"),
    (lambda: nn.MaxPool1d(3)(ts.ones((2, 2, 2))), "at least the 3 steps of a window, got 2"),
    (lambda: nn.Conv1d(2, 3, 3).step(ts.ones((2, 2, 2))), "expected a convolution with causal=True"),
    (lambda: nn.Conv1d(2, 3, 3, 2, causal=True).step(ts.ones((2, 2, 2)), lengths=[1, 2]), "and lengths"),
    (lambda: nn.Conv1d(2, 3, 3, causal=True).step(ts.ones((2, 2, 2)), ts.ones((1, 2, 2))), r"state \(2, 2, 2\)"),
    (lambda: nn.Conv1d(2, 3, 5, padding=2, padding_mode="reflect")(ts.ones((2, 6, 2)), lengths=[6, 2]),
     "at least 3 entries for a padding of 2 by 'reflect', got 2"),
])
def test_what_does_not_fit_is_refused(make: Any, message: str) -> None:
    with ts.use_backend("numpy"), pytest.raises((ValueError, TypeError), match=message):  # on a device nobody looks
        make()


def test_layers_before_and_after_must_fit() -> None:
    with pytest.raises(ValueError, match="takes 5"):
        nn.Sequential(nn.Conv1d(2, 3, 1), nn.Linear(5, 2))


def test_a_batch_without_steps_has_no_output() -> None:
    assert nn.Conv1d(2, 3, 3)(ts.ones((2, 0, 2))).shape == (2, 0, 3) == nn.Conv1d(2, 3, 3, causal=True).step(
        ts.ones((2, 0, 2)))[0].shape
    assert nn.MaxPool1d(3)(ts.ones((2, 0, 2)), lengths=[0, 0]).shape == (2, 0, 2)
