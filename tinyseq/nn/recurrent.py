"""Recurrent layers: RNN, GRU, LSTM, stacked and in both directions, their cells, and a scan over any cell.

One layout: x (batch, time, features). Any batch of sequences of unequal length comes padded, with `lengths` (batch,):
unsorted, zero allowed. Nothing in the padding is looked at, outputs there are 0, a final state is that of the last
real step, and the reverse direction starts there. Constructor arguments (what PyTorch lacks by name alone), initial
distributions, the order of gates and the names in state_dict are PyTorch's.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import numpy as np

from tinyseq import check, functional
from tinyseq.engine import ops
from tinyseq.engine.tensor import Like, Tensor, namespace
from tinyseq.functional.arguments import checked_lengths, real_steps
from tinyseq.functional.recurrence import GATES
from tinyseq.nn import init
from tinyseq.nn.layers import fits
from tinyseq.nn.masks import numbers, refuse
from tinyseq.nn.module import Module, Parameter

BY_NAME = "; lengths are given by name, lengths=..."
KEYS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
KINDS = {"nonlinearity": {"tanh": "rnn_tanh", "relu": "rnn_relu"}, "reset": {"after": "gru", "before": "gru_before"}}


def _kind(module: Module, option: str, value: str) -> str:
    """The name in `GATES` of the cell that an option chooses."""
    check.choice(type(module).__name__, [*KINDS[option]], **{option: value})
    return KINDS[option][value]


def _add_weights(module: Module, kind: str, inputs: int, hidden: int, bias: bool, dtype: Any, suffix: str = "",
                 projected: int = 0) -> None:
    """Give a layer or cell the parameters of one cell: PyTorch's names, shapes and distribution."""
    bound, rows = 1 / math.sqrt(hidden), GATES[kind] * hidden
    shapes = (rows, inputs), (rows, projected or hidden), (rows,), (rows,)
    for key, shape in zip(KEYS, shapes[: 4 if bias else 2], strict=False):
        setattr(module, key + suffix, init.uniform_(Parameter(ops.zeros(shape, dtype)), -bound, bound))
    if projected:
        weight = init.uniform_(Parameter(ops.zeros((projected, hidden), dtype)), -bound, bound)
        setattr(module, f"weight_hr{suffix}", weight)


def weights_of(module: Module, suffix: str = "") -> tuple[Any, Any, Any, Any]:
    """The parameters of one cell, w_ih, w_hh, b_ih and b_hh; None where there is no bias."""
    w_ih, w_hh, b_ih, b_hh = (vars(module).get(key + suffix) for key in KEYS)
    return w_ih, w_hh, b_ih, b_hh


def _begin(module: Any, x: Like, state: Any, sizes: Sequence[int], *lead: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """x and the initial state, of shapes (*lead, B, size), or where none is given zeros (B, size) for all of `lead`;
    what does not fit is refused by name."""
    name = type(module).__name__
    if not isinstance(x, Tensor) and hasattr(x, "batch_sizes"):  # PyTorch's
        raise TypeError(f"{name}: expected x as an array, got a {type(x).__name__}: give what was packed, (batch, "
                        "time, features), and its lengths=")
    x = numbers(name, "x as a Tensor", x)
    shapes = [(*lead, *x.shape[:1], size) for size in sizes]
    if state is not None and not isinstance(state, (tuple, list)):
        raise TypeError(f"{name}: expected the initial state as a tuple of {len(sizes)} Tensors, got "
                        f"{'one tensor, ' * hasattr(state, 'shape')}{check.describe(state)}"
                        f"{BY_NAME * (getattr(state, 'ndim', 0) == 1)}")
    given = tuple([numbers(name, "the initial state as Tensors", part, x) for part in state or ()])
    fits, found = x.ndim == 2 + len(lead) and x.shape[-1] == module.input_size, [part.shape for part in given]
    if state is None:
        given = tuple([Tensor(namespace(x._data).zeros(shape[len(lead):], dtype=x.dtype)) for shape in shapes])
        found = shapes
    if not fits or found != shapes:
        axes, state_axes = ("batch, time", "layers x directions, batch") if lead else ("batch", "batch")
        raise ValueError(f"{name}: expected x ({axes}, {module.input_size}) and an initial state of "
                         f"{len(sizes)} tensors ({state_axes}, hidden) = {shapes}, got x {x.shape} and {found}"
                         f"{BY_NAME * any(len(shape) < 2 for shape in found)}")
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
        if self.dropout and self.num_layers == 1:
            user = check.users_frame()
            warnings.warn_explicit(
                f"{type(self).__name__}: dropout={self.dropout} acts between layers, and with num_layers=1 changes "
                f"nothing{'; recurrent_dropout= acts in each' * isinstance(self, _Fused)}", UserWarning,
                user.f_code.co_filename, user.f_lineno, user.f_globals.get("__name__"),
                user.f_globals.setdefault("__warningregistry__", {}))

    @property
    def directions(self) -> int:
        """2 if `bidirectional`, else 1: the D of the shapes."""
        return 2 if self.bidirectional else 1

    def _pass(self, k: int, x: Tensor, start: tuple[Tensor, ...], lengths: Like) -> tuple[Tensor, tuple[Tensor, ...]]:
        """y (B, T, H) and the final state of one layer in one direction, k counting layers and in them directions."""
        raise NotImplementedError

    def _run(self, x: Like, state: Sequence[Like] | None, lengths: Like) -> tuple[Tensor, tuple[Tensor, ...]]:
        """y (B, T, directions H) and the final states, each (layers directions, B, H)."""
        x, begun = _begin(self, x, state, self.sizes, self.num_layers * self.directions)
        if lengths is not None:
            lengths = checked_lengths(lengths, x.shape[1], x.shape[0], type(self).__name__)
        finals: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            outputs = []
            for k in range(len(finals), len(finals) + self.directions):
                start = begun if state is None else tuple(s[k] for s in begun)
                y, final = self._pass(k, x, start, lengths)
                outputs.append(y)
                finals.append(final)
            x = outputs[0] if len(outputs) == 1 else ops.concat(outputs, -1)
            if layer < self.num_layers - 1:
                x = functional.dropout(x, self.dropout, self.training)
        if len(finals) == 1:
            return x, tuple(part[None] for part in final)
        return x, tuple(ops.stack(list(parts)) for parts in zip(*finals, strict=True))


class _Fused(_Recurrent):
    """What RNN, GRU and LSTM share: PyTorch's parameters, and kernels for a whole sequence."""

    kind = "lstm"
    proj_size = 0
    weight_ih_l0: Parameter  # as those of further layers and directions, which type checkers do not know
    weight_hh_l0: Parameter
    bias_ih_l0: Parameter
    bias_hh_l0: Parameter

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = True,
        dropout: float = 0.0, bidirectional: bool = False, *, recurrent_dropout: float = 0.0, dtype: Any = np.float32,
    ) -> None:
        refuse(self, batch_first=not batch_first)
        super().__init__(input_size, hidden_size, num_layers, dropout, bidirectional)
        self.recurrent_dropout = check.numbers(
            type(self).__name__, least=0, below=1, recurrent_dropout=recurrent_dropout)
        output = self.proj_size or self.hidden_size
        self.sizes, self.bias = (output, self.hidden_size)[: 2 if self.kind == "lstm" else 1], bias
        self._suffixes = [f"_l{k}{way}" for k in range(self.num_layers) for way in ("", "_reverse")[: self.directions]]
        for k, suffix in enumerate(self._suffixes):
            width = self.input_size if k < self.directions else output * self.directions
            _add_weights(self, self.kind, width, self.hidden_size, bias, dtype, suffix, self.proj_size)

    def _pass(self, k: int, x: Tensor, start: tuple[Tensor, ...], lengths: Like) -> tuple[Tensor, tuple[Tensor, ...]]:
        dropping = self.training and self.recurrent_dropout
        mask = functional.dropout(ops.ones_like(start[0]), self.recurrent_dropout) if dropping else None
        c = start[1] if len(start) == 2 else None
        weights, reverse = weights_of(self, self._suffixes[k]), bool(k % self.directions)
        y, *final = functional.scan(self.kind, x, start[0], c, *weights, lengths, reverse, mask)
        return y, tuple(final)


class Scan(_Recurrent):
    """Any cell over a sequence: lengths, directions, layers, and states as of RNN, for a step of your own.

    The cell is unrolled step by step (`functional.unroll`), without the kernels that RNN, GRU and LSTM have.
    `docs/your-own-cell.md` shows three cells.

        cell(I, H)              makes the module of one layer and direction: a class, or a function that fills in what
                                else the class takes. After the first layer, I is D times the output's width.
        module(x_t, state)      one step: x_t (B, I) and the state -> the next state, of the same shapes and dtypes.
        module.state_size       absent, or H: the state is one Tensor (B, H), which is the output too.
                                (H, ...): the state is a tuple of Tensors (B, H), ..., the first of which is the output,
                                also if it is the only one.

    The other arguments are those of RNN: `hidden_size` is handed to `cell`, `dropout` acts between layers.

    >>> class Leaky(nn.Module):                               # h_t = h_{t-1} / 2 + tanh(W x_t) / 2
    ...     def __init__(self, input_size, hidden_size):
    ...         self.w = nn.Linear(input_size, hidden_size)
    ...     def forward(self, x, h):
    ...         return 0.5 * h + 0.5 * ts.tanh(self.w(x))
    >>> layer = nn.Scan(Leaky, 3, 4, num_layers=2, bidirectional=True)
    >>> y, h_n = layer(ts.random.normal((2, 5, 3)), lengths=[5, 2])
    >>> y.shape, h_n.shape                                    # (B, T, D H) and (L D, B, H)
    ((2, 5, 8), (4, 2, 4))

    Errors: TypeError for a `cell` that is a module already, since each layer and direction needs its own; ValueError
    for a step whose state comes back with other shapes or dtypes, and for x, state or lengths that do not fit.
    """

    def __init__(
        self, cell: Callable[[int, int], Module], input_size: int, hidden_size: int, num_layers: int = 1,
        dropout: float = 0.0, bidirectional: bool = False,
    ) -> None:
        if isinstance(cell, Module) or not callable(cell):
            raise TypeError("Scan: expected cell to be a class or function that makes the cell of each layer and "
                            f"direction, cell(I, H), got {'a module: ' * isinstance(cell, Module)}{cell!r}")
        try:
            signature(cell).bind(input_size, hidden_size)
        except TypeError as error:
            raise TypeError(f"Scan: expected cell to be called as cell(I, H), got {cell!r}: {error}") from None
        super().__init__(input_size, hidden_size, num_layers, dropout, bidirectional)
        self.cells: list[Module] = []
        for _ in range(self.num_layers):
            for _ in range(self.directions):
                self.cells.append(cell(input_size, hidden_size))
                check.instance("Scan", Module, **{f"what cell({input_size}, {hidden_size}) makes": self.cells[-1]})
                fits("Scan", input_size, f"cells.{len(self.cells) - 1}", self.cells[-1])
            size = getattr(self.cells[0], "state_size", hidden_size)
            self.bare, self.sizes = not isinstance(size, tuple), size if isinstance(size, tuple) else (size,)
            input_size = self.sizes[0] * self.directions

    def _pass(self, k: int, x: Tensor, start: tuple[Tensor, ...], lengths: Like) -> tuple[Tensor, tuple[Tensor, ...]]:
        cell = self.cells[k]
        step: Any = lambda x, state: (cell(x, *state),) if self.bare else cell(x, state)
        step.__name__ = type(cell).__name__  # for errors
        return functional.unroll(step, x, start, lengths, bool(k % self.directions))

    def forward(self, x: Tensor, state: Any = None, lengths: Like = None) -> tuple[Tensor, Any]:
        """x (B, T, I), state, lengths (B,) -> y (B, T, D H), and the final state, as `state`.

        `state` is a Tensor (L D, B, H), or a tuple of them where the cell's `state_size` is one; None for zeros.
        `lengths` as of RNN.
        """
        alone = self.bare and state is not None and not isinstance(state, tuple)
        y, final = self._run(x, (state,) if alone else state, lengths)
        return y, final[0] if self.bare else final


class _Plain(_Fused):
    """What RNN and GRU share: a state of one tensor."""

    def forward(self, x: Tensor, h0: Tensor | None = None, lengths: Like = None) -> tuple[Tensor, Tensor]:
        """x (B, T, I), h0 (L D, B, H) or None, lengths (B,) or None -> y (B, T, D H), h_n (L D, B, H)."""
        y, (h,) = self._run(x, None if h0 is None else (h0,), lengths)
        return y, h


class RNN(_Plain):
    """A plain recurrent layer (Elman 1990), any number of them stacked, in one direction or both.

        h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)         relu in place of tanh with `nonlinearity="relu"`

    With I = `input_size`, H = `hidden_size`, L = `num_layers`, D = 2 if `bidirectional`, else 1, B rows, T steps:

        rnn(x, h0=None, lengths=None) -> y, h_n
        x        (B, T, I), of the weights' dtype
        h0       (L D, B, H): layer 0, its reverse direction, layer 1, ...; zeros unless given
        lengths  (B,) integers from 0 to T, what of each row is real; all of it unless given. In any order
        y        (B, T, D H): the last layer's h_t, both directions side by side; 0 after a row's end
        h_n      (L D, B, H): the state after each row's last real step; of the reverse direction, after its first step

        weight_ih_l0 (H, I), weight_hh_l0 (H, H), bias_ih_l0 (H,), bias_hh_l0 (H,)
                 uniform on ±1/sqrt(H). Of layer k: weight_ih_lk, ...; it takes D H features. Of the reverse direction:
                 weight_ih_l0_reverse, ... Without `bias` there is no bias_...

    In training `dropout` acts between layers, so of one layer it changes nothing; `recurrent_dropout` acts on h_{t-1}
    where W_hh takes it, with one mask a layer, direction and row for all steps (Gal & Ghahramani 2016).

    >>> rnn = nn.RNN(3, 4, num_layers=2, bidirectional=True)
    >>> x = ts.random.normal((2, 5, 3))
    >>> y, h_n = rnn(x, lengths=[5, 2])                       # the second row has 2 steps and 3 of padding
    >>> y.shape, h_n.shape
    ((2, 5, 8), (4, 2, 4))
    >>> ts.all(y[1, 2:] == 0), ts.all(h_n[2, 1] == y[1, 1, :4])
    (tensor(True), tensor(True))
    >>> rnn.weight_ih_l0.shape, rnn.weight_ih_l1.shape
    ((4, 3), (4, 8))

    A long sequence may come in pieces, each begun with the state that the one before ended in; `h.detach()` between
    them cuts backpropagation through time:

    >>> rnn = nn.RNN(3, 4)
    >>> whole, _ = rnn(x)
    >>> first, h = rnn(x[:, :2])
    >>> second, h = rnn(x[:, 2:], h.detach())
    >>> ts.all(abs(ts.concat([first, second], axis=1) - whole) < 1e-6)
    tensor(True)

    After `nonlinearity` the arguments are those of LSTM after its `num_layers`: bias, batch_first, dropout,
    bidirectional, and by name recurrent_dropout and dtype.

    Errors: ValueError for shapes, lengths or options that do not fit, and for PyTorch's `batch_first=False`; TypeError
    for x or h0 of another dtype than the weights.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True,
        batch_first: bool = True, dropout: float = 0.0, bidirectional: bool = False, *,
        recurrent_dropout: float = 0.0, dtype: Any = np.float32,
    ) -> None:
        self.nonlinearity, self.kind = nonlinearity, _kind(self, "nonlinearity", nonlinearity)
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
                         recurrent_dropout=recurrent_dropout, dtype=dtype)


class GRU(_Plain):
    """Gated recurrent units (Cho et al. 2014, equations 5 to 8), stacked, in one direction or both.

        r_t = σ(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)            reset gate
        z_t = σ(W_iz x_t + b_iz + W_hz h_{t-1} + b_hz)            update gate
        n_t = tanh(W_in x_t + b_in + r_t (W_hn h_{t-1} + b_hn))   `reset="after"`: as PyTorch and cuDNN
        n_t = tanh(W_in x_t + b_in + W_hn (r_t h_{t-1}) + b_hn)   `reset="before"`: the paper's equation 8
        h_t = (1 - z_t) n_t + z_t h_{t-1}

    With I = `input_size`, H = `hidden_size`, L = `num_layers`, D = 2 if `bidirectional`, else 1, B rows, T steps:

        gru(x, h0=None, lengths=None) -> y, h_n
        x        (B, T, I), of the weights' dtype
        h0       (L D, B, H): layer 0, its reverse direction, layer 1, ...; zeros unless given
        lengths  (B,) integers from 0 to T, what of each row is real; all of it unless given. In any order
        y        (B, T, D H): the last layer's h_t, both directions side by side; 0 after a row's end
        h_n      (L D, B, H): the state after each row's last real step; of the reverse direction, after its first step

        weight_ih_l0 (3H, I), weight_hh_l0 (3H, H), bias_ih_l0 (3H,), bias_hh_l0 (3H,)
                 the rows of gates r, z, n one under the other, H each; names and beginnings as of RNN

    After `hidden_size` the arguments are those of LSTM, in its order, and `reset` by name.

    >>> gru = nn.GRU(3, 4, bidirectional=True)
    >>> y, h_n = gru(ts.random.normal((2, 5, 3)), lengths=[5, 2])
    >>> y.shape, h_n.shape, gru.weight_ih_l0.shape
    ((2, 5, 8), (2, 2, 4), (12, 3))
    >>> ts.all(h_n[0, 1] == y[1, 1, :4]), ts.all(h_n[1, 1] == y[1, 0, 4:])       # where each direction ends
    (tensor(True), tensor(True))

    Errors as of RNN.

    >>> gru.directions
    2
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = True,
        dropout: float = 0.0, bidirectional: bool = False, *, reset: str = "after", recurrent_dropout: float = 0.0,
        dtype: Any = np.float32,
    ) -> None:
        self.reset, self.kind = reset, _kind(self, "reset", reset)
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
                         recurrent_dropout=recurrent_dropout, dtype=dtype)


class LSTM(_Fused):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000), stacked, in one
    direction or both.

        i_t = σ(W_ii x_t + b_ii + W_hi h_{t-1} + b_hi)            input gate
        f_t = σ(W_if x_t + b_if + W_hf h_{t-1} + b_hf)            forget gate
        g_t = tanh(W_ig x_t + b_ig + W_hg h_{t-1} + b_hg)         what may be stored
        o_t = σ(W_io x_t + b_io + W_ho h_{t-1} + b_ho)            output gate
        c_t = f_t c_{t-1} + i_t g_t                               products entry by entry
        h_t = o_t tanh(c_t)

    With I = `input_size`, H = `hidden_size`, L = `num_layers`, D = 2 if `bidirectional`, else 1, B rows, T steps:

        lstm(x, state=None, lengths=None) -> y, (h_n, c_n)
        x        (B, T, I), of the weights' dtype
        state    (h0, c0), each (L D, B, H): layer 0, its reverse direction, layer 1, ...; zeros unless given
        lengths  (B,) integers from 0 to T, what of each row is real; all of it unless given. In any order
        y        (B, T, D H): the last layer's h_t, both directions side by side; 0 after a row's end
        h_n, c_n (L D, B, H): after each row's last real step; of the reverse direction, after its first step

        weight_ih_l0 (4H, I), weight_hh_l0 (4H, H), bias_ih_l0 (4H,), bias_hh_l0 (4H,)
                 the rows of gates i, f, g, o one under the other, H each; uniform on ±1/sqrt(H). Of layer k:
                 weight_ih_lk, ...; it takes D H features. Of the reverse direction: weight_ih_l0_reverse, ...
                 Without `bias` there is no bias_...

    In training `dropout` acts between layers, so of one layer it changes nothing; `recurrent_dropout` acts on h_{t-1}
    where the W_h. take it, with one mask a layer, direction and row for all steps (Gal & Ghahramani 2016). `dtype` is
    that of the weights. With `proj_size` P (Sak et al. 2014) h_t = W_hr (o_t tanh(c_t)) has P features, weight_hr_l0
    (P, H), in all shapes above but those of c and of gates; steps then go one by one, without a kernel.

    >>> lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=True)
    >>> y, (h_n, c_n) = lstm(ts.random.normal((2, 5, 3)), lengths=[5, 2])
    >>> y.shape, h_n.shape, c_n.shape
    ((2, 5, 8), (4, 2, 4), (4, 2, 4))
    >>> ts.all(y[1, 2:] == 0)                                 # padding
    tensor(True)
    >>> lstm.weight_ih_l0.shape, lstm.weight_hh_l0.shape, lstm.weight_ih_l1.shape
    ((16, 3), (16, 4), (16, 8))
    >>> y, state = lstm(ts.random.normal((2, 1, 3)), (h_n, c_n))                  # one step more

    Errors: ValueError for shapes, lengths or options that do not fit, and for PyTorch's `batch_first=False`; TypeError
    for x or a state of another dtype than the weights, and for a state that is one tensor.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = True,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, *, recurrent_dropout: float = 0.0,
        dtype: Any = np.float32,
    ) -> None:
        hidden_size = check.integers("LSTM", 1, hidden_size=hidden_size)
        self.proj_size = check.integers("LSTM", 0, hidden_size - 1, proj_size=proj_size)
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
                         recurrent_dropout=recurrent_dropout, dtype=dtype)

    def _pass(self, k: int, x: Tensor, start: tuple[Tensor, ...], lengths: Like) -> tuple[Tensor, tuple[Tensor, ...]]:
        if not self.proj_size:
            return super()._pass(k, x, start, lengths)
        w_ih, w_hh, b_ih, b_hh = weights_of(self, self._suffixes[k])
        w_hr, dropping = vars(self)[f"weight_hr{self._suffixes[k]}"], self.training and self.recurrent_dropout
        mask = functional.dropout(ops.ones_like(start[0]), self.recurrent_dropout) if dropping else 1.0

        def lstm(gates: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            i, f, g, o = ops.split(gates + functional.linear(state[0] * mask, w_hh, b_hh), 4, -1)
            c = ops.sigmoid(f) * state[1] + ops.sigmoid(i) * ops.tanh(g)
            return functional.linear(ops.sigmoid(o) * ops.tanh(c), w_hr), c

        gates = functional.linear(x if lengths is None else ops.where(real_steps(x, lengths), x, 0.0), w_ih, b_ih)
        return functional.unroll(lstm, gates, start, lengths, bool(k % self.directions))

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None, lengths: Like = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (B, T, I), (h0, c0) or None, lengths (B,) or None -> y (B, T, D H), (h_n, c_n); states are (L D, B, H)."""
        y, (h, c) = self._run(x, state, lengths)
        return y, (h, c)


class _Cell(Module):
    """What the cells share: PyTorch's parameters, and a first state of zeros."""

    kind = "lstm"
    weight_ih: Parameter
    weight_hh: Parameter
    bias_ih: Parameter
    bias_hh: Parameter

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: Any = np.float32) -> None:
        self.input_size, self.hidden_size = check.integers(type(self).__name__, 1, input_size=input_size,
                                                           hidden_size=hidden_size)
        self.state_size, self.bias = (self.hidden_size,) * 2 if self.kind == "lstm" else self.hidden_size, bias
        _add_weights(self, self.kind, self.input_size, self.hidden_size, bias, dtype)


class RNNCell(_Cell):
    """One step of RNN: x (B, I), h (B, H) -> the next h (B, H). For loops of your own; RNN runs whole sequences faster.

        h' = tanh(W_ih x + b_ih + W_hh h + b_hh)                  relu in place of tanh with `nonlinearity="relu"`

    Parameters: weight_ih (H, I), weight_hh (H, H), bias_ih (H,), bias_hh (H,), uniform on ±1/sqrt(H); without `bias`
    the last two are not there. Errors: ValueError for shapes that do not fit, TypeError for other dtypes than the
    weights'.

    >>> cell = nn.RNNCell(3, 4)
    >>> x, h = ts.random.normal((2, 3)), ts.random.normal((2, 4))
    >>> by_hand = ts.tanh(x @ cell.weight_ih.mT + cell.bias_ih + h @ cell.weight_hh.mT + cell.bias_hh)
    >>> ts.all(abs(cell(x, h) - by_hand) < 1e-6)
    tensor(True)
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", *,
                 dtype: Any = np.float32) -> None:
        self.nonlinearity, self.kind = nonlinearity, _kind(self, "nonlinearity", nonlinearity)
        super().__init__(input_size, hidden_size, bias, dtype=dtype)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        """x (B, I), h (B, H), zeros unless given -> the next h (B, H)."""
        x, (h,) = _begin(self, x, None if h is None else (h,), [self.hidden_size])
        return functional.rnn_cell(x, h, *weights_of(self), nonlinearity=self.nonlinearity)


class GRUCell(_Cell):
    """One step of GRU: x (B, I), h (B, H) -> the next h (B, H). Equations and `reset` are there; the other arguments
    are those of LSTMCell: bias, and by name dtype.

    Parameters: weight_ih (3H, I), weight_hh (3H, H), bias_ih (3H,), bias_hh (3H,), of gates r, z, n, uniform on
    ±1/sqrt(H); with `bias=False` the last two are not there. Errors: ValueError for shapes that do not fit, TypeError
    for other dtypes than the weights'.

    >>> cell = nn.GRUCell(3, 4)
    >>> x, h = ts.random.normal((2, 3)), ts.random.normal((2, 4))
    >>> r, z, n = ts.split(x @ cell.weight_ih.mT + cell.bias_ih, 3, axis=-1)
    >>> hr, hz, hn = ts.split(h @ cell.weight_hh.mT + cell.bias_hh, 3, axis=-1)
    >>> n, z = ts.tanh(n + ts.sigmoid(r + hr) * hn), ts.sigmoid(z + hz)
    >>> ts.all(abs(cell(x, h) - ((1 - z) * n + z * h)) < 1e-6)
    tensor(True)
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, reset: str = "after",
                 dtype: Any = np.float32) -> None:
        self.reset, self.kind = reset, _kind(self, "reset", reset)
        super().__init__(input_size, hidden_size, bias, dtype=dtype)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        """x (B, I), h (B, H), zeros unless given -> the next h (B, H)."""
        x, (h,) = _begin(self, x, None if h is None else (h,), [self.hidden_size])
        return functional.gru_cell(x, h, *weights_of(self), reset=self.reset)


class LSTMCell(_Cell):
    """One step of LSTM: x (B, I), the state (h, c), each (B, H) -> the next (h, c). Equations are there.

    Parameters: weight_ih (4H, I), weight_hh (4H, H), bias_ih (4H,), bias_hh (4H,), of gates i, f, g, o, uniform on
    ±1/sqrt(H); with `bias=False` the last two are not there. Errors: ValueError for shapes that do not fit, TypeError
    for other dtypes than the weights'.

    >>> cell = nn.LSTMCell(3, 4)
    >>> x, h, c = (ts.random.normal((2, n)) for n in (3, 4, 4))
    >>> gates = x @ cell.weight_ih.mT + cell.bias_ih + h @ cell.weight_hh.mT + cell.bias_hh
    >>> i, f, g, o = ts.split(gates, 4, axis=-1)
    >>> c_next = ts.sigmoid(f) * c + ts.sigmoid(i) * ts.tanh(g)
    >>> h_next = ts.sigmoid(o) * ts.tanh(c_next)
    >>> ts.all(abs(cell(x, (h, c))[0] - h_next) < 1e-6)
    tensor(True)
    """

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """x (B, I), (h, c) each (B, H), zeros unless given -> the next (h, c), each (B, H)."""
        x, (h, c) = _begin(self, x, state, [self.hidden_size] * 2)
        return functional.lstm_cell(x, h, c, *weights_of(self))
