"""Losses over whole label sequences: CTC, which needs no alignment, and the linear-chain CRF.

Both sum over all paths that a label sequence could take, in time linear in the frames, by one recurrence on logarithms
(`functional.unroll`), which a kernel computes. All is in float64 inside and rounded once, to the dtype of the input and
at least to float32: float32's digits would be gone after some thousand steps.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import numpy as np

from tinyseq import backends, check, functional
from tinyseq.backends.paths import NEVER
from tinyseq.engine import ops
from tinyseq.engine.autograd import op
from tinyseq.engine.creation import on_host
from tinyseq.engine.tensor import Array, Like, Tensor, namespace
from tinyseq.functional.arguments import checked_lengths
from tinyseq.nn import init
from tinyseq.nn.module import Module, Parameter


def _wide(x: Tensor) -> Any:
    """The dtype of a loss of x."""
    return np.promote_types(x.dtype, np.float32)


def _alignments_definition(x: Tensor, path: Array, skips: Array, lengths: Array, counts: Array) -> Tensor:
    (batch, steps, classes), xp = x.shape, namespace(x)
    by_class = ops.reshape(ops.permute_dims(x, (0, 2, 1)), (batch * classes, steps))
    emitted = ops.permute_dims(by_class[path + classes * xp.arange(batch)[:, None]].astype(np.float64), (0, 2, 1))
    skips = ops.like(x, skips)

    def step(emitted: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (alpha,) = state
        moved, skipped = (ops.pad(alpha, [(0, 0), (n, 0)], NEVER)[:, : alpha.shape[1]] for n in (1, 2))
        return (ops.logsumexp(ops.stack([alpha, moved, ops.where(skips, skipped, NEVER)]), 0) + emitted,)

    first = ops.like(x, np.where(np.arange(path.shape[1]) == 0, 0.0, NEVER))
    state = (ops.broadcast_to(first, path.shape),)
    alpha = functional.unroll(step, ops.maximum(emitted, NEVER), state, lengths)[1][0]
    last = ops.take_along_axis(alpha, xp.stack([2 * counts, xp.maximum(2 * counts - 1, 0)], axis=1), 1)
    return ops.logaddexp(last[:, 0], ops.where(Tensor(counts > 0), last[:, 1], NEVER))


@op(definition=_alignments_definition)
def _alignments(x: Tensor, path: Array, skips: Array, lengths: Array, counts: Array) -> Any:
    """The logarithm (B,), in float64, of the sum over all ways through the frames x (B, T, C) along the path (B, L)."""
    backend = backends.of(x)
    y, saved = backend.alignments_forward(x, path, skips, lengths, counts)
    return y, (lambda g: backend.alignments_backward(g, saved),)


class CTCLoss(Module):
    """-log p(targets | log_probs), summed over all alignments (Graves et al. 2006, equations 6 to 8).

    An alignment names a class for each frame; without its repetitions, and then without its `blank`s, it spells the
    targets.

    log_probs (B, T, C), by frame (`functional.log_softmax`), targets (B, S), integer classes other than `blank`, and
    how many of the frames and of the targets are real, input_lengths (B,) and target_lengths (B,): what follows changes
    nothing. `reduction` is "none" for the losses (B,), "sum", or as in PyTorch "mean": each loss divided by its target
    length, at least 1, and then their mean. The dtype is that of log_probs, of float16 float32.

    >>> logits = ts.random.normal((2, 6, 4))                  # 6 frames, 3 classes and the blank, which is 0
    >>> logits.requires_grad = True
    >>> loss = nn.CTCLoss()(F.log_softmax(logits), [[1, 2, 2], [3, 0, 0]], [6, 5], [3, 1])
    >>> loss.backward()
    >>> loss.shape, logits.grad.shape
    ((), (2, 6, 4))
    >>> uniform = F.log_softmax(ts.zeros((1, 2, 3)))          # of 9 alignments of 2 frames, _a, a_ and aa spell "a"
    >>> bool(abs(nn.CTCLoss()(uniform, [[1]], [2], [1]) - np.log(9 / 3)) < 1e-6)
    True

    Raises ValueError for wrong shapes, for classes and lengths out of range, and for a row of fewer frames than its
    targets need, which is one each and one between equal neighbours. With `zero_infinity` such a row, and any other of
    probability 0, has loss and gradient 0. On a device nobody looks, and that row costs inf.
    """

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> None:
        check.choice("CTCLoss", ("mean", "sum", "none"), reduction=reduction)
        check.choice("CTCLoss", (False, True), zero_infinity=zero_infinity)
        self.blank = check.integers("CTCLoss", 0, blank=blank)
        self.reduction, self.zero_infinity = reduction, zero_infinity

    def forward(self, log_probs: Tensor, targets: Like, input_lengths: Like, target_lengths: Like) -> Tensor:
        """log_probs (B, T, C), targets (B, S), input_lengths (B,), target_lengths (B,) -> the loss (), or (B,) of
        "none".
        """
        log_probs = ops.asarray(log_probs)
        labels, frames, counts = self._checked(log_probs, targets, input_lengths, target_lengths)
        backend, batch = backends.of(log_probs._data), len(log_probs)
        xp, labels, counts = backend.xp, backend.asarray(labels), backend.asarray(counts)
        path = xp.full((batch, 2 * labels.shape[1] + 1), self.blank)                # (B, L): _ a _ b _
        path[:, 1::2] = xp.where(xp.arange(labels.shape[1]) < counts[:, None], labels, self.blank)
        skips = xp.zeros(path.shape, dtype=bool)                # from a label to the next one, over the blank between
        skips[:, 2:] = (path[:, 2:] != self.blank) & (path[:, 2:] != path[:, :-2])

        parts = log_probs, path, skips, backend.asarray(frames), counts
        try:
            total = _alignments(*parts)
        except FloatingPointError:
            total = _alignments_definition(*parts)
        losses = ops.where(total < NEVER / 2, 0.0 if self.zero_infinity else np.inf, -total)
        if self.reduction == "mean":
            losses = ops.mean(losses / Tensor(xp.maximum(counts, 1)))
        return (ops.sum(losses) if self.reduction == "sum" else losses).astype(_wide(log_probs))

    def _checked(self, log_probs: Tensor, targets: Like, frames: Like, counts: Like) -> tuple[Array, Array, Array]:
        """Targets, input lengths and target lengths as int64 arrays, where they are."""
        shapes = [np.shape(a) for a in (targets, frames, counts)]
        fits = len(shapes[0]) == 2 and {shapes[0][:1], *shapes[1:]} == {log_probs.shape[:1]}
        if log_probs.ndim != 3 or log_probs.dtype.kind != "f" or not fits:
            raise ValueError("CTCLoss: expected floating-point log_probs (B, T, C), targets (B, S), input_lengths and "
                             f"target_lengths (B,), got {log_probs.dtype} and shapes {log_probs.shape}, {shapes[0]}, "
                             f"{shapes[1]} and {shapes[2]}; of PyTorch's (T, B, C) swap the first two axes, "
                             "log_probs.permute_dims(1, 0, 2)")
        rows, steps, classes = log_probs.shape
        if self.blank >= classes:
            raise ValueError(f"CTCLoss: expected a blank from 0 to {classes - 1}, got {self.blank}")
        labels = ops.as_int64(targets, "CTCLoss: targets: ")
        frames = checked_lengths(frames, steps, rows, "CTCLoss", "input_lengths")
        counts = checked_lengths(counts, labels.shape[1], rows, "CTCLoss", "target_lengths")
        if backends.on_host(labels, counts):
            real = np.arange(labels.shape[1]) < counts[:, None]
            wrong = real & ((labels < 0) | (labels >= classes) | (labels == self.blank))
            for row in np.flatnonzero(wrong.any(1))[:1]:
                raise ValueError(f"CTCLoss: expected targets from 0 to {classes - 1}, none the blank {self.blank}; row "
                                 f"{row} is {labels[row, : counts[row]].tolist()}")
            needed = counts + (real[:, 1:] & (labels[:, 1:] == labels[:, :-1])).sum(1)
            if backends.on_host(frames) and not self.zero_infinity and (frames < needed).any():
                row = int((frames < needed).argmax())
                raise ValueError(f"CTCLoss: row {row} has {frames[row]} frames, its {counts[row]} targets need at "
                                 f"least {needed[row]}; zero_infinity=True leaves such rows out")
        return labels, frames, counts


def _chain_definition(a: Tensor, x: Tensor, moves: Tensor, lengths: Array | None) -> Tensor:
    def step(x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (ops.logsumexp(state[0][:, :, None] + moves, 1) + x,)

    return functional.unroll(step, x, (a,), lengths)[1][0]


@op(definition=_chain_definition)
def _chain(a: Tensor, x: Tensor, moves: Tensor, lengths: Array | None) -> Any:
    """The logarithm (B, K) of the sum over all paths from a (B, K) through x (B, T, K) that end in each tag."""
    backend = backends.of(x)
    y, saved = backend.chain_forward(a, x, moves, lengths)
    return y, lambda g, needs: backend.chain_backward(g, saved)


class CRF(Module):
    """Tag sequences scored as a whole: a linear chain (Lafferty et al. 2001), as on a BiLSTM (Lample et al. 2016).

        score(y) = start[y_1] + sum_t x_t[y_t] + sum_t A[y_t, y_{t+1}] + end[y_n],   p(y) = exp(score(y)) / Z

    forward(x (B, T, K), tags (B, T), lengths (B,) or None) -> log p(tags) (B,), in x's dtype, of float16 in float32:
    train on minus its mean.
    Z is the sum over all K^n sequences. `decode(x, lengths)` is the most probable one of each row (Viterbi 1967). A row
    without steps has the empty sequence alone, of probability 1.

    Parameters, with K = `num_tags`: start_transitions (K,), transitions (K, K), which is A, from row to column, and
    end_transitions (K,), all uniform on ±0.1.

    >>> crf = nn.CRF(num_tags=3)
    >>> x = ts.random.normal((2, 5, 3))                       # a network's scores of each tag at each step
    >>> loss = -ts.mean(crf(x, [[0, 1, 2, 2, 1], [1, 0, 0, 0, 0]], lengths=[5, 2]))
    >>> loss.backward()
    >>> loss.shape, crf.transitions.grad.shape
    ((), (3, 3))
    >>> [len(tags) for tags in crf.decode(x, lengths=[5, 2])]
    [5, 2]
    >>> import itertools
    >>> every = np.array(list(itertools.product(range(3), repeat=2)))             # all sequences of two tags
    >>> p = ts.exp(crf(ts.broadcast_to(x[:1, :2], (9, 2, 3)), every))
    >>> bool(abs(ts.sum(p) - 1) < 1e-5), crf.decode(x[:1, :2])[0] == every[int(ts.argmax(p))].tolist()
    (True, True)

    Raises ValueError for wrong shapes and dtypes, IndexError for tags out of range, at which nobody looks on a device.
    """

    def __init__(self, num_tags: int, dtype: Any = np.float32) -> None:
        self.num_tags = num_tags = check.integers("CRF", 1, num_tags=num_tags)
        self.start_transitions = init.uniform_(Parameter(ops.zeros((num_tags,), dtype)), -0.1, 0.1)
        self.end_transitions = init.uniform_(Parameter(ops.zeros((num_tags,), dtype)), -0.1, 0.1)
        self.transitions = init.uniform_(Parameter(ops.zeros((num_tags, num_tags), dtype)), -0.1, 0.1)

    def forward(self, x: Tensor, tags: Like, lengths: Like = None) -> Tensor:
        """x (B, T, K), tags (B, T) integers, lengths (B,) or None -> log p(tags) (B,)."""
        scores, start, moves, end, n, on = self._begin("CRF", x, lengths)
        tags = on_host(tags)
        if tags.shape != scores.shape[:2] or tags.dtype.kind not in "iu":
            raise ValueError(f"CRF: expected integer tags (B, T) = {scores.shape[:2]}, got {tags.dtype} {tags.shape}")
        tags = ops.as_int64(tags)
        if backends.on_host(tags, on):
            ops.check_ids("CRF", np.where(on, tags, 0), self.num_tags)
        rest = None if lengths is None else namespace(n).maximum(n - 1, 0)
        tags, on, n = (ops.like(scores, a) for a in (tags, on, n))
        tags = ops.where(on, tags, 0)
        emitted = ops.take_along_axis(scores, tags[..., None], 2)[..., 0]           # 0 in the padding
        moved = moves[tags[:, :-1], tags[:, 1:]]
        ends = ops.take_along_axis(tags, ops.maximum(n - 1, 0)[:, None], 1)[:, 0]
        score = ops.sum(emitted, 1) + ops.sum(ops.where(on[:, 1:], moved, 0.0), 1) + start[tags[:, 0]] + end[ends]

        parts = start + scores[:, 0], scores[:, 1:], moves, rest
        try:
            a = _chain(*parts)
        except FloatingPointError:
            a = _chain_definition(*parts)
        total = ops.logsumexp(a + end, 1)
        return ops.where(n > 0, score - total, 0.0).astype(_wide(ops.asarray(x)))

    def decode(self, x: Tensor, lengths: Like = None) -> list[list[int]]:
        """x (B, T, K), lengths (B,) or None -> the most probable tags of each row, a list of `length` integers. Scores
        that are NaN are a ValueError.
        """
        x, n = self._checked("CRF.decode", x, lengths)
        backend, scores = backends.of(x._data), x._data
        parameters = [ops.like(x, p)._data for p in (self.start_transitions, self.transitions, self.end_transitions)]
        n = None if lengths is None else ops.like(x, n)._data
        tags, found = (backend.asnumpy(a) for a in backend.best_paths(scores, *parameters, n))
        ends = [scores.shape[1]] * len(scores) if n is None else backend.asnumpy(n).tolist()
        for row in np.flatnonzero(np.isnan(found)).tolist():
            if ends[row]:
                def lost(steps: int, row: int = row) -> bool:
                    score = backend.best_paths(scores[row:row + 1, :steps], *parameters, None)[1]
                    return bool(np.isnan(backend.asnumpy(score))[0])

                step = bisect_left(range(1, ends[row]), True, key=lost)
                raise ValueError("CRF.decode: expected scores and transitions that are numbers, but those of row "
                                 f"{row} are NaN at step {step}: look at the network that made them")
        return [row[:n] for row, n in zip(tags.tolist(), ends, strict=True)]

    def _checked(self, where: str, x: Like, lengths: Like) -> tuple[Tensor, Any]:
        """x as a Tensor, and the lengths (B,), an array, or None as they are."""
        x = ops.asarray(x)
        if x.ndim != 3 or x.shape[2] != self.num_tags or not x.shape[1] or x.dtype.kind != "f":
            raise ValueError(f"{where}: expected floating-point scores (batch, time, {self.num_tags}) of at least one "
                             f"step, got {x.dtype} {x.shape}")
        return x, None if lengths is None else checked_lengths(lengths, x.shape[1], len(x), where)

    def _begin(self, where: str, x: Like, lengths: Like) -> tuple[Tensor, Tensor, Tensor, Tensor, Array, Array]:
        """In float64: x, 0 in the padding, and the start, transition and end scores. The lengths (B,) and where steps
        are real (B, T), as arrays where the lengths are."""
        x, n = self._checked(where, x, lengths)
        batch, time, _ = x.shape
        n = np.full(batch, time) if n is None else n
        on = namespace(n).arange(time) < n[:, None]
        x = x if lengths is None else ops.where(ops.like(x, on)[..., None], x, 0.0)
        x, start, moves, end = (a.astype(np.float64) for a in (
            x, self.start_transitions, self.transitions, self.end_transitions))
        return x, start, moves, end, n, on
