"""The recurrent scan, compiled: all steps of some sequences in one call, which several threads make for others.

Everything stands as in x, sequence by sequence, so that nothing is turned or moved: row `b T + t` of an array is step
t of sequence b. Where lengths are given, arrays inside have rows of real steps alone.

Products are made of small pieces, as the library multiplies those where they stand, on a CPU with AVX-512: a fifth to a
half faster than a whole product of few rows, for which it copies all weights at each step.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from tinyseq.backends.compiled import apart, compiled, inline, products
from tinyseq.backends.compiled.numbers import ONE, ZERO, sigmoid, tanh
from tinyseq.backends.compiled.rows import dense, grow
from tinyseq.backends.pool import LEAST, share
from tinyseq.backends.recurrent import RecurrentKernels
from tinyseq.backends.threads import get_num_threads

Array = Any
ROWS, WIDTH, SMALL = 32, 64, 1_000_000  # a piece of a product: rows and columns, multiplications at most
WIDE = 1 << 16  # numbers in a product of two tall matrices from which they are
TILE = 16
COST = 64  # multiplications that take as long as a simple step of another kernel
FEW = 64  # rows below which it does not pay to cut weights
TANH, RELU, GRU, BEFORE, LSTM = range(5)
KINDS = {"rnn_tanh": TANH, "rnn_relu": RELU, "gru": GRU, "gru_before": BEFORE, "lstm": LSTM}
multiply, multiply_turned, turned_multiply = products.multiply, products.multiply_turned, products.turned_multiply


@inline
def copy(a: Array, b: Array) -> None:
    apart()
    for j in range(a.size):
        b[j] = a[j]


@inline
def turn(a: Array, b: Array) -> None:
    """b (m, n) = a.T, in full vectors where a is TILE by TILE."""
    apart()
    if a.shape[0] == TILE and a.shape[1] == TILE:
        for i in range(TILE):
            for j in range(TILE):
                b[i, j] = a[j, i]
    else:
        for i in range(b.shape[0]):
            for j in range(b.shape[1]):
                b[i, j] = a[j, i]


@compiled
def cut(w: Array, turned: bool, pieces: Array) -> None:
    """w (K, M), or turned, w.T of w (M, K), into pieces of WIDTH columns, one after the other in the memory of `pieces`
    (K, M)."""
    flat, (inner, outer) = pieces.reshape(-1), pieces.shape
    for left in range(0, outer, WIDTH):
        right = min(left + WIDTH, outer)
        piece = flat[inner * left:inner * right].reshape(inner, right - left)
        if turned:
            for top in range(0, inner, TILE):
                for near in range(left, right, TILE):
                    turn(w[near:near + TILE, top:top + TILE], piece[top:top + TILE, near - left:near - left + TILE])
        else:
            for k in range(inner):
                copy(w[k, left:right], piece[k])


@inline
def two_by_four(x: Array, y: Array, w: Array, out_x: Array, out_y: Array) -> None:
    """x and y (K,) times the four rows of w (4, K): few enough sums at once to stay in registers."""
    apart()
    w0, w1, w2, w3 = w[0], w[1], w[2], w[3]
    x0 = x1 = x2 = x3 = y0 = y1 = y2 = y3 = x.dtype.type(0)
    for k in range(x.size):
        x0, x1, x2, x3 = x0 + w0[k] * x[k], x1 + w1[k] * x[k], x2 + w2[k] * x[k], x3 + w3[k] * x[k]
        y0, y1, y2, y3 = y0 + w0[k] * y[k], y1 + w1[k] * y[k], y2 + w2[k] * y[k], y3 + w3[k] * y[k]
    out_x[0], out_x[1], out_x[2], out_x[3] = x0, x1, x2, x3
    out_y[0], out_y[1], out_y[2], out_y[3] = y0, y1, y2, y3


@inline
def one_by_four(x: Array, w: Array, out: Array) -> None:
    """x (K,) times the four rows of w (4, K)."""
    apart()
    w0, w1, w2, w3 = w[0], w[1], w[2], w[3]
    x0 = x1 = x2 = x3 = x.dtype.type(0)
    for k in range(x.size):
        x0, x1, x2, x3 = x0 + w0[k] * x[k], x1 + w1[k] * x[k], x2 + w2[k] * x[k], x3 + w3[k] * x[k]
    out[0], out[1], out[2], out[3] = x0, x1, x2, x3


@compiled
def dots(blas: Any, a: Array, w: Array, c: Array) -> None:
    """c (n, M) = a (n, K) @ w.T of w (M, K) as it is: few rows are not worth a copy, which the library would make."""
    n, rest = a.shape[0], c.shape[1] % 4
    for j in range(0, c.shape[1] - rest, 4):
        for i in range(0, n - 1, 2):
            two_by_four(a[i], a[i + 1], w[j:j + 4], c[i, j:j + 4], c[i + 1, j:j + 4])
        if n % 2:
            one_by_four(a[n - 1], w[j:j + 4], c[n - 1, j:j + 4])
    if rest:
        multiply_turned(blas, a, w[w.shape[0] - rest:], c[:, c.shape[1] - rest:], False)


@compiled
def product(blas: Any, a: Array, w: Array, width: int, c: Array, add: bool) -> None:
    """c (n, M) = a (n, K) @ w in pieces, of w (K, M) cut to `width`; width 0: c = a @ w.T with w (M, K) as it is."""
    n, inner, outer = a.shape[0], a.shape[1], c.shape[1]
    if width == 0:
        dots(blas, a, w, c)
        return
    flat = w.reshape(-1)
    high = -(-n // max(1, -(-n // ROWS)))
    deep = -(-inner // -(-high * width * inner // SMALL))
    for top in range(0, n, high):
        for left in range(0, outer, width):
            right = min(left + width, outer)
            piece = flat[inner * left:inner * right].reshape(inner, right - left)
            out = c[top:top + high, left:right]
            for k in range(0, inner, deep):
                multiply(blas, a[top:top + high, k:k + deep], piece[k:k + deep], out, add or k > 0)


@compiled
def turned_product(blas: Any, a: Array, b: Array, c: Array) -> None:
    """c (M, K) = a.T @ b of a (N, M) and b (N, K) in pieces; of wide ones, whose rows stand on as many pages of memory,
    copies of the pieces."""
    (height, outer), deep, wide = c.shape, SMALL // (WIDTH * WIDTH), c.size > WIDE
    room_a, room_b = np.empty(deep * WIDTH, c.dtype), np.empty(deep * outer if wide else 0, c.dtype)
    for k in range(0, a.shape[0], deep):
        n = min(deep, a.shape[0] - k)
        if wide:
            for left in range(0, outer, WIDTH):
                right = min(left + WIDTH, outer)
                for i in range(n):
                    copy(b[k + i, left:right], room_b[n * left + i * (right - left):])
        for top in range(0, height, WIDTH):
            high = min(WIDTH, height - top)
            if wide:
                for i in range(n):
                    copy(a[k + i, top:top + high], room_a[i * high:])
            for left in range(0, outer, WIDTH):
                right, out = min(left + WIDTH, outer), c[top:top + WIDTH, left:left + WIDTH]
                if wide:
                    turned_multiply(blas, room_a[:n * high].reshape(n, high),
                                    room_b[n * left:n * right].reshape(n, right - left), out, k > 0)
                else:
                    turned_multiply(blas, a[k:k + n, top:top + high], b[k:k + n, left:right], out, k > 0)


@compiled
def column_sums(a: Array, total: Array) -> None:
    """total (M,) of a (N, M), ROWS at a time, so that the error grows slowly."""
    some = np.empty_like(total)
    total[:] = 0
    for top in range(0, a.shape[0], ROWS):
        some[:] = 0
        for i in range(top, min(top + ROWS, a.shape[0])):
            grow(a[i], some)
        grow(some, total)


@compiled
def affine(blas: Any, x: Array, w: Array, width: int, bias: Array, z: Array) -> None:
    """z (N, M) = x (N, K) @ w + bias (M,), a few rows at a time."""
    for top in range(0, x.shape[0], ROWS):
        rows = z[top:top + ROWS]
        product(blas, x[top:top + ROWS], w, width, rows, False)
        for r in range(rows.shape[0]):
            grow(bias, rows[r])


# A step of one sequence, (H,) each. Forward: u the recurrent products, (G H,); the gates' arrays hold the input's
# share and receive what backward needs of them; y and h receive the output.


@inline
def rnn_advance(u: Array, z: Array, relu: bool, h: Array, y: Array) -> None:
    apart()
    for j in range(h.size):
        a = u[j] + z[j]
        h[j] = y[j] = (ZERO if a < ZERO else a) if relu else tanh(a)


@inline
def lstm_advance(u: Array, i: Array, f: Array, g: Array, o: Array, c: Array, kept: Array, h: Array, y: Array) -> None:
    apart()
    n = h.size
    u_i, u_f, u_g, u_o = u[:n], u[n:2 * n], u[2 * n:3 * n], u[3 * n:]
    for j in range(n):
        i[j], f[j] = sigmoid(u_i[j] + i[j]), sigmoid(u_f[j] + f[j])
        g[j], o[j] = tanh(u_g[j] + g[j]), sigmoid(u_o[j] + o[j])
        c[j] = kept[j] = f[j] * c[j] + i[j] * g[j]
        h[j] = y[j] = o[j] * tanh(c[j])


@inline
def gru_advance(u: Array, r: Array, z: Array, n: Array, d: Array, q: Array, h: Array, y: Array) -> None:
    apart()
    size = h.size
    u_r, u_z, u_n = u[:size], u[size:2 * size], u[2 * size:]
    for j in range(size):
        r[j], z[j] = sigmoid(u_r[j] + r[j]), sigmoid(u_z[j] + z[j])
        q[j] = u_n[j] + d[j]
        n[j] = tanh(r[j] * q[j] + n[j])
        h[j] = y[j] = n[j] + z[j] * (h[j] - n[j])


@inline
def gates_advance(u: Array, r: Array, z: Array, h: Array, reset_h: Array) -> None:
    apart()
    u_r, u_z = u[:h.size], u[h.size:2 * h.size]
    for j in range(h.size):
        r[j], z[j] = sigmoid(u_r[j] + r[j]), sigmoid(u_z[j] + z[j])
        reset_h[j] = r[j] * h[j]


@inline
def mix_advance(u_n: Array, z: Array, n: Array, h: Array, y: Array) -> None:
    apart()
    for j in range(h.size):
        n[j] = tanh(u_n[j] + n[j])
        h[j] = y[j] = n[j] + z[j] * (h[j] - n[j])


@inline
def times(a: Array, b: Array, c: Array) -> None:
    apart()
    for j in range(c.size):
        c[j] = a[j] * b[j]


@compiled
def forward(blas: Any, kind: int, plan: Array, way: int, z: Array, kept: Array, h0: Array, c0: Array, mask: Array,
            d: Array, w: Array, w_new: Array, width: int, y: Array, h_n: Array, c_n: Array) -> None:
    """All steps of the sequences of `plan` (n, 4): its place in the batch, its length, where its first step stands in
    z and kept, and where in y; the next step stands `way` rows further. Longest first.

    z (N, G H), kept (N, H): an LSTM's c or a GRU's U_n h + d; mask (B, H) or empty; d (H,); w (H, G H), or of all
    gates but the n of "gru_before", whose is w_new (H, H).
    """
    n, size, masked = plan.shape[0], h0.shape[1], mask.size > 0
    h, c, u = np.empty((n, size), z.dtype), np.empty((n, size), z.dtype), np.empty((n, z.shape[1]), z.dtype)
    fed = np.empty((n, size), z.dtype) if masked or kind == BEFORE else h
    split = 2 * size if kind == BEFORE else z.shape[1]
    for r in range(n):
        copy(h0[plan[r, 0]], h[r])
        copy(c0[plan[r, 0]], c[r])
    for t in range(plan[0, 1]):
        while plan[n - 1, 1] <= t:
            n -= 1
        if masked:
            for r in range(n):
                times(h[r], mask[plan[r, 0]], fed[r])
        product(blas, fed[:n] if masked else h[:n], w, width, u[:n, :split], False)
        if kind == BEFORE:
            for r in range(n):
                gates = z[plan[r, 2] + way * t]
                gates_advance(u[r], gates[:size], gates[size:2 * size], h[r], fed[r])
                if masked:
                    times(fed[r], mask[plan[r, 0]], fed[r])
            product(blas, fed[:n], w_new, width, u[:n, split:], False)
        for r in range(n):
            at = plan[r, 2] + way * t
            gates, out = z[at], y[plan[r, 3] + way * t]
            if kind == LSTM:
                lstm_advance(u[r], gates[:size], gates[size:2 * size], gates[2 * size:3 * size], gates[3 * size:], c[r],
                             kept[at], h[r], out)
            elif kind == GRU:
                gru_advance(u[r], gates[:size], gates[size:2 * size], gates[2 * size:], d, kept[at], h[r], out)
            elif kind == BEFORE:
                mix_advance(u[r, split:], gates[size:2 * size], gates[split:], h[r], out)
            else:
                rnn_advance(u[r], gates, kind == RELU, h[r], out)
    for r in range(plan.shape[0]):
        copy(h[r], h_n[plan[r, 0]])
        copy(c[r], c_n[plan[r, 0]])


# Backward: dh (H,) holds dL/dh' from the steps that follow, and receives what does not go through the weights; gy is
# that of y; the other arrays beginning with d receive the slopes, dL/da of the pre-activations a.


@inline
def rnn_retreat(dh: Array, gy: Array, y: Array, relu: bool, da: Array) -> None:
    apart()
    for j in range(dh.size):
        slope = (ONE if y[j] > ZERO else ZERO) if relu else ONE - y[j] * y[j]
        da[j] = (dh[j] + gy[j]) * slope
        dh[j] = ZERO


@inline
def lstm_retreat(dh: Array, gy: Array, gates: Array, old: Array, c: Array, dc: Array, di: Array, df: Array, dg: Array,
                 do: Array) -> None:
    apart()
    n = dh.size
    i, f, g, o = gates[:n], gates[n:2 * n], gates[2 * n:3 * n], gates[3 * n:]
    for j in range(n):
        e, tanh_c = dh[j] + gy[j], tanh(c[j])
        do[j] = e * tanh_c * o[j] * (ONE - o[j])
        e = dc[j] + e * o[j] * (ONE - tanh_c * tanh_c)
        di[j] = e * g[j] * i[j] * (ONE - i[j])
        df[j] = e * old[j] * f[j] * (ONE - f[j])
        dg[j] = e * i[j] * (ONE - g[j] * g[j])
        dc[j] = e * f[j]
        dh[j] = ZERO


@inline
def gru_retreat(dh: Array, gy: Array, gates: Array, q: Array, old: Array, dr: Array, dz: Array, dn: Array, dq: Array
                ) -> None:
    apart()
    size = dh.size
    r, z, n = gates[:size], gates[size:2 * size], gates[2 * size:]
    for j in range(size):
        e = dh[j] + gy[j]
        dn[j] = e * (ONE - z[j]) * (ONE - n[j] * n[j])
        dz[j] = e * (old[j] - n[j]) * z[j] * (ONE - z[j])
        dq[j] = dn[j] * r[j]
        dr[j] = dq[j] * q[j] * (ONE - r[j])
        dh[j] = e * z[j]


@inline
def mix_retreat(dh: Array, gy: Array, gates: Array, old: Array, reset_h: Array, dz: Array, dn: Array) -> None:
    apart()
    size = dh.size
    r, z, n = gates[:size], gates[size:2 * size], gates[2 * size:]
    for j in range(size):
        e = dh[j] + gy[j]
        dn[j] = e * (ONE - z[j]) * (ONE - n[j] * n[j])
        dz[j] = e * (old[j] - n[j]) * z[j] * (ONE - z[j])
        reset_h[j] = r[j] * old[j]
        dh[j] = e * z[j]


@inline
def gates_retreat(dh: Array, d_rh: Array, r: Array, old: Array, dr: Array) -> None:
    apart()
    for j in range(dh.size):
        dr[j] = d_rh[j] * old[j] * r[j] * (ONE - r[j])
        dh[j] += d_rh[j] * r[j]


@compiled
def backward(blas: Any, kind: int, plan: Array, way: int, z: Array, kept: Array, h0: Array, c0: Array, mask: Array,
             w: Array, w_new: Array, width: int, y: Array, gy: Array, slopes: Array, old_h: Array, reset_h: Array,
             dh0: Array, dc0: Array) -> None:
    """As forward. w is W_hh (G H, H). dh0 and dc0 (B, H) hold the gradients of the last states, and receive those of
    the first; slopes (N, G H), or (N, 4 H) of a GRU: of r, z, n and of U_n h + d; old_h and reset_h (N, H) receive what
    the weights multiplied."""
    count, size, masked = plan.shape[0], h0.shape[1], mask.size > 0
    split = 2 * size if kind == BEFORE else w.shape[0]
    dh, dc, v = np.empty((count, size), z.dtype), np.empty((count, size), z.dtype), np.empty((count, size), z.dtype)
    d = np.empty((count, split), z.dtype)  # slopes of one step
    for r in range(count):
        copy(dh0[plan[r, 0]], dh[r])
        copy(dc0[plan[r, 0]], dc[r])
    n = 0
    for t in range(plan[0, 1] - 1, -1, -1):
        while n < count and plan[n, 1] > t:
            n += 1
        for r in range(n):
            at, out = plan[r, 2] + way * t, plan[r, 3] + way * t
            old = y[out - way] if t else h0[plan[r, 0]]
            s, gates = slopes[at], z[at]
            if kind == LSTM:
                lstm_retreat(dh[r], gy[out], gates, kept[at - way] if t else c0[plan[r, 0]], kept[at], dc[r], s[:size],
                             s[size:2 * size], s[2 * size:3 * size], s[3 * size:])
                copy(s, d[r])
            elif kind == GRU:
                gru_retreat(dh[r], gy[out], gates, kept[at], old, s[:size], s[size:2 * size], s[2 * size:3 * size],
                            s[3 * size:])
                copy(s[:2 * size], d[r, :2 * size])
                copy(s[3 * size:], d[r, 2 * size:])
            elif kind == BEFORE:
                mix_retreat(dh[r], gy[out], gates, old, reset_h[at], s[size:split], s[split:])
                copy(s[split:], d[r, :size])
            else:
                rnn_retreat(dh[r], gy[out], y[out], kind == RELU, s)
                copy(s, d[r])
            if masked:
                times(old, mask[plan[r, 0]], old_h[at])
            else:
                copy(old, old_h[at])
        if kind == BEFORE:
            product(blas, d[:n, :size], w_new, width, v[:n], False)
            for r in range(n):
                at, out = plan[r, 2] + way * t, plan[r, 3] + way * t
                old = y[out - way] if t else h0[plan[r, 0]]
                if masked:
                    times(v[r], mask[plan[r, 0]], v[r])
                    times(reset_h[at], mask[plan[r, 0]], reset_h[at])
                gates_retreat(dh[r], v[r], z[at, :size], old, slopes[at, :size])
                copy(slopes[at, :split], d[r])
        if masked:
            product(blas, d[:n], w, width, v[:n], False)
            for r in range(n):
                times(v[r], mask[plan[r, 0]], v[r])
                grow(v[r], dh[r])
        else:
            product(blas, d[:n], w, width, dh[:n], True)
    for r in range(count):
        copy(dh[r], dh0[plan[r, 0]])
        copy(dc[r], dc0[plan[r, 0]])


class Saved(NamedTuple):
    """What backward needs of forward."""

    kind: int
    plans: list[Array]
    way: int
    real: Array | None  # (B, T), where lengths are given
    x: Array  # (N, I)
    h0: Array
    c0: Array
    mask: Array
    w_ih: Array
    w_hh: Array
    z: Array
    kept: Array
    y: Array  # (B, T, H)


def side_by_side(work: Callable[[Array], None], plans: list[Array], cost: int) -> None:
    def some(start: int, stop: int) -> None:
        for plan in plans[start:stop]:
            work(plan)

    share(some, len(plans), cost)


def plans_of(batch: int, steps: int, lengths: Array | None, way: int, threads: int) -> list[Array]:
    """Of sequences that go together, as `forward` takes them: ROWS at most, and some for each thread."""
    plan = np.empty((batch, 4), np.int64)
    plan[:, 0] = np.arange(batch)
    plan[:, 1] = steps if lengths is None else lengths
    plan[:, 2] = np.cumsum(plan[:, 1]) - plan[:, 1]
    plan[:, 3] = plan[:, 0] * steps
    if way < 0:
        plan[:, 2:] += plan[:, 1:2] - 1
    if lengths is not None:
        plan = plan[np.argsort(-plan[:, 1], kind="stable")]
    parts = -(-max(threads, -(-batch // ROWS)) // threads) * threads
    return [dense(plan[k::parts]) for k in range(min(parts, batch))]


plans_of_full = lru_cache(maxsize=64)(plans_of)  # those without lengths, for small models that are called often


class CompiledRecurrence(RecurrentKernels):
    """What replaces the portable kernels; they run what is empty, float16, or without the library's products."""

    def rnn_forward(self, cell: str, x: Array, h0: Array, c0: Array | None, w_ih: Array, w_hh: Array,
                    b_ih: Array | None, b_hh: Array | None, lengths: np.ndarray[Any, Any] | None = None,
                    reverse: bool = False, h_mask: Array | None = None,
                    keep: bool = True) -> tuple[Array, Array, Array | None, Any]:
        blas, (batch, steps, width), size = products.gemm(), x.shape, w_hh.shape[1]
        real = None if lengths is None else np.arange(steps) < lengths[:, None]
        total = batch * steps if real is None else int(np.count_nonzero(real))
        if blas is None or x.dtype.char not in "fd" or not total * width * size:
            return super().rnn_forward(cell, x, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, reverse, h_mask, keep)
        kind, dtype, rows = KINDS[cell], x.dtype, w_hh.shape[0]
        x = dense(x).reshape(-1, width) if real is None else x[real]
        h0, w_ih, w_hh = dense(h0), dense(w_ih), dense(w_hh)
        begin = h0 if c0 is None else dense(c0)
        mask = np.empty((0, size), dtype) if h_mask is None else dense(h_mask)
        way = -1 if reverse else 1
        threads = min(get_num_threads(), batch) if total * rows * (size + width) // COST >= 2 * LEAST else 1
        plans = (plans_of_full(batch, steps, None, way, threads) if lengths is None else
                 plans_of(batch, steps, lengths, way, threads))
        bias, d = self._added(b_ih, b_hh, kind, size, rows, dtype)
        z = np.empty((total, rows), dtype)
        w, w_new, cut_to = w_hh, w_hh, 0
        if kind == BEFORE:
            w, w_new = w_hh[:2 * size], w_hh[2 * size:]
        self._affine(blas, x, w_ih, bias, z)
        if total >= FEW:
            w, w_new, cut_to = self._cut(w, True), self._cut(w_new, True) if kind == BEFORE else w, WIDTH
        y = (np.empty if real is None else np.zeros)((batch, steps, size), dtype)
        flat = y.reshape(-1, size)
        kept = np.empty((total, size) if kind in (GRU, LSTM) else (0, size), dtype)
        h_n, c_n = np.empty((batch, size), dtype), np.empty((batch, size), dtype)
        side_by_side(lambda plan: forward(blas, kind, plan, way, z, kept, h0, begin, mask, d, w, w_new, cut_to, flat,
                                          h_n, c_n), plans, total * rows * size // COST)
        saved = Saved(kind, plans, way, real, x, h0, begin, mask, w_ih, w_hh, z, kept, y) if keep else None
        return y, h_n, None if c0 is None else c_n, saved

    def rnn_backward(self, cell: str, saved: Any, gy: Array | None, gh: Array | None, gc: Array | None,
                     needs: Sequence[bool]) -> tuple[Array | None, ...]:
        if not isinstance(saved, Saved):
            return super().rnn_backward(cell, saved, gy, gh, gc, needs)
        blas, (kind, plans, way, real, x, h0, c0, mask, w_ih, w_hh, z, kept, y) = products.gemm(), saved
        (total, rows), size, dtype, flat = z.shape, h0.shape[1], z.dtype, y.reshape(-1, h0.shape[1])
        dh0, dc0 = (np.zeros_like(h0) if g is None else np.array(g, order="C") for g in (gh, gc))
        gy = (np.zeros_like(y) if gy is None else dense(gy)).reshape(-1, size)
        slopes, old_h = np.empty((total, rows + size * (kind == GRU)), dtype), np.empty((total, size), dtype)
        reset_h = np.empty_like(old_h) if kind == BEFORE else old_h
        w, w_new, cut_to = w_hh, w_hh, size
        if kind == BEFORE:
            w, w_new = w_hh[:2 * size], w_hh[2 * size:]
        if total >= FEW:
            w, w_new, cut_to = self._cut(w), self._cut(w_new) if kind == BEFORE else w, WIDTH
        side_by_side(lambda plan: backward(blas, kind, plan, way, z, kept, h0, c0, mask, w, w_new, cut_to, flat, gy,
                                           slopes, old_h, reset_h, dh0, dc0), plans, total * rows * size // COST)
        dx = self._of_input(blas, slopes[:, :rows], w_ih, real, y.shape) if needs[0] else None
        db = np.empty(slopes.shape[1], dtype)
        if needs[5] or needs[6]:
            share(lambda start, stop: column_sums(slopes[:, start:stop], db[start:stop]), db.size, slopes.size)
        last = slopes.shape[1] - size  # of "gru" and "gru_before", the slopes of U_n stand apart, here
        dw_ih = self._turned_product(blas, slopes[:, :rows], x, np.empty_like(w_ih)) if needs[3] else None
        dw_hh, db_hh = None, None
        if needs[4]:
            dw_hh, split = np.empty_like(w_hh), rows if kind not in (GRU, BEFORE) else 2 * size
            self._turned_product(blas, slopes[:, :split], old_h, dw_hh[:split])
            if split < rows:
                self._turned_product(blas, slopes[:, last:], reset_h, dw_hh[split:])
        if needs[6]:
            db_hh = np.concatenate((db[:2 * size], db[last:])) if kind == GRU else db.copy()
        return (dx, dh0 if needs[1] else None, dc0 if needs[2] and kind == LSTM else None, dw_ih, dw_hh,
                db[:rows] if needs[5] else None, db_hh)

    def _added(self, b_ih: Array | None, b_hh: Array | None, kind: int, size: int, rows: int, dtype: Any
               ) -> tuple[Array, Array]:
        """What is added to the input's share (G H,), and what a GRU adds before it resets (H,)."""
        bias, d = np.zeros(rows, dtype), np.zeros(size, dtype)
        if b_ih is not None:
            bias += b_ih
        if b_hh is not None:
            stop = 2 * size if kind == GRU else rows
            bias[:stop] += b_hh[:stop]
            d[:rows - stop] += b_hh[stop:]
        return bias, d

    def _cut(self, w: Array, turned: bool = False) -> Array:
        pieces = np.empty(w.shape[::-1] if turned else w.shape, w.dtype)
        cut(w, turned, pieces)
        return pieces

    def _affine(self, blas: Any, x: Array, w_ih: Array, bias: Array, z: Array) -> None:
        """z (N, G H) = x (N, I) w_ih^T + bias."""
        if x.shape[0] < FEW:
            affine(blas, x, w_ih, 0, bias, z)
        else:
            w = self._cut(w_ih, True)
            share(lambda start, stop: affine(blas, x[start:stop], w, WIDTH, bias, z[start:stop]), x.shape[0],
                  z.size * x.shape[1] // COST)

    def _turned_product(self, blas: Any, d: Array, x: Array, c: Array) -> Array:
        """c (M, K) = d.T @ x."""
        each = -(-c.shape[0] // get_num_threads())  # rows for a thread: each copies all of x
        share(lambda start, stop: turned_product(blas, d[:, start * each:stop * each], x, c[start * each:stop * each]),
              -(-c.shape[0] // each), d.size * x.shape[1] // COST)
        return c

    def _of_input(self, blas: Any, d: Array, w_ih: Array, real: Array | None, shape: tuple[int, ...]
                  ) -> Array:
        """dL/dx (B, T, I) of slopes d (N, G H)."""
        dx = np.empty((d.shape[0], w_ih.shape[1]), d.dtype)
        w, cut_to = (w_ih, w_ih.shape[1]) if d.shape[0] < FEW else (self._cut(w_ih), WIDTH)
        share(lambda start, stop: product(blas, d[start:stop], w, cut_to, dx[start:stop], False), d.shape[0],
              dx.size * d.shape[1] // COST)
        if real is None:
            return dx.reshape(*shape[:2], -1)
        padded = np.zeros((*shape[:2], dx.shape[1]), dx.dtype)
        padded[real] = dx
        return padded
