"""Means, perplexity, bits per character and accuracy, against NumPy and PyTorch."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq.functional import cross_entropy
from tinyseq.metrics import Accuracy, BitsPerCharacter, Mean, Perplexity

KINDS: Any = [list, np.array, ts.tensor, lambda x: np.array(x, "uint8"), lambda x: np.array(x, "int16")]


@given(st.lists(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), min_size=4, max_size=4), max_size=4),
       st.integers(0, 200), st.data())
def test_accuracy_is_a_count(rows: list[list[tuple[int, int]]], ignored: int, data: st.DataObject) -> None:
    """Of ids of any kind and width."""
    lengths = [data.draw(st.integers(0, 4)) for _ in rows]
    said, true = ([[pair[side] for pair in row] for row in rows] for side in (0, 1))
    metric = Accuracy(ignore_index=ignored)
    if rows:
        kinds = [data.draw(st.sampled_from(KINDS)) for _ in range(3)]
        metric.update(kinds[0](said), kinds[1](true), lengths=kinds[2](lengths))
    counted = [pair for row, n in zip(rows, lengths, strict=True) for pair in row[:n] if pair[1] != ignored]
    assert metric.sums() == {"right": sum(a == b for a, b in counted), "total": len(counted)}


def test_what_is_no_ids_is_told() -> None:
    logits = ts.zeros((2, 3, 5))
    for predictions, targets, lengths, error, message in (
            (logits, [[1, 2, 3]] * 2, None, TypeError, r"integers or booleans, got float32\[2, 3, 5\].*argmax"),
            ([1, 2], [1], None, ValueError, r"shape of targets, \(1,\), got \(2,\)"),
            ([1], [0.5], None, TypeError, "expected targets as integers"),
            ([1], [1], [1], ValueError, r"targets \(B, T\) where lengths are given, got shape \(1,\)"),
            ([[1]], [[1]], [2], ValueError, "lengths"), (["a"], ["b"], None, TypeError, "predictions"),
            ([[1]], [[1]], [1, 1], ValueError, "lengths")):
        metric = Accuracy()
        with pytest.raises(error, match=rf"^Accuracy.update\(.*{message}"):
            metric.update(predictions, targets, lengths)
        assert metric.sums() == {"right": 0, "total": 0}
    for metric, wrong in ((Perplexity(), ("a", 1)), (Perplexity(), (1.0, 1.5)), (Perplexity(), (1.0, -1)),
                          (Perplexity(), (1.0, [0.5])), (Mean(), (None, 1)), (BitsPerCharacter(), (1.0, "four"))):
        with pytest.raises((TypeError, ValueError), match=rf"^{type(metric).__name__}.update\(.*got"):
            metric.update(*wrong)


def test_sums_are_those_of_float64() -> None:
    """A float32 that has 2**24 stays there when a 1 is added; and many that no float16 can sum."""
    mean = Mean()
    for _ in range(3):
        mean.update(np.full(1 << 12, 4096, "float32"), 1)
        mean.update(np.float32(1), 1)
    assert mean.sums() == {"total": 3 * (2.0**24 + 1), "count": 6}
    half = Mean()
    half.update(ts.full(1 << 12, 4096.0, ts.float16), 1)
    assert half.compute() == 2.0**24
    many = Accuracy()
    for _ in range(3):
        many.update(np.ones(100, "int8"), np.ones(100, "int8"))
    assert many.sums() == {"right": 300, "total": 300}


def test_a_loss_that_is_not_finite_has_no_finite_mean() -> None:
    for value, mean, perplexity in ((math.nan, "nan", "nan"), (math.inf, "inf", "inf"), (1e6, "1000000.0", "inf")):
        one, other = Mean(), Perplexity()
        one.update(value, 1)
        other.update(value, 1)
        assert (str(one.compute()), str(other.compute())) == (mean, perplexity)


def test_gradients_are_left_where_they_are() -> None:
    x = ts.ones(3, requires_grad=True)
    metric = Perplexity()
    metric.update(ts.sum(x * 2.0), 3)
    assert metric.compute() == math.exp(2)


@pytest.mark.reference
@given(st.integers(0, 2**31), st.integers(1, 4))
def test_perplexity_is_pytorchs_cross_entropy(seed: int, batches: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    logits, targets = 3 * rng.standard_normal((8, 5, 7)), rng.integers(0, 7, (8, 5))
    targets[0, 0] = 1
    metric, bits, by_token = Perplexity(), BitsPerCharacter(), Perplexity()
    for x, y in zip(np.array_split(logits, batches), np.array_split(targets, batches), strict=True):
        nll = cross_entropy(ts.tensor(x), y, ignore_index=0, reduction="sum")
        metric.update(nll, y != 0)
        bits.update(nll, int((y != 0).sum()))
        by_token.update(cross_entropy(ts.tensor(x), y, ignore_index=0, reduction="none"), y != 0)
    loss = torch.nn.functional.cross_entropy(torch.tensor(logits).flatten(0, 1), torch.tensor(targets).flatten(),
                                             ignore_index=0)
    assert metric.compute() == pytest.approx(float(torch.exp(loss)), rel=1e-10)
    assert by_token.compute() == pytest.approx(metric.compute(), rel=1e-10)
    assert bits.compute() == pytest.approx(float(loss) / math.log(2), rel=1e-10)
