"""CTC and CRF: held to the sum over all paths, written out."""

from itertools import groupby, pairwise, product

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
    check_grad(lambda x: nn.CTCLoss(blank, "sum")(F.log_softmax(x), targets, frames, counts), logits)


@pytest.mark.parametrize(("targets", "frames", "counts", "words"), [
    ([[1, 1]], [2], [2], "row 0 has 2 frames, its 2 targets need at least 3"),
    ([[0, 1]], [4], [2], "none the blank 0; row 0 is \\[0, 1\\]"),
    ([[1, 3]], [4], [2], "targets from 0 to 2"),
    ([[1, 2]], [5], [2], "input_lengths as integers from 0 to 4, got \\[5\\]"),
    ([[1, 2]], [4], [3], "target_lengths as integers from 0 to 2"),
    ([1, 2], [4], [2], "targets \\(B, S\\)"),
])
def test_ctc_refuses_what_it_cannot_spell(targets: list, frames: list, counts: list, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        nn.CTCLoss()(F.log_softmax(draw(0, 1, 4, 3)), targets, frames, counts)


def test_ctc_refuses_a_blank_that_is_no_class() -> None:
    with pytest.raises(ValueError, match="blank from 0 to 2, got 3"):
        nn.CTCLoss(3)(F.log_softmax(draw(0, 1, 4, 3)), [[1]], [4], [1])


def test_ctc_of_tensors_costs_inf_where_frames_do_not_suffice() -> None:
    logs = F.log_softmax(draw(0, 2, 2, 3))
    losses = nn.CTCLoss(reduction="none")(logs, ts.tensor([[1, 1], [1, 2]]), ts.tensor([2, 2]), ts.tensor([2, 2]))
    assert losses.detach().numpy()[0] == np.inf and np.isfinite(losses.detach().numpy()[1])


@pytest.mark.reference
@given(SEEDS, st.integers(1, 4), st.integers(8, 12))
def test_ctc_is_pytorchs(seed: int, batch: int, steps: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    x, counts = draw(seed, batch, steps, 5), rng.integers(1, 4, batch)
    targets, frames = rng.integers(1, 5, (batch, 4)), rng.integers(7, steps + 1, batch)
    loss = nn.CTCLoss()(F.log_softmax(x), targets, frames, counts)
    loss.backward()
    theirs = torch.tensor(x.detach().numpy(), requires_grad=True)
    expected = torch.nn.CTCLoss()(theirs.log_softmax(-1).transpose(0, 1), *map(torch.tensor, (targets, frames, counts)))
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
    check_grad(lambda x, *_: crf(x, given_tags, lengths), x)
    whole = crf(x, given_tags).detach().numpy(), crf.decode(x)
    full = np.full(len(lengths), x.shape[1])
    np.testing.assert_array_equal(whole[0], crf(x, given_tags, full).detach().numpy())
    assert whole[1] == crf.decode(x, full)


def test_crf_gradients_reach_its_transitions() -> None:
    crf, x = nn.CRF(3, dtype=np.float64), draw(1, 2, 4, 3)

    def likelihood(*weights: ts.Tensor) -> ts.Tensor:
        crf.start_transitions, crf.end_transitions, crf.transitions = weights  # type: ignore[assignment]
        return crf(x, [[0, 1, 2, 1], [2, 2, 0, 0]], [4, 2])

    check_grad(likelihood, draw(2, 3), draw(3, 3), draw(4, 3, 3))


def test_crf_says_what_it_expects() -> None:
    with pytest.raises(ValueError, match=r"scores \(batch, time, 3\).*got \(2, 4, 2\)"):
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
