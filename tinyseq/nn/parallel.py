"""Recurrent layers whose steps are computed together: their next state is linear in the last one.

    h_t = a_t h_(t-1) + b_t        entry by entry, a_t and b_t of x_t alone

The gates see x_t and not h_(t-1): that is what is given up for it. Shapes, lengths and layers are those of GRU
(`nn/recurrent.py`); an LRU's state is a pair, as an LSTM's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from tinyseq import check, functional
from tinyseq.engine import ops, random
from tinyseq.engine.tensor import Like, Tensor
from tinyseq.functional.arguments import real_steps
from tinyseq.functional.parallel import turning_scan
from tinyseq.nn.masks import refuse, vectors
from tinyseq.nn.module import Parameter
from tinyseq.nn.recurrent import _Recurrent

State = tuple[Tensor, ...]


def _last(h: Tensor, first: Tensor, lengths: Any, reverse: bool) -> Tensor:
    """The state (B, H) after all steps h (B, T, H) of a row, which is `first` where there are none."""
    if not h.shape[1]:
        return first
    if lengths is None or reverse:
        last = h[:, 0 if reverse else -1]
    else:
        last = h[np.arange(len(h)), ops.maximum(ops.like(h, lengths) - 1, 0)]
    return last if lengths is None else ops.where(ops.expand_dims(ops.like(h, lengths), 1) > 0, last, first)


class _Parallel(_Recurrent):
    """What MinGRU, MinLSTM and LRU share: a stack of layers in one or both directions, whose inputs are all known."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
                 batch_first: bool = True, dropout: float = 0.0, bidirectional: bool = False, *,
                 dtype: Any = np.float32) -> None:
        refuse(self, batch_first=not batch_first)
        super().__init__(input_size, hidden_size, num_layers, dropout, bidirectional)
        self.sizes = (self.hidden_size,)
        self._suffixes = [f"_l{k}{way}" for k in range(self.num_layers) for way in ("", "_reverse")[: self.directions]]
        for k, suffix in enumerate(self._suffixes):
            width = self.input_size if k < self.directions else self.hidden_size * self.directions
            for name, value in self._begun(width, bias).items():
                setattr(self, name + suffix, Parameter(value.astype(dtype)))

    def _begun(self, width: int, bias: bool) -> dict[str, Tensor]:
        """The first values of the parameters of one layer in one direction, given so many features."""
        raise NotImplementedError

    def _scanned(self, weights: Any, x: Tensor, start: State, lengths: Any, reverse: bool) -> tuple[Tensor, State]:
        """y (B, T, H) and all its states (B, T, H), with those parameters."""
        raise NotImplementedError

    def _weights(self, k: int) -> Callable[[str], Any]:
        """The parameters of the k-th layer and direction by name, None for one that there is not."""
        return lambda name: getattr(self, name + self._suffixes[k], None)

    def multipliers(self, x: Tensor) -> Tensor:
        """|a_t| (B, T, H) of the first layer, forwards, for x (B, T, I): how much of each unit's last state goes on."""
        return self._multipliers(self._weights(0), vectors(type(self).__name__, self.input_size, x=x))

    def _multipliers(self, weights: Any, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _pass(self, k: int, x: Tensor, start: State, lengths: Any) -> tuple[Tensor, State]:
        weights, reverse = self._weights(k), bool(k % self.directions)
        if lengths is not None:
            real = real_steps(x, lengths)
            x = ops.where(real, x, 0.0)  # so that what stands in the padding reaches no gradient of a weight
        y, states = self._scanned(weights, x, start, lengths, reverse)
        y = y if lengths is None else ops.where(real, y, 0.0)
        return y, tuple(_last(h, first, lengths, reverse) for h, first in zip(states, start, strict=True))


class _Gated(_Parallel):
    """What MinGRU and MinLSTM share: gates and candidate are one product, and a state of one tensor."""

    gates: ClassVar[int]

    def _begun(self, width: int, bias: bool) -> dict[str, Tensor]:
        rows, bound = self.gates * self.hidden_size, 1 / math.sqrt(width)
        shapes = {"weight_ih": (rows, width), "bias_ih": (rows,)}
        return {name: random.uniform(shape, -bound, bound) for name, shape in shapes.items() if bias or name[0] == "w"}

    def _odds(self, *gates: Tensor) -> Tensor:
        """The logarithm of kept / taken (B, T, H), shares that sum to 1, from what the gates' rows gave."""
        raise NotImplementedError

    def _odds_and_new(self, weights: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        *gates, new = ops.split(functional.linear(x, weights("weight_ih"), weights("bias_ih")), self.gates, -1)
        return self._odds(*gates), new

    def _multipliers(self, weights: Any, x: Tensor) -> Tensor:
        return ops.sigmoid(self._odds_and_new(weights, x)[0])

    def _scanned(self, weights: Any, x: Tensor, start: State, lengths: Any, reverse: bool) -> tuple[Tensor, State]:
        odds, new = self._odds_and_new(weights, x)
        taken = ops.sigmoid(-odds)  # not 1 - kept, of which little is left of a gate that is nearly shut
        h = functional.linear_scan(ops.sigmoid(odds), taken * new, start[0], lengths, reverse)
        return h, (h,)

    def forward(self, x: Tensor, h0: Tensor | None = None, lengths: Like = None) -> tuple[Tensor, Tensor]:
        """x (B, T, I), `h0` (layers x directions, B, H) or None for zeros -> y (B, T, directions x H), h_n as h0."""
        y, (h,) = self._run(x, None if h0 is None else (h0,), lengths)
        return y, h


class MinGRU(_Gated):
    """h_t = (1 - z_t) h_{t-1} + z_t n_t with z_t = sigmoid(W_z x_t + b_z), n_t = W_n x_t + b_n (Feng et al. 2024, "Were
    RNNs all we needed?", section 3.1): a GRU whose gate and candidate do not see the last state, without reset gate.
    What z = 1 says is the opposite of our and PyTorch's GRU, h = (1 - z) n + z h: here the state is all new, there old.

    This is the paper's plain form. Its log-space form takes a positive n_t, which it needs for its logarithms and not
    for the model; `functional.linear_scan` divides by nothing and needs none. Rows of the weights in the order z, n. At
    first z is near 1/2, a memory of few steps: where it must be long, begin with lower z rows of `bias_ih_l0`.

    >>> rnn = nn.MinGRU(3, 8, num_layers=2)
    >>> y, h = rnn(ts.ones((2, 5, 3)), lengths=[5, 2])
    >>> y.shape, h.shape, rnn.weight_ih_l0.shape
    ((2, 5, 8), (2, 2, 8), (16, 3))
    """

    gates = 2

    def _odds(self, *gates: Tensor) -> Tensor:
        return -gates[0]


class MinLSTM(_Gated):
    """h_t = f' h_{t-1} + i' n_t with f' = f / (f + i), i' = i / (f + i), f = sigmoid(W_f x_t + b_f), i likewise, n_t =
    W_n x_t + b_n (Feng et al. 2024, section 3.2): no cell beside the state, and the two gates sum to 1.

    f' is computed as sigmoid(log f - log i), which no rounding makes 0 / 0. Rows of the weights in the order f, i, n.

    >>> rnn = nn.MinLSTM(3, 8)
    >>> y, h = rnn(ts.ones((2, 5, 3)))
    >>> y.shape, h.shape
    ((2, 5, 8), (1, 2, 8))
    """

    gates = 3

    def _odds(self, *gates: Tensor) -> Tensor:
        f, i = gates
        return functional.log_sigmoid(f) - functional.log_sigmoid(i)


class LRU(_Parallel):
    """The linear recurrent unit (Orvieto et al. 2023, "Resurrecting recurrent neural networks for long sequences"):

        h_t = lambda h_{t-1} + gamma (B x_t),  y_t = Re(C h_t) + D x_t,  lambda = exp(-exp(nu) + i exp(theta))

    with complex h, B and C, entry by entry in lambda and gamma. There is no nonlinearity in time: it stands between
    layers, where the user puts it. |lambda| <= 1 whatever nu is: below 1 but for rounding, and 1 where nu is below -18
    in float32, -38 in float64. At first lambda is uniform on the ring of radii `r_min` to `r_max`, with phases up to
    `max_phase` (lemma 3.2), and gamma = sqrt(1 - |lambda|^2), which makes the states as large as the input (eq. 7).

    Complex numbers are pairs of real ones: the state is (re, im), two Tensors (layers x directions, B, H). Seen from a
    frame that turns with the phase of lambda^t, the recurrence is a real one; gradients do not go through that frame,
    and are as exact as those of the loop. What float32 loses is in lambda itself, where |lambda| is next to 1: a part
    in 2^24 at each of 1 / (1 - |lambda|) steps.

    >>> rnn = nn.LRU(3, 8, r_min=0.9, r_max=0.999)
    >>> y, (re, im) = rnn(ts.ones((2, 5, 3)))
    >>> y.shape, re.shape
    ((2, 5, 8), (1, 2, 8))

    >>> sizes = rnn.multipliers(ts.ones((2, 5, 3)))           # |lambda|, at each step
    >>> sizes.shape, ts.all((0.9 <= sizes) & (sizes <= 0.999))
    ((2, 5, 8), tensor(True))
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, dropout: float = 0.0,
                 bidirectional: bool = False, *, r_min: float = 0.0, r_max: float = 1.0,
                 max_phase: float = 2 * math.pi, dtype: Any = np.float32) -> None:
        self.r_min = check.numbers("LRU", least=0, below=1, r_min=r_min)
        self.r_max = check.numbers("LRU", above=r_min, most=1, r_max=r_max)
        self.max_phase = check.numbers("LRU", above=0, max_phase=max_phase)
        super().__init__(input_size, hidden_size, num_layers, False, True, dropout, bidirectional, dtype=dtype)
        self.sizes = (self.hidden_size, self.hidden_size)

    def _begun(self, width: int, bias: bool) -> dict[str, Tensor]:
        size = self.hidden_size
        u, v = (random.uniform((size,), 1e-4, 1 - 1e-4, dtype=np.float64) for _ in range(2))
        square = u * (self.r_max**2 - self.r_min**2) + self.r_min**2  # |lambda|^2
        return {
            "nu": ops.log(-0.5 * ops.log(square)), "theta": ops.log(self.max_phase * v),
            "gamma": 0.5 * ops.log1p(-square),
            "weight_ih": random.normal((2 * size, width), std=(2 * width) ** -0.5),  # B, real rows then imaginary ones
            "weight_ho": random.normal((size, 2 * size), std=size**-0.5),  # C, and its imaginary part with a minus
            "weight_io": random.normal((size, width), std=width**-0.5)}  # D

    def _multipliers(self, weights: Any, x: Tensor) -> Tensor:
        return ops.broadcast_to(ops.exp(-ops.exp(weights("nu"))), (*x.shape[:2], self.hidden_size))

    def _scanned(self, weights: Any, x: Tensor, start: State, lengths: Any, reverse: bool) -> tuple[Tensor, State]:
        if x.dtype == np.float16:  # where a long memory and its phase lose their digits
            wide = lambda name: weights(name).astype(np.float32)
            y, (re, im) = self._scanned(wide, x.astype(np.float32), tuple(s.astype(np.float32) for s in start), lengths,
                                        reverse)
            return y.astype(x.dtype), (re.astype(x.dtype), im.astype(x.dtype))
        kept, angle = ops.exp(-ops.exp(weights("nu"))), ops.exp(weights("theta").astype(np.float64))
        b = functional.linear(x, weights("weight_ih")) * ops.tile(ops.exp(weights("gamma")), (2,))
        h0 = ops.concat(list(start), -1)
        if reverse and lengths is not None:  # a row begins after its padding, where its state would turn and shrink
            begins = ops.like(x, np.arange(x.shape[1])) == ops.expand_dims(ops.like(x, lengths) - 1, 1)
            none = ops.zeros_like(h0)
            came = turning_scan(kept, angle, none[:, None], h0, False)
            b, h0 = b + ops.where(begins[..., None], came, 0.0), none
        h = turning_scan(kept, angle, b, h0, reverse)
        y = functional.linear(h, weights("weight_ho")) + functional.linear(x, weights("weight_io"))
        return y, tuple(ops.split(h, 2, -1))

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None,
                lengths: Like = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (B, T, I), `state` (re, im) of (layers x directions, B, H) each, or None for zeros -> y (B, T, directions x
        H), and the state then."""
        y, (re, im) = self._run(x, state, lengths)
        return y, (re, im)
