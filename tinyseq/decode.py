"""From a decoder's probabilities to sequences: written once over `step`, for every decoder (see nn.seq2seq)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinyseq import ops
from tinyseq.tensor import no_grad


class Hypothesis(NamedTuple):
    """What was decoded for one row: token ids without start and end, and the attention weights (tokens, S) behind them,
    if the decoder has any."""

    tokens: list[int]
    alignment: np.ndarray[Any, Any] | None


def take_rows(state: Any, rows: Any) -> Any:
    """A decoder's state for some rows of its batch, in the order given."""
    return type(state)(*(None if part is None else part[rows] for part in state))


@no_grad()
def greedy(decoder: Any, state: Any, start: int, end: int, max_length: int) -> list[Hypothesis]:
    """The most probable token at each step, until `end` or `max_length` tokens: one Hypothesis a row of the batch.

    `state` comes from the decoder's `start`. Rows that have ended are taken out of the batch and cost nothing more.
    Results do not depend on the other rows. Switch dropout off first: `model.eval()`.
    """
    alive = np.arange(next(part.shape[0] for part in state if part is not None))
    tokens: list[list[int]] = [[] for _ in alive]
    alignments: list[list[Any]] = [[] for _ in alive]
    last = np.full(len(alive), start)
    for _ in range(max_length):
        if not len(alive):
            break
        logits, state = decoder.step(last, state)
        last = ops.argmax(logits, -1).numpy()
        weights = getattr(state, "weights", None)
        going = last != end
        if not going.all():
            rows = np.flatnonzero(going)
            alive, last, state = alive[rows], last[rows], take_rows(state, rows)
        weights = weights if weights is None else weights.numpy()[going]
        for i, row in enumerate(alive):
            tokens[row].append(int(last[i]))
            if isinstance(weights, np.ndarray):
                alignments[row].append(weights[i])
    return [Hypothesis(t, np.stack(a) if a else None) for t, a in zip(tokens, alignments, strict=True)]
