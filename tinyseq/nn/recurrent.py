"""Recurrent layers: RNN, GRU, LSTM, stacked and in both directions, and their single steps.

One layout: x (batch, time, features). Any batch of sequences of unequal length comes padded, with `lengths` (batch,):
unsorted, zero allowed. Nothing in the padding is looked at, outputs there are 0, a final state is that of the last
real step, and the reverse direction starts there. Constructor arguments, initial distributions, the order of gates and
the names in state_dict are PyTorch's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyseq import functional, ops
from tinyseq.nn import init
from tinyseq.nn.module import Module, Parameter
from tinyseq.tensor import Like, Tensor, namespace


class _Recurrent(Module):
    """What RNN, GRU and LSTM share: the parameters, and the loop over layers and directions."""

    gates: int
    states = 1  # tensors in a state: (h,), or (h, c) of an LSTM

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, dropout: float = 0.0,
        bidirectional: bool = False, batch_first: bool = True, dtype: Any = np.float32,
    ) -> None:
        name = type(self).__name__
        if not batch_first:
            raise ValueError(f"{name}: tinyseq has one layout, (batch, time, features): swap the first two axes of "
                             "what goes in and comes out, x.permute_dims(1, 0, 2), and leave batch_first at True")
        if num_layers < 1 or hidden_size < 1:
            raise ValueError(f"{name}: num_layers and hidden_size must be at least 1, not {num_layers}, {hidden_size}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.dropout, self.bidirectional = dropout, bidirectional
        bound, rows = 1 / math.sqrt(hidden_size), self.gates * hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else hidden_size * self.directions
            for suffix in ("", "_reverse")[: self.directions]:
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, width), "weight_hh": (rows, hidden_size)}
                shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {}
                for key, shape in shapes.items():
                    parameter = init.uniform_(Parameter(ops.zeros(shape, dtype)), -bound, bound)
                    setattr(self, f"{key}_l{layer}{suffix}", parameter)

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _cell(self) -> str:
        """The cell's name for `functional.scan`."""
        raise NotImplementedError

    def _run(self, x: Tensor, state: tuple[Tensor, ...] | None, lengths: Like) -> tuple[Tensor, tuple[Tensor, ...]]:
        """y (B, T, directions H) and the final states, each (layers directions, B, H)."""
        x = ops.asarray(x)
        self._check(x, state)
        zeros = Tensor(namespace(x._data).zeros((x.shape[0], self.hidden_size), dtype=x.dtype))
        finals: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            outputs = []
            for suffix in ("", "_reverse")[: self.directions]:
                weights: list[Any] = [getattr(self, f"{key}_l{layer}{suffix}", None)
                                      for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
                w_ih, w_hh, b_ih, b_hh = weights
                start = [zeros] * self.states if state is None else [s[len(finals)] for s in state]
                h0, c0 = start if self.states == 2 else (start[0], None)
                y, *final = functional.scan(self._cell(), x, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, bool(suffix))
                outputs.append(y)
                finals.append(tuple(final))
            x = outputs[0] if len(outputs) == 1 else ops.concat(outputs, -1)
            if layer < self.num_layers - 1:
                x = functional.dropout(x, self.dropout, self.training)
        return x, tuple(ops.stack(list(parts)) for parts in zip(*finals, strict=True))

    def _check(self, x: Tensor, state: tuple[Tensor, ...] | None) -> None:
        """Refuse wrong shapes by name."""
        name = type(self).__name__
        if x.ndim != 3 or x.shape[2] != self.input_size:
            raise ValueError(f"{name}: expected x (batch, time, {self.input_size}), got shape {x.shape}")
        expected = (self.num_layers * self.directions, x.shape[0], self.hidden_size)
        if state is not None and len(state) != self.states:
            raise ValueError(f"{name}: expected an initial state of {self.states} tensors, got {len(state)}")
        for part in state or ():
            if part.shape != expected:
                raise ValueError(f"{name}: expected an initial state (layers x directions, batch, hidden) = "
                                 f"{expected} for x of shape {x.shape}, got shape {part.shape}")

    def extra_repr(self) -> str:
        extra = [f"num_layers={self.num_layers}"] if self.num_layers > 1 else []
        extra += [f"dropout={self.dropout}"] if self.dropout else []
        extra += ["bidirectional=True"] if self.bidirectional else []
        return ", ".join([str(self.input_size), str(self.hidden_size), *extra])


class RNN(_Recurrent):
    """h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), or relu with `nonlinearity="relu"` (Elman 1990).

    x (B, T, I), `h0` (layers x directions, B, H) or None for zeros, `lengths` (B,) or None ->
    y (B, T, directions x H), the last layer's states by step, and h_n, of h0's shape.
    """

    gates = 1

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh",
                 **options: Any) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"RNN: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
        self.nonlinearity = nonlinearity
        super().__init__(input_size, hidden_size, num_layers, **options)

    def _cell(self) -> str:
        return f"rnn_{self.nonlinearity}"

    def forward(self, x: Tensor, h0: Tensor | None = None, lengths: Like = None) -> tuple[Tensor, Tensor]:
        y, (h,) = self._run(x, None if h0 is None else (h0,), lengths)
        return y, h


class GRU(_Recurrent):
    """h_t = (1 - z) n + z h_{t-1} (Cho et al. 2014); shapes as of RNN.

    `reset="after"` is PyTorch's and cuDNN's, n = tanh(W x + b + r (U h + d)); `reset="before"` the classic form,
    n = tanh(W x + b + U (r h) + d).
    """

    gates = 3

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, reset: str = "after",
                 **options: Any) -> None:
        if reset not in ("after", "before"):
            raise ValueError(f"GRU: reset must be 'after' or 'before' (the recurrent product), got {reset!r}")
        self.reset = reset
        super().__init__(input_size, hidden_size, num_layers, **options)

    def _cell(self) -> str:
        return "gru" if self.reset == "after" else "gru_before"

    def forward(self, x: Tensor, h0: Tensor | None = None, lengths: Like = None) -> tuple[Tensor, Tensor]:
        y, (h,) = self._run(x, None if h0 is None else (h0,), lengths)
        return y, h


class LSTM(_Recurrent):
    """c_t = f c_{t-1} + i g, h_t = o tanh(c_t) (Hochreiter & Schmidhuber 1997, Gers et al. 2000); shapes as of RNN.

    The state is a pair: `state` = (h0, c0) goes in, (h_n, c_n) comes out.
    """

    gates = 4
    states = 2

    def _cell(self) -> str:
        return "lstm"

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None, lengths: Like = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if isinstance(state, Tensor):
            raise TypeError("LSTM: the initial state is a pair (h0, c0), got one tensor")
        y, (h, c) = self._run(x, state, lengths)
        return y, (h, c)
