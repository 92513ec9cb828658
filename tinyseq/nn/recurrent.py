"""Recurrent layers: RNN, GRU, LSTM, stacked and in both directions, their cells, and a scan over any cell.

One layout: x (batch, time, features). Any batch of sequences of unequal length comes padded, with `lengths` (batch,):
unsorted, zero allowed. Nothing in the padding is looked at, outputs there are 0, a final state is that of the last
real step, and the reverse direction starts there. Constructor arguments (what PyTorch lacks by name alone), initial
distributions, the order of gates and the names in state_dict are PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinyseq import check, functional
from tinyseq.engine import ops
from tinyseq.engine.tensor import Like, Tensor, namespace
from tinyseq.functional.arguments import checked_lengths
from tinyseq.functional.recurrence import GATES
from tinyseq.nn import init
from tinyseq.nn.masks import refuse
from tinyseq.nn.module import Module, Parameter

KEYS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
KINDS = {"nonlinearity": {"tanh": "rnn_tanh", "relu": "rnn_relu"}, "reset": {"after": "gru", "before": "gru_before"}}


def _kind(module: Module, option: str, value: str) -> str:
    """The name in `GATES` of the cell that an option chooses."""
    check.choice(type(module).__name__, [*KINDS[option]], **{option: value})
    return KINDS[option][value]


def _add_weights(module: Module, kind: str, inputs: int, hidden: int, bias: bool, dtype: Any, suffix: str = "") -> None:
    """Give a layer or cell the parameters of one cell: PyTorch's names, shapes and distribution."""
    bound, rows = 1 / math.sqrt(hidden), GATES[kind] * hidden
    shapes = (rows, inputs), (rows, hidden), (rows,), (rows,)
    for key, shape in zip(KEYS, shapes[: 4 if bias else 2], strict=False):
        setattr(module, key + suffix, init.uniform_(Parameter(ops.zeros(shape, dtype)), -bound, bound))


def weights_of(module: Module, suffix: str = "") -> tuple[Any, Any, Any, Any]:
    """The parameters of one cell, w_ih, w_hh, b_ih and b_hh; None where there is no bias."""
    w_ih, w_hh, b_ih, b_hh = (getattr(module, key + suffix, None) for key in KEYS)
    return w_ih, w_hh, b_ih, b_hh


def _begin(module: Any, x: Like, state: Any, sizes: Sequence[int], *lead: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """x and the initial state, zeros unless given, of shapes (*lead, B, size); what does not fit is refused by name."""
    x = ops.operand(x)
    shapes = [(*lead, *x.shape[:1], size) for size in sizes]
    if state is None:
        state = [Tensor(namespace(x._data).zeros(shape, dtype=x.dtype)) for shape in shapes]
    given = tuple([ops.like(x, part) for part in state])
    fits, found = x.ndim == 2 + len(lead) and x.shape[-1] == module.input_size, [part.shape for part in given]
    if not fits or found != shapes:
        axes, state_axes = ("batch, time", "layers x directions, batch") if lead else ("batch", "batch")
        raise ValueError(f"{type(module).__name__}: expected x ({axes}, {module.input_size}) and an initial state of "
                         f"{len(sizes)} tensors ({state_axes}, hidden) = {shapes}, got x {x.shape} and {found}")
    return x, given


class _Recurrent(Module):
    """What all recurrent layers share: the loop over layers and directions."""

    alone = False
    sizes: tuple[int, ...]  # of the tensors in a state: (H,), or (H, H) for h and c of an LSTM

    def __init__(self, input_size: int, hidden_size: int, num_layers: int, dropout: float, bidirectional: bool) -> None:
        self.input_size, self.hidden_size, self.num_layers = check.integers(
            type(self).__name__, 1, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        self.dropout = check.numbers(type(self).__name__, least=0, below=1, dropout=dropout)
        self.bidirectional = bidirectional

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _pass(self, k: int, x: Tensor, start: tuple[Tensor, ...], lengths: Like) -> tuple[Tensor, tuple[Tensor, ...]]:
        """y (B, T, H) and the final state of one layer in one direction, k counting layers and in them directions."""
        raise NotImplementedError

    def _run(self, x: Like, state: Sequence[Like] | None, lengths: Like) -> tuple[Tensor, tuple[Tensor, ...]]:
        """y (B, T, directions H) and the final states, each (layers directions, B, H)."""
        x, state = _begin(self, x, state, self.sizes, self.num_layers * self.directions)
        if lengths is not None:
            lengths = checked_lengths(lengths, x.shape[1], x.shape[0], type(self).__name__)
        finals: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            outputs = []
            for k in range(len(finals), len(finals) + self.directions):
                y, final = self._pass(k, x, tuple(s[k] for s in state), lengths)
                outputs.append(y)
                finals.append(final)
            x = outputs[0] if len(outputs) == 1 else ops.concat(outputs, -1)
            if layer < self.num_layers - 1:
                x = functional.dropout(x, self.dropout, self.training)
        if len(finals) == 1:
            return x, tuple(part[None] for part in final)
        return x, tuple(ops.stack(list(parts)) for parts in zip(*finals, strict=True))

    def extra_repr(self) -> str:
        usual = {"num_layers": 1, "dropout": 0.0, "bidirectional": False}
        extra = [f"{name}={getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value]
        return ", ".join([str(self.input_size), str(self.hidden_size), *extra])


class _Fused(_Recurrent):
    """What RNN, GRU and LSTM share: PyTorch's parameters, and kernels for a whole sequence."""

    kind = "lstm"

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = True,
        dropout: float = 0.0, bidirectional: bool = False, *, recurrent_dropout: float = 0.0, dtype: Any = np.float32,
    ) -> None:
        refuse(self, batch_first=not batch_first)
        super().__init__(input_size, hidden_size, num_layers, dropout, bidirectional)
        self.recurrent_dropout = check.numbers(
            type(self).__name__, least=0, below=1, recurrent_dropout=recurrent_dropout)
        self.sizes = (self.hidden_size,) * (2 if self.kind == "lstm" else 1)
        self._suffixes = [f"_l{k}{way}" for k in range(self.num_layers) for way in ("", "_reverse")[: self.directions]]
        for k, suffix in enumerate(self._suffixes):
            width = self.input_size if k < self.directions else self.hidden_size * self.directions
            _add_weights(self, self.kind, width, self.hidden_size, bias, dtype, suffix)

    def _pass(self, k: int, x: Tensor, start: tuple[Tensor, ...], lengths: Like) -> tuple[Tensor, tuple[Tensor, ...]]:
        dropping = self.training and self.recurrent_dropout
        mask = functional.dropout(ops.ones_like(start[0]), self.recurrent_dropout) if dropping else None
        c = start[1] if len(start) == 2 else None
        weights, reverse = weights_of(self, self._suffixes[k]), bool(k % self.directions)
        y, *final = functional.scan(self.kind, x, start[0], c, *weights, lengths, reverse, mask)
        return y, tuple(final)


class Scan(_Recurrent):
    """Any cell over a sequence, with lengths, directions, layers, and initial and final states as of RNN: unrolled step
    by step (`functional.unroll`), not by `functional.scan`'s kernel.

    `cell(I, H)` makes the module of one layer and direction: a class, or a function that fills in its other arguments.
    The module itself is called step by step, `cell(x_t (B, I), state) -> state`. A state is a Tensor (B, H), or, where
    the module says `state_size = (H, ...)`, a tuple of Tensors (B, H), ..., whose first is the output; of one size, it
    is the width of the one Tensor. `docs/your-own-cell.md` shows three cells.

    x (B, T, I), `state` of Tensors (layers x directions, B, H), or None for zeros, `lengths` (B,) or None ->
    y (B, T, directions x H) and the final state.
    """

    def __init__(
        self, cell: Callable[[int, int], Module], input_size: int, hidden_size: int, num_layers: int = 1,
        dropout: float = 0.0, bidirectional: bool = False,
    ) -> None:
        if isinstance(cell, Module) or not callable(cell):
            raise TypeError("Scan: expected cell to be a class or function that makes the cell of each layer and "
                            f"direction, cell(I, H), got {'a module: ' * isinstance(cell, Module)}{cell!r}")
        super().__init__(input_size, hidden_size, num_layers, dropout, bidirectional)
        self.cells: list[Module] = []
        for _ in range(num_layers):
            self.cells += [cell(input_size, hidden_size) for _ in range(self.directions)]
            size = getattr(self.cells[0], "state_size", hidden_size)
            self.sizes = size if isinstance(size, tuple) else (size,)
            input_size = self.sizes[0] * self.directions

    def _pass(self, k: int, x: Tensor, start: tuple[Tensor, ...], lengths: Like) -> tuple[Tensor, tuple[Tensor, ...]]:
        cell = self.cells[k]
        step = (lambda x, state: (cell(x, *state),)) if len(self.sizes) == 1 else cell
        return functional.unroll(step, x, start, lengths, bool(k % self.directions))

    def forward(self, x: Tensor, state: Any = None, lengths: Like = None) -> tuple[Tensor, Any]:
        several = state is None or isinstance(state, tuple if len(self.sizes) == 1 else (tuple, list))
        y, final = self._run(x, state if several else (state,), lengths)
        return y, final[0] if len(final) == 1 else final


class _Plain(_Fused):
    """What RNN and GRU share: a state of one tensor."""

    def forward(self, x: Tensor, h0: Tensor | None = None, lengths: Like = None) -> tuple[Tensor, Tensor]:
        y, (h,) = self._run(x, None if h0 is None else (h0,), lengths)
        return y, h


class RNN(_Plain):
    """h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), or relu with `nonlinearity="relu"` (Elman 1990).

    x (B, T, I), `h0` (layers x directions, B, H) or None for zeros, `lengths` (B,) or None ->
    y (B, T, directions x H), the last layer's states by step, and h_n, of h0's shape. In training, `dropout` acts
    between layers, so that with one layer it changes nothing, and `recurrent_dropout` on h_{t-1} where it enters the
    product with W_hh, with one mask a layer, direction and row over all time (Gal & Ghahramani 2016).

    A sequence may come in pieces, each begun with the last one's final state, detached (`h.detach()`) where
    backpropagation through time is to be cut.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh",
                 *args: Any, **options: Any) -> None:
        self.nonlinearity, self.kind = nonlinearity, _kind(self, "nonlinearity", nonlinearity)
        super().__init__(input_size, hidden_size, num_layers, *args, **options)


class GRU(_Plain):
    """h_t = (1 - z) n + z h_{t-1} (Cho et al. 2014); shapes as of RNN.

    `reset="after"` is PyTorch's and cuDNN's, n = tanh(W x + b + r (U h + d)); `reset="before"` the classic form,
    n = tanh(W x + b + U (r h) + d).
    """

    def __init__(self, input_size: int, hidden_size: int, *args: Any, reset: str = "after", **options: Any) -> None:
        self.reset, self.kind = reset, _kind(self, "reset", reset)
        super().__init__(input_size, hidden_size, *args, **options)


class LSTM(_Fused):
    """c_t = f c_{t-1} + i g, h_t = o tanh(c_t) (Hochreiter & Schmidhuber 1997, Gers et al. 2000); shapes as of RNN.

    The state is a pair: `state` = (h0, c0) goes in, (h_n, c_n) comes out.
    """

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None, lengths: Like = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if state is not None and not isinstance(state, (tuple, list)):
            raise TypeError("LSTM: the initial state is a pair (h0, c0), got one tensor")
        y, (h, c) = self._run(x, state, lengths)
        return y, (h, c)


class _Cell(Module):
    """What the cells share: PyTorch's parameters, and a first state of zeros."""

    kind = "lstm"

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: Any = np.float32) -> None:
        self.input_size, self.hidden_size = check.integers(type(self).__name__, 1, input_size=input_size,
                                                           hidden_size=hidden_size)
        self.state_size = (self.hidden_size,) * (2 if self.kind == "lstm" else 1)
        _add_weights(self, self.kind, self.input_size, self.hidden_size, bias, dtype)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"


class RNNCell(_Cell):
    """One step of RNN: x (B, I), h (B, H) or None for zeros -> the next h (B, H)."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh",
                 **options: Any) -> None:
        self.nonlinearity, self.kind = nonlinearity, _kind(self, "nonlinearity", nonlinearity)
        super().__init__(input_size, hidden_size, bias, **options)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        x, (h,) = _begin(self, x, None if h is None else (h,), self.state_size)
        return functional.rnn_cell(x, h, *weights_of(self), nonlinearity=self.nonlinearity)


class GRUCell(_Cell):
    """One step of GRU: x (B, I), h (B, H) or None for zeros -> the next h (B, H)."""

    def __init__(self, input_size: int, hidden_size: int, *args: Any, reset: str = "after", **options: Any) -> None:
        self.reset, self.kind = reset, _kind(self, "reset", reset)
        super().__init__(input_size, hidden_size, *args, **options)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        x, (h,) = _begin(self, x, None if h is None else (h,), self.state_size)
        return functional.gru_cell(x, h, *weights_of(self), reset=self.reset)


class LSTMCell(_Cell):
    """One step of LSTM: x (B, I), the state (h, c), both (B, H), or None for zeros -> the next (h, c)."""

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        x, (h, c) = _begin(self, x, state, self.state_size)
        return functional.lstm_cell(x, h, c, *weights_of(self))
