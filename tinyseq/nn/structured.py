"""Losses over whole label sequences: CTC, which needs no alignment, and the linear-chain CRF.

Both sum over all paths that a label sequence could take, in time linear in the frames, by one recurrence on
logarithms (`functional.unroll`), whose gradient is autograd's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyseq import check, functional, ops
from tinyseq.nn import init
from tinyseq.nn.module import Module, Parameter
from tinyseq.nn.multihead import length_mask
from tinyseq.tensor import Like, Tensor, no_grad

NEVER = -1e30  # log 0, yet a number: differences of two are no NaN


class CTCLoss(Module):
    """-log p(targets | log_probs), summed over all alignments (Graves et al. 2006, equations 6 to 8).

    An alignment names a class for each frame; without its repetitions, and then without its `blank`s, it spells the
    targets.

    log_probs (B, T, C), by frame (`functional.log_softmax`), targets (B, S), integer classes other than `blank`, and
    how many of the frames and of the targets are real, input_lengths (B,) and target_lengths (B,): what follows changes
    nothing. `reduction` is "none" for the losses (B,), "sum", or as in PyTorch "mean": each loss divided by its target
    length, at least 1, and then their mean.

    Raises ValueError for wrong shapes, for classes and lengths out of range, and for a row of fewer frames than its
    targets need, which is one each and one between equal neighbours. On a device nobody looks, and that row costs inf.
    """

    def __init__(self, blank: int = 0, reduction: str = "mean") -> None:
        check.choice("CTCLoss", ("mean", "sum", "none"), reduction=reduction)
        self.blank, self.reduction = check.integers("CTCLoss", 0, blank=blank), reduction

    def forward(self, log_probs: Tensor, targets: Like, input_lengths: Like, target_lengths: Like) -> Tensor:
        self._check(log_probs, targets, input_lengths, target_lengths)
        counts = ops.like(log_probs, target_lengths)
        labels = ops.like(log_probs, targets)
        labels = ops.where(ops.like(log_probs, length_mask(target_lengths, labels.shape[1])), labels, self.blank)
        blanks = ops.full_like(labels, self.blank)
        path = ops.reshape(ops.stack([blanks, labels], 2), (labels.shape[0], 2 * labels.shape[1]))
        path = ops.pad(path, [(0, 0), (0, 1)], self.blank)                          # (B, L): _ a _ b _
        before = ops.pad(path, [(0, 0), (2, 0)], self.blank)[:, :-2]
        skips = (path != self.blank) & (path != before)         # from a label to the next one, over the blank between

        def step(emitted: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            (alpha,) = state
            moved, skipped = (ops.pad(alpha, [(0, 0), (n, 0)], NEVER)[:, : alpha.shape[1]] for n in (1, 2))
            return (ops.logsumexp(ops.stack([alpha, moved, ops.where(skips, skipped, NEVER)]), 0) + emitted,)

        emitted = ops.take_along_axis(log_probs, path[:, None], 2)                  # (B, T, L)
        first = ops.like(log_probs, np.where(np.arange(path.shape[1]) == 0, 0.0, NEVER)).astype(log_probs.dtype)
        _, (alpha,) = functional.unroll(step, emitted, (ops.broadcast_to(first, path.shape),), input_lengths)
        places = ops.stack([2 * counts, ops.maximum(2 * counts - 1, 0)], 1)         # ends in a blank, or in a label
        last = ops.take_along_axis(alpha, places, 1)
        total = ops.logaddexp(last[:, 0], ops.where(counts > 0, last[:, 1], NEVER))
        losses = ops.where(total > NEVER / 2, -total, np.inf)
        if self.reduction == "mean":
            return ops.mean(losses / ops.maximum(counts, 1))
        return ops.sum(losses) if self.reduction == "sum" else losses

    def _check(self, log_probs: Tensor, targets: Like, input_lengths: Like, target_lengths: Like) -> None:
        given = [np.shape(a) for a in (targets, input_lengths, target_lengths)]
        batch = log_probs.shape[:1]
        if log_probs.ndim != 3 or len(given[0]) != 2 or {given[0][:1], *given[1:]} != {batch}:
            raise ValueError("CTCLoss: expected log_probs (B, T, C), targets (B, S), input_lengths and target_lengths "
                             f"(B,), got shapes {log_probs.shape}, {given[0]}, {given[1]} and {given[2]}")
        if not 0 <= self.blank < log_probs.shape[2]:
            raise ValueError(f"CTCLoss: expected a blank from 0 to {log_probs.shape[2] - 1}, got {self.blank}")
        if any(isinstance(a, Tensor) for a in (targets, input_lengths, target_lengths)):
            return
        labels, frames, counts = map(np.asarray, (targets, input_lengths, target_lengths))
        for name, a, top in (("input_lengths", frames, log_probs.shape[1]), ("target_lengths", counts, given[0][1])):
            if a.dtype.kind not in "iu" or ((a < 0) | (a > top)).any():
                raise ValueError(f"CTCLoss: expected {name} as integers from 0 to {top}, got {a.tolist()}")
        for row, (label, n, frame) in enumerate(zip(labels, counts, frames, strict=True)):
            label = label[:n]
            if ((label < 0) | (label >= log_probs.shape[2]) | (label == self.blank)).any():
                raise ValueError(f"CTCLoss: expected targets from 0 to {log_probs.shape[2] - 1}, none the blank "
                                 f"{self.blank}; row {row} is {label.tolist()}")
            if frame < (needed := n + int((label[1:] == label[:-1]).sum())):
                raise ValueError(f"CTCLoss: row {row} has {frame} frames, its {n} targets need at least {needed}")


class CRF(Module):
    """Tag sequences scored as a whole: a linear chain (Lafferty et al. 2001), as on a BiLSTM (Lample et al. 2016).

        score(y) = start[y_1] + sum_t x_t[y_t] + sum_t A[y_t, y_{t+1}] + end[y_n],   p(y) = exp(score(y)) / Z

    forward(x (B, T, K), tags (B, T), lengths (B,) or None) -> log p(tags) (B,): train on minus its mean. Z is the sum
    over all K^n sequences. `decode(x, lengths)` is the most probable one of each row (Viterbi 1967). A row without
    steps has the empty sequence alone, of probability 1.

    Raises ValueError for wrong shapes and dtypes, IndexError for tags out of range, at which nobody looks on a device.
    """

    def __init__(self, num_tags: int, dtype: Any = np.float32) -> None:
        self.num_tags = num_tags = check.integers("CRF", 1, num_tags=num_tags)
        self.start_transitions = init.uniform_(Parameter(ops.zeros((num_tags,), dtype)), -0.1, 0.1)
        self.end_transitions = init.uniform_(Parameter(ops.zeros((num_tags,), dtype)), -0.1, 0.1)
        self.transitions = init.uniform_(Parameter(ops.zeros((num_tags, num_tags), dtype)), -0.1, 0.1)

    def forward(self, x: Tensor, tags: Like, lengths: Like = None) -> Tensor:
        steps, real = self._steps(x, lengths)
        tags = ops.like(x, tags)
        if tags.shape != x.shape[:2] or tags.dtype.kind not in "iu":
            raise ValueError(f"CRF: expected integer tags (B, T) = {x.shape[:2]}, got {tags.dtype} {tags.shape}")
        tags = ops.where(real, tags, 0)
        ops.check_ids("CRF", tags, self.num_tags)
        emitted = ops.take_along_axis(x, tags[..., None], 2)[..., 0]
        moved = self.transitions[tags[:, :-1], tags[:, 1:]]
        ends = ops.take_along_axis(tags, ops.maximum(steps - 1, 0)[:, None], 1)[:, 0]
        score = ops.sum(ops.where(real, emitted, 0.0), 1) + ops.sum(ops.where(real[:, 1:], moved, 0.0), 1)
        score = score + self.start_transitions[tags[:, 0]] + self.end_transitions[ends]

        def step(x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (ops.logsumexp(state[0][:, :, None] + self.transitions, 1) + x,)

        rest = None if lengths is None else ops.maximum(steps - 1, 0)
        _, (alpha,) = functional.unroll(step, x[:, 1:], (self.start_transitions + x[:, 0],), rest)
        return ops.where(steps > 0, score - ops.logsumexp(alpha + self.end_transitions, 1), 0.0)

    @no_grad()
    def decode(self, x: Tensor, lengths: Like = None) -> list[list[int]]:
        """The most probable tags of each row."""
        steps, _ = self._steps(x, lengths)
        best, back = self.start_transitions + x[:, 0], []
        for t in range(1, x.shape[1]):
            ways = best[:, :, None] + self.transitions                              # (B, from, to)
            real = (steps > t)[:, None]
            back.append(ops.where(real, ops.argmax(ways, 1), ops.arange(self.num_tags)))
            best = ops.where(real, ops.max(ways, 1) + x[:, t], best)
        tags = [ops.argmax(best + self.end_transitions, 1)[:, None]]
        for pointers in reversed(back):
            tags.append(ops.take_along_axis(pointers, tags[-1], 1))
        rows = ops.concat(tags[::-1], 1).numpy().tolist()
        return [row[:n] for row, n in zip(rows, steps.numpy().tolist(), strict=True)]

    def _steps(self, x: Tensor, lengths: Like) -> tuple[Tensor, Tensor]:
        """The lengths (B,) and where steps are real, (B, T)."""
        if x.ndim != 3 or x.shape[2] != self.num_tags or not x.shape[1]:
            raise ValueError(f"CRF: expected scores (batch, time, {self.num_tags}) of at least one step, got {x.shape}")
        steps = ops.like(x, np.full(x.shape[0], x.shape[1]) if lengths is None else lengths)
        return steps, ops.like(x, length_mask(steps, x.shape[1], len(x)))
