"""From a decoder's probabilities to sequences: written once over `step`, for every decoder (see nn.seq2seq).

What all functions share. `decoder` has `step(tokens (B,), state) -> (logits (B, V), state)`. `state` comes from its
`start`: Tensors and arrays with the batch first in tuples (named or plain), lists, dictionaries and dataclasses, nested
as one likes; None, text and plain numbers (a position) among them are handed on as they are; anything else is refused.
Where it has an attribute `weights` (B, S), these attention weights become the alignments. `start` is the first token:
an integer, or one a row (B,); a language model that has read its prompts but for their last tokens starts from those.
The token `end` ends a sequence (-1: nothing does); without it a sequence is cut at `max_length` tokens. Rows that have
ended leave the batch and cost nothing more, and no result depends on the other rows. Each time step waits for the
device once. Switch dropout off first: `model.eval()`.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyseq import backends, check, functional
from tinyseq.engine import ops, random
from tinyseq.engine.graph import no_grad
from tinyseq.engine.tensor import Like, Tensor, namespace
from tinyseq.nn.masks import length_mask

__all__ = ["Hypothesis", "Scores", "Step", "beam", "greedy", "sample", "score", "stream", "take_rows"]

Array = np.ndarray[Any, Any]


class Hypothesis(NamedTuple):
    """What was decoded for one row: token ids without start and end; the attention weights (tokens, S) behind them, if
    the decoder has any and was asked (a `max_length` of 0 asks nothing); and the log-probability of the tokens and of
    the end, if it came. S is that of the batch: of a row with a padded memory `alignment[:, :length]` is its own part.

    >>> found = ts.decode.Hypothesis([4, 5], None, -0.5)
    >>> found.tokens, found.alignment, found.score
    ([4, 5], None, -0.5)
    """

    tokens: list[int]
    alignment: Array | None
    score: float

    def __repr__(self) -> str:
        return check.fields(self)


check.public(__name__, Hypothesis)


class Step(NamedTuple):
    """One step in time: the rows (N,) of the batch that had not ended, the token (N,) chosen for each, `end` included,
    its log-probability (N,), and the attention weights (N, S) behind it, or None.

    >>> step = ts.decode.Step(np.array([0, 2]), np.array([7, 3]), np.array([-0.5, -1.5]), None)
    >>> for row, token in zip(step.rows, step.tokens):
    ...     print("row", row, "goes on with", token)
    row 0 goes on with 7
    row 2 goes on with 3
    """

    rows: Array
    tokens: Array
    scores: Array
    weights: Tensor | None

    def __repr__(self) -> str:
        return check.fields(self)


class Scores(NamedTuple):
    """Log-probabilities of given tokens (B, T), their sums (B,), and weights (B, T, S) or None; 0 in the padding.

    >>> found = ts.decode.Scores(ts.tensor([[-0.5, -1.0]]), ts.tensor([-1.5]), None)
    >>> found.total
    tensor([-1.5])
    """

    tokens: Tensor
    total: Tensor
    alignment: Tensor | None

    def __repr__(self) -> str:
        return check.fields(self)


_PLAIN = (type(None), int, float, str, bytes, np.generic)


def _map(where: str, f: Callable[[Any], Any], state: Any) -> Any:
    """A decoder's state with `f` of each Tensor and array in its place."""
    if isinstance(state, (Tensor, np.ndarray)) or type(state) in backends.arrays:
        return f(state) if state.ndim else state
    if isinstance(state, _PLAIN):
        return state
    if isinstance(state, tuple):
        return getattr(state, "_make", tuple)(_map(where, f, part) for part in state)
    rows = isinstance(state, list) and state and all(isinstance(part, _PLAIN[1:]) for part in state)
    if not rows and isinstance(state, (dict, list)):
        found: Any = copy.copy(state)
        for key, part in state.items() if isinstance(state, dict) else enumerate(state):
            found[key] = _map(where, f, part)
        return found
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        found = copy.copy(state)
        for field in dataclasses.fields(state):
            object.__setattr__(found, field.name, _map(where, f, getattr(state, field.name)))  # it may be frozen
        return found
    raise TypeError(f"{where}: expected a state of Tensors and arrays (batch first), numbers, text and None, in "
                    f"tuples, lists, dictionaries and dataclasses, got {state!r} in it: the decoder keeps other "
                    "things; numbers or text in a list may be one a row, an array, or not, a tuple")


def take_rows(state: Any, rows: Any) -> Any:
    """A decoder's state for some rows of its batch, in the order given, a row as often as it is named: each Tensor and
    array (B, ...) becomes (N, ...) by the integers `rows` (N,); what is neither stays.

    >>> ts.decode.take_rows({"h": ts.tensor([[1.0], [2.0]]), "place": 7}, [1, 1])
    {'h': tensor([[2.],
            [2.]]), 'place': 7}
    """
    return _map("take_rows", lambda x: x[rows] if isinstance(x, (Tensor, np.ndarray)) else Tensor(x)[rows].data, state)


def _host(where: str, expected: str, values: Like, fits: Callable[[tuple[int, ...]], bool]) -> Array:
    """Integers of a shape that `fits`, on the host, as int64."""
    try:
        data = ops.as_int64(values.numpy() if isinstance(values, Tensor) else values)
    except (TypeError, ValueError, IndexError):
        data = None
    if data is None or not fits(data.shape):
        raise ValueError(f"{where}: expected {expected}, got {check.describe(values)}")
    return data  # type: ignore[no-any-return]


_TURN = "the batch comes first, so that a layer's (layers, B, H) is handed on as ts.moveaxis(h, 1, 0)"


def _batch(where: str, state: Any, rows: int | None = None) -> int | None:
    """The first axis of all Tensors and arrays in a state, which must be the `rows` if given; None without any."""
    sizes = dict[int, None]()
    _map(where, lambda x: sizes.setdefault(len(x)), state)
    if len(sizes) > 1 or (rows is not None and sizes and rows not in sizes):
        raise ValueError(f"{where}: expected a state whose Tensors and arrays have one batch as their first axis, got "
                         f"first axes of {', '.join(map(str, sizes))}{'' if rows is None else f' for {rows} tokens'}: "
                         f"{_TURN}")
    return next(iter(sizes), None)


def _first(where: str, decoder: Any, state: Any, start: Like, method: str = "step") -> Array:
    """The first token of each row, (B,)."""
    if not callable(getattr(decoder, method, None)):
        raise TypeError(f"{where}: expected a decoder with {method}(tokens, state), got {check.describe(decoder)}")
    batch = _batch(where, state)
    fits = "" if batch is None else f", one a row of the state ({_TURN})"
    tokens = _host(where, f"start as an integer, or ({'B' if batch is None else batch},){fits}", start,
                   lambda shape: len(shape) < 2 and (batch is None or shape in ((), (batch,))))
    return np.broadcast_to(tokens, tokens.size if batch is None else batch)


def _step(where: str, decoder: Any, tokens: Array, state: Any, end: int, first: bool) -> tuple[Tensor, Any]:
    """The logits (N, V) of the next token, and the state then, whose rows are looked at after the first step."""
    try:
        found = decoder.step(tokens, state)
    except (IndexError, ValueError) as error:
        error.add_note(f"{where}: step was called with {len(tokens)} tokens and a state of as many rows: {_TURN}")
        raise
    logits = found[0] if isinstance(found, tuple) and len(found) == 2 else found
    if logits is found or not isinstance(logits, Tensor) or logits.dtype.kind != "f" or logits.ndim != 2 or (
            len(logits) != len(tokens)) or not logits.shape[1] > max(end, 0):
        raise ValueError(f"{where}: expected (logits, state) from step, with floats ({len(tokens)}, V), V > {end = }, "
                         f"as logits, got {check.describe(logits)}{' alone' * (logits is found)}")
    if first:
        _batch(where, found[1], len(tokens))
    return found  # type: ignore[no-any-return]


def _fetch(where: str, logits: Tensor, values: Any, places: Any) -> tuple[Array, Array]:
    """Log-probabilities (N, k), the greatest first, and tokens (N, k), where they were computed -> on the host."""
    values, places = Tensor(values).numpy(), Tensor(places).numpy()
    if not (values[:, 0] > -np.inf).all() and (  # else the one token that could come may not
            np.isnan(values).any() or (Tensor(logits.data.max(axis=1)).numpy() == -np.inf).any()):
        raise ValueError(f"{where}: the decoder's logits have no softmax: they are NaN, +inf, or all -inf")
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
        w = [part if part is None else part.numpy() for part in self.weights]
        none = Hypothesis([], w[0][:0] if w and w[0] is not None else None, empty)
        return [[self._trace(n, w, end) for n in row if n >= 0] or [none] for row in last.tolist()]

    def _trace(self, node: int, weights: list[Any], end: int) -> Hypothesis:
        path, score = [], self.nodes[node][2]
        while node >= 0:
            path.append(self.nodes[node])
            node = path[-1][0]
        path = [n for n in reversed(path) if n[1] != end]
        looks = [w[n[3]] for n, w in zip(path, weights, strict=False) if w is not None] or weights[0]
        alignment = looks if looks is None else np.stack(looks)[: len(path)]
        return Hypothesis([n[1] for n in path], alignment, score)


# --- one token after the other -------------------------------------------------------------------------------------


def greedy(decoder: Any, state: Any, start: Like, end: int, max_length: int) -> list[Hypothesis]:
    """The most probable token at each step, until `end` or `max_length` tokens: one Hypothesis a row of the batch.

    `decoder` has `step(tokens (B,), state) -> (logits (B, V), state)`, and `state` comes from its `start`; `start` here
    is the first token, or one a row (B,), and `end` the last (-1: none). help(ts.decode) says what they may be.

    >>> class Count:                                            # after token n comes n + 1
    ...     def step(self, tokens, state):
    ...         return 9.0 * ts.eye(5)[(tokens + 1) % 5], state
    >>> [found.tokens for found in ts.decode.greedy(Count(), None, start=[0, 2], end=4, max_length=10)]
    [[1, 2, 3], [3]]
    """
    return _collect(end, *_steps("greedy", decoder, state, start, end, max_length, 0.0))


def sample(decoder: Any, state: Any, start: Like, end: int, max_length: int, temperature: float = 1.0, *,
           top_k: int | None = None, top_p: float = 1.0, min_p: float = 0.0, seed: Any = None,
           generator: random.Generator | None = None) -> list[Hypothesis]:
    """A random token at each step, until `end` or `max_length` tokens: one Hypothesis a row of the batch.

    Arguments and shapes as for `greedy`; tokens are drawn as `stream` says. Scores are log-probabilities of the model
    as it is.

    >>> class Dice:                                             # tokens 0 to 5, each as likely
    ...     def step(self, tokens, state):
    ...         return ts.zeros((len(tokens), 6)), state
    >>> [found.tokens for found in ts.decode.sample(Dice(), None, start=[0, 0], end=-1, max_length=8, seed=1)]
    [[1, 5, 0, 0, 5, 0, 4, 1], [0, 5, 5, 4, 5, 3, 1, 5]]
    """
    return _collect(end, *_steps("sample", decoder, state, start, end, max_length, temperature, top_k, top_p, min_p,
                                 seed, generator))


def stream(decoder: Any, state: Any, start: Like, end: int, max_length: int, temperature: float = 0.0, *,
           top_k: int | None = None, top_p: float = 1.0, min_p: float = 0.0,
           seed: int | Sequence[int] | None = None, generator: random.Generator | None = None) -> Iterator[Step]:
    """One token a row after the other, as they come: a Step for each step in time. Arguments and shapes as for
    `greedy`.

    Temperature 0 takes the most probable token. Otherwise tokens are drawn from p = softmax(logits / temperature), cut
    down to the `top_k` most probable; of these, to the fewest most probable with at least `top_p` of what they have
    together (Holtzman et al. 2020); of these, to those with at least `min_p` times the greatest p (Nguyen et al. 2024).
    Tokens as probable as the last one kept stay too. An infinite temperature makes all tokens alike but those of
    logits -inf, which no temperature lets pass.

    What is drawn for row i is a function of the integer `seed` and i; where each row has a seed, of seed[i] alone. By
    default the seed is drawn, from `generator` if given.

    >>> class Count:                                            # after token n comes n + 1
    ...     def step(self, tokens, state):
    ...         return 9.0 * ts.eye(5)[(tokens + 1) % 5], state
    >>> for step in ts.decode.stream(Count(), None, start=[0, 2], end=4, max_length=10):
    ...     print(step.rows, step.tokens)
    [0 1] [1 3]
    [0 1] [2 4]
    [0] [3]
    [0] [4]
    """
    return _steps("stream", decoder, state, start, end, max_length, temperature, top_k, top_p, min_p, seed,
                  generator)[1]


def _collect(end: int, batch: int, steps: Iterator[Step]) -> list[Hypothesis]:
    """What the steps say, row by row."""
    totals, nodes, tree = np.zeros(batch), np.full(batch, -1), _Tree()
    for rows, tokens, scores, weights in steps:
        totals[rows] += scores
        nodes[rows] = tree.add(nodes[rows], tokens, totals[rows], np.arange(len(rows)), weights)
    return [row[0] for row in tree.hypotheses(nodes[:, None], end)]


def _steps(where: str, decoder: Any, state: Any, start: Like, end: int, max_length: int, temperature: float,
           top_k: int | None = None, top_p: float = 1.0, min_p: float = 0.0, seed: Any = None,
           generator: random.Generator | None = None) -> tuple[int, Iterator[Step]]:
    """How many rows there are, and `stream` in the name of `where`: this checks the arguments, the iterator decodes."""
    last = _first(where, decoder, state, start)
    end, max_length = check.integers(where, -1, end=end), check.integers(where, 0, max_length=max_length)
    temperature = check.numbers(where, least=0, temperature=temperature)
    top_k = None if top_k is None else check.integers(where, 1, top_k=top_k)
    top_p = check.numbers(where, above=0, most=1, top_p=top_p)
    min_p = check.numbers(where, least=0, most=1, min_p=min_p)
    check.instance(where, random.Generator | None, generator=generator)
    draws = _uniform(where, seed, len(last), generator) if temperature else []

    def steps(last: Array, state: Any) -> Iterator[Step]:
        rows = np.arange(len(last))
        for t in range(max_length):
            if not len(rows):
                break
            with no_grad():
                logits, state = _step(where, decoder, last, state, end, not t)
                with np.errstate(invalid="ignore", over="ignore"):  # `_fetch` refuses NaN
                    found = _draw(logits, [draws[row]() for row in rows], temperature, top_k, top_p, min_p) if (
                        draws) else backends.of(logits.data).best_few(logits.data)
                scores, tokens = _fetch(where, logits, *found)
            last = tokens[:, 0]
            yield Step(rows, last, scores[:, 0], getattr(state, "weights", None))
            going = np.flatnonzero(last != end)
            if len(going) < len(rows):
                rows, last, state = rows[going], last[going], take_rows(state, going)

    return len(last), steps(last, state)


def _uniform(where: str, seed: Any, batch: int, generator: random.Generator | None) -> list[Callable[[], float]]:
    """For each row of the batch what draws its uniform numbers, a sequence of its own."""
    if seed is not None and generator is not None:
        raise ValueError(f"{where}: expected seed or generator, not both: got {seed!r} and a generator")
    seed = int(random.host_generator(generator).integers(2**63)) if seed is None else seed
    pairs = [(seed, i) for i in range(batch)] if np.ndim(seed) == 0 else [(s, 0) for s in seed]
    if len(pairs) != batch:
        raise ValueError(f"{where}: expected one seed, or one for each of {batch} rows, got {seed!r}")
    keys = np.array([(check.integers(where, 0, 2**64 - 1, seed=s), i) for s, i in pairs], np.uint64)
    return [np.random.Generator(np.random.Philox(key=key)).random for key in keys]


def _draw(logits: Tensor, draws: list[float], temperature: float, top_k: int | None, top_p: float, min_p: float) -> Any:
    """A token for each row of logits (N, V), by a uniform number (N,) each; with its log-probability: (N, 1)."""
    logs, xp = functional.log_softmax(logits).data, namespace(logits.data)
    temperature = min(max(temperature, 1e-290), 1e290)  # so that what is greatest stays finite, and -inf no NaN
    p = logs.astype(np.float64)
    p = xp.exp((p - p.max(axis=1, keepdims=True)) / temperature)
    if top_k or top_p < 1:
        ordered = xp.flip(xp.sort(p, axis=-1), axis=-1)[:, :top_k]
        kept = xp.cumulative_sum(ordered, axis=-1) - ordered < top_p * xp.sum(ordered, axis=-1, keepdims=True)
        kept |= ordered == ordered[:, :1]  # if top_p of it all is no more than 0
        p = xp.where(p >= xp.min(xp.where(kept, ordered, 1.0), axis=-1, keepdims=True), p, 0.0)
    p = xp.where(p >= min_p * xp.max(p, axis=-1, keepdims=True), p, 0.0)
    reached = xp.cumulative_sum(p, axis=-1)
    chosen = xp.argmax(reached > xp.asarray(draws)[:, None] * reached[:, -1:], axis=-1)
    return logs[xp.arange(len(p)), chosen][:, None], chosen[:, None]


# --- beam search ---------------------------------------------------------------------------------------------------


@no_grad()
def beam(decoder: Any, state: Any, start: Like, end: int, max_length: int, width: int = 4, *, n_best: int = 1,
         length_penalty: float | None = None, min_length: int = 0, normalize: str = "wu",
         keep_ended: bool = False) -> list[list[Hypothesis]]:
    """Beam search: for each row of the batch its `n_best` hypotheses, best first (fewer where no more are possible;
    where none is, one without tokens, of score -inf). Arguments and shapes as for `greedy`.

    At each step the `width` best extensions by one token are kept; those that end leave the beam. Hypotheses Y are
    ranked by score / ((5 + |Y|) / 6)^length_penalty (Wu et al. 2016, equation 14), by default 0, or with
    `normalize="length"` by score / |Y|^length_penalty, by default 1, where |Y| counts the end, among those of at least
    `min_length` tokens. A length_penalty whose power no float holds is refused. A row is done when nothing in its beam
    can overtake its n best any more, so that stopping early changes no result.

    With `keep_ended` it is the beam of many toolkits: what ends keeps its place in it, at each step the `width` best by
    rank, of what has ended there and of the extensions, are the beam, and a row is done when all of it has ended.

    >>> p = ts.tensor([[0.0, 0.6, 0.4, 0.0],                    # after the start, 0: the token 1 or 2
    ...                [0.1, 0.4, 0.2, 0.3],                    # after 1: many things
    ...                [0.0, 0.0, 0.1, 0.9]])                   # after 2: the end, 3
    >>> class Chain:
    ...     def step(self, tokens, state):
    ...         return ts.log(p + 1e-9)[tokens], state
    >>> [found.tokens for found in ts.decode.greedy(Chain(), None, start=0, end=3, max_length=3)]
    [[1, 1, 1]]
    >>> [found.tokens for found in ts.decode.beam(Chain(), None, start=0, end=3, max_length=3, n_best=2)[0]]
    [[2], [1]]
    """
    last, tree = _first("beam", decoder, state, start), _Tree()
    end, max_length = check.integers("beam", -1, end=end), check.integers("beam", 0, max_length=max_length)
    width = check.integers("beam", 1, width=width)
    n_best = check.integers("beam", 1, width, n_best=n_best)
    min_length = check.integers("beam", 0, max_length, min_length=min_length)
    most = 600 / max(1.0, math.log(5 + max_length))
    check.choice("beam", ("wu", "length"), normalize=normalize)
    length_penalty = float(normalize == "length") if length_penalty is None else length_penalty
    power = check.numbers("beam", least=-most, most=most, length_penalty=length_penalty)
    head, over = (5, 6) if normalize == "wu" else (0, 1)
    penalty: Callable[[Any], Any] = lambda n: ((head + np.minimum(n, max_length)) / over) ** power
    if keep_ended:
        return _keeping(decoder, state, last, end, max_length, width, n_best, min_length, penalty)
    ranks, best = np.full((len(last), n_best), -np.inf), np.full((len(last), n_best), -1)  # of what ended, with nodes
    rows = np.arange(len(last))  # that are not done; and of each one's beam the places in the batch, scores, nodes:
    places, scores, nodes = rows[:, None], np.zeros((len(rows), 1)), np.full((len(rows), 1), -1)
    for t in range(1, max_length + 1):
        if not len(rows):
            break
        logits, state = _step("beam", decoder, last, state, end, t == 1)
        with np.errstate(invalid="ignore"):  # `_fetch` refuses NaN
            logs = functional.log_softmax(logits)
        if t <= min_length:
            logs.data[:, end : end + 1] = -np.inf  # an end of -1: nothing
        values, tokens = _fetch("beam", logits, *_top(logs, width))
        totals = (scores[:, :, None] + values[places]).reshape(len(rows), -1)  # (rows, beam k)
        order = np.argsort(-totals, axis=1, kind="stable")[:, :width]
        parents = order // values.shape[1]
        scores, places = np.take_along_axis(totals, order, 1), np.take_along_axis(places, parents, 1)
        tokens, nodes = tokens[places, order % values.shape[1]], np.take_along_axis(nodes, parents, 1)
        nodes = tree.add(nodes, tokens, scores, places, getattr(state, "weights", None))
        # What has ended, or is cut, competes with the n best so far; what has not goes on if it can still win.
        live = (tokens != end) & (t < max_length) & (scores > -np.inf)
        rivals = np.concatenate([ranks[rows], np.where(live, -np.inf, scores / penalty(t))], 1)
        order = np.argsort(-rivals, axis=1, kind="stable")[:, :n_best]
        ranks[rows] = np.take_along_axis(rivals, order, 1)
        best[rows] = np.take_along_axis(np.concatenate([best[rows], nodes], 1), order, 1)
        scores = np.where(live, scores, -np.inf)
        going = scores.max(1) / max(penalty(t + 1), penalty(max_length)) > ranks[rows, -1]
        rows, live, scores, nodes = rows[going], live[going], scores[going], nodes[going]
        last, state = tokens[going][live], take_rows(state, places[going][live])
        places = np.where(live, np.cumsum(live).reshape(live.shape) - 1, 0)
    return tree.hypotheses(np.where(ranks > -np.inf, best, -1), end, -np.inf if max_length else 0.0)


def _keeping(decoder: Any, state: Any, last: Array, end: int, max_length: int, width: int, n_best: int,
             min_length: int, penalty: Callable[[Any], Any]) -> list[list[Hypothesis]]:
    """`beam` whose ended hypotheses keep their places. A place is free where its score is -inf."""
    tree, batch = _Tree(), len(last)
    best, ranks = np.full((batch, width), -1), np.full((batch, width), -np.inf)  # the beams of the rows that are done
    rows, places = np.arange(batch), np.arange(batch)[:, None]
    scores, nodes, sizes = np.zeros((batch, 1)), np.full((batch, 1), -1), np.zeros((batch, 1), int)
    ended = np.zeros((batch, 1), bool)
    for t in range(1, max_length + 1):
        if not len(rows):
            break
        logits, state = _step("beam", decoder, last, state, end, t == 1)
        with np.errstate(invalid="ignore"):  # `_fetch` refuses NaN
            logs = functional.log_softmax(logits)
        if t <= min_length:
            logs.data[:, end : end + 1] = -np.inf  # an end of -1: nothing
        values, tokens = _fetch("beam", logits, *_top(logs, width))
        more = np.where(ended[:, :, None], -np.inf, scores[:, :, None] + values[places]).reshape(len(rows), -1)
        kept = np.where(ended, scores / penalty(np.maximum(sizes, 1)), -np.inf)
        order = np.argsort(-np.concatenate([kept, more / penalty(t)], 1), axis=1, kind="stable")[:, :width]
        old, new = order < kept.shape[1], np.maximum(order - kept.shape[1], 0)
        parents = np.where(old, order, new // values.shape[1])
        before, scores, sizes = (np.take_along_axis(a, parents, 1) for a in (
            nodes, np.where(ended, scores, -np.inf), sizes))
        places = np.take_along_axis(places, parents, 1)
        scores = np.where(old, scores, np.take_along_axis(more, new, 1))
        chosen = tokens[places, new % values.shape[1]]
        added = tree.add(before, chosen, scores, places, getattr(state, "weights", None))
        nodes, sizes = np.where(old, before, added), np.where(old, sizes, t)
        ended = old | (chosen == end) | (scores == -np.inf)
        nodes = np.where(scores > -np.inf, nodes, -1)
        best[rows, : nodes.shape[1]], ranks[rows, : nodes.shape[1]] = nodes, scores / penalty(sizes)
        going = ~ended.all(1) & (t < max_length)
        rows, scores, nodes, sizes, ended = rows[going], scores[going], nodes[going], sizes[going], ended[going]
        live = ~ended
        last, state = chosen[going][live], take_rows(state, places[going][live])
        places = np.where(live, np.cumsum(live).reshape(live.shape) - 1, 0)
    best = np.take_along_axis(best, np.argsort(-ranks, axis=1, kind="stable"), 1)[:, :n_best]
    return tree.hypotheses(best, end, -np.inf if max_length else 0.0)


def _top(logs: Tensor, k: int) -> tuple[Any, Any]:
    """The k greatest of each row of logs (N, V), greatest first, and where they stand. It uses logs up."""
    data, xp = logs.data, namespace(logs.data)
    values, places, rows = [], [], xp.arange(len(data))
    for _ in range(min(k, data.shape[1])):  # for a small k much faster than sorting
        places.append(xp.argmax(data, axis=1))
        values.append(data[rows, places[-1]])
        data[rows, places[-1]] = -np.inf
    return xp.stack(values, axis=1), xp.stack(places, axis=1)


# --- given sequences -----------------------------------------------------------------------------------------------


def score(decoder: Any, state: Any, start: Like, target: Like, lengths: Like = None, align: bool = False) -> Scores:
    """The log-probability of given tokens, by teacher forcing, differentiably; in the logits' dtype.

    `decoder(tokens (B, T), state)` gives logits (B, T, V), with `lengths=` if its `forward` takes them; `start` is the
    first token, or one a row (B,).

    `target` (B, T) are the tokens after `start`, with the end where it belongs; the first `lengths` (B,) of each row
    count (all by default), whatever stands behind them. All steps run at once; with `align` they are then taken one by
    one too, for the attention weights.

    >>> class Dice:                                             # tokens 0 to 5, each as likely
    ...     def __call__(self, tokens, state):
    ...         return ts.zeros((*tokens.shape, 6))
    >>> ts.decode.score(Dice(), None, start=0, target=[[3, 1, 2]]).total        # 3 log(1 / 6)
    tensor([-5.3752...])
    """
    first = _first("score", decoder, state, start, "__call__")
    target = _host("score", f"integers ({len(first)}, T) as target", target,
                   lambda shape: len(shape) == 2 and shape[0] == len(first))
    steps = target.shape[1]
    real = length_mask(np.full(len(first), steps) if lengths is None else lengths, steps, len(first), "score").numpy()
    counts = real.sum(1)
    longest = min(steps, int(counts.max(initial=1)))  # what is padding in all rows is not read
    real, target = real[:, :longest], np.where(real, target, 0)[:, :longest]
    given = np.concatenate([first[:, None], target], 1)[:, :longest]
    own = {"lengths": counts} if "lengths" in inspect.signature(getattr(decoder, "forward", decoder)).parameters else {}
    logits = decoder(given, state, **own)
    ops.check_ids("score", target, logits.shape[-1])
    logs = ops.take_along_axis(functional.log_softmax(logits), ops.like(logits, target[:, :, None]))[:, :, 0]
    logs = ops.pad(ops.where(ops.like(logits, real), logs, 0.0), [(0, 0), (0, steps - longest)])
    return Scores(logs, ops.sum(logs, 1), _looks(decoder, state, given, real, steps) if align else None)


def _looks(decoder: Any, state: Any, given: Array, real: Array, steps: int) -> Tensor | None:
    """The attention weights (B, steps, S) of steps over given tokens (B, T), 0 but where they are real; None without
    any. Rows that have ended leave the batch."""
    weights, rows = list[Tensor](), np.arange(len(given))
    for now, tokens in zip(real.T, given.T, strict=True):
        rows, state = rows[now[rows]], state if now[rows].all() else take_rows(state, np.flatnonzero(now[rows]))
        _, state = decoder.step(tokens[rows], state)
        if getattr(state, "weights", None) is None:
            return None
        places = np.where(now, np.cumsum(now) - 1, len(rows))  # of rows that have ended, one of zeros
        weights.append(state.weights if now.all() else ops.pad(state.weights, [(0, 1), (0, 0)])[places])
    return ops.pad(ops.stack(weights, 1), [(0, 0), (0, steps - len(weights)), (0, 0)]) if weights else None
