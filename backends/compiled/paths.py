"""CTC and Viterbi's best paths, compiled: row by row, in logarithms and float64, whatever the numbers.

The sum over a chain's paths stays the portable one, whose steps are products of matrices.
"""

from typing import Any

import numpy as np
from tinyseq.backends.compiled import compiled, inline
from tinyseq.backends.compiled.numbers import exp, log, maximum
from tinyseq.backends.compiled.rows import dense
from tinyseq.backends.paths import NEVER, PathKernels
from tinyseq.backends.pool import share

Array = Any


@compiled
def exps(x: Array) -> None:
    """exp of x (n,), in place."""
    for i in range(x.size):
        x[i] = exp(x[i])


@compiled
def arrive(old: Array, bar: Array, top: Array, ways: Array) -> None:
    """exp of the three ways to each place, staying, by one and by two, less the largest, top (L,): ways (3, L)."""
    stay, move, skip = ways
    for i in range(top.size):
        a, b, c = old[i + 2], old[i + 1], old[i] + bar[i]
        most = maximum(maximum(a, b), c)
        top[i], stay[i], move[i], skip[i] = most, a - most, b - most, c - most
    exps(ways.reshape(-1))


@compiled
def alignments(x: Array, path: Array, bars: Array, lengths: Array, counts: Array, a: Array, y: Array) -> None:
    """a_t+1[l] = log (exp a_t[l] + exp a_t[l - 1] + exp (a_t[l - 2] + bars[l])) + x_t[path[l]] (Graves et al. 2006,
    equation 6), and y (B,) of the last two: x (B, T, C), path and bars (B, L), a (B, T + 1, 2 + L) whose first two
    places, from which nothing comes, stay NEVER."""
    for b in range(len(x)):
        places, steps = 2 * counts[b] + 1, lengths[b]
        bar, classes, ways = bars[b], path[b], np.empty((3, places))
        emitted, top = np.empty(places), np.empty(places)
        a[b, 0] = NEVER
        a[b, 0, 2] = 0.0
        for t in range(steps):
            frame, new = x[b, t], a[b, t + 1, 2:]
            a[b, t + 1, :2] = NEVER
            for i in range(places):
                emitted[i] = maximum(NEVER, frame[classes[i]])
            arrive(a[b, t], bar, top, ways)
            stay, move, skip = ways
            for i in range(places):
                new[i] = log(stay[i] + move[i] + skip[i]) + top[i] + emitted[i]
        last, before = a[b, steps, places + 1], a[b, steps, places]  # in front of a single place is NEVER
        y[b] = np.logaddexp(last, before)


@compiled
def alignments_back(g: Array, path: Array, bars: Array, lengths: Array, counts: Array, a: Array, y: Array,
                    dx: Array) -> None:
    """How probable each place is at each step, from the last to the first, times g (B,), by class dx (B, T, C)."""
    for b in range(len(dx)):
        places, steps = 2 * counts[b] + 1, lengths[b]
        bar, classes, ways = bars[b], path[b], np.empty((3, places))
        top, d, more = np.empty(places), np.zeros(places + 2), np.zeros((2, places + 2))
        for i in range(max(places - 2, 0), places):
            d[i] = g[b] * np.exp(a[b, steps, i + 2] - y[b])
        for t in range(steps - 1, -1, -1):
            out, blanks = dx[b, t], 0.0
            for i in range(0, places, 2):
                blanks += d[i]
            for i in range(1, places, 2):
                out[classes[i]] += d[i]
            out[classes[0]] += blanks
            arrive(a[b, t], bar, top, ways)
            stay, move, skip = ways
            one, two = more
            for i in range(places):
                w = d[i] / (stay[i] + move[i] + skip[i])
                d[i] = stay[i] * w
                one[i] = move[i] * w
                two[i] = skip[i] * w
            for i in range(places):
                d[i] += one[i + 1] + two[i + 2]


@inline
def largest(a: Any, b: Any) -> Any:
    """NaN where one is."""
    return a if a >= b or a != a else b


@compiled
def best_paths(x: Array, start: Array, moves: Array, end: Array, lengths: Array, tags: Array, score: Array) -> None:
    """Viterbi's: x (B, T, K), tags (B, T), score (B,), whose first n steps of `lengths` count."""
    steps, kinds = x.shape[1:]
    best = np.empty((steps, kinds))
    for b in range(len(x)):
        n = max(lengths[b], 1)
        for j in range(kinds):
            best[0, j] = start[j] + x[b, 0, j]
        for t in range(1, n):
            old, new, emitted = best[t - 1], best[t], x[b, t]
            for j in range(kinds):
                new[j] = old[0] + moves[0, j]
            for i in range(1, kinds):
                so_far, more = old[i], moves[i]
                for j in range(kinds):
                    new[j] = largest(new[j], so_far + more[j])
            for j in range(kinds):
                new[j] += emitted[j]
        tag, top = 0, best[n - 1, 0] + end[0]
        for j in range(1, kinds):
            if best[n - 1, j] + end[j] > top:
                tag, top = j, best[n - 1, j] + end[j]
        for j in range(kinds):
            top = largest(top, best[n - 1, j] + end[j])
        score[b] = top
        tags[b, n - 1:] = tag
        for t in range(n - 1, 0, -1):
            to, tag, top = tag, 0, best[t - 1, 0] + moves[0, tag]
            for i in range(1, kinds):
                if best[t - 1, i] + moves[i, to] > top:
                    tag, top = i, best[t - 1, i] + moves[i, to]
            tags[b, t - 1] = tag


class CompiledPaths(PathKernels):
    """What replaces the portable kernels."""

    def alignments_forward(self, x: Array, path: Array, skips: Array, lengths: Array, counts: Array,
                           ) -> tuple[Array, Any]:
        x = dense(x, dtype=np.float32 if x.dtype.char == "e" else x.dtype)
        bars, lengths, counts = np.where(skips, 0.0, NEVER), *map(dense, (lengths, counts))
        a, y = np.empty((len(x), x.shape[1] + 1, path.shape[1] + 2)), np.empty(len(x))
        share(lambda *rows: alignments(*(part[slice(*rows)] for part in (x, path, bars, lengths, counts, a, y))),
              len(x), 8 * a.size)
        return y, (path, bars, lengths, counts, a, y, x)

    def alignments_backward(self, g: Array, saved: Any) -> Array:
        *saved, x = saved
        dx, g = np.zeros(x.shape, x.dtype), dense(g)
        share(lambda *rows: alignments_back(*(part[slice(*rows)] for part in (g, *saved, dx))), len(x),
              8 * saved[4].size)
        return dx

    def best_paths(self, x: Array, start: Array, moves: Array, end: Array, lengths: Array | None,
                   ) -> tuple[Array, Array]:
        x, start, moves, end = (dense(a, dtype=np.float64) for a in (x, start, moves, end))
        lengths = np.full(len(x), x.shape[1]) if lengths is None else dense(lengths)
        tags, score = np.empty(x.shape[:2], dtype=np.int64), np.empty(len(x))
        share(lambda i, j: best_paths(x[i:j], start, moves, end, lengths[i:j], tags[i:j], score[i:j]), len(x),
              x.size * len(moves) // 2)
        return tags, score
