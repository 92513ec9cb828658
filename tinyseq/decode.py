"""From a decoder's probabilities to sequences: written once over `step`, for every decoder (see nn.seq2seq).

What all functions here share. `decoder` has `step(tokens (B,), state) -> (logits (B, V), state)`. `state` comes from
the decoder's `start`: a (named) tuple, nested as one likes, of Tensors with the batch first; None and plain numbers (a
position) are handed on as they are. If it has an attribute `weights` (B, S), these attention weights become the
alignments. `start` is the first token: an integer, or one a row (B,); a language model that has read its prompts but
for their last tokens starts from those. `end` ends a sequence (-1: nothing does) and is not part of its tokens, though
of its score; without it a sequence is cut at `max_length` tokens. Rows that have ended leave the batch and cost nothing
more, and no result depends on the other rows. Switch dropout off first: `model.eval()`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinyseq import functional, ops
from tinyseq.tensor import Like, Tensor, namespace, no_grad

Array = np.ndarray[Any, Any]


class Hypothesis(NamedTuple):
    """What was decoded for one row: token ids without start and end, the attention weights (tokens, S) behind them, if
    the decoder has any, and the log-probability of the tokens and the end."""

    tokens: list[int]
    alignment: Array | None
    score: float


def take_rows(state: Any, rows: Any) -> Any:
    """A decoder's state for some rows of its batch, in the order given, a row as often as it is named."""
    if isinstance(state, tuple):
        parts = [take_rows(part, rows) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return state[rows] if isinstance(state, Tensor) else state


def _batch(state: Any) -> int | None:
    """How many rows a state has."""
    if isinstance(state, tuple):
        return next((n for n in map(_batch, state) if n is not None), None)
    return state.shape[0] if isinstance(state, Tensor) else None


def _first(state: Any, start: Like) -> Array:
    """The first token of each row, (B,)."""
    start, batch = np.asarray(start.numpy() if isinstance(start, Tensor) else start), _batch(state)
    if start.dtype.kind not in "iu" or start.ndim > 1 or (start.ndim and batch not in (None, len(start))):
        raise ValueError(f"decode: expected start as an integer or integers (B,) = ({batch},), got {start.dtype} of "
                         f"shape {start.shape}")
    return np.broadcast_to(start, (1 if batch is None else batch) if not start.ndim else len(start))


@no_grad()
def greedy(decoder: Any, state: Any, start: int, end: int, max_length: int) -> list[Hypothesis]:
    """The most probable token at each step, until `end` or `max_length` tokens: one Hypothesis a row of the batch."""
    best = beam(decoder, state, start, end, max_length, width=1)
    return [row[0] for row in best]


@no_grad()
def beam(
    decoder: Any, state: Any, start: Like, end: int, max_length: int, width: int = 4, *, n_best: int = 1,
    length_penalty: float = 0.0, min_length: int = 0,
) -> list[list[Hypothesis]]:
    """Beam search: for each row of the batch its `n_best` hypotheses, best first (fewer where no more are possible).

    At each step the `width` best extensions by one token are kept; those that end leave the beam. Hypotheses Y are
    ranked by score / ((5 + |Y|) / 6)^length_penalty (Wu et al. 2016, equation 14), |Y| counting the end, among those of
    at least `min_length` tokens. A row is done when nothing in its beam can overtake its n best any more, so that
    stopping early changes no result.
    """
    if not 1 <= n_best <= width or max_length < 0:
        raise ValueError(f"beam: expected 1 <= n_best <= width and max_length >= 0, got n_best={n_best}, width={width}, "
                         f"max_length={max_length}")
    last = _first(state, start)
    penalty = ((5 + np.arange(max_length + 1)) / 6) ** length_penalty
    kept = np.full((len(last), n_best), -np.inf), np.full((len(last), n_best), -1)  # ranks and nodes of what ended
    rows = np.arange(len(last))  # those not done
    slots, scores, nodes = rows[:, None], np.zeros((len(rows), 1)), np.full((len(rows), 1), -1)
    history: list[tuple[Any, ...]] = []  # by node, of all steps: parent, token, score, row of the step's weights
    weights, count = [], 0
    for t in range(1, max_length + 1):
        if not len(rows):
            break
        logits, state = decoder.step(last, state)
        weights.append(getattr(state, "weights", None))
        values, tokens = _top(functional.log_softmax(logits), width, end if t <= min_length else -1)  # (N, k)
        totals = (scores[:, :, None] + values[slots]).reshape(len(rows), -1)   # (rows, beam k)
        best = np.argsort(-totals, axis=1, kind="stable")[:, :width]
        scores, parents = np.take_along_axis(totals, best, 1), best // values.shape[1]
        slots = np.take_along_axis(slots, parents, 1)
        tokens = tokens[slots, best % values.shape[1]]
        history.append((np.take_along_axis(nodes, parents, 1), tokens, scores, slots))
        nodes = count + np.arange(best.size).reshape(best.shape)
        count += best.size

        live = (tokens != end) & (t < max_length) & (scores > -np.inf)
        ranks = np.concatenate([kept[0][rows], np.where(live, -np.inf, scores / penalty[t])], 1)
        order = np.argsort(-ranks, axis=1, kind="stable")[:, :n_best]
        kept[0][rows] = np.take_along_axis(ranks, order, 1)
        kept[1][rows] = np.take_along_axis(np.concatenate([kept[1][rows], nodes], 1), order, 1)
        bound = np.where(live, scores, -np.inf).max(1) / max(penalty[-1], penalty[min(t + 1, max_length)])
        going = bound > kept[0][rows, -1]

        rows, live, scores, nodes = rows[going], live[going], scores[going], nodes[going]
        state, last = take_rows(state, slots[going][live]), tokens[going][live]
        slots, scores = np.where(live, np.cumsum(live).reshape(live.shape) - 1, 0), np.where(live, scores, -np.inf)
    return _trace(kept, history, weights, end)


def _top(x: Tensor, k: int, banned: int) -> tuple[Array, Array]:
    """The k largest entries of each row (N, V), largest first, and their places, on the host. x is used up."""
    data, xp = x.data, namespace(x.data)
    values, places, rows = [], [], xp.arange(len(data))
    if banned >= 0:
        data[:, banned] = -np.inf
    for _ in range(min(k, data.shape[1])):  # k is small: faster than sorting, on every backend
        places.append(xp.argmax(data, axis=1))
        values.append(data[rows, places[-1]])
        data[rows, places[-1]] = -np.inf
    return Tensor(xp.stack(values, axis=1)).numpy().astype(np.float64), Tensor(xp.stack(places, axis=1)).numpy()


def _trace(kept: Any, history: list[tuple[Any, ...]], weights: list[Any], end: int) -> list[list[Hypothesis]]:
    """Follow each kept node back to the start."""
    if not history:
        return [[Hypothesis([], None, 0.0)] for _ in kept[0]]
    parents, tokens, scores, slots = (np.concatenate([a.ravel() for a in parts]) for parts in zip(*history, strict=True))
    host = [None if w is None else w.numpy() for w in weights]
    found: list[list[Hypothesis]] = []
    for ranks, nodes in zip(*kept, strict=True):
        found.append([])
        for node in nodes[ranks > -np.inf]:
            path = [node]
            while parents[path[-1]] >= 0:
                path.append(parents[path[-1]])
            path.reverse()
            if tokens[node] == end:
                path.pop()
            looks = [w[slots[n]] for n, w in zip(path, host, strict=False) if w is not None]
            found[-1].append(Hypothesis(tokens[path].tolist(), np.stack(looks) if looks else None, float(scores[node])))
    return found
