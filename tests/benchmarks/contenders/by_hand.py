"""NumPy alone: what a good programmer writes for one row of one model."""

from collections.abc import Callable
from typing import Any

import numpy as np

import contenders as given

Array = Any


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def rnn(x: Array, h: Array, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array) -> Array:
    """Outputs (T, H) of x (T, D) and a state (H,)."""
    gates, w, hs = x @ w_ih.T + b_ih + b_hh, np.ascontiguousarray(w_hh.T), np.empty((len(x), len(h)), x.dtype)
    for t, g in enumerate(gates):
        hs[t] = h = np.tanh(g + h @ w)
    return hs


def gru(x: Array, h: Array, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array) -> Array:
    gates, w, hs, n = x @ w_ih.T + b_ih, np.ascontiguousarray(w_hh.T), np.empty((len(x), len(h)), x.dtype), len(h)
    for t, g in enumerate(gates):
        u = h @ w + b_hh
        rz = sigmoid(g[: 2 * n] + u[: 2 * n])
        new = np.tanh(g[2 * n :] + rz[:n] * u[2 * n :])
        hs[t] = h = new + rz[n:] * (h - new)
    return hs


def lstm(x: Array, h: Array, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array) -> Array:
    gates, w, hs = x @ w_ih.T + b_ih + b_hh, np.ascontiguousarray(w_hh.T), np.empty((len(x), len(h)), x.dtype)
    n, c = len(h), np.zeros_like(h)
    for t, g in enumerate(gates):
        a = g + h @ w
        i_f = sigmoid(a[: 2 * n])
        c = i_f[n:] * c + i_f[:n] * np.tanh(a[2 * n : 3 * n])
        hs[t] = h = sigmoid(a[3 * n :]) * np.tanh(c)
    return hs


def one_row(cell: str, steps: int, width: int) -> Callable[[], Any]:
    x, h = given.numbers("x", 1, steps, width), np.zeros(width, np.float32)
    weights, run = tuple(given.recurrent_weights(cell, width, width).values()), {"RNN": rnn, "GRU": gru, "LSTM": lstm}
    return lambda: [run[cell](x[0], h, *weights)[None]]


def viterbi(x: Array, start: Array, end: Array, moves: Array) -> list[int]:
    """The best tags of scores x (T, K): Viterbi (1967)."""
    score, back = start + x[0], []
    for row in x[1:]:
        every = score[:, None] + moves
        back.append(every.argmax(0))
        score = every.max(0) + row
    tags = [int((score + end).argmax())]
    for best in back[::-1]:
        tags.append(int(best[tags[-1]]))
    return tags[::-1]


def crf(tags: int) -> tuple[Array, Array, Array]:
    """start, end and transitions as tinyseq's layer begins with here."""
    weights = given.weights({"start_transitions": (tags,), "end_transitions": (tags,), "transitions": (tags, tags)})
    return tuple(weights.values())  # type: ignore[return-value]


def decode(steps: int, tags: int) -> Callable[[], Any]:
    x, weights = given.numbers("x", 1, steps, tags), crf(tags)
    return lambda: [viterbi(x[0], *weights)]
