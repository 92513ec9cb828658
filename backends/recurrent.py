"""The recurrent scan: one layer in one direction, forward and backward, for plain RNN, GRU and LSTM.

The time loop, the matrix products and the packing of sequences of unequal length are written once; a cell is three
small methods (a step forward, the factors of its activations, a step backward), which a backend may override.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from tinyseq.backends import threads
from tinyseq.backends.rows import RowKernels

Array = Any


class Cell(NamedTuple):
    """What the recurrent scan must know of a cell. `order` names PyTorch's blocks of weight rows as the scan
    stacks them: last the one without a sigmoid. Per step and hidden unit it keeps `kept` activations for backward
    and `slopes` gradients of pre-activations."""

    order: tuple[int, ...]
    kept: int
    slopes: int


CELLS = {
    "rnn_tanh": Cell((0,), 0, 1),
    "rnn_relu": Cell((0,), 0, 1),
    "gru": Cell((0, 1, 2), 4, 4),
    "gru_before": Cell((0, 1, 2), 3, 3),
    "lstm": Cell((0, 1, 3, 2), 6, 4),
}


def _steps(k: int, *arrays: Array) -> list[list[Array]]:
    """Views of a step of each array, k of them: those with one step give it again and again."""
    return [list(a) * (k // len(a)) for a in arrays]


def _last_first(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """Views of a step of each array after the other, from the last step to the first."""
    return zip(*(a[::-1] for a in arrays), strict=True)


class Packing(NamedTuple):
    """How a padded batch becomes rows without padding: step by step, and in each step the longest sequence
    first.

    Sequences that end leave at the right, so step t works on the first n columns of every (features, batch)
    array. `runs` groups steps with equal n: (number of steps, n). `places`, two arrays (N,), say where in (B, T) the
    packed rows stand, None where every sequence has full length; `order` sorts the batch, the longest first.
    """

    batch: int
    steps: int
    reverse: bool
    runs: list[tuple[int, int]]
    places: tuple[Array, Array] | None
    order: Any


class RecurrentKernels(RowKernels):
    """The part of a backend that runs recurrent layers."""

    def rnn_forward(self, cell: str, x: Array, h0: Array, c0: Array | None, w_ih: Array, w_hh: Array,
                    b_ih: Array | None, b_hh: Array | None, lengths: np.ndarray[Any, Any] | None = None,
                    reverse: bool = False, h_mask: Array | None = None,
                    keep: bool = True) -> tuple[Array, Array, Array | None, Any]:
        """One recurrent layer in one direction: (y (B, T, H), h_n (B, H), c_n (B, H) or None, saved).

        cell: a key of CELLS. x (B, T, I); h0 and, for an LSTM, c0 (B, H); weights w_ih (G H, I), w_hh (G H,
        H) and biases (G H,) or None, G gates stacked as in PyTorch (GRU: r, z, n; LSTM: i, f, g, o). With s
        the sigmoid and a_k = W_k x + b_k + U_k h + d_k:

            rnn_tanh, rnn_relu   h' = tanh(a), max(a, 0)
            lstm                 c' = s(a_f) c + s(a_i) tanh(a_g),  h' = s(a_o) tanh(c')
            gru                  r = s(a_r), z = s(a_z), n = tanh(W_n x + b_n + r (U_n h + d_n)),  h' = n + z (h - n)
            gru_before           the same with n = tanh(W_n x + b_n + U_n (r h) + d_n)

        lengths (B,), integers from 0 to T in host memory: y is zero past the end and h_n is the state at the
        last real step. `reverse` runs from each sequence's last real step to its first. h_mask (B, H) multiplies
        h, or r h, in every product U h. Without `keep` nothing is kept for backward, and saved is None.

        Inside, the state is (H, n): the recurrent product U h is fastest so. One tanh serves all gates, since
        s(a) = tanh(a/2)/2 + 1/2 and the inner half is multiplied into the weights; into the products, where
        these are few. A step is a product and calls on whole arrays without strides, into views made before: at most
        widths a call costs more than its arithmetic.
        """
        xp, spec, hidden = self.xp, CELLS[cell], w_hh.shape[1]
        packing = self._pack_plan(x.shape[0], x.shape[1], hidden, lengths, reverse)
        total = sum(k * n for k, n in packing.runs)
        few = 12 * total <= hidden and cell in ("gru", "lstm")
        w_in, w_rec = (w_ih, w_hh) if few else (self._arrange(w_ih, spec), self._arrange(w_hh, spec))
        bias, d_n = self._biases(b_ih, b_hh, cell, hidden)
        advance = getattr(self, f"_{cell}_advance")
        state = self._to_columns([h0] if c0 is None else [h0, c0], packing)
        mask = None if h_mask is None else self._to_columns([h_mask], packing)[0]
        y = xp.empty((total, hidden), dtype=x.dtype)
        runs, start = [], 0  # (states, kept activations) of each run
        for k, n in packing.runs:
            stop = start + k * n
            rows = self._pack(x, packing, start, stop).reshape(k, n, x.shape[2])
            if w_in.size * k * n >= threads.LARGE:  # one product, which takes all threads
                z = xp.matmul(w_in, rows.reshape(k * n, -1).T).reshape(-1, k, n)
                z = xp.ascontiguousarray(z.swapaxes(0, 1))
            else:
                z = xp.matmul(rows[:, 0], w_in.T)[..., None] if n == 1 else xp.matmul(w_in, rows.swapaxes(1, 2))
            z = self._arrange(z, spec) if few else z
            z += bias + xp.zeros(z.shape[1:], dtype=x.dtype)  # without strides of 0
            states = xp.empty((k + 1, hidden, n), dtype=x.dtype)
            states[0] = state[0, :, :n]
            kept = xp.empty((k if keep else 1, spec.kept, hidden, n), dtype=x.dtype)
            parts = (w_rec[:2 * hidden], w_rec[2 * hidden:]) if cell == "gru_before" else (w_rec,)
            recur = [self._recurrent_product(w, n, mask, spec if few else None) for w in parts]
            advance(recur, z, states, kept, state[-1, :, :n], d_n)
            y[start:stop].reshape(k, n, hidden)[...] = states[1:].swapaxes(1, 2)
            state[0, :, :n], start = states[-1], stop  # what stands beyond has ended
            if keep:
                runs.append((states, kept))
        ends = self._from_columns(state, packing)
        saved = (packing, x, runs, w_ih, w_hh, mask) if keep else None
        return self._unpack(y, packing), ends[0], None if c0 is None else ends[1], saved

    def rnn_backward(self, cell: str, saved: Any, gy: Array | None, gh: Array | None, gc: Array | None,
                     needs: Sequence[bool]) -> tuple[Array | None, ...]:
        """(dx, dh0, dc0, dw_ih, dw_hh, db_ih, db_hh) for gradients of y, h_n and c_n (None: zero).

        needs: which of the seven are wanted; the others are None. The factors of all activations are computed
        for a run of steps at once, so that a step is a product per gate; the gradients of the weights are one
        product after the scan.
        """
        xp, spec = self.xp, CELLS[cell]
        packing, x, runs, w_ih, w_hh, mask = saved
        hidden, total, dtype = w_hh.shape[1], sum(k * n for k, n in packing.runs), x.dtype
        before = cell == "gru_before"
        ends = [xp.zeros((packing.batch, hidden), dtype=dtype) if g is None else g for g in (gh, gc)]
        ends = ends if spec.kept else ends[:1]  # a plain RNN has one state and keeps nothing
        state = self._to_columns(ends, packing)  # its gradient, (1 or 2, H, B)
        retreat = getattr(self, f"_{cell}_retreat")
        first = hidden if cell == "gru" else 0  # rows of slopes before those of the recurrent weights
        parts = [xp.ascontiguousarray(w.T) for w in ((w_hh[:2 * hidden], w_hh[2 * hidden:]) if before else (w_hh,))]
        gy = xp.zeros((packing.batch, packing.steps, hidden), dtype=dtype) if gy is None else gy
        slopes = xp.empty((spec.slopes * hidden, total), dtype=dtype)
        old_h = xp.empty((hidden, total), dtype=dtype)
        reset_h = xp.empty((hidden, total if before else 0), dtype=dtype)
        stop = total
        for (k, n), (states, kept) in zip(reversed(packing.runs), reversed(runs), strict=True):
            start = stop - k * n
            gradient = xp.ascontiguousarray(state[..., :n])
            gy_steps = self._pack(gy, packing, start, stop).reshape(k, n, hidden).swapaxes(1, 2)
            dz = xp.empty((k, spec.slopes, hidden, n), dtype=dtype)
            retreat([self._back(w, n, mask) for w in parts], gradient, xp.ascontiguousarray(gy_steps), states, kept, dz)
            state[..., :n] = gradient
            self._steps_of(slopes, start, stop, k)[...] = dz.reshape(k, -1, n).swapaxes(0, 1)
            self._steps_of(old_h, start, stop, k)[...] = self._masked(states[:-1], mask).swapaxes(0, 1)
            if before:
                reset = self._masked(states[:-1] * kept[:, 0], mask)
                self._steps_of(reset_h, start, stop, k)[...] = reset.swapaxes(0, 1)
            stop = start
        if cell.startswith("gru"):
            state = (state[0] + state[1])[None]  # what came through the weights, and what was carried by z
        starts = self._from_columns(state, packing)
        d_in = d_rec = slopes[:w_ih.shape[0]]
        if first:  # slopes are stacked n, r, z, r n: the first three belong to W, the last three to U
            w_ih, d_rec = xp.roll(w_ih, hidden, axis=0), slopes[first:]
        of_w, of_u = self._of_weights(d_in, d_rec, needs, self._pack(x, packing), old_h.T,
                                      *([reset_h.T] if before else []))
        del old_h  # before as much comes
        dx = self._unpack(xp.matmul(d_in.T, w_ih), packing) if needs[0] else None
        if first:
            of_w = [None if g is None else xp.roll(g, -first, axis=0) for g in of_w]
        dc0 = starts[1] if needs[2] and cell == "lstm" else None
        return dx, starts[0] if needs[1] else None, dc0, of_w[0], of_u[0], of_w[1], of_u[1]

    def _of_weights(self, d_in: Array, d_rec: Array, needs: Sequence[bool], x: Array, h: Array,
                    reset_h: Array | None = None) -> tuple[list[Array], list[Array]]:
        """[dw_ih, db_ih] and [dw_hh, db_hh] from the slopes of the pre-activations by W and by U, (G H, N) both.

        Rows x (N, I) went into W, h (N, H) into U, or into all but its last H rows, which took reset_h (N, H).
        """
        xp, dw_hh, db_hh = self.xp, None, None
        dw_ih = xp.matmul(d_in, x) if needs[3] else None
        db_ih = xp.sum(d_in, axis=1) if needs[5] else None
        if needs[4]:
            dw_hh = xp.empty((d_rec.shape[0], h.shape[1]), dtype=h.dtype)
            split = d_rec.shape[0] if reset_h is None else 2 * h.shape[1]
            xp.matmul(d_rec[:split], h, out=dw_hh[:split])
            if reset_h is not None:
                xp.matmul(d_rec[split:], reset_h, out=dw_hh[split:])
        if needs[6]:
            db_hh = db_ih if needs[5] and d_rec is d_in else xp.sum(d_rec, axis=1)
        return [dw_ih, db_ih], [dw_hh, db_hh]

    # Runs of the cells. Advance, k steps forward: `recur` are the recurrent products, of h (H, n) into an array; z
    # (k, G H, n) is the input's share with biases, both with the half of the sigmoid inside; states (k + 1, H, n) are
    # h, the first of them given; kept (k, kept, H, n), or (1, ...) where a step may overwrite what the last one kept.
    # Retreat, k steps backward: gradient[0] (H, n) holds dL/dh' from the steps that follow, gy (k, H, n) is that of y;
    # dz (k, slopes, H, n) receives dL/dz of the pre-activations z; factors are the derivatives that a step multiplies
    # into a gradient, for k steps at once; `back` are the transposed products.

    def _rnn_tanh_advance(self, recur: Any, z: Array, states: Array, kept: Array, c: Array, d: Array) -> None:
        add, tanh = self.xp.add, self.xp.tanh
        for x, (h, new) in zip(z, itertools.pairwise(states), strict=True):
            recur[0](h, new)
            add(new, x, new)
            tanh(new, new)

    def _rnn_relu_advance(self, recur: Any, z: Array, states: Array, kept: Array, c: Array, d: Array) -> None:
        add, maximum, zero = self.xp.add, self.xp.maximum, self.xp.zeros((), dtype=z.dtype)
        for x, (h, new) in zip(z, itertools.pairwise(states), strict=True):
            recur[0](h, new)
            add(new, x, new)
            maximum(new, zero, out=new)

    def _rnn_tanh_retreat(self, back: Any, gradient: Array, gy: Array, states: Array, kept: Array, dz: Array) -> None:
        self._plain_retreat(back[0], gradient[0], gy, 1 - self.xp.square(states[1:]), dz[:, 0])

    def _rnn_relu_retreat(self, back: Any, gradient: Array, gy: Array, states: Array, kept: Array, dz: Array) -> None:
        self._plain_retreat(back[0], gradient[0], gy, (states[1:] > 0).astype(gy.dtype), dz[:, 0])

    def _plain_retreat(self, back: Any, dh: Array, gy: Array, factors: Array, dz: Array) -> None:
        for g, f, d in _last_first(gy, factors, dz):
            self.xp.add(dh, g, dh)
            self.xp.multiply(dh, f, d)
            back(d, dh)

    def _lstm_advance(self, recur: Any, z: Array, states: Array, kept: Array, c: Array, d: Array) -> None:
        """c (H, n) is overwritten. A step keeps i, f, o, g, the old c, and tanh(c')."""
        add, multiply, tanh, half = self.xp.add, self.xp.multiply, self.xp.tanh, self._half(z)
        both = self.xp.empty_like(kept[0, :2])
        ig, fc = both
        gates = kept[:, :4].reshape(len(kept), *z.shape[1:])
        parts = kept[:, 4], gates, kept[:, :3], kept[:, :2], kept[:, 3:5], kept[:, 2], kept[:, 5]
        c_old, *views = _steps(len(z), *parts)
        c_old[0][...] = c
        steps = zip(z, itertools.pairwise(states), *views, [*c_old[1:], c], strict=True)
        for x, (h, new), a, sigmoids, i_f, g_c, o, tanh_c, c_new in steps:
            recur[0](h, a)
            add(a, x, a)
            tanh(a, a)
            multiply(sigmoids, half, sigmoids)
            add(sigmoids, half, sigmoids)
            multiply(i_f, g_c, both)
            add(ig, fc, c_new)
            tanh(c_new, tanh_c)
            multiply(o, tanh_c, new)

    def _lstm_retreat(self, back: Any, gradient: Array, gy: Array, states: Array, kept: Array, dz: Array) -> None:
        """Factors from dL/dc' to a_i, a_f, a_g; from dL/dh' to a_o and to c'. dz is in PyTorch's order, i, f, g, o."""
        add, multiply, square = self.xp.add, self.xp.multiply, self.xp.square
        sigmoids, f = kept[:, :3], self.xp.empty((len(gy), 5, *gy.shape[1:]), dtype=gy.dtype)
        slope = sigmoids - square(sigmoids)
        multiply(slope[:, :2], kept[:, 3:5], f[:, :2])
        multiply(slope[:, 2], kept[:, 5], f[:, 3])
        multiply(1 - square(kept[:, 3::2]), kept[:, 0:3:2], f[:, 2::2])
        (dh, dc), more = gradient, self.xp.empty_like(gradient[0])
        slopes = dz[:, :3], dz[:, 3], dz.reshape(len(gy), -1, gy.shape[2])
        steps = _last_first(gy, f[:, :3], f[:, 3], f[:, 4], kept[:, 1], *slopes)
        for g, to_ifg, to_o, to_c, forget, d_ifg, d_o, d in steps:
            add(dh, g, dh)
            multiply(dh, to_o, d_o)
            multiply(dh, to_c, more)
            add(dc, more, dc)
            multiply(dc, to_ifg, d_ifg)
            multiply(dc, forget, dc)
            back[0](d, dh)

    def _gru_advance(self, recur: Any, z: Array, states: Array, kept: Array, c: Array, d: Array) -> None:
        """A step keeps r, z, q = U_n h + d_n, and n."""
        add, multiply, half = self.xp.add, self.xp.multiply, self._half(z)
        hidden, n = states.shape[1:]
        d = d + self.xp.zeros((hidden, n), dtype=z.dtype)
        products = kept[:, :3].reshape(len(kept), -1, n)
        views = _steps(len(z), products, products[:, :2 * hidden], *kept.swapaxes(0, 1))
        steps = zip(z[:, :2 * hidden], z[:, 2 * hidden:], itertools.pairwise(states), *views, strict=True)
        for x, x_n, (h, new), product, gates, r, z_, q, n_ in steps:
            recur[0](h, product)
            self._sigmoid(gates, x, half)
            add(q, d, q)
            multiply(r, q, n_)
            self._mix(h, z_, n_, x_n, new)

    def _sigmoid(self, a: Array, x: Array, half: Array) -> None:
        """s(a + x) into a, where both come with the inner half."""
        self.xp.add(a, x, a)
        self.xp.tanh(a, a)
        self.xp.multiply(a, half, a)
        self.xp.add(a, half, a)

    def _mix(self, h: Array, z: Array, n: Array, x: Array, new: Array) -> None:
        """n = tanh(n + x), and h' = n + z (h - n)."""
        self.xp.add(n, x, n)
        self.xp.tanh(n, n)
        self.xp.subtract(h, n, new)
        self.xp.multiply(new, z, new)
        self.xp.add(new, n, new)

    def _gru_retreat(self, back: Any, gradient: Array, gy: Array, states: Array, kept: Array, dz: Array) -> None:
        """Factors from dL/dh' to a_n, a_r, a_z and U_n h + d_n. gradient[1] is what z carries back."""
        r, z, q, n = kept.swapaxes(0, 1)
        to_n = (1 - z) * (1 - n * n)
        to_q = to_n * r
        factors = self.xp.stack((to_n, to_q * q * (1 - r), (states[:-1] - n) * (z - z * z), to_q), axis=1)
        (dh, carried), add, multiply = gradient, self.xp.add, self.xp.multiply
        steps = _last_first(gy, factors, z, dz, dz[:, 1:].reshape(len(gy), -1, gy.shape[2]))
        for g, f, z_, d, d_rec in steps:
            add(dh, g, dh)
            add(dh, carried, dh)
            multiply(dh, f, d)
            multiply(dh, z_, carried)
            back[0](d_rec, dh)

    def _gru_before_advance(self, recur: Any, z: Array, states: Array, kept: Array, c: Array, d: Array) -> None:
        """A step keeps r, z and n."""
        half, (hidden, n), rh = self._half(z), states.shape[1:], self.xp.empty_like(states[0])
        views = _steps(len(z), kept[:, :2].reshape(len(kept), -1, n), *kept.swapaxes(0, 1))
        steps = zip(z[:, :2 * hidden], z[:, 2 * hidden:], itertools.pairwise(states), *views, strict=True)
        for x, x_n, (h, new), gates, r, z_, n_ in steps:
            recur[0](h, gates)
            self._sigmoid(gates, x, half)
            self.xp.multiply(r, h, rh)
            recur[1](rh, n_)
            self._mix(h, z_, n_, x_n, new)

    def _gru_before_retreat(self, back: Any, gradient: Array, gy: Array, states: Array, kept: Array, dz: Array) -> None:
        """Factors from dL/d(r h) to a_r; from dL/dh' to a_z and a_n. gradient[1] is what z and r h carry back."""
        (r, z, n), h = kept.swapaxes(0, 1), states[:-1]
        factors = self.xp.stack((h * (r - r * r), (h - n) * (z - z * z), (1 - z) * (1 - n * n)), axis=1)
        (dh, carried), multiply = gradient, self.xp.multiply
        d_rh = self.xp.empty_like(dh)
        steps = _last_first(gy, factors, r, z, dz, dz[:, :2].reshape(len(gy), -1, gy.shape[2]))
        for g, f, r_, z_, d, d_gates in steps:
            dh += g
            dh += carried
            multiply(dh, f, d)  # but that of a_r
            multiply(dh, z_, carried)
            back[1](d[2], d_rh)
            multiply(d_rh, f[0], d[0])
            d_rh *= r_
            carried += d_rh
            back[0](d_gates, dh)

    # Layouts of the scan.

    def _masked(self, h: Array, mask: Array | None) -> Array:
        """h (..., H, n) as it enters the recurrent product, under the mask (H, B)."""
        return h if mask is None else h * mask[:, :h.shape[-1]]

    def _recurrent_product(self, w: Array, n: int, mask: Array | None,
                           few: Cell | None = None) -> Callable[[Array, Array], Any]:
        """The recurrent product of h (H, n) into an array; weights for `few` rows are in PyTorch's order."""
        multiply = self.xp.dot if w.size * n < 1 << 24 else self.xp.matmul  # `dot` begins sooner, on one thread
        if few:
            u, blocks = self.xp.empty((w.shape[0], n), dtype=w.dtype), (len(few.order), w.shape[1], n)

            def product(h: Array, out: Array) -> None:
                multiply(w, self._masked(h, mask), u)
                self.xp.take(u.reshape(blocks), few.order, 0, out.reshape(blocks), "clip")
                out[:-w.shape[1]] *= 0.5

            return product
        if mask is None:
            return functools.partial(multiply, w)

        def masked_product(h: Array, out: Array) -> None:
            multiply(w, h * mask[:, :n], out)

        return masked_product

    def _back(self, w: Array, n: int, mask: Array | None) -> Callable[[Array, Array], Any]:
        """The transposed product of slopes (G H, n) into an array: from W h back to h."""
        multiply = self._recurrent_product(w, n, None)
        if mask is None:
            return multiply

        def masked_product(d: Array, out: Array) -> None:
            self.xp.multiply(multiply(d, out), mask[:, :n], out)

        return masked_product

    def _half(self, z: Array) -> Array:
        return self.xp.full((), 0.5, dtype=z.dtype)  # an array: a number costs a conversion a call

    def _arrange(self, w: Array, spec: Cell) -> Array:
        """Rows (..., G H, n) of weights or pre-activations in the scan's order, those of sigmoid gates halved: a
        contiguous copy, but of a plain RNN."""
        if len(spec.order) == 1:
            return w
        blocks = len(spec.order), w.shape[-2] // len(spec.order)
        parts = w.reshape(*w.shape[:-2], *blocks, w.shape[-1]).take(spec.order, -3)
        parts[..., :-1, :, :] *= 0.5
        return parts.reshape(w.shape)

    def _biases(self, b_ih: Array | None, b_hh: Array | None, cell: str, hidden: int) -> tuple[Any, Any]:
        """What is added to the input's share (G H, 1), and d_n (H, 1), which a GRU adds before it resets."""
        d_n: Any = 0
        total = b_ih
        if b_hh is not None:
            if cell == "gru":
                d_n, b_hh = b_hh[2 * hidden:, None], b_hh.copy()
                b_hh[2 * hidden:] = 0
            total = b_hh if b_ih is None else b_ih + b_hh
        return 0 if total is None else self._arrange(total[:, None], CELLS[cell]), d_n

    def _pack_plan(self, batch: int, steps: int, hidden: int, lengths: np.ndarray[Any, Any] | None,
                   reverse: bool) -> Packing:
        """Where each step's rows stand, and runs of steps on equally many sequences, `self.block` states or two steps
        at most: each run has a state of its own to begin with."""
        xp, places, counts = self.xp, None, [batch] * steps
        order: Any = slice(None)
        if lengths is not None:
            lengths = lengths.astype(np.int64, copy=False)  # unsigned ones have no negative
            order = np.argsort(-lengths, kind="stable")
            ends = lengths[order]
            active = np.arange(steps)[:, None] < ends  # (T, B)
            counts = active.sum(axis=1).tolist()
            t, column = np.nonzero(active)
            places = xp.asarray(order[column]), xp.asarray(ends[column] - 1 - t if reverse else t)
            order = xp.asarray(order)
        runs = []
        for n, same in itertools.groupby(filter(None, counts)):
            k, most = len(list(same)), max(2, self.block // max(1, n * hidden))
            runs += [(min(most, k - done), n) for done in range(0, k, most)]
        return Packing(batch, steps, reverse, runs, places, order)

    def _pack(self, x: Array, packing: Packing, start: int = 0, stop: int | None = None) -> Array:
        """(B, T, F) to packed rows (N, F), or some of them, of whole steps."""
        if packing.places is not None:
            return x[packing.places[0][start:stop], packing.places[1][start:stop]]
        x = x[:, ::-1] if packing.reverse else x
        x = x.swapaxes(0, 1)[start and start // packing.batch:stop and stop // packing.batch]
        return self.xp.ascontiguousarray(x).reshape(x.shape[0] * x.shape[1], x.shape[2])

    def _unpack(self, packed: Array, packing: Packing) -> Array:
        """Packed rows (N, F) to (B, T, F), zero past the end."""
        shape = packing.batch, packing.steps, packed.shape[1]
        if packing.places is not None:
            y = self.xp.zeros(shape, dtype=packed.dtype)
            y[packing.places] = packed
            return y
        y = packed.reshape(shape[1], shape[0], shape[2]).swapaxes(0, 1)
        return self.xp.ascontiguousarray(y[:, ::-1] if packing.reverse else y)

    def _to_columns(self, arrays: Sequence[Array], packing: Packing) -> Array:
        """States (B, H) to (number of states, H, B), the longest sequence first."""
        return self.xp.array([a[packing.order].T for a in arrays], order="C")  # a stack would keep their order

    def _from_columns(self, columns: Array, packing: Packing) -> Array:
        """(number of states, H, B) to (number of states, B, H) in the batch's own order."""
        y = self.xp.empty((columns.shape[0], columns.shape[2], columns.shape[1]), dtype=columns.dtype)
        y[:, packing.order] = columns.swapaxes(1, 2)
        return y

    def _steps_of(self, array: Array, start: int, stop: int, k: int) -> Array:
        """Columns start to stop of (F, N), as a view (F, k, n) of k steps."""
        return array[:, start:stop].reshape(array.shape[0], k, (stop - start) // k)
