"""A lens on gradients through time: how much the loss still hears of each state, how much of it the gates let through,
and how far they are open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyseq import check, functional
from tinyseq.engine import ops
from tinyseq.engine.gradients import grad
from tinyseq.engine.tensor import Like, Tensor
from tinyseq.nn.masks import length_mask, vectors
from tinyseq.nn.parallel import LRU, MinGRU, MinLSTM
from tinyseq.nn.recurrent import weights_of

__all__ = ["gate_saturation", "gradients_through_time", "retained"]
check.public(__name__)

Host = np.ndarray[Any, Any]
GATES = {"gru": {"r": 0, "z": 1}, "gru_before": {"r": 0, "z": 1}, "lstm": {"i": 0, "f": 1, "o": 3}}
KEEPS = {"gru": "z", "gru_before": "z", "lstm": "f"}  # the gate that the last state is multiplied by


def gradients_through_time(layer: Any, x: Like, loss: Callable[[Tensor], Tensor], lengths: Any = None) -> list[Host]:
    """|∂loss/∂h_t| of each row and step, (B, T); of an LSTM in second place |∂loss/∂c_t| with h_t held fixed.

    `layer` is an RNN, GRU, LSTM, MinGRU, MinLSTM, LRU or Scan, of one layer in one direction; x is (B, T, I); `loss`
    takes the layer's output (B, T, H). The derivative is the total one, by way of the output at step t and of all later
    steps: the sequence is fed step by step. Past the end of a row it is 0. All are float64.

    >>> rnn = nn.RNN(1, 1, nonlinearity="relu")
    >>> _ = [nn.init.constant_(weight, 0.5) for weight in rnn.parameters()]     # each step back halves it
    >>> norms, = ts.lens.gradients_through_time(rnn, ts.ones((1, 4, 1)), lambda y: y[:, -1].sum())
    >>> norms
    array([[0.125, 0.25 , 0.5  , 1.   ]])
    """
    x, real = _ready("gradients_through_time", layer, x, lengths, getattr(layer, "bidirectional", False))
    state, outputs, states = None, [], []
    for t in range(x.shape[1]):
        y, state = layer(x[:, t : t + 1], state, lengths=real[:, t].astype(int))
        outputs.append(y)
        states.append(state if isinstance(state, tuple) else (state,))
    columns = [outputs, *(list(part) for part in zip(*states, strict=True))]
    value = loss(ops.concat(outputs, 1)) if callable(loss) and outputs else loss
    if not isinstance(value, Tensor) or value.size != 1:
        raise TypeError("gradients_through_time: expected T > 0 and, as loss, a function of the output (B, T, H) that "
                        f"gives a Tensor of one number, got T = {len(outputs)} and {value!r}")
    found = iter(grad(value, [s for column in columns for s in column], allow_unused=True))
    y, h, *rest = (np.stack([np.zeros((len(real), s.shape[-1])) if g is None else g.numpy().reshape(len(real), -1)
                             for s, g in zip(column, found, strict=False)], 1) for column in columns)
    if isinstance(layer, LRU):  # whose output is not its state: y = Re(C h) + D x
        total = [np.concatenate([h, *rest], -1) + y @ layer._weights(0)("weight_ho").detach().numpy()]
    else:
        total = [y + h, *rest]
    return [np.linalg.norm(g, axis=-1) * real for g in total]


def retained(layer: Any, x: Like, lengths: Any = None) -> Host:
    """How much of the state at each step reaches the last one unit by unit: the product of all later |a_t|, the mean
    over units, (B, T).

    a_t is what h_(t-1), of an LSTM c_(t-1), is multiplied by: the gate of a MinGRU, MinLSTM, GRU (z) or LSTM (f), of an
    LRU lambda. `layer` has one layer, of which the direction forwards counts; x is (B, T, I). At a row's last step it
    is 1, past it 0. What else comes through a GRU's or LSTM's gates, which see the last state, is not in it:
    `gradients_through_time` has all. An RNN multiplies its state by a matrix, and is refused.

    >>> rnn = nn.MinGRU(1, 1)
    >>> _ = [nn.init.zeros_(weight) for weight in rnn.parameters()]     # each step keeps half
    >>> ts.lens.retained(rnn, ts.ones((1, 4, 1)))
    array([[0.125, 0.25 , 0.5  , 1.   ]], dtype=float32)
    """
    x, real = _ready("retained", layer, x, lengths)
    kept = (layer.multipliers(x).detach().numpy() if isinstance(layer, (MinGRU, MinLSTM, LRU)) else
            _gates(layer, x, lengths).get(KEEPS.get(getattr(layer, "kind", ""), "")))
    if kept is None:
        raise ValueError("retained: expected a MinGRU, MinLSTM, LRU, GRU or LSTM, whose state is multiplied unit by "
                         f"unit, got {layer!r}")
    kept = np.where(real[..., None], kept, 1.0)
    later = np.concatenate([kept[:, 1:], np.ones_like(kept[:, :1])], 1)
    return np.cumprod(later[:, ::-1], 1)[:, ::-1].mean(-1) * real  # type: ignore[no-any-return]


def gate_saturation(layer: Any, x: Like, lengths: Any = None) -> dict[str, Host]:
    """For each gate of a GRU (r, z) or LSTM (i, f, o) the fractions below 0.1 and above 0.9 by step, (T, 2), float64.

    Over the hidden units of all rows that have not ended; `layer` has one layer, of which the direction forwards
    counts. A MinGRU's gate is z, a MinLSTM's f, as a share of f + i; of an RNN, LRU or Scan there are none. The papers'
    z stand for opposite things: a GRU's, as PyTorch has it, is the share of the old state that is kept, h = (1 - z) n +
    z h, a MinGRU's the share of the new one that is taken, h = (1 - z) h + z n. Where both remember, a GRU's z is open
    and a MinGRU's shut.

    >>> found = ts.lens.gate_saturation(nn.GRU(3, 8), ts.ones((2, 5, 3)))
    >>> {gate: fractions.shape for gate, fractions in found.items()}
    {'r': (5, 2), 'z': (5, 2)}
    """
    x, real = _ready("gate_saturation", layer, x, lengths)
    share: Callable[[Host], Host] = lambda shut: (shut.mean(-1) * real).sum(0) / np.maximum(1, real.sum(0))
    return {name: np.stack([share(gate < 0.1), share(gate > 0.9)], -1)
            for name, gate in _gates(layer, x, lengths).items()}


def _gates(layer: Any, x: Tensor, lengths: Any) -> dict[str, Host]:
    """What the gates of a layer let through, (B, T, H) each."""
    if isinstance(layer, (MinGRU, MinLSTM)):
        kept = layer.multipliers(x).detach().numpy()
        return {"z": 1 - kept} if isinstance(layer, MinGRU) else {"f": kept}
    names = GATES.get(getattr(layer, "kind", ""), {})
    if not names:
        return {}
    y = layer(x, lengths=lengths)[0].detach()[:, :-1, : layer.sizes[0]]
    before = ops.pad(y, [(0, 0), (1, 0), (0, 0)])
    w_ih, w_hh, b_ih, b_hh = weights_of(layer, "_l0")
    z = functional.linear(x, w_ih, b_ih) + functional.linear(before, w_hh, b_hh)
    gates = ops.sigmoid(z).detach().numpy().reshape(*x.shape[:2], -1, layer.hidden_size)
    return {name: gates[:, :, i] for name, i in names.items()}


def _ready(where: str, layer: Any, x: Like, lengths: Any, bidirectional: bool = False) -> tuple[Tensor, Host]:
    """x (B, T, I) as a Tensor, and (B, T), True before the end of each row. Refuses what has other outputs than the
    states that are asked for."""
    if not callable(layer) or not hasattr(layer, "num_layers"):
        raise TypeError(f"{where}: expected layer as an RNN, GRU, LSTM, MinGRU, MinLSTM, LRU or Scan, got "
                        f"{layer!r}")
    if layer.num_layers > 1 or bidirectional:
        raise ValueError(f"{where}: expected one layer in one direction, whose output is its state; got "
                         f"{layer.num_layers} layers, {bidirectional=}")
    x = vectors(where, layer.input_size, x=x)
    batch, steps, _ = x.shape
    return x, length_mask(np.full(batch, steps) if lengths is None else lengths, steps, batch, where).numpy()
