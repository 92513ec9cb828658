"""CTC and CRF: held to the sum over all paths, written out."""

import os
from collections.abc import Callable
from itertools import groupby, pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import functional as F
from tinyseq import nn
from tinyseq.testing import check_grad

SEEDS = st.integers(0, 10_000)


def draw(seed: int, *shape: int) -> ts.Tensor:
    return ts.tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


def spelt(path: tuple[int, ...], blank: int) -> list[int]:
    return [label for label, _ in groupby(path) if label != blank]


def frames_needed(labels: list[int]) -> int:
    return len(labels) + sum(a == b for a, b in pairwise(labels))


@st.composite
def ctc_case(draw_: st.DrawFn) -> tuple[ts.Tensor, list[list[int]], list[int], int]:
    """Logits (B, T, C), the labels and the number of frames of each row, and the blank."""
    batch, classes, steps = draw_(st.integers(1, 3)), draw_(st.integers(2, 3)), draw_(st.integers(0, 5))
    blank = draw_(st.integers(0, classes - 1))
    others = st.sampled_from([c for c in range(classes) if c != blank])
    labels, frames = [], []
    for _ in range(batch):
        frames.append(draw_(st.integers(0, steps)))
        row = draw_(st.lists(others, max_size=3))
        while frames_needed(row) > frames[-1]:
            row.pop()
        labels.append(row)
    return draw(draw_(SEEDS), batch, steps, classes), labels, frames, blank


@given(ctc_case(), st.integers(0, 2), SEEDS)
def test_ctc_is_the_sum_over_all_alignments(case: tuple, more: int, seed: int) -> None:
    logits, labels, frames, blank = case
    counts = [len(row) for row in labels]
    rng = np.random.default_rng(seed)
    targets = rng.integers(-5, 5, (len(labels), max(counts) + more))     # what follows the labels changes nothing
    for row, known in zip(targets, labels, strict=True):
        row[: len(known)] = known
    logs = F.log_softmax(logits)
    losses = nn.CTCLoss(blank, "none")(logs, targets, frames, counts).detach().numpy()
    p = np.exp(logs.detach().numpy())
    for i, row in enumerate(labels):
        paths = [q for q in product(range(p.shape[2]), repeat=frames[i]) if spelt(q, blank) == row]
        total = sum(np.prod([p[i, t, c] for t, c in enumerate(q)]) for q in paths)
        np.testing.assert_allclose(losses[i], -np.log(total), rtol=1e-9, atol=1e-9)
    mean = nn.CTCLoss(blank)(logs, targets, frames, counts).item()
    np.testing.assert_allclose(mean, np.mean(losses / np.maximum(counts, 1)), atol=1e-9)
    check_grad(lambda x: nn.CTCLoss(blank, "sum")(F.log_softmax(x), targets, frames, counts), logits, order=2)


@pytest.mark.parametrize(("targets", "frames", "counts", "words"), [
    ([[1, 1]], [2], [2], "row 0 has 2 frames, its 2 targets need at least 3"),
    ([[0, 1]], [4], [2], "none the blank 0; row 0 is \\[0, 1\\]"),
    ([[1, 3]], [4], [2], "targets from 0 to 2"),
    ([[1, 2]], [5], [2], "input_lengths as 1 integer from 0 to the 4 steps, .*\\[5\\]"),
    ([[1, 2]], [4], [3], "target_lengths as 1 integer from 0 to the 2 steps"),
    ([1, 2], [4], [2], "targets \\(B, S\\)"),
])
def test_ctc_refuses_what_it_cannot_spell(targets: list, frames: list, counts: list, words: str) -> None:
    for kind in (list, np.array, lambda v: ts.Tensor(np.array(v))):
        with pytest.raises(ValueError, match=words):
            nn.CTCLoss()(F.log_softmax(draw(0, 1, 4, 3)), kind(targets), kind(frames), kind(counts))


def test_ctc_refuses_a_blank_that_is_no_class() -> None:
    with pytest.raises(ValueError, match="blank from 0 to 2, got 3"):
        nn.CTCLoss(3)(F.log_softmax(draw(0, 1, 4, 3)), [[1]], [4], [1])


def test_ctc_leaves_out_what_it_cannot_align_if_told_so() -> None:
    x = draw(0, 3, 2, 3)
    never = (np.arange(3)[:, None, None] == 2) & (np.arange(3) == 1)
    logs = ts.where(ts.asarray(never), -np.inf, F.log_softmax(x))
    arguments = [[1, 1], [1, 2], [1, 2]], [2, 2, 2], [2, 2, 2]        # too few frames, right, a class that cannot be
    losses = nn.CTCLoss(0, "none", zero_infinity=True)(logs, *arguments)
    ts.sum(losses).backward()
    assert x.grad is not None
    alone = nn.CTCLoss(0, "none")(F.log_softmax(x.detach()[1:2]), [[1, 2]], [2], [2])
    np.testing.assert_array_equal(losses.detach().numpy(), [0, alone.item(), 0])
    assert not x.grad.numpy()[[0, 2]].any() and x.grad.numpy()[1].all()
    assert nn.CTCLoss(0, "none")(logs[2:], [[1, 2]], [2], [2]).item() == np.inf


def test_ctc_of_no_numbers_is_none() -> None:
    x = draw(0, 2, 4, 3).detach().numpy()
    x[0, 1, 1] = np.nan
    for zero in (False, True):
        with np.errstate(invalid="ignore"):
            losses, slope = slopes(lambda x, zero=zero: nn.CTCLoss(0, "none", zero)(x, [[1, 2]] * 2, [4, 4], [2, 2]), x)
        assert np.isnan(losses).tolist() == [True, False]
        assert np.isnan(slope[0]).any() and np.isfinite(slope[1]).all()


@pytest.mark.reference
@given(SEEDS, st.integers(1, 4), st.integers(8, 12), st.booleans())
def test_ctc_is_pytorchs(seed: int, batch: int, steps: int, zero: bool) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    x, counts = draw(seed, batch, steps, 5), rng.integers(1, 4, batch)
    targets, frames = rng.integers(1, 5, (batch, 4)), rng.integers(2 if zero else 7, steps + 1, batch)
    loss = nn.CTCLoss(zero_infinity=zero)(F.log_softmax(x), targets, frames, counts)
    loss.backward()
    theirs = torch.tensor(x.detach().numpy(), requires_grad=True)
    expected = torch.nn.CTCLoss(zero_infinity=zero)(
        theirs.log_softmax(-1).transpose(0, 1), *map(torch.tensor, (targets, frames, counts)))
    expected.backward()
    np.testing.assert_allclose(loss.item(), expected.item(), rtol=1e-9)
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), theirs.grad.numpy(), atol=1e-9)


@given(SEEDS, st.lists(st.integers(0, 4), min_size=1, max_size=3), st.integers(1, 3), st.integers(0, 2))
def test_crf_is_the_softmax_over_all_tag_sequences(seed: int, lengths: list[int], tags: int, more: int) -> None:
    crf = nn.CRF(tags, dtype=np.float64)
    for i, parameter in enumerate(crf.parameters()):
        nn.init.constant_(parameter, 0.0)
        parameter.data = draw(seed + i, *parameter.shape).data
    start, end, moves = (p.detach().numpy() for p in (crf.start_transitions, crf.end_transitions, crf.transitions))
    x = draw(seed, len(lengths), max(*lengths, 1, 1) + more, tags)
    given_tags = np.random.default_rng(seed).integers(0, tags, x.shape[:2])
    found, best = crf(x, given_tags, lengths).detach().numpy(), crf.decode(x, lengths)
    for row, n in enumerate(lengths):
        scores = {(): 0.0} if not n else {
            y: start[y[0]] + sum(x.detach().numpy()[row, t, c] for t, c in enumerate(y)) + end[y[-1]] +
               sum(moves[a, b] for a, b in pairwise(y)) for y in product(range(tags), repeat=n)}
        values = np.array(list(scores.values()))
        expected = scores[tuple(given_tags[row, :n].tolist())] - np.log(np.exp(values).sum())
        np.testing.assert_allclose(found[row], expected, atol=1e-9)
        np.testing.assert_allclose(scores[tuple(best[row])], values.max(), atol=1e-9)
    check_grad(lambda x: crf(x, given_tags, lengths), x, order=2)
    whole = crf(x, given_tags).detach().numpy(), crf.decode(x)
    full = np.full(len(lengths), x.shape[1])
    np.testing.assert_array_equal(whole[0], crf(x, given_tags, full).detach().numpy())
    assert whole[1] == crf.decode(x, full)


def test_crf_gradients_reach_its_transitions() -> None:
    crf, x = nn.CRF(3, dtype=np.float64), draw(1, 2, 4, 3)

    def likelihood(*weights: ts.Tensor) -> ts.Tensor:
        vars(crf).update(zip(("start_transitions", "end_transitions", "transitions"), weights, strict=True))
        return crf(x, [[0, 1, 2, 1], [2, 2, 0, 0]], [4, 2])

    check_grad(likelihood, draw(2, 3), draw(3, 3), draw(4, 3, 3), order=2)


def test_crf_says_what_it_expects() -> None:
    with pytest.raises(ValueError, match=r"scores \(batch, time, 3\).*got .*\(2, 4, 2\)"):
        nn.CRF(3)(draw(0, 2, 4, 2), np.zeros((2, 4), int))
    with pytest.raises(ValueError, match=r"integer tags \(B, T\) = \(2, 4\), got .* \(2, 3\)"):
        nn.CRF(3)(draw(0, 2, 4, 3), np.zeros((2, 3), int))
    with pytest.raises(ValueError, match="lengths as 2 integers from 0 to the 4 steps"):
        nn.CRF(3).decode(draw(0, 2, 4, 3), [4])


def test_crf_refuses_tags_out_of_range() -> None:
    crf, x = nn.CRF(3), draw(0, 1, 4, 3).astype("float32")
    for tag in (-1, 3):
        with pytest.raises(IndexError, match=f"CRF: id {tag} is out of range"):
            crf(x, [[0, 1, 2, tag]])
        assert crf(x, [[0, 1, 2, tag]], [3]).shape == (1,)    # in the padding it may stand


def slopes(loss: Callable[[ts.Tensor], ts.Tensor], x: Any, layer: Any = None) -> list[Any]:
    """A loss of x, and the gradients of its sum."""
    x = ts.tensor(x, requires_grad=True)
    y = loss(x)
    return [y.detach().numpy(), *(g.numpy() for g in ts.grad(ts.sum(y), [x, *(layer.parameters() if layer else ())]))]


def crf_of(seed: int, tags: int, dtype: Any = np.float64, wide: float = 1.0) -> nn.CRF:
    crf = nn.CRF(tags, dtype=dtype)
    for i, p in enumerate(crf.parameters()):
        p.data = (wide * np.random.default_rng(seed + i).uniform(-1, 1, p.shape)).astype("float32").astype(dtype)
    return crf


def crf_slopes(crf: nn.CRF, x: Any, tags: Any, lengths: Any = None) -> list[Any]:
    return slopes(lambda x: crf(x, tags, lengths), x, crf)


EMULATED, THOROUGH = (os.environ.get("TINYSEQ_TEST_PROFILE") == profile for profile in ("emulated", "thorough"))


def keeps_its_digits(results: Callable[[str], list[Any]]) -> None:
    for got, expected in zip(results("float32"), results("float64"), strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * abs(expected).max())


@pytest.mark.skipif(EMULATED, reason="ten thousand steps")
def test_a_crf_keeps_its_digits_over_long_sequences() -> None:
    rng = np.random.default_rng(0)
    x, tags = rng.standard_normal((2, 10_000, 3)).astype("float32"), rng.integers(0, 3, (2, 10_000))
    keeps_its_digits(lambda dtype: crf_slopes(crf_of(1, 3, dtype), x.astype(dtype), tags))
    moves = crf_slopes(crf_of(1, 3, "float32"), x, tags)[-1]
    assert abs(moves.sum()) < 1e-2                      # as many moves are expected as there are
    crf = crf_of(1, 3, "float32"), crf_of(1, 3)
    assert crf[0].decode(x) == crf[1].decode(x.astype("float64"))


@pytest.mark.skipif(EMULATED, reason="thousands of steps")
def test_ctc_keeps_its_digits_over_long_sequences() -> None:
    rng, steps = np.random.default_rng(0), 10_000 if THOROUGH else 2_000
    logs = F.log_softmax(ts.tensor(3 * rng.standard_normal((1, steps, 6)).astype("float32"))).numpy()
    labels, count = rng.integers(1, 6, (1, steps // 5)), [steps // 5]
    keeps_its_digits(lambda dtype: slopes(lambda x: nn.CTCLoss()(x, labels, [steps], count), logs.astype(dtype)))


@given(SEEDS, st.lists(st.integers(0, 4), min_size=1, max_size=3), st.sampled_from([1.0, 500.0, 1e4]), st.booleans())
def test_a_crf_is_right_however_far_apart_its_scores_are(
    seed: int, lengths: list[int], wide: float, forbid: bool,
) -> None:
    rng, crf = np.random.default_rng(seed), crf_of(seed, 3, wide=wide)
    x, tags = wide * rng.standard_normal((len(lengths), 4, 3)), rng.integers(0, 3, (len(lengths), 4))
    if forbid:
        crf.transitions.data = np.where(rng.random((3, 3)) < 0.4, -np.inf, crf.transitions.detach().numpy())
        x[rng.random(x.shape) < 0.2] = -np.inf
    moves = [p.detach().numpy() for p in (crf.start_transitions, crf.end_transitions, crf.transitions)]
    with np.errstate(invalid="ignore"):
        found = crf_slopes(crf, x, tags, lengths)
    for row, n in enumerate(lengths):
        values = [moves[0][y[0]] + sum(x[row, t, c] for t, c in enumerate(y)) + moves[1][y[-1]] +
                  sum(moves[2][pair] for pair in pairwise(y)) for y in product(range(3), repeat=n)] if n else [0.0]
        given_to = values[int("".join(map(str, tags[row, :n])) or "0", 3)]
        if given_to > -np.inf:                          # a sequence that cannot be has no slopes
            expected = given_to - np.logaddexp.reduce(values)
            np.testing.assert_allclose(found[0][row], expected, rtol=1e-9, atol=1e-9)
            assert np.isfinite(found[1][row]).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_losses_of_sequences_are_as_wide_as_their_input_and_at_least_float32(dtype: str, reduction: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 3)).astype(dtype)
    for kind in (list, np.array, ts.tensor):
        logs, found = F.log_softmax(ts.tensor(x)), slopes(
            lambda x, kind=kind: nn.CTCLoss(0, reduction)(x, kind([[1, 2]] * 2), kind([4, 3]), kind([2, 1])), x)
        wider = "float64" if dtype == "float64" else "float32"
        assert logs.dtype == found[1].dtype == dtype and found[0].dtype == wider
        found = slopes(lambda x, kind=kind: nn.CRF(3)(x, kind([[1, 2, 0, 0]] * 2), kind([4, 3])), x)
        assert found[0].dtype == wider and found[1].dtype == dtype


def test_scores_may_be_arrays() -> None:
    x, crf = np.random.default_rng(0).standard_normal((1, 3, 2)).astype("float32"), crf_of(0, 2, "float32")
    for scores in (x, x.tolist()):
        assert crf(scores, [[0, 1, 1]]).item() == crf(ts.tensor(x), [[0, 1, 1]]).item()
        assert crf.decode(scores) == crf.decode(ts.tensor(x))
        assert nn.CTCLoss()(scores, [[1]], [3], [1]).item() == nn.CTCLoss()(ts.tensor(x), [[1]], [3], [1]).item()


def test_a_crf_does_not_decode_what_is_no_number() -> None:
    crf, x = crf_of(0, 2), np.zeros((2, 4, 2))
    x[1, 2, 1] = np.nan
    with pytest.raises(ValueError, match=r"CRF.decode: .* row 1 are NaN at step 2"):
        crf.decode(x)
    assert len(crf.decode(x, [4, 2])[1]) == 2           # in the padding it may stand
    with pytest.raises(ValueError, match="row 0 are NaN at step 0"):
        crf.decode(np.full((1, 1, 2), np.nan))


@pytest.mark.parametrize(("make", "error", "words"), [
    (lambda: nn.CRF(0), ValueError, "CRF: expected an integer 1 <= num_tags, got 0"),
    (lambda: nn.CRF(2.0), TypeError, "CRF: .* num_tags, got 2.0"),
    (lambda: nn.CTCLoss(-1), ValueError, "CTCLoss: .* blank, got -1"),
    (lambda: nn.CTCLoss(0, "avg"), ValueError, "CTCLoss: .* reduction .* 'avg'"),
    (lambda: nn.CTCLoss(0, "sum", 1), ValueError, "CTCLoss: .* zero_infinity .* 1"),
    (lambda: nn.CTCLoss()(np.zeros((1, 2, 3), "i8"), [[1]], [2], [1]), ValueError, "floating-point log_probs.*int64"),
    (lambda: nn.CTCLoss()(np.zeros((1, 2, 3)), [[1.0]], [2], [1]), TypeError, "CTCLoss: targets: .* float64"),
    (lambda: nn.CTCLoss()(np.zeros((1, 2, 3)), [[1]], [2.0], [1]), ValueError, "CTCLoss: .* input_lengths .* float64"),
    (lambda: nn.CRF(3)(np.zeros((1, 2, 3), "int64"), [[1, 2]]), ValueError, "CRF: .* floating-point scores .* int64"),
    (lambda: nn.CRF(3)(np.zeros((1, 2, 3)), ts.Tensor(np.array([[1, 3]]))), IndexError, "CRF: id 3"),
    (lambda: nn.CRF(3)(np.zeros((1, 2, 3)), [[1, 2]], [3]), ValueError, "CRF: expected lengths"),
])
def test_wrong_calls_say_what_is_wrong(make: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_pytorchs_layout_is_told_which_axes_to_swap() -> None:
    with pytest.raises(ValueError, match=r"\(5, 2, 3\).*PyTorch's \(T, B, C\) swap the first two axes"):
        nn.CTCLoss()(np.zeros((5, 2, 3)), [[1], [1]], [5, 5], [1, 1])
