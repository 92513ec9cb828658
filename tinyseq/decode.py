"""From a decoder's probabilities to sequences: written once over `step`, for every decoder (see nn.seq2seq).

What all functions share. `decoder` has `step(tokens (B,), state) -> (logits (B, V), state)`. `state` comes from its
`start`: a tuple, named or plain, nested as one likes, of Tensors with the batch first; None and plain numbers (a
position) are handed on as they are. Where it has an attribute `weights` (B, S), these attention weights become the
alignments. `start` is the first token: an integer, or one a row (B,); a language model that has read its prompts but
for their last tokens starts from those. The token `end` ends a sequence (-1: nothing does); without it a sequence is
cut at `max_length` tokens. Rows that have ended leave the batch and cost nothing more, and no result depends on the
other rows. Each time step waits for the device once. Switch dropout off first: `model.eval()`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyseq import functional, ops, random
from tinyseq.nn.multihead import length_mask
from tinyseq.tensor import Like, Tensor, namespace, no_grad

Array = np.ndarray[Any, Any]


class Hypothesis(NamedTuple):
    """What was decoded for one row: token ids without start and end; the attention weights (tokens, S) behind them, if
    the decoder has any; and the log-probability of the tokens and of the end, if it came."""

    tokens: list[int]
    alignment: Array | None
    score: float


class Step(NamedTuple):
    """One step in time: the rows (N,) of the batch that had not ended, the token (N,) chosen for each, `end` included,
    its log-probability (N,), and the attention weights (N, S) behind it, or None."""

    rows: Array
    tokens: Array
    scores: Array
    weights: Tensor | None


class Scores(NamedTuple):
    """Log-probabilities of given tokens (B, T), 0 in the padding, their sums (B,), and weights (B, T, S) or None."""

    tokens: Tensor
    total: Tensor
    alignment: Tensor | None


def take_rows(state: Any, rows: Any) -> Any:
    """A decoder's state for some rows of its batch, in the order given, a row as often as it is named."""
    if isinstance(state, tuple):
        return getattr(state, "_make", tuple)(take_rows(part, rows) for part in state)
    return state[rows] if isinstance(state, Tensor) else state


def _batch(state: Any) -> int | None:
    """How many rows a state has; None where no Tensor tells."""
    if isinstance(state, tuple):
        return next((n for n in map(_batch, state) if n is not None), None)
    return state.shape[0] if isinstance(state, Tensor) else None


def _first(state: Any, start: Like) -> Array:
    """The first token of each row, (B,)."""
    tokens, batch = np.asarray(start.numpy() if isinstance(start, Tensor) else start), _batch(state)
    batch = tokens.size if batch is None else batch
    if tokens.dtype.kind not in "iu" or tokens.shape not in ((), (batch,)):
        raise ValueError(f"decode: expected start as an integer, or ({batch},), got {tokens.dtype} {tokens.shape}")
    return np.broadcast_to(tokens, batch)


def _step(decoder: Any, tokens: Array, state: Any, end: int) -> tuple[Tensor, Any]:
    """The logits (N, V) of the next token, and the state then."""
    logits, state = decoder.step(tokens, state)
    if logits.ndim != 2 or len(logits) != len(tokens) or not -1 <= end < logits.shape[1] or end % 1:
        raise ValueError(f"decode: expected an integer end >= -1, and logits ({len(tokens)}, V), V > {end = }, from "
                         f"step, got {logits.shape}")
    return logits, state


def _fetch(values: Any, places: Any) -> tuple[Array, Array]:
    """Log-probabilities (N, k) and tokens (N, k), where they were computed -> both on the host."""
    values, places = Tensor(values).numpy(), Tensor(places).numpy()
    if np.isnan(values).any():
        raise ValueError("decode: the decoder's logits have no softmax: they are NaN, +inf, or all -inf")
    return values.astype(np.float64), places


class _Tree:
    """All that was decoded: each token a node, which knows the one before it."""

    def __init__(self) -> None:
        self.nodes, self.weights = list[Any](), list[Tensor | None]()  # (parent or -1, token, score, place); by step

    def add(self, parents: Array, tokens: Array, scores: Array, places: Array, weights: Tensor | None) -> Array:
        """A step's nodes: whose parents have which scores with them, and which rows of its batch they come from."""
        self.nodes += zip(*(part.ravel().tolist() for part in (parents, tokens, scores, places)), strict=True)
        self.weights.append(weights)
        return np.arange(len(self.nodes) - tokens.size, len(self.nodes)).reshape(tokens.shape)

    def hypotheses(self, last: Array, end: int, empty: float = 0.0) -> list[list[Hypothesis]]:
        """What leads to the `last` nodes (B, n) but those of -1; where there is no other, no tokens, scored `empty`."""
        w, none = [part if part is None else part.numpy() for part in self.weights], Hypothesis([], None, empty)
        return [[self._trace(n, w, end) for n in row if n >= 0] or [none] for row in last.tolist()]

    def _trace(self, node: int, weights: list[Any], end: int) -> Hypothesis:
        path, score = [], self.nodes[node][2]
        while node >= 0:
            path.append(self.nodes[node])
            node = path[-1][0]
        path = [n for n in reversed(path) if n[1] != end]
        looks = [w[n[3]] for n, w in zip(path, weights, strict=False) if w is not None]
        return Hypothesis([n[1] for n in path], np.stack(looks) if looks else None, score)


# --- one token after the other -------------------------------------------------------------------------------------


def greedy(decoder: Any, state: Any, start: Like, end: int, max_length: int) -> list[Hypothesis]:
    """The most probable token at each step, until `end` or `max_length` tokens: one Hypothesis a row of the batch."""
    return sample(decoder, state, start, end, max_length, temperature=0.0)


def sample(decoder: Any, state: Any, start: Like, end: int, max_length: int, temperature: float = 1.0,
           **options: Any) -> list[Hypothesis]:
    """A random token at each step, until `end` or `max_length` tokens: one Hypothesis a row of the batch.

    Tokens are drawn as `stream` says, which names the options. Scores are log-probabilities of the model as it is.
    """
    totals, tree = np.zeros(len(_first(state, start))), _Tree()
    nodes = np.full(len(totals), -1)
    for rows, tokens, scores, weights in stream(decoder, state, start, end, max_length, temperature, **options):
        totals[rows] += scores
        nodes[rows] = tree.add(nodes[rows], tokens, totals[rows], np.arange(len(rows)), weights)
    return [row[0] for row in tree.hypotheses(nodes[:, None], end)]


def stream(decoder: Any, state: Any, start: Like, end: int, max_length: int, temperature: float = 0.0, *,
           top_k: int | None = None, top_p: float = 1.0, min_p: float = 0.0,
           seed: int | Sequence[int] | None = None, generator: random.Generator | None = None) -> Iterator[Step]:
    """One token a row after the other, as they come: a Step for each step in time.

    Temperature 0 takes the most probable token. Otherwise tokens are drawn from p = softmax(logits / temperature), cut
    down to the `top_k` most probable; of these, to the fewest most probable with at least `top_p` of what they have
    together (Holtzman et al. 2020); of these, to those with at least `min_p` times the greatest p (Nguyen et al. 2024).
    Tokens as probable as the last one kept stay too.

    What is drawn for row i is a function of the integer `seed` and i; where each row has a seed, of seed[i] alone. By
    default the seed is drawn, from `generator` if given.
    """
    if not (max_length >= 0 <= temperature and (top_k is None or top_k >= 1) and 0 < top_p <= 1 and 0 <= min_p <= 1):
        raise ValueError("decode: expected max_length and temperature >= 0, top_k >= 1, 0 < top_p <= 1 and 0 <= min_p "
                         f"<= 1, got {max_length=}, {temperature=}, {top_k=}, {top_p=}, {min_p=}")
    last = _first(state, start)
    rows, draws = np.arange(len(last)), _uniform(seed, len(last), max_length, generator) if temperature else None
    for t in range(max_length):
        if not len(rows):
            break
        with no_grad():
            logits, state = _step(decoder, last, state, end)
            scores, tokens = _best(logits) if draws is None else _draw(
                functional.log_softmax(logits), draws[rows, t], temperature, top_k, top_p, min_p)
        last = tokens[:, 0]
        yield Step(rows, last, scores[:, 0], getattr(state, "weights", None))
        going = np.flatnonzero(last != end)
        if len(going) < len(rows):
            rows, last, state = rows[going], last[going], take_rows(state, going)


def _best(logits: Tensor) -> tuple[Array, Array]:
    """The greatest log-probability of each row of logits (N, V), and where it stands: (N, 1), on the host."""
    data, xp = logits.data, namespace(logits.data)
    with np.errstate(invalid="ignore"):  # infinities give NaN, which `_fetch` refuses
        total = xp.exp(data - data.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True)
    return _fetch(-xp.log(total), data.argmax(axis=1, keepdims=True))


def _uniform(seed: Any, batch: int, steps: int, generator: random.Generator | None) -> Array:
    """Uniform numbers (B, steps), of each row a sequence of its own."""
    seed = int(random.host_generator(generator).integers(2**63)) if seed is None else seed
    pairs = [(seed, i) for i in range(batch)] if np.ndim(seed) == 0 else [(s, 0) for s in seed]
    if len(pairs) != batch or not all(isinstance(s, (int, np.integer)) and s >= 0 for s, _ in pairs):
        raise ValueError(f"decode: expected one seed, or one for each of {batch} rows, integers >= 0, got {seed!r}")
    keys = np.array(pairs, np.uint64)
    return np.array([np.random.Generator(np.random.Philox(key=key)).random(steps) for key in keys])


def _draw(logs: Tensor, draws: Array, temperature: float, top_k: int | None, top_p: float, min_p: float) -> Any:
    """A token for each row of log-probabilities (N, V), by a uniform number (N,) each; with what it had: (N, 1)."""
    p = functional.softmax(logs.astype(np.float64) / temperature).data
    xp = namespace(p)
    if top_k or top_p < 1:
        ordered = xp.flip(xp.sort(p, axis=-1), axis=-1)[:, :top_k]
        kept = xp.cumulative_sum(ordered, axis=-1) - ordered < top_p * xp.sum(ordered, axis=-1, keepdims=True)
        p = xp.where(p >= xp.min(xp.where(kept, ordered, 1.0), axis=-1, keepdims=True), p, 0.0)
    p = xp.where(p >= min_p * xp.max(p, axis=-1, keepdims=True), p, 0.0)
    reached = xp.cumulative_sum(p, axis=-1)
    chosen = xp.argmax(reached > ops.like(logs, draws[:, None]).data * reached[:, -1:], axis=-1)
    return _fetch(logs.data[xp.arange(len(p)), chosen][:, None], chosen[:, None])


# --- beam search ---------------------------------------------------------------------------------------------------


@no_grad()
def beam(decoder: Any, state: Any, start: Like, end: int, max_length: int, width: int = 4, *, n_best: int = 1,
         length_penalty: float = 0.0, min_length: int = 0) -> list[list[Hypothesis]]:
    """Beam search: for each row of the batch its `n_best` hypotheses, best first (fewer where no more are possible;
    where none is, one without tokens, of score -inf).

    At each step the `width` best extensions by one token are kept; those that end leave the beam. Hypotheses Y are
    ranked by score / ((5 + |Y|) / 6)^length_penalty (Wu et al. 2016, equation 14), where |Y| counts the end, among
    those of at least `min_length` tokens. A row is done when nothing in its beam can overtake its n best any more, so
    that stopping early changes no result.
    """
    if not (1 <= n_best <= width and 0 <= min_length <= max_length and np.isfinite(length_penalty)):
        raise ValueError("beam: expected 1 <= n_best <= width, 0 <= min_length <= max_length and a finite "
                         f"length_penalty, got {n_best=}, {width=}, {min_length=}, {max_length=}, {length_penalty=}")
    last, tree = _first(state, start), _Tree()
    penalty = ((5 + np.minimum(np.arange(max_length + 2), max_length)) / 6) ** length_penalty
    ranks, best = np.full((len(last), n_best), -np.inf), np.full((len(last), n_best), -1)  # of what ended, with nodes
    rows = np.arange(len(last))  # that are not done; and of each one's beam the places in the batch, scores, nodes:
    places, scores, nodes = rows[:, None], np.zeros((len(rows), 1)), np.full((len(rows), 1), -1)
    for t in range(1, max_length + 1):
        if not len(rows):
            break
        logits, state = _step(decoder, last, state, end)
        logs = functional.log_softmax(logits)
        if t <= min_length:
            logs.data[:, end : end + 1] = -np.inf  # an end of -1: nothing
        values, tokens = _top(logs, width)
        totals = (scores[:, :, None] + values[places]).reshape(len(rows), -1)  # (rows, beam k)
        order = np.argsort(-totals, axis=1, kind="stable")[:, :width]
        parents = order // values.shape[1]
        scores, places = np.take_along_axis(totals, order, 1), np.take_along_axis(places, parents, 1)
        tokens, nodes = tokens[places, order % values.shape[1]], np.take_along_axis(nodes, parents, 1)
        nodes = tree.add(nodes, tokens, scores, places, getattr(state, "weights", None))
        # What has ended, or is cut, competes with the n best so far; what has not goes on if it can still win.
        live = (tokens != end) & (t < max_length) & (scores > -np.inf)
        rivals = np.concatenate([ranks[rows], np.where(live, -np.inf, scores / penalty[t])], 1)
        order = np.argsort(-rivals, axis=1, kind="stable")[:, :n_best]
        ranks[rows] = np.take_along_axis(rivals, order, 1)
        best[rows] = np.take_along_axis(np.concatenate([best[rows], nodes], 1), order, 1)
        scores = np.where(live, scores, -np.inf)
        going = scores.max(1) / penalty[t + 1 :].max() > ranks[rows, -1]
        rows, live, scores, nodes = rows[going], live[going], scores[going], nodes[going]
        last, state = tokens[going][live], take_rows(state, places[going][live])
        places = np.where(live, np.cumsum(live).reshape(live.shape) - 1, 0)
    return tree.hypotheses(np.where(ranks > -np.inf, best, -1), end, -np.inf if max_length else 0.0)


def _top(logs: Tensor, k: int) -> tuple[Array, Array]:
    """The k greatest of each row of logs (N, V), greatest first, and where they stand, on the host. It uses logs up."""
    data, xp = logs.data, namespace(logs.data)
    values, places, rows = [], [], xp.arange(len(data))
    for _ in range(min(k, data.shape[1])):  # for a small k much faster than sorting
        places.append(xp.argmax(data, axis=1))
        values.append(data[rows, places[-1]])
        data[rows, places[-1]] = -np.inf
    return _fetch(xp.stack(values, axis=1), xp.stack(places, axis=1))


# --- given sequences -----------------------------------------------------------------------------------------------


def score(decoder: Any, state: Any, start: Like, target: Like, lengths: Like = None, align: bool = False) -> Scores:
    """The log-probability of given tokens, by teacher forcing, differentiably.

    `target` (B, T) are the tokens after `start`, with the end where it belongs; the first `lengths` (B,) of each row
    count (all by default), whatever stands behind them. All steps run at once; with `align` they are then taken one by
    one too, for the attention weights.
    """
    first, target = _first(state, start), np.asarray(target.numpy() if isinstance(target, Tensor) else target)
    steps = target.shape[-1] if target.ndim else 0
    real = length_mask(np.full(len(first), steps) if lengths is None else lengths, steps).numpy()
    if target.shape != (len(first), steps) or target.dtype.kind not in "iu" or len(real) != len(first):
        raise ValueError(f"score: expected integers ({len(first)}, T) as target and a length for each row, got "
                         f"{target.dtype} {target.shape} and {len(real)} lengths")
    target = np.where(real, target, 0)
    given = np.concatenate([first[:, None], target], 1)[:, :steps]
    logits = decoder(given, state)
    ops.check_ids("score", target, logits.shape[-1])
    logs = ops.take_along_axis(functional.log_softmax(logits), ops.like(logits, target[:, :, None]))[:, :, 0]
    logs, weights = ops.where(ops.like(logits, real), logs, 0.0), []
    for t in range(steps if align else 0):
        _, state = decoder.step(given[:, t], state)
        weights.append(getattr(state, "weights", None))
    return Scores(logs, ops.sum(logs, 1), ops.stack(weights, 1) if weights and weights[0] is not None else None)
