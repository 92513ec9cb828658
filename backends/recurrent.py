"""The recurrent scan: one layer in one direction, forward and backward, for plain RNN, GRU and LSTM.

The time loop, the matrix products and the packing of sequences of unequal length are written once; a cell is three
small methods (a step forward, the factors of its activations, a step backward), which a backend may override.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
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
    "lstm": Cell((3, 0, 1, 2), 5, 4),
}


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
        these are few.
        """
        xp, spec = self.xp, CELLS[cell]
        packing = self._pack_plan(x.shape[0], x.shape[1], w_hh.shape[1], lengths, reverse)
        packed, hidden = self._pack(x, packing), w_hh.shape[1]
        few = 8 * packed.shape[0] <= hidden
        w_in, w_rec = (w_ih, w_hh) if few else (self._arrange(w_ih, spec), self._arrange(w_hh, spec))
        bias, d_n = self._biases(b_ih, b_hh, cell, hidden)
        split = 2 * hidden if cell == "gru_before" else w_rec.shape[0]
        advance = getattr(self, f"_{cell}_advance")
        state = self._to_columns([h0] if c0 is None else [h0, c0], packing)
        mask = None if h_mask is None else self._to_columns([h_mask], packing)[0]
        y = xp.empty((packed.shape[0], hidden), dtype=x.dtype)
        runs, start = [], 0  # (states, kept activations) of each run
        for k, n in packing.runs:
            stop = start + k * n
            z = xp.matmul(w_in, packed[start:stop].T)
            z = (self._arrange(z, spec) if few else z).reshape(-1, k, n).swapaxes(0, 1)
            z = xp.add(z, bias, order="C")  # a step's share in one piece: (k, G H, n)
            states = xp.empty((k + 1, len(state), hidden, n), dtype=x.dtype)
            states[0] = state[..., :n]
            kept = xp.empty((k, spec.kept, hidden, n), dtype=x.dtype)
            u = xp.empty((w_rec.shape[0], n), dtype=x.dtype)
            for t in range(k):
                xp.matmul(w_rec[:split], self._masked(states[t, 0], mask), out=u[:split])
                u = self._arrange(u, spec) if few else u
                if cell == "gru_before":
                    reset_h = self._gru_before_reset(u, z[t], states[t], kept[t])
                    xp.matmul(w_rec[split:], self._masked(reset_h, mask), out=u[split:])
                advance(u, z[t], states[t], states[t + 1], kept[t], d_n)
            y[start:stop].reshape(k, n, hidden)[...] = states[1:, 0].swapaxes(1, 2)
            runs.append((states, kept))
            state[..., :n], start = states[-1], stop  # what stands beyond has ended
        ends = self._from_columns(state, packing)
        saved = packing, packed, runs, w_ih, w_hh, mask
        return self._unpack(y, packing), ends[0], None if c0 is None else ends[1], saved if keep else None

    def rnn_backward(self, cell: str, saved: Any, gy: Array | None, gh: Array | None, gc: Array | None,
                     needs: Sequence[bool]) -> tuple[Array | None, ...]:
        """(dx, dh0, dc0, dw_ih, dw_hh, db_ih, db_hh) for gradients of y, h_n and c_n (None: zero).

        needs: which of the seven are wanted; the others are None. The factors of all activations are computed
        for a run of steps at once, so that a step is a product per gate; the gradients of the weights are one
        product after the scan.
        """
        xp, spec = self.xp, CELLS[cell]
        packing, packed, runs, w_ih, w_hh, mask = saved
        hidden, total, dtype = w_hh.shape[1], packed.shape[0], packed.dtype
        before = cell == "gru_before"
        ends = [xp.zeros((packing.batch, hidden), dtype=dtype) if g is None else g for g in (gh, gc)]
        ends = ends if spec.kept else ends[:1]  # a plain RNN has one state and keeps nothing
        state = self._to_columns(ends, packing)  # its gradient, (1 or 2, H, B)
        factors_of, retreat = getattr(self, f"_{cell}_factors"), getattr(self, f"_{cell}_retreat")
        first = hidden if cell == "gru" else 0  # rows of slopes before those of the recurrent weights
        split = 2 * hidden if before else w_hh.shape[0]
        w_back, w_back_n = xp.ascontiguousarray(w_hh[:split].T), xp.ascontiguousarray(w_hh[split:].T)
        gy_rows = xp.zeros((total, hidden), dtype=dtype) if gy is None else self._pack(gy, packing)
        slopes = xp.empty((spec.slopes * hidden, total), dtype=dtype)
        old_h = xp.empty((hidden, total), dtype=dtype)
        reset_h = xp.empty((hidden, total if before else 0), dtype=dtype)
        stop = total
        for (k, n), (states, kept) in zip(reversed(packing.runs), reversed(runs), strict=True):
            start = stop - k * n
            gradient = xp.ascontiguousarray(state[..., :n])
            gy_steps = xp.ascontiguousarray(gy_rows[start:stop].reshape(k, n, hidden).swapaxes(1, 2))
            factors = factors_of(states, kept)
            dz = xp.empty((k, spec.slopes, hidden, n), dtype=dtype)
            for t in range(k - 1, -1, -1):
                retreat(gradient, gy_steps[t], factors[t], kept[t], dz[t])
                if before:
                    d_rh = self._masked(w_back_n @ dz[t, 2], mask)
                    self._gru_before_unreset(gradient, d_rh, factors[t], kept[t], dz[t])
                d = dz[t].reshape(-1, n)[first:first + split]
                xp.matmul(w_back, d, out=gradient[0])
                if mask is not None:
                    gradient[0] *= mask[:, :n]
            state[..., :n] = gradient
            self._steps_of(slopes, start, stop, k)[...] = dz.reshape(k, -1, n).swapaxes(0, 1)
            self._steps_of(old_h, start, stop, k)[...] = self._masked(states[:-1, 0], mask).swapaxes(0, 1)
            if before:
                reset = self._masked(states[:-1, 0] * kept[:, 0], mask)
                self._steps_of(reset_h, start, stop, k)[...] = reset.swapaxes(0, 1)
            stop = start
        if cell.startswith("gru"):
            state = (state[0] + state[1])[None]  # what came through the weights, and what was carried by z
        starts = self._from_columns(state, packing)
        d_in = d_rec = slopes[:w_ih.shape[0]]
        if first:  # slopes are stacked n, r, z, r n: the first three belong to W, the last three to U
            w_ih, d_rec = xp.roll(w_ih, hidden, axis=0), slopes[first:]
        dx = self._unpack(xp.matmul(d_in.T, w_ih), packing) if needs[0] else None
        of_w, of_u = self._of_weights(d_in, d_rec, needs, packed, old_h.T, *([reset_h.T] if before else []))
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

    # Steps of the cells. Advance, a step forward: u (G H, n) recurrent products, free to be overwritten; x
    # (G H, n) the input's share with biases; old and new (states, H, n); kept (kept, H, n). Both u and x come
    # with the half of the sigmoid inside. Factors: for k steps at once, the derivatives that a step multiplies into a
    # gradient, (k, F, H, n). Retreat, a step backward: gradient[0] (H, n) holds dL/dh' from the steps that
    # follow, gy (H, n) that of y; dz (slopes, H, n) receives the slopes, dL/dz of the pre-activations z.
    # gradient[1] is dL/dc of an LSTM, and of a GRU what z carries back.

    def _rnn_tanh_advance(self, u: Array, x: Array, old: Array, new: Array, kept: Array, d: Array) -> None:
        self.xp.add(u, x, out=u)
        self.xp.tanh(u, out=new[0])

    def _rnn_relu_advance(self, u: Array, x: Array, old: Array, new: Array, kept: Array, d: Array) -> None:
        self.xp.add(u, x, out=u)
        self.xp.maximum(u, 0, out=new[0])

    def _rnn_tanh_factors(self, states: Array, kept: Array) -> Array:
        return 1 - self.xp.square(states[1:])

    def _rnn_relu_factors(self, states: Array, kept: Array) -> Array:
        return (states[1:] > 0).astype(states.dtype)

    def _plain_retreat(self, gradient: Array, gy: Array, factors: Array, kept: Array, dz: Array) -> None:
        dh = gradient[0]
        dh += gy
        self.xp.multiply(dh, factors[0], out=dz[0])

    _rnn_tanh_retreat = _rnn_relu_retreat = _plain_retreat

    def _lstm_advance(self, u: Array, x: Array, old: Array, new: Array, kept: Array, d: Array) -> None:
        xp = self.xp
        gates, sigmoids = kept[:4].reshape(u.shape), kept[:3]
        xp.add(u, x, out=u)
        xp.tanh(u, out=gates)
        sigmoids *= 0.5
        sigmoids += 0.5
        o, i, f, g, tanh_c = kept
        h, c = new
        xp.multiply(f, old[1], out=c)
        xp.multiply(i, g, out=tanh_c)
        c += tanh_c
        xp.tanh(c, out=tanh_c)
        xp.multiply(o, tanh_c, out=h)

    def _lstm_factors(self, states: Array, kept: Array) -> Array:
        """From dL/dh' to a_o; from dL/dc' to a_i, a_f, a_g; from dL/dh' to c'."""
        o, i, f, g, tanh_c = kept.swapaxes(0, 1)
        return self.xp.stack(((o - o * o) * tanh_c, (i - i * i) * g, (f - f * f) * states[:-1, 1], (1 - g * g) * i,
                              (1 - tanh_c * tanh_c) * o), axis=1)

    def _lstm_retreat(self, gradient: Array, gy: Array, factors: Array, kept: Array, dz: Array) -> None:
        xp = self.xp  # dz is in PyTorch's order i, f, g, o; kept in the scan's, o, i, f, g
        dh, dc = gradient
        dh += gy
        xp.multiply(dh, factors[0], out=dz[3])
        dh *= factors[4]
        dc += dh
        xp.multiply(dc, factors[1:4], out=dz[:3])
        dc *= kept[2]

    def _gru_gates(self, u: Array, x: Array, kept: Array) -> None:
        """r and z from their pre-activations, into kept[:2]."""
        xp = self.xp
        gates = kept[:2].reshape(-1, u.shape[1])
        xp.add(u[:gates.shape[0]], x[:gates.shape[0]], out=gates)
        xp.tanh(gates, out=gates)
        gates *= 0.5
        gates += 0.5

    def _gru_mix(self, a: Array, x: Array, kept: Array, old: Array, new: Array) -> None:
        """n from what is added to the input's share of its pre-activation, into kept[2], and h'."""
        xp, z, n, h = self.xp, kept[1], kept[2], new[0]
        xp.add(a, x[2 * n.shape[0]:], out=n)
        xp.tanh(n, out=n)
        xp.subtract(old[0], n, out=h)
        h *= z
        h += n

    def _gru_advance(self, u: Array, x: Array, old: Array, new: Array, kept: Array, d: Array) -> None:
        self._gru_gates(u, x, kept)
        r, _, n, q = kept
        self.xp.add(u[2 * q.shape[0]:], d, out=q)
        self.xp.multiply(r, q, out=n)
        self._gru_mix(n, x, kept, old, new)

    def _gru_factors(self, states: Array, kept: Array) -> Array:
        """From dL/dh' to a_n, a_r, a_z and U_n h + d_n."""
        r, z, n, q = kept.swapaxes(0, 1)
        to_n = (1 - z) * (1 - n * n)
        to_q = to_n * r
        return self.xp.stack((to_n, to_q * q * (1 - r), (states[:-1, 0] - n) * (z - z * z), to_q), axis=1)

    def _gru_retreat(self, gradient: Array, gy: Array, factors: Array, kept: Array, dz: Array) -> None:
        dh, carried = gradient
        dh += gy
        dh += carried
        self.xp.multiply(dh, factors, out=dz)
        self.xp.multiply(dh, kept[1], out=carried)

    def _gru_before_reset(self, u: Array, x: Array, old: Array, kept: Array) -> Array:
        """The gates, then r h, which the weights of n multiply."""
        self._gru_gates(u, x, kept)
        return kept[0] * old[0]

    def _gru_before_advance(self, u: Array, x: Array, old: Array, new: Array, kept: Array, d: Array) -> None:
        self._gru_mix(u[2 * kept.shape[1]:], x, kept, old, new)

    def _gru_before_factors(self, states: Array, kept: Array) -> Array:
        """From dL/d(r h) to a_r; from dL/dh' to a_z and a_n."""
        (r, z, n), h = kept.swapaxes(0, 1), states[:-1, 0]
        return self.xp.stack((h * (r - r * r), (h - n) * (z - z * z), (1 - z) * (1 - n * n)), axis=1)

    _gru_before_retreat = _gru_retreat  # its slope of a_r is overwritten once d_rh is known

    def _gru_before_unreset(self, gradient: Array, d_rh: Array, factors: Array, kept: Array, dz: Array) -> None:
        """Take d_rh = dL/d(r h) on to a_r and to h."""
        self.xp.multiply(d_rh, factors[0], out=dz[0])
        d_rh *= kept[0]
        gradient[1] += d_rh

    # Layouts of the scan.

    def _masked(self, h: Array, mask: Array | None) -> Array:
        """h (..., H, n) as it enters the recurrent product, under the mask (H, B)."""
        return h if mask is None else h * mask[:, :h.shape[-1]]

    def _arrange(self, w: Array, spec: Cell) -> Array:
        """Weight rows (G H, ...) in the scan's order, those of sigmoid gates halved: a contiguous copy."""
        parts = w.reshape(len(spec.order), w.shape[0] // len(spec.order), *w.shape[1:]).take(spec.order, 0)
        parts[:-1] *= 0.5
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
        return 0 if total is None else self._arrange(total, CELLS[cell])[:, None], d_n

    def _pack_plan(self, batch: int, steps: int, hidden: int, lengths: np.ndarray[Any, Any] | None,
                   reverse: bool) -> Packing:
        """Where each step's rows stand, and runs of steps on equally many sequences, `self.block` states at
        most."""
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
            k, most = len(list(same)), max(1, self.block // max(1, n * hidden))
            runs += [(min(most, k - done), n) for done in range(0, k, most)]
        return Packing(batch, steps, reverse, runs, places, order)

    def _pack(self, x: Array, packing: Packing) -> Array:
        """(B, T, F) to packed rows (N, F)."""
        if packing.places is not None:
            return x[packing.places]
        x = x[:, ::-1] if packing.reverse else x
        return self.xp.ascontiguousarray(x.swapaxes(0, 1)).reshape(packing.batch * packing.steps, x.shape[2])

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
