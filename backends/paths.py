"""Sums over all paths of a sequence: the forward recursions of a linear-chain CRF and of CTC, with their gradients; and
the best path.

The sums are logarithms, and all work is in float64 whatever comes in, so that thousands of steps leave float32's digits
intact.
"""

from typing import Any

import numpy as np
from tinyseq.backends.rows import RowKernels

Array = Any
NEVER = -1e30  # log 0, yet a number: differences of two are no NaN
REACH = 200  # a few steps' scores: exp of three times that stays in float64's range
LEAST = 1e-280  # a sum below it may have lost terms that exp rounded to 0


class PathKernels(RowKernels):
    """The part of a backend that sums over paths. Lengths are int64 arrays."""

    def _time_first(self, x: Array) -> Array:
        """(B, T, K) as (T, B, K)."""
        return self.xp.ascontiguousarray(x.swapaxes(0, 1))

    def _real(self, lengths: Array | None, steps: int) -> Any:
        """Where rows are still going on, by step (T, B, 1); where all have full length, True by step."""
        if lengths is None or (isinstance(lengths, np.ndarray) and lengths.min(initial=steps) == steps):
            return [True] * steps
        return (self.xp.arange(steps)[:, None] < self.xp.asarray(lengths))[..., None]

    def _go(self, real: Any, new: Array, old: Array) -> Array:
        return new if real is True else self.xp.where(real, new, old)

    def chain_forward(self, a: Array, x: Array, moves: Array, lengths: Array | None) -> tuple[Array, Any]:
        """a'[j] = log sum_i exp(a[i] + moves[i, j]) + x_t[j], for all t in turn: (a at each row's end (B, K), saved).

        a (B, K) is the state before x (B, T, K), moves (K, K); all float64. A step is a product of matrices,
        exp(a - max a) exp(moves - max of each column): FloatingPointError where numbers lie so far apart, or are
        no numbers, that it cannot be right.
        """
        xp = self.xp
        with np.errstate(invalid="ignore", divide="ignore"):
            tops = moves.max(axis=0)
            ways = xp.exp(moves - tops)
            steps, real = self._time_first(x) + tops, self._real(lengths, x.shape[1])
            p, q = xp.empty(steps.shape, dtype=a.dtype), xp.empty(steps.shape, dtype=a.dtype)
            for t in range(len(steps)):
                top = a.max(axis=1, keepdims=True)
                xp.exp(a - top, out=p[t])
                q[t] = p[t] @ ways
                a = self._go(real[t], xp.log(q[t]) + (top + steps[t]), a)
        if q.size and not q.min() > LEAST:
            raise FloatingPointError("exp left float64's range")
        return a, (p, q, ways, real)

    def chain_backward(self, g: Array, saved: Any) -> tuple[Array, Array, Array]:
        """(da, dx, dmoves) for g (B, K): how probable each state and each move is, weighted by g.

        d a[i] = sum_j exp(a[i] + moves[i, j] - log sum) d a'[j], whose factors are ratios of p, ways and q.
        """
        p, q, ways, real = saved
        dx, r = self.xp.empty(p.shape, dtype=p.dtype), self.xp.empty(p.shape, dtype=p.dtype)
        for t in reversed(range(len(p))):
            dx[t] = self._go(real[t], g, 0.0)
            r[t] = dx[t] / q[t]
            g = self._go(real[t], p[t] * (r[t] @ ways.T), g)
        flat = (-1, p.shape[2])
        return g, dx.swapaxes(0, 1), ways * (p.reshape(flat).T @ r.reshape(flat))

    def best_paths(self, x: Array, start: Array, moves: Array, end: Array, lengths: Array | None,
                   ) -> tuple[Array, Array]:
        """The most probable tags (B, T) of a chain, and their score (B,), NaN if any is: Viterbi 1967, in float64.

        A path's score is start[y_1] + sum_t x_t[y_t] + sum_t moves[y_t, y_t+1] + end[y_n], for x (B, T, K), moves
        (K, K). Behind a row's length its last tag stays.
        """
        xp, (start, moves, end) = self.xp, (a.astype(np.float64) for a in (start, moves, end))
        best = xp.array(x.swapaxes(0, 1), dtype=np.float64, order="C")  # (T, B, K), of the best path to each tag
        best[0] += start
        ways, by_from, by_to = xp.empty((len(moves), *best.shape[1:])), moves[:, None], xp.ascontiguousarray(moves.T)
        with np.errstate(all="ignore"):
            for old, new in zip(best.swapaxes(1, 2)[..., None], best[1:], strict=False):
                xp.add(old, by_from, ways)  # (from, B, to)
                new += ways.max(0)
            last = best[-1] if lengths is None else best[xp.maximum(lengths - 1, 0), xp.arange(len(x))]
            score = last + end
            tags = xp.empty(best.shape[:2], dtype=np.int64)
            tags[-1] = tag = score.argmax(axis=1)
            for t in range(len(best) - 1, 0, -1):
                came = (by_to.take(tag, 0) + best[t - 1]).argmax(1)
                tags[t - 1] = tag = came if lengths is None else xp.where(t < lengths, came, tag)
        return tags.T, score.max(axis=1)

    # CTC. A place's sum is a exp(base), with a base of its own that is renewed every few steps, before a can leave
    # float64's range. Behind a row's places comes one more, its end, which only frames after its length let in. All is
    # (L, B), so that places next to each other are flat stretches.

    def alignments_forward(self, x: Array, path: Array, skips: Array, lengths: Array, counts: Array,
                           ) -> tuple[Array, Any]:
        """The logarithm (B,) of the sum over all alignments, in float64: (that, saved).

        A place of `path` (B, L) is a class of x (B, T, C). At each step an alignment stays, moves on by one or, where
        `skips` (B, L) at the new place, by two, and takes x_t of that place; it begins before x with the first place,
        and ends in one of the row's last two of 2 counts + 1. FloatingPointError where numbers are NaN, or so large or
        far apart that it cannot be right.
        """
        xp, (batch, steps, classes) = self.xp, x.shape
        x = xp.where(xp.arange(steps)[:, None] < lengths[:, None, None], x, 0)  # whatever stands in the padding
        low, high = (min(float(x.min()), 0), max(float(x.max()), 0)) if x.size else (0, 0)
        if low == -np.inf:
            low = min(float(xp.where(x == low, 0, x).min()), 0)
        if not high - low <= REACH:
            raise FloatingPointError("exp leaves float64's range")
        size, rows, end = min(16, int(REACH / max(high - low, 1))), xp.arange(batch), 2 * counts + 1
        places = xp.zeros((path.shape[1] + 1, batch), dtype=np.intp)  # which `take` and `bincount` want
        places[:-1] = path.T
        hops = xp.zeros(places.shape)
        hops[:-1] = skips.T
        hops[end, rows] = 1
        a = xp.zeros((steps + 2, len(hops) + 2, batch))  # two places in front, from which nothing comes
        a[0, 2] = 1
        frames = xp.arange(size)[:, None, None]
        taken = (frames + steps * rows) * classes + places, (frames * batch + rows) * classes + places
        bases: list[Array] = []
        saved = x, taken, hops, lengths, int(lengths.min()) if batch else 0, end, a, bases
        base, part = xp.full(a.shape[1:], NEVER), xp.empty(hops.shape)
        base[2] = 0
        with np.errstate(all="ignore"):
            for start in range(0, steps + 1, size):
                alive = a[start] != 0  # a NaN is
                base = base + xp.log(xp.where(alive, a[start], 1))
                base = xp.take_along_axis(base, self._last(alive), 0)  # of places not reached yet, that of the last one
                bases.append(base)
                old, (move, skip) = alive.astype(a.dtype), self._ways(base, hops)
                for emitted, new in zip(self._emitted(start, saved), a[start + 1:], strict=False):
                    y = new[2:]
                    xp.multiply(old[1:-1], move, out=y)
                    xp.multiply(old[:-2], skip, out=part)
                    y += part
                    y += old[2:]
                    y *= emitted
                    old = new
            y = base[end + 2, rows] + xp.log(a[-1, end + 2, rows])
        if not bool((y < np.inf).all()):
            raise FloatingPointError("exp left float64's range")
        return y, saved

    def _last(self, alive: Array) -> Array:
        """The last place, up to each, that is alive; 0 where there is none."""
        return np.maximum.accumulate(np.where(alive, np.arange(len(alive))[:, None], 0), axis=0)

    def _sums_at(self, index: Array, values: Array, n: int) -> Array:
        """(n,): the sums of those values that go to the same index."""
        return np.bincount(index.reshape(-1), values.reshape(-1), n)

    def _ways(self, base: Array, hops: Array) -> tuple[Array, Array]:
        """What moving by one and by two multiplies with (L, B)."""
        return self.xp.exp(base[1:-1] - base[2:]), self.xp.exp(base[:-2] - base[2:]) * hops

    def _emitted(self, start: int, saved: Any) -> Array:
        """exp x_t of all places, of the steps of a block (n, L, B)."""
        xp, (x, (taken, _), hops, lengths, shortest, end, *_) = self.xp, saved
        batch, steps, classes = x.shape
        n, rows = min(len(taken), steps - start), xp.arange(batch)
        e = xp.zeros((min(len(taken), steps + 1 - start), *hops.shape))
        if n:
            xp.exp(x.reshape(-1)[start * classes:].take(taken[:n]), out=e[:n], dtype=e.dtype)
        e[:, end, rows] = 0
        if start + len(e) > shortest:
            over = xp.arange(start, start + len(e))[:, None] >= lengths
            xp.copyto(e, 0, where=over[:, None])
            e[:, end, rows] = over
        return e

    def alignments_backward(self, g: Array, saved: Any) -> Array:
        """dx (B, T, C) for g (B,): how probable it is that a step takes a class, weighted by g."""
        xp, (x, (_, given), hops, *_, end, a, bases) = self.xp, saved
        batch, steps, classes = x.shape
        size, rows, dx = len(given), xp.arange(batch), xp.zeros(x.shape, dtype=x.dtype)
        total, last = a[-1, end + 2, rows], xp.zeros(hops.shape)
        last[end, rows] = xp.where(total > 0, g / xp.where(total > 0, total, 1), 0)
        part, r = xp.zeros((len(hops) + 2, batch)), xp.empty(hops.shape)
        moved, skipped, part = part[1:-1], part[2:], part[:-2]
        for start, base in zip(reversed(range(0, steps + 1, size)), reversed(bases), strict=True):
            (move, skip), e = self._ways(base, hops), self._emitted(start, saved)
            later = xp.empty((len(e) + 1, *hops.shape))  # sums over all ways from each place to the end, backwards
            later[0] = last
            for emitted, old, new in zip(e[::-1], later, later[1:], strict=False):
                xp.multiply(old, emitted, out=r)
                xp.multiply(move, r, out=part)
                xp.add(r, moved, out=new)
                xp.multiply(skip, r, out=part)
                new += skipped
            if n := min(size, steps - start):
                shares = later[len(e) - n:len(e)][::-1] * a[start + 1:start + n + 1, 2:]
                shares[:, end, rows] = 0
                sums = self._sums_at(given[:n], shares, n * batch * classes)
                dx[:, start:start + n] = sums.reshape(n, batch, classes).swapaxes(0, 1)
            alive = a[start, 2:] != 0
            last = later[-1] * alive / xp.where(alive, a[start, 2:], 1)
        return dx
